//! Fakes for the crates above, and the suite that every engine has to pass.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

pub mod decoder;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::{
    Choice, Device, Dim, Element, ElementType, Engine, EngineError, Instance, LoadPhase, LoadSpec, Loaded, Port,
    RunReport, Signature, Tensor, TensorView,
};

/// A file below the folder that `make` fetches into.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn fetched(path: &str) -> PathBuf {
    let file = cache_folder().join(path);
    assert!(file.exists(), "{} is missing; `make models` fetches it", file.display());
    file
}

/// The folder that `make` fetches into.
#[must_use]
pub fn cache_folder() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/halny");
    std::env::var_os("HALNY_CACHE").map_or_else(home, PathBuf::from)
}

/// The signature of the graph that [`contract`] asks an engine to load: `y = 2x`, `[n, 4]` singles.
#[must_use]
pub fn doubling_signature() -> Signature {
    let port = |name: &str| Port {
        name: name.to_owned(),
        element: ElementType::F32,
        dims: vec![Dim::Free("n".to_owned()), Dim::Fixed(4)],
    };
    Signature { inputs: vec![port("x")], outputs: vec![port("y")] }
}

/// What a fake graph computes: outputs from inputs.
pub type Compute = dyn Fn(&[TensorView<'_>], &mut Vec<Tensor>) -> Result<(), EngineError> + Send + Sync;

/// An engine whose graph is a Rust function.
#[derive(Clone)]
pub struct FakeEngine {
    signature: Signature,
    compute: Arc<Compute>,
    /// How often [`Instance::run`] was called, over all instances.
    pub runs: Arc<AtomicUsize>,
}

impl FakeEngine {
    /// An engine that loads every graph as this one.
    pub fn new(
        signature: Signature,
        compute: impl Fn(&[TensorView<'_>], &mut Vec<Tensor>) -> Result<(), EngineError> + Send + Sync + 'static,
    ) -> FakeEngine {
        FakeEngine { signature, compute: Arc::new(compute), runs: Arc::default() }
    }

    /// An engine whose graph doubles its input.
    #[must_use]
    pub fn doubling() -> FakeEngine {
        FakeEngine::new(doubling_signature(), |inputs, outputs| {
            let doubled: Vec<f32> = inputs[0].elements::<f32>().unwrap().iter().map(|x| x * 2.0).collect();
            outputs.clear();
            outputs.push(Tensor::from_slice(inputs[0].shape, &doubled)?);
            Ok(())
        })
    }
}

impl Engine for FakeEngine {
    fn describe(&self) -> String {
        "fake 1".to_owned()
    }

    fn devices(&self) -> Vec<Device> {
        vec![Device::Cpu]
    }

    fn load(&self, spec: &LoadSpec) -> Result<Loaded, EngineError> {
        if !matches!(spec.device, Device::Cpu | Device::Auto) {
            return Err(EngineError::Load(format!("the fake engine runs on \"cpu\" only, not on {}", spec.device)));
        }
        let instance = || -> Box<dyn Instance> { Box::new(FakeInstance(self.clone())) };
        Ok(Loaded {
            signature: self.signature.clone(),
            choice: Choice { device: Device::Cpu, reason: "it is the only device".to_owned() },
            instances: (0..spec.instances).map(|_| instance()).collect(),
            memory_bytes: 0,
            phases: vec![LoadPhase { name: "session", took: Duration::ZERO, warm: false }],
        })
    }
}

struct FakeInstance(FakeEngine);

impl Instance for FakeInstance {
    fn signature(&self) -> &Signature {
        &self.0.signature
    }

    fn run(&mut self, inputs: &[TensorView<'_>], outputs: &mut Vec<Tensor>) -> Result<RunReport, EngineError> {
        self.0.signature.accept(inputs)?;
        let began = Instant::now();
        self.0.runs.fetch_add(1, Ordering::SeqCst);
        (self.0.compute)(inputs, outputs)?;
        Ok(RunReport { device_time: began.elapsed() })
    }
}

/// The promises of the [crate](crate) doc, tried on an engine that loads `spec` as the graph of
/// [`doubling_signature`].
pub fn contract(engine: &dyn Engine, spec: &LoadSpec) {
    let mut loaded = engine.load(spec).unwrap();
    assert_ne!(loaded.choice.device, Device::Auto, "the choice of `auto` is said");
    assert!(!loaded.choice.reason.is_empty());
    assert_eq!(loaded.instances.len(), spec.instances);
    assert_eq!(loaded.signature, doubling_signature());
    assert!(!engine.describe().is_empty());
    for instance in &mut loaded.instances {
        assert_eq!(instance.signature(), &loaded.signature);
        let mut outputs = Vec::new();
        for rows in [1usize, 3, 2, 64] {
            answers_are_right_and_buffers_reused(instance.as_mut(), rows, &mut outputs);
        }
        misfits_are_refused_and_the_instance_lives(instance.as_mut());
    }
    let absent = LoadSpec { device: Device::Cuda(9_999), ..spec.clone() };
    let error = engine.load(&absent).expect_err("a device that is not there is never replaced by another");
    assert!(matches!(error, EngineError::Load(_) | EngineError::Library(_)));
}

fn answers_are_right_and_buffers_reused(instance: &mut dyn Instance, rows: usize, outputs: &mut Vec<Tensor>) {
    let values: Vec<f32> = (0..rows * 4).map(|i| i as f32 * 0.5 - 3.0).collect();
    let input = Tensor::from_slice(&[rows, 4], &values).unwrap();
    instance.run(&[input.view()], outputs).unwrap();
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].shape(), &[rows, 4]);
    let doubled: Vec<f32> = values.iter().map(|x| x * 2.0).collect();
    assert_eq!(outputs[0].elements::<f32>().unwrap(), doubled);
}

fn misfits_are_refused_and_the_instance_lives(instance: &mut dyn Instance) {
    let mut outputs = Vec::new();
    let mut refused = |inputs: &[TensorView<'_>]| {
        let error = instance.run(inputs, &mut outputs).expect_err("a misfit is refused");
        assert!(matches!(error, EngineError::Input(_)), "{error:?}");
    };
    let wide = Tensor::from_slice(&[1, 5], &[0.0f32; 5]).unwrap();
    let typed = Tensor::from_slice(&[1, 4], &[0i64; 4]).unwrap();
    let right = Tensor::from_slice(&[1, 4], &[0.0f32; 4]).unwrap();
    let short = TensorView { bytes: &right.bytes()[..8], ..right.view() };
    refused(&[]);
    refused(&[wide.view()]);
    refused(&[typed.view()]);
    refused(&[short]);
    refused(&[right.view(), right.view()]);
    instance.run(&[right.view()], &mut outputs).expect("the instance lives on");
}

/// A tensor with one row of these elements: short for tests.
#[must_use]
pub fn row<T: Element>(elements: &[T]) -> Tensor {
    Tensor::from_slice(&[1, elements.len()], elements).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;

    #[test]
    fn the_fake_engine_keeps_the_contract() {
        let spec = LoadSpec {
            graph: "unused".into(),
            device: Device::Auto,
            precision: Precision::Fp32,
            instances: 2,
            threads: 1,
            cache: None,
            cache_key: String::new(),
        };
        contract(&FakeEngine::doubling(), &spec);
    }
}
