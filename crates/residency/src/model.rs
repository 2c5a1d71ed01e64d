//! A model that is ready, whatever it does.

use std::sync::Arc;

use halny_types::project::{Model, TaskKind};
use halny_types::{ModelName, ModelVersion};

use crate::{Inference, ResidencyError, Writing};

/// A model that is loaded and warm.
pub struct LoadedModel {
    /// The name clients ask for.
    pub name: ModelName,
    /// The digest of its files.
    pub version: ModelVersion,
    /// The engine and its version.
    pub engine: String,
    /// When it became ready, in seconds since 1970.
    pub ready_at_unix: u64,
    /// How requests run on it.
    pub work: Work,
    /// The project file's entry that it was loaded as.
    pub(crate) config: Model,
}

/// How requests run on a model. Holding either keeps the model loaded.
#[derive(Clone)]
pub enum Work {
    /// Tensors in, tensors out, in batches.
    Inference(Arc<Inference>),
    /// Text that is written token by token, in steps.
    Writing(Arc<Writing>),
}

/// What is told of a profile, whatever runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileCard<'a> {
    /// Its name.
    pub name: &'a str,
    /// The device it runs on.
    pub device: String,
    /// The number format of its weights.
    pub precision: &'a str,
}

impl LoadedModel {
    /// What it does.
    #[must_use]
    pub fn kind(&self) -> TaskKind {
        self.config.task
    }

    /// What runs its tensors, where it is a model of tensors.
    #[must_use]
    pub fn inference(&self) -> Option<&Arc<Inference>> {
        match &self.work {
            Work::Inference(inference) => Some(inference),
            Work::Writing(_) => None,
        }
    }

    /// What writes, where it is a language model.
    #[must_use]
    pub fn writing(&self) -> Option<&Arc<Writing>> {
        match &self.work {
            Work::Writing(writing) => Some(writing),
            Work::Inference(_) => None,
        }
    }

    /// The ways to run it.
    #[must_use]
    pub fn profiles(&self) -> Vec<ProfileCard<'_>> {
        match &self.work {
            Work::Inference(inference) => inference
                .profiles
                .iter()
                .map(|profile| ProfileCard {
                    name: &profile.name,
                    device: profile.choice.device.to_string(),
                    precision: profile.precision,
                })
                .collect(),
            Work::Writing(writing) => writing
                .profiles
                .iter()
                .map(|profile| ProfileCard {
                    name: &profile.name,
                    device: profile.choice.device.to_string(),
                    precision: &writing.model.card().quantisation,
                })
                .collect(),
        }
    }

    /// Whether a request still holds it.
    pub(crate) fn is_held(&self) -> bool {
        match &self.work {
            Work::Inference(inference) => Arc::strong_count(inference) > 1,
            Work::Writing(writing) => Arc::strong_count(writing) > 1,
        }
    }

    /// Takes nothing more, and returns when its threads have ended.
    pub(crate) async fn close(&self) {
        match &self.work {
            Work::Inference(inference) => {
                for profile in &inference.profiles {
                    profile.lane.close();
                    profile.lane.drained().await;
                }
            }
            Work::Writing(writing) => {
                for profile in &writing.profiles {
                    profile.lane.close();
                    profile.lane.drained().await;
                }
            }
        }
    }
}

/// The profile of that name, or all of them.
pub(crate) fn named<'a, P>(
    model: &ModelName,
    profiles: &'a [P],
    name: impl Fn(&P) -> &str,
    wanted: Option<&str>,
) -> Result<&'a [P], ResidencyError> {
    let Some(wanted) = wanted else { return Ok(profiles) };
    let place = profiles.iter().position(|profile| name(profile) == wanted);
    place.and_then(|place| profiles.get(place..=place)).ok_or_else(|| ResidencyError::NoProfile {
        model: model.to_string(),
        profile: crate::residency::shortened(wanted),
        known: profiles.iter().map(&name).collect::<Vec<_>>().join(", "),
    })
}
