//! Low-rank adapters: pairs of thin matrices, each laid over one matrix of a model.

use std::collections::BTreeMap;

use super::{GgufKind, Refusal, tensors::Tensor, value::Metadata, value::Number};
use crate::names;

/// The most tokens that switch an adapter on; published ones have fewer than 20.
const MAX_INVOCATION_BYTES: usize = 4 * 4096;

/// Checks a file whose `general.type` is `adapter`.
///
/// llama.cpp reads these keys by assertion, and compares two dimensions of the matrices only.
pub(super) fn check(keys: &Metadata, tensors: &[Tensor]) -> Result<GgufKind, Refusal> {
    if keys.text("adapter.type")? != Some(b"lora") {
        return Err("it is an adapter, but its adapter.type is not lora".to_owned());
    }
    let alpha = keys.f32("adapter.lora.alpha")?.ok_or("it has no key adapter.lora.alpha")?;
    if !alpha.is_finite() {
        return Err(format!("the key adapter.lora.alpha is {alpha}, not a finite number"));
    }
    if let Some((_, tokens)) = keys.numbers("adapter.alora.invocation_tokens", &[Number::U32])?
        && tokens.len() > MAX_INVOCATION_BYTES
    {
        return Err("the key adapter.alora.invocation_tokens is far too long".to_owned());
    }
    let changes = pairs(tensors)?;
    let mut experts = None;
    for (name, pair) in &changes {
        let (a, _) = pair.check(name)?;
        if a.dims.len() == 3 && experts.replace(a.dim(2)).is_some_and(|other| other != a.dim(2)) {
            return Err("its tensors are for different numbers of experts".to_owned());
        }
    }
    Ok(GgufKind::LoraAdapter {
        changes: changes.len(),
        changes_token_table: changes.keys().any(|name| name.ends_with(TOKEN_TABLE)),
        experts: experts.and_then(|experts| u32::try_from(experts).ok()),
    })
}

/// The end of the names of tables from which tokens' vectors are taken.
const TOKEN_TABLE: &str = "token_embd.weight";

/// The two matrices for one of the model's; the second has as many columns as the first has rows.
#[derive(Default)]
struct Pair<'a> {
    a: Option<&'a Tensor>,
    b: Option<&'a Tensor>,
}

fn pairs(tensors: &[Tensor]) -> Result<BTreeMap<&str, Pair<'_>>, Refusal> {
    let mut pairs: BTreeMap<&str, Pair<'_>> = BTreeMap::new();
    for tensor in tensors {
        let refused = || format!("tensor {} is none of an adapter: lora_a or lora_b", names::shown(&tensor.name));
        let (name, half) = tensor.name.rsplit_once('.').ok_or_else(refused)?;
        // llama.cpp takes the endings out wherever they stand.
        if name.is_empty() || name.contains(".lora_") {
            return Err(refused());
        }
        match half {
            "lora_a" => pairs.entry(name).or_default().a = Some(tensor),
            "lora_b" => pairs.entry(name).or_default().b = Some(tensor),
            // Read past by llama.cpp.
            "weight" if name.ends_with("_norm") => {}
            _ => return Err(refused()),
        }
    }
    if pairs.is_empty() {
        return Err("it is an adapter that changes nothing".to_owned());
    }
    Ok(pairs)
}

impl<'a> Pair<'a> {
    /// The two halves, if they go together.
    fn check(&self, name: &str) -> Result<(&'a Tensor, &'a Tensor), Refusal> {
        let shown = names::shown(name);
        let (Some(a), Some(b)) = (self.a, self.b) else {
            let missing = if self.a.is_none() { "lora_a" } else { "lora_b" };
            return Err(format!("tensor {shown} has no {missing}"));
        };
        // The table of tokens is laid the other way round: its rows are taken, not multiplied.
        let rank_fits = if name.ends_with(TOKEN_TABLE) { a.dim(0) == b.dim(0) } else { a.dim(1) == b.dim(0) };
        // One matrix an expert, chosen by number; everything else is one matrix.
        let dims = if name.contains("_exps") { 3 } else { 2 };
        if rank_fits && a.dims.len() == dims && b.dims.len() == dims && a.dim(2) == b.dim(2) {
            return Ok((a, b));
        }
        Err(format!("the halves of tensor {shown} have shapes that do not go together: {:?} and {:?}", a.dims, b.dims))
    }
}
