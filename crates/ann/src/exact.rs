//! Exact search: every candidate is compared.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::{Found, Metric, Rows, kernels};

/// How near two vectors of the same length are: greater is nearer.
#[must_use]
pub fn similarity(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    match metric {
        Metric::Dot => kernels::dot(a, b),
        Metric::Euclid => -kernels::squared_euclid(a, b),
    }
}

/// The `k` of the candidates that are nearest to the query, the nearest first; of two equally near
/// the one with the lower number.
#[must_use]
pub fn search(
    rows: Rows<'_>,
    metric: Metric,
    query: &[f32],
    k: usize,
    candidates: impl Iterator<Item = u32>,
) -> Vec<Found> {
    // The worst that is kept is on top.
    let mut kept: BinaryHeap<Worst> = BinaryHeap::new();
    if k == 0 || query.len() != rows.dimensions() {
        return Vec::new();
    }
    for row in candidates {
        let vector = rows.row(row);
        if vector.is_empty() {
            continue;
        }
        let found = Worst(Found { row, similarity: similarity(metric, query, vector) });
        if kept.len() < k {
            kept.push(found);
        } else if kept.peek().is_some_and(|worst| found < *worst) {
            kept.pop();
            kept.push(found);
        }
    }
    kept.into_sorted_vec().into_iter().map(|Worst(found)| found).collect()
}

/// Greater is worse.
#[derive(PartialEq)]
struct Worst(Found);

impl Eq for Worst {}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Worst) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Worst {
    fn cmp(&self, other: &Worst) -> Ordering {
        other.0.similarity.total_cmp(&self.0.similarity).then(self.0.row.cmp(&other.0.row))
    }
}
