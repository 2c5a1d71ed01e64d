//! How long to wait before the next try.

use rand::Rng;

/// The pause after so many failed tries, in milliseconds: it doubles from the first to the longest, and a random part of
/// it, at least half, is waited ("equal jitter"; Brooker, "Exponential Backoff And Jitter", AWS, 2015), so that what
/// failed together does not come back together.
pub(crate) fn pause_ms(failures: u32, (first, longest): (u64, u64), rng: &mut impl Rng) -> u64 {
    let doubled = first.saturating_mul(1u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX));
    let pause = doubled.min(longest.max(first));
    pause - rng.random_range(0..=pause / 2)
}

#[cfg(test)]
mod tests {
    use super::pause_ms;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pause_doubles_up_to_the_longest_and_half_of_it_at_most_is_left_out(
            failures in 1u32..200, first in 1u64..100_000, longest in 1u64..10_000_000,
        ) {
            let whole = (u128::from(first) << (failures - 1).min(60)).min(u128::from(longest.max(first)));
            let pause = u128::from(pause_ms(failures, (first, longest), &mut rand::rng()));
            prop_assert!(pause <= whole && pause >= whole / 2, "{pause} of {whole}");
        }
    }
}
