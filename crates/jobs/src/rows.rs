//! A job as a row of the database.

use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::{Job, JobsError, State, Usage};

/// The columns that make a [`Job`].
pub(crate) const COLUMNS: &str = "id, tenant, queue, kind, state, priority, payload, created_ms, run_at_ms, started_ms, \
    ended_ms, timeout_ms, failures, failures_max, losses, backoff_ms, backoff_max_ms, epoch, worker, lease_until_ms, \
    cancel_ms, progress, checkpoint, result, error, device_us, tokens";

/// A whole number as the database keeps it.
pub(crate) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A whole number that is never negative there.
fn count<N: TryFrom<i64>>(row: &AnyRow, name: &str) -> Result<N, JobsError> {
    let number: i64 = row.try_get(name)?;
    N::try_from(number).map_err(|_| JobsError::Unreadable(format!("its {name} is {number}")))
}

fn json<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, JobsError> {
    serde_json::from_str(text).map_err(|error| JobsError::Unreadable(format!("its {name} is no JSON: {error}")))
}

fn json_of<T: DeserializeOwned>(row: &AnyRow, name: &str) -> Result<Option<T>, JobsError> {
    let text: Option<String> = row.try_get(name)?;
    text.map(|text| json(name, &text)).transpose()
}

/// The job that a row with all [`COLUMNS`] is.
pub(crate) fn job(row: &AnyRow) -> Result<Job, JobsError> {
    let state: String = row.try_get("state")?;
    let id: String = row.try_get("id")?;
    Ok(Job {
        id: id.parse()?,
        tenant: row.try_get("tenant")?,
        queue: row.try_get("queue")?,
        kind: row.try_get("kind")?,
        state: State::parse(&state).ok_or_else(|| JobsError::Unreadable(format!("it is {state:?}")))?,
        priority: count(row, "priority")?,
        payload: json("payload", &row.try_get::<String, _>("payload")?)?,
        created_ms: row.try_get("created_ms")?,
        run_at_ms: row.try_get("run_at_ms")?,
        started_ms: row.try_get("started_ms")?,
        ended_ms: row.try_get("ended_ms")?,
        timeout_ms: count(row, "timeout_ms")?,
        failures: count(row, "failures")?,
        max_attempts: count(row, "failures_max")?,
        losses: count(row, "losses")?,
        epoch: row.try_get("epoch")?,
        worker: row.try_get("worker")?,
        lease_until_ms: row.try_get("lease_until_ms")?,
        cancel_ms: row.try_get("cancel_ms")?,
        progress: json_of(row, "progress")?,
        checkpoint: row.try_get("checkpoint")?,
        result: json_of(row, "result")?,
        error: row.try_get("error")?,
        usage: Usage { device_us: count(row, "device_us")?, tokens: count(row, "tokens")? },
        backoff_ms: (count(row, "backoff_ms")?, count(row, "backoff_max_ms")?),
    })
}
