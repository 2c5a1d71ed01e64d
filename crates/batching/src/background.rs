//! How background work ([`Priority::Batch`]) gives way to what people wait for.
//!
//! Classes are strict in the queue, but a batch that runs is not stopped: who arrives waits for what
//! is left of it. So while people are about, two things hold.
//!
//! *Background work leaves one instance of several*, so that who comes alone waits for nobody, however
//! long the items of the background are. Who comes while another is served there waits for that one, as
//! a rule, whatever runs beside; so a background batch may take as long as four usual requests: by then
//! little is left to gain by making it longer.
//!
//! *Where there is one instance, a background batch takes no longer than a usual interactive request
//! takes alone*, by the model of batch time. A server that does other work whenever nobody waits adds to
//! each wait what is left of that work, and nothing else (Fuhrmann and Cooper, "Stochastic Decompositions
//! in the M/G/1 Queue with Generalized Vacations", 1985): at most one such request's time, which keeps
//! latency within twice what it was. An item is not cut: one that takes longer than that runs alone.
//!
//! Simulated at 1 to 100 questions a second (1.5 ms and 0.15 ms a token, questions of 8 to 20 tokens,
//! background items of 5 to 40; `tests/promises/background.rs` prints it), the 95th percentile of
//! latency is 1.0 to 1.9 times that of an idle lane with two instances, where background work keeps a
//! half of what it has when nobody is about, and 1.4 to 2.1 times with one, where it keeps 75 to 48 %.
//! With two instances batches as short as one request would leave it 40 %, for 1.0 to 1.7 times.
//!
//! People are about for [`ABOUT`] after the last of them came or was answered. That is a constant and
//! no multiple of their gaps: those who come often lose it once, when they leave; and gaps of a minute
//! would keep the device half empty for minutes after each. When nobody is about batches are wide, but
//! never longer than makes them worth it ([`CALM`], [`FIXED_SHARE`]): that is what the first who comes
//! after a pause may have to wait for.

use std::time::Duration;

use halny_types::{Priority, Tick};

use crate::rate::Rate;
use crate::time_model::TimeModel;

/// So long after the last interactive item came, or its batch was to end, people are about. At one
/// request a second, come as they may, fewer than one in a hundred finds that it has passed.
pub const ABOUT: Duration = Duration::from_secs(5);

/// When nobody is about a background batch may take so long. Nobody notices such a wait now and then.
pub const CALM: Duration = Duration::from_millis(20);

/// Or so many times what every batch costs however narrow: a still wider one saves less than a tenth.
pub const FIXED_SHARE: f64 = 10.0;

/// A background batch may always take so long: about what the rest of a request's way takes.
pub const LEAST: Duration = Duration::from_millis(1);

/// How many times as long as a usual request a background batch may take on the only instance. Where
/// width costs next to nothing this twentieth is what lets batches be wide.
const STRETCH: f64 = 1.05;

/// The same where one instance of several is left for people.
const STRETCH_BESIDE: f64 = 4.0;

/// What a request weighs in what is usual: about the last forty matter.
const USUAL_STEP: f64 = 0.05;

/// The memory of the share of the device that people take, in seconds.
const TAKEN_MEMORY_SECONDS: f64 = 2.0;

/// Background work is never thought to have less than this share of an instance.
const LEFT_MIN: f64 = 0.1;

/// What is known of those who go first.
#[derive(Clone, Debug)]
pub struct Background {
    /// When the last interactive item came, or its batch was to end.
    seen: Option<Tick>,
    /// The logarithm of the tokens of an interactive request, in the mean: few large requests move a
    /// geometric mean little, and it is the many small ones that a long batch would hold up.
    usual: f64,
    /// Seconds a second that other classes take of all instances together.
    taken: Rate,
    closing: bool,
}

impl Default for Background {
    fn default() -> Background {
        Background { seen: None, usual: 0.0, taken: Rate::over(TAKEN_MEMORY_SECONDS), closing: false }
    }
}

impl Background {
    /// A request of this class was accepted, which alone would take up so many tokens of a batch.
    pub fn came(&mut self, now: Tick, priority: Priority, tokens: usize) {
        if priority != Priority::Interactive {
            return;
        }
        let tokens = (tokens.max(1) as f64).ln();
        self.usual = if self.seen.is_none() { tokens } else { self.usual + USUAL_STEP * (tokens - self.usual) };
        self.seen = self.seen.max(Some(now));
    }

    /// A batch of this class starts, and will take about so long.
    pub fn starts(&mut self, now: Tick, priority: Priority, takes: Duration) {
        if priority == Priority::Interactive {
            self.seen = self.seen.max(Some(now + takes));
        }
        if priority != Priority::Batch {
            self.taken.observe(now, takes.as_secs_f64());
        }
    }

    /// Nobody comes any more.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Until when people are about; `None` when they are not.
    #[must_use]
    pub fn about_until(&self, now: Tick) -> Option<Tick> {
        self.seen.map(|seen| seen + ABOUT).filter(|until| *until > now && !self.closing)
    }

    /// The seconds a background batch may take on one of `all` instances.
    #[must_use]
    pub fn seconds_max(&self, now: Tick, all: usize, time: &TimeModel) -> f64 {
        let calm = calm_seconds(time);
        if self.about_until(now).is_none() {
            return calm;
        }
        // `as` saturates.
        let usual = time.seconds(self.usual.exp().round() as usize);
        let most = usual * if all > 1 { STRETCH_BESIDE } else { STRETCH };
        most.max(LEAST.as_secs_f64()).min(calm)
    }

    /// How many of `all` instances background work may have at once.
    #[must_use]
    pub fn instances_max(&self, now: Tick, all: usize) -> usize {
        if all > 1 && self.about_until(now).is_some() { all - 1 } else { all }
    }

    /// How many of `all` instances background work will have, in the mean, if things go on as they are.
    #[must_use]
    pub fn instances_left(&self, now: Tick, all: usize) -> f64 {
        let left = all as f64 - self.taken.per_second(now);
        left.min(self.instances_max(now, all) as f64).max(LEFT_MIN)
    }
}

/// The seconds a background batch may take when nobody is about.
#[must_use]
pub fn calm_seconds(time: &TimeModel) -> f64 {
    CALM.as_secs_f64().max(time.fixed_seconds() * FIXED_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time() -> TimeModel {
        let mut time = TimeModel::default();
        // 1 ms, and 0.1 ms a token.
        [10u64, 100, 1_000].into_iter().for_each(|n| time.observe(n as usize, Duration::from_micros(1_000 + n * 100)));
        time
    }

    fn at(millis: u64) -> Tick {
        Tick::from_millis(millis)
    }

    #[test]
    fn a_batch_takes_no_longer_than_usual_requests_while_people_are_about() {
        let (mut background, time) = (Background::default(), time());
        assert!((background.seconds_max(at(1), 1, &time) - 0.020).abs() < 1e-6, "nobody has come yet");
        // Most are of 20 tokens, 3 ms; one in twenty is forty times as large.
        (0..400u64).for_each(|n| background.came(at(n), Priority::Interactive, if n % 20 == 7 { 800 } else { 20 }));
        let most = background.seconds_max(at(400), 1, &time);
        assert!((0.003..0.004).contains(&most), "{most}");
        let most = background.seconds_max(at(400), 2, &time);
        assert!((0.012..0.015).contains(&most), "{most}");
        assert!((background.seconds_max(at(6_000), 1, &time) - 0.020).abs() < 1e-6, "they have gone");
    }

    #[test]
    fn one_instance_of_several_is_left_until_people_have_gone() {
        let mut background = Background::default();
        assert_eq!(background.instances_max(at(1), 4), 4);
        background.came(at(1), Priority::Interactive, 20);
        assert_eq!([1, 2, 4].map(|all| background.instances_max(at(1_000), all)), [1, 1, 3]);
        // An answer that takes ten seconds: people are about while it is made, and a while after.
        background.starts(at(1), Priority::Interactive, Duration::from_secs(10));
        assert_eq!(background.instances_max(at(14_000), 4), 3);
        assert_eq!(background.instances_max(at(15_002), 4), 4);
        background.came(at(16_000), Priority::Interactive, 20);
        background.close();
        assert_eq!(background.instances_max(at(16_001), 4), 4, "who closes expects nobody");
    }

    #[test]
    fn background_work_and_probes_are_nobody_to_give_way_to() {
        let mut background = Background::default();
        background.came(at(1), Priority::Batch, 20);
        background.came(at(1), Priority::System, 20);
        background.starts(at(1), Priority::Batch, Duration::from_secs(1));
        assert_eq!(background.about_until(at(2)), None);
        assert!((background.instances_left(at(2), 1) - 1.0).abs() < 1e-9);
    }
}
