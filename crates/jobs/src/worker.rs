//! What claims jobs and has them run.
//!
//! A worker has some slots. While one is free it claims; a claimed job runs on a task of its own, and its end is
//! written together with the ends of others and the next claim. Beside that one task extends the leases, one takes jobs
//! from workers that were lost and keeps the schedules.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use halny_store::StoreError;
use halny_types::Tick;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::claim::Want;
use crate::ending::{Ending, Outcome};
use crate::expire::FORGET_AT_ONCE;
use crate::handler::{Handler, Handlers, Run, Stop};
use crate::settings::QueueSettings;
use crate::{Job, JobId, Jobs, JobsError, Progress, Usage};

/// How often a worker looks for jobs that nobody told it of: those that other processes submit to a SQLite file.
const POLL: Duration = Duration::from_millis(500);
/// How often it says how far its jobs are.
const TELL: Duration = Duration::from_secs(1);
/// How long it waits after the database failed it.
const AGAIN: Duration = Duration::from_millis(500);

/// What is told of what a worker does.
pub trait Observer: Send + Sync + 'static {
    /// A job was started, so long after it could have been.
    fn started(&self, job: &Job, waited: Duration);
    /// A try ended after so long: `done`, `failed`, `dead`, `cancelled`, `released` or `lost`.
    fn ended(&self, job: &Job, how: &'static str, took: Duration);
}

/// Tells nobody.
impl Observer for () {
    fn started(&self, _: &Job, _: Duration) {}
    fn ended(&self, _: &Job, _: &'static str, _: Duration) {}
}

/// Claims jobs and has them run, until it is stopped.
pub struct Worker {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    jobs: Jobs,
    name: String,
    handlers: Handlers,
    queues: Arc<[QueueSettings]>,
    kinds: Arc<[String]>,
    running: Mutex<HashMap<JobId, Arc<Run>>>,
    /// Jobs from when they are claimed until their end is written, with their epochs: their leases are extended, and no
    /// others.
    held: Mutex<HashMap<JobId, i64>>,
    observer: Arc<dyn Observer>,
    stop: CancellationToken,
}

impl Worker {
    /// Starts a worker with these handlers on all queues.
    #[must_use]
    pub fn start(jobs: Jobs, handlers: Handlers, observer: Arc<dyn Observer>) -> Worker {
        let kinds = handlers.kinds().into_iter().map(str::to_owned).collect();
        let queues = jobs.settings().queues.as_slice().into();
        // Unlike any other, before a restart too: what it had then is not what it has now.
        let name = format!("{}-{}", std::process::id(), JobId::fresh());
        let (running, held, stop) = (Mutex::default(), Mutex::default(), CancellationToken::new());
        let shared = Arc::new(Shared { jobs, name, handlers, queues, kinds, running, held, observer, stop });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).claim_and_run());
        tasks.spawn(Arc::clone(&shared).keep_leases());
        tasks.spawn(Arc::clone(&shared).keep_time());
        Worker { shared, tasks }
    }

    /// Jobs that it runs now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.running.lock().len()
    }

    /// Claims nothing more, tells what runs to stop, waits for the grace period, and gives back what is not done.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Shared {
    async fn claim_and_run(self: Arc<Shared>) {
        let slots = self.jobs.settings().slots;
        let mut bell = self.jobs.database().bell().listen();
        let mut tasks = JoinSet::new();
        let mut turn = 0;
        // Nobody is told to look again before they have looked.
        let mut again = Duration::ZERO;
        let mut is_empty = false;
        while !self.stop.is_cancelled() {
            while tasks.try_join_next().is_some() {}
            let free = slots.saturating_sub(tasks.len());
            if free > 0 && !is_empty {
                bell.mark_unchanged();
                turn += 1;
                (is_empty, again) = match self.claim(free, turn).await {
                    Ok((claimed, again)) => {
                        let is_empty = claimed.len() < free;
                        for job in claimed {
                            self.held.lock().insert(job.id, job.epoch);
                            tasks.spawn(Arc::clone(&self).run(job));
                        }
                        (is_empty, again)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no jobs can be claimed");
                        (true, AGAIN)
                    }
                };
                continue;
            }
            tokio::select! {
                // Room, and others of the same queue may start where so many at once are allowed.
                Some(_) = tasks.join_next(), if !tasks.is_empty() => is_empty = false,
                _ = bell.changed(), if free > 0 => is_empty = false,
                () = tokio::time::sleep(again), if free > 0 => is_empty = false,
                () = self.stop.cancelled() => {}
            }
        }
        self.tell_all(Stop::Preempted);
        while tasks.join_next().await.is_some() {}
    }

    async fn claim(&self, jobs: usize, turn: usize) -> Result<(Vec<Job>, Duration), JobsError> {
        let want = Want {
            worker: self.name.clone(),
            lease_ms: i64::try_from(self.jobs.settings().lease.as_millis()).unwrap_or(i64::MAX),
            jobs,
            queues: Arc::clone(&self.queues),
            turn,
            kinds: Arc::clone(&self.kinds),
        };
        let claimed = self.jobs.shared.scribe.ask(want).await?;
        let again = claimed.again_in_ms.map_or(POLL, |millis| Duration::from_millis(millis.max(1).unsigned_abs()));
        Ok((claimed.jobs, again.min(POLL)))
    }

    /// The life of one claimed job.
    async fn run(self: Arc<Shared>, job: Job) {
        let id = job.id;
        self.run_held(job).await;
        self.held.lock().remove(&id);
    }

    async fn run_held(&self, job: Job) {
        let began = Tick::now();
        self.observer.started(&job, waited(&job, self.jobs.settings().lease));
        let (id, epoch) = (job.id, job.epoch);
        let resumed = match self.last_checkpoint(&job).await {
            Ok(resumed) => resumed,
            Err(error) => {
                tracing::warn!(%error, job = %id, "the checkpoint of a job cannot be read");
                let outcome = Outcome::of_failure(error.into(), None);
                return self.end(&job, outcome, Usage::default(), None, began).await;
            }
        };
        let run = Run::new(self.jobs.clone(), job, resumed);
        self.running.lock().insert(id, Arc::clone(&run));
        if run.job.cancel_ms.is_some() {
            // It has a checkpoint, and its handler may have something to keep.
            tell(&run, Stop::Cancelled);
        }
        if self.stop.is_cancelled() {
            // It may have come too late to be told with the others.
            tell(&run, Stop::Preempted);
        }
        let outcome = self.outcome(&run).await;
        self.running.lock().remove(&id);
        let usage = std::mem::take(&mut *run.usage.lock());
        tracing::debug!(job = %id, epoch, ?outcome, "a try of a job ended");
        let told = std::mem::take(&mut *run.progress.lock());
        let progress = told.is_new.then_some(&told.progress);
        self.end(run.job(), outcome, usage, progress, began).await;
    }

    async fn last_checkpoint(&self, job: &Job) -> Result<Option<Value>, JobsError> {
        let Some(name) = &job.checkpoint else { return Ok(None) };
        let bytes = self.jobs.shared.blobs.get(name).await?;
        let manifest = serde_json::from_slice(&bytes);
        manifest.map(Some).map_err(|error| JobsError::Unreadable(format!("its checkpoint is no JSON: {error}")))
    }

    async fn outcome(&self, run: &Run) -> Outcome {
        let Some(handler) = self.handlers.get(run.job.kind.as_str()) else {
            return Outcome::Released;
        };
        let timeout = Duration::from_millis(run.job.timeout_ms);
        let work = AssertUnwindSafe(handler.run(run)).catch_unwind();
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = tokio::time::sleep(timeout) => {
                let error = format!("it took longer than its {} ms", run.job.timeout_ms);
                return Outcome::Failed { error, is_fatal: false };
            }
            stop = self.stopped_for_long(run, handler.as_ref()) => return Outcome::of_stop(stop),
        };
        match outcome {
            Ok(Ok(result)) => Outcome::Done(result),
            Ok(Err(failure)) => Outcome::of_failure(failure, run.is_stopped()),
            Err(panic) => Outcome::Failed { error: format!("its handler broke: {}", text_of(&panic)), is_fatal: false },
        }
    }

    /// Waits until the time is up that a job has which was told to stop.
    async fn stopped_for_long(&self, run: &Run, handler: &dyn Handler) -> Stop {
        let stop = run.stopped().await;
        if stop == Stop::Lost {
            return stop;
        }
        let patience = async {
            if stop == Stop::Cancelled {
                // Unless the server stops meanwhile, which does not wait so long.
                let _ = tokio::time::timeout(handler.cancel_time(), self.stop.cancelled()).await;
            }
            tokio::time::sleep(self.jobs.settings().grace).await;
        };
        let mut seen = run.stop.subscribe();
        tokio::select! {
            _ = seen.wait_for(|stop| *stop == Some(Stop::Lost)) => Stop::Lost,
            // What it could not keep in time another worker keeps.
            () = patience => if self.stop.is_cancelled() { Stop::Preempted } else { stop },
        }
    }

    /// Writes how a try ended, for as long as the job is ours.
    async fn end(&self, job: &Job, outcome: Outcome, usage: Usage, progress: Option<&Progress>, began: Tick) {
        let how = outcome.name(job);
        self.observer.ended(job, how, began.until(Tick::now()));
        if matches!(outcome, Outcome::Lost) {
            return;
        }
        let ending = Ending::new(job, outcome, usage, progress);
        let patience = Tick::now() + self.jobs.settings().lease;
        loop {
            match self.jobs.shared.scribe.ask(ending.clone()).await {
                Ok(()) => return,
                Err(JobsError::Fenced) => {
                    tracing::warn!(job = %job.id, how, "a job ended that was another worker's by then");
                    return;
                }
                Err(error) if Tick::now() < patience => {
                    tracing::warn!(%error, job = %job.id, "the end of a job cannot be written; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => {
                    tracing::error!(%error, job = %job.id, how, "the end of a job was not written: it will be run again");
                    return;
                }
            }
        }
    }

    fn tell_all(&self, stop: Stop) {
        for run in self.running.lock().values() {
            tell(run, stop);
        }
    }

    /// Extends leases, hears what was cancelled, and gives up what was lost.
    async fn keep_leases(self: Arc<Shared>) {
        let lease = self.jobs.settings().lease;
        let period = (lease / 3).min(TELL);
        let mut extended = Tick::now();
        // Jobs that were told to stop have their leases for as long as they have to stop.
        while !(self.stop.is_cancelled() && self.held.lock().is_empty()) {
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = self.stop.cancelled(), if !self.stop.is_cancelled() => continue,
            }
            let held: Vec<(JobId, i64)> = self.held.lock().iter().map(|(id, epoch)| (*id, *epoch)).collect();
            if held.is_empty() {
                extended = Tick::now();
                continue;
            }
            // A third: what was claimed since has its own lease, and two more may fail.
            let is_due = extended.until(Tick::now() + period) >= lease / 3;
            let now = Tick::now();
            let told = self.told();
            let beat = self.jobs.beat(&held, is_due.then_some(lease), &told);
            // A database that does not answer extends nothing, however long it is waited for.
            let beat = tokio::time::timeout(lease / 3, beat).await;
            match beat.unwrap_or(Err(StoreError::Unavailable.into())) {
                Ok(ours) => {
                    extended = if is_due { now } else { extended };
                    self.hear(&held, &ours);
                }
                Err(error) => {
                    tracing::warn!(%error, "leases cannot be extended");
                    if extended.until(Tick::now()) > lease {
                        // Others may have them by now.
                        self.tell_all(Stop::Lost);
                    }
                }
            }
        }
    }

    /// Tells the jobs that were running what the database says of them.
    fn hear(&self, held: &[(JobId, i64)], ours: &HashMap<JobId, bool>) {
        let running = self.running.lock();
        for run in held.iter().filter_map(|(id, epoch)| running.get(id).filter(|run| run.job.epoch == *epoch)) {
            match ours.get(&run.job.id) {
                Some(true) => tell(run, Stop::Cancelled),
                Some(false) => {}
                None => tell(run, Stop::Lost),
            }
        }
    }

    /// How far jobs are that have said so since they were last asked.
    fn told(&self) -> Vec<(JobId, i64, Progress)> {
        let running = self.running.lock();
        let told = running.values().filter_map(|run| {
            let mut told = run.progress.lock();
            std::mem::take(&mut told.is_new).then(|| (run.job.id, run.job.epoch, told.progress.clone()))
        });
        told.collect()
    }

    /// Takes jobs from the lost, keeps schedules, and forgets what is old.
    async fn keep_time(self: Arc<Shared>) {
        let period = (self.jobs.settings().lease / 4).min(Duration::from_secs(5));
        let (mut forgot, mut is_more) = (Tick::now(), false);
        while !self.stop.is_cancelled() {
            let mut wait = period;
            if let Err(error) = self.jobs.reap().await {
                tracing::warn!(%error, "jobs of lost workers cannot be looked for");
            }
            match self.jobs.keep_schedules().await {
                Ok((_, Some(due))) => wait = wait.min(Duration::from_millis(due.max(1).unsigned_abs())),
                Ok((_, None)) => {}
                Err(error) => tracing::warn!(%error, "schedules cannot be kept"),
            }
            if is_more || forgot.until(Tick::now()) > Duration::from_secs(60) {
                forgot = Tick::now();
                is_more = match self.jobs.forget().await {
                    Ok(count) => count >= FORGET_AT_ONCE.unsigned_abs(),
                    Err(error) => {
                        tracing::warn!(%error, "old jobs cannot be forgotten");
                        false
                    }
                };
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }
}

/// Tells a job to stop, unless it knows of something as grave.
fn tell(run: &Run, stop: Stop) {
    run.stop.send_if_modified(|told| {
        let is_graver = told.is_none() || (stop == Stop::Lost && *told != Some(Stop::Lost));
        if is_graver {
            *told = Some(stop);
        }
        is_graver
    });
}

/// How long a job waited that was just claimed: its lease began then.
fn waited(job: &Job, lease: Duration) -> Duration {
    let until = Duration::from_millis(job.lease_until_ms.unwrap_or_default().max(0).unsigned_abs());
    let from = Duration::from_millis(job.run_at_ms.max(0).unsigned_abs());
    until.saturating_sub(lease).saturating_sub(from)
}

fn text_of(panic: &Box<dyn std::any::Any + Send>) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked")
}
