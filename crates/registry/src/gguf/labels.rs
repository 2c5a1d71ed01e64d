//! The classification head of rerankers and classifiers.

use super::value::{LABELS, Metadata};
use super::{Refusal, tensors::Tensor};

/// The most labels; classifiers of text have tens.
const MAX_LABELS: usize = 1 << 16;

/// `llama_pooling_type` of a model whose answer is its head's.
const RANK: u32 = 4;

/// The names of the head's scores, which have to be as many as it gives: llama.cpp copies as many
/// numbers as there are labels (one without any), and ends the process where there are fewer.
pub(super) fn check(keys: &Metadata, architecture: &str, tensors: &[Tensor]) -> Result<Vec<String>, Refusal> {
    let key = format!("{architecture}{LABELS}");
    let labels: Vec<String> = match keys.texts(&key)? {
        Some(texts) if texts.len() > MAX_LABELS => {
            return Err(format!("the key {key} has {} labels; the limit is {MAX_LABELS}", texts.len()));
        }
        Some(texts) => texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect(),
        None => Vec::new(),
    };
    if keys.u32(&format!("{architecture}.pooling_type"))? != Some(RANK) {
        return Ok(labels);
    }
    let named = |name: &str| tensors.iter().find(|tensor| tensor.name == name);
    let wanted = labels.len().max(1) as u64;
    let (scores, fits) = match (named("cls.output.weight"), named("cls.weight")) {
        (Some(head), _) => (head.dim(1), head.dim(1) == wanted),
        (None, Some(head)) => (head.dim(1), head.dim(1) >= wanted),
        (None, None) => {
            return Err("its pooling is that of a reranker or classifier, but it has no tensor cls.output.weight or \
                        cls.weight"
                .to_owned());
        }
    };
    if fits { Ok(labels) } else { Err(format!("its head gives {scores} scores, but the key {key} names {wanted}")) }
}
