//! What comes back for one item, and the arithmetic that makes it.

use halny_engine::Tensor;

/// What comes back for one item.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Embed: one vector, of length 1 unless the project file says otherwise.
    Vector(Vec<f32>),
    /// Classify: one score from 0 to 1 for each label, in the order of
    /// [`Task::labels`](crate::Task::labels). They add up to 1 unless labels are independent.
    Scores(Vec<f32>),
    /// Rerank: the relevance of a document to a query, from 0 to 1.
    Score(f32),
    /// Tensor: the rows of the graph's outputs that belong to the item, in the signature's order.
    Tensors(Vec<Tensor>),
}

impl Answer {
    /// Bytes of the numbers in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Answer::Vector(numbers) | Answer::Scores(numbers) => size_of_val(&numbers[..]),
            Answer::Score(score) => size_of_val(score),
            Answer::Tensors(tensors) => tensors.iter().map(|tensor| tensor.bytes().len()).sum(),
        }
    }
}

/// Cuts a vector to its first `dims` elements and scales it to length 1 again, which keeps the
/// meaning of embeddings trained for it (Matryoshka, arXiv:2205.13147). Longer than the vector:
/// nothing is cut.
pub fn truncate_dimensions(vector: &mut Vec<f32>, dims: usize) {
    vector.truncate(dims);
    normalise(vector);
}

/// Scales to length 1; zeros stay zeros.
pub(crate) fn normalise(vector: &mut [f32]) {
    // In double: the square of a single overflows from 1.8e19 on.
    let squares: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if squares > 0.0 {
        let factor = 1.0 / squares.sqrt();
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    }
}

/// Logits to a distribution.
pub(crate) fn softmax(scores: &mut [f32]) {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - top).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// A logit to a probability.
pub(crate) fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn softmax_sums_to_one_and_keeps_the_order(logits in prop::collection::vec(-500.0f32..500.0, 1..50)) {
            let mut scores = logits.clone();
            softmax(&mut scores);
            prop_assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            for (a, x) in logits.iter().zip(&scores) {
                for (b, y) in logits.iter().zip(&scores) {
                    prop_assert!(a < b || x >= y);
                }
            }
        }

        #[test]
        fn sigmoid_lies_between_zero_and_one(logit in prop::num::f32::NORMAL) {
            prop_assert!((0.0..=1.0).contains(&sigmoid(logit)));
        }

        #[test]
        fn a_cut_vector_has_length_one(mut vector in prop::collection::vec(-1e18f32..1e18, 1..64), dims in 1usize..80) {
            vector[0] = 1.0 + vector[0].abs();
            let before = vector.clone();
            truncate_dimensions(&mut vector, dims);
            prop_assert_eq!(vector.len(), dims.min(before.len()));
            let norm: f32 = vector.iter().map(|x| x * x).sum();
            prop_assert!((norm - 1.0).abs() < 1e-3, "{}", norm);
        }
    }

    #[test]
    fn a_vector_of_zeros_stays_finite() {
        let mut vector = vec![0.0; 4];
        truncate_dimensions(&mut vector, 2);
        assert_eq!(vector, [0.0, 0.0]);
    }
}
