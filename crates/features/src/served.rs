//! What was served, kept with the version of the service, so that it can be compared with what should have been.
//!
//! Logging takes nothing from serving: rows wait in memory, and are written to Parquet with the journal. When too many
//! wait, more are not logged, and counted; a crash loses those that wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::{Field, Schema};
use arrow::record_batch::RecordBatch;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::columns::{build, data_type, moment_type, moments};
use crate::definitions::Service;
use crate::offline::parts;
use crate::serve::OnlineResponse;
use crate::store::Inside;
use crate::{FeaturesError, Moment, Value};

/// Values that wait at most, of all rows together, items of lists and every 64 bytes of a text counted as one: about 300 MB
/// of texts, 100 MB of numbers.
const WAITING_VALUES_MAX: usize = 3_000_000;
const VALUE_BYTES: usize = 64;
/// The column that says when a row was served. No feature and no key has such a name.
pub(crate) const SERVED_AT: &str = "halny__served_at";

/// Served rows that wait to be written.
#[derive(Default)]
pub(crate) struct ServedLog {
    waiting: Mutex<Waiting>,
    logged: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    /// By name and version; after a reload, what was served before it and since.
    services: BTreeMap<(String, u32), Vec<OfService>>,
    values: usize,
    rows: u64,
}

type OfService = (Arc<Service>, Vec<ServedRow>);

struct ServedRow {
    at: Moment,
    /// Join keys, fields of the request, features.
    values: Vec<Value>,
}

impl ServedRow {
    /// How many values it counts as.
    fn width(&self) -> usize {
        self.values.iter().map(width).sum()
    }
}

fn width(value: &Value) -> usize {
    match value {
        Value::List(items) => 1 + items.iter().map(width).sum::<usize>(),
        Value::String(text) => 1 + text.len() / VALUE_BYTES,
        Value::Bytes(bytes) => 1 + bytes.len() / VALUE_BYTES,
        _ => 1,
    }
}

fn widths(rows: &[ServedRow]) -> usize {
    rows.iter().map(ServedRow::width).sum()
}

/// The folder of what a version of a service was served.
pub(crate) fn folder(prefix: &Path, service: &Service) -> Path {
    prefix.clone().join("served").join(service.name.as_str()).join(service.version.to_string())
}

impl ServedLog {
    pub(crate) fn logged(&self) -> u64 {
        self.logged.load(Ordering::Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes some of the rows of a response, as many as the service says.
    pub(crate) fn offer(
        &self,
        service: &Arc<Service>,
        response: &OnlineResponse,
        columns: &BTreeMap<String, Vec<Value>>,
        flush_rows: u64,
        flush_now: &Notify,
    ) {
        let chosen: Vec<usize> = (0..response.rows).filter(|_| rand::random::<f64>() < service.log_sample).collect();
        if chosen.is_empty() {
            return;
        }
        let selection = &service.selection;
        let given = selection.keys.iter().map(|part| &part.name).chain(selection.fields.iter().map(|(name, ..)| name));
        let given: Vec<&Vec<Value>> = given.filter_map(|name| columns.get(name)).collect();
        let row = |row: usize| {
            let given = given.iter().filter_map(|column| column.get(row).cloned());
            let served = (0..response.names.len()).map(|column| response.value(row, column).clone());
            ServedRow { at: response.at, values: given.chain(served).collect() }
        };
        let rows: Vec<ServedRow> = chosen.into_iter().map(row).collect();
        let (count, width) = (rows.len() as u64, widths(&rows));
        let mut waiting = self.waiting.lock();
        if waiting.values + width > WAITING_VALUES_MAX {
            drop(waiting);
            self.dropped.fetch_add(count, Ordering::Relaxed);
            return flush_now.notify_one();
        }
        waiting.add(service, rows, width);
        let many = waiting.rows > flush_rows;
        drop(waiting);
        self.logged.fetch_add(count, Ordering::Relaxed);
        if many {
            flush_now.notify_one();
        }
    }

    /// Writes what waits. What cannot be written waits on, and keeps nothing else waiting.
    pub(crate) async fn flush(&self, inside: &Inside) -> Result<(), FeaturesError> {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let mut written = Ok(());
        for (service, rows) in waiting.services.into_values().flatten() {
            if let Err(error) = write(inside, &service, &rows).await {
                self.put_back(&service, rows);
                written = Err(error);
            }
        }
        written
    }

    fn put_back(&self, service: &Arc<Service>, rows: Vec<ServedRow>) {
        let width = widths(&rows);
        let mut waiting = self.waiting.lock();
        if waiting.values + width <= WAITING_VALUES_MAX {
            return waiting.add(service, rows, width);
        }
        drop(waiting);
        self.logged.fetch_sub(rows.len() as u64, Ordering::Relaxed);
        self.dropped.fetch_add(rows.len() as u64, Ordering::Relaxed);
    }
}

/// Writes rows of a service to a file of their own.
async fn write(inside: &Inside, service: &Service, rows: &[ServedRow]) -> Result<(), FeaturesError> {
    let first = rows.first().map_or(0, |row| row.at.0);
    let name = format!("{first:020}-{}.parquet", uuid::Builder::from_random_bytes(rand::random()).into_uuid());
    let path = folder(&inside.prefix, service).join(name);
    parts::write(inside.offline.as_ref(), &path, batch(service, rows)?).await
}

impl Waiting {
    fn add(&mut self, service: &Arc<Service>, rows: Vec<ServedRow>, width: usize) {
        self.values += width;
        self.rows += rows.len() as u64;
        // After a reload it is another one, of which the columns may be others.
        let waiting = self.services.entry((service.name.clone(), service.version)).or_default();
        match waiting.iter_mut().find(|(known, _)| Arc::ptr_eq(known, service)) {
            Some((_, waiting)) => waiting.extend(rows),
            None => waiting.push((Arc::clone(service), rows)),
        }
    }
}

fn batch(service: &Service, rows: &[ServedRow]) -> Result<RecordBatch, FeaturesError> {
    let selection = &service.selection;
    let keys = selection.keys.iter().map(|part| (part.name.clone(), part.value_type));
    let fields = selection.fields.iter().map(|(name, of, _)| (name.clone(), *of));
    let outputs = selection.outputs.iter().map(|output| (output.full_name(), output.value_type));
    let mut schema = vec![Field::new(SERVED_AT, moment_type(), true)];
    let mut columns = vec![moments(rows.iter().map(|row| Some(row.at)))];
    for (at, (name, of)) in keys.chain(fields).chain(outputs).enumerate() {
        schema.push(Field::new(name, data_type(of), true));
        columns.push(build(of, rows.iter().map(|row| row.values.get(at).unwrap_or(&Value::Null))));
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(schema)), columns)?)
}
