//! How much of something comes a second: items that arrive, seconds that a device was taken.

use halny_types::Tick;

/// An amount a second, over about the last [`memory`](Rate::over) seconds.
#[derive(Clone, Debug)]
pub struct Rate {
    memory_seconds: f64,
    rate: f64,
    last: Tick,
}

impl Rate {
    /// Nothing yet, remembered for about so many seconds.
    #[must_use]
    pub fn over(memory_seconds: f64) -> Rate {
        Rate { memory_seconds, rate: 0.0, last: Tick::ZERO }
    }

    /// So much came at `now`.
    pub fn observe(&mut self, now: Tick, amount: f64) {
        self.rate = self.per_second(now) + amount / self.memory_seconds;
        self.last = self.last.max(now);
    }

    /// The amount a second, as of `now`.
    #[must_use]
    pub fn per_second(&self, now: Tick) -> f64 {
        self.rate * (-now.since(self.last).as_secs_f64() / self.memory_seconds).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_steady_rate_is_found_and_silence_forgets_it() {
        let mut arrivals = Rate::over(0.25);
        let mut now = Tick::from_millis(1);
        for _ in 0..2_000 {
            now = now + Duration::from_millis(2);
            arrivals.observe(now, 1.0);
        }
        assert!((arrivals.per_second(now) - 500.0).abs() < 10.0, "{}", arrivals.per_second(now));
        assert!(arrivals.per_second(now + Duration::from_secs(3)) < 1.0);
    }
}
