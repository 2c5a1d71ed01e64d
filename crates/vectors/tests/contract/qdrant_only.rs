//! What only a cluster does: two servers at once, other clients' collections, what is written down in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use halny_payload::{FieldKind, PointId, TextOptions};
use halny_vectors::{
    AliasChange, CodeBits, CollectionConfig, Collections, Distance, EmbeddingSpace, Precision, Segmenting, Select,
    Tier, VectorConfig, VectorsError, Write,
};
use serde_json::{Value, json};

use crate::samples::{DIMENSIONS, config, filter, numbered, payload, search};
use crate::{Ground, ask, on_qdrant, qdrant};

fn made_by(version: &str) -> EmbeddingSpace {
    EmbeddingSpace {
        model: "m".to_owned(),
        version: version.repeat(64),
        pooling: "mean-unit".to_owned(),
        dimensions: DIMENSIONS,
    }
}

/// Asks the cluster itself, as another of its clients does.
async fn bare(method: reqwest::Method, path: &str, body: Value) -> Value {
    let url = std::env::var("HALNY_TEST_QDRANT").unwrap();
    let mut request = reqwest::Client::new().request(method, format!("{url}{path}"));
    if let Ok(key) = std::env::var("HALNY_TEST_QDRANT_API_KEY") {
        request = request.header("api-key", key);
    }
    request.json(&body).send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
}

#[test]
#[ignore = "asks the cluster at HALNY_TEST_QDRANT"]
fn of_servers_that_make_one_name_at_once_one_makes_it() {
    on_qdrant("of_servers_that_make_one_name", async |ground: Ground| {
        let name = ground.name("c");
        let mut engines = Vec::new();
        for _ in 0..4 {
            engines.push(qdrant().await);
        }
        for round in 0..3 {
            let configs: Vec<CollectionConfig> = (0..engines.len())
                .map(|number| CollectionConfig { space: Some(made_by(&number.to_string())), ..config() })
                .collect();
            let making = engines.iter().zip(&configs).map(|(engine, config)| engine.create(name.clone(), config));
            let made = futures::future::join_all(making).await;
            let winners: Vec<usize> =
                made.iter().enumerate().filter(|(_, made)| made.is_ok()).map(|(number, _)| number).collect();
            assert_eq!(winners.len(), 1, "round {round}: {made:?}");
            assert!(made.iter().all(|made| matches!(made, Ok(()) | Err(VectorsError::Exists(_)))), "{made:?}");
            for engine in &engines {
                let spaces = engine.get(name.as_str()).await.unwrap().spaces();
                assert_eq!(spaces.len(), 1);
                assert_eq!(spaces[0].config().space, configs[winners[0]].space);
            }
            // Whoever deletes it, it was there once.
            let gone = futures::future::join_all(engines.iter().map(|engine| engine.delete(name.as_str()))).await;
            assert_eq!(gone.into_iter().filter(|gone| *gone.as_ref().unwrap()).count(), 1);
        }
    });
}

#[test]
#[ignore = "asks the cluster at HALNY_TEST_QDRANT"]
fn what_one_server_changes_another_sees() {
    on_qdrant("what_one_server_changes", async |ground: Ground| {
        let (name, other) = (ground.name("c"), qdrant().await);
        let first = CollectionConfig { space: Some(made_by("1")), ..config() };
        ground.engine.create(name.clone(), &first).await.unwrap();
        let here = ground.engine.get(name.as_str()).await.unwrap();
        let there = other.get(name.as_str()).await.unwrap();
        there.add(CollectionConfig { space: Some(made_by("2")), ..config() }).await.unwrap();
        here.activate(&made_by("2")).await.unwrap();
        assert_eq!(other.get(name.as_str()).await.unwrap().active().config().space, Some(made_by("2")));
        here.active().write(vec![Write::Upsert(numbered(0..3))], true).await.unwrap();
        assert_eq!(ask(&there.active(), |points| points.count(None)), 3);
        assert!(other.delete(name.as_str()).await.unwrap());
        let late = here.active().write(vec![Write::Upsert(numbered(0..3))], true).await;
        assert!(matches!(late, Err(VectorsError::Closed)), "{late:?}");
        assert!(matches!(here.activate(&made_by("2")).await, Err(VectorsError::Closed)));
    });
}

#[test]
#[ignore = "asks the cluster at HALNY_TEST_QDRANT"]
fn an_alias_on_any_space_means_the_collection() {
    on_qdrant("an_alias_on_any_space", async |ground: Ground| {
        let (name, engine) = (ground.name("c"), &ground.engine);
        engine.create(name.clone(), &CollectionConfig { space: Some(made_by("1")), ..config() }).await.unwrap();
        let collection = engine.get(name.as_str()).await.unwrap();
        collection.add(CollectionConfig { space: Some(made_by("2")), ..config() }).await.unwrap();
        let alias = AliasChange::Create { alias: ground.name("now"), collection: name.clone() };
        engine.change_aliases(vec![alias]).await.unwrap();
        collection.activate(&made_by("2")).await.unwrap();
        // Other clients of the cluster read the active vectors under both names.
        let listed = bare(reqwest::Method::GET, "/aliases", json!({})).await;
        let target = |alias: &str| {
            let aliases = listed["result"]["aliases"].as_array().unwrap();
            let found = aliases.iter().find(|known| known["alias_name"] == alias);
            found.unwrap()["collection_name"].as_str().unwrap().to_owned()
        };
        assert_eq!(target(name.as_str()), target(ground.name("now").as_str()));
        // One of them puts it on the other space.
        let spaces = bare(reqwest::Method::GET, "/collections", json!({})).await;
        let spaces = spaces["result"]["collections"].as_array().unwrap().clone();
        let active = target(name.as_str());
        let begins = format!("{name}.halny-");
        let inactive = spaces.iter().map(|space| space["name"].as_str().unwrap());
        let inactive = inactive.into_iter().find(|space| space.starts_with(&begins) && *space != active).unwrap();
        let old = ground.name("old");
        let action = json!({ "create_alias": { "alias_name": old, "collection_name": inactive } });
        bare(reqwest::Method::POST, "/collections/aliases", json!({ "actions": [action] })).await;
        assert!(engine.aliases().await.unwrap().contains(&(old.clone(), name.clone())));
        let meant = engine.get(old.as_str()).await.unwrap();
        assert_eq!(meant.active().config().space, Some(made_by("2")));
        assert_eq!(meant.spaces().len(), 2);
        // It does not go with that space.
        collection.drop_space(&made_by("1")).await.unwrap();
        assert_eq!(engine.get(old.as_str()).await.unwrap().spaces().len(), 1);
    });
}

#[test]
#[ignore = "asks the cluster at HALNY_TEST_QDRANT"]
fn a_collection_of_another_client_is_served_as_it_is() {
    on_qdrant("a_collection_of_another_client", async |ground: Ground| {
        let (name, engine) = (ground.name("theirs"), &ground.engine);
        let path = format!("/collections/{name}");
        let body = json!({ "vectors": { "size": 2, "distance": "Dot" }, "metadata": { "by": "them" } });
        bare(reqwest::Method::PUT, &path, body).await;
        assert!(engine.names().await.unwrap().contains(&name));
        assert!(matches!(engine.create(name.clone(), &config()).await, Err(VectorsError::Exists(_))));
        let alias = ground.name("alias");
        let create = AliasChange::Create { alias: alias.clone(), collection: name.clone() };
        engine.change_aliases(vec![create]).await.unwrap();
        assert!(engine.aliases().await.unwrap().contains(&(alias.clone(), name.clone())));
        for known in [&name, &alias] {
            let collection = engine.get(known.as_str()).await.unwrap();
            let config = collection.active().config();
            assert_eq!((config.vectors[""].dimensions, config.vectors[""].distance), (2, Distance::Dot));
            assert_eq!((config.space.clone(), collection.follows()), (None, None));
            assert_eq!(json!(config.metadata), json!({ "by": "them" }));
            let refused = collection.add(CollectionConfig::default()).await.err().unwrap();
            assert!(
                matches!(&refused, VectorsError::Unsupported(what) if what.contains("another client")),
                "{refused}"
            );
        }
        let space = engine.get(alias.as_str()).await.unwrap().active();
        let points = [
            json!({ "id": 1, "vector": [1.0, 2.0], "payload": { "k": "x" } }),
            json!({ "id": 2, "vector": [2.0, 2.0] }),
        ];
        bare(reqwest::Method::PUT, &format!("{path}/points?wait=true"), json!({ "points": points })).await;
        let found = ask(&space, |points| points.search(&search("", &[1.0, 0.0], 5), &Select::default()));
        assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [2, 1].map(PointId::Number));
        space.write(vec![Write::Delete(halny_vectors::Selector::Ids(vec![PointId::Number(2)]))], true).await.unwrap();
        let indexed = |config: &mut CollectionConfig| {
            config.fields.insert("k".to_owned(), FieldKind::Keyword);
            config.metadata.insert("seen".to_owned(), json!(true));
            Ok(())
        };
        space.configure(Box::new(indexed)).await.unwrap();
        let told = bare(reqwest::Method::GET, &path, json!({})).await;
        assert_eq!(told["result"]["config"]["metadata"], json!({ "by": "them", "seen": true }));
        assert_eq!(told["result"]["payload_schema"]["k"]["data_type"], "keyword");
        let is_x = filter(json!({ "must": { "key": "k", "match": { "value": "x" } } }));
        assert_eq!(ask(&space, |points| points.count(Some(&is_x))), 1);
        let tuned = |config: &mut CollectionConfig| {
            config.vectors.values_mut().for_each(|vector| vector.ef = Some(200));
            Ok(())
        };
        assert!(matches!(space.configure(Box::new(tuned)).await, Err(VectorsError::Unsupported(_))));
        assert!(engine.delete(name.as_str()).await.unwrap());
        assert!(matches!(engine.get(alias.as_str()).await, Err(VectorsError::NoCollection(_))));
    });
}

#[test]
#[ignore = "asks the cluster at HALNY_TEST_QDRANT"]
fn a_configuration_comes_back_as_it_was_written_and_metadata_without_what_is_ours() {
    on_qdrant("a_configuration_comes_back", async |ground: Ground| {
        let of = |tier, ef| VectorConfig { dimensions: 16, distance: Distance::Cosine, tier, ef };
        let written = CollectionConfig {
            vectors: BTreeMap::from([
                ("f16".to_owned(), of(Tier::Fast { m: 8, ef_construct: 64, precision: Precision::F16 }, Some(77))),
                ("f32".to_owned(), of(Tier::Fast { m: 16, ef_construct: 100, precision: Precision::F32 }, None)),
                ("pq".to_owned(), of(Tier::Compact { lists: Some(9), bits: CodeBits::Four, subspaces: Some(4) }, None)),
            ]),
            space: Some(EmbeddingSpace { dimensions: 16, ..made_by("7") }),
            fields: BTreeMap::from([
                ("a.b[]".to_owned(), FieldKind::Integer),
                ("ü".to_owned(), FieldKind::Keyword),
                (
                    "t".to_owned(),
                    FieldKind::Text(TextOptions { lowercase: false, min_token_len: 2, ..TextOptions::default() }),
                ),
            ]),
            segmenting: Segmenting { open_points: 7, index_from_points: usize::MAX, merged_points_max: 9_000 },
            metadata: payload(json!({ "owner": "me", "deep": { "er": [1, null] } })),
        };
        let space = ground.make("c", &written).await;
        assert_eq!(*space.config(), written);
        let change = |config: &mut CollectionConfig| {
            config.change_metadata(payload(json!({ "owner": null, "new": 1 })));
            config.vectors.get_mut("f16").unwrap().ef = None;
            config.vectors.get_mut("f32").unwrap().tier =
                Tier::Fast { m: 24, ef_construct: 100, precision: Precision::F32 };
            config.fields.remove("ü");
            config.segmenting.index_from_points = 50;
            Ok(())
        };
        space.configure(Box::new(change)).await.unwrap();
        let mut wanted = written;
        change(&mut wanted).unwrap();
        assert_eq!(*ground.active("c").await.config(), wanted);
        assert_eq!(*space.config(), wanted);
        for (metadata, what) in [(json!({ "halny": 1 }), "halny"), (json!({ "halny": null }), "")] {
            let ours = |config: &mut CollectionConfig| {
                config.change_metadata(payload(metadata));
                Ok(())
            };
            let done = space.configure(Box::new(ours)).await;
            assert_eq!(done.is_err(), !what.is_empty(), "{done:?}");
        }
        assert_eq!(*ground.active("c").await.config(), wanted);
        let bigger = |config: &mut CollectionConfig| {
            config.vectors.get_mut("f32").unwrap().dimensions = 17;
            Ok(())
        };
        assert!(matches!(space.configure(Box::new(bigger)).await, Err(VectorsError::Config(_))));
    });
}

#[test]
#[ignore = "asks the cluster at HALNY_TEST_QDRANT"]
fn names_that_spaces_have_are_nobodys() {
    on_qdrant("names_that_spaces_have", async |ground: Ground| {
        ground.make("c", &config()).await;
        let inner = halny_types::CollectionName::new(&format!("{}.halny-plain", ground.name("c"))).unwrap();
        assert!(matches!(ground.engine.get(inner.as_str()).await, Err(VectorsError::NoCollection(_))));
        assert!(matches!(ground.engine.create(inner.clone(), &config()).await, Err(VectorsError::Name(_))));
        assert!(!ground.engine.delete(inner.as_str()).await.unwrap());
        assert!(!ground.engine.names().await.unwrap().contains(&inner));
        let alias = AliasChange::Create { alias: inner, collection: ground.name("c") };
        assert!(matches!(ground.engine.change_aliases(vec![alias]).await, Err(VectorsError::Name(_))));
    });
}

#[test]
#[ignore = "asks the cluster at HALNY_TEST_QDRANT"]
fn a_space_that_nobody_means_goes_when_its_name_is_made_unless_it_has_points_that_nobody_deleted() {
    on_qdrant("a_space_that_nobody_means", async |ground: Ground| {
        let (name, engine) = (ground.name("c"), &ground.engine);
        let of = |version: &str| CollectionConfig { space: Some(made_by(version)), ..config() };
        let unnamed = async || {
            let action = json!({ "delete_alias": { "alias_name": name } });
            bare(reqwest::Method::POST, "/collections/aliases", json!({ "actions": [action] })).await;
            assert!(!engine.names().await.unwrap().contains(&name));
            assert!(matches!(engine.get(name.as_str()).await, Err(VectorsError::NoCollection(_))));
            assert!(!engine.delete(name.as_str()).await.unwrap());
        };
        // As a server leaves it that goes away before it has named what it made.
        let first = ground.make("c", &of("1")).await;
        unnamed().await;
        let second = ground.make("c", &of("2")).await;
        assert_eq!(engine.get(name.as_str()).await.unwrap().spaces().len(), 1);
        let late = tokio::task::block_in_place(|| first.count(None));
        assert!(matches!(late, Err(VectorsError::Closed)), "{late:?}");

        // Somebody else took its name away.
        second.write(vec![Write::Upsert(numbered(0..3))], true).await.unwrap();
        let found = bare(reqwest::Method::GET, &format!("/collections/{name}"), json!({})).await;
        let mut mark = found["result"]["config"]["metadata"]["halny"].clone();
        unnamed().await;
        assert!(matches!(engine.create(name.clone(), &of("3")).await, Err(VectorsError::Exists(_))));
        assert_eq!(ask(&second, |points| points.count(None)), 3);

        // A server that deletes it went away in the middle.
        mark["deleted"] = json!(true);
        let space = format!("/collections/{}", mark["name"].as_str().unwrap());
        bare(reqwest::Method::PATCH, &space, json!({ "metadata": { "halny": mark } })).await;
        let third = ground.make("c", &of("3")).await;
        assert_eq!(ask(&third, |points| points.count(None)), 0);
        assert_eq!(engine.get(name.as_str()).await.unwrap().spaces().len(), 1);
    });
}

#[test]
#[ignore = "asks the cluster at HALNY_TEST_QDRANT"]
fn many_large_points_are_written_in_parts_and_read_in_pages() {
    on_qdrant("many_large_points", async |ground: Ground| {
        let wide = VectorConfig { dimensions: 4_096, distance: Distance::Dot, tier: Tier::default(), ef: None };
        let config =
            CollectionConfig { vectors: BTreeMap::from([(String::new(), wide)]), ..CollectionConfig::default() };
        let space = ground.make("c", &config).await;
        let mut points = numbered(0..700);
        for (number, point) in points.iter_mut().enumerate() {
            point.vectors = BTreeMap::from([(String::new(), vec![0.1 + number as f32; 4_096])]);
        }
        let points = Arc::new(points);
        space.write(vec![Write::Upsert(points.to_vec())], true).await.unwrap();
        let all = Select { payload: halny_vectors::PayloadSelect::All, vectors: halny_vectors::VectorSelect::All };
        let mut seen = Vec::new();
        ask(&space, |space| space.each(None, &all, &mut |record| seen.push(record)));
        assert_eq!(seen.len(), 700);
        assert!(
            seen.iter().zip(points.iter()).all(|(seen, point)| seen.vectors == point.vectors && seen.id == point.id)
        );
        let near = search("", &[1.0; 4_096], 600);
        let found = ask(&space, |points| points.search(&near, &all));
        assert_eq!(found.len(), 600);
        assert_eq!((found[0].id, found[599].id), (PointId::Number(699), PointId::Number(100)));
        assert!(found.iter().all(|found| found.vectors[""].len() == 4_096));
    });
}
