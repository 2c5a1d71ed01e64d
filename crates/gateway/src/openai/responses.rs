//! `POST /v1/responses`, for text: what newer clients of OpenAI's send by default.
//!
//! Nothing is stored: a conversation is sent whole each time, and what refers to an earlier response is
//! refused.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use halny_generation::request::{FinishReason, Finished, Written};
use halny_types::Fault;
use http::HeaderMap;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::completions::Head;
use super::conversation::{Asked, parsed, prepare};
use super::parameters::{self, Parameters, ResponseFormat};
use crate::admission::Arrived;
use crate::error::Shape;
use crate::sse::{self, Events, Teller};
use crate::writing::{Answers, Ask, Gathered, gather, write};
use crate::{ApiError, Shared, answer, bounded, prepare as find};

#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    input: Option<Box<RawValue>>,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    text: Option<TextSettings>,
    /// Only whether there are any counts, so that they take no memory, however many there are.
    tools: Option<Vec<IgnoredAny>>,
    previous_response_id: Option<String>,
    #[serde(default)]
    background: bool,
    metadata: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct TextSettings {
    format: Option<ResponseFormat>,
}

/// `POST /v1/responses`, as OpenAI's API reference has it.
pub async fn responses(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(&shared, arrived, &headers, body).await.unwrap_or_else(|error| error.respond(Shape::OpenAi))
}

async fn respond(shared: &Shared, arrived: Arrived, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let (request, parameters): (Request, Parameters) = parameters::read(shared, headers, body).await?;
    let (writing, adapter) = find::writer(shared, &request.model)?;
    check(&request)?;
    let metadata = request.metadata.as_deref().map(|metadata| parsed(metadata, "metadata")).transpose()?;
    let input = request.input.ok_or_else(|| ApiError::invalid("`input` is missing").with_param("input"))?;
    let asked = Asked {
        messages: Some(messages(&input)?),
        instructions: request.instructions.clone(),
        add_generation_prompt: true,
        ..Asked::default()
    };
    let prepared = prepare(shared, &writing, asked).await?;
    let format = request.text.and_then(|text| text.format).map(|format| format.format()).transpose()?.flatten();
    let ask = Ask {
        answers: 1,
        max_tokens: request.max_output_tokens,
        include_stop: false,
        ignore_end: false,
        format,
        adapter,
        ..parameters.ask(vec![prepared.prompt], None)?
    };
    let answers = write(shared, headers, arrived.0, writing, ask).await?;
    let head = Head::of("resp", &answers, request.model);
    let told = Told {
        item: head.id.replacen("resp", "msg", 1),
        head,
        instructions: request.instructions,
        metadata: metadata.unwrap_or_default(),
    };
    if parameters.streams() {
        return Ok(sse::respond(answers, Streamed { told, number: 0, text: String::new() }));
    }
    let Some(Gathered { text, finished, .. }) = gather(answers).await?.pop() else {
        return Err(ApiError::new(Fault::Ours, "the model gave no answer"));
    };
    let bytes = text.len();
    answer::json(shared, bytes, move || Ok(told.whole(&text, &finished))).await
}

fn check(request: &Request) -> Result<(), ApiError> {
    let unsupported = |text: &str, param: &'static str| Err(ApiError::new(Fault::Unsupported, text).with_param(param));
    if request.previous_response_id.is_some() {
        let text = "responses are not stored here; send the whole conversation in `input`";
        return unsupported(text, "previous_response_id");
    }
    if request.background {
        return unsupported("responses are not made in the background here; leave `background` out", "background");
    }
    if request.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        return unsupported("tools are called through /v1/chat/completions; this surface gives text", "tools");
    }
    if request.max_output_tokens == Some(0) {
        let text = "`max_output_tokens` is 0; ask for at least one token";
        return Err(ApiError::invalid(text).with_param("max_output_tokens"));
    }
    Ok(())
}

/// `input` as the messages of a chat: a text is the user's; items keep their role, and the parts of
/// their content are texts.
fn messages(input: &RawValue) -> Result<Box<RawValue>, ApiError> {
    let refused = |text: String| ApiError::invalid(text).with_param("input");
    if bounded::elements(input.get()) > bounded::ELEMENTS_MAX {
        return Err(refused(format!("`input` has more than {} elements; send less", bounded::ELEMENTS_MAX)));
    }
    let input: Value = serde_json::from_str(input.get()).map_err(|error| refused(error.to_string()))?;
    let messages = match input {
        Value::String(text) => json!([{ "role": "user", "content": text }]),
        Value::Array(items) => {
            let one = |(place, mut item): (usize, Value)| {
                let kind = item.get("type").and_then(Value::as_str).unwrap_or("message").to_owned();
                if kind != "message" {
                    let kind: String = kind.chars().take(40).collect();
                    return Err(refused(format!("input[{place}] is a {kind:?}; this surface takes messages")));
                }
                for part in item.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some("input_text" | "output_text") = part.get("type").and_then(Value::as_str) {
                        part["type"] = json!("text");
                    }
                }
                Ok(json!({ "role": item.get("role").cloned().unwrap_or_default(), "content": item["content"].take() }))
            };
            Value::Array(items.into_iter().enumerate().map(one).collect::<Result<_, ApiError>>()?)
        }
        _ => return Err(refused("`input` is a text or a list of messages".to_owned())),
    };
    to_raw_value(&messages).map_err(|error| refused(error.to_string()))
}

struct Told {
    head: Head,
    item: String,
    instructions: Option<String>,
    metadata: Value,
}

impl Told {
    fn response(&self, status: &str, output: Vec<Value>, finished: Option<&Finished>) -> Value {
        let usage = finished.map(|Finished { usage, .. }| {
            json!({
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": { "cached_tokens": usage.shared_tokens },
                "output_tokens": usage.written_tokens,
                "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": usage.prompt_tokens + usage.written_tokens,
            })
        });
        let incomplete = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
        json!({
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "model": self.head.model,
            "status": status,
            "error": null,
            "incomplete_details": incomplete,
            "instructions": self.instructions,
            "metadata": if self.metadata.is_null() { json!({}) } else { self.metadata.clone() },
            "output": output,
            "parallel_tool_calls": false,
            "tool_choice": "auto",
            "tools": [],
            "temperature": null,
            "top_p": null,
            "usage": usage,
        })
    }

    fn message(&self, status: &str, text: Option<&str>) -> Value {
        let content: Vec<Value> = text.map(part).into_iter().collect();
        json!({ "type": "message", "id": self.item, "status": status, "role": "assistant", "content": content })
    }

    fn whole(&self, text: &str, finished: &Finished) -> Value {
        let status = status(finished);
        self.response(status, vec![self.message(status, Some(text))], Some(finished))
    }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

fn status(finished: &Finished) -> &'static str {
    if finished.reason == FinishReason::Length { "incomplete" } else { "completed" }
}

struct Streamed {
    told: Told,
    number: u64,
    text: String,
}

impl Streamed {
    fn event(&mut self, kind: &str, mut data: Value, events: &mut Events) {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.number);
        self.number += 1;
        events.named(kind, &data);
    }

    /// Where a part of the text stands: there is one item, and one part of it.
    fn place(&self, mut data: Value) -> Value {
        data["item_id"] = json!(self.told.item);
        data["output_index"] = json!(0);
        data["content_index"] = json!(0);
        data
    }
}

impl Teller for Streamed {
    fn open(&mut self, _: &Answers, events: &mut Events) {
        for kind in ["response.created", "response.in_progress"] {
            let response = self.told.response("in_progress", Vec::new(), None);
            self.event(kind, json!({ "response": response }), events);
        }
        let item = self.told.message("in_progress", None);
        self.event("response.output_item.added", json!({ "output_index": 0, "item": item }), events);
        let part = self.place(json!({ "part": part("") }));
        self.event("response.content_part.added", part, events);
    }

    fn text(&mut self, _: usize, text: String, _: &[Written], events: &mut Events) {
        self.text.push_str(&text);
        let delta = self.place(json!({ "delta": text, "logprobs": [] }));
        self.event("response.output_text.delta", delta, events);
    }

    fn finished(&mut self, _: usize, finished: &Finished, events: &mut Events) {
        let text = std::mem::take(&mut self.text);
        let status = status(finished);
        let done = self.place(json!({ "text": text, "logprobs": [] }));
        self.event("response.output_text.done", done, events);
        let done = self.place(json!({ "part": part(&text) }));
        self.event("response.content_part.done", done, events);
        let item = self.told.message(status, Some(&text));
        self.event("response.output_item.done", json!({ "output_index": 0, "item": item }), events);
        let response = self.told.response(status, vec![item], Some(finished));
        self.event(&format!("response.{status}"), json!({ "response": response }), events);
    }

    fn close(&mut self, _: &mut Events) {}

    fn failed(&mut self, error: &ApiError, events: &mut Events) {
        let body = error.openai_body();
        let (code, message) = (body["error"]["code"].clone(), body["error"]["message"].clone());
        self.event("error", json!({ "code": code, "message": message, "param": null }), events);
    }
}
