//! `POST /v1/embeddings`.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use halny_tasks::{Answer, Item, truncate_dimensions};
use halny_types::Fault;
use halny_types::project::TaskKind;
use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};

use super::input::{TextInput, TextInputs};
use crate::admission::Arrived;
use crate::error::Shape;
use crate::{ApiError, Shared, body, prepare};

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
struct Reply<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
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
    let model = shared.model(&request.model)?;
    prepare::expect_task(&model, &[TaskKind::Embed])?;
    let dimensions = wanted_dimensions(&request, model.task.dimensions())?;
    check_inputs(&request.input.0, shared.limits.now().max_inputs_per_request)?;
    let context = shared.context(headers, arrived.0, &model)?;
    model.admit(&context, shared.profile(headers))?;
    let make = |task: &halny_tasks::Task, input: TextInput| match input {
        TextInput::Text(text) => task.tokenise(&text),
        TextInput::Tokens(ids) => task.from_tokens(&ids),
    };
    let items = prepare::items(shared, &model.task, request.input.0, TextInput::bytes, make).await?;
    let tokens: usize = items.iter().map(Item::tokens).sum();
    let served = prepare::run(&model, &context, items, shared.profile(headers)).await?;
    let data = served
        .into_iter()
        .enumerate()
        .map(|(index, served)| embedding(index, served.answer, dimensions, request.encoding_format))
        .collect::<Result<Vec<_>, ApiError>>()?;
    let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
    let reply = Reply { object: "list", data, model: &request.model, usage };
    let json = serde_json::to_vec(&reply).map_err(|_| ApiError::new(Fault::Ours, "the answer could not be written"))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
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
