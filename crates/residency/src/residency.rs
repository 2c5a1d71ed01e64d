//! The models of the project: which are loaded, and how that changes while they answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use halny_engine::Engine;
use halny_telemetry::Metrics;
use halny_types::project::{Model, Project};
use halny_types::{ModelName, Tick};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::error::LoadCause;
use crate::load::Loader;
use crate::state::Slot;
use crate::{LoadError, LoadedModel, ModelState, ModelStatus, Places, ResidencyError};

/// The models of a project. Cloning shares them.
#[derive(Clone)]
pub struct Residency {
    inner: Arc<Inner>,
}

struct Inner {
    loader: Loader,
    slots: Mutex<BTreeMap<ModelName, Slot>>,
    /// What requests look at: replaced whole whenever a model comes or goes.
    ready: ArcSwap<BTreeMap<ModelName, Arc<LoadedModel>>>,
    /// Models that are no longer given out and still answer what they had accepted.
    retiring: TaskTracker,
    /// Loads happen one after the other: two at once would fight for memory and cores.
    loading: tokio::sync::Mutex<()>,
    /// Whether a project has been applied: before, nothing is known, and so nothing is ready.
    applied: AtomicBool,
}

/// What applying a project changed.
#[derive(Debug, Default)]
pub struct Applied {
    /// Models that were loaded, or replaced by another version or configuration.
    pub loaded: Vec<ModelName>,
    /// Models that are no longer served.
    pub removed: Vec<ModelName>,
    /// Models that could not be loaded; what answered for them before still does.
    pub failed: Vec<LoadError>,
}

impl Residency {
    /// Nothing loaded yet.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, places: Places, metrics: Metrics) -> Residency {
        let inner = Inner {
            loader: Loader { engine, places, metrics },
            slots: Mutex::default(),
            ready: ArcSwap::default(),
            retiring: TaskTracker::new(),
            loading: tokio::sync::Mutex::default(),
            applied: AtomicBool::new(false),
        };
        Residency { inner: Arc::new(inner) }
    }

    /// Brings what is loaded in line with `project`: loads what is new, replaces what changed (its
    /// entry or its files), unloads what is gone. What has not changed is not touched.
    pub async fn apply(&self, project: &Project) -> Applied {
        let mut applied = Applied { removed: self.remove_all_but(project), ..Applied::default() };
        self.announce(project);
        for config in &project.models {
            let loaded = self.inner.slots.lock().get(&config.name).is_some_and(|slot| slot.loaded.is_some());
            if !config.preload && !loaded {
                self.set(config, |slot| slot.config = config.clone());
                continue;
            }
            match self.load_config(config, false).await {
                Ok(true) => applied.loaded.push(config.name.clone()),
                Ok(false) => {}
                Err(error) => applied.failed.push(error),
            }
        }
        applied
    }

    /// Loads a model of the project, or loads it again when its files changed.
    ///
    /// # Errors
    /// [`ResidencyError::Unknown`] when the project has no such model; the outer error when
    /// loading failed.
    pub async fn load(&self, name: &str) -> Result<Result<(), LoadError>, ResidencyError> {
        let config = self.inner.slots.lock().get(name).map(|slot| slot.config.clone());
        let config = config.ok_or_else(|| unknown(name))?;
        Ok(self.load_config(&config, true).await.map(|_| ()))
    }

    /// Stops giving a model out. Returns when what it had accepted is answered.
    ///
    /// # Errors
    /// [`ResidencyError::Unknown`] when the project has no such model.
    pub async fn unload(&self, name: &str) -> Result<(), ResidencyError> {
        let retired = {
            let mut slots = self.inner.slots.lock();
            let slot = slots.get_mut(name).ok_or_else(|| unknown(name))?;
            slot.state = ModelState::Unloaded;
            let retired = slot.loaded.take();
            self.publish(&slots);
            self.retire(retired)
        };
        if let Some(retired) = retired {
            // It ends by itself, or with the process.
            let _ = retired.await;
        }
        Ok(())
    }

    /// A model to run on. Keep it until the request is answered, no longer.
    ///
    /// # Errors
    /// Whether the name is unknown, or its model not ready.
    pub fn get(&self, name: &str) -> Result<Arc<LoadedModel>, ResidencyError> {
        if let Some(model) = self.inner.ready.load().get(name) {
            return Ok(Arc::clone(model));
        }
        match self.inner.slots.lock().get(name).map(|slot| &slot.state) {
            // Nobody knows yet which models there will be.
            None if !self.inner.applied.load(Ordering::Acquire) => Err(ResidencyError::Loading(shortened(name))),
            None => Err(unknown(name)),
            Some(ModelState::Loading) => Err(ResidencyError::Loading(name.to_owned())),
            Some(_) => Err(ResidencyError::NotLoaded(name.to_owned())),
        }
    }

    /// The models that answer now, by name.
    #[must_use]
    pub fn ready(&self) -> Arc<BTreeMap<ModelName, Arc<LoadedModel>>> {
        self.inner.ready.load_full()
    }

    /// Every model of the project and where it stands, by name.
    #[must_use]
    pub fn index(&self) -> Vec<ModelStatus> {
        let status = |(name, slot): (&ModelName, &Slot)| ModelStatus {
            name: name.clone(),
            state: slot.state.clone(),
            loaded: slot.loaded.clone(),
        };
        self.inner.slots.lock().iter().map(status).collect()
    }

    /// Whether a project was applied and every model that it preloads answers.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.applied.load(Ordering::Acquire)
            && self.inner.slots.lock().values().all(|slot| !slot.config.preload || slot.loaded.is_some())
    }

    /// Stops giving anything out and returns when all that was accepted is answered.
    pub async fn drain(&self) {
        let _loading = self.inner.loading.lock().await;
        {
            let mut slots = self.inner.slots.lock();
            for slot in slots.values_mut() {
                slot.state = ModelState::Unloaded;
                self.retire(slot.loaded.take());
            }
            self.publish(&slots);
        }
        self.inner.retiring.close();
        self.inner.retiring.wait().await;
    }

    /// Loads a model unless the very same is loaded already; tells whether it did.
    async fn load_config(&self, config: &Model, asked_for: bool) -> Result<bool, LoadError> {
        let _one_at_a_time = self.inner.loading.lock().await;
        let before = self.inner.slots.lock().get(&config.name).map(|slot| slot.state.clone());
        self.set(config, |slot| slot.state = ModelState::Loading);
        let mut broken_off =
            BrokenOff { residency: self, config, before: Some(before.clone().unwrap_or(ModelState::Unloaded)) };
        let outcome = self.load_if_changed(config).await;
        broken_off.before = None;
        self.inner.loader.metrics.models().load_ended(config.name.as_str(), outcome.is_ok());
        match outcome {
            Ok(None) => {
                self.set(config, |slot| slot.state = ModelState::Ready);
                Ok(asked_for && before != Some(ModelState::Ready))
            }
            Ok(Some(model)) => {
                let model = Arc::new(model);
                let mut slots = self.inner.slots.lock();
                let slot = slots.entry(config.name.clone()).or_insert_with(|| Slot {
                    config: config.clone(),
                    state: ModelState::Ready,
                    loaded: None,
                });
                slot.config = config.clone();
                slot.state = ModelState::Ready;
                self.retire(slot.loaded.replace(model));
                self.publish(&slots);
                Ok(true)
            }
            Err(cause) => {
                let error = LoadError { model: config.name.clone(), cause };
                tracing::error!(model = %config.name, error = %error.cause, "model could not be loaded");
                self.set(config, |slot| slot.state = ModelState::Failed(error.cause.to_string()));
                Err(error)
            }
        }
    }

    async fn load_if_changed(&self, config: &Model) -> Result<Option<LoadedModel>, LoadCause> {
        let began = Tick::now();
        let (folder, wanted) = self.inner.loader.fetch(config).await?;
        let fetch_took = began.until(Tick::now());
        let unchanged = {
            let slots = self.inner.slots.lock();
            slots.get(&config.name).is_some_and(|slot| {
                let same_files =
                    slot.loaded.as_ref().is_some_and(|m| m.version.to_string() == folder.version.to_string());
                same_files && slot.config == *config
            })
        };
        if unchanged {
            return Ok(None);
        }
        let (loader, config) = (self.inner.loader.clone(), config.clone());
        let loading = tokio::task::spawn_blocking(move || loader.load(&config, &folder, &wanted, fetch_took));
        loading.await.map_err(|error| LoadCause::Start(error.to_string()))?.map(Some)
    }

    /// Makes every model of the project known before the first is loaded, so that none is called
    /// unknown, and the server not ready, only because its turn has not come.
    fn announce(&self, project: &Project) {
        let mut slots = self.inner.slots.lock();
        for config in &project.models {
            slots.entry(config.name.clone()).or_insert_with(|| Slot {
                config: config.clone(),
                state: if config.preload { ModelState::Loading } else { ModelState::Unloaded },
                loaded: None,
            });
        }
        drop(slots);
        self.inner.applied.store(true, Ordering::Release);
    }

    fn remove_all_but(&self, project: &Project) -> Vec<ModelName> {
        let mut slots = self.inner.slots.lock();
        let stays = |name: &ModelName| project.models.iter().any(|model| model.name == *name);
        let removed: Vec<ModelName> = slots.keys().filter(|name| !stays(name)).cloned().collect();
        for name in &removed {
            self.retire(slots.remove(name).and_then(|slot| slot.loaded));
        }
        self.publish(&slots);
        removed
    }

    fn set(&self, config: &Model, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.inner.slots.lock().get_mut(&config.name) {
            change(slot);
        }
    }

    fn publish(&self, slots: &BTreeMap<ModelName, Slot>) {
        let ready = slots.iter().filter_map(|(name, slot)| Some((name.clone(), slot.loaded.clone()?))).collect();
        self.inner.ready.store(Arc::new(ready));
    }

    /// Lets a model that is no longer given out answer what it had accepted, then ends its threads
    /// and gives its memory back. The server's end waits for that, and so may the caller.
    fn retire(&self, model: Option<Arc<LoadedModel>>) -> Option<JoinHandle<()>> {
        let model = model?;
        Some(self.inner.retiring.spawn(async move {
            // Requests hold the model while they run, so there is no event to wait for but theirs:
            // the count is looked at again until it says that this is the last holder.
            while Arc::strong_count(&model) > 1 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            for profile in &model.profiles {
                profile.lane.close();
                profile.lane.drained().await;
            }
        }))
    }
}

/// Puts a slot's state back when a load is broken off, as when the operator who asked for it leaves.
struct BrokenOff<'a> {
    residency: &'a Residency,
    config: &'a Model,
    before: Option<ModelState>,
}

impl Drop for BrokenOff<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            self.residency.set(self.config, |slot| slot.state = before);
        }
    }
}

fn unknown(name: &str) -> ResidencyError {
    ResidencyError::Unknown(shortened(name))
}

/// A name that a client made up, as an error repeats it.
pub(crate) fn shortened(name: &str) -> String {
    match name.char_indices().nth(halny_types::name::NAME_BYTES_MAX) {
        Some((end, _)) => format!("{}...", name.get(..end).unwrap_or_default()),
        None => name.to_owned(),
    }
}
