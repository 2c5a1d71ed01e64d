//! Indexes of payload fields: which rows of a segment a filter passes, without looking at each.
//!
//! A [`Selection`] holds every row that passes, and maybe others: then it is not exact, and each row
//! has to be asked with [`Filter::matches`]. What is not known of a condition is never taken for a no.

mod column;

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Condition, FieldKind, Filter, JsonPath, PointId};
use column::Column;

/// The indexes of a segment's fields. Rows are numbered from 0 in the order in which they come.
#[derive(Debug, Default)]
pub struct PayloadIndex {
    kinds: BTreeMap<String, FieldKind>,
    columns: BTreeMap<String, (JsonPath, Column)>,
    rows: u32,
}

/// Rows that may pass a filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Every row that passes is in it.
    pub rows: RoaringBitmap,
    /// Whether no other is.
    pub exact: bool,
}

/// A value and how many points have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum FacetValue {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
}

impl PayloadIndex {
    /// Empty indexes of these fields, which are paths.
    #[must_use]
    pub fn new(kinds: BTreeMap<String, FieldKind>) -> PayloadIndex {
        let column = |(name, kind): (&String, &FieldKind)| {
            let path: JsonPath = name.parse().ok()?;
            Some((name.clone(), (path, Column::new(kind))))
        };
        let columns = kinds.iter().filter_map(column).collect();
        PayloadIndex { kinds, columns, rows: 0 }
    }

    /// The fields and what they hold.
    #[must_use]
    pub fn kinds(&self) -> &BTreeMap<String, FieldKind> {
        &self.kinds
    }

    /// Counts rows that have nothing in the fields.
    pub fn grow_to(&mut self, rows: u32) {
        self.rows = self.rows.max(rows);
    }

    /// Takes the next row in.
    pub fn insert(&mut self, row: u32, payload: &Map<String, Value>) {
        self.rows = self.rows.max(row.saturating_add(1));
        for (path, column) in self.columns.values_mut() {
            column.insert(row, path, payload);
        }
    }

    /// The rows that may pass. `row_of` tells the row of a point that is there.
    #[must_use]
    pub fn select(&self, filter: &Filter, row_of: &dyn Fn(&PointId) -> Option<u32>) -> Selection {
        let mut selected = Selection { rows: self.all(), exact: true };
        for condition in &filter.must {
            selected.and(self.condition(condition, row_of));
        }
        for condition in &filter.must_not {
            match self.condition(condition, row_of) {
                Selection { rows, exact: true } => selected.rows -= rows,
                Selection { exact: false, .. } => selected.exact = false,
            }
        }
        if !filter.should.is_empty() {
            selected.and(self.any(&filter.should, row_of));
        }
        // None at least is no condition.
        if let Some((conditions, least)) = filter.min_should.as_ref().filter(|(_, least)| *least > 0) {
            let mut any = self.any(conditions, row_of);
            any.exact &= *least == 1;
            if *least > conditions.len() {
                any = Selection { rows: RoaringBitmap::new(), exact: true };
            }
            selected.and(any);
        }
        selected
    }

    fn any(&self, conditions: &[Condition], row_of: &dyn Fn(&PointId) -> Option<u32>) -> Selection {
        let mut union = Selection { rows: RoaringBitmap::new(), exact: true };
        for condition in conditions {
            let selection = self.condition(condition, row_of);
            union.rows |= selection.rows;
            union.exact &= selection.exact;
        }
        union
    }

    fn condition(&self, condition: &Condition, row_of: &dyn Fn(&PointId) -> Option<u32>) -> Selection {
        let unknown = || Selection { rows: self.all(), exact: false };
        let indexed = |path: &JsonPath| self.columns.get(&path.to_string()).map(|(_, column)| column);
        match condition {
            Condition::Filter(filter) => self.select(filter, row_of),
            Condition::HasId(ids) => {
                Selection { rows: ids.iter().filter_map(row_of).filter(|row| *row < self.rows).collect(), exact: true }
            }
            Condition::Match(path, wanted) => {
                indexed(path).and_then(|column| column.matching(wanted)).unwrap_or_else(unknown)
            }
            Condition::Range(path, range) => {
                indexed(path).and_then(|column| column.in_range(range)).map_or_else(unknown, Selection::exact)
            }
            Condition::Datetime(path, range) => {
                indexed(path).and_then(|column| column.in_time(range)).map_or_else(unknown, Selection::exact)
            }
            Condition::Geo(path, region) => {
                indexed(path).and_then(|column| column.in_region(region)).map_or_else(unknown, Selection::exact)
            }
            Condition::IsEmpty(path) => {
                indexed(path).map_or_else(unknown, |column| Selection::exact(self.all() - &column.filled))
            }
            Condition::IsNull(path) => {
                indexed(path).map_or_else(unknown, |column| Selection::exact(column.null.clone()))
            }
            Condition::Count(..) | Condition::HasVector(_) | Condition::Nested(..) => unknown(),
        }
    }

    fn all(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        all.insert_range(0..self.rows);
        all
    }

    /// The values of a field and how many of the rows `within` have each; nothing when the field has
    /// no index that knows its values.
    #[must_use]
    pub fn facet(&self, field: &str, within: &RoaringBitmap) -> Option<Vec<(FacetValue, u64)>> {
        let (_, column) = self.columns.get(field)?;
        column.facet(within)
    }

    /// How many rows have a value in the field.
    #[must_use]
    pub fn points_with(&self, field: &str) -> u64 {
        self.columns.get(field).map_or(0, |(_, column)| column.filled.len())
    }
}

impl Selection {
    pub(crate) fn exact(rows: RoaringBitmap) -> Selection {
        Selection { rows, exact: true }
    }

    fn and(&mut self, other: Selection) {
        self.rows &= other.rows;
        self.exact &= other.exact;
    }
}
