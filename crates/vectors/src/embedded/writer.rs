//! The thread that writes to a space. There is one, so that writes have an order and need no locks among them.
//!
//! A write is resolved to changes, the changes go into the log and then into memory, unseen. Once the
//! log is on disk, for all writes that waited together, the number of the last one is published,
//! and from then on readers see them. A failure before leaves nothing behind that anyone could
//! have seen.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use halny_payload::PointId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::builder::{Builder, Built};
use super::log::Log;
use super::open::OpenSegment;
use super::record::{self, Change};
use super::segment::NEVER;
use super::space::{Manifest, Shared};
use super::view::{Piece, Reading, View, oldest_open};
use super::{files, resolve};
use crate::{CollectionConfig, VectorsError, Write};

/// Commands that are obeyed before the log is synchronised once for all of them.
const GROUP_MAX: usize = 64;
/// Segments that may wait to be sealed; a writer that is faster than the builder waits for it.
const OPEN_MAX: usize = 6;
/// A log this large is as good a reason to seal as many points are: it is read again at a start.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// What a writer is told.
#[expect(clippy::large_enum_variant, reason = "there are few at once, and what was built comes rarely")]
pub(super) enum Command {
    /// To make these writes, and to answer before or after they are on disk.
    Write { writes: Vec<Write>, wait: bool, reply: Reply<u64>, place: OwnedSemaphorePermit },
    /// To take another configuration.
    Configure { change: Reconfigure, reply: Reply<()> },
    /// To call `with` the folder once everything is in segments.
    Frozen { with: Frozen, reply: Reply<()> },
    /// To put what the builder built in its place, and to tell it so.
    Built(Built, oneshot::Sender<()>),
}

type Reply<T> = oneshot::Sender<Result<T, VectorsError>>;
type Reconfigure = Box<dyn FnOnce(&mut CollectionConfig) -> Result<(), VectorsError> + Send>;
/// What is done with the folder once everything is in segments.
pub(super) type Frozen = Box<dyn FnOnce(&Path) -> io::Result<()> + Send>;

pub(super) struct Writer {
    shared: Arc<Shared>,
    manifest: Manifest,
    open: Arc<OpenSegment>,
    log: Log,
    sequence: u64,
    builder: Builder,
    /// Who waits for the log to be on disk.
    waiting: Vec<(Reply<u64>, u64)>,
    /// Who waits for what is open before this serial to be sealed.
    freezing: Vec<(u64, Frozen, Reply<()>)>,
    backlog: VecDeque<Command>,
    /// Why no segment could be sealed when that was last tried.
    stuck: bool,
    broken: bool,
}

/// Brings the points in line with `changes`, which are the write `sequence`.
pub(super) fn apply(reading: &Reading, open: &OpenSegment, changes: Vec<Change>, sequence: u64) {
    let bury = |id: &PointId| {
        let place = reading.place_of(id);
        if let Some((place, piece)) = place.and_then(|place| Some((place, reading.piece(place)?))) {
            piece.bury(place.row, sequence);
        }
    };
    for change in changes {
        match change {
            Change::Put(point) => {
                bury(&point.id);
                open.put(&point, sequence);
            }
            Change::Delete(id) => bury(&id),
        }
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        manifest: Manifest,
        open: Arc<OpenSegment>,
        log: Log,
        sequence: u64,
        builder: Builder,
    ) -> Writer {
        let (waiting, freezing, backlog) = (Vec::new(), Vec::new(), VecDeque::new());
        Writer {
            shared,
            manifest,
            open,
            log,
            sequence,
            builder,
            waiting,
            freezing,
            backlog,
            stuck: false,
            broken: false,
        }
    }

    /// Obeys until nobody can give commands any more.
    pub(super) fn run(mut self, mut queue: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = self.backlog.pop_front().or_else(|| queue.blocking_recv()) {
            self.obey(command);
            for _ in 1..GROUP_MAX {
                match self.backlog.pop_front().or_else(|| queue.try_recv().ok()) {
                    Some(command) => self.obey(command),
                    None => break,
                }
            }
            self.confirm();
            self.rotate_if_full();
            self.wait_for_builder(&mut queue);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Write { writes, wait, reply, place } => {
                let written = self.write_all(writes);
                drop(place);
                match written {
                    Ok(sequence) if wait => self.waiting.push((reply, sequence)),
                    // Whoever asked may have left.
                    written => drop(reply.send(written)),
                }
            }
            Command::Configure { change, reply } => {
                self.confirm();
                let _ = reply.send(self.configure(change));
            }
            Command::Frozen { with, reply } => {
                self.confirm();
                match self.rotate() {
                    Ok(()) => self.freezing.push((self.open.serial, with, reply)),
                    Err(error) => drop(reply.send(Err(error))),
                }
                self.thaw();
            }
            Command::Built(built, done) => {
                self.confirm();
                if let Err(error) = self.put_in_place(built) {
                    tracing::error!(%error, "what was built for a collection could not be put in its place");
                    self.stuck = true;
                    // Who waits for all to be sealed would wait until the disk works again.
                    self.freezing.drain(..).for_each(|(.., reply)| drop(reply.send(Err(VectorsError::NoRoom))));
                }
                self.thaw();
                let _ = done.send(());
            }
        }
    }

    fn write_all(&mut self, writes: Vec<Write>) -> Result<u64, VectorsError> {
        if self.broken {
            return Err(VectorsError::Broken);
        }
        if self.stuck && self.waiting_segments() > OPEN_MAX {
            self.builder.look();
            return Err(VectorsError::NoRoom);
        }
        for write in writes {
            let reading = self.shared.latest();
            let changes = resolve::changes(&reading, write)?;
            self.log.append(self.sequence + 1, |bytes| record::write(&changes, bytes));
            self.log.write().map_err(|(error, unknown)| {
                self.broken |= unknown;
                no_room_or(error)
            })?;
            self.sequence += 1;
            apply(&reading, &self.open, changes, self.sequence);
        }
        Ok(self.sequence)
    }

    /// Waits until the log is on disk, shows readers what it says, and tells who waits for that.
    fn confirm(&mut self) {
        if self.sequence == self.shared.visible.load(Ordering::Relaxed) {
            return self.waiting.drain(..).for_each(|(reply, sequence)| drop(reply.send(Ok(sequence))));
        }
        if self.broken {
            // It is not known whether what they wrote is on disk, and never will be.
            return self.waiting.drain(..).for_each(|(reply, _)| drop(reply.send(Err(VectorsError::Broken))));
        }
        match self.log.synchronise() {
            Ok(()) => {
                self.shared.visible.store(self.sequence, Ordering::Release);
                self.waiting.drain(..).for_each(|(reply, sequence)| drop(reply.send(Ok(sequence))));
            }
            Err(error) => {
                tracing::error!(%error, "a collection takes no more writes: its log cannot be brought to disk");
                self.broken = true;
                self.waiting.drain(..).for_each(|(reply, _)| drop(reply.send(Err(VectorsError::Broken))));
            }
        }
    }

    fn rotate_if_full(&mut self) {
        let points = self.open.read().len();
        if (points >= self.shared.view.load().config.segmenting.open_points || self.log.bytes() > LOG_BYTES_MAX)
            && let Err(error) = self.rotate()
        {
            // It goes on in the log there is, and tries again with the next write.
            tracing::error!(%error, "no new log could be begun");
        }
    }

    /// Begins a new open segment; the old one gets no more writes and is sealed by the builder.
    fn rotate(&mut self) -> Result<(), VectorsError> {
        if self.broken {
            return Err(VectorsError::Broken);
        }
        let serial = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let log = Log::create(&self.shared.log_path(serial)).map_err(no_room_or)?;
        let manifest = Manifest { next: serial + 1, ..self.manifest.clone() };
        if let Err(error) = self.write_manifest(manifest) {
            // Else its name is taken when that is tried again.
            let _ = fs::remove_file(self.shared.log_path(serial));
            return Err(no_room_or(error));
        }
        let view = self.shared.view.load_full();
        let open = Arc::new(OpenSegment::new(serial, &view.config));
        let mut pieces = view.pieces.clone();
        pieces.push(Piece::Open(Arc::clone(&open)));
        self.publish(Arc::clone(&view.config), pieces);
        (self.open, self.log) = (open, log);
        self.builder.look();
        Ok(())
    }

    fn write_manifest(&mut self, manifest: Manifest) -> io::Result<()> {
        files::write_json(&self.shared.folder.join("manifest.json"), &manifest)?;
        self.manifest = manifest;
        Ok(())
    }

    fn publish(&self, config: Arc<CollectionConfig>, pieces: Vec<Piece>) {
        let made_at = self.shared.visible.load(Ordering::Relaxed);
        self.shared.view.store(Arc::new(View { made_at, config, pieces }));
    }

    fn configure(&mut self, change: Reconfigure) -> Result<(), VectorsError> {
        let mut config = self.manifest.config.clone();
        change(&mut config)?;
        config.check()?;
        self.write_manifest(Manifest { config: config.clone(), ..self.manifest.clone() }).map_err(no_room_or)?;
        let view = self.shared.view.load_full();
        if config.fields != view.config.fields {
            for piece in &view.pieces {
                match piece {
                    Piece::Sealed(segment) => segment.index_fields(&config),
                    Piece::Open(open) => open.index_fields(&config),
                }
            }
        }
        if config.vectors != view.config.vectors {
            self.shared.recalls.forget();
        }
        self.publish(Arc::new(config), view.pieces.clone());
        self.builder.look();
        Ok(())
    }

    /// How many segments wait to be sealed.
    fn waiting_segments(&self) -> usize {
        let open = |piece: &&Piece| matches!(piece, Piece::Open(_));
        self.shared.view.load().pieces.iter().filter(open).count() - 1
    }

    /// Lets the builder catch up. Commands that come meanwhile wait, a bounded number of them.
    fn wait_for_builder(&mut self, queue: &mut mpsc::UnboundedReceiver<Command>) {
        while !self.stuck && self.waiting_segments() > OPEN_MAX {
            match queue.blocking_recv() {
                Some(command @ Command::Built(..)) => self.obey(command),
                Some(command) => self.backlog.push_back(command),
                None => return,
            }
        }
    }

    /// Puts a segment that was built in the place of those that it was built from.
    fn put_in_place(&mut self, built: Built) -> io::Result<()> {
        let Built { from, sources, segment, config } = built;
        let segment = segment?;
        let view = self.shared.view.load_full();
        if !Arc::ptr_eq(&config, &view.config) {
            segment.index_fields(&view.config);
        }
        // What died while it was built.
        let replaced = |piece: &Piece| from.contains(&piece.serial());
        for (row, (serial, old)) in (0..).zip(&sources) {
            let piece = view.pieces.iter().find(|piece| piece.serial() == *serial);
            if let Some(died) = piece.map(|piece| piece.died(*old)).filter(|died| *died != NEVER) {
                segment.bury(row, died);
            }
        }
        let new = (segment.alive() > 0).then(|| Arc::new(segment));
        let place = view.pieces.iter().position(replaced).unwrap_or(0);
        let mut pieces: Vec<Piece> = view.pieces.iter().filter(|piece| !replaced(piece)).cloned().collect();
        if let Some(new) = new {
            pieces.insert(place, Piece::Sealed(new));
        }
        self.write_deaths(&pieces)?;
        let sealed = |piece: &Piece| matches!(piece, Piece::Sealed(_)).then(|| piece.serial());
        let manifest = Manifest {
            segments: pieces.iter().filter_map(sealed).collect(),
            oldest_log: oldest_open(&pieces).unwrap_or(self.manifest.oldest_log),
            next: self.shared.next.load(Ordering::Relaxed),
            ..self.manifest.clone()
        };
        self.write_manifest(manifest)?;
        self.publish(Arc::clone(&view.config), pieces);
        self.stuck = false;
        view.pieces.iter().filter(|piece| replaced(piece)).for_each(|piece| self.clear(piece));
        Ok(())
    }

    /// Writes down who has died in every segment: the log that says so may go.
    fn write_deaths(&self, pieces: &[Piece]) -> io::Result<()> {
        pieces.iter().try_for_each(|piece| match piece {
            Piece::Sealed(segment) => segment.write_gone(),
            Piece::Open(_) => Ok(()),
        })
    }

    /// Removes the files of a segment that has been replaced. Readers that still look at them keep them.
    fn clear(&self, piece: &Piece) {
        let removed = match piece {
            Piece::Sealed(segment) => fs::remove_dir_all(segment.folder()),
            Piece::Open(open) => fs::remove_file(self.shared.log_path(open.serial)),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "files of a collection that are no longer needed stay until the next start");
        }
    }

    /// Answers who waited for all to be sealed, if it is.
    fn thaw(&mut self) {
        let view = self.shared.view.load_full();
        let oldest = oldest_open(&view.pieces);
        let ready = |serial: u64| oldest.is_none_or(|oldest| oldest >= serial);
        let (now, later) = std::mem::take(&mut self.freezing).into_iter().partition(|(serial, ..)| ready(*serial));
        self.freezing = later;
        for (_, with, reply) in now {
            let done = self.write_deaths(&view.pieces).and_then(|()| with(&self.shared.folder));
            let _ = reply.send(done.map_err(no_room_or));
        }
    }
}

fn no_room_or(error: io::Error) -> VectorsError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => VectorsError::NoRoom,
        _ => VectorsError::Files(error),
    }
}
