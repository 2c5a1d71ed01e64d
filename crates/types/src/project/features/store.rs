//! Where the values of features are kept, and the rules between those settings.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ByteSize;
use crate::project::check::Found;
use crate::project::quote::abbreviated;
use crate::project::server_place::{Secret, ServerPlace};

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

/// What says something to Redis alone.
const OF_REDIS: [&str; 3] = ["url", "url_env", "password_env"];

/// Puts every broken rule of the table `features` into `found`.
pub(in crate::project) fn check(table: Option<&Value>, found: &mut Found) {
    let Some(table) = table.and_then(Value::as_object) else { return };
    let engine = table.get("engine").map_or(Ok(FeatureEngine::default()), |it| serde_json::from_value(it.clone()));
    let (name, takes, schemes): (_, &[&str], &[&str]) = match engine {
        Ok(FeatureEngine::Redis) => ("redis", &OF_REDIS, &["redis://", "rediss://"]),
        Ok(FeatureEngine::Redb) | Err(_) => ("redb", &[], &[]),
    };
    let place = ServerPlace {
        table,
        pointer: "/features",
        engine: name,
        takes,
        schemes,
        told_schemes: schemes,
        variable: "HALNY_FEATURES_URL",
    };
    if let Some(offline) = place.written("offline", found)
        && let Some((scheme, rest)) = offline.split_once("://")
        && (scheme != "s3" || rest.starts_with('/') || rest.is_empty())
    {
        let wrong = format!("{} is neither a folder nor a bucket", abbreviated(offline));
        found.value("/features/offline", wrong, "write a folder, or s3://bucket/prefix".to_owned());
    }
    if engine.is_ok() {
        let instead = |_: &str| "take it out, or write engine = \"redis\"".to_owned();
        place.check(&OF_REDIS, instead, password, found);
    }
}

/// The password of a URL of Redis, behind its scheme.
fn password(rest: &str) -> Option<Secret> {
    let place = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let has_password = place.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
    has_password.then_some(("a password", "password_env"))
}
