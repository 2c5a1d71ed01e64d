//! Rows that come in: which one holds, and that none is lost.

use halny_features::{FeaturesError, PushTo};
use serde_json::json;

use crate::serving::USERS;
use crate::support::{asked, historical, online, rows, shown, texts};
use crate::{Ground, NOW};

pub(crate) async fn an_older_event_never_takes_the_place_of_a_newer_one(ground: Ground) {
    let features = ground.open(USERS).await;
    let push = async |event: i64, created: i64, count: i64| {
        let columns = json!({ "user_id": ["a"], "event_timestamp": [event], "created_timestamp": [created], "count": [count], "last": ["x"] });
        features.push("clicks", &rows(&features, "clicks", columns), PushTo::Online).await.unwrap().served
    };
    let served = async || shown(&online(&features, asked(&["clicks:count"]), &[("user_id", texts(&["a"]))]).await);
    for (event, created, count, taken) in [
        (NOW - 10, NOW, 1, 1),
        (NOW - 11, NOW + 5, 2, 0),
        (NOW - 10, NOW - 1, 3, 0),
        (NOW - 10, NOW, 4, 1),
        (NOW - 10, NOW + 1, 5, 1),
        (NOW - 9, NOW - 9, 6, 1),
        (NOW - 10, NOW + 1, 7, 0),
    ] {
        assert_eq!(push(event, created, count).await, taken, "{count}");
        let holds = [1, 1, 1, 4, 5, 6, 6][count as usize - 1];
        assert_eq!(served().await, json!([[holds]]));
    }
    features.close().await;
}

pub(crate) async fn many_writers_leave_the_newest_event(ground: Ground) {
    let features = ground.open(USERS).await;
    let push = |number: i64| {
        let features = features.clone();
        async move {
            // Every writer has events of its own, in an order of its own.
            for step in 0..8 {
                let event = (step * 5 + number * 3) % 64;
                let columns = json!({
                    "user_id": ["a", "b"], "event_timestamp": [NOW - event, NOW - 64 + event], "count": [event, event], "last": ["x", "y"],
                });
                features.push("clicks", &rows(&features, "clicks", columns), PushTo::OnlineAndOffline).await.unwrap();
            }
        }
    };
    let events: Vec<i64> = (0..16).flat_map(|number| (0..8).map(move |step| (step * 5 + number * 3) % 64)).collect();
    futures::future::join_all((0..16).map(push)).await;
    let response = online(&features, asked(&["clicks:count"]), &[("user_id", texts(&["a", "b"]))]).await;
    assert_eq!(shown(&response), json!([[events.iter().min()], [events.iter().max()]]));
    features.close().await;
}

pub(crate) async fn a_row_of_the_future_is_served_when_its_time_comes(ground: Ground) {
    let features = ground.open(USERS).await;
    let columns =
        json!({ "user_id": ["a", "a"], "event_timestamp": [NOW, NOW + 10], "count": [1, 2], "last": ["x", "y"] });
    let pushed = features.push("clicks", &rows(&features, "clicks", columns), PushTo::OnlineAndOffline).await.unwrap();
    assert_eq!((pushed.rows, pushed.served, pushed.to_come), (2, 1, 1));
    let served = async |features: &halny_features::Features| {
        shown(&online(features, asked(&["clicks:count"]), &[("user_id", texts(&["a"]))]).await)
    };
    features.tick().await.unwrap();
    assert_eq!(served(&features).await, json!([[1]]), "what holds now is not hidden by what is to come");
    features.close().await;
    let features = ground.open(USERS).await;
    ground.hand.set(NOW + 9);
    features.tick().await.unwrap();
    assert_eq!(served(&features).await, json!([[1]]));
    ground.hand.set(NOW + 10);
    features.tick().await.unwrap();
    assert_eq!(served(&features).await, json!([[2]]));
    features.close().await;
}

pub(crate) async fn what_was_pushed_is_there_when_opened_again(ground: Ground) {
    let features = ground.open(USERS).await;
    let columns = json!({ "user_id": ["a"], "event_timestamp": [NOW], "count": [1], "last": ["x"] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::OnlineAndOffline).await.unwrap();
    features.close().await;
    for _ in 0..2 {
        let features = ground.open(USERS).await;
        let response = online(&features, asked(&["clicks"]), &[("user_id", texts(&["a"]))]).await;
        assert_eq!(shown(&response), json!([[1, "x"]]));
        let entities = rows(&features, "clicks", json!({ "user_id": ["a"], "event_timestamp": [NOW] }));
        assert_eq!(historical(&features, asked(&["clicks"]), vec![entities]).await.column(2).null_count(), 0);
        let error = crate::support::try_open(
            ground.folder(),
            USERS,
            ground.hand.clock(),
            ground.online.clone(),
            halny_types::ByteSize::mib(8),
        );
        assert!(matches!(error.await, Err(FeaturesError::InUse)), "a folder is for one at a time");
        features.close().await;
    }
}

pub(crate) async fn pushed_rows_are_joined_before_and_after_they_are_flushed(ground: Ground) {
    let features = ground.open(USERS).await;
    let entities = || {
        let columns = json!({ "user_id": ["a", "a", "b", "a"], "event_timestamp": [NOW, NOW - 1, NOW, NOW + 200] });
        rows(&features, "clicks", columns)
    };
    let counts = async || {
        let joined = historical(&features, asked(&["clicks:count"]), vec![entities()]).await;
        let counts = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(joined.column(2));
        counts.iter().collect::<Vec<_>>()
    };
    for (event, count) in [(NOW, 1), (NOW - 1, 2), (NOW, 3)] {
        let columns = json!({ "user_id": ["a"], "event_timestamp": [event], "count": [count], "last": [null] });
        features.push("clicks", &rows(&features, "clicks", columns), PushTo::OnlineAndOffline).await.unwrap();
    }
    let expected = [Some(3), Some(2), None, None];
    assert_eq!(counts().await, expected);
    assert_eq!(features.counts().journalled, 3);
    features.flush().await.unwrap();
    assert_eq!(features.counts().journalled, 0);
    assert_eq!(counts().await, expected);
    let columns = json!({ "user_id": ["b"], "event_timestamp": [NOW], "count": [9], "last": [null] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::Offline).await.unwrap();
    assert_eq!(counts().await, [Some(3), Some(2), Some(9), None], "parts and the journal together");
    let response = online(&features, asked(&["clicks:count"]), &[("user_id", texts(&["b"]))]).await;
    assert_eq!(shown(&response), json!([["NOT_FOUND"]]), "offline alone is not online");
    features.close().await;
}

pub(crate) async fn rows_that_are_not_those_of_the_view_are_refused(ground: Ground) {
    let features = ground.open(&USERS.replace("push = true", "push = true, batch = { path = \"x.parquet\" }")).await;
    let refused = async |columns: serde_json::Value| {
        features.push("clicks", &rows(&features, "clicks", columns), PushTo::Online).await.unwrap_err().to_string()
    };
    let more = json!({ "user_id": ["a"], "count": [1], "last": ["x"], "lats": ["x"] });
    assert_eq!(refused(more).await, "the view \"clicks\" has no feature \"lats\"; it has count, last");
    let less = json!({ "user_id": ["a"], "count": [1] });
    assert!(refused(less).await.starts_with("\"last\" is missing; a row has every feature"));
    let nobody = json!({ "user_id": [null], "count": [1], "last": ["x"] });
    assert_eq!(refused(nobody).await, "row 0 has no user_id; every row has its join keys and its time");
    let never = json!({ "user_id": ["a"], "event_timestamp": [null], "count": [1], "last": ["x"] });
    assert_eq!(refused(never).await, "row 0 has no event_timestamp; every row has its join keys and its time");
    // Milliseconds, taken for seconds.
    let far = json!({ "user_id": ["a"], "event_timestamp": [NOW * 1_000], "count": [1], "last": ["x"] });
    assert!(refused(far).await.contains("were milliseconds sent where seconds are meant?"));
    let long = json!({ "user_id": ["a".repeat(2_000)], "count": [1], "last": ["x"] });
    assert!(refused(long).await.contains("bytes of a join key are 2000"));
    let huge = json!({ "user_id": ["a"], "count": [1], "last": ["x".repeat(2 << 20)] });
    assert!(refused(huge).await.contains("bytes of one row"));
    features.close().await;
}

/// The type of a key is changed while rows are journalled, and changed back.
pub(crate) async fn rows_of_another_key_type_are_set_aside_until_they_can_be_read(ground: Ground) {
    let features = ground.open(USERS).await;
    let columns = json!({ "user_id": ["a", "b"], "event_timestamp": [NOW, NOW], "count": [1, 2], "last": ["x", "y"] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::OnlineAndOffline).await.unwrap();
    let changed = USERS.replace("join_key = \"user_id\"", "join_key = \"user_id\"\nvalue_type = \"int64\"");
    features.reload(crate::support::definitions(&changed), halny_types::ByteSize::mib(8));
    let columns = json!({ "user_id": [7], "event_timestamp": [NOW], "count": [3], "last": ["z"] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::OnlineAndOffline).await.unwrap();
    features.flush().await.unwrap();
    assert_eq!(features.counts().journalled, 0);
    assert_eq!(walked(&ground.folder().join("offline")), 1, "the row that can be read is in a file");
    features.close().await;
    let features = ground.open(&changed).await;
    assert_eq!(features.counts().journalled, 0, "they still cannot be read");
    features.close().await;
    let features = ground.open(USERS).await;
    assert_eq!(features.counts().journalled, 2);
    let entities = rows(&features, "clicks", json!({ "user_id": ["a", "b"], "event_timestamp": [NOW, NOW] }));
    // The file has keys of another type, which only the journal's rows do not have.
    std::fs::remove_dir_all(ground.folder().join("offline")).unwrap();
    std::fs::create_dir_all(ground.folder().join("offline")).unwrap();
    assert_eq!(historical(&features, asked(&["clicks"]), vec![entities]).await.column(2).null_count(), 0);
    features.flush().await.unwrap();
    assert_eq!(features.counts().journalled, 0);
    features.close().await;
}

/// How many files are in a folder and those below it.
fn walked(folder: &std::path::Path) -> usize {
    let Ok(entries) = folder.read_dir() else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { walked(&path) } else { 1 }).sum()
}

pub(crate) async fn what_does_not_hold_any_more_is_swept_and_nothing_else(ground: Ground) {
    let features = ground.open(USERS).await;
    let columns =
        json!({ "user_id": ["a", "b"], "event_timestamp": [NOW - 90_000, NOW], "count": [1, 2], "last": ["x", "y"] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::Online).await.unwrap();
    ground.hand.set(NOW);
    features.tick().await.unwrap();
    let response = online(&features, asked(&["clicks:count"]), &[("user_id", texts(&["b"]))]).await;
    assert_eq!(shown(&response), json!([[2]]));
    ground.hand.set(NOW + 80_000);
    features.tick().await.unwrap();
    let response = online(&features, asked(&["clicks:count"]), &[("user_id", texts(&["b"]))]).await;
    assert_eq!(shown(&response), json!([["OUTSIDE_MAX_AGE"]]), "for a day one is told that there was a value");
    if features.engine() == "redb" {
        // A server's own clock is not wound.
        ground.hand.set(NOW + 90_000);
        features.tick().await.unwrap();
        let response = online(&features, asked(&["clicks:count"]), &[("user_id", texts(&["a", "b"]))]).await;
        assert_eq!(shown(&response), json!([["NOT_FOUND"], ["NOT_FOUND"]]));
    }
    features.close().await;
}
