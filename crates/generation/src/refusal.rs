//! Why a request is not taken, or does not end well.

use std::time::Duration;

use halny_types::{Blame, Fault};
use thiserror::Error;

/// Why a request was refused at once, or ended without an answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GenerationError {
    /// As many requests wait as may.
    #[error("{waiting} requests wait already, the queue holds {limit}; try again in {} s", retry_after.as_secs().max(1))]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
        /// Requests that may wait.
        limit: usize,
        /// When there will be room.
        retry_after: Duration,
    },
    /// It would wait longer than it may.
    #[error(
        "the first token would come in about {} ms, the request has {} ms for it; try again in {} s",
        predicted.as_millis(), budget.as_millis(), retry_after.as_secs().max(1)
    )]
    Wait {
        /// Time until it would be read, predicted.
        predicted: Duration,
        /// Time it may wait.
        budget: Duration,
        /// When the same request would be taken.
        retry_after: Duration,
    },
    /// The prompt and what is to be written do not fit.
    #[error(
        "the prompt has {prompt} tokens and {max_tokens} are to be written, this model holds {limit} in all; shorten the prompt or lower `max_tokens`"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that are to be written.
        max_tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// A text of more bytes than as many tokens as fit can stand for; nobody has counted its tokens.
    #[error(
        "the prompt has {bytes} bytes, the {limit} tokens that this model holds stand for {most} at most; shorten the prompt"
    )]
    TooManyBytes {
        /// Bytes of the prompt.
        bytes: usize,
        /// Bytes of as many of the longest tokens as fit.
        most: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// A prompt of no tokens.
    #[error("the prompt is empty; a model continues at least one token")]
    Empty,
    /// A token that the model does not have.
    #[error("the prompt has the token {token}, this model's tokens are 0 to {last}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// The last token of the vocabulary.
        last: u32,
    },
    /// The deadline passed; what was written before has been sent.
    #[error("the deadline passed before the answer was complete; give the request more time or ask for fewer tokens")]
    Late,
    /// The grammar and the model cannot go on together.
    #[error("the text cannot be continued as the grammar demands: {0}")]
    Grammar(String),
    /// The model failed. The cause is in the log.
    #[error("the model failed on this request")]
    Failed,
    /// Nothing more is taken: the model is being replaced or the server stops.
    #[error("the model is being unloaded; try again shortly")]
    Closed,
}

impl GenerationError {
    /// The reason in one word: a metric's label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            GenerationError::QueueFull { .. } => "queue_full",
            GenerationError::Wait { .. } => "wait",
            GenerationError::TooLong { .. } | GenerationError::TooManyBytes { .. } => "too_long",
            GenerationError::Empty => "empty",
            GenerationError::UnknownToken { .. } => "unknown_token",
            GenerationError::Late => "late",
            GenerationError::Grammar(_) => "grammar",
            GenerationError::Failed => "failed",
            GenerationError::Closed => "closed",
        }
    }
}

impl Blame for GenerationError {
    fn fault(&self) -> Fault {
        match self {
            GenerationError::TooLong { .. }
            | GenerationError::TooManyBytes { .. }
            | GenerationError::Empty
            | GenerationError::UnknownToken { .. }
            | GenerationError::Grammar(_) => Fault::Caller,
            GenerationError::Late => Fault::Late,
            GenerationError::Failed => Fault::Ours,
            GenerationError::QueueFull { .. } | GenerationError::Wait { .. } | GenerationError::Closed => {
                Fault::Overload
            }
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            GenerationError::QueueFull { retry_after, .. } | GenerationError::Wait { retry_after, .. } => {
                Some(*retry_after)
            }
            GenerationError::Closed => Some(Duration::from_millis(100)),
            _ => None,
        }
    }
}
