//! `POST /v1/completions`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use halny_generation::request::{Finished, Usage, Written};
use halny_generation::sampling::SamplingOptions;
use halny_residency::Writing;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::input::{TextInput, TextInputs};
use super::logprobs;
use super::parameters::{self, MAX_TOKENS, Parameters, reason};
use crate::admission::Arrived;
use crate::error::Shape;
use crate::sse::{self, Events, Teller};
use crate::writing::{Answers, Ask, Gathered, Prompt, gather, write};
use crate::{ApiError, Shared, answer, prepare};

#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    #[serde(default)]
    prompt: Option<TextInputs>,
    max_tokens: Option<usize>,
    logprobs: Option<usize>,
    #[serde(default)]
    echo: bool,
    suffix: Option<String>,
    best_of: Option<usize>,
}

/// `POST /v1/completions`, as OpenAI's API reference has it.
pub async fn completions(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(&shared, arrived, &headers, body).await.unwrap_or_else(|error| error.respond(Shape::OpenAi))
}

async fn respond(shared: &Shared, arrived: Arrived, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let (request, parameters): (Request, Parameters) = parameters::read(shared, headers, body).await?;
    let (writing, adapter) = prepare::writer(shared, &request.model)?;
    check(&request, &parameters)?;
    let inputs = request.prompt.map(|prompt| prompt.0).unwrap_or_default();
    let echoed = request.echo.then(|| inputs.iter().map(|input| echo(&writing, input)).collect::<Vec<String>>());
    let prompts = inputs.into_iter().map(|input| match input {
        TextInput::Text(text) => Prompt::Text(text),
        TextInput::Tokens(tokens) => Prompt::Tokens(tokens),
    });
    let ask = Ask {
        max_tokens: Some(request.max_tokens.unwrap_or(MAX_TOKENS)),
        adapter,
        ..parameters.ask(prompts.collect(), request.logprobs)?
    };
    let ask = Ask { format: parameters.format()?, ..ask };
    let answers = write(shared, headers, arrived.0, writing, ask).await?;
    let told = Told {
        head: Head::of("cmpl", &answers, request.model),
        writing: Arc::clone(&answers.writing),
        echoed: echoed.unwrap_or_default(),
        per_prompt: answers.per_prompt,
    };
    if parameters.streams() {
        let include_usage = parameters.include_usage();
        let usages = vec![Usage::default(); answers.count()];
        let offsets = vec![0; answers.count()];
        return Ok(sse::respond(answers, Streamed { told, include_usage, usages, offsets }));
    }
    let gathered = gather(answers).await?;
    let bytes = gathered.iter().map(Gathered::bytes).sum();
    answer::json(shared, bytes, move || Ok(told.whole(gathered))).await
}

fn check(request: &Request, parameters: &Parameters) -> Result<(), ApiError> {
    let refused = |text: &str, param: &'static str| Err(ApiError::invalid(text).with_param(param));
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return refused("`suffix` is not supported: this server continues texts, it does not fill them in", "suffix");
    }
    if request.best_of.is_some_and(|best_of| best_of != parameters.n.unwrap_or(1)) {
        return refused("`best_of` other than `n` is not supported; ask for `n` answers and choose", "best_of");
    }
    if request.echo && request.logprobs.is_some() {
        return refused("`echo` with `logprobs` is not supported: probabilities of prompts are not computed", "echo");
    }
    if request.prompt.as_ref().is_none_or(|prompt| prompt.0.is_empty()) {
        return refused("`prompt` is missing or empty; give a text or tokens to continue", "prompt");
    }
    if request.logprobs.is_some_and(|count| count > SamplingOptions::LOGPROBS) {
        let most = SamplingOptions::LOGPROBS;
        let text = format!("`logprobs` asks for more alternatives than the {most} that are told; ask for fewer");
        return Err(ApiError::invalid(text).with_param("logprobs"));
    }
    if request.max_tokens == Some(0) {
        return refused("`max_tokens` is 0; ask for at least one token", "max_tokens");
    }
    Ok(())
}

fn echo(writing: &Writing, input: &TextInput) -> String {
    match input {
        TextInput::Text(text) => text.clone(),
        TextInput::Tokens(tokens) => {
            let bytes: Vec<u8> = tokens.iter().flat_map(|token| writing.model.piece(*token)).copied().collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

/// What every object of one request says.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl Head {
    pub(super) fn of(prefix: &str, answers: &Answers, model: String) -> Head {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Head { id: format!("{prefix}-{}", answers.context.id), created: since.map_or(0, |s| s.as_secs()), model }
    }
}

/// Sums over the answers of a request; prompts are counted once, however many answers they have.
pub(super) fn usage(usages: &[Usage], per_prompt: usize) -> Value {
    let first = || usages.iter().step_by(per_prompt.max(1));
    let prompt: usize = first().map(|usage| usage.prompt_tokens).sum();
    let cached: usize = first().map(|usage| usage.shared_tokens).sum();
    let written: usize = usages.iter().map(|usage| usage.written_tokens).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": { "cached_tokens": cached },
    })
}

struct Told {
    head: Head,
    writing: Arc<Writing>,
    echoed: Vec<String>,
    per_prompt: usize,
}

impl Told {
    fn object(&self, choices: Vec<Value>) -> Value {
        let Head { id, created, model } = &self.head;
        json!({ "id": id, "object": "text_completion", "created": created, "model": model, "choices": choices })
    }

    fn echoed(&self, answer: usize) -> &str {
        self.echoed.get(answer / self.per_prompt.max(1)).map_or("", String::as_str)
    }

    fn whole(&self, gathered: Vec<Gathered>) -> Value {
        let usages: Vec<Usage> = gathered.iter().map(|answer| answer.finished.usage).collect();
        let choice = |(index, answer): (usize, Gathered)| {
            let logprobs = (!answer.written.is_empty())
                .then(|| logprobs::of_completion(self.writing.model.as_ref(), &answer.written, &mut 0));
            json!({
                "index": index,
                "text": format!("{}{}", self.echoed(index), answer.text),
                "logprobs": logprobs,
                "finish_reason": reason(&answer.finished.reason),
            })
        };
        let mut object = self.object(gathered.into_iter().enumerate().map(choice).collect());
        object["usage"] = usage(&usages, self.per_prompt);
        object
    }
}

struct Streamed {
    told: Told,
    include_usage: bool,
    usages: Vec<Usage>,
    /// Where the next token begins in each answer's text, in characters.
    offsets: Vec<usize>,
}

impl Streamed {
    fn chunk(&self, choices: Vec<Value>, events: &mut Events) {
        let mut object = self.told.object(choices);
        if self.include_usage {
            object["usage"] = Value::Null;
        }
        events.data(&object);
    }
}

impl Teller for Streamed {
    fn open(&mut self, answers: &Answers, events: &mut Events) {
        for answer in 0..answers.count() {
            let echoed = self.told.echoed(answer);
            if !echoed.is_empty() {
                let choice = json!({ "index": answer, "text": echoed, "logprobs": null, "finish_reason": null });
                self.chunk(vec![choice], events);
            }
        }
    }

    fn text(&mut self, answer: usize, text: String, written: &[Written], events: &mut Events) {
        let model = self.told.writing.model.as_ref();
        let mut unknown = 0;
        let offset = self.offsets.get_mut(answer).unwrap_or(&mut unknown);
        let logprobs = (!written.is_empty()).then(|| logprobs::of_completion(model, written, offset));
        let choice = json!({ "index": answer, "text": text, "logprobs": logprobs, "finish_reason": null });
        self.chunk(vec![choice], events);
    }

    fn finished(&mut self, answer: usize, finished: &Finished, events: &mut Events) {
        if let Some(usage) = self.usages.get_mut(answer) {
            *usage = finished.usage;
        }
        let reason = reason(&finished.reason);
        let choice = json!({ "index": answer, "text": "", "logprobs": null, "finish_reason": reason });
        self.chunk(vec![choice], events);
    }

    fn close(&mut self, events: &mut Events) {
        if self.include_usage {
            let mut object = self.told.object(Vec::new());
            object["usage"] = usage(&self.usages, self.told.per_prompt);
            events.data(&object);
        }
        events.done();
    }

    fn failed(&mut self, error: &ApiError, events: &mut Events) {
        events.data(&error.openai_body());
        events.done();
    }
}
