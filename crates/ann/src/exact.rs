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
    if k == 0 || query.len() != rows.dimensions() {
        return Vec::new();
    }
    let mut nearest = Nearest::new(k);
    for row in candidates {
        let vector = rows.row(row);
        if !vector.is_empty() {
            nearest.add(Found { row, similarity: similarity(metric, query, vector) });
        }
    }
    nearest.sorted()
}

/// The nearest of what is added.
pub(crate) struct Nearest {
    most: usize,
    /// The worst that is kept is on top.
    kept: BinaryHeap<Worst>,
}

impl Nearest {
    pub(crate) fn new(most: usize) -> Nearest {
        Nearest { most, kept: BinaryHeap::new() }
    }

    pub(crate) fn add(&mut self, found: Found) {
        let found = Worst(found);
        if self.kept.len() < self.most {
            self.kept.push(found);
        } else if self.kept.peek().is_some_and(|worst| found < *worst) {
            self.kept.pop();
            self.kept.push(found);
        }
    }

    /// The nearest first; of two equally near the one with the lower number.
    pub(crate) fn sorted(self) -> Vec<Found> {
        self.kept.into_sorted_vec().into_iter().map(|Worst(found)| found).collect()
    }
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
