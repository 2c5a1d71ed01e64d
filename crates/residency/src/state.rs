//! What is known of each model of the project, loaded or not.

use std::sync::Arc;

use halny_types::ModelName;
use halny_types::project::Model;
use tokio_util::sync::CancellationToken;

use crate::LoadedModel;

/// Where a model of the project stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Not loaded: nobody asked for it, or the operator unloaded it.
    Unloaded,
    /// Being fetched, checked, loaded or warmed up; an earlier version may still answer.
    Loading,
    /// Answering.
    Ready,
    /// Loading failed; the text says why and what to change. An earlier version may still answer.
    Failed(String),
}

/// One line of the repository's index.
#[derive(Clone, Debug)]
pub struct ModelStatus {
    /// The model's name.
    pub name: ModelName,
    /// Where it stands.
    pub state: ModelState,
    /// What answers now, if anything.
    pub loaded: Option<Arc<LoadedModel>>,
}

/// A model of the project.
pub(crate) struct Slot {
    /// What the project file now says; [`LoadedModel`] knows what it was loaded as.
    pub(crate) config: Model,
    pub(crate) state: ModelState,
    pub(crate) loaded: Option<Arc<LoadedModel>>,
    /// Taken along by a load when it is asked for, and cancelled when the model is unloaded or
    /// removed after that, or the server stops: then the load comes to nothing.
    pub(crate) called_off: CancellationToken,
}

impl Slot {
    /// A model that nobody has asked for. Its loads are called off with `stopping`.
    pub(crate) fn new(config: &Model, stopping: &CancellationToken) -> Slot {
        Slot { config: config.clone(), state: ModelState::Unloaded, loaded: None, called_off: stopping.child_token() }
    }

    /// Calls off every load that was asked for until now, and none that is asked for later.
    pub(crate) fn call_off(&mut self, stopping: &CancellationToken) {
        std::mem::replace(&mut self.called_off, stopping.child_token()).cancel();
    }
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}
