//! Filters: which conditions a point has to meet.

mod read;
mod shape;
mod write;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub use write::Written;

use crate::{Condition, FieldKind, JsonPath, PointId};

/// Which conditions a point has to meet. One without any passes every point.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// All of these.
    pub must: Vec<Condition>,
    /// One of these at least, if there are any.
    pub should: Vec<Condition>,
    /// None of these.
    pub must_not: Vec<Condition>,
    /// So many of these at least.
    pub min_should: Option<(Vec<Condition>, usize)>,
}

/// A point as a filter looks at it.
pub struct Subject<'a> {
    /// Its id.
    pub id: PointId,
    /// Its payload.
    pub payload: &'a Map<String, Value>,
    /// Whether it has the vector of a name.
    pub has_vector: &'a dyn Fn(&str) -> bool,
    /// The indexed fields of its collection, which say how texts become words.
    pub fields: &'a BTreeMap<String, FieldKind>,
}

impl Filter {
    /// Passes the points of these ids.
    #[must_use]
    pub fn has_id(ids: Vec<PointId>) -> Filter {
        Filter { must: vec![Condition::HasId(ids.into_iter().collect())], ..Filter::default() }
    }

    /// Passes what `filter` does not.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "a filter is no number; `!filter` would hide what it does")]
    pub fn not(filter: Filter) -> Filter {
        Filter { must_not: vec![Condition::Filter(Box::new(filter))], ..Filter::default() }
    }

    /// Passes what all of these pass.
    #[must_use]
    pub fn all(filters: Vec<Filter>) -> Filter {
        let must = filters.into_iter().map(|filter| Condition::Filter(Box::new(filter))).collect();
        Filter { must, ..Filter::default() }
    }

    /// Whether the point passes.
    #[must_use]
    pub fn matches(&self, point: &Subject<'_>) -> bool {
        let holds = |condition: &Condition| condition.matches(point);
        self.must.iter().all(holds)
            && !self.must_not.iter().any(holds)
            && (self.should.is_empty() || self.should.iter().any(holds))
            && self.min_should.as_ref().is_none_or(|(conditions, least)| {
                conditions.iter().filter(|condition| holds(condition)).take(*least).count() >= *least
            })
    }
}

impl Condition {
    fn matches(&self, point: &Subject<'_>) -> bool {
        match self {
            Condition::HasId(ids) => ids.contains(&point.id),
            Condition::HasVector(name) => (point.has_vector)(name),
            Condition::Filter(filter) => filter.matches(point),
            Condition::Nested(path, filter) => items(path, point.payload).into_iter().any(|payload| {
                // Within an item there are no vectors, and the indexed fields are others.
                let none = |_: &str| false;
                filter.matches(&Subject { id: point.id, payload, has_vector: &none, fields: &BTreeMap::new() })
            }),
            condition => condition.holds(point.payload, point.fields),
        }
    }
}

/// The objects in the lists that a path leads to.
fn items<'a>(path: &JsonPath, payload: &'a Map<String, Value>) -> Vec<&'a Map<String, Value>> {
    let places = path.without_all().places(payload);
    places.into_iter().filter_map(Value::as_array).flatten().filter_map(Value::as_object).collect()
}
