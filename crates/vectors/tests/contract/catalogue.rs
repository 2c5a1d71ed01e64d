//! Collections, aliases and spaces.

use halny_payload::FieldKind;
use halny_vectors::{AliasChange, CollectionConfig, EmbeddingSpace, Precision, Tier, VectorsError, Write};
use serde_json::json;

use crate::samples::{ALL, DIMENSIONS, config, filter, numbered, search};
use crate::{Ground, ask};

pub(crate) async fn collections_are_made_listed_and_removed(ground: Ground) {
    let engine = &ground.engine;
    for name in ["b", "a"] {
        engine.create(ground.name(name), &config()).await.unwrap();
    }
    let names = engine.names().await.unwrap();
    let own: Vec<_> = names.iter().filter(|name| [ground.name("a"), ground.name("b")].contains(name)).collect();
    assert_eq!(own, [&ground.name("a"), &ground.name("b")]);
    assert_eq!(*ground.active("a").await.config(), config());
    assert!(engine.delete(ground.name("a").as_str()).await.unwrap());
    assert!(!engine.delete(ground.name("a").as_str()).await.unwrap(), "it is gone");
    assert!(matches!(engine.get(ground.name("a").as_str()).await, Err(VectorsError::NoCollection(_))));
    assert!(engine.get(ground.name("b").as_str()).await.is_ok());
}

pub(crate) async fn names_that_are_taken_or_unknown_are_refused(ground: Ground) {
    let engine = &ground.engine;
    engine.create(ground.name("a"), &config()).await.unwrap();
    assert!(matches!(engine.create(ground.name("a"), &config()).await, Err(VectorsError::Exists(_))));
    let alias = |alias: &str, of: &str| AliasChange::Create { alias: ground.name(alias), collection: ground.name(of) };
    engine.change_aliases(vec![alias("other", "a")]).await.unwrap();
    assert!(matches!(engine.create(ground.name("other"), &config()).await, Err(VectorsError::Exists(_))));
    assert!(matches!(engine.change_aliases(vec![alias("a", "a")]).await, Err(VectorsError::Exists(_))));
    assert!(matches!(engine.change_aliases(vec![alias("x", "none")]).await, Err(VectorsError::NoCollection(_))));
    let gone = engine.change_aliases(vec![AliasChange::Delete(ground.name("none"))]).await;
    assert!(matches!(gone, Err(VectorsError::NoAlias(_))));
    for name in ["none", "a'; DROP TABLE x; --", "a\0", ""] {
        assert!(matches!(engine.get(name).await, Err(VectorsError::NoCollection(_))), "{name:?}");
        assert!(!engine.delete(&name.replace('\0', "-")).await.unwrap());
    }
}

pub(crate) async fn aliases_change_all_at_once_or_not_at_all(ground: Ground) {
    let engine = &ground.engine;
    for (name, points) in [("old", 3), ("new", 5)] {
        let space = ground.make(name, &config()).await;
        space.write(vec![Write::Upsert(numbered(0..points))], true).await.unwrap();
    }
    let alias = |of: &str| AliasChange::Create { alias: ground.name("current"), collection: ground.name(of) };
    let count = async || {
        let space = ground.active("current").await;
        ask(&space, |points| points.count(None))
    };
    engine.change_aliases(vec![alias("old")]).await.unwrap();
    assert_eq!(count().await, 3);
    engine.change_aliases(vec![AliasChange::Delete(ground.name("current")), alias("new")]).await.unwrap();
    assert_eq!(count().await, 5);
    // The last one cannot be made, so none is.
    let both = vec![alias("old"), AliasChange::Delete(ground.name("none"))];
    assert!(engine.change_aliases(both).await.is_err());
    assert_eq!(count().await, 5);
    let rename = AliasChange::Rename { from: ground.name("current"), to: ground.name("latest") };
    engine.change_aliases(vec![rename]).await.unwrap();
    let aliases = engine.aliases().await.unwrap();
    assert!(aliases.contains(&(ground.name("latest"), ground.name("new"))));
    assert!(!aliases.iter().any(|(alias, _)| *alias == ground.name("current")));
    // With its collection an alias goes too.
    engine.delete(ground.name("new").as_str()).await.unwrap();
    assert!(matches!(engine.get(ground.name("latest").as_str()).await, Err(VectorsError::NoCollection(_))));
}

fn made_by(version: &str) -> EmbeddingSpace {
    EmbeddingSpace {
        model: "m".to_owned(),
        version: version.repeat(64),
        pooling: "mean-unit".to_owned(),
        dimensions: DIMENSIONS,
    }
}

pub(crate) async fn spaces_live_side_by_side_and_are_switched_at_once(ground: Ground) {
    let of = |version| CollectionConfig { space: Some(made_by(version)), ..config() };
    ground.make("c", &of("1")).await;
    let name = ground.name("c");
    let collection = ground.engine.get(name.as_str()).await.unwrap();
    assert_eq!(collection.active().config().space, Some(made_by("1")));
    let second = collection.add(of("2")).await.unwrap();
    assert!(matches!(collection.add(of("2")).await, Err(VectorsError::Exists(_))));
    collection.active().write(vec![Write::Upsert(numbered(0..3))], true).await.unwrap();
    second.write(vec![Write::Upsert(numbered(0..5))], true).await.unwrap();
    let count = async || ask(&ground.active("c").await, |points| points.count(None));
    assert_eq!(count().await, 3);
    // Who has begun with a space goes on with it.
    let held = ground.active("c").await;
    collection.activate(&made_by("2")).await.unwrap();
    assert_eq!(count().await, 5);
    assert_eq!(ask(&held, |points| points.count(None)), 3);
    assert!(matches!(collection.drop_space(&made_by("2")).await, Err(VectorsError::Invalid(_))), "it is in use");
    assert!(matches!(collection.activate(&made_by("3")).await, Err(VectorsError::NoSpace(_))), "there is none");
    let spaces = ground.engine.get(name.as_str()).await.unwrap().spaces();
    let made: Vec<_> = spaces.iter().map(|space| space.config().space.clone().unwrap()).collect();
    assert_eq!(made, [made_by("2"), made_by("1")], "the active one first");
    // The same files under another name: the collection follows that name, and asks the same vectors.
    let renamed = EmbeddingSpace { model: "other".to_owned(), ..made_by("2") };
    assert!(matches!(
        collection.add(CollectionConfig { space: Some(renamed.clone()), ..config() }).await,
        Err(VectorsError::Exists(_))
    ));
    collection.activate(&renamed).await.unwrap();
    let followed = ground.engine.get(name.as_str()).await.unwrap();
    assert_eq!(followed.follows().as_deref(), Some("other"));
    assert_eq!(followed.space_of(&renamed).unwrap().config().space, Some(made_by("2")));
    assert_eq!(followed.active().config().space, Some(made_by("2")));
    assert!(followed.space_of(&made_by("3")).is_none());
    collection.drop_space(&made_by("1")).await.unwrap();
    let left = ground.engine.get(name.as_str()).await.unwrap();
    assert_eq!(left.spaces().len(), 1);
    assert_eq!(ask(&left.active(), |points| points.count(None)), 5);
}

pub(crate) async fn a_configuration_changes_what_is_indexed_and_nothing_else(ground: Ground) {
    let space = ground.make("c", &config()).await;
    space.write(vec![Write::Upsert(numbered(0..50))], true).await.unwrap();
    let near = search("a", &[20.0, 3.0, 1.0, 0.0], 5);
    let few = filter(json!({"must": {"key": "n", "match": {"any": [7, 9, 700]}}}));
    let before = ask(&space, |points| points.search(&near, &ALL));
    for fields in [vec![("n", FieldKind::Integer), ("odd", FieldKind::Bool)], vec![("n", FieldKind::Float)], vec![]] {
        let named = fields.clone();
        let change = move |config: &mut CollectionConfig| {
            config.fields = named.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
            Ok(())
        };
        space.configure(Box::new(change)).await.unwrap();
        assert_eq!(ground.active("c").await.config().fields.len(), fields.len());
        assert_eq!(ask(&space, |points| points.count(Some(&few))), 2);
    }
    let slower = |config: &mut CollectionConfig| {
        let tier = Tier::Fast { m: 8, ef_construct: 64, precision: Precision::F32 };
        config.vectors.values_mut().for_each(|vector| vector.tier = tier.clone());
        Ok(())
    };
    space.configure(Box::new(slower)).await.unwrap();
    assert_eq!(ask(&space, |points| points.search(&near, &ALL)), before);
    let refused = space.configure(Box::new(|_| Err(VectorsError::Unsupported("that".to_owned())))).await;
    assert!(matches!(refused, Err(VectorsError::Unsupported(_))));
    let wrong = |config: &mut CollectionConfig| {
        let tier = Tier::Fast { m: 1, ef_construct: 64, precision: Precision::F32 };
        config.vectors.values_mut().for_each(|vector| vector.tier = tier.clone());
        Ok(())
    };
    assert!(matches!(space.configure(Box::new(wrong)).await, Err(VectorsError::Config(_))));
}

pub(crate) async fn what_was_deleted_does_not_come_back_under_its_name(ground: Ground) {
    let space = ground.make("c", &config()).await;
    space.write(vec![Write::Upsert(numbered(0..3))], true).await.unwrap();
    ground.engine.delete(ground.name("c").as_str()).await.unwrap();
    let late = space.write(vec![Write::Upsert(numbered(0..3))], true).await;
    // It ends with what it began with, or is told.
    assert!(matches!(late, Ok(_) | Err(VectorsError::Closed)), "{late:?}");
    // Another of the same name has nothing of it.
    let other = ground.make("c", &config()).await;
    assert_eq!(ask(&other, |points| points.count(None)), 0);
}
