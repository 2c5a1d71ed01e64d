//! This server's own database: what was pushed and is in no Parquet file yet, what is to come, what was read; with the
//! embedded engine also the newest values.
//!
//! One thread writes. It takes whatever changes wait, makes them in one transaction, and answers them when that is on
//! disk: the more wait, the more share the price of one `fsync`. Readers never wait for it.
//!
//! A file of `redb` and not of SQLite: a read takes no lock and no statement, 1 µs instead of 10.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use redb::{Database, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};
use tokio::sync::oneshot;

use crate::FeaturesError;

/// The newest row of each key, with the embedded engine: view, 0, key → row.
pub(crate) const VALUES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("values");
/// Pushed rows that are in no Parquet file yet: view and number → length of the key, key, row.
pub(crate) const JOURNAL: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("journal");
/// Rows of [`JOURNAL`] that cannot be read as the view is defined now: view and number → length of the key, key, row.
pub(crate) const ASIDE: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("aside");
/// Rows whose time is to come, for the online store: time and number → length of the key, key, row.
pub(crate) const TO_COME: TableDefinition<'_, (i64, u64), &[u8]> = TableDefinition::new("to_come");
/// How far files were read into the online store: view and file → event time.
pub(crate) const READ: TableDefinition<'_, &str, i64> = TableDefinition::new("read");
/// Where the newest rows were kept when the database was last open.
const PLACES: TableDefinition<'_, &str, &str> = TableDefinition::new("places");
/// The next number of a row, and who this database is.
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Memory for pages of the file.
const CACHE_BYTES: usize = 128 << 20;
/// Changes that wait at most.
const WAITING_MAX: usize = 4_096;
/// Changes of one transaction at most.
const GROUP_MAX: usize = 512;

type Apply = Box<dyn FnOnce(&WriteTransaction) -> Result<Answer, FeaturesError> + Send>;
/// Tells who waits, once it is known whether the transaction is on disk.
type Answer = Box<dyn FnOnce(bool) + Send>;

/// The database, and the thread that writes to it.
pub(crate) struct Local {
    /// Nothing once it is closed, so that the file is free for who opens it next.
    database: ArcSwapOption<Database>,
    writes: Mutex<Option<Sender<Apply>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Local {
    /// Opens the database in this folder, or makes it.
    ///
    /// # Errors
    /// When another process has it open, or it cannot be read.
    pub(crate) fn open(folder: &Path) -> Result<Local, FeaturesError> {
        std::fs::create_dir_all(folder)?;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(folder.join("features.redb"))?;
        let begun = database.begin_write()?;
        begun.open_table(VALUES)?;
        begun.open_table(JOURNAL)?;
        begun.open_table(ASIDE)?;
        begun.open_table(PLACES)?;
        begun.open_table(TO_COME)?;
        begun.open_table(READ)?;
        begun.open_table(META)?.get_or_insert_identity()?;
        begun.commit()?;
        let database = Arc::new(database);
        let (writes, waiting) = bounded(WAITING_MAX);
        let of = Arc::clone(&database);
        let writer =
            std::thread::Builder::new().name("features-writer".to_owned()).spawn(move || write(&of, &waiting))?;
        Ok(Local {
            database: ArcSwapOption::new(Some(database)),
            writes: Mutex::new(Some(writes)),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// What is there now; it does not change while it is read.
    pub(crate) fn read(&self) -> Result<ReadTransaction, FeaturesError> {
        let database = self.database.load();
        Ok(database.as_ref().ok_or(FeaturesError::Closed)?.begin_read()?)
    }

    /// Makes a change, and answers when it is on disk. A change refuses what it has to before it writes anything: when it
    /// fails after that, all that share its transaction fail.
    ///
    /// # Errors
    /// What the change says, or that it could not be written.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, FeaturesError> + Send + 'static,
    ) -> Result<T, FeaturesError> {
        let (tell, told) = oneshot::channel();
        let apply: Apply = Box::new(move |transaction| {
            let value = change(transaction)?;
            Ok(Box::new(move |on_disk| {
                let _ = tell.send(on_disk.then_some(value));
            }))
        });
        {
            let writes = self.writes.lock();
            let writes = writes.as_ref().ok_or(FeaturesError::Closed)?;
            writes.try_send(apply).map_err(|refused| match refused {
                TrySendError::Full(_) => FeaturesError::Busy("too many writes of features wait for the disk"),
                TrySendError::Disconnected(_) => FeaturesError::Closed,
            })?;
        }
        told.await.ok().flatten().ok_or(FeaturesError::Broken)
    }

    /// Ends the writer, once what it was given is on disk, and lets go of the file.
    pub(crate) fn close(&self) {
        drop(self.writes.lock().take());
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of features panicked");
        }
        self.database.store(None);
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.close();
    }
}

fn write(database: &Database, waiting: &Receiver<Apply>) {
    while let Ok(first) = waiting.recv() {
        let changes = std::iter::once(first).chain(waiting.try_iter().take(GROUP_MAX - 1));
        if let Err(error) = group(database, changes) {
            // Those that wait are told by their channels, which are dropped.
            tracing::error!(%error, "a write of features failed");
        }
    }
}

fn group(database: &Database, changes: impl Iterator<Item = Apply>) -> Result<(), FeaturesError> {
    let transaction = database.begin_write()?;
    let answers = changes.map(|change| change(&transaction)).collect::<Result<Vec<Answer>, _>>()?;
    transaction.commit()?;
    answers.into_iter().for_each(|answer| answer(true));
    Ok(())
}

/// The name of this database, by which its Parquet files are told from those of other servers.
const IDENTITY: &str = "identity";
const NEXT: &str = "next";

trait Identity {
    fn get_or_insert_identity(&mut self) -> Result<(), FeaturesError>;
}

impl Identity for redb::Table<'_, &str, u64> {
    fn get_or_insert_identity(&mut self) -> Result<(), FeaturesError> {
        use redb::ReadableTable as _;
        if self.get(IDENTITY)?.is_none() {
            self.insert(IDENTITY, rand::random::<u64>())?;
        }
        Ok(())
    }
}

/// The name of this database.
pub(crate) fn identity(transaction: &ReadTransaction) -> Result<u64, FeaturesError> {
    let meta = transaction.open_table(META)?;
    Ok(meta.get(IDENTITY)?.map_or(0, |found| found.value()))
}

const ONLINE: &str = "online";

/// Keeps where the newest rows are. When that was elsewhere before, nothing of the files was read into it yet, and what the
/// embedded store has is as old as when it was left.
pub(crate) fn moved(transaction: &WriteTransaction, place: &str, embedded: bool) -> Result<(), FeaturesError> {
    use redb::ReadableTable as _;
    let mut places = transaction.open_table(PLACES)?;
    let before = places.get(ONLINE)?.map(|before| before.value().to_owned());
    if before.as_deref() == Some(place) {
        return Ok(());
    }
    if let Some(before) = before {
        tracing::info!(before, place, "the newest rows of features are kept elsewhere; files are read again");
        transaction.open_table(READ)?.retain(|_, _| false)?;
        if embedded {
            transaction.open_table(VALUES)?.retain(|_, _| false)?;
        }
    }
    places.insert(ONLINE, place)?;
    Ok(())
}

/// The first of `count` numbers that no row had before.
pub(crate) fn numbers(transaction: &WriteTransaction, count: u64) -> Result<u64, FeaturesError> {
    use redb::ReadableTable as _;
    let mut meta = transaction.open_table(META)?;
    let first = meta.get(NEXT)?.map_or(0, |found| found.value());
    meta.insert(NEXT, first + count)?;
    Ok(first)
}

/// Said of rows that were pushed to the offline store alone.
const OFFLINE_ONLY: u32 = 1 << 31;

/// A key and a row, as one value, and whether they are for the online store too.
pub(crate) fn join(key: &[u8], row: &[u8], online: bool) -> Vec<u8> {
    let mut joined = Vec::with_capacity(4 + key.len() + row.len());
    let length = key.len() as u32 | if online { 0 } else { OFFLINE_ONLY };
    joined.extend(length.to_le_bytes());
    joined.extend(key);
    joined.extend(row);
    joined
}

/// The key and the row that [`join`] joined, and whether they are for the online store too.
pub(crate) fn split(joined: &[u8]) -> Result<(&[u8], &[u8], bool), FeaturesError> {
    let damaged = || FeaturesError::Damaged("a journal entry");
    let (length, rest) = joined.split_first_chunk::<4>().ok_or_else(damaged)?;
    let length = u32::from_le_bytes(*length);
    let (key, row) = rest.split_at_checked((length & !OFFLINE_ONLY) as usize).ok_or_else(damaged)?;
    Ok((key, row, length & OFFLINE_ONLY == 0))
}
