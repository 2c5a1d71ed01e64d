//! What OpenAI's requests for text say of how it is written, and what vLLM's say beyond that.

use axum::body::Body;
use halny_engine::TokenId;
use halny_generation::grammar::Format;
use halny_generation::request::FinishReason;
use halny_generation::sampling::SamplingOptions;
use halny_generation::text::StopStrings;
use halny_types::Fault;
use http::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::bounded::{Pairs, Texts};
use crate::writing::{Ask, Prompt};
use crate::{ApiError, Shared, body};

/// The longest JSON Schema.
const SCHEMA_BYTES_MAX: usize = 64 * 1024;

/// Tokens of an answer where the request does not say, as OpenAI's API reference has it for completions.
pub(crate) const MAX_TOKENS: usize = 16;

/// The request's own fields, and those that all requests for text have. The body is read twice: flattened
/// into one another, serde would copy the whole of it first.
pub(crate) async fn read<T: DeserializeOwned + Send + 'static>(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<(T, Parameters), ApiError> {
    let bytes = body::read(shared, headers, body).await?;
    let parameters: Parameters = body::parse(shared, bytes.clone()).await?;
    Ok((body::parse(shared, bytes).await?, parameters))
}

/// The fields that completions and chats have in common. What is not said takes OpenAI's defaults.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Parameters {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    /// -1 and 0 for none, as vLLM has it.
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) seed: Option<i64>,
    pub(crate) logit_bias: Option<Pairs<f32>>,
    pub(crate) n: Option<usize>,
    pub(crate) stop: Option<Texts>,
    #[serde(default)]
    pub(crate) include_stop_str_in_output: bool,
    #[serde(default)]
    pub(crate) ignore_eos: bool,
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) response_format: Option<ResponseFormat>,
    pub(crate) structured_outputs: Option<Structured>,
    pub(crate) guided_json: Option<Box<RawValue>>,
    pub(crate) guided_regex: Option<String>,
    pub(crate) guided_choice: Option<Texts>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct StreamOptions {
    #[serde(default)]
    pub(crate) include_usage: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<Named>,
    /// Of the responses API, which does not nest it.
    schema: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct Named {
    schema: Option<Box<RawValue>>,
}

/// vLLM's newer form of `guided_*`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Structured {
    json: Option<Box<RawValue>>,
    regex: Option<String>,
    choice: Option<Texts>,
}

impl Parameters {
    /// What is asked of the model as far as these fields say it: no limit on tokens, no format, no adapter.
    pub(crate) fn ask(&self, prompts: Vec<Prompt>, logprobs: Option<usize>) -> Result<Ask, ApiError> {
        Ok(Ask {
            prompts,
            answers: self.n.unwrap_or(1),
            sampling: self.sampling(logprobs)?,
            max_tokens: None,
            stop: self.stop()?,
            include_stop: self.include_stop_str_in_output,
            ignore_end: self.ignore_eos,
            format: None,
            adapter: None,
        })
    }

    /// How tokens are chosen; `logprobs` tells how many alternatives are wanted.
    fn sampling(&self, logprobs: Option<usize>) -> Result<SamplingOptions, ApiError> {
        let default = SamplingOptions::default();
        let top_k = self.top_k.unwrap_or(0);
        if top_k < -1 {
            let text = format!("`top_k` is {top_k}; write how many tokens are considered, or -1 for all");
            return Err(ApiError::invalid(text).with_param("top_k"));
        }
        Ok(SamplingOptions {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_p: self.top_p.unwrap_or(default.top_p),
            top_k: u32::try_from(top_k.max(0)).unwrap_or(u32::MAX),
            min_p: self.min_p.unwrap_or(default.min_p),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            // Any 64 bits name a sequence of random numbers.
            seed: self.seed.map(i64::cast_unsigned),
            logit_bias: self.logit_bias.iter().flat_map(|bias| &bias.0).map(bias).collect::<Result<_, ApiError>>()?,
            logprobs,
        })
    }

    /// The texts that end an answer.
    fn stop(&self) -> Result<StopStrings, ApiError> {
        let strings = self.stop.as_ref().map(|stop| stop.0.clone()).unwrap_or_default();
        StopStrings::new(strings).map_err(|error| ApiError::from(error).with_param("stop"))
    }

    pub(crate) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(crate) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }

    /// What the text has to look like, where the request says so in one of several ways.
    pub(crate) fn format(&self) -> Result<Option<Format>, ApiError> {
        let structured = self.structured_outputs.as_ref();
        let asked: Vec<(&str, Format)> = [
            self.response_format
                .as_ref()
                .map(ResponseFormat::format)
                .transpose()?
                .flatten()
                .map(|f| ("response_format", f)),
            self.guided_json
                .as_deref()
                .map(|raw| Ok::<_, ApiError>(("guided_json", schema(raw, "guided_json")?)))
                .transpose()?,
            self.guided_regex.clone().map(|regex| ("guided_regex", Format::Regex(regex))),
            self.guided_choice.as_ref().map(|choice| ("guided_choice", Format::Choice(choice.0.clone()))),
            structured
                .and_then(|s| s.json.as_deref())
                .map(|raw| Ok::<_, ApiError>(("structured_outputs", schema(raw, "structured_outputs")?)))
                .transpose()?,
            structured.and_then(|s| s.regex.clone()).map(|regex| ("structured_outputs", Format::Regex(regex))),
            structured
                .and_then(|s| s.choice.as_ref())
                .map(|choice| ("structured_outputs", Format::Choice(choice.0.clone()))),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let [(first, _), (second, _), ..] = asked.as_slice() {
            let text = format!("`{first}` and `{second}` both say what the text has to look like; send one");
            return Err(ApiError::invalid(text).with_param(*second));
        }
        Ok(asked.into_iter().next().map(|(_, format)| format))
    }
}

impl ResponseFormat {
    pub(crate) fn format(&self) -> Result<Option<Format>, ApiError> {
        let refused = |text: String| Err(ApiError::invalid(text).with_param("response_format"));
        match self.kind.as_str() {
            "text" => Ok(None),
            "json_object" => Ok(Some(Format::JsonObject)),
            "json_schema" => {
                let nested = self.json_schema.as_ref().and_then(|named| named.schema.as_deref());
                match nested.or(self.schema.as_deref()) {
                    Some(raw) => schema(raw, "response_format").map(Some),
                    None => refused("a `json_schema` format needs the schema in `json_schema.schema`".to_owned()),
                }
            }
            other => refused(format!(
                "the format {:?} is not known; write \"text\", \"json_object\" or \"json_schema\"",
                other.chars().take(40).collect::<String>()
            )),
        }
    }
}

/// A JSON Schema. It stays text until its length is known: nested brackets unfold to many times as much.
pub(crate) fn schema(raw: &RawValue, param: &'static str) -> Result<Format, ApiError> {
    if raw.get().len() > SCHEMA_BYTES_MAX {
        let text = format!(
            "the schema has {} bytes, {SCHEMA_BYTES_MAX} are taken; describe less of the answer",
            raw.get().len()
        );
        return Err(ApiError::new(Fault::TooLarge, text).with_param(param));
    }
    let schema = serde_json::from_str(raw.get())
        .map_err(|error| ApiError::invalid(format!("the schema is not JSON: {error}")).with_param(param))?;
    Ok(Format::JsonSchema(schema))
}

/// `{"50256": -100}`: a token's id as text, and what is added to its logit.
fn bias((token, bias): &(String, f32)) -> Result<(TokenId, f32), ApiError> {
    let id = token.parse::<TokenId>().map_err(|_| {
        let shown: String = token.chars().take(40).collect();
        ApiError::invalid(format!("`logit_bias` has the key {shown:?}; its keys are token ids"))
            .with_param("logit_bias")
    })?;
    Ok((id, *bias))
}

/// Why an answer ended, as OpenAI says it.
pub(crate) fn reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::End | FinishReason::StopString(_) => "stop",
        FinishReason::Length => "length",
    }
}
