//! The answers of one submission, gathered: one wake-up however many items it had.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use halny_types::{Blame, Fault};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::oneshot;

/// An answer, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Served<A> {
    /// The answer.
    pub answer: A,
    /// Time it waited for its batch.
    pub queued: Duration,
    /// Its share of the time the device was taken, by the work it brought.
    pub device_time: Duration,
}

/// Why an accepted item has no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ItemError {
    /// The deadline could not be met any more when its turn came; the device never saw it.
    #[error("the deadline passed before the request's turn came; allow more time, or send less at once")]
    Late,
    /// The model failed on this item, alone.
    #[error("{message}")]
    Failed {
        /// Whose fault it was.
        fault: Fault,
        /// What to tell the client.
        message: String,
    },
}

impl Blame for ItemError {
    fn fault(&self) -> Fault {
        match self {
            ItemError::Late => Fault::Late,
            ItemError::Failed { fault, .. } => *fault,
        }
    }
}

/// The outcome of one item.
pub type Outcome<A> = Result<Served<A>, ItemError>;

/// The outcomes of one submission, in the order of its items. Dropping it says that nobody waits
/// any more: what has not reached the device never will.
pub struct Pending<A> {
    receiver: oneshot::Receiver<Vec<Outcome<A>>>,
    gone: Arc<AtomicBool>,
}

/// Where one item's outcome goes. Dropped without one, it says that the item failed, so that
/// nobody waits for ever.
pub(crate) struct Slot<A> {
    gather: Arc<Gather<A>>,
    index: usize,
    answered: bool,
}

struct Gather<A> {
    slots: Mutex<Slots<A>>,
    gone: Arc<AtomicBool>,
}

struct Slots<A> {
    outcomes: Vec<Option<Outcome<A>>>,
    missing: usize,
    sender: Option<oneshot::Sender<Vec<Outcome<A>>>>,
}

/// A place for each of `count` outcomes, and the future of them all.
pub(crate) fn gather<A>(count: usize) -> (Vec<Slot<A>>, Pending<A>) {
    let (sender, receiver) = oneshot::channel();
    let gone = Arc::new(AtomicBool::new(false));
    let outcomes = std::iter::repeat_with(|| None).take(count).collect();
    let mut slots = Slots { outcomes, missing: count, sender: Some(sender) };
    slots.send_when_whole();
    let gather = Arc::new(Gather { slots: Mutex::new(slots), gone: Arc::clone(&gone) });
    let slots = (0..count).map(|index| Slot { gather: Arc::clone(&gather), index, answered: false }).collect();
    (slots, Pending { receiver, gone })
}

impl<A> Slots<A> {
    fn send_when_whole(&mut self) {
        if self.missing > 0 {
            return;
        }
        if let Some(sender) = self.sender.take() {
            // Nobody waiting is no error: the client has gone.
            let _ = sender.send(self.outcomes.drain(..).flatten().collect());
        }
    }
}

impl<A> Slot<A> {
    /// Whether nobody waits for the outcome any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gather.gone.load(Ordering::Relaxed)
    }

    /// Puts the outcome in its place.
    pub(crate) fn answer(mut self, outcome: Outcome<A>) {
        self.put(outcome);
    }

    fn put(&mut self, outcome: Outcome<A>) {
        self.answered = true;
        let mut slots = self.gather.slots.lock();
        if let Some(slot) = slots.outcomes.get_mut(self.index) {
            *slot = Some(outcome);
        }
        slots.missing -= 1;
        slots.send_when_whole();
    }
}

impl<A> Drop for Slot<A> {
    fn drop(&mut self) {
        if !self.answered {
            self.put(Err(ItemError::Failed {
                fault: Fault::Ours,
                message: "the request was dropped inside the server; try again".to_owned(),
            }));
        }
    }
}

impl<A> Future for Pending<A> {
    type Output = Vec<Outcome<A>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<Outcome<A>>> {
        // Every slot answers, even when dropped, so the sender is never dropped unsent.
        Pin::new(&mut self.receiver).poll(context).map(Result::unwrap_or_default)
    }
}

impl<A> Drop for Pending<A> {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}
