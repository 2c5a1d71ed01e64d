//! What is asked of a language model, and what comes back.

use std::sync::Arc;
use std::time::Duration;

use halny_engine::TokenId;
use halny_types::RequestContext;

use crate::grammar::Grammar;
use crate::sampling::SamplingOptions;
use crate::text::StopStrings;

/// One text to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks, and until when.
    pub context: RequestContext,
    /// The tokens to continue. Never empty.
    pub prompt: Arc<[TokenId]>,
    /// Tokens to write at most.
    pub max_tokens: usize,
    /// How a token is chosen.
    pub sampling: SamplingOptions,
    /// Which of several answers to the same prompt this is: with a seed they differ by it.
    pub answer: u64,
    /// Texts that end the answer.
    pub stop: StopStrings,
    /// Whether the stop string that ends the answer is part of it.
    pub include_stop: bool,
    /// Whether the model's own end of text is written on over, for measurements.
    pub ignore_end: bool,
    /// What the text has to look like.
    pub grammar: Option<Grammar>,
    /// The adapter that changes the weights, by its place.
    pub adapter: Option<usize>,
}

/// A token that was written, for clients that want probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The token.
    pub token: TokenId,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens at its place, the likeliest first.
    pub top: Vec<(TokenId, f32)>,
}

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Text that may be shown: whole characters, nothing that could still become a stop string.
    Text {
        /// The text; may be empty where only `written` has news.
        text: String,
        /// The tokens that were written since the last event, where probabilities are wanted.
        written: Vec<Written>,
    },
    /// The end; nothing comes after it.
    Finished(Finished),
}

/// Why and how a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// What it took.
    pub usage: Usage,
}

/// Why a text ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model said so, or a grammar was complete.
    End,
    /// One of the request's stop strings came, by its place.
    StopString(usize),
    /// It has as many tokens as were asked for.
    Length,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were known already.
    pub shared_tokens: usize,
    /// Tokens that were written.
    pub written_tokens: usize,
    /// Its share of the device's time: each step's time is divided among the tokens it computed.
    pub device_time: Duration,
    /// From arrival to the first token.
    pub first_token: Duration,
    /// How often it was preempted.
    pub preemptions: u32,
}
