//! Several lists of points as one.

use std::collections::HashMap;

use halny_payload::PointId;

use crate::{Scored, VectorsError};

/// What [`Fusion::Rrf`] adds to a rank, unless the query says otherwise: as Qdrant does, a small one,
/// with which the first ranks count for much more than the next.
pub const RRF_K: f32 = 2.0;

/// How several lists are made one.
#[derive(Clone, Debug, PartialEq)]
pub enum Fusion {
    /// By ranks (Cormack, Clarke and Büttcher, 2009): each list gives a point `1 / (k + rank)`.
    Rrf {
        /// What is added to a rank.
        k: f32,
        /// How much each list counts; all the same if nothing is said.
        weights: Option<Vec<f32>>,
    },
    /// By scores, which are brought to 0 to 1 between three standard deviations below and above a list's mean.
    Dbsf,
}

impl Fusion {
    /// The best `limit` points of all lists, with their scores.
    pub(super) fn fuse(&self, lists: &[Vec<Scored>], limit: usize) -> Result<Vec<(PointId, f32)>, VectorsError> {
        let mut order: Vec<PointId> = Vec::new();
        let mut scores: HashMap<PointId, f32> = HashMap::new();
        let mut give = |id: PointId, score: f32| {
            *scores.entry(id).or_insert_with(|| {
                order.push(id);
                0.0
            }) += score;
        };
        match self {
            Fusion::Rrf { k, weights } => {
                if let Some(weights) = weights.as_ref().filter(|weights| weights.len() != lists.len()) {
                    let text = format!("`weights` has {} numbers for {} prefetches", weights.len(), lists.len());
                    return Err(VectorsError::Invalid(text));
                }
                for (place, list) in lists.iter().enumerate() {
                    let weight = weights.as_ref().and_then(|weights| weights.get(place)).copied().unwrap_or(1.0);
                    for (rank, point) in list.iter().enumerate() {
                        let score = if weight > 0.0 { 1.0 / ((rank as f32 + 1.0) / weight + k - 1.0) } else { 0.0 };
                        give(point.id, score);
                    }
                }
            }
            Fusion::Dbsf => {
                for list in lists {
                    let normalised = normalised(list);
                    list.iter().zip(normalised).for_each(|(point, score)| give(point.id, score));
                }
            }
        }
        // Who came first stays first where scores are the same.
        order.sort_by(|a, b| scores.get(b).unwrap_or(&0.0).total_cmp(scores.get(a).unwrap_or(&0.0)));
        order.truncate(limit);
        Ok(order.into_iter().map(|id| (id, scores.get(&id).copied().unwrap_or(0.0))).collect())
    }
}

fn normalised(list: &[Scored]) -> Vec<f32> {
    let count = list.len() as f32;
    let mean = list.iter().map(|point| point.score).sum::<f32>() / count.max(1.0);
    let variance = list.iter().map(|point| (point.score - mean).powi(2)).sum::<f32>() / (count - 1.0).max(1.0);
    if list.len() < 2 || variance == 0.0 {
        return vec![0.5; list.len()];
    }
    let reach = 3.0 * variance.sqrt();
    list.iter().map(|point| (point.score - (mean - reach)) / (2.0 * reach)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Named;

    fn list(ids: &[u64]) -> Vec<Scored> {
        let point = |(rank, id): (usize, &u64)| Scored {
            id: PointId::Number(*id),
            score: 1.0 - rank as f32 / 10.0,
            payload: None,
            vectors: Named::new(),
        };
        ids.iter().enumerate().map(point).collect()
    }

    fn ids(fused: &[(PointId, f32)]) -> Vec<PointId> {
        fused.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn a_point_that_both_lists_have_comes_before_those_that_one_has() {
        let lists = [list(&[1, 2, 3]), list(&[4, 2, 5])];
        for fusion in [Fusion::Rrf { k: 60.0, weights: None }, Fusion::Dbsf] {
            let fused = fusion.fuse(&lists, 10).unwrap();
            assert_eq!(fused[0].0, PointId::Number(2), "{fusion:?}");
            assert_eq!(fused.len(), 5);
        }
    }

    #[test]
    fn ranks_count_as_their_formula_says() {
        let fused = Fusion::Rrf { k: 2.0, weights: None }.fuse(&[list(&[7, 8])], 10).unwrap();
        assert_eq!(fused, [(PointId::Number(7), 0.5), (PointId::Number(8), 1.0 / 3.0)]);
    }

    #[test]
    fn a_list_without_weight_only_fills_up() {
        let lists = [list(&[1, 2]), list(&[3, 4])];
        let fused = Fusion::Rrf { k: 2.0, weights: Some(vec![0.0, 1.0]) }.fuse(&lists, 3).unwrap();
        assert_eq!(ids(&fused), [3, 4, 1].map(PointId::Number));
        let wrong = Fusion::Rrf { k: 2.0, weights: Some(vec![1.0]) }.fuse(&lists, 3);
        assert!(matches!(wrong, Err(VectorsError::Invalid(_))));
    }

    #[test]
    fn lists_that_are_empty_or_all_alike_are_fused() {
        let mut alike = list(&[1, 2, 3]);
        alike.iter_mut().for_each(|point| point.score = 0.3);
        let fused = Fusion::Dbsf.fuse(&[Vec::new(), alike, list(&[9])], 10).unwrap();
        assert!(fused.iter().all(|(_, score)| *score == 0.5) && fused.len() == 4);
    }
}
