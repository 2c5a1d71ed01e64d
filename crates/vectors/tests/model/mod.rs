//! A collection as a map: what it is compared with, and writes by chance.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use halny_payload::{Filter, PointId};
use halny_vectors::embedded::{Space, Store};
use halny_vectors::{
    CodeBits, CollectionConfig, Distance, Named, Payload, PayloadSelect, Point, Scroll, Search, SearchParams,
    Segmenting, Select, Selector, Tier, VectorConfig, VectorSelect, Write,
};
use proptest::prelude::*;
use serde_json::json;

pub(crate) const DIMENSIONS: usize = 4;
pub(crate) const ALL: Select = Select { payload: PayloadSelect::All, vectors: VectorSelect::All };

/// A vector of each tier.
pub(crate) fn config() -> CollectionConfig {
    config_of([Tier::default(), COMPACT])
}

/// Lists of codes.
pub(crate) const COMPACT: Tier = Tier::Compact { lists: None, bits: CodeBits::Four, subspaces: None };

/// Vectors `a` and `b` of these tiers.
pub(crate) fn config_of([a, b]: [Tier; 2]) -> CollectionConfig {
    let vector = |distance, tier| VectorConfig { dimensions: DIMENSIONS, distance, tier, ef: None };
    CollectionConfig {
        vectors: [("a".to_owned(), vector(Distance::Euclid, a)), ("b".to_owned(), vector(Distance::Dot, b))].into(),
        // So small that a few writes are sealed, indexed and merged.
        segmenting: Segmenting { open_points: 6, index_from_points: 8, merged_points_max: 1_000 },
        ..CollectionConfig::default()
    }
}

pub(crate) fn id() -> impl Strategy<Value = PointId> {
    prop_oneof![
        4 => (0u64..24).prop_map(PointId::Number),
        1 => (0u128..4).prop_map(|bits| PointId::Uuid(uuid::Uuid::from_u128(bits))),
    ]
}

pub(crate) fn payload() -> impl Strategy<Value = Payload> {
    prop::collection::btree_map("[nm]", 0i64..5, 0..3)
        .prop_map(|map| map.into_iter().map(|(key, value)| (key, json!(value))).collect())
}

pub(crate) fn vectors() -> impl Strategy<Value = Named> {
    let vector = prop::collection::vec(-3i8..3, DIMENSIONS).prop_map(|v| v.into_iter().map(f32::from).collect());
    prop::collection::btree_map(prop::sample::select(vec!["a".to_owned(), "b".to_owned()]), vector, 0..3)
}

pub(crate) fn point() -> impl Strategy<Value = Point> {
    (id(), vectors(), payload()).prop_map(|(id, vectors, payload)| Point { id, vectors, payload: Arc::new(payload) })
}

pub(crate) fn n_is(value: i64) -> Filter {
    Filter::read(&json!({"must": {"key": "n", "match": {"value": value}}})).unwrap_or_default()
}

pub(crate) fn write() -> impl Strategy<Value = Write> {
    let filter = || (0i64..5).prop_map(|value| Selector::Filter(Arc::new(n_is(value))));
    prop_oneof![
        6 => prop::collection::vec(point(), 1..8).prop_map(Write::Upsert),
        2 => prop::collection::vec(id(), 1..4).prop_map(|ids| Write::Delete(Selector::Ids(ids))),
        1 => filter().prop_map(Write::Delete),
        1 => (filter(), payload()).prop_map(|(points, payload)| Write::SetPayload { points, payload, key: None }),
        1 => (filter(), payload()).prop_map(|(points, payload)| Write::OverwritePayload { points, payload }),
        1 => filter().prop_map(Write::ClearPayload),
        1 => prop::collection::vec((id(), vectors()), 1..3).prop_map(Write::UpdateVectors),
        1 => filter().prop_map(|points| Write::DeleteVectors { points, names: vec!["a".to_owned()] }),
    ]
}

pub(crate) type Model = BTreeMap<PointId, Point>;

/// The same write on the map. A write that names a point which is not there, and needs one, changes nothing.
pub(crate) fn apply(model: &mut Model, write: &Write) -> bool {
    let chosen = |model: &Model, points: &Selector| -> Vec<PointId> {
        match points {
            Selector::Ids(ids) => ids.iter().filter(|id| model.contains_key(id)).copied().collect(),
            Selector::Filter(filter) => {
                let passes = |wanted: i64| **filter == n_is(wanted);
                let n = |point: &Point| point.payload.get("n").and_then(serde_json::Value::as_i64);
                model.values().filter(|point| n(point).is_some_and(passes)).map(|point| point.id).collect()
            }
        }
    };
    let mut each = |points: &Selector, change: &dyn Fn(&mut Point)| {
        for id in chosen(model, points) {
            model.entry(id).and_modify(change);
        }
        true
    };
    match write {
        Write::Upsert(points) => {
            points.iter().for_each(|point| drop(model.insert(point.id, point.clone())));
            true
        }
        Write::Delete(points) => {
            chosen(model, points).iter().for_each(|id| drop(model.remove(id)));
            true
        }
        Write::SetPayload { points, payload, .. } => {
            each(points, &|point| Arc::make_mut(&mut point.payload).extend(payload.clone()))
        }
        Write::OverwritePayload { points, payload } => each(points, &|point| point.payload = Arc::new(payload.clone())),
        Write::ClearPayload(points) => each(points, &|point| point.payload = Arc::default()),
        Write::DeleteVectors { points, names } => {
            each(points, &|point| point.vectors.retain(|name, _| !names.contains(name)))
        }
        Write::UpdateVectors(updates) => {
            let known = updates.iter().all(|(id, _)| model.contains_key(id));
            if known {
                for (id, vectors) in updates {
                    model.entry(*id).and_modify(|point| point.vectors.extend(vectors.clone()));
                }
            }
            known
        }
        Write::DeletePayload { .. } => true,
    }
}

pub(crate) fn open(root: &Path) -> Store {
    Store::open(root, 2).unwrap()
}

pub(crate) fn space(store: &Store) -> Arc<Space> {
    store.get("c").unwrap().active()
}

/// All points that it holds.
pub(crate) fn held(space: &Space) -> Model {
    let (records, next) = space.scroll(&Scroll { from: None, limit: 1_000, filter: None, select: ALL });
    assert!(next.is_none());
    let point = |record: halny_vectors::Record| Point {
        id: record.id,
        vectors: record.vectors,
        payload: Arc::new(record.payload.unwrap_or_default()),
    };
    records.into_iter().map(|record| (record.id, point(record))).collect()
}

/// Compares everything that can be asked with the map.
pub(crate) fn compare(space: &Space, model: &Model, at: &str) {
    assert_eq!(space.count(None), model.len(), "{at}");
    assert_eq!(held(space), *model, "{at}");
    for (name, distance) in [("a", Distance::Euclid), ("b", Distance::Dot)] {
        for value in [None, Some(1), Some(3)] {
            let filter = value.map(|value| Arc::new(n_is(value)));
            let passes = |point: &&Point| value.is_none_or(|value| point.payload.get("n") == Some(&json!(value)));
            let query = [0.5, -1.25, 2.0, 1.0];
            let score = |point: &Point| {
                let vector = point.vectors.get(name)?;
                let dot: f32 = vector.iter().zip(query).map(|(a, b)| a * b).sum();
                let apart: f32 = vector.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum();
                Some(if distance == Distance::Dot { dot } else { apart.sqrt() })
            };
            let mut wanted: Vec<f32> = model.values().filter(passes).filter_map(score).collect();
            wanted.sort_by(|a, b| if distance == Distance::Dot { b.total_cmp(a) } else { a.total_cmp(b) });
            let search = Search {
                vector: name.to_owned(),
                query: query.to_vec().into(),
                limit: 1_000,
                filter,
                params: SearchParams { ef: Some(1_000), ..SearchParams::default() },
                threshold: None,
            };
            let found: Vec<f32> = space.search(&search, &Select::default()).iter().map(|found| found.score).collect();
            assert_eq!(found.len(), wanted.len(), "{at}: {name} {value:?}");
            assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {wanted:?}");
        }
    }
}
