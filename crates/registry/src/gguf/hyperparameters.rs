//! The numbers from which llama.cpp builds a model's graph, compared with each other.

use std::ops::RangeInclusive;

use super::{GgufModel, Refusal, architecture, heads, value::Metadata, vocabulary::MAX_TOKENS};

/// The most layers: llama.cpp's arrays have this many entries, and it asserts so.
const MAX_BLOCKS: u32 = 512;

/// The most experts; asserted likewise.
const MAX_EXPERTS: u32 = 1024;

/// The widest vectors and layers. The widest published have 53,248.
const MAX_WIDTH: u32 = 1 << 20;

/// The widest feed-forward layer; the published ones are at most 8 times as wide as the vectors.
const MAX_FEED_FORWARD: u32 = 1 << 24;

/// Positions are counted in signed 32 bits, and padded to multiples of 256.
const MAX_POSITIONS: u32 = (1 << 31) - 256;

/// Values that must lie in a range where they are given. Where the range excludes 0, something is
/// divided by the value, or it is asserted.
const RANGES: &[(&str, RangeInclusive<u32>)] = &[
    ("attention.group_norm_groups", 1..=MAX_WIDTH),
    ("attention.indexer.block_size", 1..=MAX_POSITIONS),
    ("attention.key_length", 1..=heads::MAX_LENGTH),
    ("attention.key_length_mla", 0..=heads::MAX_LENGTH),
    ("attention.key_length_swa", 1..=heads::MAX_LENGTH),
    ("attention.kv_lora_rank", 0..=MAX_WIDTH),
    ("attention.output_group_count", 1..=MAX_WIDTH),
    ("attention.q_lora_rank", 0..=MAX_WIDTH),
    // Its halves' halves are divided by.
    ("attention.relative_buckets_count", 4..=MAX_WIDTH),
    ("attention.sliding_window", 0..=MAX_POSITIONS),
    ("attention.value_length", 1..=heads::MAX_LENGTH),
    ("attention.value_length_mla", 0..=heads::MAX_LENGTH),
    ("attention.value_length_swa", 1..=heads::MAX_LENGTH),
    ("block_count", 1..=MAX_BLOCKS),
    ("block_size", 1..=MAX_POSITIONS),
    ("classifier.pooling_type", 0..=4),
    ("context_length", 1..=MAX_POSITIONS),
    ("conv_group_size", 1..=MAX_WIDTH),
    ("convnext.block_count", 0..=MAX_BLOCKS),
    ("decoder_block_count", 1..=MAX_BLOCKS),
    ("embedding_length", 1..=MAX_WIDTH),
    ("embedding_length_out", 0..=MAX_WIDTH),
    ("embedding_length_per_layer_input", 0..=MAX_WIDTH),
    ("expert_count", 0..=MAX_EXPERTS),
    ("expert_gating_func", 0..=4),
    ("expert_group_count", 0..=MAX_EXPERTS),
    ("expert_group_used_count", 0..=MAX_EXPERTS),
    ("expert_shared_count", 0..=MAX_EXPERTS),
    ("expert_shared_feed_forward_length", 0..=MAX_FEED_FORWARD),
    ("experts_per_group", 1..=MAX_EXPERTS),
    ("full_attention_interval", 1..=MAX_BLOCKS),
    ("hrm.h_cycles", 1..=MAX_BLOCKS),
    ("hrm.l_cycles", 1..=MAX_BLOCKS),
    ("hrm.layers_per_stack", 1..=MAX_BLOCKS),
    ("leading_dense_block_count", 0..=MAX_BLOCKS),
    ("n_deepstack_layers", 0..=MAX_BLOCKS),
    ("nextn_predict_layers", 0..=MAX_BLOCKS),
    ("num_loops", 1..=MAX_BLOCKS),
    ("pooling_type", 0..=4),
    ("posnet.block_count", 0..=MAX_BLOCKS),
    ("rope.scaling.original_context_length", 0..=MAX_POSITIONS),
    ("shortconv.l_cache", 2..=heads::MAX_LENGTH),
    ("ssm.conv_kernel", 1..=heads::MAX_LENGTH),
    ("ssm.group_count", 0..=MAX_WIDTH),
    ("ssm.inner_size", 1..=MAX_FEED_FORWARD),
    ("ssm.state_size", 1..=MAX_WIDTH),
    ("ssm.time_step_rank", 1..=MAX_WIDTH),
    ("vocab_size", 1..=MAX_TOKENS),
    ("wkv.head_size", 1..=heads::MAX_LENGTH),
];

/// Values that must be finite and not negative: what is added under a root, or asserted so.
const NOT_NEGATIVE: &[&str] = &[
    "attention.group_norm_epsilon",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.max_alibi_bias",
    "hyper_connection.epsilon",
    "rope.scale_linear",
    "rope.scaling.factor",
];

/// Values that must be finite.
const FINITE: &[&str] = &[
    "attention.clamp_kqv",
    "attention.scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_weights_scale",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "rope.scaling.alpha",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_log_multiplier",
];

/// Bases of the rotation's frequencies: their logarithm is taken.
const BASES: &[&str] = &["rope.freq_base", "rope.freq_base_swa"];

/// How contexts longer than the trained one are reached; any other name is asserted against.
const SCALINGS: &[&[u8]] = &[b"none", b"linear", b"yarn", b"longrope"];

/// The keys of one architecture.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    all: &'a Metadata,
    pub(super) architecture: &'a str,
}

impl<'a> Keys<'a> {
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(super) fn u32(&self, key: &str) -> Result<Option<u32>, Refusal> {
        self.all.u32(&self.name(key))
    }

    pub(super) fn f32(&self, key: &str) -> Result<Option<f32>, Refusal> {
        self.all.f32(&self.name(key))
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<u32>>, Refusal> {
        self.all.integers(&self.name(key))
    }

    fn required(&self, key: &str) -> Result<u32, Refusal> {
        self.u32(key)?.ok_or_else(|| format!("it has no key {}", self.name(key)))
    }

    /// One value a layer: those of an array of exactly `layers`, or one for all.
    pub(super) fn per_layer(&self, key: &str, layers: u32, max: u32) -> Result<Option<Vec<u32>>, Refusal> {
        let values = match self.integers(key)? {
            Some(values) if values.len() as u64 != u64::from(layers) => {
                let (name, length) = (self.name(key), values.len());
                return Err(format!("the key {name} has {length} entries for {layers} layers"));
            }
            Some(values) => Some(values),
            None => self.u32(key)?.map(|value| vec![value; layers as usize]),
        };
        if let Some(value) = values.iter().flatten().find(|value| **value > max) {
            return Err(format!("the key {} holds {value}, more than the limit of {max}", self.name(key)));
        }
        Ok(values)
    }
}

/// Checks the keys of `architecture`. What comes from the vocabulary and the tensors is left empty.
pub(super) fn check(all: &Metadata, architecture: &str) -> Result<GgufModel, Refusal> {
    let keys = Keys { all, architecture };
    check_numbers(&keys)?;
    let blocks = keys.required("block_count")?;
    let (context_length, embedding_length) = (keys.required("context_length")?, keys.required("embedding_length")?);
    check_layers(&keys, blocks)?;
    check_experts(&keys, blocks)?;
    check_scans(&keys, embedding_length)?;
    check_shifts(&keys, embedding_length)?;
    if let Some(scaling) = all.text(&keys.name("rope.scaling.type"))?
        && !SCALINGS.contains(&scaling)
    {
        return Err(format!("the key {} is none of none, linear, yarn, longrope", keys.name("rope.scaling.type")));
    }
    let heads = heads::check(&keys, embedding_length, blocks)?;
    Ok(GgufModel {
        context_length,
        embedding_length,
        block_count: blocks,
        head_counts: heads.counts,
        kv_head_counts: heads.kv_counts,
        key_length: heads.key_length,
        value_length: heads.value_length,
        experts: keys.u32("expert_count")?.unwrap_or(0),
        shares_token_table: false,
        vocabulary: 0,
        has_chat_template: all.has_text("tokenizer.chat_template")?,
        labels: Vec::new(),
    })
}

/// Single values, each for itself.
fn check_numbers(keys: &Keys<'_>) -> Result<(), Refusal> {
    for (key, range) in RANGES {
        if let Some(value) = keys.u32(key)?.filter(|value| !range.contains(value)) {
            let (name, first, last) = (keys.name(key), range.start(), range.end());
            return Err(format!("the key {name} is {value}, where {first} to {last} are possible"));
        }
    }
    for (of, fits, wanted) in [
        (NOT_NEGATIVE, (|value| value >= 0.0) as fn(f32) -> bool, "a finite number that is not negative"),
        (FINITE, |_| true, "a finite number"),
        (BASES, |value| value > 0.0, "a finite number above 0"),
    ] {
        for key in of {
            if let Some(value) = keys.f32(key)?.filter(|value| !value.is_finite() || !fits(*value)) {
                return Err(format!("the key {} is {value}, not {wanted}", keys.name(key)));
            }
        }
    }
    Ok(())
}

/// Numbers of layers, and values with one entry a layer.
fn check_layers(keys: &Keys<'_>, blocks: u32) -> Result<(), Refusal> {
    for (key, fits) in [
        // At least one layer must be left.
        ("nextn_predict_layers", (|layers, blocks| layers < blocks) as fn(u32, u32) -> bool),
        ("posnet.block_count", |layers, blocks| layers <= blocks),
        ("convnext.block_count", |layers, blocks| layers <= blocks),
        ("num_loops", |loops, blocks| loops <= MAX_BLOCKS / blocks),
    ] {
        if let Some(value) = keys.u32(key)?.filter(|value| !fits(*value, blocks)) {
            return Err(format!("the key {} is {value}, which does not go with {blocks} layers", keys.name(key)));
        }
    }
    keys.per_layer("feed_forward_length", blocks, MAX_FEED_FORWARD)?;
    keys.per_layer("expert_feed_forward_length", blocks, MAX_FEED_FORWARD)?;
    Ok(())
}

/// All of this is asserted for every architecture but the two that take one expert as none.
fn check_experts(keys: &Keys<'_>, blocks: u32) -> Result<(), Refusal> {
    let experts = keys.u32("expert_count")?.unwrap_or(0);
    let used = keys.per_layer("expert_used_count", blocks, MAX_EXPERTS)?.unwrap_or_default();
    let (most, least) = (used.iter().copied().max().unwrap_or(0), used.iter().copied().min().unwrap_or(0));
    if experts <= 1 && matches!(keys.architecture, "hunyuan-dense" | "hunyuan_vl") {
        return Ok(());
    }
    let groups = keys.u32("expert_group_count")?.unwrap_or(0);
    if experts == 0 {
        if most > 0 || groups > 0 || architecture::needs_experts(keys.architecture) {
            return Err(format!("it has no experts (the key {}) but uses some", keys.name("expert_count")));
        }
        return Ok(());
    }
    if most == 0 || most > experts {
        return Err(format!("it uses {most} of {experts} experts (the key {})", keys.name("expert_used_count")));
    }
    // A layer without experts is none of these architectures' but this one's.
    if least == 0 && keys.architecture != "nemotron_h_moe" {
        return Err(format!("a layer uses none of the experts (the key {})", keys.name("expert_used_count")));
    }
    let used_groups = keys.u32("expert_group_used_count")?.unwrap_or(0);
    let fits = groups < experts
        && (groups <= 1 || (experts.is_multiple_of(groups) && used_groups > 0 && used_groups < groups));
    if !fits {
        return Err(format!("{experts} experts do not go in {groups} groups of which {used_groups} are used"));
    }
    if let Some(size) = keys.u32("experts_per_group")?.filter(|size| *size > experts) {
        return Err(format!("{experts} experts do not go in groups of {size}"));
    }
    Ok(())
}

/// State spaces and delta nets: the inner size is cut into heads and groups.
fn check_scans(keys: &Keys<'_>, embedding_length: u32) -> Result<(), Refusal> {
    let Some(inner) = keys.u32("ssm.inner_size")? else { return Ok(()) };
    let name = keys.name("ssm.inner_size");
    if architecture::doubles_width(keys.architecture) && u64::from(inner) != 2 * u64::from(embedding_length) {
        return Err(format!("the key {name} is {inner}, not twice the embedding length of {embedding_length}"));
    }
    let groups = keys.u32("ssm.group_count")?.unwrap_or(0);
    let rank = keys.u32("ssm.time_step_rank")?.unwrap_or(0);
    let state = keys.u32("ssm.state_size")?.unwrap_or(0);
    let divides = |by: u32, of: u32| by > 0 && of.is_multiple_of(by);
    let fits = if architecture::has_grouped_scans(keys.architecture) {
        divides(groups, inner) && divides(rank, inner) && divides(groups, rank)
    } else if architecture::has_delta_nets(keys.architecture) {
        divides(groups, rank) && u64::from(inner) == u64::from(rank) * u64::from(state)
    } else {
        true
    };
    if !fits {
        return Err(format!(
            "the key {name} is {inner}, which does not go with {groups} groups, a time step of rank {rank} and a state of {state}"
        ));
    }
    Ok(())
}

/// RWKV: the width is cut into heads, and the state holds so many shifted tokens.
fn check_shifts(keys: &Keys<'_>, embedding_length: u32) -> Result<(), Refusal> {
    if let Some(size) = keys.u32("wkv.head_size")?.filter(|size| !embedding_length.is_multiple_of(*size)) {
        return Err(format!("the embedding length of {embedding_length} does not divide into heads of {size}"));
    }
    let (given, wanted) = (keys.u32("token_shift_count")?, architecture::token_shifts(keys.architecture));
    match (given, wanted) {
        // llama.cpp takes 2 where nothing is given.
        (given, Some(wanted)) if given.unwrap_or(2) != wanted => {
            Err(format!("the key {} must be {wanted}", keys.name("token_shift_count")))
        }
        _ => Ok(()),
    }
}
