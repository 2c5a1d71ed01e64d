//! Writing points and reading them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use halny_payload::PointId;
use halny_types::CollectionName;
use halny_vectors::embedded::Store;
use halny_vectors::{
    Named, PayloadSelect, Point, Points, Record, Scroll, Select, Selector, VectorSelect, VectorsError, Write,
};
use serde_json::json;

use crate::samples::{ALL, config, drawn, filter, numbered, payload, search, uuid, writes};
use crate::{Ground, ask};

pub(crate) fn all_of(points: &Arc<dyn Points>) -> Vec<Record> {
    let scroll = Scroll { from: None, limit: 1_000_000, filter: None, select: ALL };
    let (records, next) = ask(points, |points| points.scroll(&scroll));
    assert!(next.is_none());
    records
}

fn as_record(point: &Point) -> Record {
    Record { id: point.id, payload: Some(point.payload.as_ref().clone()), vectors: point.vectors.clone() }
}

pub(crate) async fn points_come_back_as_they_were_written(ground: Ground) {
    let space = ground.make("c", &config()).await;
    let vectors = |a: f32| Named::from([("a".to_owned(), vec![a, -0.1, 1e-30, 3.4e38]), ("b".to_owned(), vec![a; 4])]);
    let rich = json!({
        "text": "it's \"quoted\" \\ \u{1f600} \u{7f} \n", "whole": -7, "large": u64::MAX, "real": 3.0, "huge": 1e16,
        "small": 2.5e-7, "yes": true, "nothing": null, "list": [1, [2, []], {"deep": {"er": "x"}}], "": "empty key",
    });
    let ids = [PointId::Number(0), PointId::Number(u64::MAX), uuid(0), uuid(u128::MAX)];
    let points: Vec<Point> = ids
        .iter()
        .zip([1.0, 2.0, 3.0, 4.0])
        .map(|(id, a)| Point { id: *id, vectors: vectors(a), payload: Arc::new(payload(rich.clone())) })
        .collect();
    space.write(vec![Write::Upsert(points.clone())], true).await.unwrap();
    assert_eq!(all_of(&space), points.iter().map(as_record).collect::<Vec<_>>());
    // By id: in the order asked for, without those that are not there, and only what is wanted.
    let asked = [ids[2], PointId::Number(5), ids[0]];
    let found = ask(&space, |points| points.retrieve(&asked, &ALL));
    assert_eq!(found, [as_record(&points[2]), as_record(&points[0])]);
    let select = Select {
        payload: PayloadSelect::Include(vec!["list[].deep".parse().unwrap(), "yes".parse().unwrap()]),
        vectors: VectorSelect::Only(vec!["b".to_owned()]),
    };
    let found = ask(&space, |points| points.retrieve(&ids[..1], &select));
    assert_eq!(json!(found[0].payload), json!({"list": [1, [], {"deep": {"er": "x"}}], "yes": true}));
    assert_eq!(found[0].vectors.keys().collect::<Vec<_>>(), ["b"]);
    let bare = ask(&space, |points| points.retrieve(&ids[..1], &Select::default()));
    assert_eq!((&bare[0].payload, bare[0].vectors.len()), (&None, 0));
    assert_eq!(ask(&space, |points| points.vector_of(&ids[1], "b")), [2.0; 4]);
    let missing = tokio::task::block_in_place(|| space.vector_of(&PointId::Number(5), "b"));
    assert!(matches!(missing, Err(VectorsError::NoPoint(_))));
    // Written again, a point is what it was written as, and of two in one write the last counts.
    let new = |a: f32, text: &str| Point {
        id: ids[0],
        vectors: Named::from([("b".to_owned(), vec![a; 4])]),
        payload: Arc::new(payload(json!({ "is": text }))),
    };
    space.write(vec![Write::Upsert(vec![new(1.0, "first"), new(2.0, "last")])], true).await.unwrap();
    let found = ask(&space, |points| points.retrieve(&ids[..1], &ALL));
    assert_eq!(found, [as_record(&new(2.0, "last"))]);
}

pub(crate) async fn every_kind_of_write_does_what_the_embedded_store_does(ground: Ground) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 1).unwrap();
    let name = CollectionName::new("c").unwrap();
    store.create(name.clone(), &config()).await.unwrap();
    let model: Arc<dyn Points> = store.get("c").unwrap().active();
    let space = ground.make("c", &config()).await;
    for (number, write) in drawn(writes(), 400).into_iter().enumerate() {
        let expected = model.write(vec![write.clone()], true).await;
        let done = space.write(vec![write.clone()], true).await;
        match (&expected, &done) {
            (Ok(_), Ok(_)) => {}
            (Err(expected), Err(done)) => assert_eq!(
                std::mem::discriminant(expected),
                std::mem::discriminant(done),
                "write {number}: {expected} and {done}: {write:?}"
            ),
            _ => panic!("write {number}: {expected:?} and {done:?}: {write:?}"),
        }
        assert_eq!(all_of(&space), all_of(&model), "after write {number}, {write:?}");
    }
    store.close();
}

pub(crate) async fn a_write_that_names_an_absent_point_changes_nothing(ground: Ground) {
    let space = ground.make("c", &config()).await;
    space.write(vec![Write::Upsert(numbered(0..3))], true).await.unwrap();
    let before = all_of(&space);
    let absent = || Selector::Ids(vec![PointId::Number(1), PointId::Number(9)]);
    let vectors = Named::from([("a".to_owned(), vec![9.0; 4])]);
    for write in [
        Write::SetPayload { points: absent(), payload: payload(json!({"x": 1})), key: None },
        Write::OverwritePayload { points: absent(), payload: payload(json!({"x": 1})) },
        Write::DeletePayload { points: absent(), keys: vec!["n".parse().unwrap()] },
        Write::ClearPayload(absent()),
        Write::UpdateVectors(vec![(PointId::Number(1), vectors.clone()), (PointId::Number(9), vectors)]),
        Write::DeleteVectors { points: absent(), names: vec!["a".to_owned()] },
    ] {
        let done = space.write(vec![write.clone()], true).await;
        assert!(matches!(done, Err(VectorsError::NoPoint(PointId::Number(9)))), "{write:?}: {done:?}");
        assert_eq!(all_of(&space), before);
    }
    // To delete what is not there is no mistake; and of several writes those before one that fails are made.
    space.write(vec![Write::Delete(absent())], true).await.unwrap();
    let several = vec![Write::Upsert(numbered(5..6)), Write::ClearPayload(absent()), Write::Upsert(numbered(6..7))];
    assert!(space.write(several, true).await.is_err());
    let ids: Vec<PointId> = all_of(&space).into_iter().map(|record| record.id).collect();
    assert_eq!(ids, [0, 2, 5].map(PointId::Number));
}

pub(crate) async fn pages_cover_all_points_once_and_in_order(ground: Ground) {
    let space = ground.make("c", &config()).await;
    let mut points = numbered(0..60);
    points.extend(numbered(0..20).into_iter().map(|point| match point.id {
        PointId::Number(number) => Point { id: uuid(u128::from(number) << 64), ..point },
        PointId::Uuid(_) => point,
    }));
    space.write(vec![Write::Upsert(points.clone())], true).await.unwrap();
    // One that SQL answers, one that it does not.
    for only in [
        json!({}),
        json!({"must": {"key": "odd", "match": {"value": true}}}),
        json!({"must": {"key": "w", "match": {"text": "b"}}}),
    ] {
        if only["must"]["key"] == "w" {
            let odd = filter(json!({"must": {"key": "odd", "match": {"value": true}}}));
            let words = payload(json!({"w": "a b"}));
            space
                .write(vec![Write::SetPayload { points: Selector::Filter(odd), payload: words, key: None }], true)
                .await
                .unwrap();
        }
        let filter = filter(only.clone());
        for limit in [1, 7, 79, 80, 81] {
            let (mut from, mut seen) = (None, Vec::new());
            loop {
                let scroll = Scroll { from, limit, filter: Some(Arc::clone(&filter)), select: Select::default() };
                let (records, next) = ask(&space, |points| points.scroll(&scroll));
                assert!(records.len() == limit || next.is_none(), "only the last page is short");
                seen.extend(records.into_iter().map(|record| record.id));
                from = next;
                if from.is_none() {
                    break;
                }
            }
            let odd = |point: &&Point| only == json!({}) || point.payload["odd"] == true;
            let mut wanted: Vec<PointId> = points.iter().filter(odd).map(|point| point.id).collect();
            wanted.sort();
            assert_eq!(seen, wanted, "{limit} at a time: {only}");
            assert_eq!(ask(&space, |points| points.count(Some(&filter))), wanted.len());
        }
    }
}

pub(crate) async fn many_writers_lose_nothing(ground: Ground) {
    let space = ground.make("c", &config()).await;
    let writer = |writer: u64| {
        let space = Arc::clone(&space);
        async move {
            for round in 0..12u64 {
                let mut points = numbered(writer * 100 + round * 5..writer * 100 + round * 5 + 5);
                // All writers write these too, each in an order of its own.
                points.extend(numbered(10_000..10_020));
                if writer.is_multiple_of(2) {
                    points.reverse();
                }
                let payload = payload(json!({ "by": writer, "round": round }));
                let ids = points.iter().map(|point| point.id).collect();
                let set = Write::SetPayload { points: Selector::Ids(ids), payload, key: None };
                space.write(vec![Write::Upsert(points), set], true).await.unwrap();
            }
        }
    };
    futures::future::join_all((0..8).map(writer)).await;
    let records = all_of(&space);
    assert_eq!(records.len(), 8 * 60 + 20);
    for record in records {
        let PointId::Number(number) = record.id else { panic!("no UUID was written") };
        let payload = record.payload.unwrap();
        if number < 10_000 {
            assert_eq!(
                (payload["by"].as_u64(), payload["round"].as_u64()),
                (Some(number / 100), Some(number % 100 / 5))
            );
        }
    }
}

pub(crate) async fn a_write_is_seen_whole_or_not_at_all(ground: Ground) {
    let space = ground.make("c", &config()).await;
    space.write(vec![Write::Upsert(numbered(0..40))], true).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (watched, ended) = (Arc::clone(&space), Arc::clone(&done));
    let watch = tokio::task::spawn_blocking(move || {
        let mut looks = 0;
        while !ended.load(Ordering::Relaxed) || looks < 5 {
            // Every point is there once, all of one round.
            let scroll = Scroll { from: None, limit: 100, filter: None, select: ALL };
            let (records, _) = watched.scroll(&scroll).unwrap();
            let near = watched.search(&search("a", &[20.0, 0.0, 1.0, 0.0], 100), &ALL).unwrap();
            let near = near.into_iter().map(|found| found.payload.unwrap());
            for payloads in
                [records.into_iter().map(|record| record.payload.unwrap()).collect::<Vec<_>>(), near.collect()]
            {
                assert_eq!(payloads.len(), 40);
                let rounds: BTreeSet<String> =
                    payloads.iter().map(|payload| json!(payload.get("round")).to_string()).collect();
                assert_eq!(rounds.len(), 1, "{rounds:?}");
            }
            looks += 1;
        }
    });
    for round in 0..40 {
        let payload = payload(json!({ "round": round }));
        let write = match round % 2 {
            0 => Write::SetPayload { points: Selector::Filter(filter(json!({}))), payload, key: None },
            _ => Write::Upsert(
                numbered(0..40)
                    .into_iter()
                    .map(|point| Point { payload: Arc::new(payload.clone()), ..point })
                    .collect(),
            ),
        };
        space.write(vec![write], true).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    watch.await.unwrap();
}

pub(crate) async fn a_point_may_have_none_of_the_vectors(ground: Ground) {
    let space = ground.make("c", &config()).await;
    let mut points = numbered(0..4);
    points[1].vectors.clear();
    space.write(vec![Write::Upsert(points)], true).await.unwrap();
    let with = filter(json!({"must": {"has_vector": "a"}}));
    let without = filter(json!({"must_not": {"has_vector": "a"}, "must": {"has_id": [0, 1, 2]}}));
    assert_eq!(ask(&space, |points| points.count(Some(&with))), 3);
    assert_eq!(ask(&space, |points| points.count(Some(&without))), 1);
    let found = ask(&space, |points| points.search(&search("a", &[0.0; 4], 10), &Select::default()));
    assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [0, 2, 3].map(PointId::Number));
    let no_vector = tokio::task::block_in_place(|| space.vector_of(&PointId::Number(1), "a"));
    assert!(matches!(no_vector, Err(VectorsError::NoVectorOfPoint { .. })));
    assert!(ask(&space, |points| points.search(&search("b", &[1.0; 4], 10), &Select::default())).is_empty());
}

pub(crate) async fn large_writes_are_one(ground: Ground) {
    let space = ground.make("c", &config()).await;
    // More than the pages in which engines go through a write.
    space.write(vec![Write::Upsert(numbered(0..5_000))], true).await.unwrap();
    let odd = || Selector::Filter(filter(json!({"must": {"key": "odd", "match": {"value": true}}})));
    let set = Write::SetPayload { points: odd(), payload: payload(json!({"seen": true})), key: None };
    let number = space.write(vec![set], true).await.unwrap();
    let seen = filter(json!({"must": {"key": "seen", "match": {"value": true}}}));
    assert_eq!(ask(&space, |points| points.count(Some(&seen))), 2_500);
    let after = space.write(vec![Write::Delete(odd())], true).await.unwrap();
    assert!(after > number, "numbers of writes grow");
    assert_eq!(ask(&space, |points| points.count(None)), 2_500);
    // One id among many that is not there: nothing of it is made.
    let ids = (0..5_001).step_by(2).chain([4_999]).map(PointId::Number).collect();
    let clear = space.write(vec![Write::ClearPayload(Selector::Ids(ids))], true).await;
    assert!(matches!(clear, Err(VectorsError::NoPoint(_))), "{clear:?}");
    let filled = filter(json!({"must_not": {"is_empty": {"key": "n"}}}));
    assert_eq!(ask(&space, |points| points.count(Some(&filled))), 2_500);
    let unwaited = space.write(vec![Write::Delete(Selector::Filter(filter(json!({}))))], false).await.unwrap();
    assert!(unwaited > after);
}
