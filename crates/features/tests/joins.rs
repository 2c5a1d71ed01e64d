//! The point-in-time join against its definition, by chance; and that its memory is what it was given.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use halny_features::PushTo;
use halny_types::ByteSize;
use proptest::prelude::*;
use serde_json::json;
use support::{Hand, asked, historical, rows, try_open, write_parquet};

const NOW: i64 = 2_000_000_000;

fn toml(ttl: i64) -> String {
    format!(
        r#"
[[entities]]
name = "user"
[[entities]]
name = "item"
value_type = "int64"
[[feature_views]]
name = "one"
entities = ["user"]
ttl_s = {ttl}
features = [{{ name = "x", type = "int64" }}, {{ name = "unused", type = "string" }}]
source = {{ batch = {{ path = "one", created = "created_timestamp" }}, push = true }}
[[feature_views]]
name = "two"
entities = ["item", "user"]
features = [{{ name = "y", type = "int64" }}]
source = {{ push = true }}
[[on_demand_views]]
name = "sum"
sources = ["one", "two"]
request = {{ z = "int64" }}
features = [{{ name = "all", type = "int64", expression = "one.x + two.y + request.z" }}]
"#
    )
}

/// A row: user, item, event, created, value. Small ranges make ties.
type Row = (u8, u8, i64, i64, Option<i64>);

fn row() -> impl Strategy<Value = Row> {
    (0u8..4, 0u8..3, -20i64..5, -20i64..-16, prop::option::weighted(0.8, 0i64..1_000))
}

/// The value of the newest row that holds: later event, later made, later written.
fn newest<'a>(rows: impl Iterator<Item = &'a Row>, at: i64, ttl: i64) -> Option<i64> {
    let known = rows.enumerate().filter(|(_, row)| row.2 <= at);
    let newest = known.max_by_key(|(written, row)| (row.2, row.3, *written)).map(|(_, row)| row);
    newest.filter(|row| ttl == 0 || at - row.2 <= ttl).and_then(|row| row.4)
}

fn batch(features: &halny_features::Features, view: &str, some: &[Row]) -> RecordBatch {
    let column = |of: &dyn Fn(&Row) -> serde_json::Value| serde_json::Value::Array(some.iter().map(of).collect());
    let mut columns = json!({
        "user": column(&|row| json!(row.0.to_string())),
        "event_timestamp": column(&|row| json!(NOW + row.2)),
        "created_timestamp": column(&|row| json!(NOW + row.3)),
    });
    if view == "one" {
        columns["x"] = column(&|row| json!(row.4));
        columns["unused"] = column(&|row| json!("x".repeat(row.0 as usize * 100)));
    } else {
        columns["item"] = column(&|row| json!(row.1));
        columns["y"] = column(&|row| json!(row.4));
    }
    rows(features, view, columns)
}

/// An entity row: user and item, which may be null, a time, which may be too, and a field of the request.
type Entity = (Option<u8>, Option<u8>, Option<i64>, i64);

fn entities(features: &halny_features::Features, some: &[Entity]) -> RecordBatch {
    let column = |of: &dyn Fn(&Entity) -> serde_json::Value| serde_json::Value::Array(some.iter().map(of).collect());
    let known = json!({
        "user": column(&|row| json!(row.0.map(|user| user.to_string()))),
        "item": column(&|row| json!(row.1)),
        "event_timestamp": column(&|row| json!(row.2.map(|at| NOW + at))),
    });
    let known = rows(features, "two", known);
    let more = RecordBatch::try_from_iter([
        ("z", std::sync::Arc::new(some.iter().map(|row| row.3).collect::<Int64Array>()) as arrow::array::ArrayRef),
        ("label", std::sync::Arc::new(some.iter().map(|row| Some(row.3.to_string())).collect::<StringArray>())),
    ]);
    let more = more.unwrap();
    let columns = known.columns().iter().chain(more.columns()).cloned().collect();
    let fields = [known.schema().fields().to_vec(), more.schema().fields().to_vec()].concat();
    RecordBatch::try_new(std::sync::Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap()
}

async fn compare(files: &[Vec<Row>], pushed: &[Row], some: &[Entity], ttl: i64, flushed: usize, join_memory: u64) {
    let folder = tempfile::tempdir().unwrap();
    let hand = Hand::at(NOW);
    let features = try_open(folder.path(), &toml(ttl), hand.clock(), None, ByteSize(join_memory)).await.unwrap();
    for (number, file) in files.iter().enumerate() {
        let path = folder.path().join(format!("one/{number}.parquet"));
        write_parquet(&path, &batch(&features, "one", file));
        let changed = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64 + 1);
        std::fs::File::options().append(true).open(path).unwrap().set_modified(changed).unwrap();
    }
    for (number, row) in pushed.iter().enumerate() {
        for view in ["one", "two"] {
            features.push(view, &batch(&features, view, &[*row]), PushTo::Offline).await.unwrap();
        }
        if number == flushed {
            features.flush().await.unwrap();
        }
    }
    // Several batches of different sizes.
    let all = entities(&features, some);
    let cut = all.num_rows() / 3;
    let batches = vec![all.slice(0, cut), all.slice(cut, all.num_rows() - cut)];
    let joined = historical(&features, asked(&["sum:all", "two:y", "one:x"]), batches).await;
    assert_eq!(joined.num_rows(), some.len());
    let ints = |name: &str| joined.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    let labels = joined.column_by_name("label").unwrap().as_string::<i32>().clone();
    let (xs, ys, sums) = (ints("x"), ints("y"), ints("all"));
    let ones: Vec<&Row> = files.iter().flatten().chain(pushed).collect();
    for (at, (user, item, time, z)) in some.iter().enumerate() {
        let x = user
            .zip(*time)
            .and_then(|(user, time)| newest(ones.iter().copied().filter(|row| row.0 == user), time, ttl));
        let of = |row: &&Row| Some(row.0) == *user && Some(row.1) == *item;
        let y = time.and_then(|time| newest(pushed.iter().filter(of), time, 0));
        assert_eq!((labels.value(at), xs[at], ys[at]), (z.to_string().as_str(), x, y), "row {at}: {:?}", some[at]);
        assert_eq!(sums[at], x.zip(y).map(|(x, y)| x + y + z), "row {at}");
    }
    features.close().await;
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_join_is_what_its_definition_says(
        files in prop::collection::vec(prop::collection::vec(row(), 1..60), 1..3),
        pushed in prop::collection::vec(row(), 0..25),
        some in prop::collection::vec(
            (prop::option::weighted(0.95, 0u8..5), prop::option::weighted(0.95, 0u8..3), prop::option::weighted(0.95, -25i64..10), 0i64..9),
            1..80,
        ),
        ttl in prop_oneof![Just(0i64), 1i64..12],
        flushed in 0usize..25,
    ) {
        // So little that everything spills: the least that sorting works with is less than this.
        run(compare(&files, &pushed, &some, ttl, flushed, 1));
    }
}

#[test]
fn the_join_is_the_same_when_it_spills() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let mut chance = StdRng::seed_from_u64(5);
    let mut value = |_| {
        let random = &mut chance;
        (
            random.random_range(0..4),
            0u8,
            random.random_range(-50_000i64..0),
            random.random_range(-9i64..0),
            Some(random.random_range(0..99)),
        )
    };
    let file: Vec<Row> = (0..20_000).map(&mut value).collect();
    let asked: Vec<Entity> =
        (0..10_000).map(|at| (Some((at % 5) as u8), Some(0), Some(-(at * 7) % 51_000), at)).collect();
    let pushed: Vec<Row> = (0..10).map(&mut value).collect();
    run(async {
        for join_memory in [1, 256 << 20] {
            compare(std::slice::from_ref(&file), &pushed, &asked, 2_000, 5, join_memory).await;
        }
    });
}
