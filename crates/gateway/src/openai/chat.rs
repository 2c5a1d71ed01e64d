//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use halny_chat::{Piece, ToolFormat, ToolParser};
use halny_generation::request::{FinishReason, Finished, Usage, Written};
use halny_residency::Writing;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::completions::{Head, usage};
use super::conversation::{Asked, prepare};
use super::logprobs;
use super::parameters::{self, Parameters, reason};
use crate::admission::Arrived;
use crate::error::Shape;
use crate::sse::{self, Events, Teller};
use crate::writing::{Answers, Ask, Gathered, gather, write};
use crate::{ApiError, Shared, answer, prepare as find};

#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    messages: Option<Box<RawValue>>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    #[serde(default)]
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    tools: Option<Box<RawValue>>,
    tool_choice: Option<Box<RawValue>>,
    functions: Option<Box<RawValue>>,
    audio: Option<Box<RawValue>>,
    add_generation_prompt: Option<bool>,
    #[serde(default)]
    continue_final_message: bool,
    chat_template_kwargs: Option<Box<RawValue>>,
}

/// `POST /v1/chat/completions`, as OpenAI's API reference has it.
pub async fn chat(
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
    let logprobs = check(&request)?;
    let mut format = parameters.format()?;
    let asked = Asked {
        messages: request.messages,
        tools: request.tools,
        tool_choice: request.tool_choice,
        instructions: None,
        add_generation_prompt: request.add_generation_prompt.unwrap_or(!request.continue_final_message),
        continue_final_message: request.continue_final_message,
        extra: request.chat_template_kwargs,
    };
    let prepared = prepare(shared, &writing, asked).await?;
    let mut begun = String::new();
    if let Some((prefix, call)) = prepared.forced {
        if format.is_some() {
            let text = "a call of a tool is asked for (`tool_choice`), so `response_format` cannot hold as well";
            return Err(ApiError::invalid(text).with_param("response_format"));
        }
        begun = prefix;
        format = Some(call);
    }
    let ask = Ask {
        max_tokens: request.max_completion_tokens.or(request.max_tokens),
        format,
        adapter,
        ..parameters.ask(vec![prepared.prompt], logprobs)?
    };
    let answers = write(shared, headers, arrived.0, writing, ask).await?;
    let told = Told {
        head: Head::of("chatcmpl", &answers, request.model),
        writing: Arc::clone(&answers.writing),
        tools: prepared.tools,
        begun,
        logprobs: logprobs.is_some(),
    };
    if parameters.streams() {
        let parsers = (0..answers.count()).map(|answer| told.parser(answer)).collect();
        let usages = vec![Usage::default(); answers.count()];
        let include_usage = parameters.include_usage();
        return Ok(sse::respond(answers, Streamed { told, include_usage, usages, parsers }));
    }
    let gathered = gather(answers).await?;
    let bytes = gathered.iter().map(Gathered::bytes).sum();
    answer::json(shared, bytes, move || Ok(told.whole(gathered))).await
}

/// Checks what the request's own fields say; tells how many alternatives to each token are wanted.
fn check(request: &Request) -> Result<Option<usize>, ApiError> {
    let refused = |text: &str, param: &'static str| Err(ApiError::invalid(text).with_param(param));
    if request.functions.is_some() {
        return refused("`functions` is the old form of `tools`; send `tools`", "functions");
    }
    if request.audio.is_some() {
        return refused("this model writes text only; leave `audio` out", "audio");
    }
    if request.max_completion_tokens.or(request.max_tokens) == Some(0) {
        return refused("0 tokens are asked for; ask for at least one", "max_completion_tokens");
    }
    match (request.logprobs.unwrap_or(false), request.top_logprobs) {
        (false, Some(_)) => refused("`top_logprobs` needs `logprobs`: true", "top_logprobs"),
        (false, None) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0))),
    }
}

struct Told {
    head: Head,
    writing: Arc<Writing>,
    tools: Option<ToolFormat>,
    /// What the answers begin with, though the model did not write it.
    begun: String,
    logprobs: bool,
}

impl Told {
    /// Reads calls of tools out of an answer, where the model may make any.
    fn parser(&self, answer: usize) -> Option<(ToolParser, Vec<Piece>)> {
        self.tools.map(|format| {
            let seed = self.head.id.bytes().fold(answer as u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
            let mut parser = ToolParser::new(format, seed);
            let begun = parser.push(&self.begun);
            (parser, begun)
        })
    }

    fn object(&self, kind: &str, choices: Vec<Value>) -> Value {
        let Head { id, created, model } = &self.head;
        json!({ "id": id, "object": kind, "created": created, "model": model, "choices": choices })
    }

    fn whole(&self, gathered: Vec<Gathered>) -> Value {
        let usages: Vec<Usage> = gathered.iter().map(|answer| answer.finished.usage).collect();
        let per_prompt = gathered.len();
        let choices = gathered.into_iter().enumerate().map(|(index, answer)| self.choice(index, answer)).collect();
        let mut object = self.object("chat.completion", choices);
        object["usage"] = usage(&usages, per_prompt);
        object
    }

    fn choice(&self, index: usize, answer: Gathered) -> Value {
        let logprobs = self.logprobs.then(|| logprobs::of_chat(self.writing.model.as_ref(), &answer.written));
        let mut reason = reason(&answer.finished.reason);
        let mut message = json!({ "role": "assistant", "content": answer.text, "refusal": null });
        if let Some((mut parser, mut pieces)) = self.parser(index) {
            pieces.extend(parser.push(&answer.text));
            pieces.extend(parser.finish());
            let (content, calls) = joined(pieces);
            if !calls.is_empty() {
                // An answer that was cut off says so, whatever it had called before.
                if answer.finished.reason != FinishReason::Length {
                    reason = "tool_calls";
                }
                message["content"] = if content.is_empty() { Value::Null } else { Value::from(content) };
                message["tool_calls"] = Value::from(calls);
            } else {
                message["content"] = Value::from(content);
            }
        }
        json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": reason })
    }
}

/// The content and the calls of a whole answer.
fn joined(pieces: Vec<Piece>) -> (String, Vec<Value>) {
    let (mut content, mut calls): (String, Vec<(String, String, String)>) = Default::default();
    for piece in pieces {
        match piece {
            Piece::Content(text) => content.push_str(&text),
            Piece::CallBegin { id, name, .. } => calls.push((id, name, String::new())),
            Piece::CallArguments { fragment, .. } => {
                if let Some((_, _, arguments)) = calls.last_mut() {
                    arguments.push_str(&fragment);
                }
            }
            Piece::CallEnd { .. } => {}
        }
    }
    let call = |(id, name, arguments)| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
    (content, calls.into_iter().map(call).collect())
}

/// The part of a message that one piece adds.
fn delta(piece: Piece) -> Option<Value> {
    match piece {
        Piece::Content(text) => Some(json!({ "content": text })),
        Piece::CallBegin { index, id, name } => {
            let function = json!({ "name": name, "arguments": "" });
            Some(json!({ "tool_calls": [{ "index": index, "id": id, "type": "function", "function": function }] }))
        }
        Piece::CallArguments { index, fragment } => {
            Some(json!({ "tool_calls": [{ "index": index, "function": { "arguments": fragment } }] }))
        }
        Piece::CallEnd { .. } => None,
    }
}

struct Streamed {
    told: Told,
    include_usage: bool,
    usages: Vec<Usage>,
    parsers: Vec<Option<(ToolParser, Vec<Piece>)>>,
}

impl Streamed {
    fn chunk(&self, answer: usize, delta: Value, logprobs: Option<Value>, reason: Option<&str>, events: &mut Events) {
        let choice = json!({ "index": answer, "delta": delta, "logprobs": logprobs, "finish_reason": reason });
        let mut object = self.told.object("chat.completion.chunk", vec![choice]);
        if self.include_usage {
            object["usage"] = Value::Null;
        }
        events.data(&object);
    }

    fn pieces(&self, answer: usize, pieces: Vec<Piece>, mut logprobs: Option<Value>, events: &mut Events) {
        for delta in pieces.into_iter().filter_map(delta) {
            self.chunk(answer, delta, logprobs.take(), None, events);
        }
        // Probabilities of text that is held back go out with nothing beside them.
        if logprobs.is_some() {
            self.chunk(answer, json!({}), logprobs, None, events);
        }
    }
}

impl Teller for Streamed {
    fn open(&mut self, answers: &Answers, events: &mut Events) {
        for answer in 0..answers.count() {
            self.chunk(answer, json!({ "role": "assistant", "content": "" }), None, None, events);
        }
    }

    fn text(&mut self, answer: usize, text: String, written: &[Written], events: &mut Events) {
        let model = self.told.writing.model.as_ref();
        let logprobs = (self.told.logprobs && !written.is_empty()).then(|| logprobs::of_chat(model, written));
        let pieces = match self.parsers.get_mut(answer).and_then(Option::as_mut) {
            Some((parser, begun)) => {
                let mut pieces = std::mem::take(begun);
                pieces.extend(parser.push(&text));
                pieces
            }
            None if text.is_empty() => Vec::new(),
            None => vec![Piece::Content(text)],
        };
        self.pieces(answer, pieces, logprobs, events);
    }

    fn finished(&mut self, answer: usize, finished: &Finished, events: &mut Events) {
        if let Some(usage) = self.usages.get_mut(answer) {
            *usage = finished.usage;
        }
        let mut said = reason(&finished.reason);
        if let Some((parser, _)) = self.parsers.get_mut(answer).and_then(Option::as_mut) {
            let pieces = parser.finish();
            if parser.calls() > 0 && finished.reason != FinishReason::Length {
                said = "tool_calls";
            }
            self.pieces(answer, pieces, None, events);
        }
        self.chunk(answer, json!({}), None, Some(said), events);
    }

    fn close(&mut self, events: &mut Events) {
        if self.include_usage {
            let mut object = self.told.object("chat.completion.chunk", Vec::new());
            object["usage"] = usage(&self.usages, self.usages.len());
            events.data(&object);
        }
        events.done();
    }

    fn failed(&mut self, error: &ApiError, events: &mut Events) {
        events.data(&error.openai_body());
        events.done();
    }
}
