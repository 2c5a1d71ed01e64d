//! Attention: how many heads, how wide, what of them is rotated, and which layers see a window.

use super::{
    Refusal,
    architecture::{self, HeadWidths},
    hyperparameters::Keys,
};

/// The widest head; the widest published are 576.
pub(super) const MAX_LENGTH: u32 = 1 << 16;

/// The most heads of a layer; the published have at most 256.
const MAX_HEADS: u32 = 1 << 16;

/// From this layer on, Gemma 3n takes keys and values from earlier layers.
const GEMMA3N_FIRST_SHARED: usize = 20;

/// The attention of a model.
#[derive(Debug, Default)]
pub(super) struct Heads {
    pub(super) counts: Vec<u32>,
    pub(super) kv_counts: Vec<u32>,
    pub(super) key_length: u32,
    pub(super) value_length: u32,
}

/// Checks everything about attention. Models without any have zeros.
pub(super) fn check(keys: &Keys<'_>, embedding_length: u32, blocks: u32) -> Result<Heads, Refusal> {
    let counts = keys.per_layer("attention.head_count", blocks, MAX_HEADS)?;
    let counts = counts.unwrap_or_else(|| vec![0; blocks as usize]);
    let kv_counts = keys.per_layer("attention.head_count_kv", blocks, MAX_HEADS)?.unwrap_or_else(|| counts.clone());
    check_counts(keys, &counts, &kv_counts)?;
    let mut heads = Heads { counts, kv_counts, ..Heads::default() };
    let Some(first) = heads.counts.first().copied().filter(|first| *first > 0) else {
        return Ok(heads);
    };
    let even = embedding_length / first;
    let widths = Widths::read(keys, "", Widths { key: even, value: even, rotated: 0 })?;
    widths.check(keys, "")?;
    Widths::read(keys, "_swa", widths)?.check(keys, "_swa")?;
    check_sections(keys)?;
    check_windows(keys, blocks as usize)?;
    let most = heads.counts.iter().copied().max().unwrap_or(0);
    if most.checked_mul(widths.key.max(widths.value)).is_none_or(|width| i32::try_from(width).is_err()) {
        return Err(format!("{most} heads of {} are wider than 32 bits can count", widths.key.max(widths.value)));
    }
    heads.key_length = widths.key;
    heads.value_length = widths.value;
    Ok(heads)
}

/// Which layers may have no heads depends on the architecture; where there are some, each key head
/// serves equally many.
fn check_counts(keys: &Keys<'_>, counts: &[u32], kv_counts: &[u32]) -> Result<(), Refusal> {
    if architecture::is_recurrent(keys.architecture) {
        return Ok(());
    }
    let hybrid = architecture::is_hybrid(keys.architecture);
    if counts.iter().all(|count| *count == 0) || (!hybrid && counts.contains(&0)) {
        return Err(format!("it has layers without heads (the key {})", keys.name("attention.head_count")));
    }
    for (count, kv_count) in counts.iter().zip(kv_counts) {
        let name = keys.name("attention.head_count_kv");
        if *kv_count == 0 && *count > 0 && !hybrid {
            return Err(format!("it has layers without key heads (the key {name})"));
        }
        if *kv_count > 0 && *count > 0 && !count.is_multiple_of(*kv_count) {
            return Err(format!("{count} heads cannot share {kv_count} key heads (the key {name})"));
        }
    }
    Ok(())
}

/// The widths of one head, in layers with or without a window.
#[derive(Debug, Clone, Copy)]
struct Widths {
    key: u32,
    value: u32,
    rotated: u32,
}

impl Widths {
    /// What the keys that end in `suffix` say, or else `default`; all of a key head is rotated
    /// where nothing is said of it.
    fn read(keys: &Keys<'_>, suffix: &str, default: Self) -> Result<Self, Refusal> {
        let get = |key: &str| keys.u32(&format!("{key}{suffix}"));
        let key = get("attention.key_length")?.unwrap_or(default.key);
        let value = get("attention.value_length")?.unwrap_or(default.value);
        let rotated = match get("rope.dimension_count")? {
            Some(rotated) => rotated,
            None if suffix.is_empty() => key,
            None => default.rotated,
        };
        Ok(Self { key, value, rotated })
    }

    fn check(self, keys: &Keys<'_>, suffix: &str) -> Result<(), Refusal> {
        let Self { key, value, rotated } = self;
        if key == 0 || value == 0 {
            return Err("its heads have no width: it has more of them than the embedding length".to_owned());
        }
        let name = keys.name(&format!("rope.dimension_count{suffix}"));
        // Pairs are rotated, until none is left: llama.cpp does not come to an end with none.
        let rotates = architecture::rotates(keys.architecture);
        if rotated > key || (rotates && (rotated == 0 || rotated % 2 != 0)) {
            return Err(format!("the key {name} is {rotated}, which heads of {key} cannot be rotated by"));
        }
        let fits = match architecture::head_widths(keys.architecture) {
            HeadWidths::Free => true,
            HeadWidths::Equal => key == value,
            HeadWidths::Rotated => key == value && key == rotated,
        };
        if fits {
            return Ok(());
        }
        Err(format!(
            "keys of {key}, values of {value} and {rotated} rotated do not go together in {}",
            keys.architecture
        ))
    }
}

/// The parts of positions with several, for example of text, height and width.
fn check_sections(keys: &Keys<'_>) -> Result<(), Refusal> {
    let name = keys.name("rope.dimension_sections");
    let Some(sections) = keys.integers("rope.dimension_sections")? else { return Ok(()) };
    if sections.iter().any(|section| *section > MAX_LENGTH) {
        return Err(format!("the key {name} holds a section above {MAX_LENGTH}"));
    }
    // The position within all sections is a remainder of their sum.
    if architecture::has_sections(keys.architecture) && sections.iter().take(3).all(|section| *section == 0) {
        return Err(format!("the key {name} has no section with a width"));
    }
    Ok(())
}

/// Layers that see a window only: where a window is given at least one must, and layers that take
/// the keys and values of an earlier one need one of their own kind.
fn check_windows(keys: &Keys<'_>, blocks: usize) -> Result<(), Refusal> {
    let name = keys.name("attention.sliding_window_pattern");
    let window = keys.u32("attention.sliding_window")?.unwrap_or(0);
    let listed = keys.integers("attention.sliding_window_pattern")?;
    let every = match &listed {
        Some(_) => None,
        None => keys.u32("attention.sliding_window_pattern")?,
    };
    let none_slides = listed.as_ref().is_some_and(|slides| slides.iter().all(|slides| *slides == 0));
    if window > 0 && (none_slides || every == Some(1)) {
        return Err(format!("it has a window of {window}, but no layer that sees it (the key {name})"));
    }
    let shared_from = match keys.architecture {
        "gemma4" => {
            let shared = keys.u32("attention.shared_kv_layers")?.unwrap_or(0) as usize;
            let first = blocks.checked_sub(shared).filter(|first| *first >= 2);
            first.ok_or_else(|| format!("{shared} of {blocks} layers cannot take keys from earlier ones"))?
        }
        "gemma3n" => GEMMA3N_FIRST_SHARED,
        _ => return Ok(()),
    };
    let slides = |layer: usize| match (&listed, every.unwrap_or(5) as usize) {
        (Some(listed), _) => listed.get(layer).is_some_and(|slides| *slides != 0),
        (None, 0) => true,
        (None, every) => layer % every < every - 1,
    };
    for layer in shared_from..blocks {
        let from = shared_from - if slides(layer) { 2 } else { 1 };
        if slides(layer) != slides(from) {
            return Err(format!("layer {layer} cannot take the keys of layer {from} (the key {name})"));
        }
    }
    Ok(())
}
