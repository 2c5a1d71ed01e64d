//! Parts: Parquet files of rows that were pushed or ingested, named after who wrote them and which rows they hold.
//!
//! `rows/<view>/<server>-<first>-<last>.parquet` holds the rows with those numbers. Writing it again writes the same file,
//! so a server that is killed between writing a part and forgetting its journal does no harm: it sees from the name which
//! rows are in it.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use arrow::record_batch::RecordBatch;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::columns::{build, data_type, moment_type, moments};
use crate::{FeaturesError, Moment, Value, View};

/// When a row began to hold.
pub(crate) const EVENT: &str = "event_timestamp";
/// When it was made.
pub(crate) const CREATED: &str = "created_timestamp";
/// Rows of one row group: a reader holds a page of each column, and skips whole groups by their times.
const GROUP_ROWS: usize = 65_536;

/// The folder of a view's parts.
pub(crate) fn folder(prefix: &Path, view: &str) -> Path {
    prefix.clone().join("rows").join(view)
}

/// The rows that a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartName {
    /// The database whose rows they are.
    pub(crate) identity: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl PartName {
    pub(crate) fn path(self, prefix: &Path, view: &str) -> Path {
        let name = format!("{:016x}-{:020}-{:020}.parquet", self.identity, self.first, self.last);
        folder(prefix, view).join(name)
    }

    pub(crate) fn read(path: &Path) -> Option<PartName> {
        let mut parts = path.filename()?.strip_suffix(".parquet")?.split('-');
        let identity = u64::from_str_radix(parts.next()?, 16).ok()?;
        let (first, last) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(PartName { identity, first, last })
    }
}

/// A row, with its key taken apart.
#[derive(Clone, Debug)]
pub(crate) struct PartRow {
    pub(crate) keys: Vec<Value>,
    pub(crate) event: Moment,
    pub(crate) created: Moment,
    pub(crate) values: Vec<Value>,
}

/// Rows of a view as columns.
pub(crate) fn batch(view: &View, rows: &[PartRow]) -> Result<RecordBatch, FeaturesError> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (at, part) in view.keys.iter().enumerate() {
        fields.push(Field::new(&part.name, data_type(part.value_type), true));
        columns.push(build(part.value_type, rows.iter().map(|row| &row.keys[at])));
    }
    fields.push(Field::new(EVENT, moment_type(), true));
    columns.push(moments(rows.iter().map(|row| Some(row.event))));
    fields.push(Field::new(CREATED, moment_type(), true));
    columns.push(moments(rows.iter().map(|row| Some(row.created))));
    for (at, feature) in view.features.iter().enumerate() {
        fields.push(Field::new(&feature.name, data_type(feature.value_type), true));
        columns.push(build(feature.value_type, rows.iter().map(|row| &row.values[at])));
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The columns as a Parquet file.
pub(crate) fn encode(batch: &RecordBatch) -> Result<Vec<u8>, FeaturesError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
    writer.write(batch)?;
    Ok(writer.into_inner()?)
}

/// Writes a file whole: when this is answered it is kept.
pub(crate) async fn write(store: &dyn ObjectStore, path: &Path, batch: RecordBatch) -> Result<(), FeaturesError> {
    let bytes = tokio::task::spawn_blocking(move || encode(&batch)).await.map_err(|_| FeaturesError::Broken)??;
    store.put(path, bytes.into()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_its_rows_by_its_name() {
        let name = PartName { identity: u64::MAX, first: 0, last: 12 };
        let path = name.path(&Path::from("a/b"), "clicks");
        assert_eq!(PartName::read(&path), Some(name));
        assert!(path.as_ref().starts_with("a/b/rows/clicks/"), "{path}");
        assert_eq!(PartName::read(&Path::from("a/b/x.parquet")), None);
    }
}
