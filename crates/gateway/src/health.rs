//! Whether the server lives and is ready, and its metrics.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use halny_telemetry::METRICS_CONTENT_TYPE;
use http::{StatusCode, header};
use serde_json::json;

use crate::Shared;

/// `GET /health`: 200 when every preloaded model answers, 503 before.
pub async fn health(State(shared): State<Shared>) -> Response {
    let ready = shared.residency.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(json!({ "status": if ready { "ready" } else { "starting" } }))).into_response()
}

/// `GET /metrics`.
pub async fn metrics(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], shared.metrics.render()).into_response()
}
