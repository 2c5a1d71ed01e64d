//! A request's body over HTTP: JSON, and behind it the tensors that are sent as binary data.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::infer::{Ask, Wanted};
use super::parameters::{self, Parameters};
use super::tensors::{Content, Given};
use crate::ApiError;
use crate::bounded::Bounded;

/// How many bytes of a body with binary data are JSON.
pub(super) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

#[derive(Debug, Deserialize)]
struct Envelope<'a> {
    // Several clients write `null` where they have nothing to say.
    id: Option<String>,
    #[serde(default, deserialize_with = "parameters::read")]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Bounded<Input<'a>>,
    outputs: Option<Bounded<Output>>,
}

#[derive(Debug, Deserialize)]
struct Input<'a> {
    name: String,
    datatype: String,
    shape: Bounded<i64>,
    #[serde(default, deserialize_with = "parameters::read")]
    parameters: Parameters,
    /// Left as text until the datatype is known and the request admitted.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct Output {
    name: String,
    #[serde(default, deserialize_with = "parameters::read")]
    parameters: Parameters,
}

/// The length of the JSON, where the headers say it.
///
/// # Errors
/// When the header is not a whole number.
pub(super) fn json_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse::<usize>().ok());
    length.map(Some).ok_or_else(|| {
        ApiError::invalid(format!(
            "the header {HEADER_LENGTH} takes the number of bytes of the JSON before the binary data"
        ))
    })
}

/// Reads a body whose first `json_length` bytes are JSON; all of it, where that is not said.
///
/// # Errors
/// When it is not JSON of the protocol's form, or the binary data does not add up.
pub(super) fn read(model: String, version: String, body: &Bytes, json_length: Option<usize>) -> Result<Ask, ApiError> {
    let length = json_length.unwrap_or(body.len());
    if length == 0 && !body.is_empty() {
        let text = "a body of binary data alone is not supported; send the inputs' names and shapes as JSON before it";
        return Err(ApiError::new(halny_types::Fault::Unsupported, text));
    }
    let json = body.get(..length).ok_or_else(|| {
        let text = format!("the header {HEADER_LENGTH} says {length} bytes, the body has {}", body.len());
        ApiError::invalid(text)
    })?;
    let envelope: Envelope<'_> = serde_json::from_slice(json).map_err(|error| crate::body::not_expected(&error))?;
    let parameters = envelope.parameters;
    let binary = parameters::flag(&parameters, "binary_data_output")?.unwrap_or(false);
    let mut rest = length..body.len();
    let mut inputs = Vec::with_capacity(envelope.inputs.0.len());
    for input in envelope.inputs.0 {
        inputs.push(given(input, body, &mut rest, json_length.is_some())?);
    }
    if !rest.is_empty() {
        let text = format!(
            "{} bytes of binary data belong to no input; each input's `binary_data_size` says its own",
            rest.len()
        );
        return Err(ApiError::invalid(text));
    }
    let wanted = |output: Output| {
        let parameters = output.parameters;
        let binary = parameters::flag(&parameters, "binary_data")?.unwrap_or(binary);
        Ok(Wanted { name: output.name, binary, parameters })
    };
    let outputs = envelope
        .outputs
        .map(|outputs| outputs.0)
        .unwrap_or_default()
        .into_iter()
        .map(wanted)
        .collect::<Result<_, ApiError>>()?;
    Ok(Ask { model, version, id: envelope.id.unwrap_or_default(), parameters, inputs, outputs, binary })
}

fn given(input: Input<'_>, body: &Bytes, rest: &mut Range<usize>, has_binary: bool) -> Result<Given, ApiError> {
    let Input { name, datatype, shape, parameters, data } = input;
    let mut given = Given { name, datatype, shape: shape.0, content: Content::Nothing };
    parameters::check_tensor(&parameters)?;
    let size = parameters::count(&parameters, "binary_data_size").map_err(|error| given.refused(error.message()))?;
    given.content = match (data, size) {
        (Some(_), Some(_)) => return Err(given.refused("it has both `data` and `binary_data_size`; send one of them")),
        (None, None) => return Err(given.refused("it has neither `data` nor `binary_data_size`")),
        (Some(data), None) => Content::Json(body.slice_ref(data.get().as_bytes())),
        (None, Some(_)) if !has_binary => {
            return Err(given
                .refused(format!("binary data needs the header {HEADER_LENGTH}, the length of the JSON before it")));
        }
        (None, Some(size)) => {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > rest.len() {
                let problem = format!("its `binary_data_size` is {size}, {} bytes of binary data are left", rest.len());
                return Err(given.refused(problem));
            }
            let own = rest.start..rest.start + size;
            rest.start = own.end;
            Content::Raw(body.slice(own))
        }
    };
    Ok(given)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read_all(json: &str, binary: &[u8], length: Option<usize>) -> Result<Ask, ApiError> {
        let body = Bytes::from([json.as_bytes(), binary].concat());
        read("m".to_owned(), String::new(), &body, length)
    }

    fn refused(json: &str, binary: &[u8], length: Option<usize>) -> String {
        read_all(json, binary, length).unwrap_err().message().to_owned()
    }

    proptest! {
        #[test]
        fn binary_data_is_cut_where_the_sizes_say(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..5)) {
            let inputs: Vec<_> = parts
                .iter()
                .enumerate()
                .map(|(place, part)| {
                    let name = place.to_string();
                    json!({"name": name, "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": part.len()}})
                })
                .collect();
            let json = json!({ "inputs": inputs }).to_string();
            let ask = read_all(&json, &parts.concat(), Some(json.len())).unwrap();
            for (given, part) in ask.inputs.iter().zip(&parts) {
                prop_assert!(matches!(&given.content, Content::Raw(bytes) if bytes == part));
            }
            prop_assert!(refused(&json, &[parts.concat(), vec![0]].concat(), Some(json.len())).contains("belong to no input"));
        }

        #[test]
        fn any_body_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..80), length in prop::option::of(0usize..100)) {
            let _ = read(String::new(), String::new(), &Bytes::from(body), length);
        }
    }

    #[test]
    fn data_is_left_as_it_was_sent() {
        let ask =
            read_all(r#"{"inputs":[{"data":[1, 2.50],"name":"x","datatype":"FP32","shape":[2]}]}"#, &[], None).unwrap();
        assert!(matches!(&ask.inputs[0].content, Content::Json(text) if text == "[1, 2.50]"));
    }

    #[test]
    fn bodies_that_do_not_add_up_are_refused_with_what_is_wrong() {
        let sized = |size: i64| {
            json!({"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": size}}]})
                .to_string()
        };
        let one = sized(1);
        assert!(refused(&one, &[], Some(one.len())).contains("input \"x\""));
        assert!(refused(&one, &[1], None).contains("expected here"));
        assert!(refused(&one, &[], None).contains("inference-header-content-length"));
        assert!(refused(&one, &[], Some(10_000)).contains("says 10000 bytes"));
        assert!(refused(&one, &[1], Some(0)).contains("binary data alone"));
        let negative = sized(-1);
        assert!(refused(&negative, &[], Some(negative.len())).contains("whole number"));
        let input = |more: &str| format!(r#"{{"inputs":[{{"name":"x","datatype":"UINT8","shape":[1]{more}}}]}}"#);
        assert!(refused(&input(""), &[], None).contains("neither"));
        assert!(refused(&input(r#","data":[1],"parameters":{"binary_data_size":1}"#), &[], None).contains("both"));
        assert!(
            refused(&input(r#","data":[1],"parameters":{"shared_memory_region":"r"}"#), &[], None)
                .contains("shared memory")
        );
        let bomb = format!(r#"{{"parameters":{{"a":{}}},"inputs":[]}}"#, "[".repeat(100_000));
        assert!(refused(&bomb, &[], None).contains("expected here"));
        assert!(refused("{\"inputs\":[{\"name\":\"\u{fffd}", &[0xff], None).contains("expected here"));
    }
}
