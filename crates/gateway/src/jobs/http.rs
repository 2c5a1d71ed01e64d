//! `/halny/v1/jobs` and `/halny/v1/queues` on the operator's port.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use halny_jobs::{Filter, Handlers, Job, LIST_MAX, NewJob, Observer, State as Standing};
use halny_telemetry::JobMetrics;
use halny_types::project::jobs::DEFAULT_QUEUE;
use halny_types::{Fault, TenantId};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::respond;
use crate::path::Named;
use crate::{ApiError, Shared, body};

/// The header by which a client that repeats itself is known, as the IETF's draft has it.
const KEY_HEADER: &str = "idempotency-key";
/// Jobs of a list, unless it says.
const LIST: usize = 100;

/// The patterns that metrics know these paths by.
pub(crate) const LABELS: [&str; 10] = [
    "/halny/v1/jobs",
    "/halny/v1/jobs/{job}",
    "/halny/v1/jobs/{job}/cancel",
    "/halny/v1/jobs/{job}/retry",
    "/halny/v1/queues",
    "/halny/v1/queues/{queue}/drain",
    "/halny/v1/queues/{queue}/resume",
    "/halny/v1/queues/{queue}/dead",
    "/halny/v1/queues/{queue}/dead/retry",
    "/halny/v1/queues/{queue}/dead/purge",
];

/// What the operator reaches.
pub(crate) fn admin_routes(handlers: Handlers) -> Router<Shared> {
    Router::new()
        .route("/halny/v1/jobs", get(list).post(submit))
        .route("/halny/v1/jobs/{job}", get(show))
        .route("/halny/v1/jobs/{job}/cancel", post(cancel))
        .route("/halny/v1/jobs/{job}/retry", post(retry))
        .route("/halny/v1/queues", get(queues))
        .route("/halny/v1/queues/{queue}/drain", post(drain))
        .route("/halny/v1/queues/{queue}/resume", post(resume))
        .route("/halny/v1/queues/{queue}/dead", get(dead))
        .route("/halny/v1/queues/{queue}/dead/retry", post(retry_dead))
        .route("/halny/v1/queues/{queue}/dead/purge", post(purge_dead))
        .layer(Extension(handlers))
}

fn shown(value: impl serde::Serialize) -> Result<Response, ApiError> {
    let value =
        serde_json::to_value(value).map_err(|_| ApiError::new(Fault::Ours, "the answer could not be written"))?;
    Ok(axum::Json(value).into_response())
}

/// A job to be submitted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Submit {
    kind: String,
    queue: Option<String>,
    #[serde(default = "nothing")]
    payload: Value,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    delay_ms: u64,
    timeout_ms: Option<u64>,
    max_attempts: Option<u32>,
}

fn nothing() -> Value {
    json!({})
}

/// `POST /halny/v1/jobs`, with `Idempotency-Key` where it may be sent again.
async fn submit(
    State(shared): State<Shared>,
    Extension(handlers): Extension<Handlers>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let jobs = &shared.background()?.jobs;
        let bytes = body::read(&shared, &headers, body).await?;
        let hash = format!("{:x}", Sha256::digest(&bytes));
        let form: Submit = body::parse(&shared, bytes).await?;
        handlers.check(&form.kind, &form.payload)?;
        let queue = form.queue.as_deref().unwrap_or(DEFAULT_QUEUE);
        let mut job = NewJob {
            tenant: TenantId::anonymous().as_str().to_owned(),
            priority: form.priority,
            delay_ms: form.delay_ms,
            timeout_ms: form.timeout_ms,
            max_attempts: form.max_attempts,
            ..NewJob::new(queue, &form.kind, form.payload)
        };
        if let Some(key) = headers.get(KEY_HEADER) {
            let key =
                key.to_str().map_err(|_| ApiError::invalid("the idempotency key is not made of ASCII characters"))?;
            // The draft's form is a quoted string; many clients send it bare.
            job = job.with_key(key.trim_matches('"'), &hash);
        }
        let submitted = jobs.submit(job).await?;
        let status = if submitted.is_repeated { StatusCode::OK } else { StatusCode::CREATED };
        Ok((status, shown(jobs.get(submitted.id).await?)?).into_response())
    };
    respond(answer.await)
}

#[derive(Debug, Default, Deserialize)]
struct ListQuery {
    queue: Option<String>,
    kind: Option<String>,
    state: Option<String>,
    before: Option<String>,
    limit: Option<usize>,
}

/// `GET /halny/v1/jobs`: the latest first.
async fn list(State(shared): State<Shared>, query: Result<Query<ListQuery>, QueryRejection>) -> Response {
    let answer = async {
        let Query(query) = query.map_err(|error| ApiError::invalid(error.body_text()))?;
        let limit = query.limit.unwrap_or(LIST);
        if !(1..=LIST_MAX).contains(&limit) {
            return Err(ApiError::invalid(format!("`limit` is 1 to {LIST_MAX}")).with_param("limit"));
        }
        let state = query.state.as_deref().map(standing).transpose()?;
        let before = query.before.as_deref().map(str::parse).transpose()?;
        let filter = Filter { tenant: None, queue: query.queue, kind: query.kind, state, before };
        shown(json!({ "jobs": shared.background()?.jobs.list(&filter, limit).await? }))
    };
    respond(answer.await)
}

fn standing(text: &str) -> Result<Standing, ApiError> {
    let known = Standing::ALL.map(Standing::as_str);
    let state = Standing::ALL.into_iter().find(|state| state.as_str() == text);
    state.ok_or_else(|| ApiError::invalid(format!("`state` is one of {}", known.join(", "))).with_param("state"))
}

/// `GET /halny/v1/jobs/{job}`.
async fn show(State(shared): State<Shared>, Named(id): Named<String>) -> Response {
    let answer = async { shown(shared.background()?.jobs.get(id.parse()?).await?) };
    respond(answer.await)
}

/// `POST /halny/v1/jobs/{job}/cancel`.
async fn cancel(State(shared): State<Shared>, Named(id): Named<String>) -> Response {
    let answer = async {
        let (jobs, id) = (&shared.background()?.jobs, id.parse()?);
        jobs.cancel(id).await?;
        shown(jobs.get(id).await?)
    };
    respond(answer.await)
}

/// `POST /halny/v1/jobs/{job}/retry`.
async fn retry(State(shared): State<Shared>, Named(id): Named<String>) -> Response {
    let answer = async {
        let (jobs, id) = (&shared.background()?.jobs, id.parse()?);
        jobs.retry(id).await?;
        shown(jobs.get(id).await?)
    };
    respond(answer.await)
}

/// `GET /halny/v1/queues`.
async fn queues(State(shared): State<Shared>) -> Response {
    let answer = async { shown(json!({ "queues": shared.background()?.jobs.queues().await? })) };
    respond(answer.await)
}

/// `POST /halny/v1/queues/{queue}/drain`: nothing of it starts from now on.
async fn drain(State(shared): State<Shared>, Named(queue): Named<String>) -> Response {
    respond(set_drained(&shared, &queue, true).await)
}

/// `POST /halny/v1/queues/{queue}/resume`.
async fn resume(State(shared): State<Shared>, Named(queue): Named<String>) -> Response {
    respond(set_drained(&shared, &queue, false).await)
}

async fn set_drained(shared: &Shared, queue: &str, is_drained: bool) -> Result<Response, ApiError> {
    let jobs = &shared.background()?.jobs;
    jobs.drain(queue, is_drained).await?;
    shown(jobs.queues().await?.into_iter().find(|state| state.name == queue))
}

/// `GET /halny/v1/queues/{queue}/dead`.
async fn dead(State(shared): State<Shared>, Named(queue): Named<String>) -> Response {
    let answer = async {
        let filter = Filter { queue: Some(queue), state: Some(Standing::Dead), ..Filter::default() };
        shown(json!({ "jobs": shared.background()?.jobs.list(&filter, LIST_MAX).await? }))
    };
    respond(answer.await)
}

/// `POST /halny/v1/queues/{queue}/dead/retry`.
async fn retry_dead(State(shared): State<Shared>, Named(queue): Named<String>) -> Response {
    let answer = async { shown(json!({ "retried": shared.background()?.jobs.retry_dead(&queue).await? })) };
    respond(answer.await)
}

/// `POST /halny/v1/queues/{queue}/dead/purge`.
async fn purge_dead(State(shared): State<Shared>, Named(queue): Named<String>) -> Response {
    let answer = async { shown(json!({ "purged": shared.background()?.jobs.purge_dead(&queue).await? })) };
    respond(answer.await)
}

/// Counts what workers do.
pub struct Observed(pub JobMetrics);

impl Observer for Observed {
    fn started(&self, job: &Job, waited: Duration) {
        self.0.started(&job.queue, &job.kind, waited);
    }

    fn ended(&self, job: &Job, how: &'static str, took: Duration) {
        self.0.ended(&job.queue, &job.kind, how, took);
    }
}
