//! Values as a problem shows them: short, and with nothing in them that moves a terminal's cursor.

use serde_json::Value;

/// Characters of a text that are shown; the rest is cut.
const SHOWN_CHARS: usize = 40;

/// A text in quotes, escaped, and cut when it is long.
pub(super) fn abbreviated(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// A value, as the file would write it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => abbreviated(text),
        Value::Array(_) | Value::Object(_) => "this".to_owned(),
        other => other.to_string(),
    }
}

/// What kind of value it is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number with a decimal point",
        Value::Number(_) => "a whole number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn alternatives(choices: &[String]) -> String {
    match choices {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
