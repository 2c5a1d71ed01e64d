//! Lanes: the queue in front of one loaded profile, and the rule that forms batches from it.
//!
//! A lane trades waiting for width. Wider batches use the device better; waiting costs latency.
//! The rule, in one sentence: *when an instance is free, run the batch that does the most useful
//! work per second and still meets the oldest deadline; wait only while one more item would come
//! sooner than the batch's fixed cost is worth.*
//!
//! What a lane promises, each tried by a property test in `tests/promises`:
//!
//! 1. **Nothing accepted is lost.** Every accepted item is answered exactly once: with an answer,
//!    a failure of its own, or [`ItemError::Late`]; unless its client has gone.
//! 2. **Limits hold.** A batch never exceeds `max_batch_items` or `max_batch_tokens` (padding
//!    counted); the queue never exceeds its items and bytes.
//! 3. **Nothing waits in vain.** The device is never free for longer than `max_batch_delay` while
//!    an item waits, and never at all when waiting cannot widen the batch; but for the instance that
//!    background work leaves free (9).
//! 4. **Nothing is passed over for ever.** Packing by length may let at most [`PASSED_OVER_MAX`]
//!    batches go ahead of an item out of turn; then it goes with the next ones, in order.
//! 5. **Tenants share by weight.** Start-time fair queueing (Goyal, Vin, Cheng, 1996) orders the
//!    items of a priority class: while two tenants both wait, the work each got, divided by its
//!    weight, differs by no more than a constant that does not grow with time.
//! 6. **Refusals are early.** What would not be answered by its deadline is refused on arrival,
//!    with the time after which it would not be.
//! 7. **One bad item fails alone.** A batch that fails is run once more item by item.
//! 8. **Device time is conserved.** The shares in [`Served::device_time`] add up to the time the
//!    batch took.
//! 9. **Background work gives way.** Items of [`Priority::Batch`] run when no others wait, never in a
//!    batch with others, and get all that others leave, but for what follows. While people are about,
//!    which is until [`background::ABOUT`] after the last of them, background batches take no longer than a usual
//!    interactive request takes alone (or one item, if that takes longer), so that is the most that who
//!    comes alone waits; and where there are several instances background work leaves one of them free,
//!    so that who comes alone waits for nobody. (Its batches may then take four times as long.) When
//!    nobody is about its batches take at most [`background::CALM`], or what makes the fixed cost of a
//!    batch a tenth of it: that is what the first who comes after a pause may wait. Background items fill
//!    at most half the queue, and nobody else is refused, or let go, for what of them waits.
//!
//! The rule is in [`former`], which has no threads and reads no clock, so that a simulation can
//! drive it; [`lane`] puts it behind a lock, with one operating-system thread for each instance.
//!
//! Not `tower::buffer` with `tower::batch`: neither sees token counts, tenants or deadlines.

pub mod background;
pub mod former;
pub mod lane;
mod outlook;
pub mod pack;
pub mod pending;
pub mod queue;
pub mod rate;
pub mod refusal;
pub mod time_model;

use std::num::NonZeroU32;
use std::time::Duration;

use halny_types::{Priority, TenantId, Tick};

pub use halny_types::project::Packing;
pub use lane::{Lane, Ran, RunFailure, Runner};
pub use pending::{ItemError, Pending, Served};
pub use refusal::Refusal;

/// How many batches may go ahead of an item out of turn: twice what it takes to empty the horizon.
pub const PASSED_OVER_MAX: u32 = 16;

/// Packing looks this many full batches ahead in the order, no further: what lies behind cannot
/// overtake, which is what keeps shares fair and waits bounded. Under overload (MiniLM, fp32,
/// batches of 32) eight instead of four saved a seventh of the processor time of an answer.
pub const HORIZON_BATCHES: usize = 8;

/// What a lane may hold and how long it may wait: the limits of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Rows in one batch at most (an item may bring several).
    pub max_batch_items: usize,
    /// Rows times the longest length in one batch at most: tokens, padding counted.
    pub max_batch_tokens: usize,
    /// The longest an item waits for others while an instance is free.
    pub max_batch_delay: Duration,
    /// Items that may wait.
    pub max_queue_items: usize,
    /// Bytes of items that may wait.
    pub max_queue_bytes: usize,
    /// How batches are packed.
    pub packing: Packing,
}

/// What a lane needs to know about an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Length along the padded axis: tokens; 1 where nothing is padded.
    pub length: usize,
    /// Rows it brings along the batch axis.
    pub rows: usize,
    /// Bytes it holds while it waits.
    pub bytes: usize,
    /// Only items of one group can run together.
    pub group: u64,
    /// Whether it can run together with others at all.
    pub batchable: bool,
}

impl Load {
    /// The useful work it brings, in tokens (rows where nothing is padded).
    #[must_use]
    pub fn work(&self) -> usize {
        self.length.saturating_mul(self.rows).max(1)
    }
}

/// Who an item belongs to and until when it is worth answering.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Whose share of the lane it takes.
    pub tenant: TenantId,
    /// How large that share is, beside other tenants'.
    pub weight: NonZeroU32,
    /// Its class; classes are strict.
    pub priority: Priority,
    /// After this moment its answer is worth nothing.
    pub deadline: Tick,
}
