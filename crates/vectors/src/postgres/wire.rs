//! How ids, vectors and payloads travel to PostgreSQL and back, and SQL with its bound values.

use std::io;

use halny_payload::PointId;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::query::Query;
use sqlx::{Arguments, AssertSqlSafe, Decode, Encode, Postgres, Type, TypeInfo};
use uuid::Uuid;

use super::error::broken;
use crate::{Payload, VectorsError};

/// The most values that PostgreSQL takes with one statement.
const ARGUMENTS_MAX: usize = 65_535;

const NUMBER: u8 = 0;
const UUID: u8 = 1;

/// An id as bytes that are in the order of the ids.
pub(super) fn id_bytes(id: &PointId) -> Vec<u8> {
    match id {
        PointId::Number(number) => [&[NUMBER][..], &number.to_be_bytes()].concat(),
        PointId::Uuid(uuid) => [&[UUID][..], uuid.as_bytes()].concat(),
    }
}

pub(super) fn read_id(bytes: &[u8]) -> Option<PointId> {
    match bytes.split_first()? {
        (&NUMBER, rest) => Some(PointId::Number(u64::from_be_bytes(rest.try_into().ok()?))),
        (&UUID, rest) => Some(PointId::Uuid(Uuid::from_bytes(rest.try_into().ok()?))),
        _ => None,
    }
}

/// pgvector's `vector`: its length, two bytes for nothing, and the numbers, big end first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Vector(pub(super) Vec<f32>);

impl Type<Postgres> for Vector {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("vector")
    }

    fn compatible(kind: &PgTypeInfo) -> bool {
        // Told with or without the schema that pgvector is in.
        kind.name().rsplit('.').next().is_some_and(|name| name.eq_ignore_ascii_case("vector"))
    }
}

impl PgHasArrayType for Vector {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of("vector")
    }
}

impl Encode<'_, Postgres> for Vector {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&u16::try_from(self.0.len())?.to_be_bytes());
        buffer.extend_from_slice(&[0, 0]);
        self.0.iter().for_each(|value| buffer.extend_from_slice(&value.to_be_bytes()));
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Vector {
    fn decode(value: PgValueRef<'_>) -> Result<Vector, BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("a vector came as a text".into());
        }
        let bytes = value.as_bytes()?;
        let short = || BoxDynError::from("a vector was cut short");
        let (head, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let [high, low, ..] = *head;
        let numbers: Vec<f32> = rest.as_chunks::<4>().0.iter().map(|bytes| f32::from_be_bytes(*bytes)).collect();
        if numbers.len() != usize::from(u16::from_be_bytes([high, low])) {
            return Err(short());
        }
        Ok(Vector(numbers))
    }
}

/// Writes numbers so that `jsonb` gives them back as what they were: it forgets an exponent, and
/// without a point in it a number that was none becomes a whole one.
struct Plain(CompactFormatter);

impl Formatter for Plain {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let text = value.to_string();
        let point = if text.contains('.') { "" } else { ".0" };
        write!(writer, "{text}{point}")
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        self.write_f64(writer, f64::from(value))
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }
}

/// A payload as the text that `jsonb` is made of.
///
/// # Errors
/// When a text in it has the character U+0000, which `jsonb` cannot hold.
pub(super) fn payload_text(payload: &Payload) -> Result<String, VectorsError> {
    let mut bytes = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, Plain(CompactFormatter));
    payload.serialize(&mut writer).map_err(|error| broken("write a payload", &error))?;
    let text = String::from_utf8(bytes).map_err(|error| broken("write a payload", &error))?;
    // Six characters are looked for first, since a text may have a backslash before them.
    if text.contains("\\u0000") && holds_nul(payload) {
        let text = "a payload has the character U+0000 in a text, which PostgreSQL cannot hold; leave it out";
        return Err(VectorsError::Invalid(text.to_owned()));
    }
    Ok(text)
}

fn holds_nul(payload: &Payload) -> bool {
    fn in_value(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::String(text) => text.contains('\0'),
            serde_json::Value::Array(items) => items.iter().any(in_value),
            serde_json::Value::Object(object) => holds_nul(object),
            _ => false,
        }
    }
    payload.iter().any(|(key, value)| key.contains('\0') || in_value(value))
}

/// A statement that is being put together. Its text is made of this module's own pieces, names that are
/// made of numbers, and numbers; whatever came from a client is bound.
#[derive(Default)]
pub(super) struct Sql {
    pub(super) text: String,
    arguments: PgArguments,
    /// The first value that could not be bound.
    failed: Option<BoxDynError>,
}

impl Sql {
    /// Binds a value, and gives the place that stands for it.
    pub(super) fn bind<'t, T: Encode<'t, Postgres> + Type<Postgres>>(&mut self, value: T) -> String {
        if let Err(error) = self.arguments.add(value) {
            self.failed.get_or_insert(error);
        }
        format!("${}", self.arguments.len())
    }

    /// The statement, to be run. It is not kept prepared: few are asked twice.
    ///
    /// # Errors
    /// When it has too many values, or one that PostgreSQL has no form for.
    pub(super) fn ready(self) -> Result<Query<'static, Postgres, PgArguments>, VectorsError> {
        if let Some(error) = self.failed {
            return Err(broken("bind a value", error.as_ref()));
        }
        if self.arguments.len() > ARGUMENTS_MAX {
            let text = format!("the filter has too many conditions: PostgreSQL takes {ARGUMENTS_MAX} values at once");
            return Err(VectorsError::Invalid(text));
        }
        Ok(sqlx::query_with(AssertSqlSafe(self.text), self.arguments).persistent(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = PointId> {
        prop_oneof![
            any::<u64>().prop_map(PointId::Number),
            any::<u128>().prop_map(|bits| PointId::Uuid(Uuid::from_u128(bits)))
        ]
    }

    proptest! {
        #[test]
        fn ids_as_bytes_come_back_and_are_in_order(a in id(), b in id()) {
            prop_assert_eq!(read_id(&id_bytes(&a)), Some(a));
            prop_assert_eq!(id_bytes(&a).cmp(&id_bytes(&b)), a.cmp(&b));
        }

        #[test]
        fn a_number_is_written_without_exponent_and_with_a_point_unless_it_is_whole(value in any::<f64>()) {
            prop_assume!(value.is_finite());
            let payload = Payload::from_iter([("n".to_owned(), serde_json::json!(value))]);
            let text = payload_text(&payload).unwrap();
            prop_assert!(text.contains('.') && !text.contains('e'), "{}", text);
        }
    }

    #[test]
    fn only_a_real_nul_is_refused() {
        let payload = |text: &str| Payload::from_iter([("t".to_owned(), serde_json::json!(text))]);
        assert!(payload_text(&payload("a\\u0000b")).is_ok());
        assert!(payload_text(&payload("a\0b")).is_err());
    }
}
