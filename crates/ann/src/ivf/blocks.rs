//! Codes as a scan reads them: 16 rows at a time, so that one instruction looks up one part of each.
//!
//! A *block* holds the codes of 16 rows, its *lanes*. With codes of four bits (André, Kermarrec and
//! Le Scouarnec, 2015) it is made of steps of 64 bytes, eight parts each: byte `16 j + lane` of step
//! `s` holds the code of part `8 s + 2 j` in its lower half and that of the next part in its upper
//! half. With codes of eight bits, byte `16 part + lane` is a code.
//!
//! 16 rows and not 32: lists are short, and blocks do not end where lists do. A scan of 30 rows reads
//! 46 on average; with blocks of 32 it would read 61.

use super::quantiser::{CodeBits, Parts};

/// Rows of a block.
pub(crate) const LANES: usize = 16;
/// Bytes of a step.
pub(crate) const STEP: usize = 64;
/// Parts of a step with codes of four bits.
pub(crate) const STEP_PARTS: usize = 8;

/// Bytes of a block.
pub(super) fn block_bytes(parts: Parts) -> usize {
    match parts.bits {
        CodeBits::Four => parts.count.div_ceil(STEP_PARTS) * STEP,
        CodeBits::Eight => parts.count * LANES,
    }
}

/// Codes of rows while they are made.
#[derive(Debug)]
pub(super) struct Codes {
    parts: Parts,
    pub(super) blocks: Vec<u8>,
    /// For each row half of its squared length, where distances are asked for.
    pub(super) terms: Vec<f32>,
}

impl Codes {
    pub(super) fn new(parts: Parts) -> Codes {
        Codes { parts, blocks: Vec::new(), terms: Vec::new() }
    }

    /// Begins another block.
    pub(super) fn add_block(&mut self) {
        self.blocks.resize(self.blocks.len() + block_bytes(self.parts), 0);
    }

    /// Sets the codes of a row of the last block, once.
    pub(super) fn set(&mut self, lane: usize, codes: &[u8]) {
        let start = self.blocks.len().saturating_sub(block_bytes(self.parts));
        let block = self.blocks.get_mut(start..).unwrap_or_default();
        for (part, code) in codes.iter().enumerate() {
            let (place, shift) = match self.parts.bits {
                CodeBits::Four => (part / 2 * LANES + lane, part % 2 * 4),
                CodeBits::Eight => (part * LANES + lane, 0),
            };
            if let Some(byte) = block.get_mut(place) {
                *byte |= code << shift;
            }
        }
    }

    /// Puts the codes of other rows behind these, which end with a full block.
    pub(super) fn append(&mut self, other: Codes) {
        self.blocks.extend(other.blocks);
        self.terms.extend(other.terms);
    }
}
