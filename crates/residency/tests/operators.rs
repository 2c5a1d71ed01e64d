//! Operators and reloads that change what is loaded at the same moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs)]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use halny_engine::testsuite::FakeEngine;
use halny_residency::{LoadError, ModelState, Residency, ResidencyError};
use halny_types::project::{Project, check};
use parking_lot::{Condvar, Mutex};
use tokio::task::JoinHandle;

use rig::{Rig, double, gated, inference, item, project, rig};

type Loading = JoinHandle<Result<Result<(), LoadError>, ResidencyError>>;

/// A residency whose engine stops, while the gate is closed, in the first run of a load.
struct Gated {
    rig: Rig,
    gate: Arc<(Mutex<bool>, Condvar)>,
    runs: Arc<AtomicUsize>,
}

impl Gated {
    fn new() -> Gated {
        let (engine, gate) = gated();
        Gated { runs: Arc::clone(&engine.runs), rig: rig(engine), gate }
    }

    fn residency(&self) -> &Residency {
        &self.rig.residency
    }

    fn close(&self) {
        *self.gate.0.lock() = false;
    }

    fn open(&self) {
        *self.gate.0.lock() = true;
        self.gate.1.notify_all();
    }

    /// Does `begin`, and returns when the engine has begun what that asked for.
    async fn until_in_engine<T>(&self, begin: impl FnOnce() -> T) -> T {
        let before = self.runs.load(Ordering::SeqCst);
        let begun = begin();
        while self.runs.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        begun
    }

    /// An operator's request to load a model, which has got as far as it gets without waiting.
    async fn load(&self, name: &'static str) -> Loading {
        let residency = self.residency().clone();
        let loading = tokio::spawn(async move { residency.load(name).await });
        every_task_is_polled().await;
        loading
    }

    /// The same for a project.
    async fn apply(&self, project: Project) -> JoinHandle<halny_residency::Applied> {
        let residency = self.residency().clone();
        let applying = tokio::spawn(async move { residency.apply(&project).await });
        every_task_is_polled().await;
        applying
    }

    /// Closes the gate and has an operator load `name`; returns when the engine has it.
    async fn load_held_up(&self, name: &'static str) -> Loading {
        self.close();
        let residency = self.residency().clone();
        self.until_in_engine(|| tokio::spawn(async move { residency.load(name).await })).await
    }

    fn state(&self, name: &str) -> ModelState {
        self.residency().index().into_iter().find(|status| status.name.as_str() == name).unwrap().state
    }

    fn counts_as_loaded(&self, name: &str) -> bool {
        self.rig.metrics.render().contains(&format!("halny_loaded_models{{model=\"{name}\""))
    }
}

/// A test that fails must not hang on the load that it holds up.
impl Drop for Gated {
    fn drop(&mut self) {
        self.open();
    }
}

/// The runtime has one thread, and polls tasks in the order in which they were woken.
async fn every_task_is_polled() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// The project of [`project`] where only the models named in `preloaded` are loaded with it.
fn lazy(models: &[(&str, &str)], preloaded: &[&str]) -> Project {
    let mut project = project(models);
    for model in &mut project.models {
        model.preload = preloaded.contains(&model.name.as_str());
    }
    project
}

const BOTH: [(&str, &str); 2] = [("a", ""), ("b", "")];

#[tokio::test]
async fn a_load_that_waits_behind_a_reload_loads_what_the_reload_says() {
    let it = Gated::new();
    it.residency().apply(&lazy(&[("a", "deadline_ms = 1000"), ("b", "")], &["a"])).await;
    let first = it.load_held_up("b").await;
    let reload = it.apply(lazy(&[("a", "deadline_ms = 7000"), ("b", "")], &["a"])).await;
    let second = it.load("a").await;
    it.open();
    first.await.unwrap().unwrap().unwrap();
    assert!(reload.await.unwrap().failed.is_empty());
    second.await.unwrap().unwrap().unwrap();
    assert_eq!(inference(it.residency(), "a").unwrap().deadline(None), Duration::from_secs(7));
}

#[tokio::test]
async fn a_model_that_a_reload_removes_is_not_put_back_by_a_load_under_way() {
    let it = Gated::new();
    it.residency().apply(&lazy(&BOTH, &["a"])).await;
    let load = it.load_held_up("b").await;
    let reload = it.apply(project(&[("a", "")])).await;
    it.open();
    let _ = load.await.unwrap();
    assert_eq!(reload.await.unwrap().removed.len(), 1);
    assert_eq!(it.residency().get("b").unwrap_err(), ResidencyError::Unknown("b".to_owned()));
    assert_eq!(it.residency().index().len(), 1);
}

#[tokio::test]
async fn unloading_calls_off_the_load_under_way_and_waits_for_no_load() {
    let it = Gated::new();
    it.residency().apply(&lazy(&BOTH, &["a"])).await;
    let load = it.load_held_up("b").await;
    // The gate is closed: both answer while the engine is still at it.
    it.residency().unload("a").await.unwrap();
    it.residency().unload("b").await.unwrap();
    it.open();
    let error = load.await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("called off"), "{error}");
    assert_eq!(it.residency().get("b").unwrap_err(), ResidencyError::NotLoaded("b".to_owned()));
    assert_eq!(it.state("b"), ModelState::Unloaded);
    while it.counts_as_loaded("b") {
        tokio::task::yield_now().await;
    }
    it.residency().load("b").await.unwrap().unwrap();
    assert_eq!(double(it.residency(), "b", 4.0).await.unwrap(), 8.0);
}

#[tokio::test]
async fn a_load_asked_for_after_the_unloading_is_not_called_off_by_it() {
    let it = Gated::new();
    it.residency().apply(&lazy(&BOTH, &[])).await;
    let before = it.load_held_up("b").await;
    it.residency().unload("b").await.unwrap();
    let after = it.load("b").await;
    it.open();
    before.await.unwrap().unwrap().unwrap_err();
    after.await.unwrap().unwrap().unwrap();
    assert_eq!(double(it.residency(), "b", 4.0).await.unwrap(), 8.0);
}

#[tokio::test]
async fn a_model_unloaded_while_its_project_is_applied_stays_unloaded_and_is_no_failure() {
    let it = Gated::new();
    it.close();
    let residency = it.residency().clone();
    let applying = it.until_in_engine(|| tokio::spawn(async move { residency.apply(&project(&BOTH)).await })).await;
    it.residency().unload("b").await.unwrap();
    it.open();
    let applied = applying.await.unwrap();
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    assert_eq!(applied.loaded.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a"]);
    assert_eq!(it.residency().get("b").unwrap_err(), ResidencyError::NotLoaded("b".to_owned()));
    assert!(it.residency().is_ready());
}

#[tokio::test]
async fn a_load_once_begun_is_carried_to_its_end_without_its_operator_before_the_next_begins() {
    let it = Gated::new();
    it.residency().apply(&lazy(&BOTH, &[])).await;
    let load = it.load_held_up("b").await;
    load.abort();
    load.await.unwrap_err();
    let next = it.load("a").await;
    assert_eq!((it.state("b"), it.state("a")), (ModelState::Loading, ModelState::Unloaded));
    it.open();
    next.await.unwrap().unwrap().unwrap();
    assert_eq!(double(it.residency(), "b", 4.0).await.unwrap(), 8.0);
}

#[tokio::test]
async fn an_operator_who_leaves_before_the_turn_has_nothing_loaded() {
    let it = Gated::new();
    it.residency().apply(&lazy(&BOTH, &[])).await;
    let load = it.load_held_up("b").await;
    let waiting = it.load("a").await;
    waiting.abort();
    waiting.await.unwrap_err();
    it.open();
    load.await.unwrap().unwrap().unwrap();
    it.residency().load("b").await.unwrap().unwrap();
    assert_eq!(it.state("a"), ModelState::Unloaded);
}

#[tokio::test]
async fn the_end_waits_for_a_load_whose_operator_left_and_publishes_nothing() {
    let it = Gated::new();
    it.residency().apply(&lazy(&BOTH, &["a"])).await;
    let load = it.load_held_up("b").await;
    load.abort();
    load.await.unwrap_err();
    let mut end = Box::pin(it.residency().drain());
    assert!(futures::poll!(&mut end).is_pending());
    assert!(it.residency().get("a").is_err(), "what is loaded is not given out while the end waits");
    assert!(!it.residency().is_ready());
    it.open();
    end.await;
    assert!(it.residency().get("b").is_err());
    assert!(!it.counts_as_loaded("a") && !it.counts_as_loaded("b"));
    it.residency().load("b").await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_preloaded_model_counts_against_readiness_while_it_loads_or_failed_not_when_unloaded_by_hand() {
    let it = Gated::new();
    it.close();
    let residency = it.residency().clone();
    let applying = it.until_in_engine(|| tokio::spawn(async move { residency.apply(&project(&BOTH)).await })).await;
    assert!(!it.residency().is_ready(), "it is loading");
    it.open();
    applying.await.unwrap();
    it.residency().unload("b").await.unwrap();
    assert!(it.residency().is_ready(), "it was unloaded on purpose");
    std::fs::write(it.rig.folder.path().join("b/model.fp32.onnx"), b"not a graph").unwrap();
    it.residency().load("b").await.unwrap().unwrap_err();
    assert!(!it.residency().is_ready(), "it failed");
    it.residency().unload("b").await.unwrap();
    assert!(it.residency().is_ready());
}

#[tokio::test]
async fn a_project_whose_model_is_now_to_be_preloaded_is_ready_only_with_it() {
    let it = Gated::new();
    it.residency().apply(&lazy(&BOTH, &["a"])).await;
    it.close();
    let residency = it.residency().clone();
    let applying = it.until_in_engine(|| tokio::spawn(async move { residency.apply(&project(&BOTH)).await })).await;
    assert!(!it.residency().is_ready());
    it.open();
    applying.await.unwrap();
    assert!(it.residency().is_ready());
}

#[tokio::test]
async fn an_operator_loads_what_the_project_now_says_also_after_that_could_not_be_applied() {
    let rig = rig(FakeEngine::doubling());
    let graph = rig.folder.path().join("a/model.fp32.onnx");
    let sound = std::fs::read(&graph).unwrap();
    std::fs::write(&graph, b"not a graph").unwrap();
    for deadline in ["deadline_ms = 1000", "deadline_ms = 7000"] {
        assert_eq!(rig.residency.apply(&project(&[("a", deadline)])).await.failed.len(), 1);
    }
    std::fs::write(&graph, sound).unwrap();
    rig.residency.load("a").await.unwrap().unwrap();
    assert_eq!(inference(&rig.residency, "a").unwrap().deadline(None), Duration::from_secs(7));
}

#[tokio::test]
async fn no_name_is_called_unknown_before_a_project_is_applied() {
    let residency = rig(FakeEngine::doubling()).residency;
    let loading = ResidencyError::Loading("a".to_owned());
    assert_eq!(residency.get("a").unwrap_err(), loading);
    assert_eq!(residency.load("a").await.unwrap_err(), loading);
    assert_eq!(residency.unload("a").await.unwrap_err(), loading);
}

#[tokio::test]
async fn a_request_that_names_a_profile_has_that_profiles_time() {
    let rig = rig(FakeEngine::doubling());
    let text = "[[models]]\nname = \"a\"\nsource = \"a\"\ntask = \"tensor\"\n\
        [[models.profiles]]\nname = \"quick\"\ninstances = 1\ndeadline_ms = 1000\n\
        [[models.profiles]]\nname = \"patient\"\ninstances = 1\ndeadline_ms = 7000\n";
    let project = check(text).unwrap_or_else(|problems| panic!("{problems:?}")).project;
    assert!(rig.residency.apply(&project).await.failed.is_empty());
    let model = inference(&rig.residency, "a").unwrap();
    let seconds = |profile| model.deadline(profile).as_secs();
    assert_eq!((seconds(Some("quick")), seconds(Some("patient")), seconds(None)), (1, 7, 7));
    assert_eq!(seconds(Some("absent")), 7, "a later step refuses it");
    let context = rig::context();
    assert!(model.run(&context, vec![item(&model.task, 1.0)], Some("absent")).await.is_err());
}

#[tokio::test]
async fn what_warming_up_showed_with_some_threads_is_not_taken_for_others() {
    let rig = rig(FakeEngine::doubling());
    for threads in [1, 2, 2] {
        rig.residency.apply(&project(&[("a", &format!("threads = {threads}\nmax_batch_size = 4"))])).await;
    }
    let records = std::fs::read_dir(rig.folder.path().join("cache/warm-ups")).unwrap();
    assert_eq!(records.count(), 2);
}
