//! What a job is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::JobsError;

/// Names one job. Later ones sort after earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Uuid);

impl JobId {
    /// A new one.
    #[must_use]
    pub fn fresh() -> JobId {
        JobId(Uuid::now_v7())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for JobId {
    type Err = JobsError;

    fn from_str(text: &str) -> Result<JobId, JobsError> {
        // One way of writing each, since the database compares texts.
        match Uuid::try_parse(text) {
            Ok(id) if id.simple().to_string() == text => Ok(JobId(id)),
            _ => Err(JobsError::NoJob(text.chars().take(64).collect())),
        }
    }
}

impl Serialize for JobId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its time has not come.
    Delayed,
    /// It waits for a worker.
    Ready,
    /// A worker has it.
    Running,
    /// It did what it is for.
    Done,
    /// It failed each time; nobody tries again unless asked.
    Dead,
    /// Somebody did not want it any more.
    Cancelled,
}

impl State {
    /// All of them, in the order in which a job may meet them.
    pub const ALL: [State; 6] =
        [State::Delayed, State::Ready, State::Running, State::Done, State::Dead, State::Cancelled];

    /// The state as it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Delayed => "delayed",
            State::Ready => "ready",
            State::Running => "running",
            State::Done => "done",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen to the job by itself.
    #[must_use]
    pub fn is_ended(self) -> bool {
        matches!(self, State::Done | State::Dead | State::Cancelled)
    }

    pub(crate) fn parse(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A job to be accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// Whose it is.
    pub tenant: String,
    /// The queue it waits in.
    pub queue: String,
    /// Which handler runs it.
    pub kind: String,
    /// What the handler is told.
    pub payload: Value,
    /// Among those of its queue the higher goes first.
    pub priority: i32,
    /// It starts no earlier than so many milliseconds from now.
    pub delay_ms: u64,
    /// How long one try may take, in milliseconds; as the queue says unless it does.
    pub timeout_ms: Option<u64>,
    /// Tries that may fail; as the queue says unless it does.
    pub max_attempts: Option<u32>,
    /// By which a client that repeats itself is known.
    pub key: Option<Key>,
}

/// What makes two requests one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The client's own name of the request; unique for its tenant.
    pub name: String,
    /// What the request was: SHA-256, in hexadecimal.
    pub request_hash: String,
}

impl NewJob {
    /// A job with all that has a default as it is.
    #[must_use]
    pub fn new(queue: &str, kind: &str, payload: Value) -> NewJob {
        NewJob {
            tenant: String::new(),
            queue: queue.to_owned(),
            kind: kind.to_owned(),
            payload,
            priority: 0,
            delay_ms: 0,
            timeout_ms: None,
            max_attempts: None,
            key: None,
        }
    }

    /// The same job, known by a key.
    #[must_use]
    pub fn with_key(mut self, name: &str, request_hash: &str) -> NewJob {
        self.key = Some(Key { name: name.to_owned(), request_hash: request_hash.to_owned() });
        self
    }
}

/// What became of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The job.
    pub id: JobId,
    /// Whether it was there already, by its key.
    pub is_repeated: bool,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What is done, in units of the handler's.
    pub done: u64,
    /// Of how much, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub total: Option<u64>,
    /// What it is about now.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
}

/// What a job used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Time of devices, in microseconds.
    pub device_us: u64,
    /// Tokens that models read and wrote.
    pub tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.device_us = self.device_us.saturating_add(other.device_us);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }
}

/// A job as it stands. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Whose it is.
    pub tenant: String,
    /// The queue it waits in.
    pub queue: String,
    /// Which handler runs it.
    pub kind: String,
    /// Where it stands.
    pub state: State,
    /// Among those of its queue the higher goes first.
    pub priority: i32,
    /// What the handler is told.
    pub payload: Value,
    /// When it was accepted.
    pub created_ms: i64,
    /// It starts no earlier.
    pub run_at_ms: i64,
    /// When it was first started.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub ended_ms: Option<i64>,
    /// How long one try may take.
    pub timeout_ms: u64,
    /// Tries that failed.
    pub failures: u32,
    /// Tries that may fail.
    pub max_attempts: u32,
    /// Workers that were lost since it last made headway.
    pub losses: u32,
    /// How often it was claimed.
    pub epoch: i64,
    /// Who has it, or had it last.
    pub worker: Option<String>,
    /// When whoever has it loses it unless it is heard of.
    pub lease_until_ms: Option<i64>,
    /// When somebody asked for it to be cancelled.
    pub cancel_ms: Option<i64>,
    /// How far it is.
    pub progress: Option<Progress>,
    /// The blob that says where to go on.
    #[serde(skip)]
    pub checkpoint: Option<String>,
    /// What came of it.
    pub result: Option<Value>,
    /// What its last failed try said.
    pub error: Option<String>,
    /// What it used.
    pub usage: Usage,
    /// The shortest and the longest pause between tries, in milliseconds.
    #[serde(skip)]
    pub(crate) backoff_ms: (u64, u64),
}
