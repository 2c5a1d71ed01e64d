//! The point-in-time join: to each entity row the newest row of every view that was known at its time, and still held.
//!
//! For each view, entity rows and view rows are sorted by key and time and merged once; what was found is sorted back into
//! the order of the entity rows. All sorting spills to temporary files beyond its share of the memory, so the join reads
//! and writes sequentially, however large either side is.
//!
//! Not DuckDB or DataFusion: both have the operator and neither the rules (ttl, later made, later written); and their
//! memory is that of the larger side's build.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufReader, BufWriter, Seek, SeekFrom};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use futures::stream::BoxStream;
use halny_types::project::features::{FeatureType, Scalar};
use tokio::runtime::Handle;

use super::rows::Rows;
use super::scan::Span;
use super::sort::{Rank, Record, Room, Sorted, Sorter};
use crate::columns::{Column, build, data_type};
use crate::moment::{Age, age};
use crate::packed::{put_values, take_values};
use crate::selection::{Picked, Selection};
use crate::{FeaturesError, Moment, Value, key};

/// Entity rows of one join.
const ENTITY_ROWS_MAX: u64 = 1_000_000_000;
/// Values of one batch that is worked on.
const BATCH_VALUES: usize = 128 << 10;

/// A join that was asked for.
pub(crate) struct Join {
    pub(crate) selection: Arc<Selection>,
    /// The names of the columns that are added.
    pub(crate) names: Vec<String>,
    /// The column of the entity rows that says when.
    pub(crate) timestamp: String,
    /// The rows of each view of the selection.
    pub(crate) rows: Vec<Rows>,
    pub(crate) room: Room,
    pub(crate) runtime: Handle,
}

/// The entity rows, in a temporary file.
struct Entities {
    file: File,
    schema: SchemaRef,
    count: u64,
    /// Of the times that are there.
    first: Moment,
    last: Moment,
}

impl Join {
    /// Joins, and gives batches to `sink` until that says false: the entity rows in their order, with all their columns
    /// and then those of the features. Gives how many computed values failed, or nothing when `sink` ended it. Blocks: it is for threads that may.
    ///
    /// # Errors
    /// When the entity rows lack a column or have one of a wrong type, or something cannot be read or written.
    pub(crate) fn run(
        &mut self,
        entities: BoxStream<'static, Result<RecordBatch, FeaturesError>>,
        sink: &mut dyn FnMut(RecordBatch) -> bool,
    ) -> Result<Option<u64>, FeaturesError> {
        let Some(entities) = self.keep(entities)? else { return Ok(Some(0)) };
        // They hold the journal as it was: whoever takes the answer slowly does not keep its pages from being used again.
        let rows = std::mem::take(&mut self.rows);
        let mut found = Vec::with_capacity(rows.len());
        for (picked, rows) in self.selection.views.iter().zip(rows) {
            found.push(Found { sorted: self.view(picked, &rows, &entities)?, next: Record::default(), is_next: false });
        }
        self.answer(&entities, found, sink)
    }

    fn share(&self, part: usize) -> Room {
        Room { folder: self.room.folder.clone(), bytes: self.room.bytes / part }
    }

    /// Writes the entity rows to a temporary file, in batches that are small however theirs are; nothing when there are
    /// no batches.
    fn keep(
        &self,
        mut entities: BoxStream<'static, Result<RecordBatch, FeaturesError>>,
    ) -> Result<Option<Entities>, FeaturesError> {
        let rows = (BATCH_VALUES / self.selection.slots.max(1)).clamp(64, 8_192);
        let mut kept: Option<(StreamWriter<BufWriter<File>>, SchemaRef)> = None;
        let (mut count, mut first, mut last) = (0u64, Moment::MAX, Moment::MIN);
        while let Some(batch) = self.runtime.block_on(entities.next()).transpose()? {
            if kept.is_none() {
                self.check(&batch)?;
                let file = BufWriter::new(tempfile::tempfile_in(&self.room.folder)?);
                kept = Some((StreamWriter::try_new(file, &batch.schema())?, batch.schema()));
            }
            let Some((writer, schema)) = kept.as_mut() else { continue };
            if batch.schema() != *schema {
                let wrong = "the entity rows change their columns from one batch to the next; send one schema";
                return Err(FeaturesError::Invalid(wrong.to_owned()));
            }
            let times = self.times(&batch)?;
            for at in (0..batch.num_rows()).filter_map(|row| times.moment(row)) {
                (first, last) = (first.min(at), last.max(at));
            }
            count += batch.num_rows() as u64;
            if count > ENTITY_ROWS_MAX {
                let most = ENTITY_ROWS_MAX as usize;
                return Err(FeaturesError::TooMany { what: "entity rows", count: count as usize, most });
            }
            let mut start = 0;
            while start < batch.num_rows() {
                let some = rows.min(batch.num_rows() - start);
                writer.write(&batch.slice(start, some))?;
                start += some;
            }
        }
        let Some((mut writer, schema)) = kept else { return Ok(None) };
        if count == 0 {
            // A table without rows has columns all the same, and so has what it is joined to.
            writer.write(&RecordBatch::new_empty(Arc::clone(&schema)))?;
        }
        let file = writer.into_inner()?.into_inner().map_err(|error| error.into_error())?;
        Ok(Some(Entities { file, schema, count, first, last }))
    }

    /// The entity rows have what is needed, and nothing that is called as a feature will be.
    fn check(&self, batch: &RecordBatch) -> Result<(), FeaturesError> {
        self.times(batch)?;
        for part in &self.selection.keys {
            column(batch, &part.name, part.value_type, "it is a join key of the features")?;
        }
        for (name, of, _) in &self.selection.fields {
            column(batch, name, *of, "an on-demand feature reads it as a field of the request")?;
        }
        match self.names.iter().find(|name| batch.column_by_name(name).is_some()) {
            Some(taken) => {
                let second = "a column of the entity rows".to_owned();
                Err(FeaturesError::Ambiguous { name: taken.clone(), first: "a feature".to_owned(), second })
            }
            None => Ok(()),
        }
    }

    fn times(&self, batch: &RecordBatch) -> Result<Column, FeaturesError> {
        column(batch, &self.timestamp, FeatureType::one(Scalar::UnixTimestamp), "it says when each row is asked for")
    }

    /// What a view has for the entity rows, in their order.
    fn view(&self, picked: &Picked, rows: &Rows, entities: &Entities) -> Result<Sorted, FeaturesError> {
        let (asked, sieve) = self.asked(picked, entities)?;
        let asked = asked.finish()?;
        let wanted: Vec<usize> = picked.wanted().map(|(feature, _)| feature).collect();
        let ttl = picked.view.ttl_micros;
        let from = if ttl > 0 { entities.first.plus(-ttl) } else { Moment::MIN };
        let mut known = Sorter::new(self.share(2));
        let (mut payload, mut number) = (Vec::new(), 0);
        rows.scan(Span { from, until: entities.last }, &wanted, &self.runtime, &mut |row| {
            number += 1;
            if !sieve.may_hold(row.key) {
                return Ok(());
            }
            payload.clear();
            put_values(row.values, &mut payload);
            known.push(row.key, Rank { time: row.event.0, made: row.created.0, number }, &payload)
        })?;
        drop(sieve);
        let mut found = Sorter::new(self.share(4));
        merge(asked, known.finish()?, ttl, &mut found)?;
        found.finish()?.on_disk(&self.share(4))
    }

    /// The keys and times of the entity rows, and a sieve of their keys.
    fn asked(&self, picked: &Picked, entities: &Entities) -> Result<(Sorter, Sieve), FeaturesError> {
        let mut sieve = Sieve::new(entities.count, self.room.bytes / 16);
        let mut asked = Sorter::new(self.share(8));
        let (mut number, mut key) = (0u64, Vec::new());
        for batch in entities.batches()? {
            let batch = batch?;
            let times = self.times(&batch)?;
            let parts = picked.keys.iter().map(|at| &self.selection.keys[*at]);
            let columns = parts.clone().map(|part| column(&batch, &part.name, part.value_type, "it is a join key"));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            for row in 0..batch.num_rows() {
                number += 1;
                let Some(at) = times.moment(row) else { continue };
                key.clear();
                let mut whole = true;
                for (part, column) in parts.clone().zip(&columns) {
                    match column.value(row) {
                        Value::Null => whole = false,
                        value => key::put(part, &value, &mut key)?,
                    }
                }
                if whole {
                    sieve.add(&key);
                    asked.push(&key, Rank { time: at.0, made: 0, number: number - 1 }, &[])?;
                }
            }
        }
        Ok((asked, sieve))
    }

    /// Puts together what was found.
    fn answer(
        &self,
        entities: &Entities,
        mut found: Vec<Found>,
        sink: &mut dyn FnMut(RecordBatch) -> bool,
    ) -> Result<Option<u64>, FeaturesError> {
        let schema = self.schema(&entities.schema);
        let (mut first, mut failed) = (0u64, 0);
        for batch in entities.batches()? {
            let batch = batch?;
            let mut cells = vec![Value::Null; batch.num_rows() * self.selection.slots];
            for (picked, found) in self.selection.views.iter().zip(&mut found) {
                found.fill(picked, first, batch.num_rows(), self.selection.slots, &mut cells)?;
            }
            for (name, of, slot) in &self.selection.fields {
                let column = column(&batch, name, *of, "an on-demand feature reads it")?;
                for row in 0..batch.num_rows() {
                    cells[row * self.selection.slots + slot] = column.value(row);
                }
            }
            for row in cells.chunks_mut(self.selection.slots.max(1)) {
                failed += self.selection.compute(row);
            }
            first += batch.num_rows() as u64;
            let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
            for output in &self.selection.outputs {
                let values = cells.iter().skip(output.slot).step_by(self.selection.slots);
                columns.push(build(output.value_type, values));
            }
            if !sink(RecordBatch::try_new(Arc::clone(&schema), columns)?) {
                return Ok(None);
            }
        }
        Ok(Some(failed))
    }

    /// The columns of the answer.
    fn schema(&self, entities: &Schema) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = entities.fields().iter().cloned().collect();
        for (output, name) in self.selection.outputs.iter().zip(&self.names) {
            fields.push(Arc::new(Field::new(name, data_type(output.value_type), true)));
        }
        Arc::new(Schema::new(fields))
    }
}

impl Entities {
    fn batches(&self) -> Result<StreamReader<BufReader<File>>, FeaturesError> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(StreamReader::try_new(BufReader::new(file), None)?)
    }
}

fn column(batch: &RecordBatch, name: &str, of: FeatureType, why: &str) -> Result<Column, FeaturesError> {
    let missing = || FeaturesError::Missing { name: name.to_owned(), why: why.to_owned() };
    Column::new(name, batch.column_by_name(name).ok_or_else(missing)?, of)
}

/// Merges both sides, each in the order of keys and times: to each that is asked for the last that is known by then.
fn merge(mut asked: Sorted, mut known: Sorted, ttl_micros: i64, found: &mut Sorter) -> Result<(), FeaturesError> {
    let (mut ask, mut next, mut best) = (Record::default(), Record::default(), Record::default());
    let mut is_next = known.next_into(&mut next)?;
    let mut is_best = false;
    while asked.next_into(&mut ask)? {
        while is_next && (next.key < ask.key || (next.key == ask.key && next.rank.time <= ask.rank.time)) {
            std::mem::swap(&mut best, &mut next);
            is_best = true;
            is_next = known.next_into(&mut next)?;
        }
        let holds = || age(Moment(best.rank.time), Moment(ask.rank.time), ttl_micros) == Age::Holds;
        if is_best && best.key == ask.key && holds() {
            found.push(&[], Rank { number: ask.rank.number, ..Rank::default() }, &best.payload)?;
        }
    }
    Ok(())
}

/// What a view has for the entity rows, while it is read.
struct Found {
    sorted: Sorted,
    next: Record,
    is_next: bool,
}

impl Found {
    /// Puts the values of the entity rows `first..first + rows` into their slots.
    fn fill(
        &mut self,
        picked: &Picked,
        first: u64,
        rows: usize,
        slots: usize,
        cells: &mut [Value],
    ) -> Result<(), FeaturesError> {
        let types: Vec<FeatureType> = picked.wanted().map(|(at, _)| picked.view.features[at].value_type).collect();
        loop {
            if !self.is_next && !self.sorted.next_into(&mut self.next)? {
                return Ok(());
            }
            let row = (self.next.rank.number - first) as usize;
            self.is_next = row >= rows;
            if self.is_next {
                return Ok(());
            }
            let values = take_values(&types, &self.next.payload)?;
            for ((_, slot), value) in picked.wanted().zip(values) {
                cells[row * slots + slot] = value;
            }
        }
    }
}

/// Tells of most keys that nobody asks for, so that they are not sorted: a Bloom filter (Bloom, 1970) of two hashes.
struct Sieve {
    words: Vec<u64>,
}

impl Sieve {
    fn new(keys: u64, bytes_max: usize) -> Sieve {
        // 16 bits a key: 1.4 % of the other keys pass.
        let words = usize::try_from(keys / 4).unwrap_or(usize::MAX).clamp(16, bytes_max.max(128) / 8);
        Sieve { words: vec![0; words.next_power_of_two() >> usize::from(!words.is_power_of_two())] }
    }

    fn places(&self, key: &[u8]) -> [(usize, u64); 2] {
        let mut hasher = DefaultHasher::new();
        hasher.write(key);
        let hash = hasher.finish();
        [hash, hash.rotate_left(32)].map(|hash| ((hash >> 6) as usize & (self.words.len() - 1), 1 << (hash & 63)))
    }

    fn add(&mut self, key: &[u8]) {
        for (word, bit) in self.places(key) {
            self.words[word] |= bit;
        }
    }

    fn may_hold(&self, key: &[u8]) -> bool {
        self.places(key).iter().all(|(word, bit)| self.words[*word] & bit != 0)
    }
}
