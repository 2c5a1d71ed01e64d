//! What runs jobs of one kind, and what it can do while it does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use halny_store::{StoreError, Write};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use halny_types::{Blame, Fault};

use crate::effect::Mark;
use crate::{Job, Jobs, JobsError, Progress, Usage};

/// The largest checkpoint, in bytes of JSON. What is larger is a blob that the checkpoint names.
pub const CHECKPOINT_BYTES_MAX: usize = 1024 * 1024;

/// Runs jobs of one kind.
pub trait Handler: Send + Sync + 'static {
    /// The kind, as jobs name it.
    fn kind(&self) -> &'static str;

    /// Looks at what a job would be told, before it is accepted.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence for whoever submits it.
    fn check(&self, payload: &Value) -> Result<(), String>;

    /// Runs a job. It may have been run before, whole or in part: see [`Run::resumed`] and [`Run::effect`]. When
    /// [`Run::stopped`] ends it leaves a checkpoint, if it can, and gives [`Failure::Stopped`]; after the grace period,
    /// or when its time is up, it is dropped where it waits.
    ///
    /// What it gives is kept as the job's result.
    ///
    /// A job that was cancelled is run once more where it has a checkpoint.
    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>>;

    /// How much longer than the grace period a job may take that was cancelled, to keep what it has.
    fn cancel_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// The handlers of a server, by kind. Cloning shares them.
#[derive(Clone)]
pub struct Handlers(Arc<HashMap<&'static str, Arc<dyn Handler>>>);

impl Handlers {
    /// These handlers, one for each kind.
    #[must_use]
    pub fn new(handlers: Vec<Arc<dyn Handler>>) -> Handlers {
        Handlers(Arc::new(handlers.into_iter().map(|handler| (handler.kind(), handler)).collect()))
    }

    /// The handler of a kind.
    #[must_use]
    pub fn get(&self, kind: &str) -> Option<&Arc<dyn Handler>> {
        self.0.get(kind)
    }

    /// The kinds, in order.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        let mut kinds: Vec<&'static str> = self.0.keys().copied().collect();
        kinds.sort_unstable();
        kinds
    }

    /// Looks at what a job of this kind would be told.
    ///
    /// # Errors
    /// When there is no such kind, or its handler would not take it.
    pub fn check(&self, kind: &str, payload: &Value) -> Result<(), JobsError> {
        let handler = self.get(kind).ok_or_else(|| JobsError::NoKind {
            name: kind.chars().take(96).collect(),
            known: self.kinds().join(", "),
        })?;
        handler.check(payload).map_err(JobsError::Invalid)
    }
}

/// Why a handler did not finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may go better the next time.
    Retry(String),
    /// It will not: the job is dead at once.
    Fatal(String),
    /// Something that it needs is away for the moment: it is tried again, and no try has failed.
    Unavailable(String),
    /// It was told to stop.
    Stopped,
}

/// What is away for the moment is waited for; everything else is a try that failed.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        JobsError::from(error).into()
    }
}

impl From<JobsError> for Failure {
    fn from(error: JobsError) -> Failure {
        match error {
            JobsError::Fenced => Failure::Stopped,
            error if error.fault() == Fault::Overload => Failure::Unavailable(error.to_string()),
            error => Failure::Retry(error.to_string()),
        }
    }
}

/// Why a handler is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its worker stops: another goes on from the last checkpoint.
    Preempted,
    /// Nobody wants it any more.
    Cancelled,
    /// It is another worker's: nothing that it does counts.
    Lost,
}

/// A job that is being run.
pub struct Run {
    pub(crate) jobs: Jobs,
    pub(crate) job: Job,
    pub(crate) resumed: Option<Value>,
    pub(crate) stop: watch::Sender<Option<Stop>>,
    pub(crate) progress: Mutex<Told>,
    pub(crate) usage: Mutex<Usage>,
    pub(crate) checkpoints: AtomicU32,
}

/// How far a job said that it is.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) progress: Progress,
    pub(crate) is_new: bool,
}

impl Run {
    pub(crate) fn new(jobs: Jobs, job: Job, resumed: Option<Value>) -> Arc<Run> {
        Arc::new(Run {
            jobs,
            job,
            resumed,
            stop: watch::Sender::new(None),
            progress: Mutex::default(),
            usage: Mutex::default(),
            checkpoints: AtomicU32::new(0),
        })
    }

    /// The job, as it was claimed.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// What the job is told.
    #[must_use]
    pub fn payload(&self) -> &Value {
        &self.job.payload
    }

    /// The queues.
    #[must_use]
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// The last checkpoint that the job left, if it was run before and did.
    #[must_use]
    pub fn resumed(&self) -> Option<&Value> {
        self.resumed.as_ref()
    }

    /// Waits until it is to stop.
    pub async fn stopped(&self) -> Stop {
        // The sender is ours: it is there for as long as we wait.
        let mut seen = self.stop.subscribe();
        let stop = seen.wait_for(Option::is_some).await.map(|stop| *stop);
        stop.ok().flatten().unwrap_or(Stop::Lost)
    }

    /// Whether it is to stop.
    #[must_use]
    pub fn is_stopped(&self) -> Option<Stop> {
        *self.stop.borrow()
    }

    /// Says how far it is. Costs next to nothing: it is written from time to time.
    pub fn progress(&self, progress: Progress) {
        *self.progress.lock() = Told { progress, is_new: true };
    }

    /// Adds to what the job used. It is counted with the next checkpoint, or the end, and not at all when the work that
    /// it was for is lost.
    pub fn used(&self, usage: Usage) {
        *self.usage.lock() += usage;
    }

    /// Leaves a checkpoint: whoever runs the job next, if anybody has to, is told `manifest`, and nothing that was done
    /// before is done again. The checkpoint before it is deleted.
    ///
    /// # Errors
    /// [`JobsError::Fenced`] when the job is another's by now, or the database or the place of blobs cannot be used.
    pub async fn checkpoint(&self, manifest: &Value) -> Result<(), JobsError> {
        let bytes = manifest.to_string();
        if bytes.len() > CHECKPOINT_BYTES_MAX {
            return Err(JobsError::TooLarge { bytes: bytes.len(), max: CHECKPOINT_BYTES_MAX });
        }
        let number = self.checkpoints.fetch_add(1, Ordering::Relaxed);
        // Epoch and number make it one that nobody else writes.
        let name = format!("{}/checkpoints/{:08}-{number:08}.json", self.folder(), self.job.epoch);
        self.jobs.shared.blobs.create(&name, Bytes::from(bytes)).await?;
        let usage = std::mem::take(&mut *self.usage.lock());
        let mark = Mark { id: self.job.id, epoch: self.job.epoch, checkpoint: name.clone(), usage };
        match self.jobs.shared.scribe.ask(mark).await {
            Ok(before) => {
                if let Some(before) = before.filter(|before| *before != name) {
                    self.discard(&before).await;
                }
                Ok(())
            }
            Err(error) => {
                // Not counted: it goes with the next, if there is one.
                *self.usage.lock() += usage;
                // Only then is it known that no row names the new one. What stays goes with the job.
                if error == JobsError::Fenced {
                    self.discard(&name).await;
                }
                Err(error)
            }
        }
    }

    /// Deletes a blob that nothing names; one that cannot be deleted goes with the job.
    async fn discard(&self, blob: &str) {
        if let Err(error) = self.jobs.shared.blobs.delete(blob).await {
            tracing::warn!(%error, blob, "a checkpoint that is not the last stays");
        }
    }

    /// The folder of blobs that are the job's own, without `/` at its end. They are deleted with the job.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("jobs/{}", self.job.id)
    }

    /// Does something to the database that counts once, however often the job is run: `statements` are made in one
    /// transaction with the note that the job has made the effect `name`. Tells whether they were made now. They may be
    /// made again before that, when another transaction was in the way.
    ///
    /// # Errors
    /// [`JobsError::Fenced`] when the job is another's by now; what `statements` say, or the database. Then nothing was done.
    pub async fn effect<S>(&self, name: &str, statements: S) -> Result<bool, JobsError>
    where
        S: for<'w> Fn(&'w mut Write) -> BoxFuture<'w, Result<(), JobsError>> + Send + Sync,
    {
        self.jobs.effect(self.job.id, self.job.epoch, name, &statements).await
    }
}
