//! From a text model in a GGUF file to lanes that read.

use std::sync::Arc;

use halny_engine::{Device, EncoderSpec, Head};
use halny_tasks::Task;
use halny_types::Tick;
use halny_types::project::TaskKind;

use crate::Inference;
use crate::error::LoadCause;
use crate::load::{Fetched, Loader, Made, Phases, likely, share_cores};
use crate::repacking::Widened;

/// The longest text in tokens where nothing is said: memory for it is taken at once, and grows with it.
const DEFAULT_MAX_TOKENS: usize = 2_048;

impl Loader {
    /// Loads every profile of a fetched model and warms it up. Blocks for seconds.
    pub(crate) fn load_encoders(&self, fetched: &Fetched, phases: &mut Phases) -> Result<Inference, LoadCause> {
        let Fetched { config, folder, .. } = fetched;
        let (weights, summary, model) = fetched.gguf()?;
        let options = config.text.clone().unwrap_or_default();
        let head = match config.task {
            TaskKind::Embed => Head::Vector(options.pooling),
            TaskKind::Rerank => Head::Relevance,
            _ => Head::Scores,
        };
        let devices = self.engines.languages.devices();
        let mut widened = Widened::new(&weights, summary, &self.places.cache);
        let mut profiles = Vec::new();
        let mut first: Option<Arc<Task>> = None;
        for profile in &config.profiles {
            fetched.go_on()?;
            let device: Device = profile.device.parse().map_err(LoadCause::Start)?;
            let (instances, threads) = share_cores(profile, likely(device, &devices));
            let widens = self.engines.languages.widens(device);
            let spec = EncoderSpec {
                weights: if widens { widened.path(phases) } else { weights.clone() },
                device,
                instances,
                threads,
                tokens_max: options.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS.min(profile.max_batch_tokens)),
                head,
            };
            let encoder = self
                .engines
                .languages
                .load_encoder(&spec)
                .map_err(|error| LoadCause::Engine { profile: profile.name.to_string(), error })?;
            phases.0.extend(encoder.loaded.phases.iter().cloned());
            let began = Tick::now();
            let task = Arc::new(Task::of_encoder(config.task, &encoder, &model.labels, &options)?);
            phases.add("task", began, false);
            first.get_or_insert_with(|| Arc::clone(&task));
            let made = Made {
                loaded: encoder.loaded,
                task,
                precision: summary.file_type.unwrap_or("GGUF"),
                engine: self.engines.languages.describe(),
            };
            profiles.push(self.start_lane(config, profile, folder.version, made, phases)?);
        }
        fetched.inference(first, profiles)
    }
}
