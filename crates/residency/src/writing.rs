//! A model that writes, and how a request runs on it.

use std::sync::Arc;
use std::time::Duration;

use halny_chat::ChatTemplate;
use halny_engine::{Choice, LanguageModel};
use halny_generation::grammar::Grammars;
use halny_generation::lane::{Generation, Lane};
use halny_generation::refusal::GenerationError;
use halny_generation::request::Request;
use halny_telemetry::{LaneLabels, Metrics};
use halny_types::{ModelName, ModelVersion, RequestContext, Tick};

use crate::{ResidencyError, RunError};

/// A language model: loaded, warm, with a lane for each profile. Holding it keeps it loaded.
pub struct Writing {
    /// The name clients ask for.
    pub name: ModelName,
    /// The digest of its files.
    pub version: ModelVersion,
    /// Its vocabulary, and what its file says.
    pub model: Arc<dyn LanguageModel>,
    /// How a conversation becomes a prompt, where the model or the project has a template.
    pub chat: Option<ChatTemplate>,
    /// Makes grammars for its vocabulary.
    pub grammars: Arc<Grammars>,
    /// The names of its adapters; a request says the place.
    pub adapters: Vec<ModelName>,
    /// Tokens an answer may have where the request does not say.
    pub max_tokens: Option<usize>,
    /// The ways to run it, in the order of preference. Never empty.
    pub profiles: Vec<WritingProfile>,
}

/// One way to run a language model.
pub struct WritingProfile {
    /// Its name.
    pub name: String,
    /// The device it runs on, and why that one.
    pub choice: Choice,
    /// The time a request has unless it asks for less.
    pub deadline: Duration,
    /// Memory it takes on its device.
    pub memory_bytes: u64,
    pub(crate) lane: Lane,
    pub(crate) labels: LaneLabels,
    pub(crate) metrics: Metrics,
}

impl Drop for WritingProfile {
    fn drop(&mut self) {
        self.metrics.models().unloaded(&self.labels);
        let LaneLabels { model, version, profile, .. } = &self.labels;
        tracing::info!(model, version, profile, "no longer loaded");
    }
}

impl Writing {
    /// The time a request has unless it asks for less: that of the profile it names, else the most
    /// patient one's.
    #[must_use]
    pub fn deadline(&self, profile: Option<&str>) -> Duration {
        let eligible = self.named(profile).unwrap_or(&self.profiles);
        eligible.iter().map(|profile| profile.deadline).max().unwrap_or_default()
    }

    /// Tokens that a request may have, read and written, on the roomiest profile it may run on.
    #[must_use]
    pub fn context(&self, profile: Option<&str>) -> usize {
        let eligible = self.named(profile).unwrap_or(&self.profiles);
        eligible.iter().map(|profile| profile.lane.context()).max().unwrap_or_default()
    }

    /// Refuses a request that has no chance, before anyone renders or tokenises for it.
    ///
    /// # Errors
    /// What the first profile's lane says, when all refuse.
    pub fn admit(&self, context: &RequestContext, profile: Option<&str>) -> Result<(), RunError> {
        let now = Tick::now();
        let mut refused = None;
        for profile in self.named(profile)? {
            match profile.lane.admit(context, now) {
                Ok(()) => return Ok(()),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        refused.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Gives the request to the first profile that takes it.
    ///
    /// # Errors
    /// What the first profile's lane says, when all refuse.
    pub fn submit(&self, request: &Request, profile: Option<&str>) -> Result<Generation, RunError> {
        let mut refused = None;
        for profile in self.named(profile)? {
            match profile.lane.submit(request.clone()) {
                Ok(generation) => return Ok(generation),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or(GenerationError::Closed).into())
    }

    fn named(&self, wanted: Option<&str>) -> Result<&[WritingProfile], ResidencyError> {
        crate::model::named(&self.name, &self.profiles, |profile| &profile.name, wanted)
    }
}
