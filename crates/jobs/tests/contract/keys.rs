//! What counts once.

use futures::future::join_all;
use halny_jobs::{Failure, Filter, JobsError, NewJob, Run, State};
use serde_json::Value;

use crate::ground::{Ground, count, job, make_tally, quick, submit, tally, until, work, worker};

pub(crate) async fn the_same_key_gives_the_first_job_and_another_request_is_refused(ground: Ground) {
    let jobs = ground.jobs(quick()).await;
    let first = jobs.submit(job("echo").with_key("order-1", "hash")).await.unwrap();
    let again = jobs.submit(job("echo").with_key("order-1", "hash")).await.unwrap();
    assert_eq!((first.is_repeated, again.is_repeated, again.id), (false, true, first.id));
    let other = jobs.submit(job("echo").with_key("order-1", "another hash")).await;
    assert_eq!(other, Err(JobsError::KeyReused("order-1".to_owned())));
    // After it has ended, too.
    let worker = worker(&jobs, vec![]);
    until(&jobs, first.id, State::Done).await;
    assert_eq!(jobs.submit(job("echo").with_key("order-1", "hash")).await.unwrap().id, first.id);
    worker.stop().await;
}

pub(crate) async fn of_racing_submissions_with_one_key_one_is_accepted(ground: Ground) {
    let servers = join_all((0..4).map(|_| ground.jobs(quick()))).await;
    for round in 0..20 {
        let key = format!("key-{round}");
        let racing = (0..16).map(|number| servers[number % 4].submit(job("echo").with_key(&key, "hash")));
        let submitted: Vec<_> = join_all(racing).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(submitted.iter().filter(|job| !job.is_repeated).count(), 1);
        assert!(submitted.iter().all(|job| job.id == submitted[0].id));
    }
    assert_eq!(servers[0].list(&Filter::default(), 100).await.unwrap().len(), 20);
}

pub(crate) async fn a_key_is_its_tenants_own(ground: Ground) {
    let jobs = ground.jobs(quick()).await;
    let of = |tenant: &str| NewJob { tenant: tenant.to_owned(), ..job("echo").with_key("key", tenant) };
    let (one, other) = (submit(&jobs, of("one")).await, submit(&jobs, of("other")).await);
    assert_ne!(one, other);
    assert_eq!(submit(&jobs, of("one")).await, one);
}

pub(crate) async fn an_effect_counts_once_however_often_its_job_is_tried(ground: Ground) {
    let jobs = ground.jobs(quick()).await;
    make_tally(&jobs).await;
    let working = work(|run: &Run| {
        Box::pin(async move {
            let first = run.job().failures == 0;
            assert_eq!(count(run, "paid").await?, first);
            if run.job().failures == 1 {
                assert!(count(run, "sent").await?);
            }
            if run.job().failures < 2 { Err(Failure::Retry("again".to_owned())) } else { Ok(Value::Null) }
        })
    });
    let worker = worker(&jobs, vec![("work", working)]);
    let id = submit(&jobs, job("work")).await;
    assert_eq!(until(&jobs, id, State::Done).await.failures, 2);
    let counted = tally(&jobs).await;
    assert_eq!((counted["paid"], counted["sent"], counted.len()), (1, 1, 2));
    worker.stop().await;
}
