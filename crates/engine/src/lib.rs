//! The contract of a loaded model: tensors in, tensors out, on one device, by one thread at a time;
//! in [`language`], of one that writes token by token; in [`encoder`], of one that reads only.
//!
//! An [`Engine`] loads a graph for a device and gives back [`Instance`]s. Each instance is owned by
//! one operating-system thread, which calls [`Instance::run`] with ready tensors and nothing else:
//! what a tensor means (tokens, pixels) and how a batch was formed is not the engine's business.
//!
//! Promises every engine keeps, tried by [`testsuite::contract`] against each implementation:
//!
//! - The [`Signature`] is the graph's own: names, element types, and which dimensions are free.
//! - The device it ran on is the one asked for, or loading fails. `auto` says what it chose and why.
//! - Inputs that do not fit the signature are refused with [`EngineError::Input`]; the process
//!   and the instance live on.
//! - `run` fills outputs in the signature's order and reuses their buffers.
//!
//! Not a trait per task (`Embedder`, `Classifier`): tasks are the same on every engine, and an
//! engine that knows none of them can serve a task that nobody has thought of.

pub mod element;
pub mod encoder;
pub mod language;
pub mod load;
pub mod signature;
pub mod tensor;
#[cfg(any(test, feature = "testsuite"))]
pub mod testsuite;

use std::time::Duration;

pub use element::{Element, ElementType};
pub use encoder::{EncoderSpec, Head, LoadedEncoder, TokenFrame};
pub use halny_types::project::{Pooling, Precision};
pub use language::{
    AdapterSpec, CellFormat, Decoder, DecoderLimits, LanguageCard, LanguageEngine, LanguageModel, LanguageSpec,
    LoadedLanguage, SequenceId, Specials, StepToken, TokenId,
};
pub use load::{Choice, Device, LoadPhase, LoadSpec, Loaded};
pub use signature::{Dim, Port, Signature};
pub use tensor::{Tensor, TensorView};

use halny_types::{Blame, Fault};
use thiserror::Error;

/// Loads models onto devices.
pub trait Engine: Send + Sync {
    /// The engine's name and version, for metadata and logs, such as `onnxruntime 1.32.0`.
    fn describe(&self) -> String;

    /// The devices this engine could use on this machine, best first.
    fn devices(&self) -> Vec<Device>;

    /// Loads one graph and makes `spec.instances` instances of it.
    ///
    /// Blocks for as long as loading takes (seconds to minutes): call it off the async threads.
    ///
    /// # Errors
    /// [`EngineError::Load`] when the graph, the device or the library does not allow it. A device
    /// that was named is never replaced by another.
    fn load(&self, spec: &LoadSpec) -> Result<Loaded, EngineError>;
}

/// One loaded copy of a model, owned by the thread that runs it.
pub trait Instance: Send {
    /// What goes in and comes out.
    fn signature(&self) -> &Signature;

    /// Runs the model once.
    ///
    /// `inputs` are in the order of [`Signature::inputs`]. `outputs` is resized to the outputs of
    /// the signature and overwritten; its buffers are reused, so hand in the same vector again.
    ///
    /// # Errors
    /// [`EngineError::Input`] for tensors that do not fit; [`EngineError::Memory`] when the device
    /// is full; [`EngineError::Run`] when the graph itself fails. The instance stays usable.
    fn run(&mut self, inputs: &[TensorView<'_>], outputs: &mut Vec<Tensor>) -> Result<RunReport, EngineError>;
}

/// What one run cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunReport {
    /// Time the device was taken, copies included.
    pub device_time: Duration,
}

/// Why an engine did not do what it was asked.
#[derive(Clone, Debug, Error)]
pub enum EngineError {
    /// The library behind the engine is missing, too old, or not what it says.
    #[error("{0}")]
    Library(String),
    /// The model cannot be loaded; the text says what to change. For the operator, not the client.
    #[error("{0}")]
    Load(String),
    /// The tensors do not fit the model; the text is for the client.
    #[error("{0}")]
    Input(String),
    /// The device has no memory left for this batch.
    #[error("the device ran out of memory for a batch of this size; send smaller requests or lower `max_batch_size`")]
    Memory,
    /// The graph failed while running. The cause is for the log, not the client.
    #[error("the model failed on this input")]
    Run {
        /// What the engine's library said.
        cause: String,
    },
}

impl Blame for EngineError {
    fn fault(&self) -> Fault {
        match self {
            EngineError::Input(_) => Fault::Caller,
            EngineError::Memory => Fault::Overload,
            EngineError::Library(_) | EngineError::Load(_) | EngineError::Run { .. } => Fault::Ours,
        }
    }
}
