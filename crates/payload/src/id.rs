//! Ids of points.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::FilterError;

/// The id of a point: numbers come before UUIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PointId {
    /// A whole number.
    Number(u64),
    /// A UUID.
    Uuid(Uuid),
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PointId::Number(number) => number.fmt(f),
            PointId::Uuid(uuid) => uuid.fmt(f),
        }
    }
}

impl FromStr for PointId {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<PointId, FilterError> {
        // What is in a path is a number or a UUID; in JSON a number is no text.
        if let Ok(number) = text.parse() {
            return Ok(PointId::Number(number));
        }
        let shown: String = text.chars().take(64).collect();
        Uuid::parse_str(text).map(PointId::Uuid).map_err(|_| FilterError::Id(format!("{shown:?}")))
    }
}

impl Serialize for PointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            PointId::Number(number) => serializer.serialize_u64(*number),
            PointId::Uuid(uuid) => serializer.collect_str(uuid),
        }
    }
}

impl<'de> Deserialize<'de> for PointId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PointId, D::Error> {
        struct Id;
        impl Visitor<'_> for Id {
            type Value = PointId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the id of a point: a whole number from 0 on, or a UUID")
            }
            fn visit_u64<E>(self, number: u64) -> Result<PointId, E> {
                Ok(PointId::Number(number))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PointId, E> {
                let shown: String = text.chars().take(64).collect();
                Uuid::parse_str(text).map(PointId::Uuid).map_err(|_| E::custom(FilterError::Id(format!("{shown:?}"))))
            }
        }
        deserializer.deserialize_any(Id)
    }
}
