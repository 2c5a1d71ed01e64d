//! Passes over all logits, written so that the compiler makes SIMD code of them: sixteen independent
//! lanes, no branches, no calls. The lanes are the same on every machine, however wide its registers.

/// Logits that are looked at together: 1,024 blocks for 262,144 tokens, so that what is kept for each
/// block stays in the first-level cache.
pub(super) const BLOCK: usize = 256;

const LANES: usize = 16;

/// The weight of the most probable token. Whole numbers can be added in any order; 2^18 tokens of this
/// weight are still far from the end of 64 bits.
pub(super) const WEIGHT_MOST: u32 = 1 << 30;

/// Below 2^-31 of the most probable token, a weight is 0.
pub(super) const WEIGHT_LEAST_LOG2: f32 = -31.5;

/// The largest number of a block, minus infinity if there is none.
pub(super) fn most(block: &[f32]) -> f32 {
    // `if x > y` and not `max`: it is one instruction, and false for NaN.
    let larger = |most: f32, logit: f32| if logit > most { logit } else { most };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (rows, rest) = block.as_chunks::<LANES>();
    for row in rows {
        for (lane, logit) in lanes.iter_mut().zip(row) {
            *lane = larger(*lane, *logit);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, logit| larger(most, *logit))
}

/// 1.5 * 2^23: a number that this is added to leaves the nearest whole number in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// 2 to the `power`, which is at most 0; 0 below -126 and for NaN. Right to seven digits, and the same
/// on every machine: no library function, no fused multiplication.
fn power_of_two(power: f32) -> f32 {
    let rounded = power + ROUND;
    let whole = rounded.to_bits().wrapping_sub(ROUND.to_bits());
    let rest = power - (rounded - ROUND);
    // Cephes' `exp2f`, for -0.5 to 0.5.
    let mut value = 1.535_336_2e-4;
    for factor in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 0.240_226_48, std::f32::consts::LN_2, 1.0] {
        value = value * rest + factor;
    }
    let scaled = f32::from_bits(value.to_bits().wrapping_add(whole << 23));
    if power >= -126.0 { scaled } else { 0.0 }
}

/// How probable a logit is, as a share of [`WEIGHT_MOST`]. `scale` is log2(e) divided by the temperature.
pub(super) fn weight(logit: f32, most: f32, scale: f32) -> u32 {
    // `as u32` checks its range, which keeps it out of SIMD code. Adding 1.5 * 2^23 rounds, too, but
    // leaves 22 bits only: so 15 bits, and what they leave over once more.
    const HALF: f32 = (1 << 15) as f32;
    let share = power_of_two((logit - most) * scale) * HALF;
    let high = share + ROUND;
    let low = (share - (high - ROUND)) * HALF + ROUND;
    let whole = |rounded: f32| rounded.to_bits().wrapping_sub(ROUND.to_bits());
    (whole(high) << 15).wrapping_add(whole(low))
}

/// The weights of a block, one after the other: a loop long enough for the compiler to vectorise.
pub(super) fn weights(block: &[f32], most: f32, scale: f32) -> [u32; BLOCK] {
    let mut weights = [0; BLOCK];
    for (weight, logit) in weights.iter_mut().zip(block) {
        *weight = self::weight(*logit, most, scale);
    }
    weights
}

/// The sum of e^(logit - most) over all logits; `most` is finite. Infinite logits count as the largest
/// finite one.
pub(super) fn sum_of_exponentials(logits: &[f32], most: f32) -> f64 {
    let mut sum = 0.0;
    for block in logits.chunks(BLOCK) {
        let mut terms = [0f32; BLOCK];
        for (term, logit) in terms.iter_mut().zip(block) {
            let finite = if *logit > f32::MAX { f32::MAX } else { *logit };
            *term = power_of_two((finite - most) * std::f32::consts::LOG2_E);
        }
        let mut lanes = [0f32; LANES];
        for row in terms.as_chunks::<LANES>().0 {
            for (lane, term) in lanes.iter_mut().zip(row) {
                *lane += term;
            }
        }
        sum += f64::from(lanes.iter().sum::<f32>());
    }
    sum
}

/// Copies logits; those that are not numbers and those whose bit in `allowed` is not set become minus
/// infinity, as do those for which there is no bit.
pub(super) fn copy_allowed(logits: &[f32], allowed: Option<&[u32]>, to: &mut Vec<f32>) {
    let number = |logit: f32| if logit >= f32::NEG_INFINITY { logit } else { f32::NEG_INFINITY };
    to.clear();
    let Some(words) = allowed else {
        to.extend(logits.iter().map(|logit| number(*logit)));
        return;
    };
    to.resize(logits.len(), f32::NEG_INFINITY);
    for ((to, from), word) in to.chunks_mut(32).zip(logits.chunks(32)).zip(words) {
        if *word == 0 {
            continue;
        }
        if *word == u32::MAX {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = number(*from));
            continue;
        }
        for (place, (to, from)) in to.iter_mut().zip(from).enumerate() {
            *to = if word >> place & 1 == 1 { number(*from) } else { f32::NEG_INFINITY };
        }
    }
}

/// Whether any logit is above minus infinity.
pub(super) fn any_number(logits: &[f32]) -> bool {
    logits.chunks(BLOCK).any(|block| most(block) > f32::NEG_INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_right_to_six_digits() {
        for step in 0..1_260_000 {
            let power = -(step as f32) / 10_000.0;
            let right = f64::from(power).exp2();
            let got = f64::from(power_of_two(power));
            assert!((got / right - 1.0).abs() < 1e-6, "2^{power} is {right}, not {got}");
        }
        assert_eq!(power_of_two(0.0), 1.0);
        for power in [-126.1, -1e30, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(power_of_two(power), 0.0);
        }
    }

    #[test]
    fn weights_are_rounded_shares() {
        for step in 0..330_000 {
            let power = -(step as f32) / 10_000.0;
            let right = f64::from(power_of_two(power)) * f64::from(WEIGHT_MOST);
            let got = f64::from(weight(power, 0.0, 1.0));
            assert!((got - right).abs() <= 0.5, "{got} for {right}");
        }
    }

    #[test]
    fn weights_end_where_they_are_said_to() {
        assert_eq!(weight(3.0, 3.0, 1.0), WEIGHT_MOST);
        assert_eq!(weight(2.0, 3.0, 1.0), WEIGHT_MOST / 2);
        assert_eq!(weight(WEIGHT_LEAST_LOG2, 0.0, 1.0), 0);
        assert_eq!(weight(f32::NAN, 3.0, 1.0), 0);
        assert_eq!(weight(f32::NEG_INFINITY, f32::MAX, 1e5), 0);
    }

    #[test]
    fn the_largest_is_found_wherever_it_is_and_nan_is_not() {
        for length in [1, 15, 16, 17, 255, 256] {
            for place in 0..length {
                let mut block = vec![f32::NAN; length];
                assert_eq!(most(&block), f32::NEG_INFINITY);
                block[place] = -7.0;
                assert_eq!(most(&block), -7.0);
            }
        }
    }

    #[test]
    fn what_has_no_bit_is_not_allowed() {
        let logits: Vec<f32> = (0..70).map(|token| token as f32).collect();
        let mut to = vec![9.0; 200];
        copy_allowed(&logits, Some(&[0b101, u32::MAX]), &mut to);
        let allowed: Vec<usize> = (0..70).filter(|token| to[*token] > f32::NEG_INFINITY).collect();
        assert_eq!(allowed, [0, 2].into_iter().chain(32..64).collect::<Vec<_>>());
        assert_eq!(to.len(), 70);
        copy_allowed(&[1.0, f32::NAN], None, &mut to);
        assert_eq!(to, [1.0, f32::NEG_INFINITY]);
    }
}
