//! Generation: one scheduler in front of one language model, which writes for many requests at once.
//!
//! A language model writes a token at a time, and each token needs all of the model's weights once,
//! whether for one sequence or for fifty. So work is done in **steps**, and what wants to be computed
//! shares each step: *sequences that are writing go first, with one token each; what is left of the
//! step's budget reads prompts, in chunks, so that a long prompt does not hold up anyone's stream.*
//!
//! What a scheduler promises, each tried by a property test in `tests/promises.rs`:
//!
//! 1. **Nothing accepted is lost.** Every accepted request ends exactly once, with a reason or an error,
//!    unless its client has gone.
//! 2. **No token is lost or repeated.** What a client receives is what the model says to its prompt alone,
//!    whatever arrives, leaves or is preempted meanwhile; up to rounding, as far as the decoder's sums
//!    depend on what is computed beside it.
//! 3. **Cells are conserved.** When nothing runs and nothing is remembered, every cell is free.
//! 4. **Limits hold.** A step never exceeds its tokens, the cache never exceeds its cells.
//! 5. **Tenants share by tokens.** Virtual token counters (Sheng et al., "Fairness in Serving Large
//!    Language Models", OSDI 2024) order admissions: while two tenants both wait, the service each got
//!    differs by no more than the paper's bound, which does not grow with time.
//! 6. **Who leaves, frees.** The cells of a client that has gone are free before the next step.
//! 7. **Equal seeds, equal text.** A request with a seed gets the same text whatever runs beside it.
//! 8. **Prompts stay private.** Prefixes are shared within one tenant, never between two: how fast an
//!    answer comes tells nothing about others' prompts.
//! 9. **Background work makes room.** A background request (`Priority::Batch`) is admitted when no other
//!    waits, and gives up its place and its cells, before the next step, to one that has none; prompts of
//!    others are read before its own. It keeps its text and goes on when there is room again. Half the
//!    places in the queue are not for the background, and no other request is refused for what of it waits.
//!    Where there is room for both they share steps: a token written beside others costs a step far less
//!    than a step, so a background writer slows the others down a little, and is not paused for them.
//!
//! Under pressure the youngest sequence is preempted: its cells are given up and its tokens, those
//! already streamed included, are read again later. The rule is in [`scheduler`], which has no threads
//! and reads no clock; [`lane`] puts it behind a channel, with one operating-system thread for the
//! decoder.
//!
//! Not llama.cpp's own server loop: its slots do not share prefixes, know no tenants and no deadlines.

pub mod budget;
pub mod fairness;
pub mod grammar;
pub mod job;
pub mod lane;
pub mod memory;
pub mod prefixes;
pub mod refusal;
pub mod request;
pub mod sampling;
pub mod scheduler;
pub mod text;
