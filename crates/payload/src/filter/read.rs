//! Filters as Qdrant's REST API writes them.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::condition::Scalar;
use crate::values::micros;
use crate::{Condition, Filter, FilterError, GeoPoint, JsonPath, Match, PointId, Range, Region};

/// How deep filters may be in each other.
const DEPTH_MAX: usize = 32;
/// The most conditions of a filter, all levels together.
const CONDITIONS_MAX: usize = 2_000;
/// The most values that a condition compares with.
const VALUES_MAX: usize = 100_000;
/// The most corners of a polygon.
const CORNERS_MAX: usize = 10_000;

type Read<T> = Result<T, FilterError>;

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// Where it is not what it should be, and what is expected there.
    pub fn read(value: &Value) -> Read<Filter> {
        Reader { conditions: 0 }.filter(value, "filter", 0)
    }
}

struct Reader {
    conditions: usize,
}

fn object<'a>(value: &'a Value, place: &str, expected: &str) -> Read<&'a Map<String, Value>> {
    value.as_object().ok_or_else(|| FilterError::invalid(place, expected))
}

/// The fields that are given: null is as good as nothing.
fn given(object: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    object.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), value))
}

impl Reader {
    fn filter(&mut self, value: &Value, place: &str, depth: usize) -> Read<Filter> {
        if depth > DEPTH_MAX {
            return Err(FilterError::invalid("filter", format!("filters may be {DEPTH_MAX} deep in each other")));
        }
        let object = object(value, place, "a filter is an object with `must`, `should`, `must_not` or `min_should`")?;
        let mut filter = Filter::default();
        for (name, value) in given(object) {
            let place = format!("{place}.{name}");
            match name {
                "must" => filter.must = self.conditions(value, &place, depth)?,
                "should" => filter.should = self.conditions(value, &place, depth)?,
                "must_not" => filter.must_not = self.conditions(value, &place, depth)?,
                "min_should" => filter.min_should = Some(self.min_should(value, &place, depth)?),
                _ => return Err(FilterError::invalid(&place, "a filter has no such field")),
            }
        }
        Ok(filter)
    }

    fn min_should(&mut self, value: &Value, place: &str, depth: usize) -> Read<(Vec<Condition>, usize)> {
        let expected = "an object with `conditions`, and `min_count` from 1 on";
        let object = object(value, place, expected)?;
        let refused = || FilterError::invalid(place, expected);
        let conditions = object.get("conditions").ok_or_else(refused)?;
        let least = object.get("min_count").and_then(Value::as_u64).filter(|least| *least >= 1).ok_or_else(refused)?;
        Ok((self.conditions(conditions, place, depth)?, usize::try_from(least).unwrap_or(usize::MAX)))
    }

    fn conditions(&mut self, value: &Value, place: &str, depth: usize) -> Read<Vec<Condition>> {
        match value {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| self.condition(item, &format!("{place}[{index}]"), depth))
                .collect(),
            one => Ok(vec![self.condition(one, place, depth)?]),
        }
    }

    fn condition(&mut self, value: &Value, place: &str, depth: usize) -> Read<Condition> {
        self.conditions += 1;
        if self.conditions > CONDITIONS_MAX {
            let text = format!("a filter has at most {CONDITIONS_MAX} conditions; compare with many values by `any`");
            return Err(FilterError::invalid("filter", text));
        }
        let expected = "a condition is an object with `key`, `has_id`, `is_empty`, `is_null`, `has_vector`, `nested`, \
                        or a filter";
        let object = object(value, place, expected)?;
        if object.contains_key("key") {
            return field(object, place);
        }
        let mut fields = given(object);
        let Some((name, value)) = fields.next() else {
            // A filter without conditions, which passes everything.
            return Ok(Condition::Filter(Box::default()));
        };
        if ["must", "should", "must_not", "min_should"].contains(&name) {
            return Ok(Condition::Filter(Box::new(self.filter(&Value::Object(object.clone()), place, depth + 1)?)));
        }
        if fields.next().is_some() {
            return Err(FilterError::invalid(place, expected));
        }
        let at = format!("{place}.{name}");
        match name {
            "has_id" => ids(value, &at),
            "has_vector" => match value.as_str() {
                Some(name) => Ok(Condition::HasVector(name.to_owned())),
                None => Err(FilterError::invalid(&at, "the name of a vector")),
            },
            "is_empty" => Ok(Condition::IsEmpty(key(value, &at)?)),
            "is_null" => Ok(Condition::IsNull(key(value, &at)?)),
            "nested" => {
                let filter = value.get("filter").ok_or_else(|| FilterError::invalid(&at, "`key` and `filter`"))?;
                let filter = self.filter(filter, &format!("{at}.filter"), depth + 1)?;
                Ok(Condition::Nested(key(value, &at)?, Box::new(filter)))
            }
            "slice" => Err(FilterError::Unsupported { place: place.to_owned(), field: name.to_owned() }),
            _ => Err(FilterError::invalid(&at, expected)),
        }
    }
}

fn key(value: &Value, place: &str) -> Read<JsonPath> {
    match value.get("key").and_then(Value::as_str) {
        Some(key) => key.parse(),
        None => Err(FilterError::invalid(place, "an object with `key`, the path of a field")),
    }
}

fn ids(value: &Value, place: &str) -> Read<Condition> {
    let items = list(value, place)?;
    let id = |item: &Value| {
        serde_json::from_value::<PointId>(item.clone())
            .map_err(|_| FilterError::Id(item.to_string().chars().take(64).collect()))
    };
    Ok(Condition::HasId(items.iter().map(id).collect::<Read<_>>()?))
}

fn list<'a>(value: &'a Value, place: &str) -> Read<&'a [Value]> {
    match value {
        Value::Array(items) if items.len() <= VALUES_MAX => Ok(items),
        _ => Err(FilterError::invalid(place, format!("a list of at most {VALUES_MAX} values"))),
    }
}

/// A condition on the field at `key`.
fn field(object: &Map<String, Value>, place: &str) -> Read<Condition> {
    let key = match object.get("key") {
        Some(Value::String(key)) => key.parse::<JsonPath>()?,
        _ => return Err(FilterError::invalid(&format!("{place}.key"), "the path of a field")),
    };
    let mut conditions = given(object).filter(|(name, _)| *name != "key");
    let expected = "one of `match`, `range`, `geo_radius`, `geo_bounding_box`, `geo_polygon`, `values_count`, \
                    `is_empty`, `is_null` goes with `key`";
    let Some((name, value)) = conditions.next() else { return Err(FilterError::invalid(place, expected)) };
    if conditions.next().is_some() {
        return Err(FilterError::invalid(place, format!("{expected}, one only")));
    }
    let at = format!("{place}.{name}");
    let negated = |condition, wanted: &Value| match wanted {
        Value::Bool(true) => Ok(condition),
        Value::Bool(false) => {
            let filter = Filter { must_not: vec![condition], ..Filter::default() };
            Ok(Condition::Filter(Box::new(filter)))
        }
        _ => Err(FilterError::invalid(&at, "true or false")),
    };
    match name {
        "match" => Ok(Condition::Match(key, matcher(value, &at)?)),
        "range" => range(key, value, &at),
        "values_count" => {
            let count = |value: &Value| value.as_u64();
            Ok(Condition::Count(key, bounds(value, &at, "a whole number from 0 on", count)?))
        }
        "geo_radius" | "geo_bounding_box" | "geo_polygon" => Ok(Condition::Geo(key, region(name, value, &at)?)),
        "is_empty" => negated(Condition::IsEmpty(key), value),
        "is_null" => negated(Condition::IsNull(key), value),
        _ => Err(FilterError::invalid(&at, expected)),
    }
}

fn matcher(value: &Value, place: &str) -> Read<Match> {
    let expected =
        "an object with one of `value`, `any`, `except`, `text`, `text_any`, `phrase`, `prefix`, `substring`";
    let object = object(value, place, expected)?;
    let mut fields = given(object);
    let (Some((name, value)), None) = (fields.next(), fields.next()) else {
        return Err(FilterError::invalid(place, expected));
    };
    let at = format!("{place}.{name}");
    let scalar = |value: &Value| {
        Scalar::of(value).ok_or_else(|| FilterError::invalid(&at, "a text, a whole number, true or false"))
    };
    let text = || match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(FilterError::invalid(&at, "a text")),
    };
    let scalars = || {
        let scalars = list(value, &at)?.iter().map(scalar).collect::<Read<HashSet<Scalar>>>()?;
        let kinds: HashSet<_> = scalars.iter().map(std::mem::discriminant).collect();
        if kinds.len() > 1 {
            return Err(FilterError::invalid(&at, "values of one kind: all texts or all whole numbers"));
        }
        Ok(scalars)
    };
    match name {
        "value" => Ok(Match::Any([scalar(value)?].into())),
        "any" => Ok(Match::Any(scalars()?)),
        "except" => Ok(Match::Except(scalars()?)),
        "text" => Ok(Match::Words(text()?)),
        "text_any" => Ok(Match::AnyWord(text()?)),
        "phrase" => Ok(Match::Phrase(text()?)),
        "prefix" => Ok(Match::Prefix(text()?)),
        "substring" => Ok(Match::Substring(text()?)),
        _ => Err(FilterError::invalid(&at, expected)),
    }
}

fn range(key: JsonPath, value: &Value, place: &str) -> Read<Condition> {
    if value.as_object().is_some_and(|object| object.values().any(Value::is_string)) {
        let time = |value: &Value| value.as_str().and_then(micros);
        let expected = "a date and time as RFC 3339 writes it";
        return Ok(Condition::Datetime(key, bounds(value, place, expected, time)?));
    }
    Ok(Condition::Range(key, bounds(value, place, "a number", Value::as_f64)?))
}

fn bounds<T>(value: &Value, place: &str, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Read<Range<T>> {
    let object = object(value, place, "an object with `gt`, `gte`, `lt`, `lte`")?;
    let mut range = Range { gt: None, gte: None, lt: None, lte: None };
    for (name, value) in given(object) {
        let at = format!("{place}.{name}");
        let bound = Some(read(value).ok_or_else(|| FilterError::invalid(&at, kind))?);
        match name {
            "gt" => range.gt = bound,
            "gte" => range.gte = bound,
            "lt" => range.lt = bound,
            "lte" => range.lte = bound,
            _ => return Err(FilterError::invalid(&at, "a range has `gt`, `gte`, `lt`, `lte`")),
        }
    }
    Ok(range)
}

fn region(kind: &str, value: &Value, place: &str) -> Read<Region> {
    let point = |name: &str| corner(value.get(name), &format!("{place}.{name}"));
    match kind {
        "geo_radius" => {
            let radius = value.get("radius").and_then(Value::as_f64).filter(|radius| *radius >= 0.0);
            let radius = radius.ok_or_else(|| FilterError::invalid(&format!("{place}.radius"), "metres, from 0 on"))?;
            Ok(Region::Circle { center: point("center")?, radius })
        }
        "geo_bounding_box" => Ok(Region::Box { top_left: point("top_left")?, bottom_right: point("bottom_right")? }),
        _ => {
            let holes = match value.get("interiors") {
                None | Some(Value::Null) => &[],
                Some(holes) => list(holes, &format!("{place}.interiors"))?,
            };
            let interiors =
                holes.iter().map(|hole| ring(Some(hole), &format!("{place}.interiors"))).collect::<Read<_>>()?;
            Ok(Region::Polygon { exterior: ring(value.get("exterior"), &format!("{place}.exterior"))?, interiors })
        }
    }
}

fn corner(value: Option<&Value>, place: &str) -> Read<GeoPoint> {
    let on_globe = |point: &GeoPoint| point.lon.abs() <= 180.0 && point.lat.abs() <= 90.0;
    value
        .and_then(GeoPoint::of)
        .filter(on_globe)
        .ok_or_else(|| FilterError::invalid(place, "an object with `lon`, -180 to 180, and `lat`, -90 to 90"))
}

fn ring(value: Option<&Value>, place: &str) -> Read<Vec<GeoPoint>> {
    let points = value.and_then(|value| value.get("points")?.as_array());
    match points {
        Some(points) if (4..=CORNERS_MAX).contains(&points.len()) => {
            points.iter().map(|point| corner(Some(point), place)).collect()
        }
        _ => Err(FilterError::invalid(place, format!("`points`: 4 to {CORNERS_MAX}, the last the same as the first"))),
    }
}
