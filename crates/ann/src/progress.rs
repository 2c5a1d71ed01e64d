//! How far a build has come, and calling it off.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far a build has come. Shared between who builds and who watches.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    called_off: AtomicBool,
}

/// The build was called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the build was called off")]
pub struct Cancelled;

impl Progress {
    /// Asks the build to end soon without a result.
    pub fn call_off(&self) {
        self.called_off.store(true, Ordering::Relaxed);
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Cancelled`] once [`Progress::call_off`] was called.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.called_off.load(Ordering::Relaxed) { Err(Cancelled) } else { Ok(()) }
    }

    /// Says how many steps there are.
    pub fn expect(&self, steps: u64) {
        self.total.store(steps, Ordering::Relaxed);
    }

    /// Says that so many more steps are done.
    pub fn advance(&self, steps: u64) {
        self.done.fetch_add(steps, Ordering::Relaxed);
    }

    /// The share that is done, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f32 {
        let total = self.total.load(Ordering::Relaxed).max(1);
        (self.done.load(Ordering::Relaxed) as f32 / total as f32).min(1.0)
    }
}
