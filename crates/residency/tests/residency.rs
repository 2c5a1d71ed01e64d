//! Loading, swapping and unloading, with an engine whose graph is a Rust function.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs)]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use halny_engine::testsuite::FakeEngine;
use halny_residency::{ModelState, ResidencyError};
use halny_types::project::check;
use halny_types::{Blame, Fault, RequestContext, TenantId, Tick};

use rig::{context, double, gated, inference, item, project, rig};

#[tokio::test]
async fn a_project_is_served_and_metrics_name_its_version() {
    let rig = rig(FakeEngine::doubling());
    assert!(!rig.residency.is_ready(), "before a project is applied nothing is ready");
    let applied = rig.residency.apply(&project(&[("a", ""), ("b", "")])).await;
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    assert!(rig.residency.is_ready());
    assert_eq!(double(&rig.residency, "b", 21.0).await.unwrap(), 42.0);
    let version = rig.residency.get("a").unwrap().version;
    assert!(
        rig.metrics.render().contains(&format!("halny_loaded_models{{model=\"a\",version=\"{}\"", version.short()))
    );
}

#[tokio::test]
async fn what_has_not_changed_is_not_loaded_again_and_what_has_is() {
    let rig = rig(FakeEngine::doubling());
    let before = project(&[("a", ""), ("b", "")]);
    rig.residency.apply(&before).await;
    assert!(rig.residency.apply(&before).await.loaded.is_empty());
    let (a, b) = (rig.residency.get("a").unwrap(), rig.residency.get("b").unwrap());
    let applied = rig.residency.apply(&project(&[("a", "max_batch_size = 4"), ("b", "")])).await;
    assert_eq!(applied.loaded.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a"]);
    assert!(!Arc::ptr_eq(&a, &rig.residency.get("a").unwrap()));
    assert!(Arc::ptr_eq(&b, &rig.residency.get("b").unwrap()));
    assert_eq!(a.version, rig.residency.get("a").unwrap().version, "the same files are the same version");
}

/// The old lane and the new one have the same labels: the old one's end must not take the series.
#[tokio::test]
async fn a_replaced_model_is_freed_and_its_successor_keeps_its_metrics() {
    let rig = rig(FakeEngine::doubling());
    rig.residency.apply(&project(&[("a", "")])).await;
    let old = Arc::downgrade(&rig.residency.get("a").unwrap());
    rig.residency.apply(&project(&[("a", "max_batch_delay_ms = 7")])).await;
    while old.strong_count() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(double(&rig.residency, "a", 1.0).await.unwrap(), 2.0);
    let text = rig.metrics.render();
    assert!(text.contains("halny_loaded_models{model=\"a\""), "{text}");
    assert!(text.contains("halny_lane_finished_items_total{model=\"a\""), "{text}");
}

#[tokio::test]
async fn new_files_are_a_new_version() {
    let rig = rig(FakeEngine::doubling());
    let project = project(&[("a", "")]);
    rig.residency.apply(&project).await;
    let before = rig.residency.get("a").unwrap().version;
    std::fs::write(rig.folder.path().join("a/config.json"), "{}").unwrap();
    assert_eq!(rig.residency.apply(&project).await.loaded.len(), 1);
    assert_ne!(rig.residency.get("a").unwrap().version, before);
}

#[tokio::test]
async fn a_model_that_cannot_be_replaced_stays() {
    let rig = rig(FakeEngine::doubling());
    rig.residency.apply(&project(&[("a", "")])).await;
    let applied = rig.residency.apply(&project(&[("a", "device = \"cuda:3\"")])).await;
    assert_eq!(applied.failed.len(), 1);
    assert!(applied.failed[0].to_string().contains("cuda:3"), "{}", applied.failed[0]);
    assert_eq!(double(&rig.residency, "a", 1.0).await.unwrap(), 2.0);
    assert!(matches!(rig.residency.index()[0].state, ModelState::Failed(_)));
    std::fs::write(rig.folder.path().join("a/model.fp32.onnx"), b"not a graph").unwrap();
    let applied = rig.residency.apply(&project(&[("a", "")])).await;
    assert_eq!(applied.failed.len(), 1);
    assert_eq!(double(&rig.residency, "a", 3.0).await.unwrap(), 6.0);
}

#[tokio::test]
async fn models_come_and_go_by_name() {
    let rig = rig(FakeEngine::doubling());
    let mut lazy = project(&[("a", ""), ("b", "")]);
    lazy.models[1].preload = false;
    rig.residency.apply(&lazy).await;
    assert_eq!(rig.residency.get("b").unwrap_err(), ResidencyError::NotLoaded("b".to_owned()));
    assert_eq!(rig.residency.get("c").unwrap_err(), ResidencyError::Unknown("c".to_owned()));
    rig.residency.load("b").await.unwrap().unwrap();
    assert_eq!(double(&rig.residency, "b", 4.0).await.unwrap(), 8.0);
    rig.residency.unload("b").await.unwrap();
    assert_eq!(rig.residency.get("b").unwrap_err(), ResidencyError::NotLoaded("b".to_owned()));
    assert!(!rig.metrics.render().contains("halny_loaded_models{model=\"b\""), "its memory is given back");
    assert_eq!(rig.residency.unload("c").await.unwrap_err(), ResidencyError::Unknown("c".to_owned()));
    let applied = rig.residency.apply(&project(&[("b", "")])).await;
    assert_eq!(applied.removed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a"]);
    assert_eq!(rig.residency.get("a").unwrap_err(), ResidencyError::Unknown("a".to_owned()));
}

#[tokio::test]
async fn no_request_is_lost_while_its_model_is_replaced_again_and_again() {
    let rig = rig(FakeEngine::doubling());
    rig.residency.apply(&project(&[("a", "")])).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8u16 {
        let (residency, stop) = (rig.residency.clone(), Arc::clone(&stop));
        clients.spawn(async move {
            let mut answered = 0u32;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(double(&residency, "a", f32::from(client)).await.unwrap(), f32::from(client) * 2.0);
                answered += 1;
                tokio::task::yield_now().await;
            }
            answered
        });
    }
    for round in 1..12 {
        let applied = rig.residency.apply(&project(&[("a", &format!("max_batch_size = {round}"))])).await;
        assert_eq!(applied.loaded.len(), 1, "{:?}", applied.failed);
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(answered) = clients.join_next().await {
        assert!(answered.unwrap() > 0);
    }
    rig.residency.drain().await;
    assert_eq!(rig.residency.get("a").unwrap_err(), ResidencyError::NotLoaded("a".to_owned()));
}

#[tokio::test]
async fn unloading_waits_for_what_was_accepted() {
    let (engine, gate) = gated();
    let rig = rig(engine);
    rig.residency.apply(&project(&[("a", "")])).await;
    *gate.0.lock() = false;
    let model = inference(&rig.residency, "a").unwrap();
    let running = tokio::spawn(async move {
        let outcomes = model.run(&context(), vec![item(&model.task, 5.0)], None).await.unwrap();
        outcomes[0].is_ok()
    });
    tokio::task::yield_now().await;
    let unloading = tokio::spawn({
        let residency = rig.residency.clone();
        async move { residency.unload("a").await }
    });
    while rig.residency.get("a").is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!unloading.is_finished());
    *gate.0.lock() = true;
    gate.1.notify_all();
    assert!(running.await.unwrap());
    unloading.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_later_profile_takes_what_the_first_refuses_and_a_named_one_is_the_only_one() {
    let (engine, gate) = gated();
    let rig = rig(engine);
    let text = "[[models]]\nname = \"a\"\nsource = \"a\"\ntask = \"tensor\"\n\
        [[models.profiles]]\nname = \"small\"\ninstances = 1\nmax_batch_size = 1\nmax_queue_items = 1\n\
        [[models.profiles]]\nname = \"large\"\ninstances = 1\n";
    let project = check(text).unwrap_or_else(|problems| panic!("{problems:?}")).project;
    assert!(rig.residency.apply(&project).await.failed.is_empty());
    *gate.0.lock() = false;
    let model = inference(&rig.residency, "a").unwrap();
    let context = context();
    let run = |profile| model.run(&context, vec![item(&model.task, 1.0)], profile);
    let error = run(Some("medium")).await.unwrap_err();
    assert_eq!((error.fault(), error.to_string().contains("small, large")), (Fault::Caller, true));
    // More than the small profile can hold: one runs, one waits, the rest goes to the large one.
    let all = futures::future::join_all((0..6).map(|_| run(None)));
    tokio::pin!(all);
    assert!(futures::poll!(&mut all).is_pending());
    *gate.0.lock() = true;
    gate.1.notify_all();
    assert!(all.await.into_iter().all(|outcomes| outcomes.unwrap()[0].is_ok()));
    assert!(rig.metrics.render().contains("reason=\"queue_items\""));
}

#[tokio::test]
async fn a_deadline_that_passes_ends_the_wait() {
    let (engine, gate) = gated();
    let rig = rig(engine);
    rig.residency.apply(&project(&[("a", "")])).await;
    *gate.0.lock() = false;
    let model = inference(&rig.residency, "a").unwrap();
    let context = RequestContext::new(TenantId::anonymous(), Tick::now(), Duration::from_millis(300));
    let error = model.run(&context, vec![item(&model.task, 1.0)], None).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Late, "{error}");
    *gate.0.lock() = true;
    gate.1.notify_all();
}
