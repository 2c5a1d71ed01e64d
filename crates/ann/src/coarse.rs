//! Scanning rows that still grow: in bytes first, and the best of them again on the rows.

use crate::codes::{CodedQuery, Codes, stride};
use crate::exact::{self, Nearest};
use crate::{Found, Metric, Rows, kernels};

/// Rows that are compared in bytes at once.
const AT_ONCE: usize = 64;

/// A copy of rows in bytes, a quarter of their size, which grows with them.
///
/// Unlike an index it costs next to nothing to make, and a scan reads a quarter of what
/// [`exact::search`] reads. It finds what that finds but for rows whose bytes cannot tell them apart.
#[derive(Debug)]
pub struct Coarse {
    codes: Codes,
    metric: Metric,
}

impl Coarse {
    /// A copy of no rows yet, which will have so many dimensions.
    #[must_use]
    pub fn new(dimensions: usize, metric: Metric) -> Coarse {
        Coarse { codes: Codes { stride: stride(dimensions), ..Codes::default() }, metric }
    }

    /// Takes in the next row.
    pub fn push(&mut self, row: &[f32]) {
        self.codes.push(row, self.metric);
    }

    /// The `k` of the candidates that are nearest to the query, the nearest first; of two equally near the one with
    /// the lower number. For each that is wanted, so many as `oversampling` says, 1 or more, are compared on the rows,
    /// which are those that were taken in.
    #[must_use]
    pub fn search(
        &self,
        rows: Rows<'_>,
        query: &[f32],
        k: usize,
        oversampling: f32,
        candidates: impl Iterator<Item = u32>,
    ) -> Vec<Found> {
        if k == 0 || query.len() != rows.dimensions() || stride(query.len()) != self.codes.stride {
            return Vec::new();
        }
        let mut coded = CodedQuery::default();
        coded.set(query, self.codes.stride);
        let mut seem_nearest = Nearest::new(((k as f32 * oversampling.max(1.0)) as usize).max(k));
        let (mut numbers, mut products) = (Vec::with_capacity(AT_ONCE), Vec::with_capacity(AT_ONCE));
        let mut candidates = candidates.filter(|row| (*row as usize) < self.codes.scales.len());
        loop {
            numbers.clear();
            numbers.extend(candidates.by_ref().take(AT_ONCE));
            if numbers.is_empty() {
                break;
            }
            kernels::dots_int8(&coded.codes, &self.codes.table, &numbers, &mut products);
            for (row, product) in numbers.iter().zip(&products) {
                let similarity = self.codes.similarity(&coded, *row, *product);
                seem_nearest.add(Found { row: *row, similarity });
            }
        }
        let near = seem_nearest.sorted().into_iter().map(|found| found.row);
        exact::search(rows, self.metric, query, k, near)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIMENSIONS: usize = 24;

    fn rows() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-1.0f32..1.0, DIMENSIONS..DIMENSIONS * 200)
    }

    fn coarse(rows: Rows<'_>, metric: Metric) -> Coarse {
        let mut coarse = Coarse::new(DIMENSIONS, metric);
        (0..rows.len() as u32).for_each(|row| coarse.push(rows.row(row)));
        coarse
    }

    proptest! {
        #[test]
        fn with_enough_candidates_it_finds_what_an_exact_search_finds(values in rows(), euclid: bool, k in 0usize..40) {
            let metric = if euclid { Metric::Euclid } else { Metric::Dot };
            let rows = Rows::new(&values, DIMENSIONS);
            let coarse = coarse(rows, metric);
            let query = rows.row(rows.len() as u32 / 2);
            let odd = || (0..rows.len() as u32 + 3).filter(|row| row % 2 == 1);
            let found = coarse.search(rows, query, k, 200.0, odd());
            prop_assert_eq!(found, exact::search(rows, metric, query, k, odd()));
        }

        #[test]
        fn with_few_candidates_it_finds_nearly_all(values in prop::collection::vec(-1.0f32..1.0, DIMENSIONS * 400), euclid: bool) {
            let metric = if euclid { Metric::Euclid } else { Metric::Dot };
            let rows = Rows::new(&values, DIMENSIONS);
            let coarse = coarse(rows, metric);
            let mut hits = 0;
            for query in 0..20 {
                let wanted = exact::search(rows, metric, rows.row(query), 10, 0..400);
                let found = coarse.search(rows, rows.row(query), 10, 2.0, 0..400);
                prop_assert!(found.iter().all(|one| one.similarity == exact::similarity(metric, rows.row(query), rows.row(one.row))));
                hits += found.iter().filter(|one| wanted.contains(one)).count();
            }
            prop_assert!(hits >= 198, "{hits} of 200");
        }
    }
}
