//! The JSON Schema of `halny.toml`, for editors and for the check.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::Project;

/// The JSON Schema (draft 2020-12) of the project file, generated from the types in
/// [`model`](super::model).
///
/// TOML has no null, so no setting may be one: what the types call optional is a setting that may
/// be left out. Two calls in one build give the same text.
#[must_use]
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Project>().to_value();
    tidy(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), Value::from("Halny project file (halny.toml)"));
    }
    schema
}

/// Takes out what means nothing in a TOML file: nulls, and the widths of Rust's integers.
fn tidy(node: &mut Value) {
    match node {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(object) => {
            object.values_mut().for_each(tidy);
            tidy_object(object);
        }
        _ => {}
    }
}

fn tidy_object(object: &mut Map<String, Value>) {
    if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        object.remove("format");
    }
    if let Some(Value::String(description)) = object.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    match object.get_mut("default") {
        Some(Value::Null) => drop(object.remove("default")),
        Some(Value::Object(defaults)) => defaults.retain(|_, value| !value.is_null()),
        _ => {}
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
}

/// Follows `$ref` until something stands there by itself.
pub(super) fn resolve<'s>(schema: &'s Value, mut node: &'s Value) -> &'s Value {
    // No chain in a schema that is generated from types is longer than the types are many.
    for _ in 0..64 {
        let target = node.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
        match target.and_then(|pointer| schema.pointer(pointer)) {
            Some(next) => node = next,
            None => break,
        }
    }
    node
}

/// What the schema says of the place that a JSON pointer names in a document.
pub(super) fn node_at<'s>(schema: &'s Value, pointer: &str) -> Option<&'s Value> {
    super::locate::segments(pointer).try_fold(schema, |node, segment| {
        let node = resolve(schema, node);
        let named = node.get("properties").and_then(|properties| properties.get(segment.as_ref()));
        // A table whose names are the user's own says once what stands behind each.
        let any = || node.get("additionalProperties").filter(|any| any.is_object());
        named.or_else(|| node.get("items")).or_else(any)
    })
}

/// Every table of the schema: how the file writes its header, and the names it knows.
pub(super) fn tables(schema: &Value) -> Vec<(String, Vec<&str>)> {
    let mut tables = Vec::new();
    collect(schema, schema, "", false, 0, &mut tables);
    tables
}

fn collect<'s>(
    schema: &'s Value,
    node: &'s Value,
    path: &str,
    repeated: bool,
    depth: usize,
    tables: &mut Vec<(String, Vec<&'s str>)>,
) {
    let node = resolve(schema, node);
    if depth > 16 {
        return;
    }
    if let Some(items) = node.get("items") {
        return collect(schema, items, path, true, depth + 1, tables);
    }
    let Some(properties) = node.get("properties").and_then(Value::as_object) else { return };
    if !path.is_empty() {
        let header = if repeated { format!("[[{path}]]") } else { format!("[{path}]") };
        tables.push((header, properties.keys().map(String::as_str).collect()));
    }
    for (name, property) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect(schema, property, &path, false, depth + 1, tables);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn every_object(node: &Value, visit: &mut impl FnMut(&Map<String, Value>)) {
        match node {
            Value::Array(items) => items.iter().for_each(|item| every_object(item, visit)),
            Value::Object(object) => {
                visit(object);
                object.values().for_each(|value| every_object(value, visit));
            }
            _ => {}
        }
    }

    #[test]
    fn the_schema_is_itself_valid_and_stable() {
        assert!(jsonschema::meta::is_valid(&schema()));
        assert_eq!(schema()["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema().to_string(), schema().to_string());
    }

    #[test]
    fn the_schema_knows_no_null_and_no_width_of_an_integer() {
        let schema = schema();
        let text = schema.to_string();
        for jargon in ["null", "uint", "$id"] {
            assert!(!text.contains(jargon), "{jargon} in {text}");
        }
    }

    #[test]
    fn every_setting_is_described_and_every_table_refuses_unknown_names() {
        let schema = schema();
        let mut tables = 0;
        every_object(&schema, &mut |object| {
            let Some(properties) = object.get("properties").and_then(Value::as_object) else { return };
            tables += 1;
            assert_eq!(object["additionalProperties"], false, "{object:?}");
            for (name, property) in properties {
                assert!(property["description"].as_str().unwrap().ends_with('.'), "{name} is not described");
            }
        });
        assert_eq!(
            tables, 39,
            "project, server, onnxruntime, cache, vectors, model, text options, generate options, adapter, profile, its generate; \
             features, entity, feature view, feature, source, batch source, on-demand view, its feature, feature service; \
             route, slo, field, step, its eight actions, message; store, jobs, queue, schedule, command, webhook"
        );
    }

    #[test]
    fn every_number_has_both_ends() {
        let mut numbers = 0;
        every_object(&schema(), &mut |object| {
            let properties = object.get("properties").and_then(Value::as_object);
            for (name, property) in properties.into_iter().flatten().filter(|(_, p)| p["type"] == "integer") {
                numbers += 1;
                assert!(property["minimum"].is_u64() && property["maximum"].is_u64(), "{name}: {property}");
            }
        });
        assert!(numbers >= 10, "only {numbers} numbers were looked at");
    }
}
