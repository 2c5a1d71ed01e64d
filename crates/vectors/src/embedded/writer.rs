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

use super::builder::{Builder, Built, is_worth_sealing};
use super::log::Log;
use super::open::OpenSegment;
use super::record::{self, Change};
use super::segment::NEVER;
use super::space::{Manifest, Shared};
use super::view::{Piece, Reading, View, open_serials};
use super::{faults, files, resolve};
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
    /// To show the folder as it is, while nothing in it changes.
    Frozen { with: Frozen, reply: Reply<()> },
    /// To begin a new open segment: nothing is written, and the one there is should be sealed.
    Rotate,
    /// To put what the builder built in its place, and to tell it whether that was done.
    Built(Built, oneshot::Sender<bool>),
}

type Reply<T> = oneshot::Sender<Result<T, VectorsError>>;
type Reconfigure = Box<dyn FnOnce(&mut CollectionConfig) -> Result<(), VectorsError> + Send>;
/// What is done with a folder in which nothing changes meanwhile.
pub(super) type Frozen = Box<dyn FnOnce(&Still<'_>) -> io::Result<()> + Send>;

/// A space's folder that has all that is confirmed: in its segments, with their dead points, and in its logs.
pub(super) struct Still<'a> {
    pub(super) folder: &'a Path,
    pub(super) manifest: &'a Manifest,
    /// The logs that are not in segments, the oldest first. Only the last of them will be written to.
    pub(super) logs: Vec<u64>,
    /// Bytes of the last one that are confirmed.
    pub(super) confirmed: u64,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    manifest: Manifest,
    open: Arc<OpenSegment>,
    log: Log,
    sequence: u64,
    builder: Builder,
    /// Who waits for the log to be on disk, and what they are told then: of several writes those before one that
    /// cannot be made are made.
    waiting: Vec<(Reply<u64>, Result<u64, VectorsError>)>,
    backlog: VecDeque<Command>,
    /// The last open segment that the builder was told of to have points enough for an index.
    told_of: Option<u64>,
    /// Why no segment could be sealed when that was last tried.
    stuck: bool,
    /// An earlier write failed in a way that leaves unknown what is on disk.
    broken: bool,
    /// That was the manifest: then nothing may go that either of two names.
    unsure: bool,
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
        let (waiting, backlog) = (Vec::new(), VecDeque::new());
        Writer {
            shared,
            manifest,
            open,
            log,
            sequence,
            builder,
            waiting,
            backlog,
            told_of: None,
            stuck: false,
            broken: false,
            unsure: false,
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
                match wait {
                    true => self.waiting.push((reply, written)),
                    // Whoever asked may have left.
                    false => drop(reply.send(written)),
                }
            }
            Command::Configure { change, reply } => {
                self.confirm();
                let _ = reply.send(self.configure(change));
            }
            Command::Frozen { with, reply } => {
                self.confirm();
                let _ = reply.send(self.show(with));
            }
            Command::Rotate => {
                self.confirm();
                if is_worth_sealing(&self.shared.view.load()) {
                    self.rotate_or_go_on();
                }
            }
            Command::Built(built, done) => {
                self.confirm();
                let _ = done.send(self.take_over(built));
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
            self.log
                .append(self.sequence + 1, |bytes| record::write(&changes, bytes))
                .map_err(|error| VectorsError::Invalid(error.to_string()))?;
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
            return self.waiting.drain(..).for_each(|(reply, written)| drop(reply.send(written)));
        }
        if self.broken {
            // It is not known whether what they wrote is on disk, and never will be.
            return self.waiting.drain(..).for_each(|(reply, _)| drop(reply.send(Err(VectorsError::Broken))));
        }
        match self.log.synchronise() {
            Ok(()) => {
                self.shared.visible.store(self.sequence, Ordering::Release);
                self.waiting.drain(..).for_each(|(reply, written)| drop(reply.send(written)));
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
        let segmenting = self.shared.view.load().config.segmenting;
        if points >= segmenting.open_points || self.log.bytes() > LOG_BYTES_MAX {
            self.rotate_or_go_on();
        } else if points >= segmenting.index_from_points && self.told_of != Some(self.open.serial) {
            // They are sealed once the collection rests.
            self.told_of = Some(self.open.serial);
            self.builder.look();
        }
    }

    /// Begins a new open segment. Where that fails it goes on in the log there is.
    fn rotate_or_go_on(&mut self) {
        if let Err(error) = self.rotate() {
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
        let view = self.shared.view.load_full();
        let logs = open_serials(&view.pieces).chain([serial]).collect();
        let manifest = Manifest { logs: Some(logs), next: serial + 1, ..self.manifest.clone() };
        if let Err(error) = self.write_manifest(manifest) {
            if !self.unsure {
                files::warn_of(fs::remove_file(self.shared.log_path(serial)));
            }
            return Err(no_room_or(error));
        }
        let open = Arc::new(OpenSegment::new(serial, &view.config));
        let mut pieces = view.pieces.clone();
        pieces.push(Piece::Open(Arc::clone(&open)));
        self.publish(Arc::clone(&view.config), pieces);
        (self.open, self.log) = (open, log);
        self.builder.look();
        Ok(())
    }

    fn write_manifest(&mut self, manifest: Manifest) -> io::Result<()> {
        let path = self.shared.folder.join("manifest.json");
        let written = faults::at("manifest", &path)
            .and_then(|()| files::write_json(&path, &manifest))
            .and_then(|()| faults::at("manifest renamed", &path));
        if let Err(error) = written {
            // Once it has its name, what fails behind it leaves unknown which of the two is there after a
            // power failure; memory goes by the old one.
            let there = files::read_json::<Manifest>(&path).ok();
            self.unsure |= there.as_ref() != Some(&self.manifest);
            self.broken |= self.unsure;
            return Err(error);
        }
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
        while !self.stuck && !self.broken && self.waiting_segments() > OPEN_MAX {
            match queue.blocking_recv() {
                Some(command @ Command::Built(..)) => self.obey(command),
                Some(command) => self.backlog.push_back(command),
                None => return,
            }
        }
    }

    /// Puts what was built in its place; tells whether that was done. What is not used is removed.
    fn take_over(&mut self, built: Built) -> bool {
        let view = self.shared.view.load_full();
        let seals = view.pieces.iter().any(|piece| match piece {
            Piece::Open(open) => built.from.contains(&open.serial),
            Piece::Sealed(_) => false,
        });
        let folder = built.segment.as_ref().ok().map(|segment| segment.folder().to_owned());
        // In memory the points that died with the write that failed are dead. What is made of memory says
        // so too, and would take the place of logs and segments that have them.
        let placed = if self.broken { Err(io::Error::other(VectorsError::Broken)) } else { self.put_in_place(built) };
        match placed {
            Ok(()) => {
                if seals {
                    self.stuck = false;
                    // It may be large enough for an index, or one of four.
                    self.builder.look();
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, "what was built for a collection could not be put in its place");
                self.stuck |= seals;
                if let Some(folder) = folder.filter(|_| !self.unsure) {
                    files::warn_of(files::clear(&folder));
                }
                false
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
        let folder = segment.folder().to_owned();
        let new = (segment.alive() > 0).then(|| Arc::new(segment));
        let useless = new.is_none();
        let place = view.pieces.iter().position(replaced).unwrap_or(0);
        let mut pieces: Vec<Piece> = view.pieces.iter().filter(|piece| !replaced(piece)).cloned().collect();
        if let Some(new) = new {
            pieces.insert(place, Piece::Sealed(new));
        }
        self.write_deaths(&pieces)?;
        let sealed = |piece: &Piece| matches!(piece, Piece::Sealed(_)).then(|| piece.serial());
        let manifest = Manifest {
            segments: pieces.iter().filter_map(sealed).collect(),
            oldest_log: open_serials(&pieces).next().unwrap_or(self.manifest.oldest_log),
            logs: Some(open_serials(&pieces).collect()),
            next: self.shared.next.load(Ordering::Relaxed),
            ..self.manifest.clone()
        };
        self.write_manifest(manifest)?;
        self.publish(Arc::clone(&view.config), pieces);
        if useless {
            files::warn_of(files::clear(&folder));
        }
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

    /// Shows the folder once all that was written is confirmed. Who has died is written down, and what took
    /// their place is in the logs: whoever has both has every point.
    fn show(&self, with: Frozen) -> Result<(), VectorsError> {
        if self.broken {
            return Err(VectorsError::Broken);
        }
        let view = self.shared.view.load();
        self.write_deaths(&view.pieces).map_err(no_room_or)?;
        let logs = open_serials(&view.pieces).collect();
        let (folder, manifest, confirmed) = (&*self.shared.folder, &self.manifest, self.log.bytes());
        with(&Still { folder, manifest, logs, confirmed }).map_err(no_room_or)
    }
}

fn no_room_or(error: io::Error) -> VectorsError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => VectorsError::NoRoom,
        _ => VectorsError::Files(error),
    }
}
