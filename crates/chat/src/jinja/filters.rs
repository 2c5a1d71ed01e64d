//! Filters: `value | filter`, and how each works on one value. Those that go through items are in
//! [`sequences`].

use super::budget::Stop;
use super::draft::{Draft, JsonStyle};
use super::format;
use super::functions::{count_or, integer_or};
use super::run::{Passed, Run};
use super::value::{Items, Text, Value};
use super::{methods, operators, sequences, text};

/// The filters there are.
pub(crate) const NAMES: [&str; 46] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

pub(crate) fn apply(run: &mut Run<'_>, name: &str, value: Value, passed: Passed) -> Result<Value, Stop> {
    match name {
        "default" | "d" => default(value, passed),
        "tojson" => tojson(run, &value, passed),
        "length" | "count" => {
            let [] = passed.read(name, [])?;
            length(run, &value)
        }
        "attr" => {
            let [attribute] = passed.read(name, ["name"])?;
            let attribute = attribute.unwrap_or(Value::Undefined).to_text(&run.budget)?;
            match value {
                // A map's keys are no attributes.
                Value::Map(_) => {
                    Ok(methods::name_of(&value, attribute.as_str()).map_or(Value::Undefined, Value::Method))
                }
                other => run.attribute(&other, attribute.as_str()),
            }
        }
        "abs" | "int" | "float" | "round" => number(run, name, value, passed),
        "string" | "safe" => {
            let [] = passed.read(name, [])?;
            value.to_text(&run.budget).map(Value::Text)
        }
        "items" => {
            let [] = passed.read(name, [])?;
            match &value {
                Value::Map(map) => methods::items(run, map, name),
                Value::Undefined => Items::new(&run.budget)?.list(),
                other => Err(Stop::wrong(format!("{} has no items of a map", other.kind()))),
            }
        }
        "upper" | "lower" | "capitalize" | "title" | "trim" | "replace" | "indent" | "center" | "truncate"
        | "escape" | "e" | "urlencode" | "wordcount" | "format" => {
            let text = value.to_text(&run.budget)?;
            of_text(run, name, &text, passed)
        }
        _ => sequences::apply(run, name, value, passed),
    }
}

fn default(value: Value, passed: Passed) -> Result<Value, Stop> {
    let [otherwise, also_false] = passed.read("default", ["default_value", "boolean"])?;
    let also_false = also_false.is_some_and(|also| also.is_true());
    if matches!(value, Value::Undefined) || (also_false && !value.is_true()) {
        return Ok(otherwise.unwrap_or(Value::Text(Text::from(""))));
    }
    Ok(value)
}

fn length(run: &Run<'_>, value: &Value) -> Result<Value, Stop> {
    let length = match value {
        Value::Text(text) => {
            run.budget.read(text.as_str().len())?;
            text.as_str().chars().count()
        }
        Value::List(list) => list.items.len(),
        Value::Map(map) => map.entries.len(),
        Value::Undefined => 0,
        other => return Err(Stop::wrong(format!("{} has no length", other.kind()))),
    };
    Ok(Value::Int(length as i64))
}

/// Hugging Face's `tojson`: `json.dumps` that leaves characters and HTML as they are.
fn tojson(run: &Run<'_>, value: &Value, passed: Passed) -> Result<Value, Stop> {
    let [ascii, indent, separators, sorted] =
        passed.read("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let is = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(text)) => Some(text.as_str().to_owned()),
        Some(width) => {
            let mut by = Draft::new(&run.budget)?;
            by.repeat(" ", count_or(Some(width), 0)?)?;
            Some(by.into_string())
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    let mut style =
        JsonStyle { indent, comma: comma.to_owned(), colon: ": ".to_owned(), ascii: is(ascii), sorted: is(sorted) };
    if let Some(Value::List(pair)) = separators {
        let [Value::Text(comma), Value::Text(colon)] = pair.items.as_slice() else {
            return Err(Stop::wrong("`tojson` needs two separators"));
        };
        style.comma = comma.as_str().to_owned();
        style.colon = colon.as_str().to_owned();
    }
    let mut draft = Draft::new(&run.budget)?;
    draft.write_json(value, &style)?;
    Ok(draft.value())
}

fn number(run: &Run<'_>, name: &str, value: Value, passed: Passed) -> Result<Value, Stop> {
    match name {
        "abs" => {
            let [] = passed.read(name, [])?;
            match value.number() {
                Some(number) if number < 0.0 => operators::negative(&value),
                Some(_) => Ok(value),
                None => Err(Stop::wrong(format!("{} has no absolute value", value.kind()))),
            }
        }
        "int" => {
            let [otherwise, base] = passed.read(name, ["default", "base"])?;
            let base = u32::try_from(integer_or(base, 10)?).ok().filter(|base| (2..=36).contains(base));
            let Some(base) = base else { return Err(Stop::wrong("a base is 2 to 36")) };
            let read = match &value {
                Value::Text(text) => {
                    run.budget.read(text.as_str().len())?;
                    let text = text.as_str().trim().replace('_', "");
                    let digits = match base {
                        16 => text.trim_start_matches("0x"),
                        8 => text.trim_start_matches("0o"),
                        2 => text.trim_start_matches("0b"),
                        _ => &text,
                    };
                    i64::from_str_radix(digits, base).ok().or_else(|| text.parse().ok().and_then(whole))
                }
                other => other.integer().or_else(|| other.number().and_then(whole)),
            };
            Ok(read.map_or(otherwise.unwrap_or(Value::Int(0)), Value::Int))
        }
        "float" => {
            let [otherwise] = passed.read(name, ["default"])?;
            let read = match &value {
                Value::Text(text) => text.as_str().trim().parse().ok(),
                other => other.number(),
            };
            Ok(read.map_or(otherwise.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        _ => {
            let [precision, method] = passed.read(name, ["precision", "method"])?;
            let Some(number) = value.number() else {
                return Err(Stop::wrong(format!("{} cannot be rounded", value.kind())));
            };
            let scale = 10f64.powi(i32::try_from(integer_or(precision, 0)?.clamp(-300, 300)).unwrap_or(0));
            let rounded = match method.as_ref().and_then(Value::as_str) {
                None | Some("common") => (number * scale).round_ties_even(),
                Some("ceil") => (number * scale).ceil(),
                Some("floor") => (number * scale).floor(),
                Some(_) => return Err(Stop::wrong("numbers are rounded `common`, `ceil` or `floor`")),
            } / scale;
            Ok(Value::Float(if rounded.is_finite() { rounded } else { number }))
        }
    }
}

fn whole(number: f64) -> Option<i64> {
    (number.is_finite() && number.abs() < 9e18).then_some(number as i64)
}

fn of_text(run: &Run<'_>, name: &str, whole: &Text, passed: Passed) -> Result<Value, Stop> {
    let budget = &run.budget;
    let string = whole.as_str();
    budget.read(string.len())?;
    let is = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    match name {
        "format" => {
            if !passed.named.is_empty() {
                let entries = passed.named.into_iter().map(|(name, value)| (Value::Text(name), value)).collect();
                return format::percent(budget, string, &super::value::Map::make(budget, entries)?);
            }
            let mut values = Items::new(budget)?;
            values.extend(passed.positional)?;
            format::percent(budget, string, &values.tuple()?)
        }
        "trim" => {
            let [characters] = passed.read(name, ["chars"])?;
            let characters = match characters {
                Some(Value::Text(characters)) => Some(characters),
                _ => None,
            };
            budget.read(string.len().saturating_mul(characters.as_ref().map_or(1, |c| c.as_str().len())))?;
            let kept = text::strip(string, characters.as_ref().map(Text::as_str), true, true);
            if kept.len() == string.len() { Ok(Value::Text(whole.clone())) } else { Value::text(budget, kept) }
        }
        "replace" => {
            let [from, to, count] = passed.read(name, ["old", "new", "count"])?;
            let text = |value: Option<Value>| value.unwrap_or(Value::Undefined).to_text(budget);
            let count = match count {
                None | Some(Value::None) => None,
                count => Some(integer_or(count, -1)?),
            };
            text::replace(budget, string, text(from)?.as_str(), text(to)?.as_str(), count)
        }
        "indent" => {
            let [width, first, blank] = passed.read(name, ["width", "first", "blank"])?;
            text::indent(budget, string, &width.unwrap_or(Value::Int(4)), is(first), is(blank))
        }
        "center" => {
            let [width] = passed.read(name, ["width"])?;
            text::pad(budget, string, count_or(width, 80)?, " ", |missing| missing / 2)
        }
        "truncate" => {
            let [length, cut, end, leeway] = passed.read(name, ["length", "killwords", "end", "leeway"])?;
            let end = end.map_or(Ok(Text::from("...")), |end| end.to_text(budget))?;
            text::truncate(budget, string, count_or(length, 255)?, is(cut), end.as_str(), count_or(leeway, 5)?)
        }
        _ => {
            let [] = passed.read(name, [])?;
            match name {
                "upper" => text::upper(budget, string),
                "lower" => text::lower(budget, string),
                "capitalize" => text::capitalize(budget, string),
                "title" => text::title(budget, string, true),
                "urlencode" => text::urlencode(budget, string),
                "wordcount" => Ok(Value::Int(string.split_whitespace().count() as i64)),
                _ => text::escape(budget, string),
            }
        }
    }
}
