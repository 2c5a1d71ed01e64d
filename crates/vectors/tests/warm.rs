//! What is found most is kept in memory, within its budget.
#![allow(clippy::unwrap_used)]

mod model;

use std::sync::Arc;

use halny_payload::PointId;
use halny_types::CollectionName;
use halny_vectors::{
    CollectionConfig, Distance, Payload, Point, Search, SearchParams, Segmenting, Select, Tier, VectorConfig, Write,
};
use model::open;

const DIMENSIONS: usize = 64;
/// Half a megabyte of vectors: two pieces and a bit.
const POINTS: u64 = 2_200;
const PIECE_BYTES: usize = 256 << 10;

fn point(number: u64) -> Point {
    let mut vector = vec![0.0; DIMENSIONS];
    vector[0] = number as f32;
    Point { id: PointId::Number(number), vectors: [(String::new(), vector)].into(), payload: Arc::new(Payload::new()) }
}

/// The point of that number, which is in the piece that its number says.
fn search(number: u64) -> Search {
    let query = point(number).vectors.remove("").unwrap().into();
    let (vector, params) = (String::new(), SearchParams::default());
    Search { vector, query, limit: 1, filter: None, params, threshold: None }
}

#[tokio::test]
async fn what_is_found_most_is_kept_and_what_is_found_no_more_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.keep_warm(PIECE_BYTES);
    let vector = VectorConfig { dimensions: DIMENSIONS, distance: Distance::Euclid, tier: Tier::default(), ef: None };
    let config = CollectionConfig {
        vectors: [(String::new(), vector)].into(),
        segmenting: Segmenting { open_points: POINTS as usize, ..Segmenting::default() },
        ..CollectionConfig::default()
    };
    store.create(CollectionName::new("c").unwrap(), &config).await.unwrap();
    let space = store.get("c").unwrap().active();
    space.write(vec![Write::Upsert((0..POINTS).map(point).collect())], true).await.unwrap();
    // Each piece in turn: the second is found most, then the first.
    for (piece, found) in [(1, 1_500), (0, 10)] {
        let before = space.warmth();
        let mut searches = 0;
        while space.warmth().hits < before.hits + 500 {
            for _ in 0..100 {
                let hits = space.search(&search(found), &Select::default());
                assert_eq!(hits.first().map(|hit| hit.id), Some(PointId::Number(found)));
            }
            searches += 100;
            assert!(searches < 50_000_000, "piece {piece} never became warm: {:?}", space.warmth());
        }
        assert_eq!(space.warmth().bytes, PIECE_BYTES, "piece {piece}");
    }
    let warm = space.warmth();
    store.keep_warm(0);
    while space.warmth().bytes > 0 {
        let _ = space.search(&search(10), &Select::default());
    }
    assert!(warm.hits >= 1_000 && warm.misses > 0, "{warm:?}");
    store.close();
}
