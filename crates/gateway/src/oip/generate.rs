//! The protocol's extension for texts: `POST /v2/models/{model}/generate` and `/generate_stream`
//! (KServe's Open Inference Protocol, "Generate REST API").

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use halny_generation::request::{Finished, Written};
use halny_residency::Writing;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::http::Target;
use super::ports::check_version;
use crate::admission::Arrived;
use crate::error::Shape;
use crate::openai::parameters::{MAX_TOKENS, Parameters, reason};
use crate::path::Named;
use crate::sse::{self, Events, Teller};
use crate::writing::{Answers, Ask, Prompt, gather, write};
use crate::{ApiError, Shared, answer, body, prepare};

#[derive(Debug, Deserialize)]
struct Request {
    #[serde(default)]
    id: String,
    text_input: String,
    parameters: Option<Box<RawValue>>,
}

/// Beside the parameters that OpenAI's requests have.
#[derive(Debug, Default, Deserialize)]
struct Lengths {
    max_tokens: Option<usize>,
    /// As Hugging Face's servers name it.
    max_new_tokens: Option<usize>,
    #[serde(default)]
    details: bool,
}

/// `POST /v2/models/{model}/generate`: the whole answer.
pub(super) async fn generate(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(target): Named<Target>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    run(&shared, arrived, target, &headers, body, false).await.unwrap_or_else(|error| error.respond(Shape::Oip))
}

/// `POST /v2/models/{model}/generate_stream`: the answer as it is written.
pub(super) async fn generate_stream(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(target): Named<Target>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    run(&shared, arrived, target, &headers, body, true).await.unwrap_or_else(|error| error.respond(Shape::Oip))
}

async fn run(
    shared: &Shared,
    arrived: Arrived,
    target: Target,
    headers: &HeaderMap,
    body: Body,
    streams: bool,
) -> Result<Response, ApiError> {
    let request: Request = body::json(shared, headers, body).await?;
    let (writing, adapter) = prepare::writer(shared, &target.model)?;
    check_version(&writing.name, &writing.version, &target.version)?;
    let raw = request.parameters.as_ref().map_or("{}", |raw| raw.get());
    let unreadable =
        |error: serde_json::Error| ApiError::invalid(format!("parameters: {error}")).with_param("parameters");
    let parameters: Parameters = serde_json::from_str(raw).map_err(unreadable)?;
    let lengths: Lengths = serde_json::from_str(raw).map_err(unreadable)?;
    if parameters.n.is_some_and(|n| n != 1) {
        return Err(ApiError::invalid("`n` other than 1 is not part of this protocol; send several requests"));
    }
    let ask = Ask {
        max_tokens: Some(lengths.max_tokens.or(lengths.max_new_tokens).unwrap_or(MAX_TOKENS)),
        adapter,
        ..parameters.ask(vec![Prompt::Text(request.text_input)], None)?
    };
    let ask = Ask { format: parameters.format()?, ..ask };
    let answers = write(shared, headers, arrived.0, writing, ask).await?;
    let told = Told { id: request.id, writing: Arc::clone(&answers.writing), details: lengths.details };
    if streams {
        return Ok(sse::respond(answers, told));
    }
    let Some(whole) = gather(answers).await?.pop() else {
        return Err(ApiError::new(halny_types::Fault::Ours, "the model gave no answer"));
    };
    let bytes = whole.text.len();
    answer::json(shared, bytes, move || Ok(told.object(&whole.text, Some(&whole.finished)))).await
}

struct Told {
    id: String,
    writing: Arc<Writing>,
    details: bool,
}

impl Told {
    fn object(&self, text: &str, finished: Option<&Finished>) -> Value {
        let mut object = json!({
            "model_name": self.writing.name.as_str(),
            "model_version": self.writing.version.to_string(),
            "text_output": text,
        });
        if !self.id.is_empty() {
            object["id"] = json!(self.id);
        }
        if let Some(finished) = finished.filter(|_| self.details) {
            object["details"] = json!({
                "finish_reason": reason(&finished.reason),
                "prompt_tokens": finished.usage.prompt_tokens,
                "generated_tokens": finished.usage.written_tokens,
            });
        }
        object
    }
}

impl Teller for Told {
    fn open(&mut self, _: &Answers, _: &mut Events) {}

    fn text(&mut self, _: usize, text: String, _: &[Written], events: &mut Events) {
        events.data(&self.object(&text, None));
    }

    fn finished(&mut self, _: usize, finished: &Finished, events: &mut Events) {
        if self.details {
            events.data(&self.object("", Some(finished)));
        }
    }

    fn close(&mut self, _: &mut Events) {}

    fn failed(&mut self, error: &ApiError, events: &mut Events) {
        events.data(&json!({ "error": error.message() }));
    }
}
