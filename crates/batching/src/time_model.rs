//! How long a batch will take: learned while running.
//!
//! `time = fixed + slope * tokens`, tokens with padding, by least squares of the relative error over
//! past batches, each weighted down by [`DECAY`] with every batch after it, so that the model
//! follows a device that slows down. Relative, because the error of a measured time grows with the
//! time: unweighted, one wide batch that was held up says more than all narrow ones, and it is
//! these that tell what a batch costs however narrow it is. Not a neural or per-shape table: two numbers are learned from the warm-up alone,
//! and the error they leave is measured and added where a deadline is at stake.

use std::time::Duration;

/// What one past batch weighs against the next: half after about 140 batches.
const DECAY: f64 = 0.995;

/// Before anything ran: 1 ms a batch and 20 microseconds a token, a small model on one core.
const PRIOR: Line = Line { fixed: 1e-3, slope: 2e-5 };

#[derive(Clone, Copy, Debug)]
struct Line {
    fixed: f64,
    slope: f64,
}

/// A model of batch time.
#[derive(Clone, Debug)]
pub struct TimeModel {
    weight: f64,
    sum_x: f64,
    sum_y: f64,
    sum_xx: f64,
    sum_xy: f64,
    line: Line,
    /// Mean of `|measured - predicted| / predicted`.
    spread: f64,
}

impl Default for TimeModel {
    fn default() -> TimeModel {
        TimeModel { weight: 0.0, sum_x: 0.0, sum_y: 0.0, sum_xx: 0.0, sum_xy: 0.0, line: PRIOR, spread: 0.25 }
    }
}

impl TimeModel {
    /// A batch of `tokens` (padding counted) took `took`.
    pub fn observe(&mut self, tokens: usize, took: Duration) {
        let (x, y) = (tokens as f64, took.as_secs_f64());
        if self.weight > 0.0 {
            let predicted = self.seconds(tokens).max(1e-9);
            let error = ((y - predicted).abs() / predicted).min(4.0);
            self.spread += 0.05 * (error - self.spread);
        }
        let weight = 1.0 / y.max(1e-6).powi(2);
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.sum_x, x),
            (&mut self.sum_y, y),
            (&mut self.sum_xx, x * x),
            (&mut self.sum_xy, x * y),
        ] {
            *sum = *sum * DECAY + value * weight;
        }
        self.line = self.fit();
    }

    /// Least squares, held to what time can be: neither part is negative. Where all batches were
    /// of one width the two parts cannot be told apart, and the whole is scaled instead.
    fn fit(&self) -> Line {
        let mean_x = self.sum_x / self.weight;
        let mean_y = self.sum_y / self.weight;
        let variance = self.sum_xx / self.weight - mean_x * mean_x;
        if variance <= 1e-6 * mean_x * mean_x {
            let scale = mean_y / (self.line.fixed + self.line.slope * mean_x).max(1e-12);
            return Line { fixed: self.line.fixed * scale, slope: self.line.slope * scale };
        }
        let slope = (self.sum_xy / self.weight - mean_x * mean_y) / variance;
        let fixed = mean_y - slope * mean_x;
        if slope <= 0.0 {
            Line { fixed: mean_y, slope: 0.0 }
        } else if fixed < 0.0 {
            Line { fixed: 0.0, slope: self.sum_xy / self.sum_xx.max(1e-12) }
        } else {
            Line { fixed, slope }
        }
    }

    /// Seconds that a batch of `tokens` will take, in the mean.
    #[must_use]
    pub fn seconds(&self, tokens: usize) -> f64 {
        self.line.fixed + self.line.slope * tokens as f64
    }

    /// Seconds every batch costs, however narrow.
    #[must_use]
    pub fn fixed_seconds(&self) -> f64 {
        self.line.fixed
    }

    /// Seconds each token costs on top.
    #[must_use]
    pub fn token_seconds(&self) -> f64 {
        self.line.slope
    }

    /// Seconds that a batch of `tokens` will take, with the usual error added: what to promise by.
    #[must_use]
    pub fn careful_seconds(&self, tokens: usize) -> f64 {
        self.seconds(tokens) * (1.0 + 2.0 * self.spread)
    }

    /// The widest batch that takes no longer than so many seconds, in the mean; 0 when none does.
    #[must_use]
    pub fn tokens_in(&self, seconds: f64) -> usize {
        let Line { fixed, slope } = self.line;
        if seconds < fixed {
            0
        } else if slope <= 0.0 {
            usize::MAX
        } else {
            // `as` saturates, which is what a deadline far away should do.
            ((seconds - fixed) / slope) as usize
        }
    }

    /// The same with the usual error added.
    #[must_use]
    pub fn careful_tokens_in(&self, seconds: f64) -> usize {
        self.tokens_in(seconds / (1.0 + 2.0 * self.spread))
    }

    /// Useful work per second in a batch of `work` useful tokens that takes up `tokens` in all.
    #[must_use]
    pub fn rate(&self, work: usize, tokens: usize) -> f64 {
        work as f64 / self.seconds(tokens).max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_straight_line_is_learned(fixed in 0.0f64..0.01, slope in 1e-6f64..1e-3, widths in prop::collection::vec(1usize..4096, 8..64)) {
            prop_assume!(widths.iter().any(|w| *w * 2 < widths[0] || *w > widths[0] * 2));
            let mut model = TimeModel::default();
            for width in &widths {
                model.observe(*width, Duration::from_secs_f64(fixed + slope * *width as f64));
            }
            let truth = fixed + slope * 1000.0;
            prop_assert!((model.seconds(1000) - truth).abs() < 0.02 * truth + 1e-6, "{} {}", model.seconds(1000), truth);
        }

        #[test]
        fn time_is_never_negative_and_grows_with_width(seen in prop::collection::vec((1usize..4096, 0u64..10_000_000), 1..64)) {
            let mut model = TimeModel::default();
            for (width, nanos) in seen {
                model.observe(width, Duration::from_nanos(nanos));
                prop_assert!(model.seconds(1) >= 0.0);
                prop_assert!(model.seconds(100) >= model.seconds(1));
                prop_assert!(model.careful_seconds(100) >= model.seconds(100));
            }
        }
    }

    /// MiniLM, fp32, one thread: 5 ms and 0.185 ms a token, wide batches a tenth dearer than the
    /// line says, and one in ten held up to thrice its time by other work on the machine.
    #[test]
    fn the_fixed_cost_is_found_under_noise_and_a_bend() {
        let mut model = TimeModel::default();
        for round in 0..400usize {
            let tokens = [16, 40, 90, 200, 512][round % 5];
            let bend = if tokens > 100 { 1.1 } else { 1.0 };
            let held_up = if round % 10 == 3 { 3.0 } else { 1.0 };
            model.observe(tokens, Duration::from_secs_f64((0.005 + 0.000_185 * tokens as f64) * bend * held_up));
        }
        let fixed = model.fixed_seconds();
        assert!((0.003..0.008).contains(&fixed), "{fixed}");
    }

    #[test]
    fn a_device_that_slows_down_is_followed() {
        let mut model = TimeModel::default();
        for round in 0..200 {
            model.observe(64 + round % 7, Duration::from_millis(2));
        }
        for round in 0..600 {
            model.observe(64 + round % 7, Duration::from_millis(6));
        }
        assert!((model.seconds(67) - 0.006).abs() < 0.001, "{}", model.seconds(67));
    }
}
