//! What the embedded store promises, against a model that is a map: whatever is written, sealed, merged,
//! closed and opened again, it holds what the map holds.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use halny_payload::{Filter, PointId};
use halny_types::CollectionName;
use halny_vectors::embedded::{Space, Store};
use halny_vectors::{
    CollectionConfig, Distance, EmbeddingSpace, Named, Payload, PayloadSelect, Point, Scroll, Search, SearchParams,
    Segmenting, Select, Selector, Tier, VectorConfig, VectorSelect, VectorsError, Write,
};
use proptest::prelude::*;
use serde_json::json;

const DIMENSIONS: usize = 4;
const ALL: Select = Select { payload: PayloadSelect::All, vectors: VectorSelect::All };

fn config() -> CollectionConfig {
    let vector = |distance| VectorConfig { dimensions: DIMENSIONS, distance, tier: Tier::default() };
    CollectionConfig {
        vectors: [("a".to_owned(), vector(Distance::Euclid)), ("b".to_owned(), vector(Distance::Dot))].into(),
        // So small that a few writes are sealed, indexed and merged.
        segmenting: Segmenting { open_points: 6, index_from_points: 8, merged_points_max: 1_000 },
        ..CollectionConfig::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Write>),
    /// Ends the store in order and opens it again.
    Restart,
    /// Makes an index of the payload's field `n`, or removes it.
    Index(bool),
    /// Lets everything be sealed, and keeps and restores it.
    Snapshot,
}

fn id() -> impl Strategy<Value = PointId> {
    prop_oneof![
        4 => (0u64..24).prop_map(PointId::Number),
        1 => (0u128..4).prop_map(|bits| PointId::Uuid(uuid::Uuid::from_u128(bits))),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    prop::collection::btree_map("[nm]", 0i64..5, 0..3)
        .prop_map(|map| map.into_iter().map(|(key, value)| (key, json!(value))).collect())
}

fn vectors() -> impl Strategy<Value = Named> {
    let vector = prop::collection::vec(-3i8..3, DIMENSIONS).prop_map(|v| v.into_iter().map(f32::from).collect());
    prop::collection::btree_map(prop::sample::select(vec!["a".to_owned(), "b".to_owned()]), vector, 0..3)
}

fn point() -> impl Strategy<Value = Point> {
    (id(), vectors(), payload()).prop_map(|(id, vectors, payload)| Point { id, vectors, payload: Arc::new(payload) })
}

fn n_is(value: i64) -> Filter {
    Filter::read(&json!({"must": {"key": "n", "match": {"value": value}}})).unwrap_or_default()
}

fn write() -> impl Strategy<Value = Write> {
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

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(write(), 1..3).prop_map(Step::Write),
        1 => Just(Step::Restart),
        1 => any::<bool>().prop_map(Step::Index),
        1 => Just(Step::Snapshot),
    ]
}

type Model = BTreeMap<PointId, Point>;

/// The same write on the map. A write that names a point which is not there, and needs one, changes nothing.
fn apply(model: &mut Model, write: &Write) -> bool {
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
                // Within one write an id means the last that is said of it.
                let last: BTreeMap<_, _> = updates.iter().map(|(id, vectors)| (*id, vectors)).collect();
                for (id, vectors) in last {
                    model.entry(id).and_modify(|point| point.vectors.extend(vectors.clone()));
                }
            }
            known
        }
        Write::DeletePayload { .. } => true,
    }
}

fn open(root: &Path) -> Store {
    Store::open(root, 2).unwrap()
}

fn space(store: &Store) -> Arc<Space> {
    store.get("c").unwrap().active()
}

/// Compares everything that can be asked with the map.
fn compare(space: &Space, model: &Model, at: &str) {
    assert_eq!(space.count(None), model.len(), "{at}");
    let (records, next) = space.scroll(&Scroll { from: None, limit: 1_000, filter: None, select: ALL });
    assert!(next.is_none(), "{at}");
    let held: Vec<Point> = records
        .into_iter()
        .map(|record| Point {
            id: record.id,
            vectors: record.vectors,
            payload: Arc::new(record.payload.unwrap_or_default()),
        })
        .collect();
    assert_eq!(held, model.values().cloned().collect::<Vec<_>>(), "{at}");
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

async fn play(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("vectors");
    let mut store = open(&root);
    let name = CollectionName::new("c").unwrap();
    store.create(name.clone(), &config()).await.unwrap();
    let mut model = Model::new();
    for (number, step) in steps.into_iter().enumerate() {
        let at = format!("after step {number}, {step:?}");
        match step {
            Step::Write(writes) => {
                for write in writes {
                    let expected = apply(&mut model, &write);
                    let written = space(&store).write(vec![write], true).await;
                    assert_eq!(written.is_ok(), expected, "{written:?}");
                }
            }
            Step::Restart => {
                store.close();
                drop(store);
                store = open(&root);
            }
            Step::Index(made) => {
                let change = move |config: &mut CollectionConfig| {
                    config.fields.clear();
                    if made {
                        config.fields.insert("n".to_owned(), halny_payload::FieldKind::Integer);
                    }
                    Ok(())
                };
                space(&store).configure(change).await.unwrap();
            }
            Step::Snapshot => {
                let made = store.make_snapshot("c").await.unwrap();
                let path = store.snapshot_path("c", &made.name).unwrap();
                store.restore(name.clone(), &path, Some(&made.checksum)).await.unwrap();
            }
        }
        compare(&space(&store), &model, &at);
    }
    store.close();
}

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_collection_holds_what_was_written_whatever_happens_between(steps in prop::collection::vec(step(), 1..30)) {
        run(play(steps));
    }
}

fn numbered(range: std::ops::Range<u64>) -> Vec<Point> {
    let vector = |number: u64| vec![number as f32, (number % 7) as f32, 1.0, 0.0];
    let point = |number| Point {
        id: PointId::Number(number),
        vectors: [("a".to_owned(), vector(number))].into(),
        payload: Arc::new(Payload::from_iter([("n".to_owned(), json!(number))])),
    };
    range.map(point).collect()
}

fn nearest(number: f32) -> Search {
    Search {
        vector: "a".to_owned(),
        query: vec![number, 0.0, 1.0, 0.0].into(),
        limit: 10,
        filter: None,
        params: SearchParams::default(),
        threshold: None,
    }
}

/// Waits until few segments are left, and nothing is to be built.
fn settled(space: &Space) {
    while space.status().segments > 8 || space.status().unfinished > 0 || space.status().building.is_some() {
        std::thread::yield_now();
    }
}

#[test]
fn segments_are_sealed_indexed_and_merged_behind_the_writes() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.create(CollectionName::new("c").unwrap(), &config()).await.unwrap();
        let space = space(&store);
        for start in (0..400).step_by(5) {
            space.write(vec![Write::Upsert(numbered(start..start + 5))], true).await.unwrap();
        }
        settled(&space);
        let status = space.status();
        assert!(status.vectors["a"].indexed > 300, "{status:?}");
        assert_eq!(space.search(&nearest(250.0), &Select::default()).len(), 10);
        store.close();
    });
}

#[test]
fn what_is_seen_is_of_one_moment_while_points_are_written_again_and_again() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.create(CollectionName::new("c").unwrap(), &config()).await.unwrap();
        let space = space(&store);
        space.write(vec![Write::Upsert(numbered(0..40))], true).await.unwrap();
        let watched = Arc::clone(&space);
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let watch = std::thread::spawn(move || {
            let mut looks = 0;
            while !ended.load(std::sync::atomic::Ordering::Relaxed) || looks < 10 {
                // Every point is there once, all with the same `round`: a write is seen whole.
                let scroll = Scroll { from: None, limit: 100, filter: None, select: ALL };
                let (records, _) = watched.scroll(&scroll);
                assert_eq!(records.len(), 40);
                let rounds: std::collections::BTreeSet<String> = records
                    .iter()
                    .map(|record| {
                        record.payload.as_ref().and_then(|p| p.get("round")).map_or(String::new(), ToString::to_string)
                    })
                    .collect();
                assert_eq!(rounds.len(), 1, "{rounds:?}");
                assert_eq!(watched.search(&nearest(20.0), &Select::default()).len(), 10);
                looks += 1;
            }
        });
        for round in 0..150 {
            let mut points = numbered(0..40);
            points
                .iter_mut()
                .for_each(|point| drop(Arc::make_mut(&mut point.payload).insert("round".to_owned(), json!(round))));
            space.write(vec![Write::Upsert(points)], true).await.unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        watch.join().unwrap();
        store.close();
    });
}

fn made_by(version: &str) -> EmbeddingSpace {
    EmbeddingSpace {
        model: "m".to_owned(),
        version: version.repeat(64),
        pooling: "mean-unit".to_owned(),
        dimensions: DIMENSIONS,
    }
}

#[test]
fn spaces_live_side_by_side_and_are_switched_at_once() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let of = |version| CollectionConfig { space: Some(made_by(version)), ..config() };
        store.create(CollectionName::new("c").unwrap(), &of("1")).await.unwrap();
        let collection = store.get("c").unwrap();
        let second = collection.add(of("2")).await.unwrap();
        assert!(matches!(collection.add(of("2")).await, Err(VectorsError::Exists(_))));
        collection.active().write(vec![Write::Upsert(numbered(0..3))], true).await.unwrap();
        second.write(vec![Write::Upsert(numbered(0..5))], true).await.unwrap();
        assert_eq!(collection.active().count(None), 3);
        collection.activate(&made_by("2")).await.unwrap();
        assert_eq!(collection.active().count(None), 5);
        assert!(collection.drop_space(&made_by("2")).await.is_err(), "it is in use");
        assert!(collection.activate(&made_by("3")).await.is_err(), "there is none");
        collection.activate(&made_by("1")).await.unwrap();
        collection.drop_space(&made_by("2")).await.unwrap();
        store.close();
        drop((collection, second, store));
        let store = open(folder.path());
        assert_eq!(store.get("c").unwrap().spaces().len(), 1);
        assert_eq!(space(&store).count(None), 3);
        store.close();
    });
}

#[test]
fn a_folder_has_one_server_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert!(matches!(Store::open(folder.path(), 1), Err(VectorsError::Config(_))));
    store.close();
}
