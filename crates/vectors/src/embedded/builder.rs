//! The threads that build in the background, two for all collections: one seals open segments, the other
//! builds indexes and merges small segments, while searches and writes go on.
//!
//! Sealing is one of its own: it takes as long as writing some megabytes does, and a writer waits for it before
//! long, while an index of millions takes minutes.
//!
//! Every segment costs a search about the same, however small, so few large ones are wanted; but
//! merging builds an index anew. The rule: *segments are merged when four of about the same size
//! have come together; once nothing is written, also when the others together have grown to a
//! quarter of the largest.* So a point is indexed about as often as the collection has quadrupled since.
//!
//! The points that were written last are scanned by every search. Once a collection rests, they are sealed as soon
//! as they are enough for an index, and need not wait for more.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use halny_ann::{Cancelled, Progress};
use halny_types::Tick;
use tokio::sync::{mpsc, oneshot};

use super::index::Index;
use super::open::OpenSegment;
use super::segment::{self, Entry, Segment};
use super::space::{Shared, segment_path};
use super::view::{LATEST, Piece, View};
use super::writer::Command;
use super::{faults, files, warm};
use crate::CollectionConfig;

/// After so long without a word from any writer, the collections count as idle; after so long without a write, one
/// of them rests.
const IDLE: Duration = Duration::from_secs(2);
/// What is kept in memory is looked over so often, while something is asked.
const WARM_EVERY: Duration = Duration::from_secs(2);
/// Measuring rests for so many times as long as it took: it takes a fiftieth of one core at the most.
const RESTS: u32 = 49;
/// Segments of about one size that are merged.
const MERGED_AT_ONCE: usize = 4;
/// A segment with more dead points than one in so many is written anew.
const DEAD_SHARE: usize = 5;

/// Where the builder is told to look. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Builder {
    calls: Sender<Call>,
    /// The same for the thread that seals.
    seals: Sender<Call>,
    /// Bytes of vectors that are kept in memory, of all collections together.
    warm_bytes: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Call {
    Look,
    /// A query waits to be measured.
    Measure,
    Stop,
    At(Weak<Shared>, mpsc::WeakUnboundedSender<Command>),
}

/// What was built, to be put in the place of what it was built from.
pub(super) struct Built {
    /// The serials of those.
    pub(super) from: Vec<u64>,
    /// For each of its rows the serial of the segment and the row there that it was made of. An id is
    /// not enough: one of several segments may hold it dead, and another alive.
    pub(super) sources: Vec<(u64, u32)>,
    pub(super) segment: io::Result<Segment>,
    /// What was known of the collection then.
    pub(super) config: Arc<CollectionConfig>,
}

/// A collection that is looked after.
struct Client {
    shared: Weak<Shared>,
    commands: mpsc::WeakUnboundedSender<Command>,
    /// The last write that was seen, and when it was new.
    written: (u64, Tick),
    /// The writer was asked to seal what was written until then.
    asked: Option<u64>,
}

/// What is to be done for a collection beside sealing.
enum Work {
    Index(Arc<Segment>, String),
    Merge(Vec<Arc<Segment>>),
}

/// Why something was not built.
#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    CalledOff(#[from] Cancelled),
    #[error("what was built could not be put in its place")]
    NotPlaced,
}

impl Builder {
    /// Starts both threads; what one of them builds is shared out to `threads`. It waits for the other when it ends.
    pub(super) fn start(threads: usize) -> io::Result<(Builder, std::thread::JoinHandle<()>)> {
        let (calls, queue) = crossbeam_channel::unbounded();
        let warm_bytes = Arc::new(AtomicUsize::new(0));
        let warm = Keeper { bytes: Arc::clone(&warm_bytes), again: Tick::ZERO, refused: false };
        let (seals, to_seal) = crossbeam_channel::unbounded();
        let sealer = std::thread::Builder::new().name("halny-seal".to_owned()).spawn(move || seal_all(&to_seal))?;
        let work = move || {
            run(&queue, threads, warm);
            if sealer.join().is_err() {
                tracing::error!("the thread that seals segments ended in a panic");
            }
        };
        let thread = std::thread::Builder::new().name("halny-build".to_owned()).spawn(work)?;
        Ok((Builder { calls, seals, warm_bytes }, thread))
    }

    /// From now on so many bytes of vectors are kept in memory.
    pub(super) fn keep_warm(&self, bytes: usize) {
        self.warm_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Looks after another collection from now on.
    pub(super) fn look_at(&self, shared: &Arc<Shared>, commands: &mpsc::UnboundedSender<Command>) {
        self.tell_both(Call::At(Arc::downgrade(shared), commands.downgrade()));
    }

    fn tell_both(&self, call: Call) {
        // There is a receiver as long as there is a builder.
        let _ = self.seals.send(call.clone());
        let _ = self.calls.send(call);
    }

    /// Ends the threads once they have done what they are at.
    pub(super) fn stop(&self) {
        self.tell_both(Call::Stop);
    }

    /// A query waits to be measured.
    pub(super) fn measure(&self) {
        let _ = self.calls.send(Call::Measure);
    }

    /// Something may have to be done.
    pub(super) fn look(&self) {
        self.tell_both(Call::Look);
    }
}

/// Seals whatever gets no more writes.
fn seal_all(queue: &Receiver<Call>) {
    let mut clients: Vec<Client> = Vec::new();
    while let Ok(call) = queue.recv() {
        match call {
            Call::At(shared, commands) => clients.push(Client::new(shared, commands)),
            Call::Look | Call::Measure => {}
            Call::Stop => return,
        }
        clients.retain(|client| client.shared.strong_count() > 0);
        // In turns, so that no collection waits for all the segments of another.
        while queue.is_empty() && clients.iter().fold(false, |any, client| client.seal() | any) {}
    }
}

fn run(queue: &Receiver<Call>, threads: usize, mut warm: Keeper) {
    // Searches come first.
    if rustix::process::nice(19).is_err() {
        tracing::debug!("the builder runs at normal priority");
    }
    let mut clients: Vec<Client> = Vec::new();
    let (mut idle_from, mut rested) = (Tick::now() + IDLE, Tick::ZERO);
    loop {
        let call = match wake(&clients, Tick::now(), idle_from, rested) {
            Tick::NEVER => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            wake => queue.recv_timeout(Tick::now().until(wake)),
        };
        match call {
            Ok(Call::At(shared, commands)) => clients.push(Client::new(shared, commands)),
            Ok(Call::Look) => idle_from = Tick::now() + IDLE,
            Ok(Call::Measure) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Call::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
        clients.retain(|client| client.shared.strong_count() > 0);
        clients.iter_mut().for_each(Client::seal_at_rest);
        let idle = idle_from <= Tick::now();
        // In turns, so that no collection waits for all the work of another.
        while queue.is_empty() && clients.iter().fold(false, |any, client| client.work(threads, idle) | any) {}
        if queue.is_empty() && rested <= Tick::now() {
            let began = Tick::now();
            clients.iter().for_each(Client::measure);
            let took = began.until(Tick::now());
            rested = Tick::now() + took * RESTS;
        }
        warm.keep(&clients, Tick::now());
    }
}

/// Keeps in memory what is found most, now and then.
struct Keeper {
    bytes: Arc<AtomicUsize>,
    again: Tick,
    /// Whether the system has refused; it is told of once.
    refused: bool,
}

impl Keeper {
    fn keep(&mut self, clients: &[Client], now: Tick) {
        if now < self.again {
            return;
        }
        self.again = now + WARM_EVERY;
        let spaces: Vec<Arc<Shared>> = clients.iter().filter_map(|client| client.shared.upgrade()).collect();
        match warm::keep(&spaces, self.bytes.load(Ordering::Relaxed)) {
            Err(error) if !self.refused => {
                self.refused = true;
                tracing::warn!(
                    %error,
                    "the system lets this process lock less memory than `vectors.warm` says; raise its limit \
                     (LimitMEMLOCK, CAP_IPC_LOCK) or set less"
                );
            }
            Err(_) | Ok(()) => {}
        }
    }
}

/// When something is to be done though nobody says so: when the collections have become idle, when one may rest
/// that has points to seal, and when a query that waits may be measured.
fn wake(clients: &[Client], now: Tick, idle_from: Tick, rested: Tick) -> Tick {
    let waits = clients.iter().any(|client| client.shared.upgrade().is_some_and(|shared| shared.recalls.waits()));
    let idle = if idle_from > now { idle_from } else { Tick::NEVER };
    let measured = if waits { rested } else { Tick::NEVER };
    clients.iter().map(Client::rests_from).fold(idle.min(measured), Tick::min)
}

impl Client {
    fn new(shared: Weak<Shared>, commands: mpsc::WeakUnboundedSender<Command>) -> Client {
        Client { shared, commands, written: (0, Tick::now()), asked: None }
    }

    /// When the collection rests if nothing is written until then; never where nothing would be done about it.
    fn rests_from(&self) -> Tick {
        let worth = || self.shared.upgrade().is_some_and(|shared| is_worth_sealing(&shared.view.load()));
        if self.asked != Some(self.written.0) && worth() { self.written.1 + IDLE } else { Tick::NEVER }
    }

    /// Has the writer begin a new segment if the collection rests, and the one it has is enough for an index.
    fn seal_at_rest(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let (last, now) = (shared.visible.load(Ordering::Relaxed), Tick::now());
        if last != self.written.0 {
            self.written = (last, now);
        }
        if self.rests_from() <= now
            && let Some(commands) = self.commands.upgrade()
        {
            // Once: should it fail, it is tried again after the next write.
            self.asked = Some(last);
            let _ = commands.send(Command::Rotate);
        }
    }

    /// Measures a query that waits for it, if one does.
    fn measure(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.recalls.measure_one(&shared);
        }
    }

    /// Does the most urgent piece of work; tells whether there was any that could be done.
    fn work(&self, threads: usize, idle: bool) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let view = shared.view.load_full();
        let Some(work) = next(&view, idle) else { return false };
        let progress = Arc::new(Progress::default());
        *shared.building.lock() = Some(Arc::clone(&progress));
        let done = self.carry_out(&shared, &view, work, threads, &progress);
        *shared.building.lock() = None;
        match done {
            Ok(()) => true,
            Err(BuildError::CalledOff(_)) => false,
            Err(BuildError::Io(error)) => {
                tracing::error!(%error, "a collection's segment could not be built; searches go on without it");
                false
            }
            // The writer has said why. It is tried again when there is more to do, not in a circle.
            Err(BuildError::NotPlaced) => false,
        }
    }

    /// Seals the oldest segment that gets no more writes; tells whether there was one and it is done.
    fn seal(&self) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let view = shared.view.load_full();
        let Some(open) = unsealed(&view) else { return false };
        let copy = open.read().living_copy();
        let sources = copy.rows().map(|row| (open.serial, row)).collect();
        let segment = sealed(&shared, &view.config, open.serial, &copy.entries(&view.config));
        let built = Built { from: vec![open.serial], sources, segment, config: Arc::clone(&view.config) };
        self.hand_over(&shared, built).is_ok()
    }

    /// Gives the writer what was built, and waits until it is in its place.
    fn hand_over(&self, shared: &Shared, built: Built) -> Result<(), BuildError> {
        let (done, told) = oneshot::channel();
        let commands = self.commands.upgrade().ok_or(Cancelled)?;
        commands.send(Command::Built(built, done)).map_err(|_| Cancelled)?;
        drop(commands);
        faults::at("handed over", &shared.folder)?;
        match told.blocking_recv() {
            Ok(true) => Ok(()),
            Ok(false) => Err(BuildError::NotPlaced),
            Err(_) => Err(Cancelled.into()),
        }
    }

    fn carry_out(
        &self,
        shared: &Shared,
        view: &View,
        work: Work,
        threads: usize,
        progress: &Progress,
    ) -> Result<(), BuildError> {
        let parts = match work {
            Work::Index(segment, name) => return build_index(&segment, &view.config, &name, threads, progress),
            Work::Merge(parts) => parts,
        };
        let points = living(&parts);
        let segment = merged(shared, &view.config, &points, threads, progress)?;
        let sources = points.iter().map(|(part, row)| (part.serial, *row)).collect();
        let from = parts.iter().map(|part| part.serial).collect();
        self.hand_over(shared, Built { from, sources, segment: Ok(segment), config: Arc::clone(&view.config) })
    }
}

/// Writes these points into the segment of that number. What was written of it goes when that fails.
fn sealed(shared: &Shared, config: &CollectionConfig, serial: u64, points: &[Entry<'_>]) -> io::Result<Segment> {
    let folder = segment_path(&shared.folder, serial);
    let made = faults::at("seal", &folder)
        .and_then(|()| segment::write(&folder, config, points))
        .and_then(|()| Segment::open(&shared.folder, serial, config));
    made.inspect_err(|_| files::warn_of(files::clear(&folder)))
}

/// One segment of these points, with its indexes. What was written of it goes when that fails or is called off.
fn merged(
    shared: &Shared,
    config: &CollectionConfig,
    points: &[(&Segment, u32)],
    threads: usize,
    progress: &Progress,
) -> Result<Segment, BuildError> {
    let serial = shared.next.fetch_add(1, Ordering::Relaxed);
    let segment = sealed(shared, config, serial, &entries(points, config))?;
    for name in segment.unindexed(config) {
        build_index(&segment, config, &name, threads, progress)
            .inspect_err(|_| files::warn_of(files::clear(segment.folder())))?;
    }
    Ok(segment)
}

/// Whether the segment that is being written has points enough for an index.
pub(super) fn is_worth_sealing(view: &View) -> bool {
    match view.pieces.last() {
        Some(Piece::Open(open)) => open.read().len() >= view.config.segmenting.index_from_points.max(1),
        Some(Piece::Sealed(_)) | None => false,
    }
}

/// The oldest segment that waits to be sealed.
fn unsealed(view: &View) -> Option<Arc<OpenSegment>> {
    let (last, before) = view.pieces.split_last()?;
    debug_assert!(matches!(last, Piece::Open(_)), "the last segment is the one that is written");
    before.iter().find_map(|piece| match piece {
        Piece::Open(open) => Some(Arc::clone(open)),
        Piece::Sealed(_) => None,
    })
}

/// What is to be done next.
fn next(view: &View, idle: bool) -> Option<Work> {
    let sealed: Vec<&Arc<Segment>> = view
        .pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Sealed(segment) => Some(segment),
            Piece::Open(_) => None,
        })
        .collect();
    let unindexed = || {
        sealed.iter().find_map(|segment| {
            Some(Work::Index(Arc::clone(segment), segment.unindexed(&view.config).into_iter().next()?))
        })
    };
    unindexed().or_else(|| to_merge(&sealed, &view.config, idle).map(Work::Merge))
}

/// Which segments should become one, by the rule at the top of this file.
fn to_merge(sealed: &[&Arc<Segment>], config: &CollectionConfig, idle: bool) -> Option<Vec<Arc<Segment>>> {
    let most = config.segmenting.merged_points_max;
    let mut by_size: Vec<&Arc<Segment>> = sealed.iter().copied().filter(|segment| segment.alive() < most).collect();
    by_size.sort_by_key(|segment| segment.alive());
    let rotten = sealed.iter().find(|segment| (segment.len() - segment.alive()) * DEAD_SHARE > segment.len());
    if let Some(rotten) = rotten {
        return Some(vec![Arc::clone(rotten)]);
    }
    let alike = by_size.windows(MERGED_AT_ONCE).find(|window| {
        let sizes: Vec<usize> = window.iter().map(|segment| segment.alive()).collect();
        let (least, greatest) = (sizes.first().copied().unwrap_or(0), sizes.last().copied().unwrap_or(0));
        greatest <= least.saturating_mul(MERGED_AT_ONCE).max(config.segmenting.open_points)
            && sizes.iter().sum::<usize>() <= most
    });
    if let Some(alike) = alike {
        return Some(alike.iter().copied().cloned().collect());
    }
    let all: usize = by_size.iter().map(|segment| segment.alive()).sum();
    let largest = by_size.last().map_or(0, |segment| segment.alive());
    (idle && by_size.len() > 1 && all <= most && (all - largest) * MERGED_AT_ONCE >= largest)
        .then(|| by_size.into_iter().cloned().collect())
}

/// The living points of several segments, in the order of their ids.
fn living(parts: &[Arc<Segment>]) -> Vec<(&Segment, u32)> {
    let mut points: Vec<(&Segment, u32)> = Vec::new();
    for part in parts {
        points.extend((0..part.len() as u32).filter(|row| part.lives(*row, LATEST)).map(|row| (&**part, row)));
    }
    points.sort_by_key(|(part, row)| part.id(*row));
    points
}

fn entries<'a>(points: &[(&'a Segment, u32)], config: &CollectionConfig) -> Vec<Entry<'a>> {
    let entry = |(part, row): &(&'a Segment, u32)| {
        let vector = |name: &String| part.column(name)?.vector(*row);
        Some(Entry {
            id: part.id(*row)?,
            payload: part.payload_text(*row),
            vectors: config.vectors.keys().map(vector).collect(),
        })
    };
    points.iter().filter_map(entry).collect()
}

/// Builds the index of a column, writes it beside it and has it used from now on.
fn build_index(
    segment: &Segment,
    config: &CollectionConfig,
    name: &str,
    threads: usize,
    progress: &Progress,
) -> Result<(), BuildError> {
    let (Some(column), Some(vector)) = (segment.column(name), config.vectors.get(name)) else { return Ok(()) };
    let path = column.index_path(segment.folder());
    faults::at("index", &path)?;
    Index::build(column.rows(), vector, &path, threads, progress)??;
    // From the file: what is served is what will be served after the next start.
    column.use_index(&path)?;
    Ok(())
}
