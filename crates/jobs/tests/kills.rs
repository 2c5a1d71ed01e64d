//! Workers that are killed at any moment, again and again: no job is lost, every effect counts once, and dead are only
//! those that fail each time.
//!
//! Two child processes at a time claim, run and submit jobs; one of them is killed, and another takes its place. What
//! they said was accepted has to be there at the end, done, with one effect each.
//!
//! `HALNY_KILLS` says how often, 40 times unless it does.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use futures::future::BoxFuture;
use halny_jobs::{
    Failure, Filter, Handler, Handlers, JobId, Jobs, JobsError, NewJob, QueueSettings, Run, Settings, State, Worker,
};
use halny_store::blobs::BlobPlace;
use halny_store::testsuite::PostgresServer;
use halny_store::{Blobs, Database, Place, Write};
use rand::Rng;
use serde_json::{Value, json};
use sqlx::Row;

const PLACE: &str = "HALNY_KILLS_PLACE";
const BLOBS: &str = "HALNY_KILLS_BLOBS";
/// The longest that a child is let go on, from when it has said that it runs.
const MOMENT_MAX: Duration = Duration::from_millis(60);

async fn open(place: &Place, blobs: PathBuf) -> Jobs {
    let pause = Duration::from_millis(10);
    let queue = QueueSettings { backoff: pause, backoff_max: pause, max_attempts: 3, ..QueueSettings::new("default") };
    let settings = Settings { queues: vec![queue], slots: 4, lease: Duration::from_millis(250), ..Settings::default() };
    let database = Database::open(place).await.unwrap();
    Jobs::open(database, Blobs::open(&BlobPlace::Folder(blobs)).unwrap(), settings).await.unwrap()
}

/// Counts itself once in each of three steps, with a checkpoint after each; some fail each time, after the first step.
struct Steps;

impl Handler for Steps {
    fn kind(&self) -> &'static str {
        "steps"
    }

    fn check(&self, _: &Value) -> Result<(), String> {
        Ok(())
    }

    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(async move {
            let first = run.resumed().map_or(0, |manifest| manifest["next"].as_u64().unwrap());
            for step in first..3 {
                let name = format!("{} {step}", run.job().id);
                run.effect(&format!("step {step}"), |write| count(write, name.clone())).await?;
                if run.payload()["fails"] == true {
                    return Err(Failure::Retry("it fails each time".to_owned()));
                }
                run.checkpoint(&json!({ "next": step + 1 })).await?;
            }
            Ok(Value::Null)
        })
    }
}

fn count(write: &mut Write, name: String) -> BoxFuture<'_, Result<(), JobsError>> {
    Box::pin(async move {
        let sql =
            "INSERT INTO tally (name, count) VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET count = tally.count + 1";
        sqlx::query(sql).bind(name).execute(&mut **write).await?;
        Ok(())
    })
}

/// What a child does until it is killed. Does nothing when run as a test.
#[test]
fn child() {
    let (Ok(place), Ok(blobs)) = (std::env::var(PLACE), std::env::var(BLOBS)) else { return };
    let place = match place.strip_prefix('/') {
        Some(_) => Place::Folder(PathBuf::from(place)),
        None => Place::Postgres { url: place, password: None },
    };
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(async {
        let jobs = open(&place, PathBuf::from(blobs)).await;
        let _worker = Worker::start(jobs.clone(), Handlers::new(vec![Arc::new(Steps)]), Arc::new(()));
        writeln!(std::io::stdout(), "\nruns").unwrap();
        loop {
            let fails = rand::rng().random_bool(0.05);
            let job = NewJob::new("default", "steps", json!({ "fails": fails }));
            // A child that cannot submit, since the database has no time for it, tries again.
            if let Ok(submitted) = jobs.submit(job).await {
                writeln!(std::io::stdout(), "\naccepted {} {fails}", submitted.id).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

struct Started {
    child: Child,
    lines: Receiver<String>,
}

fn start(place: &str, blobs: &std::path::Path) -> Started {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(PLACE, place)
        .env(BLOBS, blobs)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let reader = BufReader::new(child.stdout.take().unwrap());
    let (tell, lines) = channel();
    std::thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    Started { child, lines }
}

/// Kills a child a moment after it runs; gives the jobs that it said were accepted, and whether they fail.
fn kill(mut started: Started, moment: Duration) -> Vec<(JobId, bool)> {
    let mut said: Vec<String> = Vec::new();
    while let Ok(line) = started.lines.recv_timeout(Duration::from_secs(60)) {
        said.push(line);
        if said.iter().any(|line| line == "runs") {
            break;
        }
    }
    assert!(said.iter().any(|line| line == "runs"), "a child did not start");
    std::thread::park_timeout(moment);
    started.child.kill().unwrap();
    started.child.wait().unwrap();
    said.extend(started.lines.iter());
    let accepted = said.iter().filter_map(|line| line.strip_prefix("accepted ")?.split_once(' '));
    accepted.map(|(id, fails)| (id.parse().unwrap(), fails == "true")).collect()
}

fn killed_often(place: &Place, folder: &std::path::Path) {
    let kills: u32 = std::env::var("HALNY_KILLS").map_or(40, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let blobs = folder.join("blobs");
    let jobs = runtime.block_on(async {
        let jobs = open(place, blobs.clone()).await;
        let mut write = jobs.database().write().await.unwrap();
        let sql = "CREATE TABLE tally (name TEXT PRIMARY KEY, count BIGINT NOT NULL)";
        sqlx::query(sql).execute(&mut *write).await.unwrap();
        write.commit().await.unwrap();
        jobs
    });
    let name = match place {
        Place::Folder(folder) => folder.to_str().unwrap().to_owned(),
        Place::Postgres { url, .. } => url.clone(),
    };
    let mut accepted = HashMap::new();
    let mut other = start(&name, &blobs);
    for _ in 0..kills {
        let next = start(&name, &blobs);
        accepted
            .extend(kill(std::mem::replace(&mut other, next), rand::rng().random_range(Duration::ZERO..MOMENT_MAX)));
    }
    accepted.extend(kill(other, MOMENT_MAX));
    runtime.block_on(async {
        let worker = Worker::start(jobs.clone(), Handlers::new(vec![Arc::new(Steps)]), Arc::new(()));
        settle(&jobs).await;
        worker.stop().await;
        compare(&jobs, &accepted).await;
    });
}

/// Waits until nothing is left to be done.
async fn settle(jobs: &Jobs) {
    for _ in 0..12_000 {
        let left: u64 =
            jobs.queues().await.unwrap().iter().map(|queue| queue.ready + queue.delayed + queue.running).sum();
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("jobs are left after two minutes: {:?}", jobs.queues().await);
}

async fn compare(jobs: &Jobs, accepted: &HashMap<JobId, bool>) {
    let mut all = HashMap::new();
    let mut filter = Filter::default();
    loop {
        let page = jobs.list(&filter, 1_000).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.id);
        all.extend(page.into_iter().map(|job| (job.id, job)));
    }
    for (id, fails) in accepted {
        let job = all.get(id).unwrap_or_else(|| panic!("{id} was accepted, and is lost"));
        assert_eq!(job.payload["fails"], *fails);
    }
    let mut connection = jobs.database().read().await.unwrap();
    let rows = sqlx::query("SELECT name, count FROM tally").fetch_all(&mut *connection).await.unwrap();
    let counts: HashMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut expected = HashSet::new();
    for job in all.values() {
        let fails = job.payload["fails"] == true;
        assert_eq!(job.state, if fails { State::Dead } else { State::Done }, "{job:?}");
        assert_eq!(job.failures, if fails { 3 } else { 0 }, "{job:?}");
        expected.extend((0..if fails { 1 } else { 3 }).map(|step| format!("{} {step}", job.id)));
    }
    assert!(counts.values().all(|count| *count == 1), "an effect counted more than once");
    assert_eq!(counts.into_keys().collect::<HashSet<_>>(), expected);
    let claims: i64 = all.values().map(|job| job.epoch).sum();
    let _ = writeln!(
        std::io::stderr(),
        "{} jobs, {} of them known to be accepted, {claims} claims",
        all.len(),
        accepted.len()
    );
}

#[test]
fn nothing_is_lost_and_nothing_counts_twice_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    killed_often(&Place::Folder(folder.path().to_path_buf()), folder.path());
}

#[test]
fn nothing_is_lost_and_nothing_counts_twice_in_postgres() {
    let (folder, server) = (tempfile::tempdir().unwrap(), PostgresServer::start());
    killed_often(&Place::Postgres { url: server.url(), password: None }, folder.path());
}
