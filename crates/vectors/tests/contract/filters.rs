//! Filters mean what `Filter::matches` says, whoever answers them.

use std::collections::BTreeMap;
use std::sync::Arc;

use halny_payload::{FieldKind, Filter, PointId, Subject, TextOptions};
use halny_vectors::{CollectionConfig, Point, Scroll, Select, Write};
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::samples::{config, drawn, filter, filters, numbered, payload, points, search};
use crate::{Ground, ask};

/// The ids of those that pass, by the definition.
fn passing(points: &BTreeMap<PointId, Point>, filter: &Filter, fields: &BTreeMap<String, FieldKind>) -> Vec<PointId> {
    let passes = |point: &&Point| {
        let has_vector = |name: &str| point.vectors.contains_key(name);
        filter.matches(&Subject { id: point.id, payload: &point.payload, has_vector: &has_vector, fields })
    };
    points.values().filter(passes).map(|point| point.id).collect()
}

pub(crate) async fn a_filter_passes_what_its_definition_passes(ground: Ground) {
    let text = FieldKind::Text(TextOptions { lowercase: false, ..TextOptions::default() });
    let plain = CollectionConfig::default().fields;
    let indexed = BTreeMap::from([
        ("a".to_owned(), FieldKind::Keyword),
        ("a.b".to_owned(), FieldKind::Integer),
        ("b[]".to_owned(), FieldKind::Bool),
        ("b".to_owned(), text),
    ]);
    for (number, fields) in [plain, indexed].into_iter().enumerate() {
        let space = ground.make(&format!("c{number}"), &CollectionConfig { fields: fields.clone(), ..config() }).await;
        let mut known: BTreeMap<PointId, Point> = BTreeMap::new();
        for (number, point) in drawn(points(), 120).into_iter().enumerate() {
            // Most by number, so that there are many.
            let id = if number % 3 == 0 { point.id } else { PointId::Number(100 + number as u64) };
            known.insert(id, Point { id, ..point });
        }
        space.write(vec![Write::Upsert(known.values().cloned().collect())], true).await.unwrap();
        let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(300) });
        let checked = runner.run(&filters(), |filter| {
            let wanted = passing(&known, &filter, &fields);
            let filter = Arc::new(filter);
            let scroll =
                Scroll { from: None, limit: 1_000, filter: Some(Arc::clone(&filter)), select: Select::default() };
            let (records, _) = ask(&space, |points| points.scroll(&scroll));
            let found: Vec<PointId> = records.into_iter().map(|record| record.id).collect();
            proptest::prop_assert_eq!(&found, &wanted);
            proptest::prop_assert_eq!(ask(&space, |points| points.count(Some(&filter))), wanted.len());
            let mut near = search("a", &[0.5, 1.0, -1.0, 0.0], 1_000);
            near.filter = Some(filter);
            let mut found: Vec<PointId> = ask(&space, |points| points.search(&near, &Select::default()))
                .into_iter()
                .map(|found| found.id)
                .collect();
            found.sort();
            let wanted: Vec<PointId> = wanted.into_iter().filter(|id| known[id].vectors.contains_key("a")).collect();
            proptest::prop_assert_eq!(found, wanted);
            Ok(())
        });
        if let Err(error) = checked {
            panic!("{error}");
        }
    }
}

pub(crate) async fn what_is_hard_to_write_is_found_as_it_is(ground: Ground) {
    let space = ground.make("c", &config()).await;
    let texts =
        ["it's", "\"", "\\", "$1", "%", "_", "'; DROP SCHEMA halny_vectors CASCADE; --", "\u{1f600}", "a\tb", "", " "];
    let mut points = numbered(0..texts.len() as u64);
    for (point, text) in points.iter_mut().zip(texts) {
        point.payload = Arc::new(payload(json!({ text: text, "t": text })));
    }
    space.write(vec![Write::Upsert(points)], true).await.unwrap();
    for (number, text) in texts.into_iter().enumerate() {
        let path = format!("\"{text}\"");
        let mut keys = vec!["t".to_owned()];
        // A path cannot name a key with a quote in it.
        if path.parse::<halny_payload::JsonPath>().is_ok() {
            keys.push(path);
        }
        for key in keys {
            let is = filter(json!({"must": {"key": key, "match": {"value": text}}}));
            let scroll = Scroll { from: None, limit: 100, filter: Some(is), select: Select::default() };
            let (found, _) = ask(&space, |points| points.scroll(&scroll));
            assert_eq!(
                found.iter().map(|found| found.id).collect::<Vec<_>>(),
                [PointId::Number(number as u64)],
                "{key:?} {text:?}"
            );
        }
    }
    // A character that an engine cannot keep is refused or found, and never something else.
    let nul = filter(json!({"must": {"key": "t", "match": {"value": "\0"}}}));
    assert_eq!(ask(&space, |points| points.count(Some(&nul))), 0);
}
