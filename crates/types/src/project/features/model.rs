//! Entities, views and services as the project file writes them. The docs become the descriptions in the JSON Schema.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FeatureType;
use crate::ServiceName;

/// The most features in one view, and in one service.
pub const FEATURES_MAX: usize = 1_000;

/// Something that has features: a user, a package, a pair of both is two of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entity {
    /// Its name: an identifier.
    #[schemars(length(min = 1, max = 64), extend("examples" = ["user", "package"]))]
    pub name: String,
    /// The column, and the field of requests, that says which one is meant. By default its name.
    #[schemars(length(min = 1, max = 64), extend("examples" = ["user_id"]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_key: Option<String>,
    /// The type of the join key: `int32`, `int64`, `string` or `bytes`.
    #[serde(default = "key_type")]
    pub value_type: FeatureType,
    /// What it is.
    #[schemars(length(min = 1, max = 1_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

fn key_type() -> FeatureType {
    FeatureType::one(super::Scalar::String)
}

impl Entity {
    /// The column that says which one is meant.
    #[must_use]
    pub fn join_key(&self) -> &str {
        self.join_key.as_deref().unwrap_or(&self.name)
    }
}

/// Features of one or several entities, from one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureView {
    /// Its name: an identifier.
    #[schemars(length(min = 1, max = 64), extend("examples" = ["user_clicks"]))]
    pub name: String,
    /// The entities that it is about, by name: together they are the key.
    #[schemars(length(min = 1, max = 8))]
    pub entities: Vec<String>,
    /// Its features.
    #[schemars(length(min = 1, max = 1_000))]
    pub features: Vec<Feature>,
    /// Where its rows come from.
    pub source: Source,
    /// How old a row may be, in seconds, and still be served; 0 is for ever. Offline the same holds at the time of each
    /// row that is asked for.
    #[schemars(range(min = 0, max = 3_155_760_000u64))]
    #[serde(default)]
    pub ttl_s: u64,
    /// What it is.
    #[schemars(length(min = 1, max = 1_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Notes for people.
    #[schemars(extend("maxProperties" = 64))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// A feature of a view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// Its name: an identifier, once in the view.
    #[schemars(length(min = 1, max = 64), extend("examples" = ["clicks_7d"]))]
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub value_type: FeatureType,
    /// What it is.
    #[schemars(length(min = 1, max = 1_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Where the rows of a view come from: from files, by being pushed, or both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Parquet files that something else writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchSource>,
    /// Whether rows may be pushed.
    pub push: bool,
}

/// Parquet files that hold the rows of a view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchSource {
    /// A file, a folder with all `.parquet` files below it, or a pattern with `*`; relative to this file, or
    /// `s3://bucket/prefix`.
    #[schemars(
        length(min = 1, max = 4_096),
        extend("examples" = ["data/clicks.parquet", "data/clicks/*.parquet", "s3://lake/clicks"])
    )]
    pub path: String,
    /// The column that says when a row began to hold.
    #[schemars(length(min = 1, max = 256))]
    #[serde(default = "timestamp")]
    pub timestamp: String,
    /// The column that says when a row was made: of two rows of one time the later made holds.
    #[schemars(length(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Columns that are called otherwise than the feature or join key: `column = "feature"`.
    #[schemars(extend("maxProperties" = 1_000))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mapping: BTreeMap<String, String>,
}

fn timestamp() -> String {
    "event_timestamp".to_owned()
}

/// Features that are computed when they are asked for, online and offline by the same expressions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnDemandView {
    /// Its name: an identifier that no view has.
    #[schemars(length(min = 1, max = 64), extend("examples" = ["click_rates"]))]
    pub name: String,
    /// The views whose features the expressions may read, as `view.feature`.
    #[schemars(length(max = 32))]
    #[serde(default)]
    pub sources: Vec<String>,
    /// The fields of the request that the expressions may read, as `request.field`, with their types.
    #[schemars(extend("maxProperties" = 64))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub request: BTreeMap<String, FeatureType>,
    /// Its features.
    #[schemars(length(min = 1, max = 256))]
    pub features: Vec<OnDemandFeature>,
    /// What it is.
    #[schemars(length(min = 1, max = 1_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A feature that is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnDemandFeature {
    /// Its name: an identifier, once in the view.
    #[schemars(length(min = 1, max = 64), extend("examples" = ["click_rate"]))]
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub value_type: FeatureType,
    /// How it is computed, in CEL. What cannot be computed, such as a sum with a missing value, has no value.
    #[schemars(
        length(min = 1, max = 2_000),
        extend("examples" = ["double(user_clicks.clicks_7d) / (user_clicks.views_7d + 1.0)"])
    )]
    pub expression: String,
}

/// A versioned list of features: what a model is served with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureService {
    /// Its name. Several versions may have the same.
    pub name: ServiceName,
    /// Its version. Who asks for the name alone gets the highest; `name@2` is version 2.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(default = "first_version")]
    pub version: u32,
    /// Features in the order in which they are served: `view:feature`, or `view` for all of its features.
    #[schemars(length(min = 1, max = 1_000))]
    pub features: Vec<String>,
    /// Of the served rows, how many are logged: 0 none, 0.1 one of ten, 1 all.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default)]
    pub log_sample: f64,
    /// What it is.
    #[schemars(length(min = 1, max = 1_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

fn first_version() -> u32 {
    1
}
