//! What every handler can reach.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::HeaderMap;
use tokio::sync::Notify;

use halny_cpu_pool::CpuPool;
use halny_features::Features;
use halny_residency::{LoadedModel, Residency};
use halny_telemetry::Metrics;
use halny_types::project::Server;
use halny_types::{Fault, Priority, RequestContext, TenantId, Tick};
use halny_vectors::Collections;
use halny_vectors::embedded::Store;

use crate::{ApiError, Background, Routes};

/// The limits of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest body, in bytes.
    pub max_body_bytes: usize,
    /// All bodies together, in bytes, for as long as their requests are being worked on.
    pub max_bodies_bytes: usize,
    /// Requests being worked on at once.
    pub max_concurrent_requests: usize,
    /// Open connections.
    pub max_connections: usize,
    /// Time for a request's head.
    pub header_timeout: Duration,
    /// Time for a request's body; also the longest that a client may stop reading its answer.
    pub body_timeout: Duration,
    /// Time for accepted requests to finish when the server stops.
    pub drain_timeout: Duration,
    /// Texts, pairs or images in one request.
    pub max_inputs_per_request: usize,
    /// Whether `/metrics` answers on the clients' port.
    pub metrics_on_data_port: bool,
}

impl From<&Server> for Limits {
    fn from(server: &Server) -> Limits {
        Limits {
            max_body_bytes: server.max_body.as_usize(),
            max_bodies_bytes: server.max_bodies.max(server.max_body).as_usize(),
            max_concurrent_requests: server.max_concurrent_requests,
            max_connections: server.max_connections,
            header_timeout: Duration::from_millis(server.header_timeout_ms),
            body_timeout: Duration::from_millis(server.body_timeout_ms),
            drain_timeout: Duration::from_millis(server.drain_timeout_ms),
            max_inputs_per_request: server.max_inputs_per_request,
            metrics_on_data_port: server.metrics_on_data_port,
        }
    }
}

/// Limits that may change while the server runs. Cloning shares them.
#[derive(Clone, Debug)]
pub struct LiveLimits(Arc<ArcSwap<Limits>>);

impl LiveLimits {
    /// These limits, until others are set.
    #[must_use]
    pub fn new(limits: Limits) -> LiveLimits {
        LiveLimits(Arc::new(ArcSwap::from_pointee(limits)))
    }

    /// The limits as of now.
    #[must_use]
    pub fn now(&self) -> Guard<Arc<Limits>> {
        self.0.load()
    }

    /// From now on these hold. `max_connections` and `metrics_on_data_port` are read once, when a
    /// port opens.
    pub fn set(&self, limits: Limits) {
        self.0.store(Arc::new(limits));
    }
}

/// What every handler can reach. Cloning shares it.
#[derive(Clone)]
pub struct Shared {
    /// The models.
    pub residency: Residency,
    /// Where tokenising and decoding run.
    pub pool: CpuPool,
    /// What is counted.
    pub metrics: Metrics,
    /// The limits of this server, as of now.
    pub limits: LiveLimits,
    /// The collections of vectors; nothing where none are kept.
    pub vectors: Option<Arc<dyn Collections>>,
    /// The same where they are files of this server: snapshots, measured recall and tuning are theirs alone.
    pub vector_files: Option<Arc<Store>>,
    /// The features; nothing where the project declares none.
    pub features: Option<Features>,
    /// What works in the background, and the files that it works on; nothing where this server keeps no jobs.
    pub background: Option<Background>,
    /// Told when the operator asks for the project file to be read again.
    pub reload: Arc<Notify>,
    /// The project's own paths, as of now.
    pub routes: Routes,
}

/// The header by which a client gives a request less time than its model's profile does; a background
/// request also more, up to [`BACKGROUND_DEADLINE_MAX`].
pub const DEADLINE_HEADER: &str = "x-halny-deadline-ms";
/// The header by which a client lets others go before a request: `background`. Without it, or with
/// `interactive`, it is what a person waits for; nobody can ask for more.
pub const PRIORITY_HEADER: &str = "x-halny-priority";
/// The longest a background request may have.
pub const BACKGROUND_DEADLINE_MAX: Duration = Duration::from_secs(3_600);
/// The header by which a client names the profile that runs its request.
pub const PROFILE_HEADER: &str = "x-halny-profile";

impl Shared {
    /// The model of that name.
    ///
    /// # Errors
    /// When there is none, or it is not ready.
    pub fn model(&self, name: &str) -> Result<Arc<LoadedModel>, ApiError> {
        self.residency.get(name).map_err(|error| ApiError::from_blame(&error).with_param("model"))
    }

    /// What works in the background.
    ///
    /// # Errors
    /// When this server keeps no jobs and files.
    pub(crate) fn background(&self) -> Result<&Background, ApiError> {
        let none = || ApiError::new(Fault::Unsupported, "this server keeps no jobs and no files");
        self.background.as_ref().ok_or_else(none)
    }

    /// The context of a request that arrived at `arrived` and has `budget`, unless it asks for less; if
    /// others go before it, also if it asks for more.
    ///
    /// # Errors
    /// When the deadline header is not a positive whole number, or the priority header no class that can
    /// be asked for.
    pub fn context(&self, headers: &HeaderMap, arrived: Tick, budget: Duration) -> Result<RequestContext, ApiError> {
        let priority = priority(headers)?;
        let budget = match (asked_budget(headers)?, priority) {
            (None, _) => budget,
            (Some(asked), Priority::Batch) => asked.min(BACKGROUND_DEADLINE_MAX),
            (Some(asked), Priority::Interactive | Priority::System) => asked.min(budget),
        };
        Ok(RequestContext { priority, ..RequestContext::new(TenantId::anonymous(), arrived, budget) })
    }

    /// The profile a request names, if it names one.
    #[must_use]
    pub fn profile<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        headers.get(PROFILE_HEADER).and_then(|value| value.to_str().ok())
    }
}

/// The class a request asks for.
fn priority(headers: &HeaderMap) -> Result<Priority, ApiError> {
    match headers.get(PRIORITY_HEADER).map(|value| value.as_bytes()) {
        None | Some(b"interactive") => Ok(Priority::Interactive),
        Some(b"background") => Ok(Priority::Batch),
        Some(_) => Err(ApiError::invalid(format!("the header {PRIORITY_HEADER} takes `background` or `interactive`"))),
    }
}

/// The time a request asks for.
fn asked_budget(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(asked) = headers.get(DEADLINE_HEADER) else { return Ok(None) };
    let millis = asked.to_str().ok().and_then(|text| text.parse::<u64>().ok()).filter(|millis| *millis > 0);
    let millis = millis.ok_or_else(|| {
        ApiError::invalid(format!("the header {DEADLINE_HEADER} takes a whole number of milliseconds above 0"))
    })?;
    Ok(Some(Duration::from_millis(millis)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_can_lower_its_class_and_nothing_else() {
        let asked = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(PRIORITY_HEADER, value.parse().unwrap());
            priority(&headers).ok()
        };
        assert_eq!(priority(&HeaderMap::new()).ok(), Some(Priority::Interactive));
        assert_eq!(asked("interactive"), Some(Priority::Interactive));
        assert_eq!(asked("background"), Some(Priority::Batch));
        for refused in ["system", "Background", "batch", ""] {
            assert_eq!(asked(refused), None, "{refused:?}");
        }
    }
}
