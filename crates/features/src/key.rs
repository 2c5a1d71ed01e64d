//! The key of a row: which entities it is about, in bytes.

use halny_types::project::features::{FeatureType, Scalar};

use crate::{FeaturesError, Moment, Value};

/// The longest text or bytes of one part of a key.
pub const KEY_BYTES_MAX: usize = 1_024;

/// What a part begins with, so that a key of other types is another key, and is not read as one of these.
const NUMBER: u8 = 1;
const TEXT: u8 = 2;
const BYTES: u8 = 3;

/// One part of a key: a column, and the field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPart {
    /// Its name.
    pub name: String,
    /// Its type.
    pub value_type: FeatureType,
}

/// Writes one part of a key: two keys are the same bytes when all their parts are equal, and then only.
///
/// # Errors
/// When the value is of another type, or too long. Null is no part of a key: who has it asks before.
pub(crate) fn put(part: &KeyPart, value: &Value, key: &mut Vec<u8>) -> Result<(), FeaturesError> {
    let mut sized = |tag: u8, bytes: &[u8]| {
        if bytes.len() > KEY_BYTES_MAX {
            let count = bytes.len();
            return Err(FeaturesError::TooMany { what: "bytes of a join key", count, most: KEY_BYTES_MAX });
        }
        key.push(tag);
        key.extend((bytes.len() as u16).to_be_bytes());
        key.extend(bytes);
        Ok(())
    };
    match value {
        Value::String(text) => sized(TEXT, text.as_bytes()),
        Value::Bytes(bytes) => sized(BYTES, bytes),
        Value::Int32(number) => {
            key.push(NUMBER);
            key.extend(Moment(i64::from(*number)).ordered());
            Ok(())
        }
        Value::Int64(number) => {
            key.push(NUMBER);
            key.extend(Moment(*number).ordered());
            Ok(())
        }
        other => Err(FeaturesError::Type {
            name: part.name.clone(),
            expected: part.value_type.to_string(),
            is: other.described().to_owned(),
        }),
    }
}

/// The parts of a key that [`put`] wrote.
///
/// # Errors
/// When it did not.
pub(crate) fn parts(of: &[KeyPart], mut key: &[u8]) -> Result<Vec<Value>, FeaturesError> {
    let damaged = || FeaturesError::Damaged("its key is cut off, or of other types");
    let values = of.iter().map(|part| take(part.value_type.of, &mut key)).collect::<Option<Vec<_>>>();
    values.filter(|_| key.is_empty()).ok_or_else(damaged)
}

fn take(of: Scalar, key: &mut &[u8]) -> Option<Value> {
    let (tag, rest) = key.split_first()?;
    let wanted = match of {
        Scalar::Int32 | Scalar::Int64 => NUMBER,
        Scalar::String => TEXT,
        _ => BYTES,
    };
    if *tag != wanted {
        return None;
    }
    if wanted == NUMBER {
        let (bytes, rest) = rest.split_first_chunk::<8>()?;
        *key = rest;
        let number = Moment::from_ordered(*bytes).0;
        return if of == Scalar::Int32 {
            i32::try_from(number).ok().map(Value::Int32)
        } else {
            Some(Value::Int64(number))
        };
    }
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (bytes, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *key = rest;
    if wanted == TEXT {
        String::from_utf8(bytes.to_vec()).ok().map(Value::String)
    } else {
        Some(Value::Bytes(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn part(of: Scalar) -> KeyPart {
        KeyPart { name: "k".to_owned(), value_type: FeatureType::one(of) }
    }

    fn key(values: &(String, i64, Vec<u8>, i32)) -> Vec<u8> {
        let mut key = Vec::new();
        put(&part(Scalar::String), &Value::String(values.0.clone()), &mut key).unwrap();
        put(&part(Scalar::Int64), &Value::Int64(values.1), &mut key).unwrap();
        put(&part(Scalar::Bytes), &Value::Bytes(values.2.clone()), &mut key).unwrap();
        put(&part(Scalar::Int32), &Value::Int32(values.3), &mut key).unwrap();
        key
    }

    proptest! {
        #[test]
        fn keys_are_the_same_when_their_parts_are(a: (String, i64, Vec<u8>, i32), b: (String, i64, Vec<u8>, i32)) {
            prop_assert_eq!(key(&a) == key(&b), a == b);
            let of = [Scalar::String, Scalar::Int64, Scalar::Bytes, Scalar::Int32].map(part);
            let read = parts(&of, &key(&a)).unwrap();
            prop_assert!(parts(&of[..3], &key(&a)).is_err(), "a key of more parts");
            let others = [Scalar::Bytes, Scalar::Int64, Scalar::Bytes, Scalar::Int32].map(part);
            prop_assert!(parts(&others, &key(&a)).is_err(), "a key of other types");
            prop_assert_eq!(read, vec![Value::String(a.0), Value::Int64(a.1), Value::Bytes(a.2), Value::Int32(a.3)]);
        }
    }
}
