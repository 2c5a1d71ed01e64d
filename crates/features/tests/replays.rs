//! What was served is logged, computed again and compared; and what values are like.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use halny_features::{Asked, PushTo, Value};
use serde_json::json;
use support::{Hand, at, definitions, online, open, rows, texts};

const NOW: i64 = 2_000_000_000;

const TOML: &str = r#"
[[entities]]
name = "user"
[[feature_views]]
name = "v"
entities = ["user"]
ttl_s = 100
features = [{ name = "x", type = "int64" }, { name = "tags", type = "list<string>" }]
source = { push = true }
[[on_demand_views]]
name = "more"
sources = ["v"]
request = { factor = "float64" }
features = [{ name = "scaled", type = "float64", expression = "double(v.x) * request.factor" }]
[[feature_services]]
name = "s"
features = ["more:scaled", "v"]
log_sample = 1.0
"#;

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work);
}

async fn serve(features: &halny_features::Features) {
    let columns = [("user", texts(&["a", "b"])), ("factor", vec![Value::Float64(0.5), Value::Null])];
    online(features, Asked::Service("s".to_owned()), &columns).await;
}

#[test]
fn what_was_served_is_what_the_join_gives_for_that_moment() {
    run(async {
        let (folder, hand) = (tempfile::tempdir().unwrap(), Hand::at(NOW));
        let features = open(folder.path(), TOML, &hand, None).await;
        for step in 0..5 {
            hand.set(NOW + step * 60);
            let columns =
                json!({ "user": ["a"], "event_timestamp": [NOW + step * 60 - 1], "x": [step], "tags": [["t"]] });
            if step != 2 {
                features.push("v", &rows(&features, "v", columns), PushTo::OnlineAndOffline).await.unwrap();
            }
            serve(&features).await;
        }
        let replayed = features.replay("s", at(NOW), at(NOW + 1_000), &|_| ()).await.unwrap();
        assert_eq!(replayed.rows, 10);
        let names: Vec<&str> = replayed.features.iter().map(|skew| skew.name.as_str()).collect();
        assert_eq!(names, ["more__scaled", "v__x", "v__tags"]);
        assert!(replayed.features.iter().all(|skew| (skew.equal, skew.different) == (10, 0)), "{replayed:?}");
        assert_eq!((features.counts().logged, features.counts().log_dropped), (10, 0));
        // Only what was served from the third step on.
        assert_eq!(features.replay("s@1", at(NOW + 120), at(NOW + 1_000), &|_| ()).await.unwrap().rows, 6);
        features.close().await;
    });
}

#[test]
fn skew_is_told_by_feature_with_examples() {
    run(async {
        let (folder, hand) = (tempfile::tempdir().unwrap(), Hand::at(NOW));
        let features = open(folder.path(), TOML, &hand, None).await;
        let row = |x: i64, event: i64| json!({ "user": ["a"], "event_timestamp": [event], "x": [x], "tags": [null] });
        // It is served, and training never sees it.
        features.push("v", &rows(&features, "v", row(1, NOW - 10)), PushTo::Online).await.unwrap();
        serve(&features).await;
        // It came too late to be served then.
        hand.set(NOW + 50);
        features.push("v", &rows(&features, "v", row(2, NOW - 5)), PushTo::OnlineAndOffline).await.unwrap();
        serve(&features).await;
        let replayed = features.replay("s", at(0), at(NOW + 1_000), &|_| ()).await.unwrap();
        let x = &replayed.features[1];
        assert_eq!((x.name.as_str(), x.equal, x.different), ("v__x", 3, 1));
        let example = &x.examples[0];
        assert_eq!((example.at, &example.served, &example.joined), (at(NOW), &Value::Int64(1), &Value::Int64(2)));
        assert_eq!(example.keys, [("user".to_owned(), Value::String("a".to_owned()))]);
        assert_eq!(replayed.features[0].different, 1, "what is computed of it is skewed too");
        // What a later file says of the service is not what was logged.
        let changed = TOML.replace("features = [\"more:scaled\", \"v\"]", "features = [\"v:tags\", \"v:x\"]");
        features.reload(definitions(&changed), halny_types::ByteSize::mib(8));
        assert_eq!(features.replay("s", at(0), at(NOW + 1_000), &|_| ()).await.unwrap().features[1].different, 1);
        features.close().await;
    });
}

#[test]
fn a_sample_is_logged_and_nothing_without_one() {
    run(async {
        let (folder, hand) = (tempfile::tempdir().unwrap(), Hand::at(NOW));
        let features = open(folder.path(), &TOML.replace("log_sample = 1.0", "log_sample = 0.0"), &hand, None).await;
        serve(&features).await;
        assert_eq!(features.counts().logged, 0);
        features
            .reload(definitions(&TOML.replace("log_sample = 1.0", "log_sample = 0.25")), halny_types::ByteSize::mib(8));
        for _ in 0..500 {
            serve(&features).await;
        }
        // 1,000 rows: further away than this it is once in 10^9.
        assert!((160..340).contains(&features.counts().logged), "{:?}", features.counts());
        features.close().await;
    });
}

#[test]
fn rows_that_cannot_be_written_wait_and_keep_no_others_waiting() {
    run(async {
        let (folder, hand) = (tempfile::tempdir().unwrap(), Hand::at(NOW));
        let (before, service) = TOML.split_once("[[feature_services]]").unwrap();
        let named = |n: usize| format!("[[feature_services]]{}", service.replace("\"s\"", &format!("\"s{n}\"")));
        let toml = before.to_owned() + &(0..4).map(named).collect::<String>();
        let features = open(folder.path(), &toml, &hand, None).await;
        let columns = [("user", texts(&["a", "b"])), ("factor", vec![Value::Null, Value::Null])];
        for n in 0..4 {
            online(&features, Asked::Service(format!("s{n}")), &columns).await;
        }
        // Where the files of one should be there is something else.
        let served = folder.path().join("offline/features/served");
        std::fs::create_dir_all(&served).unwrap();
        std::fs::write(served.join("s1"), "").unwrap();
        features.flush().await.unwrap_err();
        let written =
            |n: usize| served.join(format!("s{n}/1")).read_dir().is_ok_and(|mut files| files.next().is_some());
        assert_eq!([0, 1, 2, 3].map(written), [true, false, true, true]);
        std::fs::remove_file(served.join("s1")).unwrap();
        features.flush().await.unwrap();
        assert!(written(1));
        let counts = features.counts();
        assert_eq!((counts.logged, counts.log_dropped), (8, 0));
        assert_eq!(features.replay("s1", at(0), at(NOW + 1), &|_| ()).await.unwrap().rows, 2);
        features.close().await;
    });
}

#[test]
fn a_reload_loses_no_rows_that_wait_to_be_logged() {
    run(async {
        let (folder, hand) = (tempfile::tempdir().unwrap(), Hand::at(NOW));
        let features = open(folder.path(), TOML, &hand, None).await;
        for _ in 0..3 {
            serve(&features).await;
            features.reload(definitions(TOML), halny_types::ByteSize::mib(8));
        }
        let counts = features.counts();
        assert_eq!((counts.logged, counts.log_dropped), (6, 0));
        assert_eq!(features.replay("s", at(0), at(NOW + 1), &|_| ()).await.unwrap().rows, 6);
        features.close().await;
    });
}

#[test]
fn statistics_are_of_the_rows_of_the_time() {
    run(async {
        let (folder, hand) = (tempfile::tempdir().unwrap(), Hand::at(NOW));
        let features = open(folder.path(), TOML, &hand, None).await;
        let numbers: Vec<i64> = (0..100).collect();
        let users: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        let events: Vec<i64> = numbers.iter().map(|number| NOW - 100 + number).collect();
        let xs: Vec<Option<i64>> = numbers.iter().map(|number| (number % 10 != 9).then_some(number % 10)).collect();
        let tags: Vec<Vec<&str>> = numbers.iter().map(|number| vec!["t"; (number % 3) as usize]).collect();
        let columns = json!({ "user": users, "event_timestamp": events, "x": xs, "tags": tags });
        features.push("v", &rows(&features, "v", columns), PushTo::Offline).await.unwrap();
        for flushed in [false, true] {
            if flushed {
                features.flush().await.unwrap();
            }
            let of = features.statistics("v", at(NOW - 50), at(NOW - 10)).await.unwrap();
            let x = &of[0];
            assert_eq!((x.name.as_str(), x.count, x.nulls), ("x", 40, 4));
            let values = x.numbers.as_ref().unwrap();
            assert_eq!((values.min, values.max), (0.0, 8.0));
            assert!((values.mean - 4.0).abs() < 1e-9, "{values:?}");
            assert_eq!(x.top.values()[0].1, 4);
            assert_eq!(of[1].numbers.as_ref().unwrap().max, 2.0, "of lists the lengths");
        }
        features.close().await;
    });
}
