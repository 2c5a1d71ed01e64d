//! Sorting more than memory holds: records are gathered up to a limit, sorted, written to a temporary file, and merged.
//!
//! The limit is kept by construction: what is gathered lies in one block of that size, and a merge reads each file through
//! a buffer, of as many files at once as have buffers within the limit.
//!
//! Not `arrow`'s row sort or DataFusion's: the one has no limit, the other brings a query engine for one operator.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use crate::FeaturesError;

/// A buffer of a file that is merged.
const BUFFER_BYTES: usize = 32 << 10;
/// The least that a sorter works with.
const LIMIT_MIN: usize = 4 * BUFFER_BYTES;

/// What records are ordered by: key, then time, then when they were made, then their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) time: i64,
    pub(crate) made: i64,
    pub(crate) number: u64,
}

/// Where temporary files are, and how much memory there is.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) folder: PathBuf,
    pub(crate) bytes: usize,
}

/// A record that lies in the block.
struct Place {
    rank: Rank,
    start: usize,
    key: u32,
    payload: u32,
}

/// Gathers records.
pub(crate) struct Sorter {
    room: Room,
    block: Vec<u8>,
    block_bytes: usize,
    places: Vec<Place>,
    places_max: usize,
    runs: Vec<File>,
}

impl Sorter {
    pub(crate) fn new(room: Room) -> Sorter {
        let bytes = room.bytes.max(LIMIT_MIN);
        // Places take as much as a record of 80 bytes would: the block is full about when they are.
        let places_max = bytes / 3 / size_of::<Place>();
        let block_bytes = bytes - places_max * size_of::<Place>();
        Sorter { room, block: Vec::new(), block_bytes, places: Vec::new(), places_max, runs: Vec::new() }
    }

    /// Takes a record.
    ///
    /// # Errors
    /// When a temporary file cannot be written.
    pub(crate) fn push(&mut self, key: &[u8], rank: Rank, payload: &[u8]) -> Result<(), FeaturesError> {
        let bytes = key.len() + payload.len();
        if !self.places.is_empty()
            && (self.block.len() + bytes > self.block_bytes || self.places.len() == self.places_max)
        {
            self.spill()?;
        }
        if self.block.len() + bytes > self.block.capacity() {
            // Grown by doubling, but never beyond the limit, where a vector by itself would.
            let wanted = (self.block.capacity() * 2).clamp(64 << 10, self.block_bytes).max(self.block.len() + bytes);
            self.block.reserve_exact(wanted - self.block.len());
        }
        if self.places.len() == self.places.capacity() {
            let wanted = (self.places.capacity() * 2).clamp(1_024, self.places_max.max(1_024));
            self.places.reserve_exact(wanted - self.places.len());
        }
        let start = self.block.len();
        self.block.extend(key);
        self.block.extend(payload);
        self.places.push(Place { rank, start, key: key.len() as u32, payload: payload.len() as u32 });
        Ok(())
    }

    fn sort(&mut self) {
        let block = &self.block;
        let key = |place: &Place| &block[place.start..place.start + place.key as usize];
        self.places.sort_unstable_by(|a, b| key(a).cmp(key(b)).then_with(|| a.rank.cmp(&b.rank)));
    }

    fn spill(&mut self) -> Result<(), FeaturesError> {
        self.sort();
        let mut run = BufWriter::with_capacity(BUFFER_BYTES, tempfile::tempfile_in(&self.room.folder)?);
        for place in &self.places {
            let (key, payload) = split(&self.block, place);
            put(&mut run, key, place.rank, payload)?;
        }
        self.runs.push(rewound(run)?);
        self.block.clear();
        self.places.clear();
        Ok(())
    }

    /// The records in order.
    ///
    /// # Errors
    /// When a temporary file cannot be written or read.
    pub(crate) fn finish(mut self) -> Result<Sorted, FeaturesError> {
        if self.runs.is_empty() {
            self.sort();
            return Ok(Sorted(Inside::Memory { block: self.block, places: self.places.into_iter() }));
        }
        self.spill()?;
        let Sorter { room, mut runs, block, places, .. } = self;
        drop((block, places));
        let at_once = (room.bytes.max(LIMIT_MIN) / BUFFER_BYTES).max(3) - 1;
        while runs.len() > at_once {
            let first: Vec<File> = runs.drain(..at_once).collect();
            runs.push(Sorted(Inside::Files(Merge::new(first)?)).into_file(&room)?);
        }
        Ok(Sorted(Inside::Files(Merge::new(runs)?)))
    }
}

fn split<'a>(block: &'a [u8], place: &Place) -> (&'a [u8], &'a [u8]) {
    let middle = place.start + place.key as usize;
    (&block[place.start..middle], &block[middle..middle + place.payload as usize])
}

fn put(run: &mut impl Write, key: &[u8], rank: Rank, payload: &[u8]) -> Result<(), FeaturesError> {
    let mut head = [0u8; 32];
    head[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
    head[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[8..16].copy_from_slice(&rank.time.to_le_bytes());
    head[16..24].copy_from_slice(&rank.made.to_le_bytes());
    head[24..].copy_from_slice(&rank.number.to_le_bytes());
    run.write_all(&head)?;
    run.write_all(key)?;
    Ok(run.write_all(payload)?)
}

fn rewound(run: BufWriter<File>) -> Result<File, FeaturesError> {
    let mut file = run.into_inner().map_err(|error| error.into_error())?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// A record that was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Vec<u8>,
    pub(crate) rank: Rank,
    pub(crate) payload: Vec<u8>,
}

impl Ord for Record {
    fn cmp(&self, other: &Record) -> Ordering {
        self.key.cmp(&other.key).then_with(|| self.rank.cmp(&other.rank))
    }
}

impl PartialOrd for Record {
    fn partial_cmp(&self, other: &Record) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Records in order.
pub(crate) struct Sorted(Inside);

enum Inside {
    Memory { block: Vec<u8>, places: std::vec::IntoIter<Place> },
    Files(Merge),
}

impl Sorted {
    /// Puts the next record into `record`, whose memory is used again; false at the end.
    ///
    /// # Errors
    /// When a temporary file cannot be read.
    pub(crate) fn next_into(&mut self, record: &mut Record) -> Result<bool, FeaturesError> {
        match &mut self.0 {
            Inside::Memory { block, places } => {
                let Some(place) = places.next() else { return Ok(false) };
                let (key, payload) = split(block, &place);
                record.key.clear();
                record.key.extend(key);
                record.payload.clear();
                record.payload.extend(payload);
                record.rank = place.rank;
                Ok(true)
            }
            Inside::Files(merge) => merge.next_into(record),
        }
    }

    /// Writes all records to one file, which needs one buffer to be read.
    fn into_file(mut self, room: &Room) -> Result<File, FeaturesError> {
        let mut run = BufWriter::with_capacity(BUFFER_BYTES, tempfile::tempfile_in(&room.folder)?);
        let mut record = Record::default();
        while self.next_into(&mut record)? {
            put(&mut run, &record.key, record.rank, &record.payload)?;
        }
        rewound(run)
    }

    /// The same records, of which but a buffer is in memory.
    ///
    /// # Errors
    /// When a temporary file cannot be written.
    pub(crate) fn on_disk(self, room: &Room) -> Result<Sorted, FeaturesError> {
        let file = self.into_file(room)?;
        Ok(Sorted(Inside::Files(Merge::new(vec![file])?)))
    }
}

struct Run {
    head: Record,
    file: BufReader<File>,
}

impl Run {
    /// Reads the next record; false at the end.
    fn advance(&mut self) -> Result<bool, FeaturesError> {
        let mut head = [0u8; 32];
        let first = self.file.read(&mut head)?;
        if first == 0 {
            return Ok(false);
        }
        self.file.read_exact(&mut head[first..])?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        self.head.rank = Rank { time: long(8).cast_signed(), made: long(16).cast_signed(), number: long(24) };
        self.head.key.resize(word(0) as usize, 0);
        self.file.read_exact(&mut self.head.key)?;
        self.head.payload.resize(word(4) as usize, 0);
        self.file.read_exact(&mut self.head.payload)?;
        Ok(true)
    }
}

// The heap gives the greatest, and the least is wanted.
impl Ord for Run {
    fn cmp(&self, other: &Run) -> Ordering {
        other.head.cmp(&self.head)
    }
}

impl PartialOrd for Run {
    fn partial_cmp(&self, other: &Run) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Run) -> bool {
        self.head == other.head
    }
}

impl Eq for Run {}

struct Merge(BinaryHeap<Run>);

impl Merge {
    fn new(files: Vec<File>) -> Result<Merge, FeaturesError> {
        let mut runs = BinaryHeap::with_capacity(files.len());
        for file in files {
            let mut run = Run { head: Record::default(), file: BufReader::with_capacity(BUFFER_BYTES, file) };
            if run.advance()? {
                runs.push(run);
            }
        }
        Ok(Merge(runs))
    }

    fn next_into(&mut self, record: &mut Record) -> Result<bool, FeaturesError> {
        let Some(mut least) = self.0.peek_mut() else { return Ok(false) };
        std::mem::swap(record, &mut least.head);
        if !least.advance()? {
            std::collections::binary_heap::PeekMut::pop(least);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn records_come_in_order_and_none_is_lost(
            records in prop::collection::vec(("[a-c]{0,3}", -3i64..3, -3i64..3, 0usize..3_000), 0..2_000),
            bytes in 0usize..(400 << 10),
        ) {
            let room = Room { folder: std::env::temp_dir(), bytes };
            let mut sorter = Sorter::new(room.clone());
            let mut expected = Vec::new();
            for (number, (key, time, made, size)) in records.iter().enumerate() {
                let rank = Rank { time: *time, made: *made, number: number as u64 };
                let payload = vec![number as u8; *size];
                sorter.push(key.as_bytes(), rank, &payload).unwrap();
                expected.push(Record { key: key.clone().into_bytes(), rank, payload });
            }
            expected.sort();
            let mut sorted = sorter.finish().unwrap();
            if bytes % 2 == 0 {
                sorted = sorted.on_disk(&room).unwrap();
            }
            let mut record = Record::default();
            for expected in expected {
                prop_assert!(sorted.next_into(&mut record).unwrap());
                prop_assert_eq!(&record, &expected);
            }
            prop_assert!(!sorted.next_into(&mut record).unwrap());
        }
    }
}
