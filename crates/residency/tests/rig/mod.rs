//! A residency over an engine whose graph is a Rust function, and two models for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use halny_engine::testsuite::decoder::FakeLanguageEngine;
use halny_engine::testsuite::{FakeEngine, doubling_signature};
use halny_engine::{EngineError, Tensor};
use halny_engine_onnx::testgraph;
use halny_residency::{Engines, Inference, Places, Residency, ResidencyError, RunError};
use halny_tasks::{Answer, Item};
use halny_telemetry::Metrics;
use halny_types::project::{Project, check};
use halny_types::{RequestContext, TenantId, Tick};
use parking_lot::{Condvar, Mutex};

pub(crate) struct Rig {
    pub(crate) residency: Residency,
    pub(crate) metrics: Metrics,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn rig(engine: FakeEngine) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), "a");
    write_model(folder.path(), "b");
    let places = Places { project: folder.path().to_path_buf(), cache: folder.path().join("cache") };
    let metrics = Metrics::new();
    let engines = Engines { graphs: Arc::new(engine), languages: Arc::new(FakeLanguageEngine) };
    Rig { residency: Residency::new(engines, places, metrics.clone()), metrics, folder }
}

fn write_model(folder: &Path, name: &str) {
    std::fs::create_dir_all(folder.join(name)).unwrap();
    std::fs::write(folder.join(name).join("model.fp32.onnx"), testgraph::doubling().bytes()).unwrap();
}

/// A project of `tensor` models, each with these lines in its one profile.
pub(crate) fn project(models: &[(&str, &str)]) -> Project {
    let entry = |(name, profile): &(&str, &str)| {
        format!(
            "[[models]]\nname = \"{name}\"\nsource = \"{name}\"\ntask = \"tensor\"\n[[models.profiles]]\ninstances = 1\n{profile}\n"
        )
    };
    let text: String = models.iter().map(entry).collect();
    check(&text).unwrap_or_else(|problems| panic!("{problems:?}")).project
}

pub(crate) fn context() -> RequestContext {
    RequestContext::new(TenantId::anonymous(), Tick::now(), Duration::from_secs(600))
}

pub(crate) async fn double(residency: &Residency, name: &str, value: f32) -> Result<f32, RunError> {
    let model = inference(residency, name)?;
    let outcomes = model.run(&context(), vec![item(&model.task, value)], None).await?;
    let Answer::Tensors(tensors) = &outcomes[0].as_ref().unwrap().answer else { panic!("tensors come out") };
    Ok(tensors[0].elements::<f32>().unwrap()[0])
}

pub(crate) fn item(task: &halny_tasks::Task, value: f32) -> Item {
    task.from_tensors(vec![Tensor::from_slice(&[1, 4], &[value; 4]).unwrap()]).unwrap()
}

/// An engine that runs only while its gate is open.
pub(crate) fn gated() -> (FakeEngine, Arc<(Mutex<bool>, Condvar)>) {
    let gate = Arc::new((Mutex::new(true), Condvar::new()));
    let inside = Arc::clone(&gate);
    let engine = FakeEngine::new(doubling_signature(), move |inputs, outputs| {
        inside.1.wait_while(&mut inside.0.lock(), |open| !*open);
        let doubled: Vec<f32> = inputs[0].elements::<f32>().unwrap().iter().map(|x| x * 2.0).collect();
        *outputs = vec![Tensor::from_slice(inputs[0].shape, &doubled)?];
        Ok::<(), EngineError>(())
    });
    (engine, gate)
}

/// What runs the tensors of a model that is loaded.
pub(crate) fn inference(residency: &Residency, name: &str) -> Result<Arc<Inference>, ResidencyError> {
    Ok(Arc::clone(residency.get(name)?.inference().unwrap()))
}
