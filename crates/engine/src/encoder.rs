//! The contract of a model that reads only: a text's tokens in, its vector or its scores out, from a
//! file that brings its own vocabulary.
//!
//! What runs is an ordinary [`Instance`](crate::Instance), so that lanes, collating and warm-up know
//! no other. Its [`Signature`](crate::Signature):
//!
//! | port | elements | shape | is |
//! |---|---|---|---|
//! | in `input_ids` | INT32 | `[batch, tokens]` | tokens, from the left |
//! | in `attention_mask` | INT32 | `[batch, tokens]` | 1 for a token, 0 for what fills up its row |
//! | out `sentence_embedding` | FP32 | `[batch, dimensions]` | of [`Head::Vector`]: not scaled |
//! | out `logits` | FP32 | `[batch, scores]` | of [`Head::Scores`], and of [`Head::Relevance`] one a row |
//!
//! What fills up a row is not computed: a batch costs what its tokens cost.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use halny_types::project::Pooling;

use crate::{Device, LanguageModel, Loaded, TokenId};

/// What is wanted of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// One vector, its tokens' vectors pooled: as asked for, or else as the file says. Where neither
    /// does, the mean; for models whose tokens see only what is before them, the last.
    Vector(Option<Pooling>),
    /// Scores by the file's classification head, one a label.
    Scores,
    /// The first of those scores, of one that was trained to say how well two texts belong together.
    Relevance,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct EncoderSpec {
    /// The model's file. It has been checked.
    pub weights: PathBuf,
    /// Where to run it.
    pub device: Device,
    /// How many copies may run at once. They share their weights.
    pub instances: usize,
    /// Processor threads of one run.
    pub threads: usize,
    /// Tokens of the longest text that will come. Memory for it is taken at once, so it is cut to
    /// what the model was trained for.
    pub tokens_max: usize,
    /// What is wanted.
    pub head: Head,
}

/// The special tokens that a model was trained with around one text, or around two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenFrame {
    /// In front.
    pub before: Vec<TokenId>,
    /// Between two texts.
    pub between: Vec<TokenId>,
    /// At the end.
    pub after: Vec<TokenId>,
    /// What the first of two texts is put between before it is split: the white space that a prompt
    /// has around it, which may become one token with the text's own ends.
    pub around_first: [String; 2],
    /// The same for the second.
    pub around_second: [String; 2],
}

/// A model that reads, on its device.
pub struct LoadedEncoder {
    /// Its vocabulary and what its file says of itself.
    pub model: Arc<dyn LanguageModel>,
    /// What belongs around texts.
    pub frame: TokenFrame,
    /// Tokens of the longest text it takes, special ones counted.
    pub tokens_max: usize,
    /// Whether its scores are probabilities already.
    pub probabilities: bool,
    /// What runs.
    pub loaded: Loaded,
}

impl fmt::Debug for LoadedEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedEncoder")
            .field("card", self.model.card())
            .field("frame", &self.frame)
            .field("tokens_max", &self.tokens_max)
            .field("probabilities", &self.probabilities)
            .field("loaded", &self.loaded)
            .finish()
    }
}
