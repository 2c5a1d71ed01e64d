//! What the tests have in common: a project, a clock that is set, and rows.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use halny_cpu_pool::CpuPool;
use halny_features::online::OnlineStore;
use halny_features::{
    Asked, Clock, Definitions, Features, FlushRule, Folders, HistoricalRequest, Moment, OnlineRequest, OnlineResponse,
    Options, Value, offline_folder,
};
use halny_types::ByteSize;
use halny_types::project::check;
use serde_json::{Map, Value as Json, json};

/// Seconds since 1970.
pub(crate) const fn at(seconds: i64) -> Moment {
    Moment::from_seconds(seconds)
}

/// A clock that shows what it is set to.
#[derive(Clone)]
pub(crate) struct Hand(Arc<AtomicI64>);

impl Hand {
    pub(crate) fn at(seconds: i64) -> Hand {
        Hand(Arc::new(AtomicI64::new(at(seconds).0)))
    }

    pub(crate) fn set(&self, seconds: i64) {
        self.0.store(at(seconds).0, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let hand = Arc::clone(&self.0);
        Arc::new(move || Moment(hand.load(Ordering::SeqCst)))
    }
}

pub(crate) fn definitions(toml: &str) -> Definitions {
    let checked = check(toml).unwrap_or_else(|problems| panic!("{}", problems[0].render("halny.toml")));
    Definitions::new(&checked.project).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// Features in a folder: their own files in `own`, Parquet in `offline`, sources beside them. Nothing is flushed or swept
/// unless it is asked for.
pub(crate) async fn open(folder: &Path, toml: &str, hand: &Hand, online: Option<Arc<dyn OnlineStore>>) -> Features {
    try_open(folder, toml, hand.clock(), online, ByteSize::mib(8)).await.unwrap()
}

pub(crate) async fn try_open(
    folder: &Path,
    toml: &str,
    clock: Clock,
    online: Option<Arc<dyn OnlineStore>>,
    join_memory: ByteSize,
) -> Result<Features, halny_features::FeaturesError> {
    let options = Options {
        folder: folder.join("own"),
        online,
        offline: offline_folder(&folder.join("offline")).unwrap(),
        prefix: object_store::path::Path::from("features"),
        places: Arc::new(Folders(folder.to_owned())),
        pool: CpuPool::new(NonZeroUsize::new(1).unwrap(), 64).unwrap(),
        join_memory,
        flush: FlushRule { rows: 1 << 40, every: Duration::from_secs(1 << 20) },
        clock,
    };
    Features::open(options, definitions(toml)).await
}

/// Rows of a view from columns of JSON.
pub(crate) fn rows(features: &Features, view: &str, columns: Json) -> RecordBatch {
    features.rows_from_json(view, columns.as_object().unwrap()).unwrap()
}

pub(crate) fn texts(values: &[&str]) -> Vec<Value> {
    values.iter().map(|value| Value::String((*value).to_owned())).collect()
}

pub(crate) fn asked(features: &[&str]) -> Asked {
    Asked::Features(features.iter().map(|it| (*it).to_owned()).collect())
}

pub(crate) async fn online(features: &Features, asked: Asked, columns: &[(&str, Vec<Value>)]) -> OnlineResponse {
    let columns: BTreeMap<String, Vec<Value>> =
        columns.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
    features.get_online(OnlineRequest { asked, columns, full_feature_names: false }).await.unwrap()
}

/// Each value with its status, in JSON, row by row.
pub(crate) fn shown(response: &OnlineResponse) -> Json {
    let cell = |row, column| match response.value(row, column) {
        Value::Null => json!(response.status(row, column).as_str()),
        value => value.to_json(),
    };
    let row = |row| Json::Array((0..response.names.len()).map(|column| cell(row, column)).collect());
    Json::Array((0..response.rows).map(row).collect())
}

/// The join of these entity rows, all batches as one.
pub(crate) async fn historical(features: &Features, asked: Asked, entities: Vec<RecordBatch>) -> RecordBatch {
    let request = HistoricalRequest {
        asked,
        entities: futures::stream::iter(entities.into_iter().map(Ok)).boxed(),
        timestamp: "event_timestamp".to_owned(),
        full_feature_names: false,
    };
    let batches: Vec<RecordBatch> =
        features.historical(request).await.unwrap().map(|batch| batch.unwrap()).collect().await;
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// A Parquet file of these rows.
pub(crate) fn write_parquet(path: &Path, batch: &RecordBatch) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

pub(crate) fn object(value: Json) -> Map<String, Json> {
    value.as_object().unwrap().clone()
}
