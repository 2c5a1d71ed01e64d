//! What a graph promises: nearly all of the nearest, exact similarities, the same from a file.
#![allow(clippy::unwrap_used)]

mod clusters;

use bytes::Bytes;
use clusters::clustered;
use halny_ann::{Found, Graph, GraphOptions, Metric, Precision, Progress, Rows, SearchParams, exact};
use proptest::prelude::*;

const PARAMS: SearchParams = SearchParams { ef: 128, oversampling: 2.0 };
const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Int8];

fn build(rows: Rows<'_>, metric: Metric, precision: Precision) -> Graph {
    let options = GraphOptions { precision, ..GraphOptions::default() };
    Graph::build(rows, metric, &options, 2, &Progress::default()).unwrap()
}

/// How many of the nearest that pass are found.
fn recall(graph: &Graph, rows: Rows<'_>, metric: Metric, queries: &[f32], passes: &dyn Fn(u32) -> bool) -> f64 {
    let (mut hits, mut wanted) = (0, 0);
    for query in queries.chunks_exact(rows.dimensions()) {
        let truth = exact::search(rows, metric, query, 10, (0..rows.len() as u32).filter(|row| passes(*row)));
        let found = graph.search(rows, query, 10, &PARAMS, Some(passes));
        assert!(found.iter().all(|found| passes(found.row)), "a row was found that does not pass");
        let least = truth.last().map_or(f32::MAX, |last| last.similarity);
        hits += found.iter().filter(|found| found.similarity >= least).count();
        wanted += truth.len();
    }
    hits as f64 / wanted as f64
}

#[test]
fn nearly_all_of_the_nearest_are_found_in_every_precision_and_metric() {
    let (values, queries) = (clustered(4_000, 48, 1), clustered(60, 48, 1));
    let rows = Rows::new(&values, 48);
    for metric in [Metric::Dot, Metric::Euclid] {
        for precision in PRECISIONS {
            let recall = recall(&build(rows, metric, precision), rows, metric, &queries, &|_| true);
            assert!(recall > 0.97, "{metric:?} {precision:?}: {recall}");
        }
    }
}

#[test]
fn nearly_all_that_pass_a_filter_are_found() {
    let (values, queries) = (clustered(6_000, 32, 2), clustered(40, 32, 2));
    let rows = Rows::new(&values, 32);
    // By distances, as vectors of length 1 are compared: what is long is near to all by the dot product,
    // and a graph leads there rather than to what is nearest of few.
    let graph = build(rows, Metric::Euclid, Precision::Int8);
    for share in [2, 5, 25] {
        let recall = recall(&graph, rows, Metric::Euclid, &queries, &|row| row % share == 0);
        assert!(recall > 0.95, "one in {share}: {recall}");
    }
}

#[test]
fn copies_of_one_row_hide_no_other() {
    let dimensions = 24;
    let mut values = clustered(1_000, dimensions, 3);
    let copy = values[..dimensions].to_vec();
    (0..5_000).for_each(|_| values.extend_from_slice(&copy));
    let rows = Rows::new(&values, dimensions);
    let graph = build(rows, Metric::Euclid, Precision::Int8);
    for row in 1..1_000 {
        let found = graph.search(rows, rows.row(row), 1, &PARAMS, None);
        assert_eq!(found.first().map(|found| found.row), Some(row), "row {row}");
    }
    let copies = graph.search(rows, &copy, 100, &PARAMS, None);
    assert!(copies.len() == 100 && copies.iter().all(|found| found.similarity == 0.0));
    assert_eq!(copies[0].row, 0, "of equal ones the lowest number comes first");
}

#[test]
fn tables_of_every_odd_form_are_built_and_searched() {
    let cases: [(&[f32], usize); 7] = [
        (&[], 3),
        (&[1.0, 2.0, 3.0], 3),
        (&[0.0; 300], 3),
        (&[1.0, -1.0, 0.5], 1),
        (&[f32::NAN, 1.0, f32::INFINITY, 2.0], 2),
        (&[1e38, -1e38, 1e38, 1e38], 2),
        (&[1e-40, 1e-40, 0.0, -1e-40], 2),
    ];
    for (values, dimensions) in cases {
        let rows = Rows::new(values, dimensions);
        for metric in [Metric::Dot, Metric::Euclid] {
            for precision in PRECISIONS {
                let graph = build(rows, metric, precision);
                let found = graph.search(rows, &vec![1.0; dimensions], 5, &PARAMS, None);
                assert_eq!(found.len(), rows.len().min(5), "{values:?} {metric:?} {precision:?}");
            }
        }
    }
    let graph = build(Rows::new(&[1.0, 2.0], 2), Metric::Dot, Precision::Int8);
    assert_eq!(graph.search(Rows::new(&[1.0, 2.0], 2), &[1.0], 5, &PARAMS, None), []);
    assert_eq!(graph.search(Rows::new(&[1.0, 2.0, 3.0, 4.0], 2), &[1.0, 1.0], 5, &PARAMS, None), []);
}

#[test]
fn a_build_that_is_called_off_ends_without_a_graph() {
    let values = clustered(2_000, 16, 4);
    let progress = Progress::default();
    progress.call_off();
    let built = Graph::build(Rows::new(&values, 16), Metric::Dot, &GraphOptions::default(), 2, &progress);
    assert!(built.is_err());
}

fn written(graph: &Graph) -> Vec<u8> {
    let mut bytes = Vec::new();
    graph.write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_graph_from_its_file_is_the_same() {
    let values = clustered(500, 20, 5);
    let rows = Rows::new(&values, 20);
    for metric in [Metric::Dot, Metric::Euclid] {
        for precision in PRECISIONS {
            let graph = build(rows, metric, precision);
            assert_eq!(Graph::open(Bytes::from(written(&graph))).unwrap(), graph);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_file_that_lies_is_refused_or_searched_without_harm(
        place in any::<prop::sample::Index>(),
        value in any::<u32>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let values = clustered(60, 4, 6);
        let rows = Rows::new(&values, 4);
        let mut bytes = written(&build(rows, Metric::Euclid, Precision::Int8));
        let content = bytes.len() - 4;
        let at = place.index(content / 4) * 4;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        if let Some(cut) = cut {
            bytes.drain(cut.index(content)..content);
        }
        // As a forger would: with a checksum that fits.
        let content = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..content]).to_le_bytes();
        bytes[content..].copy_from_slice(&crc);
        if let Ok(graph) = Graph::open(Bytes::from(bytes)) {
            let found: Vec<Found> = graph.search(rows, &values[..4], 10, &PARAMS, None);
            prop_assert!(found.len() <= 10 && found.iter().all(|found| (found.row as usize) < rows.len()));
        }
    }

    #[test]
    fn a_file_that_has_changed_is_refused(place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let values = clustered(20, 4, 7);
        let mut bytes = written(&build(Rows::new(&values, 4), Metric::Dot, Precision::F32));
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Graph::open(Bytes::from(bytes)).is_err());
    }

    #[test]
    fn what_is_found_is_sorted_and_exact(seed in any::<u64>(), count in 1usize..200, k in 1usize..20) {
        let values = clustered(count, 6, seed);
        let rows = Rows::new(&values, 6);
        let query = clustered(1, 6, seed ^ 1);
        let found = build(rows, Metric::Dot, Precision::Int8).search(rows, &query, k, &PARAMS, None);
        prop_assert_eq!(found.len(), k.min(count));
        for pair in found.windows(2) {
            prop_assert!((pair[1].similarity, pair[0].row) < (pair[0].similarity, pair[1].row));
        }
        for found in found {
            prop_assert_eq!(found.similarity, halny_ann::similarity(Metric::Dot, &query, rows.row(found.row)));
        }
    }
}
