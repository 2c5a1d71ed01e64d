//! Points, payloads, filters and writes by chance.

use std::collections::BTreeMap;
use std::sync::Arc;

use halny_payload::{Condition, Filter, GeoPoint, JsonPath, Match, PointId, Range, Region, Scalar};
use halny_vectors::{
    CollectionConfig, Distance, Named, Payload, PayloadSelect, Point, Search, SearchParams, Select, Selector, Tier,
    VectorConfig, VectorSelect, Write,
};
use proptest::prelude::*;
use serde_json::{Value, json};

pub(crate) const DIMENSIONS: usize = 4;
pub(crate) const ALL: Select = Select { payload: PayloadSelect::All, vectors: VectorSelect::All };

pub(crate) fn vector(distance: Distance, dimensions: usize) -> VectorConfig {
    VectorConfig { dimensions, distance, tier: Tier::default(), ef: None }
}

/// Two vectors: `a` by Euclid's distance, `b` by the dot product.
pub(crate) fn config() -> CollectionConfig {
    CollectionConfig {
        vectors: BTreeMap::from([
            ("a".to_owned(), vector(Distance::Euclid, DIMENSIONS)),
            ("b".to_owned(), vector(Distance::Dot, DIMENSIONS)),
        ]),
        ..CollectionConfig::default()
    }
}

pub(crate) fn uuid(number: u128) -> PointId {
    PointId::Uuid(uuid::Uuid::from_u128(number))
}

/// Points 0, 1, ...: their number is in the vector `a` and in the payload's `n`.
pub(crate) fn numbered(range: std::ops::Range<u64>) -> Vec<Point> {
    let point = |number: u64| Point {
        id: PointId::Number(number),
        vectors: Named::from([("a".to_owned(), vec![number as f32, (number % 7) as f32, 1.0, 0.0])]),
        payload: Arc::new(payload(json!({ "n": number, "odd": number % 2 == 1 }))),
    };
    range.map(point).collect()
}

pub(crate) fn payload(value: Value) -> Payload {
    value.as_object().cloned().unwrap()
}

pub(crate) fn filter(value: Value) -> Arc<Filter> {
    Arc::new(Filter::read(&value).unwrap())
}

pub(crate) fn search(vector: &str, query: &[f32], limit: usize) -> Search {
    Search {
        vector: vector.to_owned(),
        query: query.into(),
        limit,
        filter: None,
        params: SearchParams::default(),
        threshold: None,
    }
}

pub(crate) fn ids() -> impl Strategy<Value = PointId> {
    prop_oneof![
        4 => (0u64..16).prop_map(PointId::Number),
        1 => Just(PointId::Number(u64::MAX)),
        2 => (0u128..4).prop_map(uuid),
    ]
}

fn text() -> impl Strategy<Value = String> {
    let hard = ["", "it's", "\"q\"", "a\\b", "%_", "\u{1f600}", "Straße", "1", "1.0", "true", "null", "$1", "; --"];
    let time = ["2024-02-08T10:59:59Z", "2024-02-08", "2024-13-01", "2024-02-08 11:59:59+01:00"];
    prop_oneof![
        4 => "[abc]{1,2}( [abc]{1,2}){0,2}",
        2 => prop::sample::select(hard.map(str::to_owned).to_vec()),
        1 => prop::sample::select(time.map(str::to_owned).to_vec()),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (-3i64..4).prop_map(|number| json!(number)),
        2 => (-6i64..7).prop_map(|quarters| json!(quarters as f64 / 4.0)),
        1 => prop::sample::select(vec![
            json!(i64::MAX), json!(i64::MIN), json!(u64::MAX), json!(1e16), json!(-1e300), json!(2.5e-7), json!(3.0),
            json!(9_007_199_254_740_993_i64),
        ]),
    ]
}

pub(crate) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => text().prop_map(|text| json!(text)),
        3 => number(),
        1 => any::<bool>().prop_map(|value| json!(value)),
        1 => Just(Value::Null),
        1 => (-180i32..=180, -90i32..=90).prop_map(|(lon, lat)| json!({ "lon": lon, "lat": lat })),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            2 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            1 => prop::collection::btree_map(key(), inner, 0..3).prop_map(|map| json!(map)),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[ab]".prop_map(|key| key),
        1 => prop::sample::select(["x.y", "it's", "k\\", "ü", ""].map(str::to_owned).to_vec()),
    ]
}

pub(crate) fn payloads() -> impl Strategy<Value = Payload> {
    prop::collection::btree_map(key(), value(), 0..4).prop_map(|map| map.into_iter().collect())
}

fn path() -> impl Strategy<Value = JsonPath> {
    let step = prop_oneof![
        3 => "[ab]".prop_map(|key| format!(".{key}")),
        2 => Just("[]".to_owned()),
        1 => (0usize..3).prop_map(|index| format!("[{index}]")),
    ];
    let first = prop_oneof![8 => "[ab]".prop_map(|key| key), 1 => prop::sample::select(
        ["\"x.y\"", "it's", "k\\", "ü", "\"\""].map(str::to_owned).to_vec(),
    )];
    (first, prop::collection::vec(step, 0..3))
        .prop_map(|(first, rest)| format!("{first}{}", rest.concat()).parse().unwrap())
}

fn scalar() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        3 => text().prop_map(Scalar::Text),
        3 => (-3i64..4).prop_map(Scalar::Integer),
        1 => prop::sample::select(vec![i64::MAX, i64::MIN, 10_000_000_000_000_000]).prop_map(Scalar::Integer),
        1 => any::<bool>().prop_map(Scalar::Bool),
    ]
}

fn range<T: Clone + std::fmt::Debug + 'static>(
    bound: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = Range<T>> {
    let bound = || prop::option::weighted(0.4, bound.clone());
    (bound(), bound(), bound(), bound()).prop_map(|(gt, gte, lt, lte)| Range { gt, gte, lt, lte })
}

fn matches() -> impl Strategy<Value = Match> {
    prop_oneof![
        3 => prop::collection::hash_set(scalar(), 0..4).prop_map(Match::Any),
        2 => prop::collection::hash_set(scalar(), 0..4).prop_map(Match::Except),
        1 => text().prop_map(Match::Words),
        1 => text().prop_map(Match::AnyWord),
        1 => text().prop_map(Match::Phrase),
        1 => text().prop_map(Match::Prefix),
        1 => text().prop_map(Match::Substring),
    ]
}

fn region() -> impl Strategy<Value = Region> {
    let point = || (-180i32..=180, -90i32..=90).prop_map(|(lon, lat)| GeoPoint { lon: lon.into(), lat: lat.into() });
    prop_oneof![
        (point(), 1e5..1e7).prop_map(|(center, radius)| Region::Circle { center, radius }),
        (point(), point()).prop_map(|(top_left, bottom_right)| Region::Box { top_left, bottom_right }),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        6 => (path(), matches()).prop_map(|(path, wanted)| Condition::Match(path, wanted)),
        3 => (path(), range((-8i64..9).prop_map(|quarters| quarters as f64 / 4.0)))
            .prop_map(|(path, range)| Condition::Range(path, range)),
        1 => (path(), range(1_707_000_000_000_000i64..1_708_000_000_000_000))
            .prop_map(|(path, range)| Condition::Datetime(path, range)),
        1 => (path(), region()).prop_map(|(path, region)| Condition::Geo(path, region)),
        2 => (path(), range(0u64..4)).prop_map(|(path, range)| Condition::Count(path, range)),
        2 => path().prop_map(Condition::IsEmpty),
        2 => path().prop_map(Condition::IsNull),
        1 => prop::collection::hash_set(ids(), 0..6).prop_map(Condition::HasId),
        1 => prop::sample::select(vec!["a", "b", "c"]).prop_map(|name| Condition::HasVector(name.to_owned())),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            2 => filter_of(inner.clone()).prop_map(|filter| Condition::Filter(Box::new(filter))),
            1 => (path(), filter_of(inner)).prop_map(|(path, filter)| Condition::Nested(path, Box::new(filter))),
        ]
    })
}

fn filter_of(condition: impl Strategy<Value = Condition> + Clone + 'static) -> impl Strategy<Value = Filter> {
    let some = |most: usize| prop::collection::vec(condition.clone(), 0..most);
    let least = prop::option::weighted(0.2, (some(4), 0usize..4));
    (some(3), some(3), some(2), least).prop_map(|(must, should, must_not, min_should)| Filter {
        must,
        should,
        must_not,
        min_should,
    })
}

pub(crate) fn filters() -> impl Strategy<Value = Filter> {
    filter_of(condition().boxed())
}

pub(crate) fn named() -> impl Strategy<Value = Named> {
    let vector = prop::collection::vec(-3i8..3, DIMENSIONS).prop_map(|v| v.into_iter().map(f32::from).collect());
    prop::collection::btree_map(prop::sample::select(vec!["a".to_owned(), "b".to_owned()]), vector, 0..3)
}

pub(crate) fn points() -> impl Strategy<Value = Point> {
    (ids(), named(), payloads()).prop_map(|(id, vectors, payload)| Point { id, vectors, payload: Arc::new(payload) })
}

fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        1 => prop::collection::vec(ids(), 1..4).prop_map(Selector::Ids),
        2 => filters().prop_map(|filter| Selector::Filter(Arc::new(filter))),
    ]
}

pub(crate) fn writes() -> impl Strategy<Value = Write> {
    prop_oneof![
        6 => prop::collection::vec(points(), 1..8).prop_map(Write::Upsert),
        1 => selector().prop_map(Write::Delete),
        2 => (selector(), payloads(), prop::option::of(path()))
            .prop_map(|(points, payload, key)| Write::SetPayload { points, payload, key }),
        1 => (selector(), payloads()).prop_map(|(points, payload)| Write::OverwritePayload { points, payload }),
        2 => (selector(), prop::collection::vec(path(), 1..3))
            .prop_map(|(points, keys)| Write::DeletePayload { points, keys }),
        1 => selector().prop_map(Write::ClearPayload),
        1 => prop::collection::vec((ids(), named()), 1..3).prop_map(Write::UpdateVectors),
        1 => selector().prop_map(|points| Write::DeleteVectors { points, names: vec!["a".to_owned()] }),
    ]
}

/// So many values of a strategy, the same in every run.
pub(crate) fn drawn<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, count: usize) -> Vec<T> {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}
