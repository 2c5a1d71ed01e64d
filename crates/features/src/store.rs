//! The features of a project: opened once, asked by everybody, closed at the end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use halny_cpu_pool::CpuPool;
use halny_types::ByteSize;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::definitions::Definitions;
use crate::local::{Local, identity, moved};
use crate::moment::Clock;
use crate::offline::files::Places;
use crate::offline::sort::Room;
use crate::online::{OnlineStore, RedbOnline};
use crate::served::ServedLog;
use crate::{FeaturesError, background};

/// Joins and other reads of many files at once; more wait.
const HEAVY_AT_ONCE: usize = 2;
/// Of those, how many wait.
const HEAVY_WAITING: usize = 64;

/// What features are opened with.
pub struct Options {
    /// The folder of this server's own files. It is made when it is not there.
    pub folder: PathBuf,
    /// The store of the newest values; nothing for the embedded one, in `folder`.
    pub online: Option<Arc<dyn OnlineStore>>,
    /// Where rows are kept for ever. What it has answered has to be on disk: for a folder that is [`offline_folder`].
    pub offline: Arc<dyn ObjectStore>,
    /// Under which prefix.
    pub prefix: Path,
    /// Finds the files of batch sources.
    pub places: Arc<dyn Places>,
    /// For requests that compute longer than an async thread may.
    pub pool: CpuPool,
    /// Memory that one join may use for sorting and merging.
    pub join_memory: ByteSize,
    /// When pushed rows are written to Parquet: when so many wait, or after so long.
    pub flush: FlushRule,
    /// What tells the time.
    pub clock: Clock,
}

/// An offline store in a folder, which is made when it is not there. What it answers is on disk.
///
/// # Errors
/// When the folder cannot be made.
pub fn offline_folder(folder: &std::path::Path) -> Result<Arc<dyn ObjectStore>, FeaturesError> {
    std::fs::create_dir_all(folder)?;
    Ok(Arc::new(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true)))
}

/// When pushed rows and logged vectors are written to Parquet files.
#[derive(Clone, Copy, Debug)]
pub struct FlushRule {
    /// When so many wait.
    pub rows: u64,
    /// When the last time is so long ago.
    pub every: Duration,
}

impl Default for FlushRule {
    fn default() -> FlushRule {
        FlushRule { rows: 100_000, every: Duration::from_secs(60) }
    }
}

/// The features of a project. Cloning shares them. See the [crate](crate) for what is promised.
#[derive(Clone)]
pub struct Features(pub(crate) Arc<Inside>);

pub(crate) struct Inside {
    pub(crate) definitions: ArcSwap<Definitions>,
    pub(crate) local: Arc<Local>,
    pub(crate) online: Arc<dyn OnlineStore>,
    /// Whether the online store is in the local database, so that one transaction writes to both.
    pub(crate) embedded: bool,
    pub(crate) offline: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    pub(crate) places: Arc<dyn Places>,
    pub(crate) pool: CpuPool,
    pub(crate) identity: u64,
    pub(crate) clock: Clock,
    pub(crate) flush: FlushRule,
    /// Rows that are in the journal, about.
    pub(crate) journalled: AtomicU64,
    /// Told when the journal is long.
    pub(crate) flush_now: Notify,
    pub(crate) flushing: tokio::sync::Mutex<()>,
    pub(crate) served: ServedLog,
    pub(crate) tally: Tally,
    join_memory: AtomicU64,
    temporary: PathBuf,
    heavy: Arc<Semaphore>,
    heavy_waiting: AtomicU64,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// What happened since the features were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Values that were served online, by how they came about, in the order of [`Status::ALL`](crate::Status::ALL).
    pub values: [u64; 4],
    /// Rows that were pushed.
    pub pushed: u64,
    /// Rows of files that were read to be served.
    pub materialised: u64,
    /// Values of on-demand features that could not be computed, and are null.
    pub on_demand_failed: u64,
    /// Served rows that were logged, or wait to be.
    pub logged: u64,
    /// Served rows that should have been logged, when too many waited.
    pub log_dropped: u64,
    /// Pushed rows that are in no Parquet file yet.
    pub journalled: u64,
}

/// What is counted.
#[derive(Default)]
pub(crate) struct Tally {
    values: [AtomicU64; 4],
    pushed: AtomicU64,
    materialised: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    pub(crate) fn served(&self, statuses: &[u64; 4], failed: u64) {
        for (count, more) in self.values.iter().zip(statuses) {
            count.fetch_add(*more, Ordering::Relaxed);
        }
        self.failed(failed);
    }

    pub(crate) fn failed(&self, values: u64) {
        self.failed.fetch_add(values, Ordering::Relaxed);
    }

    pub(crate) fn pushed(&self, rows: u64) {
        self.pushed.fetch_add(rows, Ordering::Relaxed);
    }

    pub(crate) fn materialised(&self, rows: u64) {
        self.materialised.fetch_add(rows, Ordering::Relaxed);
    }
}

impl Features {
    /// Opens the features of a project: what was answered before is there, whatever happened in between.
    ///
    /// # Errors
    /// When the folder is in use, or a store cannot be read.
    pub async fn open(options: Options, definitions: Definitions) -> Result<Features, FeaturesError> {
        let temporary = options.folder.join("temporary");
        std::fs::create_dir_all(&temporary)?;
        let folder = options.folder.clone();
        let local =
            tokio::task::spawn_blocking(move || Local::open(&folder)).await.map_err(|_| FeaturesError::Broken)??;
        let local = Arc::new(local);
        let identity = identity(&local.read()?)?;
        let embedded = options.online.is_none();
        let online = options.online.unwrap_or_else(|| Arc::new(RedbOnline(Arc::clone(&local))));
        let place = online.place();
        local.write(move |transaction| moved(transaction, &place, embedded)).await?;
        let inside = Arc::new(Inside {
            definitions: ArcSwap::from_pointee(definitions),
            local,
            online,
            embedded,
            offline: options.offline,
            prefix: options.prefix,
            places: options.places,
            pool: options.pool,
            identity,
            clock: options.clock,
            flush: options.flush,
            journalled: AtomicU64::new(0),
            flush_now: Notify::new(),
            flushing: tokio::sync::Mutex::new(()),
            served: ServedLog::default(),
            tally: Tally::default(),
            join_memory: AtomicU64::new(options.join_memory.0),
            temporary,
            heavy: Arc::new(Semaphore::new(HEAVY_AT_ONCE)),
            heavy_waiting: AtomicU64::new(0),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        inside.recover().await?;
        let (working, closing) = (Arc::clone(&inside), inside.closing.clone());
        inside.tasks.spawn(async move { background::run(&working, &closing).await });
        Ok(Features(inside))
    }

    /// Takes other definitions: every request that begins from now on is answered by them.
    pub fn reload(&self, definitions: Definitions, join_memory: ByteSize) {
        self.0.join_memory.store(join_memory.0, Ordering::Relaxed);
        self.0.definitions.store(Arc::new(definitions));
    }

    /// The definitions of this moment.
    #[must_use]
    pub fn definitions(&self) -> Arc<Definitions> {
        self.0.definitions.load_full()
    }

    /// The name of the online engine, as the project file writes it.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.0.online.engine()
    }

    /// What happened since the features were opened.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            values: self.0.tally.values.each_ref().map(|count| count.load(Ordering::Relaxed)),
            pushed: self.0.tally.pushed.load(Ordering::Relaxed),
            materialised: self.0.tally.materialised.load(Ordering::Relaxed),
            on_demand_failed: self.0.tally.failed.load(Ordering::Relaxed),
            logged: self.0.served.logged(),
            log_dropped: self.0.served.dropped(),
            journalled: self.0.journalled.load(Ordering::Relaxed),
        }
    }

    /// A file without a name, beside those of the joins, for what is to be joined.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn temporary_file(&self) -> std::io::Result<std::fs::File> {
        tempfile::tempfile_in(&self.0.temporary)
    }

    /// Writes what was pushed and logged to Parquet files, and ends what runs in the background. What cannot be written
    /// stays in the journal, to be written when the features are opened again.
    pub async fn close(&self) {
        self.0.closing.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        if let Err(error) = self.flush().await {
            tracing::warn!(%error, "pushed rows stay in the journal");
        }
        let local = Arc::clone(&self.0.local);
        if tokio::task::spawn_blocking(move || local.close()).await.is_err() {
            tracing::error!("the database of features could not be closed");
        }
    }
}

impl Inside {
    /// The memory of one join, and where its temporary files are.
    pub(crate) fn room(&self) -> Room {
        let bytes = ByteSize(self.join_memory.load(Ordering::Relaxed)).as_usize();
        Room { folder: self.temporary.clone(), bytes }
    }

    pub(crate) fn now(&self) -> crate::Moment {
        (self.clock)()
    }

    /// Does work that reads many files, on a thread that may block, when its turn comes.
    pub(crate) async fn heavy<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FeaturesError> + Send + 'static,
    ) -> Result<T, FeaturesError> {
        let turn = self.turn().await?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(|_| FeaturesError::Broken)?
    }

    /// Waits for a turn to do work that reads many files.
    pub(crate) async fn turn(&self) -> Result<tokio::sync::OwnedSemaphorePermit, FeaturesError> {
        let waiting = Waiting::new(&self.heavy_waiting)?;
        let turn = Arc::clone(&self.heavy).acquire_owned().await.map_err(|_| FeaturesError::Closed);
        drop(waiting);
        turn
    }

    /// Waits until the features are closed.
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// The task that owns work which outlives its request for a moment.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

/// Counts who waits, for as long as they do.
struct Waiting<'a>(&'a AtomicU64);

impl Waiting<'_> {
    fn new(count: &AtomicU64) -> Result<Waiting<'_>, FeaturesError> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(count);
        if before >= HEAVY_WAITING as u64 {
            return Err(FeaturesError::Busy("too many joins and materialisations wait"));
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
