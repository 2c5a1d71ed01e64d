//! How fast items arrive: what decides whether waiting can widen a batch.

use halny_types::Tick;

/// The memory of the rate: a quarter of a second.
const MEMORY_SECONDS: f64 = 0.25;

/// Items per second, over about the last quarter of a second.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    rate: f64,
    last: Tick,
}

impl Arrivals {
    /// `count` items arrived at `now`.
    pub fn observe(&mut self, now: Tick, count: usize) {
        self.rate = self.per_second(now) + count as f64 / MEMORY_SECONDS;
        self.last = self.last.max(now);
    }

    /// Items per second, as of `now`.
    #[must_use]
    pub fn per_second(&self, now: Tick) -> f64 {
        self.rate * (-now.since(self.last).as_secs_f64() / MEMORY_SECONDS).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_steady_rate_is_found_and_silence_forgets_it() {
        let mut arrivals = Arrivals::default();
        let mut now = Tick::from_millis(1);
        for _ in 0..2_000 {
            now = now + Duration::from_millis(2);
            arrivals.observe(now, 1);
        }
        assert!((arrivals.per_second(now) - 500.0).abs() < 10.0, "{}", arrivals.per_second(now));
        assert!(arrivals.per_second(now + Duration::from_secs(3)) < 1.0);
    }
}
