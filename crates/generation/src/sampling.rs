//! From logits to a token.
//!
//! A [`Sampler`] belongs to one sequence. Its steps, in this order, which is vLLM's:
//!
//! 1. tokens that are not allowed (a grammar's mask) are left out;
//! 2. penalties: repetition over prompt and answer, as in Hugging Face's library (positive logits are
//!    divided, negative ones multiplied); frequency and presence over the answer only, as OpenAI says;
//! 3. `logit_bias` is added. At temperature 0 the largest is the answer now, of equal ones the lowest
//!    id, as in llama.cpp;
//! 4. the temperature divides;
//! 5. min-p: tokens less probable than `min_p` times the most probable one are left out;
//! 6. top-k: the `top_k` most probable stay, of equal ones those with lower ids;
//! 7. top-p: of what is left, the smallest number of most probable tokens that hold `top_p` of its
//!    probability stay;
//! 8. one is drawn.
//!
//! Log-probabilities are the model's own: of the logits as they came, before all of this, as vLLM's
//! `raw_logprobs`.
//!
//! **Equal seeds, equal tokens.** Probabilities are whole numbers, 2^30 for the most probable token, so
//! that their sum is the same in whatever order it is taken; the exponential is our own, of additions
//! and multiplications only; the generator is ChaCha8 with the seed as its key, one number a token.
//! So from the same logits and the same seed the same token is drawn on every machine. What it costs:
//! tokens some 2 billion times less probable than the first one are never drawn.
//!
//! **No sorting.** 262,144 logits are read in blocks that the compiler turns into SIMD code; the largest
//! of each block tells which blocks hold candidates at all, and candidates are counted into buckets, of
//! which only the one with the border in it is sorted.
//!
//! A logit that is not a number counts as minus infinity.

mod choose;
mod logprobs;
mod options;
mod penalties;
mod scan;

pub use logprobs::{LOGPROB_LEAST, TokenLogprobs};
pub use options::{OptionsError, SamplingOptions};

use std::cell::RefCell;

use halny_engine::TokenId;
use halny_types::{Blame, Fault};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use thiserror::Error;

use crate::grammar::TokenMask;
use choose::{Chooser, Filters};
use penalties::Penalties;

/// Draws the tokens of one sequence. What it draws depends on its options, its seed and the logits only;
/// a sequence that is preempted keeps its sampler.
#[derive(Clone, Debug)]
pub struct Sampler {
    filters: Filters,
    penalties: Penalties,
    bias: Vec<(TokenId, f32)>,
    logprobs: Option<usize>,
    random: ChaCha8Rng,
}

/// A token that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Picked {
    /// The token.
    pub token: TokenId,
    /// How probable the model found it, where that was asked for.
    pub logprob: Option<TokenLogprobs>,
}

/// Why no token could be drawn.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PickError {
    /// No logit is a number above minus infinity.
    #[error("the model gave no token any probability")]
    NoLogits,
    /// All tokens that the response format allows were left out, or none was allowed.
    #[error("no token that may follow here has any probability; check logit_bias and the response format")]
    NothingAllowed,
}

impl Blame for PickError {
    fn fault(&self) -> Fault {
        match self {
            PickError::NoLogits => Fault::Ours,
            PickError::NothingAllowed => Fault::Caller,
        }
    }
}

/// What a pick needs and nothing outlives: up to 5 MB for 262,144 tokens, one for each thread that draws
/// rather than one for each sequence.
#[derive(Default)]
struct Scratch {
    logits: Vec<f32>,
    chooser: Chooser,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Sampler {
    /// A sampler for the `answer`-th answer (from 0) to a prompt. Answers to one request share its seed
    /// and still differ: each has its own stream of the generator. Without a seed, a random one is taken.
    ///
    /// The options have been checked ([`SamplingOptions::check`]).
    #[must_use]
    pub fn new(options: &SamplingOptions, prompt: &[TokenId], answer: u64) -> Sampler {
        let seed = options.seed.unwrap_or_else(rand::random);
        // The seed is the key as it stands: `seed_from_u64` may change between versions of the library.
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(key);
        random.set_stream(answer);
        Sampler {
            filters: Filters::new(options),
            penalties: Penalties::new(options, prompt),
            bias: options.logit_bias.clone(),
            logprobs: options.logprobs,
            random,
        }
    }

    /// Notes a token of the answer that was not drawn here: one that was forced. Tokens that were drawn
    /// are noted already.
    pub fn saw(&mut self, token: TokenId) {
        self.penalties.saw(token);
    }

    /// Draws the next token and notes it. Takes one number from the generator, unless the most probable
    /// token is taken anyway.
    ///
    /// # Errors
    /// When no token is left to be drawn; the sampler is as before then.
    pub fn pick(&mut self, logits: &[f32], allowed: Option<&TokenMask>) -> Result<Picked, PickError> {
        SCRATCH.with_borrow_mut(|scratch| self.pick_with(scratch, logits, allowed))
    }

    fn pick_with(
        &mut self,
        scratch: &mut Scratch,
        logits: &[f32],
        allowed: Option<&TokenMask>,
    ) -> Result<Picked, PickError> {
        let Scratch { logits: own, chooser } = scratch;
        let mut changed = allowed.is_some() || self.penalties.change() || !self.bias.is_empty();
        if changed {
            scan::copy_allowed(logits, allowed.map(TokenMask::as_slice), own);
            self.penalties.apply(own);
            for (token, bias) in &self.bias {
                if let Some(logit) = own.get_mut(*token as usize) {
                    *logit += bias;
                }
            }
        }
        if chooser.look(if changed { own } else { logits }) == f32::INFINITY {
            // Differences between infinities are not numbers; the largest numbers do as well.
            if !changed {
                scan::copy_allowed(logits, None, own);
                changed = true;
            }
            own.iter_mut().for_each(|logit| *logit = logit.min(f32::MAX));
            chooser.look(own);
        }
        let seen = if changed { own.as_slice() } else { logits };
        let random = &mut self.random;
        let token = chooser
            .choose(seen, &self.filters, || random.next_u64())
            .ok_or_else(|| if scan::any_number(logits) { PickError::NothingAllowed } else { PickError::NoLogits })?;
        self.penalties.saw(token);
        let logprob = self.logprobs.map(|count| logprobs::of(logits, token, count, chooser));
        Ok(Picked { token, logprob })
    }
}

#[cfg(test)]
mod tests;
