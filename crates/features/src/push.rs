//! Rows that come in: pushed one by one or many at once, and kept before they are answered.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use halny_types::project::features::{FeatureType, Scalar};
use redb::{ReadableTableMetadata, WriteTransaction};

use crate::columns::Column;
use crate::local::{JOURNAL, TO_COME, join, numbers};
use crate::moment::SECOND;
use crate::offline::parts::{self, CREATED, EVENT, PartName, PartRow};
use crate::online::{Put, apply};
use crate::store::Inside;
use crate::{Features, FeaturesError, Moment, Value, View, key};

/// Rows of one push at most.
pub const PUSH_ROWS_MAX: usize = 100_000;
/// Rows that wait for the offline store at most: beyond it, it does not work, and more are refused.
const JOURNAL_ROWS_MAX: u64 = 5_000_000;
/// Rows whose time is to come at most.
const TO_COME_ROWS_MAX: u64 = 1_000_000;
const DAY: i64 = 24 * 3_600 * SECOND;
/// How far ahead a row's time may be: what is further is a time in milliseconds that was read as one in seconds.
const AHEAD_MAX: i64 = 3_653 * DAY;

/// Where pushed rows go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PushTo {
    /// To the online store only.
    Online,
    /// To the offline store only.
    Offline,
    /// To both.
    #[default]
    OnlineAndOffline,
}

/// What became of pushed rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Rows that were kept.
    pub rows: usize,
    /// Of them, how many are what the online store serves now. Others are older than what it had.
    pub served: usize,
    /// Of them, how many have a time that is to come. They are served from then on.
    pub to_come: usize,
}

/// A row in both of its forms.
pub(crate) struct Incoming {
    pub(crate) key: Vec<u8>,
    pub(crate) event: Moment,
    pub(crate) row: Vec<u8>,
    part: PartRow,
}

impl Features {
    /// Keeps rows of a view, and answers when they are on disk.
    ///
    /// The columns are the view's join keys and features, `event_timestamp` (now, when there is no such column) and, if
    /// wanted, `created_timestamp`.
    ///
    /// # Errors
    /// When the view takes no pushes, a column is missing, unknown or of a wrong type, or the rows cannot be kept. Then
    /// nothing of them may be relied on, and pushing them again does no harm.
    pub async fn push(&self, view: &str, rows: &RecordBatch, to: PushTo) -> Result<Pushed, FeaturesError> {
        let view = Arc::clone(self.definitions().view(view)?);
        if !view.push {
            return Err(FeaturesError::NoPush(view.name.clone()));
        }
        self.0.take(view, rows, to).await
    }

    /// Puts rows of a view among the values that are served, and nowhere else, as whoever materialises by means of their
    /// own does. The view need not take pushes.
    ///
    /// # Errors
    /// As those of [`push`](Features::push).
    pub async fn write_online(&self, view: &str, rows: &RecordBatch) -> Result<Pushed, FeaturesError> {
        let view = Arc::clone(self.definitions().view(view)?);
        self.0.take(view, rows, PushTo::Online).await
    }

    /// Writes rows of a view to the offline store, as a Parquet file of their own, and answers when it is kept. The
    /// columns are those of [`push`](Features::push).
    ///
    /// # Errors
    /// As those of [`push`](Features::push), but that the view need not take pushes.
    pub async fn ingest(&self, view: &str, rows: &RecordBatch) -> Result<usize, FeaturesError> {
        let view = Arc::clone(self.definitions().view(view)?);
        let now = self.0.now();
        let (rows, of) = (rows.clone(), Arc::clone(&view));
        let made = tokio::task::spawn_blocking(move || {
            let incoming = incoming(&of, &rows, now)?;
            let parts: Vec<PartRow> = incoming.into_iter().map(|row| row.part).collect();
            parts::batch(&of, &parts)
        });
        let batch = made.await.map_err(|_| FeaturesError::Broken)??;
        let count = batch.num_rows();
        if count == 0 {
            return Ok(0);
        }
        let first = self.0.local.write(move |transaction| numbers(transaction, count as u64)).await?;
        let name = PartName { identity: self.0.identity, first, last: first + count as u64 - 1 };
        parts::write(self.0.offline.as_ref(), &name.path(&self.0.prefix, &view.name), batch).await?;
        Ok(count)
    }
}

impl Inside {
    async fn take(&self, view: Arc<View>, rows: &RecordBatch, to: PushTo) -> Result<Pushed, FeaturesError> {
        if self.journalled.load(Ordering::Relaxed) > JOURNAL_ROWS_MAX && to != PushTo::Online {
            return Err(FeaturesError::Busy("too many pushed rows wait for the offline store"));
        }
        let now = self.now();
        let (rows, of) = (rows.clone(), Arc::clone(&view));
        let small = rows.num_rows() * view.features.len() < 512;
        let read = self.pool.run_unless(small, move || incoming(&of, &rows, now)).await;
        let incoming = read.map_err(|_| FeaturesError::Busy("too much waits to be computed"))??;
        let pushed = self.keep(&view, incoming, to, now).await?;
        self.tally.pushed(pushed.rows as u64);
        Ok(pushed)
    }

    async fn keep(&self, view: &View, rows: Vec<Incoming>, to: PushTo, now: Moment) -> Result<Pushed, FeaturesError> {
        let count = rows.len();
        let mut kept = Kept { view: view.name.clone(), ..Kept::default() };
        for row in rows {
            let online = to != PushTo::Offline;
            if to != PushTo::Online {
                kept.journal.push(join(&row.key, &row.row, online));
            }
            match put(view, &row.key, row.row, row.event) {
                put if online && row.event > now => kept.to_come.push((row.event, put)),
                put if online => kept.puts.push(put),
                _ => {}
            }
        }
        if !kept.to_come.is_empty() && self.local.read()?.open_table(TO_COME)?.len()? > TO_COME_ROWS_MAX {
            return Err(FeaturesError::Busy("too many rows wait for their time to come"));
        }
        let (to_come, journalled) = (kept.to_come.len(), kept.journal.len() as u64);
        let puts = if self.embedded { Vec::new() } else { std::mem::take(&mut kept.puts) };
        let mut served = 0;
        // The journal first: what was only served could be forgotten, what is only journalled is served later.
        if journalled > 0 || to_come > 0 || self.embedded {
            served = self.local.write(move |transaction| kept.write(transaction)).await?;
        }
        let waiting = self.journalled.fetch_add(journalled, Ordering::Relaxed) + journalled;
        if waiting > self.flush.rows {
            self.flush_now.notify_one();
        }
        if !puts.is_empty() {
            served = self.online.write(puts).await?;
        }
        Ok(Pushed { rows: count, served, to_come })
    }
}

/// What is written in one transaction.
#[derive(Default)]
struct Kept {
    view: String,
    journal: Vec<Vec<u8>>,
    to_come: Vec<(Moment, Put)>,
    puts: Vec<Put>,
}

impl Kept {
    fn write(self, transaction: &WriteTransaction) -> Result<usize, FeaturesError> {
        let mut number = numbers(transaction, (self.journal.len() + self.to_come.len()) as u64)?;
        let mut journal = transaction.open_table(JOURNAL)?;
        for joined in &self.journal {
            journal.insert((self.view.as_str(), number), joined.as_slice())?;
            number += 1;
        }
        let mut to_come = transaction.open_table(TO_COME)?;
        for (event, put) in &self.to_come {
            to_come.insert((event.0, number), join(&put.key, &put.row, true).as_slice())?;
            number += 1;
        }
        apply(transaction, &self.puts)
    }
}

/// A row for the online store.
pub(crate) fn put(view: &View, key: &[u8], row: Vec<u8>, event: Moment) -> Put {
    Put { key: view.storage_key(key), row, until: until(event, view.ttl_micros) }
}

/// From when on a row may be removed: it is kept as long again as it held, a day at least, so that who asks is told that
/// there was one.
pub(crate) fn until(event: Moment, ttl_micros: i64) -> Option<Moment> {
    (ttl_micros > 0).then(|| event.plus(ttl_micros).plus(ttl_micros.max(DAY)))
}

/// Reads rows that come in.
fn incoming(view: &View, batch: &RecordBatch, now: Moment) -> Result<Vec<Incoming>, FeaturesError> {
    let count = batch.num_rows();
    if count > PUSH_ROWS_MAX {
        return Err(FeaturesError::TooMany { what: "rows", count, most: PUSH_ROWS_MAX });
    }
    let named = |name: &str| {
        let features = view.features.iter().any(|feature| feature.name == name);
        features || view.keys.iter().any(|part| part.name == name) || [EVENT, CREATED].contains(&name)
    };
    if let Some(unknown) = batch.schema().fields().iter().find(|field| !named(field.name())) {
        return Err(crate::definitions::no_feature(&view.name, unknown.name(), &view.features));
    }
    let array = |name: &str, why: &str| -> Result<&ArrayRef, FeaturesError> {
        let missing = || FeaturesError::Missing { name: name.to_owned(), why: why.to_owned() };
        batch.column_by_name(name).ok_or_else(missing)
    };
    let column = |name: &str, of, why: &str| Column::new(name, array(name, why)?, of);
    let keys = view.keys.iter().map(|part| column(&part.name, part.value_type, "it is a join key of the view"));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let features = view
        .features
        .iter()
        .map(|it| column(&it.name, it.value_type, "a row has every feature of its view, null where there is no value"));
    let features = features.collect::<Result<Vec<_>, _>>()?;
    let moment = FeatureType::one(Scalar::UnixTimestamp);
    let times = |name: &str| batch.column_by_name(name).map(|array| Column::new(name, array, moment)).transpose();
    let (events, created) = (times(EVENT)?, times(CREATED)?);
    let row = |row: usize| {
        let event = match &events {
            None => now,
            Some(events) => events.moment(row).ok_or_else(|| no_value(EVENT, row))?,
        };
        if event > now.plus(AHEAD_MAX) {
            return Err(FeaturesError::Invalid(format!(
                "row {row} has an {EVENT} that is more than 10 years ahead; were milliseconds sent where seconds are meant?"
            )));
        }
        let created = created.as_ref().and_then(|created| created.moment(row)).unwrap_or(now);
        let parts: Vec<Value> = keys.iter().map(|column| column.value(row)).collect();
        let mut bytes = Vec::new();
        for (part, value) in view.keys.iter().zip(&parts) {
            if value.is_null() {
                return Err(no_value(&part.name, row));
            }
            key::put(part, value, &mut bytes)?;
        }
        let values: Vec<Value> = features.iter().map(|column| column.value(row)).collect();
        let packed = view.layout.pack(event, created, &values)?;
        Ok(Incoming { key: bytes, event, row: packed, part: PartRow { keys: parts, event, created, values } })
    };
    (0..count).map(row).collect()
}

fn no_value(name: &str, row: usize) -> FeaturesError {
    FeaturesError::Invalid(format!("row {row} has no {name}; every row has its join keys and its time"))
}
