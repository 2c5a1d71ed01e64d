//! Whether a safetensors file's header tells the truth about the file.
//!
//! The format: 8 bytes with the header's length (little endian), the header as a JSON object from
//! tensor name to data type, shape and byte range, then the data that the ranges point into
//! (<https://github.com/huggingface/safetensors>, "Format"). Only the header is read.
//!
//! Not the `safetensors` crate's own check alone: it wants the whole file in memory (or mapped),
//! takes duplicate names, and belongs to the engine's side; what is refused here never gets there.

use std::{collections::BTreeSet, fmt, fs::File, io::Read, path::Path};

use serde::{
    Deserialize,
    de::{self, Deserializer, IgnoredAny, MapAccess, Visitor},
};

use crate::RegistryError;

/// The longest header taken; the format's own limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The most tensors taken. The largest published models have fewer than 100,000.
const MAX_TENSORS: usize = 1_000_000;

/// The most dimensions of one tensor.
const MAX_RANK: usize = 64;

/// What a sound file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SafetensorsSummary {
    /// How many tensors it has.
    pub tensors: usize,
    /// How many bytes of tensor data follow the header.
    pub data_bytes: u64,
}

/// Checks the file at `path`, which the model calls `name`.
///
/// # Errors
/// [`RegistryError::Malformed`] with what is wrong, or [`RegistryError::Io`].
pub fn check_file(path: &Path, name: &str) -> Result<SafetensorsSummary, RegistryError> {
    let failed = |error| RegistryError::io("read", name, error);
    let file = File::open(path).map_err(failed)?;
    let file_bytes = file.metadata().map_err(failed)?.len();
    check(file, file_bytes).map_err(|reason| RegistryError::Malformed {
        file: name.to_owned(),
        format: "safetensors",
        reason,
    })
}

/// Checks a file of `file_bytes` bytes of which `reader` gives the beginning.
///
/// # Errors
/// What is wrong, in words.
pub fn check(mut reader: impl Read, file_bytes: u64) -> Result<SafetensorsSummary, String> {
    let mut length = [0; 8];
    reader.read_exact(&mut length).map_err(|_| "it ends before the header's length".to_owned())?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(format!("its header claims {header_bytes} bytes, more than the limit of {MAX_HEADER_BYTES}"));
    }
    let Some(data_bytes) = file_bytes.checked_sub(8).and_then(|rest| rest.checked_sub(header_bytes)) else {
        return Err(format!("its header claims {header_bytes} bytes, but the file has {file_bytes} in all"));
    };
    let mut text = Vec::new();
    reader.take(header_bytes).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 != header_bytes {
        return Err("it ends inside the header".to_owned());
    }
    if text.first() != Some(&b'{') {
        return Err("its header does not begin with a brace".to_owned());
    }
    crate::json::check(&text).map_err(|reason| format!("its header is not JSON: {reason}"))?;
    let header: Header = serde_json::from_slice(&text)
        .map_err(|error| format!("its header is refused: {}", crate::names::clipped(&error.to_string())))?;
    header.check_ranges(data_bytes)?;
    Ok(SafetensorsSummary { tensors: header.0.len(), data_bytes })
}

/// One tensor's byte range, with its name for the error text.
struct Range {
    begin: u64,
    end: u64,
    name: String,
}

/// The ranges of all tensors, each already compared with its shape.
struct Header(Vec<Range>);

impl Header {
    /// The ranges must fill the data: no overlap, no hole, nothing before, between or after.
    fn check_ranges(&self, data_bytes: u64) -> Result<(), String> {
        let mut sorted: Vec<&Range> = self.0.iter().collect();
        sorted.sort_by_key(|range| (range.begin, range.end));
        let mut filled_bytes = 0;
        for Range { begin, end, name } in sorted {
            if *end > data_bytes {
                return Err(format!("tensor {name} ends at byte {end} of the data, which has {data_bytes}"));
            }
            if *begin < filled_bytes {
                return Err(format!(
                    "tensor {name} begins at byte {begin} and overlaps the one that ends at {filled_bytes}"
                ));
            }
            if *begin > filled_bytes {
                return Err(format!("bytes {filled_bytes} to {begin} belong to no tensor"));
            }
            filled_bytes = *end;
        }
        if filled_bytes != data_bytes {
            return Err(format!("bytes {filled_bytes} to {data_bytes} belong to no tensor"));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from tensor name to dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut names = BTreeSet::new();
        let mut ranges = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let shown = crate::names::shown(&name);
            if name == "__metadata__" {
                // Free text, read by nobody here; that it is JSON is already known.
                map.next_value::<IgnoredAny>()?;
            } else {
                let tensor: Tensor = map.next_value()?;
                let (begin, end) =
                    tensor.range().map_err(|reason| de::Error::custom(format_args!("tensor {shown} {reason}")))?;
                ranges.push(Range { begin, end, name: shown.clone() });
            }
            if !names.insert(name) {
                return Err(de::Error::custom(format_args!("{shown} stands in it twice")));
            }
            if names.len() > MAX_TENSORS {
                return Err(de::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
            }
        }
        Ok(Header(ranges))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Tensor {
    /// The byte range, if the shape fills exactly it.
    fn range(&self) -> Result<(u64, u64), String> {
        let (begin, end) = self.data_offsets;
        let Some(range_bytes) = end.checked_sub(begin) else {
            return Err(format!("ends at byte {end}, before it begins at {begin}"));
        };
        let Some(bits) = element_bits(&self.dtype) else {
            return Err(format!("has the unknown data type {:?}", crate::names::shown(&self.dtype)));
        };
        if self.shape.len() > MAX_RANK {
            return Err(format!("has more than {MAX_RANK} dimensions"));
        }
        let shape_bits = crate::shape::elements(&self.shape).and_then(|elements| elements.checked_mul(bits));
        let Some(shape_bits) = shape_bits else {
            return Err("has a shape whose product overflows 64 bits".to_owned());
        };
        if shape_bits % 8 != 0 || shape_bits / 8 != range_bytes {
            return Err(format!("has a shape of {} bytes but a range of {range_bytes}", shape_bits.div_ceil(8)));
        }
        Ok((begin, end))
    }
}

/// Bits of one element, for the data types of the format.
fn element_bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E5M2FNUZ" | "F8_E4M3FNUZ" | "F8_E8M0" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn file(header: &str, data_bytes: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data_bytes, 7);
        bytes
    }

    fn check_bytes(bytes: &[u8]) -> Result<SafetensorsSummary, String> {
        check(bytes, bytes.len() as u64)
    }

    const SOUND: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I8","shape":[],"data_offsets":[24,25]},"e":{"dtype":"F16","shape":[0],"data_offsets":[25,25]}} "#;

    #[test]
    fn a_sound_file_is_accepted() {
        let summary = SafetensorsSummary { tensors: 3, data_bytes: 25 };
        assert_eq!(check_bytes(&file(SOUND, 25)), Ok(summary));
    }

    #[test]
    fn lies_about_size_are_refused_before_anything_is_allocated() {
        for claimed in [u64::MAX, u64::MAX - 7, MAX_HEADER_BYTES + 1, 1_000] {
            let mut bytes = claimed.to_le_bytes().to_vec();
            bytes.extend_from_slice(b"{}");
            let reason = check_bytes(&bytes).unwrap_err();
            assert!(reason.contains("header claims"), "{reason}");
        }
    }

    #[test]
    fn headers_that_lie_are_refused_with_the_reason() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let two = |first: &str, second: &str| {
            format!(
                r#"{{"a":{{"dtype":"I8","shape":[4],"data_offsets":{first}}},"b":{{"dtype":"I8","shape":[4],"data_offsets":{second}}}}}"#
            )
        };
        let deep = format!(r#"{{"__metadata__":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let rank = format!("{:?}", vec![1; 65]);
        for (header, reason) in [
            (one("F32", "[2]", "[0,7]"), "shape of 8 bytes but a range of 7"),
            (one("F32", "[4294967296,4294967296]", "[0,8]"), "overflows"),
            (one("F32", "[4611686018427387904]", "[0,0]"), "overflows"),
            (one("F32", "[9223372036854775807,2,0]", "[0,0]"), "overflows"),
            (one("F32", "[18446744073709551615,0]", "[0,0]"), "overflows"),
            (one("F32", "[-1]", "[0,8]"), "header is refused"),
            (one("F32", "[2.5]", "[0,8]"), "header is refused"),
            (one("F32", "[2]", "[8,0]"), "before it begins"),
            (one("F32", "[4]", "[0,16]"), "ends at byte 16 of the data, which has 8"),
            (one("X99", "[2]", "[0,8]"), "unknown data type"),
            (one("F4", "[15]", "[0,8]"), "shape of 8 bytes"),
            (one("I8", &rank, "[0,1]"), "more than 64 dimensions"),
            (two("[0,4]", "[2,6]"), "overlaps"),
            (two("[0,4]", "[0,4]"), "overlaps"),
            (
                two("[0,4]", "[5,9]").replacen("[4]", "[3]", 1).replace("[0,4]", "[0,3]").replace("[5,9]", "[4,8]"),
                "bytes 3 to 4 belong to no tensor",
            ),
            (one("I8", "[4]", "[0,4]"), "belong to no tensor"),
            (one("I8", "[4]", "[4,8]"), "belong to no tensor"),
            (format!("{{{0},{0}}}", r#""a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}"#), "twice"),
            (deep, "64 levels"),
            (format!(r#"{{"a":{{"{}":1}}}}"#, "k".repeat(100_000)), "unknown field"),
            ("[1]".to_owned(), "brace"),
            ("{\"a\":1}".to_owned(), "header is refused"),
        ] {
            let error = check_bytes(&file(&header, 8)).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
            assert!(error.len() < 300, "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn mutations_never_panic_and_what_is_accepted_fits_the_file(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = file(SOUND, 25);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            match check_bytes(&bytes) {
                Ok(summary) => prop_assert!(summary.data_bytes < bytes.len() as u64),
                Err(reason) => prop_assert!(reason.len() > 10 && reason.len() < 400, "{}", reason),
            }
        }
    }
}
