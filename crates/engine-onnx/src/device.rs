//! Which devices can be used, what is missing where one cannot, and the execution provider of each.

use std::path::Path;

use halny_engine::{Device, EngineError, LoadSpec, Precision};
use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use ort::ep::{ArenaExtendStrategy, cuda::ConvAlgorithmSearch};
use tracing::debug;

use crate::hardware::{Gpus, has_cuda_driver};
use crate::library::{Library, TESTED};
use crate::{IdleThreads, Options};

/// The devices that could be used, best first.
pub(crate) fn usable(library: &Library) -> Vec<Device> {
    let mut devices = Vec::new();
    let count = Gpus::open().and_then(|gpus| gpus.count()).unwrap_or(0);
    let kinds: [fn(u32) -> Device; 2] = [Device::Cuda, Device::TensorRt];
    for kind in kinds {
        devices.extend((0..count).map(kind).filter(|device| missing_for(library, *device).is_empty()));
    }
    devices.push(Device::Cpu);
    devices
}

/// What this machine or library lacks for a device, each a clause; empty when nothing is known to.
pub(crate) fn missing_for(library: &Library, device: Device) -> Vec<String> {
    let (provider, available, number) = match device {
        Device::Auto | Device::Cpu => return Vec::new(),
        Device::Cuda(number) => ("CUDA", ep::CUDA::is_available(), number),
        Device::TensorRt(number) => ("TensorRT", ep::TensorRT::is_available(), number),
    };
    let mut missing = Vec::new();
    if !available.unwrap_or(false) {
        missing.push(format!(
            "this ONNX Runtime {} has no {provider} provider (`pip install onnxruntime-gpu=={TESTED}` and use its \
             libonnxruntime.so)",
            library.version()
        ));
    }
    if !has_cuda_driver() {
        missing.push("no CUDA driver on this machine (libcuda.so.1 is not there)".to_owned());
    } else if let Some(count) = Gpus::open().and_then(|gpus| gpus.count())
        && number >= count
    {
        missing.push(format!("there is no CUDA device {number}, this process sees {count} (numbered from 0)"));
    }
    missing
}

/// The refusal of a device that was named.
pub(crate) fn refuse(device: Device, why: &str) -> EngineError {
    EngineError::Load(format!("{device} cannot be used: {why}; or set `device` to \"cpu\" or \"auto\""))
}

/// The providers to register for a device, first the one that was asked for.
///
/// Each fails the load when it cannot be registered. The processor's own comes last in any session: it
/// runs what has no kernel elsewhere, shapes above all.
pub(crate) fn providers(
    device: Device,
    spec: &LoadSpec,
    options: &Options,
    kernels: Option<&Path>,
) -> Vec<ExecutionProviderDispatch> {
    let providers = match device {
        Device::Auto | Device::Cpu => vec![ep::CPU::default().with_arena_allocator(true).build()],
        Device::Cuda(number) => vec![cuda(number, options).build()],
        Device::TensorRt(number) => vec![tensorrt(number, spec, kernels).build(), cuda(number, options).build()],
    };
    debug!(%device, idle_spins = options.idle == IdleThreads::Spin, "execution providers are chosen");
    providers.into_iter().map(ExecutionProviderDispatch::error_on_failure).collect()
}

/// The arena grows by what is asked: doubling would take half of a device for one large batch. The
/// exhaustive search for a convolution's algorithm runs anew for each shape, which with free
/// dimensions is on many requests; the heuristic one costs microseconds. CUDA graphs want fixed
/// addresses and shapes, which batches do not have.
fn cuda(number: u32, options: &Options) -> ep::CUDA {
    let provider = ep::CUDA::default()
        .with_device_id(i32::try_from(number).unwrap_or(i32::MAX))
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        .with_conv_max_workspace(true)
        .with_cuda_graph(false);
    match options.device_memory_limit {
        Some(limit) => provider.with_memory_limit(limit),
        None => provider,
    }
}

fn tensorrt(number: u32, spec: &LoadSpec, kernels: Option<&Path>) -> ep::TensorRT {
    let provider = ep::TensorRT::default()
        .with_device_id(i32::try_from(number).unwrap_or(i32::MAX))
        .with_fp16(spec.precision == Precision::Fp16)
        // A layer norm whose sums overflow halves is computed in singles.
        .with_layer_norm_fp32_fallback(true)
        .with_cuda_graph(false);
    match kernels {
        Some(folder) => provider
            .with_engine_cache(true)
            .with_engine_cache_path(folder.join("engines").display())
            .with_timing_cache(true)
            .with_timing_cache_path(folder.join("timings").display()),
        None => provider,
    }
}
