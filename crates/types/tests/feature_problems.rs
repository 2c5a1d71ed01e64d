//! Broken entities, views and services, and what the check says of them, line by line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use halny_types::project::{Checked, Problem, check, diff, problem_at};

const WHOLE: &str = r#"[[models]]
name = "minilm"
source = "a"
task = "embed"
[features]
engine = "redb"
folder = "state"
join_memory = "64MiB"
[[entities]]
name = "user"
join_key = "user_id"
value_type = "int64"
[[entities]]
name = "package"
[[feature_views]]
name = "clicks"
entities = ["user"]
ttl_s = 3600
features = [
    { name = "count", type = "int64" },
    { name = "last", type = "list<string>", description = "The last few." },
]
[feature_views.source]
push = true
batch = { path = "data/clicks/*.parquet", timestamp = "at", created = "made", mapping = { uid = "user_id", n = "count" } }
[[feature_views]]
name = "pairs"
entities = ["user", "package"]
features = [{ name = "count", type = "int64" }]
source = { push = true }
[[on_demand_views]]
name = "rates"
sources = ["clicks"]
request = { now = "unix_timestamp" }
features = [{ name = "rate", type = "float64", expression = "double(clicks.count)" }]
[[feature_services]]
name = "rank"
version = 2
features = ["clicks", "rates:rate"]
log_sample = 0.5
"#;

fn rendered(text: &str) -> String {
    let lines = |problems: &[Problem]| -> String {
        problems.iter().map(|problem| problem.render("halny.toml") + "\n").collect::<String>()
    };
    match check(text) {
        Ok(Checked { warnings, .. }) => format!("accepted\n{}", lines(&warnings)),
        Err(problems) => lines(&problems),
    }
}

/// The right file with one text replaced.
fn with(from: &str, to: &str) -> String {
    assert_eq!(WHOLE.matches(from).count(), 1, "{from:?} is not there once");
    WHOLE.replace(from, to)
}

/// Every case is tried before the test fails, so that a change of words is seen whole.
fn assert_all(cases: &[(&str, &str, &str)]) {
    let mut wrong = String::new();
    for (from, to, expected) in cases {
        let actual = rendered(&with(from, to));
        if actual != format!("halny.toml:{expected}\n") {
            wrong += &format!("--- {from} -> {to}\n--- expected\nhalny.toml:{expected}\n--- actual\n{actual}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_example_is_right() {
    assert_eq!(rendered(WHOLE), "accepted\n");
}

#[test]
fn what_is_not_declared_cannot_be_named() {
    assert_all(&[
        (
            "entities = [\"user\"]",
            "entities = [\"users\"]",
            "17:13: feature_views[0].entities[0]: no entity is called \"users\"; write user",
        ),
        (
            "uid = \"user_id\"",
            "uid = \"user\"",
            "25:97: feature_views[0].source.batch.mapping.uid: the view has neither a feature nor a join key \"user\"; write user_id",
        ),
        (
            "sources = [\"clicks\"]",
            "sources = [\"click\"]",
            "33:12: on_demand_views[0].sources[0]: no feature view is called \"click\"; write clicks",
        ),
        (
            "\"clicks\", \"rates:rate\"",
            "\"click\", \"rates:rate\"",
            "39:13: feature_services[0].features[0]: no view is called \"click\"; write clicks",
        ),
        (
            "\"rates:rate\"",
            "\"rates:ratio\"",
            "39:23: feature_services[0].features[1]: the view \"rates\" has no feature \"ratio\"; write rate",
        ),
    ]);
}

#[test]
fn names_are_written_once_and_can_be_read_in_expressions() {
    assert_all(&[
        (
            "name = \"pairs\"",
            "name = \"Clicks\"",
            "27:8: feature_views[1].name: view 0 has the name \"clicks\" too, but for case; write a name that no other view has",
        ),
        (
            "name = \"rates\"",
            "name = \"pairs\"",
            "32:8: on_demand_views[0].name: view 1 has the name \"pairs\" too; write a name that no other on-demand view has\n\
             halny.toml:39:23: feature_services[0].features[1]: no view is called \"rates\"; write one of clicks, pairs",
        ),
        (
            "name = \"last\"",
            "name = \"last__one\"",
            "21:14: feature_views[0].features[1].name: \"last__one\" cannot be read in an expression; write letters, digits and single `_`, a letter first and no `_` last",
        ),
        (
            "name = \"last\"",
            "name = \"event_timestamp\"",
            "21:14: feature_views[0].features[1].name: \"event_timestamp\" is a name that every view and every row has already; write another name",
        ),
        (
            "name = \"last\"",
            "name = \"user_id\"",
            "21:14: feature_views[0].features[1].name: \"user_id\" is a join key of this view; write another name, or take the feature out",
        ),
        (
            "name = \"last\"",
            "name = \"count\"",
            "21:14: feature_views[0].features[1].name: the view has a feature \"count\" already; write each feature once",
        ),
        (
            "join_key = \"user_id\"",
            "join_key = \"package\"",
            "14:8: entities[1].name: entity 0 has the join key \"package\" as int64, and this one as string; write the same value_type, or another join_key\n\
             halny.toml:25:97: feature_views[0].source.batch.mapping.uid: the view has neither a feature nor a join key \"user_id\"; write one of count, last, package\n\
             halny.toml:28:21: feature_views[1].entities[1]: the join key \"package\" is in this view already; write each entity once",
        ),
        (
            "{ now = \"unix_timestamp\" }",
            "{ user_id = \"int64\" }",
            "34:23: on_demand_views[0].request.user_id: \"user_id\" is a join key, and a request says each name once; write another name",
        ),
        (
            "[\"clicks\", \"rates:rate\"]",
            "[\"clicks\", \"clicks:count\"]",
            "39:23: feature_services[0].features[1]: the service has clicks:count already; write each feature once",
        ),
    ]);
    let twice = format!("{WHOLE}[[feature_services]]\nname = \"rank\"\nversion = 2\nfeatures = [\"pairs\"]\n");
    assert_eq!(
        rendered(&twice),
        "halny.toml:42:8: feature_services[1].name: service 0 is version 2 of \"rank\" too; write version = 3\n"
    );
}

#[test]
fn types_sources_and_ranges_are_checked() {
    assert_all(&[
        (
            "value_type = \"int64\"",
            "value_type = \"float64\"",
            "12:14: entities[0].value_type: two keys of type float64 cannot be told to be the same; write int32, int64, string or bytes",
        ),
        (
            "ttl_s = 3600",
            "ttl_s = -1",
            "18:9: feature_views[0].ttl_s: -1 is out of range; write a whole number from 0 to 3155760000",
        ),
        (
            "source = { push = true }",
            "source = { push = false }",
            "30:10: feature_views[1].source: no row can come into this view; write batch = { path = \"...\" }, push = true, or both",
        ),
        (
            "data/clicks/*.parquet",
            "data/*/clicks.parquet",
            "25:18: feature_views[0].source.batch.path: \"data/*/clicks.parquet\" has a `*` in the name of a folder; write `*` in the name of the file only; a folder is read with all folders below it",
        ),
        (
            "data/clicks/*.parquet",
            "gs://lake/clicks",
            "25:18: feature_views[0].source.batch.path: \"gs://lake/clicks\" is neither a path nor a bucket; write a path, or s3://bucket/prefix",
        ),
        (
            "n = \"count\"",
            "n = \"count\", m = \"count\"",
            "25:112: feature_views[0].source.batch.mapping.n: the column \"m\" is \"count\" already; write each feature once",
        ),
        (
            "log_sample = 0.5",
            "log_sample = 1.5",
            "40:14: feature_services[0].log_sample: 1.5 is out of range; write a number",
        ),
        (
            "sources = [\"clicks\"]\nrequest = { now = \"unix_timestamp\" }\n",
            "",
            "31:1: on_demand_views[0]: there is nothing that the expressions could read; write sources = [\"...\"], or request = { ... }",
        ),
    ]);
    let told = rendered(&with("type = \"list<string>\"", "type = \"text\""));
    assert!(told.starts_with("halny.toml:21:29: feature_views[0].features[1].type: \"text\" is not"), "{told}");
    assert!(told.contains("\"list<string>\""), "{told}");
}

#[test]
fn where_features_are_kept_is_checked() {
    assert_all(&[
        (
            "folder = \"state\"",
            "url = \"redis://cache\"",
            "7:1: features.url: `url` means nothing to the engine \"redb\"; take it out, or write engine = \"redis\"",
        ),
        (
            "engine = \"redb\"",
            "engine = \"redis\"",
            "5:1: features: the engine \"redis\" needs to know where its server is; write url = \"redis://...\", or url_env",
        ),
        (
            "engine = \"redb\"",
            "engine = \"redis\"\nurl = \"http://cache\"",
            "7:7: features.url: this is no URL of the engine \"redis\"; write one that begins with redis:// or rediss://",
        ),
        (
            "engine = \"redb\"",
            "engine = \"redis\"\nurl = \"redis://:secret@cache:6379\"",
            "7:7: features.url: the URL holds a password, which does not belong into this file; take it out, and name the variable that holds it in password_env",
        ),
        (
            "engine = \"redb\"",
            "engine = \"redis\"\nurl = \"redis://cache\"\nurl_env = \"A B\"",
            "8:1: features.url_env: `url` and `url_env` both say where the server is; write one of them\n\
             halny.toml:8:11: features.url_env: \"A B\" is no name of an environment variable; write one of letters, digits and `_`, such as \"HALNY_FEATURES_URL\"",
        ),
        (
            "join_memory = \"64MiB\"",
            "join_memory = \"1MiB\"",
            "8:15: features.join_memory: \"1MiB\" is out of range; write a size from \"8MiB\" to \"1TiB\"",
        ),
        (
            "folder = \"state\"",
            "offline = \"gs://lake\"",
            "7:11: features.offline: \"gs://lake\" is neither a folder nor a bucket; write a folder, or s3://bucket/prefix",
        ),
    ]);
    assert_eq!(rendered(&with("folder = \"state\"", "offline = \"s3://lake/features\"")), "accepted\n");
}

#[test]
fn a_service_whose_features_are_called_alike_is_allowed_with_a_word() {
    assert_eq!(
        rendered(&with("[\"clicks\", \"rates:rate\"]", "[\"clicks\", \"pairs:count\"]")),
        "accepted\n\
         halny.toml:39:23: feature_services[0].features[1]: \"clicks\" and \"pairs\" both have a feature \"count\"; \
         ask for this service with full_feature_names, or rename one of them\n"
    );
}

#[test]
fn what_another_crate_finds_is_told_with_its_line() {
    let problem =
        problem_at(WHOLE, "/on_demand_views/0/features/0/expression", "it is wrong".into(), "write another".into());
    assert_eq!(
        problem.render("halny.toml"),
        "halny.toml:35:61: on_demand_views[0].features[0].expression: it is wrong; write another"
    );
}

#[test]
fn definitions_change_at_once_and_stores_with_a_restart() {
    let project = |text: &str| check(text).unwrap().project;
    let old = project(WHOLE);
    assert!(diff(&old, &old).is_empty());
    let ttl = diff(&old, &project(&with("ttl_s = 3600", "ttl_s = 60")));
    assert!(ttl.features && ttl.restart.is_empty());
    let memory = diff(&old, &project(&with("64MiB", "128MiB")));
    assert!(memory.features && memory.restart.is_empty());
    let folder = diff(&old, &project(&with("folder = \"state\"", "folder = \"other\"")));
    assert_eq!((folder.features, folder.restart), (false, vec!["features"]));
}
