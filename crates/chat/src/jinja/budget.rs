//! What one rendering may use: steps, and bytes alive at once.
//!
//! Every text, list and map that a template makes holds its bytes from before it is allocated until
//! it is dropped, so that no operation, known or not thought of, can take more than there is. Steps
//! only ever go down: one for each expression, one for 64 bytes copied, one for each item visited.

use std::cell::Cell;
use std::rc::Rc;

/// Why a rendering ended before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The template called `raise_exception` with this text.
    Raised(String),
    /// An operation met a value it cannot work on. Line 0: not known yet.
    Wrong { what: String, line: u32 },
    /// No steps are left.
    Steps,
    /// No bytes are left.
    Memory,
    /// The prompt is longer than it may be.
    Output,
    /// Calls or values are nested deeper than they may be.
    Nesting,
}

impl Stop {
    /// An operation met a value it cannot work on.
    pub(crate) fn wrong(what: impl Into<String>) -> Stop {
        Stop::Wrong { what: what.into(), line: 0 }
    }

    /// The same, with its line where none is known.
    pub(crate) fn at(self, at: u32) -> Stop {
        match self {
            Stop::Wrong { what, line: 0 } => Stop::Wrong { what, line: at },
            other => other,
        }
    }
}

/// What is left of the steps and bytes of a rendering.
pub(crate) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<usize>,
}

/// Bytes of a copy that cost one step. Copying 64 bytes takes about as long as one expression.
const BYTES_PER_STEP: u64 = 64;

impl Budget {
    pub(crate) fn new(steps: u64, bytes: usize) -> Rc<Budget> {
        Rc::new(Budget { steps: Cell::new(steps), bytes: Cell::new(bytes) })
    }

    pub(crate) fn steps_left(&self) -> u64 {
        self.steps.get()
    }

    /// Pays for `steps` steps.
    #[inline]
    pub(crate) fn spend(&self, steps: u64) -> Result<(), Stop> {
        match self.steps.get().checked_sub(steps) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => Err(Stop::Steps),
        }
    }

    /// Pays for reading or copying `bytes` bytes.
    pub(crate) fn read(&self, bytes: usize) -> Result<(), Stop> {
        self.spend(bytes as u64 / BYTES_PER_STEP)
    }

    /// Takes `bytes` bytes until what is returned is dropped.
    pub(crate) fn hold(self: &Rc<Budget>, bytes: usize) -> Result<Held, Stop> {
        let mut held = Held { budget: Rc::clone(self), bytes: 0 };
        held.grow(bytes)?;
        Ok(held)
    }
}

/// Bytes taken from a budget; dropping gives them back.
pub(crate) struct Held {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Held {
    /// Takes `more` bytes.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Stop> {
        let left = self.budget.bytes.get().checked_sub(more).ok_or(Stop::Memory)?;
        self.budget.bytes.set(left);
        self.bytes += more;
        Ok(())
    }

    pub(crate) fn budget(&self) -> &Rc<Budget> {
        &self.budget
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.bytes.set(self.budget.bytes.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back_and_nothing_is_taken_beyond_the_end() {
        let budget = Budget::new(10, 100);
        let mut held = budget.hold(60).unwrap();
        assert!(matches!(budget.hold(41), Err(Stop::Memory)));
        held.grow(40).unwrap();
        assert!(matches!(held.grow(1), Err(Stop::Memory)));
        drop(held);
        assert_eq!(budget.hold(100).unwrap().bytes, 100);
        budget.read(640).unwrap();
        assert!(matches!(budget.spend(1), Err(Stop::Steps)));
    }
}
