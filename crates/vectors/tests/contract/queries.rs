//! Queries that are made of searches, and what is told of a space.

use std::sync::Arc;

use halny_payload::{FieldKind, PointId};
use halny_types::CollectionName;
use halny_vectors::embedded::Store;
use halny_vectors::query::{
    Fusion, Grouping, OrderBy, Pair, Query, QueryRequest, Ranked, Strategy, VectorInput, matrix,
};
use halny_vectors::{CollectionConfig, Named, Point, Points, SearchParams, Select, Write};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::samples::{ALL, config, filter, payload, uuid};
use crate::{Ground, ask};

fn many() -> Vec<Point> {
    let mut chance = StdRng::seed_from_u64(3);
    let mut vector = || -> Vec<f32> { (0..4).map(|_| chance.random_range(-1.0..1.0)).collect() };
    let point = |number: u64| Point {
        id: if number.is_multiple_of(5) { uuid(u128::from(number)) } else { PointId::Number(number) },
        vectors: Named::from([("a".to_owned(), vector()), ("b".to_owned(), vector())]),
        payload: Arc::new(payload(json!({
            "n": number, "kind": (["x", "y", "z"][number as usize % 3]), "tags": [number % 4, number % 7],
            "at": format!("2024-02-{:02}T00:00:00Z", number % 28 + 1),
        }))),
    };
    (0..80).map(point).collect()
}

fn queries() -> Vec<QueryRequest> {
    let id = |number| VectorInput::Id(PointId::Number(number));
    let given = |x: f32| VectorInput::Vector(vec![x, 0.3, -0.2, 0.1]);
    let pair = |good, bad| Pair { positive: id(good), negative: id(bad) };
    let exact = SearchParams { exact: true, ..SearchParams::default() };
    let plain = |query| QueryRequest {
        query,
        using: "a".to_owned(),
        limit: 12,
        offset: 2,
        params: exact,
        ..QueryRequest::default()
    };
    let recommend =
        |strategy| plain(Some(Query::Recommend { positive: vec![id(1), id(2)], negative: vec![given(0.5)], strategy }));
    let ordered = |key: &str, descending, start_from| {
        plain(Some(Query::OrderBy(OrderBy { key: key.parse().unwrap(), descending, start_from })))
    };
    let inner = |query| QueryRequest { limit: 20, offset: 0, ..plain(Some(query)) };
    let both = || {
        vec![inner(Query::Nearest(given(1.0))), QueryRequest { using: "b".to_owned(), ..inner(Query::Nearest(id(3))) }]
    };
    let mut all = vec![
        plain(None),
        plain(Some(Query::Nearest(id(4)))),
        plain(Some(Query::Nearest(given(-1.0)))),
        recommend(Strategy::AverageVector),
        recommend(Strategy::BestScore),
        recommend(Strategy::SumScores),
        plain(Some(Query::Discover { target: id(6), context: vec![pair(7, 8), pair(9, 11)] })),
        plain(Some(Query::Context(vec![pair(7, 8), pair(9, 11)]))),
        ordered("n", true, Some(60.0)),
        ordered("at", false, None),
        QueryRequest { prefetch: both(), ..plain(Some(Query::Fusion(Fusion::Rrf { k: 2.0, weights: None }))) },
        QueryRequest { prefetch: both(), ..plain(Some(Query::Fusion(Fusion::Dbsf))) },
        QueryRequest { prefetch: both(), ..plain(Some(Query::Nearest(id(12)))) },
    ];
    let filtered = filter(
        json!({"must": {"key": "kind", "match": {"any": ["x", "z"]}}, "must_not": {"key": "tags", "match": {"value": 3}}}),
    );
    let with: Vec<QueryRequest> =
        all.iter().cloned().map(|query| QueryRequest { filter: Some(Arc::clone(&filtered)), ..query }).collect();
    all.extend(with);
    all
}

fn alike(a: &[Ranked], b: &[Ranked]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            let near = (a.point.score - b.point.score).abs() < 1e-4;
            near && a.point.id == b.point.id && a.point.payload == b.point.payload && a.order_value == b.order_value
        })
}

pub(crate) async fn every_kind_of_query_answers_as_the_embedded_store_does(ground: Ground) {
    let fields = [("kind".to_owned(), FieldKind::Keyword), ("tags".to_owned(), FieldKind::Integer)];
    let config = CollectionConfig { fields: fields.into(), ..config() };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 1).unwrap();
    store.create(CollectionName::new("c").unwrap(), &config).await.unwrap();
    let model: Arc<dyn Points> = store.get("c").unwrap().active();
    let space = ground.make("c", &config).await;
    for points in [&model, &space] {
        points.write(vec![Write::Upsert(many())], true).await.unwrap();
    }
    for (number, query) in queries().into_iter().enumerate() {
        let wanted = ask(&model, |points| query.run(points, &ALL));
        let found = ask(&space, |points| query.run(points, &ALL));
        // Points of equal value are in any order.
        let mut both = [wanted, found];
        if matches!(query.query, Some(Query::OrderBy(_))) {
            both.iter_mut().for_each(|list| {
                list.sort_by(|a, b| a.point.score.total_cmp(&b.point.score).then(a.point.id.cmp(&b.point.id)))
            });
        }
        let [wanted, found] = both;
        assert!(!wanted.is_empty(), "query {number} asks for nothing");
        assert!(alike(&wanted, &found), "query {number}, {query:?}:\n{wanted:?}\n{found:?}");
    }
    let request = QueryRequest {
        query: Some(Query::Nearest(VectorInput::Id(PointId::Number(1)))),
        using: "a".to_owned(),
        ..QueryRequest::default()
    };
    let grouping = Grouping { by: "kind".parse().unwrap(), groups: 3, size: 4 };
    let groups = |points: &dyn Points| grouping.run(points, &request, &Select::default());
    let ids = |groups: Vec<halny_vectors::query::Group>| -> Vec<_> {
        groups
            .into_iter()
            .map(|group| (group.id, group.hits.iter().map(|hit| hit.point.id).collect::<Vec<_>>()))
            .collect()
    };
    assert_eq!(ids(ask(&space, groups)), ids(ask(&model, groups)));
    let only = filter(json!({"must": {"key": "n", "range": {"lt": 50}}}));
    for field in ["kind", "tags"] {
        let facet = |points: &dyn Points| points.facet(field, Some(&only), 5);
        assert_eq!(ask(&space, facet), ask(&model, facet));
    }
    assert!(tokio::task::block_in_place(|| space.facet("n", None, 5)).is_err(), "it has no index");
    let mut sampled = ask(&space, |points| points.sample(Some(&only), 20));
    sampled.sort();
    sampled.dedup();
    assert_eq!(sampled.len(), 20);
    assert_eq!(ask(&space, |points| points.sample(None, 1_000)).len(), 80);
    let whole = ask(&space, |points| matrix(points, "a", Some(&only), 1_000, 3));
    let wanted = ask(&model, |points| matrix(points, "a", Some(&only), 1_000, 3));
    let sorted = |mut rows: Vec<(PointId, Vec<(PointId, f32)>)>| {
        rows.sort_by_key(|(id, _)| *id);
        rows.into_iter()
            .map(|(id, near)| (id, near.into_iter().map(|(id, _)| id).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
    };
    assert_eq!(sorted(whole), sorted(wanted));
    store.close();
}

pub(crate) async fn the_status_counts_what_is_there(ground: Ground) {
    let fields = [("kind".to_owned(), FieldKind::Keyword), ("none".to_owned(), FieldKind::Integer)];
    let space = ground.make("c", &CollectionConfig { fields: fields.into(), ..config() }).await;
    let mut points = many();
    points.iter_mut().take(10).for_each(|point| drop(point.vectors.remove("b")));
    space.write(vec![Write::Upsert(points)], true).await.unwrap();
    let status = ask(&space, |points| points.status());
    assert_eq!(status.points, 80);
    assert_eq!((status.vectors["a"].vectors, status.vectors["b"].vectors), (80, 70));
    assert_eq!(status.vectors["a"].vector_bytes, 80 * 4 * 4);
    assert_eq!((status.fields["kind"], status.fields["none"]), (80, 0));
    assert!(status.segments >= 1);
}
