//! Paths into a payload: `a.b`, `a[].b`, `a[0].b`, `"with a dot.".b`.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::FilterError;

/// The longest path, in bytes.
const BYTES_MAX: usize = 1_024;
/// The deepest.
const STEPS_MAX: usize = 64;

/// A step on the way to a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Into the field of an object.
    Key(String),
    /// Into an item of a list.
    Index(usize),
    /// Into every item of a list.
    All,
}

/// Where in a payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JsonPath {
    steps: Vec<Step>,
}

impl JsonPath {
    /// The steps from the payload on; the first is a key.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// As Qdrant reads it: there a key stands in quotes unless it is made of ASCII letters, digits, `_` and `-`.
    #[must_use]
    pub fn quoted(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        self.written(|key| key.is_empty() || !key.chars().all(plain))
    }

    /// The path as text, with quotes around the keys that have to stand in some.
    fn written(&self, quotes: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        for (place, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(key) => {
                    let dot = if place == 0 { "" } else { "." };
                    let quote = if quotes(key) { "\"" } else { "" };
                    text.extend([dot, quote, key, quote]);
                }
                Step::Index(index) => text.push_str(&format!("[{index}]")),
                Step::All => text.push_str("[]"),
            }
        }
        text
    }

    /// The same without a `[]` at its end.
    pub(crate) fn without_all(&self) -> JsonPath {
        let mut steps = self.steps.clone();
        if steps.len() > 1 && steps.last() == Some(&Step::All) {
            steps.pop();
        }
        JsonPath { steps }
    }

    /// The values that the path leads to. A list at its end stands for its items.
    #[must_use]
    pub fn values<'a>(&self, payload: &'a Map<String, Value>) -> Vec<&'a Value> {
        let mut values = Vec::new();
        for value in self.places(payload) {
            match value {
                Value::Array(items) => values.extend(items),
                other => values.push(other),
            }
        }
        values
    }

    /// What the path leads to, lists as they are.
    #[must_use]
    pub fn places<'a>(&self, payload: &'a Map<String, Value>) -> Vec<&'a Value> {
        let mut places = Vec::new();
        if let Some((Step::Key(key), rest)) = self.steps.split_first()
            && let Some(value) = payload.get(key)
        {
            follow(value, rest, &mut places);
        }
        places
    }
}

fn follow<'a>(value: &'a Value, steps: &[Step], places: &mut Vec<&'a Value>) {
    let Some((first, rest)) = steps.split_first() else { return places.push(value) };
    match (first, value) {
        (Step::Key(key), Value::Object(object)) => {
            if let Some(value) = object.get(key) {
                follow(value, rest, places);
            }
        }
        (Step::Index(index), Value::Array(items)) => {
            if let Some(value) = items.get(*index) {
                follow(value, rest, places);
            }
        }
        (Step::All, Value::Array(items)) => items.iter().for_each(|item| follow(item, rest, places)),
        _ => {}
    }
}

impl FromStr for JsonPath {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<JsonPath, FilterError> {
        let refused = || FilterError::Path(text.chars().take(64).collect());
        if text.is_empty() || text.len() > BYTES_MAX {
            return Err(refused());
        }
        let mut steps = Vec::new();
        let mut rest = text;
        loop {
            rest = key(rest, &mut steps).ok_or_else(refused)?;
            while let Some(behind) = rest.strip_prefix('[') {
                let (inside, behind) = behind.split_once(']').ok_or_else(refused)?;
                steps.push(match inside {
                    "" => Step::All,
                    index => Step::Index(index.parse().map_err(|_| refused())?),
                });
                rest = behind;
            }
            if steps.len() > STEPS_MAX {
                return Err(refused());
            }
            if rest.is_empty() {
                return Ok(JsonPath { steps });
            }
            rest = rest.strip_prefix('.').ok_or_else(refused)?;
        }
    }
}

/// Takes a key off the front.
fn key<'a>(text: &'a str, steps: &mut Vec<Step>) -> Option<&'a str> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (key, rest) = quoted.split_once('"')?;
        steps.push(Step::Key(key.to_owned()));
        return Some(rest);
    }
    let end = text.find(['.', '[']).unwrap_or(text.len());
    let (key, rest) = text.split_at(end);
    if key.is_empty() || key.contains([']', '"']) {
        return None;
    }
    steps.push(Step::Key(key.to_owned()));
    Some(rest)
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(|key| key.contains(['.', '[', ']']) || key.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_where_they_say() {
        let payload = json!({"a": {"b": [{"c": 1}, {"c": [2, 3]}]}, "x.y": 4, "tags": ["p", "q"]});
        let payload = payload.as_object().unwrap();
        let values = |path: &str| json!(path.parse::<JsonPath>().unwrap().values(payload));
        assert_eq!(values("a.b[].c"), json!([1, 2, 3]));
        assert_eq!(values("a.b[1].c"), json!([2, 3]));
        assert_eq!(values("a.b[0].c"), json!([1]));
        assert_eq!(values("\"x.y\""), json!([4]));
        assert_eq!(values("tags"), json!(["p", "q"]));
        assert_eq!(values("tags[]"), json!(["p", "q"]));
        assert_eq!(values("a.missing"), json!([]));
    }

    #[test]
    fn what_is_no_path_is_refused_and_what_is_one_is_written_as_it_was() {
        for bad in ["", ".", "a.", ".a", "a[", "a[x]", "a]b", "a[-1]", "\"a", "[0]", &"a.".repeat(100)] {
            assert!(bad.parse::<JsonPath>().is_err(), "{bad:?}");
        }
        for good in ["a", "a.b", "a[].b", "a[12].b[]", "\"x.y\".z"] {
            assert_eq!(good.parse::<JsonPath>().unwrap().to_string(), good);
        }
        for (text, quoted) in [("a-b_1[].c", "a-b_1[].c"), ("it's.ü[2]", "\"it's\".\"ü\"[2]"), ("\"\".a", "\"\".a")] {
            let path = text.parse::<JsonPath>().unwrap();
            assert_eq!(path.quoted(), quoted);
            assert_eq!(quoted.parse::<JsonPath>().unwrap(), path);
        }
    }
}
