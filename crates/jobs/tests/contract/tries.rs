//! How jobs end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use halny_jobs::{Failure, Filter, JobsError, NewJob, Run, Settings, State};
use halny_store::Clock;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::ground::{Ground, job, quick, submit, until, work, worker};

pub(crate) async fn a_job_is_done_and_its_result_kept(ground: Ground) {
    let jobs = ground.jobs(quick()).await;
    let id = submit(&jobs, NewJob::new("default", "echo", json!({"text": "zażółć \u{0} \u{1F600}"}))).await;
    assert_eq!(jobs.get(id).await.unwrap().state, State::Ready);
    let worker = worker(&jobs, vec![]);
    let done = until(&jobs, id, State::Done).await;
    assert_eq!(done.result, Some(json!({"text": "zażółć \u{0} \u{1F600}"})));
    assert!(done.started_ms.unwrap() >= done.created_ms && done.ended_ms.unwrap() >= done.started_ms.unwrap());
    assert_eq!((done.failures, done.epoch, done.error), (0, 1, None));
    worker.stop().await;
    jobs.close().await;
    assert_eq!(jobs.submit(job("echo")).await, Err(JobsError::Closed));
}

pub(crate) async fn the_higher_priority_goes_first_then_the_earlier(ground: Ground) {
    let jobs = ground.jobs(Settings { slots: 1, ..quick() }).await;
    for (name, priority) in [("c", 0), ("d", 0), ("e", -5), ("a", 7), ("b", 7)] {
        submit(&jobs, NewJob { priority, payload: json!(name), ..job("note") }).await;
    }
    let last = submit(&jobs, NewJob { priority: -6, payload: json!("f"), ..job("note") }).await;
    let order = Arc::new(Mutex::new(String::new()));
    let told = Arc::clone(&order);
    let note = work(move |run: &Run| {
        told.lock().push_str(run.payload().as_str().unwrap());
        Box::pin(async { Ok(Value::Null) })
    });
    let worker = worker(&jobs, vec![("note", note)]);
    until(&jobs, last, State::Done).await;
    assert_eq!(*order.lock(), "abcdef");
    worker.stop().await;
}

pub(crate) async fn a_delayed_job_starts_when_its_time_has_come(ground: Ground) {
    let clock = Clock::standing(1_000_000);
    let jobs = ground.jobs_at(clock.clone(), quick()).await;
    let later = submit(&jobs, NewJob { delay_ms: 60_000, ..job("echo") }).await;
    let worker = worker(&jobs, vec![]);
    for _ in 0..3 {
        until(&jobs, submit(&jobs, job("echo")).await, State::Done).await;
        assert_eq!(jobs.get(later).await.unwrap().state, State::Delayed);
        clock.wind(19_999);
    }
    clock.wind(3);
    until(&jobs, later, State::Done).await;
    worker.stop().await;
}

pub(crate) async fn a_job_that_fails_each_time_is_dead_after_its_tries_and_may_be_tried_again(ground: Ground) {
    let jobs = ground.jobs(quick()).await;
    let tries = Arc::new(AtomicU32::new(0));
    let tried = Arc::clone(&tries);
    let fail = work(move |_: &Run| {
        let number = tried.fetch_add(1, Ordering::SeqCst) + 1;
        Box::pin(async move {
            if number == 5 { Ok(json!(number)) } else { Err(Failure::Retry(format!("try {number} failed"))) }
        })
    });
    let worker = worker(&jobs, vec![("fail", fail)]);
    let id = submit(&jobs, job("fail")).await;
    let dead = until(&jobs, id, State::Dead).await;
    assert_eq!((dead.failures, dead.error.as_deref()), (3, Some("try 3 failed")));
    assert_eq!(jobs.queues().await.unwrap()[0].dead, 1);
    // The fourth fails, the fifth does not.
    assert_eq!(jobs.retry_dead("default").await, Ok(1));
    let done = until(&jobs, id, State::Done).await;
    assert_eq!((done.result, done.error, tries.load(Ordering::SeqCst)), (Some(json!(5)), None, 5));
    let refused = jobs.retry(id).await.unwrap_err();
    assert!(matches!(refused, JobsError::State { state: "done", .. }), "{refused}");
    worker.stop().await;
}

pub(crate) async fn what_cannot_succeed_is_dead_at_once(ground: Ground) {
    let jobs = ground.jobs(quick()).await;
    let fatal = work(|_: &Run| Box::pin(async { Err(Failure::Fatal("no such file".to_owned())) }));
    let worker = worker(&jobs, vec![("fatal", fatal)]);
    let dead = until(&jobs, submit(&jobs, job("fatal")).await, State::Dead).await;
    assert_eq!((dead.failures, dead.epoch, dead.error.as_deref()), (1, 1, Some("no such file")));
    worker.stop().await;
}

pub(crate) async fn a_handler_that_breaks_or_takes_too_long_fails_one_try(ground: Ground) {
    let jobs = ground.jobs(quick()).await;
    let breaks = work(|run: &Run| {
        let first = run.job().failures == 0;
        Box::pin(async move {
            assert!(!first, "not the first time");
            Ok(Value::Null)
        })
    });
    let hangs = work(|run: &Run| {
        let first = run.job().failures == 0;
        Box::pin(async move { if first { std::future::pending().await } else { Ok(Value::Null) } })
    });
    let worker = worker(&jobs, vec![("breaks", breaks), ("hangs", hangs)]);
    let broken = submit(&jobs, job("breaks")).await;
    let hung = submit(&jobs, NewJob { timeout_ms: Some(20), ..job("hangs") }).await;
    assert_eq!(until(&jobs, broken, State::Done).await.failures, 1);
    assert_eq!(until(&jobs, hung, State::Done).await.failures, 1);
    worker.stop().await;
}

pub(crate) async fn what_has_ended_is_forgotten_with_all_that_was_its(ground: Ground) {
    let clock = Clock::standing(1_000_000);
    let jobs = ground.jobs_at(clock.clone(), Settings { keep: Duration::from_secs(100), ..quick() }).await;
    let marks = work(|run: &Run| {
        Box::pin(async move {
            run.checkpoint(&json!(1)).await?;
            Ok(Value::Null)
        })
    });
    let worker = worker(&jobs, vec![("marks", marks)]);
    let old = submit(&jobs, job("marks").with_key("key", "hash")).await;
    until(&jobs, old, State::Done).await;
    let waiting = submit(&jobs, NewJob { delay_ms: 1_000_000_000, ..job("marks") }).await;
    clock.wind(60_000);
    let young = submit(&jobs, job("marks")).await;
    until(&jobs, young, State::Done).await;
    assert_eq!(jobs.blobs().names("jobs").await.unwrap().len(), 2);
    clock.wind(60_000);
    worker.stop().await;
    assert_eq!(jobs.forget().await, Ok(1));
    assert!(matches!(jobs.get(old).await, Err(JobsError::NoJob(_))));
    assert_eq!(jobs.blobs().names("jobs").await.unwrap().len(), 1);
    assert_eq!(jobs.list(&Filter::default(), 10).await.unwrap().len(), 2);
    assert_eq!(jobs.get(waiting).await.unwrap().state, State::Delayed);
    // Its key is free again.
    assert!(!jobs.submit(job("marks").with_key("key", "other")).await.unwrap().is_repeated);
}

pub(crate) async fn jobs_are_listed_the_latest_first(ground: Ground) {
    let jobs = ground.jobs(quick()).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let tenant = if number % 2 == 0 { "even" } else { "odd" };
        ids.push(submit(&jobs, NewJob { tenant: tenant.to_owned(), ..job("echo") }).await);
    }
    ids.reverse();
    let listed = async |filter: Filter, limit| -> Vec<_> {
        jobs.list(&filter, limit).await.unwrap().iter().map(|job| job.id).collect()
    };
    assert_eq!(listed(Filter::default(), 10).await, ids);
    assert_eq!(listed(Filter { before: Some(ids[1]), ..Filter::default() }, 2).await, ids[2..4]);
    let even = Filter { tenant: Some("even".to_owned()), state: Some(State::Ready), ..Filter::default() };
    assert_eq!(listed(even, 10).await, [ids[0], ids[2], ids[4]]);
    assert!(listed(Filter { queue: Some("' OR 1=1 --".to_owned()), ..Filter::default() }, 10).await.is_empty());
}

pub(crate) async fn of_several_jobs_all_are_accepted_or_none(ground: Ground) {
    let jobs = ground.jobs(quick()).await;
    submit(&jobs, job("echo").with_key("taken", "one")).await;
    let several = vec![job("echo"), job("echo").with_key("new", "one"), job("echo").with_key("taken", "two")];
    assert_eq!(jobs.submit_all(several).await, Err(JobsError::KeyReused("taken".to_owned())));
    assert_eq!(jobs.list(&Filter::default(), 10).await.unwrap().len(), 1);
    let several = vec![job("echo").with_key("new", "one"), job("echo").with_key("new", "one"), job("echo")];
    let submitted = jobs.submit_all(several).await.unwrap();
    assert_eq!(submitted[0].id, submitted[1].id);
    assert_eq!(submitted.iter().map(|job| job.is_repeated).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(jobs.list(&Filter::default(), 10).await.unwrap().len(), 3);
}
