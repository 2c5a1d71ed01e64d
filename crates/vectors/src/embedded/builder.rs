//! The threads that build in the background, three for all collections, while searches and writes go on.
//!
//! - One *seals*: a segment that gets no more writes is written into files. It takes as long as writing some megabytes
//!   does, and a writer waits for it before long.
//! - One *indexes* segments that were sealed, a second's work each. Until then they are scanned. Beside that it measures
//!   queries, and keeps in memory what is found most.
//! - One *merges*, by the rule in [`merge`]. That takes minutes where there are millions of points, and
//!   nobody waits for it.
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
use super::merge::{self, to_merge};
use super::open::OpenSegment;
use super::segment::{self, Entry, Segment};
use super::space::{Shared, segment_path};
use super::view::{Piece, View};
use super::writer::Command;
use super::{faults, files, warm};
use crate::CollectionConfig;

/// After so long segments are looked over though nobody said anything: points that die say nothing.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// After so long without a write a collection rests.
const IDLE: Duration = Duration::from_secs(2);
/// What is kept in memory is looked over so often, while something is asked.
const WARM_EVERY: Duration = Duration::from_secs(2);
/// Measuring rests for so many times as long as it took: it takes a fiftieth of one core at the most.
const RESTS: u32 = 49;

/// Where the threads are told to look. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Builder {
    seals: Sender<Call>,
    indexes: Sender<Call>,
    merges: Sender<Call>,
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
    /// Starts the threads; what one of them builds is shared out to `threads`. The one that is given waits for the
    /// others when it ends.
    pub(super) fn start(threads: usize) -> io::Result<(Builder, std::thread::JoinHandle<()>)> {
        let warm_bytes = Arc::new(AtomicUsize::new(0));
        let warm = Keeper { bytes: Arc::clone(&warm_bytes), again: Tick::ZERO, refused: false };
        let spawn =
            |name: &str, work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.to_owned()).spawn(work);
        let (seals, to_seal) = crossbeam_channel::unbounded();
        let sealer = spawn("halny-seal", Box::new(move || seal_all(&to_seal)))?;
        let (merges, to_merge) = crossbeam_channel::unbounded();
        let merger = spawn("halny-merge", Box::new(move || merge_all(&to_merge, threads)))?;
        let (indexes, to_index) = crossbeam_channel::unbounded();
        let builder = Builder { seals, indexes, merges, warm_bytes };
        let merges = builder.merges.clone();
        let work = move || {
            // The others end when all who may call them are gone, this thread among them.
            index_all(&to_index, merges, threads, warm);
            for other in [sealer, merger] {
                if other.join().is_err() {
                    tracing::error!("a thread that builds segments ended in a panic");
                }
            }
        };
        Ok((builder, spawn("halny-build", Box::new(work))?))
    }

    /// From now on so many bytes of vectors are kept in memory.
    pub(super) fn keep_warm(&self, bytes: usize) {
        self.warm_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Looks after another collection from now on.
    pub(super) fn look_at(&self, shared: &Arc<Shared>, commands: &mpsc::UnboundedSender<Command>) {
        self.tell_all(&Call::At(Arc::downgrade(shared), commands.downgrade()));
    }

    fn tell_all(&self, call: &Call) {
        for thread in [&self.seals, &self.indexes, &self.merges] {
            // There is a receiver as long as there is a builder.
            let _ = thread.send(call.clone());
        }
    }

    /// Ends the threads once they have done what they are at.
    pub(super) fn stop(&self) {
        self.tell_all(&Call::Stop);
    }

    /// A query waits to be measured.
    pub(super) fn measure(&self) {
        let _ = self.indexes.send(Call::Measure);
    }

    /// Something may have to be done.
    pub(super) fn look(&self) {
        self.tell_all(&Call::Look);
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

/// Indexes what was sealed, measures queries, and keeps in memory what is found most.
#[expect(clippy::needless_pass_by_value, reason = "whoever holds it keeps the merger waiting")]
fn index_all(queue: &Receiver<Call>, merges: Sender<Call>, threads: usize, mut warm: Keeper) {
    give_way(10);
    let mut clients: Vec<Client> = Vec::new();
    let mut rested = Tick::ZERO;
    loop {
        let wake = if clients.iter().any(Client::waits_to_be_measured) { rested } else { Tick::NEVER };
        match receive(queue, wake) {
            Ok(Call::At(shared, commands)) => clients.push(Client::new(shared, commands)),
            Ok(Call::Look | Call::Measure) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Call::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
        clients.retain(|client| client.shared.strong_count() > 0);
        while queue.is_empty() && clients.iter().fold(false, |any, client| client.index(threads) | any) {
            let _ = merges.send(Call::Look);
        }
        if queue.is_empty() && rested <= Tick::now() {
            let began = Tick::now();
            clients.iter().for_each(Client::measure);
            let took = began.until(Tick::now());
            rested = Tick::now() + took * RESTS;
        }
        warm.keep(&clients, Tick::now());
    }
}

/// Merges segments, and has those sealed that are written no more.
fn merge_all(queue: &Receiver<Call>, threads: usize) {
    give_way(19);
    let (mut clients, mut tried): (Vec<Client>, Tick) = (Vec::new(), Tick::ZERO);
    loop {
        match receive(queue, rest(&clients, tried)) {
            Ok(Call::At(shared, commands)) => clients.push(Client::new(shared, commands)),
            Ok(Call::Look | Call::Measure) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Call::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
        clients.retain(|client| client.shared.strong_count() > 0);
        let now = Tick::now();
        tried = now;
        clients.iter_mut().for_each(|client| client.seal_at_rest(now));
        let idle = clients.iter().all(|client| client.written.1 + IDLE <= now);
        while queue.is_empty() && clients.iter().fold(false, |any, client| client.merge(threads, idle) | any) {}
    }
}

/// Waits for a call until `wake`.
fn receive(queue: &Receiver<Call>, wake: Tick) -> Result<Call, RecvTimeoutError> {
    match wake {
        Tick::NEVER => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        wake => queue.recv_timeout(Tick::now().until(wake)),
    }
}

/// Lets others have the processors first.
fn give_way(by: i32) {
    if rustix::process::nice(by).is_err() {
        tracing::debug!("segments are built at normal priority");
    }
}

/// When something is to be done if nothing is written until then, though nobody says so. What could have been done
/// then was `tried` last.
fn rest(clients: &[Client], tried: Tick) -> Tick {
    if clients.is_empty() {
        return Tick::NEVER;
    }
    let all = clients.iter().map(|client| client.written.1).fold(Tick::ZERO, Tick::max) + IDLE;
    let of = |client: &Client| {
        let seals = if client.seals_at_rest() { client.written.1 + IDLE } else { Tick::NEVER };
        if client.merges_when_idle() { seals.min(all) } else { seals }
    };
    clients.iter().map(of).filter(|tick| *tick > tried).fold(Tick::now() + LOOK_EVERY, Tick::min)
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

impl Client {
    fn new(shared: Weak<Shared>, commands: mpsc::WeakUnboundedSender<Command>) -> Client {
        Client { shared, commands, written: (0, Tick::now()), asked: None }
    }

    fn view(&self) -> Option<Arc<View>> {
        self.shared.upgrade().map(|shared| shared.view.load_full())
    }

    /// Whether the last points will be sealed once the collection rests.
    fn seals_at_rest(&self) -> bool {
        self.asked != Some(self.written.0) && self.view().is_some_and(|view| is_worth_sealing(&view))
    }

    /// Whether segments will be merged once all collections rest.
    fn merges_when_idle(&self) -> bool {
        self.view().is_some_and(|view| to_merge(&view, true).is_some())
    }

    /// Has the writer begin a new segment if the collection rests, and the one it has is enough for an index.
    fn seal_at_rest(&mut self, now: Tick) {
        let Some(shared) = self.shared.upgrade() else { return };
        let last = shared.visible.load(Ordering::Relaxed);
        if last != self.written.0 {
            self.written = (last, now);
        }
        if self.written.1 + IDLE <= now
            && self.seals_at_rest()
            && let Some(commands) = self.commands.upgrade()
        {
            // Once: should it fail, it is tried again after the next write.
            self.asked = Some(last);
            let _ = commands.send(Command::Rotate);
        }
    }

    fn waits_to_be_measured(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.recalls.waits())
    }

    /// Measures a query that waits for it, if one does.
    fn measure(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.recalls.measure_one(&shared);
        }
    }

    /// Builds an index that a segment lacks; tells whether there was one and it is done.
    fn index(&self, threads: usize) -> bool {
        let Some(view) = self.view() else { return false };
        let mut sealed = view.pieces.iter().filter_map(Piece::sealed);
        let unindexed = sealed.find_map(|segment| Some((segment, segment.unindexed(&view.config).into_iter().next()?)));
        let Some((segment, name)) = unindexed else { return false };
        self.build(|_, progress| build_index(segment, &view.config, &name, threads, progress))
    }

    /// Merges segments that should be; tells whether there were any and it is done.
    fn merge(&self, threads: usize, idle: bool) -> bool {
        let Some(view) = self.view() else { return false };
        let Some(parts) = to_merge(&view, idle) else { return false };
        self.build(|shared, progress| {
            let points = merge::living(&parts);
            let segment = merged(shared, &view.config, &points, threads, progress)?;
            let sources = points.iter().map(|(part, row)| (part.serial, *row)).collect();
            let from = parts.iter().map(|part| part.serial).collect();
            self.hand_over(shared, Built { from, sources, segment: Ok(segment), config: Arc::clone(&view.config) })
        })
    }

    /// Builds something that takes time; tells whether it was done.
    fn build(&self, work: impl FnOnce(&Shared, &Progress) -> Result<(), BuildError>) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let progress = Arc::new(Progress::default());
        shared.building.lock().push(Arc::clone(&progress));
        // Whoever closes the collection lets go of the writer first, and then calls off what is being built.
        let done = match self.commands.strong_count() {
            0 => Err(Cancelled.into()),
            _ => work(&shared, &progress),
        };
        shared.building.lock().retain(|other| !Arc::ptr_eq(other, &progress));
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
        // Until it has its index, every search looks at all of it.
        let segment = segment.inspect(|segment| segment.make_coarse(&view.config));
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
    let segment = sealed(shared, config, serial, &merge::entries(points, config))?;
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
