//! The types of queues, schedules, commands and webhooks.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::DEFAULT_QUEUE;
use crate::QueueName;

/// How this server works on jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Jobs {
    /// Jobs that this server runs at once, of all queues together. 0: it takes them, and others run them.
    #[schemars(range(min = 0, max = 10_000))]
    pub slots: usize,
    /// How long a job is a server's that is not heard of; then it is given to another.
    #[schemars(range(min = 1_000, max = 3_600_000))]
    pub lease_ms: u64,
    /// The time that a job has to leave a checkpoint when its server stops, or when it is cancelled.
    #[schemars(range(min = 0, max = 600_000))]
    pub grace_ms: u64,
    /// How long jobs are kept that are done or were cancelled.
    #[schemars(range(min = 1, max = 3_650))]
    pub keep_days: u64,
}

impl Default for Jobs {
    fn default() -> Jobs {
        Jobs { slots: 64, lease_ms: 30_000, grace_ms: 10_000, keep_days: 7 }
    }
}

/// A queue of jobs. The queues `default` and `batches` are there without being written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Its name.
    pub name: QueueName,
    /// Jobs of it that run at once, over all servers. Without it, as many as there is room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrency: Option<u32>,
    /// Jobs of it that start in a second, over all servers. Without it, as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 1_000_000))]
    pub rate_per_s: Option<f64>,
    /// How long one try may take.
    #[serde(default = "hour")]
    #[schemars(range(min = 1, max = 2_592_000_000_u64))]
    pub timeout_ms: u64,
    /// Tries that may fail before a job is dead.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 1_000))]
    pub max_attempts: u32,
    /// The pause before the second try; it doubles with each.
    #[serde(default = "second")]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub backoff_ms: u64,
    /// The longest pause between tries.
    #[serde(default = "ten_minutes")]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub backoff_max_ms: u64,
}

fn hour() -> u64 {
    3_600_000
}
fn five() -> u32 {
    5
}
fn second() -> u64 {
    1_000
}
fn ten_minutes() -> u64 {
    600_000
}

impl Queue {
    /// A queue of that name with all that has a default as it is.
    #[must_use]
    pub fn named(name: QueueName) -> Queue {
        Queue {
            name,
            concurrency: None,
            rate_per_s: None,
            timeout_ms: hour(),
            max_attempts: five(),
            backoff_ms: second(),
            backoff_max_ms: ten_minutes(),
        }
    }
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Embeds a file of texts into a collection.
    EmbedCollection,
    /// Brings the online features up to date with the offline ones.
    Materialize,
    /// Searches and ranks again for queries that are known, and keeps what came of it.
    RerankRefresh,
    /// Runs a file of requests, as OpenAI's batches.
    Batch,
    /// Tells another server, signed.
    Webhook,
    /// Runs a program of the project's.
    Command,
}

impl JobKind {
    /// The kind as it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            JobKind::EmbedCollection => "embed-collection",
            JobKind::Materialize => "materialize",
            JobKind::RerankRefresh => "rerank-refresh",
            JobKind::Batch => "batch",
            JobKind::Webhook => "webhook",
            JobKind::Command => "command",
        }
    }
}

/// A job that is submitted again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Its name.
    pub name: QueueName,
    /// When: minute, hour, day of the month, month, day of the week; a sixth field in front is seconds.
    #[schemars(length(min = 9, max = 256), extend("examples" = ["30 3 * * *", "*/10 * * * *"]))]
    pub cron: String,
    /// Whose clocks that is said by, by a name of the IANA database.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), extend("examples" = ["UTC", "Europe/Warsaw"]))]
    pub timezone: String,
    /// The queue of the job.
    #[serde(default = "default_queue")]
    pub queue: QueueName,
    /// What the job does.
    pub kind: JobKind,
    /// What it is told.
    #[serde(default)]
    pub payload: Map<String, Value>,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn default_queue() -> QueueName {
    QueueName::new(DEFAULT_QUEUE).unwrap_or_else(|_| unreachable!("a valid name"))
}

/// A program that jobs of the kind `command` may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The name that jobs know it by.
    pub name: QueueName,
    /// The program and its arguments. What a job is told comes as JSON on its standard input, never as an argument.
    #[schemars(length(min = 1, max = 256), extend("examples" = [["python3", "train.py"]]))]
    pub program: Vec<String>,
    /// The folder it runs in, relative to this file. Without it, this file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4_096))]
    pub folder: Option<PathBuf>,
    /// Variables of its environment, beside `PATH`, `HOME` and those that tell it of its job.
    #[serde(default)]
    pub env: std::collections::BTreeMap<String, String>,
    /// The most memory that one of its processes may have, such as `2GiB`. Without it, as much as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<crate::ByteSize>,
    /// The most processor time it may take, in seconds. Without it, what its job's time allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub cpu_s: Option<u64>,
}

/// Where jobs of the kind `webhook` may send to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The name that jobs know it by.
    pub name: QueueName,
    /// Where requests go: `https://`, or `http://`.
    #[schemars(length(min = 8, max = 4_096), extend("examples" = ["https://app.example.com/hooks/halny"]))]
    pub url: String,
    /// The environment variable with the secret that requests are signed with, as Standard Webhooks has them: `whsec_`
    /// and 24 to 64 bytes in base64.
    #[schemars(length(min = 1, max = 256), extend("examples" = ["HALNY_WEBHOOK_SECRET"]))]
    pub secret_env: String,
    /// Time for an answer.
    #[serde(default = "fifteen_seconds")]
    #[schemars(range(min = 1, max = 600_000))]
    pub timeout_ms: u64,
}

fn fifteen_seconds() -> u64 {
    15_000
}
