//! What a case is given: a database, blobs, and handlers that are closures.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use halny_jobs::{Failure, Handler, Handlers, Job, JobId, Jobs, NewJob, QueueSettings, Run, Settings, State, Worker};
use halny_store::blobs::BlobPlace;
use halny_store::testsuite::PostgresServer;
use halny_store::{Blobs, Clock, Database, Place};
use serde_json::{Value, json};

pub(crate) struct Ground {
    place: Place,
    blobs: PathBuf,
    _folder: tempfile::TempDir,
    _server: Option<PostgresServer>,
}

pub(crate) fn sqlite() -> Ground {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::Folder(folder.path().to_path_buf());
    Ground { place, blobs: folder.path().join("blobs"), _folder: folder, _server: None }
}

pub(crate) fn postgres() -> Ground {
    let (folder, server) = (tempfile::tempdir().unwrap(), PostgresServer::start());
    let place = Place::Postgres { url: server.url(), password: None };
    Ground { place, blobs: folder.path().join("blobs"), _folder: folder, _server: Some(server) }
}

pub(crate) fn run(ground: fn() -> Ground, case: impl AsyncFnOnce(Ground)) {
    let ground = ground();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(case(ground));
}

impl Ground {
    pub(crate) async fn jobs(&self, settings: Settings) -> Jobs {
        self.jobs_at(Clock::default(), settings).await
    }

    pub(crate) async fn jobs_at(&self, clock: Clock, settings: Settings) -> Jobs {
        let database = Database::open_at(&self.place, clock).await.unwrap();
        let blobs = Blobs::open(&BlobPlace::Folder(self.blobs.clone())).unwrap();
        Jobs::open(database, blobs, settings).await.unwrap()
    }
}

/// Pauses between tries of a few milliseconds, and leases of a second.
pub(crate) fn quick() -> Settings {
    Settings { queues: vec![queue("default")], lease: Duration::from_secs(1), ..Settings::default() }
}

pub(crate) fn queue(name: &str) -> QueueSettings {
    let pause = Duration::from_millis(4);
    QueueSettings { backoff: pause, backoff_max: pause, max_attempts: 3, ..QueueSettings::new(name) }
}

pub(crate) type Work = Box<dyn for<'a> Fn(&'a Run) -> BoxFuture<'a, Result<Value, Failure>> + Send + Sync>;

/// What a handler does, as a closure.
pub(crate) fn work<F>(work: F) -> Work
where
    F: for<'a> Fn(&'a Run) -> BoxFuture<'a, Result<Value, Failure>> + Send + Sync + 'static,
{
    Box::new(work)
}

struct Closure(&'static str, Work);

impl Handler for Closure {
    fn kind(&self) -> &'static str {
        self.0
    }
    fn check(&self, _: &Value) -> Result<(), String> {
        Ok(())
    }
    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>> {
        (self.1)(run)
    }
}

/// Handlers of the kinds `work` names, and of the kind `echo`, which gives its payload.
pub(crate) fn handlers(work: Vec<(&'static str, Work)>) -> Handlers {
    let mut all: Vec<Arc<dyn Handler>> =
        work.into_iter().map(|(kind, work)| Arc::new(Closure(kind, work)) as Arc<dyn Handler>).collect();
    all.push(Arc::new(Closure("echo", Box::new(|run| Box::pin(async { Ok(run.payload().clone()) })))));
    Handlers::new(all)
}

pub(crate) fn worker(jobs: &Jobs, work: Vec<(&'static str, Work)>) -> Worker {
    Worker::start(jobs.clone(), handlers(work), Arc::new(()))
}

pub(crate) fn job(kind: &str) -> NewJob {
    NewJob::new("default", kind, json!({}))
}

pub(crate) async fn submit(jobs: &Jobs, job: NewJob) -> JobId {
    jobs.submit(job).await.unwrap().id
}

/// Waits until a job stands so.
pub(crate) async fn until(jobs: &Jobs, id: JobId, state: State) -> Job {
    until_it(jobs, id, |job| job.state == state).await
}

pub(crate) async fn until_it(jobs: &Jobs, id: JobId, is_so: impl Fn(&Job) -> bool) -> Job {
    let mut last = None;
    for _ in 0..6_000 {
        let job = jobs.get(id).await.unwrap();
        if is_so(&job) {
            return job;
        }
        last = Some(job);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to that in half a minute: {last:?}");
}

/// How often each effect was made, in a table of the test's own.
pub(crate) async fn make_tally(jobs: &Jobs) {
    let mut write = jobs.database().write().await.unwrap();
    let sql = "CREATE TABLE IF NOT EXISTS tally (name TEXT PRIMARY KEY, count BIGINT NOT NULL)";
    sqlx::query(sql).execute(&mut *write).await.unwrap();
    write.commit().await.unwrap();
}

/// Makes an effect that counts itself.
pub(crate) async fn count(run: &Run, name: &str) -> Result<bool, Failure> {
    let counted = run.effect(name, |write| {
        let name = name.to_owned();
        Box::pin(async move {
            let sql = "INSERT INTO tally (name, count) VALUES ($1, 1) \
                       ON CONFLICT (name) DO UPDATE SET count = tally.count + 1";
            sqlx::query(sql).bind(name).execute(&mut **write).await?;
            Ok(())
        })
    });
    Ok(counted.await?)
}

pub(crate) async fn tally(jobs: &Jobs) -> HashMap<String, i64> {
    use sqlx::Row;
    let mut connection = jobs.database().read().await.unwrap();
    let rows = sqlx::query("SELECT name, count FROM tally").fetch_all(&mut *connection).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
