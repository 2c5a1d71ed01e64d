//! Values of features, and what they are in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use halny_types::project::features::{FeatureType, Scalar};
use serde_json::{Value as Json, json};

use crate::moment::SECOND;
use crate::{FeaturesError, Moment};

/// The value of a feature, a join key or a field of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// There is none.
    #[default]
    Null,
    /// A whole number of 32 bits.
    Int32(i32),
    /// A whole number of 64 bits.
    Int64(i64),
    /// IEEE 754 single.
    Float32(f32),
    /// IEEE 754 double.
    Float64(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A moment.
    Timestamp(Moment),
    /// Values of one type, none of them null.
    List(Vec<Value>),
}

impl Value {
    /// Whether there is none.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    fn is_scalar(&self, scalar: Scalar) -> bool {
        matches!(
            (self, scalar),
            (Value::Int32(_), Scalar::Int32)
                | (Value::Int64(_), Scalar::Int64)
                | (Value::Float32(_), Scalar::Float32)
                | (Value::Float64(_), Scalar::Float64)
                | (Value::Bool(_), Scalar::Bool)
                | (Value::String(_), Scalar::String)
                | (Value::Bytes(_), Scalar::Bytes)
                | (Value::Timestamp(_), Scalar::UnixTimestamp)
        )
    }

    /// Whether a feature of this type may have it. Every feature may be null.
    #[must_use]
    pub fn is_of(&self, value_type: FeatureType) -> bool {
        match self {
            Value::Null => true,
            Value::List(items) => value_type.list && items.iter().all(|item| item.is_scalar(value_type.of)),
            one => !value_type.list && one.is_scalar(value_type.of),
        }
    }

    /// Whether both are the same: as `==`, but that NaN is NaN.
    #[must_use]
    pub fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Float32(a), Value::Float32(b)) => a == b || (a.is_nan() && b.is_nan()),
            (Value::Float64(a), Value::Float64(b)) => a == b || (a.is_nan() && b.is_nan()),
            (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)),
            (a, b) => a == b,
        }
    }

    /// What it is, in words.
    #[must_use]
    pub fn described(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Int32(_) => "an int32",
            Value::Int64(_) => "an int64",
            Value::Float32(_) => "a float32",
            Value::Float64(_) => "a float64",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "a unix_timestamp",
            Value::List(_) => "a list",
        }
    }

    /// Reads a value of JSON as one of this type. Moments are seconds since 1970, as Feast has them; bytes are base64.
    ///
    /// # Errors
    /// When it is none, or a number that the type cannot hold.
    pub fn from_json(name: &str, value: &Json, value_type: FeatureType) -> Result<Value, FeaturesError> {
        let wrong = || FeaturesError::Type {
            name: name.to_owned(),
            expected: value_type.to_string(),
            is: match value {
                Json::Null => "null",
                Json::Bool(_) => "true or false",
                Json::Number(_) => "a number that it cannot hold",
                Json::String(_) => "text",
                Json::Array(_) => "a list",
                Json::Object(_) => "an object",
            }
            .to_owned(),
        };
        match value {
            Json::Null => Ok(Value::Null),
            Json::Array(items) if value_type.list => {
                let one = |item| scalar_from_json(item, value_type.of).ok_or_else(wrong);
                Ok(Value::List(items.iter().map(one).collect::<Result<_, _>>()?))
            }
            one if !value_type.list => scalar_from_json(one, value_type.of).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }

    /// The value in JSON, which has no NaN and no infinity: both are null there.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Int32(value) => json!(value),
            Value::Int64(value) => json!(value),
            Value::Float32(value) => json!(value),
            Value::Float64(value) => json!(value),
            Value::Bool(value) => json!(value),
            Value::String(value) => json!(value),
            Value::Bytes(value) => json!(STANDARD.encode(value)),
            Value::Timestamp(at) if at.0 % SECOND == 0 => json!(at.0 / SECOND),
            Value::Timestamp(at) => json!(at.0 as f64 / SECOND as f64),
            Value::List(items) => Json::Array(items.iter().map(Value::to_json).collect()),
        }
    }
}

fn scalar_from_json(value: &Json, scalar: Scalar) -> Option<Value> {
    Some(match scalar {
        Scalar::Int32 => Value::Int32(i32::try_from(value.as_i64()?).ok()?),
        Scalar::Int64 => Value::Int64(value.as_i64()?),
        Scalar::Float32 => {
            let wide = value.as_f64()?;
            let narrow = wide as f32;
            Value::Float32(narrow.is_finite().then_some(narrow)?)
        }
        Scalar::Float64 => Value::Float64(value.as_f64()?),
        Scalar::Bool => Value::Bool(value.as_bool()?),
        Scalar::String => Value::String(value.as_str()?.to_owned()),
        Scalar::Bytes => Value::Bytes(STANDARD.decode(value.as_str()?).ok()?),
        Scalar::UnixTimestamp => Value::Timestamp(match value.as_i64() {
            Some(seconds) => Moment(seconds.checked_mul(SECOND)?),
            None => {
                let micros = value.as_f64()? * SECOND as f64;
                // Beyond 2^53 a double does not know its microseconds any more.
                Moment((micros.abs() < 9e15).then_some(micros.round() as i64)?)
            }
        }),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn json_that_the_type_cannot_hold_is_refused() {
        let one = FeatureType::one;
        for (value, of) in [
            (json!(2_147_483_648_i64), one(Scalar::Int32)),
            (json!(1.5), one(Scalar::Int64)),
            (json!(1e39), one(Scalar::Float32)),
            (json!("x"), one(Scalar::Bool)),
            (json!("%"), one(Scalar::Bytes)),
            (json!(1e300), one(Scalar::UnixTimestamp)),
            (json!([1, null]), FeatureType::list(Scalar::Int64)),
            (json!(1), FeatureType::list(Scalar::Int64)),
            (json!([1]), one(Scalar::Int64)),
        ] {
            assert!(Value::from_json("x", &value, of).is_err(), "{value} was read as {of}");
        }
    }

    #[test]
    fn json_survives_a_round_trip() {
        for (value, of) in [
            (json!(-3), FeatureType::one(Scalar::Int32)),
            (json!("aGk="), FeatureType::one(Scalar::Bytes)),
            (json!(1_700_000_000), FeatureType::one(Scalar::UnixTimestamp)),
            (json!([0.5, 1.5]), FeatureType::list(Scalar::Float32)),
            (json!(null), FeatureType::list(Scalar::String)),
        ] {
            assert_eq!(Value::from_json("x", &value, of).unwrap().to_json(), value);
        }
    }
}
