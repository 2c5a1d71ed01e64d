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
    let client = redis::Client::open(ground.url.as_deref().unwrap()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
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
