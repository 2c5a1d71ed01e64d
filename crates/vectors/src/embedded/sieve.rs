//! A filter over the rows of one segment.

use halny_payload::{Filter, PayloadIndex, PointId, Selection, Subject};
use roaring::RoaringBitmap;

use super::open::OpenRows;
use super::segment::Segment;
use super::view::LATEST;
use crate::Payload;

/// Which rows of a segment pass a filter, as far as its indexes know, and a look at the payload where they do not.
pub(super) struct Sieve<'a> {
    filter: Option<&'a Filter>,
    selection: Option<Selection>,
    source: Source<'a>,
    fields: &'a PayloadIndex,
}

/// Where rows are looked at.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Sealed(&'a Segment),
    /// The rows as of a write.
    Open(&'a OpenRows, u64),
}

impl<'a> Sieve<'a> {
    pub(super) fn new(filter: Option<&'a Filter>, fields: &'a PayloadIndex, source: Source<'a>) -> Sieve<'a> {
        let row_of = |id: &PointId| match source {
            Source::Sealed(segment) => segment.row_of(id),
            Source::Open(rows, at) => rows.row_of(id, at.min(LATEST)),
        };
        let selection = filter.map(|filter| fields.select(filter, &row_of));
        Sieve { filter, selection, source, fields }
    }

    /// Whether a row passes.
    pub(super) fn passes(&self, row: u32) -> bool {
        let Some((filter, selection)) = self.filter.zip(self.selection.as_ref()) else { return true };
        selection.rows.contains(row) && (selection.exact || self.matches(filter, row))
    }

    fn matches(&self, filter: &Filter, row: u32) -> bool {
        let check = |id: Option<PointId>, payload: &Payload, has_vector: &dyn Fn(&str) -> bool| {
            let Some(id) = id else { return false };
            filter.matches(&Subject { id, payload, has_vector, fields: self.fields.kinds() })
        };
        match self.source {
            Source::Sealed(segment) => {
                let has_vector = |name: &str| segment.column(name).is_some_and(|column| column.slot_of(row).is_some());
                check(segment.id(row), &segment.payload(row).unwrap_or_default(), &has_vector)
            }
            Source::Open(rows, _) => {
                let has_vector = |name: &str| rows.column(name).is_some_and(|column| column.slot_of(row).is_some());
                rows.payload(row).is_some_and(|payload| check(rows.id(row), payload, &has_vector))
            }
        }
    }

    /// The rows that may pass; nothing when all may.
    pub(super) fn rows(&self) -> Option<&RoaringBitmap> {
        self.selection.as_ref().map(|selection| &selection.rows)
    }

    /// How many rows pass at most; nothing when nothing is known.
    pub(super) fn estimate(&self, rows: usize) -> Option<u64> {
        let selection = self.selection.as_ref()?;
        (selection.exact || selection.rows.len() < rows as u64).then(|| selection.rows.len())
    }
}
