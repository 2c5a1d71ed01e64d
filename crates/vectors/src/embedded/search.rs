//! Reading: the nearest points, points in the order of their ids, and how many there are.

use std::cmp::Ordering;
use std::sync::Arc;

use halny_ann::{Coarse, Found, Metric, Rows, exact};
use halny_payload::{Filter, PayloadIndex, PointId};

use super::index::{Asked, BYTES_OVERSAMPLING};
use super::open::OpenRows;
use super::plan::{Plan, plan};
use super::segment::{Column, Segment};
use super::sieve::{Sieve, Source};
use super::view::{Piece, Place, Reading};
use crate::Search;

/// Fewer vectors are compared exactly: that takes some microseconds.
const COARSE_FROM: usize = 256;

/// A point and how near it is: greater is nearer.
pub(super) type Hit = (Place, f32);

/// The points nearest to a vector, the nearest first; of two equally near the one with the lower id.
pub(super) fn nearest(reading: &Reading, search: &Search) -> Vec<Hit> {
    let Some(config) = reading.view.config.vectors.get(&search.vector) else { return Vec::new() };
    let metric = config.distance.metric();
    let by_default;
    let search = match config.ef {
        Some(thorough) => {
            let params = search.params.or_as_thorough(&config.tier, thorough);
            by_default = Search { params, ..search.clone() };
            &by_default
        }
        None => search,
    };
    let good = |found: &Found| {
        search.threshold.is_none_or(|least| config.distance.beats(config.distance.score(found.similarity), least))
    };
    let pieces = &reading.view.pieces;
    let fields: Vec<Option<Arc<PayloadIndex>>> = pieces.iter().map(|piece| Some(piece.sealed()?.fields())).collect();
    let sealed: Vec<Option<InSealed<'_>>> = pieces
        .iter()
        .zip(&fields)
        .map(|(piece, fields)| InSealed::new(piece.sealed()?, fields.as_deref()?, search))
        .collect();
    let all = sealed.iter().flatten().map(InSealed::may_pass).sum();
    // As small a collection as has no index is compared exactly.
    let vectors: usize = pieces.iter().map(|piece| piece.vectors_of(&search.vector)).sum();
    let large = vectors >= reading.view.config.segmenting.index_from_points;
    let mut hits: Vec<Hit> = Vec::new();
    for (piece, (segment, sealed)) in pieces.iter().zip(&sealed).enumerate() {
        let found = match (segment, sealed) {
            (Piece::Open(open), _) => in_open(reading, &open.read(), metric, search, large),
            (Piece::Sealed(_), Some(sealed)) => sealed.search(reading, metric, search, all, large),
            (Piece::Sealed(_), None) => Vec::new(),
        };
        let near = found.into_iter().filter(good);
        hits.extend(near.map(|found| (Place { piece, row: found.row }, found.similarity)));
    }
    best_first(reading, &mut hits);
    hits.truncate(search.limit);
    hits
}

fn best_first(reading: &Reading, hits: &mut [Hit]) {
    let id = |place: Place| reading.piece(place)?.id(place.row);
    hits.sort_by(|(a, near), (b, nearer)| match nearer.total_cmp(near) {
        Ordering::Equal => id(*a).cmp(&id(*b)),
        other => other,
    });
}

/// The vectors of a sealed segment, and what of them may pass. Found rows are points, not places of vectors.
struct InSealed<'a> {
    segment: &'a Segment,
    column: &'a Column,
    sieve: Sieve<'a>,
    /// How many rows pass at most, where something is known.
    estimate: Option<u64>,
}

impl<'a> InSealed<'a> {
    fn new(segment: &'a Segment, fields: &'a PayloadIndex, search: &'a Search) -> Option<InSealed<'a>> {
        let column = segment.column(&search.vector)?;
        let sieve = Sieve::new(search.filter.as_deref(), fields, Source::Sealed(segment));
        let estimate = sieve.estimate(segment.len());
        Some(InSealed { segment, column, sieve, estimate })
    }

    /// How many vectors pass at most.
    fn may_pass(&self) -> usize {
        let rows = self.column.rows().len();
        self.estimate.map_or(rows, |passing| usize::try_from(passing).unwrap_or(rows).min(rows))
    }

    /// `all` is how many vectors may pass in all segments; `large` is whether there are enough for an index.
    fn search(&self, reading: &Reading, metric: Metric, search: &Search, all: usize, large: bool) -> Vec<Found> {
        let InSealed { segment, column, sieve, estimate } = self;
        let passes = |slot: u32| {
            let row = column.point_of(slot);
            segment.lives(row, reading.at) && sieve.passes(row)
        };
        let index = column.index();
        let share = self.may_pass() as f32 / all.max(1) as f32;
        let asked = Asked { search, share: share.min(1.0) };
        let mut found = match plan(index.as_deref(), column.rows(), *estimate, &asked) {
            Plan::Ask(index) => index.search(column.rows(), &asked, &passes),
            Plan::Scan => {
                // The rows that may pass, where they are known; else all.
                let (rows, count): (Box<dyn Iterator<Item = u32> + '_>, usize) = match sieve.rows() {
                    Some(rows) => (Box::new(rows.iter().filter_map(|row| column.slot_of(row))), rows.len() as usize),
                    None => (Box::new(0..column.rows().len() as u32), column.rows().len()),
                };
                let coarse = column.coarse().filter(|_| index.is_none() && large);
                let scanned = Scanned { rows: column.rows(), coarse: coarse.as_deref(), metric };
                scanned.search(search, count, rows.filter(|slot| passes(*slot)))
            }
        };
        found.iter_mut().for_each(|found| found.row = column.point_of(found.row));
        found
    }
}

fn in_open(reading: &Reading, rows: &OpenRows, metric: Metric, search: &Search, large: bool) -> Vec<Found> {
    let Some(column) = rows.column(&search.vector) else { return Vec::new() };
    let sieve = Sieve::new(search.filter.as_deref(), &rows.fields, Source::Open(rows, reading.at));
    let passes = |slot: &u32| {
        let row = column.point_of(*slot);
        rows.lives(row, reading.at) && sieve.passes(row)
    };
    let slots = (0..column.rows().len() as u32).filter(passes);
    let scanned = Scanned { rows: column.rows(), coarse: column.coarse().filter(|_| large), metric };
    let mut found = scanned.search(search, column.rows().len(), slots);
    found.iter_mut().for_each(|found| found.row = column.point_of(found.row));
    found
}

/// Vectors without an index.
struct Scanned<'a> {
    rows: Rows<'a>,
    /// The same in bytes.
    coarse: Option<&'a Coarse>,
    metric: Metric,
}

impl Scanned<'_> {
    /// Compares the candidates, of which there are `count` or fewer: exactly where they are few, or that is asked for.
    fn search(&self, search: &Search, count: usize, candidates: impl Iterator<Item = u32>) -> Vec<Found> {
        let (query, limit, params) = (&search.query, search.limit, &search.params);
        match self.coarse.filter(|_| count >= COARSE_FROM && !params.exact) {
            Some(coarse) => {
                let oversampling = params.oversampling.unwrap_or(BYTES_OVERSAMPLING);
                coarse.search(self.rows, query, limit, oversampling, candidates)
            }
            None => exact::search(self.rows, self.metric, query, limit, candidates),
        }
    }
}

/// The points that pass, in the order of their ids, from `from` on, at most `most`.
pub(super) fn passing(
    reading: &Reading,
    filter: Option<&Filter>,
    from: Option<PointId>,
    most: usize,
) -> Vec<(PointId, Place)> {
    let mut found: Vec<(PointId, Place)> = Vec::new();
    for (place, piece) in reading.view.pieces.iter().enumerate() {
        let rows = passing_in(reading, piece, filter, from, most);
        found.extend(rows.into_iter().map(|(id, row)| (id, Place { piece: place, row })));
    }
    found.sort_by_key(|(id, _)| *id);
    found.truncate(most);
    found
}

/// The same of one segment, by rows.
pub(super) fn passing_in(
    reading: &Reading,
    piece: &Piece,
    filter: Option<&Filter>,
    from: Option<PointId>,
    most: usize,
) -> Vec<(PointId, u32)> {
    match piece {
        Piece::Sealed(segment) => {
            let fields = segment.fields();
            let sieve = Sieve::new(filter, &fields, Source::Sealed(segment));
            let start = from.map_or(0, |from| segment.ids().partition_point(|id| *id < from)) as u32;
            let passes = |row: &u32| *row >= start && segment.lives(*row, reading.at) && sieve.passes(*row);
            let rows: Box<dyn Iterator<Item = u32> + '_> = match sieve.rows() {
                Some(rows) => Box::new(rows.iter()),
                None => Box::new(start..segment.len() as u32),
            };
            rows.filter(passes).filter_map(|row| Some((segment.id(row)?, row))).take(most).collect()
        }
        Piece::Open(open) => {
            let rows = open.read();
            let sieve = Sieve::new(filter, &rows.fields, Source::Open(&rows, reading.at));
            let living = rows.living(reading.at, from);
            living.filter(|(_, row)| sieve.passes(*row)).take(most).collect()
        }
    }
}

/// How many points pass.
pub(super) fn count(reading: &Reading, filter: Option<&Filter>) -> usize {
    match filter {
        Some(_) => passing(reading, filter, None, usize::MAX).len(),
        None => reading.view.pieces.iter().map(|piece| piece.count(reading.at)).sum(),
    }
}
