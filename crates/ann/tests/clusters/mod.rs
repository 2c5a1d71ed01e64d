//! Rows that are to be found, the same for every kind of index.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows in clusters, as embeddings are.
pub(crate) fn clustered(count: usize, dimensions: usize, seed: u64) -> Vec<f32> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let centres: Vec<f32> = (0..20 * dimensions).map(|_| chance.random_range(-1.0..1.0)).collect();
    let mut values = Vec::with_capacity(count * dimensions);
    for _ in 0..count {
        let centre = chance.random_range(0..20) * dimensions;
        values.extend(centres[centre..centre + dimensions].iter().map(|value| value + chance.random_range(-0.4..0.4)));
    }
    values
}
