//! What works in the background: the store, the queues, and what runs their jobs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use halny_gateway::jobs::{Observed, handlers, watch};
use halny_gateway::{Background, Shared};
use halny_jobs::command::{Command, Commands};
use halny_jobs::webhook::{Webhook, Webhooks};
use halny_jobs::{Handler, Handlers, Jobs, QueueSettings, Schedule, Settings, Worker};
use halny_store::blobs::BlobPlace;
use halny_store::{Blobs, Database, Files, Place};
use halny_types::QueueName;
use halny_types::project::jobs::{BATCH_QUEUE, DEFAULT_QUEUE, Queue};
use halny_types::project::{Project, Store, StoreEngine};
use tokio::task::JoinSet;

use crate::engines::{url, variable};

/// Where the metadata database of a project is.
pub(crate) fn place_of(store: &Store, folder: &Path) -> anyhow::Result<Place> {
    Ok(match store.engine {
        StoreEngine::Sqlite => Place::Folder(folder.join(&store.folder)),
        StoreEngine::Postgres => {
            let url = url("store", store.url.as_ref(), store.url_env.as_ref())?;
            let password = store.password_env.as_deref().map(|name| variable("store", name)).transpose()?;
            Place::Postgres { url, password }
        }
    })
}

fn blobs_of(store: &Store, folder: &Path) -> anyhow::Result<Blobs> {
    let place = match &store.blobs {
        Some(url) if url.starts_with("s3://") => BlobPlace::S3(url.clone()),
        Some(path) => BlobPlace::Folder(folder.join(path)),
        None => BlobPlace::Folder(folder.join(&store.folder).join("blobs")),
    };
    Ok(Blobs::open(&place)?)
}

/// Opens the store and the queues of a project.
pub(crate) async fn open(project: &Project, folder: &Path) -> anyhow::Result<Background> {
    let place = place_of(&project.store, folder)?;
    let database = Database::open(&place).await.context("the store cannot be opened")?;
    let blobs = blobs_of(&project.store, folder).context("the store cannot be opened")?;
    let files = Files::new(database.clone(), blobs.clone());
    let jobs = Jobs::open(database, blobs, settings(project)?).await.context("the queues cannot be opened")?;
    Ok(Background::new(jobs, files))
}

fn settings(project: &Project) -> anyhow::Result<Settings> {
    let millis = Duration::from_millis;
    let mut queues: Vec<Queue> = project.queues.clone();
    for own in [DEFAULT_QUEUE, BATCH_QUEUE] {
        if !queues.iter().any(|queue| queue.name.as_str() == own) {
            queues.push(Queue::named(QueueName::new(own)?));
        }
    }
    let queue = |queue: &Queue| QueueSettings {
        name: queue.name.as_str().to_owned(),
        concurrency: queue.concurrency,
        rate_per_s: queue.rate_per_s,
        timeout: millis(queue.timeout_ms),
        max_attempts: queue.max_attempts,
        backoff: millis(queue.backoff_ms),
        backoff_max: millis(queue.backoff_max_ms),
    };
    let schedules = project.schedules.iter().map(|schedule| Schedule {
        name: schedule.name.as_str().to_owned(),
        cron: schedule.cron.clone(),
        timezone: schedule.timezone.clone(),
        queue: schedule.queue.as_str().to_owned(),
        kind: schedule.kind.as_str().to_owned(),
        payload: schedule.payload.clone().into(),
    });
    Ok(Settings {
        queues: queues.iter().map(queue).collect(),
        schedules: schedules.collect(),
        slots: project.jobs.slots.max(1),
        lease: millis(project.jobs.lease_ms),
        grace: millis(project.jobs.grace_ms),
        keep: Duration::from_secs(project.jobs.keep_days * 24 * 3_600),
    })
}

/// The handlers of all kinds.
pub(crate) fn handlers_of(shared: &Shared, project: &Project, folder: &Path) -> anyhow::Result<Handlers> {
    let mut all: Vec<Arc<dyn Handler>> = handlers(shared, folder.to_path_buf());
    let webhook = |webhook: &halny_types::project::jobs::Webhook| {
        anyhow::Ok(Webhook {
            name: webhook.name.as_str().to_owned(),
            url: webhook.url.clone(),
            secret: variable("webhooks", &webhook.secret_env)?,
            timeout: Duration::from_millis(webhook.timeout_ms),
        })
    };
    let webhooks = project.webhooks.iter().map(webhook).collect::<anyhow::Result<Vec<_>>>()?;
    all.push(Arc::new(Webhooks::new(webhooks).map_err(anyhow::Error::msg)?));
    let command = |command: &halny_types::project::jobs::Command| Command {
        name: command.name.as_str().to_owned(),
        program: command.program.clone(),
        folder: command.folder.as_ref().map_or(folder.to_path_buf(), |below| folder.join(below)),
        env: command.env.clone(),
        memory: command.memory.map(|size| size.0),
        cpu: command.cpu_s.map(Duration::from_secs),
    };
    let commands = project.commands.iter().map(command).collect();
    let work = folder.join(&project.store.folder).join("work");
    let commands = Commands::open(commands, &work)
        .with_context(|| format!("{}, where commands run, cannot be used", work.display()))?;
    all.push(Arc::new(commands));
    let handlers = Handlers::new(all);
    for schedule in &project.schedules {
        let payload = schedule.payload.clone().into();
        let checked = handlers.check(schedule.kind.as_str(), &payload);
        checked.with_context(|| format!("the schedule {:?} cannot be kept", schedule.name.as_str()))?;
    }
    Ok(handlers)
}

/// What runs jobs, and what looks after them, until they are stopped.
pub(crate) struct Working {
    worker: Option<Worker>,
    watch: JoinSet<()>,
    background: Background,
}

impl Working {
    /// Starts to run jobs, unless the project says that others do.
    pub(crate) fn start(shared: &Shared, project: &Project, handlers: Handlers) -> Option<Working> {
        let background = shared.background.clone()?;
        let metrics = shared.metrics.jobs().clone();
        let observer = Arc::new(Observed(metrics.clone()));
        let worker = (project.jobs.slots > 0).then(|| Worker::start(background.jobs.clone(), handlers, observer));
        let mut watching = JoinSet::new();
        watching.spawn(watch(background.clone(), metrics));
        Some(Working { worker, watch: watching, background })
    }

    /// Tells the jobs that run to stop, waits for their grace period, and gives back what is not done.
    pub(crate) async fn stop(&mut self) {
        self.watch.shutdown().await;
        if let Some(worker) = self.worker.take() {
            worker.stop().await;
        }
    }

    /// Takes no more jobs and files, and lets go of the store. After the ports are closed.
    pub(crate) async fn close(self) {
        self.background.jobs.close().await;
        self.background.jobs.database().close().await;
    }
}
