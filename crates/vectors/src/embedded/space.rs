//! One space of a collection: its points in segments, its log, and the thread that writes.
//!
//! Folder: `manifest.json` (which segments there are, the oldest log that is needed), `log/N` beside
//! the open segment `N`, `segments/N`. When an open segment is full it gets no more writes; the
//! builder seals it into files, after which its log goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use halny_ann::Progress;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::log::{End, Log, LogError};
use super::open::OpenSegment;
use super::recall::Recalls;
use super::record;
use super::segment::Segment;
use super::view::{LATEST, Piece, Reading, View};
use super::warm::Warmth;
use super::writer::{Command, Frozen, Writer};
use super::{builder::Builder, files};
use crate::{CollectionConfig, VectorsError, Write};

/// Writes that wait for the writer; who brings more waits before the door.
const QUEUE: usize = 64;

const LOST_LOG: &str = "a collection has lost one of its logs; put its folder back from a backup or a snapshot";

/// What `manifest.json` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: CollectionConfig,
    /// Sealed segments, the oldest first.
    pub(super) segments: Vec<u64>,
    /// Logs before this one are in segments.
    pub(super) oldest_log: u64,
    /// These logs are not, the oldest first; nothing in a manifest of an earlier version.
    #[serde(default)]
    pub(super) logs: Option<Vec<u64>>,
    /// No segment or log has this number yet.
    pub(super) next: u64,
}

/// What the writer, the builder and readers share.
pub(crate) struct Shared {
    pub(super) folder: PathBuf,
    pub(super) view: ArcSwap<View>,
    /// The last write that is confirmed.
    pub(super) visible: AtomicU64,
    /// No segment or log has this number yet.
    pub(super) next: AtomicU64,
    /// The builds under way.
    pub(super) building: Mutex<Vec<Arc<Progress>>>,
    /// Queries that are measured.
    pub(super) recalls: Recalls,
    /// How much of what is found lies in memory that is kept.
    pub(super) warmth: Warmth,
}

/// A space.
pub struct Space {
    pub(super) shared: Arc<Shared>,
    /// Nothing once the space is closed.
    commands: Mutex<Option<mpsc::UnboundedSender<Command>>>,
    pub(super) builder: Builder,
    /// Writes that may wait for the writer.
    places: Arc<Semaphore>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Shared {
    /// The points as of the last write that is confirmed.
    pub(super) fn reading(&self) -> Reading {
        loop {
            let at = self.visible.load(Ordering::Acquire);
            let view = self.view.load_full();
            // A view made after `at` may miss points that had died since: then look again.
            if view.made_at <= at {
                return Reading { view, at };
            }
        }
    }

    /// The points as the writer sees them.
    pub(super) fn latest(&self) -> Reading {
        Reading { view: self.view.load_full(), at: LATEST }
    }

    pub(super) fn log_path(&self, serial: u64) -> PathBuf {
        log_path(&self.folder, serial)
    }
}

/// The log beside an open segment of the space in `folder`.
pub(super) fn log_path(folder: &Path, serial: u64) -> PathBuf {
    folder.join("log").join(serial.to_string())
}

/// The folder of a segment of the space in `folder`.
pub(super) fn segment_path(folder: &Path, serial: u64) -> PathBuf {
    folder.join("segments").join(serial.to_string())
}

impl Space {
    /// A new space in an empty folder that is not there yet.
    pub(super) fn create(folder: &Path, config: &CollectionConfig) -> Result<(), VectorsError> {
        fs::create_dir_all(folder.join("segments"))?;
        fs::create_dir_all(folder.join("log"))?;
        Log::create(&log_path(folder, 0))?;
        let manifest = Manifest { config: config.clone(), logs: Some(vec![0]), next: 1, ..Manifest::default() };
        Ok(files::write_json(&folder.join("manifest.json"), &manifest)?)
    }

    /// Opens a space, reads its logs again, and starts its writer.
    pub(super) fn open(folder: &Path, builder: &Builder) -> Result<Space, VectorsError> {
        let (shared, writer) = recover(folder, builder)?;
        let (commands, queue) = mpsc::unbounded_channel();
        let writer = std::thread::Builder::new().name("halny-vectors".to_owned()).spawn(move || writer.run(queue))?;
        builder.look_at(&shared, &commands);
        Ok(Space {
            shared,
            commands: Mutex::new(Some(commands)),
            builder: builder.clone(),
            places: Arc::new(Semaphore::new(QUEUE)),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Makes these writes, one after the other, and tells the number of the last. With `wait` they
    /// are on disk and seen by readers when this returns; without, they are in the log and soon will be.
    ///
    /// # Errors
    /// When one of them cannot be made; those before it are.
    pub async fn write(&self, writes: Vec<Write>, wait: bool) -> Result<u64, VectorsError> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| VectorsError::Closed)?;
        self.tell(|reply| Command::Write { writes, wait, reply, place }).await?
    }

    /// Changes the configuration. Vectors stay as they are.
    ///
    /// # Errors
    /// What `change` says, or that the new configuration is refused or cannot be written down.
    pub async fn configure(
        &self,
        change: impl FnOnce(&mut CollectionConfig) -> Result<(), VectorsError> + Send + 'static,
    ) -> Result<(), VectorsError> {
        self.tell(|reply| Command::Configure { change: Box::new(change), reply }).await?
    }

    /// Calls `with` the folder while nothing in it changes: it has all that was written so far, and nothing
    /// of what comes after.
    pub(super) async fn frozen(&self, with: Frozen) -> Result<(), VectorsError> {
        self.tell(|reply| Command::Frozen { with, reply }).await?
    }

    async fn tell<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, VectorsError> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.lock().clone().ok_or(VectorsError::Closed)?;
        commands.send(command(reply)).map_err(|_| VectorsError::Closed)?;
        drop(commands);
        answer.await.map_err(|_| VectorsError::Closed)
    }

    /// Ends the writer once it has done what it was told, and waits for that.
    pub(super) fn close(&self) {
        self.let_go();
        let writer = self.writer.lock().take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer of a collection ended in a panic");
        }
    }

    /// Takes no more commands, and calls off what is being built.
    pub(super) fn let_go(&self) {
        self.commands.lock().take();
        self.shared.building.lock().iter().for_each(|build| build.call_off());
    }
}

impl Drop for Space {
    /// Nobody waits here: the writer ends by itself, and a thread of the runtime must not block.
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Reads the manifest, opens the segments, and reads every log that is not in one.
fn recover(folder: &Path, builder: &Builder) -> io::Result<(Arc<Shared>, Writer)> {
    let manifest: Manifest = files::read_json(&folder.join("manifest.json"))?;
    let config = Arc::new(manifest.config.clone());
    let mut pieces = Vec::new();
    for serial in &manifest.segments {
        pieces.push(Piece::Sealed(Arc::new(Segment::open(folder, *serial, &config)?)));
    }
    let mut reading = Reading { view: Arc::new(View { made_at: 0, config: Arc::clone(&config), pieces }), at: LATEST };
    let (mut sequence, mut last) = (0, None);
    let logs = logs_of(folder, &manifest)?;
    for serial in &logs {
        let serial = *serial;
        let path = log_path(folder, serial);
        let open = Arc::new(OpenSegment::new(serial, &config));
        let mut pieces = reading.view.pieces.clone();
        pieces.push(Piece::Open(Arc::clone(&open)));
        reading.view = Arc::new(View { made_at: 0, config: Arc::clone(&config), pieces });
        let end = if logs.last() == Some(&serial) { End::MayBeTorn } else { End::Whole };
        let log = Log::open(&path, end, |frame| {
            let Some(changes) = record::read(frame.record) else { return false };
            // They are counted one by one from the first there is: where one is missing, a log is.
            if sequence != 0 && frame.sequence != sequence + 1 {
                return false;
            }
            sequence = frame.sequence;
            super::writer::apply(&reading, &open, changes, frame.sequence);
            true
        });
        last = Some((open, log.map_err(|error| unreadable(serial, error))?));
    }
    let (open, log) = last.ok_or_else(|| files::malformed(LOST_LOG))?;
    // All is there that should be. A crash leaves segments that no manifest names, and logs that are in segments.
    files::keep_only(&folder.join("segments"), |serial| manifest.segments.contains(&serial))?;
    files::keep_only(&folder.join("log"), |serial| logs.contains(&serial))?;
    let Reading { view, .. } = reading;
    let shared = Arc::new(Shared {
        folder: folder.to_owned(),
        view: ArcSwap::new(view),
        visible: AtomicU64::new(sequence),
        next: AtomicU64::new(manifest.next),
        building: Mutex::default(),
        recalls: Recalls::default(),
        warmth: Warmth::default(),
    });
    let writer = Writer::new(Arc::clone(&shared), manifest, open, log, sequence, builder.clone());
    Ok((shared, writer))
}

/// The logs that are not in segments, the oldest first.
pub(super) fn logs_of(folder: &Path, manifest: &Manifest) -> io::Result<Vec<u64>> {
    let mut logs = files::numbers_in(&folder.join("log"))?;
    let listed = |serial: &u64| manifest.logs.as_ref().is_none_or(|listed| listed.contains(serial));
    logs.retain(|serial| (manifest.oldest_log..manifest.next).contains(serial) && listed(serial));
    let all = manifest.logs.as_ref().is_none_or(|listed| *listed == logs);
    if logs.first() == Some(&manifest.oldest_log) && all { Ok(logs) } else { Err(files::malformed(LOST_LOG)) }
}

fn unreadable(serial: u64, error: LogError) -> io::Error {
    match error {
        LogError::Io(error) => error,
        other => files::malformed(format!("log {serial}: {other}")),
    }
}
