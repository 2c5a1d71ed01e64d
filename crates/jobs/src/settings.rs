//! How queues are set.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::JobsError;
use crate::schedule::Schedule;

/// How the queues of a server are set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The queues.
    pub queues: Vec<QueueSettings>,
    /// What is submitted when its time comes.
    pub schedules: Vec<Schedule>,
    /// Jobs that one worker runs at once.
    pub slots: usize,
    /// How long a job is a worker's that is not heard of.
    pub lease: Duration,
    /// The time that a job has to leave a checkpoint when its worker stops, or when it is cancelled.
    pub grace: Duration,
    /// How long a job is kept that is done or was cancelled.
    pub keep: Duration,
}

/// The longest that a worker may be silent: a server's clock is not trusted further.
pub const LEASE_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            queues: vec![QueueSettings::new("default")],
            schedules: Vec::new(),
            slots: 64,
            lease: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            keep: Duration::from_secs(7 * 24 * 3_600),
        }
    }
}

impl Settings {
    /// The queue of that name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&QueueSettings> {
        self.queues.iter().find(|queue| queue.name == name)
    }

    pub(crate) fn names(&self) -> String {
        self.queues.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn check(&self) -> Result<(), JobsError> {
        let wrong = |text: &str| Err(JobsError::Settings(text.to_owned()));
        if !LEASE_RANGE.contains(&self.lease) {
            return wrong("a lease is 100 milliseconds to an hour");
        }
        if self.slots == 0 || self.queues.is_empty() {
            return wrong("jobs need at least one queue and one slot");
        }
        Ok(())
    }
}

/// How one queue is set.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSettings {
    /// Its name.
    pub name: String,
    /// Jobs of it that run at once, over all workers.
    pub concurrency: Option<u32>,
    /// Jobs of it that start in a second, over all workers; as many may start at once as in one second.
    pub rate_per_s: Option<f64>,
    /// How long one try may take.
    pub timeout: Duration,
    /// Tries that may fail.
    pub max_attempts: u32,
    /// The first pause between tries; it doubles with each.
    pub backoff: Duration,
    /// The longest pause between tries.
    pub backoff_max: Duration,
}

impl QueueSettings {
    /// A queue with all that has a default as it is.
    #[must_use]
    pub fn new(name: &str) -> QueueSettings {
        QueueSettings {
            name: name.to_owned(),
            concurrency: None,
            rate_per_s: None,
            timeout: Duration::from_secs(3_600),
            max_attempts: 5,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(600),
        }
    }
}
