//! From what was sent for an input to a tensor, or to texts.

use bytes::{Buf, Bytes};
use halny_engine::{Element, ElementType, Tensor};

use super::elements;
use super::proto::InferTensorContents;
use crate::ApiError;

/// Characters of a name that a refusal repeats.
const SHOWN_CHARS_MAX: usize = 100;

/// One input of a request, not yet looked into.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: Vec<i64>,
    pub(super) content: Content,
}

/// Where the elements of an input are.
#[derive(Debug)]
pub(super) enum Content {
    /// JSON: the text of `data`, a part of the body.
    Json(Bytes),
    /// Row-major and little-endian; of texts each with its length before it.
    Raw(Bytes),
    /// A protobuf field for each datatype.
    Typed(InferTensorContents),
    /// None were sent.
    Nothing,
}

/// A name as a refusal repeats it.
pub(super) fn shown(name: &str) -> String {
    match name.char_indices().nth(SHOWN_CHARS_MAX) {
        None => format!("{name:?}"),
        Some((end, _)) => format!("{:?}...", name.get(..end).unwrap_or_default()),
    }
}

impl Given {
    /// A refusal that names this input.
    pub(super) fn refused(&self, problem: impl std::fmt::Display) -> ApiError {
        ApiError::invalid(format!("input {}: {problem}", shown(&self.name)))
    }

    /// About how many bytes of JSON it would be to decode.
    pub(super) fn work(&self) -> usize {
        match &self.content {
            Content::Json(text) => text.len(),
            // Copied or packed, not parsed: some 16 times as fast.
            Content::Raw(bytes) => bytes.len() / 16,
            Content::Typed(contents) => bytes(contents) / 16,
            Content::Nothing => 0,
        }
    }

    /// Its elements as a tensor.
    ///
    /// # Errors
    /// What is wrong with them, naming the input.
    pub(super) fn tensor(&self, element: ElementType, shape: &[usize]) -> Result<Tensor, ApiError> {
        let tensor = match &self.content {
            Content::Json(_) if !elements::has_json_form(element) => {
                Err(format!("{element} has no form in JSON; send it as binary data"))
            }
            Content::Json(text) => utf8(text).and_then(|text| elements::read_numbers(text, element, shape)),
            Content::Raw(bytes) => Tensor::from_bytes(element, shape, bytes).map_err(|error| error.to_string()),
            Content::Typed(contents) => typed(contents, element, shape),
            Content::Nothing => Err("it has no elements".to_owned()),
        };
        let tensor = tensor.map_err(|problem| self.refused(problem))?;
        if element == ElementType::Bool && tensor.bytes().iter().any(|byte| *byte > 1) {
            return Err(self.refused("a BOOL is a byte of 0 or 1"));
        }
        Ok(tensor)
    }

    /// Its elements as byte strings.
    ///
    /// # Errors
    /// What is wrong with them, naming the input.
    pub(super) fn strings(&self, shape: &[usize]) -> Result<Vec<Bytes>, ApiError> {
        let wanted = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
        let strings = match &self.content {
            Content::Json(text) => utf8(text).and_then(|text| elements::read_strings(text, shape)),
            Content::Raw(bytes) => unframe(bytes.clone(), wanted.unwrap_or(0)),
            Content::Typed(contents) => only(contents, contents.bytes_contents.len(), "bytes_contents")
                .map(|()| contents.bytes_contents.clone()),
            Content::Nothing => Err("it has no elements".to_owned()),
        };
        let strings = strings.map_err(|problem| self.refused(problem))?;
        if wanted != Some(strings.len()) {
            let problem = format!("the shape {shape:?} does not fit the {} elements that were sent", strings.len());
            return Err(self.refused(problem));
        }
        Ok(strings)
    }
}

fn utf8(text: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(text).map_err(|_| "`data` is not UTF-8".to_owned())
}

/// Cuts BYTES in their binary form: before each element its length, 4 bytes, little-endian.
fn unframe(mut rest: Bytes, wanted: usize) -> Result<Vec<Bytes>, String> {
    let mut strings = Vec::new();
    while !rest.is_empty() {
        let place = strings.len();
        if place == wanted {
            return Err(format!("its shape has {wanted} elements, more were sent"));
        }
        if rest.len() < size_of::<u32>() {
            return Err(format!("element {place} breaks off within its length, which takes 4 bytes"));
        }
        let length = usize::try_from(rest.get_u32_le()).unwrap_or(usize::MAX);
        if length > rest.len() {
            return Err(format!(
                "element {place} is {length} bytes long by its own length, {} bytes are left",
                rest.len()
            ));
        }
        strings.push(rest.split_to(length));
    }
    Ok(strings)
}

/// About how many bytes its elements take.
fn bytes(contents: &InferTensorContents) -> usize {
    let texts: usize = contents.bytes_contents.iter().map(|text| text.len() + size_of::<Bytes>()).sum();
    contents.bool_contents.len()
        + size_of_val(&contents.int_contents[..])
        + size_of_val(&contents.int64_contents[..])
        + size_of_val(&contents.uint_contents[..])
        + size_of_val(&contents.uint64_contents[..])
        + size_of_val(&contents.fp32_contents[..])
        + size_of_val(&contents.fp64_contents[..])
        + texts
}

/// A tensor from the protobuf field of its datatype.
fn typed(contents: &InferTensorContents, element: ElementType, shape: &[usize]) -> Result<Tensor, String> {
    let signed = &contents.int_contents;
    let unsigned = &contents.uint_contents;
    match element {
        ElementType::Bool => {
            only(contents, contents.bool_contents.len(), "bool_contents")?;
            let bytes: Vec<u8> = contents.bool_contents.iter().map(|flag| u8::from(*flag)).collect();
            Tensor::from_bytes(element, shape, &bytes).map_err(|error| error.to_string())
        }
        ElementType::I8 => narrow::<i32, i8>(contents, signed, "int_contents", shape),
        ElementType::I16 => narrow::<i32, i16>(contents, signed, "int_contents", shape),
        ElementType::I32 => filled(contents, signed, "int_contents", shape),
        ElementType::I64 => filled(contents, &contents.int64_contents, "int64_contents", shape),
        ElementType::U8 => narrow::<u32, u8>(contents, unsigned, "uint_contents", shape),
        ElementType::U16 => narrow::<u32, u16>(contents, unsigned, "uint_contents", shape),
        ElementType::U32 => filled(contents, unsigned, "uint_contents", shape),
        ElementType::U64 => filled(contents, &contents.uint64_contents, "uint64_contents", shape),
        ElementType::F32 => filled(contents, &contents.fp32_contents, "fp32_contents", shape),
        ElementType::F64 => filled(contents, &contents.fp64_contents, "fp64_contents", shape),
        ElementType::F16 | ElementType::Bf16 => {
            Err(format!("{element} has no field in `contents`; send it in `raw_input_contents`"))
        }
    }
}

fn filled<T: Element>(
    contents: &InferTensorContents,
    elements: &[T],
    field: &str,
    shape: &[usize],
) -> Result<Tensor, String> {
    only(contents, elements.len(), field)?;
    Tensor::from_slice(shape, elements).map_err(|error| error.to_string())
}

fn narrow<W, T>(contents: &InferTensorContents, wide: &[W], field: &str, shape: &[usize]) -> Result<Tensor, String>
where
    W: Copy + std::fmt::Display,
    T: Element + TryFrom<W>,
{
    let one = |(place, number): (usize, &W)| {
        T::try_from(*number).map_err(|_| format!("element {place} is {number}, which is not a {}", T::TYPE))
    };
    let elements: Vec<T> = wide.iter().enumerate().map(one).collect::<Result<_, _>>()?;
    filled(contents, &elements, field, shape)
}

/// Refuses elements in any field but the one of the datatype.
fn only(contents: &InferTensorContents, expected: usize, field: &str) -> Result<(), String> {
    let all = contents.bool_contents.len()
        + contents.int_contents.len()
        + contents.int64_contents.len()
        + contents.uint_contents.len()
        + contents.uint64_contents.len()
        + contents.fp32_contents.len()
        + contents.fp64_contents.len()
        + contents.bytes_contents.len();
    if all == expected {
        Ok(())
    } else {
        Err(format!("elements of its datatype go into the field `{field}` of `contents`"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn given(content: Content) -> Given {
        Given { name: "x".to_owned(), datatype: String::new(), shape: Vec::new(), content }
    }

    fn frame(strings: &[Vec<u8>]) -> Bytes {
        let mut bytes = Vec::new();
        for string in strings {
            bytes.extend_from_slice(&u32::try_from(string.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(string);
        }
        Bytes::from(bytes)
    }

    proptest! {
        #[test]
        fn framed_strings_survive(strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..8)) {
            let read = given(Content::Raw(frame(&strings))).strings(&[strings.len()]).unwrap();
            prop_assert_eq!(read.iter().map(|bytes| bytes.to_vec()).collect::<Vec<_>>(), strings);
        }

        #[test]
        fn cut_frames_are_refused(
            strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..8),
            cut in 1usize..24,
        ) {
            let framed = frame(&strings);
            let cut = framed.slice(..framed.len() - cut.min(framed.len()));
            prop_assert!(given(Content::Raw(cut)).strings(&[strings.len()]).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            shape in prop::collection::vec(0usize..5, 0..4),
        ) {
            let given = given(Content::Raw(Bytes::from(bytes.clone())));
            let _ = given.strings(&shape);
            for element in ElementType::all() {
                let wanted = shape.iter().product::<usize>() * element.size();
                match given.tensor(element, &shape) {
                    Ok(tensor) => prop_assert_eq!(tensor.bytes(), &bytes[..]),
                    Err(_) => prop_assert!(wanted != bytes.len() || element == ElementType::Bool),
                }
            }
        }

        #[test]
        fn typed_numbers_are_those_that_were_sent(numbers in prop::collection::vec(any::<i32>(), 0..9)) {
            let contents = InferTensorContents { int_contents: numbers.clone(), ..Default::default() };
            let given = given(Content::Typed(contents));
            let shape = [numbers.len()];
            let tensor = given.tensor(ElementType::I32, &shape).unwrap();
            prop_assert_eq!(tensor.elements::<i32>().unwrap(), &numbers[..]);
            let fits = numbers.iter().all(|number| i8::try_from(*number).is_ok());
            prop_assert_eq!(given.tensor(ElementType::I8, &shape).is_ok(), fits);
            prop_assert_eq!(given.tensor(ElementType::F32, &shape).is_ok(), numbers.is_empty());
        }
    }

    #[test]
    fn refusals_name_the_input_and_the_element() {
        let told = |error: ApiError| error.message().to_owned();
        let json = |text: &str| given(Content::Json(Bytes::copy_from_slice(text.as_bytes())));
        let error = told(json("[7, 300]").tensor(ElementType::U8, &[2]).unwrap_err());
        assert_eq!(error, "input \"x\": element 1 is 300, which is not a UINT8");
        assert!(told(json("[1]").tensor(ElementType::F16, &[1]).unwrap_err()).contains("binary"));
        let raw = given(Content::Raw(Bytes::from_static(&[2])));
        assert!(told(raw.tensor(ElementType::Bool, &[1]).unwrap_err()).contains("0 or 1"));
        assert!(told(raw.tensor(ElementType::F32, &[1]).unwrap_err()).contains("takes 4 bytes, 1 were given"));
        let nothing = given(Content::Nothing);
        assert!(told(nothing.tensor(ElementType::F32, &[1]).unwrap_err()).contains("no elements"));
    }
}
