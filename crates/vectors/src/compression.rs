//! Product quantisation in the words of Qdrant: how many times smaller a code is than its vector, 4 to 64.

use crate::{CodeBits, Tier};

impl Tier {
    /// The compact tier whose codes are so many times smaller than vectors of so many dimensions: 4, 8, 16, 32 or 64.
    #[must_use]
    pub fn of_compression(times: u32, dimensions: usize) -> Option<Tier> {
        let (bits, each) = match times {
            // With four bits a dimension nothing is left to be found by more, so a quarter takes an eighth.
            4 | 8 => (CodeBits::Four, 1),
            16 => (CodeBits::Four, 2),
            32 => (CodeBits::Four, 4),
            // As many bits as four for eight dimensions, in larger tables.
            64 => (CodeBits::Eight, 16),
            _ => return None,
        };
        Some(Tier::Compact { lists: None, bits, subspaces: Some(dimensions.div_ceil(each).max(1)) })
    }

    /// How many times smaller its codes are than vectors of so many dimensions, to the nearest of 4, 8, 16, 32 and 64;
    /// nothing for a graph.
    #[must_use]
    pub fn compression(&self, dimensions: usize) -> Option<u32> {
        let Tier::Compact { bits, subspaces, .. } = self else { return None };
        let (bits, each) = match bits {
            CodeBits::Four => (4, 2),
            CodeBits::Eight => (8, 4),
        };
        let code_bits = subspaces.unwrap_or(dimensions.div_ceil(each)).max(1) * bits;
        let times = (dimensions as f64 * 32.0 / code_bits as f64).log2().round().clamp(2.0, 6.0);
        Some(1 << times as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_takes_the_share_of_a_vector_that_was_asked_for() {
        for (asked, told) in [(4, 8), (8, 8), (16, 16), (32, 32), (64, 64)] {
            let tier = Tier::of_compression(asked, 384).unwrap();
            assert_eq!(tier.compression(384), Some(told));
        }
        assert_eq!(Tier::of_compression(5, 384), None);
        assert_eq!(Tier::default().compression(384), None);
    }
}
