//! What an indexed field holds.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::FilterError;

/// What an indexed field holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum FieldKind {
    /// Texts that are the same or not.
    Keyword,
    /// Whole numbers.
    Integer,
    /// Numbers.
    Float,
    /// True or false.
    Bool,
    /// Points on the globe: `{"lon", "lat"}`.
    Geo,
    /// Dates and times as RFC 3339 writes them.
    Datetime,
    /// Texts that are searched for words.
    Text(TextOptions),
    /// UUIDs.
    Uuid,
}

/// How texts become words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextOptions {
    /// Whether words end at white space alone, not at every character that is no letter or digit.
    pub whitespace: bool,
    /// Whether upper and lower case are the same.
    pub lowercase: bool,
    /// Shorter words do not count.
    pub min_token_len: usize,
    /// Longer words do not count.
    pub max_token_len: usize,
}

impl Default for TextOptions {
    fn default() -> TextOptions {
        TextOptions { whitespace: false, lowercase: true, min_token_len: 0, max_token_len: usize::MAX }
    }
}

/// Options of Qdrant's that change where an index is kept, not what it answers.
const WITHOUT_MEANING: [&str; 7] =
    ["type", "is_tenant", "is_principal", "on_disk", "memory", "enable_hnsw", "phrase_matching"];

impl FieldKind {
    /// Reads Qdrant's forms: a name, or an object with a `type`.
    ///
    /// # Errors
    /// When it is neither, or wants what is not supported.
    pub fn read(schema: &Value) -> Result<FieldKind, FilterError> {
        let place = "field_schema";
        let empty = Map::new();
        let (name, options) = match schema {
            Value::String(name) => (name.as_str(), &empty),
            Value::Object(options) => (options.get("type").and_then(Value::as_str).unwrap_or_default(), options),
            _ => ("", &empty),
        };
        let kind = match name {
            "keyword" => FieldKind::Keyword,
            "integer" => FieldKind::Integer,
            "float" => FieldKind::Float,
            "bool" => FieldKind::Bool,
            "geo" => FieldKind::Geo,
            "datetime" => FieldKind::Datetime,
            "uuid" => FieldKind::Uuid,
            "text" => return text(options).map(FieldKind::Text),
            _ => {
                let kinds = "a field holds one of keyword, integer, float, bool, geo, datetime, text, uuid";
                return Err(FilterError::invalid(place, kinds));
            }
        };
        let known = |name: &str| {
            WITHOUT_MEANING.contains(&name) || (kind == FieldKind::Integer && ["lookup", "range"].contains(&name))
        };
        match options.iter().find(|(name, value)| !known(name) && !value.is_null()) {
            Some((field, _)) => Err(FilterError::Unsupported { place: place.to_owned(), field: field.clone() }),
            None => Ok(kind),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            FieldKind::Keyword => "keyword",
            FieldKind::Integer => "integer",
            FieldKind::Float => "float",
            FieldKind::Bool => "bool",
            FieldKind::Geo => "geo",
            FieldKind::Datetime => "datetime",
            FieldKind::Text(_) => "text",
            FieldKind::Uuid => "uuid",
        }
    }
}

fn text(options: &Map<String, Value>) -> Result<TextOptions, FilterError> {
    let mut read = TextOptions::default();
    for (name, value) in options.iter().filter(|(_, value)| !value.is_null()) {
        let length = || {
            let expected = "a whole number of characters";
            let length = value.as_u64().and_then(|length| usize::try_from(length).ok());
            length.ok_or_else(|| FilterError::invalid(&format!("field_schema.{name}"), expected))
        };
        match (name.as_str(), value) {
            ("tokenizer", Value::String(tokenizer)) if tokenizer == "word" => {}
            ("tokenizer", Value::String(tokenizer)) if tokenizer == "whitespace" => read.whitespace = true,
            ("lowercase", Value::Bool(lowercase)) => read.lowercase = *lowercase,
            ("min_token_len", _) => read.min_token_len = length()?,
            ("max_token_len", _) => read.max_token_len = length()?,
            (name, _) if WITHOUT_MEANING.contains(&name) => {}
            _ => return Err(FilterError::Unsupported { place: "field_schema".to_owned(), field: name.clone() }),
        }
    }
    Ok(read)
}
