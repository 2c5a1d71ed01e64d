//! The types of a tensor's elements.

use std::fmt;

use bytemuck::Pod;
use half::{bf16, f16};

/// The type of one element. Text tensors are not supported by any engine here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// One byte, 0 or 1.
    Bool,
    /// 8-bit unsigned integer.
    U8,
    /// 16-bit unsigned integer.
    U16,
    /// 32-bit unsigned integer.
    U32,
    /// 64-bit unsigned integer.
    U64,
    /// 8-bit signed integer.
    I8,
    /// 16-bit signed integer.
    I16,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an IEEE 754 single.
    Bf16,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
}

/// Every element type, with its size in bytes and its name in the Open Inference Protocol v2.
const TABLE: [(ElementType, usize, &str); 13] = [
    (ElementType::Bool, 1, "BOOL"),
    (ElementType::U8, 1, "UINT8"),
    (ElementType::U16, 2, "UINT16"),
    (ElementType::U32, 4, "UINT32"),
    (ElementType::U64, 8, "UINT64"),
    (ElementType::I8, 1, "INT8"),
    (ElementType::I16, 2, "INT16"),
    (ElementType::I32, 4, "INT32"),
    (ElementType::I64, 8, "INT64"),
    (ElementType::F16, 2, "FP16"),
    (ElementType::Bf16, 2, "BF16"),
    (ElementType::F32, 4, "FP32"),
    (ElementType::F64, 8, "FP64"),
];

impl ElementType {
    /// Every element type.
    pub fn all() -> impl Iterator<Item = ElementType> {
        TABLE.iter().map(|(element, ..)| *element)
    }

    /// Bytes of one element.
    #[must_use]
    pub fn size(self) -> usize {
        TABLE.iter().find(|(element, ..)| *element == self).map_or(1, |(_, size, _)| *size)
    }

    /// Its name in the Open Inference Protocol v2 (`FP32`, `INT64`, ...).
    #[must_use]
    pub fn oip_name(self) -> &'static str {
        TABLE.iter().find(|(element, ..)| *element == self).map_or("", |(_, _, name)| name)
    }

    /// The element type of that name in the Open Inference Protocol v2.
    #[must_use]
    pub fn from_oip_name(name: &str) -> Option<ElementType> {
        TABLE.iter().find(|(_, _, known)| *known == name).map(|(element, ..)| *element)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.oip_name())
    }
}

/// A Rust type that can be the element of a tensor.
pub trait Element: Pod + Default {
    /// Its element type.
    const TYPE: ElementType;
}

macro_rules! elements {
    ($($rust:ty => $element:ident),* $(,)?) => {
        $(impl Element for $rust {
            const TYPE: ElementType = ElementType::$element;
        })*
    };
}

elements! {
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    f16 => F16, bf16 => Bf16, f32 => F32, f64 => F64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_in_the_table_once() {
        for element in ElementType::all() {
            assert_eq!(ElementType::from_oip_name(element.oip_name()), Some(element));
            assert!(element.size().is_power_of_two());
        }
        assert_eq!(ElementType::from_oip_name("BYTES"), None);
    }
}
