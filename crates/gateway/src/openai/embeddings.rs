//! `POST /v1/embeddings`.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use halny_tasks::{Answer, truncate_dimensions};
use halny_types::Fault;
use halny_types::project::TaskKind;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::input::{TextInput, TextInputs};
use crate::admission::Arrived;
use crate::error::Shape;
use crate::{ApiError, Shared, answer, body, prepare};

/// What a client sends. Fields that other servers know and this one does not are ignored, as
/// OpenAI's own clients send some.
#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    input: TextInputs,
    #[serde(default)]
    encoding_format: Encoding,
    dimensions: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    Base64,
}

#[derive(Serialize)]
struct Reply {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    /// Little-endian singles.
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// `POST /v1/embeddings`, as OpenAI's API reference has it.
pub async fn embeddings(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(&shared, arrived, &headers, body).await.unwrap_or_else(|error| error.respond(Shape::OpenAi))
}

async fn answer(shared: &Shared, arrived: Arrived, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let request: Request = body::json(shared, headers, body).await?;
    let model = prepare::model(shared, &request.model, &[TaskKind::Embed])?;
    let dimensions = wanted_dimensions(&request, model.task.dimensions())?;
    check_inputs(&request.input.0, shared.limits.now().max_inputs_per_request)?;
    let admitted = prepare::admit(shared, headers, arrived.0, None, &model)?;
    let make = |task: &halny_tasks::Task, input: TextInput| match input {
        TextInput::Text(text) => Ok(task.tokenise(&text)?),
        TextInput::Tokens(ids) => Ok(task.from_tokens(&ids)?),
    };
    let done = admitted.run(request.input.0, TextInput::bytes, make).await?;
    let encoding = request.encoding_format;
    let bytes: usize = done.answers.iter().map(Answer::bytes).sum();
    // Base64 is written some ten times as fast as numbers.
    let work = if encoding == Encoding::Float { bytes } else { bytes / 10 };
    answer::json(shared, work, move || {
        let embedding = |(index, answer)| embedding(index, answer, dimensions, encoding);
        let data = done.answers.into_iter().enumerate().map(embedding).collect::<Result<Vec<_>, ApiError>>()?;
        let usage = Usage { prompt_tokens: done.tokens, total_tokens: done.tokens };
        Ok(Reply { object: "list", data, model: request.model, usage })
    })
    .await
}

fn wanted_dimensions(request: &Request, of_model: Option<usize>) -> Result<Option<usize>, ApiError> {
    let Some(wanted) = request.dimensions else { return Ok(None) };
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let most = of_model.unwrap_or(usize::MAX);
    if wanted == 0 || wanted > most {
        let text = format!("`dimensions` is {wanted}, this model gives vectors of 1 to {most} dimensions");
        return Err(ApiError::invalid(text).with_param("dimensions"));
    }
    Ok(Some(wanted))
}

fn check_inputs(inputs: &[TextInput], most: usize) -> Result<(), ApiError> {
    let refused = |text: String| Err(ApiError::invalid(text).with_param("input"));
    if inputs.is_empty() {
        return refused("`input` is empty; give at least one text".to_owned());
    }
    if inputs.len() > most {
        return refused(format!(
            "`input` has {} elements, one request may have {most}; send several requests",
            inputs.len()
        ));
    }
    match inputs.iter().position(|input| input.bytes() == 0) {
        Some(place) => refused(format!("input {place} is empty; leave it out or give it a text")),
        None => Ok(()),
    }
}

fn embedding(
    index: usize,
    answer: Answer,
    dimensions: Option<usize>,
    encoding: Encoding,
) -> Result<Embedding, ApiError> {
    let Answer::Vector(mut vector) = answer else {
        return Err(ApiError::new(Fault::Ours, "the model did not give a vector"));
    };
    if let Some(dimensions) = dimensions {
        truncate_dimensions(&mut vector, dimensions);
    }
    let embedding = match encoding {
        Encoding::Float => Vector::Floats(vector),
        Encoding::Base64 => Vector::Base64(STANDARD.encode(bytemuck::cast_slice::<f32, u8>(&vector))),
    };
    Ok(Embedding { object: "embedding", index, embedding })
}
