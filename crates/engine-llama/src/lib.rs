//! llama.cpp behind the contracts of language models, and of models that read only: GGUF on CPU and CUDA
//! from one binary.
//!
//! llama.cpp is compiled with its compute code apart from the rest: one small library for each
//! generation of processors, one for CUDA. [`backends`] loads what this machine can run, the best
//! variant first, so the same files serve a laptop without AVX-512 and a server with a GPU.
//!
//! A model's file is mapped, not copied, except for the weights that llama.cpp lays out anew for the
//! processor's matrix instructions. The file has been checked before it gets here (`registry`): much
//! that a header may claim would otherwise end the process in an assertion.
//!
//! Cells are those of llama.cpp's unified cache: any free cell serves any sequence, and a cell that
//! several sequences share costs once. Sliding-window layers get a cache of full size too: a window's
//! cache forgets what has left the window, and then no prefix can be shared or cut.
//!
//! Not `candle` or `mistral.rs`: neither runs on as many quantisations and processors, and users bring
//! GGUF files that were made for llama.cpp.

pub mod backends;
mod cells;
mod decoder;
mod encoder;
mod foreign;
mod load;
mod model;

use halny_engine::{Device, EncoderSpec, EngineError, LanguageEngine, LanguageSpec, LoadedEncoder, LoadedLanguage};

/// The release of llama.cpp that is compiled in.
pub const LLAMA_CPP: &str = "b11434";

/// llama.cpp. Its compute libraries are loaded when they are first wanted: a server without language
/// models does without them.
#[derive(Clone, Copy, Debug, Default)]
pub struct LlamaEngine;

impl LanguageEngine for LlamaEngine {
    fn describe(&self) -> String {
        format!("llama.cpp {LLAMA_CPP}")
    }

    fn devices(&self) -> Vec<Device> {
        backends::backend().map(backends::Backend::devices).unwrap_or_default()
    }

    /// On x86-64 processors. llama.cpp has no AMX kernel for Q5_0, and its others unpack the fifth bit
    /// for every product: a prompt of Gemma 3 270M (two thirds Q5_0) is read in 60 % of the time with
    /// AMX, in 80 % with AVX2, in 94 % with AVX-512, and writing is never slower. Others are not measured.
    fn widens(&self, device: Device) -> bool {
        let on_processor = match device {
            Device::Cpu => true,
            Device::Auto => self.devices() == [Device::Cpu],
            Device::Cuda(_) | Device::TensorRt(_) => false,
        };
        cfg!(target_arch = "x86_64") && on_processor
    }

    fn load(&self, spec: &LanguageSpec) -> Result<LoadedLanguage, EngineError> {
        load::load(backends::backend()?, spec)
    }

    fn load_encoder(&self, spec: &EncoderSpec) -> Result<LoadedEncoder, EngineError> {
        encoder::load(backends::backend()?, spec)
    }
}
