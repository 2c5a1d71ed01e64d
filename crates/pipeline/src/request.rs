//! Requests: read by what the route says of its fields, field by field.

use std::collections::BTreeMap;

use halny_types::project::routes::{Field, FieldType, INTEGER_MAX};
use serde_json::{Map, Value as Json};

use crate::{Plan, RequestError};

/// The field of every request that asks for events.
const STREAM: &str = "stream";
/// Characters of a value that an error shows.
const SHOWN_CHARS: usize = 40;

/// A request whose fields are what the route says.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its fields, with defaults where it said nothing.
    pub body: Json,
    /// Whether the answer is wanted as events.
    pub stream: bool,
}

impl Plan {
    /// Reads a request.
    ///
    /// # Errors
    /// Which field is not what the route says, what it is, and what it may be.
    pub fn read(&self, body: Json) -> Result<Asked, RequestError> {
        let fields = &self.route.request;
        let Json::Object(mut given) = body else {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            let message = format!("the body is {}; it is a JSON object with {}", kind(&body), names.join(", "));
            return Err(RequestError { field: String::new(), message });
        };
        let stream = match given.remove(STREAM) {
            None => false,
            Some(Json::Bool(stream)) => stream,
            Some(other) => return Err(wrong(STREAM, &other, "true or false")),
        };
        if stream && !self.streams() {
            let text = "`stream` is true, and this route gives its answer whole; leave it out".to_owned();
            return Err(RequestError { field: STREAM.to_owned(), message: text });
        }
        Ok(Asked { body: Json::Object(object(fields, given, "")?), stream })
    }
}

/// The fields of an object, none more and none less.
fn object(
    fields: &BTreeMap<String, Field>,
    mut given: Map<String, Json>,
    path: &str,
) -> Result<Map<String, Json>, RequestError> {
    let mut read = Map::new();
    for (name, field) in fields {
        let path = within(path, name);
        match given.remove(name) {
            Some(value) => drop(read.insert(name.clone(), one(field, value, &path)?)),
            None => match &field.default {
                // A default may leave out what has a default itself.
                Some(default) => drop(read.insert(name.clone(), one(field, default.clone(), &path)?)),
                None if field.optional => {}
                None => {
                    let message = format!("`{path}` is missing; it is {}", may_be(field));
                    return Err(RequestError { field: path, message });
                }
            },
        }
    }
    match given.keys().next() {
        None => Ok(read),
        Some(name) => {
            let shown = abbreviated(name);
            let known: Vec<String> = fields.keys().map(|name| format!("`{}`", within(path, name))).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("there is no field {shown}; the fields are {known}");
            Err(RequestError { field: within(path, &name.chars().take(SHOWN_CHARS).collect::<String>()), message })
        }
    }
}

fn within(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A value of one field.
fn one(field: &Field, value: Json, path: &str) -> Result<Json, RequestError> {
    let refused = |value: &Json| Err(wrong(path, value, &may_be(field)));
    match (field.kind, value) {
        (FieldType::String, Json::String(text)) => {
            let length = text.chars().count() as u64;
            let fits = (field.min_length.unwrap_or(0)..=field.characters_max()).contains(&length);
            let chosen = field.choices.as_ref().is_none_or(|choices| choices.contains(&text));
            if !fits {
                let message = format!("`{path}` has {length} characters; it is {}", may_be(field));
                return Err(RequestError { field: path.to_owned(), message });
            }
            if chosen { Ok(Json::String(text)) } else { refused(&Json::String(text)) }
        }
        (FieldType::Integer, Json::Number(number)) => {
            match whole(&number).filter(|number| in_range(field, *number as f64)) {
                Some(whole) => Ok(Json::from(whole)),
                None => refused(&Json::Number(number)),
            }
        }
        (FieldType::Number, Json::Number(number)) => {
            let fits = number.as_f64().is_some_and(|number| number.is_finite() && in_range(field, number));
            if fits { Ok(Json::Number(number)) } else { refused(&Json::Number(number)) }
        }
        (FieldType::Boolean, Json::Bool(truth)) => Ok(Json::Bool(truth)),
        (FieldType::Array, Json::Array(items)) => {
            let count = items.len() as u64;
            if !(field.min_items.unwrap_or(0)..=field.items_max()).contains(&count) {
                let message = format!("`{path}` has {count} items; it is {}", may_be(field));
                return Err(RequestError { field: path.to_owned(), message });
            }
            let Some(of) = field.items.as_ref() else { return Ok(Json::Array(items)) };
            let item = |(at, item)| one(of, item, &format!("{path}[{at}]"));
            Ok(Json::Array(items.into_iter().enumerate().map(item).collect::<Result<_, _>>()?))
        }
        (FieldType::Object, Json::Object(given)) => {
            let none = BTreeMap::new();
            Ok(Json::Object(object(field.fields.as_ref().unwrap_or(&none), given, path)?))
        }
        (_, other) => refused(&other),
    }
}

/// A whole number, also where JSON writes it as 5.0.
fn whole(number: &serde_json::Number) -> Option<i64> {
    let whole = number.as_i64().or_else(|| {
        let number = number.as_f64()?;
        (number.fract() == 0.0 && number.abs() <= INTEGER_MAX as f64).then_some(number as i64)
    });
    whole.filter(|number| (-INTEGER_MAX..=INTEGER_MAX).contains(number))
}

fn in_range(field: &Field, number: f64) -> bool {
    field.minimum.is_none_or(|least| number >= least) && field.maximum.is_none_or(|most| number <= most)
}

/// What a field may be, in words.
fn may_be(field: &Field) -> String {
    let between = |what: &str, least: Option<String>, most: Option<String>| match (least, most) {
        (Some(least), Some(most)) => format!("{what} from {least} to {most}"),
        (Some(least), None) => format!("{what} of at least {least}"),
        (None, Some(most)) => format!("{what} of at most {most}"),
        (None, None) => what.to_owned(),
    };
    let bound = |bound: Option<f64>| bound.map(|bound| bound.to_string());
    match field.kind {
        FieldType::String => match &field.choices {
            Some(choices) => {
                let shown: Vec<String> = choices.iter().take(20).map(|choice| abbreviated(choice)).collect();
                format!("one of {}", shown.join(", "))
            }
            None => format!("text of {} to {} characters", field.min_length.unwrap_or(0), field.characters_max()),
        },
        FieldType::Integer => between("a whole number", bound(field.minimum), bound(field.maximum)),
        FieldType::Number => between("a number", bound(field.minimum), bound(field.maximum)),
        FieldType::Boolean => "true or false".to_owned(),
        FieldType::Array => format!("a list of {} to {} items", field.min_items.unwrap_or(0), field.items_max()),
        FieldType::Object => "an object".to_owned(),
    }
}

fn wrong(path: &str, value: &Json, may_be: &str) -> RequestError {
    let is = match value {
        Json::String(text) => abbreviated(text),
        Json::Number(number) => number.to_string().chars().take(SHOWN_CHARS).collect(),
        other => kind(other).to_owned(),
    };
    RequestError { field: path.to_owned(), message: format!("`{path}` is {is}; it may be {may_be}") }
}

fn abbreviated(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(true) => "true",
        Json::Bool(false) => "false",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}
