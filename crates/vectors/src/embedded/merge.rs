//! Which segments are merged, and into what.
//!
//! Every segment costs a search something, however small, so few large ones are wanted; but
//! merging builds an index anew. The rule: *segments are merged when four of about the same size
//! have come together; once nothing is written, also when the others together have grown to a
//! thirty-second of the largest.* So a point is indexed about as often as the collection has quadrupled since; in
//! idle time, and at the lowest priority, up to as often as it has grown by so much.

use std::sync::Arc;

use super::segment::{Entry, Segment};
use super::view::{LATEST, Piece, View};
use crate::CollectionConfig;

/// Segments of about one size that are merged.
const MERGED_AT_ONCE: usize = 4;
/// Once nothing is written, all are merged when those beside the largest hold one of so many of its points.
const MERGED_WHEN_IDLE: usize = 32;
/// A segment with more dead points than one in so many is written anew.
const DEAD_SHARE: usize = 5;

/// Which segments should become one, by the rule at the top of this file.
pub(super) fn to_merge(view: &View, idle: bool) -> Option<Vec<Arc<Segment>>> {
    let config = &view.config;
    // What waits for its index is left to it.
    let sealed = view.pieces.iter().filter_map(Piece::sealed);
    let sealed: Vec<&Arc<Segment>> = sealed.filter(|segment| segment.unindexed(config).is_empty()).collect();
    let most = config.segmenting.merged_points_max;
    let mut by_size: Vec<&Arc<Segment>> = sealed.iter().copied().filter(|segment| segment.alive() < most).collect();
    by_size.sort_by_key(|segment| segment.alive());
    let rotten = sealed.iter().find(|segment| (segment.len() - segment.alive()) * DEAD_SHARE > segment.len());
    if let Some(rotten) = rotten {
        return Some(vec![Arc::clone(rotten)]);
    }
    let alike = by_size.windows(MERGED_AT_ONCE).find(|window| {
        let sizes: Vec<usize> = window.iter().map(|segment| segment.alive()).collect();
        let (least, greatest) = (sizes.first().copied().unwrap_or(0), sizes.last().copied().unwrap_or(0));
        greatest <= least.saturating_mul(MERGED_AT_ONCE).max(config.segmenting.open_points)
            && sizes.iter().sum::<usize>() <= most
    });
    if let Some(alike) = alike {
        return Some(alike.iter().copied().cloned().collect());
    }
    let all: usize = by_size.iter().map(|segment| segment.alive()).sum();
    let largest = by_size.last().map_or(0, |segment| segment.alive());
    (idle && by_size.len() > 1 && all <= most && (all - largest) * MERGED_WHEN_IDLE >= largest)
        .then(|| by_size.into_iter().cloned().collect())
}

/// The living points of several segments, in the order of their ids.
pub(super) fn living(parts: &[Arc<Segment>]) -> Vec<(&Segment, u32)> {
    let mut points: Vec<(&Segment, u32)> = Vec::new();
    for part in parts {
        points.extend((0..part.len() as u32).filter(|row| part.lives(*row, LATEST)).map(|row| (&**part, row)));
    }
    points.sort_by_key(|(part, row)| part.id(*row));
    points
}

pub(super) fn entries<'a>(points: &[(&'a Segment, u32)], config: &CollectionConfig) -> Vec<Entry<'a>> {
    let entry = |(part, row): &(&'a Segment, u32)| {
        let vector = |name: &String| part.column(name)?.vector(*row);
        Some(Entry {
            id: part.id(*row)?,
            payload: part.payload_text(*row),
            vectors: config.vectors.keys().map(vector).collect(),
        })
    };
    points.iter().filter_map(entry).collect()
}
