//! One thing to run: a text's tokens, an image's levels, or a request's tensors.

use halny_engine::Tensor;

/// One thing to run, made by [`Task`](crate::Task) and joined with others by
/// [`Collator`](crate::Collator).
#[derive(Clone, Debug)]
pub struct Item {
    pub(crate) content: Content,
    pub(crate) length: usize,
    pub(crate) rows: usize,
    pub(crate) group: u64,
    pub(crate) batchable: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Tokens(Tokens),
    /// Levels in the order of the graph's input: `[height, width, 3]` or `[3, height, width]`.
    /// Bytes, not the graph's singles: a queue holds four times as many, and converting while
    /// joining reads less memory than copying would.
    Levels(Vec<u8>),
    Tensors(Vec<Tensor>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    /// The segment of each token; empty where all are 0.
    pub(crate) types: Vec<u8>,
}

impl Item {
    /// Its length along the axis that is padded: tokens (the graph's own length where that is
    /// fixed); 1 for images and tensors.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Rows it takes in a batch: 1, except for tensors with an outermost dimension.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of memory it holds, for the limits of queues.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let held = match &self.content {
            Content::Tokens(tokens) => tokens.ids.capacity() * size_of::<u32>() + tokens.types.capacity(),
            Content::Levels(levels) => levels.capacity(),
            Content::Tensors(tensors) => tensors.iter().map(|tensor| tensor.bytes().len()).sum(),
        };
        size_of::<Item>() + held
    }

    /// Tokens of the text, special ones counted, padding not; 0 when it is no text.
    #[must_use]
    pub fn tokens(&self) -> usize {
        match &self.content {
            Content::Tokens(tokens) => tokens.ids.len(),
            Content::Levels(_) | Content::Tensors(_) => 0,
        }
    }

    /// Only items of one group may share a batch. For tensors a hash of the inner shapes; for text
    /// the length where the graph has no mask to tell padding by; else 0.
    #[must_use]
    pub fn group(&self) -> u64 {
        self.group
    }

    /// Whether it may share a batch at all.
    #[must_use]
    pub fn is_batchable(&self) -> bool {
        self.batchable
    }
}
