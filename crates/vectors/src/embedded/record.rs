//! What the log says of one write, as bytes.
//!
//! Little-endian. A record is the number of its changes, then each: a kind, the id, and what the kind
//! has. Records say what came of a write, not what was asked: a deletion by filter is a list of ids,
//! and a point of which something was changed is written whole. When the log is read again, what
//! the point was before may be gone from the segments already.

use std::sync::Arc;

use bytes::{Buf, BufMut};
use halny_payload::PointId;
use serde_json::Value;
use uuid::Uuid;

use super::log::{RECORD_BYTES_MAX, TooLarge};
use crate::{Named, Payload, Point};

/// A change of one point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// It is this now, whatever it was.
    Put(Point),
    /// It is gone.
    Delete(PointId),
}

const PUT: u8 = 1;
const DELETE: u8 = 3;

const NUMBER: u8 = 0;
const UUID: u8 = 1;

/// Writes the changes behind what `bytes` holds.
///
/// # Errors
/// When they are more than a record may have: found out before much more than that is written.
pub(crate) fn write(changes: &[Change], bytes: &mut Vec<u8>) -> Result<(), TooLarge> {
    let start = bytes.len();
    bytes.put_u32_le(length(changes.len()));
    for change in changes {
        if bytes.len() - start > RECORD_BYTES_MAX {
            return Err(TooLarge);
        }
        match change {
            Change::Put(point) => {
                bytes.put_u8(PUT);
                write_id(&point.id, bytes);
                write_payload(&point.payload, bytes);
                bytes.put_u16_le(u16::try_from(point.vectors.len()).unwrap_or(u16::MAX));
                for (name, vector) in &point.vectors {
                    write_bytes(name.as_bytes(), bytes);
                    bytes.put_u32_le(length(vector.len()));
                    vector.iter().for_each(|value| bytes.put_f32_le(*value));
                }
            }
            Change::Delete(id) => {
                bytes.put_u8(DELETE);
                write_id(id, bytes);
            }
        }
    }
    Ok(())
}

/// About how much memory a change takes, and no less than half of what it takes in a record.
pub(crate) fn weight(change: &Change) -> usize {
    let Change::Put(point) = change else { return size_of::<Change>() };
    let vectors: usize = point.vectors.values().map(|vector| size_of_val(vector.as_slice())).sum();
    size_of::<Change>() + vectors + weight_of_object(&point.payload)
}

fn weight_of_object(object: &Payload) -> usize {
    object.iter().map(|(key, value)| size_of::<String>() + key.len() + weight_of_value(value)).sum()
}

fn weight_of_value(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight_of_value).sum(),
            Value::Object(object) => weight_of_object(object),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

/// Reads what [`write`] wrote; nothing when it is anything else.
pub(crate) fn read(mut bytes: &[u8]) -> Option<Vec<Change>> {
    let count = bytes.try_get_u32_le().ok()?;
    // On the word of a count alone no memory is set aside.
    let mut changes = Vec::with_capacity((count as usize).min(bytes.len() / 8));
    for _ in 0..count {
        changes.push(read_change(&mut bytes)?);
    }
    bytes.is_empty().then_some(changes)
}

fn read_change(bytes: &mut &[u8]) -> Option<Change> {
    let kind = bytes.try_get_u8().ok()?;
    let id = read_id(bytes)?;
    match kind {
        PUT => {
            let payload = read_payload(bytes)?;
            let count = bytes.try_get_u16_le().ok()?;
            let mut vectors = Named::new();
            for _ in 0..count {
                let name = std::str::from_utf8(read_bytes(bytes)?).ok()?.to_owned();
                vectors.insert(name, read_vector(bytes)?);
            }
            Some(Change::Put(Point { id, vectors, payload }))
        }
        DELETE => Some(Change::Delete(id)),
        _ => None,
    }
}

fn read_vector(bytes: &mut &[u8]) -> Option<Vec<f32>> {
    let dimensions = bytes.try_get_u32_le().ok()? as usize;
    let (values, rest) = bytes.split_at_checked(dimensions.checked_mul(4)?)?;
    *bytes = rest;
    Some(values.chunks_exact(4).map(|mut value| value.get_f32_le()).collect())
}

pub(crate) fn write_id(id: &PointId, bytes: &mut Vec<u8>) {
    match id {
        PointId::Number(number) => {
            bytes.put_u8(NUMBER);
            bytes.put_u64_le(*number);
        }
        PointId::Uuid(uuid) => {
            bytes.put_u8(UUID);
            bytes.put_slice(uuid.as_bytes());
        }
    }
}

pub(crate) fn read_id(bytes: &mut &[u8]) -> Option<PointId> {
    match bytes.try_get_u8().ok()? {
        NUMBER => Some(PointId::Number(bytes.try_get_u64_le().ok()?)),
        UUID => {
            let (uuid, rest) = bytes.split_first_chunk::<16>()?;
            *bytes = rest;
            Some(PointId::Uuid(Uuid::from_bytes(*uuid)))
        }
        _ => None,
    }
}

fn write_payload(payload: &Payload, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.put_u32_le(0);
    // A map of JSON values with text keys has a form in JSON, and memory does not fail to be written.
    let _ = serde_json::to_writer(&mut *bytes, payload);
    let written = length(bytes.len() - start - 4).to_le_bytes();
    if let Some(place) = bytes.get_mut(start..start + 4) {
        place.copy_from_slice(&written);
    }
}

fn read_payload(bytes: &mut &[u8]) -> Option<Arc<Payload>> {
    serde_json::from_slice(read_bytes(bytes)?).ok().map(Arc::new)
}

fn write_bytes(text: &[u8], bytes: &mut Vec<u8>) {
    bytes.put_u32_le(length(text.len()));
    bytes.put_slice(text);
}

fn read_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = bytes.try_get_u32_le().ok()?;
    let (text, rest) = bytes.split_at_checked(length as usize)?;
    *bytes = rest;
    Some(text)
}

/// What a write changes may be more than its request says: a change by filter is of every point that passes. A
/// record has a limit far below 4 GiB, which [`write`] and the log hold it to; so no length that gets as far as
/// the log is cut here.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let id = prop_oneof![
            any::<u64>().prop_map(PointId::Number),
            any::<u128>().prop_map(|bits| PointId::Uuid(Uuid::from_u128(bits)))
        ];
        let payload = prop::collection::btree_map("[a-z]{0,4}", ".{0,8}", 0..3).prop_map(|map| {
            Arc::new(map.into_iter().map(|(key, value)| (key, serde_json::Value::from(value))).collect::<Payload>())
        });
        let vector = prop::collection::vec(-1e9f32..1e9, 0..20);
        let vectors = prop::collection::btree_map("[a-z]{0,3}", vector, 0..3);
        let change = (id, payload, vectors, 0..2).prop_map(|(id, payload, vectors, kind)| match kind {
            0 => Change::Put(Point { id, vectors, payload }),
            _ => Change::Delete(id),
        });
        prop::collection::vec(change, 0..6)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(changes in changes()) {
            let mut bytes = Vec::new();
            write(&changes, &mut bytes).unwrap();
            prop_assert_eq!(read(&bytes), Some(changes));
        }

        #[test]
        fn a_record_cut_short_or_made_up_is_refused(changes in changes(), cut in 1usize..50, noise in any::<Vec<u8>>()) {
            let mut bytes = Vec::new();
            write(&changes, &mut bytes).unwrap();
            bytes.truncate(bytes.len().saturating_sub(cut));
            prop_assert_eq!(read(&bytes), None);
            let _ = read(&noise);
        }
    }
}
