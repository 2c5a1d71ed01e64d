//! The nearest points.

use std::sync::Arc;

use halny_payload::{FieldKind, PointId};
use halny_vectors::{
    CollectionConfig, Distance, Named, Point, Points, Precision, SearchParams, Segmenting, Select, Tier, VectorConfig,
    VectorsError, Write,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::samples::{config, filter, numbered, payload, search, vector};
use crate::{Ground, ask};

fn random(random: &mut StdRng, dimensions: usize) -> Vec<f32> {
    (0..dimensions).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn point(number: u64, vectors: Named) -> Point {
    Point {
        id: PointId::Number(number),
        vectors,
        payload: Arc::new(payload(json!({ "n": number, "tenth": number % 10 }))),
    }
}

/// What is nearest, by the definition.
fn brute(
    distance: Distance,
    points: &[Point],
    name: &str,
    query: &[f32],
    passes: impl Fn(u64) -> bool,
) -> Vec<(PointId, f32)> {
    let score = |point: &Point| {
        let vector = point.vectors.get(name)?;
        let sum = |each: fn(f64, f64) -> f64| -> f64 {
            vector.iter().zip(query).map(|(a, b)| each(f64::from(*a), f64::from(*b))).sum()
        };
        let score = match distance {
            Distance::Cosine | Distance::Dot => sum(|a, b| a * b),
            Distance::Euclid => sum(|a, b| (a - b) * (a - b)).sqrt(),
        };
        Some((point.id, score as f32))
    };
    let number = |point: &Point| point.payload["n"].as_u64().unwrap();
    let mut scored: Vec<(PointId, f32)> =
        points.iter().filter(|point| passes(number(point))).filter_map(score).collect();
    let sign = if distance == Distance::Euclid { 1.0 } else { -1.0 };
    scored.sort_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)).then(a.0.cmp(&b.0)));
    scored
}

pub(crate) async fn comparing_all_finds_what_brute_force_finds(ground: Ground) {
    let mut chance = StdRng::seed_from_u64(7);
    for (number, distance) in [Distance::Cosine, Distance::Dot, Distance::Euclid].into_iter().enumerate() {
        let vectors = [(String::new(), vector(distance, 24))];
        let config = CollectionConfig { vectors: vectors.into(), ..CollectionConfig::default() };
        let space = ground.make(&format!("c{number}"), &config).await;
        let mut points: Vec<Point> =
            (0..300).map(|number| point(number, Named::from([(String::new(), random(&mut chance, 24))]))).collect();
        // Zeros, and points that are equally near.
        points.push(point(300, Named::from([(String::new(), vec![0.0; 24])])));
        for number in 301..305 {
            points.push(point(number, points[number as usize % 3].vectors.clone()));
        }
        points.iter_mut().for_each(|point| config.prepare(&mut point.vectors).unwrap());
        space.write(vec![Write::Upsert(points.clone())], true).await.unwrap();
        for (limit, tenth) in [(1, None), (10, None), (400, None), (7, Some(3))] {
            let mut query = random(&mut chance, 24);
            config.prepare_one("", &mut query).unwrap();
            let mut asked = search("", &query, limit);
            asked.params.exact = true;
            asked.filter = tenth.map(|tenth| filter(json!({"must": {"key": "tenth", "match": {"value": tenth}}})));
            let found = ask(&space, |points| points.search(&asked, &Select::default()));
            let mut wanted = brute(distance, &points, "", &query, |n| tenth.is_none_or(|tenth| n % 10 == tenth));
            wanted.truncate(limit);
            let ids = |found: &[(PointId, f32)]| found.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            let got: Vec<_> = found.iter().map(|found| (found.id, found.score)).collect();
            assert_eq!(ids(&got), ids(&wanted), "{distance:?}, {limit}");
            for ((id, score), (_, wanted)) in got.iter().zip(&wanted) {
                assert!((score - wanted).abs() < 1e-5, "{distance:?} {id}: {score} and {wanted}");
            }
        }
    }
}

/// Waits until everything is indexed.
fn settle(points: &Arc<dyn Points>) {
    while ask(points, |points| points.status()).unfinished > 0 {
        std::thread::yield_now();
    }
}

pub(crate) async fn an_index_finds_nearly_all_of_it(ground: Ground) {
    let mut chance = StdRng::seed_from_u64(11);
    let fast = |precision| Tier::Fast { m: 16, ef_construct: 64, precision };
    let kinds =
        [(Distance::Cosine, Precision::Int8), (Distance::Cosine, Precision::F32), (Distance::Euclid, Precision::Int8)];
    for (number, (distance, precision)) in kinds.into_iter().enumerate() {
        let vector = VectorConfig { dimensions: 32, distance, tier: fast(precision), ef: None };
        let config = CollectionConfig {
            vectors: [("v".to_owned(), vector)].into(),
            segmenting: Segmenting { open_points: 1_000, index_from_points: 500, merged_points_max: 100_000 },
            ..CollectionConfig::default()
        };
        let space = ground.make(&format!("c{number}"), &config).await;
        let centres: Vec<Vec<f32>> = (0..40).map(|_| random(&mut chance, 32)).collect();
        let near = |chance: &mut StdRng| {
            let centre = &centres[chance.random_range(0..centres.len())];
            let mut vector: Vec<f32> = centre.iter().map(|x| x + chance.random_range(-0.3..0.3)).collect();
            config.prepare_one("v", &mut vector).unwrap();
            vector
        };
        let points: Vec<Point> =
            (0..2_500).map(|number| point(number, Named::from([("v".to_owned(), near(&mut chance))]))).collect();
        for part in points.chunks(500) {
            space.write(vec![Write::Upsert(part.to_vec())], true).await.unwrap();
        }
        settle(&space);
        let (mut found_of, mut wanted_of) = (0, 0);
        for round in 0..40u64 {
            let query = near(&mut chance);
            let tenth = (round % 2 == 1).then_some(round % 10);
            let mut asked = search("v", &query, 10);
            asked.filter = tenth.map(|tenth| filter(json!({"must": {"key": "tenth", "match": {"value": tenth}}})));
            let found = ask(&space, |points| points.search(&asked, &Select::default()));
            let wanted = brute(distance, &points, "v", &query, |n| tenth.is_none_or(|tenth| n % 10 == tenth));
            assert_eq!(found.len(), 10);
            assert!(found.windows(2).all(|two| match distance {
                Distance::Euclid => two[0].score <= two[1].score,
                _ => two[0].score >= two[1].score,
            }));
            // Whatever was walked on, what is given out is the score of the vector itself.
            for hit in &found {
                let (_, score) = wanted.iter().find(|(id, _)| *id == hit.id).unwrap();
                assert!((score - hit.score).abs() < 1e-5, "{distance:?}: {score} and {}", hit.score);
            }
            found_of += found.iter().filter(|hit| wanted[..10].iter().any(|(id, _)| *id == hit.id)).count();
            wanted_of += 10;
        }
        let recall = found_of as f64 / wanted_of as f64;
        assert!(recall >= 0.95, "{distance:?} {precision:?}: {recall}");
    }
}

pub(crate) async fn a_filter_that_few_pass_hides_none_of_them(ground: Ground) {
    let config = CollectionConfig {
        vectors: config().vectors,
        fields: [("n".to_owned(), FieldKind::Integer)].into(),
        segmenting: Segmenting { open_points: 1_000, index_from_points: 500, merged_points_max: 100_000 },
        ..CollectionConfig::default()
    };
    let space = ground.make("c", &config).await;
    space.write(vec![Write::Upsert(numbered(0..3_000))], true).await.unwrap();
    settle(&space);
    // Those that pass are far from what is asked for, and one condition is for the index of `n`, one for nobody's.
    for (condition, many) in [
        (json!({"must": {"key": "n", "match": {"any": [2_990, 2_995, 2_999, 10_000]}}}), 3),
        (json!({"must": {"key": "n", "range": {"gte": 2_980}}}), 20),
        (json!({"must": {"key": "n", "range": {"lt": 0}}}), 0),
    ] {
        let mut asked = search("a", &[0.0, 0.0, 1.0, 0.0], 100);
        asked.filter = Some(filter(condition.clone()));
        let found = ask(&space, |points| points.search(&asked, &Select::default()));
        assert_eq!(found.len(), many, "{condition}");
        let ids: Vec<PointId> = found.iter().map(|found| found.id).collect();
        assert!(ids.is_sorted(), "{condition}: {ids:?}");
    }
}

pub(crate) async fn points_that_are_too_far_are_left_out(ground: Ground) {
    let space = ground.make("c", &config()).await;
    let mut points = numbered(0..30);
    for (number, point) in points.iter_mut().enumerate() {
        point.vectors.insert("b".to_owned(), vec![number as f32, 0.0, 0.0, 0.0]);
    }
    space.write(vec![Write::Upsert(points)], true).await.unwrap();
    for exact in [true, false] {
        let params = SearchParams { exact, ..SearchParams::default() };
        let mut far = search("a", &[10.0, 3.0, 1.0, 0.0], 30);
        (far.threshold, far.params) = (Some(2.9), params);
        let found = ask(&space, |points| points.search(&far, &Select::default()));
        assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [10, 9, 11, 8, 12].map(PointId::Number));
        let mut small = search("b", &[1.0, 0.0, 0.0, 0.0], 30);
        (small.threshold, small.params) = (Some(26.0), params);
        let found = ask(&space, |points| points.search(&small, &Select::default()));
        assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [29, 28, 27].map(PointId::Number));
        small.limit = 0;
        assert!(ask(&space, |points| points.search(&small, &Select::default())).is_empty());
    }
}

pub(crate) async fn vectors_that_do_not_fit_are_refused(ground: Ground) {
    let space = ground.make("c", &config()).await;
    let unknown = tokio::task::block_in_place(|| space.search(&search("none", &[0.0; 4], 1), &Select::default()));
    assert!(matches!(unknown, Err(VectorsError::NoVector { .. })), "{unknown:?}");
    let config = space.config();
    assert!(matches!(config.check_one("a", &[0.0; 3]), Err(VectorsError::Dimensions { expected: 4, is: 3, .. })));
    assert!(matches!(config.check_one("a", &[f32::NAN; 4]), Err(VectorsError::NotFinite { .. })));
    assert!(matches!(config.check_one("x", &[0.0; 4]), Err(VectorsError::NoVector { .. })));
    for dimensions in [0, 70_000] {
        let vectors = [(String::new(), vector(Distance::Dot, dimensions))].into();
        let wrong = CollectionConfig { vectors, ..CollectionConfig::default() };
        let made = ground.engine.create(ground.name("wrong"), &wrong).await;
        assert!(matches!(made, Err(VectorsError::Config(_))), "{made:?}");
    }
}
