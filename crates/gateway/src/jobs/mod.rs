//! Jobs that use models, collections and features: what each kind does, and the operator's view of all.
//!
//! A job is a client of this server's own surfaces: it sends what any client would, through the same router, without a
//! network in between and marked as background work. So a job meets the same checks and the same errors, and whatever
//! a surface learns to do, jobs can do.

pub(crate) mod batch;
mod embed;
mod http;
mod inner;
mod lines;
mod materialize;
mod parts;
mod rerank;
mod source;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use halny_jobs::{Handler, Jobs, QueueState};
use halny_store::Files;
use halny_telemetry::{JobMetrics, QueueSample};
use halny_types::Tick;

pub(crate) use http::LABELS;
pub use http::Observed;
pub(crate) use http::admin_routes;

use tokio::sync::Semaphore;

use crate::Shared;
use crate::openai::files::UPLOADS_MAX;
use inner::Inner;

/// What works in the background, and the files that it works on.
#[derive(Clone)]
pub struct Background {
    /// The durable queues.
    pub jobs: Jobs,
    /// Files that clients uploaded, or that jobs made for them.
    pub files: Files,
    /// Places for files that are being uploaded.
    pub(crate) uploads: Arc<Semaphore>,
}

impl Background {
    /// These queues and these files.
    #[must_use]
    pub fn new(jobs: Jobs, files: Files) -> Background {
        Background { jobs, files, uploads: Arc::new(Semaphore::new(UPLOADS_MAX)) }
    }
}

/// How often it is looked where queues stand, and which files have expired.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// How often, at least, files are removed that were begun and never described, and how old they are then.
const SWEEP_EVERY: Duration = Duration::from_hours(24);
const SWEEP_AGE: Duration = Duration::from_hours(7 * 24);

/// Tells metrics where queues stand, and removes files that have expired or were never finished, for ever.
pub async fn watch(background: Background, metrics: JobMetrics) {
    let mut sweep_at = Tick::now();
    loop {
        match background.jobs.queues().await {
            Ok(queues) => metrics.stand(&queues.into_iter().map(sample).collect::<Vec<QueueSample>>()),
            Err(error) => tracing::warn!(%error, "it is not known where queues stand"),
        }
        if let Err(error) = background.files.expire().await {
            tracing::warn!(%error, "files that have expired cannot be removed");
        }
        if Tick::now() >= sweep_at {
            sweep_at = Tick::now() + SWEEP_EVERY;
            if let Err(error) = background.files.sweep(SWEEP_AGE).await {
                tracing::warn!(%error, "files that were never finished cannot be removed");
            }
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

fn sample(queue: QueueState) -> QueueSample {
    QueueSample {
        queue: queue.name,
        ready: queue.ready,
        delayed: queue.delayed,
        running: queue.running,
        dead: queue.dead,
        oldest: Duration::from_millis(queue.oldest_ready_ms),
    }
}

/// The handlers of jobs that use this server's surfaces. `folder` is the project's: sources that jobs name start there.
#[must_use]
pub fn handlers(shared: &Shared, folder: PathBuf) -> Vec<Arc<dyn Handler>> {
    let Some(background) = &shared.background else { return Vec::new() };
    let inner = Inner::of(shared);
    let files = background.files.clone();
    let mut handlers: Vec<Arc<dyn Handler>> = vec![
        Arc::new(batch::Batch::new(inner.clone(), files.clone(), shared.limits.clone())),
        Arc::new(embed::EmbedCollection::new(inner.clone(), files.clone(), folder.clone())),
        Arc::new(rerank::RerankRefresh::new(inner, files, folder)),
    ];
    if let Some(features) = &shared.features {
        handlers.push(Arc::new(materialize::Materialize { features: features.clone() }));
    }
    handlers
}
