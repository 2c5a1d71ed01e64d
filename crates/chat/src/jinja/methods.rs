//! Methods: `value.name(...)`, as Python's strings, dictionaries and lists have them.
//!
//! Methods that change a list or a map are refused, as Hugging Face's sandbox refuses them.

use super::budget::Stop;
use super::draft::Draft;
use super::format;
use super::functions::{self, count_or};
use super::run::{Passed, Run};
use super::value::{Items, Map, Text, Value};
use super::{tests, text};

const OF_TEXT: [&str; 37] = [
    "capitalize",
    "center",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "title",
    "upper",
    "zfill",
];
const OF_MAP: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];
const OF_LIST: [&str; 11] =
    ["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];

/// The method of a value with this name.
pub(crate) fn name_of(value: &Value, name: &str) -> Option<&'static str> {
    let names: &[&'static str] = match value {
        Value::Text(_) => &OF_TEXT,
        Value::Map(_) => &OF_MAP,
        Value::List(_) => &OF_LIST,
        Value::Loop(_) => &["changed", "cycle"],
        _ => &[],
    };
    names.iter().copied().find(|method| *method == name)
}

/// Calls `value.name`.
pub(crate) fn call(run: &mut Run<'_>, value: &Value, name: &str, passed: Passed) -> Result<Value, Stop> {
    let found = match value {
        Value::Text(text) => of_text(run, text, name, passed)?,
        Value::Map(map) => of_map(run, map, name, passed)?,
        Value::List(list) => match name {
            "count" | "index" => {
                let [item] = passed.read(name, ["value"])?;
                let item = item.unwrap_or(Value::Undefined);
                let mut places = Vec::new();
                for (place, candidate) in list.items.iter().enumerate() {
                    if candidate.equals(&item, &run.budget)? {
                        places.push(place as i64);
                    }
                }
                match (name, places.first()) {
                    ("count", _) => Some(Value::Int(places.len() as i64)),
                    (_, Some(place)) => Some(Value::Int(*place)),
                    _ => return Err(Stop::wrong("the value is not in the list")),
                }
            }
            "copy" => Some(value.clone()),
            _ => None,
        },
        Value::Loop(number) => of_loop(run, *number, name, passed)?,
        Value::Namespace(_) => match run.attribute(value, name)? {
            Value::Macro(number) => Some(run.call_macro(number, passed, None)?),
            Value::Function(function) => Some(functions::call(run, function, passed)?),
            _ => None,
        },
        _ => None,
    };
    found.ok_or_else(|| {
        let name = super::shortened(name, 40);
        match name_of(value, &name) {
            Some(_) => Stop::wrong(format!("`{name}` is refused: {} cannot be changed in a template", value.kind())),
            None => Stop::wrong(format!("{} has no method `{name}`", value.kind())),
        }
    })
}

fn of_loop(run: &mut Run<'_>, number: u64, name: &str, passed: Passed) -> Result<Option<Value>, Stop> {
    let budget = run.budget.clone();
    let Some(one) = run.loop_of(number) else { return Ok(None) };
    match name {
        "cycle" if !passed.positional.is_empty() => {
            Ok(passed.positional.get(one.place % passed.positional.len()).cloned())
        }
        "changed" => {
            let mut items = Items::new(&budget)?;
            items.extend(passed.positional)?;
            let value = items.list()?;
            let same = one.changed.as_ref().map_or(Ok(false), |last| last.equals(&value, &budget))?;
            one.changed = Some(value);
            Ok(Some(Value::Bool(!same)))
        }
        _ => Ok(None),
    }
}

fn of_map(run: &mut Run<'_>, map: &std::rc::Rc<Map>, name: &str, passed: Passed) -> Result<Option<Value>, Stop> {
    if name == "get" {
        let [key, otherwise] = passed.read(name, ["key", "default"])?;
        let found = key.as_ref().and_then(|key| map.get(key)).cloned();
        return Ok(Some(found.or(otherwise).unwrap_or(Value::None)));
    }
    if !matches!(name, "items" | "keys" | "values" | "copy") {
        return match map.get_text(name) {
            Some(Value::Macro(number)) => run.call_macro(*number, passed, None).map(Some),
            _ => Ok(None),
        };
    }
    let [] = passed.read(name, [])?;
    if name == "copy" {
        return Ok(Some(Value::Map(map.clone())));
    }
    items(run, map, name).map(Some)
}

/// The `items`, `keys` or `values` of a map.
pub(crate) fn items(run: &mut Run<'_>, map: &Map, name: &str) -> Result<Value, Stop> {
    let mut items = Items::new(&run.budget)?;
    items.reserve(map.entries.len())?;
    for (key, value) in &map.entries {
        items.push(match name {
            "keys" => key.clone(),
            "values" => value.clone(),
            _ => {
                let mut pair = Items::new(&run.budget)?;
                pair.extend([key.clone(), value.clone()])?;
                pair.tuple()?
            }
        })?;
    }
    items.list()
}

fn of_text(run: &mut Run<'_>, whole: &Text, name: &str, passed: Passed) -> Result<Option<Value>, Stop> {
    let budget = run.budget.clone();
    let string = whole.as_str();
    budget.read(string.len())?;
    let same = || Ok(Some(Value::Text(whole.clone())));
    Ok(Some(match name {
        "upper" | "lower" | "title" | "capitalize" => {
            let [] = passed.read(name, [])?;
            match name {
                "upper" => text::upper(&budget, string)?,
                "lower" => text::lower(&budget, string)?,
                "title" => text::title(&budget, string, false)?,
                _ => text::capitalize(&budget, string)?,
            }
        }
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = passed.read(name, ["chars"])?;
            let characters = optional_text(characters)?;
            budget.read(string.len().saturating_mul(characters.as_ref().map_or(1, |c| c.as_str().len())))?;
            let kept = text::strip(string, characters.as_ref().map(Text::as_str), name != "rstrip", name != "lstrip");
            if kept.len() == string.len() {
                return same();
            }
            Value::text(&budget, kept)?
        }
        "split" | "rsplit" => {
            let [separator, most] = passed.read(name, ["sep", "maxsplit"])?;
            let most = most.map(|most| functions::integer_or(Some(most), -1)).transpose()?;
            text::split(&budget, string, optional_text(separator)?.as_ref().map(Text::as_str), most, name == "rsplit")?
        }
        "splitlines" => {
            let [keep] = passed.read(name, ["keepends"])?;
            let mut items = Items::new(&budget)?;
            for line in text::lines(string, keep.is_some_and(|keep| keep.is_true())) {
                items.push(Value::text(&budget, line)?)?;
            }
            items.list()?
        }
        "startswith" | "endswith" => {
            let [affix] = passed.read(name, ["prefix"])?;
            let has = |affix: &Value| match affix.as_str() {
                Some(affix) => {
                    Ok(if name == "startswith" { string.starts_with(affix) } else { string.ends_with(affix) })
                }
                None => Err(Stop::wrong(format!("`{name}` needs a string"))),
            };
            Value::Bool(match affix.unwrap_or(Value::Undefined) {
                Value::List(several) => {
                    let mut found = false;
                    for affix in &several.items {
                        budget.spend(1)?;
                        found |= has(affix)?;
                    }
                    found
                }
                one => has(&one)?,
            })
        }
        "replace" => {
            let [from, to, count] = passed.read(name, ["old", "new", "count"])?;
            let (from, to) = (needed_text(from, name)?, needed_text(to, name)?);
            let count = count.map(|count| functions::integer_or(Some(count), -1)).transpose()?;
            text::replace(&budget, string, from.as_str(), to.as_str(), count)?
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [part] = passed.read(name, ["sub"])?;
            let part = needed_text(part, name)?;
            let part = part.as_str();
            if name == "count" {
                return Ok(Some(Value::Int(string.matches(part).count() as i64)));
            }
            let at = if name.starts_with('r') { string.rfind(part) } else { string.find(part) };
            match at {
                Some(at) => Value::Int(string[..at].chars().count() as i64),
                None if name.ends_with("find") => Value::Int(-1),
                None => return Err(Stop::wrong("the text is not found")),
            }
        }
        "partition" | "rpartition" => {
            let [separator] = passed.read(name, ["sep"])?;
            let separator = needed_text(separator, name)?;
            let last = name == "rpartition";
            let found =
                if last { string.rsplit_once(separator.as_str()) } else { string.split_once(separator.as_str()) };
            let parts = match found {
                Some((before, after)) => [before, separator.as_str(), after],
                None if last => ["", "", string],
                None => [string, "", ""],
            };
            let mut items = Items::new(&budget)?;
            for part in parts {
                items.push(Value::text(&budget, part)?)?;
            }
            items.tuple()?
        }
        "join" => {
            let [values] = passed.read(name, ["values"])?;
            let values = run.items_of(&values.unwrap_or(Value::Undefined))?;
            let mut draft = Draft::new(&budget)?;
            for (place, value) in values.items.iter().enumerate() {
                budget.spend(1)?;
                let Some(value) = value.as_str() else {
                    return Err(Stop::wrong(format!("`join` needs strings, not {}", value.kind())));
                };
                draft.push(if place == 0 { "" } else { string })?;
                draft.push(value)?;
            }
            draft.value()
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = passed.read(name, ["affix"])?;
            let affix = needed_text(affix, name)?;
            let kept = if name == "removeprefix" {
                string.strip_prefix(affix.as_str())
            } else {
                string.strip_suffix(affix.as_str())
            };
            match kept {
                Some(kept) => Value::text(&budget, kept)?,
                None => return same(),
            }
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let [width, fill] = passed.read(name, ["width", "fillchar"])?;
            let fill = optional_text(fill)?;
            let fill = fill.as_ref().map_or(if name == "zfill" { "0" } else { " " }, Text::as_str);
            text::pad(&budget, string, count_or(width, 0)?, fill, |missing| match name {
                "ljust" => 0,
                "center" => missing / 2,
                _ => missing,
            })?
        }
        "format" => format::braces(&budget, string, &passed)?,
        _ => return is(string, name, passed),
    }))
}

/// `isdigit` and its like.
fn is(string: &str, name: &str, passed: Passed) -> Result<Option<Value>, Stop> {
    let all = |is: fn(char) -> bool| !string.is_empty() && string.chars().all(is);
    let found = match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => string.is_ascii(),
        "isdecimal" | "isdigit" | "isnumeric" => all(char::is_numeric),
        "isspace" => all(char::is_whitespace),
        "islower" => tests::is_cased(string, false),
        "isupper" => tests::is_cased(string, true),
        _ => return Ok(None),
    };
    let [] = passed.read(name, [])?;
    Ok(Some(Value::Bool(found)))
}

fn optional_text(value: Option<Value>) -> Result<Option<Text>, Stop> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(other) => Err(Stop::wrong(format!("a string is needed, not {}", other.kind()))),
    }
}

fn needed_text(value: Option<Value>, name: &str) -> Result<Text, Stop> {
    optional_text(value)?.ok_or_else(|| Stop::wrong(format!("`{name}` needs a string")))
}
