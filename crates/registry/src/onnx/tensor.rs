//! One tensor of an ONNX file: whether its shape, data type and data agree.

use super::wire::Refusal;

/// The most dimensions of one tensor.
const MAX_RANK: usize = 64;

/// Where a tensor's bytes lie in another file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct External {
    pub(super) location: Option<String>,
    pub(super) offset: Option<u64>,
    pub(super) length: Option<u64>,
}

/// What a `TensorProto` says about itself, its data replaced by sizes.
#[derive(Debug, Default)]
pub(super) struct Tensor {
    pub(super) dims: Vec<u64>,
    pub(super) data_type: Option<u64>,
    pub(super) raw_bytes: Option<u64>,
    /// The typed field that holds data (its number) and how many values stand in it.
    pub(super) typed: Option<(u64, u64)>,
    pub(super) is_external: Option<bool>,
    pub(super) external: Option<External>,
}

/// `TensorProto.DataType`: bits of one element and the typed field that may hold it
/// (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>).
struct ElementType {
    bits: u64,
    typed_field: u64,
    /// Elements in one value of the typed field: 4-bit numbers stand in pairs. 0: two values make
    /// one element (complex numbers).
    per_value: u64,
}

const FLOAT_DATA: u64 = 4;
const INT32_DATA: u64 = 5;
const STRING_DATA: u64 = 6;
const INT64_DATA: u64 = 7;
const DOUBLE_DATA: u64 = 10;
const UINT64_DATA: u64 = 11;
const STRING: u64 = 8;

impl ElementType {
    fn of(data_type: u64) -> Option<Self> {
        let (bits, typed_field, per_value) = match data_type {
            1 => (32, FLOAT_DATA, 1),
            2 | 3 | 9 | 17..=20 | 24 => (8, INT32_DATA, 1),
            4 | 5 | 10 | 16 => (16, INT32_DATA, 1),
            6 => (32, INT32_DATA, 1),
            7 => (64, INT64_DATA, 1),
            STRING => (0, STRING_DATA, 1),
            11 => (64, DOUBLE_DATA, 1),
            12 => (32, UINT64_DATA, 1),
            13 => (64, UINT64_DATA, 1),
            14 => (64, FLOAT_DATA, 0),
            15 => (128, DOUBLE_DATA, 0),
            21..=23 => (4, INT32_DATA, 2),
            25 | 26 => (2, INT32_DATA, 4),
            _ => return None,
        };
        Some(Self { bits, typed_field, per_value })
    }

    fn values_for(&self, elements: u64) -> Option<u64> {
        match self.per_value {
            0 => elements.checked_mul(2),
            n => Some(elements.div_ceil(n)),
        }
    }
}

impl Tensor {
    pub(super) fn push_dim(&mut self, dim: u64) -> Result<(), Refusal> {
        // Negative numbers are written as their two's complement in 64 bits.
        if i64::try_from(dim).is_err() {
            return Err("a tensor has a negative dimension".to_owned());
        }
        if self.dims.len() >= MAX_RANK {
            return Err(format!("a tensor has more than {MAX_RANK} dimensions"));
        }
        self.dims.push(dim);
        Ok(())
    }

    pub(super) fn add_typed(&mut self, field: u64, values: u64) -> Result<(), Refusal> {
        match &mut self.typed {
            None => self.typed = Some((field, values)),
            Some((known, count)) if *known == field => *count = count.saturating_add(values),
            Some(_) => return Err("a tensor has data of two types".to_owned()),
        }
        Ok(())
    }

    /// Compares shape, type and data. For external data: the file's name and how many bytes it
    /// must have.
    pub(super) fn check(self) -> Result<Option<(String, u64)>, Refusal> {
        let elements = crate::shape::elements(&self.dims);
        let overflow = || format!("the product of the shape {:?} overflows 64 bits", self.dims);
        let elements = elements.ok_or_else(overflow)?;
        let data_type = self.data_type.unwrap_or(0);
        let Some(element) = ElementType::of(data_type) else {
            return Err(format!("a tensor has the unknown data type {data_type}"));
        };
        let bytes = elements.checked_mul(element.bits).ok_or_else(overflow)?.div_ceil(8);
        let is_external = self.is_external.unwrap_or(false);
        match (is_external, self.external, self.raw_bytes, self.typed) {
            (true, Some(external), None, None) if data_type != STRING => external.check(bytes, elements).map(Some),
            (true, ..) => Err("a tensor marked as external names no file, holds data besides, \
                               or is of strings"
                .to_owned()),
            (false, Some(_), ..) => Err("a tensor names an external file but is not marked as external".to_owned()),
            (false, None, Some(_), Some(_)) => Err("a tensor has both raw and typed data".to_owned()),
            (false, None, Some(raw_bytes), None) => {
                if data_type == STRING || raw_bytes != bytes {
                    return Err(format!("a tensor of shape {:?} needs {bytes} bytes but holds {raw_bytes}", self.dims));
                }
                Ok(None)
            }
            (false, None, None, typed) => {
                let (field, values) = typed.unwrap_or((element.typed_field, 0));
                if field != element.typed_field || element.values_for(elements) != Some(values) {
                    return Err(format!(
                        "a tensor of shape {:?} and data type {data_type} holds {values} values \
                         in field {field}, which do not fit",
                        self.dims
                    ));
                }
                Ok(None)
            }
        }
    }
}

impl External {
    /// Takes one `StringStringEntryProto` of `external_data`. Keys besides these three (checksums,
    /// an optimiser's notes) lead to no file and are left to the engine.
    pub(super) fn set(&mut self, key: &str, value: String) -> Result<(), Refusal> {
        let number = |value: &str| {
            let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| value.parse::<u64>().ok()).flatten().ok_or_else(|| {
                format!("the {key} of external data, {:?}, is no byte count", crate::names::shown(value))
            })
        };
        let was_there = match key {
            "location" => self.location.replace(value).is_some(),
            "offset" => self.offset.replace(number(&value)?).is_some(),
            "length" => self.length.replace(number(&value)?).is_some(),
            _ => false,
        };
        if was_there {
            return Err(format!("external data has its {key} twice"));
        }
        Ok(())
    }

    fn check(self, bytes: u64, elements: u64) -> Result<(String, u64), Refusal> {
        let Some(location) = self.location else {
            return Err("external data has no location".to_owned());
        };
        let shown = crate::names::shown(&location);
        crate::names::check_relative(&location).map_err(|error| error.to_string())?;
        // ONNX Runtime takes `*/_ORT_MEM_ADDR_/*` for an address in its own memory.
        if location.contains(['*', ':']) {
            return Err(format!("the external file {shown} has a '*' or ':' in its name"));
        }
        if let Some(length) = self.length
            && length != bytes
        {
            return Err(format!("a tensor of {elements} elements needs {bytes} bytes but names {length} of {shown}"));
        }
        let needed_bytes = self
            .offset
            .unwrap_or(0)
            .checked_add(bytes)
            .ok_or_else(|| format!("offset and length in the external file {shown} overflow 64 bits"))?;
        Ok((location, needed_bytes))
    }
}
