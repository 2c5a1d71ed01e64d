//! Moments on the process's monotonic clock.

use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A moment: nanoseconds since this process first asked for the time.
///
/// A plain number, so that tests can make one up and a simulated clock is a variable. Rules that
/// depend on time take `now: Tick` as an argument; only the outermost code calls [`Tick::now`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// The moment the process's clock started.
    pub const ZERO: Tick = Tick(0);
    /// Later than every other moment: the deadline of work that has none.
    pub const NEVER: Tick = Tick(u64::MAX);

    /// The moment `nanos` nanoseconds after the start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Tick {
        Tick(nanos)
    }

    /// The moment `millis` milliseconds after the start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Tick {
        Tick(millis.saturating_mul(1_000_000))
    }

    /// Now, by the operating system's monotonic clock.
    #[must_use]
    pub fn now() -> Tick {
        static START: OnceLock<Instant> = OnceLock::new();
        // `max(1)`: the first call is not `ZERO`, which stands for "before anything".
        Tick(clamp_nanos(START.get_or_init(Instant::now).elapsed()).max(1))
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not.
    #[must_use]
    pub const fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long until `later`; zero when it has passed.
    #[must_use]
    pub const fn until(self, later: Tick) -> Duration {
        later.since(self)
    }

    /// This moment on the standard library's clock, for its timers. `NEVER` gives `None`.
    #[must_use]
    pub fn to_instant(self) -> Option<Instant> {
        if self == Tick::NEVER {
            return None;
        }
        Instant::now().checked_add(self.since(Tick::now()))
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;
    fn add(self, by: Duration) -> Tick {
        Tick(self.0.saturating_add(clamp_nanos(by)))
    }
}

impl Sub<Duration> for Tick {
    type Output = Tick;
    fn sub(self, by: Duration) -> Tick {
        Tick(self.0.saturating_sub(clamp_nanos(by)))
    }
}

fn clamp_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Tick::NEVER + Duration::from_secs(1), Tick::NEVER);
        assert_eq!(Tick::ZERO - Duration::from_secs(1), Tick::ZERO);
        assert_eq!(Tick::from_millis(3).since(Tick::from_millis(5)), Duration::ZERO);
        assert_eq!(Tick::from_millis(3).until(Tick::from_millis(5)), Duration::from_millis(2));
    }

    #[test]
    fn now_never_goes_back() {
        let first = Tick::now();
        assert!(first > Tick::ZERO);
        assert!(Tick::now() >= first);
    }
}
