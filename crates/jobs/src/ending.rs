//! How a try of a job ended, and what is written of it.

use halny_store::Write;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::backoff::pause_ms;
use crate::expire::CANCELLED;
use crate::handler::{Failure, Stop};
use crate::rows::whole;
use crate::{Job, JobId, JobsError, Progress, Usage};

/// How long a job is put off that needs something which is away.
const PUT_OFF_MS: u64 = 5_000;
/// The longest message of an error that is kept, in bytes.
const ERROR_BYTES_MAX: usize = 4_096;

/// How a try ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Done(Value),
    Failed {
        error: String,
        is_fatal: bool,
    },
    Cancelled,
    /// Not done: another worker goes on.
    Released,
    /// Something that it needs is away: it is tried again after a while, and nobody counts.
    PutOff {
        error: String,
    },
    Lost,
}

impl Outcome {
    pub(crate) fn of_failure(failure: Failure, stop: Option<Stop>) -> Outcome {
        match failure {
            Failure::Retry(error) => Outcome::Failed { error, is_fatal: false },
            Failure::Fatal(error) => Outcome::Failed { error, is_fatal: true },
            Failure::Unavailable(error) => Outcome::PutOff { error },
            Failure::Stopped => Outcome::of_stop(stop.unwrap_or(Stop::Lost)),
        }
    }

    pub(crate) fn of_stop(stop: Stop) -> Outcome {
        match stop {
            Stop::Preempted => Outcome::Released,
            Stop::Cancelled => Outcome::Cancelled,
            Stop::Lost => Outcome::Lost,
        }
    }

    pub(crate) fn name(&self, job: &Job) -> &'static str {
        match self {
            Outcome::Done(_) => "done",
            Outcome::Failed { is_fatal, .. } if *is_fatal || job.failures + 1 >= job.max_attempts => "dead",
            Outcome::Failed { .. } => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::Released | Outcome::PutOff { .. } => "released",
            Outcome::Lost => "lost",
        }
    }
}

/// The end of a try, to be written.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    id: JobId,
    epoch: i64,
    state: &'static str,
    is_over: bool,
    failures: i64,
    pause_ms: u64,
    result: Option<String>,
    error: Option<String>,
    usage: Usage,
    /// How far it was, where it said so since that was last written.
    progress: Option<String>,
}

impl Ending {
    pub(crate) fn new(job: &Job, outcome: Outcome, usage: Usage, progress: Option<&Progress>) -> Ending {
        let mut ending = Ending {
            id: job.id,
            epoch: job.epoch,
            state: "ready",
            is_over: true,
            failures: i64::from(job.failures),
            pause_ms: 0,
            result: None,
            error: job.error.clone(),
            usage,
            progress: progress.and_then(|progress| serde_json::to_string(progress).ok()),
        };
        match outcome {
            Outcome::Done(result) => {
                (ending.state, ending.result, ending.error) = ("done", Some(result.to_string()), None)
            }
            Outcome::Cancelled => ending.state = "cancelled",
            Outcome::Released | Outcome::Lost => ending.is_over = false,
            Outcome::PutOff { error } => {
                ending.is_over = false;
                ending.state = "delayed";
                ending.error = Some(kept(&error));
                ending.pause_ms = pause_ms(1, (PUT_OFF_MS, PUT_OFF_MS), &mut rand::rng());
            }
            Outcome::Failed { error, is_fatal } => {
                ending.failures += 1;
                ending.error = Some(kept(&error));
                ending.is_over = is_fatal || ending.failures >= i64::from(job.max_attempts);
                if ending.is_over {
                    ending.state = "dead";
                } else {
                    ending.state = "delayed";
                    ending.pause_ms = pause_ms(job.failures + 1, job.backoff_ms, &mut rand::rng());
                }
            }
        }
        ending
    }

    pub(crate) async fn write(&self, write: &mut Write, now: i64) -> Result<(), JobsError> {
        // A job that somebody cancelled meanwhile is not tried again, unless it has something to keep.
        let sql = format!(
            "UPDATE jobs SET \
             state = CASE WHEN {CANCELLED} AND $3 IN ('ready', 'delayed') THEN 'cancelled' ELSE $3 END, \
             ended_ms = CASE WHEN {CANCELLED} OR $4 = 1 THEN $5 ELSE NULL END, \
             failures = $6, run_at_ms = CASE WHEN $7 > 0 THEN $5 + $7 ELSE run_at_ms END, \
             result = $8, error = $9, device_us = device_us + $10, tokens = tokens + $11, \
             progress = coalesce($12, progress), lease_until_ms = NULL \
             WHERE id = $1 AND epoch = $2 AND state = 'running'"
        );
        let changed = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id.to_string())
            .bind(self.epoch)
            .bind(self.state)
            .bind(i64::from(self.is_over))
            .bind(now)
            .bind(self.failures)
            .bind(whole(self.pause_ms))
            .bind(&self.result)
            .bind(&self.error)
            .bind(whole(self.usage.device_us))
            .bind(whole(self.usage.tokens))
            .bind(&self.progress)
            .execute(&mut **write)
            .await?;
        if changed.rows_affected() == 0 { Err(JobsError::Fenced) } else { Ok(()) }
    }
}

/// What is kept of an error. PostgreSQL has no text with a NUL in it.
fn kept(error: &str) -> String {
    error.chars().take(ERROR_BYTES_MAX / 4).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
