//! What the operator does with features: materialise them, and compare what was served with what the past says.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use halny_features::{Difference, Features, Moment, Replayed, Skew};
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::error::respond;
use crate::feast::{features, moment, told};
use crate::{ApiError, Shared, body};

/// Steps of the way that may wait to be told.
const TOLD_MAX: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayForm {
    service: String,
    start: Option<String>,
    end: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaterialiseForm {
    /// All of them without it.
    feature_views: Option<Vec<String>>,
    /// Without it, whatever was not read yet.
    start: Option<String>,
    end: Option<String>,
}

/// `POST /halny/v1/features/materialize` on the operator's port.
pub(super) async fn materialise(State(shared): State<Shared>, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let form: MaterialiseForm = body::json(&shared, &headers, body).await?;
        let end = form.end.as_deref().map_or(Ok(Moment::now()), |text| moment("end", text))?;
        let (features, views) = (features(&shared)?, form.feature_views.as_deref());
        let done = match form.start.as_deref() {
            Some(start) => features.materialize(views, moment("start", start)?, end).await?,
            None => features.materialize_incremental(views, end).await?,
        };
        Ok(told(&done))
    };
    respond(answer.await)
}

/// `POST /halny/v1/features/replay` on the operator's port. The answer comes as lines of JSON: `{"rows": 4096}` while it
/// works, and what was found out last.
pub(super) async fn replay(State(shared): State<Shared>, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let form: ReplayForm = body::json(&shared, &headers, body).await?;
        let features = features(&shared)?.clone();
        features.definitions().service(&form.service)?;
        let start = form.start.as_deref().map_or(Ok(Moment::MIN), |text| moment("start", text))?;
        let end = form.end.as_deref().map_or(Ok(Moment::MAX), |text| moment("end", text))?;
        let body = lines(features, form.service, start, end);
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
    };
    respond(answer.await)
}

/// The lines of the answer. Whoever leaves before the end ends the work too.
fn lines(features: Features, service: String, start: Moment, end: Moment) -> Body {
    let (tell, lines) = mpsc::channel::<Value>(TOLD_MAX);
    let work = async move {
        let step = |rows| {
            // Who reads slowly hears of fewer steps.
            let _ = tell.try_send(json!({ "rows": rows }));
        };
        let replayed = features.replay(&service, start, end, &step).await;
        let last = replayed.map_or_else(|error| json!({ "error": ApiError::from(error).message() }), |it| found(&it));
        let _ = tell.send(last).await;
    };
    let lines = stream::unfold(lines, |mut lines| async { Some((lines.recv().await?, lines)) });
    let lines = stream::select(lines, stream::once(work).filter_map(|()| async { None }));
    Body::from_stream(lines.map(|line| Ok::<_, std::convert::Infallible>(Bytes::from(format!("{line}\n")))))
}

fn found(replayed: &Replayed) -> Value {
    let features: Vec<Value> = replayed.features.iter().map(skew).collect();
    json!({ "replayed": replayed.rows, "features": features })
}

fn skew(of: &Skew) -> Value {
    let examples: Vec<Value> = of.examples.iter().map(example).collect();
    json!({ "name": of.name, "equal": of.equal, "different": of.different, "examples": examples })
}

fn example(of: &Difference) -> Value {
    let keys: Map<String, Value> = of.keys.iter().map(|(name, value)| (name.clone(), value.to_json())).collect();
    json!({ "at": of.at.to_string(), "keys": keys, "served": of.served.to_json(), "joined": of.joined.to_json() })
}
