//! `halny serve`: every layer in one process.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use halny_cpu_pool::CpuPool;
use halny_engine_llama::LlamaEngine;
use halny_engine_onnx::{OnnxEngine, Options};
use halny_gateway::{
    Limits, Listener, LiveLimits, Routes, Shared, admin_router, data_router, follow_models, serve, watch_collections,
    watch_features,
};
use halny_jobs::Handlers;
use halny_residency::{Applied, Engines, Places, Residency};
use halny_telemetry::{LogFormat, Metrics};
use halny_types::Tick;
use halny_types::project::features::Catalogue;
use halny_types::project::{Checked, CpuThreads, Project, diff};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::background::{self, Working};
use crate::project::{ProjectFile, cache_folder};
use crate::starts::Starts;
use crate::watch::{Reason, Reasons};
use crate::{engines, feature_stores};

/// Pieces of work that may wait for the CPU pool, for each of its threads.
const POOL_QUEUE_PER_THREAD: usize = 1_024;

/// Serves the models of a project.
#[derive(Args)]
pub(crate) struct ServeArgs {
    /// The project: a folder with a halny.toml, or the file itself
    #[arg(long, short, default_value = ".")]
    project: PathBuf,

    /// How log lines look
    #[arg(long, value_enum, default_value = "human")]
    log: Log,
}

#[derive(Clone, Copy, ValueEnum)]
enum Log {
    Human,
    Json,
}

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let began = Tick::now();
    let format = match args.log {
        Log::Human => LogFormat::Human,
        Log::Json => LogFormat::Json,
    };
    halny_telemetry::log::init(format, "info,ort=warn,llama-cpp-2=warn");
    let file = ProjectFile::read(&args.project)?;
    let checked = file.check()?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(network_threads()).enable_all().build()?;
    let outcome = runtime.block_on(serve_project(file, checked, began));
    // Blocking work that is left (a model that was being loaded) does not hold the exit up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Threads for the network. A request takes one of them some 20 microseconds, so one answers tens of
/// thousands a second; each further one wakes the others up for work that is done before they
/// come. On two cores a second thread tripled the cost of a refusal at 2,000 a second.
fn network_threads() -> usize {
    (CpuThreads::Auto.resolve() / 4).clamp(1, 8)
}

/// The running server, as the verbs of its life see it.
struct Running {
    file: ProjectFile,
    project: Project,
    shared: Shared,
}

async fn serve_project(file: ProjectFile, checked: Checked, began: Tick) -> anyhow::Result<()> {
    let project = checked.project.clone();
    let cache = cache_folder(&checked)?;
    let clients = Listener::for_clients(&project.server.address).await?;
    let operator = Listener::for_operator(&project.server.admin_address).await?;
    let shared = share(&file, &project, &cache).await?;
    watch_collections(&shared);
    watch_features(&shared);
    let handlers = background::handlers_of(&shared, &project, &file.folder)?;
    let mut reasons = Reasons::new(&file.path, Arc::clone(&shared.reload))?;
    let stop = CancellationToken::new();
    let (address, admin_address) = (clients.address(), operator.address());
    tracing::info!(%address, %admin_address, "listening; models are being loaded");
    let ports = ports(shared.clone(), handlers.clone(), clients, operator, stop.clone());
    tokio::pin!(ports);
    let starts = Starts::of(&cache, &file.path);
    let mut running = Running { file, project, shared };
    let mut working = None;
    let life = async {
        running.start(began, &starts).await?;
        // Jobs need the models that they ask.
        working = Working::start(&running.shared, &running.project, handlers);
        tracing::info!(address = %format!("http://{address}/"), "ready");
        running.follow(&mut reasons).await;
        anyhow::Ok(())
    };
    let outcome = tokio::select! {
        outcome = life => outcome,
        signal = stop_signal() => { tracing::info!("{} received: finishing what was accepted", signal?); Ok(()) }
        () = &mut ports => Ok(()),
    };
    if let Some(working) = &mut working {
        // While the ports are open still: a job that is told to stop has a while to leave a checkpoint.
        tokio::select! {
            () = working.stop() => {}
            () = &mut ports => {}
            signal = stop_signal() => tracing::warn!("{} received again: jobs are given up", signal?),
        }
    }
    stop.cancel();
    let patience = running.shared.limits.now().drain_timeout.max(Duration::from_secs(1));
    let finish = async {
        ports.await;
        // The ports took their time from the same patience; a device that hangs must not take more.
        if tokio::time::timeout(patience, running.shared.residency.drain()).await.is_err() {
            tracing::warn!("a model did not finish in time and is broken off");
        }
        if let Some(features) = &running.shared.features {
            features.close().await;
        }
        if let Some(working) = working {
            working.close().await;
        }
        if let Some(vectors) = running.shared.vectors.clone() {
            // What was accepted is on disk already; this ends the threads in order.
            let _ = tokio::task::spawn_blocking(move || vectors.close()).await;
        }
    };
    tokio::select! {
        () = finish => tracing::info!("stopped"),
        signal = stop_signal() => tracing::warn!("{} received again: stopping at once", signal?),
    }
    outcome
}

async fn share(file: &ProjectFile, project: &Project, cache: &std::path::Path) -> anyhow::Result<Shared> {
    let library = project.onnxruntime.library.as_ref().map(|path| file.folder.join(path));
    let engine = OnnxEngine::open(Options { library, cache: Some(cache.to_path_buf()), ..Options::default() })?;
    let threads = NonZeroUsize::new(project.server.cpu_threads.resolve()).unwrap_or(NonZeroUsize::MIN);
    let metrics = Metrics::new();
    let engines = Engines { graphs: Arc::new(engine), languages: Arc::new(LlamaEngine) };
    let places = Places { project: file.folder.clone(), cache: cache.to_path_buf() };
    let (vectors, vector_files) = engines::open(&project.vectors, &file.folder, threads.get()).await?;
    if let Some(files) = &vector_files {
        files.keep_warm(project.vectors.warm.as_usize());
    }
    let pool = CpuPool::new(threads, POOL_QUEUE_PER_THREAD * threads.get());
    let pool = pool.context("the CPU pool could not be started")?;
    Ok(Shared {
        residency: Residency::new(engines, places, metrics.clone()),
        features: feature_stores::open(project, &file.folder, pool.clone()).await?,
        pool,
        routes: Routes::new(metrics.clone()),
        background: Some(background::open(project, &file.folder).await?),
        metrics,
        limits: LiveLimits::new(Limits::from(&project.server)),
        vectors: Some(vectors),
        vector_files,
        reload: Arc::new(Notify::new()),
    })
}

/// Both ports, until `stop`.
async fn ports(shared: Shared, handlers: Handlers, clients: Listener, operator: Listener, stop: CancellationToken) {
    let port = |listener, router| {
        let (limits, metrics) = (shared.limits.clone(), shared.metrics.gateway().clone());
        serve(listener, router, limits, metrics, stop.clone().cancelled_owned())
    };
    tokio::join!(port(clients, data_router(&shared)), port(operator, admin_router(&shared, handlers)));
}

impl Running {
    /// Loads the project's models for the first time. A model that cannot be loaded ends the start.
    async fn start(&self, began: Tick, starts: &Starts) -> anyhow::Result<()> {
        // Before their models are there: who asks early hears that they are being loaded.
        self.route(&self.project);
        let applied = self.shared.residency.apply(&self.project).await;
        if !applied.failed.is_empty() {
            let errors: Vec<String> = applied.failed.iter().map(ToString::to_string).collect();
            bail!("{}", errors.join("\n"));
        }
        follow_models(&self.shared).await;
        let took = began.until(Tick::now());
        match starts.first() {
            Some(first) => tracing::info!(
                took_ms = millis(took),
                first_start_ms = millis(first),
                times_faster = format!("{:.1}", first.as_secs_f64() / took.as_secs_f64().max(1e-3)),
                "started with what earlier starts left in the cache"
            ),
            None => {
                starts.remember(took);
                tracing::info!(took_ms = millis(took), "started for the first time on this host");
            }
        }
        Ok(())
    }

    /// Applies changes of the project file for ever.
    async fn follow(&mut self, reasons: &mut Reasons) {
        loop {
            let reason = reasons.next().await;
            if let Err(error) = self.reload(reason).await {
                tracing::error!("the project file is not applied, everything stays as it was: {error:#}");
            }
        }
    }

    async fn reload(&mut self, reason: Reason) -> anyhow::Result<()> {
        let file = ProjectFile::read(&self.file.path)?;
        if reason == Reason::Changed && file.text == self.file.text {
            return Ok(());
        }
        let project = file.check()?.project;
        let changes = diff(&self.project, &project);
        if !changes.restart.is_empty() {
            tracing::warn!(settings = changes.restart.join(", "), "these settings take effect with the next start");
        }
        self.shared.limits.set(Limits::from(&project.server));
        if let Some(files) = &self.shared.vector_files {
            files.keep_warm(project.vectors.warm.as_usize());
        }
        if changes.features {
            self.define(&project)?;
        }
        let mut applied = Applied::default();
        if !changes.routes.is_empty() && !changes.removed.is_empty() {
            // A route that turns from a model that goes to one that comes: both are there until it has.
            let kept = self.project.models.iter().filter(|model| changes.removed.contains(&model.name));
            let mut both = project.clone();
            both.models.extend(kept.cloned());
            applied = self.shared.residency.apply(&both).await;
            follow_models(&self.shared).await;
            self.route(&project);
            // Requests that began with a route as it was still need the models as they were.
            let patience = self.shared.limits.now().drain_timeout;
            if tokio::time::timeout(patience, self.shared.routes.settled()).await.is_err() {
                tracing::warn!("requests of routes that have changed did not end in time; their models go now");
            }
        }
        let rest = self.shared.residency.apply(&project).await;
        follow_models(&self.shared).await;
        self.route(&project);
        applied.loaded.extend(rest.loaded);
        applied.removed.extend(rest.removed);
        applied.failed = rest.failed;
        report(&applied);
        (self.file, self.project) = (file, project);
        Ok(())
    }

    /// Answers by other views and services from the next request on.
    fn define(&self, project: &Project) -> anyhow::Result<()> {
        match &self.shared.features {
            Some(features) => features.reload(feature_stores::definitions(project)?, project.features.join_memory),
            None => tracing::warn!("the first features of a project are served from the next start on"),
        }
        Ok(())
    }

    /// Serves the routes of a project, from the next request on.
    fn route(&self, project: &Project) {
        for error in self.shared.routes.set(&project.routes, &Catalogue::of(project)) {
            tracing::error!(%error, "a route is not served");
        }
    }
}

fn report(applied: &Applied) {
    let names = |names: &[halny_types::ModelName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    tracing::info!(
        loaded = names(&applied.loaded),
        removed = names(&applied.removed),
        failed = applied.failed.len(),
        "the project file is applied"
    );
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// SIGTERM or SIGINT.
async fn stop_signal() -> anyhow::Result<&'static str> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// Every connection is a file: takes as many as the system allows without asking anyone.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}
