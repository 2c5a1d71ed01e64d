//! A run from its options to its report.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock::own_cpu;
use crate::idle::IdleConnections;
use crate::recorder::{Recorder, Window};
use crate::report::{Measured, Report, ServerReport, rounded};
use crate::server_process::{Sample, ServerProcess};
use crate::target::Target;
use crate::worker::{Live, Plan, Worker};
use crate::{LoadError, Options, Progress, bodies, file_limit};

/// How often progress is told and the server's memory is read.
const TICK: Duration = Duration::from_millis(250);

/// Open files beside the connections: the runtimes, the timers, the standard streams.
const FILES_BESIDE: u64 = 256;

/// Ends a run early; what was measured until then is still reported. Requests in flight are
/// dropped and counted nowhere.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// Ends the run.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) async fn stopped(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }
}

/// Runs the load on threads of its own and blocks until it is over.
///
/// `on_progress` is called four times a second on the calling thread.
///
/// # Errors
/// A [`LoadError`] when the run cannot take place. Requests that fail are not errors of the run.
pub fn run(options: &Options, stop: &Stop, on_progress: &mut dyn FnMut(&Progress)) -> Result<Report, LoadError> {
    options.validate()?;
    let bodies = bodies::prepare(options)?;
    let idle_wanted = options.idle.map_or(0, |idle| idle.connections);
    file_limit::raise((options.connections_max() + idle_wanted) as u64 + FILES_BESIDE)?;
    let mut server = options.server.map(ServerProcess::find).transpose()?;
    let target = Target::resolve(options)?;
    let idle = options.idle.map(|idle| IdleConnections::open(idle, &target, options)).transpose()?;

    // A moment ahead, so that every thread is there when the schedule begins.
    let begin = Instant::now() + Duration::from_millis(10);
    let start = begin + options.warm_up;
    let window = Window { start, end: start + options.duration, deadline: options.deadline };
    let plan = Arc::new(Plan {
        target,
        bodies,
        load: options.load,
        seed: options.seed,
        threads: options.threads,
        timeout: options.timeout,
        begin,
        window,
        count: options.count,
        tickets: AtomicU64::new(0),
        live: Live::default(),
    });
    let (done, results) = channel();
    let mut threads = Vec::with_capacity(options.threads);
    for thread in 0..options.threads {
        let (plan, stop, done) = (Arc::clone(&plan), stop.clone(), done.clone());
        let body = move || {
            // The receiver is gone only if another thread has failed already.
            let _ = done.send(Worker::run(plan, thread, &stop));
        };
        threads.push(std::thread::Builder::new().name(format!("load-{thread}")).spawn(body)?);
    }
    drop(done);
    let mut observer = Observer::new(&plan, server.as_mut());
    let recorders = observer.watch(&results, on_progress);
    if recorders.is_err() {
        stop.stop();
    }
    for thread in threads {
        thread.join().map_err(|_| LoadError::WorkerLost)?;
    }
    let mut recorders = recorders?.into_iter();
    let mut recorder = recorders.next().ok_or(LoadError::WorkerLost)?;
    recorders.for_each(|other| recorder.merge(other));

    let interrupted = stop.is_stopped();
    let early = interrupted || plan.count_reached();
    let end = if early { recorder.last_answer.unwrap_or(start) } else { window.end };
    Ok(Report::new(
        options,
        Measured {
            path: plan.target.path(),
            window: end.saturating_duration_since(start),
            interrupted,
            client_cpu: observer.client_cpu(),
            server: observer.server_report(&recorder, options.texts_per_request),
            idle: idle.as_ref().map(IdleConnections::report),
            recorder,
        },
    ))
}

/// Watches the clock, this process and the server's while the threads work.
struct Observer<'a> {
    plan: &'a Plan,
    server: Option<&'a mut ServerProcess>,
    client_cpu: [Option<Duration>; 2],
    server_start: Option<Sample>,
    server_last: Option<Sample>,
    rss_bytes: Option<(u64, u64)>,
    samples: u64,
    lost: bool,
}

impl<'a> Observer<'a> {
    fn new(plan: &'a Plan, server: Option<&'a mut ServerProcess>) -> Self {
        Self {
            plan,
            server,
            client_cpu: [None; 2],
            server_start: None,
            server_last: None,
            rss_bytes: None,
            samples: 0,
            lost: false,
        }
    }

    fn watch(
        &mut self,
        results: &Receiver<Result<Recorder, LoadError>>,
        on_progress: &mut dyn FnMut(&Progress),
    ) -> Result<Vec<Recorder>, LoadError> {
        let window = self.plan.window;
        let mut recorders = Vec::with_capacity(self.plan.threads);
        while recorders.len() < self.plan.threads {
            let now = Instant::now();
            let next =
                [window.start, window.end].into_iter().filter(|moment| *moment > now).fold(now + TICK, Instant::min);
            match results.recv_timeout(next - now) {
                Ok(recorder) => recorders.push(recorder?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(LoadError::WorkerLost),
            }
            self.sample(Instant::now());
            on_progress(&self.progress());
        }
        self.finish();
        Ok(recorders)
    }

    fn sample(&mut self, now: Instant) {
        if now < self.plan.window.start || self.client_cpu[1].is_some() {
            return;
        }
        self.client_cpu[0].get_or_insert_with(own_cpu);
        if now >= self.plan.window.end {
            self.client_cpu[1] = Some(own_cpu());
        }
        self.sample_server();
    }

    /// The last sample of a run that its count, or the user, ended early.
    fn finish(&mut self) {
        if self.client_cpu[0].is_some() && self.client_cpu[1].is_none() {
            self.client_cpu[1] = Some(own_cpu());
            self.sample_server();
        }
    }

    fn sample_server(&mut self) {
        let Some(server) = self.server.as_mut() else { return };
        let Ok(sample) = server.sample() else {
            self.lost = true;
            return;
        };
        self.server_start.get_or_insert(sample);
        self.server_last = Some(sample);
        self.samples += 1;
        let (low, high) = self.rss_bytes.unwrap_or((sample.rss_bytes, sample.rss_bytes));
        self.rss_bytes = Some((low.min(sample.rss_bytes), high.max(sample.rss_bytes)));
    }

    fn client_cpu(&self) -> Option<Duration> {
        Some(self.client_cpu[1]?.saturating_sub(self.client_cpu[0]?))
    }

    fn server_report(&self, recorder: &Recorder, texts_per_request: usize) -> Option<ServerReport> {
        self.server.as_ref()?;
        let cpu_s = match (self.lost, self.server_start, self.server_last) {
            (false, Some(start), Some(last)) => Some(rounded((last.cpu_s - start.cpu_s).max(0.0))),
            _ => None,
        };
        let answered: u64 = recorder.slots.iter().map(|slot| slot.ok).sum();
        let texts = answered as f64 * texts_per_request as f64;
        Some(ServerReport {
            cpu_s,
            cpu_s_per_1000_texts: cpu_s.filter(|_| texts > 0.0).map(|cpu_s| rounded(cpu_s * 1000.0 / texts)),
            rss_min_bytes: self.rss_bytes.map(|(low, _)| low),
            rss_max_bytes: self.rss_bytes.map(|(_, high)| high),
            samples: self.samples,
            lost: self.lost,
        })
    }

    fn progress(&self) -> Progress {
        let live = &self.plan.live;
        Progress {
            elapsed: self.plan.begin.elapsed(),
            ok: live.ok.load(Ordering::Relaxed),
            refused: live.refused.load(Ordering::Relaxed),
            failed: live.failed.load(Ordering::Relaxed),
        }
    }
}
