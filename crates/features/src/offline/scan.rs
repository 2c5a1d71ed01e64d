//! Reading the rows of a view from a Parquet file: only the wanted columns, only row groups within the wanted times.

use std::collections::BTreeMap;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use halny_types::project::features::{FeatureType, Scalar};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use tokio::runtime::Handle;

use super::chunks::Chunks;
use super::files::RowFile;
use super::parts::{CREATED, EVENT};
use crate::columns::{Column, data_type};
use crate::{FeaturesError, Moment, Value, View, key};

/// Values of one batch: with fewer columns a batch has more rows.
const BATCH_VALUES: usize = 128 << 10;

/// Rows from `from` to `until`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Moment,
    pub(crate) until: Moment,
}

impl Span {
    pub(crate) fn holds(self, at: Moment) -> bool {
        self.from <= at && at <= self.until
    }
}

/// A row that was read. Its values are those of the wanted features, in the order in which they were asked for.
pub(crate) struct ScannedRow<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) event: Moment,
    pub(crate) created: Moment,
    pub(crate) values: &'a [Value],
}

/// What came of reading a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) rows: u64,
    /// Rows without a time or a key, which are rows of nothing.
    pub(crate) skipped: u64,
    /// The latest time in the file, of rows that were left out for being too late too.
    pub(crate) latest: Option<Moment>,
}

/// Gives the rows of a file within the span to `with`, in its order. Blocks: it is for threads that may.
///
/// # Errors
/// When the file is not what the view's definition says, or `with` fails.
pub(crate) fn file(
    view: &View,
    file: &RowFile,
    span: Span,
    wanted: &[usize],
    runtime: &Handle,
    with: &mut dyn FnMut(ScannedRow<'_>) -> Result<(), FeaturesError>,
) -> Result<Scanned, FeaturesError> {
    let chunks = Chunks::new(file.store.clone(), file.meta.location.clone(), file.meta.size, runtime.clone());
    let builder = ParquetRecordBatchReaderBuilder::try_new(chunks)?;
    let schema = builder.schema().clone();
    let names = Names::of(view, file.own);
    let columns: Vec<String> = names.columns(view, wanted, &schema)?;
    let place = |name: &String| schema.index_of(name).ok();
    let roots: Vec<usize> = columns.iter().filter_map(place).collect();
    let time = schema.field_with_name(&names.event).map(|field| field.data_type().clone()).ok();
    let time_at = schema.index_of(&names.event).unwrap_or_default();
    // Columns of a tree are counted by their leaves there; a time is one leaf, if not the first.
    let leaf = (0..builder.parquet_schema().num_columns())
        .find(|leaf| builder.parquet_schema().get_column_root_idx(*leaf) == time_at);
    let mut scanned = Scanned::default();
    let mut groups = Vec::new();
    for (at, group) in builder.metadata().row_groups().iter().enumerate() {
        let bounds = leaf.zip(time.as_ref()).and_then(|(leaf, time)| bounds(group, leaf, time));
        if let Some((_, latest)) = bounds {
            scanned.latest = scanned.latest.max(Some(latest));
        }
        if bounds.is_none_or(|(first, last)| first <= span.until && last >= span.from) {
            groups.push(at);
        }
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let rows = (BATCH_VALUES / columns.len().max(1)).clamp(64, 8_192);
    for batch in builder.with_projection(mask).with_row_groups(groups).with_batch_size(rows).build()? {
        rows_of(view, &names, &batch?, span, wanted, &mut scanned, with)?;
    }
    Ok(scanned)
}

/// The rows of columns that were read or are given, as [`file`] gives them.
fn rows_of(
    view: &View,
    names: &Names,
    batch: &RecordBatch,
    span: Span,
    wanted: &[usize],
    scanned: &mut Scanned,
    with: &mut dyn FnMut(ScannedRow<'_>) -> Result<(), FeaturesError>,
) -> Result<(), FeaturesError> {
    let column = |name: &str| batch.column_by_name(name);
    let typed = |name: &str, of: FeatureType| -> Result<Option<Column>, FeaturesError> {
        // What we wrote with another type was another feature then.
        let usable = |array: &&ArrayRef| !names.own || *array.data_type() == data_type(of);
        column(name)
            .filter(usable)
            .map(|array| Column::new(name, array, of).map_err(|error| source(view, &error)))
            .transpose()
    };
    let moment = FeatureType::one(Scalar::UnixTimestamp);
    let keys = view.keys.iter().map(|part| typed(names.column(&part.name), part.value_type));
    let keys: Vec<Option<Column>> = keys.collect::<Result<_, _>>()?;
    let events = typed(&names.event, moment)?;
    let created = names.created.as_deref().map(|name| typed(name, moment)).transpose()?.flatten();
    let features = wanted.iter().map(|at| &view.features[*at]);
    let features = features.map(|feature| typed(names.column(&feature.name), feature.value_type));
    let features: Vec<Option<Column>> = features.collect::<Result<_, _>>()?;
    let (mut key, mut values) = (Vec::new(), Vec::with_capacity(wanted.len()));
    for row in 0..batch.num_rows() {
        let Some(event) = events.as_ref().and_then(|events| events.moment(row)) else {
            scanned.skipped += 1;
            continue;
        };
        scanned.latest = scanned.latest.max(Some(event));
        if !span.holds(event) {
            continue;
        }
        if !read_key(view, &keys, row, &mut key)? {
            scanned.skipped += 1;
            continue;
        }
        values.clear();
        values.extend(features.iter().map(|column| column.as_ref().map_or(Value::Null, |column| column.value(row))));
        let created = created.as_ref().and_then(|created| created.moment(row)).unwrap_or(event);
        scanned.rows += 1;
        with(ScannedRow { key: &key, event, created, values: &values })?;
    }
    Ok(())
}

/// Writes the key of a row; false when a part of it is null.
fn read_key(view: &View, columns: &[Option<Column>], row: usize, into: &mut Vec<u8>) -> Result<bool, FeaturesError> {
    into.clear();
    for (part, column) in view.keys.iter().zip(columns) {
        match column.as_ref().map(|column| column.value(row)) {
            None | Some(Value::Null) => return Ok(false),
            Some(value) => key::put(part, &value, into)?,
        }
    }
    Ok(true)
}

fn source(view: &View, error: &FeaturesError) -> FeaturesError {
    FeaturesError::Source { view: view.name.clone(), why: error.to_string() }
}

/// What the columns of a file are called.
struct Names {
    event: String,
    created: Option<String>,
    /// By feature or join key, where the column is called otherwise.
    mapped: BTreeMap<String, String>,
    own: bool,
}

impl Names {
    fn of(view: &View, own: bool) -> Names {
        match view.batch.as_ref().filter(|_| !own) {
            Some(batch) => Names {
                event: batch.timestamp.clone(),
                created: batch.created.clone(),
                mapped: batch.mapping.iter().map(|(column, name)| (name.clone(), column.clone())).collect(),
                own,
            },
            None => {
                Names { event: EVENT.to_owned(), created: Some(CREATED.to_owned()), mapped: BTreeMap::new(), own: true }
            }
        }
    }

    fn column<'a>(&'a self, name: &'a str) -> &'a str {
        self.mapped.get(name).map_or(name, String::as_str)
    }

    /// The columns to read. A file that we wrote may have been written before a feature was added; others' may not lack
    /// one, or a typing error would read as nulls.
    fn columns(&self, view: &View, wanted: &[usize], schema: &Schema) -> Result<Vec<String>, FeaturesError> {
        let keys = view.keys.iter().map(|part| self.column(&part.name).to_owned());
        let features = wanted.iter().map(|at| self.column(&view.features[*at].name).to_owned());
        let times = std::iter::once(self.event.clone()).chain(self.created.clone());
        let mut columns: Vec<String> = keys.chain(times).chain(features).collect();
        if !self.own
            && let Some(lacking) = columns.iter().find(|name| schema.index_of(name).is_err())
        {
            return Err(FeaturesError::Source {
                view: view.name.clone(),
                why: format!("it has no column {lacking:?}"),
            });
        }
        columns.retain(|name| schema.index_of(name).is_ok());
        columns.dedup();
        Ok(columns)
    }
}

/// The first and the last time in a row group, as far as its statistics say.
fn bounds(group: &RowGroupMetaData, leaf: usize, time: &DataType) -> Option<(Moment, Moment)> {
    let Statistics::Int64(statistics) = group.column(leaf).statistics()? else { return None };
    let micros = |value: i64, up: i64| match time {
        DataType::Timestamp(TimeUnit::Second, _) => value.saturating_mul(1_000_000),
        DataType::Timestamp(TimeUnit::Millisecond, _) => value.saturating_mul(1_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => value,
        // Rounded outwards, whichever way the cast of the values rounds.
        _ => value.div_euclid(1_000).saturating_add(up),
    };
    matches!(time, DataType::Timestamp(..))
        .then_some((Moment(micros(*statistics.min_opt()?, 0)), Moment(micros(*statistics.max_opt()?, 1))))
}
