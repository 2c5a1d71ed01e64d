//! The fields of a request, as the project file writes them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::kind::{Kind, Record, Slot};

/// Characters of a text where its field does not say.
pub(super) const MAX_LENGTH: u64 = 65_536;
/// Items of a list where its field does not say.
pub(super) const MAX_ITEMS: u64 = 256;
/// Whole numbers beyond these lose digits on their way through JavaScript.
pub const INTEGER_MAX: i64 = (1 << 53) - 1;
/// How deep fields may be in each other.
pub(super) const DEPTH_MAX: usize = 8;

/// A field of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: FieldType,
    /// What it means, for clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_000))]
    pub description: Option<String>,
    /// What it is where a request leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Whether a request may leave it out though it has no default: then it can be read by answers and filters only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
    /// Of a string: characters at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000_000))]
    pub min_length: Option<u64>,
    /// Of a string: characters at most; 65,536 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_length: Option<u64>,
    /// Of a string: the texts it may be.
    #[serde(default, rename = "enum", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(max = 1_000)))]
    pub choices: Option<Vec<String>>,
    /// Of an integer or a number: the least it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1e15, max = 1e15))]
    pub minimum: Option<f64>,
    /// Of an integer or a number: the most it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1e15, max = 1e15))]
    pub maximum: Option<f64>,
    /// Of an array: what each item is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Box<Field>>,
    /// Of an array: items at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub min_items: Option<u64>,
    /// Of an array: items at most; 256 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_items: Option<u64>,
    /// Of an object: its fields. Others are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<BTreeMap<String, Field>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(truth: &bool) -> bool {
    !truth
}

/// What a field holds, by the names of JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// A text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A list of things of one kind.
    Array,
    /// Fields by name.
    Object,
}

impl FieldType {
    /// The name, as the project file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FieldType::String => "string",
            FieldType::Integer => "integer",
            FieldType::Number => "number",
            FieldType::Boolean => "boolean",
            FieldType::Array => "array",
            FieldType::Object => "object",
        }
    }
}

impl Field {
    /// The kind of value that a reference to it reads.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.kind {
            FieldType::String => Kind::Text,
            FieldType::Integer => Kind::Integer,
            FieldType::Number => Kind::Number,
            FieldType::Boolean => Kind::Boolean,
            FieldType::Array => Kind::List(Box::new(self.items.as_ref().map_or(Kind::Any, |items| items.kind()))),
            FieldType::Object => Kind::Record(Field::record(self.fields.iter().flatten())),
        }
    }

    /// The kind of value that fields make together.
    pub fn record<'a>(fields: impl IntoIterator<Item = (&'a String, &'a Field)>) -> Record {
        let slot = |field: &Field| Slot { of: field.kind(), optional: field.may_be_absent() };
        Record { fields: fields.into_iter().map(|(name, field)| (name.clone(), slot(field))).collect(), rest: None }
    }

    /// Whether a reference to it may find nothing.
    #[must_use]
    pub fn may_be_absent(&self) -> bool {
        self.optional && self.default.is_none()
    }

    /// Whether a request has to have it.
    #[must_use]
    pub fn is_required(&self) -> bool {
        !self.optional && self.default.is_none()
    }

    /// Characters of a string at most.
    #[must_use]
    pub fn characters_max(&self) -> u64 {
        self.max_length.unwrap_or(MAX_LENGTH)
    }

    /// Items of an array at most.
    #[must_use]
    pub fn items_max(&self) -> u64 {
        self.max_items.unwrap_or(MAX_ITEMS)
    }

    /// Its JSON Schema (draft 2020-12): what it accepts, the request's reader accepts, and nothing else.
    #[must_use]
    pub fn json_schema(&self) -> Value {
        let mut schema = Map::new();
        schema.insert("type".to_owned(), json!(self.kind.as_str()));
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                schema.insert(name.to_owned(), value);
            }
        };
        put("description", self.description.as_ref().map(|text| json!(text)));
        put("default", self.default.clone());
        match self.kind {
            FieldType::String => {
                put("minLength", self.min_length.map(|least| json!(least)));
                put("maxLength", Some(json!(self.characters_max())));
                put("enum", self.choices.as_ref().map(|choices| json!(choices)));
            }
            FieldType::Integer => {
                put("minimum", Some(self.minimum.map_or(json!(-INTEGER_MAX), whole)));
                put("maximum", Some(self.maximum.map_or(json!(INTEGER_MAX), whole)));
            }
            FieldType::Number => {
                put("minimum", self.minimum.map(|least| json!(least)));
                put("maximum", self.maximum.map(|most| json!(most)));
            }
            FieldType::Boolean => {}
            FieldType::Array => {
                put("items", Some(self.items.as_ref().map_or(json!({}), |items| items.json_schema())));
                put("minItems", self.min_items.map(|least| json!(least)));
                put("maxItems", Some(json!(self.items_max())));
            }
            FieldType::Object => {
                let Value::Object(object) = Field::object_schema(self.fields.iter().flatten()) else {
                    return Value::Object(schema);
                };
                schema.extend(object);
            }
        }
        Value::Object(schema)
    }

    /// The JSON Schema of an object of these fields and no others.
    pub fn object_schema<'a>(fields: impl IntoIterator<Item = (&'a String, &'a Field)>) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for (name, field) in fields {
            properties.insert(name.clone(), field.json_schema());
            if field.is_required() {
                required.push(json!(name));
            }
        }
        let mut schema = Map::new();
        schema.insert("type".to_owned(), json!("object"));
        schema.insert("properties".to_owned(), Value::Object(properties));
        if !required.is_empty() {
            schema.insert("required".to_owned(), Value::Array(required));
        }
        schema.insert("additionalProperties".to_owned(), json!(false));
        Value::Object(schema)
    }
}

/// A bound of integers, which the file may write as 1.0.
fn whole(bound: f64) -> Value {
    // Bounds lie within 1e15, where every whole number has a place of its own.
    if bound.fract() == 0.0 { json!(bound as i64) } else { json!(bound) }
}
