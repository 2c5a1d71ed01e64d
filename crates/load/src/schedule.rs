//! When the requests of an open loop are due.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::Arrivals;

/// The due times of one thread's share of the load, counted from the start of the run.
///
/// The threads' schedules together are the schedule of the whole: fixed arrivals are dealt out in
/// turn, and independent Poisson processes add up to one Poisson process.
///
/// The iterator never ends.
#[derive(Debug, Clone)]
pub struct Schedule {
    arrivals: Arrivals,
    period_s: f64,
    /// Where fixed arrivals of this thread begin.
    offset_s: f64,
    index: u64,
    elapsed_s: f64,
    rng: StdRng,
}

impl Schedule {
    /// The share of thread `thread` of `threads` in `rate_per_s` requests a second.
    ///
    /// `rate_per_s` is above 0 ([`crate::Options::validate`] sees to it).
    #[must_use]
    pub fn new(arrivals: Arrivals, rate_per_s: f64, seed: u64, thread: usize, threads: usize) -> Self {
        Self {
            arrivals,
            period_s: threads as f64 / rate_per_s,
            offset_s: thread as f64 / rate_per_s,
            index: 0,
            elapsed_s: 0.0,
            // Seeds that differ by one still give unrelated streams: seed_from_u64 mixes them.
            rng: StdRng::seed_from_u64(seed.wrapping_add(thread as u64)),
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let due_s = match self.arrivals {
            // Multiplied, not added up, so that a day's run does not drift.
            Arrivals::Fixed => self.offset_s + self.index as f64 * self.period_s,
            Arrivals::Poisson => {
                self.elapsed_s -= self.period_s * (1.0 - self.rng.random::<f64>()).ln();
                self.elapsed_s
            }
        };
        self.index += 1;
        Some(Duration::try_from_secs_f64(due_s).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn poisson_counts_have_mean_and_variance_of_the_rate(
            seed: u64, rate in 0.5..5_000.0f64, threads in 1..4usize,
        ) {
            // Counts in 2,000 intervals that hold 10 arrivals on average. For a Poisson process
            // mean and variance are both 10; the standard error of the mean is 0.07 and that of
            // the variance 0.33. Bounds at six of them fail for a right schedule once in 10^8.
            let interval_s = 10.0 / rate;
            let mut counts = vec![0u32; 2_000];
            for thread in 0..threads {
                for due in Schedule::new(Arrivals::Poisson, rate, seed, thread, threads) {
                    let Some(count) = counts.get_mut((due.as_secs_f64() / interval_s) as usize)
                    else { break };
                    *count += 1;
                }
            }
            let mean = counts.iter().map(|count| f64::from(*count)).sum::<f64>() / 2_000.0;
            let variance = counts.iter().map(|count| (f64::from(*count) - mean).powi(2)).sum::<f64>()
                / 1_999.0;
            prop_assert!((mean - 10.0).abs() < 0.43, "mean {mean}");
            prop_assert!((variance - 10.0).abs() < 2.0, "variance {variance}");
        }

        #[test]
        fn fixed_arrivals_of_all_threads_are_evenly_spaced(
            rate in 0.01..100_000.0f64, threads in 1..5usize,
        ) {
            let mut due: Vec<f64> = (0..threads)
                .flat_map(|thread| {
                    Schedule::new(Arrivals::Fixed, rate, 1, thread, threads).take(200)
                })
                .map(|due| due.as_secs_f64())
                .collect();
            due.sort_by(f64::total_cmp);
            for (index, due) in due.iter().enumerate() {
                prop_assert!((due - index as f64 / rate).abs() < 2e-6);
            }
        }

        #[test]
        fn a_seed_gives_the_same_schedule_again_and_times_never_fall(seed: u64) {
            let schedule = || Schedule::new(Arrivals::Poisson, 100.0, seed, 0, 1).take(500);
            prop_assert!(schedule().eq(schedule()));
            prop_assert!(schedule().is_sorted());
        }
    }
}
