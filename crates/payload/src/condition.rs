//! Conditions on one field, and whether a payload meets them.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use crate::values::{micros, words};
use crate::{FieldKind, Filter, JsonPath, PointId, TextOptions};

/// A condition on a point.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// A value at the path matches.
    Match(JsonPath, Match),
    /// A number at the path is within the range.
    Range(JsonPath, Range<f64>),
    /// A time at the path, in microseconds since 1970, is within the range.
    Datetime(JsonPath, Range<i64>),
    /// A point of the globe at the path is within the region.
    Geo(JsonPath, Region),
    /// A value at the path has so many items; one that is no list has one.
    Count(JsonPath, Range<u64>),
    /// There is nothing at the path, or null, or an empty list.
    IsEmpty(JsonPath),
    /// There is null at the path.
    IsNull(JsonPath),
    /// The point has one of these ids.
    HasId(HashSet<PointId>),
    /// The point has a vector of that name.
    HasVector(String),
    /// An object in the list at the path passes.
    Nested(JsonPath, Box<Filter>),
    /// The point passes.
    Filter(Box<Filter>),
}

/// What a value may be compared with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scalar {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
}

/// How a value matches.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// It is one of these.
    Any(HashSet<Scalar>),
    /// It is none of these, and not null.
    Except(HashSet<Scalar>),
    /// It is a text with all words of this one.
    Words(String),
    /// It is a text with a word of this one.
    AnyWord(String),
    /// It is a text with the words of this one, in this order.
    Phrase(String),
    /// It is a text that begins so.
    Prefix(String),
    /// It is a text that has this in it.
    Substring(String),
}

/// Bounds, each of which may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Range<T> {
    /// More than this.
    pub gt: Option<T>,
    /// This or more.
    pub gte: Option<T>,
    /// Less than this.
    pub lt: Option<T>,
    /// This or less.
    pub lte: Option<T>,
}

impl<T: PartialOrd + Copy> Range<T> {
    /// Whether the value is within.
    pub fn holds(&self, value: T) -> bool {
        self.gt.is_none_or(|bound| value > bound)
            && self.gte.is_none_or(|bound| value >= bound)
            && self.lt.is_none_or(|bound| value < bound)
            && self.lte.is_none_or(|bound| value <= bound)
    }
}

/// A point on the globe, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeoPoint {
    /// East of Greenwich.
    pub lon: f64,
    /// North of the equator.
    pub lat: f64,
}

/// A part of the globe.
#[derive(Clone, Debug, PartialEq)]
pub enum Region {
    /// Nearer to the centre than so many metres.
    Circle {
        /// The centre.
        center: GeoPoint,
        /// Metres.
        radius: f64,
    },
    /// Between two corners; over the date line where the left one is east of the right one.
    Box {
        /// Its north-western corner.
        top_left: GeoPoint,
        /// Its south-eastern corner.
        bottom_right: GeoPoint,
    },
    /// Within a ring and not within any of the holes.
    Polygon {
        /// The ring.
        exterior: Vec<GeoPoint>,
        /// The holes.
        interiors: Vec<Vec<GeoPoint>>,
    },
}

/// The mean radius of the Earth, in metres (IUGG).
const EARTH_RADIUS_M: f64 = 6_371_008.8;

impl GeoPoint {
    /// The point that a value of a payload is.
    #[must_use]
    pub fn of(value: &Value) -> Option<GeoPoint> {
        let object = value.as_object()?;
        let (lon, lat) = (object.get("lon")?.as_f64()?, object.get("lat")?.as_f64()?);
        Some(GeoPoint { lon, lat })
    }

    /// Metres to another point on a sphere, by the haversine formula.
    fn metres_to(self, other: GeoPoint) -> f64 {
        let (here, there) = (self.lat.to_radians(), other.lat.to_radians());
        let (lat, lon) = ((there - here) / 2.0, (other.lon - self.lon).to_radians() / 2.0);
        let a = lat.sin().powi(2) + here.cos() * there.cos() * lon.sin().powi(2);
        2.0 * EARTH_RADIUS_M * a.clamp(0.0, 1.0).sqrt().asin()
    }
}

impl Region {
    /// Whether the point is within.
    #[must_use]
    pub fn holds(&self, point: GeoPoint) -> bool {
        match self {
            Region::Circle { center, radius } => point.metres_to(*center) < *radius,
            Region::Box { top_left, bottom_right } => {
                let (west, east) = (top_left.lon, bottom_right.lon);
                let between = if west > east {
                    point.lon > west || point.lon < east
                } else {
                    point.lon > west && point.lon < east
                };
                between && point.lat < top_left.lat && point.lat > bottom_right.lat
            }
            Region::Polygon { exterior, interiors } => {
                within(exterior, point) && !interiors.iter().any(|hole| within(hole, point))
            }
        }
    }
}

/// Whether a ray from the point to the east crosses the ring an odd number of times.
fn within(ring: &[GeoPoint], point: GeoPoint) -> bool {
    let edges = ring.iter().zip(ring.iter().cycle().skip(1));
    let crosses = |(a, b): (&GeoPoint, &GeoPoint)| {
        (a.lat > point.lat) != (b.lat > point.lat)
            && point.lon < (b.lon - a.lon) * (point.lat - a.lat) / (b.lat - a.lat) + a.lon
    };
    edges.filter(|edge| crosses(*edge)).count() % 2 == 1
}

impl Scalar {
    /// What a value of a payload is compared as, if it can be.
    #[must_use]
    pub fn of(value: &Value) -> Option<Scalar> {
        match value {
            Value::Bool(value) => Some(Scalar::Bool(*value)),
            Value::Number(number) => number.as_i64().map(Scalar::Integer),
            Value::String(text) => Some(Scalar::Text(text.clone())),
            _ => None,
        }
    }
}

impl Match {
    fn holds(&self, value: &Value, options: &TextOptions) -> bool {
        let text = value.as_str();
        match self {
            Match::Any(wanted) => Scalar::of(value).is_some_and(|value| wanted.contains(&value)),
            Match::Except(unwanted) => {
                !value.is_null() && Scalar::of(value).is_none_or(|value| !unwanted.contains(&value))
            }
            Match::Words(wanted) => text.is_some_and(|text| {
                let present: HashSet<String> = words(text, options).collect();
                let mut wanted = words(wanted, options).peekable();
                wanted.peek().is_some() && wanted.all(|word| present.contains(&word))
            }),
            Match::AnyWord(wanted) => text.is_some_and(|text| {
                let present: HashSet<String> = words(text, options).collect();
                words(wanted, options).any(|word| present.contains(&word))
            }),
            Match::Phrase(wanted) => text.is_some_and(|text| {
                let (present, wanted): (Vec<_>, Vec<_>) =
                    (words(text, options).collect(), words(wanted, options).collect());
                !wanted.is_empty() && present.windows(wanted.len()).any(|window| window == wanted)
            }),
            Match::Prefix(wanted) => text.is_some_and(|text| text.starts_with(wanted)),
            Match::Substring(wanted) => text.is_some_and(|text| text.contains(wanted)),
        }
    }
}

/// How the words of the texts at a path are told apart.
pub(crate) fn text_options<'a>(path: &JsonPath, fields: &'a BTreeMap<String, FieldKind>) -> Option<&'a TextOptions> {
    match fields.get(&path.to_string()) {
        Some(FieldKind::Text(options)) => Some(options),
        _ => None,
    }
}

impl Condition {
    /// Whether a payload meets it. Conditions that look at more than a field of a payload are not met.
    pub(crate) fn holds(&self, payload: &Map<String, Value>, fields: &BTreeMap<String, FieldKind>) -> bool {
        match self {
            Condition::Match(path, wanted) => {
                let plain = TextOptions::default();
                let options = text_options(path, fields).unwrap_or(&plain);
                path.values(payload).into_iter().any(|value| wanted.holds(value, options))
            }
            Condition::Range(path, range) => {
                let within = |value: &Value| value.as_f64().is_some_and(|value| range.holds(value));
                path.values(payload).into_iter().any(within)
            }
            Condition::Datetime(path, range) => {
                let within = |value: &Value| value.as_str().and_then(micros).is_some_and(|at| range.holds(at));
                path.values(payload).into_iter().any(within)
            }
            Condition::Geo(path, region) => {
                let within = |value: &Value| GeoPoint::of(value).is_some_and(|point| region.holds(point));
                path.values(payload).into_iter().any(within)
            }
            Condition::Count(path, range) => {
                let places = path.places(payload);
                let count = |value: &Value| match value {
                    Value::Null => 0,
                    Value::Array(items) => items.len() as u64,
                    _ => 1,
                };
                (places.is_empty() && range.holds(0)) || places.into_iter().any(|value| range.holds(count(value)))
            }
            Condition::IsEmpty(path) => {
                let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
                path.places(payload).into_iter().all(empty)
            }
            Condition::IsNull(path) => {
                let null = |value: &Value| {
                    value.is_null() || value.as_array().is_some_and(|items| items.iter().any(Value::is_null))
                };
                path.places(payload).into_iter().any(null)
            }
            _ => false,
        }
    }
}
