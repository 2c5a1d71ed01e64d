//! The lane's promises, tried on the rule itself with a simulated clock and a simulated device.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod background;
mod simulation;

use std::time::Duration;

use halny_batching::former::{Decision, Dropped, Former};
use halny_batching::{HORIZON_BATCHES, LaneLimits, PASSED_OVER_MAX, Packing, Refusal};
use halny_types::{Blame, Fault, Priority};
use proptest::prelude::*;

use crate::simulation::{Arrival, DEVICE, Device, SimItem, Simulation, limits};

fn random_arrivals(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Arrival>> {
    let one = (0u64..3_000, 1usize..120, 0u8..4, 0u8..3, 1u64..400, prop::bool::weighted(0.1));
    prop::collection::vec(one, count).prop_map(|all| {
        let mut micros = 0;
        let arrive = |(gap, length, tenant, class, deadline_ms, leaves)| {
            micros += gap;
            let priority = [Priority::Batch, Priority::Interactive, Priority::System][usize::from(class)];
            let deadline = Duration::from_millis(deadline_ms);
            Arrival { tenant, weight: u32::from(tenant) + 1, priority, deadline, leaves, ..Arrival::at(micros, length) }
        };
        all.into_iter().map(arrive).collect()
    })
}

proptest! {
    #[test]
    fn nothing_accepted_is_lost(arrivals in random_arrivals(1..300), instances in 1usize..4, items in 1usize..20) {
        let limits = LaneLimits { max_batch_items: items, ..limits() };
        let history = Simulation::new(limits, instances, DEVICE).play(&arrivals);
        let mut seen: Vec<usize> = history.answered.keys().copied().collect();
        seen.extend(history.late.iter().chain(&history.gone));
        seen.extend(history.refused.iter().map(|refused| refused.0));
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..arrivals.len()).collect::<Vec<_>>(), "each item has exactly one fate");
    }

    #[test]
    fn an_answer_never_comes_after_its_deadline(arrivals in random_arrivals(1..300), instances in 1usize..4) {
        let history = Simulation::new(limits(), instances, DEVICE).play(&arrivals);
        for (item, (answered, _)) in &history.answered {
            prop_assert!(*answered <= arrivals[*item].claim().deadline, "item {item}");
        }
    }

    #[test]
    fn the_device_is_never_free_in_vain(arrivals in random_arrivals(1..200), instances in 1usize..3, delay_ms in 0u64..20) {
        let limits = LaneLimits { max_batch_delay: Duration::from_millis(delay_ms), ..limits() };
        let history = Simulation::new(limits, instances, DEVICE).play(&arrivals);
        prop_assert!(history.idle_in_vain <= Duration::from_millis(delay_ms), "{:?}", history.idle_in_vain);
    }

    /// One client that sends its next request when the last is answered gains nothing by waiting.
    #[test]
    fn a_lone_client_never_waits_for_others(lengths in prop::collection::vec(1usize..100, 2..40)) {
        let mut at = 0;
        let arrivals: Vec<Arrival> = lengths.iter().map(|length| {
            let arrival = Arrival::at(at, *length);
            at += u64::try_from(DEVICE.takes(*length).as_micros()).unwrap() + 50;
            arrival
        }).collect();
        let history = Simulation::new(limits(), 1, DEVICE).play(&arrivals);
        prop_assert_eq!(history.idle_in_vain, Duration::ZERO);
        prop_assert_eq!(history.batches.len(), arrivals.len());
    }

    #[test]
    fn nothing_is_passed_over_for_ever(
        rare in prop::collection::vec(0usize..400, 1..12), common in 4usize..30, instances in 1usize..3,
    ) {
        // A stream of short items at twice what the device can do, a few long ones between.
        let mut arrivals: Vec<Arrival> = (0..800u64).map(|i| Arrival::at(i * 120, common)).collect();
        for place in rare {
            arrivals[place].length = 120;
        }
        let history = Simulation::new(limits(), instances, DEVICE).play(&arrivals);
        // Once over the bound items go in order; the horizon holds so many full batches of them, and
        // each instance takes one at a time.
        let bound = PASSED_OVER_MAX + u32::try_from(HORIZON_BATCHES + instances).unwrap();
        for (item, (_, passed_over)) in &history.answered {
            prop_assert!(*passed_over <= bound, "item {item} was passed over by {passed_over} batches");
        }
    }

    #[test]
    fn tenants_that_both_wait_share_by_weight(
        weights in (1u32..6, 1u32..6), lengths in (1usize..60, 1usize..60), packing in prop::bool::ANY,
    ) {
        // Both have 400 items waiting from the start.
        let weights = [weights.0, weights.1];
        let lengths = [lengths.0, lengths.1];
        let arrivals: Vec<Arrival> = (0..800u64).map(|i| {
            let tenant = u8::try_from(i % 2).unwrap();
            Arrival { tenant, weight: weights[usize::from(tenant)], ..Arrival::at(0, lengths[usize::from(tenant)]) }
        }).collect();
        let packing = if packing { Packing::Length } else { Packing::Arrival };
        let limits = LaneLimits { packing, ..limits() };
        let history = Simulation::new(limits.clone(), 1, DEVICE).play(&arrivals);
        // What packing may do out of turn lies within the horizon.
        let longest = lengths[0].max(lengths[1]);
        let bound = (HORIZON_BATCHES * limits.max_batch_items + 2) as f64 * longest as f64;
        let (mut work, mut left) = ([0.0f64; 2], [400usize; 2]);
        for (_, items, _) in &history.batches {
            for item in items {
                let tenant = usize::from(arrivals[*item].tenant);
                work[tenant] += lengths[tenant] as f64;
                left[tenant] -= 1;
            }
            if left.contains(&0) {
                break;
            }
            let shares = [work[0] / f64::from(weights[0]), work[1] / f64::from(weights[1])];
            prop_assert!((shares[0] - shares[1]).abs() <= bound, "{shares:?} differ by more than {bound}");
        }
    }

    /// What a quiet tenant waits does not depend on how much a noisy one has piled up.
    #[test]
    fn a_flood_of_one_tenant_does_not_hold_up_another(flood in 200u64..1_500, quiet_at in 1u64..50) {
        let mut arrivals: Vec<Arrival> = (0..flood).map(|_| Arrival::at(0, 20)).collect();
        arrivals.push(Arrival { tenant: 1, ..Arrival::at(quiet_at * 1_000, 20) });
        let history = Simulation::new(limits(), 1, DEVICE).play(&arrivals);
        let (answered, _) = history.answered[&(arrivals.len() - 1)];
        // The batch that runs, the horizon, and its own.
        let bound = DEVICE.takes(8 * 20) * u32::try_from(HORIZON_BATCHES + 2).unwrap();
        prop_assert!(answered.since(arrivals.last().unwrap().at) <= bound);
    }

    #[test]
    fn a_lower_class_gives_way_within_one_batch(backlog in 50u64..500, urgent_at in 1u64..30) {
        let mut arrivals: Vec<Arrival> =
            (0..backlog).map(|_| Arrival { priority: Priority::Batch, ..Arrival::at(0, 30) }).collect();
        arrivals.push(Arrival::at(urgent_at * 1_000, 30));
        let history = Simulation::new(limits(), 1, DEVICE).play(&arrivals);
        let (answered, _) = history.answered[&(arrivals.len() - 1)];
        prop_assert!(answered.since(arrivals.last().unwrap().at) <= DEVICE.takes(8 * 30) * 2);
    }

    #[test]
    fn who_left_never_reaches_the_device(arrivals in random_arrivals(1..200)) {
        let history = Simulation::new(limits(), 1, DEVICE).play(&arrivals);
        prop_assert!(history.answered.keys().all(|item| !arrivals[*item].leaves));
    }

    /// Three times what the device can do: what is accepted is answered, in time, and the device
    /// is kept at work.
    #[test]
    fn under_overload_what_is_accepted_is_answered_in_time(seed_length in 5usize..40, deadline_ms in 60u64..600) {
        let gap_micros = u64::try_from(DEVICE.takes(8 * seed_length).as_micros()).unwrap() / 8 / 3;
        let count = 6 * deadline_ms * 1_000 / gap_micros;
        let arrivals: Vec<Arrival> = (0..count).map(|i| {
            let length = seed_length + usize::try_from(i * 7 % 5).unwrap();
            Arrival { deadline: Duration::from_millis(deadline_ms), ..Arrival::at(i * gap_micros, length) }
        }).collect();
        let history = Simulation::new(limits(), 1, DEVICE).play(&arrivals);
        let accepted = history.answered.len() + history.late.len();
        prop_assert!(history.late.len() * 100 <= accepted, "{} of {accepted} accepted items came too late", history.late.len());
        prop_assert!(!history.refused.is_empty());
        let span = history.batches.last().unwrap().0.since(arrivals[0].at).as_secs_f64();
        let busy: f64 = history.batches.iter().map(|(_, _, extent)| DEVICE.takes(extent.tokens()).as_secs_f64()).sum();
        prop_assert!(busy / span > 0.9, "the device was at work {:.0} % of the time", busy / span * 100.0);
    }

    #[test]
    fn the_time_to_retry_after_is_enough(length in 5usize..60, deadline_ms in 50u64..500, burst in 50u64..2_000) {
        let deadline = Duration::from_millis(deadline_ms);
        let mut arrivals: Vec<Arrival> = (0..burst).map(|_| Arrival { deadline, ..Arrival::at(0, length) }).collect();
        let first = Simulation::new(limits(), 1, DEVICE).play(&arrivals);
        let Some((_, refusal)) = first.refused.last() else { return Ok(()) };
        let Refusal::Deadline { retry_after, .. } = refusal else { return Err(TestCaseError::fail(refusal.to_string())) };
        // The same client, that much later. One batch of grace: the prediction counts whole ones.
        let later = *retry_after + DEVICE.takes(8 * length) * 2;
        let retry = Arrival { deadline, ..Arrival::at(u64::try_from(later.as_micros()).unwrap(), length) };
        arrivals.push(retry);
        let second = Simulation::new(limits(), 1, DEVICE).play(&arrivals);
        prop_assert!(second.answered.contains_key(&(arrivals.len() - 1)), "refused again after {later:?}");
    }

    /// Even on a lane that has nothing to do the answer takes its time: no hour is named at which a
    /// shorter deadline could be met.
    #[test]
    fn a_deadline_that_no_lane_could_meet_is_refused_without_an_hour_to_come_back(length in 5usize..60, budget_micros in 0u64..900) {
        let arrival = Arrival { deadline: Duration::from_micros(budget_micros), ..Arrival::at(0, length) };
        let history = Simulation::new(limits(), 1, DEVICE).play(&[arrival]);
        let refusal = &history.refused[0].1;
        prop_assert_eq!(refusal.fault(), Fault::Late);
        prop_assert_eq!(refusal.retry_after(), None);
    }

    /// Packing by length never computes more than packing in order of arrival, beyond what the
    /// learned cost of narrower batches says is worth it.
    #[test]
    fn packing_by_length_takes_less_device_time(lengths in prop::collection::vec(1usize..100, 200..400)) {
        let arrivals: Vec<Arrival> = lengths.iter().map(|length| Arrival::at(0, *length)).collect();
        let device_time = |packing| {
            let limits = LaneLimits { packing, ..limits() };
            let history = Simulation::new(limits, 1, DEVICE).play(&arrivals);
            history.batches.iter().map(|(_, _, extent)| DEVICE.takes(extent.tokens())).sum::<Duration>()
        };
        prop_assert!(device_time(Packing::Length) < device_time(Packing::Arrival));
    }
}

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let limits = LaneLimits { max_queue_items: 10, ..limits() };
    let arrivals: Vec<Arrival> = (0..40).map(|_| Arrival::at(0, 10)).collect();
    let history = Simulation::new(limits, 1, DEVICE).play(&arrivals);
    assert_eq!(history.refused.len(), 30);
    assert!(history.refused.iter().all(|(_, refusal)| matches!(
        refusal,
        Refusal::QueueItems { limit: 10, retry_after, .. } if *retry_after > Duration::ZERO
    )));
}

#[test]
fn a_request_larger_than_the_whole_queue_is_never_told_to_come_back() {
    let limits = LaneLimits { max_queue_items: 3, max_queue_bytes: 25, ..limits() };
    let mut former = Former::new(limits, 1, |_: &SimItem| false);
    let refusal = |former: &Former<SimItem>, count: usize| {
        let arrival = Arrival::at(0, 10);
        former.refusal(arrival.at, &arrival.claim(), std::iter::repeat_n(&arrival.load(), count)).unwrap()
    };
    assert!(matches!(refusal(&former, 4), Refusal::LargerThanQueue { unit: "inputs", count: 4, limit: 3 }));
    assert!(matches!(refusal(&former, 3), Refusal::LargerThanQueue { unit: "bytes", count: 30, limit: 25 }));
    former.stop_waiting();
    assert_eq!(refusal(&former, 4).retry_after(), None);
}

/// A slow spell has taught the lane that no deadline of 20 ms can be met.
#[test]
fn a_lane_that_refuses_everything_looks_now_and_then_whether_it_still_must() {
    let mut former = Former::new(limits(), 1, |_: &SimItem| false);
    (0..400).for_each(|_| former.warmed_up(10, Duration::from_millis(50)));
    let ask = |former: &mut Former<SimItem>, at_ms: u64| {
        let arrival = Arrival { deadline: Duration::from_millis(20), ..Arrival::at(at_ms * 1_000, 10) };
        let offered = former.offer(arrival.at, &arrival.claim(), vec![((0, false), arrival.load())]);
        (arrival.at, offered.map_err(|(refusal, _)| refusal))
    };
    assert!(matches!(ask(&mut former, 10).1, Err(Refusal::Impatient { .. })));
    let mut answered_at_ms = None;
    for second in 1..2_000 {
        let (now, offered) = ask(&mut former, second * 1_001);
        assert!(offered.is_ok(), "one a second is let through");
        assert!(ask(&mut former, second * 1_001).1.is_err(), "and no more");
        let Decision::Run(batch) = former.next(now, 0, &mut Dropped::default()) else { panic!("it runs at once") };
        former.finished(0, &batch.extent, Duration::from_millis(2));
        if ask(&mut former, second * 1_001 + 10).1.is_ok() {
            answered_at_ms = Some(second * 1_001);
            break;
        }
    }
    assert!(answered_at_ms.is_some(), "a device that is fast again is believed in the end");
}

#[test]
fn what_no_batch_can_hold_is_refused() {
    let history = Simulation::new(limits(), 1, DEVICE).play(&[Arrival::at(0, 1_025)]);
    assert!(matches!(history.refused[0].1, Refusal::TooLarge { length: 1_025, max_tokens: 1_024, .. }));
}

#[test]
fn a_device_with_a_high_fixed_cost_waits_for_more_and_a_cheap_one_does_not() {
    let arrivals: Vec<Arrival> = (0..400).map(|i| Arrival::at(i * 500, 10)).collect();
    let width = |device| {
        let history = Simulation::new(limits(), 1, device).play(&arrivals);
        arrivals.len() as f64 / history.batches.len() as f64
    };
    let dear = width(Device { fixed: Duration::from_millis(3), slope: Duration::from_micros(1) });
    let cheap = width(Device { fixed: Duration::from_micros(50), slope: Duration::from_micros(20) });
    assert!(dear > 5.0, "batches of {dear} where a batch costs as much as six arrivals take");
    assert!(cheap < 1.5, "batches of {cheap} where a batch costs next to nothing");
}
