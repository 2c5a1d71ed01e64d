//! What lists of codes promise: nearly all of the nearest, exact similarities, little memory, the same from a file.
#![allow(clippy::unwrap_used)]

mod clusters;

use bytes::Bytes;
use clusters::clustered;
use halny_ann::{CodeBits, Found, Ivf, IvfOptions, IvfParams, Metric, Progress, Rows, exact};
use proptest::prelude::*;

const METRICS: [Metric; 2] = [Metric::Dot, Metric::Euclid];
const BITS: [CodeBits; 2] = [CodeBits::Four, CodeBits::Eight];

fn options(bits: CodeBits) -> IvfOptions {
    IvfOptions { bits, ..IvfOptions::default() }
}

fn build(rows: Rows<'_>, metric: Metric, options: &IvfOptions) -> Ivf {
    Ivf::build(rows, metric, options, 2, &Progress::default()).unwrap()
}

/// How many of the nearest that pass are found.
fn recall(ivf: &Ivf, rows: Rows<'_>, metric: Metric, queries: &[f32], passes: Option<&dyn Fn(u32) -> bool>) -> f64 {
    let (mut hits, mut wanted) = (0, 0);
    let passing = |row: &u32| passes.is_none_or(|passes| passes(*row));
    for query in queries.chunks_exact(rows.dimensions()) {
        let truth = exact::search(rows, metric, query, 10, (0..rows.len() as u32).filter(passing));
        let found = ivf.search(rows, query, 10, &IvfParams::default(), passes);
        assert!(found.iter().all(|found| passing(&found.row)), "a row was found that does not pass");
        let least = truth.last().map_or(f32::MAX, |last| last.similarity);
        hits += found.iter().filter(|found| found.similarity >= least).count();
        wanted += truth.len();
    }
    hits as f64 / wanted as f64
}

#[test]
fn nearly_all_of_the_nearest_are_found_with_codes_of_every_size_and_metric() {
    let (values, queries) = (clustered(6_000, 48, 1), clustered(60, 48, 1));
    let rows = Rows::new(&values, 48);
    for metric in METRICS {
        for bits in BITS {
            // Also where the dimensions are not a multiple of the subspaces, which are then few.
            for subspaces in [None, Some(19), Some(48)] {
                let ivf = build(rows, metric, &IvfOptions { subspaces, ..options(bits) });
                let recall = recall(&ivf, rows, metric, &queries, None);
                let least = if subspaces == Some(19) { 0.85 } else { 0.93 };
                assert!(recall > least, "{metric:?} {bits:?} {subspaces:?}: {recall}");
            }
        }
    }
}

#[test]
fn vectors_of_very_different_lengths_are_found_by_their_distance() {
    let (mut values, mut queries) = (clustered(4_000, 32, 8), clustered(60, 32, 8));
    let stretch = |rows: &mut [f32]| {
        let rows = rows.chunks_exact_mut(32).enumerate();
        rows.for_each(|(number, row)| row.iter_mut().for_each(|x| *x *= 1.0 + (number % 7) as f32));
    };
    stretch(&mut values);
    stretch(&mut queries);
    let rows = Rows::new(&values, 32);
    let recall = recall(&build(rows, Metric::Euclid, &options(CodeBits::Four)), rows, Metric::Euclid, &queries, None);
    assert!(recall > 0.95, "{recall}");
}

#[test]
fn more_lists_and_more_candidates_find_more_and_all_find_all() {
    let (values, queries) = (clustered(3_000, 24, 9), clustered(40, 24, 9));
    let rows = Rows::new(&values, 24);
    let ivf = build(rows, Metric::Euclid, &options(CodeBits::Four));
    let everything = IvfParams { nprobe: Some(usize::MAX), oversampling: 1e9 };
    for query in queries.chunks_exact(24) {
        let truth = exact::search(rows, Metric::Euclid, query, 20, 0..3_000);
        assert_eq!(ivf.search(rows, query, 20, &everything, None), truth);
    }
    let hits = |nprobe: usize, oversampling: f32| {
        let params = IvfParams { nprobe: Some(nprobe), oversampling };
        let found = queries.chunks_exact(24).map(|query| {
            let truth = exact::search(rows, Metric::Euclid, query, 10, 0..3_000);
            truth.iter().filter(|row| ivf.search(rows, query, 10, &params, None).contains(row)).count()
        });
        found.sum::<usize>()
    };
    assert!(hits(4, 10.0) < hits(60, 10.0));
    assert!(hits(60, 1.0) < hits(60, 10.0));
}

#[test]
fn nearly_all_that_pass_a_filter_are_found() {
    let (values, queries) = (clustered(8_000, 32, 2), clustered(40, 32, 2));
    let rows = Rows::new(&values, 32);
    for metric in METRICS {
        let ivf = build(rows, metric, &options(CodeBits::Four));
        for share in [1, 2, 5, 25, 200] {
            let recall = recall(&ivf, rows, metric, &queries, Some(&|row| row % share == 0));
            assert!(recall > 0.93, "{metric:?}, one in {share}: {recall}");
        }
        let far = recall(&ivf, rows, metric, &queries, Some(&|row| values[row as usize * 32] > 0.9));
        assert!(far > 0.93, "{metric:?}, a filter that goes with the vectors: {far}");
        assert_eq!(ivf.search(rows, &queries[..32], 10, &IvfParams::default(), Some(&|_| false)), []);
    }
}

#[test]
fn copies_of_one_row_hide_no_other() {
    let dimensions = 24;
    let mut values = clustered(1_000, dimensions, 3);
    let copy = values[..dimensions].to_vec();
    (0..5_000).for_each(|_| values.extend_from_slice(&copy));
    let rows = Rows::new(&values, dimensions);
    let ivf = build(rows, Metric::Euclid, &options(CodeBits::Four));
    for row in 1..1_000 {
        let found = ivf.search(rows, rows.row(row), 1, &IvfParams::default(), None);
        assert_eq!(found.first().map(|found| found.row), Some(row), "row {row}");
    }
    let copies = ivf.search(rows, &copy, 100, &IvfParams::default(), None);
    assert!(copies.len() == 100 && copies.iter().all(|found| found.similarity == 0.0));
    assert_eq!(copies[0].row, 0, "of equal ones the lowest number comes first");
    let last = ivf.search(rows, &copy, 3, &IvfParams::default(), Some(&|row| row >= 5_998));
    assert_eq!(last.iter().map(|found| found.row).take(2).collect::<Vec<_>>(), [5_998, 5_999]);
}

#[test]
fn tables_of_every_odd_form_are_built_and_searched() {
    let cases: [(&[f32], usize); 9] = [
        (&[], 3),
        (&[1.0, 2.0, 3.0], 3),
        (&[0.0; 300], 3),
        (&[1.0, -1.0, 0.5], 1),
        (&[f32::NAN, 1.0, f32::INFINITY, 2.0], 2),
        (&[f32::NAN, f32::NAN, f32::NAN, f32::NAN], 2),
        (&[1e38, -1e38, 1e38, 1e38], 2),
        (&[1e-40, 1e-40, 0.0, -1e-40], 2),
        (&[f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1.0], 2),
    ];
    for (values, dimensions) in cases {
        let rows = Rows::new(values, dimensions);
        for metric in METRICS {
            for bits in BITS {
                for lists in [None, Some(1), Some(2), Some(1_000)] {
                    let ivf = build(rows, metric, &IvfOptions { lists, ..options(bits) });
                    let query = vec![1.0; dimensions];
                    let found = ivf.search(rows, &query, 5, &IvfParams::default(), None);
                    assert_eq!(found.len(), rows.len().min(5), "{values:?} {metric:?} {bits:?}");
                    for odd in [f32::NAN, f32::INFINITY, f32::MAX, 0.0] {
                        let found = ivf.search(rows, &vec![odd; dimensions], 5, &IvfParams::default(), None);
                        assert_eq!(found.len(), rows.len().min(5), "{values:?} {metric:?} {bits:?}, asked for {odd}");
                    }
                }
            }
        }
    }
    let ivf = build(Rows::new(&[1.0, 2.0], 2), Metric::Dot, &IvfOptions::default());
    assert_eq!(ivf.search(Rows::new(&[1.0, 2.0], 2), &[1.0], 5, &IvfParams::default(), None), []);
    assert_eq!(ivf.search(Rows::new(&[1.0, 2.0, 3.0, 4.0], 2), &[1.0, 1.0], 5, &IvfParams::default(), None), []);
    assert_eq!(ivf.search(Rows::new(&[1.0, 2.0], 2), &[1.0, 1.0], 0, &IvfParams::default(), None), []);
}

#[test]
fn rows_of_absurd_numbers_spoil_no_others() {
    let (mut values, queries) = (clustered(4_000, 32, 10), clustered(40, 32, 10));
    for (row, wild) in [(7, 1e38), (1_500, f32::NAN), (2_000, f32::INFINITY), (3_999, -1e20)] {
        values[row * 32..(row + 1) * 32].fill(wild);
    }
    let rows = Rows::new(&values, 32);
    let ivf = build(rows, Metric::Euclid, &IvfOptions::default());
    let tame = |row: u32| rows.row(row)[0].abs() < 10.0;
    let recall = recall(&ivf, rows, Metric::Euclid, &queries, Some(&tame));
    assert!(recall > 0.95, "{recall}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let values = clustered(3_000, 20, 11);
    let rows = Rows::new(&values, 20);
    for bits in BITS {
        let built = |threads: usize, seed: u64| {
            let options = IvfOptions { seed, ..options(bits) };
            Ivf::build(rows, Metric::Euclid, &options, threads, &Progress::default()).unwrap()
        };
        assert_eq!(built(1, 5), built(3, 5));
        assert_ne!(built(1, 5), built(1, 6), "the seed is chance's beginning");
    }
}

#[test]
fn a_build_that_is_called_off_ends_without_lists() {
    let values = clustered(2_000, 16, 4);
    let progress = Progress::default();
    progress.call_off();
    let built = Ivf::build(Rows::new(&values, 16), Metric::Dot, &IvfOptions::default(), 2, &progress);
    assert!(built.is_err());
}

#[test]
fn a_build_that_ends_has_done_all_its_steps() {
    for (count, dimensions) in [(2_000, 16), (37, 3), (20_000, 4)] {
        let (values, progress) = (clustered(count, dimensions, 4), Progress::default());
        let rows = Rows::new(&values, dimensions);
        Ivf::build(rows, Metric::Dot, &IvfOptions::default(), 2, &progress).unwrap();
        assert!(progress.share() > 0.98, "{count} rows: {}", progress.share());
    }
}

#[test]
fn an_eighth_of_the_rows_memory_is_enough() {
    let values = clustered(4_000, 384, 12);
    let ivf = build(Rows::new(&values, 384), Metric::Dot, &IvfOptions::default());
    assert!(ivf.memory_bytes() * 8 <= values.len() * 4, "{} bytes a row", ivf.memory_bytes() / 4_000);
}

fn written(ivf: &Ivf) -> Vec<u8> {
    let mut bytes = Vec::new();
    ivf.write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn lists_from_their_file_are_the_same_wherever_it_lies_in_memory() {
    let values = clustered(500, 20, 5);
    let rows = Rows::new(&values, 20);
    for metric in METRICS {
        for bits in BITS {
            let ivf = build(rows, metric, &options(bits));
            let bytes = written(&ivf);
            for shift in 0..4 {
                let mut shifted = vec![0; shift];
                shifted.extend_from_slice(&bytes);
                let opened = Ivf::open(Bytes::from(shifted).slice(shift..)).unwrap();
                assert_eq!(opened, ivf);
                let found = opened.search(rows, rows.row(3), 10, &IvfParams::default(), None);
                assert_eq!(found, ivf.search(rows, rows.row(3), 10, &IvfParams::default(), None));
            }
        }
    }
}

/// Small lists, built once: a property is tried on many changes of their bytes.
fn small(bits: CodeBits) -> &'static (Vec<f32>, Vec<u8>) {
    static SMALL: [std::sync::OnceLock<(Vec<f32>, Vec<u8>)>; 2] = [const { std::sync::OnceLock::new() }; 2];
    SMALL[usize::from(bits == CodeBits::Eight)].get_or_init(|| {
        let values = clustered(60, 4, 6);
        let options = IvfOptions { lists: Some(5), ..options(bits) };
        let bytes = written(&build(Rows::new(&values, 4), Metric::Euclid, &options));
        (values, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_file_that_lies_is_refused_or_searched_without_harm(
        place in any::<prop::sample::Index>(),
        early in any::<bool>(),
        value in prop_oneof![any::<u32>(), 0u32..300],
        cut in prop::option::of(any::<prop::sample::Index>()),
        eight in any::<bool>(),
    ) {
        let (values, bytes) = small(BITS[usize::from(eight)]);
        let (rows, mut bytes) = (Rows::new(values, 4), bytes.clone());
        let content = bytes.len() - 4;
        // Half of them in the head, which everything else is found by.
        let at = place.index(if early { 20 } else { content / 4 }) * 4;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        if let Some(cut) = cut {
            bytes.drain(cut.index(content)..content);
        }
        // As a forger would: with a checksum that fits.
        let content = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..content]).to_le_bytes();
        bytes[content..].copy_from_slice(&crc);
        if let Ok(ivf) = Ivf::open(Bytes::from(bytes)) {
            let found: Vec<Found> = ivf.search(rows, &values[..4], 10, &IvfParams::default(), None);
            prop_assert!(found.len() <= 10 && found.iter().all(|found| (found.row as usize) < rows.len()));
        }
    }

    #[test]
    fn a_file_that_has_changed_is_refused(place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = small(CodeBits::Four).1.clone();
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Ivf::open(Bytes::from(bytes)).is_err());
    }
}

proptest! {
    #[test]
    fn what_is_found_is_sorted_and_exact(
        seed in any::<u64>(),
        count in 1usize..300,
        dimensions in 1usize..12,
        k in 1usize..20,
        euclid in any::<bool>(),
    ) {
        let metric = METRICS[usize::from(euclid)];
        let values = clustered(count, dimensions, seed);
        let rows = Rows::new(&values, dimensions);
        let query = clustered(1, dimensions, seed ^ 1);
        let ivf = build(rows, metric, &IvfOptions { lists: Some(8), ..IvfOptions::default() });
        let found = ivf.search(rows, &query, k, &IvfParams { nprobe: Some(1), oversampling: 1.0 }, None);
        prop_assert_eq!(found.len(), k.min(count));
        for pair in found.windows(2) {
            prop_assert!((pair[1].similarity, pair[0].row) < (pair[0].similarity, pair[1].row));
        }
        for found in found {
            prop_assert_eq!(found.similarity, halny_ann::similarity(metric, &query, rows.row(found.row)));
        }
    }
}
