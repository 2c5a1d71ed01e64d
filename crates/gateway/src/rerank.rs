//! `POST /v1/rerank` (also `/v2/rerank` and `/rerank`): the request that Cohere's and Jina's
//! clients send, and an answer that both read.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use halny_tasks::{Answer, Item};
use halny_types::Fault;
use halny_types::project::TaskKind;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admission::Arrived;
use crate::error::Shape;
use crate::{ApiError, Shared, body, prepare};

#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    query: String,
    documents: Vec<Document>,
    top_n: Option<usize>,
    #[serde(default)]
    return_documents: bool,
}

/// A document: a text, or an object with a `text`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Document {
    Text(String),
    Object { text: String },
}

impl Document {
    fn text(self) -> String {
        match self {
            Document::Text(text) | Document::Object { text } => text,
        }
    }
}

/// `POST /v1/rerank`: documents by relevance to a query, the most relevant first.
pub async fn rerank(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(&shared, arrived, &headers, body).await.unwrap_or_else(|error| error.respond(Shape::Rerank))
}

async fn answer(shared: &Shared, arrived: Arrived, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let request: Request = body::json(shared, headers, body).await?;
    let model = shared.model(&request.model)?;
    prepare::expect_task(&model, &[TaskKind::Rerank])?;
    check(&request, shared.limits.now().max_inputs_per_request)?;
    let context = shared.context(headers, arrived.0, &model)?;
    model.admit(&context, shared.profile(headers))?;
    let documents: Vec<String> = request.documents.into_iter().map(Document::text).collect();
    let kept = request.return_documents.then(|| documents.clone());
    let query = std::sync::Arc::<str>::from(request.query);
    // The query is tokenised with every document.
    let query_bytes = query.len();
    let bytes = move |document: &String| query_bytes + document.len();
    let make = move |task: &halny_tasks::Task, document: String| task.tokenise_pair(&query, &document);
    let items = prepare::items(shared, &model.task, documents, bytes, make).await?;
    let tokens: usize = items.iter().map(Item::tokens).sum();
    let served = prepare::run(&model, &context, items, shared.profile(headers)).await?;
    let mut scored = served
        .into_iter()
        .enumerate()
        .map(|(index, served)| match served.answer {
            Answer::Score(score) => Ok((index, score)),
            _ => Err(ApiError::new(Fault::Ours, "the model did not give a score")),
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
    scored.sort_by(|(i, a), (j, b)| b.total_cmp(a).then(i.cmp(j)));
    scored.truncate(request.top_n.unwrap_or(usize::MAX));
    let results: Vec<Value> = scored.into_iter().map(|(index, score)| result(index, score, kept.as_deref())).collect();
    Ok(axum::Json(json!({
        "id": context.id.to_string(),
        "model": request.model,
        "results": results,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        "meta": { "api_version": { "version": "2" }, "billed_units": { "search_units": 1 } },
    }))
    .into_response())
}

fn check(request: &Request, most: usize) -> Result<(), ApiError> {
    let (documents, top_n) = (request.documents.len(), request.top_n);
    if documents == 0 {
        return Err(ApiError::invalid("`documents` is empty; give at least one").with_param("documents"));
    }
    if documents > most {
        let text = format!("`documents` has {documents} elements, one request may have {most}; send several requests");
        return Err(ApiError::invalid(text).with_param("documents"));
    }
    if top_n == Some(0) {
        return Err(ApiError::invalid("`top_n` is 0; ask for at least one result").with_param("top_n"));
    }
    Ok(())
}

fn result(index: usize, score: f32, documents: Option<&[String]>) -> Value {
    match documents.and_then(|documents| documents.get(index)) {
        Some(text) => json!({ "index": index, "relevance_score": score, "document": { "text": text } }),
        None => json!({ "index": index, "relevance_score": score }),
    }
}
