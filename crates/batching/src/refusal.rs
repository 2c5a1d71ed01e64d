//! Why a lane does not take an item.

use std::time::Duration;

use halny_types::{Blame, Fault};
use thiserror::Error;

/// Why a lane refused a submission, whole and at once.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// The queue holds as many items as it may.
    #[error("{waiting} items wait already, the queue holds {limit}; try again in {}", human(*.retry_after))]
    QueueItems {
        /// Items that wait.
        waiting: usize,
        /// Items that may wait.
        limit: usize,
        /// When there will be room.
        retry_after: Duration,
    },
    /// The queue holds as many bytes as it may.
    #[error("the waiting items fill the queue's {limit} bytes; try again in {}", human(*.retry_after))]
    QueueBytes {
        /// Bytes that may wait.
        limit: usize,
        /// When there will be room.
        retry_after: Duration,
    },
    /// The answer would come after the deadline.
    #[error(
        "the answer would take about {}, the deadline is in {}; try again in {}",
        human(*.predicted), human(*.budget), human(*.retry_after)
    )]
    Deadline {
        /// Time to the answer, predicted.
        predicted: Duration,
        /// Time to the deadline.
        budget: Duration,
        /// When the same request would be accepted.
        retry_after: Duration,
    },
    /// The deadline has passed already.
    #[error("the deadline has passed already; give the request more time")]
    Expired,
    /// Not even a lane that has nothing else to do would answer in time.
    #[error("the answer takes about {} when nothing else waits, the deadline is in {}; give the request more time", human(*.needed), human(*.budget))]
    Impatient {
        /// Time to the answer if nothing else waited.
        needed: Duration,
        /// Time to the deadline.
        budget: Duration,
    },
    /// Not even an empty queue can hold the request.
    #[error("a request of {count} {unit} does not fit a queue of {limit}; send several smaller requests")]
    LargerThanQueue {
        /// What is counted: `inputs` or `bytes`.
        unit: &'static str,
        /// How many the request has.
        count: usize,
        /// How many may wait.
        limit: usize,
    },
    /// No batch can hold the item, however long it waits.
    #[error(
        "an input of {rows} rows and length {length} does not fit a batch of {max_rows} rows and {max_tokens} tokens; send less at once"
    )]
    TooLarge {
        /// Rows of the item.
        rows: usize,
        /// Its length.
        length: usize,
        /// Rows a batch may have.
        max_rows: usize,
        /// Tokens a batch may have.
        max_tokens: usize,
    },
    /// The lane takes nothing more: its model is being replaced or the server stops.
    #[error("the model is being unloaded; try again shortly")]
    Closed,
}

impl Refusal {
    /// Whether the same request may be taken later, without being changed.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.fault() == Fault::Overload
    }

    /// The reason in one word: a metric's label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::QueueItems { .. } => "queue_items",
            Refusal::QueueBytes { .. } => "queue_bytes",
            Refusal::Deadline { .. } => "deadline",
            Refusal::Expired => "expired",
            Refusal::Impatient { .. } => "impatient",
            Refusal::LargerThanQueue { .. } => "larger_than_queue",
            Refusal::TooLarge { .. } => "too_large",
            Refusal::Closed => "closed",
        }
    }
}

impl Blame for Refusal {
    fn fault(&self) -> Fault {
        match self {
            Refusal::TooLarge { .. } | Refusal::LargerThanQueue { .. } => Fault::TooLarge,
            Refusal::Expired | Refusal::Impatient { .. } => Fault::Late,
            Refusal::QueueItems { .. } | Refusal::QueueBytes { .. } | Refusal::Deadline { .. } | Refusal::Closed => {
                Fault::Overload
            }
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::QueueItems { retry_after, .. }
            | Refusal::QueueBytes { retry_after, .. }
            | Refusal::Deadline { retry_after, .. } => Some(*retry_after),
            Refusal::Closed => Some(Duration::from_millis(100)),
            Refusal::Expired
            | Refusal::Impatient { .. }
            | Refusal::LargerThanQueue { .. }
            | Refusal::TooLarge { .. } => None,
        }
    }
}

/// A duration as a sentence says it: `340 ms`, `2.5 s`.
fn human(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1_000 { format!("{millis} ms") } else { format!("{:.1} s", duration.as_secs_f64()) }
}
