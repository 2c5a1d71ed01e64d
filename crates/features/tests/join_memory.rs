//! The memory of a join: what it was given, and what reading and writing takes, however large the sides are.
//!
//! A child process joins, so that what it used at most is its own. It is compared with a child that joins a tenth of the
//! rows: what is not for sorting and merging (the runtime, pages of files) is the same in both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use futures::StreamExt;
use halny_features::HistoricalRequest;
use halny_types::ByteSize;
use support::{Hand, asked, try_open};

const FOLDER: &str = "HALNY_JOIN_FOLDER";
const ROWS: &str = "HALNY_JOIN_ROWS";
/// What the join is given.
const JOIN_MEMORY: ByteSize = ByteSize::mib(16);
/// Rows of each side: sorted they are 13 MB, and 130 MB.
const FEW: usize = 100_000;
const MANY: usize = 10 * FEW;
const BATCH: usize = 50_000;

const TOML: &str = r#"
[[entities]]
name = "user"
value_type = "int64"
[[feature_views]]
name = "v"
entities = ["user"]
features = [{ name = "x", type = "int64" }, { name = "text", type = "string" }]
source = { batch = { path = "v" } }
"#;

fn column<T: 'static + arrow::array::Array>(array: T) -> ArrayRef {
    Arc::new(array)
}

/// Numbers that come in no order.
fn scattered(number: usize) -> i64 {
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) as i64
}

fn batch(first: usize, with_features: bool) -> RecordBatch {
    let numbers = first..first + BATCH;
    let users: Int64Array = numbers.clone().map(|number| scattered(number) % 20_000).collect();
    let events: TimestampMicrosecondArray =
        numbers.clone().map(|number| Some(scattered(number + 7) % 1_000_000_000)).collect();
    let mut columns = vec![("user", column(users)), ("event_timestamp", column(events))];
    if with_features {
        columns.push(("x", column(numbers.clone().map(|number| Some(number as i64)).collect::<Int64Array>())));
        let texts = numbers.map(|number| Some(format!("{:064}", scattered(number)))).collect::<StringArray>();
        columns.push(("text", column(texts)));
    }
    RecordBatch::try_from_iter(columns).unwrap()
}

/// What the child does: joins, and says how much memory it used. Does nothing when run as a test.
#[test]
fn child() {
    let (Ok(folder), Ok(count)) = (std::env::var(FOLDER), std::env::var(ROWS)) else { return };
    let count: usize = count.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let features = try_open(Path::new(&folder), TOML, Hand::at(5_000).clock(), None, JOIN_MEMORY).await.unwrap();
        let entities =
            futures::stream::iter((0..count).step_by(BATCH).map(|first| Ok(batch(first + 13, false)))).boxed();
        let request = HistoricalRequest {
            asked: asked(&["v"]),
            entities,
            timestamp: "event_timestamp".to_owned(),
            full_feature_names: false,
        };
        let mut joined = features.historical(request).await.unwrap();
        let (mut rows, mut found) = (0, 0);
        while let Some(batch) = joined.next().await {
            let batch = batch.unwrap();
            rows += batch.num_rows();
            found += batch.num_rows() - batch.column(2).null_count();
        }
        assert_eq!(rows, count);
        assert!(found > count / 3, "only {found} rows were found");
        features.close().await;
    });
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    writeln!(std::io::stdout(), "\npeak {}", peak.trim().trim_end_matches(" kB")).unwrap();
}

/// Bytes that a child used at most.
fn peak(rows: usize) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("v")).unwrap();
    let file = std::fs::File::create(folder.path().join("v/1.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch(0, true).schema(), None).unwrap();
    for first in (0..rows).step_by(BATCH) {
        writer.write(&batch(first, true)).unwrap();
    }
    writer.close().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(FOLDER, folder.path())
        .env(ROWS, rows.to_string())
        // One arena, so that what is free is used again whichever thread it was freed by.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let kib = said
        .lines()
        .find_map(|line| line.strip_prefix("peak "))
        .unwrap_or_else(|| panic!("the child failed: {said}{}", String::from_utf8_lossy(&output.stderr)));
    kib.parse::<u64>().unwrap() << 10
}

#[test]
fn ten_times_the_rows_stay_within_the_memory_of_the_join() {
    let base = peak(BATCH);
    let (few, many) = (peak(FEW), peak(MANY));
    let said =
        format!("peak memory: {} MB of {BATCH} rows, {} of {FEW}, {} of {MANY}", base >> 20, few >> 20, many >> 20);
    writeln!(std::io::stderr(), "{said}").unwrap();
    assert!(many < base + JOIN_MEMORY.0, "{many} bytes of {MANY} rows, {base} of {BATCH}");
}
