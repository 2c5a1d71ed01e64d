//! How much of a step may read prompts while others write.
//!
//! Reading makes a step longer, and everyone who writes waits for the whole step: the time between
//! two of their tokens is the step's time. So one prompt gets what keeps a step within a given multiple of
//! what it would take without it. The more prompts wait, the more may be added: each delays all behind
//! it, and where few write because many wait to, every step costs its fixed part for little. (Measured
//! with 16 clients on two cores: with the allowance of one prompt half of them waited to be read, and
//! first tokens came after 9 s; in proportion to the waiting, after 3 s, and 10 % more was written.)
//! What steps take is learned as `fixed + written * a + read * b + (written + read) * cells * c`, by least
//! squares that forget: a machine gets busier, and a cache longer.

use std::time::Duration;

/// Every step, what was seen before counts this much: about the last 100 steps matter.
const REMEMBERED: f64 = 0.99;

/// Steps before the fit is trusted.
const SEEN_MIN: u32 = 8;

/// While nothing is known, a prompt is read in pieces of this many tokens beside those who write.
const PIECE_AT_FIRST: usize = 32;

/// Where several prompts wait they are read in pieces of this many tokens, in fewer steps: a token of a
/// small piece costs up to twice as much as one of a large.
const PIECE_OF_SEVERAL: usize = 128;

/// For such a piece a step may take as long as for this many prompts, even if fewer wait.
const SEVERAL: usize = 8;

/// Fewer would take for ever: each step also costs its fixed part.
const PIECE_MIN: usize = 8;

/// What is learned of a step: its fixed part, and what each token written, each token read, and each
/// cell beside each token add.
const TERMS: usize = 4;

/// Cells are counted in thousands, so that no term is much larger than another.
const CELLS_UNIT: f64 = 1_000.0;

/// What steps take, as learned from those that ran.
#[derive(Clone, Debug, Default)]
pub struct StepTimes {
    /// Weighted sums of products of the terms with one another, and with the seconds taken.
    squares: [[f64; TERMS]; TERMS],
    products: [f64; TERMS],
    seen: u32,
    model: Option<[f64; TERMS]>,
    /// Cells that held something in the last step.
    cells: usize,
}

/// What memory saves and costs, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// A token that is read.
    pub read: f64,
    /// A cell that holds something, for each token that is computed.
    pub carry: f64,
}

impl StepTimes {
    /// A step that wrote and read so many tokens, with so many cells that held something, took this long.
    pub fn saw(&mut self, written: usize, read: usize, cells: usize, took: Duration) {
        self.cells = cells;
        let x = [1.0, written as f64, read as f64, (written + read) as f64 * cells as f64 / CELLS_UNIT];
        // Relative errors count, or long steps would decide alone what short ones cost.
        let seconds = took.as_secs_f64().max(1e-6);
        let weight = 1.0 / (seconds * seconds);
        for (i, xi) in x.iter().enumerate() {
            for (j, xj) in x.iter().enumerate() {
                self.squares[i][j] = self.squares[i][j] * REMEMBERED + weight * xi * xj;
            }
            self.products[i] = self.products[i] * REMEMBERED + weight * xi * seconds;
        }
        self.seen = self.seen.saturating_add(1);
        self.model = if self.seen < SEEN_MIN { None } else { solve(&self.squares, &self.products) };
    }

    /// How many tokens may be read in a step that writes `written` while `prompts` wait to be read: so
    /// many that one prompt makes it at most `stretch` times as long, and each more adds as much again.
    /// Several get a piece that is worth its step, as long as that is no more than eight would get.
    #[must_use]
    pub fn read_beside(&self, written: usize, prompts: usize, stretch: f64) -> usize {
        let Some([fixed, each_written, each_read, each_cell]) = self.model else { return PIECE_AT_FIRST };
        let beside = each_cell * self.cells as f64 / CELLS_UNIT;
        let (each_written, each_read) = (each_written + beside, each_read + beside);
        let without = (fixed + each_written * written as f64).max(0.0);
        if each_read <= 0.0 {
            return PIECE_AT_FIRST;
        }
        let of_one = without * (stretch - 1.0).max(0.0) / each_read;
        // Truncation is meant; a huge quotient saturates.
        let of = |prompts: usize| (of_one * prompts as f64) as usize;
        let piece = if prompts > 1 { of(SEVERAL).min(PIECE_OF_SEVERAL) } else { PIECE_MIN };
        of(prompts).max(piece).max(PIECE_MIN)
    }

    /// What reading a token takes now, and what a cell that holds something adds to each token; `None`
    /// while that is not known.
    #[must_use]
    pub fn costs(&self) -> Option<Costs> {
        let [_, _, read, carry] = self.model?;
        let carry = (carry / CELLS_UNIT).max(0.0);
        Some(Costs { read: (read + carry * self.cells as f64).max(0.0), carry })
    }
}

/// Solves the normal equations. A little is added to the diagonal, in each unknown's own scale, so
/// that what was never varied (a server that only ever writes) counts as nothing and not as noise.
fn solve(squares: &[[f64; TERMS]; TERMS], products: &[f64; TERMS]) -> Option<[f64; TERMS]> {
    let mut m = *squares;
    let mut v = *products;
    let scale = m[0][0];
    for (i, row) in m.iter_mut().enumerate() {
        row[i] += row[i].max(scale) * 1e-6;
    }
    for i in 0..TERMS {
        let (above, pivot) = (m[i], m[i][i]);
        if pivot.abs() < f64::MIN_POSITIVE {
            return None;
        }
        for j in i + 1..TERMS {
            let factor = m[j][i] / pivot;
            for (entry, above) in m[j].iter_mut().zip(above) {
                *entry -= factor * above;
            }
            v[j] -= factor * v[i];
        }
    }
    let mut x = [0.0; TERMS];
    for i in (0..TERMS).rev() {
        let known: f64 = (i + 1..TERMS).map(|k| m[i][k] * x[k]).sum();
        x[i] = (v[i] - known) / m[i][i];
    }
    x.iter().all(|value| value.is_finite()).then_some(x)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_a_step_costs_is_learned_and_kept_to(fixed in 1u64..50_000, written in 1u64..20_000, read in 1u64..20_000, steps in prop::collection::vec((0usize..16, 0usize..64), 40..200)) {
            let cost = |w: usize, r: usize| Duration::from_micros(fixed + written * w as u64 + read * r as u64);
            let mut times = StepTimes::default();
            for (w, r) in steps {
                if w + r > 0 {
                    times.saw(w, r, 100, cost(w, r));
                }
            }
            for (writing, prompts) in [(1, 1), (4, 1), (16, 1), (4, 3)] {
                let allowed = times.read_beside(writing, prompts, 1.8);
                let ratio = cost(writing, allowed).as_secs_f64() / cost(writing, 0).as_secs_f64();
                let most = 1.0 + 0.9 * if prompts > 1 { prompts.max(SEVERAL) } else { 1 } as f64;
                prop_assert!(allowed == PIECE_MIN || ratio < most, "{allowed} tokens stretch a step by {ratio}");
            }
        }
    }

    #[test]
    fn what_a_remembered_cell_costs_is_learned() {
        // Nanoseconds, about as Gemma 3 270M takes them on two cores.
        let cost = |w: usize, r: usize, cells: usize| 16_000_000 + 2_800_000 * w + 1_500_000 * r + 60 * (w + r) * cells;
        let mut times = StepTimes::default();
        for step in 0..200 {
            let (w, r, cells) = (step % 9, (step * 7) % 40, 1_000 + (step * 613) % 15_000);
            times.saw(w, r, cells, Duration::from_nanos(cost(w, r, cells) as u64));
        }
        let Costs { read, carry } = times.costs().unwrap();
        assert!((carry / 60e-9 - 1.0).abs() < 0.1, "{carry}");
        let cells = 1_000 + (199 * 613) % 15_000;
        assert!((read / (1.5e-3 + 60e-9 * cells as f64) - 1.0).abs() < 0.1, "{read}");
        assert_eq!(StepTimes::default().costs(), None);
    }

    #[test]
    fn nothing_known_means_small_pieces() {
        assert_eq!(StepTimes::default().read_beside(4, 1, 1.8), PIECE_AT_FIRST);
    }
}
