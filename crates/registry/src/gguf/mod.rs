//! Whether a GGUF file's header tells the truth about the file and about the model.
//!
//! The format: a magic, a version, then keys with values, then the tensors' names, shapes, types and
//! offsets, then the data that the offsets point into
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>). Only the header is read.
//!
//! llama.cpp trusts the values: it multiplies and divides by them, allocates by them, and ends the
//! process (`GGML_ASSERT`, a division by zero, an exception that nobody catches) where they lie. So
//! besides the layout, what the values say is compared with each other, with the tensors, and with
//! what each architecture asserts (release b11434). What is refused here never gets there.
//!
//! What remains uncovered: the tensors' contents, and what a few architectures assert about
//! tensors that are missing or of another shape than their values say. An engine for strangers'
//! models still belongs in a process of its own.
//!
//! Not a `gguf` crate: those build the values in memory by the lengths that the file claims, and
//! know nothing about what the values mean.

mod adapter;
mod architecture;
mod charsmap;
mod header;
mod heads;
mod hyperparameters;
mod labels;
mod tensors;
mod value;
mod vocabulary;
mod widen;
mod wire;

use std::{fs::File, io::Read, path::Path};

use crate::RegistryError;
use header::Header;
pub use header::MAX_ALIGNMENT_BYTES;
#[cfg(any(test, feature = "testsuite"))]
pub(crate) use tensors::stored_bytes;
use value::Metadata;
pub use widen::widen;
use wire::Wire;

/// The longest header taken. The largest vocabularies of published models make headers of 20 MB.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;

/// What is wrong, in words that follow "... is not a sound GGUF file: ".
type Refusal = String;

/// What a sound file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufSummary {
    /// The kind of model, for example `gemma3`; an adapter's is that of its base model.
    pub architecture: String,
    /// What the file calls itself, shortened and escaped.
    pub name: Option<String>,
    /// How most weights are stored, for example `Q4_K_M`, where the file says so.
    pub file_type: Option<&'static str>,
    /// The elements of all tensors.
    pub parameters: u64,
    /// How many tensors it has.
    pub tensors: usize,
    /// How many bytes of tensor data follow the header, without what fills up the last.
    pub data_bytes: u64,
    /// By how many bytes [`widen`] makes its tensors larger; 0 where it would change nothing.
    pub widening_bytes: u64,
    /// A whole model, or what is laid over one.
    pub kind: GgufKind,
}

/// What a file is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GgufKind {
    /// A whole model.
    Model(GgufModel),
    /// A low-rank adapter for a model of the same architecture.
    LoraAdapter {
        /// How many of the model's tensors it changes.
        changes: usize,
        /// Whether one of them is the table of tokens: llama.cpp ends the process when such an
        /// adapter is laid over a model that [shares the table](GgufModel::shares_token_table).
        changes_token_table: bool,
        /// For how many experts it is, if it changes any: fewer than the model has would end the
        /// process.
        experts: Option<u32>,
    },
}

/// The measures of a whole model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufModel {
    /// How many tokens it was trained to see at once.
    pub context_length: u32,
    /// The width of its vectors.
    pub embedding_length: u32,
    /// How many layers it has.
    pub block_count: u32,
    /// Attention heads, one entry a layer; 0 where a layer has no attention.
    pub head_counts: Vec<u32>,
    /// Key and value heads, one entry a layer; 0 where a layer caches none.
    pub kv_head_counts: Vec<u32>,
    /// The width of one key head; 0 for models without attention.
    pub key_length: u32,
    /// The width of one value head; 0 for models without attention.
    pub value_length: u32,
    /// Experts of each layer that has some; 0 for models without.
    pub experts: u32,
    /// Whether the table from which tokens' vectors are taken also makes the output.
    pub shares_token_table: bool,
    /// How many tokens its vocabulary has.
    pub vocabulary: usize,
    /// Whether it says how a conversation is written.
    pub has_chat_template: bool,
    /// What the scores of its classification head mean, in their order; none where it does not say.
    pub labels: Vec<String>,
}

impl GgufSummary {
    /// The measures of a whole model; `None` for an adapter.
    #[must_use]
    pub fn model(&self) -> Option<&GgufModel> {
        match &self.kind {
            GgufKind::Model(model) => Some(model),
            GgufKind::LoraAdapter { .. } => None,
        }
    }
}

/// Checks the file at `path`, which the model calls `name`.
///
/// # Errors
/// [`RegistryError::Malformed`] with what is wrong, or [`RegistryError::Io`].
pub fn check_file(path: &Path, name: &str) -> Result<GgufSummary, RegistryError> {
    let failed = |error| RegistryError::io("read", name, error);
    let file = File::open(path).map_err(failed)?;
    let file_bytes = file.metadata().map_err(failed)?.len();
    check(file, file_bytes).map_err(|reason| RegistryError::Malformed { file: name.to_owned(), format: "GGUF", reason })
}

/// Checks a file of `file_bytes` bytes of which `reader` gives the beginning.
///
/// # Errors
/// What is wrong, in words.
pub fn check(reader: impl Read, file_bytes: u64) -> Result<GgufSummary, String> {
    let header = Header::read(&mut Wire::new(reader, file_bytes))?;
    let data_bytes = header.data_bytes(file_bytes)?;
    let Header { keys, tensors, .. } = header;
    for tensor in &tensors {
        tensor.check_use()?;
    }

    let architecture = architecture(&keys)?;
    let kind = if keys.text("general.type")? == Some(b"adapter") {
        adapter::check(&keys, &tensors)?
    } else {
        let mut model = hyperparameters::check(&keys, &architecture)?;
        model.vocabulary = vocabulary::check(&keys, &architecture)?;
        check_embedding(&tensors, &model)?;
        model.labels = labels::check(&keys, &architecture, &tensors)?;
        model.shares_token_table = tensors.iter().all(|tensor| tensor.name != "output.weight");
        GgufKind::Model(model)
    };
    Ok(GgufSummary {
        architecture,
        name: keys.label("general.name"),
        file_type: keys.u32("general.file_type")?.and_then(tensors::file_type),
        parameters: tensors.iter().fold(0, |sum, tensor| tensor.elements.saturating_add(sum)),
        tensors: tensors.len(),
        data_bytes,
        widening_bytes: widen::growth_bytes(&tensors),
        kind,
    })
}

fn architecture(keys: &Metadata) -> Result<String, Refusal> {
    let Some(name) = keys.text("general.architecture")? else {
        return Err("it does not say its general.architecture".to_owned());
    };
    let fits = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    match std::str::from_utf8(name) {
        Ok("clip") => Err("it is the part of a model that sees (mmproj), not a model".to_owned()),
        Ok(text) if (1..=64).contains(&name.len()) && name.iter().all(fits) => Ok(text.to_owned()),
        _ => Err("its general.architecture is not a short name of lower-case letters, digits, - and _".to_owned()),
    }
}

/// The table from which a token's vector is taken must have one row a token.
fn check_embedding(tensors: &[tensors::Tensor], model: &GgufModel) -> Result<(), Refusal> {
    let Some(table) = tensors.iter().find(|tensor| tensor.name == "token_embd.weight") else {
        return Err("it has no tensor token_embd.weight".to_owned());
    };
    let (width, rows) = (u64::from(model.embedding_length), model.vocabulary as u64);
    if table.dim(0) == width && table.dim(1) == rows && table.dims.len() == 2 {
        return Ok(());
    }
    Err(format!(
        "tensor token_embd.weight has the shape {:?}, where the embedding length and the vocabulary make it [{width}, {rows}]",
        table.dims
    ))
}

#[cfg(test)]
mod tests;
