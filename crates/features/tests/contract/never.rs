//! What may never be: an expired value, a value of the future, or another value online than offline.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use halny_features::{Features, PushTo};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::support::{asked, at, historical, online, rows, texts};
use crate::{Ground, NOW};

const TTL: i64 = 10;
const USERS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Deed {
    /// Rows of users, at times relative to now, all with the same value.
    Push {
        user: usize,
        event: i64,
        to: PushTo,
    },
    Wait {
        seconds: i64,
    },
    Flush,
    Reopen,
    Materialise,
    Ask,
}

fn deed() -> impl Strategy<Value = Deed> {
    let to = prop_oneof![3 => Just(PushTo::OnlineAndOffline), 1 => Just(PushTo::Offline)];
    prop_oneof![
        6 => (0usize..3, -15i64..8, to).prop_map(|(user, event, to)| Deed::Push { user, event, to }),
        3 => (0i64..9).prop_map(|seconds| Deed::Wait { seconds }),
        1 => Just(Deed::Flush),
        1 => Just(Deed::Reopen),
        1 => Just(Deed::Materialise),
        4 => Just(Deed::Ask),
    ]
}

/// All rows that were pushed: user, event, value, and whether they reached the online store.
#[derive(Default)]
struct Model {
    rows: Vec<(usize, i64, i64, bool)>,
}

impl Model {
    /// The value that holds for a user at a time, of all rows or of those that are online: the last written of the latest.
    fn holds(&self, user: usize, now: i64, online: bool) -> Option<i64> {
        let of = self.rows.iter().filter(|row| row.0 == user && row.1 <= now && (!online || row.3));
        of.max_by_key(|row| row.1).filter(|row| now - row.1 <= TTL).map(|row| row.2)
    }
}

fn toml() -> String {
    format!(
        "[[entities]]\nname = \"user\"\n[[feature_views]]\nname = \"v\"\nentities = [\"user\"]\nttl_s = {TTL}\n\
         features = [{{ name = \"x\", type = \"int64\" }}]\nsource = {{ push = true }}\n"
    )
}

/// Asks both, and compares with the model.
async fn ask(features: &Features, model: &Model, now: i64, deeds: &[Deed]) {
    let response = online(features, asked(&["v:x"]), &[("user", texts(&USERS))]).await;
    let served: Vec<Option<i64>> = (0..3).map(|row| response.value(row, 0).to_json().as_i64()).collect();
    let expected: Vec<Option<i64>> = (0..3).map(|user| model.holds(user, now, true)).collect();
    assert_eq!(served, expected, "online at {now} after {deeds:?}");
    let times: Vec<i64> = (now - 12..=now).collect();
    let users: Vec<&str> = times.iter().flat_map(|_| USERS).collect();
    let asked_at: Vec<i64> = times.iter().flat_map(|time| [*time; 3]).collect();
    let entities = rows(features, "v", json!({ "user": users, "event_timestamp": asked_at }));
    let joined = historical(features, asked(&["v:x"]), vec![entities]).await;
    let joined: Vec<Option<i64>> = joined.column(2).as_primitive::<Int64Type>().iter().collect();
    let expected: Vec<Option<i64>> =
        asked_at.iter().enumerate().map(|(row, time)| model.holds(row % 3, *time, false)).collect();
    assert_eq!(joined, expected, "offline at {now} after {deeds:?}");
}

pub(crate) async fn nothing_expired_or_to_come_is_served_online_or_offline(ground: Ground) {
    let mut runner = TestRunner::new(Config::default());
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(12);
    for case in 0..cases {
        let deeds = prop::collection::vec(deed(), 5..40).new_tree(&mut runner).unwrap().current();
        let ground = ground.sub(case).await;
        let (mut now, mut value, mut model) = (NOW, 0, Model::default());
        ground.hand.set(now);
        let mut features = ground.open(&toml()).await;
        for deed in &deeds {
            match deed {
                Deed::Push { user, event, to } => {
                    value += 1;
                    let columns = json!({ "user": [USERS[*user]], "event_timestamp": [now + event], "created_timestamp": [NOW], "x": [value] });
                    features.push("v", &rows(&features, "v", columns), *to).await.unwrap();
                    model.rows.push((*user, now + event, value, *to == PushTo::OnlineAndOffline));
                }
                Deed::Wait { seconds } => {
                    now += seconds;
                    ground.hand.set(now);
                    features.tick().await.unwrap();
                }
                Deed::Flush => features.flush().await.unwrap(),
                Deed::Reopen => {
                    features.close().await;
                    features = ground.open(&toml()).await;
                }
                Deed::Materialise => {
                    features.materialize_incremental(None, at(now)).await.unwrap();
                    model.rows.iter_mut().filter(|row| row.1 <= now).for_each(|row| row.3 = true);
                }
                Deed::Ask => ask(&features, &model, now, &deeds).await,
            }
        }
        ask(&features, &model, now, &deeds).await;
        features.close().await;
    }
}
