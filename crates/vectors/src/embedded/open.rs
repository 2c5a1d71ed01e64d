//! The open segment: the points written last, in memory, searched by looking at all of them. The log has them too.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use halny_ann::{Coarse, Rows};
use halny_payload::{PayloadIndex, PointId};
use parking_lot::{RwLock, RwLockReadGuard};

use super::index;
use super::segment::{Entry, NEVER};
use super::view::LATEST;
use crate::{CollectionConfig, Payload, Point, VectorConfig};

/// The segment that is being written.
pub(crate) struct OpenSegment {
    pub(super) serial: u64,
    rows: RwLock<OpenRows>,
}

/// What it holds.
pub(crate) struct OpenRows {
    ids: Vec<PointId>,
    payloads: Vec<Arc<Payload>>,
    /// Between which writes each point lives: from the first on, until the second.
    lives: Vec<(u64, u64)>,
    /// The last row of each id, dead or not.
    latest: BTreeMap<PointId, u32>,
    /// For each row the one that its id had before, if it had one.
    older: Vec<Option<u32>>,
    columns: BTreeMap<String, OpenColumn>,
    pub(super) fields: PayloadIndex,
}

/// The vectors of one name.
pub(crate) struct OpenColumn {
    values: Vec<f32>,
    /// The same in bytes, unless no index would have them so.
    coarse: Option<Coarse>,
    dimensions: usize,
    /// The point of each vector, in order.
    points: Vec<u32>,
}

impl OpenSegment {
    pub(super) fn new(serial: u64, config: &CollectionConfig) -> OpenSegment {
        let rows = OpenRows {
            ids: Vec::new(),
            payloads: Vec::new(),
            lives: Vec::new(),
            latest: BTreeMap::new(),
            older: Vec::new(),
            columns: config.vectors.iter().map(|(name, vector)| (name.clone(), OpenColumn::new(vector))).collect(),
            fields: PayloadIndex::new(config.fields.clone()),
        };
        OpenSegment { serial, rows: RwLock::new(rows) }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, OpenRows> {
        self.rows.read()
    }

    /// The point lives from the write `at` on.
    pub(super) fn put(&self, point: &Point, at: u64) {
        self.rows.write().put(point, at);
    }

    /// The point dies with the write `at`, unless it is dead.
    pub(super) fn bury(&self, row: u32, at: u64) {
        if let Some((_, until)) = self.rows.write().lives.get_mut(row as usize) {
            *until = (*until).min(at);
        }
    }

    /// Makes the index of the payload's fields anew.
    pub(super) fn index_fields(&self, config: &CollectionConfig) {
        let mut rows = self.rows.write();
        let mut fields = PayloadIndex::new(config.fields.clone());
        for (row, payload) in (0..).zip(&rows.payloads) {
            fields.insert(row, payload);
        }
        rows.fields = fields;
    }
}

impl OpenRows {
    fn put(&mut self, point: &Point, at: u64) {
        let row = self.ids.len() as u32;
        self.ids.push(point.id);
        self.payloads.push(Arc::clone(&point.payload));
        self.lives.push((at, NEVER));
        self.older.push(self.latest.insert(point.id, row));
        for (name, vector) in &point.vectors {
            if let Some(column) = self.columns.get_mut(name) {
                column.put(vector, row);
            }
        }
        self.fields.insert(row, &point.payload);
    }

    /// Points, dead ones included.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn id(&self, row: u32) -> Option<PointId> {
        self.ids.get(row as usize).copied()
    }

    pub(super) fn payload(&self, row: u32) -> Option<&Arc<Payload>> {
        self.payloads.get(row as usize)
    }

    /// Whether the point lived when the write `at` was the last.
    pub(super) fn lives(&self, row: u32, at: u64) -> bool {
        self.lives.get(row as usize).is_some_and(|(from, until)| *from <= at && at < *until)
    }

    /// When the point died, [`NEVER`] if it has not.
    pub(super) fn died(&self, row: u32) -> u64 {
        self.lives.get(row as usize).map_or(NEVER, |(_, until)| *until)
    }

    /// The point of that id as of the write `at`.
    pub(super) fn row_of(&self, id: &PointId, at: u64) -> Option<u32> {
        let mut row = *self.latest.get(id)?;
        // Written again since: an older row of the same id may have lived then.
        while self.lives.get(row as usize).is_some_and(|(from, _)| *from > at) {
            row = (*self.older.get(row as usize)?)?;
        }
        self.lives(row, at).then_some(row)
    }

    pub(super) fn column(&self, name: &str) -> Option<&OpenColumn> {
        self.columns.get(name)
    }

    /// The points that live as of the write `at`, in the order of their ids, from `from` on.
    pub(super) fn living(&self, at: u64, from: Option<PointId>) -> impl Iterator<Item = (PointId, u32)> + '_ {
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        let ids = self.latest.range((from, Bound::Unbounded));
        ids.filter_map(move |(id, _)| Some((*id, self.row_of(id, at)?)))
    }

    /// A copy of the points that live. To write them to disk takes long, and nobody is to wait for it: a lock
    /// that is held so long stops searches as soon as the writer waits for it.
    pub(super) fn living_copy(&self) -> LivingCopy {
        let point = |(id, row)| Some((id, row, Arc::clone(self.payload(row)?)));
        let points: Vec<_> = self.living(LATEST, None).filter_map(point).collect();
        let vectors = |column: &OpenColumn| {
            points.iter().map(|(_, row, _)| column.vector(*row).map(<[f32]>::to_vec)).collect::<Vec<_>>()
        };
        let columns = self.columns.iter().map(|(name, column)| (name.clone(), vectors(column))).collect();
        LivingCopy { points, columns }
    }
}

/// Points as they were, in the order of their ids.
pub(super) struct LivingCopy {
    points: Vec<(PointId, u32, Arc<Payload>)>,
    /// By name, a vector for each of the points that has one.
    columns: BTreeMap<String, Vec<Option<Vec<f32>>>>,
}

impl LivingCopy {
    /// The rows that they were in.
    pub(super) fn rows(&self) -> impl Iterator<Item = u32> + '_ {
        self.points.iter().map(|(_, row, _)| *row)
    }

    /// The points as a segment wants them.
    pub(super) fn entries(&self, config: &CollectionConfig) -> Vec<Entry<'_>> {
        let entry = |(place, (id, _, payload)): (usize, &(PointId, u32, Arc<Payload>))| {
            let vector = |name: &String| self.columns.get(name)?.get(place)?.as_deref();
            let payload = serde_json::to_vec(&**payload).unwrap_or_default().into();
            Entry { id: *id, payload, vectors: config.vectors.keys().map(vector).collect() }
        };
        self.points.iter().enumerate().map(entry).collect()
    }
}

impl OpenColumn {
    fn new(vector: &VectorConfig) -> OpenColumn {
        let dimensions = vector.dimensions;
        OpenColumn { values: Vec::new(), coarse: index::coarse(vector), dimensions, points: Vec::new() }
    }

    fn put(&mut self, vector: &[f32], row: u32) {
        self.values.extend_from_slice(vector);
        if let Some(coarse) = &mut self.coarse {
            coarse.push(vector);
        }
        self.points.push(row);
    }

    /// The vectors in bytes, to be scanned in their place.
    pub(super) fn coarse(&self) -> Option<&Coarse> {
        self.coarse.as_ref()
    }

    pub(super) fn rows(&self) -> Rows<'_> {
        Rows::new(&self.values, self.dimensions)
    }

    /// The point that the vector in this place belongs to.
    pub(super) fn point_of(&self, slot: u32) -> u32 {
        self.points.get(slot as usize).copied().unwrap_or(u32::MAX)
    }

    /// The place of a point's vector.
    pub(super) fn slot_of(&self, row: u32) -> Option<u32> {
        self.points.binary_search(&row).ok().map(|slot| slot as u32)
    }

    /// A point's vector.
    pub(super) fn vector(&self, row: u32) -> Option<&[f32]> {
        self.slot_of(row).map(|slot| self.rows().row(slot)).filter(|vector| !vector.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_of_every_write_an_id_has_the_row_that_lived_then(writes in prop::collection::vec((0u64..4, any::<bool>()), 0..40)) {
            let open = OpenSegment::new(0, &CollectionConfig::default());
            let mut alive: Vec<BTreeMap<PointId, u32>> = vec![BTreeMap::new()];
            for (at, (id, put)) in (1..).zip(writes) {
                let id = PointId::Number(id);
                let mut now = alive.last().cloned().unwrap_or_default();
                if let Some(row) = now.remove(&id) {
                    open.bury(row, at);
                }
                if put {
                    now.insert(id, open.read().len() as u32);
                    open.put(&Point { id, vectors: BTreeMap::new(), payload: Arc::default() }, at);
                }
                alive.push(now);
            }
            let rows = open.read();
            for (at, expected) in (0..).zip(&alive) {
                let found: BTreeMap<PointId, u32> = rows.living(at, None).collect();
                prop_assert_eq!(&found, expected, "as of {}", at);
            }
        }
    }
}
