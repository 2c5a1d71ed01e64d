//! What is promised when the disk fails, or is slow, at the worst moment.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use halny_payload::{Filter, PointId};
use halny_types::CollectionName;
use serde_json::json;

use super::{Space, Store, faults, files};
use crate::{
    CollectionConfig, Distance, Payload, Point, Scroll, Segmenting, Select, Selector, Tier, VectorConfig, VectorsError,
    Write,
};

fn config() -> CollectionConfig {
    let vector = VectorConfig { dimensions: 2, distance: Distance::Euclid, tier: Tier::default(), ef: None };
    CollectionConfig {
        vectors: [(String::new(), vector)].into(),
        segmenting: Segmenting { open_points: 4, index_from_points: 4, merged_points_max: 10_000 },
        ..CollectionConfig::default()
    }
}

fn points(range: std::ops::Range<u64>) -> Vec<Point> {
    let point = |number: u64| Point {
        id: PointId::Number(number),
        vectors: [(String::new(), vec![number as f32, 1.0])].into(),
        payload: Arc::new(Payload::new()),
    };
    range.map(point).collect()
}

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

/// Runs a test on an empty collection in a folder of its own.
fn with_a_collection(test: impl AsyncFnOnce(Store, Arc<Space>, &Path)) {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, space) = begun(folder.path()).await;
        test(store, space, folder.path()).await;
    });
}

async fn begun(root: &Path) -> (Store, Arc<Space>) {
    let store = Store::open(root, 1).unwrap();
    store.create(CollectionName::new("c").unwrap(), &config()).await.unwrap();
    let space = store.get("c").unwrap().active();
    (store, space)
}

async fn put(space: &Space, range: std::ops::Range<u64>) -> Result<u64, VectorsError> {
    space.write(vec![Write::Upsert(points(range))], true).await
}

fn held(space: &Space) -> Vec<PointId> {
    let (records, _) = space.scroll(&Scroll { from: None, limit: 100_000, filter: None, select: Select::default() });
    records.into_iter().map(|record| record.id).collect()
}

/// Opens again what the store left, and looks what it holds.
fn left(store: Store, space: Arc<Space>, root: &Path) -> Vec<PointId> {
    store.close();
    drop((store, space));
    let store = Store::open(root, 1).unwrap();
    let left = held(&store.get("c").unwrap().active());
    store.close();
    left
}

fn numbers(range: std::ops::Range<u64>) -> Vec<PointId> {
    range.map(PointId::Number).collect()
}

/// Whoever comes to this point says so, and waits there until it may go on.
fn hold(point: &'static str, root: &Path) -> (Receiver<()>, Sender<()>) {
    let ((came, comes), (go, may_go)) = (unbounded(), bounded::<()>(0));
    faults::set(point, root, move |_| {
        let _ = came.send(());
        // Without a sender all go on.
        let _ = may_go.recv();
        Ok(())
    });
    (comes, go)
}

/// Hears of everyone who comes to this point.
fn watch(point: &'static str, root: &Path) -> Receiver<()> {
    let (came, comes) = unbounded();
    faults::set(point, root, move |_| {
        let _ = came.send(());
        Ok(())
    });
    comes
}

fn failed() -> io::Result<()> {
    Err(io::Error::other("a fault"))
}

/// Goes through the queue of the writer behind what is in it.
async fn passed(space: &Space) {
    let _ = space.configure(|_| Ok(())).await;
}

#[test]
fn a_change_by_filter_of_more_than_a_record_may_say_is_refused_whole_and_a_smaller_one_is_made() {
    with_a_collection(async |store, space, root| {
        let mut large = points(0..30);
        for point in &mut large {
            Arc::make_mut(&mut point.payload).insert("text".to_owned(), json!("x".repeat(100_000)));
        }
        for point in &large {
            space.write(vec![Write::Upsert(vec![point.clone()])], true).await.unwrap();
        }
        let set = |filter: Filter| Write::SetPayload {
            points: Selector::Filter(Arc::new(filter)),
            payload: Payload::from_iter([("done".to_owned(), json!(true))]),
            key: None,
        };
        let done = Filter::read(&json!({"must": {"key": "done", "match": {"value": true}}})).unwrap();
        let refused = space.write(vec![set(Filter::default())], true).await;
        assert!(
            matches!(&refused, Err(VectorsError::Invalid(text)) if text.contains("narrower filter")),
            "{refused:?}"
        );
        let refused = space.write(vec![Write::Upsert(large)], true).await;
        assert!(matches!(refused, Err(VectorsError::Invalid(_))), "{refused:?}");
        assert_eq!(space.count(Some(&done)), 0);
        space.write(vec![set(Filter::has_id(numbers(0..5)))], true).await.unwrap();
        assert_eq!(space.count(Some(&done)), 5);
        assert_eq!(left(store, space, root), numbers(0..30));
    });
}

#[test]
fn after_a_log_that_failed_nothing_built_takes_the_place_of_what_was_confirmed() {
    with_a_collection(async |store, space, root| {
        let handed_over = watch("handed over", root);
        let (sealing, go) = hold("seal", root);
        let breaks = Arc::new(AtomicBool::new(false));
        let (broken, whole) = (Arc::clone(&breaks), parking_lot::Mutex::new(BTreeMap::new()));
        faults::set("log synchronised", root, move |path| {
            // What is not confirmed is lost, as by a power failure.
            let length = whole.lock().get(path).copied().unwrap_or(16);
            if broken.load(Ordering::Relaxed) {
                std::fs::OpenOptions::new().write(true).open(path)?.set_len(length)?;
                return failed();
            }
            whole.lock().insert(path.to_owned(), std::fs::metadata(path)?.len());
            Ok(())
        });
        put(&space, 0..4).await.unwrap();
        sealing.recv().unwrap();
        breaks.store(true, Ordering::Relaxed);
        let deleted = space.write(vec![Write::Delete(Selector::Ids(numbers(0..2)))], true).await;
        assert!(matches!(deleted, Err(VectorsError::Broken)), "{deleted:?}");
        drop(go);
        handed_over.recv().unwrap();
        passed(&space).await;
        assert!(matches!(store.make_snapshot("c").await, Err(VectorsError::Broken)));
        assert_eq!(left(store, space, root), numbers(0..4));
    });
}

#[test]
fn segments_are_sealed_and_writes_go_on_while_an_index_takes_as_long_as_it_likes() {
    with_a_collection(async |store, space, root| {
        let (indexing, go) = hold("index", root);
        put(&space, 0..4).await.unwrap();
        indexing.recv().unwrap();
        for start in (4..100).step_by(4) {
            put(&space, start..start + 4).await.unwrap();
        }
        // All but the one that is written.
        while files::numbers_in(&space.shared.folder.join("log")).unwrap().len() > 1 {
            std::thread::yield_now();
        }
        assert!(space.status().unfinished > 1, "the index was not waited for");
        drop(go);
        assert_eq!(left(store, space, root), numbers(0..100));
    });
}

#[test]
fn what_could_not_be_put_in_its_place_is_removed_and_not_built_again_at_once() {
    with_a_collection(async |store, space, root| {
        let handed_over = watch("handed over", root);
        let (sealing, go) = hold("seal", root);
        put(&space, 0..4).await.unwrap();
        sealing.recv().unwrap();
        let tries = Arc::new(AtomicUsize::new(1));
        let fails = Arc::new(AtomicBool::new(true));
        let (count, fail) = (Arc::clone(&tries), Arc::clone(&fails));
        faults::set("seal", root, move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        faults::set("manifest", root, move |_| if fail.load(Ordering::Relaxed) { failed() } else { Ok(()) });
        drop(go);
        handed_over.recv().unwrap();
        for _ in 0..500 {
            passed(&space).await;
        }
        assert_eq!(tries.load(Ordering::Relaxed), 1, "it is tried again and again");
        let segments = space.shared.folder.join("segments");
        assert_eq!(files::numbers_in(&segments).unwrap(), [] as [u64; 0]);
        fails.store(false, Ordering::Relaxed);
        put(&space, 4..8).await.unwrap();
        while files::numbers_in(&space.shared.folder.join("log")).unwrap().len() > 1 {
            std::thread::yield_now();
        }
        assert_eq!(left(store, space, root), numbers(0..8));
    });
}

#[test]
fn a_merge_whose_index_fails_leaves_no_files() {
    with_a_collection(async |store, space, root| {
        // Segments of four points get an index at once; the fifth folder is the first of a merge.
        let (failures, fails) = unbounded();
        faults::set("index", root, move |path| {
            let first = path.parent().and_then(|folder| std::fs::metadata(folder.join("ids")).ok());
            if first.is_some_and(|ids| ids.len() > 4 * 17) {
                let _ = failures.send(());
                return failed();
            }
            Ok(())
        });
        for start in (0..16).step_by(4) {
            put(&space, start..start + 4).await.unwrap();
        }
        fails.recv().unwrap();
        let segments = space.shared.folder.join("segments");
        while files::numbers_in(&segments).unwrap().len() > 4 || !space.shared.building.lock().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(left(store, space, root), numbers(0..16));
    });
}

#[test]
fn a_log_that_could_not_be_begun_leaves_no_file_and_is_begun_with_the_next_write() {
    with_a_collection(async |store, space, root| {
        let (fails, most) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (fail, there) = (Arc::clone(&fails), Arc::clone(&most));
        faults::set("log made", root, move |path| {
            let logs = files::numbers_in(path.parent().unwrap())?;
            there.fetch_max(logs.len(), Ordering::Relaxed);
            if fail.load(Ordering::Relaxed) { failed() } else { Ok(()) }
        });
        put(&space, 0..4).await.unwrap();
        for _ in 0..4 {
            passed(&space).await;
        }
        // The one that is written, and the one that is being made.
        assert_eq!(most.load(Ordering::Relaxed), 2, "files of earlier tries stayed");
        fails.store(false, Ordering::Relaxed);
        put(&space, 4..5).await.unwrap();
        assert_eq!(left(store, space, root), numbers(0..5));
    });
}

#[test]
fn points_are_written_and_found_while_a_segment_is_sealed_and_its_disk_is_slow() {
    with_a_collection(async |store, space, root| {
        let (sealing, go) = hold("seal", root);
        put(&space, 0..4).await.unwrap();
        sealing.recv().unwrap();
        // A point of the segment that is sealed dies: the writer takes its lock, and readers come behind it.
        put(&space, 3..5).await.unwrap();
        assert_eq!(held(&space), numbers(0..5));
        drop(go);
        assert_eq!(left(store, space, root), numbers(0..5));
    });
}

#[test]
fn a_log_that_is_missing_or_cut_between_others_is_a_loss_and_nothing_is_removed() {
    with_a_collection(async |store, space, root| {
        let (sealing, go) = hold("seal", root);
        for start in (0..12).step_by(4) {
            put(&space, start..start + 4).await.unwrap();
        }
        sealing.recv().unwrap();
        // Behind the last log's beginning.
        passed(&space).await;
        let logs = space.shared.folder.join("log");
        let numbered = files::numbers_in(&logs).unwrap();
        assert_eq!(numbered.len(), 4, "{numbered:?}");
        let saved: Vec<_> = numbered.iter().map(|n| std::fs::read(logs.join(n.to_string())).unwrap()).collect();
        let manifest = std::fs::read(space.shared.folder.join("manifest.json")).unwrap();
        let copy = tempfile::tempdir().unwrap();
        let spoilt = copy.path().join("space");
        // As the folder was then, with one log missing, and with one cut.
        let open = |change: &dyn Fn(&Path)| {
            files::clear(&spoilt).unwrap();
            std::fs::create_dir_all(spoilt.join("segments")).unwrap();
            std::fs::create_dir_all(spoilt.join("segments").join("99")).unwrap();
            std::fs::create_dir_all(spoilt.join("log")).unwrap();
            std::fs::write(spoilt.join("manifest.json"), &manifest).unwrap();
            for (number, bytes) in numbered.iter().zip(&saved) {
                std::fs::write(spoilt.join("log").join(number.to_string()), bytes).unwrap();
            }
            change(&spoilt.join("log"));
            let (builder, thread) = super::builder::Builder::start(1).unwrap();
            let opened = Space::open(&spoilt, &builder).map(|space| {
                let held = held(&space);
                space.close();
                held
            });
            builder.stop();
            thread.join().unwrap();
            opened
        };
        assert_eq!(open(&|_| ()).unwrap(), numbers(0..12));
        for number in &numbered {
            let missing = open(&|logs| std::fs::remove_file(logs.join(number.to_string())).unwrap());
            assert!(missing.is_err(), "without log {number} it has {missing:?}");
            assert!(spoilt.join("segments").join("99").exists(), "files were removed though it was refused");
        }
        for number in &numbered[..3] {
            let cut = open(&|logs| {
                let log = std::fs::OpenOptions::new().write(true).open(logs.join(number.to_string())).unwrap();
                log.set_len(log.metadata().unwrap().len() - 3).unwrap();
            });
            assert!(cut.is_err(), "with log {number} cut it has {cut:?}");
        }
        drop(go);
        assert_eq!(left(store, space, root), numbers(0..12));
    });
}

#[test]
fn a_manifest_that_fails_behind_its_renaming_stops_writes_and_loses_nothing() {
    with_a_collection(async |store, space, root| {
        let handed_over = watch("handed over", root);
        let (sealing, go) = hold("seal", root);
        put(&space, 0..4).await.unwrap();
        sealing.recv().unwrap();
        faults::set("manifest renamed", root, |_| failed());
        drop(go);
        handed_over.recv().unwrap();
        passed(&space).await;
        let refused = put(&space, 4..5).await;
        assert!(matches!(refused, Err(VectorsError::Broken)), "{refused:?}");
        assert_eq!(held(&space), numbers(0..4));
        assert_eq!(left(store, space, root), numbers(0..4));
    });
}
