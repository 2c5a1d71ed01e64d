//! Limits, cancelling, draining, schedules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use halny_jobs::{Failure, Filter, JobsError, NewJob, QueueSettings, Run, Schedule, Settings, State, Stop};
use halny_store::Clock;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::ground::{Ground, job, queue, quick, submit, until, until_it, work, worker};

pub(crate) async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_when_it_stops(ground: Ground) {
    let jobs = ground.jobs(Settings { slots: 1, grace: Duration::from_millis(50), ..quick() }).await;
    let waits = work(|run: &Run| {
        Box::pin(async move {
            assert_eq!(run.stopped().await, Stop::Cancelled);
            run.checkpoint(&json!("so far")).await?;
            Err(Failure::Stopped)
        })
    });
    let hangs = work(|_: &Run| Box::pin(std::future::pending()));
    let worker = worker(&jobs, vec![("waits", waits), ("hangs", hangs)]);
    for kind in ["waits", "hangs"] {
        let (running, waiting) = (submit(&jobs, job(kind)).await, submit(&jobs, job(kind)).await);
        until(&jobs, running, State::Running).await;
        jobs.cancel(waiting).await.unwrap();
        assert_eq!(jobs.get(waiting).await.unwrap().state, State::Cancelled);
        jobs.cancel(running).await.unwrap();
        // Again, before or after it has stopped: it is wanted no more than before.
        let _ = jobs.cancel(running).await;
        let cancelled = until(&jobs, running, State::Cancelled).await;
        assert_eq!((cancelled.failures, cancelled.checkpoint.is_some()), (0, kind == "waits"));
        let refused = jobs.cancel(running).await.unwrap_err();
        assert!(matches!(refused, JobsError::State { state: "cancelled", .. }), "{refused}");
    }
    worker.stop().await;
}

pub(crate) async fn a_queue_runs_so_many_at_once_over_all_workers(ground: Ground) {
    let narrow = QueueSettings { concurrency: Some(3), ..queue("narrow") };
    let settings = Settings { queues: vec![queue("default"), narrow], ..quick() };
    let (now, most, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let mut servers = Vec::new();
    for _ in 0..3 {
        let jobs = ground.jobs(settings.clone()).await;
        let (now, most, gate) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&gate));
        let working = work(move |_: &Run| {
            let (now, most, gate) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&gate));
            Box::pin(async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(Value::Null)
            })
        });
        let worker = worker(&jobs, vec![("work", working)]);
        servers.push((jobs, worker));
    }
    let jobs = &servers[0].0;
    let ids =
        futures::future::join_all((0..30).map(|_| submit(jobs, NewJob { queue: "narrow".to_owned(), ..job("work") })))
            .await;
    // Three run, and let the next in one by one.
    for _ in &ids {
        while now.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
    }
    for id in ids {
        until(jobs, id, State::Done).await;
    }
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?} at once");
    for (_, worker) in servers {
        worker.stop().await;
    }
}

pub(crate) async fn a_queue_starts_so_many_a_second(ground: Ground) {
    let clock = Clock::standing(1_000_000);
    let slow = QueueSettings { rate_per_s: Some(5.0), ..queue("slow") };
    let settings = Settings { queues: vec![queue("default"), slow], ..quick() };
    let (one, two) =
        (ground.jobs_at(clock.clone(), settings.clone()).await, ground.jobs_at(clock.clone(), settings).await);
    for _ in 0..20 {
        submit(&one, NewJob { queue: "slow".to_owned(), ..job("echo") }).await;
    }
    let workers = [worker(&one, vec![]), worker(&two, vec![])];
    let done = async || {
        let filter = Filter { queue: Some("slow".to_owned()), state: Some(State::Done), ..Filter::default() };
        one.list(&filter, 100).await.unwrap().len()
    };
    for seconds in 1..=4 {
        while done().await < seconds * 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Others go on meanwhile, and no more of these start.
        for _ in 0..3 {
            until(&one, submit(&one, job("echo")).await, State::Done).await;
        }
        assert_eq!(done().await, seconds * 5);
        clock.wind(1_000);
    }
    for worker in workers {
        worker.stop().await;
    }
}

pub(crate) async fn nothing_of_a_drained_queue_starts(ground: Ground) {
    let settings = Settings { queues: vec![queue("default"), queue("other")], ..quick() };
    let jobs = ground.jobs(settings).await;
    jobs.drain("default", true).await.unwrap();
    let worker = worker(&jobs, vec![]);
    let waits = submit(&jobs, job("echo")).await;
    for _ in 0..5 {
        until(&jobs, submit(&jobs, NewJob { queue: "other".to_owned(), ..job("echo") }).await, State::Done).await;
    }
    assert_eq!(jobs.get(waits).await.unwrap().state, State::Ready);
    assert!(jobs.queues().await.unwrap().iter().any(|queue| queue.is_drained && queue.ready == 1));
    jobs.drain("default", false).await.unwrap();
    until(&jobs, waits, State::Done).await;
    assert!(matches!(jobs.drain("none", true).await, Err(JobsError::NoQueue { .. })));
    worker.stop().await;
}

pub(crate) async fn each_occurrence_of_a_schedule_runs_once(ground: Ground) {
    // A quarter to midnight.
    let clock = Clock::standing(1_790_000_000_000 / 86_400_000 * 86_400_000 - 15 * 60_000);
    let nightly = Schedule {
        name: "nightly".to_owned(),
        cron: "0 0 * * *".to_owned(),
        timezone: "UTC".to_owned(),
        queue: "default".to_owned(),
        kind: "echo".to_owned(),
        payload: json!("scheduled"),
    };
    let settings = Settings { schedules: vec![nightly], lease: Duration::from_millis(100), ..quick() };
    let servers = futures::future::join_all((0..3).map(|_| ground.jobs_at(clock.clone(), settings.clone()))).await;
    let mut workers: Vec<_> = servers.iter().map(|jobs| worker(jobs, vec![])).collect();
    let jobs = &servers[0];
    let submitted = async || jobs.list(&Filter::default(), 100).await.unwrap().len();
    let kept = async |occurrences| {
        while submitted().await < occurrences {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Each of the three has looked since.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert_eq!(submitted().await, occurrences);
    };
    kept(0).await;
    clock.wind(20 * 60_000);
    for day in 1..=3 {
        kept(day).await;
        clock.wind(86_400_000);
    }
    kept(4).await;
    for worker in workers.drain(..) {
        worker.stop().await;
    }
    // Three are missed; one is made up for.
    clock.wind(3 * 86_400_000);
    let worker = worker(jobs, vec![]);
    kept(5).await;
    for job in jobs.list(&Filter::default(), 100).await.unwrap() {
        until_it(jobs, job.id, |job| job.result == Some(json!("scheduled"))).await;
    }
    worker.stop().await;
}

pub(crate) async fn what_is_submitted_elsewhere_is_run_here(ground: Ground) {
    let (here, elsewhere) = (ground.jobs(quick()).await, ground.jobs(quick()).await);
    let worker = worker(&here, vec![]);
    until(&here, submit(&here, job("echo")).await, State::Done).await;
    let id = submit(&elsewhere, job("echo")).await;
    until(&elsewhere, id, State::Done).await;
    worker.stop().await;
}
