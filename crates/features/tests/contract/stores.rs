//! The store itself, without what is around it.

use halny_features::online::Put;
use halny_features::{FeaturesError, PushTo};
use serde_json::json;

use crate::serving::USERS;
use crate::support::{asked, online, rows, shown, texts};
use crate::{Ground, NOW};

/// What another program put under the key of a row is refused, until a row is written there again.
pub(crate) async fn foreign_bytes_are_refused_and_overwritten(ground: Ground) {
    // The embedded store is a file of its own, which nothing else writes to.
    let Some(store) = ground.online.clone() else { return };
    let features = ground.open(USERS).await;
    let key = [b"clicks\0".as_slice(), &[2, 0, 1], b"a"].concat();
    for foreign in [b"".as_slice(), b"{}", &[1; 300]] {
        // A row of a version that is not known is no reason to refuse one that is.
        let put = Put { key: key.clone(), row: foreign.to_vec(), until: None };
        assert_eq!(store.write(vec![put]).await.unwrap(), 1, "{foreign:?}");
        let request = halny_features::OnlineRequest {
            asked: asked(&["clicks"]),
            columns: [("user_id".to_owned(), texts(&["a"]))].into(),
            full_feature_names: false,
        };
        assert!(matches!(features.get_online(request).await, Err(FeaturesError::Damaged(_))), "{foreign:?}");
        if foreign.first() != Some(&1) {
            let columns = json!({ "user_id": ["a"], "event_timestamp": [NOW], "count": [1], "last": ["x"] });
            features.push("clicks", &rows(&features, "clicks", columns), PushTo::Online).await.unwrap();
            let response = online(&features, asked(&["clicks:count"]), &[("user_id", texts(&["a"]))]).await;
            assert_eq!(shown(&response), json!([[1]]));
            clear(&ground).await;
        }
    }
    features.close().await;
}

/// Takes everything out of the server.
async fn clear(ground: &Ground) {
    tell(ground, redis::cmd("FLUSHALL")).await;
}

async fn tell(ground: &Ground, command: redis::Cmd) {
    let client = redis::Client::open(ground.url.as_deref().unwrap()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    command.query_async::<()>(&mut connection).await.unwrap();
}

/// As after it was started anew, the server knows no script; the fence is there again with the next write.
pub(crate) async fn the_fence_survives_a_server_that_forgets(ground: Ground) {
    let features = ground.open(USERS).await;
    for (event, count, served) in [(NOW - 5, 1, 1), (NOW - 6, 2, 0), (NOW - 4, 3, 1)] {
        if ground.online.is_some() {
            let mut command = redis::cmd("SCRIPT");
            command.arg("FLUSH");
            tell(&ground, command).await;
        }
        let columns = json!({ "user_id": ["a"], "event_timestamp": [event], "count": [count], "last": ["x"] });
        let pushed = features.push("clicks", &rows(&features, "clicks", columns), PushTo::Online).await.unwrap();
        assert_eq!(pushed.served, served);
    }
    let response = online(&features, asked(&["clicks:count"]), &[("user_id", texts(&["a"]))]).await;
    assert_eq!(shown(&response), json!([[3]]));
    features.close().await;
}

/// What was journalled and kept from being served, as by a crash, is served when opened again.
pub(crate) async fn what_was_journalled_is_served_when_opened_again(ground: Ground) {
    let features = ground.open(USERS).await;
    let columns =
        json!({ "user_id": ["a", "b"], "event_timestamp": [NOW, NOW + 5], "count": [1, 2], "last": ["x", "y"] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::OnlineAndOffline).await.unwrap();
    let columns = json!({ "user_id": ["c"], "event_timestamp": [NOW], "count": [3], "last": ["z"] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::Offline).await.unwrap();
    // A folder as a crash leaves it: with its journal.
    let left = tempfile::tempdir().unwrap();
    std::fs::create_dir(left.path().join("own")).unwrap();
    std::fs::copy(ground.folder().join("own/features.redb"), left.path().join("own/features.redb")).unwrap();
    features.close().await;
    if ground.online.is_some() {
        clear(&ground).await;
    }
    let features = crate::support::open(left.path(), USERS, &ground.hand, ground.online.clone()).await;
    assert_eq!(features.counts().journalled, 3);
    let keys = [("user_id", texts(&["a", "b", "c"]))];
    let response = online(&features, asked(&["clicks:count"]), &keys).await;
    assert_eq!(shown(&response), json!([[1], ["NOT_FOUND"], ["NOT_FOUND"]]));
    ground.hand.set(NOW + 5);
    features.tick().await.unwrap();
    let response = online(&features, asked(&["clicks:count"]), &keys).await;
    assert_eq!(shown(&response), json!([[1], [2], ["NOT_FOUND"]]), "what is for training alone is not served");
    features.close().await;
}

/// Many keys in one read, some of them there.
pub(crate) async fn many_rows_are_read_at_once_and_in_order(ground: Ground) {
    let features = ground.open(USERS).await;
    let users: Vec<String> = (0..3_000).map(|number| number.to_string()).collect();
    let even: Vec<&String> = users.iter().step_by(2).collect();
    let counts: Vec<i64> = (0..3_000).step_by(2).collect();
    let columns = json!({ "user_id": even, "count": counts, "last": vec!["x"; even.len()] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::Online).await.unwrap();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let response = online(&features, asked(&["clicks:count"]), &[("user_id", texts(&users))]).await;
    let expected: Vec<serde_json::Value> =
        (0..3_000).map(|number| if number % 2 == 0 { json!([number]) } else { json!(["NOT_FOUND"]) }).collect();
    assert_eq!(shown(&response), json!(expected));
    features.close().await;
}
