//! Background work gives way, and gets what is left.

use std::collections::HashMap;
use std::time::Duration;

use halny_batching::background::{ABOUT, CALM};
use halny_batching::{LaneLimits, Refusal};
use halny_types::{Priority, Tick};
use proptest::prelude::*;

use crate::simulation::{Arrival, Device, History, Simulation, limits};

/// A small embedding model on one core: 3 to 5 ms for a question, 100 ms for 32 descriptions.
const MODEL: Device = Device { fixed: Duration::from_micros(1_500), slope: Duration::from_micros(150) };

fn wide() -> LaneLimits {
    LaneLimits {
        max_batch_items: 32,
        max_batch_tokens: 16_384,
        max_queue_items: 1_000_000,
        max_queue_bytes: 1_000_000_000,
        ..limits()
    }
}

fn background(micros: u64, length: usize) -> Arrival {
    Arrival { priority: Priority::Batch, ..Arrival::at(micros, length) }
}

/// Numbers that look random, the same each time.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Interactive items that come as they may, so many a second, from `from_ms` on for `span_ms`, and the
/// lengths they have.
fn people(seed: u64, per_second: f64, from_ms: u64, span_ms: u64, lengths: (usize, usize)) -> Vec<Arrival> {
    let mut random = noise(seed);
    let mut at = from_ms as f64 * 1e3;
    let mut all = Vec::new();
    if per_second > 0.0 {
        loop {
            at -= (1.0 - random()).ln() / per_second * 1e6;
            if at >= (from_ms + span_ms) as f64 * 1e3 {
                break;
            }
            let length = lengths.0 + (random() * (lengths.1 + 1 - lengths.0) as f64) as usize;
            all.push(Arrival::at(at as u64, length));
        }
    }
    all
}

/// Background items that wait from the start: a job has always more to do.
fn job(seed: u64, count: usize, lengths: (usize, usize)) -> Vec<Arrival> {
    let mut random = noise(seed);
    let length = |random: &mut dyn FnMut() -> f64| {
        // Most are short and few are long, as texts are.
        lengths.0 + (random().powi(3) * (lengths.1 + 1 - lengths.0) as f64) as usize
    };
    (0..count).map(|_| background(0, length(&mut random))).collect()
}

fn together(mut all: Vec<Arrival>, more: Vec<Arrival>) -> Vec<Arrival> {
    all.extend(more);
    all.sort_by_key(|arrival| arrival.at);
    all
}

/// How long each item of this class waited for its batch to begin, in the order in which they came.
fn waits(history: &History, arrivals: &[Arrival], priority: Priority) -> Vec<Duration> {
    let begins: HashMap<usize, Tick> =
        history.batches.iter().flat_map(|(began, items, _)| items.iter().map(|item| (*item, *began))).collect();
    let of = |index: usize| begins.get(&index).map(|began| began.since(arrivals[index].at));
    (0..arrivals.len()).filter(|index| arrivals[*index].priority == priority).filter_map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// One instance, busy with a job: who comes alone waits for one item of it, or for no longer than a
    /// usual request takes alone. The first who comes waits for a batch as wide as pays.
    #[test]
    fn who_comes_alone_waits_for_no_more_than_one_bounded_background_batch(
        seed in any::<u64>(), usual in 4usize..60, background_longest in 1usize..100, gap_ms in 100u64..1_000,
    ) {
        let people: Vec<Arrival> = (1..30).map(|n| Arrival::at(n * gap_ms * 1_000, usual)).collect();
        let arrivals = together(job(seed, 6_000, (1, background_longest)), people);
        let history = Simulation::new(wide(), 1, MODEL).play(&arrivals);
        let waits = waits(&history, &arrivals, Priority::Interactive);
        prop_assert_eq!(waits.len(), 29);
        let item = MODEL.takes(background_longest);
        prop_assert!(waits[0] <= CALM.max(MODEL.fixed * 10).max(item) + Duration::from_micros(1), "{:?}", waits[0]);
        let bound = MODEL.takes(usual).mul_f64(1.05).max(item) + Duration::from_micros(1);
        for wait in &waits[1..] {
            prop_assert!(*wait <= bound, "{wait:?} is more than {bound:?}");
        }
    }

    /// Several instances: who comes alone finds one that is free, however long the job's items are.
    #[test]
    fn who_comes_alone_finds_an_instance_free(
        seed in any::<u64>(), usual in 4usize..60, background_longest in 1usize..400, gap_ms in 100u64..1_000, instances in 2usize..5,
    ) {
        let people: Vec<Arrival> = (1..30).map(|n| Arrival::at(n * gap_ms * 1_000, usual)).collect();
        let arrivals = together(job(seed, 3_000, (1, background_longest)), people);
        let history = Simulation::new(wide(), instances, MODEL).play(&arrivals);
        let waits = waits(&history, &arrivals, Priority::Interactive);
        for (place, wait) in waits.iter().enumerate().skip(1) {
            prop_assert_eq!(*wait, Duration::ZERO, "item {}", place);
        }
    }

    /// What people leave of the device the background gets, at any load they can make: of several
    /// instances one is free while nobody is served, and that is all that is lost.
    #[test]
    fn the_background_gets_what_is_left(seed in any::<u64>(), load in 0.05f64..0.8, instances in 1usize..4) {
        let (usual, span) = (16, Tick::from_millis(4_000));
        let per_second = load * instances as f64 / MODEL.takes(usual).as_secs_f64();
        let people = people(seed, per_second, 0, 4_000, (usual, usual));
        let arrivals = together(job(seed, 10_000, (10, 20)), people);
        let history = Simulation::new(wide(), instances, MODEL).play_until(&arrivals, span);
        prop_assert!(history.refused.is_empty() && history.late.is_empty());
        let (mut people_have, mut background_has, mut nobody_served) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut served_until = Tick::ZERO;
        for (began, items, extent) in &history.batches {
            let ends = (*began + MODEL.takes(extent.tokens())).min(span);
            if arrivals[items[0]].priority == Priority::Batch {
                background_has += ends.since(*began);
            } else {
                people_have += ends.since(*began);
                nobody_served += began.since(served_until);
                served_until = served_until.max(ends);
            }
        }
        nobody_served += span.since(served_until);
        let all = Duration::from_secs(4) * u32::try_from(instances).unwrap();
        let spare = if instances == 1 { Duration::ZERO } else { nobody_served };
        prop_assert!(people_have + background_has + spare >= all.mul_f64(0.99), "{people_have:?}, {background_has:?}, {spare:?}");
    }

    /// Neither class's order is another's business: an item of the background that was passed over too
    /// often still waits for those who go first.
    #[test]
    fn classes_are_strict_even_for_what_was_passed_over(seed in any::<u64>()) {
        let people = people(seed, 150.0, 0, 1_500, (4, 40));
        let arrivals = together(job(seed, 400, (1, 120)), people);
        let history = Simulation::new(LaneLimits { max_batch_items: 4, ..wide() }, 1, MODEL).play(&arrivals);
        for (began, items, _) in &history.batches {
            if arrivals[items[0]].priority == Priority::Batch {
                let waits = |index: &usize| arrivals[*index].at <= *began && history.answered[index].0 > *began;
                let ahead = (0..arrivals.len()).filter(|index| arrivals[*index].priority == Priority::Interactive);
                let started = |index: usize| history.batches.iter().any(|(b, of, _)| b <= began && of.contains(&index));
                prop_assert!(!ahead.filter(waits).any(|index| !started(index)));
            }
        }
    }

    /// However much background work waits, who goes first is refused nothing for it and is not let go.
    #[test]
    fn a_backlog_of_the_background_refuses_nobody_else(seed in any::<u64>(), deadline_ms in 40u64..100, instances in 1usize..3) {
        let limits = LaneLimits { max_queue_items: 1_000, ..wide() };
        let mut people = people(seed, 5.0, 500, 3_000, (4, 20));
        people.iter_mut().for_each(|arrival| arrival.deadline = Duration::from_millis(deadline_ms));
        let arrivals = together(job(seed, 2_000, (10, 40)), people);
        let history = Simulation::new(limits, instances, MODEL).play(&arrivals);
        prop_assert!(history.late.is_empty(), "{:?}", history.late);
        let full = |refusal: &Refusal| matches!(refusal, Refusal::QueueItems { waiting: 500, limit: 500, .. });
        for (item, refusal) in &history.refused {
            prop_assert!(arrivals[*item].priority == Priority::Batch && full(refusal), "{item}: {refusal}");
        }
        prop_assert_eq!(history.refused.len(), 1_500);
    }

    /// A background request is predicted by what it will get: narrow batches on the instances that are left.
    #[test]
    fn background_deadlines_are_kept_while_people_are_about(seed in any::<u64>(), deadline_ms in 500u64..3_000, instances in 1usize..3) {
        let deadline = Duration::from_millis(deadline_ms);
        let mut random = noise(seed);
        // Background items at up to twice what is left for them, beside people.
        let own: Vec<Arrival> = (0..3_000u64)
            .map(|n| Arrival { deadline, ..background(1_000_000 + n * 3_000, 10 + (random() * 20.0) as usize) })
            .collect();
        let arrivals = together(own, people(seed, 30.0, 0, 12_000, (10, 20)));
        let history = Simulation::new(wide(), instances, MODEL).play(&arrivals);
        let late = history.late.len();
        let accepted = 3_000 - history.refused.len();
        prop_assert!(late * 20 <= accepted, "{late} of {accepted} accepted items came too late");
        prop_assert!(accepted > 1_000, "{accepted} accepted");
    }
}

#[test]
fn when_people_have_gone_the_background_has_all_instances_and_wide_batches() {
    let arrivals = together(job(1, 6_000, (10, 40)), vec![Arrival::at(100_000, 10)]);
    let history = Simulation::new(wide(), 2, MODEL).play(&arrivals);
    let gone = Tick::from_millis(105) + MODEL.takes(10) + Duration::from_millis(1);
    let mean = |from: Tick, until: Tick| {
        let of: Vec<usize> = history
            .batches
            .iter()
            .filter(|(at, ..)| (from..until).contains(at))
            .map(|(_, items, _)| items.len())
            .collect();
        (of.iter().sum::<usize>() as f64 / of.len() as f64, of.len())
    };
    let gone = gone + ABOUT - Duration::from_millis(5);
    let (narrow, _) = mean(Tick::from_millis(150), gone);
    let (wide, batches) = mean(gone + Duration::from_millis(100), gone + Duration::from_secs(1));
    assert!(narrow * 1.5 < wide, "{narrow} and {wide}");
    assert!(batches > 70, "{batches} batches in 0.9 s: both instances are at work");
}

#[test]
fn a_lane_that_closes_keeps_no_instance_for_anyone() {
    use halny_batching::former::{Decision, Dropped, Former};
    let mut former = Former::new(wide(), 2, |_: &(usize, bool)| false);
    let offer = |former: &mut Former<_>, arrival: Arrival| {
        former.offer(arrival.at, &arrival.claim(), vec![((0, false), arrival.load())]).unwrap();
        arrival.at
    };
    let now = offer(&mut former, Arrival::at(1_000, 10));
    assert!(matches!(former.next(now, 0, &mut Dropped::default()), Decision::Run(_)));
    let now = offer(&mut former, background(2_000, 10));
    let now = now.max(offer(&mut former, background(2_000, 300)));
    assert!(matches!(former.next(now, 0, &mut Dropped::default()), Decision::Run(_)));
    let Decision::Wait(until) = former.next(now, 1, &mut Dropped::default()) else { panic!("the other is for people") };
    assert!(until <= now + ABOUT + Duration::from_millis(10));
    former.stop_waiting();
    assert!(matches!(former.next(now, 1, &mut Dropped::default()), Decision::Run(_)));
}

/// Prints what people wait and what the background gets: `cargo nextest run -p halny-batching
/// --run-ignored only --no-capture -- with_and_without`.
#[test]
#[ignore = "prints figures"]
#[allow(clippy::print_stdout)]
fn interactive_p95_with_and_without_background_work() {
    let gpu = Device { fixed: Duration::from_micros(1_000), slope: Duration::from_nanos(300) };
    let costly = Device { fixed: Duration::from_millis(5), slope: Duration::from_micros(185) };
    for (name, device, lengths, rates, (span_ms, job_size)) in [
        ("1.5 ms + 0.15 ms a token", MODEL, (5, 40), [0.0, 0.1, 1.0, 10.0, 50.0, 100.0], (60_000, 50_000)),
        ("the same, long items", MODEL, (60, 400), [0.0, 0.1, 1.0, 10.0, 50.0, 100.0], (60_000, 8_000)),
        ("5 ms + 0.185 ms a token", costly, (15, 60), [0.0, 0.1, 1.0, 10.0, 50.0, 100.0], (60_000, 50_000)),
        ("1 ms + 0.3 us a token", gpu, (15, 60), [0.0, 1.0, 10.0, 50.0, 200.0, 500.0], (5_000, 300_000)),
    ] {
        println!("{name}: items of {lengths:?} tokens, questions of (8, 20)");
        for instances in [1, 2] {
            let mut most = 0.0;
            for per_second in rates {
                let people = people(7, per_second, 0, span_ms, (8, 20));
                let p95 = |history: &History, arrivals: &[Arrival]| {
                    let of = |index: &usize| arrivals[*index].priority == Priority::Interactive;
                    let took = |index: usize| {
                        Some(history.answered.get(&index)?.0.since(arrivals[index].at).as_secs_f64() * 1e3)
                    };
                    let mut all: Vec<f64> = (0..arrivals.len()).filter(of).filter_map(took).collect();
                    all.sort_by(f64::total_cmp);
                    [0.5, 0.95, 0.99].map(|q| all.get((all.len() as f64 * q) as usize).copied().unwrap_or(f64::NAN))
                };
                let idle = p95(&Simulation::new(wide(), instances, device).play(&people), &people);
                let arrivals = together(job(3, job_size, lengths), people);
                let end = Tick::from_millis(span_ms);
                let history = Simulation::new(LaneLimits { max_queue_items: 10_000_000, ..wide() }, instances, device)
                    .play_until(&arrivals, end);
                let beside = p95(&history, &arrivals);
                let of = |index: &&usize| arrivals[**index].priority == Priority::Batch;
                let got = history.answered.keys().filter(of).count() as f64 / (span_ms as f64 / 1e3);
                if per_second == 0.0 {
                    most = got;
                }
                println!(
                    "  {instances} instances, {per_second:>5}/s: p50 {:.1} -> {:.1}, p95 {:.1} -> {:.1} ({:.2}x), p99 {:.1} -> {:.1} ms; background {got:.0}/s, {:.0} %",
                    idle[0],
                    beside[0],
                    idle[1],
                    beside[1],
                    beside[1] / idle[1],
                    idle[2],
                    beside[2],
                    got / most * 100.0,
                );
            }
        }
    }
}
