//! The elements of a tensor as JSON: flat, or nested as deep as the shape.
//!
//! Numbers are read straight from the text into the tensor's bytes. Not `serde_json::Value`: it
//! takes sixteen bytes of memory for every byte of `0,0,0`, and rounds twice on the way to single
//! precision. Not a recursive reader either: how deep an array may go is said by the shape, and
//! nothing is put on the stack for it.

use bytes::Bytes;
use halny_engine::{ElementType, Tensor};
use serde::ser::{Serialize, SerializeSeq, Serializer};

/// Characters of an element that a refusal repeats.
const SHOWN_CHARS_MAX: usize = 40;

/// Reads numbers or booleans into a tensor.
///
/// # Errors
/// Which element is not of the type, or how the array differs from the shape.
pub(super) fn read_numbers(text: &str, element: ElementType, shape: &[usize]) -> Result<Tensor, String> {
    let wanted = count_of(shape, text)?;
    let mut tensor = Tensor::zeros(element, shape).map_err(|error| error.to_string())?;
    debug_assert_eq!(tensor.bytes().len(), wanted * element.size());
    let mut slots = tensor.bytes_mut().chunks_exact_mut(element.size());
    walk(text, shape, |place, token| {
        let stored = slots.next().and_then(|slot| store(element, token, slot));
        stored.ok_or_else(|| format!("element {place} is {}, which is not a {element}", shown(token)))
    })?;
    Ok(tensor)
}

/// Reads texts.
///
/// # Errors
/// Which element is not a text, or how the array differs from the shape.
pub(super) fn read_strings(text: &str, shape: &[usize]) -> Result<Vec<Bytes>, String> {
    count_of(shape, text)?;
    let mut strings = Vec::new();
    walk(text, shape, |place, token| {
        let string = if token.starts_with('"') { serde_json::from_str::<String>(token).ok() } else { None };
        let string = string.ok_or_else(|| format!("element {place} is {}, which is not a text", shown(token)))?;
        strings.push(Bytes::from(string));
        Ok(())
    })?;
    Ok(strings)
}

/// The elements of a shape, refused where the text cannot hold as many: so that memory is only
/// taken in proportion to what was sent.
fn count_of(shape: &[usize], text: &str) -> Result<usize, String> {
    let count = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
    count.filter(|count| *count <= text.len().div_ceil(2)).ok_or_else(|| {
        let count = count
            .map_or_else(|| "more elements than memory has addresses".to_owned(), |count| format!("{count} elements"));
        format!("`data` has fewer elements than the shape {shape:?}, which has {count}")
    })
}

fn shown(token: &str) -> String {
    match token.char_indices().nth(SHOWN_CHARS_MAX) {
        None => token.to_owned(),
        Some((end, _)) => format!("{}...", token.get(..end).unwrap_or_default()),
    }
}

/// An array that is open.
struct Level {
    /// Elements before it.
    before: usize,
    /// Arrays directly in it.
    arrays: usize,
}

/// Calls `leaf` with every element in order, and checks that each array holds what its place in
/// the shape wants. `text` is JSON already: separators are not looked at.
fn walk<'a>(
    text: &'a str,
    shape: &[usize],
    mut leaf: impl FnMut(usize, &'a str) -> Result<(), String>,
) -> Result<(), String> {
    let spans = spans(shape);
    let whole = spans.first().copied().unwrap_or(1);
    let mut open: Vec<Level> = Vec::with_capacity(shape.len().max(1));
    let mut count = 0;
    let mut at = 0;
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'[' => {
                if open.len() >= shape.len().max(1) {
                    return Err(format!("`data` is nested deeper than the shape {shape:?}"));
                }
                if let Some(level) = open.last_mut() {
                    level.arrays += 1;
                }
                open.push(Level { before: count, arrays: 0 });
                at += 1;
            }
            b']' => {
                let level = open.pop().ok_or_else(not_an_array)?;
                close(&level, count - level.before, shape, &spans, open.len())?;
                if open.is_empty() {
                    return Ok(());
                }
                at += 1;
            }
            b',' | b' ' | b'\t' | b'\n' | b'\r' => at += 1,
            _ => {
                let token = token(text, at);
                let level = open.last().ok_or_else(not_an_array)?;
                if level.arrays > 0 {
                    return Err("`data` has elements and arrays side by side".to_owned());
                }
                if count == whole {
                    return Err(format!("`data` has more elements than the shape {shape:?}, which has {whole}"));
                }
                leaf(count, token)?;
                count += 1;
                at += token.len();
            }
        }
    }
    Err(not_an_array())
}

fn not_an_array() -> String {
    "`data` is not an array".to_owned()
}

/// The elements in an array at each depth: the products of the shape's ends.
fn spans(shape: &[usize]) -> Vec<usize> {
    let mut spans: Vec<usize> = shape
        .iter()
        .rev()
        .scan(1usize, |product, length| {
            *product = product.saturating_mul(*length);
            Some(*product)
        })
        .collect();
    spans.reverse();
    spans
}

fn close(level: &Level, held: usize, shape: &[usize], spans: &[usize], depth: usize) -> Result<(), String> {
    let wanted = spans.get(depth).copied().unwrap_or(1);
    let arrays = shape.get(depth).copied().unwrap_or(0);
    if held == wanted && (level.arrays == 0 || level.arrays == arrays) {
        return Ok(());
    }
    let kind = if depth == 0 { "`data`" } else { "an array in `data`" };
    Err(format!("{kind} has {held} elements in {} arrays; the shape {shape:?} takes {wanted} there", level.arrays))
}

/// The element that begins at `at`, at least one character long.
fn token(text: &str, at: usize) -> &str {
    let rest = text.get(at..).unwrap_or_default();
    let end = if rest.starts_with('"') {
        let mut escaped = false;
        let quote = rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        quote.map(|quote| quote + 2)
    } else {
        rest.bytes().position(|byte| matches!(byte, b',' | b']' | b'[' | b' ' | b'\t' | b'\n' | b'\r'))
    };
    rest.get(..end.unwrap_or(rest.len()).max(1)).unwrap_or(rest)
}

/// Writes one element; `None` where it is not of the type or out of its range.
fn store(element: ElementType, token: &str, slot: &mut [u8]) -> Option<()> {
    macro_rules! put {
        ($number:expr) => {
            slot.copy_from_slice(&$number.to_le_bytes())
        };
    }
    match element {
        ElementType::Bool => match token {
            "true" | "1" => put!(1u8),
            "false" | "0" => put!(0u8),
            _ => return None,
        },
        ElementType::U8 => put!(token.parse::<u8>().ok()?),
        ElementType::U16 => put!(token.parse::<u16>().ok()?),
        ElementType::U32 => put!(token.parse::<u32>().ok()?),
        ElementType::U64 => put!(token.parse::<u64>().ok()?),
        ElementType::I8 => put!(token.parse::<i8>().ok()?),
        ElementType::I16 => put!(token.parse::<i16>().ok()?),
        ElementType::I32 => put!(token.parse::<i32>().ok()?),
        ElementType::I64 => put!(token.parse::<i64>().ok()?),
        ElementType::F32 => put!(token.parse::<f32>().ok().filter(|number| number.is_finite())?),
        ElementType::F64 => put!(token.parse::<f64>().ok().filter(|number| number.is_finite())?),
        ElementType::F16 | ElementType::Bf16 => return None,
    }
    Some(())
}

/// Whether JSON has a form for elements of this type: not for halves, as in Triton.
pub(super) fn has_json_form(element: ElementType) -> bool {
    !matches!(element, ElementType::F16 | ElementType::Bf16)
}

/// A tensor's elements as one flat array.
pub(super) struct Elements<'a>(pub(super) &'a Tensor);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        macro_rules! numbers {
            ($type:ty) => {
                serializer.collect_seq(self.0.elements::<$type>().unwrap_or_default())
            };
        }
        match self.0.element() {
            ElementType::Bool => serializer.collect_seq(self.0.bytes().iter().map(|byte| *byte != 0)),
            ElementType::U8 => numbers!(u8),
            ElementType::U16 => numbers!(u16),
            ElementType::U32 => numbers!(u32),
            ElementType::U64 => numbers!(u64),
            ElementType::I8 => numbers!(i8),
            ElementType::I16 => numbers!(i16),
            ElementType::I32 => numbers!(i32),
            ElementType::I64 => numbers!(i64),
            ElementType::F32 => numbers!(f32),
            ElementType::F64 => numbers!(f64),
            // Refused before the model runs.
            ElementType::F16 | ElementType::Bf16 => serializer.serialize_seq(Some(0))?.end(),
        }
    }
}

/// Whether JSON can write every element: it has no infinities and no NaN.
pub(super) fn is_finite(tensor: &Tensor) -> bool {
    match tensor.element() {
        ElementType::F32 => tensor.elements::<f32>().is_none_or(|all| all.iter().all(|x| x.is_finite())),
        ElementType::F64 => tensor.elements::<f64>().is_none_or(|all| all.iter().all(|x| x.is_finite())),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn nested(flat: &[Value], shape: &[usize]) -> Value {
        match shape {
            [] | [_] => json!(flat),
            [outer, inner @ ..] => {
                let span: usize = inner.iter().product();
                (0..*outer).map(|row| nested(&flat[row * span..(row + 1) * span], inner)).collect()
            }
        }
    }

    fn any_tensor() -> impl Strategy<Value = Tensor> {
        let elements: Vec<ElementType> = ElementType::all().filter(|element| has_json_form(*element)).collect();
        (prop::sample::select(elements), prop::collection::vec(0usize..4, 0..4))
            .prop_flat_map(|(element, shape)| {
                let bytes = element.size() * shape.iter().product::<usize>();
                (Just(element), Just(shape), prop::collection::vec(any::<u8>(), bytes))
            })
            .prop_map(|(element, shape, mut bytes)| {
                if element == ElementType::Bool {
                    bytes.iter_mut().for_each(|byte| *byte &= 1);
                }
                Tensor::from_bytes(element, &shape, &bytes).unwrap()
            })
            .prop_filter("JSON writes finite numbers only", is_finite)
    }

    proptest! {
        #[test]
        fn a_tensor_survives_json_flat_and_nested(tensor in any_tensor()) {
            let flat = serde_json::to_string(&Elements(&tensor)).unwrap();
            let read = |text: &str| read_numbers(text, tensor.element(), tensor.shape());
            prop_assert_eq!(&read(&flat).unwrap(), &tensor);
            // Written as raw numbers: `Value` would round them.
            let values: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(&flat).unwrap();
            let marks: Vec<Value> = (0..values.len()).map(|place| json!(format!("#{place}#"))).collect();
            let mut text = nested(&marks, tensor.shape()).to_string();
            for (place, value) in values.iter().enumerate() {
                text = text.replace(&format!("\"#{place}#\""), value.get());
            }
            prop_assert_eq!(&read(&text).unwrap(), &tensor);
            let spaced = text.replace('[', " [\n").replace(',', " ,\t");
            prop_assert_eq!(&read(&spaced).unwrap(), &tensor);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\], 0-9a\"\\\\.\u{e9}-]{0,60}", shape in prop::collection::vec(0usize..4, 0..4)) {
            for element in ElementType::all() {
                let _ = read_numbers(&text, element, &shape);
            }
            let _ = read_strings(&text, &shape);
        }

        #[test]
        fn texts_survive_json(texts in prop::collection::vec(any::<String>(), 0..6)) {
            let json = serde_json::to_string(&texts).unwrap();
            let read = read_strings(&json, &[texts.len()]).unwrap();
            let expected: Vec<Bytes> = texts.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn a_number_is_taken_exactly_when_the_type_holds_it(number in -70_000i64..70_000) {
            let text = format!("[{number}]");
            let taken = |element| read_numbers(&text, element, &[1]).is_ok();
            prop_assert_eq!(taken(ElementType::U8), u8::try_from(number).is_ok());
            prop_assert_eq!(taken(ElementType::I8), i8::try_from(number).is_ok());
            prop_assert_eq!(taken(ElementType::U16), u16::try_from(number).is_ok());
            prop_assert_eq!(taken(ElementType::I16), i16::try_from(number).is_ok());
            prop_assert_eq!(taken(ElementType::U32), u32::try_from(number).is_ok());
            prop_assert!(taken(ElementType::I32) && taken(ElementType::F32) && taken(ElementType::F64));
        }
    }

    #[test]
    fn arrays_that_differ_from_the_shape_are_refused() {
        let refused = |text: &str, shape: &[usize]| read_numbers(text, ElementType::F32, shape).unwrap_err();
        assert!(refused("[1,2,3]", &[2]).contains("more elements"));
        assert!(refused("[1]", &[3]).contains("fewer elements"));
        assert!(refused("[1,   2]", &[3]).contains("takes 3"));
        assert!(refused("[[1,2,3],[4]]", &[2, 2]).contains("takes 2"));
        assert!(refused("[[1],[2],[3],[4]]", &[2, 2]).contains("takes 2"));
        assert!(refused("[[1,2],3,4]", &[2, 2]).contains("side by side"));
        assert!(refused("[[1]]", &[1]).contains("deeper"));
        assert!(refused(&"[".repeat(100_000), &[1]).contains("deeper"));
        assert!(refused("7", &[1]).contains("not an array"));
        assert!(refused("[{\"a\":1}]", &[1]).contains("not a FP32"));
        assert!(refused("[1]", &[usize::MAX, 2]).contains("memory"));
        assert!(refused("[1e39]", &[1]).contains("element 0 is 1e39"));
        assert!(refused("[null]", &[1]).contains("element 0 is null"));
        assert!(refused("[\"1\"]", &[1]).contains("element 0"));
    }

    #[test]
    fn booleans_are_words_or_zero_and_one() {
        let tensor = read_numbers("[true, false, 1, 0]", ElementType::Bool, &[4]).unwrap();
        assert_eq!(tensor.bytes(), [1, 0, 1, 0]);
        assert!(read_numbers("[2]", ElementType::Bool, &[1]).is_err());
        assert!(read_numbers("[true]", ElementType::U8, &[1]).is_err());
    }
}
