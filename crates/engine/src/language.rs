//! The contract of a language model: tokens in, logits out, and cells that remember.
//!
//! A loaded language model has two halves. A [`LanguageModel`] is what never changes: vocabulary,
//! limits, chat templates; any thread may ask it. A [`Decoder`] is what computes: it is owned by one
//! operating-system thread and holds **cells**. A cell keeps the keys and values of one token at one
//! position; a token that several sequences share ([`Decoder::share`]) takes one cell for all of them
//! and gives it back when the last of them lets go.
//!
//! Promises every decoder keeps, tried by [`testsuite::decoder`](crate::testsuite::decoder) against
//! each implementation:
//!
//! - What a sequence says next depends on its own tokens only: not on its neighbours in a step, on
//!   how its prompt was cut into steps, or on whether its first tokens were shared or computed.
//!   (Up to rounding: a sum that is taken in another order may differ in its last bits.)
//! - Cells are neither lost nor made up: whatever was taken is free again when every sequence that
//!   held it was cut.
//! - A step that fails leaves every sequence as it was before.
//!
//! Not [`Instance`](crate::Instance) with KV tensors as inputs and outputs: the cache would be copied
//! in and out of every step, and no two sequences could share a cell.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Choice, Device, EncoderSpec, EngineError, LoadPhase, LoadedEncoder, RunReport};

/// A token of a model's own vocabulary: `0..vocabulary`.
pub type TokenId = u32;

/// A place for a sequence in a decoder: `0..limits.sequences`. Places are given out by whoever owns
/// the decoder; one that holds nothing costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u16);

/// What a decoder can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Cells, all sequences together.
    pub cells: usize,
    /// Sequences at once.
    pub sequences: usize,
    /// Tokens in one step.
    pub step_tokens: usize,
    /// Tokens in one sequence: what the model was trained for, or `cells`, whichever is less.
    pub context: usize,
    /// Whether sequences can share cells and be cut anywhere. Models whose state is one vector
    /// (Mamba and its kin) cannot: there [`Decoder::share`] is never called, and
    /// [`Decoder::keep`] only with 0.
    pub shares: bool,
}

/// One token of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepToken {
    /// The token.
    pub token: TokenId,
    /// How many tokens of its sequence come before it.
    pub position: u32,
    /// Whose it is.
    pub sequence: SequenceId,
    /// Whether the logits of what follows it are wanted.
    pub wants_logits: bool,
}

/// Computes tokens. One operating-system thread owns it.
pub trait Decoder: Send {
    /// What it can hold.
    fn limits(&self) -> DecoderLimits;

    /// Computes up to `limits.step_tokens` tokens, which then take a cell each. The tokens of one
    /// sequence stand in order and go on where the sequence ends. `adapter` (a place in
    /// [`LanguageSpec::adapters`]) changes the weights for all of the step's tokens.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when there are not enough free cells, [`EngineError::Run`] when the
    /// model itself fails. Every sequence is then as it was before.
    fn step(&mut self, tokens: &[StepToken], adapter: Option<usize>) -> Result<RunReport, EngineError>;

    /// The logits of the `row`-th token of the last step that wanted them: one number for each token
    /// of the vocabulary. Empty when there is no such row.
    fn logits(&self, row: usize) -> &[f32];

    /// Gives the empty sequence `to` the first `tokens` tokens of `from`, without computing or
    /// copying them.
    fn share(&mut self, from: SequenceId, to: SequenceId, tokens: u32);

    /// Lets go of everything after the first `tokens` tokens of a sequence.
    fn keep(&mut self, sequence: SequenceId, tokens: u32);
}

/// Whether the names of special tokens in a text mean these tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// `<eos>` is the end of the text: for prompts that a template made.
    Parsed,
    /// `<eos>` is five characters: for what a user wrote.
    AsText,
}

/// What never changes about a loaded language model.
pub trait LanguageModel: Send + Sync {
    /// What the file says of itself.
    fn card(&self) -> &LanguageCard;

    /// The tokens of a text; with the beginning-of-text token in front when `begin` is set and the
    /// model was trained with one.
    fn tokenise(&self, text: &str, specials: Specials, begin: bool) -> Vec<TokenId>;

    /// The bytes a token stands for: often not a whole character. Empty for special tokens.
    fn piece(&self, token: TokenId) -> &[u8];

    /// The name of a special token, such as `<end_of_turn>`; `None` for others.
    fn special(&self, token: TokenId) -> Option<&str>;

    /// Whether the model says with this token that it has finished.
    fn ends(&self, token: TokenId) -> bool;
}

/// What a language model's file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LanguageCard {
    /// The family, such as `gemma3`.
    pub architecture: String,
    /// The number format of its weights, such as `Q4_K_M`.
    pub quantisation: String,
    /// How many weights it has.
    pub parameters: u64,
    /// The longest text it was trained for, in tokens.
    pub context_trained: usize,
    /// How many tokens it knows.
    pub vocabulary: usize,
    /// Bytes of its longest token: a text of more than so many for each token that fits cannot fit.
    pub token_bytes_max: usize,
    /// The token that begins a text, and its name.
    pub begin: Option<(TokenId, String)>,
    /// The token that ends a text, and its name.
    pub end: Option<(TokenId, String)>,
    /// Chat templates in Jinja's language by name; the usual one is `default`.
    pub chat_templates: BTreeMap<String, String>,
}

/// The number format of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CellFormat {
    /// IEEE 754 half.
    #[default]
    F16,
    /// 8 bits with a scale for each 32 numbers.
    Q8,
    /// 4 bits with a scale for each 32 numbers.
    Q4,
}

/// A low-rank change of a model's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSpec {
    /// Its file.
    pub weights: PathBuf,
    /// How strongly it is applied; 1 is as trained.
    pub scale: f32,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct LanguageSpec {
    /// The model's file. It has been checked.
    pub weights: PathBuf,
    /// Where to run it.
    pub device: Device,
    /// Layers on the device, the rest on processors; `None` for all.
    pub device_layers: Option<u32>,
    /// Processor threads of one step.
    pub threads: usize,
    /// Cells, all sequences together.
    pub cells: usize,
    /// Sequences at once.
    pub sequences: usize,
    /// Tokens in one step at most.
    pub step_tokens: usize,
    /// The number format of cells.
    pub cell_format: CellFormat,
    /// Whether attention is computed in one pass over the cells; `None` where the device does it well.
    pub flash_attention: Option<bool>,
    /// Adapters that a step may ask for, by their place.
    pub adapters: Vec<AdapterSpec>,
}

/// Loads language models onto devices.
pub trait LanguageEngine: Send + Sync {
    /// The engine's name and version, for metadata and logs.
    fn describe(&self) -> String;

    /// The devices this engine could use on this machine, best first.
    fn devices(&self) -> Vec<Device>;

    /// Whether 5-bit weights (Q5_0) compute faster on this device when they are written as 8-bit ones
    /// (Q8_0), which is exact and takes half as much memory again.
    fn widens(&self, device: Device) -> bool;

    /// Loads a model. Blocks for as long as that takes: call it off the async threads. The file is not
    /// opened again once it is loaded.
    ///
    /// # Errors
    /// [`EngineError::Load`] when the file, the device or the library does not allow it. A device
    /// that was named is never replaced by another.
    fn load(&self, spec: &LanguageSpec) -> Result<LoadedLanguage, EngineError>;

    /// Loads a model that reads only. Blocks like [`load`](LanguageEngine::load).
    ///
    /// # Errors
    /// As [`load`](LanguageEngine::load); and where the file's head is not the one wanted.
    fn load_encoder(&self, spec: &EncoderSpec) -> Result<LoadedEncoder, EngineError>;
}

/// A language model on its device.
pub struct LoadedLanguage {
    /// What never changes.
    pub model: Arc<dyn LanguageModel>,
    /// What computes.
    pub decoder: Box<dyn Decoder>,
    /// The device it runs on, and why that one.
    pub choice: Choice,
    /// Memory that loading took on the device: weights, cells and buffers.
    pub memory_bytes: u64,
    /// Where the time of loading went, in order.
    pub phases: Vec<LoadPhase>,
}

impl fmt::Debug for LoadedLanguage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedLanguage")
            .field("card", self.model.card())
            .field("limits", &self.decoder.limits())
            .field("choice", &self.choice)
            .field("memory_bytes", &self.memory_bytes)
            .field("phases", &self.phases)
            .finish()
    }
}
