//! Why a model is not loaded, not found, or did not run.

use std::time::Duration;

use halny_batching::Refusal;
use halny_chat::ChatError;
use halny_engine::EngineError;
use halny_generation::refusal::GenerationError;
use halny_registry::RegistryError;
use halny_tasks::TaskError;
use halny_types::{Blame, Fault, ModelName};
use thiserror::Error;

/// Why a model could not be loaded. For the operator: it may name files.
#[derive(Debug, Error)]
#[error("model {model}: {cause}")]
pub struct LoadError {
    /// The model.
    pub model: ModelName,
    /// What stood in the way.
    #[source]
    pub cause: LoadCause,
}

/// What stood in the way of loading.
#[derive(Debug, Error)]
pub enum LoadCause {
    /// The source in the project file cannot be read or fetched.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The engine refused the graph or the device.
    #[error("profile {profile}: {error}")]
    Engine {
        /// The profile that was being loaded.
        profile: String,
        /// What the engine said.
        error: EngineError,
    },
    /// The model's files do not do what the task needs.
    #[error("{0}")]
    Task(#[from] TaskError),
    /// The chat template cannot be used.
    #[error("its chat template: {0}")]
    Template(#[from] ChatError),
    /// A file that the project names beside the model cannot be read.
    #[error("{file} cannot be read: {error}")]
    File {
        /// The file, as the project names it.
        file: String,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The model has no file for a precision that a profile asks for.
    #[error("profile {profile} wants {precision} weights, the source has none; add the file or change `precision`")]
    NoWeights {
        /// The profile.
        profile: String,
        /// What it asks for.
        precision: &'static str,
    },
    /// The first run of a freshly loaded instance failed.
    #[error("profile {profile}: the model failed while warming up: {cause}")]
    WarmUp {
        /// The profile.
        profile: String,
        /// What failed.
        cause: String,
    },
    /// Someone wanted otherwise after it was asked for.
    #[error("the load was called off: the model was unloaded or removed meanwhile, or the server is stopping")]
    CalledOff,
    /// The operating system gave no thread, or loading panicked.
    #[error("the model could not be started: {0}")]
    Start(String),
}

/// Why there is no model to run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ResidencyError {
    /// The project has no model of that name.
    #[error("there is no model {0:?}; GET /v1/models lists those that are served")]
    Unknown(String),
    /// The model is being loaded.
    #[error("the model {0:?} is being loaded; try again shortly")]
    Loading(String),
    /// The project has the model, and it is not loaded.
    #[error("the model {0:?} is not loaded")]
    NotLoaded(String),
    /// The model has no profile of that name.
    #[error("the model {model:?} has no profile {profile:?}; it has {known}")]
    NoProfile {
        /// The model.
        model: String,
        /// What was asked for.
        profile: String,
        /// What there is.
        known: String,
    },
}

impl Blame for ResidencyError {
    fn fault(&self) -> Fault {
        match self {
            ResidencyError::Unknown(_) => Fault::Missing,
            ResidencyError::Loading(_) | ResidencyError::NotLoaded(_) => Fault::Overload,
            ResidencyError::NoProfile { .. } => Fault::Caller,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, ResidencyError::Loading(_)).then_some(Duration::from_secs(1))
    }
}

/// Why a request was not run.
#[derive(Clone, Debug, Error)]
pub enum RunError {
    /// Every profile's lane refused it; this is what the first one said.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is not written, and why.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// There is nothing to run it on.
    #[error(transparent)]
    Residency(#[from] ResidencyError),
    /// It was accepted, and the deadline passed before the answer came.
    #[error("the deadline passed before the answer came; allow more time, or send less at once")]
    Late,
}

impl Blame for RunError {
    fn fault(&self) -> Fault {
        match self {
            RunError::Refused(refusal) => refusal.fault(),
            RunError::Generation(error) => error.fault(),
            RunError::Residency(error) => error.fault(),
            RunError::Late => Fault::Late,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            RunError::Refused(refusal) => refusal.retry_after(),
            RunError::Generation(error) => error.retry_after(),
            RunError::Residency(error) => error.retry_after(),
            RunError::Late => None,
        }
    }
}
