//! `POST /halny/v1/classify`: texts or images to labels with scores, shaped after OpenAI's
//! moderations. No protocol that clients already speak covers both.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use halny_tasks::{Answer, Task};
use halny_types::Fault;
use halny_types::project::TaskKind;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::admission::Arrived;
use crate::bounded::Texts;
use crate::error::Shape;
use crate::prepare::{Admitted, Done};
use crate::{ApiError, Shared, answer, body, prepare};

/// JSON form: `{"model": ..., "input": ...}`, `input` being one value or several. A text model
/// takes texts; an image model takes images in base64, with or without a `data:` prefix.
#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    input: Texts,
}

/// Raw form: the image itself as the body, the model in the query.
#[derive(Debug, Deserialize)]
pub struct RawQuery {
    model: Option<String>,
}

/// `POST /halny/v1/classify`.
pub async fn classify(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    query: Result<Query<RawQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let query = query.map_err(|_| ApiError::invalid("the query takes one `model`: /halny/v1/classify?model=NAME"));
    let answered = match query {
        Ok(Query(query)) => answer(&shared, arrived, query, &headers, body).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(|error| error.respond(Shape::OpenAi))
}

async fn answer(
    shared: &Shared,
    arrived: Arrived,
    query: RawQuery,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("application/json");
    let bytes = body::read(shared, headers, body).await?;
    let (name, inputs) = if kind.starts_with("image/") || kind.starts_with("application/octet-stream") {
        let name = query.model.ok_or_else(|| {
            ApiError::invalid("an image as the body needs the model in the query: POST /halny/v1/classify?model=NAME")
                .with_param("model")
        })?;
        (name, Raw::Bytes(bytes))
    } else {
        let request: Request = body::parse(shared, bytes).await?;
        (request.model, Raw::Texts(request.input.0))
    };
    let model = prepare::model(shared, &name, &[TaskKind::ClassifyText, TaskKind::ClassifyImage])?;
    let admitted = prepare::admit(shared, headers, arrived.0, None, &model)?;
    let done = run(shared, &admitted, inputs).await?;
    let (id, task) = (admitted.context.id.to_string(), Arc::clone(&model.task));
    // A score is written with its label.
    let bytes = done.answers.iter().map(Answer::bytes).sum::<usize>() * 4;
    answer::json(shared, bytes, move || {
        let result = |answer| match answer {
            Answer::Scores(scores) => Ok(result(task.labels(), &scores)),
            _ => Err(ApiError::new(Fault::Ours, "the model did not give scores")),
        };
        let results = done.answers.into_iter().map(result).collect::<Result<Vec<Value>, ApiError>>()?;
        Ok(json!({ "id": id, "model": name, "results": results }))
    })
    .await
}

/// What was sent, before anyone knows whether the model reads texts or sees images.
enum Raw {
    Bytes(Bytes),
    Texts(Vec<String>),
}

async fn run(shared: &Shared, admitted: &Admitted<'_>, inputs: Raw) -> Result<Done, ApiError> {
    let images = admitted.task().kind() == TaskKind::ClassifyImage;
    let most = shared.limits.now().max_inputs_per_request;
    let refused = |text: String| Err(ApiError::invalid(text).with_param("input"));
    // An image is far more work than its file: always in the pool.
    match inputs {
        Raw::Bytes(_) if !images => Err(ApiError::invalid("this model classifies texts; send JSON with `input`")),
        Raw::Bytes(bytes) => {
            let decode = |task: &Task, bytes: Bytes| Ok(task.decode_image(&bytes)?);
            admitted.run(vec![bytes], |_| usize::MAX, decode).await
        }
        Raw::Texts(texts) if texts.is_empty() => refused("`input` is empty; give at least one".to_owned()),
        Raw::Texts(texts) if texts.len() > most => {
            refused(format!("`input` has {} elements, one request may have {most}; send several requests", texts.len()))
        }
        Raw::Texts(texts) if images => {
            let decode = |task: &Task, text: String| Ok(task.decode_image(&decode_base64(&text)?)?);
            admitted.run(texts, |_| 1 << 20, decode).await
        }
        Raw::Texts(texts) => admitted.run(texts, String::len, |task, text: String| Ok(task.tokenise(&text)?)).await,
    }
}

pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, ApiError> {
    let refused = |text: &str| ApiError::invalid(text).with_param("input");
    if text.starts_with("http:") || text.starts_with("https:") {
        return Err(refused("images are not fetched from addresses; send the image itself, in base64"));
    }
    let payload = match text.strip_prefix("data:") {
        Some(rest) => rest
            .split_once(";base64,")
            .map(|(_, payload)| payload)
            .ok_or_else(|| refused("a data address holds an image as `data:image/png;base64,...`"))?,
        None => text,
    };
    STANDARD.decode(payload).map_err(|_| refused("an image in JSON is base64; this input is not"))
}

fn result(labels: &[String], scores: &[f32]) -> Value {
    let name = |index: usize| labels.get(index).cloned().unwrap_or_else(|| format!("label_{index}"));
    let best = scores.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| name(index));
    let by_label: Map<String, Value> =
        scores.iter().enumerate().map(|(index, score)| (name(index), json!(score))).collect();
    json!({ "label": best, "scores": by_label })
}
