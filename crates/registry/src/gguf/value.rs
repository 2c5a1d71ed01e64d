//! The keys of a header and their values.

use std::{collections::BTreeMap, io::Read};

use super::{Refusal, wire::Wire};
use crate::names;

/// The longest key; the format's own limit.
const MAX_KEY_BYTES: u64 = 65_535;

/// The most keys. Published models have fewer than 100.
const MAX_KEYS: u64 = 65_536;

/// Longer texts are known to be there, and not kept: of those that matter here, a chat template may
/// be long, and its text is of no interest.
const MAX_KEPT_TEXT_BYTES: u64 = 64 << 10;

/// Longer arrays of numbers are kept only where the tokenizer needs them. llama.cpp reads at most
/// 512 numbers, one a layer, of any other.
const MAX_KEPT_NUMBERS_BYTES: u64 = 64 << 10;

/// The prefix of the arrays that are as long as the vocabulary.
const TOKENIZER: &str = "tokenizer.ggml.";
/// The suffix of the array that names what a classifier's scores mean.
pub(super) const LABELS: &str = ".classifier.output_labels";

/// The types that a number can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

/// The code of a text.
const TEXT: u32 = 8;
/// The code of an array.
const ARRAY: u32 = 9;

impl Number {
    fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// What no number of this type may be, whatever it is for: llama.cpp takes a bool's byte as it
    /// is, and compares floating-point numbers as if they were ordered.
    fn check(self, bytes: &[u8]) -> Result<(), Refusal> {
        let nan = match self {
            Self::Bool if bytes.iter().any(|byte| *byte > 1) => {
                return Err("holds a bool that is neither 0 nor 1".to_owned());
            }
            Self::F32 => floats(bytes).any(f32::is_nan),
            Self::F64 => bytes.as_chunks().0.iter().any(|number| f64::from_le_bytes(*number).is_nan()),
            _ => false,
        };
        if nan { Err("holds a NaN".to_owned()) } else { Ok(()) }
    }
}

/// The numbers of an f32 array's bytes.
pub(super) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number))
}

/// Many texts in one allocation: a vocabulary has 262,144.
#[derive(Debug, Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.bytes.get(start..*end).unwrap_or_default())
    }
}

/// One value.
#[derive(Debug)]
pub(super) enum Value {
    /// A number, its bytes little endian and followed by zeros.
    Number(Number, [u8; 8]),
    /// A text, or its length where it is too long to be kept.
    Text(Result<Vec<u8>, u64>),
    /// An array of numbers, kept.
    Numbers(Number, Vec<u8>),
    /// An array of texts, kept.
    Texts(Texts),
    /// An array that nobody here reads.
    Passed(&'static str),
}

impl Value {
    fn type_name(&self) -> String {
        match self {
            Self::Number(number, _) => number.name().to_owned(),
            Self::Text(_) => "a text".to_owned(),
            Self::Numbers(number, _) => format!("an array of {}", number.name()),
            Self::Texts(_) => "an array of texts".to_owned(),
            Self::Passed(of) => format!("a long array of {of}"),
        }
    }
}

/// All keys with their values.
#[derive(Debug, Default)]
pub(super) struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Reads `count` keys.
    pub(super) fn read<R: Read>(wire: &mut Wire<R>, count: u64) -> Result<Self, Refusal> {
        // A key has at least its length, one byte, its type and one byte of value.
        if count > MAX_KEYS || count > wire.remaining() / 14 {
            return Err(format!("it claims {count} keys, more than its size or the limit of {MAX_KEYS} allows"));
        }
        let mut all = BTreeMap::new();
        for _ in 0..count {
            let key = wire.string(MAX_KEY_BYTES, "a key")?;
            let key = String::from_utf8(key).map_err(|_| "a key is not UTF-8".to_owned())?;
            let shown = names::shown(&key);
            // llama.cpp compares keys up to the first NUL, so one could hide behind another.
            if key.is_empty() || key.chars().any(char::is_control) {
                return Err(format!("the key \"{shown}\" is empty or holds a control character"));
            }
            let value = read_value(wire, &key).map_err(|reason| format!("the key {shown} {reason}"))?;
            if all.insert(key, value).is_some() {
                return Err(format!("the key {shown} stands in it twice"));
            }
        }
        Ok(Self(all))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn u32(&self, key: &str) -> Result<Option<u32>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(Number::U32, [a, b, c, d, ..])) => Ok(Some(u32::from_le_bytes([*a, *b, *c, *d]))),
            Some(other) => wrong_type(key, other, "u32"),
        }
    }

    pub(super) fn f32(&self, key: &str) -> Result<Option<f32>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(Number::F32, [a, b, c, d, ..])) => Ok(Some(f32::from_le_bytes([*a, *b, *c, *d]))),
            Some(other) => wrong_type(key, other, "f32"),
        }
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(Number::Bool, bytes)) => Ok(Some(bytes.first() != Some(&0))),
            Some(other) => wrong_type(key, other, "bool"),
        }
    }

    /// A text as llama.cpp sees it: up to the first NUL.
    pub(super) fn text(&self, key: &str) -> Result<Option<&[u8]>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(Ok(text))) => Ok(Some(up_to_nul(text))),
            Some(Value::Text(Err(bytes))) => Err(format!("the key {key} has a text of {bytes} bytes, far too long")),
            Some(other) => wrong_type(key, other, "a text"),
        }
    }

    /// Whether there is a text, of any length.
    pub(super) fn has_text(&self, key: &str) -> Result<bool, Refusal> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Text(_)) => Ok(true),
            Some(other) => wrong_type(key, other, "a text"),
        }
    }

    /// A text for people, or nothing where there is none that can be shown.
    pub(super) fn label(&self, key: &str) -> Option<String> {
        match self.get(key) {
            Some(Value::Text(Ok(text))) => Some(names::shown(&String::from_utf8_lossy(up_to_nul(text)))),
            _ => None,
        }
    }

    /// The numbers of an array of u32, i32 or bool, all of which llama.cpp takes one for the other.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<u32>>, Refusal> {
        let (number, bytes) = match self.get(key) {
            None | Some(Value::Number(..)) => return Ok(None),
            Some(Value::Numbers(number, bytes)) => (*number, bytes),
            Some(other) => return wrong_type(key, other, "an array of u32 or i32"),
        };
        let numbers: Vec<u32> = match number {
            Number::Bool => bytes.iter().copied().map(u32::from).collect(),
            Number::U32 | Number::I32 => bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(),
            other => return Err(format!("the key {key} is an array of {}, not of u32 or i32", other.name())),
        };
        if numbers.iter().any(|value| i32::try_from(*value).is_err()) {
            return Err(format!("the key {key} holds a number that is negative or above {}", i32::MAX));
        }
        Ok(Some(numbers))
    }

    /// The bytes of an array of numbers of one of the types `of`.
    pub(super) fn numbers(&self, key: &str, of: &[Number]) -> Result<Option<(Number, &[u8])>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Numbers(number, bytes)) if of.contains(number) => Ok(Some((*number, bytes))),
            Some(other) => {
                let wanted: Vec<&str> = of.iter().map(|number| number.name()).collect();
                wrong_type(key, other, &format!("an array of {}", wanted.join(" or ")))
            }
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&Texts>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts)),
            Some(other) => wrong_type(key, other, "an array of texts"),
        }
    }
}

/// `text` up to its first NUL: where C++ strings made from it end.
pub(super) fn up_to_nul(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn wrong_type<T>(key: &str, value: &Value, wanted: &str) -> Result<T, Refusal> {
    Err(format!("the key {key} is {}, not {wanted}", value.type_name()))
}

/// Reads the value of `key`; the reason of a refusal follows "the key ...".
fn read_value<R: Read>(wire: &mut Wire<R>, key: &str) -> Result<Value, Refusal> {
    match wire.u32("the type of a value")? {
        TEXT => {
            let bytes = wire.u64("the length of a text")?;
            wire.need(bytes, "a text")?;
            if bytes > MAX_KEPT_TEXT_BYTES {
                wire.pass(bytes, "a text", |_| Ok(()))?;
                return Ok(Value::Text(Err(bytes)));
            }
            let mut text = Vec::new();
            wire.append(bytes, &mut text, "a text")?;
            Ok(Value::Text(Ok(text)))
        }
        ARRAY => read_array(wire, key),
        code => {
            let number = Number::from_code(code).ok_or_else(|| format!("has the unknown type {code}"))?;
            let mut bytes = [0; 8];
            wire.fill(&mut bytes[..number.bytes()], "a number")?;
            number.check(&bytes[..number.bytes()])?;
            Ok(Value::Number(number, bytes))
        }
    }
}

fn read_array<R: Read>(wire: &mut Wire<R>, key: &str) -> Result<Value, Refusal> {
    let code = wire.u32("the type of an array")?;
    let length = wire.u64("the length of an array")?;
    let too_long = || format!("is an array of {length}, more than the file can hold");
    match code {
        ARRAY => Err("is an array of arrays, which no engine reads".to_owned()),
        TEXT => {
            // Each text has at least its length.
            if length > wire.remaining() / 8 {
                return Err(too_long());
            }
            read_texts(wire, length, key.starts_with(TOKENIZER) || key.ends_with(LABELS))
        }
        code => {
            let number = Number::from_code(code).ok_or_else(|| format!("is an array of the unknown type {code}"))?;
            let bytes = length.checked_mul(number.bytes() as u64).filter(|bytes| *bytes <= wire.remaining());
            let bytes = bytes.ok_or_else(too_long)?;
            if bytes > MAX_KEPT_NUMBERS_BYTES && !key.starts_with(TOKENIZER) {
                wire.pass(bytes, "an array", |piece| number.check(piece))?;
                return Ok(Value::Passed(number.name()));
            }
            let mut kept = Vec::new();
            wire.append(bytes, &mut kept, "an array")?;
            number.check(&kept)?;
            Ok(Value::Numbers(number, kept))
        }
    }
}

fn read_texts<R: Read>(wire: &mut Wire<R>, length: u64, keep: bool) -> Result<Value, Refusal> {
    let mut texts = Texts::default();
    for _ in 0..length {
        let bytes = wire.u64("the length of a text in an array")?;
        wire.need(bytes, "a text in an array")?;
        if keep {
            wire.append(bytes, &mut texts.bytes, "a text in an array")?;
            texts.ends.push(texts.bytes.len());
        } else {
            wire.pass(bytes, "a text in an array", |_| Ok(()))?;
        }
    }
    Ok(if keep { Value::Texts(texts) } else { Value::Passed("texts") })
}
