//! The TOML document as JSON, for the schema; and what TOML can say that no setting takes.

use serde_json::{Map, Number, Value};
use toml::de::{DeInteger, DeTable, DeValue};

use super::check::Found;
use super::locate::join;
use super::model::MODELS_MAX;
use super::quote::abbreviated;

/// The deepest nesting that is looked at; a correct file has 4 levels.
const DEPTH_MAX: usize = 32;
/// The most values in one file; keeps the memory of a check flat whatever the file says.
const VALUES_MAX: usize = 100_000;
/// The longest list; no setting takes a longer one.
const ITEMS_MAX: usize = MODELS_MAX;

/// The document as JSON; problems of values that JSON cannot say are put into `found`.
///
/// `None` when the file is so deep or so large that its shape is not worth checking.
pub(super) fn to_json(root: &DeTable<'_>, found: &mut Found) -> Option<Value> {
    let mut conversion = Conversion { found, values: 0 };
    conversion.table(root, "", 0)
}

struct Conversion<'f> {
    found: &'f mut Found,
    values: usize,
}

impl Conversion<'_> {
    fn table(&mut self, table: &DeTable<'_>, pointer: &str, depth: usize) -> Option<Value> {
        let mut object = Map::new();
        for (key, value) in table {
            let name = key.get_ref();
            let value = self.value(value.get_ref(), &join(pointer, name), depth + 1)?;
            object.insert(name.to_string(), value);
        }
        Some(Value::Object(object))
    }

    fn value(&mut self, value: &DeValue<'_>, pointer: &str, depth: usize) -> Option<Value> {
        self.values += 1;
        if depth > DEPTH_MAX {
            self.found.value(pointer, "this is nested too deep", format!("write at most {DEPTH_MAX} levels"));
            return None;
        }
        if self.values > VALUES_MAX {
            let right = format!("write at most {VALUES_MAX}");
            self.found.value(pointer, "the file has too many values", right);
            return None;
        }
        Some(match value {
            DeValue::Boolean(truth) => Value::Bool(*truth),
            DeValue::Integer(integer) => self.integer(integer, pointer),
            DeValue::Float(float) => self.float(float.as_str(), pointer),
            DeValue::String(text) => self.text(text, pointer),
            DeValue::Datetime(moment) => {
                let wrong = format!("{moment} is a date or a time");
                self.found.no_json(pointer, wrong);
                Value::Null
            }
            DeValue::Table(table) => self.table(table, pointer, depth)?,
            DeValue::Array(items) => {
                if items.len() > ITEMS_MAX {
                    let wrong = format!("this list has {} items", items.len());
                    self.found.value(pointer, wrong, format!("write at most {ITEMS_MAX}"));
                }
                let items = items.iter().take(ITEMS_MAX).enumerate();
                let items = items.map(|(at, item)| self.value(item.get_ref(), &format!("{pointer}/{at}"), depth + 1));
                Value::Array(items.collect::<Option<Vec<Value>>>()?)
            }
        })
    }

    fn integer(&mut self, integer: &DeInteger<'_>, pointer: &str) -> Value {
        let (digits, radix) = (integer.as_str(), integer.radix());
        if let Ok(number) = u64::from_str_radix(digits, radix) {
            return Value::from(number);
        }
        if let Ok(number) = i64::from_str_radix(digits, radix) {
            return Value::from(number);
        }
        // The parser lets characters through that are no digits.
        let is_number = digits.trim_start_matches(['+', '-']).chars().all(|c| c.is_digit(radix));
        let what = if is_number { "too large a number" } else { "not a number" };
        self.found.no_json(pointer, format!("{} is {what}", cut(&integer.to_string())));
        Value::Null
    }

    fn float(&mut self, text: &str, pointer: &str) -> Value {
        if let Some(number) = text.parse::<f64>().ok().and_then(Number::from_f64) {
            self.found.fractions.push(pointer.to_owned());
            return Value::Number(number);
        }
        self.found.no_json(pointer, format!("{} is not a finite number", cut(text)));
        Value::Null
    }

    fn text(&mut self, text: &str, pointer: &str) -> Value {
        // Prompts have lines; names, paths and addresses have none.
        let is_line = |c: char| pointer.starts_with("/routes/") && matches!(c, '\n' | '\r' | '\t');
        if let Some(control) = text.chars().find(|c| c.is_control() && !is_line(*c)) {
            let wrong = format!("{} holds the control character U+{:04X}", abbreviated(text), u32::from(control));
            self.found.value(pointer, wrong, "write text without control characters".to_owned());
        }
        Value::from(text)
    }
}

/// The head of a number with very many digits, with nothing in it that moves a terminal's cursor.
fn cut(digits: &str) -> String {
    let head: String = digits.chars().take(40).flat_map(char::escape_debug).collect();
    if digits.chars().nth(40).is_some() { head + "..." } else { head }
}
