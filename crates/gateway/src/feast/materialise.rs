//! `POST /materialize` and `POST /materialize-incremental`: from files to what is served.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use halny_features::{Materialised, Moment};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{features, form, named, respond};
use crate::{ApiError, Shared};

#[derive(Deserialize)]
struct MaterialiseForm {
    start_ts: Option<String>,
    end_ts: Option<String>,
    /// All of them without it.
    feature_views: Option<Vec<String>>,
    /// Whether all rows until now are meant.
    #[serde(default)]
    disable_event_timestamp: bool,
}

#[derive(Deserialize)]
struct IncrementalForm {
    end_ts: String,
    feature_views: Option<Vec<String>>,
}

/// All rows of a time.
pub(super) async fn materialise(State(shared): State<Shared>, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let form: MaterialiseForm = form(&shared, &headers, body).await?;
        let (start, end) = match (form.start_ts, form.end_ts) {
            _ if form.disable_event_timestamp => (Moment::MIN, Moment::now()),
            (Some(start), Some(end)) => (moment("start_ts", &start)?, moment("end_ts", &end)?),
            _ => return Err(ApiError::invalid("start_ts and end_ts say which rows; write both")),
        };
        let done = features(&shared)?.materialize(form.feature_views.as_deref(), start, end);
        Ok(told(&done.await.map_err(named)?))
    };
    respond(answer.await)
}

/// Whatever was not read yet.
pub(super) async fn incrementally(State(shared): State<Shared>, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let form: IncrementalForm = form(&shared, &headers, body).await?;
        let end = moment("end_ts", &form.end_ts)?;
        let done = features(&shared)?.materialize_incremental(form.feature_views.as_deref(), end);
        Ok(told(&done.await.map_err(named)?))
    };
    respond(answer.await)
}

/// The moment that a field says.
pub(crate) fn moment(field: &str, text: &str) -> Result<Moment, ApiError> {
    Moment::parse(text).ok_or_else(|| {
        let text = format!("{field} is no time; write one such as 2026-01-02T03:04:05Z");
        ApiError::invalid(text).with_param(field.to_owned())
    })
}

/// Feast answers with null; this says more to who wants to know.
pub(crate) fn told(done: &[Materialised]) -> Response {
    let view = |it: &Materialised| json!({ "view": it.view, "files": it.files, "rows": it.rows, "served": it.served, "skipped": it.skipped });
    Json(json!({ "feature_views": done.iter().map(view).collect::<Vec<Value>>() })).into_response()
}
