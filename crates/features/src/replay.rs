//! Whether what was served is what the join gives for the same moment: the skew between serving and training.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema};
use arrow::record_batch::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::columns::Column;
use crate::offline::chunks::Chunks;
use crate::selection::Selection;
use crate::served::{SERVED_AT, folder};
use crate::{Features, FeaturesError, Moment, Value};

/// Differences of one feature that are shown.
const EXAMPLES_MAX: usize = 10;
/// What logged columns are called while they are joined.
const LOGGED: &str = "halny__logged__";

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replayed {
    /// Rows that were computed again.
    pub rows: u64,
    /// By feature, in the service's order.
    pub features: Vec<Skew>,
}

/// How one feature was served, and how it would be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Skew {
    /// The feature, as `view__feature`.
    pub name: String,
    /// Rows in which both are the same.
    pub equal: u64,
    /// Rows in which they differ.
    pub different: u64,
    /// The first that differ.
    pub examples: Vec<Difference>,
}

/// A value that was served and would be another.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// When it was served.
    pub at: Moment,
    /// The join keys, by name.
    pub keys: Vec<(String, Value)>,
    /// What was served.
    pub served: Value,
    /// What the join gives for that moment.
    pub joined: Value,
}

impl Features {
    /// Computes what a service was logged to have served, from `start` to before `end`, again by the point-in-time join,
    /// and compares. What was added to the service after it was logged is not compared. `tell` hears how many rows were
    /// compared so far.
    ///
    /// # Errors
    /// When there is no such service, or the rows cannot be read.
    pub async fn replay(
        &self,
        service: &str,
        start: Moment,
        end: Moment,
        tell: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Replayed, FeaturesError> {
        self.flush().await?;
        let service = Arc::clone(self.definitions().service(service)?);
        let folder = folder(&self.0.prefix, &service);
        let mut files: Vec<ObjectMeta> = self.0.offline.list(Some(&folder)).try_collect().await?;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        let selection = Arc::clone(&service.selection);
        let names: Vec<String> = selection.outputs.iter().map(|output| output.full_name()).collect();
        let (store, wanted) = (Arc::clone(&self.0.offline), names.clone());
        let read = move |meta: ObjectMeta| {
            let (store, wanted) = (Arc::clone(&store), wanted.clone());
            async move {
                let runtime = tokio::runtime::Handle::current();
                let chunks = Chunks::new(store, meta.location, meta.size, runtime);
                let read = tokio::task::spawn_blocking(move || logged(chunks, &wanted, start, end));
                read.await.map_err(|_| FeaturesError::Broken)?
            }
        };
        let batches = futures::stream::iter(files).then(read);
        let batches = batches.map_ok(|batches| futures::stream::iter(batches.into_iter().map(Ok))).try_flatten();
        let timestamp = SERVED_AT.to_owned();
        let mut joined = self.0.joined(Arc::clone(&selection), names.clone(), timestamp, batches.boxed()).await?;
        let skew = |name| Skew { name, ..Skew::default() };
        let mut replayed = Replayed { rows: 0, features: names.into_iter().map(skew).collect() };
        while let Some(batch) = joined.next().await.transpose()? {
            replayed.compare(&selection, &batch)?;
            tell(replayed.rows);
        }
        Ok(replayed)
    }
}

/// The logged rows of a file, with the features under other names.
fn logged(chunks: Chunks, features: &[String], start: Moment, end: Moment) -> Result<Vec<RecordBatch>, FeaturesError> {
    let mut batches = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(chunks)?.with_batch_size(4_096).build()? {
        let batch = batch?;
        let at = moment(&batch)?;
        let within = |row| at.moment(row).is_some_and(|at| start <= at && at < end);
        let within: BooleanArray = (0..batch.num_rows()).map(|row| Some(within(row))).collect();
        if within.true_count() == 0 {
            continue;
        }
        let batch = filter_record_batch(&batch, &within)?;
        let rename = |field: &Arc<Field>| match features.contains(field.name()) {
            true => Arc::new(Field::clone(field).with_name(format!("{LOGGED}{}", field.name()))),
            false => Arc::clone(field),
        };
        let schema = Schema::new(batch.schema().fields().iter().map(rename).collect::<Vec<_>>());
        batches.push(RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec())?);
    }
    Ok(batches)
}

fn moment(batch: &RecordBatch) -> Result<Column, FeaturesError> {
    use halny_types::project::features::{FeatureType, Scalar};
    let column = batch.column_by_name(SERVED_AT).ok_or(FeaturesError::Damaged("a file of logged rows"))?;
    Column::new(SERVED_AT, column, FeatureType::one(Scalar::UnixTimestamp))
}

impl Replayed {
    fn compare(&mut self, selection: &Selection, batch: &RecordBatch) -> Result<(), FeaturesError> {
        self.rows += batch.num_rows() as u64;
        let at = moment(batch)?;
        let key = |part: &crate::KeyPart| {
            let column = batch.column_by_name(&part.name);
            column.map(|column| Ok((part.name.clone(), Column::new(&part.name, column, part.value_type)?))).transpose()
        };
        let keys: Vec<Option<(String, Column)>> =
            selection.keys.iter().map(key).collect::<Result<_, FeaturesError>>()?;
        for (output, skew) in selection.outputs.iter().zip(&mut self.features) {
            let both = batch.column_by_name(&format!("{LOGGED}{}", skew.name)).zip(batch.column_by_name(&skew.name));
            let Some((served, joined)) = both else { continue };
            // One that was logged as another type was another feature then.
            let Ok(served) = Column::new(&skew.name, served, output.value_type) else { continue };
            let joined = Column::new(&skew.name, joined, output.value_type)?;
            for row in 0..batch.num_rows() {
                let (served, joined) = (served.value(row), joined.value(row));
                if served.same(&joined) {
                    skew.equal += 1;
                    continue;
                }
                skew.different += 1;
                if skew.examples.len() < EXAMPLES_MAX {
                    let keys = keys.iter().flatten().map(|(name, column)| (name.clone(), column.value(row))).collect();
                    let at = at.moment(row).unwrap_or_default();
                    skew.examples.push(Difference { at, keys, served, joined });
                }
            }
        }
        Ok(())
    }
}
