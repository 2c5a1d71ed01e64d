//! Files and values that are not what they say: a clear refusal, the process alive.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;

use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use halny_features::{Features, HistoricalRequest, Moment};
use proptest::prelude::*;
use serde_json::json;
use support::{Hand, asked, at, open, rows, write_parquet};

const NOW: i64 = 2_000_000_000;

const TOML: &str = r#"
[[entities]]
name = "user"
[[feature_views]]
name = "v"
entities = ["user"]
features = [{ name = "x", type = "int64" }, { name = "t", type = "string" }]
source = { batch = { path = "v" }, push = true }
"#;

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work);
}

/// What a join says, the last of it.
async fn joined(features: &Features, entities: RecordBatch) -> Result<usize, String> {
    let request = HistoricalRequest {
        asked: asked(&["v"]),
        entities: futures::stream::iter([Ok(entities)]).boxed(),
        timestamp: "event_timestamp".to_owned(),
        full_feature_names: false,
    };
    let batches = features.historical(request).await.map_err(|error| error.to_string())?;
    let batches: Vec<Result<RecordBatch, _>> = batches.collect().await;
    batches.into_iter().try_fold(0, |rows, batch| Ok(rows + batch.map_err(|error| error.to_string())?.num_rows()))
}

fn some(features: &Features) -> RecordBatch {
    rows(features, "v", json!({ "user": ["a", "b"], "event_timestamp": [NOW, NOW] }))
}

fn whole(features: &Features) -> RecordBatch {
    let columns = json!({ "user": ["a", "b"], "event_timestamp": [NOW, NOW], "x": [1, 2], "t": ["x", "y"] });
    rows(features, "v", columns)
}

fn parquet(folder: &Path) -> std::path::PathBuf {
    folder.join("v/1.parquet")
}

#[test]
fn files_that_lack_what_the_view_says_are_refused_by_name() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let features = open(folder.path(), TOML, &Hand::at(NOW), None).await;
        assert!(joined(&features, some(&features)).await.unwrap_err().contains("no file is at its path"));
        let path = parquet(folder.path());
        write_parquet(&path, &whole(&features).project(&[0, 1, 2]).unwrap());
        assert!(joined(&features, some(&features)).await.unwrap_err().contains("it has no column \"t\""));
        let other = rows(&features, "v", json!({ "user": ["a"], "event_timestamp": [NOW], "t": ["1"] }));
        let renamed = RecordBatch::try_from_iter(
            ["user", "event_timestamp", "x"].iter().zip(other.columns()).map(|(name, column)| (*name, column.clone())),
        );
        let both = RecordBatch::try_from_iter(
            renamed
                .unwrap()
                .schema()
                .fields()
                .iter()
                .zip(other.columns())
                .map(|(field, column)| (field.name().clone(), column.clone()))
                .chain([("t".to_owned(), other.column(2).clone())]),
        );
        write_parquet(&path, &both.unwrap());
        assert!(
            joined(&features, some(&features)).await.unwrap_err().contains("\"x\" holds Utf8 where int64 is expected")
        );
        write_parquet(&path, &whole(&features));
        assert_eq!(joined(&features, some(&features)).await, Ok(2), "once the file is right it is read");
        features.close().await;
    });
}

#[test]
fn entity_rows_that_lack_something_are_refused() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let features = open(folder.path(), TOML, &Hand::at(NOW), None).await;
        write_parquet(&parquet(folder.path()), &whole(&features));
        let all = some(&features);
        let only = |names: &[usize]| all.project(names).unwrap();
        assert!(joined(&features, only(&[1])).await.unwrap_err().starts_with("\"user\" is missing"));
        assert!(joined(&features, only(&[0])).await.unwrap_err().starts_with("\"event_timestamp\" is missing"));
        assert!(joined(&features, whole(&features)).await.unwrap_err().contains("full_feature_names"));
        let number = rows(&features, "v", json!({ "x": [1], "event_timestamp": [NOW] }));
        let columns = [("user", number.column(0).clone()), ("event_timestamp", number.column(1).clone())];
        let wrong = RecordBatch::try_from_iter(columns).unwrap();
        assert!(joined(&features, wrong).await.unwrap_err().contains("\"user\" holds Int64 where string is expected"));
        features.close().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_is_refused_or_read_and_the_next_join_works(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let features = open(folder.path(), TOML, &Hand::at(NOW), None).await;
            let path = parquet(folder.path());
            write_parquet(&path, &whole(&features));
            let mut bytes = std::fs::read(&path).unwrap();
            for (place, byte) in &damage {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            std::fs::write(&path, bytes).unwrap();
            let _ = joined(&features, some(&features)).await;
            let _ = features.materialize(None, at(0), Moment::MAX).await;
            let _ = features.statistics("v", at(0), Moment::MAX).await;
            write_parquet(&path, &whole(&features));
            assert_eq!(joined(&features, some(&features)).await, Ok(2));
            assert_eq!(features.materialize(None, at(0), Moment::MAX).await.unwrap()[0].rows, 2);
            features.close().await;
        });
    }
}

#[test]
fn a_join_that_nobody_takes_keeps_nobody_from_closing_and_does_not_pass_for_whole() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let features = open(folder.path(), TOML, &Hand::at(NOW), None).await;
        write_parquet(&parquet(folder.path()), &whole(&features));
        let times = vec![NOW; 100_000];
        let entities = rows(&features, "v", json!({ "user": vec!["a"; times.len()], "event_timestamp": times }));
        let request = HistoricalRequest {
            asked: asked(&["v"]),
            entities: futures::stream::iter([Ok(entities)]).boxed(),
            timestamp: "event_timestamp".to_owned(),
            full_feature_names: false,
        };
        let mut batches = features.historical(request).await.unwrap();
        let first = batches.next().await.unwrap().unwrap().num_rows();
        features.close().await;
        let rest: Vec<Result<RecordBatch, _>> = batches.collect().await;
        assert!(first < times.len() && rest.last().unwrap().is_err());
    });
}
