//! A sealed segment: points that no longer change, in files that are mapped, sorted by id.
//!
//! Its folder holds `ids` (17 bytes a point), `payloads` (JSON, one after the other) and where each
//! `ends`, for the vector in place `n` of the collection's names the rows `vectors-n` (`f32`, of
//! the points that have it) and, unless all have it, `present-n`; then an index of these rows once
//! it is built (`graph-n`, `ivf-n`). Only `gone`, the points that died since, is ever replaced.
//!
//! A point that is changed lives on in a younger segment, and dies here at the sequence number of
//! that write. A search that began before still sees it here, and not there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use halny_ann::{Coarse, Rows};
use halny_payload::{PayloadIndex, PointId};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::index::{self, Index};
use super::space::segment_path;
use super::warm::Heat;
use super::{files, record};
use crate::{CollectionConfig, Payload, Tier, VectorConfig};

/// Bytes of an id in `ids`.
const ID_BYTES: usize = 17;

/// The sequence number at which a point dies that lives.
pub(super) const NEVER: u64 = u64::MAX;

/// What `segment.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    points: usize,
    /// Names of the vectors, in the order of their files.
    vectors: Vec<String>,
    /// CRC-32 of each file that never changes.
    checksums: BTreeMap<String, u32>,
}

/// The vectors of one name.
pub(crate) struct Column {
    /// The place of the name, as files are called.
    place: usize,
    values: Bytes,
    dimensions: usize,
    /// The rows of points that have this vector; nothing when all have.
    present: Option<RoaringBitmap>,
    tier: Tier,
    index: ArcSwapOption<Index>,
    /// The vectors in bytes, to be scanned as long as they have no index.
    coarse: ArcSwapOption<Coarse>,
    heat: Heat,
}

/// A sealed segment.
pub(crate) struct Segment {
    pub(super) serial: u64,
    folder: PathBuf,
    ids: Vec<PointId>,
    ends: Bytes,
    payloads: Bytes,
    columns: BTreeMap<String, Column>,
    died: Vec<AtomicU64>,
    dead: AtomicUsize,
    /// How many dead points `gone` names.
    written_dead: AtomicUsize,
    fields: ArcSwap<PayloadIndex>,
}

/// A point on its way into a segment.
pub(crate) struct Entry<'a> {
    pub(crate) id: PointId,
    pub(crate) payload: Bytes,
    /// One for each of the collection's names.
    pub(crate) vectors: Vec<Option<&'a [f32]>>,
}

/// Writes a segment of `points`, which are sorted by id, and synchronises it.
pub(super) fn write(folder: &Path, config: &CollectionConfig, points: &[Entry<'_>]) -> io::Result<()> {
    // What a crash left of an earlier try.
    files::clear(folder)?;
    fs::create_dir_all(folder)?;
    let mut writer = Writer { folder, checksums: BTreeMap::new() };
    writer.file("ids", |put| {
        points.iter().try_for_each(|point| {
            let mut id = Vec::with_capacity(ID_BYTES);
            record::write_id(&point.id, &mut id);
            id.resize(ID_BYTES, 0);
            put(&id)
        })
    })?;
    writer.file("payloads", |put| points.iter().try_for_each(|point| put(&point.payload)))?;
    let mut end = 0;
    writer.file("ends", |put| {
        points.iter().try_for_each(|point| {
            end += point.payload.len() as u64;
            put(&end.to_le_bytes())
        })
    })?;
    for place in 0..config.vectors.len() {
        let vectors = || points.iter().map(|point| point.vectors.get(place).copied().flatten());
        writer.file(&format!("vectors-{place}"), |put| {
            vectors().flatten().try_for_each(|vector| put(bytemuck::cast_slice(vector)))
        })?;
        let present: RoaringBitmap = (0u32..).zip(vectors()).filter_map(|(row, vector)| vector.map(|_| row)).collect();
        if present.len() < points.len() as u64 {
            writer.file(&format!("present-{place}"), |put| put(&serialised(&present)?))?;
        }
    }
    let vectors = config.vectors.keys().cloned().collect();
    let card = Card { points: points.len(), vectors, checksums: writer.checksums };
    files::write_json(&folder.join("segment.json"), &card)?;
    files::sync_parent(folder)
}

struct Writer<'a> {
    folder: &'a Path,
    checksums: BTreeMap<String, u32>,
}

impl Writer<'_> {
    fn file(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut crc = crc32fast::Hasher::new();
        files::write_whole(&self.folder.join(name), |file| {
            fill(&mut |bytes| {
                crc.update(bytes);
                io::Write::write_all(file, bytes)
            })
        })?;
        self.checksums.insert(name.to_owned(), crc.finalize());
        Ok(())
    }
}

fn serialised(bitmap: &RoaringBitmap) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes)?;
    Ok(bytes)
}

impl Segment {
    /// Opens a segment. What it holds is checked against its checksums, but for the vectors: they
    /// are large, and read when they are needed; [`Segment::verify`] checks them too.
    pub(super) fn open(space: &Path, serial: u64, config: &CollectionConfig) -> io::Result<Segment> {
        let folder = segment_path(space, serial);
        let card: Card = files::read_json(&folder.join("segment.json"))?;
        let ids = read_ids(&checked(&folder, &card, "ids")?, card.points)?;
        let payloads = checked(&folder, &card, "payloads")?;
        let ends = checked(&folder, &card, "ends")?;
        if ends.len() != card.points * 8 {
            return Err(files::malformed("a segment's payloads do not have as many ends as it has points"));
        }
        let mut columns = BTreeMap::new();
        for (place, name) in card.vectors.iter().enumerate() {
            // A vector that the collection has no longer.
            let Some(vector) = config.vectors.get(name) else { continue };
            columns.insert(name.clone(), Column::open(&folder, &card, place, vector)?);
        }
        let died: Vec<AtomicU64> = (0..card.points).map(|_| AtomicU64::new(NEVER)).collect();
        let segment = Segment {
            serial,
            ids,
            ends,
            payloads,
            columns,
            died,
            dead: AtomicUsize::new(0),
            written_dead: AtomicUsize::new(0),
            fields: ArcSwap::from_pointee(PayloadIndex::new(config.fields.clone())),
            folder,
        };
        segment.read_gone()?;
        segment.index_fields(config);
        Ok(segment)
    }

    fn read_gone(&self) -> io::Result<()> {
        let gone = match fs::read(self.folder.join("gone")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            gone => gone?,
        };
        let bitmap = RoaringBitmap::deserialize_from(gone.as_slice())?;
        bitmap.iter().for_each(|row| self.bury(row, 0));
        self.written_dead.store(self.dead.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(())
    }

    /// Writes down which points have died, if any has since that was done last.
    pub(super) fn write_gone(&self) -> io::Result<()> {
        let dead = self.dead.load(Ordering::Relaxed);
        if dead == self.written_dead.load(Ordering::Relaxed) {
            return Ok(());
        }
        let gone: RoaringBitmap = (0u32..)
            .zip(&self.died)
            .filter(|(_, died)| died.load(Ordering::Relaxed) != NEVER)
            .map(|(row, _)| row)
            .collect();
        let bytes = serialised(&gone)?;
        files::write_whole(&self.folder.join("gone"), |file| io::Write::write_all(file, &bytes))?;
        self.written_dead.store(dead, Ordering::Relaxed);
        Ok(())
    }

    /// Reads every file whole and compares it with its checksum. `known` tells which names a file may have: the
    /// names are a stranger's too.
    pub(super) fn verify(folder: &Path, known: impl Fn(&str) -> bool) -> io::Result<()> {
        let card: Card = files::read_json(&folder.join("segment.json"))?;
        if !card.checksums.keys().all(|name| known(name)) {
            return Err(files::malformed("a segment names a file that no segment has"));
        }
        card.checksums.keys().try_for_each(|name| checked(folder, &card, name).map(drop))
    }

    /// Makes the index of the payload's fields anew.
    pub(super) fn index_fields(&self, config: &CollectionConfig) {
        let mut fields = PayloadIndex::new(config.fields.clone());
        fields.grow_to(self.len() as u32);
        if !config.fields.is_empty() {
            for row in 0..self.len() as u32 {
                fields.insert(row, &self.payload(row).unwrap_or_default());
            }
        }
        // Searches under way end with the one they have.
        self.fields.store(Arc::new(fields));
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Points, dead ones included.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Points that live.
    pub(super) fn alive(&self) -> usize {
        self.len() - self.dead.load(Ordering::Relaxed).min(self.len())
    }

    pub(super) fn id(&self, row: u32) -> Option<PointId> {
        self.ids.get(row as usize).copied()
    }

    /// The ids of all points, dead ones included, in order.
    pub(super) fn ids(&self) -> &[PointId] {
        &self.ids
    }

    /// The row of a point, dead or not.
    pub(super) fn row_of(&self, id: &PointId) -> Option<u32> {
        self.ids.binary_search(id).ok().map(|row| row as u32)
    }

    /// Whether the point lived when the write `at` was the last.
    pub(super) fn lives(&self, row: u32, at: u64) -> bool {
        self.died.get(row as usize).is_some_and(|died| died.load(Ordering::Relaxed) > at)
    }

    /// When the point died, [`NEVER`] if it has not.
    pub(super) fn died(&self, row: u32) -> u64 {
        self.died.get(row as usize).map_or(NEVER, |died| died.load(Ordering::Relaxed))
    }

    /// The point dies with the write `at`, unless it is dead.
    pub(super) fn bury(&self, row: u32, at: u64) {
        let died = self.died.get(row as usize);
        if died.is_some_and(|died| died.compare_exchange(NEVER, at, Ordering::Relaxed, Ordering::Relaxed).is_ok()) {
            self.dead.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A point's payload as JSON.
    pub(super) fn payload_text(&self, row: u32) -> Bytes {
        let end = |row: usize| -> Option<usize> {
            let end = self.ends.get(row * 8..row * 8 + 8)?;
            usize::try_from(u64::from_le_bytes(end.try_into().ok()?)).ok()
        };
        let row = row as usize;
        let start = if row == 0 { Some(0) } else { end(row - 1) };
        match (start, end(row)) {
            (Some(start), Some(end)) if start <= end && end <= self.payloads.len() => self.payloads.slice(start..end),
            _ => Bytes::new(),
        }
    }

    pub(super) fn payload(&self, row: u32) -> Option<Payload> {
        serde_json::from_slice(&self.payload_text(row)).ok()
    }

    pub(super) fn columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.values()
    }

    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.get(name)
    }

    pub(super) fn fields(&self) -> Arc<PayloadIndex> {
        self.fields.load_full()
    }

    /// Copies the vectors that will get an index into bytes, so that they are scanned more quickly until then.
    pub(super) fn make_coarse(&self, config: &CollectionConfig) {
        for name in self.unindexed(config) {
            let (Some(column), Some(vector)) = (self.column(&name), config.vectors.get(&name)) else { continue };
            let Some(mut coarse) = index::coarse(vector) else { continue };
            let rows = column.rows();
            (0..rows.len() as u32).for_each(|row| coarse.push(rows.row(row)));
            column.coarse.store(Some(Arc::new(coarse)));
        }
    }

    /// Names of the columns that are large enough for an index and have none.
    pub(super) fn unindexed(&self, config: &CollectionConfig) -> Vec<String> {
        let wanting = |(name, column): (&String, &Column)| {
            let large = column.rows().len() >= config.segmenting.index_from_points;
            (large && column.index.load().is_none()).then(|| name.clone())
        };
        self.columns.iter().filter_map(wanting).collect()
    }
}

fn read_ids(bytes: &[u8], points: usize) -> io::Result<Vec<PointId>> {
    let ids: Option<Vec<PointId>> = bytes.chunks_exact(ID_BYTES).map(|mut id| record::read_id(&mut id)).collect();
    let ids = ids.filter(|ids| ids.len() == points && ids.windows(2).all(|pair| matches!(pair, [a, b] if a < b)));
    ids.ok_or_else(|| files::malformed("a segment's ids are not sorted, or not as many as it has points"))
}

fn checked(folder: &Path, card: &Card, name: &str) -> io::Result<Bytes> {
    let bytes = files::map_path(&folder.join(name))?;
    if card.checksums.get(name) == Some(&crc32fast::hash(&bytes)) {
        Ok(bytes)
    } else {
        Err(files::malformed(format!("the file {name} of a segment has changed since it was written")))
    }
}

impl Column {
    fn open(folder: &Path, card: &Card, place: usize, vector: &VectorConfig) -> io::Result<Column> {
        let present = format!("present-{place}");
        let present = match card.checksums.contains_key(&present) {
            true => Some(RoaringBitmap::deserialize_from(checked(folder, card, &present)?.as_ref())?),
            false => None,
        };
        let values = files::map_path(&folder.join(format!("vectors-{place}")))?;
        let dimensions = vector.dimensions;
        let rows = present.as_ref().map_or(card.points as u64, RoaringBitmap::len);
        let aligned = values.is_empty() || bytemuck::try_cast_slice::<u8, f32>(&values).is_ok();
        if !aligned || values.len() as u64 != rows * dimensions as u64 * 4 {
            return Err(files::malformed("a segment has not as many vectors as it says"));
        }
        let (tier, index, heat) = (vector.tier.clone(), ArcSwapOption::empty(), Heat::new(values.len()));
        let coarse = ArcSwapOption::empty();
        let column = Column { place, values, dimensions, present, tier, index, coarse, heat };
        column.open_index(folder);
        Ok(column)
    }

    fn open_index(&self, folder: &Path) {
        let path = self.index_path(folder);
        if !path.exists() {
            return;
        }
        match self.use_index(&path) {
            Ok(()) => {}
            // It is made of the rows, so it can be made again.
            Err(error) => tracing::warn!(%error, "an index of vectors cannot be read and is built again"),
        }
    }

    /// Where the file of its index is.
    pub(super) fn index_path(&self, folder: &Path) -> PathBuf {
        Index::path(folder, self.place, &self.tier)
    }

    /// From now on the index in this file is its index.
    pub(super) fn use_index(&self, path: &Path) -> io::Result<()> {
        self.index.store(Some(Arc::new(Index::open(path, self.rows(), &self.tier)?)));
        self.coarse.store(None);
        Ok(())
    }

    /// The vectors in bytes, to be scanned in their place.
    pub(super) fn coarse(&self) -> Option<Arc<Coarse>> {
        self.coarse.load_full()
    }

    pub(super) fn index(&self) -> Option<Arc<Index>> {
        self.index.load_full()
    }

    /// How often something was found where.
    pub(super) fn heat(&self) -> &Heat {
        &self.heat
    }

    /// The file of the vectors.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.values
    }

    /// Bytes of a vector.
    pub(super) fn row_bytes(&self) -> usize {
        self.dimensions * size_of::<f32>()
    }

    /// The vectors, of the points that have one.
    pub(super) fn rows(&self) -> Rows<'_> {
        Rows::new(bytemuck::try_cast_slice(&self.values).unwrap_or_default(), self.dimensions)
    }

    /// The point that the vector in this place belongs to.
    pub(super) fn point_of(&self, slot: u32) -> u32 {
        self.present.as_ref().map_or(slot, |present| present.select(slot).unwrap_or(u32::MAX))
    }

    /// The place of a point's vector.
    pub(super) fn slot_of(&self, row: u32) -> Option<u32> {
        match &self.present {
            None => Some(row),
            Some(present) => present.contains(row).then(|| (present.rank(row) - 1) as u32),
        }
    }

    /// A point's vector.
    pub(super) fn vector(&self, row: u32) -> Option<&[f32]> {
        self.slot_of(row).map(|slot| self.rows().row(slot)).filter(|vector| !vector.is_empty())
    }
}
