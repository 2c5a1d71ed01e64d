//! The index of one field.

use std::collections::HashMap;

use roaring::RoaringBitmap;
use serde_json::{Map, Value};

use super::{FacetValue, Selection};
use crate::condition::Scalar;
use crate::values::{micros, words};
use crate::{Condition, FieldKind, GeoPoint, JsonPath, Match, Range, Region, TextOptions};

/// The index of one field.
#[derive(Debug)]
pub(crate) struct Column {
    content: Content,
    /// Rows with something in the field.
    pub(crate) filled: RoaringBitmap,
    /// Rows with null in it.
    pub(crate) null: RoaringBitmap,
    /// Whether a row has several values.
    several: bool,
}

#[derive(Debug)]
enum Content {
    /// Texts that are the same or not.
    Texts(HashMap<Scalar, RoaringBitmap>),
    /// True or false.
    Bools(HashMap<Scalar, RoaringBitmap>),
    /// Whole numbers, and all numbers for ranges.
    Integers(HashMap<Scalar, RoaringBitmap>, Sorted<f64>),
    Numbers(Sorted<f64>),
    Times(Sorted<i64>),
    Places(Vec<(GeoPoint, u32)>),
    Words(TextOptions, HashMap<String, RoaringBitmap>),
}

impl Column {
    pub(crate) fn new(kind: &FieldKind) -> Column {
        let content = match kind {
            FieldKind::Keyword | FieldKind::Uuid => Content::Texts(HashMap::new()),
            FieldKind::Bool => Content::Bools(HashMap::new()),
            FieldKind::Integer => Content::Integers(HashMap::new(), Sorted::default()),
            FieldKind::Float => Content::Numbers(Sorted::default()),
            FieldKind::Datetime => Content::Times(Sorted::default()),
            FieldKind::Geo => Content::Places(Vec::new()),
            FieldKind::Text(options) => Content::Words(options.clone(), HashMap::new()),
        };
        Column { content, filled: RoaringBitmap::new(), null: RoaringBitmap::new(), several: false }
    }

    pub(crate) fn insert(&mut self, row: u32, path: &JsonPath, payload: &Map<String, Value>) {
        let fields = std::collections::BTreeMap::new();
        if !Condition::IsEmpty(path.clone()).holds(payload, &fields) {
            self.filled.insert(row);
        }
        if Condition::IsNull(path.clone()).holds(payload, &fields) {
            self.null.insert(row);
        }
        let values = path.values(payload);
        self.several |= values.len() > 1;
        values.into_iter().for_each(|value| self.content.insert(row, value));
    }

    pub(crate) fn matching(&self, wanted: &Match) -> Option<Selection> {
        match (wanted, &self.content) {
            (Match::Any(wanted), Content::Texts(rows) | Content::Bools(rows) | Content::Integers(rows, _)) => {
                // A value of another kind may be in the field, and is not in its index.
                wanted
                    .iter()
                    .all(|value| self.content.knows(value))
                    .then(|| Selection::exact(union(rows, wanted.iter())))
            }
            (Match::Except(_), _) => Some(Selection { rows: self.filled.clone(), exact: false }),
            (Match::Words(text), Content::Words(options, rows)) => {
                let mut all = words(text, options).map(|word| rows.get(&word).cloned().unwrap_or_default());
                let first = all.next().unwrap_or_default();
                let rows = all.fold(first, |both, rows| both & rows);
                // Of several texts each may have one of the words.
                Some(Selection { rows, exact: !self.several })
            }
            (Match::AnyWord(text), Content::Words(options, rows)) => {
                let any = words(text, options).filter_map(|word| rows.get(&word));
                Some(Selection::exact(any.fold(RoaringBitmap::new(), |any, rows| any | rows)))
            }
            (Match::Phrase(text), Content::Words(..)) => {
                let rows = self.matching(&Match::Words(text.clone()))?.rows;
                Some(Selection { rows, exact: false })
            }
            _ => None,
        }
    }

    pub(crate) fn in_range(&self, range: &Range<f64>) -> Option<RoaringBitmap> {
        match &self.content {
            Content::Integers(_, numbers) | Content::Numbers(numbers) => Some(numbers.within(range)),
            _ => None,
        }
    }

    pub(crate) fn in_time(&self, range: &Range<i64>) -> Option<RoaringBitmap> {
        match &self.content {
            Content::Times(times) => Some(times.within(range)),
            _ => None,
        }
    }

    pub(crate) fn in_region(&self, region: &Region) -> Option<RoaringBitmap> {
        match &self.content {
            Content::Places(places) => {
                Some(places.iter().filter(|(point, _)| region.holds(*point)).map(|(_, row)| *row).collect())
            }
            _ => None,
        }
    }

    pub(crate) fn facet(&self, within: &RoaringBitmap) -> Option<Vec<(FacetValue, u64)>> {
        let (Content::Texts(rows) | Content::Bools(rows) | Content::Integers(rows, _)) = &self.content else {
            return None;
        };
        let count = |(value, rows): (&Scalar, &RoaringBitmap)| {
            let count = rows.intersection_len(within);
            let value = match value {
                Scalar::Bool(value) => FacetValue::Bool(*value),
                Scalar::Integer(value) => FacetValue::Integer(*value),
                Scalar::Text(value) => FacetValue::Text(value.clone()),
            };
            (count > 0).then_some((value, count))
        };
        Some(rows.iter().filter_map(count).collect())
    }
}

fn union<'a>(rows: &HashMap<Scalar, RoaringBitmap>, values: impl Iterator<Item = &'a Scalar>) -> RoaringBitmap {
    values.filter_map(|value| rows.get(value)).fold(RoaringBitmap::new(), |any, rows| any | rows)
}

impl Content {
    /// Whether all values of this kind are in the index.
    fn knows(&self, value: &Scalar) -> bool {
        matches!(
            (self, value),
            (Content::Texts(_), Scalar::Text(_))
                | (Content::Bools(_), Scalar::Bool(_))
                | (Content::Integers(..), Scalar::Integer(_))
        )
    }

    fn insert(&mut self, row: u32, value: &Value) {
        let scalar = Scalar::of(value).filter(|scalar| self.knows(scalar));
        match self {
            Content::Integers(rows, numbers) => {
                numbers.extend(value.as_f64(), row);
                if let Some(scalar) = scalar {
                    rows.entry(scalar).or_default().insert(row);
                }
            }
            Content::Texts(rows) | Content::Bools(rows) => {
                if let Some(scalar) = scalar {
                    rows.entry(scalar).or_default().insert(row);
                }
            }
            Content::Numbers(numbers) => numbers.extend(value.as_f64(), row),
            Content::Times(times) => times.extend(value.as_str().and_then(micros), row),
            Content::Places(places) => places.extend(GeoPoint::of(value).map(|point| (point, row))),
            Content::Words(options, rows) => {
                for word in words(value.as_str().unwrap_or_default(), options) {
                    rows.entry(word).or_default().insert(row);
                }
            }
        }
    }
}

/// Values in order, with the row of each. The last ones to come wait unsorted.
#[derive(Debug)]
struct Sorted<K> {
    sorted: Vec<(K, u32)>,
    tail: Vec<(K, u32)>,
}

impl<K> Default for Sorted<K> {
    fn default() -> Sorted<K> {
        Sorted { sorted: Vec::new(), tail: Vec::new() }
    }
}

impl<K: PartialOrd + Copy> Sorted<K> {
    fn extend(&mut self, value: Option<K>, row: u32) {
        // JSON has no number that is none, so that all have an order.
        self.tail.extend(value.map(|value| (value, row)));
        // So each value is sorted again a few times only, however many come.
        if self.tail.len() > 1_024 + self.sorted.len() / 4 {
            self.sorted.append(&mut self.tail);
            self.sorted.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        }
    }

    fn within(&self, range: &Range<K>) -> RoaringBitmap {
        let below =
            |value: K| range.gt.is_some_and(|bound| value <= bound) || range.gte.is_some_and(|bound| value < bound);
        let above =
            |value: K| range.lt.is_some_and(|bound| value >= bound) || range.lte.is_some_and(|bound| value > bound);
        let start = self.sorted.partition_point(|(value, _)| below(*value));
        let rest = self.sorted.get(start..).unwrap_or_default();
        let end = rest.partition_point(|(value, _)| !above(*value));
        let mut rows: Vec<u32> = rest.get(..end).unwrap_or_default().iter().map(|(_, row)| *row).collect();
        rows.extend(self.tail.iter().filter(|(value, _)| range.holds(*value)).map(|(_, row)| *row));
        rows.sort_unstable();
        rows.dedup();
        rows.into_iter().collect()
    }
}
