//! What is wrong with the entities, views and services of a project file beyond their shape.
//!
//! Expressions are not compiled here, which would take a compiler into the crate that has none of its dependencies:
//! the crate that evaluates them does, and tells [`problem_at`](crate::project::problem_at) where.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::FeatureType;
use crate::project::check::Found;
use crate::project::locate::join;
use crate::project::quote::abbreviated;
use crate::project::routes::instead_of;
use crate::project::rules::items;

/// Names that rows and expressions have for themselves.
const TAKEN: [&str; 4] = ["request", "event_timestamp", "created_timestamp", "ingested_timestamp"];
const IDENTIFIER_CHARS_MAX: usize = 64;

/// Whether a text can be the name of a view, a feature or a join key.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    text.len() <= IDENTIFIER_CHARS_MAX
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !text.contains("__")
        && !text.ends_with('_')
}

/// Takes `view:feature` or `view` apart.
#[must_use]
pub fn feature_reference(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((view, feature)) => (view, Some(feature)),
        None => (text, None),
    }
}

/// A view, as far as it can be read.
struct View<'a> {
    features: Vec<&'a str>,
}

/// Puts every broken rule of entities, views and services into `found`.
pub(in crate::project) fn check(document: &Value, found: &mut Found) {
    let entities = items(document, "entities");
    names(entities, "/entities", "entity", &mut HashMap::new(), found);
    let keys = join_keys(entities, found);
    // Both kinds of views are asked for by the same references.
    let mut taken = HashMap::new();
    for (list, what) in [("feature_views", "view"), ("on_demand_views", "on-demand view")] {
        let views = items(document, list);
        names(views, &format!("/{list}"), what, &mut taken, found);
    }
    for (at, view) in items(document, "feature_views").iter().enumerate() {
        check_view(view, &format!("/feature_views/{at}"), &keys, found);
    }
    let views = readable(document, "feature_views");
    for (at, view) in items(document, "on_demand_views").iter().enumerate() {
        check_on_demand(view, &format!("/on_demand_views/{at}"), &views, &keys, found);
    }
    let mut all = views;
    all.extend(readable(document, "on_demand_views"));
    check_services(items(document, "feature_services"), &all, found);
}

/// What is allowed and perhaps not meant: a service whose features are called alike.
pub(in crate::project) fn warn(document: &Value, found: &mut Found) {
    let mut views = readable(document, "feature_views");
    views.extend(readable(document, "on_demand_views"));
    for (at, service) in items(document, "feature_services").iter().enumerate() {
        let mut first: HashMap<&str, &str> = HashMap::new();
        for (position, reference) in items(service, "features").iter().enumerate() {
            let Some(reference) = reference.as_str() else { continue };
            let (view, feature) = feature_reference(reference);
            let Some(known) = views.get(view) else { continue };
            for feature in feature.map_or_else(|| known.features.clone(), |feature| vec![feature]) {
                if let Some(other) = first.insert(feature, view).filter(|other| *other != view) {
                    let wrong = format!("{other:?} and {view:?} both have a feature {feature:?}");
                    let right = "ask for this service with full_feature_names, or rename one of them".to_owned();
                    found.value(&format!("/feature_services/{at}/features/{position}"), wrong, right);
                }
            }
        }
    }
}

fn text<'a>(table: &'a Value, name: &str) -> Option<&'a str> {
    table.get(name).and_then(Value::as_str)
}

/// Names that are no identifiers, that are taken, or that differ by case only.
fn names<'a>(
    tables: &'a [Value],
    pointer: &str,
    what: &'static str,
    seen: &mut HashMap<String, (&'static str, usize, &'a str)>,
    found: &mut Found,
) {
    for (at, table) in tables.iter().enumerate() {
        let own = format!("{pointer}/{at}/name");
        let Some(name) = text(table, "name").filter(|_| !found.is_broken(&own)) else { continue };
        if !identifier(name, &own, found) {
            continue;
        }
        match seen.get(&name.to_ascii_lowercase()).copied() {
            Some((kind, first, taken)) => {
                let but = if taken == name { "" } else { ", but for case" };
                let wrong = format!("{kind} {first} has the name {} too{but}", abbreviated(taken));
                found.value(&own, wrong, format!("write a name that no other {what} has"));
            }
            None => drop(seen.insert(name.to_ascii_lowercase(), (what, at, name))),
        }
    }
}

fn identifier(name: &str, pointer: &str, found: &mut Found) -> bool {
    if !is_identifier(name) {
        let wrong = format!("{} cannot be read in an expression", abbreviated(name));
        let right = "write letters, digits and single `_`, a letter first and no `_` last".to_owned();
        found.value(pointer, wrong, right);
        return false;
    }
    if TAKEN.contains(&name) {
        let wrong = format!("{name:?} is a name that every view and every row has already");
        found.value(pointer, wrong, "write another name".to_owned());
        return false;
    }
    true
}

/// The join key of each entity.
fn join_keys<'a>(entities: &'a [Value], found: &mut Found) -> BTreeMap<&'a str, &'a str> {
    let mut keys = BTreeMap::new();
    let mut seen: HashMap<&str, (usize, Option<&Value>)> = HashMap::new();
    for (at, entity) in entities.iter().enumerate() {
        let Some(name) = text(entity, "name") else { continue };
        let pointer = format!("/entities/{at}/join_key");
        let key = text(entity, "join_key").unwrap_or(name);
        if entity.get("join_key").is_some() && !found.is_broken(&pointer) {
            identifier(key, &pointer, found);
        }
        let typed = format!("/entities/{at}/value_type");
        let value_type = entity.get("value_type").filter(|_| !found.is_broken(&typed));
        if let Some(Ok(known)) = value_type.map(|it| serde_json::from_value::<FeatureType>(it.clone()))
            && (known.list || !known.of.is_key())
        {
            let wrong = format!("two keys of type {known} cannot be told to be the same");
            found.value(&typed, wrong, "write int32, int64, string or bytes".to_owned());
        }
        if let Some((first, other)) = seen.insert(key, (at, value_type)).filter(|(_, other)| *other != value_type) {
            let of = |it: Option<&Value>| it.and_then(Value::as_str).unwrap_or("string").to_owned();
            let wrong =
                format!("entity {first} has the join key {key:?} as {}, and this one as {}", of(other), of(value_type));
            let right = "write the same value_type, or another join_key".to_owned();
            found.value(&format!("/entities/{at}/name"), wrong, right);
        }
        keys.insert(name, key);
    }
    keys
}

fn check_view(view: &Value, pointer: &str, entities: &BTreeMap<&str, &str>, found: &mut Found) {
    let (mut keys, mut all_known) = (BTreeSet::new(), true);
    for (at, entity) in items(view, "entities").iter().enumerate() {
        let own = format!("{pointer}/entities/{at}");
        let Some(name) = entity.as_str() else { continue };
        match entities.get(name) {
            None => {
                all_known = false;
                let wrong = format!("no entity is called {}", abbreviated(name));
                found.value(&own, wrong, instead_of(name, entities.keys().copied()));
            }
            Some(key) if !keys.insert(*key) => {
                let wrong = format!("the join key {key:?} is in this view already");
                found.value(&own, wrong, "write each entity once".to_owned());
            }
            Some(_) => {}
        }
    }
    let features = feature_names(view, pointer, &keys, found);
    let Some(source) = view.get("source").filter(|source| source.is_object()) else { return };
    let batch = source.get("batch").filter(|batch| batch.is_object());
    if batch.is_none() && source.get("push").and_then(Value::as_bool) != Some(true) {
        let right = "write batch = { path = \"...\" }, push = true, or both".to_owned();
        found.value(&format!("{pointer}/source"), "no row can come into this view", right);
    }
    let Some(batch) = batch else { return };
    check_path(batch, &format!("{pointer}/source/batch/path"), found);
    let mut mapped: BTreeMap<&str, &str> = BTreeMap::new();
    for (column, name) in batch.get("mapping").and_then(Value::as_object).into_iter().flatten() {
        let own = join(&format!("{pointer}/source/batch/mapping"), column);
        let Some(name) = name.as_str() else { continue };
        if !features.contains(name) && !keys.contains(name) {
            // What an entity that is not known would be called is not known.
            if !all_known {
                continue;
            }
            let wrong = format!("the view has neither a feature nor a join key {}", abbreviated(name));
            found.value(&own, wrong, instead_of(name, features.iter().chain(&keys).copied()));
        } else if let Some(other) = mapped.insert(name, column) {
            let wrong = format!("the column {other:?} is {name:?} already");
            found.value(&own, wrong, "write each feature once".to_owned());
        }
    }
}

/// A path that leads somewhere: patterns stand in the last part, and only buckets have a scheme.
fn check_path(batch: &Value, pointer: &str, found: &mut Found) {
    let Some(path) = text(batch, "path").filter(|_| !found.is_broken(pointer)) else { return };
    let (folder, _) = path.rsplit_once('/').unwrap_or(("", path));
    if path.contains("://")
        && !path.strip_prefix("s3://").is_some_and(|rest| !rest.starts_with('/') && !rest.is_empty())
    {
        let wrong = format!("{} is neither a path nor a bucket", abbreviated(path));
        found.value(pointer, wrong, "write a path, or s3://bucket/prefix".to_owned());
    } else if folder.contains('*') {
        let wrong = format!("{} has a `*` in the name of a folder", abbreviated(path));
        let right = "write `*` in the name of the file only; a folder is read with all folders below it".to_owned();
        found.value(pointer, wrong, right);
    }
}

/// The names of a view's features: identifiers, once each, and no join keys.
fn feature_names<'a>(view: &'a Value, pointer: &str, keys: &BTreeSet<&str>, found: &mut Found) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (at, feature) in items(view, "features").iter().enumerate() {
        let own = format!("{pointer}/features/{at}/name");
        let Some(name) = text(feature, "name").filter(|_| !found.is_broken(&own)) else { continue };
        if !identifier(name, &own, found) {
            continue;
        }
        if keys.contains(name) {
            let wrong = format!("{name:?} is a join key of this view");
            found.value(&own, wrong, "write another name, or take the feature out".to_owned());
        } else if !seen.insert(name) {
            let wrong = format!("the view has a feature {name:?} already");
            found.value(&own, wrong, "write each feature once".to_owned());
        }
    }
    seen
}

fn check_on_demand(
    view: &Value,
    pointer: &str,
    views: &BTreeMap<&str, View<'_>>,
    entities: &BTreeMap<&str, &str>,
    found: &mut Found,
) {
    let mut seen = BTreeSet::new();
    let mut any = false;
    for (at, source) in items(view, "sources").iter().enumerate() {
        let own = format!("{pointer}/sources/{at}");
        let Some(name) = source.as_str() else { continue };
        any = true;
        if !views.contains_key(name) {
            let wrong = format!("no feature view is called {}", abbreviated(name));
            found.value(&own, wrong, instead_of(name, views.keys().copied()));
        } else if !seen.insert(name) {
            found.value(&own, format!("{name:?} is a source already"), "write each view once".to_owned());
        }
    }
    for (name, _) in view.get("request").and_then(Value::as_object).into_iter().flatten() {
        any = true;
        let own = join(&format!("{pointer}/request"), name);
        if identifier(name, &own, found) && entities.values().any(|key| key == name) {
            let wrong = format!("{name:?} is a join key, and a request says each name once");
            found.value(&own, wrong, "write another name".to_owned());
        }
    }
    if !any {
        let right = "write sources = [\"...\"], or request = { ... }".to_owned();
        found.missing(pointer, "there is nothing that the expressions could read".to_owned(), right);
    }
    feature_names(view, pointer, &BTreeSet::new(), found);
}

fn readable<'a>(document: &'a Value, list: &str) -> BTreeMap<&'a str, View<'a>> {
    let view = |view: &'a Value| {
        let mut features: Vec<&str> = Vec::new();
        for name in items(view, "features").iter().filter_map(|feature| text(feature, "name")) {
            if !features.contains(&name) {
                features.push(name);
            }
        }
        Some((text(view, "name")?, View { features }))
    };
    items(document, list).iter().filter_map(view).collect()
}

fn check_services(services: &[Value], views: &BTreeMap<&str, View<'_>>, found: &mut Found) {
    let mut seen: HashMap<(String, u64), usize> = HashMap::new();
    for (at, service) in services.iter().enumerate() {
        let pointer = format!("/feature_services/{at}");
        let version = service.get("version").map_or(Some(1), Value::as_u64);
        if let (Some(name), Some(version)) = (text(service, "name"), version)
            && let Some(first) = seen.insert((name.to_ascii_lowercase(), version), at)
        {
            let wrong = format!("service {first} is version {version} of {} too", abbreviated(name));
            found.value(&format!("{pointer}/name"), wrong, format!("write version = {}", version + 1));
        }
        let mut asked = BTreeSet::new();
        for (position, reference) in items(service, "features").iter().enumerate() {
            let own = format!("{pointer}/features/{position}");
            if let Some(reference) = reference.as_str().filter(|_| !found.is_broken(&own)) {
                check_reference(reference, &own, views, &mut asked, found);
            }
        }
    }
}

fn check_reference<'a>(
    reference: &'a str,
    pointer: &str,
    views: &BTreeMap<&'a str, View<'a>>,
    asked: &mut BTreeSet<(&'a str, &'a str)>,
    found: &mut Found,
) {
    let (name, feature) = feature_reference(reference);
    let Some(view) = views.get(name) else {
        let wrong = format!("no view is called {}", abbreviated(name));
        return found.value(pointer, wrong, instead_of(name, views.keys().copied()));
    };
    if let Some(feature) = feature.filter(|feature| !view.features.contains(feature)) {
        let wrong = format!("the view {name:?} has no feature {}", abbreviated(feature));
        return found.value(pointer, wrong, instead_of(feature, view.features.iter().copied()));
    }
    for feature in feature.map_or_else(|| view.features.clone(), |feature| vec![feature]) {
        if !asked.insert((name, feature)) {
            let wrong = format!("the service has {name}:{feature} already");
            return found.value(pointer, wrong, "write each feature once".to_owned());
        }
    }
}
