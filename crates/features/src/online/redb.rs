//! The newest rows in this server's own database.

use std::ops::Bound;
use std::sync::Arc;

use redb::{ReadableTable, WriteTransaction};

use super::{MayGo, OnlineStore, Put, Waiting, within};
use crate::FeaturesError;
use crate::local::{Local, VALUES};
use crate::packed::supersedes;

/// The embedded engine.
///
/// A write is answered when it is on disk. A read is a walk in memory that takes some microseconds, so it is done where it
/// is asked for.
pub(crate) struct RedbOnline(pub(crate) Arc<Local>);

/// Keys that are read where they are asked for: at 1 to 2 microseconds each less than an async thread may compute.
const HERE_MAX: usize = 256;

/// Puts rows through the fence, in a transaction.
pub(crate) fn apply(transaction: &WriteTransaction, puts: &[Put]) -> Result<usize, FeaturesError> {
    let mut values = transaction.open_table(VALUES)?;
    let mut taken = 0;
    for put in puts {
        let key = put.key.as_slice();
        let newer = values.get(key)?.is_none_or(|kept| supersedes(&put.row, kept.value()));
        if newer {
            values.insert(key, put.row.as_slice())?;
            taken += 1;
        }
    }
    Ok(taken)
}

fn get(local: &Local, keys: &[Vec<u8>], most_bytes: usize) -> Result<Vec<Option<Vec<u8>>>, FeaturesError> {
    let values = local.read()?.open_table(VALUES)?;
    let mut bytes = 0;
    let get = |key: &Vec<u8>| {
        let Some(row) = values.get(key.as_slice())? else { return Ok(None) };
        bytes += row.value().len();
        within(bytes, most_bytes)?;
        Ok(Some(row.value().to_vec()))
    };
    keys.iter().map(get).collect()
}

impl RedbOnline {
    /// The keys of rows that may go, and the last that was looked at unless that was the last of all.
    fn candidates(&self, after: Option<&[u8]>, most: usize, may_go: &MayGo) -> Result<Candidates, FeaturesError> {
        let values = self.0.read()?.open_table(VALUES)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut keys, mut last) = (Vec::new(), None);
        for (count, entry) in values.range::<&[u8]>((from, Bound::Unbounded))?.enumerate() {
            if count == most {
                return Ok((keys, last));
            }
            let (key, row) = entry?;
            if may_go(key.value(), row.value()) {
                keys.push(key.value().to_vec());
            }
            last = Some(key.value().to_vec());
        }
        Ok((keys, None))
    }
}

type Candidates = (Vec<Vec<u8>>, Option<Vec<u8>>);

impl OnlineStore for RedbOnline {
    fn engine(&self) -> &'static str {
        "redb"
    }

    fn place(&self) -> String {
        self.engine().to_owned()
    }

    fn read<'a>(&'a self, keys: &'a [Vec<u8>], most_bytes: usize) -> Waiting<'a, Vec<Option<Vec<u8>>>> {
        if keys.len() <= HERE_MAX {
            let rows = get(&self.0, keys, most_bytes);
            return Box::pin(async { rows });
        }
        let (local, keys) = (Arc::clone(&self.0), keys.to_vec());
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || get(&local, &keys, most_bytes));
            read.await.map_err(|_| FeaturesError::Broken)?
        })
    }

    fn write(&self, puts: Vec<Put>) -> Waiting<'_, usize> {
        Box::pin(self.0.write(move |transaction| apply(transaction, &puts)))
    }

    fn sweep(&self, after: Option<Vec<u8>>, most: usize, may_go: MayGo) -> Waiting<'_, (usize, Option<Vec<u8>>)> {
        Box::pin(async move {
            let (keys, last) = self.candidates(after.as_deref(), most, &may_go)?;
            if keys.is_empty() {
                return Ok((0, last));
            }
            let remove = move |transaction: &WriteTransaction| {
                let mut values = transaction.open_table(VALUES)?;
                let mut removed = 0;
                for key in &keys {
                    // A newer row may have come since it was looked at.
                    let goes = values.get(key.as_slice())?.is_some_and(|row| may_go(key, row.value()));
                    if goes {
                        values.remove(key.as_slice())?;
                        removed += 1;
                    }
                }
                Ok(removed)
            };
            Ok((self.0.write(remove).await?, last))
        })
    }
}
