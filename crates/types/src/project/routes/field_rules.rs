//! What is wrong with the fields of a request beyond their shape.

use serde_json::Value;

use super::field::{DEPTH_MAX, Field, FieldType};
use super::is_name;
use super::model::FIELDS_MAX;
use crate::project::check::Found;
use crate::project::locate::join;
use crate::project::quote::{abbreviated, alternatives, shown};

/// Puts every broken rule of these fields into `found`.
pub(super) fn check_fields(fields: &serde_json::Map<String, Value>, pointer: &str, depth: usize, found: &mut Found) {
    if fields.len() > FIELDS_MAX {
        found.missing(
            pointer,
            format!("this table has {} fields", fields.len()),
            format!("write at most {FIELDS_MAX}"),
        );
    }
    for (name, value) in fields {
        let pointer = join(pointer, name);
        if !is_name(name) {
            let right = "write letters, digits, `_` and `-`, the first a letter or `_`".to_owned();
            found.key(&pointer, format!("{} is not the name of a field", abbreviated(name)), right);
        }
        check_field(value, &pointer, depth, found);
    }
}

/// The settings that belong to a type, and that they agree with each other and with the default.
fn check_field(value: &Value, pointer: &str, depth: usize, found: &mut Found) {
    if depth > DEPTH_MAX {
        return found.value(pointer, "this is nested too deep", format!("write at most {DEPTH_MAX} levels"));
    }
    if let Some(items) = value.get("items") {
        check_field(items, &format!("{pointer}/items"), depth + 1, found);
    }
    if let Some(fields) = value.get("fields").and_then(Value::as_object) {
        check_fields(fields, &format!("{pointer}/fields"), depth + 1, found);
    }
    let Some(kind) = value.get("type").and_then(|kind| serde_json::from_value::<FieldType>(kind.clone()).ok()) else {
        return;
    };
    settings_of_type(value, kind, pointer, found);
    let Some(field) = serde_json::from_value::<Field>(value.clone()).ok() else { return };
    let needed = match kind {
        FieldType::Array if field.items.is_none() => Some(("items", "items = { type = \"string\" }")),
        FieldType::Object if field.fields.is_none() => Some(("fields", "fields = { name = { type = \"string\" } }")),
        _ => None,
    };
    if let Some((name, example)) = needed {
        let wrong = format!("{name} is missing");
        found.missing(pointer, wrong, format!("add {name}, such as {example}"));
        return;
    }
    for (least, most) in [("min_length", "max_length"), ("minimum", "maximum"), ("min_items", "max_items")] {
        let number = |name: &str| value.get(name).and_then(Value::as_f64);
        if let (Some(from), Some(to)) = (number(least), number(most))
            && from > to
        {
            let wrong = format!("{least} is {from} and {most} is {to}, so nothing is accepted");
            found.value(&format!("{pointer}/{least}"), wrong, format!("write {least} = {to} or less"));
        }
    }
    if field.optional && field.default.is_some() {
        let wrong = "a field with a default is never missing, so optional means nothing".to_owned();
        found.key(&format!("{pointer}/optional"), wrong, "take optional or default out".to_owned());
    }
    if let Some(default) = &field.default
        && let Ok(validator) = jsonschema::draft202012::new(&field.json_schema())
        && !validator.is_valid(default)
    {
        let wrong = format!("the default {} is none that the field accepts", shown(default));
        found.value(&format!("{pointer}/default"), wrong, "write one that a request may have".to_owned());
    }
}

fn settings_of_type(value: &Value, kind: FieldType, pointer: &str, found: &mut Found) {
    let settings: [(&str, &[FieldType]); 9] = [
        ("min_length", &[FieldType::String]),
        ("max_length", &[FieldType::String]),
        ("enum", &[FieldType::String]),
        ("minimum", &[FieldType::Integer, FieldType::Number]),
        ("maximum", &[FieldType::Integer, FieldType::Number]),
        ("items", &[FieldType::Array]),
        ("min_items", &[FieldType::Array]),
        ("max_items", &[FieldType::Array]),
        ("fields", &[FieldType::Object]),
    ];
    for (name, types) in settings {
        if value.get(name).is_some() && !types.contains(&kind) {
            let of = alternatives(&types.iter().map(|kind| format!("{:?}", kind.as_str())).collect::<Vec<_>>());
            let wrong = format!("{name} belongs to the type {of}, and this is {:?}", kind.as_str());
            found.key(&format!("{pointer}/{name}"), wrong, format!("take it out, or write type = {of}"));
        }
    }
}
