//! Why a task did not do what it was asked.

use halny_engine::EngineError;
use halny_types::{Blame, Fault};
use thiserror::Error;

/// Why a task did not do what it was asked.
///
/// Texts name files of the model by their bare name and never a path of this host.
#[derive(Clone, Debug, Error)]
pub enum TaskError {
    /// A file of the model is missing, unreadable, or says what is not supported. For the operator.
    #[error("{file}: {problem}")]
    File {
        /// Its name in the model's folder.
        file: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The graph is not one that this task can run. For the operator.
    #[error("{0}")]
    Graph(String),
    /// The project file asks for what the model cannot do. For the operator.
    #[error("{0}")]
    Options(String),
    /// The request's value is of a kind that another task takes.
    #[error("this model's task is \"{task}\": it takes {takes}")]
    WrongInput {
        /// The task, as the project file writes it.
        task: &'static str,
        /// What it takes instead.
        takes: &'static str,
    },
    /// A text has more tokens than the model takes, and cutting it was not asked for.
    #[error("the text has {tokens} tokens, the limit is {limit}, special tokens counted; send a shorter text")]
    TooManyTokens {
        /// Tokens of the text, special ones included.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// A text is so long that it is not even tokenised.
    #[error("the text has {bytes} bytes; texts over {limit_bytes} bytes cannot fit the limit of {limit} tokens")]
    TextTooLong {
        /// Bytes of the text in UTF-8.
        bytes: usize,
        /// Bytes that are tokenised at most.
        limit_bytes: usize,
        /// The limit in tokens.
        limit: usize,
    },
    /// A query leaves no room for its document.
    #[error(
        "the query alone has {tokens} tokens, a query and its document together may have {limit}; shorten the query"
    )]
    QueryTooLong {
        /// Tokens of the query, special tokens not counted.
        tokens: usize,
        /// Tokens for query and document together, special tokens not counted.
        limit: usize,
    },
    /// There is nothing to run.
    #[error("the input has no tokens; send at least one")]
    NoTokens,
    /// A token that the model does not know.
    #[error("token {id} is not in the model's vocabulary of {vocabulary} tokens")]
    UnknownToken {
        /// The token.
        id: u32,
        /// The size of the vocabulary.
        vocabulary: u32,
    },
    /// The tokenizer has no token for a part of the text.
    #[error("the model's tokenizer has no tokens for this text")]
    NotTokenised,
    /// Bytes that are no image of a known format.
    #[error("the bytes are no JPEG, PNG or WebP image")]
    NoImage,
    /// An image that is damaged or ends early.
    #[error("the {format} image is damaged or cut off")]
    BrokenImage {
        /// Its format.
        format: &'static str,
    },
    /// An image of a known format in a variant that is not supported.
    #[error("this variant of {format} is not supported; send a baseline or progressive JPEG, a PNG or a WebP")]
    UnsupportedImage {
        /// Its format.
        format: &'static str,
    },
    /// An image that would take too much memory or time to decode.
    #[error(
        "the image is {width} x {height} pixels; at most {max_side} a side, {max_megapixels} megapixels, and {max_mebibytes} MiB while decoding are taken; send a smaller image"
    )]
    ImageTooLarge {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// The longest side taken.
        max_side: u32,
        /// The most pixels taken, in millions.
        max_megapixels: u64,
        /// The most memory decoding may take, in MiB.
        max_mebibytes: u64,
    },
    /// Tensors that do not fit the model.
    #[error(transparent)]
    Tensors(EngineError),
    /// Tensors of one request whose outermost dimensions differ, or are zero.
    #[error(
        "the outermost dimension is the batch and has to be the same, and at least 1, in every input; given were {lengths:?}"
    )]
    UnequalRows {
        /// The outermost dimensions, in the signature's order.
        lengths: Vec<usize>,
    },
    /// Items that cannot share a batch were put into one.
    #[error("the batch could not be formed")]
    Mixed,
    /// The graph's outputs are not as its signature promises.
    #[error("the model's answer does not have the form that its signature promises")]
    Outputs {
        /// What differs. For the log.
        cause: String,
    },
    /// The graph's answer holds an infinity or a NaN.
    #[error("the model's answer to this input is not a finite number")]
    NotFinite,
}

impl Blame for TaskError {
    fn fault(&self) -> Fault {
        match self {
            TaskError::File { .. }
            | TaskError::Graph(_)
            | TaskError::Options(_)
            | TaskError::Mixed
            | TaskError::Outputs { .. }
            | TaskError::NotFinite => Fault::Ours,
            TaskError::TooManyTokens { .. }
            | TaskError::TextTooLong { .. }
            | TaskError::QueryTooLong { .. }
            | TaskError::ImageTooLarge { .. } => Fault::TooLarge,
            TaskError::WrongInput { .. }
            | TaskError::NoTokens
            | TaskError::UnknownToken { .. }
            | TaskError::NotTokenised
            | TaskError::NoImage
            | TaskError::BrokenImage { .. }
            | TaskError::UnequalRows { .. } => Fault::Caller,
            TaskError::UnsupportedImage { .. } => Fault::Unsupported,
            TaskError::Tensors(error) => error.fault(),
        }
    }
}
