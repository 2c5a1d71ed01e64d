//! What is served, and what is said of it.

use halny_features::{Asked, FeaturesError, OnlineRequest, PushTo, Status, Value};
use serde_json::json;

use crate::support::{asked, at, definitions, object, online, rows, shown, texts};
use crate::{Ground, NOW};

/// Users, with a view that holds for 100 seconds.
pub(crate) const USERS: &str = r#"
[[entities]]
name = "user"
join_key = "user_id"
[[feature_views]]
name = "clicks"
entities = ["user"]
ttl_s = 100
features = [{ name = "count", type = "int64" }, { name = "last", type = "string" }]
source = { push = true }
"#;

pub(crate) async fn a_value_is_served_from_its_time_until_its_ttl_has_passed(ground: Ground) {
    let features = ground.open(USERS).await;
    let columns =
        json!({ "user_id": ["a", "b"], "event_timestamp": [NOW, NOW - 50], "count": [1, null], "last": ["x", "y"] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::Online).await.unwrap();
    let ask = async || shown(&online(&features, asked(&["clicks"]), &[("user_id", texts(&["a", "b", "c"]))]).await);
    let nothing = json!(["NOT_FOUND", "NOT_FOUND"]);
    let old = json!(["OUTSIDE_MAX_AGE", "OUTSIDE_MAX_AGE"]);
    assert_eq!(ask().await, json!([[1, "x"], ["NULL_VALUE", "y"], nothing]));
    ground.hand.set(NOW + 50);
    assert_eq!(ask().await, json!([[1, "x"], ["NULL_VALUE", "y"], nothing]), "at the end of its ttl it holds");
    ground.hand.set(NOW + 51);
    assert_eq!(ask().await, json!([[1, "x"], old, nothing]));
    ground.hand.set(NOW + 101);
    assert_eq!(ask().await, json!([old, old, nothing]));
    // A clock that is set back finds rows whose time is to come.
    ground.hand.set(NOW - 1);
    assert_eq!(ask().await, json!([nothing, ["NULL_VALUE", "y"], nothing]));
    let response = online(&features, asked(&["clicks:count"]), &[("user_id", vec![Value::Null])]).await;
    assert_eq!(response.status(0, 0), Status::NotFound, "null is the key of nobody");
    features.close().await;
}

pub(crate) async fn every_type_is_served_as_it_was_pushed(ground: Ground) {
    let types = ["int32", "int64", "float32", "float64", "bool", "string", "bytes", "unix_timestamp"];
    let features: Vec<String> = types
        .iter()
        .flat_map(|it| {
            [
                format!("{{ name = \"{it}\", type = \"{it}\" }}"),
                format!("{{ name = \"{it}s\", type = \"list<{it}>\" }}"),
            ]
        })
        .collect();
    let toml = format!(
        "[[entities]]\nname = \"id\"\nvalue_type = \"int32\"\n[[feature_views]]\nname = \"all\"\nentities = [\"id\"]\n\
         features = [{}]\nsource = {{ push = true }}\n",
        features.join(", ")
    );
    let features = ground.open(&toml).await;
    let values = [
        json!(-3),
        json!(1_i64 << 60),
        json!(0.5),
        json!(0.1),
        json!(true),
        json!("ü"),
        json!("AP8="),
        json!(1_700_000_000),
    ];
    let mut columns = object(json!({ "id": [1, 2], "event_timestamp": [NOW, NOW] }));
    for (name, value) in types.iter().zip(&values) {
        columns.insert((*name).to_owned(), json!([value, null]));
        columns.insert(format!("{name}s"), json!([[value, value], []]));
    }
    features.push("all", &rows(&features, "all", json!(columns)), PushTo::OnlineAndOffline).await.unwrap();
    let ids = vec![Value::Int32(1), Value::Int32(2)];
    let response = online(&features, asked(&["all"]), &[("id", ids)]).await;
    for (column, name) in response.names.iter().enumerate() {
        let expected = &columns[name];
        let served = json!([response.value(0, column).to_json(), response.value(1, column).to_json()]);
        assert_eq!(served, *expected, "{name}");
        assert_eq!(response.event_time(0, column), Some(at(NOW)));
    }
    features.close().await;
}

/// Users and items, and pairs of both.
const PAIRS: &str = r#"
[[entities]]
name = "user"
join_key = "user_id"
[[entities]]
name = "item"
join_key = "item_id"
value_type = "int64"
[[feature_views]]
name = "users"
entities = ["user"]
features = [{ name = "age", type = "int32" }, { name = "score", type = "float64" }]
source = { push = true }
[[feature_views]]
name = "pairs"
entities = ["user", "item"]
features = [{ name = "views", type = "int64" }, { name = "score", type = "float64" }]
source = { push = true }
"#;

pub(crate) async fn composite_keys_and_several_views_are_one_row(ground: Ground) {
    let features = ground.open(PAIRS).await;
    let users = json!({ "user_id": ["a", "b"], "age": [30, 40], "score": [0.5, 0.25] });
    features.push("users", &rows(&features, "users", users), PushTo::Online).await.unwrap();
    let pairs =
        json!({ "item_id": [1, 2, 1], "user_id": ["a", "a", "b"], "views": [11, 12, 21], "score": [1.5, 2.5, 3.5] });
    features.push("pairs", &rows(&features, "pairs", pairs), PushTo::Online).await.unwrap();
    let keys = [("user_id", texts(&["a", "a", "b", "b"])), ("item_id", [1, 2, 1, 2].map(Value::Int64).to_vec())];
    let response = online(&features, asked(&["pairs:views", "users:age"]), &keys).await;
    assert_eq!(shown(&response), json!([[11, 30], [12, 30], [21, 40], ["NOT_FOUND", 40]]));
    let columns = keys.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
    let mut request =
        OnlineRequest { asked: asked(&["users:score", "pairs:score"]), columns, full_feature_names: false };
    let error = features.get_online(request.clone()).await.unwrap_err();
    assert!(matches!(error, FeaturesError::Ambiguous { .. }), "{error}");
    request.full_feature_names = true;
    let response = features.get_online(request).await.unwrap();
    assert_eq!(*response.names, ["users__score".to_owned(), "pairs__score".to_owned()]);
    assert_eq!(shown(&response), json!([[0.5, 1.5], [0.5, 2.5], [0.25, 3.5], [0.25, "NOT_FOUND"]]));
    features.close().await;
}

pub(crate) async fn a_changed_schema_serves_no_wrong_value(ground: Ground) {
    let features = ground.open(USERS).await;
    let columns = json!({ "user_id": ["a"], "count": [7], "last": ["x"] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::OnlineAndOffline).await.unwrap();
    let changed = USERS.replace(
        "{ name = \"count\", type = \"int64\" }",
        "{ name = \"added\", type = \"int64\" }, { name = \"count\", type = \"float64\" }",
    );
    features.reload(definitions(&changed), halny_types::ByteSize::mib(8));
    let ask = async || shown(&online(&features, asked(&["clicks"]), &[("user_id", texts(&["a"]))]).await);
    assert_eq!(ask().await, json!([["NOT_FOUND", "NOT_FOUND", "x"]]));
    // What was journalled before and is written after is read by the same rule.
    features.flush().await.unwrap();
    let entities = rows(&features, "clicks", json!({ "user_id": ["a"], "event_timestamp": [NOW] }));
    let joined = crate::support::historical(&features, asked(&["clicks"]), vec![entities]).await;
    assert_eq!(joined.column_by_name("count").unwrap().null_count(), 1);
    assert_eq!(joined.column_by_name("last").unwrap().null_count(), 0);
    features.reload(definitions(USERS), halny_types::ByteSize::mib(8));
    assert_eq!(ask().await, json!([[7, "x"]]));
    features.close().await;
}

/// Features that are computed of those of users and of the request.
pub(crate) const COMPUTED: &str = r#"
[[on_demand_views]]
name = "rates"
sources = ["clicks"]
request = { shown = "int64" }
features = [
    { name = "rate", type = "float64", expression = "double(clicks.count) / double(request.shown)" },
    { name = "known", type = "bool", expression = "has(clicks.last)" },
]
"#;

pub(crate) async fn computed_features_read_views_and_the_request(ground: Ground) {
    let features = ground.open(&format!("{USERS}{COMPUTED}")).await;
    let columns =
        json!({ "user_id": ["a", "b"], "event_timestamp": [NOW, NOW], "count": [3, null], "last": ["x", null] });
    let pushed = rows(&features, "clicks", columns);
    features.push("clicks", &pushed, PushTo::OnlineAndOffline).await.unwrap();
    let keys = [
        ("user_id", texts(&["a", "b", "c", "a"])),
        ("shown", vec![Value::Int64(4), Value::Int64(4), Value::Int64(4), Value::Null]),
    ];
    let response = online(&features, asked(&["rates:rate", "rates:known"]), &keys).await;
    let (asked_for, json) = (asked(&["rates"]), object(json!({ "user_id": ["a"], "shown": [4], "more": [1] })));
    let read = features.columns_from_json(&asked_for, &json).unwrap();
    assert_eq!(
        read.into_iter().collect::<Vec<_>>(),
        [("shown".to_owned(), vec![Value::Int64(4)]), ("user_id".to_owned(), texts(&["a"])),]
    );
    let error = features.columns_from_json(&asked_for, &object(json!({ "shown": [4.5] }))).unwrap_err().to_string();
    assert_eq!(error, "\"shown\" holds a number that it cannot hold where int64 is expected");
    let none = "NULL_VALUE";
    assert_eq!(shown(&response), json!([[0.75, true], [none, false], [none, false], [none, true]]));
    assert_eq!(features.counts().on_demand_failed, 3);
    features.close().await;
}

pub(crate) async fn what_cannot_be_asked_for_is_refused(ground: Ground) {
    let features = ground.open(&format!("{USERS}{COMPUTED}")).await;
    let ask = async |asked: Asked, columns: &[(&str, Vec<Value>)]| {
        let columns = columns.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
        features.get_online(OnlineRequest { asked, columns, full_feature_names: false }).await.unwrap_err().to_string()
    };
    let user = || ("user_id", texts(&["a"]));
    for (wanted, columns, expected) in [
        ("nothing:count", vec![user()], "there is no feature view \"nothing\"; name one of those in the project file"),
        ("clicks:counts", vec![user()], "the view \"clicks\" has no feature \"counts\"; it has count, last"),
        ("clicks:count", vec![], "\"user_id\" is missing; it is a join key of the features"),
        (
            "clicks:count",
            vec![("user_id", vec![Value::Int64(1)])],
            "\"user_id\" holds an int64 where string is expected",
        ),
        ("rates:rate", vec![user()], "\"shown\" is missing; an on-demand feature reads it as a field of the request"),
        ("rates:rate", vec![user(), ("shown", texts(&["4"]))], "\"shown\" holds a string where int64 is expected"),
        (
            "clicks:count",
            vec![user(), ("more", texts(&["a", "b"]))],
            "\"user_id\" has 1 values where others have 2; send one for each row",
        ),
        (
            "clicks:count",
            vec![("user_id", texts(&["a"; 10_001]))],
            "rows are 10001; at most 10000 may be in one request",
        ),
    ] {
        assert_eq!(ask(asked(&[wanted]), &columns).await, expected);
    }
    assert!(ask(Asked::Service("s".to_owned()), &[user()]).await.contains("there is no feature service"));
    assert!(ask(asked(&["clicks:count", "clicks:count"]), &[user()]).await.contains("both called \"count\""));
    let often = ask(asked(&["clicks"; 100_000]), &[user()]).await;
    assert_eq!(often, "features are 1002; at most 1000 may be in one request", "it ends where the limit is");
    features.close().await;
}

pub(crate) async fn few_keys_of_large_rows_are_bounded_in_bytes(ground: Ground) {
    let features = ground.open(USERS).await;
    let users: Vec<String> = (0..80).map(|number| number.to_string()).collect();
    for users in users.chunks(20) {
        let columns = json!({ "user_id": users, "count": vec![1; 20], "last": vec!["x".repeat(900_000); 20] });
        features.push("clicks", &rows(&features, "clicks", columns), PushTo::Online).await.unwrap();
    }
    let ask = async |users: Vec<&str>| {
        let columns = [("user_id".to_owned(), texts(&users))].into();
        features.get_online(OnlineRequest { asked: asked(&["clicks"]), columns, full_feature_names: false }).await
    };
    let ten: Vec<&str> = users[..10].iter().map(String::as_str).collect();
    assert_eq!(ask(ten).await.unwrap().rows, 10);
    // One key again and again, some keys, and more than are read without asking for their length.
    for users in
        [vec!["1"; 1_000], users[..20].iter().map(String::as_str).collect(), users.iter().map(String::as_str).collect()]
    {
        let error = ask(users).await.unwrap_err();
        assert!(matches!(error, FeaturesError::TooMany { what: "bytes of values", .. }), "{error}");
    }
    features.close().await;
}

pub(crate) async fn services_have_versions(ground: Ground) {
    let services = r#"
[[feature_services]]
name = "rank"
features = ["clicks:last"]
[[feature_services]]
name = "rank"
version = 3
features = ["clicks:count", "clicks:last"]
"#;
    let features = ground.open(&format!("{USERS}{services}")).await;
    let columns = json!({ "user_id": ["a"], "count": [3], "last": ["x"] });
    features.push("clicks", &rows(&features, "clicks", columns), PushTo::Online).await.unwrap();
    for (name, expected, version) in
        [("rank", json!([[3, "x"]]), 3), ("rank@1", json!([["x"]]), 1), ("rank@3", json!([[3, "x"]]), 3)]
    {
        let response = online(&features, Asked::Service(name.to_owned()), &[("user_id", texts(&["a"]))]).await;
        assert_eq!(shown(&response), expected);
        assert_eq!(response.service.unwrap().version, version);
    }
    for name in ["rank@2", "rank@x", "rank@"] {
        assert!(features.definitions().service(name).is_err(), "{name}");
    }
    features.close().await;
}
