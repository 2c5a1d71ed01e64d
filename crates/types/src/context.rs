//! What travels with a request from the gateway to the device and back.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{TenantId, Tick};

/// How urgent a request is. Classes are strict: a lower class runs when no higher one waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Background work: gives way within one batch.
    Batch,
    /// What a person waits for.
    #[default]
    Interactive,
    /// Probes and the operator's own requests.
    System,
}

/// Names one request in logs, traces and the `x-request-id` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// A new id: the wall clock's microseconds, this process, and a counter; unique in practice,
    /// not secret.
    #[must_use]
    pub fn fresh() -> RequestId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
        let count = u128::from(NEXT.fetch_add(1, Ordering::Relaxed)) & 0xffff_ffff;
        let process = u128::from(std::process::id()) & 0xffff_ffff;
        RequestId((micros << 64) | (process << 32) | count)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Who asks, how urgently, and until when: made once at the gateway, closed once by it.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Names the request everywhere.
    pub id: RequestId,
    /// Who it belongs to.
    pub tenant: TenantId,
    /// How urgent it is.
    pub priority: Priority,
    /// When its head was complete.
    pub arrived: Tick,
    /// After this moment the answer is worth nothing.
    pub deadline: Tick,
}

impl RequestContext {
    /// A request of `tenant` that arrived at `arrived` and is worth answering for `budget`.
    #[must_use]
    pub fn new(tenant: TenantId, arrived: Tick, budget: Duration) -> RequestContext {
        RequestContext {
            id: RequestId::fresh(),
            tenant,
            priority: Priority::default(),
            arrived,
            deadline: arrived + budget,
        }
    }
}
