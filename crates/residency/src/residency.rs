//! The models of the project: which are loaded, and how that changes while they answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use halny_telemetry::Metrics;
use halny_types::ModelName;
use halny_types::project::Project;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::LoadCause;
use crate::load::{Engines, Loader};
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
    /// Held by whoever applies a project or loads a model, from reading what the project says to
    /// publishing: there is one order of events, and never two loads that fight for memory and
    /// cores. Unloading does not wait for it, it calls off what is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What the server's end waits for: loads under way, and models that are no longer given out
    /// and still answer what they had accepted.
    tasks: TaskTracker,
    /// Cancelled by [`Residency::drain`]; every slot's `called_off` is its child.
    stopping: CancellationToken,
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
    pub fn new(engines: Engines, places: Places, metrics: Metrics) -> Residency {
        let inner = Inner {
            loader: Loader { engines, places, metrics },
            slots: Mutex::default(),
            ready: ArcSwap::default(),
            turn: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            applied: AtomicBool::new(false),
        };
        Residency { inner: Arc::new(inner) }
    }

    /// Brings what is loaded in line with `project`: loads what is to be preloaded and is not
    /// loaded (unloaded by hand included), replaces what changed (its entry or its files), unloads
    /// what is gone. What has not changed is not touched. Once begun it is carried to its end,
    /// whether or not anyone still waits for it.
    pub async fn apply(&self, project: &Project) -> Applied {
        let (residency, project) = (self.clone(), project.clone());
        self.carry_out(async move { residency.bring_in_line(&project).await }).await
    }

    /// Loads a model of the project as the project now says, or loads it again when its files
    /// changed. Once begun it is carried to its end, whether or not anyone still waits for it.
    ///
    /// # Errors
    /// [`ResidencyError::Unknown`] when the project has no such model; the inner error when
    /// loading failed, or was called off because the model was unloaded or removed meanwhile.
    pub async fn load(&self, name: &str) -> Result<Result<(), LoadError>, ResidencyError> {
        let asked = {
            let slots = self.inner.slots.lock();
            slots.get_key_value(name).map(|(name, slot)| (name.clone(), slot.called_off.clone()))
        };
        let (name, called_off) = asked.ok_or_else(|| self.absent(name))?;
        let residency = self.clone();
        let loaded = self.carry_out(async move { residency.load_in_turn(&name, &called_off).await }).await;
        Ok(loaded.map(|_| ()))
    }

    /// Stops giving a model out, and calls off what was asked before: a load of it that is under
    /// way comes to nothing, and gives its memory back as soon as it can. Returns when what the
    /// model had accepted is answered, and waits for no load.
    ///
    /// # Errors
    /// [`ResidencyError::Unknown`] when the project has no such model.
    pub async fn unload(&self, name: &str) -> Result<(), ResidencyError> {
        let retired = {
            let mut slots = self.inner.slots.lock();
            let slot = slots.get_mut(name).ok_or_else(|| self.absent(name))?;
            slot.call_off(&self.inner.stopping);
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
        match self.inner.slots.lock().get(name) {
            None => Err(self.absent(name)),
            // It was published since `ready` was looked at.
            Some(Slot { loaded: Some(model), .. }) => Ok(Arc::clone(model)),
            Some(Slot { state: ModelState::Loading, .. }) => Err(ResidencyError::Loading(name.to_owned())),
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

    /// Whether a project was applied and every model that it preloads answers, but for those that
    /// the operator unloaded.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        // What is to be preloaded is `Loading` from the moment it is known, so it is `Unloaded` by hand only.
        let as_wanted =
            |slot: &Slot| !slot.config.preload || slot.loaded.is_some() || slot.state == ModelState::Unloaded;
        self.inner.applied.load(Ordering::Acquire)
            && !self.inner.stopping.is_cancelled()
            && self.inner.slots.lock().values().all(as_wanted)
    }

    /// Stops giving anything out, calls off every load, and returns when all that was accepted is
    /// answered and no load is under way.
    pub async fn drain(&self) {
        self.inner.stopping.cancel();
        {
            let mut slots = self.inner.slots.lock();
            for slot in slots.values_mut() {
                slot.state = ModelState::Unloaded;
                self.retire(slot.loaded.take());
            }
            self.publish(&slots);
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Does `work` when its turn has come. Whoever asked may leave: before its turn nothing is
    /// done, and from then on a task of its own carries it to its end. A load cannot be broken off
    /// once the engine has it, and without the turn a second one would begin beside it.
    async fn carry_out<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let turn = Arc::clone(&self.inner.turn).lock_owned().await;
        let task = self.inner.tasks.spawn(async move {
            let _turn = turn;
            work.await
        });
        match task.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Nobody aborts it but the runtime at its end, and with it whoever waits here.
                Err(_aborted) => std::future::pending().await,
            },
        }
    }

    async fn bring_in_line(&self, project: &Project) -> Applied {
        let mut applied = Applied { removed: self.remove_all_but(project), ..Applied::default() };
        for (name, called_off) in self.announce(project) {
            match self.load_in_turn(&name, &called_off).await {
                Ok(true) => applied.loaded.push(name),
                // Called off: someone wanted otherwise since, and nothing went wrong.
                Ok(false) | Err(LoadError { cause: LoadCause::CalledOff, .. }) => {}
                Err(error) => applied.failed.push(error),
            }
        }
        applied
    }

    /// Loads a model unless the very same is loaded already; tells whether it did.
    async fn load_in_turn(&self, name: &ModelName, called_off: &CancellationToken) -> Result<bool, LoadError> {
        let begun = {
            let mut slots = self.inner.slots.lock();
            slots.get_mut(name).filter(|_| !called_off.is_cancelled()).map(|slot| {
                slot.state = ModelState::Loading;
                let same_entry = slot.loaded.as_ref().filter(|model| model.config == slot.config);
                (slot.config.clone(), same_entry.map(|model| model.version))
            })
        };
        let Some((config, current)) = begun else {
            return Err(LoadError { model: name.clone(), cause: LoadCause::CalledOff });
        };
        let load = self.inner.loader.clone().load_unless(current, config, called_off.clone());
        // In a task, so that a panic is a load that failed.
        let outcome = self.inner.tasks.spawn(load).await;
        self.settle(name, called_off, outcome.unwrap_or_else(|error| Err(LoadCause::Start(error.to_string()))))
    }

    /// Publishes what was loaded, or retires it when nobody wants it any more.
    fn settle(
        &self,
        name: &ModelName,
        called_off: &CancellationToken,
        outcome: Result<Option<LoadedModel>, LoadCause>,
    ) -> Result<bool, LoadError> {
        let mut slots = self.inner.slots.lock();
        // Who calls a load off takes this lock, so it is settled before or called off, never both.
        let slot = slots.get_mut(name).filter(|_| !called_off.is_cancelled());
        let cause = match (slot, outcome) {
            (Some(slot), Ok(model)) => {
                let is_new = model.is_some();
                slot.state = ModelState::Ready;
                if let Some(model) = model {
                    self.retire(slot.loaded.replace(Arc::new(model)));
                    self.publish(&slots);
                }
                self.inner.loader.metrics.models().load_ended(name.as_str(), true);
                return Ok(is_new);
            }
            (Some(slot), Err(cause)) => {
                slot.state = ModelState::Failed(cause.to_string());
                self.inner.loader.metrics.models().load_ended(name.as_str(), false);
                tracing::error!(model = %name, error = %cause, "model could not be loaded");
                cause
            }
            (None, outcome) => {
                self.retire(outcome.ok().flatten().map(Arc::new));
                tracing::info!(model = %name, "the load was called off");
                LoadCause::CalledOff
            }
        };
        Err(LoadError { model: name.clone(), cause })
    }

    /// Makes every model of the project known before the first is loaded, so that none is called
    /// unknown, and the server not ready, only because its turn has not come. Gives those to load.
    fn announce(&self, project: &Project) -> Vec<(ModelName, CancellationToken)> {
        let mut to_load = Vec::new();
        let mut slots = self.inner.slots.lock();
        for config in &project.models {
            let slot = slots.entry(config.name.clone()).or_insert_with(|| Slot::new(config, &self.inner.stopping));
            slot.config = config.clone();
            if slot.loaded.is_none() && config.preload {
                slot.state = ModelState::Loading;
            }
            if slot.loaded.is_some() || config.preload {
                to_load.push((config.name.clone(), slot.called_off.clone()));
            }
        }
        drop(slots);
        self.inner.applied.store(true, Ordering::Release);
        to_load
    }

    fn remove_all_but(&self, project: &Project) -> Vec<ModelName> {
        let mut slots = self.inner.slots.lock();
        let stays = |name: &ModelName| project.models.iter().any(|model| model.name == *name);
        let removed: Vec<ModelName> = slots.keys().filter(|name| !stays(name)).cloned().collect();
        for name in &removed {
            if let Some(mut slot) = slots.remove(name) {
                slot.call_off(&self.inner.stopping);
                self.retire(slot.loaded);
            }
        }
        self.publish(&slots);
        removed
    }

    /// What to say of a name that has no slot.
    fn absent(&self, name: &str) -> ResidencyError {
        if self.inner.applied.load(Ordering::Acquire) {
            ResidencyError::Unknown(shortened(name))
        } else {
            // Nobody knows yet which models there will be.
            ResidencyError::Loading(shortened(name))
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
        Some(self.inner.tasks.spawn(async move {
            // Requests hold the model while they run, so there is no event to wait for but theirs:
            // the count is looked at again until it says that this is the last holder.
            while Arc::strong_count(&model) > 1 || model.is_held() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            model.close().await;
        }))
    }
}

/// A name that a client made up, as an error repeats it.
pub(crate) fn shortened(name: &str) -> String {
    match name.char_indices().nth(halny_types::name::NAME_BYTES_MAX) {
        Some((end, _)) => format!("{}...", name.get(..end).unwrap_or_default()),
        None => name.to_owned(),
    }
}
