//! The map by which a Unigram tokenizer normalises characters before it looks for tokens.
//!
//! It is a double array (Kanda, "Space- and Time-Efficient String Dictionaries", 2018) that leads
//! from bytes to replacements. llama.cpp walks it with a client's text and throws where the walk
//! leaves it; here every walk is taken once.

use super::{
    Refusal,
    value::{Metadata, Number},
};

const KEY: &str = "tokenizer.ggml.precompiled_charsmap";

/// The largest map; XLM-RoBERTa's has 237 KB. Each of its nodes costs 255 steps here.
const MAX_BYTES: usize = 4 << 20;

/// Checks the map, if there is one.
pub(super) fn check(keys: &Metadata) -> Result<(), Refusal> {
    let Some((_, bytes)) = keys.numbers(KEY, &[Number::I8, Number::U8])? else { return Ok(()) };
    let refused = || format!("the key {KEY} is no map of characters");
    if bytes.len() > MAX_BYTES {
        return Err(format!("the key {KEY} has {} bytes, more than the limit of {MAX_BYTES}", bytes.len()));
    }
    let (length, rest) = bytes.split_first_chunk().ok_or_else(refused)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (nodes, replacements) = rest.split_at_checked(length).ok_or_else(refused)?;
    if replacements.is_empty() {
        return Err(refused());
    }
    let (nodes, _) = nodes.as_chunks();
    let map = Map { nodes: nodes.iter().map(|node| u32::from_le_bytes(*node)).collect(), replacements };
    if map.nodes.is_empty() || map.walk().is_some() { Ok(()) } else { Err(refused()) }
}

/// The nodes, and the texts that end in NUL.
struct Map<'a> {
    nodes: Vec<u32>,
    replacements: &'a [u8],
}

/// Where a node's children lie: their places are this and their byte, exclusive-ored.
fn base(node: u32) -> usize {
    // Bits 10 to 31, in steps of 256 where bit 9 is set.
    ((node >> 10) << ((node & (1 << 9)) >> 6)) as usize
}

impl Map<'_> {
    /// Goes to every place that some text leads to; `None` where one is outside.
    fn walk(&self) -> Option<()> {
        let mut seen = vec![false; self.nodes.len()];
        let mut open = vec![base(*self.nodes.first()?)];
        while let Some(from) = open.pop() {
            for byte in 1..=255_u8 {
                let place = from ^ usize::from(byte);
                let node = *self.nodes.get(place)?;
                // Only a node that carries the byte is a child; one with the highest bit is a value.
                if node & (1 << 31 | 0xff) != u32::from(byte) || std::mem::replace(seen.get_mut(place)?, true) {
                    continue;
                }
                let next = place ^ base(node);
                if node & (1 << 8) != 0 {
                    let value = *self.nodes.get(next)? & !(1 << 31);
                    if !self.replacements.get(value as usize..)?.contains(&0) {
                        return None;
                    }
                }
                open.push(next);
            }
        }
        Some(())
    }
}
