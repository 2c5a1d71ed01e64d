//! An index and the definition of a filter say the same, whatever the filter and the payloads.

use std::collections::BTreeMap;

use halny_payload::{
    Condition, FieldKind, Filter, FilterError, JsonPath, Match, PayloadIndex, PointId, Range, Scalar, Subject, Written,
};
use halny_types::{Blame, Fault};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0i64..5).prop_map(Value::from),
        (0i32..10).prop_map(|half| json!(f64::from(half) / 2.0)),
        prop::sample::select(vec!["red", "green", "red fox", "the quick fox", "Fox red", ""]).prop_map(Value::from),
        prop::sample::select(vec!["2024-01-01T00:00:00Z", "2024-06-01", "2025-01-01 10:00:00"]).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        (-20i32..20, -20i32..20).prop_map(|(lon, lat)| json!({"lon": lon, "lat": lat})),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![3 => scalar(), 1 => prop::collection::vec(scalar(), 0..4).prop_map(Value::from)]
}

fn payload() -> impl Strategy<Value = Map<String, Value>> {
    let object = prop::collection::btree_map("[ab]", value(), 0..3).prop_map(Value::from_iter).boxed();
    let field =
        prop_oneof![4 => value(), 1 => object.clone(), 1 => prop::collection::vec(object, 0..3).prop_map(Value::from)];
    prop::collection::btree_map("[abcd]", field, 0..5).prop_map(|map| map.into_iter().collect())
}

fn condition() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec!["a", "b", "c", "d", "a.b", "a[].b", "c[0]"]);
    let on_field = prop_oneof![
        scalar()
            .prop_filter("what can be compared", |v| v.is_i64() || v.is_string() || v.is_boolean())
            .prop_map(|value| json!({"match": {"value": value}})),
        (0i64..5, 0i64..5).prop_map(|(a, b)| json!({"match": {"any": [a, b]}})),
        Just(json!({"match": {"except": ["red", "green"]}})),
        prop::sample::select(vec!["fox", "red fox", "Fox quick", "absent", ""])
            .prop_map(|text| json!({"match": {"text": text}})),
        prop::sample::select(vec!["fox absent", "red"]).prop_map(|text| json!({"match": {"text_any": text}})),
        prop::sample::select(vec!["red fox", "quick fox"]).prop_map(|text| json!({"match": {"phrase": text}})),
        (0i64..5, 0i64..5).prop_map(|(a, b)| json!({"range": {"gte": a, "lt": b}})),
        Just(json!({"range": {"gt": "2024-03-01T00:00:00Z"}})),
        (0i64..3).prop_map(|count| json!({"values_count": {"gte": count}})),
        Just(json!({"geo_radius": {"center": {"lon": 1.0, "lat": 2.0}, "radius": 900_000.0}})),
        Just(
            json!({"geo_bounding_box": {"top_left": {"lon": -5.5, "lat": 9.5}, "bottom_right": {"lon": 9.5, "lat": -9.5}}})
        ),
        any::<bool>().prop_map(|wanted| json!({"is_empty": wanted})),
        Just(json!({"is_null": true})),
    ];
    let on_field = (key, on_field).prop_map(|(key, mut condition)| {
        condition["key"] = json!(key);
        condition
    });
    prop_oneof![
        8 => on_field.clone(),
        1 => prop::collection::vec(0u64..30, 0..5).prop_map(|ids| json!({"has_id": ids})),
        1 => Just(json!({"has_vector": "image"})),
        1 => on_field.prop_map(|inner| json!({"nested": {"key": "a", "filter": {"must": [inner]}}})),
    ]
}

fn filter() -> impl Strategy<Value = Value> {
    let leaf = prop::collection::vec(condition(), 0..3);
    let clauses = move |inner: BoxedStrategy<Vec<Value>>| {
        let some = || inner.clone();
        (some(), some(), some(), prop::option::of((some(), 1u64..3))).prop_map(|(must, should, must_not, at_least)| {
            let mut filter = json!({"must": must, "should": should, "must_not": must_not});
            if let Some((conditions, min_count)) = at_least {
                filter["min_should"] = json!({"conditions": conditions, "min_count": min_count});
            }
            filter
        })
    };
    let simple = clauses(leaf.boxed()).boxed();
    let deep = prop::collection::vec(prop_oneof![condition().boxed(), simple.clone()], 0..3);
    prop_oneof![simple, clauses(deep.boxed()).boxed()]
}

fn kinds() -> impl Strategy<Value = BTreeMap<String, FieldKind>> {
    let kind = prop::sample::select(vec!["keyword", "integer", "float", "bool", "geo", "datetime", "text", "uuid"]);
    let field = prop::sample::select(vec!["a", "b", "c", "d", "a.b", "a[].b"]);
    prop::collection::btree_map(
        field.prop_map(str::to_owned),
        kind.prop_filter_map("all are kinds", |kind| FieldKind::read(&json!(kind)).ok()),
        0..6,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn an_index_selects_every_row_that_passes_and_no_other_where_it_is_exact(
        payloads in prop::collection::vec(payload(), 1..30),
        filter in filter(),
        fields in kinds(),
    ) {
        let filter = Filter::read(&filter).unwrap();
        let mut index = PayloadIndex::new(fields.clone());
        (0..).zip(&payloads).for_each(|(row, payload)| index.insert(row, payload));
        let row_of = |id: &PointId| match id {
            PointId::Number(number) => u32::try_from(*number).ok().filter(|row| (*row as usize) < payloads.len()),
            PointId::Uuid(_) => None,
        };
        let selection = index.select(&filter, &row_of);
        for (row, payload) in (0u32..).zip(&payloads) {
            let has_vector = |name: &str| name == "image" && row % 2 == 0;
            let point = Subject { id: PointId::Number(u64::from(row)), payload, has_vector: &has_vector, fields: &fields };
            let passes = filter.matches(&point);
            prop_assert!(!passes || selection.rows.contains(row), "row {row} passes and is not selected: {payload:?}");
            prop_assert!(passes || !selection.exact || !selection.rows.contains(row), "row {row} is selected: {payload:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same_filter(filter in filter()) {
        let filter = Filter::read(&filter).unwrap();
        let written = filter.write(&|_| true);
        prop_assert!(written.exact);
        prop_assert_eq!(Filter::read(&written.json).unwrap(), filter);
    }

    #[test]
    fn what_is_written_passes_all_that_pass_and_no_other_where_it_is_exact(
        payloads in prop::collection::vec(payload(), 1..20),
        filter in filter(),
        unknown in 0u8..4,
    ) {
        let filter = Filter::read(&filter).unwrap();
        let knows = |condition: &Condition| match unknown {
            0 => !matches!(condition, Condition::Match(..)),
            1 => !matches!(condition, Condition::IsEmpty(_) | Condition::HasVector(_)),
            2 => !matches!(condition, Condition::Nested(..) | Condition::Range(..) | Condition::HasId(_)),
            _ => true,
        };
        let written = filter.write(&knows);
        let read = Filter::read(&written.json).unwrap();
        for (row, payload) in (0u64..).zip(&payloads) {
            let has_vector = |name: &str| name == "image" && row % 2 == 0;
            let point = Subject { id: PointId::Number(row), payload, has_vector: &has_vector, fields: &BTreeMap::new() };
            let (passes, may) = (filter.matches(&point), read.matches(&point));
            prop_assert!(!passes || may, "{payload:?} passes, and not {}", written.json);
            prop_assert!(passes || !may || !written.exact, "{payload:?} does not pass, but {}", written.json);
        }
    }

    #[test]
    fn no_json_breaks_the_reader(noise in any_json()) {
        let _ = Filter::read(&noise);
        let _ = FieldKind::read(&noise);
    }
}

/// JSON with the words of filters in the wrong places.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "must",
        "should",
        "must_not",
        "min_should",
        "key",
        "match",
        "range",
        "any",
        "value",
        "nested",
        "filter",
        "has_id",
        "is_null",
        "geo_radius",
        "conditions",
        "min_count",
        "gt",
        "type",
        "tokenizer",
        "a[",
        "text",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(word.clone().prop_map(str::to_owned), inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}

#[test]
fn what_json_cannot_say_is_left_out_and_told() {
    let values = |values: Vec<Scalar>| values.into_iter().collect();
    let (one, text) = (Scalar::Integer(1), Scalar::Text("a".to_owned()));
    let a = || "a".parse::<JsonPath>().unwrap();
    let must = |condition| Filter { must: vec![condition], ..Filter::default() };
    let written = |filter: &Filter| filter.write(&|_| true);
    // Values of several kinds: any of these is said piece by piece, none of these cannot be.
    let any = must(Condition::Match(a(), Match::Any(values(vec![one.clone(), text.clone(), Scalar::Bool(true)]))));
    let any = written(&any);
    assert!(any.exact);
    let each = |value: Value| json!({"key": "a", "match": {"value": value}});
    assert_eq!(any.json, json!({"must": [{"should": [each(json!(1)), each(json!("a")), each(json!(true))]}]}));
    let none = Condition::Match(a(), Match::Except(values(vec![one, text])));
    assert_eq!(written(&must(none.clone())), Written { json: json!({}), exact: false });
    let known = || Condition::IsNull(a());
    let mixed = Filter {
        should: vec![known(), none.clone()],
        must_not: vec![Condition::Filter(Box::new(must(none.clone()))), known()],
        min_should: Some((vec![none, known(), known()], 2)),
        ..Filter::default()
    };
    let is_null = json!({"is_null": {"key": "a"}});
    let wanted = json!({"must_not": [is_null], "min_should": {"conditions": [is_null, is_null], "min_count": 1}});
    assert_eq!(written(&mixed), Written { json: wanted, exact: false });
    // Times have years of four digits, and no bound is one for numbers.
    let time = |gt| must(Condition::Datetime(a(), Range { gt, ..Range::default() }));
    assert_eq!(
        written(&time(Some(1_707_389_999_500_000))).json,
        json!({"must": [{"key": "a", "range": {"gt": "2024-02-08T10:59:59.500000Z"}}]})
    );
    assert!(!written(&time(Some(i64::MAX))).exact && !written(&time(None)).exact);
}

#[test]
fn what_is_too_deep_or_too_much_is_refused() {
    let mut deep = json!({"must": []});
    (0..100).for_each(|_| deep = json!({"must": [deep.clone()]}));
    assert!(matches!(Filter::read(&deep), Err(FilterError::Invalid { .. })));
    let many = vec![json!({"key": "a", "match": {"value": 1}}); 5_000];
    assert!(matches!(Filter::read(&json!({"should": many})), Err(FilterError::Invalid { .. })));
}

#[test]
fn errors_name_the_place_and_what_is_expected_there() {
    let said = |filter: Value| Filter::read(&filter).unwrap_err().to_string();
    assert_eq!(said(json!({"must": [{"key": "a", "range": {"gte": true}}]})), "filter.must[0].range.gte: a number");
    assert!(said(json!({"mus": []})).starts_with("filter.mus:"));
    assert!(said(json!({"must": [{"key": "a", "match": {"value": 1.5}}]})).starts_with("filter.must[0].match.value:"));
    let slice = Filter::read(&json!({"must": {"slice": {"total": 2, "index": 0}}})).unwrap_err();
    assert_eq!(slice.fault(), Fault::Unsupported);
}

#[test]
fn only_what_indexes_answers_exactly_is_called_exact() {
    let mut index = PayloadIndex::new([("n".to_owned(), FieldKind::Integer)].into());
    (0..100).for_each(|row| index.insert(row, json!({"n": row, "m": row}).as_object().unwrap()));
    let select = |filter: Value| index.select(&Filter::read(&filter).unwrap(), &|_| None);
    let known = select(json!({"must": {"key": "n", "range": {"lt": 10}}}));
    assert!(known.exact && known.rows.len() == 10);
    let unknown =
        select(json!({"must": [{"key": "m", "range": {"lt": 10}}, {"key": "n", "match": {"any": [1, 2, 3]}}]}));
    assert!(!unknown.exact && unknown.rows.len() == 3);
}
