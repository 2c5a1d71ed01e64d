//! Keeping in memory what is found most.
//!
//! Vectors are mapped files. The operating system keeps of them what was read last, all of them alike, and
//! when memory is short one large scan, or another process, drives out what every second search needs. So
//! the pieces in which most is found are locked into memory, up to a budget that all collections share.
//! Nothing is copied: what is locked is the file's own pages.
//!
//! Not a cache of rows in front of the files: what the system keeps anyway would be in memory twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::segment::{Column, Segment};
use super::space::Shared;
use super::view::{Piece, Place, Reading};

/// What is locked at once: some hundred vectors, and a multiple of every page size.
const EXTENT_BYTES: usize = 256 << 10;
/// What is newly locked in one go at most: it is read from disk.
const LOCKED_AT_ONCE: usize = 64 << 20;
/// What is locked stays so unless something is found so many times as often.
const CONSTANCY: u32 = 2;

/// How often something was found in each piece of a file.
pub(crate) struct Heat {
    found: Vec<AtomicU32>,
    locked: Vec<AtomicBool>,
}

/// How much of what was found lay in memory that is locked.
#[derive(Debug, Default)]
pub(crate) struct Warmth {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What is known of a space's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WarmStatus {
    /// Bytes of its vectors that are locked.
    pub bytes: usize,
    /// Found vectors that lay in such memory.
    pub hits: u64,
    /// Found vectors that did not.
    pub misses: u64,
}

impl Heat {
    /// Of a file of so many bytes.
    pub(super) fn new(bytes: usize) -> Heat {
        let extents = bytes.div_ceil(EXTENT_BYTES);
        Heat {
            found: (0..extents).map(|_| AtomicU32::new(0)).collect(),
            locked: (0..extents).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Something was found at this byte; tells whether it lay in memory that is locked.
    fn found_at(&self, byte: usize) -> bool {
        let extent = byte / EXTENT_BYTES;
        if let Some(found) = self.found.get(extent) {
            found.fetch_add(1, Ordering::Relaxed);
        }
        self.locked.get(extent).is_some_and(|locked| locked.load(Ordering::Relaxed))
    }

    fn locked_bytes(&self, of: usize) -> usize {
        let locked = self.locked.iter().enumerate().filter(|(_, locked)| locked.load(Ordering::Relaxed));
        locked.map(|(extent, _)| extent_bytes(of, extent)).sum()
    }
}

/// The bytes of an extent of a file of so many bytes: the last one may be shorter.
fn extent_bytes(of: usize, extent: usize) -> usize {
    of.saturating_sub(extent * EXTENT_BYTES).min(EXTENT_BYTES)
}

impl Warmth {
    /// Counts vectors of that name that were found.
    pub(super) fn count(&self, reading: &Reading, vector: &str, places: impl Iterator<Item = Place>) {
        let (mut hits, mut misses) = (0, 0);
        for place in places {
            let Some(Piece::Sealed(segment)) = reading.piece(place) else { continue };
            let Some(column) = segment.column(vector) else { continue };
            let Some(slot) = column.slot_of(place.row) else { continue };
            let warm = column.heat().found_at(slot as usize * column.row_bytes());
            if warm { hits += 1 } else { misses += 1 }
        }
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(misses, Ordering::Relaxed);
    }

    /// What is known of the memory of the space that is counted here.
    pub(super) fn status(&self, reading: &Reading) -> WarmStatus {
        let columns = sealed(reading).flat_map(|segment| segment.columns());
        let bytes = columns.map(|column| column.heat().locked_bytes(column.bytes().len())).sum();
        WarmStatus { bytes, hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }
}

fn sealed(reading: &Reading) -> impl Iterator<Item = &Arc<Segment>> {
    reading.view.pieces.iter().filter_map(|piece| match piece {
        Piece::Sealed(segment) => Some(segment),
        Piece::Open(_) => None,
    })
}

/// A piece of a column's file.
struct Extent<'a> {
    column: &'a Column,
    place: usize,
    /// How often something was found in it, as far as that decides.
    heat: u32,
    locked: bool,
}

/// Locks what is found most in these spaces, up to `budget` bytes, and lets go of what no longer belongs to it.
///
/// # Errors
/// When the system does not allow so much memory to be locked; what it allowed stays locked.
pub(super) fn keep(spaces: &[Arc<Shared>], budget: usize) -> std::io::Result<()> {
    let readings: Vec<Reading> = spaces.iter().map(|space| space.latest()).collect();
    let columns = || readings.iter().flat_map(sealed).flat_map(|segment| segment.columns());
    let mut extents: Vec<Extent<'_>> = columns().flat_map(extents_of).collect();
    extents.sort_by_key(|extent| std::cmp::Reverse(extent.heat));
    let (mut left, mut new) = (budget, LOCKED_AT_ONCE);
    let mut wanted = Vec::new();
    for extent in extents {
        let bytes = extent_bytes(extent.column.bytes().len(), extent.place);
        let fits = bytes <= left && (extent.locked || bytes <= new);
        if fits {
            left -= bytes;
            new -= if extent.locked { 0 } else { bytes };
            wanted.push(extent);
        } else if extent.locked {
            extent.set(false)?;
        }
    }
    wanted.iter().filter(|extent| !extent.locked).try_for_each(|extent| extent.set(true))
}

/// The pieces of a column in which something was found lately, or that are locked. What was found counts half from now on.
fn extents_of(column: &Column) -> impl Iterator<Item = Extent<'_>> {
    let heat = column.heat();
    heat.found.iter().zip(&heat.locked).enumerate().filter_map(move |(place, (found, locked))| {
        let count = found.load(Ordering::Relaxed);
        // One that is found meanwhile may be lost; it is one of many.
        found.store(count / 2, Ordering::Relaxed);
        let locked = locked.load(Ordering::Relaxed);
        let heat = if locked { count.saturating_mul(CONSTANCY).max(1) } else { count };
        (heat > 0).then_some(Extent { column, place, heat, locked })
    })
}

impl Extent<'_> {
    #[expect(unsafe_code, reason = "locking takes an address")]
    fn set(&self, locked: bool) -> std::io::Result<()> {
        let bytes = self.column.bytes();
        let piece = bytes.chunks(EXTENT_BYTES).nth(self.place).unwrap_or_default();
        let (start, length) = (piece.as_ptr().cast_mut().cast(), piece.len());
        // SAFETY: these are pages of the mapped file, which the column holds; locking changes none of their bytes.
        let done =
            unsafe { if locked { rustix::mm::mlock(start, length) } else { rustix::mm::munlock(start, length) } };
        done?;
        if let Some(flag) = self.column.heat().locked.get(self.place) {
            flag.store(locked, Ordering::Relaxed);
        }
        Ok(())
    }
}
