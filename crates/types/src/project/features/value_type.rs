//! The types of features, as the project file writes them.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The type of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scalar {
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// IEEE 754 single.
    Float32,
    /// IEEE 754 double.
    Float64,
    /// True or false.
    Bool,
    /// Text in UTF-8.
    String,
    /// Bytes.
    Bytes,
    /// A moment: microseconds since 1970, in UTC.
    UnixTimestamp,
}

impl Scalar {
    /// Every type, in the order in which they are listed.
    pub const ALL: [Scalar; 8] = [
        Scalar::Int32,
        Scalar::Int64,
        Scalar::Float32,
        Scalar::Float64,
        Scalar::Bool,
        Scalar::String,
        Scalar::Bytes,
        Scalar::UnixTimestamp,
    ];

    /// The type as the project file writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Float32 => "float32",
            Scalar::Float64 => "float64",
            Scalar::Bool => "bool",
            Scalar::String => "string",
            Scalar::Bytes => "bytes",
            Scalar::UnixTimestamp => "unix_timestamp",
        }
    }

    /// Whether a key may be of this type: two that are equal are the same key, which floats cannot promise.
    #[must_use]
    pub const fn is_key(self) -> bool {
        matches!(self, Scalar::Int32 | Scalar::Int64 | Scalar::String | Scalar::Bytes)
    }
}

/// The type of a feature: one value, or a list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeatureType {
    /// The type of the value, or of each value of the list.
    pub of: Scalar,
    /// Whether it is a list. Lists hold no nulls.
    pub list: bool,
}

impl FeatureType {
    /// One value.
    #[must_use]
    pub const fn one(of: Scalar) -> FeatureType {
        FeatureType { of, list: false }
    }

    /// A list of values.
    #[must_use]
    pub const fn list(of: Scalar) -> FeatureType {
        FeatureType { of, list: true }
    }

    /// Every type that there is.
    pub fn all() -> impl Iterator<Item = FeatureType> {
        let lists = Scalar::ALL.into_iter().map(FeatureType::list);
        Scalar::ALL.into_iter().map(FeatureType::one).chain(lists)
    }
}

impl fmt::Display for FeatureType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.list { write!(f, "list<{}>", self.of.as_str()) } else { f.write_str(self.of.as_str()) }
    }
}

impl FromStr for FeatureType {
    type Err = String;

    fn from_str(text: &str) -> Result<FeatureType, String> {
        FeatureType::all()
            .find(|known| known.to_string() == text)
            .ok_or_else(|| format!("{text:?} is no type of features; write one such as \"int64\" or \"list<string>\""))
    }
}

impl Serialize for FeatureType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FeatureType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FeatureType, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for FeatureType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FeatureType".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = FeatureType::all().map(|known| json_schema!({ "const": known.to_string() })).collect();
        json_schema!({ "description": "The type of a feature, or a list of it.", "oneOf": names })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_type_is_read_as_it_is_written() {
        for known in FeatureType::all() {
            assert_eq!(known.to_string().parse::<FeatureType>().unwrap(), known);
        }
        assert!("list<list<int64>>".parse::<FeatureType>().is_err());
    }
}
