//! The open segment: the points written last, in memory, searched by looking at all of them. The log has them too.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use halny_ann::Rows;
use halny_payload::{PayloadIndex, PointId};
use parking_lot::{RwLock, RwLockReadGuard};

use super::segment::{Entry, NEVER};
use crate::{CollectionConfig, Payload, Point};

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
    columns: BTreeMap<String, OpenColumn>,
    pub(super) fields: PayloadIndex,
}

/// The vectors of one name.
pub(crate) struct OpenColumn {
    values: Vec<f32>,
    dimensions: usize,
    /// The point of each vector, in order.
    points: Vec<u32>,
}

impl OpenSegment {
    pub(super) fn new(serial: u64, config: &CollectionConfig) -> OpenSegment {
        let column = |dimensions| OpenColumn { values: Vec::new(), dimensions, points: Vec::new() };
        let rows = OpenRows {
            ids: Vec::new(),
            payloads: Vec::new(),
            lives: Vec::new(),
            latest: BTreeMap::new(),
            columns: config.vectors.iter().map(|(name, vector)| (name.clone(), column(vector.dimensions))).collect(),
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
        self.latest.insert(point.id, row);
        for (name, vector) in &point.vectors {
            if let Some(column) = self.columns.get_mut(name) {
                column.values.extend_from_slice(vector);
                column.points.push(row);
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
        let latest = *self.latest.get(id)?;
        if self.lives(latest, at) {
            return Some(latest);
        }
        // Written again since, or gone: an older row of the same id may have lived then.
        let written_later = self.lives.get(latest as usize).is_some_and(|(from, _)| *from > at);
        let older = || (0..latest).rev().find(|row| self.id(*row) == Some(*id) && self.lives(*row, at));
        if written_later { older() } else { None }
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

    /// These points, of [`OpenRows::living`], as a segment wants them.
    pub(super) fn entries(&self, living: &[(PointId, u32)], config: &CollectionConfig) -> Vec<Entry<'_>> {
        let entry = |(id, row): &(PointId, u32)| {
            let payload = self.payload(*row).map(|payload| serde_json::to_vec(&**payload).unwrap_or_default());
            let vector = |name| self.columns.get(name).and_then(|column| column.vector(*row));
            let vectors = config.vectors.keys().map(vector).collect();
            Entry { id: *id, payload: payload.unwrap_or_default().into(), vectors }
        };
        living.iter().map(entry).collect()
    }
}

impl OpenColumn {
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
