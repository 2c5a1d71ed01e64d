//! One row of a view in bytes: what the online stores keep, and what the journal and sorting carry.
//!
//! ```text
//! version 1 | event time 8 | created time 8 | features 2 | tag 4 each | bitmap of those that are there | values | crc 4
//! ```
//!
//! The two times stand first, in bytes that compare as the times do, so that a server that knows nothing else can tell
//! which of two rows is newer. A *tag* is made of the feature's name and type: a row that was written before a feature
//! was added, removed or retyped is read by its tags, and never as what it is not. The checksum is seeded with the view,
//! so that a row that belongs to another one is refused too.
//!
//! Not protobuf or Arrow IPC: the first spends most of its time on field headers, the second 1 KB on a schema.

use halny_types::project::features::{FeatureType, Scalar};

use crate::{FeaturesError, Moment, Value};

const VERSION: u8 = 1;
/// Version, times, number of features.
const HEAD: usize = 1 + 8 + 8 + 2;
/// The largest row, in bytes.
pub const ROW_BYTES_MAX: usize = 1 << 20;

/// The features of a view, as a row holds them.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    types: Vec<FeatureType>,
    /// The tags, as they stand in a row: rows that begin so are read by place.
    tags: Vec<u8>,
    /// The checksum's state before the first byte.
    seed: u32,
}

/// Four bits of type, 28 of the name's checksum.
fn tag(name: &str, value_type: FeatureType) -> u32 {
    let code = Scalar::ALL.iter().position(|known| *known == value_type.of).unwrap_or_default() as u32;
    ((code << 1 | u32::from(value_type.list)) << 28) | (crc32fast::hash(name.as_bytes()) & 0x0FFF_FFFF)
}

/// The type that a tag says.
fn tagged_type(tag: u32) -> Option<FeatureType> {
    let code = tag >> 28;
    Some(FeatureType { of: *Scalar::ALL.get((code >> 1) as usize)?, list: code & 1 == 1 })
}

impl Layout {
    /// The layout of a view's rows; nothing when two features have the same tag, of which one has to be renamed.
    pub(crate) fn new<'a>(view: &str, features: impl Iterator<Item = (&'a str, FeatureType)>) -> Option<Layout> {
        let mut layout = Layout { types: Vec::new(), tags: Vec::new(), seed: crc32fast::hash(view.as_bytes()) };
        for (name, value_type) in features {
            let bytes = tag(name, value_type).to_le_bytes();
            if layout.tags.chunks_exact(4).any(|known| known == bytes) {
                return None;
            }
            layout.tags.extend(bytes);
            layout.types.push(value_type);
        }
        Some(layout)
    }

    /// The row in bytes. `values` are those of all features, in their order.
    ///
    /// # Errors
    /// When it is too large.
    pub(crate) fn pack(&self, event: Moment, created: Moment, values: &[Value]) -> Result<Vec<u8>, FeaturesError> {
        debug_assert_eq!(values.len(), self.types.len());
        debug_assert!(values.iter().zip(&self.types).all(|(value, of)| value.is_of(*of)), "checked when it came in");
        let mut row = Vec::with_capacity(HEAD + self.tags.len() + values.len() * 9 + 4);
        row.push(VERSION);
        row.extend(event.ordered());
        row.extend(created.ordered());
        row.extend((values.len() as u16).to_le_bytes());
        row.extend(&self.tags);
        put_values(values, &mut row);
        row.extend(self.checksum(&row).to_le_bytes());
        if row.len() > ROW_BYTES_MAX {
            return Err(FeaturesError::TooMany { what: "bytes of one row", count: row.len(), most: ROW_BYTES_MAX });
        }
        Ok(row)
    }

    fn checksum(&self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(bytes);
        hasher.finalize()
    }

    /// Checks that the bytes are a row of this view, whole.
    ///
    /// # Errors
    /// When they are not.
    pub(crate) fn open<'a>(&'a self, bytes: &'a [u8]) -> Result<Row<'a>, FeaturesError> {
        let damaged = || FeaturesError::Damaged("it is cut off, or no row of this view");
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        if u32::from_le_bytes(*sum) != self.checksum(body) {
            return Err(damaged());
        }
        let (event, created) = times(body).ok_or_else(damaged)?;
        let count = body.get(17..HEAD).map(|it| u16::from_le_bytes([it[0], it[1]])).ok_or_else(damaged)?;
        let count = usize::from(count);
        let tags = body.get(HEAD..HEAD + 4 * count).ok_or_else(damaged)?;
        let start = HEAD + 4 * count + count.div_ceil(8);
        let present = body.get(HEAD + 4 * count..start).ok_or_else(damaged)?;
        let values = body.get(start..).ok_or_else(damaged)?;
        Ok(Row { layout: self, event, created, tags, present, values })
    }
}

/// The two times of a row: event, created. Nothing when the bytes are no row of a version that is known.
pub(crate) fn times(row: &[u8]) -> Option<(Moment, Moment)> {
    let rest = row.strip_prefix(&[VERSION])?;
    let (event, rest) = rest.split_first_chunk::<8>()?;
    let (created, _) = rest.split_first_chunk::<8>()?;
    Some((Moment::from_ordered(*event), Moment::from_ordered(*created)))
}

/// Whether `row` takes the place of `kept`: it is newer, or as new and not made earlier. What is kept and cannot be read
/// is no reason to refuse what can.
pub(crate) fn supersedes(row: &[u8], kept: &[u8]) -> bool {
    times(row) >= times(kept)
}

/// A row that was checked.
pub(crate) struct Row<'a> {
    layout: &'a Layout,
    pub(crate) event: Moment,
    pub(crate) created: Moment,
    tags: &'a [u8],
    present: &'a [u8],
    values: &'a [u8],
}

/// A feature in a row.
#[derive(Debug, PartialEq)]
pub(crate) enum Kept {
    /// It was no feature of the view when the row was written.
    Unknown,
    /// A value, or null.
    Known(Value),
}

impl Row<'_> {
    /// The values of the view's features, in its order.
    ///
    /// # Errors
    /// When a value is not what its tag says, which the checksum makes unlikely and this makes harmless.
    pub(crate) fn read(&self, mut with: impl FnMut(usize, Kept)) -> Result<(), FeaturesError> {
        let mut rest = self.values;
        if self.tags == self.layout.tags {
            for (at, value_type) in self.layout.types.iter().enumerate() {
                with(at, Kept::Known(self.take(at, *value_type, &mut rest)?));
            }
        } else {
            let mut known = vec![false; self.layout.types.len()];
            for (at, tag) in self.tags.chunks_exact(4).enumerate() {
                let word = u32::from_le_bytes([tag[0], tag[1], tag[2], tag[3]]);
                let value_type = tagged_type(word).ok_or(FeaturesError::Damaged("a tag says no type"))?;
                let value = self.take(at, value_type, &mut rest)?;
                if let Some(place) = self.layout.tags.chunks_exact(4).position(|known| known == tag) {
                    known[place] = true;
                    with(place, Kept::Known(value));
                }
            }
            for (at, _) in known.iter().enumerate().filter(|(_, known)| !**known) {
                with(at, Kept::Unknown);
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(FeaturesError::Damaged("more stands in it than its tags say")) }
    }

    fn take(&self, at: usize, value_type: FeatureType, rest: &mut &[u8]) -> Result<Value, FeaturesError> {
        if self.present.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1) {
            take(value_type, rest).ok_or(FeaturesError::Damaged("a value is not what its tag says"))
        } else {
            Ok(Value::Null)
        }
    }

    /// All values in the view's order; those that the row does not know are null.
    pub(crate) fn values(&self) -> Result<Vec<Value>, FeaturesError> {
        let mut values = vec![Value::Null; self.layout.types.len()];
        self.read(|at, kept| {
            if let Kept::Known(value) = kept {
                values[at] = value;
            }
        })?;
        Ok(values)
    }
}

/// Values without times and tags, for records that do not outlive the process.
pub(crate) fn put_values(values: &[Value], bytes: &mut Vec<u8>) {
    let bitmap = bytes.len();
    bytes.resize(bitmap + values.len().div_ceil(8), 0);
    for (at, value) in values.iter().enumerate().filter(|(_, value)| !value.is_null()) {
        bytes[bitmap + at / 8] |= 1 << (at % 8);
        put(value, bytes);
    }
}

/// The values that [`put_values`] put.
pub(crate) fn take_values(types: &[FeatureType], bytes: &[u8]) -> Result<Vec<Value>, FeaturesError> {
    let torn = || FeaturesError::Damaged("a temporary record");
    let (present, mut rest) = bytes.split_at_checked(types.len().div_ceil(8)).ok_or_else(torn)?;
    let take = |(at, of): (usize, &FeatureType)| match present[at / 8] >> (at % 8) & 1 {
        1 => take(*of, &mut rest).ok_or_else(torn),
        _ => Ok(Value::Null),
    };
    types.iter().enumerate().map(take).collect()
}

fn put(value: &Value, row: &mut Vec<u8>) {
    let sized = |bytes: &[u8], row: &mut Vec<u8>| {
        row.extend((bytes.len() as u32).to_le_bytes());
        row.extend(bytes);
    };
    match value {
        Value::Null => {}
        Value::Int32(value) => row.extend(value.to_le_bytes()),
        Value::Int64(value) => row.extend(value.to_le_bytes()),
        Value::Float32(value) => row.extend(value.to_le_bytes()),
        Value::Float64(value) => row.extend(value.to_le_bytes()),
        Value::Bool(value) => row.push(u8::from(*value)),
        Value::String(value) => sized(value.as_bytes(), row),
        Value::Bytes(value) => sized(value, row),
        Value::Timestamp(value) => row.extend(value.0.to_le_bytes()),
        Value::List(items) => {
            row.extend((items.len() as u32).to_le_bytes());
            items.iter().for_each(|item| put(item, row));
        }
    }
}

fn chunk<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (chunk, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*chunk)
}

fn sized<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(chunk(rest)?) as usize;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

fn take(value_type: FeatureType, rest: &mut &[u8]) -> Option<Value> {
    if value_type.list {
        let count = u32::from_le_bytes(chunk(rest)?) as usize;
        // Every item takes at least one byte: what says more lies, and gets no memory for it.
        if count > rest.len() {
            return None;
        }
        let item = |_| take(FeatureType::one(value_type.of), rest);
        return (0..count).map(item).collect::<Option<Vec<Value>>>().map(Value::List);
    }
    Some(match value_type.of {
        Scalar::Int32 => Value::Int32(i32::from_le_bytes(chunk(rest)?)),
        Scalar::Int64 => Value::Int64(i64::from_le_bytes(chunk(rest)?)),
        Scalar::Float32 => Value::Float32(f32::from_le_bytes(chunk(rest)?)),
        Scalar::Float64 => Value::Float64(f64::from_le_bytes(chunk(rest)?)),
        Scalar::Bool => match chunk(rest)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return None,
        },
        Scalar::String => Value::String(std::str::from_utf8(sized(rest)?).ok()?.to_owned()),
        Scalar::Bytes => Value::Bytes(sized(rest)?.to_vec()),
        Scalar::UnixTimestamp => Value::Timestamp(Moment(i64::from_le_bytes(chunk(rest)?))),
    })
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
