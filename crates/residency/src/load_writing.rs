//! From a language model's entry in the project file to a lane that writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use halny_chat::{ChatTemplate, Specials};
use halny_engine::{
    AdapterSpec, CellFormat, Decoder, Device, LanguageModel, LanguageSpec, LoadedLanguage, SequenceId, StepToken,
};
use halny_generation::grammar::Grammars;
use halny_generation::lane::{Lane, LaneLimits};
use halny_generation::scheduler::Settings;
use halny_registry::gguf::{self, GgufKind, GgufModel};
use halny_telemetry::LaneLabels;
use halny_types::Tick;
use halny_types::project::{self, CpuThreads, GenerateOptions, GenerateProfile, Model, Profile};

use crate::error::LoadCause;
use crate::load::{Fetched, Loader, Phases, yield_to_the_network};
use crate::repacking::Widened;
use crate::{Writing, WritingProfile};

/// A template beside the model's file, as newer repositories have it.
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// Tokens of the prompt that a model is warmed up with.
const WARM_UP_TOKENS: usize = 32;

/// Sequences that are remembered beside those that run: what keeps their prefixes. llama.cpp knows
/// 256 at most.
const REMEMBERED: usize = 64;

impl Loader {
    /// Loads every profile of a fetched language model and warms it up. Blocks for seconds to minutes.
    pub(crate) fn load_writing(&self, fetched: &Fetched, phases: &mut Phases) -> Result<Writing, LoadCause> {
        let Fetched { config, folder, .. } = fetched;
        let options = config.generate.clone().unwrap_or_default();
        let (weights, summary, base) = fetched.gguf()?;
        let adapters = self.adapters(&options, base)?;
        let mut widened = Widened::new(&weights, summary, &self.places.cache);
        let mut profiles = Vec::new();
        let mut model: Option<Arc<dyn LanguageModel>> = None;
        for profile in &config.profiles {
            fetched.go_on()?;
            let mut spec = spec(profile, &weights, &adapters)?;
            if self::options(profile).repack && self.engines.languages.widens(spec.device) {
                spec.weights = widened.path(phases);
            }
            let mut loaded = self
                .engines
                .languages
                .load(&spec)
                .map_err(|error| LoadCause::Engine { profile: profile.name.to_string(), error })?;
            phases.0.extend(loaded.phases.iter().cloned());
            let began = Tick::now();
            warm_up(loaded.model.as_ref(), loaded.decoder.as_mut())
                .map_err(|cause| LoadCause::WarmUp { profile: profile.name.to_string(), cause })?;
            phases.add("warm-up", began, false);
            // Profiles of one model have one vocabulary.
            model.get_or_insert_with(|| Arc::clone(&loaded.model));
            profiles.push(self.start_writing(config, profile, folder.version.short(), loaded)?);
        }
        let model = model.ok_or_else(|| LoadCause::Start("it has no profile".to_owned()))?;
        let chat = self.chat(&options, &folder.root, model.as_ref())?;
        Ok(Writing {
            name: config.name.clone(),
            version: folder.version,
            grammars: Arc::new(Grammars::new(Arc::clone(&model))),
            model,
            chat,
            adapters: options.adapters.iter().map(|adapter| adapter.name.clone()).collect(),
            max_tokens: options.max_tokens,
            profiles,
        })
    }

    /// Checks the adapters' files, and that they were made for a model like this one.
    fn adapters(&self, options: &GenerateOptions, base: &GgufModel) -> Result<Vec<AdapterSpec>, LoadCause> {
        let checked = |adapter: &project::Adapter| {
            let weights = self.places.project.join(&adapter.file);
            let summary = gguf::check_file(&weights, &adapter.file.to_string_lossy())?;
            let name = &adapter.name;
            match summary.kind {
                GgufKind::Model(_) => Err(LoadCause::Start(format!("adapter {name}: its file is a model of its own"))),
                GgufKind::LoraAdapter { changes_token_table: true, .. } if base.shares_token_table => {
                    let wrong = "it changes the token table, which this model shares with its output";
                    Err(LoadCause::Start(format!("adapter {name}: {wrong}")))
                }
                GgufKind::LoraAdapter { experts: Some(experts), .. } if experts != base.experts => {
                    Err(LoadCause::Start(format!(
                        "adapter {name}: it is for {experts} experts, the model has {}",
                        base.experts
                    )))
                }
                GgufKind::LoraAdapter { .. } => Ok(AdapterSpec { weights, scale: adapter.scale }),
            }
        };
        options.adapters.iter().map(checked).collect()
    }

    /// The project's template, else the one beside the model, else the model's own.
    fn chat(
        &self,
        options: &GenerateOptions,
        root: &Path,
        model: &dyn LanguageModel,
    ) -> Result<Option<ChatTemplate>, LoadCause> {
        let read = |path: PathBuf, name: String| {
            std::fs::read_to_string(path).map_err(|error| LoadCause::File { file: name, error })
        };
        let beside = root.join(TEMPLATE_FILE);
        let source = match &options.chat_template {
            Some(path) => Some(read(self.places.project.join(path), path.display().to_string())?),
            None if beside.is_file() => Some(read(beside, TEMPLATE_FILE.to_owned())?),
            None => model.card().chat_templates.get("default").cloned(),
        };
        let Some(source) = source else { return Ok(None) };
        let name = |token: &Option<(u32, String)>| token.as_ref().map(|(_, name)| name.clone()).unwrap_or_default();
        let specials = Specials { bos: name(&model.card().begin), eos: name(&model.card().end) };
        Ok(Some(ChatTemplate::compile(&source, specials)?))
    }

    fn start_writing(
        &self,
        config: &Model,
        profile: &Profile,
        version: String,
        loaded: LoadedLanguage,
    ) -> Result<WritingProfile, LoadCause> {
        let LoadedLanguage { model, decoder, choice, memory_bytes, .. } = loaded;
        let on_cpu = choice.device == Device::Cpu;
        let labels = LaneLabels {
            model: config.name.to_string(),
            version,
            profile: profile.name.to_string(),
            device: choice.device.to_string(),
        };
        let limits = decoder.limits();
        tracing::info!(
            model = %config.name, profile = %profile.name, device = %choice.device, cells = limits.cells,
            context = limits.context, reason = choice.reason, "device chosen"
        );
        let name = format!("{}/{}", config.name, profile.name);
        let prepare = move || {
            if on_cpu {
                yield_to_the_network();
            }
        };
        let lane = Lane::start(&name, model, decoder, lane_limits(profile), self.metrics.generation(&labels), prepare)
            .map_err(|error| LoadCause::Start(error.to_string()))?;
        self.metrics.models().loaded(&labels, memory_bytes);
        Ok(WritingProfile {
            name: profile.name.to_string(),
            choice,
            deadline: Duration::from_millis(profile.deadline_ms(config.task)),
            memory_bytes,
            lane,
            labels,
            metrics: self.metrics.clone(),
        })
    }
}

fn options(profile: &Profile) -> GenerateProfile {
    profile.generate.clone().unwrap_or_default()
}

fn lane_limits(profile: &Profile) -> LaneLimits {
    let options = options(profile);
    LaneLimits {
        waiting: options.max_waiting,
        wait: Duration::from_millis(options.max_wait_ms),
        settings: Settings { running: options.max_running, stretch: options.stretch },
    }
}

fn spec(profile: &Profile, weights: &Path, adapters: &[AdapterSpec]) -> Result<LanguageSpec, LoadCause> {
    let device: Device = profile.device.parse().map_err(LoadCause::Start)?;
    let options = options(profile);
    Ok(LanguageSpec {
        weights: weights.to_path_buf(),
        device,
        device_layers: options.device_layers,
        threads: match profile.threads {
            CpuThreads::Count(threads) => threads,
            CpuThreads::Auto => CpuThreads::Auto.resolve(),
        },
        cells: options.cells,
        sequences: options.max_running + REMEMBERED,
        step_tokens: options.step_tokens,
        cell_format: match options.cell_format {
            project::CellFormat::F16 => CellFormat::F16,
            project::CellFormat::Q8 => CellFormat::Q8,
            project::CellFormat::Q4 => CellFormat::Q4,
        },
        flash_attention: options.flash_attention,
        adapters: adapters.to_vec(),
    })
}

/// Some tokens through the model, at once and one more by itself, since kernels differ: pages are
/// touched, kernels compiled, and a model that gives no logits, or none that are numbers, is not served.
fn warm_up(model: &dyn LanguageModel, decoder: &mut dyn Decoder) -> Result<(), String> {
    let token = model.card().begin.as_ref().map_or(0, |(token, _)| *token);
    let limits = decoder.limits();
    let count = u32::try_from(limits.step_tokens.min(limits.context - 1).min(WARM_UP_TOKENS)).unwrap_or(1);
    let at = |position| StepToken { token, position, sequence: SequenceId(0), wants_logits: position + 1 >= count };
    let prompt: Vec<StepToken> = (0..count).map(at).collect();
    decoder.step(&prompt, None).map_err(|error| error.to_string())?;
    decoder.step(&[at(count)], None).map_err(|error| error.to_string())?;
    let logits = decoder.logits(0);
    if logits.len() != model.card().vocabulary || logits.iter().all(|logit| logit.is_nan()) {
        return Err(format!("it gave {} logits for {} tokens", logits.len(), model.card().vocabulary));
    }
    decoder.keep(SequenceId(0), 0);
    Ok(())
}
