//! Workers that are lost, paused or stopped.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use halny_jobs::{Failure, JobsError, LOSSES_MAX, NewJob, Progress, Run, Settings, State, Stop, Usage};
use halny_store::{Clock, Dialect};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::ground::{Ground, count, job, make_tally, quick, submit, tally, until, until_it, work, worker};

fn short() -> Settings {
    Settings { lease: Duration::from_millis(300), ..quick() }
}

pub(crate) async fn a_worker_that_wakes_up_late_can_write_nothing(ground: Ground) {
    let jobs = ground.jobs(short()).await;
    make_tally(&jobs).await;
    let id = submit(&jobs, job("work")).await;
    let (wake, sleep) = channel::<()>();
    let (sleep, told) = (Mutex::new(sleep), Arc::new(Mutex::new(Vec::new())));
    let slow = ground.jobs(short()).await;
    let telling = Arc::clone(&told);
    // A thread with a runtime of its own, all of which stands still, as a process does that is paused.
    let paused = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let working = work(move |run: &Run| {
                let (wakes, telling) = (sleep.lock().recv(), Arc::clone(&telling));
                wakes.unwrap();
                Box::pin(async move {
                    let effect = run.effect("late", |_| Box::pin(async { Ok(()) })).await;
                    telling.lock().push(effect.map(|_| ()));
                    let checkpoint = run.checkpoint(&json!("late")).await;
                    telling.lock().push(checkpoint);
                    Ok(json!("late"))
                })
            });
            let worker = worker(&slow, vec![("work", working)]);
            until(&slow, id, State::Done).await;
            // Its end is refused too, which takes until it has stopped.
            worker.stop().await;
        });
    });
    until(&jobs, id, State::Running).await;
    let working = work(|run: &Run| {
        Box::pin(async move {
            count(run, "in time").await?;
            run.checkpoint(&json!("in time")).await?;
            Ok(json!("in time"))
        })
    });
    let quick = worker(&jobs, vec![("work", working)]);
    let done = until(&jobs, id, State::Done).await;
    assert_eq!((done.epoch, done.losses, &done.result), (2, 0, &Some(json!("in time"))));
    wake.send(()).unwrap();
    tokio::task::spawn_blocking(|| paused.join().unwrap()).await.unwrap();
    // None where it was dropped before the first had an answer.
    let told = told.lock().clone();
    assert!(told.iter().all(|told| *told == Err(JobsError::Fenced)), "{told:?}");
    let after = jobs.get(id).await.unwrap();
    assert_eq!(after, done);
    assert_eq!(jobs.blobs().get(after.checkpoint.as_deref().unwrap()).await.unwrap(), "\"in time\"");
    assert_eq!(tally(&jobs).await.len(), 1);
    quick.stop().await;
}

pub(crate) async fn jobs_are_given_up_in_time_when_the_database_does_not_answer(ground: Ground) {
    let jobs = ground.jobs(short()).await;
    let id = submit(&jobs, job("work")).await;
    let (given_up, mut is_given_up) = tokio::sync::mpsc::channel::<()>(1);
    let first = Mutex::new(Some(given_up));
    let waiting = work(move |_: &Run| {
        let first = first.lock().take();
        Box::pin(async move {
            if let Some(_is_dropped) = first {
                std::future::pending::<()>().await;
            }
            Ok(Value::Null)
        })
    });
    let worker = worker(&jobs, vec![("work", waiting)]);
    until(&jobs, id, State::Running).await;
    // Another has what every writer needs, and does not give it back.
    let other = ground.jobs(short()).await;
    let mut write = other.database().write().await.unwrap();
    if other.database().dialect() == Dialect::Postgres {
        sqlx::query("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE").execute(&mut *write).await.unwrap();
    }
    let given_up = tokio::time::timeout(Duration::from_secs(8), is_given_up.recv()).await;
    assert_eq!(given_up, Ok(None), "it goes on while others may have it");
    drop(write);
    assert_eq!(until(&jobs, id, State::Done).await.epoch, 2);
    worker.stop().await;
}

pub(crate) async fn a_stopped_worker_leaves_a_checkpoint_and_another_goes_on(ground: Ground) {
    let jobs = ground.jobs(quick()).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let going_on = |seen: Arc<Mutex<Vec<i64>>>| {
        work(move |run: &Run| {
            let seen = Arc::clone(&seen);
            Box::pin(async move {
                let mut next = run.resumed().map_or(0, |manifest| manifest["next"].as_i64().unwrap());
                while next < 9 {
                    seen.lock().push(next);
                    next += 1;
                    run.used(Usage { device_us: 10, tokens: 3 });
                    run.progress(Progress { done: next.unsigned_abs(), total: Some(9), message: String::new() });
                    if next % 3 == 0 && next < 9 {
                        // Until it is told to stop, so that it is stopped just here.
                        assert_eq!(run.stopped().await, Stop::Preempted);
                        run.checkpoint(&json!({ "next": next })).await?;
                        return Err(Failure::Stopped);
                    }
                }
                Ok(Value::Null)
            })
        })
    };
    let id = submit(&jobs, job("work")).await;
    for stops in 1..=2 {
        let worker = worker(&jobs, vec![("work", going_on(Arc::clone(&seen)))]);
        until_it(&jobs, id, |job| job.progress.as_ref().is_some_and(|told| told.done == stops * 3)).await;
        worker.stop().await;
        let stopped = jobs.get(id).await.unwrap();
        assert_eq!((stopped.state, stopped.failures, stopped.losses), (State::Ready, 0, 0));
        assert_eq!(jobs.blobs().names("jobs").await.unwrap().len(), 1);
    }
    let last = worker(&jobs, vec![("work", going_on(Arc::clone(&seen)))]);
    let done = until(&jobs, id, State::Done).await;
    assert_eq!(*seen.lock(), (0..9).collect::<Vec<_>>());
    assert_eq!(done.usage, Usage { device_us: 90, tokens: 27 });
    assert_eq!(done.epoch, 3);
    last.stop().await;
}

pub(crate) async fn a_cancelled_job_that_has_something_to_keep_is_run_once_more_when_its_worker_is_lost(
    ground: Ground,
) {
    let clock = Clock::standing(1_000_000_000);
    let jobs = ground.jobs_at(clock.clone(), quick()).await;
    let working = || {
        work(|run: &Run| {
            Box::pin(async move {
                if let Some(kept) = run.resumed() {
                    return Ok(json!([kept, run.stopped().await == Stop::Cancelled]));
                }
                if run.payload()["keeps"] == true {
                    run.checkpoint(&json!("kept")).await?;
                }
                run.progress(Progress { done: 1, total: None, message: String::new() });
                std::future::pending().await
            })
        })
    };
    let payload = |keeps: bool| NewJob { payload: json!({ "keeps": keeps }), ..job("work") };
    let (with, without) = (submit(&jobs, payload(true)).await, submit(&jobs, payload(false)).await);
    let first = worker(&jobs, vec![("work", working())]);
    for id in [with, without] {
        until_it(&jobs, id, |job| job.progress.is_some()).await;
    }
    // Nobody hears it, and nothing is given back.
    drop(first);
    for id in [with, without] {
        jobs.cancel(id).await.unwrap();
    }
    clock.wind(2_000);
    let second = worker(&jobs, vec![("work", working())]);
    assert_eq!(until(&jobs, with, State::Done).await.result, Some(json!(["kept", true])));
    assert_eq!(until(&jobs, without, State::Cancelled).await.epoch, 1);
    second.stop().await;
}

pub(crate) async fn a_job_that_ends_its_workers_is_dead(ground: Ground) {
    let clock = Clock::standing(1_000_000_000);
    let jobs = ground.jobs_at(clock.clone(), quick()).await;
    let id = submit(&jobs, job("hangs")).await;
    let hangs = || work(|_: &Run| Box::pin(std::future::pending()));
    for losses in 0..LOSSES_MAX {
        let worker = worker(&jobs, vec![("hangs", hangs())]);
        until_it(&jobs, id, |job| job.state == State::Running && job.losses == losses).await;
        // As a process that ends: nothing is given back.
        drop(worker);
        clock.wind(2_000);
    }
    let worker = worker(&jobs, vec![("hangs", hangs())]);
    let dead = until(&jobs, id, State::Dead).await;
    assert_eq!((dead.losses, dead.failures), (LOSSES_MAX, 0));
    assert!(dead.error.unwrap().contains("worker was lost"));
    worker.stop().await;
}

pub(crate) async fn a_clock_that_is_set_back_does_not_keep_the_jobs_of_the_lost(ground: Ground) {
    let clock = Clock::standing(1_000_000_000);
    let jobs = ground.jobs_at(clock.clone(), quick()).await;
    let id = submit(&jobs, job("hangs")).await;
    let hangs = || work(|_: &Run| Box::pin(std::future::pending()));
    let lost = worker(&jobs, vec![("hangs", hangs())]);
    until(&jobs, id, State::Running).await;
    drop(lost);
    clock.wind(-3_600_000);
    let done = work(|_: &Run| Box::pin(async { Ok(Value::Null) }));
    let worker = worker(&jobs, vec![("hangs", done)]);
    // The lease is cut to what one is from now on.
    until_it(&jobs, id, |job| job.lease_until_ms < Some(1_000_000_000)).await;
    clock.wind(2_000);
    until(&jobs, id, State::Done).await;
    worker.stop().await;
}
