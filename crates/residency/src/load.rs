//! From a model's entry in the project file to a model that is ready.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use halny_batching::{Lane, LaneLimits};
use halny_engine::{Device, Engine, LanguageEngine, LoadPhase, LoadSpec, Loaded};
use halny_registry::gguf::{GgufModel, GgufSummary};
use halny_registry::{FileFilter, ModelFolder, OpenOptions, SourceRef, progress::Bars};
use halny_tasks::Task;
use halny_telemetry::{LaneLabels, Metrics};
use halny_types::project::{CpuThreads, Model, Precision, Profile, TaskKind};
use halny_types::{ModelVersion, Tick};
use tokio_util::sync::CancellationToken;

use crate::error::LoadCause;
use crate::warm_ups::WarmUps;
use crate::{Inference, LoadedModel, LoadedProfile, ModelRunner, Work};

/// Folders of this host that loading uses.
#[derive(Clone, Debug)]
pub struct Places {
    /// The project file's folder: relative sources start here.
    pub project: PathBuf,
    /// What may be kept between starts: downloads, digests, optimised graphs.
    pub cache: PathBuf,
}

/// What loads models.
#[derive(Clone)]
pub struct Engines {
    /// For graphs.
    pub graphs: Arc<dyn Engine>,
    /// For language models.
    pub languages: Arc<dyn LanguageEngine>,
}

/// Everything loading needs that is not in the model's own entry.
#[derive(Clone)]
pub(crate) struct Loader {
    pub(crate) engines: Engines,
    pub(crate) places: Places,
    pub(crate) metrics: Metrics,
}

/// Time each instance may take to warm up on processors, the first time on this host: enough for
/// a few shapes of a small model, from which batch time is learned.
const WARM_UP_FIRST: Duration = Duration::from_millis(400);

/// The same when an earlier start's times are remembered: enough to touch every page once.
const WARM_UP_AGAIN: Duration = Duration::from_millis(40);

/// Time each instance may take elsewhere, where the first run of a shape compiles and tunes kernels.
const WARM_UP_ON_DEVICE: Duration = Duration::from_secs(60);

/// Where the time of loading a model went.
#[derive(Default)]
pub(crate) struct Phases(pub(crate) Vec<LoadPhase>);

impl Phases {
    pub(crate) fn add(&mut self, name: &'static str, began: Tick, warm: bool) {
        self.0.push(LoadPhase { name, took: began.until(Tick::now()), warm });
    }

    fn describe(&self) -> String {
        let phase = |phase: &LoadPhase| {
            format!("{} {} ms{}", phase.name, phase.took.as_millis(), if phase.warm { " (cached)" } else { "" })
        };
        self.0.iter().map(phase).collect::<Vec<_>>().join(", ")
    }
}

/// A model whose files are there and checked.
pub(crate) struct Fetched {
    pub(crate) config: Model,
    pub(crate) folder: ModelFolder,
    wanted: FileFilter,
    called_off: CancellationToken,
}

impl Fetched {
    /// Ends what nobody waits for any more: asked between two profiles.
    pub(crate) fn go_on(&self) -> Result<(), LoadCause> {
        if self.called_off.is_cancelled() { Err(LoadCause::CalledOff) } else { Ok(()) }
    }

    /// The model with its profiles; `task` is the first one's.
    pub(crate) fn inference(
        &self,
        task: Option<Arc<Task>>,
        profiles: Vec<LoadedProfile>,
    ) -> Result<Inference, LoadCause> {
        let task = task.ok_or_else(|| LoadCause::Start("it has no profile".to_owned()))?;
        let signature = task.signature().clone();
        Ok(Inference { name: self.config.name.clone(), version: self.folder.version, task, signature, profiles })
    }

    /// The GGUF file that holds the model, and what its header says.
    pub(crate) fn gguf(&self) -> Result<(PathBuf, &GgufSummary, &GgufModel), LoadCause> {
        let missing = || LoadCause::Start("it has no GGUF file that holds a model".to_owned());
        let summary = &self.folder.gguf.as_ref().ok_or_else(missing)?.summary;
        let weights = self.folder.weights(&self.wanted, Precision::default()).ok_or_else(missing)?;
        Ok((weights, summary, summary.model().ok_or_else(missing)?))
    }
}

/// A profile whose model is on its device.
pub(crate) struct Made {
    pub(crate) loaded: Loaded,
    pub(crate) task: Arc<Task>,
    /// The number format of its weights.
    pub(crate) precision: &'static str,
    /// The engine and its version.
    pub(crate) engine: String,
}

impl Loader {
    /// Fetches the model's files, checks and loads them; nothing when they are the version
    /// `current`. Fetching is broken off as soon as the load is called off, the engine's work only
    /// between two profiles: what the caller then gets is for it to throw away.
    pub(crate) async fn load_unless(
        self,
        current: Option<ModelVersion>,
        config: Model,
        called_off: CancellationToken,
    ) -> Result<Option<LoadedModel>, LoadCause> {
        let began = Tick::now();
        let files = called_off.run_until_cancelled(self.fetch(&config)).await;
        let (folder, wanted) = files.ok_or(LoadCause::CalledOff)??;
        let fetch_took = began.until(Tick::now());
        if current == Some(folder.version) {
            return Ok(None);
        }
        let fetched = Fetched { config, folder, wanted, called_off };
        let load = move || {
            let mut phases = Phases::default();
            phases.0.push(LoadPhase { name: "fetch", took: fetch_took, warm: false });
            let (work, engine) = if fetched.config.task == TaskKind::Generate {
                let writing = self.load_writing(&fetched, &mut phases)?;
                (Work::Writing(Arc::new(writing)), self.engines.languages.describe())
            } else if fetched.wanted.is_gguf() {
                let inference = self.load_encoders(&fetched, &mut phases)?;
                (Work::Inference(Arc::new(inference)), self.engines.languages.describe())
            } else {
                let inference = self.load_inference(&fetched, &mut phases)?;
                (Work::Inference(Arc::new(inference)), self.engines.graphs.describe())
            };
            let Fetched { config, folder, .. } = fetched;
            self.tell(&config, folder.version, &phases);
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            Ok(LoadedModel {
                name: config.name.clone(),
                version: folder.version,
                engine,
                ready_at_unix: since.map_or(0, |since| since.as_secs()),
                work,
                config,
            })
        };
        tokio::task::spawn_blocking(load).await.map_err(|error| LoadCause::Start(error.to_string()))?.map(Some)
    }

    /// Fetches and checks the model's files.
    async fn fetch(&self, config: &Model) -> Result<(ModelFolder, FileFilter), LoadCause> {
        let source = self.source(config)?;
        let file = match config.task {
            TaskKind::Generate => config.generate.as_ref().and_then(|options| options.file.as_deref()),
            task if task.takes_text() => config.text.as_ref().and_then(|options| options.file.as_deref()),
            _ => None,
        };
        let wanted = match (config.task, file) {
            (_, Some(file)) => FileFilter::gguf_file(file),
            (TaskKind::Generate, None) => FileFilter::gguf(),
            _ => FileFilter::onnx(config.profiles.iter().map(|profile| profile.precision)),
        };
        let options = OpenOptions::from_env(&self.places.cache);
        let folder = halny_registry::open(&source, &options).fetch(&wanted, &Bars::new()).await?;
        Ok((folder, wanted))
    }

    fn source(&self, config: &Model) -> Result<SourceRef, LoadCause> {
        let source: SourceRef = config.source.parse()?;
        Ok(match source {
            SourceRef::Folder(path) => SourceRef::Folder(self.places.project.join(path)),
            other => other,
        })
    }

    /// Says where the time went.
    fn tell(&self, config: &Model, version: ModelVersion, phases: &Phases) {
        for phase in &phases.0 {
            self.metrics.models().phase(config.name.as_str(), phase.name, phase.warm, phase.took);
        }
        let total: Duration = phases.0.iter().map(|phase| phase.took).sum();
        tracing::info!(
            model = %config.name,
            version = version.short(),
            took_ms = u64::try_from(total.as_millis()).unwrap_or(u64::MAX),
            phases = phases.describe(),
            "model is ready"
        );
    }

    /// Loads every profile of a fetched model and warms it up. Blocks for seconds to minutes.
    fn load_inference(&self, fetched: &Fetched, phases: &mut Phases) -> Result<Inference, LoadCause> {
        let Fetched { config, folder, .. } = fetched;
        let version = folder.version;
        let mut task: Option<Arc<Task>> = None;
        let mut profiles = Vec::new();
        for profile in &config.profiles {
            fetched.go_on()?;
            let graph = folder.weights(&fetched.wanted, profile.precision).ok_or_else(|| LoadCause::NoWeights {
                profile: profile.name.to_string(),
                precision: profile.precision.as_str(),
            })?;
            let loaded = self
                .engines
                .graphs
                .load(&self.spec(profile, graph, version)?)
                .map_err(|error| LoadCause::Engine { profile: profile.name.to_string(), error })?;
            phases.0.extend(loaded.phases.iter().cloned());
            let began = Tick::now();
            let opened = match &task {
                // Profiles of one model share the tokenizer where their graphs have the same ports.
                Some(task) if *task.signature() == loaded.signature => Arc::clone(task),
                _ => Arc::new(Task::open(config.task, &folder.root, &loaded.signature, config.text.as_ref())?),
            };
            phases.add("task", began, false);
            task.get_or_insert_with(|| Arc::clone(&opened));
            let made = Made {
                loaded,
                task: opened,
                precision: profile.precision.as_str(),
                engine: self.engines.graphs.describe(),
            };
            profiles.push(self.start_lane(config, profile, version, made, phases)?);
        }
        fetched.inference(task, profiles)
    }

    fn spec(&self, profile: &Profile, graph: PathBuf, version: ModelVersion) -> Result<LoadSpec, LoadCause> {
        let device: Device = profile.device.parse().map_err(LoadCause::Start)?;
        let (instances, threads) = share_cores(profile, likely(device, &self.engines.graphs.devices()));
        let file = graph.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(LoadSpec {
            graph,
            device,
            precision: profile.precision,
            instances,
            threads,
            cache: Some(self.places.cache.join("graphs")),
            cache_key: format!("{version}-{file}"),
        })
    }

    /// Warms a loaded profile up and opens its lane.
    pub(crate) fn start_lane(
        &self,
        config: &Model,
        profile: &Profile,
        version: ModelVersion,
        made: Made,
        phases: &mut Phases,
    ) -> Result<LoadedProfile, LoadCause> {
        let Made { loaded, task, precision, engine } = made;
        let began = Tick::now();
        let batches = task.warm_up(profile.max_batch_size, profile.max_batch_tokens);
        let mut runners: Vec<ModelRunner> =
            loaded.instances.into_iter().map(|instance| ModelRunner::new(instance, task.collator())).collect();
        let mut seen = Vec::new();
        let on_cpu = loaded.choice.device == Device::Cpu;
        let device = loaded.choice.device;
        let (_, threads) = share_cores(profile, device);
        let memory = WarmUps::of(&self.places.cache, &format!("{version}/{precision}/{device}/{threads}/{engine}"));
        let remembered = if on_cpu { memory.recall() } else { Vec::new() };
        let budget = match (on_cpu, remembered.is_empty()) {
            (false, _) => WARM_UP_ON_DEVICE,
            (true, true) => WARM_UP_FIRST,
            (true, false) => WARM_UP_AGAIN,
        };
        for runner in &mut runners {
            let times = runner
                .warm_up(&batches, budget)
                .map_err(|cause| LoadCause::WarmUp { profile: profile.name.to_string(), cause })?;
            seen.extend(times);
        }
        let recalled = !remembered.is_empty();
        if recalled {
            seen.splice(0..0, remembered);
        } else {
            memory.remember(&seen);
        }
        phases.add("warm-up", began, recalled);
        let labels = LaneLabels {
            model: config.name.to_string(),
            version: version.short(),
            profile: profile.name.to_string(),
            device: loaded.choice.device.to_string(),
        };
        tracing::info!(
            model = %config.name, profile = %profile.name, device = %loaded.choice.device,
            instances = runners.len(), reason = loaded.choice.reason, "device chosen"
        );
        let name = format!("{}/{}", config.name, profile.name);
        let lane = Lane::start(&name, limits(profile), runners, &seen, self.metrics.lane(&labels), move || {
            if on_cpu {
                yield_to_the_network();
            }
        })
        .map_err(|error| LoadCause::Start(error.to_string()))?;
        self.metrics.models().loaded(&labels, loaded.memory_bytes);
        Ok(LoadedProfile {
            name: profile.name.to_string(),
            choice: loaded.choice,
            precision,
            deadline: Duration::from_millis(profile.deadline_ms(config.task)),
            memory_bytes: loaded.memory_bytes,
            lane,
            labels,
            metrics: self.metrics.clone(),
        })
    }
}

fn limits(profile: &Profile) -> LaneLimits {
    LaneLimits {
        max_batch_items: profile.max_batch_size,
        max_batch_tokens: profile.max_batch_tokens,
        max_batch_delay: Duration::from_millis(profile.max_batch_delay_ms),
        max_queue_items: profile.max_queue_items,
        max_queue_bytes: profile.max_queue.as_usize(),
        packing: profile.packing,
    }
}

/// The device that a profile most likely runs on, before anything is loaded.
pub(crate) fn likely(device: Device, available: &[Device]) -> Device {
    if device == Device::Auto { available.first().copied().unwrap_or(Device::Cpu) } else { device }
}

/// Instances and threads of each. On processors the cores are shared out: one instance of one
/// thread a core does more than one instance of all cores, which waits at every operator's end.
pub(crate) fn share_cores(profile: &Profile, device: Device) -> (usize, usize) {
    let cores = CpuThreads::Auto.resolve();
    if device != Device::Cpu {
        let count = |threads| if let CpuThreads::Count(count) = threads { count } else { 1 };
        return (count(profile.instances), count(profile.threads));
    }
    match (profile.instances, profile.threads) {
        (CpuThreads::Count(instances), CpuThreads::Count(threads)) => (instances, threads),
        (CpuThreads::Count(instances), CpuThreads::Auto) => (instances, (cores / instances.max(1)).max(1)),
        (CpuThreads::Auto, CpuThreads::Count(threads)) => ((cores / threads.max(1)).max(1), threads),
        (CpuThreads::Auto, CpuThreads::Auto) => (cores, 1),
    }
}

/// On a machine whose processors are the device, a batch would hold up everything that keeps
/// clients answered for as long as the scheduler's slice lasts. Threads that compute step back:
/// the network's, which need microseconds at a time, go first.
pub(crate) fn yield_to_the_network() {
    let raised = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 5);
    if let Err(error) = raised {
        tracing::debug!(%error, "the priority of a device thread stays as it is");
    }
}
