//! An answer over HTTP: JSON, and behind it the tensors that were asked for as binary data.

use axum::response::{IntoResponse, Response};
use halny_types::Fault;
use http::header;
use serde::Serialize;

use super::elements::{self, Elements};
use super::envelope::HEADER_LENGTH;
use super::infer::{Output, Reply};
use crate::answer::INLINE_BYTES_MAX;
use crate::{ApiError, Shared};

#[derive(Serialize)]
struct Envelope<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    outputs: Vec<OutputForm<'a>>,
}

#[derive(Serialize)]
struct OutputForm<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Elements<'a>>,
}

#[derive(Serialize)]
struct Size {
    binary_data_size: usize,
}

/// The answer as a response.
///
/// # Errors
/// When an output in JSON holds an infinity or a NaN, which JSON cannot write.
pub(super) async fn respond(shared: &Shared, reply: Reply) -> Result<Response, ApiError> {
    // Binary outputs are copied, not written: some 16 times as fast.
    let bytes = |output: &Output| output.tensor.bytes().len() / if output.binary { 16 } else { 1 };
    let work: usize = reply.outputs.iter().map(bytes).sum();
    let (body, json_length) = shared.pool.finish_unless(work <= INLINE_BYTES_MAX, move || encode(&reply)).await??;
    Ok(match json_length {
        None => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Some(length) => {
            let headers =
                [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (HEADER_LENGTH, length.to_string())];
            (headers, body).into_response()
        }
    })
}

/// The body, and the length of the JSON in it where binary data follows.
fn encode(reply: &Reply) -> Result<(Vec<u8>, Option<usize>), ApiError> {
    let form = |output| form(output);
    let envelope = Envelope {
        model_name: &reply.model,
        model_version: &reply.version,
        id: &reply.id,
        outputs: reply.outputs.iter().map(form).collect::<Result<_, ApiError>>()?,
    };
    let mut body =
        serde_json::to_vec(&envelope).map_err(|_| ApiError::new(Fault::Ours, "the answer could not be written"))?;
    let json_length = body.len();
    let binary = || reply.outputs.iter().filter(|output| output.binary);
    body.reserve_exact(binary().map(|output| output.tensor.bytes().len()).sum());
    binary().for_each(|output| body.extend_from_slice(output.tensor.bytes()));
    Ok((body, binary().next().map(|_| json_length)))
}

fn form(output: &Output) -> Result<OutputForm<'_>, ApiError> {
    let Output { name, tensor, binary } = output;
    if !*binary && !elements::is_finite(tensor) {
        let text = format!(
            "the output {name:?} holds an infinity or a NaN, which JSON cannot write; ask for it with \"binary_data\": true"
        );
        return Err(ApiError::new(Fault::Unsupported, text).with_param("outputs"));
    }
    Ok(OutputForm {
        name,
        datatype: tensor.element().oip_name(),
        shape: tensor.shape(),
        parameters: binary.then(|| Size { binary_data_size: tensor.bytes().len() }),
        data: (!*binary).then_some(Elements(tensor)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use halny_engine::Tensor;

    fn output(name: &str, values: &[f32], binary: bool) -> Output {
        Output { name: name.to_owned(), tensor: Tensor::from_slice(&[values.len()], values).unwrap(), binary }
    }

    fn reply(outputs: Vec<Output>) -> Reply {
        Reply { model: "m".to_owned(), version: "v".to_owned(), id: String::new(), outputs }
    }

    #[test]
    fn binary_outputs_follow_the_json_in_order() {
        let outputs = vec![output("a", &[1.0], true), output("b", &[2.5], false), output("c", &[3.0, 4.0], true)];
        let (body, length) = encode(&reply(outputs)).unwrap();
        let (json, binary) = body.split_at(length.unwrap());
        let expected = concat!(
            r#"{"model_name":"m","model_version":"v","outputs":["#,
            r#"{"name":"a","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}},"#,
            r#"{"name":"b","datatype":"FP32","shape":[1],"data":[2.5]},"#,
            r#"{"name":"c","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}}]}"#
        );
        assert_eq!(std::str::from_utf8(json).unwrap(), expected);
        assert_eq!(binary, bytemuck::cast_slice::<f32, u8>(&[1.0, 3.0, 4.0]));
    }

    #[test]
    fn what_json_cannot_write_is_refused_and_binary_data_carries_it() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let refusal = encode(&reply(vec![output("a", &[0.0, odd], false)])).unwrap_err();
            assert_eq!(refusal.fault(), Fault::Unsupported);
            assert!(encode(&reply(vec![output("a", &[0.0, odd], true)])).is_ok());
        }
    }
}
