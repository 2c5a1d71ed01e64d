//! `POST /v1/rerank` (also `/v2/rerank` and `/rerank`): the request that Cohere's and Jina's
//! clients send, and an answer that both read.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use halny_tasks::{Answer, Query, Task};
use halny_types::Fault;
use halny_types::project::TaskKind;
use http::HeaderMap;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json};

use crate::admission::Arrived;
use crate::bounded::Bounded;
use crate::error::Shape;
use crate::{ApiError, Shared, answer, body, prepare};

#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    query: String,
    documents: Bounded<Document>,
    top_n: Option<usize>,
    #[serde(default)]
    return_documents: bool,
}

/// A document: a text, or an object with a `text`.
#[derive(Clone, Debug)]
struct Document(String);

// Written out because serde's untagged enums copy the whole document before they try a form.
impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Document, D::Error> {
        struct OneText;

        impl<'de> Visitor<'de> for OneText {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an object with a string `text`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Document, E> {
                Ok(Document(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Document, E> {
                Ok(Document(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Document, A::Error> {
                let mut text = None;
                while let Some(field) = fields.next_key::<Cow<'de, str>>()? {
                    if field == "text" {
                        text = Some(fields.next_value()?);
                    } else {
                        fields.next_value::<IgnoredAny>()?;
                    }
                }
                text.map(Document).ok_or_else(|| A::Error::missing_field("text"))
            }
        }

        deserializer.deserialize_any(OneText)
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
    let model = prepare::model(shared, &request.model, &[TaskKind::Rerank])?;
    check(&request, shared.limits.now().max_inputs_per_request)?;
    let admitted = prepare::admit(shared, headers, arrived.0, None, &model)?;
    let query = query(shared, &model.task, request.query).await?;
    let documents: Arc<[Document]> = request.documents.0.into();
    let kept = request.return_documents.then(|| Arc::clone(&documents));
    let places: Vec<usize> = (0..documents.len()).collect();
    let texts = Arc::clone(&documents);
    let make = move |task: &Task, place: usize| Ok(task.tokenise_pair(&query, text(&texts, place))?);
    let done = admitted.run(places, |place| text(&documents, *place).len(), make).await?;
    let (id, top_n) = (admitted.context.id.to_string(), request.top_n.unwrap_or(usize::MAX));
    // About what a result is in JSON.
    let bytes = done.answers.len() * 64
        + kept.iter().flat_map(|kept| kept.iter()).map(|document| document.0.len()).sum::<usize>();
    answer::json(shared, bytes, move || {
        let results = ranked(&done.answers)?.into_iter().take(top_n);
        let results: Vec<Value> = results.map(|(index, score)| result(index, score, kept.as_deref())).collect();
        Ok(json!({
            "id": id,
            "model": request.model,
            "results": results,
            "usage": { "prompt_tokens": done.tokens, "total_tokens": done.tokens },
            "meta": { "api_version": { "version": "2" }, "billed_units": { "search_units": 1 } },
        }))
    })
    .await
}

pub(crate) async fn query(shared: &Shared, task: &Arc<Task>, query: String) -> Result<Arc<Query>, ApiError> {
    let (small, task) = (query.len() <= prepare::INLINE_BYTES_MAX, Arc::clone(task));
    let tokens = shared.pool.run_unless(small, move || task.tokenise_query(&query)).await?;
    tokens.map(Arc::new).map_err(|error| ApiError::from(error).with_param("query"))
}

/// Places and scores, the highest score first.
fn ranked(answers: &[Answer]) -> Result<Vec<(usize, f32)>, ApiError> {
    let scored = answers.iter().enumerate().map(|(index, answer)| match answer {
        Answer::Score(score) => Ok((index, *score)),
        _ => Err(ApiError::new(Fault::Ours, "the model did not give a score")),
    });
    let mut scored = scored.collect::<Result<Vec<_>, ApiError>>()?;
    scored.sort_by(|(i, a), (j, b)| b.total_cmp(a).then(i.cmp(j)));
    Ok(scored)
}

fn check(request: &Request, most: usize) -> Result<(), ApiError> {
    let (documents, top_n) = (request.documents.0.len(), request.top_n);
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

fn text(documents: &[Document], place: usize) -> &str {
    documents.get(place).map_or("", |document| &document.0)
}

fn result(index: usize, score: f32, documents: Option<&[Document]>) -> Value {
    match documents {
        Some(documents) => {
            json!({ "index": index, "relevance_score": score, "document": { "text": text(documents, index) } })
        }
        None => json!({ "index": index, "relevance_score": score }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_document_is_a_text_or_holds_one() {
        let read = |json: &str| serde_json::from_str::<Document>(json).map(|document| document.0);
        assert_eq!(read("\"a\"").unwrap(), "a");
        assert_eq!(read("{\"id\": [1, {}], \"te\\u0078t\": \"b\\n\"}").unwrap(), "b\n");
        for bad in ["1", "null", "[]", "{}", "{\"text\": 1}", "{\"Text\": \"a\"}"] {
            assert!(read(bad).is_err(), "{bad} was accepted");
        }
    }
}
