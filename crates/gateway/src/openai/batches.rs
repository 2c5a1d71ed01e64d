//! `/v1/batches`: a file of requests, worked on as a job.
//!
//! A batch is a job of the queue `batches`; its object is made of the job whenever somebody asks.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use halny_jobs::{Filter, Job, JobId, JobsError, NewJob, State as Standing};
use halny_types::project::jobs::{BATCH_QUEUE, JobKind};
use halny_types::{Fault, TenantId};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::files::{EXPIRY_RANGE_S, expiry_text, listed, respond};
use crate::jobs::batch::{ENDPOINTS, Order, Outcome, Phase};
use crate::path::Named;
use crate::{ApiError, Shared, body};

/// The most entries of a list, and how many there are unless it says.
const LIST_MAX: usize = 100;
const LIST: usize = 20;
/// What `metadata` may hold, as OpenAI has it.
const METADATA_MAX: usize = 16;
const METADATA_KEY_MAX: usize = 64;
const METADATA_VALUE_MAX: usize = 512;
/// The time that a batch has: what `completion_window` says.
const WINDOW: &str = "24h";
pub(crate) const WINDOW_MS: u64 = 24 * 3_600 * 1_000;
/// How long one try of a batch may take: its window, and an hour for what is left to be written.
const TIMEOUT_MS: u64 = WINDOW_MS + 3_600 * 1_000;
/// A batch is tried so often before it is given up: what makes it fail is not in its requests.
const ATTEMPTS_MAX: u32 = 20;

/// What a client sends to make one.
#[derive(Debug, Deserialize)]
struct Create {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
    metadata: Option<Map<String, Value>>,
    output_expires_after: Option<Expiry>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Expiry {
    anchor: String,
    seconds: i64,
}

/// `POST /v1/batches`.
pub(crate) async fn create(State(shared): State<Shared>, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let jobs = &shared.background()?.jobs;
        let form: Create = body::json(&shared, &headers, body).await?;
        let order = order(&shared, form).await?;
        let payload = serde_json::to_value(&order).map_err(|_| ApiError::new(Fault::Ours, "the batch has no form"))?;
        let job = NewJob {
            tenant: TenantId::anonymous().as_str().to_owned(),
            timeout_ms: Some(TIMEOUT_MS),
            max_attempts: Some(ATTEMPTS_MAX),
            ..NewJob::new(BATCH_QUEUE, JobKind::Batch.as_str(), payload)
        };
        let submitted = jobs.submit(job).await?;
        Ok(axum::Json(described(&jobs.get(submitted.id).await?)).into_response())
    };
    respond(answer.await)
}

async fn order(shared: &Shared, form: Create) -> Result<Order, ApiError> {
    let wrong = |param: &'static str, text: String| Err(ApiError::invalid(text).with_param(param));
    if !ENDPOINTS.contains(&form.endpoint.as_str()) {
        let shown: String = form.endpoint.chars().take(96).collect();
        return wrong("endpoint", format!("{shown:?} takes no batches; write one of {}", ENDPOINTS.join(", ")));
    }
    if form.completion_window != WINDOW {
        return wrong("completion_window", format!("`completion_window` has to be {WINDOW:?}"));
    }
    if let Some(metadata) = &form.metadata {
        check_metadata(metadata)?;
    }
    if let Some(expiry) = &form.output_expires_after {
        if expiry.anchor != "created_at" {
            return wrong("output_expires_after", "`anchor` has to be \"created_at\"".to_owned());
        }
        if !EXPIRY_RANGE_S.contains(&expiry.seconds) {
            return wrong("output_expires_after", expiry_text("seconds"));
        }
    }
    let file = shared.background()?.files.get(TenantId::anonymous().as_str(), &form.input_file_id).await;
    let file = file.map_err(|error| ApiError::from(error).with_param("input_file_id"))?;
    if file.purpose != "batch" {
        let text = format!("the file is for {:?}; upload it with purpose \"batch\"", file.purpose);
        return wrong("input_file_id", text);
    }
    Ok(Order {
        input_file_id: file.id,
        endpoint: form.endpoint,
        metadata: form.metadata,
        output_expires_after_s: form.output_expires_after.map(|expiry| expiry.seconds),
    })
}

fn check_metadata(metadata: &Map<String, Value>) -> Result<(), ApiError> {
    let is_right = |(key, value): (&String, &Value)| {
        key.chars().count() <= METADATA_KEY_MAX
            && value.as_str().is_some_and(|text| text.chars().count() <= METADATA_VALUE_MAX)
    };
    if metadata.len() <= METADATA_MAX && metadata.iter().all(is_right) {
        return Ok(());
    }
    let text = format!(
        "`metadata` has {METADATA_MAX} pairs at most, with keys of {METADATA_KEY_MAX} and texts of {METADATA_VALUE_MAX} characters"
    );
    Err(ApiError::invalid(text).with_param("metadata"))
}

fn unknown() -> ApiError {
    ApiError::new(Fault::Missing, "there is no batch of that name; GET /v1/batches lists those there are")
}

fn id_of(name: &str) -> Result<JobId, ApiError> {
    name.strip_prefix("batch_").and_then(|id| id.parse().ok()).ok_or_else(unknown)
}

/// A batch of this tenant.
async fn find(shared: &Shared, name: &str) -> Result<Job, ApiError> {
    let job = shared.background()?.jobs.get(id_of(name)?).await.map_err(|error| match error {
        JobsError::NoJob(_) => unknown(),
        error => error.into(),
    })?;
    let is_own = job.kind == JobKind::Batch.as_str() && job.tenant == TenantId::anonymous().as_str();
    is_own.then_some(job).ok_or_else(unknown)
}

/// `GET /v1/batches/{batch}`.
pub(crate) async fn retrieve(State(shared): State<Shared>, Named(name): Named<String>) -> Response {
    let answer = async { Ok(axum::Json(described(&find(&shared, &name).await?)).into_response()) };
    respond(answer.await)
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/batches`: the latest first.
pub(crate) async fn list(State(shared): State<Shared>, query: Result<Query<ListQuery>, QueryRejection>) -> Response {
    let answer = async {
        let Query(query) = query.map_err(|error| ApiError::invalid(error.body_text()))?;
        let limit = query.limit.unwrap_or(LIST);
        if !(1..=LIST_MAX).contains(&limit) {
            return Err(ApiError::invalid(format!("`limit` is 1 to {LIST_MAX}")).with_param("limit"));
        }
        let filter = Filter {
            tenant: Some(TenantId::anonymous().as_str().to_owned()),
            kind: Some(JobKind::Batch.as_str().to_owned()),
            before: query.after.as_deref().map(id_of).transpose()?,
            ..Filter::default()
        };
        let found = shared.background()?.jobs.list(&filter, limit + 1).await?;
        Ok(listed(found.iter().map(described).collect(), limit))
    };
    respond(answer.await)
}

/// `POST /v1/batches/{batch}/cancel`.
pub(crate) async fn cancel(State(shared): State<Shared>, Named(name): Named<String>) -> Response {
    let answer = async {
        let job = find(&shared, &name).await?;
        // Asked again while it is being cancelled, it is what was wanted.
        if job.cancel_ms.is_none() {
            shared.background()?.jobs.cancel(job.id).await?;
        } else if job.state.is_ended() {
            return Err(ApiError::new(Fault::Conflict, "the batch has ended; what has ended cannot be cancelled"));
        }
        Ok(axum::Json(described(&find(&shared, &name).await?)).into_response())
    };
    respond(answer.await)
}

/// The batch object of OpenAI's API.
fn described(job: &Job) -> Value {
    let order: Option<Order> = serde_json::from_value(job.payload.clone()).ok();
    let outcome: Option<Outcome> = job.result.clone().and_then(|result| serde_json::from_value(result).ok());
    let told = job.progress.as_ref().and_then(|progress| Phase::told(&progress.message));
    let phase = told.map(|(phase, _)| phase);
    let status = status(job, outcome.as_ref(), phase);
    let seconds = |millis: Option<i64>| millis.map(|millis| millis / 1_000);
    let ended_as = |name: &str| seconds(job.ended_ms.filter(|_| status == name));
    let order = order.as_ref();
    let counts = outcome.as_ref().map(|outcome| outcome.counts).or_else(|| {
        let progress = job.progress.as_ref()?;
        let failed = told.map_or(0, |(_, failed)| failed);
        let completed = progress.done.saturating_sub(failed);
        Some(crate::jobs::batch::Counts { total: progress.total?, completed, failed })
    });
    let errors = errors(job, outcome.as_ref());
    let begun =
        phase.is_some_and(|phase| phase != Phase::Validating) || outcome.as_ref().is_some_and(|it| it.counts.total > 0);
    json!({
        "id": format!("batch_{}", job.id),
        "object": "batch",
        "endpoint": order.map(|order| &order.endpoint),
        "errors": errors,
        "input_file_id": order.map(|order| &order.input_file_id),
        "completion_window": WINDOW,
        "status": status,
        "output_file_id": outcome.as_ref().and_then(|outcome| outcome.output_file_id.clone()),
        "error_file_id": outcome.as_ref().and_then(|outcome| outcome.error_file_id.clone()),
        "created_at": job.created_ms / 1_000,
        "in_progress_at": seconds(job.started_ms.filter(|_| begun)),
        "expires_at": (job.created_ms + WINDOW_MS as i64) / 1_000,
        "finalizing_at": seconds(job.ended_ms.filter(|_| status == "completed")),
        "completed_at": ended_as("completed"),
        "failed_at": ended_as("failed"),
        "expired_at": ended_as("expired"),
        "cancelling_at": seconds(job.cancel_ms),
        "cancelled_at": ended_as("cancelled"),
        "request_counts": counts.unwrap_or_default(),
        "metadata": order.and_then(|order| order.metadata.clone()),
        "model": outcome.as_ref().and_then(|outcome| outcome.model.clone()),
        "usage": outcome.as_ref().map(|outcome| outcome.usage.described()),
    })
}

fn status(job: &Job, outcome: Option<&Outcome>, phase: Option<Phase>) -> &'static str {
    match (job.state, outcome) {
        (Standing::Done, Some(outcome)) => outcome.status.as_str(),
        (Standing::Dead | Standing::Done, _) => "failed",
        (Standing::Cancelled, _) => "cancelled",
        _ if job.cancel_ms.is_some() => "cancelling",
        _ => phase.unwrap_or(Phase::Validating).as_str(),
    }
}

/// What was wrong with the file; for a batch that was given up, why.
fn errors(job: &Job, outcome: Option<&Outcome>) -> Value {
    let data = match (job.state, outcome) {
        (Standing::Dead, _) => {
            let message = job.error.as_deref().unwrap_or("the batch failed");
            vec![json!({ "code": "server_error", "message": message, "param": null, "line": null })]
        }
        (_, Some(outcome)) if !outcome.errors.is_empty() => {
            outcome.errors.iter().map(|error| json!(error)).collect::<Vec<Value>>()
        }
        _ => return Value::Null,
    };
    json!({ "object": "list", "data": data })
}
