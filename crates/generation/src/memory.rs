//! How much is worth remembering.
//!
//! Cells of requests that are done are kept, for whoever begins alike. They are not free: attention
//! looks at every cell that holds something, of whatever sequence, for each token that is computed.
//! (Measured with Gemma 3 270M on two cores: with 15,000 cells remembered beside 4,000 in use, a step of
//! 16 tokens takes 25 % longer, reading a prompt half as long again.) So memory is held to what it earns:
//! the time that shared tokens saved, against the time that remembered cells took. Where nobody asks
//! twice little is kept; where conversations go on, all that fits.

use crate::budget::Costs;

/// With every request, what was seen before counts this much: about the last 50 matter.
const REMEMBERED: f64 = 0.98;

/// What is kept changes by this much at a time.
const CHANGE: f64 = 0.8;

/// Memory that has saved nothing yet may cost as much as reading this share of all cells once.
const CREDIT: f64 = 0.03;

/// Cells that may be remembered, and what says so.
#[derive(Clone, Debug)]
pub struct Memory {
    cells: f64,
    /// Tokens that were shared with requests that were done: they did not have to be read.
    saved: f64,
    /// Remembered cells, times the tokens that were computed beside them.
    carried: f64,
    limit: f64,
}

impl Memory {
    /// Everything may be remembered until it is known what that costs.
    #[must_use]
    pub fn new(cells: usize) -> Memory {
        let cells = cells as f64;
        Memory { cells, saved: 0.0, carried: 0.0, limit: cells }
    }

    /// A request shares so many tokens with requests that were done.
    pub fn shared(&mut self, tokens: usize) {
        self.saved += tokens as f64;
    }

    /// So many tokens were computed beside so many remembered cells.
    pub fn carried(&mut self, tokens: usize, remembered: usize) {
        self.carried += tokens as f64 * remembered as f64;
    }

    /// A request ended; tells how many cells may be remembered.
    pub fn request_ended(&mut self, costs: Option<Costs>) -> usize {
        if let Some(Costs { read, carry }) = costs {
            let worth = (self.saved + CREDIT * self.cells) * read;
            let change = if self.carried * carry > worth { CHANGE } else { 1.0 / CHANGE };
            // A single cell, so that what shrinks can grow.
            self.limit = (self.limit * change).clamp(1.0, self.cells);
        }
        self.saved *= REMEMBERED;
        self.carried *= REMEMBERED;
        // Truncation is meant.
        self.limit as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELLS: usize = 16_384;
    /// As measured: a token read in 1.56 ms, a remembered cell 65 ns for each token beside it.
    const COSTS: Costs = Costs { read: 1.56e-3, carry: 65e-9 };

    /// What is kept after some requests of 300 tokens, which share so many, with memory filled to its limit:
    /// on average over the last half of them.
    fn kept(memory: &mut Memory, requests: usize, shares: usize, costs: Option<Costs>) -> usize {
        let (mut limit, mut sum) = (memory.limit as usize, 0);
        for request in 0..requests {
            memory.shared(shares);
            memory.carried(300 - shares, limit);
            limit = memory.request_ended(costs);
            sum += if request >= requests / 2 { limit } else { 0 };
        }
        sum / requests.div_ceil(2)
    }

    #[test]
    fn what_nobody_asks_for_twice_is_forgotten_and_what_is_shared_is_kept() {
        let mut memory = Memory::new(CELLS);
        let little = kept(&mut memory, 300, 0, Some(COSTS));
        assert!((100..3_000).contains(&little), "{little}");
        assert_eq!(kept(&mut memory, 300, 280, Some(COSTS)), CELLS);
        assert!(kept(&mut memory, 300, 0, Some(COSTS)) < 3_000);
    }

    #[test]
    fn all_is_kept_while_it_is_not_known_to_cost_anything() {
        let free = Costs { carry: 0.0, ..COSTS };
        assert_eq!(kept(&mut Memory::new(CELLS), 300, 0, None), CELLS);
        assert_eq!(kept(&mut Memory::new(CELLS), 300, 0, Some(free)), CELLS);
    }
}
