//! Queues, schedules, and what jobs may run: what a project says of them, and the rules between those settings.

mod model;
mod rules;

pub use model::{Command, JobKind, Jobs, Queue, Schedule, Webhook};
pub(super) use rules::check;

/// The queue that every project has.
pub const DEFAULT_QUEUE: &str = "default";
/// The queue of OpenAI's batches, which every project has.
pub const BATCH_QUEUE: &str = "batches";
