//! What is known of each model of the project, loaded or not.

use std::sync::Arc;

use halny_types::ModelName;
use halny_types::project::Model;

use crate::LoadedModel;

/// Where a model of the project stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Not loaded, and nobody asked for it.
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
    pub(crate) config: Model,
    pub(crate) state: ModelState,
    pub(crate) loaded: Option<Arc<LoadedModel>>,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}
