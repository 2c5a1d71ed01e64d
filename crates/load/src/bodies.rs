//! Request bodies, all made before the run so that sending one costs a reference count.

use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Value, json};

use crate::{Api, LoadError, Options, options::limits, template::Template, texts};

/// One request's body.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    /// `Inference-Header-Content-Length` of the binary tensor extension.
    pub(crate) json_length: Option<HeaderValue>,
}

/// Makes the bodies that a run cycles through. Never empty.
pub(crate) fn prepare(options: &Options) -> Result<Vec<Body>, LoadError> {
    let texts = texts::collect(options)?;
    let encoder = Encoder::new(&options.api)?;
    let size = options.texts_per_request;
    // The last body wraps to the first texts, so that each body has the same number of them.
    let requests = texts.len().div_ceil(size);
    let mut bodies = Vec::with_capacity(requests);
    let mut bytes = 0;
    let mut batch: Vec<&str> = Vec::with_capacity(size);
    for request in 0..requests {
        batch.clear();
        let first = request * size;
        batch.extend((first..first + size).map(|index| texts[index % texts.len()].as_str()));
        let body = encoder.encode(&batch)?;
        bytes += body.bytes.len();
        if bytes > limits::BODY_BYTES_MAX {
            return Err(LoadError::refused(
                "the texts",
                format!("{} texts", texts.len()),
                format!("at most {} bytes as request bodies", limits::BODY_BYTES_MAX),
            ));
        }
        bodies.push(body);
    }
    Ok(bodies)
}

enum Encoder<'a> {
    OpenAi { model: &'a str, dimensions: Option<u32>, base64: bool },
    OpenInference { input: &'a str, column: bool, binary: bool },
    Template(Template),
}

impl<'a> Encoder<'a> {
    fn new(api: &'a Api) -> Result<Self, LoadError> {
        Ok(match api {
            Api::OpenAi { model, dimensions, base64 } => {
                Self::OpenAi { model, dimensions: *dimensions, base64: *base64 }
            }
            Api::OpenInference { input, column, binary, .. } => {
                Self::OpenInference { input, column: *column, binary: *binary }
            }
            Api::Template { template, .. } => Self::Template(Template::parse(template)?),
        })
    }

    fn encode(&self, texts: &[&str]) -> Result<Body, LoadError> {
        Ok(match self {
            Self::OpenAi { model, dimensions, base64 } => {
                let input = match texts {
                    [text] => json!(text),
                    texts => json!(texts),
                };
                let mut body = json!({ "model": model, "input": input });
                if let Some(dimensions) = dimensions {
                    body["dimensions"] = json!(dimensions);
                }
                if *base64 {
                    body["encoding_format"] = json!("base64");
                }
                plain(&body)
            }
            Self::OpenInference { input, column, binary } => {
                let shape = if *column { vec![texts.len(), 1] } else { vec![texts.len()] };
                let mut tensor = json!({ "name": input, "shape": shape, "datatype": "BYTES" });
                if *binary {
                    binary_tensor(tensor, texts)
                } else {
                    tensor["data"] = json!(texts);
                    plain(&json!({ "inputs": [tensor] }))
                }
            }
            Self::Template(template) => plain(&template.fill(texts)?),
        })
    }
}

fn plain(value: &Value) -> Body {
    Body { bytes: value.to_string().into(), json_length: None }
}

/// Triton's binary tensor extension: the JSON, then each element as its length in four bytes, least
/// significant first, and its bytes
/// (<https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>).
fn binary_tensor(mut tensor: Value, texts: &[&str]) -> Body {
    let length: usize = texts.iter().map(|text| 4 + text.len()).sum();
    tensor["parameters"] = json!({ "binary_data_size": length });
    let head = json!({ "inputs": [tensor], "parameters": { "binary_data_output": true } }).to_string();
    let json_length = HeaderValue::from(head.len());
    let mut bytes = Vec::with_capacity(head.len() + length);
    bytes.extend_from_slice(head.as_bytes());
    for text in texts {
        // Texts are bounded by the file limit, which is far below four gigabytes.
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    Body { bytes: bytes.into(), json_length: Some(json_length) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::Texts;
    use proptest::prelude::*;

    fn bodies(api: Api, texts: &[String], size: usize) -> Vec<Body> {
        let mut options = Options::new("http://localhost", api);
        options.texts = Texts::Given(texts.to_vec());
        options.texts_per_request = size;
        prepare(&options).unwrap()
    }

    fn oip(binary: bool) -> Api {
        Api::OpenInference { model: "m".into(), input: "text".into(), column: true, binary }
    }

    proptest! {
        #[test]
        fn every_body_carries_its_texts_in_order_and_wraps_at_the_end(
            texts in prop::collection::vec(any::<String>(), 1..20), size in 1..7usize,
        ) {
            let api = Api::OpenAi { model: "m".into(), dimensions: None, base64: false };
            let mut expected = texts.iter().cycle();
            for body in bodies(api, &texts, size) {
                let value: Value = serde_json::from_slice(&body.bytes).unwrap();
                let sent = match &value["input"] {
                    Value::Array(values) => values.clone(),
                    single => vec![single.clone()],
                };
                prop_assert_eq!(sent.len(), size);
                for text in sent {
                    prop_assert_eq!(text.as_str().unwrap(), expected.next().unwrap());
                }
            }
        }

        #[test]
        fn binary_tensors_carry_the_same_texts_as_json(
            texts in prop::collection::vec(any::<String>(), 1..9),
        ) {
            let body = bodies(oip(true), &texts, texts.len()).remove(0);
            let split: usize = body.json_length.unwrap().to_str().unwrap().parse().unwrap();
            let head: Value = serde_json::from_slice(&body.bytes[..split]).unwrap();
            let mut rest = &body.bytes[split..];
            let declared = head["inputs"][0]["parameters"]["binary_data_size"].as_u64().unwrap();
            prop_assert_eq!(declared, rest.len() as u64);
            let mut read = Vec::new();
            while let Some((length, tail)) = rest.split_first_chunk::<4>() {
                let (text, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
                read.push(String::from_utf8(text.to_vec()).unwrap());
                rest = tail;
            }
            prop_assert_eq!(&read, &texts);
            let body = bodies(oip(false), &texts, texts.len()).remove(0);
            let value: Value = serde_json::from_slice(&body.bytes).unwrap();
            prop_assert_eq!(&value["inputs"][0]["data"], &json!(texts));
            prop_assert_eq!(&value["inputs"][0]["shape"], &json!([texts.len(), 1]));
        }
    }
}
