//! Answers as Qdrant writes them: `{"result", "status": "ok", "time"}`.

use axum::response::Response;
use halny_types::Tick;
use serde::Serialize;
use serde_json::{Map, Value, json};

use halny_payload::PointId;
use halny_vectors::query::Ranked;
use halny_vectors::{Named, Record};

use crate::admission::Arrived;
use crate::error::Shape;
use crate::{ApiError, Shared, answer};

/// Bytes of an answer for each point beside its numbers, at a guess: what decides where it is written.
const POINT_BYTES: usize = 128;

#[derive(Serialize)]
struct Reply<T> {
    result: T,
    status: &'static str,
    /// Seconds since the request arrived.
    time: f64,
}

/// `result` as an answer, written off the async threads when `work`, its bytes at a guess, is large.
pub(super) async fn large<T: Serialize + Send + 'static>(
    shared: &Shared,
    arrived: Arrived,
    work: usize,
    result: T,
) -> Result<Response, ApiError> {
    let time = arrived.0.until(Tick::now()).as_secs_f64();
    answer::json(shared, work, move || Ok(Reply { result, status: "ok", time })).await
}

/// The same of what is small.
pub(super) async fn small<T: Serialize + Send + 'static>(
    shared: &Shared,
    arrived: Arrived,
    result: T,
) -> Result<Response, ApiError> {
    large(shared, arrived, 0, result).await
}

/// The answer, or the error in Qdrant's shape.
pub(super) fn respond(answer: Result<Response, ApiError>) -> Response {
    answer.unwrap_or_else(|error| error.respond(Shape::Qdrant))
}

/// What came of a write.
pub(super) fn updated(operation: u64, waited: bool) -> Value {
    json!({ "operation_id": operation, "status": if waited { "completed" } else { "acknowledged" } })
}

/// A vector without a name is given as it is, others by name.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Vectors {
    One(Vec<f32>),
    Named(Named),
}

/// A point as it was read or found.
#[derive(Serialize)]
pub(super) struct PointReply {
    id: PointId,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    payload: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<Vectors>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_value: Option<Value>,
}

impl PointReply {
    pub(super) fn of(record: Record, with_vectors: bool) -> PointReply {
        let Record { id, payload, vectors } = record;
        let vector = with_vectors.then(|| vectors_of(vectors));
        PointReply { id, version: None, score: None, payload, vector, order_value: None }
    }

    pub(super) fn ranked(ranked: Ranked, with_vectors: bool) -> PointReply {
        let Ranked { point, order_value } = ranked;
        let vector = with_vectors.then(|| vectors_of(point.vectors));
        let (version, score) = (Some(0), Some(point.score));
        PointReply { id: point.id, version, score, payload: point.payload, vector, order_value }
    }

    pub(super) fn with_order(mut self, value: Value) -> PointReply {
        self.order_value = Some(value);
        self
    }

    /// Bytes of the answer, at a guess.
    pub(super) fn work(&self) -> usize {
        let numbers = match &self.vector {
            None => 0,
            Some(Vectors::One(vector)) => vector.len() * 4,
            Some(Vectors::Named(named)) => named.values().map(|vector| vector.len() * 4).sum(),
        };
        POINT_BYTES
            + numbers
            + self.payload.as_ref().map_or(0, |payload| payload.iter().map(|(_, value)| json_bytes(value)).sum())
    }
}

/// Bytes of a value in JSON, at a guess.
pub(super) fn json_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 8,
        Value::Array(items) => 8 + items.iter().map(json_bytes).sum::<usize>(),
        Value::Object(fields) => 8 + fields.iter().map(|(name, value)| name.len() + json_bytes(value)).sum::<usize>(),
    }
}

fn vectors_of(mut vectors: Named) -> Vectors {
    match vectors.remove("") {
        Some(one) if vectors.is_empty() => Vectors::One(one),
        Some(one) => {
            vectors.insert(String::new(), one);
            Vectors::Named(vectors)
        }
        None => Vectors::Named(vectors),
    }
}
