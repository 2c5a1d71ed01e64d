//! The inner loops of a resize: weighted sums of RGB levels along a row, and of rows.
//!
//! Weights are integers, [`ONE`] being 1; no sum leaves 32 bits, since the magnitudes of a window's weights
//! add up to less than two. All versions of a loop therefore give the same levels. Going along a row with
//! AVX2 is written out: with three levels a pixel the compiler finds no good way (2 to 4 times slower). The
//! loops down it vectorises by itself, if told what the processor has.

use super::resize::Weights;

const PRECISION_BITS: u32 = 22;
/// The weight 1.
pub(super) const ONE: i32 = 1 << PRECISION_BITS;
/// What sums start with, so that cutting them off rounds them.
pub(super) const HALF: i32 = ONE / 2;

fn level(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::is_x86_feature_detected!("avx2")
}

/// Sums rows by their weights; each has as many levels as `sums`, and so has the part of `result` written.
pub(super) fn down<'a>(weights: &[i32], row: impl Fn(usize) -> &'a [u8], sums: &mut [i32], result: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        #[expect(unsafe_code, reason = "the compiler cannot know that the processor has AVX2")]
        // SAFETY: it was found to have it.
        return unsafe { avx2::down(weights, row, sums, result) };
    }
    down_in_rust(weights, row, sums, result);
}

#[inline(always)]
fn down_in_rust<'a>(weights: &[i32], row: impl Fn(usize) -> &'a [u8], sums: &mut [i32], result: &mut [u8]) {
    sums.fill(HALF);
    for (at, weight) in weights.iter().enumerate() {
        for (sum, level) in sums.iter_mut().zip(row(at)) {
            *sum += weight * i32::from(*level);
        }
    }
    for (result, sum) in result.iter_mut().zip(sums) {
        *result = level(*sum);
    }
}

/// The weights of the pass across, ready for this processor.
pub(super) struct Columns {
    weights: Weights,
    /// Empty without AVX2.
    #[cfg(target_arch = "x86_64")]
    quads: avx2::Quads,
}

impl Columns {
    pub(super) fn new(weights: Weights) -> Columns {
        Columns {
            #[cfg(target_arch = "x86_64")]
            quads: if has_avx2() { avx2::Quads::new(&weights) } else { avx2::Quads::default() },
            weights,
        }
    }

    /// See [`Weights::reach`].
    pub(super) fn reach(&self) -> (usize, usize) {
        self.weights.reach()
    }

    /// Room for the levels from `reach` of one row, and for what vectors read behind them.
    pub(super) fn line(&self) -> Vec<u8> {
        let (left, right) = self.reach();
        vec![0; (right - left + 6) * 3]
    }

    /// Sums the pixels of a `line` under each window by their weights.
    pub(super) fn across(&self, line: &[u8], result: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if !self.quads.values.is_empty() {
            #[expect(unsafe_code, reason = "the compiler cannot know that the processor has AVX2")]
            // SAFETY: there are quads only where it was found to have it.
            return unsafe { avx2::across(&self.quads, line, result) };
        }
        self.across_in_rust(line, result);
    }

    fn across_in_rust(&self, line: &[u8], result: &mut [u8]) {
        let (left, _) = self.reach();
        for ((first, weights), result) in self.weights.windows().zip(result.as_chunks_mut::<3>().0) {
            let mut sums = [HALF; 3];
            for (weight, pixel) in weights.iter().zip(line[(first - left) * 3..].as_chunks::<3>().0) {
                for (sum, level) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(*level);
                }
            }
            *result = sums.map(level);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{HALF, PRECISION_BITS, Weights};

    /// The weights of four pixels `w x y z`, each as two numbers for products of 16 bits: 256 times the
    /// upper and the lower make the weight. In either half of a vector are those of two pixels, four times.
    #[derive(Clone, Copy)]
    pub(super) struct Quad {
        upper: [i16; 16],
        lower: [i16; 16],
    }

    /// Weights by fours, the last four of a window filled up with zeros.
    #[derive(Default)]
    pub(super) struct Quads {
        /// The place in a line of the first level under each window, and the window's quads.
        windows: Vec<(usize, usize)>,
        pub(super) values: Vec<Quad>,
    }

    impl Quads {
        pub(super) fn new(weights: &Weights) -> Quads {
            let (left, _) = weights.reach();
            let mut quads = Quads::default();
            for (first, weights) in weights.windows() {
                let start = quads.values.len();
                quads.values.extend(weights.chunks(4).map(|four| {
                    let weight = |lane: usize| four.get(lane / 8 * 2 + lane % 2).copied().unwrap_or(0);
                    Quad {
                        upper: std::array::from_fn(|lane| (weight(lane) >> 8) as i16),
                        lower: std::array::from_fn(|lane| (weight(lane) & 0xFF) as i16),
                    }
                }));
                quads.windows.push(((first - left) * 3, quads.values.len() - start));
            }
            quads
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn across(quads: &Quads, line: &[u8], result: &mut [u8]) {
        // From four pixels, `rrggbb` of two in either half of a vector; -1 makes the upper byte of a level 0.
        #[rustfmt::skip]
        let order = _mm256_setr_epi8(
            0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
            6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
        );
        let mut values = quads.values.as_slice();
        for ((first, count), result) in quads.windows.iter().zip(result.as_chunks_mut::<3>().0) {
            let window;
            (window, values) = values.split_at(*count);
            let (mut upper, mut lower) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for (quad, levels) in window.iter().zip(line[*first..].array_windows::<16>().step_by(12)) {
                let levels = _mm256_broadcastsi128_si256(bytemuck::cast(*levels));
                let levels = _mm256_shuffle_epi8(levels, order);
                upper = _mm256_add_epi32(upper, _mm256_madd_epi16(levels, bytemuck::cast(quad.upper)));
                lower = _mm256_add_epi32(lower, _mm256_madd_epi16(levels, bytemuck::cast(quad.lower)));
            }
            let sums = _mm256_add_epi32(_mm256_slli_epi32::<8>(upper), lower);
            let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let means = _mm_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm_add_epi32(sums, _mm_set1_epi32(HALF)));
            let means = _mm_packs_epi32(means, means);
            let [red, green, blue, _] = _mm_cvtsi128_si32(_mm_packus_epi16(means, means)).to_le_bytes();
            *result = [red, green, blue];
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn down<'a>(weights: &[i32], row: impl Fn(usize) -> &'a [u8], sums: &mut [i32], result: &mut [u8]) {
        super::down_in_rust(weights, row, sums, result);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::resize::Axis;
    use crate::image::spec::Filter;

    proptest! {
        #[test]
        fn the_loops_for_this_processor_give_the_levels_of_those_in_rust(
            (source, resized) in (1u32..200, 1u32..200),
            levels in prop::collection::vec(prop::sample::select(vec![0u8, 1, 127, 128, 254, 255]), 600),
            filter in prop::sample::select(vec![Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos]),
        ) {
            let axis = Axis { source, resized, start: resized / 3, wanted: resized.div_ceil(3) };
            let columns = Columns::new(Weights::new(filter, axis));
            let (left, right) = columns.reach();
            // Behind the line is something that must have no weight.
            let mut line = vec![255; columns.line().len()];
            line[..(right - left) * 3].copy_from_slice(&levels[left * 3..right * 3]);
            let mut results = [vec![0; axis.wanted as usize * 3], vec![0; axis.wanted as usize * 3]];
            columns.across(&line, &mut results[0]);
            columns.across_in_rust(&line, &mut results[1]);
            prop_assert_eq!(&results[0], &results[1]);

            let rows = Weights::new(filter, axis);
            for (first, weights) in rows.windows() {
                let row = |row: usize| &levels[first + row..][..100];
                let (mut sums, mut results) = ([0; 100], [[0; 100]; 2]);
                down(weights, row, &mut sums, &mut results[0]);
                down_in_rust(weights, row, &mut sums, &mut results[1]);
                prop_assert_eq!(results[0], results[1]);
            }
        }
    }
}
