//! From files to the online store.

use halny_features::{Features, Materialised, PushTo};
use serde_json::{Value as Json, json};

use crate::support::{asked, at, online, rows, shown, texts, write_parquet};
use crate::{Ground, NOW};

/// Users with a view of files in a folder, which can be pushed too.
const FILES: &str = r#"
[[entities]]
name = "user"
join_key = "user_id"
[[feature_views]]
name = "clicks"
entities = ["user"]
ttl_s = 1000
features = [{ name = "count", type = "int64" }]
source = { batch = { path = "clicks/*.parquet", created = "created_timestamp" }, push = true }
"#;

fn write(ground: &Ground, features: &Features, name: &str, users: &[&str], events: &[i64], counts: &[i64]) {
    let events: Vec<i64> = events.iter().map(|event| NOW + event).collect();
    let columns = json!({ "user_id": users, "event_timestamp": events, "created_timestamp": events, "count": counts });
    write_parquet(&ground.folder().join("clicks").join(name), &rows(features, "clicks", columns));
}

async fn served(features: &Features) -> Json {
    shown(&online(features, asked(&["clicks:count"]), &[("user_id", texts(&["a", "b", "c"]))]).await)
}

async fn incremental(features: &Features, end: i64) -> Materialised {
    features.materialize_incremental(None, at(NOW + end)).await.unwrap().remove(0)
}

pub(crate) async fn materialise_serves_the_newest_row_of_each_key(ground: Ground) {
    let features = ground.open(FILES).await;
    assert!(features.materialize(None, at(0), at(NOW)).await.is_err(), "there is no file yet");
    write(&ground, &features, "1.parquet", &["a", "a", "b", "c"], &[-30, -10, -20, 5], &[1, 2, 3, 4]);
    let done = features.materialize(None, at(NOW - 25), at(NOW + 100)).await.unwrap().remove(0);
    assert_eq!((done.files, done.rows, done.served), (1, 2, 2), "neither what is before nor what is to come");
    let nothing = json!(["NOT_FOUND"]);
    assert_eq!(served(&features).await, json!([[2], [3], nothing]));
    let names = ["nothing".to_owned()];
    assert!(features.materialize(Some(&names), at(0), at(NOW)).await.is_err());
    features.close().await;
}

pub(crate) async fn late_data_is_not_missed(ground: Ground) {
    let features = ground.open(FILES).await;
    write(&ground, &features, "1.parquet", &["a"], &[-10], &[1]);
    assert_eq!(incremental(&features, 0).await.rows, 1);
    assert_eq!(incremental(&features, 0).await.files, 0, "nothing is read twice");
    // Its events are older than everything that was read.
    write(&ground, &features, "0.parquet", &["a", "b"], &[-20, -20], &[2, 3]);
    let done = incremental(&features, 0).await;
    assert_eq!((done.files, done.rows), (1, 2));
    assert_eq!(served(&features).await, json!([[1], [3], ["NOT_FOUND"]]));
    features.close().await;
    let features = ground.open(FILES).await;
    assert_eq!(incremental(&features, 0).await.files, 0, "what was read is known after a restart");
    features.close().await;
}

pub(crate) async fn later_rows_of_a_file_are_read_when_their_time_comes(ground: Ground) {
    let features = ground.open(FILES).await;
    write(&ground, &features, "1.parquet", &["a", "b", "c"], &[-10, -5, 20], &[1, 2, 3]);
    assert_eq!(incremental(&features, -6).await.rows, 1);
    assert_eq!(incremental(&features, 100).await.rows, 1, "what is to come is left");
    assert_eq!(served(&features).await, json!([[1], [2], ["NOT_FOUND"]]));
    ground.hand.set(NOW + 20);
    assert_eq!(incremental(&features, 100).await.rows, 1);
    assert_eq!(served(&features).await, json!([[1], [2], [3]]));
    assert_eq!(incremental(&features, 100).await.files, 0);
    features.close().await;
}

pub(crate) async fn a_changed_file_is_read_again(ground: Ground) {
    let features = ground.open(FILES).await;
    write(&ground, &features, "1.parquet", &["a"], &[-10], &[1]);
    incremental(&features, 0).await;
    write(&ground, &features, "1.parquet", &["a", "b"], &[-10, -30], &[1, 5]);
    assert_eq!(incremental(&features, 0).await.rows, 2);
    assert_eq!(served(&features).await, json!([[1], [5], ["NOT_FOUND"]]));
    features.close().await;
}

pub(crate) async fn rows_that_were_pushed_offline_alone_are_materialised(ground: Ground) {
    let features = ground.open(FILES).await;
    write(&ground, &features, "1.parquet", &["a"], &[-10], &[1]);
    let columns = json!({ "user_id": ["a", "b"], "event_timestamp": [NOW - 5, NOW - 5], "count": [7, 8] });
    let batch = rows(&features, "clicks", columns);
    features.push("clicks", &batch, PushTo::Offline).await.unwrap();
    assert_eq!(served(&features).await, json!([["NOT_FOUND"], ["NOT_FOUND"], ["NOT_FOUND"]]));
    incremental(&features, 0).await;
    assert_eq!(served(&features).await, json!([[7], [8], ["NOT_FOUND"]]));
    let columns = json!({ "user_id": ["c"], "event_timestamp": [NOW - 400], "count": [9] });
    assert_eq!(features.ingest("clicks", &rows(&features, "clicks", columns)).await.unwrap(), 1);
    assert_eq!(incremental(&features, 0).await.rows, 1);
    assert_eq!(served(&features).await, json!([[7], [8], [9]]));
    features.close().await;
}

/// Rows that had expired were not written, and are worth reading again.
pub(crate) async fn a_longer_ttl_reads_files_again(ground: Ground) {
    let features = ground.open(FILES).await;
    write(&ground, &features, "1.parquet", &["a"], &[-200_000], &[1]);
    assert_eq!(incremental(&features, 0).await.served, 0);
    let longer = FILES.replace("ttl_s = 1000", "ttl_s = 300000");
    features.reload(crate::support::definitions(&longer), halny_types::ByteSize::mib(8));
    assert_eq!(incremental(&features, 0).await.served, 1);
    assert_eq!(served(&features).await, json!([[1], ["NOT_FOUND"], ["NOT_FOUND"]]));
    features.close().await;
}

/// What was read into one place is not in another.
pub(crate) async fn another_online_store_is_read_into_anew(ground: Ground) {
    let Some(url) = ground.url.clone() else { return };
    let there = json!([[1], ["NOT_FOUND"], ["NOT_FOUND"]]);
    let other = crate::redis(&url, "other:", &ground.hand).await;
    let mut written = false;
    for (online, read) in
        [(None, 1), (ground.online.clone(), 1), (ground.online.clone(), 0), (Some(other), 1), (None, 1), (None, 0)]
    {
        let features = crate::support::open(ground.folder(), FILES, &ground.hand, online).await;
        if !written {
            write(&ground, &features, "1.parquet", &["a"], &[-10], &[1]);
            written = true;
        }
        if read == 1 {
            assert_eq!(served(&features).await, json!([["NOT_FOUND"], ["NOT_FOUND"], ["NOT_FOUND"]]));
        }
        assert_eq!(incremental(&features, 0).await.files, read);
        assert_eq!(served(&features).await, there);
        features.close().await;
    }
}
