//! Searching lists of codes.

use std::cell::RefCell;
use std::ops::Range;

use super::blocks::{LANES, block_bytes};
use super::quantiser::CodeBits;
use super::tables::Tables;
use super::{Ivf, IvfParams};
use crate::codes::{CodedQuery, stride};
use crate::exact::{Nearest, similarity};
use crate::{Found, Metric, Rows, kernels};

/// So many candidates are compared on the rows even where few are wanted: who wants one asks for the nearest.
const CANDIDATES_LEAST: usize = 20;
/// Rows that are brought near while another is compared.
const AHEAD: usize = 4;

/// What a search needs, kept from one to the next so that none has to ask for memory.
#[derive(Default)]
struct Scratch {
    tables: Tables,
    sums: Vec<u16>,
    /// Lists; the nearest first as far as they are looked through.
    lists: Vec<u64>,
    /// How near the query is to each list's centre, in steps of the tables.
    biases: Vec<f32>,
    query: CodedQuery,
    numbers: Vec<u32>,
    products: Vec<i32>,
    kept: Kept,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// How near something seems, and its place: the greater the nearer, of two equally near the lower place.
fn key(score: f32, place: u32) -> u64 {
    let bits = score.to_bits();
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ordered) << 32 | u64::from(!place)
}

fn place(key: u64) -> u32 {
    !(key as u32)
}

/// The score that a key was made of.
fn score(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// The entries that seem nearest so far.
#[derive(Default)]
struct Kept {
    keys: Vec<u64>,
    most: usize,
    /// What seems less near than this is not among them.
    least: f32,
}

impl Kept {
    fn begin(&mut self, most: usize) {
        self.keys.clear();
        self.most = most;
        self.least = f32::NEG_INFINITY;
    }

    fn add(&mut self, score: f32, place: u32) {
        self.keys.push(key(score, place));
        if self.keys.len() >= self.most.saturating_mul(2).max(64) {
            self.cut();
        }
    }

    /// Leaves no more than are kept.
    fn cut(&mut self) {
        if self.most < self.keys.len() {
            let (_, least, _) = self.keys.select_nth_unstable_by(self.most.saturating_sub(1), |a, b| b.cmp(a));
            self.least = score(*least);
            self.keys.truncate(self.most);
        }
    }
}

pub(super) fn search(
    ivf: &Ivf,
    rows: Rows<'_>,
    query: &[f32],
    k: usize,
    params: &IvfParams,
    allowed: Option<&dyn Fn(u32) -> bool>,
) -> Vec<Found> {
    SCRATCH.with_borrow_mut(|scratch| {
        let wanted = ((k as f32 * params.oversampling.max(1.0)) as usize).max(k).max(CANDIDATES_LEAST);
        ivf.sizes.parts.tables(ivf.floats(&ivf.sections.codebooks), query, &mut scratch.tables);
        scratch.kept.begin(wanted.min(ivf.sizes.entries));
        let looking = Looking { ivf, allowed, tested: 0, passed: 0 };
        looking.through(query, params.nprobe.unwrap_or_else(|| ivf.nprobe()), scratch);
        scratch.kept.cut();
        compared(ivf, rows, query, k, &mut scratch.kept.keys, allowed)
    })
}

/// A search on its way through the lists.
struct Looking<'a> {
    ivf: &'a Ivf,
    allowed: Option<&'a dyn Fn(u32) -> bool>,
    /// Entries that seemed near enough to be asked about, and those of them that passed.
    tested: usize,
    passed: usize,
}

impl Looking<'_> {
    fn through(mut self, query: &[f32], nprobe: usize, scratch: &mut Scratch) {
        self.order_lists(query, scratch);
        let (mut done, mut until) = (0, nprobe.clamp(1, scratch.lists.len().max(1)));
        while done < until.min(scratch.lists.len()) {
            sort_first(&mut scratch.lists, done, until);
            let next = scratch.lists.get(done..until).unwrap_or_default();
            for list in next {
                let bias = scratch.biases.get(place(*list) as usize).copied().unwrap_or(0.0);
                self.scan(place(*list), bias, &scratch.tables, &mut scratch.sums, &mut scratch.kept);
            }
            done = until;
            until = self.goal(nprobe, done, &scratch.kept).min(scratch.lists.len());
        }
    }

    /// How many lists are to be looked through, as far as is known now.
    ///
    /// The rows that pass are spread like all rows, but thinner: among a share `s` of them the nearest
    /// ten are as far away as the nearest `10 / s` of all.
    fn goal(&self, nprobe: usize, done: usize, kept: &Kept) -> usize {
        if kept.keys.len() < kept.most {
            return done.saturating_mul(2);
        }
        if self.passed == self.tested {
            return nprobe;
        }
        let share = (self.passed + 1) as f64 / (self.tested + 1) as f64;
        (nprobe as f64 / share.sqrt()).ceil() as usize
    }

    /// Puts all lists into `scratch.lists` with how near their centres are.
    fn order_lists(&self, query: &[f32], scratch: &mut Scratch) {
        let Scratch { tables, lists, biases, query: coded, numbers, products, .. } = scratch;
        let (sizes, sections) = (&self.ivf.sizes, &self.ivf.sections);
        coded.set(query, stride(sizes.parts.dimensions));
        if numbers.len() != sizes.lists {
            numbers.clear();
            numbers.extend(0..sizes.lists as u32);
        }
        kernels::dots_int8(&coded.codes, bytemuck::cast_slice(self.ivf.section(&sections.centres)), numbers, products);
        let scales = self.ivf.floats(&sections.scales);
        biases.clear();
        biases.extend(products.iter().zip(scales).map(|(product, scale)| *product as f32 * coded.scale * scale));
        let norms = self.ivf.floats(&sections.norms);
        lists.clear();
        match sizes.metric {
            Metric::Dot => lists.extend(biases.iter().zip(0..).map(|(near, list)| key(*near, list))),
            Metric::Euclid => {
                let near = |((dot, norm), list): ((&f32, &f32), u32)| key(2.0 * dot - norm, list);
                lists.extend(biases.iter().zip(norms).zip(0..).map(near));
            }
        }
        biases.iter_mut().for_each(|bias| *bias *= tables.per_one);
    }

    fn add_up(&self, blocks: &[u8], tables: &Tables, sums: &mut Vec<u16>) {
        match self.ivf.sizes.parts.bits {
            CodeBits::Four => {
                kernels::scan_nibbles(tables.bytes.as_chunks().0, blocks.as_chunks().0, sums);
            }
            CodeBits::Eight => kernels::scan_bytes(tables.bytes.as_chunks().0, blocks.as_chunks().0, sums),
        }
    }

    /// The entries of a list, and the blocks that they are in.
    fn codes_of(&self, list: u32) -> (Range<usize>, &[u8]) {
        let (sizes, sections) = (&self.ivf.sizes, &self.ivf.sections);
        let entries = span(self.ivf.words(&sections.list_starts), list);
        let blocks = entries.start / LANES..entries.end.div_ceil(LANES);
        let bytes = block_bytes(sizes.parts);
        let codes = self.ivf.section(&sections.blocks).get(blocks.start * bytes..blocks.end * bytes);
        (entries, codes.unwrap_or_default())
    }

    /// Looks through a list, to whose sums `bias` is added.
    fn scan(&mut self, list: u32, bias: f32, tables: &Tables, sums: &mut Vec<u16>, kept: &mut Kept) {
        let (entries, codes) = self.codes_of(list);
        self.add_up(codes, tables, sums);
        let before = entries.start % LANES;
        let sums = sums.get(before..before + entries.len()).unwrap_or_default();
        let terms = self.ivf.floats(&self.ivf.sections.terms).get(entries.clone()).unwrap_or_default();
        if terms.is_empty() {
            let mut entry = entries.start as u32;
            for sums in sums.chunks(LANES) {
                let greatest = sums.iter().fold(0, |greatest: u16, sum| greatest.max(*sum));
                if f32::from(greatest) + bias >= kept.least {
                    sums.iter().zip(entry..).for_each(|(sum, entry)| self.take(f32::from(*sum) + bias, entry, kept));
                }
                entry += LANES as u32;
            }
        } else {
            for ((sum, term), entry) in sums.iter().zip(terms).zip(entries.start as u32..) {
                self.take(f32::from(*sum) + bias - term * tables.per_one, entry, kept);
            }
        }
    }

    /// Keeps an entry if it seems near enough and passes.
    fn take(&mut self, score: f32, entry: u32, kept: &mut Kept) {
        if score < kept.least {
            return;
        }
        if let Some(allowed) = self.allowed {
            self.tested += 1;
            if !self.ivf.rows_of(entry).iter().any(|row| allowed(*row)) {
                return;
            }
            self.passed += 1;
        }
        kept.add(score, entry);
    }
}

/// Sorts what is behind `from` so that what is before `until` is sorted, and nothing nearer is behind it.
fn sort_first(keys: &mut [u64], from: usize, until: usize) {
    let rest = keys.get_mut(from..).unwrap_or_default();
    let count = until.saturating_sub(from);
    if 0 < count && count < rest.len() {
        rest.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
    }
    rest.get_mut(..count).unwrap_or_default().sort_unstable_by(|a, b| b.cmp(a));
}

/// What lies between a number of starts and the next one.
fn span(starts: &[u32], number: u32) -> Range<usize> {
    let number = number as usize;
    match (starts.get(number), starts.get(number + 1)) {
        (Some(start), Some(end)) => *start as usize..*end as usize,
        _ => 0..0,
    }
}

impl Ivf {
    /// The rows of an entry, which are equal.
    fn rows_of(&self, entry: u32) -> &[u32] {
        let rows = span(self.words(&self.sections.row_starts), entry);
        self.words(&self.sections.rows).get(rows).unwrap_or_default()
    }
}

/// The nearest rows of these entries, compared on the rows themselves.
fn compared(
    ivf: &Ivf,
    rows: Rows<'_>,
    query: &[f32],
    k: usize,
    keys: &mut [u64],
    allowed: Option<&dyn Fn(u32) -> bool>,
) -> Vec<Found> {
    let first = |key: &u64| ivf.rows_of(place(*key)).first().map_or(&[][..], |row| rows.row(*row));
    keys.iter().take(AHEAD).for_each(|key| kernels::prefetch(first(key)));
    let mut nearest = Nearest::new(k);
    for (number, key) in keys.iter().enumerate() {
        if let Some(ahead) = keys.get(number + AHEAD) {
            kernels::prefetch(first(ahead));
        }
        let similarity = similarity(ivf.sizes.metric, query, first(key));
        let passing = ivf.rows_of(place(*key)).iter().filter(|row| allowed.is_none_or(|allowed| allowed(**row)));
        // Of equal rows no more than are wanted, the lowest.
        passing.take(k).for_each(|row| nearest.add(Found { row: *row, similarity }));
    }
    nearest.sorted()
}
