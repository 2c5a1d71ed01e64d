//! The contract of a store that keeps the newest row of every key.
//!
//! 1. *The fence*: a row takes the place of another only when its event is later, or as late and not made earlier. So the
//!    same rows leave the same values in whatever order, by however many writers, however often they are written.
//! 2. A read sees every row whose write was answered before it began, and no row in part.
//! 3. What a row says is nothing to the store: whether it still holds is asked by who reads it, with the rule that the
//!    join asks too ([`age`](crate::age)). Rows that do not hold any more are removed late, and only to make room.

mod redb;
mod redis;

use std::pin::Pin;
use std::sync::Arc;

pub(crate) use self::redb::{RedbOnline, apply};
pub use self::redis::RedisOnline;
use crate::{FeaturesError, Moment};

/// What is waited for.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = Result<T, FeaturesError>> + Send + 'a>>;

/// A row to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The view, 0, and the key.
    pub key: Vec<u8>,
    /// The row. Its times are read by the store.
    pub row: Vec<u8>,
    /// From when on it may be removed; nothing when it holds for ever.
    pub until: Option<Moment>,
}

/// Refuses more bytes of rows than may be read at once.
pub(crate) fn within(count: usize, most: usize) -> Result<(), FeaturesError> {
    if count > most { Err(FeaturesError::TooMany { what: "bytes of values", count, most }) } else { Ok(()) }
}

/// Tells of a key and its row whether it may be removed.
pub type MayGo = Arc<dyn Fn(&[u8], &[u8]) -> bool + Send + Sync>;

/// A store of the newest rows. See the [module](self) for what it promises.
pub trait OnlineStore: Send + Sync {
    /// The engine's name, as the project file writes it.
    fn engine(&self) -> &'static str;

    /// Where the rows are kept: another place has other rows. No password is in it.
    fn place(&self) -> String;

    /// The rows of these keys, in their order.
    ///
    /// # Errors
    /// When they have more than `most_bytes` together, or the store cannot be asked.
    fn read<'a>(&'a self, keys: &'a [Vec<u8>], most_bytes: usize) -> Waiting<'a, Vec<Option<Vec<u8>>>>;

    /// Keeps these rows, unless newer ones are kept already; gives how many took a place.
    ///
    /// # Errors
    /// When the store cannot be written to. Then any of them may be kept, and writing all again does no harm.
    fn write(&self, puts: Vec<Put>) -> Waiting<'_, usize>;

    /// Removes rows that may go, looking at `most` rows behind the key `after`; gives how many, and the last key that was
    /// looked at, or nothing at the end. A store that does that by itself has nothing to do.
    ///
    /// # Errors
    /// When the store cannot be written to.
    fn sweep(&self, after: Option<Vec<u8>>, most: usize, may_go: MayGo) -> Waiting<'_, (usize, Option<Vec<u8>>)> {
        let _ = (after, most, may_go);
        Box::pin(async { Ok((0, None)) })
    }
}
