//! Building lists of codes.

use super::blocks::{Codes, LANES};
use super::file::{Contents, Sizes};
use super::lists::{self, Chosen};
use super::parallel::each;
use super::quantiser::{Entries, Entry, Parts};
use super::{CodeBits, Ivf, IvfOptions, LISTS_MAX};
use crate::codes::Codes as Coded;
use crate::equal::Groups;
use crate::{Cancelled, Metric, Progress, Rows};

/// Lists for each in the square root of the number of rows.
const LISTS_PER_ROOT: f64 = 8.0;
/// Fewer rows make no list worth looking up.
const LIST_ROWS_LEAST: usize = 16;
/// Blocks that are made at once.
const PIECE_BLOCKS: usize = 32;

pub(super) fn build(
    rows: Rows<'_>,
    metric: Metric,
    options: &IvfOptions,
    threads: usize,
    progress: &Progress,
) -> Result<Ivf, Cancelled> {
    let groups = Groups::of(rows, progress)?;
    let distinct = Chosen { rows, numbers: groups.firsts() };
    let count = distinct.numbers.len();
    let parts = parts(rows.dimensions(), options);
    let lists = list_count(count, options);
    progress.expect(lists::steps(count, lists) + parts.steps(count) + count as u64);
    let (centres, list_of) = lists::lists(&distinct, lists, options.seed, threads, progress)?;
    let lists = centres.len();
    let centres = Coded::of(Rows::new(&centres.values, rows.dimensions()), metric, 0..lists as u32);
    let (list_starts, order) = by_list(&list_of, lists);
    let entry = |group: &u32| {
        let of = |table: &[u32]| table.get(*group as usize).copied().unwrap_or(0);
        Entry { row: of(&distinct.numbers), list: of(&list_of) }
    };
    let entries = |order: &[u32]| Entries { table: rows, centres: &centres, rows: order.iter().map(entry).collect() };
    let codebooks = parts.learn(&entries(&order), options.seed, threads, progress)?;
    let pieces: Vec<&[u32]> = order.chunks(PIECE_BLOCKS * LANES).collect();
    let codes = each(pieces.len(), threads, progress, |piece| {
        let piece = pieces.get(piece).copied().unwrap_or_default();
        progress.advance(piece.len() as u64);
        parts.encode(&codebooks, &entries(piece), metric == Metric::Euclid)
    })?;
    let mut all = Codes::new(parts);
    codes.into_iter().for_each(|codes| all.append(codes));
    let (row_starts, by_entry) = reordered(&groups, &order);
    let sizes = Sizes { metric, parts, rows: rows.len(), entries: count, lists };
    let contents = Contents {
        codebooks: &codebooks,
        list_starts: &list_starts,
        centres: &centres.table,
        scales: &centres.scales,
        norms: &centres.norms,
        row_starts: &row_starts,
        rows: &by_entry,
        blocks: &all.blocks,
        terms: &all.terms,
    };
    // There is no size that its own rows do not fit in.
    Ivf::assemble(sizes, &contents).ok_or(Cancelled)
}

fn parts(dimensions: usize, options: &IvfOptions) -> Parts {
    let each = match options.bits {
        CodeBits::Four => 2,
        CodeBits::Eight => 4,
    };
    let count = options.subspaces.unwrap_or(dimensions.div_ceil(each)).clamp(dimensions.min(1), dimensions);
    Parts { dimensions, count, bits: options.bits }
}

fn list_count(entries: usize, options: &IvfOptions) -> usize {
    let suits = (LISTS_PER_ROOT * (entries as f64).sqrt()) as usize;
    let count = options.lists.unwrap_or(suits.min(entries / LIST_ROWS_LEAST));
    count.clamp(1, LISTS_MAX).min(entries)
}

/// Where each list begins, and the entries in the order of lists.
fn by_list(list_of: &[u32], lists: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; lists + 1];
    for list in list_of {
        if let Some(count) = starts.get_mut(*list as usize + 1) {
            *count += 1;
        }
    }
    let mut total = 0;
    for start in &mut starts {
        total += *start;
        *start = total;
    }
    let mut order: Vec<u32> = (0..list_of.len() as u32).collect();
    order.sort_by_key(|entry| list_of.get(*entry as usize).copied());
    (starts, order)
}

/// The rows of entries in another order of entries.
fn reordered(groups: &Groups, order: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let (mut starts, mut rows) = (vec![0], Vec::with_capacity(groups.rows.len()));
    for group in order {
        rows.extend_from_slice(groups.rows_of(*group));
        starts.push(rows.len() as u32);
    }
    (starts, rows)
}
