//! The structural part of the check: names, types and ranges, in words.
//!
//! The schema finds the places that are wrong; the words come from what the schema says of the
//! place, not from the validator's text, which speaks of schemas and not of settings.

use std::sync::LazyLock;

use jsonschema::Validator;
use jsonschema::error::{ValidationError, ValidationErrorKind};
use serde_json::Value;

use super::check::Found;
use super::locate::{join, segments};
use super::quote::{abbreviated, alternatives, kind, shown};
use super::schema::{node_at, resolve, schema, tables};

/// Names longer than this are not compared with the known ones: no typing error is that long.
const COMPARED_BYTES_MAX: usize = 64;
/// How alike two names must be (Jaro-Winkler, 0 to 1) for one to be proposed for the other.
/// `max_batchsize` and `max_batch_size` have 0.98, `tsak` and `task` 0.93, `foo` and `task` 0.
const LIKENESS_MIN: f64 = 0.84;
/// A name this much alike is meant, whatever other table has the name that was written.
const LIKENESS_SURE: f64 = 0.95;

static SCHEMA: LazyLock<Value> = LazyLock::new(schema);
static VALIDATOR: LazyLock<Option<Validator>> = LazyLock::new(|| jsonschema::draft202012::new(&SCHEMA).ok());

/// Puts every structural problem of the document into `found`.
pub(super) fn check(document: &Value, found: &mut Found) {
    // The schema compiles (a test says so). If it did not, serde would still refuse a wrong file.
    let Some(validator) = VALIDATOR.as_ref() else { return };
    for error in validator.iter_errors(document) {
        explain(&error, found);
    }
    for pointer in std::mem::take(&mut found.fractions) {
        // JSON Schema counts 4.0 as an integer; a setting does not.
        let whole = node_at(&SCHEMA, &pointer).is_some_and(|node| !types(node).contains(&"number"));
        if whole && let Some(value) = document.pointer(&pointer) {
            found.value(
                &pointer,
                format!("{} is {}", shown(value), kind(value)),
                format!("write {}", expected(&pointer)),
            );
        }
    }
}

fn explain(error: &ValidationError<'_>, found: &mut Found) {
    let pointer = error.instance_path().as_str();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            for name in unexpected {
                let right = instead_of(name, pointer, error.instance());
                found.key(&join(pointer, name), "there is no such setting".to_owned(), right);
            }
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            let right = format!("add {name}, {}", expected(&join(pointer, name)));
            found.missing(pointer, format!("{name} is missing"), right);
        }
        other => {
            let wrong = wrong(error.instance(), pointer, other);
            found.value(pointer, wrong, format!("write {}", expected(pointer)));
        }
    }
}

/// What is wrong with a value of the right name.
fn wrong(value: &Value, pointer: &str, error: &ValidationErrorKind) -> String {
    let types = node_at(&SCHEMA, pointer).map(types).unwrap_or_default();
    let right_type = types.iter().any(|name| match *name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        _ => value.is_object(),
    });
    match value {
        _ if !right_type => format!("{} is {}", shown(value), kind(value)),
        Value::Array(items) => format!("this list has {} items", items.len()),
        Value::Number(_) => format!("{} is out of range", shown(value)),
        Value::String(text) if text.is_empty() => "the text is empty".to_owned(),
        Value::String(text) if matches!(error, ValidationErrorKind::MaxLength { .. }) => {
            format!("{} is {} characters long", abbreviated(text), text.chars().count())
        }
        _ => {
            let noun = node_at(&SCHEMA, pointer)
                .and_then(|node| resolve(&SCHEMA, node).get("title").and_then(Value::as_str).map(str::to_owned))
                .or_else(|| segments(pointer).last().map(|name| name.replace('_', " ")))
                .unwrap_or_else(|| "value".to_owned());
            if noun.ends_with('s') {
                return format!("{} is not a number of {noun}", shown(value));
            }
            let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
            format!("{} is not {article} {noun}", shown(value))
        }
    }
}

/// What the place takes, in words.
pub(super) fn expected(pointer: &str) -> String {
    node_at(&SCHEMA, pointer).map_or_else(|| "something else".to_owned(), describe)
}

fn describe(node: &Value) -> String {
    let node = resolve(&SCHEMA, node);
    let text = |name: &str| node.get(name).and_then(Value::as_str);
    let number = |name: &str| node.get(name).filter(|value| value.is_number());
    if let (Some(title), Some(description)) = (text("title"), text("description")) {
        return format!("a {title}: {}", description.trim_end_matches('.'));
    }
    if let Some(constant) = node.get("const") {
        return constant.to_string();
    }
    if let Some(choices) = choices(node) {
        if choices.iter().all(|choice| choice.get("const").is_some()) && choices.len() > 1 {
            return format!("one of {}", choices.iter().map(describe).collect::<Vec<_>>().join(", "));
        }
        return alternatives(&choices.iter().map(describe).collect::<Vec<_>>());
    }
    if let Some(examples) = node.get("examples").and_then(Value::as_array) {
        return format!("text such as {}", alternatives(&examples.iter().map(Value::to_string).collect::<Vec<_>>()));
    }
    match text("type").unwrap_or_default() {
        "integer" => match (number("minimum"), number("maximum")) {
            (Some(least), Some(most)) => format!("a whole number from {least} to {most}"),
            (Some(least), None) => format!("a whole number of at least {least}"),
            (None, Some(most)) => format!("a whole number of at most {most}"),
            (None, None) => "a whole number".to_owned(),
        },
        "number" => "a number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "string" => match (number("minLength"), number("maxLength")) {
            (Some(least), Some(most)) => format!("text of {least} to {most} characters"),
            _ => "text".to_owned(),
        },
        "array" => match number("maxItems") {
            Some(most) => format!("a list of at most {most} tables"),
            None => "a list".to_owned(),
        },
        _ => "a table".to_owned(),
    }
}

fn choices(node: &Value) -> Option<&Vec<Value>> {
    node.get("oneOf").or_else(|| node.get("anyOf")).and_then(Value::as_array)
}

/// The JSON types that a place takes.
fn types(node: &Value) -> Vec<&str> {
    let node = resolve(&SCHEMA, node);
    if let Some(name) = node.get("type").and_then(Value::as_str) {
        return vec![name];
    }
    match choices(node) {
        Some(choices) => choices.iter().flat_map(types).collect(),
        None if node.get("const").is_some_and(Value::is_string) => vec!["string"],
        None => Vec::new(),
    }
}

/// What to write instead of a name that is not known at `pointer`.
fn instead_of(name: &str, pointer: &str, table: &Value) -> String {
    let properties = node_at(&SCHEMA, pointer).and_then(|node| resolve(&SCHEMA, node).get("properties"));
    let known: Vec<&str> =
        properties.and_then(Value::as_object).map_or_else(Vec::new, |names| names.keys().map(String::as_str).collect());
    let unused = known.iter().filter(|known| table.get(known).is_none());
    if name.len() <= COMPARED_BYTES_MAX {
        let plain = name.to_lowercase().replace('-', "_");
        let nearest = unused
            .map(|known| (strsim::jaro_winkler(&plain, known), *known))
            .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let elsewhere = tables(&SCHEMA).into_iter().find(|(_, names)| names.contains(&name));
        match (nearest, elsewhere) {
            (Some((likeness, nearest)), _) if likeness >= LIKENESS_SURE => return format!("write {nearest}"),
            (_, Some((header, _))) => return format!("write {name} under {header}"),
            (Some((_, nearest)), None) => return format!("write {nearest}"),
            (None, None) => {}
        }
    }
    let mut known = known;
    known.sort_unstable();
    format!("write one of {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_compiles() {
        assert!(VALIDATOR.is_some());
    }

    #[test]
    fn a_place_is_described_without_jargon() {
        for (pointer, words) in [
            ("/models/0/task", r#"one of "embed", "classify-text", "rerank", "classify-image", "tensor", "generate""#),
            ("/models/0/preload", "true or false"),
            ("/models/0/text", "a table"),
            ("/models/0/text/max_tokens", "a whole number from 1 to 1048576"),
            ("/models/0/profiles", "a list of at most 64 tables"),
            ("/models/0/profiles/0/device", r#"text such as "auto", "cpu", "cuda:0" or "tensorrt:0""#),
            ("/models/0/profiles/0/threads", r#""auto" or a whole number from 1 to 1024"#),
            ("/server/max_body", r#"a size: text such as "16MiB" or "2GB", or a whole number of bytes"#),
            ("/cache/folder", "text of 1 to 4096 characters"),
        ] {
            assert_eq!(expected(pointer), words, "{pointer}");
        }
    }
}
