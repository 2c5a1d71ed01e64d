//! Loading: the device is chosen, the graph optimised or taken from the cache, the sessions made.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use halny_engine::{Choice, Device, EngineError, Instance, LoadPhase, LoadSpec, Loaded, Signature};
use ort::session::Session;
use tracing::{debug, info, warn};

use crate::cache::{Key, Store};
use crate::hardware::{Gpus, processor_fingerprint, resident_bytes};
use crate::instance::OnnxInstance;
use crate::library::Library;
use crate::session::{Maker, Optimise, Placements};
use crate::{Options, device, ports};

/// More copies or threads than any machine has use for: a slip in the project file, not a wish.
const INSTANCES_MAX: usize = 256;
const THREADS_MAX: usize = 1_024;

/// Loads a graph as [`halny_engine::Engine::load`] promises.
pub(crate) fn load(library: &Library, options: &Options, spec: &LoadSpec) -> Result<Loaded, EngineError> {
    check(spec)?;
    let loading = Loading { library, options, spec };
    match spec.device {
        Device::Auto => loading.best(),
        named => match device::missing_for(library, named) {
            missing if !missing.is_empty() => Err(device::refuse(named, &missing.join("; "))),
            _ => loading.onto(named, "it was asked for".to_owned()),
        },
    }
}

fn check(spec: &LoadSpec) -> Result<(), EngineError> {
    let refuse = |what: String| Err(EngineError::Load(what));
    if !(1..=INSTANCES_MAX).contains(&spec.instances) {
        return refuse(format!("`instances` is {}; it has to be between 1 and {INSTANCES_MAX}", spec.instances));
    }
    if !(1..=THREADS_MAX).contains(&spec.threads) {
        return refuse(format!("`threads` is {}; it has to be between 1 and {THREADS_MAX}", spec.threads));
    }
    match std::fs::metadata(&spec.graph) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => refuse(format!("{} is not a file; name the graph's .onnx file", spec.graph.display())),
        Err(error) => refuse(format!("the graph {} cannot be read: {error}", spec.graph.display())),
    }
}

/// One load, of one graph.
struct Loading<'a> {
    library: &'a Library,
    options: &'a Options,
    spec: &'a LoadSpec,
}

/// Sessions, and what making them showed.
struct Made {
    sessions: Vec<Session>,
    phases: Vec<LoadPhase>,
    /// Bytes of weights that the sessions map together, where they do.
    mapped_bytes: u64,
}

impl Loading<'_> {
    /// CUDA where it works, else the processor, with the reason. Not TensorRT: it compiles for minutes,
    /// which no one should meet who did not ask for it.
    fn best(&self) -> Result<Loaded, EngineError> {
        let cuda = Device::Cuda(0);
        let missing = device::missing_for(self.library, cuda);
        if !missing.is_empty() {
            return self.onto(Device::Cpu, format!("{cuda} cannot be used: {}", missing.join("; ")));
        }
        match self.onto(cuda, "it is the fastest device that works for this model".to_owned()) {
            Err(EngineError::Load(why)) => {
                warn!(why, "cuda:0 was tried and does not work for this model; the processor is used");
                self.onto(Device::Cpu, format!("{cuda} was tried: {why}"))
            }
            other => other,
        }
    }

    fn onto(&self, device: Device, reason: String) -> Result<Loaded, EngineError> {
        let before = used_bytes(device);
        let placements = (device != Device::Cpu).then(Placements::default);
        let maker = Maker {
            library: self.library,
            providers: device::providers(device, self.spec, self.options, self.kernels(device).as_deref()),
            threads: self.spec.threads,
            idle: self.options.idle,
            placements: placements.clone(),
        };
        let made = self.sessions(&maker, device)?;
        if let Some(placements) = placements {
            check_placements(device, &placements)?;
        }
        self.ready(device, reason, before, made)
    }

    fn ready(&self, device: Device, reason: String, before: Option<u64>, made: Made) -> Result<Loaded, EngineError> {
        let first = made.sessions.first().ok_or_else(|| EngineError::Load("no session was made".to_owned()))?;
        let signature = Arc::new(ports::signature_of(first)?);
        let weights = self.weight_bytes(device, made.mapped_bytes);
        let ready = |session| OnnxInstance::new(session, Arc::clone(&signature), device);
        let instances = made.sessions.into_iter().map(|session| {
            let instance =
                ready(session).map_err(|error| EngineError::Load(self.failure(device, &error.to_string())))?;
            Ok(Box::new(instance) as Box<dyn Instance>)
        });
        let instances = instances.collect::<Result<Vec<_>, EngineError>>()?;
        let grown = used_bytes(device).zip(before).map_or(0, |(after, before)| after.saturating_sub(before));
        let warm = made.phases.iter().all(|phase| phase.warm);
        let memory_bytes = grown.max(weights);
        debug!(
            %device, reason, warm, memory_bytes,
            instances = instances.len(), threads = self.spec.threads, onnxruntime = self.library.version(),
            "a graph is loaded"
        );
        Ok(Loaded {
            signature: Signature::clone(&signature),
            choice: Choice { device, reason },
            instances,
            memory_bytes,
            phases: made.phases,
        })
    }

    /// The least that the weights take: once where instances map one file, else for each.
    fn weight_bytes(&self, device: Device, mapped_bytes: u64) -> u64 {
        match device {
            Device::Cpu if mapped_bytes > 0 => mapped_bytes,
            _ => std::fs::metadata(&self.spec.graph).map_or(0, |found| found.len()) * self.spec.instances as u64,
        }
    }

    /// TensorRT keeps compiled kernels in a folder of its own, below which it tells graphs apart only
    /// by a hash of their names; hence one a graph.
    fn kernels(&self, device: Device) -> Option<PathBuf> {
        let Device::TensorRt(_) = device else { return None };
        let folder = self.spec.cache.as_ref()?.join("tensorrt").join(self.key(device).name());
        let made = ["engines", "timings"].iter().try_for_each(|part| std::fs::create_dir_all(folder.join(part)));
        match made {
            Ok(()) => Some(folder),
            Err(error) => {
                warn!(%error, "compiled kernels cannot be kept, every start compiles anew");
                None
            }
        }
    }

    fn key(&self, device: Device) -> Key {
        let precision = format!("{:?}", self.spec.precision);
        Key::new(
            &self.spec.cache_key,
            &[self.library.version(), &device.to_string(), &processor_fingerprint(), &precision],
        )
    }

    /// TensorRT's part of a graph is compiled code, which ONNX Runtime does not write; it keeps its own.
    fn store(&self, device: Device) -> Option<Store> {
        let folder = match device {
            Device::TensorRt(_) | Device::Auto => return None,
            Device::Cpu | Device::Cuda(_) => self.spec.cache.as_deref()?,
        };
        let opened = Store::open(folder);
        opened.inspect_err(|error| warn!(%error, "the cache cannot be used, every start optimises anew")).ok()
    }

    fn sessions(&self, maker: &Maker<'_>, device: Device) -> Result<Made, EngineError> {
        let Some(store) = self.store(device) else { return self.direct(maker, device) };
        let key = self.key(device);
        match self.through_cache(maker, device, &store, &key) {
            Ok(made) => Ok(made),
            Err(why) => {
                // A graph that is bad fails here once more, with the error that says so.
                let made = self.direct(maker, device)?;
                warn!(why, "the optimised graph could not be kept, the next start optimises anew");
                Ok(made)
            }
        }
    }

    fn through_cache(&self, maker: &Maker<'_>, device: Device, store: &Store, key: &Key) -> Result<Made, String> {
        let text = |error: std::io::Error| error.to_string();
        let sharing = store.share(key).map_err(text)?;
        if let Some(made) = self.reuse_entry(maker, store, key, true) {
            info!(%device, "the optimised graph is taken from the cache");
            return Ok(made);
        }
        drop(sharing);
        let began = Instant::now();
        let _owning = store.own(key).map_err(text)?;
        // Whoever held the lock may have made it meanwhile.
        if let Some(mut made) = self.reuse_entry(maker, store, key, true) {
            made.phases.insert(0, phase("optimise", began, true));
            return Ok(made);
        }
        info!(%device, "the cache has no optimised graph for this model, device and processor; it is made now");
        let made = self.optimise(maker, device, store, key);
        if made.is_err() {
            store.abandon(key);
        }
        made?;
        let optimised = phase("optimise", began, false);
        let mut made = self.reuse_entry(maker, store, key, false).ok_or("the entry cannot be read back")?;
        made.phases.insert(0, optimised);
        store.evict(key);
        Ok(made)
    }

    /// Makes the entry of a key. The session that does is dropped: its weights are its own, those of
    /// sessions made from the entry are mapped and shared.
    fn optimise(&self, maker: &Maker<'_>, device: Device, store: &Store, key: &Key) -> Result<(), String> {
        let folder = store.workshop(key).map_err(|error| error.to_string())?;
        // Weights are packed for the kernels of one provider; only the processor's can be written.
        let packed = device == Device::Cpu;
        drop(maker.make(&self.spec.graph, Optimise::Into { folder: &folder, packed })?);
        store.publish(key).map_err(|error| error.to_string())
    }

    /// The sessions of an entry, or `None` where there is none or it is damaged.
    fn reuse_entry(&self, maker: &Maker<'_>, store: &Store, key: &Key, warm: bool) -> Option<Made> {
        let began = Instant::now();
        let entry = store.find(key)?;
        let graph = entry.graph();
        // The weights are checked while sessions are made of them, which takes about as long.
        let (sessions, right) = std::thread::scope(|scope| {
            let checking = scope.spawn(|| entry.has_right_weights());
            let sessions = self.copies(maker, &graph, Optimise::Not);
            (sessions, checking.join().unwrap_or(false))
        });
        match (sessions, right) {
            (Ok(sessions), true) => {
                store.touch(key);
                let phases = vec![phase("session", began, warm)];
                Some(Made { sessions, phases, mapped_bytes: entry.weight_bytes() })
            }
            (sessions, right) => {
                let why = sessions.err().unwrap_or_default();
                warn!(why, right, "an optimised graph in the cache is damaged and made anew");
                None
            }
        }
    }

    fn direct(&self, maker: &Maker<'_>, device: Device) -> Result<Made, EngineError> {
        let began = Instant::now();
        let sessions = self.copies(maker, &self.spec.graph, Optimise::Fully);
        let sessions = sessions.map_err(|why| EngineError::Load(self.failure(device, &why)))?;
        Ok(Made { sessions, phases: vec![phase("session", began, false)], mapped_bytes: 0 })
    }

    fn copies(&self, maker: &Maker<'_>, graph: &Path, optimise: Optimise<'_>) -> Result<Vec<Session>, String> {
        (0..self.spec.instances).map(|_| maker.make(graph, optimise)).collect()
    }

    fn failure(&self, device: Device, why: &str) -> String {
        format!("the graph {} cannot be loaded onto {device}: {why}", self.spec.graph.display())
    }
}

fn phase(name: &'static str, began: Instant, warm: bool) -> LoadPhase {
    LoadPhase { name, took: began.elapsed().max(Duration::from_nanos(1)), warm }
}

/// Memory in use where a device keeps its weights, or `None` where it does not tell.
fn used_bytes(device: Device) -> Option<u64> {
    match device {
        Device::Auto | Device::Cpu => Some(resident_bytes()),
        Device::Cuda(number) | Device::TensorRt(number) => Gpus::open()?.used_bytes(number),
    }
}

/// Refuses a graph of which nothing runs on the device that was asked for, and tells the share that
/// does. Shape arithmetic stays on the processor by ONNX Runtime's own choice, so some share may.
fn check_placements(device: Device, placements: &Placements) -> Result<(), EngineError> {
    let counts = placements.counts();
    let on_device = |provider: &str| provider != "CPUExecutionProvider";
    let placed: usize = counts.iter().filter(|(provider, _)| on_device(provider)).map(|(_, nodes)| nodes).sum();
    let all: usize = counts.iter().map(|(_, nodes)| nodes).sum();
    if all == 0 {
        debug!(%device, "the library did not tell where it placed the graph's nodes");
    } else if placed == 0 {
        return Err(device::refuse(device, "no operator of this graph has a kernel for it"));
    } else {
        info!(%device, placed, all, ?counts, "nodes are placed");
    }
    Ok(())
}
