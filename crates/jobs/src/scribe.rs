//! Writes what many ask for in one transaction.
//!
//! A commit waits for the disk, for a millisecond or so; a statement takes some microseconds. So what comes while one
//! transaction is being committed makes up the next: submissions, claims, ends, checkpoints, each in its order, each
//! answered when it is on disk.

use std::sync::Arc;

use futures::future::BoxFuture;
use halny_store::{Database, StoreError, Write};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::claim::{self, Claimed, Want};
use crate::effect::{self, Mark};
use crate::ending::Ending;
use crate::job::{NewJob, Submitted};
use crate::settings::QueueSettings;
use crate::submit;
use crate::{JobId, JobsError};

/// Requests that may wait.
const WAITING_MAX: usize = 4_096;
/// Requests of one transaction.
const AT_ONCE: usize = 512;
/// Transactions meet, and one has to give way: how often it is made again.
pub(crate) const TRIES: usize = 8;

/// What is asked of the scribe, and what it answers. A request may be made more than once, until it is committed.
pub(crate) trait Request: Send + Sync + 'static {
    type Answer: Send + 'static;

    /// Makes its statements. `now` is the time in milliseconds.
    fn make<'a>(
        &'a self,
        write: &'a mut Write,
        database: &'a Database,
        now: i64,
    ) -> BoxFuture<'a, Result<Self::Answer, JobsError>>;

    /// Whether others are told, since there is something to do.
    fn rings(&self) -> bool {
        false
    }
}

/// A request with the way back for its answer.
trait Pending: Send + Sync {
    fn make<'a>(
        &'a mut self,
        write: &'a mut Write,
        database: &'a Database,
        now: i64,
    ) -> BoxFuture<'a, Result<(), JobsError>>;
    fn rings(&self) -> bool;
    /// Answers what was made last: it is committed.
    fn committed(self: Box<Self>);
    fn failed(self: Box<Self>, error: JobsError);
}

struct Asked<R: Request> {
    request: R,
    made: Option<Result<R::Answer, JobsError>>,
    answer: oneshot::Sender<Result<R::Answer, JobsError>>,
}

impl<R: Request> Pending for Asked<R>
where
    R::Answer: Sync,
{
    fn make<'a>(
        &'a mut self,
        write: &'a mut Write,
        database: &'a Database,
        now: i64,
    ) -> BoxFuture<'a, Result<(), JobsError>> {
        Box::pin(async move {
            let made = self.request.make(write, database, now).await;
            // What the database says ends the transaction; what we say is an answer like any other.
            match made {
                Err(error @ JobsError::Store { .. }) => Err(error),
                made => {
                    self.made = Some(made);
                    Ok(())
                }
            }
        })
    }

    fn rings(&self) -> bool {
        self.request.rings()
    }

    fn committed(self: Box<Self>) {
        // Whoever asked may have gone; what was committed stays.
        let _ = self.answer.send(self.made.unwrap_or(Err(JobsError::Closed)));
    }

    fn failed(self: Box<Self>, error: JobsError) {
        let _ = self.answer.send(Err(error));
    }
}

/// Takes requests and writes them together.
pub(crate) struct Scribe {
    requests: Mutex<Option<mpsc::Sender<Box<dyn Pending>>>>,
    task: Mutex<JoinSet<()>>,
}

impl Scribe {
    pub(crate) fn start(database: Database) -> Scribe {
        let (requests, asked) = mpsc::channel(WAITING_MAX);
        let mut task = JoinSet::new();
        task.spawn(serve(database, asked));
        Scribe { requests: Mutex::new(Some(requests)), task: Mutex::new(task) }
    }

    /// Asks, and waits until the answer is on disk. Where too many wait it waits for room.
    pub(crate) async fn ask<R: Request>(&self, request: R) -> Result<R::Answer, JobsError>
    where
        R::Answer: Sync,
    {
        let requests = self.requests.lock().clone().ok_or(JobsError::Closed)?;
        let place = requests.reserve().await.map_err(|_| JobsError::Closed)?;
        asked(place, request).await
    }

    /// The same for what a client asks: refused at once where too many wait.
    pub(crate) async fn ask_if_room<R: Request>(&self, request: R) -> Result<R::Answer, JobsError>
    where
        R::Answer: Sync,
    {
        let requests = self.requests.lock().clone().ok_or(JobsError::Closed)?;
        let place = requests.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => JobsError::Busy,
            mpsc::error::TrySendError::Closed(()) => JobsError::Closed,
        })?;
        asked(place, request).await
    }

    /// Takes nothing more, and waits until what was taken is written.
    pub(crate) async fn close(&self) {
        self.requests.lock().take();
        let mut task = std::mem::take(&mut *self.task.lock());
        while task.join_next().await.is_some() {}
    }
}

async fn asked<R: Request>(place: mpsc::Permit<'_, Box<dyn Pending>>, request: R) -> Result<R::Answer, JobsError>
where
    R::Answer: Sync,
{
    let (answer, answered) = oneshot::channel();
    place.send(Box::new(Asked { request, made: None, answer }));
    answered.await.map_err(|_| JobsError::Closed)?
}

async fn serve(database: Database, mut asked: mpsc::Receiver<Box<dyn Pending>>) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while asked.recv_many(&mut batch, AT_ONCE).await > 0 {
        if let Err(refused) = write(&database, &mut batch).await {
            // One that the database refuses shall not take the others with it. What may have been committed is made
            // by nobody again.
            let is_final = batch.len() == 1 || refused.may_be_committed;
            for mut pending in batch.drain(..) {
                let outcome = if is_final {
                    Err(refused.clone())
                } else {
                    write(&database, std::slice::from_mut(&mut pending)).await
                };
                match outcome {
                    Ok(()) => pending.committed(),
                    Err(refused) => pending.failed(refused.error),
                }
            }
        }
        batch.drain(..).for_each(Pending::committed);
    }
}

/// Writes all of these in one transaction.
async fn write(database: &Database, batch: &mut [Box<dyn Pending>]) -> Result<(), Refused> {
    let mut tries = 1;
    loop {
        match write_once(database, batch).await {
            Err(Failed::Collision) if tries < TRIES => tries += 1,
            Err(Failed::Collision) => {
                return Err(Refused { error: StoreError::Unavailable.into(), may_be_committed: false });
            }
            Err(Failed::Other(error)) => return Err(Refused { error, may_be_committed: false }),
            Err(Failed::Unknown(error)) => return Err(Refused { error, may_be_committed: true }),
            Ok(()) => return Ok(()),
        }
    }
}

/// Why nothing was written, as far as is known.
#[derive(Clone)]
struct Refused {
    error: JobsError,
    may_be_committed: bool,
}

enum Failed {
    Collision,
    Other(JobsError),
    /// The commit got no answer.
    Unknown(JobsError),
}

async fn write_once(database: &Database, batch: &mut [Box<dyn Pending>]) -> Result<(), Failed> {
    let other = |error: StoreError| Failed::Other(error.into());
    let mut write = database.write().await.map_err(other)?;
    let now = database.now_ms(&mut write).await.map_err(other)?;
    let rings = batch.iter().any(|pending| pending.rings());
    for pending in batch.iter_mut() {
        pending.make(&mut write, database, now).await.map_err(|error| match error {
            JobsError::Store { collided: true, .. } => Failed::Collision,
            error => Failed::Other(error),
        })?;
    }
    if rings {
        database.bell().ring_others(&mut write).await.map_err(other)?;
    }
    write.commit().await.map_err(|error| {
        if StoreError::is_collision(&error) { Failed::Collision } else { Failed::Unknown(error.into()) }
    })?;
    if rings {
        database.bell().ring();
    }
    Ok(())
}

/// A submission.
pub(crate) struct Submit {
    pub(crate) jobs: Vec<NewJob>,
    /// Their names, the same however often the transaction is made.
    pub(crate) ids: Vec<JobId>,
    pub(crate) queues: Arc<[QueueSettings]>,
}

impl Request for Submit {
    type Answer = Vec<Submitted>;

    fn make<'a>(
        &'a self,
        write: &'a mut Write,
        _: &'a Database,
        now: i64,
    ) -> BoxFuture<'a, Result<Vec<Submitted>, JobsError>> {
        Box::pin(submit::submit(write, &self.jobs, &self.ids, &self.queues, now))
    }

    fn rings(&self) -> bool {
        true
    }
}

impl Request for Want {
    type Answer = Claimed;

    fn make<'a>(
        &'a self,
        write: &'a mut Write,
        database: &'a Database,
        now: i64,
    ) -> BoxFuture<'a, Result<Claimed, JobsError>> {
        Box::pin(claim::claim(write, database, self, now))
    }
}

impl Request for Ending {
    type Answer = ();

    fn make<'a>(&'a self, write: &'a mut Write, _: &'a Database, now: i64) -> BoxFuture<'a, Result<(), JobsError>> {
        Box::pin(self.write(write, now))
    }
}

impl Request for Mark {
    type Answer = Option<String>;

    fn make<'a>(
        &'a self,
        write: &'a mut Write,
        database: &'a Database,
        _: i64,
    ) -> BoxFuture<'a, Result<Option<String>, JobsError>> {
        Box::pin(effect::mark(write, database.dialect(), self))
    }
}
