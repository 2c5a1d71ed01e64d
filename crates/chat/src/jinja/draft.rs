//! A text that is being written, never longer than its budget allows; and how values are written: as
//! Python's `str`, `repr` and `json.dumps` do.

use std::rc::Rc;

use super::budget::{Budget, Held, Stop};
use super::value::{Text, Value};

/// Bytes that a text takes beside its own.
const OVERHEAD: usize = 96;

/// A text that is being written.
pub(crate) struct Draft {
    text: String,
    held: Held,
}

impl Draft {
    pub(crate) fn new(budget: &Rc<Budget>) -> Result<Draft, Stop> {
        Ok(Draft { text: String::new(), held: budget.hold(OVERHEAD)? })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn push(&mut self, piece: &str) -> Result<(), Stop> {
        self.reserve(piece.len())?;
        self.text.push_str(piece);
        Ok(())
    }

    pub(crate) fn push_char(&mut self, c: char) -> Result<(), Stop> {
        self.push(c.encode_utf8(&mut [0; 4]))
    }

    /// Writes `piece` `times` times.
    pub(crate) fn repeat(&mut self, piece: &str, times: usize) -> Result<(), Stop> {
        self.reserve(piece.len().saturating_mul(times))?;
        for _ in 0..if piece.is_empty() { 0 } else { times } {
            self.text.push_str(piece);
        }
        Ok(())
    }

    fn reserve(&mut self, more: usize) -> Result<(), Stop> {
        self.held.budget().read(more)?;
        let wanted = self.text.len().saturating_add(more);
        let capacity = self.text.capacity();
        if wanted > capacity {
            let larger = wanted.max(capacity.saturating_mul(2)).max(32);
            self.held.grow(larger - capacity)?;
            self.text.reserve_exact(larger - self.text.len());
        }
        Ok(())
    }

    pub(crate) fn text(self) -> Text {
        Text::holding(self.text, self.held)
    }

    pub(crate) fn value(self) -> Value {
        Value::Text(self.text())
    }

    pub(crate) fn into_string(self) -> String {
        self.text
    }

    /// Writes a value as Python's `str` does.
    pub(crate) fn write(&mut self, value: &Value) -> Result<(), Stop> {
        match value {
            Value::Text(text) => self.push(text.as_str()),
            Value::Undefined => Ok(()),
            other => self.write_repr(other),
        }
    }

    /// Writes a value as Python's `repr` does.
    pub(crate) fn write_repr(&mut self, value: &Value) -> Result<(), Stop> {
        self.held.budget().spend(value.size())?;
        self.repr(value)
    }

    fn repr(&mut self, value: &Value) -> Result<(), Stop> {
        match value {
            Value::Undefined => self.push("Undefined"),
            Value::None => self.push("None"),
            Value::Bool(true) => self.push("True"),
            Value::Bool(false) => self.push("False"),
            Value::Int(number) => self.push(&number.to_string()),
            Value::Float(number) => self.push(&float(*number)),
            Value::Text(text) => self.quoted(text.as_str()),
            Value::List(list) => {
                self.push(if list.tuple { "(" } else { "[" })?;
                for (place, item) in list.items.iter().enumerate() {
                    self.push(if place == 0 { "" } else { ", " })?;
                    self.repr(item)?;
                }
                self.push(match (list.tuple, list.items.len()) {
                    (true, 1) => ",)",
                    (true, _) => ")",
                    (false, _) => "]",
                })
            }
            Value::Map(map) => {
                self.push("{")?;
                for (place, (key, value)) in map.entries.iter().enumerate() {
                    self.push(if place == 0 { "" } else { ", " })?;
                    self.repr(key)?;
                    self.push(": ")?;
                    self.repr(value)?;
                }
                self.push("}")
            }
            Value::Namespace(_) => self.push("<Namespace>"),
            Value::Macro(_) => self.push("<Macro>"),
            Value::Loop(_) => self.push("<LoopContext>"),
            Value::Function(name) => self.push(&format!("<function {name}>")),
            Value::Method(name) => self.push(&format!("<built-in method {name}>")),
        }
    }

    /// A text as Python writes it in a list.
    fn quoted(&mut self, text: &str) -> Result<(), Stop> {
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        self.push_char(quote)?;
        for c in text.chars() {
            match c {
                '\\' => self.push("\\\\")?,
                '\n' => self.push("\\n")?,
                '\r' => self.push("\\r")?,
                '\t' => self.push("\\t")?,
                c if c == quote => {
                    self.push("\\")?;
                    self.push_char(c)?;
                }
                c if c.is_control() || c == '\u{a0}' || c == '\u{ad}' => {
                    self.push(&format!("\\x{:02x}", u32::from(c)))?
                }
                c => self.push_char(c)?,
            }
        }
        self.push_char(quote)
    }

    /// Writes a value as Python's `json.dumps` does.
    pub(crate) fn write_json(&mut self, value: &Value, style: &JsonStyle) -> Result<(), Stop> {
        self.held.budget().spend(value.size())?;
        self.json(value, style, 0)
    }

    fn json(&mut self, value: &Value, style: &JsonStyle, level: usize) -> Result<(), Stop> {
        match value {
            Value::None => self.push("null"),
            Value::Bool(truth) => self.push(if *truth { "true" } else { "false" }),
            Value::Int(number) => self.push(&number.to_string()),
            Value::Float(number) => self.push(&json_float(*number)),
            Value::Text(text) => self.json_text(text.as_str(), style),
            Value::List(list) if list.items.is_empty() => self.push("[]"),
            Value::Map(map) if map.entries.is_empty() => self.push("{}"),
            Value::List(list) => {
                self.push("[")?;
                for (place, item) in list.items.iter().enumerate() {
                    self.json_line(place, style, level + 1)?;
                    self.json(item, style, level + 1)?;
                }
                self.json_end(style, level)?;
                self.push("]")
            }
            Value::Map(map) => {
                let mut entries: Vec<&(Value, Value)> = map.entries.iter().collect();
                if style.sorted {
                    entries.sort_by_key(|entry| entry.0.as_str());
                }
                self.push("{")?;
                for (place, (key, value)) in entries.into_iter().enumerate() {
                    self.json_line(place, style, level + 1)?;
                    match key {
                        Value::Text(key) => self.json_text(key.as_str(), style)?,
                        other => {
                            self.push("\"")?;
                            self.json(other, style, level)?;
                            self.push("\"")?;
                        }
                    }
                    self.push(&style.colon)?;
                    self.json(value, style, level + 1)?;
                }
                self.json_end(style, level)?;
                self.push("}")
            }
            other => Err(Stop::wrong(format!("{} has no JSON form", other.kind()))),
        }
    }

    /// What stands before the item at `place`.
    fn json_line(&mut self, place: usize, style: &JsonStyle, level: usize) -> Result<(), Stop> {
        self.push(if place == 0 { "" } else { &style.comma })?;
        self.json_end(style, level)
    }

    fn json_end(&mut self, style: &JsonStyle, level: usize) -> Result<(), Stop> {
        let Some(indent) = &style.indent else { return Ok(()) };
        self.push("\n")?;
        self.repeat(indent, level)
    }

    fn json_text(&mut self, text: &str, style: &JsonStyle) -> Result<(), Stop> {
        self.push("\"")?;
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let escape = match c {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '\x08' => "\\b",
                '\x0c' => "\\f",
                c if c < ' ' || (style.ascii && !c.is_ascii()) => "",
                _ => continue,
            };
            self.push(&text[plain..at])?;
            plain = at + c.len_utf8();
            if escape.is_empty() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    self.push(&format!("\\u{unit:04x}"))?;
                }
            } else {
                self.push(escape)?;
            }
        }
        self.push(&text[plain..])?;
        self.push("\"")
    }
}

/// How `tojson` writes.
pub(crate) struct JsonStyle {
    /// What a level is indented by; `None` for one line.
    pub(crate) indent: Option<String>,
    pub(crate) comma: String,
    pub(crate) colon: String,
    pub(crate) ascii: bool,
    pub(crate) sorted: bool,
}

/// A number as Python's `repr` writes it.
pub(crate) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number == 0.0 || (1e-4..1e16).contains(&number.abs()) {
        let text = number.to_string();
        return if text.contains('.') { text } else { text + ".0" };
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

fn json_float(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        float(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let written: Vec<String> =
            [0.0, 1.0, -2.5, 0.1, 1e15, 1e16, 1.5e300, 1e-4, 1.5e-7, f64::INFINITY].into_iter().map(float).collect();
        assert_eq!(
            written,
            ["0.0", "1.0", "-2.5", "0.1", "1000000000000000.0", "1e+16", "1.5e+300", "0.0001", "1.5e-07", "inf"]
        );
    }
}
