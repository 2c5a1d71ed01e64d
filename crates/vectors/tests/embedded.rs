//! What the embedded store promises, against a model that is a map: whatever is written, sealed, merged,
//! closed and opened again, it holds what the map holds.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use halny_payload::PointId;
use halny_types::CollectionName;
use halny_vectors::embedded::{Space, Store};
use halny_vectors::{
    AliasChange, CollectionConfig, Distance, EmbeddingSpace, Payload, Point, Record, Scroll, Search, SearchParams,
    Segmenting, Select, Tier, VectorConfig, VectorsError, Write,
};
use proptest::prelude::*;
use serde_json::json;

mod model;

use model::{ALL, COMPACT, DIMENSIONS, Model, apply, compare, config, config_of, open, space, write};

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Write>),
    /// Ends the store in order and opens it again.
    Restart,
    /// Makes an index of the payload's field `n`, or removes it.
    Index(bool),
    /// Makes a snapshot and restores it.
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(write(), 1..3).prop_map(Step::Write),
        1 => Just(Step::Restart),
        1 => any::<bool>().prop_map(Step::Index),
        1 => Just(Step::Snapshot),
    ]
}

async fn play(tiers: [Tier; 2], steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("vectors");
    let mut store = open(&root);
    let name = CollectionName::new("c").unwrap();
    store.create(name.clone(), &config_of(tiers)).await.unwrap();
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
    fn a_collection_holds_what_was_written_whatever_happens_between(
        steps in prop::collection::vec(step(), 1..30),
        swapped in any::<bool>(),
    ) {
        let tiers = if swapped { [COMPACT, Tier::default()] } else { [Tier::default(), COMPACT] };
        run(play(tiers, steps));
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
    for tier in [Tier::default(), COMPACT] {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let store = open(folder.path());
            let config = config_of([tier.clone(), tier]);
            store.create(CollectionName::new("c").unwrap(), &config).await.unwrap();
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
}

#[test]
fn once_nothing_is_written_the_last_points_are_indexed_if_they_are_enough() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path());
        let segmenting = Segmenting { open_points: 5_000, index_from_points: 50, ..Segmenting::default() };
        let config = CollectionConfig { segmenting, ..config_of([Tier::default(), COMPACT]) };
        for (name, count) in [("few", 40), ("c", 60)] {
            store.create(CollectionName::new(name).unwrap(), &config).await.unwrap();
            let space = store.get(name).unwrap().active();
            space.write(vec![Write::Upsert(numbered(0..count))], true).await.unwrap();
        }
        let of_them = |space: &Space, indexed, vectors| {
            let status = || space.status().vectors["a"];
            while (status().indexed, status().vectors) != (indexed, vectors) || space.status().unfinished > 0 {
                std::thread::yield_now();
            }
        };
        of_them(&space(&store), 60, 60);
        assert_eq!(space(&store).search(&nearest(25.0), &Select::default()).len(), 10);
        let few = store.get("few").unwrap().active().status();
        assert_eq!((few.segments, few.points, few.vectors["a"].indexed), (1, 40, 0), "too few for an index");
        // The same where they come out of the log at a start. What is left of the first segment is one point.
        space(&store).write(vec![Write::Upsert(numbered(1..60))], true).await.unwrap();
        store.close();
        drop(store);
        store = open(folder.path());
        of_them(&space(&store), 59, 60);
        assert_eq!(space(&store).status().points, 60);
        store.close();
    });
}

/// Points with vectors `a` in clusters, 128 dimensions each.
fn wide(count: u64) -> Vec<Point> {
    let vector =
        |number: u64| (0..128).map(|at| ((number % 40) * 7 + at * at) as f32 % 11.0 + wave(number, at)).collect();
    let point = |number| Point {
        id: PointId::Number(number),
        vectors: [("a".to_owned(), vector(number))].into(),
        payload: Arc::new(Payload::from_iter([("n".to_owned(), json!(number % 50))])),
    };
    (0..count).map(point).collect()
}

fn wave(number: u64, at: u64) -> f32 {
    ((number * 131 + at * 17) as f32).sin()
}

#[test]
fn a_compact_index_takes_an_eighth_of_the_memory_and_comes_back_from_its_file() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let name = CollectionName::new("c").unwrap();
        let vector = VectorConfig { dimensions: 128, distance: Distance::Euclid, tier: COMPACT, ef: None };
        let segmenting = Segmenting { index_from_points: 2_000, ..Segmenting::default() };
        let vectors = [("a".to_owned(), vector)].into();
        let config = CollectionConfig { vectors, segmenting, ..CollectionConfig::default() };
        let mut store = open(folder.path());
        store.create(name.clone(), &config).await.unwrap();
        let points = wide(6_000);
        space(&store).write(vec![Write::Upsert(points.clone())], true).await.unwrap();
        let indexed = |space: &Space| space.status().vectors["a"].indexed;
        while indexed(&space(&store)) == 0 {
            std::thread::yield_now();
        }
        let status = space(&store).status().vectors["a"];
        assert!(status.index_bytes > 0 && status.index_bytes * 8 <= status.vector_bytes, "{status:?}");
        let made = store.make_snapshot("c").await.unwrap();
        let path = store.snapshot_path("c", &made.name).unwrap();
        store.restore(name, &path, None).await.unwrap();
        assert_eq!(indexed(&space(&store)), 6_000, "a snapshot holds the index");
        store.close();
        drop(store);
        store = open(folder.path());
        let space = space(&store);
        assert_eq!(indexed(&space), 6_000, "the index is read, not built again");
        for filter in [None, Some(Arc::new(model::n_is(7)))] {
            let (mut hits, mut wanted) = (0, 0);
            for point in points.iter().step_by(97) {
                let query: Vec<f32> = point.vectors["a"].iter().map(|value| value * 0.9 + 0.1).collect();
                let search = |exact| Search {
                    vector: "a".to_owned(),
                    query: query.clone().into(),
                    limit: 10,
                    filter: filter.clone(),
                    params: SearchParams { exact, ..SearchParams::default() },
                    threshold: None,
                };
                let truth = space.search(&search(true), &Select::default());
                let found = space.search(&search(false), &Select::default());
                wanted += truth.len();
                hits += found.iter().filter(|found| truth.contains(found)).count();
            }
            assert!(wanted > 600 && hits * 100 >= wanted * 95, "{filter:?}: {hits} of {wanted}");
        }
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
                let held = watched.held();
                let round = round_of(&held);
                assert_eq!(watched.search(&nearest(20.0), &Select::default()).len(), 10);
                // What is held stays as it was, whatever was written, sealed and merged since.
                let now = round_of(&watched);
                assert_eq!(round_of(&held), round, "it is {now} now");
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

/// The `round` of all 40 points.
fn round_of(space: &Space) -> String {
    let scroll = Scroll { from: None, limit: 100, filter: None, select: ALL };
    let (records, _) = space.scroll(&scroll);
    assert_eq!(records.len(), 40);
    let round = |record: &Record| {
        record.payload.as_ref().and_then(|p| p.get("round")).map_or(String::new(), ToString::to_string)
    };
    let rounds: std::collections::BTreeSet<String> = records.iter().map(round).collect();
    assert_eq!(rounds.len(), 1, "{rounds:?}");
    rounds.into_iter().next().unwrap()
}

#[test]
fn a_snapshot_has_every_point_though_all_are_changed_while_it_is_made() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        // Of two writes one fills a log, and one is in the last.
        let mut of_two = config();
        of_two.segmenting.open_points = 64;
        store.create(CollectionName::new("c").unwrap(), &of_two).await.unwrap();
        let space = space(&store);
        let mut round = 0;
        let mut again = async || {
            let mut points = numbered(0..40);
            points
                .iter_mut()
                .for_each(|point| drop(Arc::make_mut(&mut point.payload).insert("round".to_owned(), json!(round))));
            space.write(vec![Write::Upsert(points)], true).await.unwrap();
            round += 1;
            round
        };
        for _ in 0..8 {
            let written = again().await;
            let mut making = std::pin::pin!(store.make_snapshot("c"));
            let made = loop {
                if let std::task::Poll::Ready(made) = futures::poll!(&mut making) {
                    break made.unwrap();
                }
                again().await;
            };
            let path = store.snapshot_path("c", &made.name).unwrap();
            store.restore(CollectionName::new("copy").unwrap(), &path, None).await.unwrap();
            let copy = model::held(&store.get("copy").unwrap().active());
            assert_eq!(copy.len(), 40, "points are missing");
            let rounds: std::collections::BTreeSet<u64> =
                copy.values().map(|point| point.payload["round"].as_u64().unwrap()).collect();
            assert!(rounds.len() == 1 && rounds.first() >= Some(&(written - 1)), "{rounds:?} after {written}");
        }
        store.close();
    });
}

#[test]
fn vectors_that_one_write_sets_for_one_id_in_two_places_are_both_set() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.create(CollectionName::new("c").unwrap(), &config()).await.unwrap();
        let (space, id) = (space(&store), PointId::Number(1));
        space.write(vec![Write::Upsert(numbered(1..2))], true).await.unwrap();
        let named = |name: &str, value| (id, [(name.to_owned(), vec![value; DIMENSIONS])].into());
        let updates = vec![named("a", 2.0), named("b", 3.0), named("b", 4.0)];
        space.write(vec![Write::UpdateVectors(updates)], true).await.unwrap();
        assert_eq!(space.vector_of(&id, "a").unwrap(), [2.0; DIMENSIONS]);
        assert_eq!(space.vector_of(&id, "b").unwrap(), [4.0; DIMENSIONS]);
        store.close();
    });
}

#[test]
fn a_snapshot_is_read_once_for_its_checksum_and_again_only_when_that_is_lost() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.create(CollectionName::new("c").unwrap(), &config()).await.unwrap();
        let made = store.make_snapshot("c").await.unwrap();
        let path = store.snapshot_path("c", &made.name).unwrap();
        let beside = path.with_file_name(format!("{}.sha256", made.name));
        assert_eq!(std::fs::read_to_string(&beside).unwrap(), made.checksum);
        // Of the file itself nothing is read any more.
        let kept = "0123456789abcdef".repeat(4);
        std::fs::write(&beside, &kept).unwrap();
        assert_eq!(store.snapshots("c").unwrap()[0].checksum, kept);
        for lost in [None, Some("half of a checks")] {
            match lost {
                None => std::fs::remove_file(&beside).unwrap(),
                Some(text) => std::fs::write(&beside, text).unwrap(),
            }
            assert_eq!(store.snapshots("c").unwrap(), std::slice::from_ref(&made));
            assert_eq!(std::fs::read_to_string(&beside).unwrap(), made.checksum);
        }
        store.delete_snapshot("c", &made.name).unwrap();
        assert!(!beside.exists() && store.snapshots("c").unwrap().is_empty());
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
fn a_snapshot_takes_the_place_of_every_space_of_its_model_version() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let of = |version| CollectionConfig { space: Some(made_by(version)), ..config() };
        let name = CollectionName::new("c").unwrap();
        store.create(name.clone(), &of("2")).await.unwrap();
        space(&store).write(vec![Write::Upsert(numbered(0..5))], true).await.unwrap();
        let made = store.make_snapshot("c").await.unwrap();
        let path = store.snapshot_path("c", &made.name).unwrap();
        // The first version is asked, and another space of the second stands beside it.
        let collection = store.get("c").unwrap();
        collection.add(of("1")).await.unwrap();
        collection.activate(&made_by("1")).await.unwrap();
        store.restore(name, &path, None).await.unwrap();
        assert_eq!(collection.spaces().len(), 1);
        assert_eq!(collection.space_of(&made_by("2")).unwrap().count(None), 5);
        assert_eq!(collection.active().count(None), 5);
        store.close();
        drop((collection, store));
        let store = open(folder.path());
        assert_eq!((store.get("c").unwrap().spaces().len(), space(&store).count(None)), (1, 5));
        store.close();
    });
}

#[test]
fn a_change_that_comes_after_the_end_is_refused_and_leaves_the_catalog_as_it_is() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let name = |name| CollectionName::new(name).unwrap();
        store.create(name("c"), &config()).await.unwrap();
        space(&store).write(vec![Write::Upsert(numbered(0..5))], true).await.unwrap();
        let made = store.make_snapshot("c").await.unwrap();
        let path = store.snapshot_path("c", &made.name).unwrap();
        let before = std::fs::read(folder.path().join("catalog.json")).unwrap();
        store.close();
        assert!(matches!(store.create(name("d"), &config()).await, Err(VectorsError::Closed)));
        assert!(matches!(store.restore(name("d"), &path, None).await, Err(VectorsError::Closed)));
        let alias = AliasChange::Create { alias: name("e"), collection: name("c") };
        assert!(matches!(store.change_aliases(vec![alias]).await, Err(VectorsError::Closed)));
        assert!(matches!(store.delete("c").await, Err(VectorsError::Closed)));
        assert_eq!(std::fs::read(folder.path().join("catalog.json")).unwrap(), before);
        drop(store);
        let store = open(folder.path());
        assert_eq!(space(&store).count(None), 5);
        store.close();
    });
}

#[test]
fn without_its_catalog_a_folder_is_refused_and_stays_as_it_is() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("deep").join("vectors");
        let store = open(&root);
        store.create(CollectionName::new("c").unwrap(), &config()).await.unwrap();
        space(&store).write(vec![Write::Upsert(numbered(0..5))], true).await.unwrap();
        store.close();
        drop(store);
        let (catalog, aside) = (root.join("catalog.json"), folder.path().join("aside"));
        std::fs::rename(&catalog, &aside).unwrap();
        let refused = Store::open(&root, 1).map(drop);
        assert!(matches!(&refused, Err(VectorsError::Config(text)) if text.contains("backup")), "{refused:?}");
        std::fs::rename(&aside, &catalog).unwrap();
        let store = open(&root);
        assert_eq!(space(&store).count(None), 5);
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
