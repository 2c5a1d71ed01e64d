//! What each code is worth for one query, in small whole numbers.
//!
//! Products are put into steps of one size for all parts, so that their sums stay comparable, and each
//! part begins at 0: what that leaves out is the same for all rows. A step is as small as the
//! largest part and the sum of all allow, so no sum of a row's codes is greater than 65,535.

use super::blocks::STEP_PARTS;
use super::quantiser::{CodeBits, Parts};

/// The greatest number in a table with codes of four bits: four of them make a byte at most.
const NIBBLE_MOST: u8 = 63;
/// The same with codes of eight bits.
const BYTE_MOST: u8 = 255;

/// The tables of one query.
#[derive(Debug)]
pub(super) struct Tables {
    products: Vec<f32>,
    /// With codes of four bits a step of 128 bytes for eight parts: the tables of parts 0, 2, 4 and 6,
    /// then those of 1, 3, 5 and 7. With codes of eight bits 256 bytes a part.
    pub(super) bytes: Vec<u8>,
    /// Steps that make 1.
    pub(super) per_one: f32,
}

impl Default for Tables {
    fn default() -> Tables {
        Tables { products: Vec::new(), bytes: Vec::new(), per_one: 1.0 }
    }
}

impl Tables {
    pub(super) fn begin(&mut self, parts: Parts) {
        self.products.clear();
        self.products.reserve(parts.count * parts.bits.centres());
    }

    /// Zeros, to which the products of the next part are added.
    pub(super) fn products(&mut self, centres: usize) -> &mut [f32] {
        let start = self.products.len();
        self.products.resize(start + centres, 0.0);
        self.products.get_mut(start..).unwrap_or_default()
    }

    pub(super) fn finish(&mut self, parts: Parts) {
        match parts.bits {
            CodeBits::Four => self.round::<16>(parts.count, NIBBLE_MOST),
            CodeBits::Eight => self.round::<256>(parts.count, BYTE_MOST),
        }
    }

    fn round<const CENTRES: usize>(&mut self, parts: usize, most: u8) {
        let (tables, _) = self.products.as_chunks_mut::<CENTRES>();
        let (mut widest, mut all) = (0.0f32, 0.0f32);
        for table in tables.iter_mut() {
            let (least, greatest) =
                table.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, greatest), value| {
                    (if *value < least { *value } else { least }, if *value > greatest { *value } else { greatest })
                });
            table.iter_mut().for_each(|value| *value -= least);
            widest = widest.max(greatest - least);
            all += greatest - least;
        }
        // Each is rounded up by half a step at most.
        let steps = (f32::from(most) / widest).min((f32::from(u16::MAX) - parts as f32) / all);
        self.per_one = if steps > 0.0 && steps.is_finite() { steps } else { 1.0 };
        let scale = if steps > 0.0 && steps.is_finite() { steps } else { 0.0 };
        let steps_of_parts = if CENTRES == 16 { parts.div_ceil(STEP_PARTS) * STEP_PARTS } else { parts };
        self.bytes.clear();
        self.bytes.resize(steps_of_parts * CENTRES, 0);
        let (places, _) = self.bytes.as_chunks_mut::<CENTRES>();
        for (part, table) in tables.iter().enumerate() {
            let place = if CENTRES == 16 { place_of_nibbles(part) } else { part };
            if let Some(into) = places.get_mut(place) {
                into.iter_mut().zip(table).for_each(|(into, value)| *into = ((value * scale + 0.5) as u8).min(most));
            }
        }
    }
}

/// Where the table of a part is among those of its step.
fn place_of_nibbles(part: usize) -> usize {
    part / STEP_PARTS * STEP_PARTS + part % 2 * (STEP_PARTS / 2) + part % STEP_PARTS / 2
}
