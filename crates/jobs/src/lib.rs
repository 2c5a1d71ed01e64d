//! Durable queues: work that is accepted once is done, and what it does counts once.
//!
//! A job is a row of the metadata database from the moment it is accepted. A [`Worker`] claims jobs for a
//! while (a lease) that it keeps on extending; when it is lost, its lease runs out and another claims the
//! job. Running a job more than once cannot be ruled out, so what it does is made to count once instead.
//!
//! What is promised, on SQLite and on PostgreSQL (`tests/contract`, and `tests/kills.rs` with workers that
//! are killed at any moment):
//!
//! 1. **Nothing accepted is lost.** [`Jobs::submit`] returns when the job is committed to disk. It ends
//!    `done`, `dead` or `cancelled`, whatever happens to workers.
//! 2. **Nobody writes for another.** Each claim raises the job's epoch. Every acknowledgement, checkpoint and
//!    effect checks it in its own transaction: a worker that was paused, and wakes up when its job is
//!    another's, is refused ([`JobsError::Fenced`]).
//! 3. **An effect counts once.** [`Run::effect`] writes what it did and that it did it in one transaction;
//!    done again, it does nothing.
//! 4. **A key means one request.** The same key with the same request gives the first job again; with another
//!    request it is refused. A key is known for as long as its job.
//! 5. **Only what fails each time is dead.** A try that fails is made again after a while that doubles, with
//!    jitter; after as many tries as the queue allows the job is dead, and waits to be looked at. A lost or
//!    stopped worker is no failed try; a job that loses [`LOSSES_MAX`] workers without making headway is dead too.
//! 6. **What was done is not done again.** A job may leave checkpoints; whoever runs it next gets the last.
//!    What a job used is added up with its checkpoints and its end, so it is counted once.
//! 7. **Limits hold over all workers**: how many jobs of a queue run at once, how many start in a second.
//! 8. **Each occurrence of a schedule runs once**, however many servers keep it. Of those that were missed
//!    while none ran, the first is made up for.
//!
//! Within a queue the higher priority goes first, then the earlier. Between queues a worker takes turns.
//!
//! Not a queue of Redis or a broker: a job is accepted in the same place, often in the same transaction, as
//! what it is about; and one database that is backed up is easier to own than two that must agree.

mod backoff;
mod claim;
pub mod command;
mod effect;
mod ending;
pub mod error;
mod expire;
pub mod handler;
mod inspect;
pub mod job;
mod rows;
pub mod schedule;
mod scribe;
pub mod settings;
mod submit;
pub mod webhook;
pub mod worker;

use std::sync::Arc;

use halny_store::{Blobs, Database};

pub use error::JobsError;
pub use expire::LOSSES_MAX;
pub use handler::{CHECKPOINT_BYTES_MAX, Failure, Handler, Handlers, Run, Stop};
pub use inspect::{Filter, LIST_MAX, QueueState};
pub use job::{Job, JobId, NewJob, Progress, State, Submitted, Usage};
pub use schedule::Schedule;
pub use settings::{QueueSettings, Settings};
pub use submit::{KEY_BYTES_MAX, PAYLOAD_BYTES_MAX, SUBMIT_MAX};
pub use worker::{Observer, Worker};

use schedule::Times;
use scribe::Scribe;

/// The durable queues. Cloning shares them.
#[derive(Clone)]
pub struct Jobs {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) database: Database,
    pub(crate) blobs: Blobs,
    pub(crate) settings: Settings,
    /// The schedules of the settings, their times read.
    pub(crate) times: Vec<Times>,
    pub(crate) scribe: Scribe,
}

impl Jobs {
    /// The queues of a database, as `settings` has them. Checkpoints are kept among the blobs.
    ///
    /// # Errors
    /// When a setting is out of its range, or the database cannot be used.
    pub async fn open(database: Database, blobs: Blobs, settings: Settings) -> Result<Jobs, JobsError> {
        settings.check()?;
        let times = settings.schedules.iter().map(Schedule::times).collect::<Result<_, _>>()?;
        claim::make_queues(&database, &settings).await?;
        let scribe = Scribe::start(database.clone());
        Ok(Jobs { shared: Arc::new(Shared { database, blobs, settings, times, scribe }) })
    }

    /// How the queues are set.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The database that they are in.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.shared.database
    }

    /// Takes no more submissions, and waits until those that were taken are on disk. Workers are stopped before.
    pub async fn close(&self) {
        self.shared.scribe.close().await;
    }

    /// Where checkpoints are.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.shared.blobs
    }
}
