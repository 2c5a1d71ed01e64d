//! Queues that are measured from outside: `make bench-jobs` runs this beside its peers.
//!
//! `cargo run --release --package halny-jobs --example measure_jobs -- PLACE [JOBS [RATE SECONDS]]` prints one line of JSON.
//! PLACE is an empty folder (SQLite), or the URL of an empty PostgreSQL database. Throughput is that of empty jobs, all
//! submitted before one worker starts, from its start until none is left. Latency is from just before a job is
//! submitted, at a steady rate while a worker waits, until its handler's first line.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use halny_jobs::{Failure, Handler, Handlers, Jobs, NewJob, Run, SUBMIT_MAX, Settings, Worker};
use halny_store::blobs::BlobPlace;
use halny_store::{Blobs, Database, Place};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// Anything that goes wrong ends up as a line of text.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Jobs that warm up, before the latency is measured.
const WARM: usize = 5;

/// Does nothing, and says when.
struct Empty {
    began: Instant,
    started: Arc<Mutex<Vec<(usize, f64)>>>,
    count: Arc<AtomicUsize>,
    told: Arc<Notify>,
}

impl Handler for Empty {
    fn kind(&self) -> &'static str {
        "empty"
    }

    fn check(&self, _: &Value) -> Result<(), String> {
        Ok(())
    }

    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>> {
        let now = self.began.elapsed().as_secs_f64();
        if let Some(number) = run.payload()["number"].as_u64() {
            self.started.lock().push((number as usize, now));
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.told.notify_one();
        Box::pin(async { Ok(Value::Null) })
    }
}

struct Measured {
    jobs: Jobs,
    handlers: Handlers,
    began: Instant,
    started: Arc<Mutex<Vec<(usize, f64)>>>,
    count: Arc<AtomicUsize>,
    told: Arc<Notify>,
}

impl Measured {
    async fn open(place: &str) -> Outcome<Measured> {
        let folder = tempfile::tempdir()?;
        let (place, blobs) = if place.contains("://") {
            (Place::Postgres { url: place.to_owned(), password: None }, folder.path().join("blobs"))
        } else {
            (Place::Folder(PathBuf::from(place)), PathBuf::from(place).join("blobs"))
        };
        let (database, blobs) = (Database::open(&place).await?, Blobs::open(&BlobPlace::Folder(blobs))?);
        let jobs = Jobs::open(database, blobs, Settings::default()).await?;
        let (began, started, count, told) =
            (Instant::now(), Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let empty = Empty { began, started: started.clone(), count: count.clone(), told: told.clone() };
        Ok(Measured { jobs, handlers: Handlers::new(vec![Arc::new(empty)]), began, started, count, told })
    }

    async fn wait(&self, count: usize) {
        while self.count.load(Ordering::Relaxed) < count {
            self.told.notified().await;
        }
    }

    /// Jobs a second: submitted one by one, then run.
    async fn throughput(&self, jobs: usize) -> Outcome<Value> {
        let began = Instant::now();
        for _ in 0..jobs {
            self.jobs.submit(NewJob::new("default", "empty", json!({}))).await?;
        }
        let one_by_one = jobs as f64 / began.elapsed().as_secs_f64();
        let more = vec![NewJob::new("default", "empty", json!({})); SUBMIT_MAX];
        let began = Instant::now();
        self.jobs.submit_all(more).await?;
        let together = SUBMIT_MAX as f64 / began.elapsed().as_secs_f64();
        let began = Instant::now();
        let worker = Worker::start(self.jobs.clone(), self.handlers.clone(), Arc::new(()));
        self.wait(jobs + SUBMIT_MAX).await;
        // Until the last end is on disk too.
        worker.stop().await;
        let took = began.elapsed().as_secs_f64();
        Ok(json!({
            "jobs": jobs + SUBMIT_MAX,
            "jobs_per_s": (jobs + SUBMIT_MAX) as f64 / took,
            "enqueue_per_s": one_by_one,
            "enqueue_together_per_s": together,
        }))
    }

    /// How late jobs start.
    async fn latency(&self, rate: f64, seconds: f64) -> Outcome<Value> {
        let worker = Worker::start(self.jobs.clone(), self.handlers.clone(), Arc::new(()));
        let before = self.count.load(Ordering::Relaxed);
        for _ in 0..WARM {
            self.jobs.submit(NewJob::new("default", "empty", json!({}))).await?;
        }
        self.wait(before + WARM).await;
        let count = (rate * seconds) as usize;
        let mut sent = Vec::with_capacity(count);
        let began = Instant::now();
        for number in 0..count {
            let due = Duration::from_secs_f64(number as f64 / rate);
            tokio::time::sleep_until((began + due).into()).await;
            sent.push(self.began.elapsed().as_secs_f64());
            self.jobs.submit(NewJob::new("default", "empty", json!({ "number": number }))).await?;
        }
        self.wait(before + WARM + count).await;
        worker.stop().await;
        let mut late: Vec<f64> =
            self.started.lock().iter().map(|(number, started)| (started - sent[*number]) * 1e3).collect();
        late.sort_by(f64::total_cmp);
        let at = |share: f64| late[((share * late.len() as f64) as usize).min(late.len() - 1)];
        Ok(json!({
            "rate": rate,
            "starts": late.len(),
            "enqueue_to_start_p50_ms": at(0.5),
            "enqueue_to_start_p95_ms": at(0.95),
        }))
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let place = arguments.first().ok_or("say where: a folder, or postgres://...")?;
    let number = |at: usize, default: f64| arguments.get(at).map_or(Ok(default), |text| text.parse::<f64>());
    let (jobs, rate, seconds) = (number(1, 3_000.0)? as usize, number(2, 50.0)?, number(3, 10.0)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let told = runtime.block_on(async {
        let measured = Measured::open(place).await?;
        let mut told = json!({});
        for part in [measured.throughput(jobs).await?, measured.latency(rate, seconds).await?] {
            if let (Value::Object(told), Value::Object(part)) = (&mut told, part) {
                told.extend(part);
            }
        }
        Outcome::Ok(told)
    })?;
    #[expect(clippy::print_stdout, reason = "the answer of a command-line program")]
    {
        println!("{told}");
    }
    Ok(())
}
