//! ONNX Runtime behind the engine contract: one binary for CPU, CUDA and TensorRT.
//!
//! The library is found and loaded while running (see [`library`]), so what a binary can do follows
//! from the `libonnxruntime.so` it meets, and the same binary serves a laptop and a GPU. What is
//! missing is said in the error: the provider, the driver, or the device of that number. A device
//! that was named is never replaced by another.
//!
//! What ONNX Runtime makes of a graph (fused, laid out for this processor, weights packed for its
//! matrix kernels) is kept on disk, and every instance maps the same file: a second start skips the
//! work, and a second instance costs its activations only, not another copy of the weights.
//!
//! Not one session shared by all instances: `ort` forbids concurrent runs of a session because some
//! execution providers break under them. Not `tract` or `candle`: neither has TensorRT, nor the
//! fused transformer kernels that most exported graphs rely on.

mod cache;
mod device;
mod hardware;
mod instance;
pub mod library;
mod load;
mod ports;
mod session;
#[cfg(any(test, feature = "testsuite"))]
pub mod testgraph;
mod values;

use std::path::PathBuf;

use halny_engine::{Device, Engine, EngineError, LoadSpec, Loaded};
use tracing::info;

use crate::library::Library;

/// How to find the library, and settings that hold for every model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The path of `libonnxruntime.so`, from the project file. It is used or refused, never replaced.
    pub library: Option<PathBuf>,
    /// The folder of downloads, whose `onnxruntime/*/libonnxruntime.so` is used when neither
    /// [`Options::library`] nor `$HALNY_ONNXRUNTIME` names one.
    pub cache: Option<PathBuf>,
    /// What a session's threads do between two pieces of work.
    pub idle: IdleThreads,
    /// Bytes of device memory one session's arena may grow to (CUDA, TensorRT). `None`: the device's.
    pub device_memory_limit: Option<usize>,
}

/// What the threads of a session do between two pieces of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdleThreads {
    /// They sleep, so that an idle or waiting session leaves the processor to others.
    #[default]
    Sleep,
    /// They poll for a while before they sleep. It matters to sessions of two threads or more only: on
    /// a quiet machine it was faster for the same processor time, on a shared one slower for up to
    /// twice as much or more (`examples/loop.rs`).
    Spin,
}

/// ONNX Runtime, loaded once per process.
#[derive(Clone, Debug)]
pub struct OnnxEngine {
    library: Library,
    options: Options,
}

impl OnnxEngine {
    /// Finds the library, checks its version and loads it.
    ///
    /// # Errors
    /// [`EngineError::Library`] that names the version found, the one wanted, and how to get it.
    pub fn open(options: Options) -> Result<OnnxEngine, EngineError> {
        let library = library::open(options.library.as_deref(), options.cache.as_deref())?;
        info!(version = library.version(), path = %library.path().display(), "ONNX Runtime is loaded");
        Ok(OnnxEngine { library, options })
    }

    /// The library in use.
    #[must_use]
    pub fn library(&self) -> &Library {
        &self.library
    }
}

impl Engine for OnnxEngine {
    fn describe(&self) -> String {
        format!("onnxruntime {}", self.library.version())
    }

    fn devices(&self) -> Vec<Device> {
        device::usable(&self.library)
    }

    fn load(&self, spec: &LoadSpec) -> Result<Loaded, EngineError> {
        load::load(&self.library, &self.options, spec)
    }
}
