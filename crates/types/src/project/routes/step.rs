//! Steps as the project file writes them. The docs become the descriptions in the JSON Schema.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::{CollectionName, ModelName};

/// One thing that a route does: exactly one of `embed`, `search`, `rerank`, `classify`, `generate`,
/// `fetch-payload`, `join` and `features`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What references call it.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// The time it has once it began; without it, what is left of the route's deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_600_000))]
    pub timeout_ms: Option<u64>,
    /// What stands for what the step gives, field by field, when it fails or takes too long. Steps that are
    /// read by fallbacks alone run only when one is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<BTreeMap<String, Value>>,
    /// Makes vectors of texts: gives `vector`, or `vectors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embed: Option<Embed>,
    /// Finds the points nearest to a vector, a text or other points: gives `points`, each with `id`, `score` and
    /// `payload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// Orders documents by relevance to a query: gives `documents`, each with `index`, `text` and `score`, and,
    /// where the documents were read from points, `points` in that order with their new scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerank: Option<Rerank>,
    /// Labels a text or an image: gives `label`, `score` and `scores`; or `results` for several texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classify: Option<Classify>,
    /// Writes text with a language model: gives `text`, `finish_reason`, `prompt_tokens`, `written_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate: Option<Generate>,
    /// Reads points by their ids: gives `points`, each with `id` and `payload`.
    #[serde(default, rename = "fetch-payload", skip_serializing_if = "Option::is_none")]
    pub fetch_payload: Option<FetchPayload>,
    /// Makes one text of a list, for a prompt: gives `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    /// Reads the values of features that hold now: gives each by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<ReadFeatures>,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action<'a> {
    /// Makes vectors of texts.
    Embed(&'a Embed),
    /// Finds the points nearest to a vector.
    Search(&'a Search),
    /// Orders documents by relevance to a query.
    Rerank(&'a Rerank),
    /// Labels texts or an image.
    Classify(&'a Classify),
    /// Writes text.
    Generate(&'a Generate),
    /// Reads points by their ids.
    FetchPayload(&'a FetchPayload),
    /// Makes one text of a list.
    Join(&'a Join),
    /// Reads features.
    Features(&'a ReadFeatures),
}

impl Action<'_> {
    /// The names of all, as the project file writes them.
    pub const NAMES: [&'static str; 8] =
        ["embed", "search", "rerank", "classify", "generate", "fetch-payload", "join", "features"];

    /// The name, as the project file writes it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Action::Embed(_) => "embed",
            Action::Search(_) => "search",
            Action::Rerank(_) => "rerank",
            Action::Classify(_) => "classify",
            Action::Generate(_) => "generate",
            Action::FetchPayload(_) => "fetch-payload",
            Action::Join(_) => "join",
            Action::Features(_) => "features",
        }
    }
}

impl Step {
    /// Everything that the step says it does: one, in a project that was checked.
    #[must_use]
    pub fn actions(&self) -> Vec<Action<'_>> {
        [
            self.embed.as_ref().map(Action::Embed),
            self.search.as_ref().map(Action::Search),
            self.rerank.as_ref().map(Action::Rerank),
            self.classify.as_ref().map(Action::Classify),
            self.generate.as_ref().map(Action::Generate),
            self.fetch_payload.as_ref().map(Action::FetchPayload),
            self.join.as_ref().map(Action::Join),
            self.features.as_ref().map(Action::Features),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What it does, where it says exactly one thing.
    #[must_use]
    pub fn action(&self) -> Option<Action<'_>> {
        match self.actions().as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }
}

/// Makes vectors of texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Embed {
    /// A model of the task `embed`.
    pub model: ModelName,
    /// The text, with references: gives `vector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65_536))]
    pub text: Option<String>,
    /// A list of texts, by one reference: gives `vectors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_024), extend("examples" = ["${request.texts}"]))]
    pub texts: Option<String>,
}

/// Finds the points nearest to a vector, a text or other points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// The collection, or an alias of one.
    pub collection: CollectionName,
    /// The vector, by one reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_024), extend("examples" = ["${query.vector}"]))]
    pub vector: Option<String>,
    /// A text with references instead, which the collection's own model makes a vector of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65_536))]
    pub text: Option<String>,
    /// Points instead, by one reference to a list of their ids: what is near to them is found, and not they themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_024), extend("examples" = ["${user.recent}"]))]
    pub positive: Option<String>,
    /// Points that what is found is to be far from, beside `positive`: one reference to a list of their ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_024), extend("examples" = ["${request.disliked}"]))]
    pub negative: Option<String>,
    /// Which of the collection's vectors, where it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 96))]
    pub using: Option<String>,
    /// How many points: a number, or a reference.
    #[serde(default = "ten")]
    pub limit: Count,
    /// Which points, as Qdrant's filters say it; references stand for values. A condition in a list that reads
    /// a field which the request left out is left out too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, Value>>")]
    pub filter: Option<Value>,
    /// Which of the payload's fields are read: all (true), none (false), or a list of them.
    #[serde(default)]
    pub with_payload: Payload,
    /// Points with a worse score are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1e30, max = 1e30))]
    pub score_threshold: Option<f64>,
    /// Whether every point is compared, without an index.
    #[serde(default)]
    pub exact: bool,
}

fn ten() -> Count {
    Count::Number(10)
}

/// Orders documents by relevance to a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rerank {
    /// A model of the task `rerank`.
    pub model: ModelName,
    /// The query, with references.
    #[schemars(length(min = 1, max = 65_536))]
    pub query: String,
    /// A list of texts, by one reference.
    #[schemars(length(min = 1, max = 1_024), extend("examples" = ["${hits.points[*].payload.text}"]))]
    pub documents: String,
    /// How many of the best are kept: a number, or a reference. By default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<Count>,
}

/// Labels a text, an image, or several texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Classify {
    /// A model of the task `classify-text`, or `classify-image` for images.
    pub model: ModelName,
    /// The text, with references: gives `label`, `score` and `scores`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65_536))]
    pub text: Option<String>,
    /// A list of texts, by one reference: gives `results`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_024), extend("examples" = ["${hits.points[*].payload.text}"]))]
    pub texts: Option<String>,
    /// An image (JPEG, PNG, WebP) in base64, by one reference: gives `label`, `score` and `scores`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_024), extend("examples" = ["${request.image}"]))]
    pub image: Option<String>,
}

/// Writes text with a language model: what continues a prompt, or what answers messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// A model of the task `generate`, or `model:adapter`.
    #[schemars(length(min = 1, max = 200), extend("examples" = ["gemma", "gemma:terse"]))]
    pub model: String,
    /// The text to continue, with references. Names of special tokens in it are text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262_144))]
    pub prompt: Option<String>,
    /// A conversation instead, for the model's chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub messages: Option<Vec<Message>>,
    /// Tokens to write at most: a number, or a reference. By default what the model's entry says, or what fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<Count>,
    /// Texts that end the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub stop: Vec<String>,
    /// How freely is chosen: 0 for always the likeliest token. By default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f32>,
    /// Chosen is among the likeliest tokens that have this probability together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f32>,
    /// Chosen is among so many of the likeliest tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub top_k: Option<u32>,
    /// Makes the same choices each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_223_372_036_854_775_807_u64))]
    pub seed: Option<u64>,
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it.
    #[schemars(length(min = 1, max = 64), extend("examples" = ["system", "user", "assistant"]))]
    pub role: String,
    /// What is said, with references.
    #[schemars(length(min = 1, max = 262_144))]
    pub content: String,
}

/// Reads points by their ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchPayload {
    /// The collection, or an alias of one.
    pub collection: CollectionName,
    /// A list of ids, by one reference. Ids that no point has are left out.
    #[schemars(length(min = 1, max = 1_024), extend("examples" = ["${hits.points[*].id}"]))]
    pub ids: String,
    /// Which of the payload's fields are read: all (true), none (false), or a list of them.
    #[serde(default)]
    pub with_payload: Payload,
}

/// Makes one text of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The list, by one reference.
    #[schemars(length(min = 1, max = 1_024), extend("examples" = ["${hits.points}"]))]
    pub items: String,
    /// What is written of each: `${item.payload.name}` reads the item, `${number}` counts from 1.
    #[serde(default = "item")]
    #[schemars(length(min = 1, max = 65_536))]
    pub each: String,
    /// What is written between two.
    #[serde(default = "line")]
    #[schemars(length(max = 256))]
    pub separator: String,
    /// Items that do not fit are left out: characters of the text at most.
    #[serde(default = "characters")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_characters: usize,
}

fn item() -> String {
    "${item}".to_owned()
}

fn line() -> String {
    "\n".to_owned()
}

fn characters() -> usize {
    16_384
}

/// Reads the values of features that hold now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadFeatures {
    /// A feature service: `name` for its highest version, or `name@version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), extend("examples" = ["recommendations", "recommendations@2"]))]
    pub service: Option<String>,
    /// Features instead: `view:feature`, or `view` for all of its features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_000))]
    pub list: Option<Vec<String>>,
    /// Whose: a value for each join key of the features, with references.
    #[schemars(extend("maxProperties" = 64))]
    #[serde(default)]
    pub entities: BTreeMap<String, Value>,
    /// The fields of the request that on-demand features read, with references.
    #[schemars(extend("maxProperties" = 64))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub request: BTreeMap<String, Value>,
    /// What stands for features that have no value: they may be read wherever a value is needed.
    #[schemars(extend("maxProperties" = 1_000))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub default: BTreeMap<String, Value>,
    /// Whether features are called `view__feature`, not `feature`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full_feature_names: bool,
}

/// Which part of a payload is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Payload {
    /// All of it, or nothing.
    Whole(bool),
    /// What is at these paths.
    Only(Vec<String>),
}

impl Default for Payload {
    fn default() -> Payload {
        Payload::Whole(true)
    }
}

impl JsonSchema for Payload {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Payload".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Which part of a payload is read.",
            "oneOf": [
                { "type": "boolean" },
                { "type": "array", "items": { "type": "string", "minLength": 1, "maxLength": 256 }, "maxItems": 64 },
            ],
        })
    }
}

/// How many: a number, or a reference to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many, 1 to [`Count::MAX`].
    Number(u64),
    /// What a reference says.
    Read(String),
}

impl Count {
    /// The most that a count may say; what it counts has smaller limits of its own.
    pub const MAX: u64 = 1_000_000;
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Count::Number(count) => serializer.serialize_u64(*count),
            Count::Read(reference) => serializer.serialize_str(reference),
        }
    }
}

// Not `#[serde(untagged)]`: its error is "data did not match any variant".
impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Count, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Count;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a whole number from 1 to {} or a reference", Count::MAX)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Count, E> {
                Ok(Count::Read(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Count, E> {
                if (1..=Count::MAX).contains(&count) {
                    Ok(Count::Number(count))
                } else {
                    Err(E::invalid_value(de::Unexpected::Unsigned(count), &self))
                }
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Count, E> {
                match u64::try_from(count) {
                    Ok(count) => self.visit_u64(count),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(count), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Count {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Count".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How many: a number, or a reference to one.",
            "oneOf": [
                { "type": "integer", "minimum": 1, "maximum": Count::MAX },
                { "type": "string", "minLength": 4, "maxLength": 1_024, "examples": ["${request.limit}"] },
            ],
        })
    }
}
