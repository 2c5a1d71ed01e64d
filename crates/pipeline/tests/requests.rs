//! What requests are accepted: what the published schema says, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;

use fake::plan;
use halny_pipeline::{request_schema, response_schema};
use proptest::prelude::*;
use serde_json::{Value, json};

const FIELDS: &str = r#"
[routes.request]
text = { type = "string", min_length = 2, max_length = 5 }
kind = { type = "string", enum = ["a", "bc"], default = "a" }
count = { type = "integer", minimum = 1, maximum = 20, default = 5 }
any = { type = "integer", optional = true }
weight = { type = "number", minimum = -1.5, optional = true }
on = { type = "boolean", optional = true }
tags = { type = "array", items = { type = "string", max_length = 3 }, min_items = 1, max_items = 2, optional = true }
place = { type = "object", fields = { x = { type = "number" }, y = { type = "number", default = 0 } }, optional = true }
[[routes.steps]]
name = "v"
embed = { model = "a", text = "${request.text}" }
[routes.response]
vector = "${v.vector}"
all = "${request}"
"#;

/// Anything, and often nearly what is expected.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|truth| json!(truth)),
        (-3_i64..25).prop_map(|number| json!(number)),
        prop::sample::select(vec![
            json!(5.0),
            json!(1.5),
            json!(-1.5),
            json!(-2.5),
            json!(1e20),
            json!(9_007_199_254_740_991_i64),
            json!(9_007_199_254_740_992_i64),
            json!(u64::MAX)
        ]),
        "[abcü]{0,6}".prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
            prop::collection::btree_map("[xyz]", inner, 0..3).prop_map(|fields| json!(fields)),
        ]
    })
}

fn body() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec!["kind", "count", "any", "weight", "on", "tags", "place", "stream", "other"]);
    let text = prop_oneof![3 => "[ab]{2,5}".prop_map(|text| json!(text)), 1 => value()];
    (prop::option::weighted(0.9, text), prop::collection::btree_map(names, value(), 0..3)).prop_map(|(text, others)| {
        let mut body = json!(others);
        if let Some(text) = text {
            body["text"] = text;
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_accepted_is_what_the_schema_says(body in body()) {
        let plan = plan(FIELDS);
        let says = jsonschema::draft202012::is_valid(&request_schema(&plan), &body);
        let read = plan.read(body.clone());
        prop_assert_eq!(read.is_ok(), says, "{} {:?}", body, read);
        if let Ok(asked) = read {
            // With its defaults it is accepted again, and is what it was.
            prop_assert_eq!(plan.read(asked.body.clone()).unwrap().body, asked.body);
        }
    }
}

#[test]
fn a_refusal_names_the_field_what_it_is_and_what_it_may_be() {
    let plan = plan(FIELDS);
    for (body, field, message) in [
        (json!([]), "", "the body is a list; it is a JSON object with any, count, kind, on, place, tags, text, weight"),
        (json!({}), "text", "`text` is missing; it is text of 2 to 5 characters"),
        (json!({ "text": "abcdef" }), "text", "`text` has 6 characters; it is text of 2 to 5 characters"),
        (json!({ "text": 1 }), "text", "`text` is 1; it may be text of 2 to 5 characters"),
        (json!({ "text": "ab", "kind": "x" }), "kind", "`kind` is \"x\"; it may be one of \"a\", \"bc\""),
        (json!({ "text": "ab", "count": 0 }), "count", "`count` is 0; it may be a whole number from 1 to 20"),
        (json!({ "text": "ab", "count": 1.5 }), "count", "`count` is 1.5; it may be a whole number from 1 to 20"),
        (json!({ "text": "ab", "any": null }), "any", "`any` is null; it may be a whole number"),
        (json!({ "text": "ab", "tags": ["a", 3] }), "tags[1]", "`tags[1]` is 3; it may be text of 0 to 3 characters"),
        (json!({ "text": "ab", "tags": [] }), "tags", "`tags` has 0 items; it is a list of 1 to 2 items"),
        (json!({ "text": "ab", "place": { "y": 1 } }), "place.x", "`place.x` is missing; it is a number"),
        (
            json!({ "text": "ab", "place": { "x": 1, "z": 1 } }),
            "place.z",
            "there is no field \"z\"; the fields are `place.x`, `place.y`",
        ),
        (
            json!({ "text": "ab", "stream": true }),
            "stream",
            "`stream` is true, and this route gives its answer whole; leave it out",
        ),
        (json!({ "text": "ab", "stream": 1 }), "stream", "`stream` is 1; it may be true or false"),
    ] {
        let refused = plan.read(body.clone()).unwrap_err();
        assert_eq!((refused.field.as_str(), refused.message.as_str()), (field, message), "{body}");
    }
    let read = plan.read(json!({ "text": "ab", "count": 5.0, "place": { "x": 1 } })).unwrap();
    assert_eq!(read.body, json!({ "text": "ab", "kind": "a", "count": 5, "place": { "x": 1, "y": 0 } }));
}

#[test]
fn both_schemas_are_ones() {
    let plan = plan(FIELDS);
    for schema in [request_schema(&plan), response_schema(&plan)] {
        assert!(jsonschema::meta::is_valid(&schema), "{schema}");
    }
}
