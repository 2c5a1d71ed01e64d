//! Filters written as Qdrant's REST API reads them.
//!
//! What is written passes every point that [`Filter::matches`] passes, and maybe others where a condition cannot be
//! said, or its reader would take it otherwise: then it is not exact, and each point has to be asked. A condition that
//! is left out of what must not be, or of what must, lets more points pass; one of several that are enough leaves all
//! of them out.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::{Condition, Filter, GeoPoint, JsonPath, Match, Range, Region, Scalar};

/// A filter in JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// What [`Filter::read`] reads.
    pub json: Value,
    /// Whether it passes no point that the filter does not.
    pub exact: bool,
}

/// Which conditions the reader takes as they are meant.
type Knows<'a> = &'a dyn Fn(&Condition) -> bool;

impl Filter {
    /// Writes it. Conditions that `knows` says no to are left out: their reader does not have them, or means something
    /// else by them.
    #[must_use]
    pub fn write(&self, knows: Knows<'_>) -> Written {
        let mut json = Map::new();
        let must = each(&self.must, knows);
        let must_not = each(&self.must_not, knows);
        let mut exact = must.exact && must_not.exact;
        // What may not pass may pass, unless it is known.
        for (clause, conditions) in [("must", must.all), ("must_not", must_not.only_exact())] {
            if !conditions.is_empty() {
                json.insert(clause.to_owned(), conditions.into());
            }
        }
        if !self.should.is_empty() {
            let should = each(&self.should, knows);
            exact &= should.exact;
            if should.left_out == 0 {
                json.insert("should".to_owned(), should.all.into());
            }
        }
        if let Some((conditions, least)) = self.min_should.as_ref().filter(|(_, least)| *least > 0) {
            let some = each(conditions, knows);
            exact &= some.exact;
            // Those that are not said may all pass.
            let least = least.saturating_sub(some.left_out);
            if least > 0 {
                json.insert("min_should".to_owned(), json!({ "conditions": some.all, "min_count": least }));
            }
        }
        Written { json: Value::Object(json), exact }
    }
}

/// Some conditions in JSON.
struct Conditions {
    all: Vec<Value>,
    /// Which of them are exact.
    sure: Vec<bool>,
    left_out: usize,
    exact: bool,
}

impl Conditions {
    fn only_exact(&self) -> Vec<Value> {
        self.all.iter().zip(&self.sure).filter(|(_, sure)| **sure).map(|(one, _)| one.clone()).collect()
    }
}

fn each(conditions: &[Condition], knows: Knows<'_>) -> Conditions {
    let said: Vec<Written> =
        conditions.iter().filter(|one| knows(one)).filter_map(|one| condition(one, knows)).collect();
    let left_out = conditions.len() - said.len();
    let exact = left_out == 0 && said.iter().all(|one| one.exact);
    let (all, sure) = said.into_iter().map(|one| (one.json, one.exact)).unzip();
    Conditions { all, sure, left_out, exact }
}

/// A condition, if it can be said.
fn condition(condition: &Condition, knows: Knows<'_>) -> Option<Written> {
    let of = |path: &JsonPath, name: &str, value: Value| {
        Some(json!({ "key": path.quoted(), name: value })).map(|json| Written { json, exact: true })
    };
    let exact = |json: Value| Some(Written { json, exact: true });
    match condition {
        Condition::Match(path, wanted) => matcher(path, wanted).and_then(exact),
        Condition::Range(path, range) => {
            let number = |bound: f64| bound.is_finite().then(|| json!(bound));
            of(path, "range", bounds(range, number)?)
        }
        Condition::Datetime(path, range) => {
            let bounds = bounds(range, time)?;
            // Without a bound it is one for numbers.
            if bounds.as_object().is_some_and(Map::is_empty) {
                return None;
            }
            of(path, "range", bounds)
        }
        Condition::Geo(path, region) => {
            let (name, value) = written_region(region);
            of(path, name, value)
        }
        Condition::Count(path, range) => of(path, "values_count", bounds(range, |bound: u64| Some(json!(bound)))?),
        Condition::IsEmpty(path) => exact(json!({ "is_empty": { "key": path.quoted() } })),
        Condition::IsNull(path) => exact(json!({ "is_null": { "key": path.quoted() } })),
        Condition::HasId(ids) => {
            let mut ids: Vec<_> = ids.iter().collect();
            ids.sort_unstable();
            exact(json!({ "has_id": ids }))
        }
        Condition::HasVector(name) => exact(json!({ "has_vector": name })),
        Condition::Nested(path, filter) => {
            let inner = filter.write(knows);
            let json = json!({ "nested": { "key": path.quoted(), "filter": inner.json } });
            Some(Written { json, exact: inner.exact })
        }
        Condition::Filter(filter) => Some(filter.write(knows)),
    }
}

/// A range of which every bound can be said.
fn bounds<T: Copy>(range: &Range<T>, write: impl Fn(T) -> Option<Value>) -> Option<Value> {
    let mut json = Map::new();
    for (name, bound) in [("gt", range.gt), ("gte", range.gte), ("lt", range.lt), ("lte", range.lte)] {
        if let Some(bound) = bound {
            json.insert(name.to_owned(), write(bound)?);
        }
    }
    Some(Value::Object(json))
}

/// Microseconds since 1970 as RFC 3339 writes them, where that has four digits for the year.
fn time(micros: i64) -> Option<Value> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?;
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    (0..=9_999).contains(&at.year()).then(|| at.format(form).ok().map(Value::from))?
}

fn written_region(region: &Region) -> (&'static str, Value) {
    let point = |point: &GeoPoint| json!({ "lon": point.lon, "lat": point.lat });
    let ring = |ring: &Vec<GeoPoint>| json!({ "points": ring.iter().map(point).collect::<Vec<_>>() });
    match region {
        Region::Circle { center, radius } => ("geo_radius", json!({ "center": point(center), "radius": radius })),
        Region::Box { top_left, bottom_right } => {
            ("geo_bounding_box", json!({ "top_left": point(top_left), "bottom_right": point(bottom_right) }))
        }
        Region::Polygon { exterior, interiors } => {
            let holes: Vec<Value> = interiors.iter().map(ring).collect();
            ("geo_polygon", json!({ "exterior": ring(exterior), "interiors": holes }))
        }
    }
}

fn matcher(path: &JsonPath, wanted: &Match) -> Option<Value> {
    let of = |name: &str, value: Value| json!({ "key": path.quoted(), "match": { name: value } });
    let text = |name: &str, text: &String| Some(of(name, json!(text)));
    match wanted {
        Match::Any(scalars) => {
            let kinds = Kinds::of(scalars);
            let mut any: Vec<Value> = Vec::new();
            for values in [kinds.integers, kinds.texts] {
                match &values[..] {
                    [] => {}
                    [one] => any.push(of("value", one.clone())),
                    _ => any.push(of("any", values.into())),
                }
            }
            any.extend(kinds.bools.into_iter().map(|value| of("value", value)));
            match (any.pop(), any.is_empty()) {
                (None, _) => Some(of("any", json!([]))),
                (Some(one), true) => Some(one),
                (Some(last), false) => {
                    any.push(last);
                    Some(json!({ "should": any }))
                }
            }
        }
        // A value that is none of these and none of those is not said by two conditions: each may mean another value.
        Match::Except(scalars) => Kinds::of(scalars).only().map(|values| of("except", values.into())),
        Match::Words(words) => text("text", words),
        Match::AnyWord(words) => text("text_any", words),
        Match::Phrase(words) => text("phrase", words),
        Match::Prefix(start) => text("prefix", start),
        Match::Substring(part) => text("substring", part),
    }
}

/// Values by kind, in order: a list holds those of one kind alone.
struct Kinds {
    integers: Vec<Value>,
    texts: Vec<Value>,
    bools: Vec<Value>,
}

impl Kinds {
    fn of(scalars: &HashSet<Scalar>) -> Kinds {
        let mut sorted: Vec<&Scalar> = scalars.iter().collect();
        sorted.sort_unstable();
        let mut kinds = Kinds { integers: Vec::new(), texts: Vec::new(), bools: Vec::new() };
        for scalar in sorted {
            match scalar {
                Scalar::Bool(value) => kinds.bools.push(json!(value)),
                Scalar::Integer(value) => kinds.integers.push(json!(value)),
                Scalar::Text(value) => kinds.texts.push(json!(value)),
            }
        }
        kinds
    }

    /// All values, if they are of one kind.
    fn only(self) -> Option<Vec<Value>> {
        let mut given = [self.integers, self.texts, self.bools].into_iter().filter(|values| !values.is_empty());
        match (given.next(), given.next()) {
            (_, Some(_)) => None,
            (values, None) => Some(values.unwrap_or_default()),
        }
    }
}
