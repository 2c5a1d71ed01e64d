//! Product quantisation (Jégou, Douze and Schmid, 2011): a row in parts, each part as the number of a
//! centre near to it. What is cut into parts is what a row differs from the centre of its list by.
//!
//! Codes are chosen part by part so that the error *along* the row weighs more than that across it
//! (Guo et al., 2020): a query that is near to a row lies in the row's direction, and only the error
//! in the query's direction changes their product. It costs nothing when searching. Measured on
//! 62,666 sentence embeddings with 96 parts of 16 centres, of the ten nearest 89.2 % are among the
//! 20 that seem nearest, against 87.4 % with the nearest centres.

use std::ops::Range;

use super::blocks::{Codes, LANES};
use super::kmeans::{Points, cluster};
use super::parallel::each;
use super::tables::Tables;
use crate::codes::Codes as Coded;
use crate::{Cancelled, Progress, Rows};

/// Rows that the centres of parts are learnt from, for each centre.
const SAMPLE: usize = 256;
/// And at least so many.
const SAMPLE_LEAST: usize = 16_384;
/// Rounds of their clusterings.
const ROUNDS: usize = 10;
/// How much more the error along a row weighs. Of 1, 4, 8, 16 and 32 the best with 96 parts were 4 and 8.
const ALONG: f32 = 6.0;
/// How often every code of a row is chosen anew.
const SWEEPS: usize = 2;
/// Centres of parts are not learnt from rows that are as far from their list's centre as so many of the
/// middle one, squared: a few absurd rows would leave no number for the others.
const WILD: f32 = 64.0;

/// How many bits a code has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CodeBits {
    /// 16 centres a part. A search keeps a part's table in one register.
    #[default]
    Four,
    /// 256 centres a part. Searched more slowly; for where a row may take few bytes.
    Eight,
}

impl CodeBits {
    pub(super) fn centres(self) -> usize {
        match self {
            CodeBits::Four => 16,
            CodeBits::Eight => 256,
        }
    }
}

/// Into which parts rows are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) dimensions: usize,
    /// How many; at most as many as dimensions.
    pub(super) count: usize,
    pub(super) bits: CodeBits,
}

impl Parts {
    /// The dimensions of a part; parts differ by one at most.
    pub(super) fn span(self, part: usize) -> Range<usize> {
        let start = |part: usize| (part as u128 * self.dimensions as u128 / self.count.max(1) as u128) as usize;
        start(part)..start(part + 1)
    }

    /// The centres of a part in a table of all: `[dimensions of the part, centres]`.
    pub(super) fn codebook(self, part: usize, codebooks: &[f32]) -> &[f32] {
        let (span, centres) = (self.span(part), self.bits.centres());
        codebooks.get(span.start * centres..span.end * centres).unwrap_or_default()
    }

    /// Learns the centres, for all parts `[dimensions, centres]`.
    pub(super) fn learn(
        self,
        entries: &Entries<'_>,
        seed: u64,
        threads: usize,
        progress: &Progress,
    ) -> Result<Vec<f32>, Cancelled> {
        let centres = self.bits.centres();
        let sample = entries.sample((centres * SAMPLE).max(SAMPLE_LEAST)).tame();
        let steps = self.steps(entries.rows.len());
        let books = each(self.count, threads, progress, |part| {
            let span = self.span(part);
            let found = cluster(&Part::of(&sample, span.clone()), centres, ROUNDS, seed.wrapping_add(part as u64));
            // Shared out so that they add up.
            let done = |parts: usize| steps * parts as u64 / self.count as u64;
            progress.advance(done(part + 1) - done(part));
            let mut book = vec![0.0; span.len() * centres];
            for (dimension, row) in book.chunks_exact_mut(centres).enumerate() {
                // Where there are fewer points than centres the last centre is repeated.
                let last = found.len().saturating_sub(1);
                let value = |centre: usize| found.centre(centre.min(last)).get(dimension).copied().unwrap_or(0.0);
                row.iter_mut().enumerate().for_each(|(centre, into)| *into = finite(value(centre)));
            }
            book
        })?;
        Ok(books.concat())
    }

    /// How many steps [`Parts::learn`] reports.
    pub(super) fn steps(self, rows: usize) -> u64 {
        let most = (self.bits.centres() * SAMPLE).max(SAMPLE_LEAST);
        rows.div_ceil(rows.div_ceil(most).max(1)) as u64
    }

    /// The codes of entries, and if `terms` says so half of each one's squared length.
    pub(super) fn encode(self, codebooks: &[f32], entries: &Entries<'_>, terms: bool) -> Codes {
        let mut codes = Codes::new(self);
        let mut encoder = Encoder::new(self, codebooks);
        for block in (0..entries.rows.len()).step_by(LANES) {
            codes.add_block();
            for entry in block..(block + LANES).min(entries.rows.len()) {
                let row = entries.row(entry);
                encoder.encode(row, entries.differences(entry, 0..self.dimensions));
                codes.set(entry - block, &encoder.chosen);
                if terms {
                    let half = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>() / 2.0;
                    codes.terms.push(if half.is_finite() { half.min(f64::from(f32::MAX)) as f32 } else { f32::MAX });
                }
            }
        }
        codes
    }

    /// Puts the products of a query's parts with all centres into tables.
    pub(super) fn tables(self, codebooks: &[f32], query: &[f32], tables: &mut Tables) {
        let centres = self.bits.centres();
        tables.begin(self);
        for part in 0..self.count {
            let span = self.span(part);
            let products = tables.products(centres);
            let book = self.codebook(part, codebooks).chunks_exact(centres);
            for (value, row) in query.get(span).unwrap_or_default().iter().zip(book) {
                products.iter_mut().zip(row).for_each(|(product, centre)| *product += value * centre);
            }
        }
        tables.finish(self);
    }
}

/// What is no number, or none that can be compared, counts as nothing.
fn finite(value: f32) -> f32 {
    if value.is_finite() { value } else { 0.0 }
}

/// Rows and their lists.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) row: u32,
    pub(super) list: u32,
}

/// Rows, and what they differ by from the centres of their lists, which are taken as a search sees them: in bytes.
pub(super) struct Entries<'a> {
    pub(super) table: Rows<'a>,
    pub(super) centres: &'a Coded,
    pub(super) rows: Vec<Entry>,
}

impl<'a> Entries<'a> {
    fn row(&self, entry: usize) -> &'a [f32] {
        self.rows.get(entry).map_or(&[], |entry| self.table.row(entry.row))
    }

    /// What an entry differs by from its list's centre, in these dimensions.
    fn differences(&self, entry: usize, span: Range<usize>) -> impl Iterator<Item = f32> {
        let list = self.rows.get(entry).map_or(0, |entry| entry.list);
        let scale = self.centres.scales.get(list as usize).copied().unwrap_or(0.0);
        let centre = self.centres.row(list).get(span.clone()).unwrap_or_default();
        let row = self.row(entry).get(span).unwrap_or_default();
        row.iter().zip(centre).map(move |(value, code)| finite(value - f32::from(*code) * scale))
    }

    /// At most `most` of them, evenly spread.
    fn sample(&self, most: usize) -> Entries<'a> {
        let step = self.rows.len().div_ceil(most.max(1)).max(1);
        let rows = self.rows.iter().copied().step_by(step).collect();
        Entries { table: self.table, centres: self.centres, rows }
    }

    /// Those that are not much farther from their centres than most.
    fn tame(mut self) -> Entries<'a> {
        let square = |entry: usize| -> f32 {
            let row = self.row(entry);
            if row.iter().all(|value| value.is_finite()) {
                self.differences(entry, 0..row.len()).map(|value| value * value).sum()
            } else {
                f32::INFINITY
            }
        };
        let squares: Vec<f32> = (0..self.rows.len()).map(square).collect();
        let mut sorted = squares.clone();
        let middle = sorted.len() / 2;
        sorted.sort_unstable_by(f32::total_cmp);
        let most = sorted.get(middle).map_or(0.0, |square| square * WILD).min(f32::MAX);
        let mut squares = squares.into_iter();
        self.rows.retain(|_| squares.next().is_some_and(|square| square <= most));
        self
    }
}

/// One part of many entries, `[entries, dimensions of the part]`.
struct Part {
    values: Vec<f32>,
    dimensions: usize,
}

impl Part {
    fn of(entries: &Entries<'_>, span: Range<usize>) -> Part {
        let values = (0..entries.rows.len()).flat_map(|entry| entries.differences(entry, span.clone())).collect();
        Part { values, dimensions: span.len() }
    }
}

impl Points for Part {
    fn len(&self) -> usize {
        self.values.len() / self.dimensions.max(1)
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn point(&self, number: usize) -> &[f32] {
        self.values.get(number * self.dimensions..(number + 1) * self.dimensions).unwrap_or_default()
    }
}

/// Chooses codes, one row after the other.
struct Encoder<'a> {
    parts: Parts,
    codebooks: &'a [f32],
    chosen: Vec<u8>,
    /// For each part and centre the square of the error.
    errors: Vec<f32>,
    /// And its share along the row.
    along: Vec<f32>,
    differences: Vec<f32>,
}

impl<'a> Encoder<'a> {
    fn new(parts: Parts, codebooks: &'a [f32]) -> Encoder<'a> {
        Encoder { parts, codebooks, chosen: Vec::new(), errors: Vec::new(), along: Vec::new(), differences: Vec::new() }
    }

    fn encode(&mut self, row: &[f32], differences: impl Iterator<Item = f32>) {
        self.differences.clear();
        self.differences.extend(differences);
        self.measure(row);
        let centres = self.parts.bits.centres();
        self.chosen.clear();
        let mut error_along = 0.0;
        for (errors, along) in self.errors.chunks_exact(centres).zip(self.along.chunks_exact(centres)) {
            let best = least(errors.iter().copied());
            self.chosen.push(best as u8);
            error_along += along.get(best).copied().unwrap_or(0.0);
        }
        for _ in 0..SWEEPS {
            let tables = self.errors.chunks_exact(centres).zip(self.along.chunks_exact(centres));
            for (chosen, (errors, along)) in self.chosen.iter_mut().zip(tables) {
                let others = error_along - along.get(usize::from(*chosen)).copied().unwrap_or(0.0);
                let cost = |(error, along): (&f32, &f32)| error + (ALONG - 1.0) * (others + along) * (others + along);
                let best = least(errors.iter().zip(along).map(cost));
                *chosen = best as u8;
                error_along = others + along.get(best).copied().unwrap_or(0.0);
            }
        }
    }

    /// Fills the tables of errors.
    fn measure(&mut self, row: &[f32]) {
        let centres = self.parts.bits.centres();
        let square: f32 = row.iter().map(|value| finite(*value) * finite(*value)).sum();
        let per_length = if square > 0.0 && square.is_finite() { square.sqrt().recip() } else { 0.0 };
        self.errors.clear();
        self.errors.resize(self.parts.count * centres, 0.0);
        self.along.clear();
        self.along.resize(self.parts.count * centres, 0.0);
        let tables = self.errors.chunks_exact_mut(centres).zip(self.along.chunks_exact_mut(centres));
        for (part, (errors, along)) in tables.enumerate() {
            let book = self.parts.codebook(part, self.codebooks).chunks_exact(centres);
            let span = self.parts.span(part);
            let values = row.get(span.clone()).unwrap_or_default();
            let differences = self.differences.get(span).unwrap_or_default();
            for ((value, difference), centres) in values.iter().zip(differences).zip(book) {
                let direction = finite(*value) * per_length;
                for ((error, along), centre) in errors.iter_mut().zip(along.iter_mut()).zip(centres) {
                    let left = difference - centre;
                    *error += left * left;
                    *along += left * direction;
                }
            }
        }
    }
}

/// The place of the least value; the first where none can be compared.
fn least(values: impl Iterator<Item = f32>) -> usize {
    let (mut best, mut least) = (0, f32::INFINITY);
    for (place, value) in values.enumerate() {
        if value < least {
            (best, least) = (place, value);
        }
    }
    best
}
