//! Where the values of features are kept, and the rules between those settings.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ByteSize;
use crate::project::check::Found;
use crate::project::quote::abbreviated;
use crate::project::vectors::is_variable;

/// Where the values of features are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Features {
    /// What keeps the newest values: `redb`, a file on this host; `redis`, a Redis or Valkey server, which several
    /// servers may share.
    pub engine: FeatureEngine,
    /// The folder of this server's own files, relative to this file: the newest values with `redb`, and with either engine
    /// the rows that were pushed and are not in Parquet files yet. It is made when it is needed. One server at a time may
    /// use it.
    #[schemars(length(min = 1, max = 4_096))]
    pub folder: PathBuf,
    /// Where rows are kept for ever, as Parquet files: a folder, or `s3://bucket/prefix`. By default `offline` below
    /// `folder`.
    #[schemars(length(min = 1, max = 4_096), extend("examples" = ["features/offline", "s3://lake/features"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offline: Option<String>,
    /// Memory that one join may use for sorting and merging, `8MiB` to `1TiB`. Beyond it, it uses temporary files.
    pub join_memory: ByteSize,
    /// Where the Redis or Valkey server is: `redis://host:6379`, or `rediss://` with TLS. A password is named by
    /// `password_env`.
    #[schemars(length(min = 1, max = 4_096), extend("examples" = ["redis://cache.internal:6379/0"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The environment variable that holds the URL, in place of `url`; in that a password may be.
    #[schemars(length(min = 1, max = 256), extend("examples" = ["HALNY_FEATURES_URL"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_env: Option<String>,
    /// The environment variable that holds the password of the Redis or Valkey server.
    #[schemars(length(min = 1, max = 256), extend("examples" = ["HALNY_FEATURES_PASSWORD"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
}

impl Default for Features {
    fn default() -> Features {
        Features {
            engine: FeatureEngine::default(),
            folder: PathBuf::from("features"),
            offline: None,
            join_memory: ByteSize::mib(256),
            url: None,
            url_env: None,
            password_env: None,
        }
    }
}

impl Features {
    /// Where rows are kept for ever: what the file says, or the folder `offline` below this server's own.
    #[must_use]
    pub fn offline_place(&self) -> String {
        let default = || self.folder.join("offline").to_string_lossy().into_owned();
        self.offline.clone().unwrap_or_else(default)
    }
}

/// What [`Features::join_memory`] may be. Below 8 MiB a join of many views does little but read and write files.
pub const JOIN_MEMORY_RANGE: RangeInclusive<ByteSize> = ByteSize::mib(8)..=ByteSize::gib(1_024);

/// What keeps the newest values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureEngine {
    /// A file on this host.
    #[default]
    Redb,
    /// A Redis or Valkey server.
    Redis,
}

const POINTER: &str = "/features";
/// What says something to Redis alone.
const OF_REDIS: [&str; 3] = ["url", "url_env", "password_env"];

/// Puts every broken rule of the table `features` into `found`.
pub(in crate::project) fn check(table: Option<&Value>, found: &mut Found) {
    let Some(table) = table.and_then(Value::as_object) else { return };
    let pointer = |name: &str| format!("{POINTER}/{name}");
    let written = |name: &str, found: &Found| match table.get(name) {
        Some(Value::String(text)) if !found.is_broken(&pointer(name)) => Some(text.clone()),
        _ => None,
    };
    if let Some(offline) = written("offline", found)
        && let Some((scheme, rest)) = offline.split_once("://")
        && (scheme != "s3" || rest.starts_with('/') || rest.is_empty())
    {
        let wrong = format!("{} is neither a folder nor a bucket", abbreviated(&offline));
        found.value(&pointer("offline"), wrong, "write a folder, or s3://bucket/prefix".to_owned());
    }
    let engine = table.get("engine").map_or(Ok(FeatureEngine::default()), |it| serde_json::from_value(it.clone()));
    let Ok(engine) = engine else { return };
    if engine == FeatureEngine::Redb {
        for name in OF_REDIS.into_iter().filter(|name| table.contains_key(*name)) {
            let wrong = format!("`{name}` means nothing to the engine \"redb\"");
            found.key(&pointer(name), wrong, "take it out, or write engine = \"redis\"".to_owned());
        }
        return;
    }
    for name in ["url_env", "password_env"] {
        if let Some(variable) = written(name, found).filter(|variable| !is_variable(variable)) {
            let wrong = format!("{} is no name of an environment variable", abbreviated(&variable));
            let right = "write one of letters, digits and `_`, such as \"HALNY_FEATURES_URL\"".to_owned();
            found.value(&pointer(name), wrong, right);
        }
    }
    match (table.contains_key("url"), table.contains_key("url_env")) {
        (false, false) => {
            let wrong = "the engine \"redis\" needs to know where its server is".to_owned();
            found.missing(POINTER, wrong, "write url = \"redis://...\", or url_env".to_owned());
        }
        (true, true) => {
            let wrong = "`url` and `url_env` both say where the server is".to_owned();
            found.key(&pointer("url_env"), wrong, "write one of them".to_owned());
        }
        _ => {}
    }
    if let Some(url) = written("url", found) {
        check_url(&url, &pointer("url"), found);
    }
}

fn check_url(url: &str, pointer: &str, found: &mut Found) {
    let Some(rest) = ["redis://", "rediss://"].iter().find_map(|scheme| url.strip_prefix(scheme)) else {
        // It may hold a password in the wrong place: it is not shown.
        let wrong = "this is no URL of the engine \"redis\"".to_owned();
        return found.value(pointer, wrong, "write one that begins with redis:// or rediss://".to_owned());
    };
    let place = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if place.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) {
        let wrong = "the URL holds a password, which does not belong into this file".to_owned();
        let right = "take it out, and name the variable that holds it in password_env".to_owned();
        found.value(pointer, wrong, right);
    }
}
