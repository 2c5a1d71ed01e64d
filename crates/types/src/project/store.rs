//! Where what outlives a process is kept, and the rules between those settings.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::Found;
use super::quote::abbreviated;
use super::server_place::{ServerPlace, password_of_postgres};
use super::source;

/// Where what outlives a process is kept: jobs, uploaded files, and what is known of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// What keeps the metadata: `sqlite`, a file on this host, or `postgres`, a PostgreSQL database, which several
    /// servers may share.
    pub engine: StoreEngine,
    /// The folder of the file, and of blobs unless `blobs` says otherwise, relative to this file.
    #[schemars(length(min = 1, max = 4_096))]
    pub folder: PathBuf,
    /// Where the PostgreSQL server is: `postgres://user@host:5432/database`. A password is named by `password_env`.
    #[schemars(length(min = 1, max = 4_096), extend("examples" = ["postgres://halny@db.internal:5432/halny?sslmode=verify-full"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The environment variable that holds the URL, in place of `url`; in that a password may be.
    #[schemars(length(min = 1, max = 256), extend("examples" = ["HALNY_STORE_URL"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_env: Option<String>,
    /// The environment variable that holds the password of the PostgreSQL user.
    #[schemars(length(min = 1, max = 256), extend("examples" = ["HALNY_STORE_PASSWORD"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// Where blobs are: a folder, or `s3://bucket/prefix` with credentials, region and endpoint out of the environment
    /// (`AWS_ACCESS_KEY_ID`, ...). By default the folder `blobs` in `folder`.
    #[schemars(length(min = 1, max = 4_096), extend("examples" = ["store/blobs", "s3://bucket/halny"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blobs: Option<String>,
}

/// What keeps the metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StoreEngine {
    /// A file on this host.
    #[default]
    Sqlite,
    /// A PostgreSQL database.
    Postgres,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            engine: StoreEngine::default(),
            folder: PathBuf::from("store"),
            url: None,
            url_env: None,
            password_env: None,
            blobs: None,
        }
    }
}

/// What says something to PostgreSQL alone.
const OF_POSTGRES: [&str; 3] = ["url", "url_env", "password_env"];

/// Puts every broken rule of the table `store` into `found`.
pub(super) fn check(table: Option<&Value>, found: &mut Found) {
    let Some(table) = table.and_then(Value::as_object) else { return };
    let engine = table.get("engine").map_or(Ok(StoreEngine::default()), |it| serde_json::from_value(it.clone()));
    let (name, takes, schemes): (_, &[&str], &[&str]) = match engine {
        Ok(StoreEngine::Postgres) => ("postgres", &OF_POSTGRES, &["postgres://", "postgresql://"]),
        Ok(StoreEngine::Sqlite) | Err(_) => ("sqlite", &[], &[]),
    };
    let place = ServerPlace {
        table,
        pointer: "/store",
        engine: name,
        takes,
        schemes,
        told_schemes: &["postgres://"],
        variable: "HALNY_STORE_URL",
    };
    if let Some(blobs) = place.written("blobs", found) {
        let reason = if blobs.starts_with("hf:") { Err("is no place to write to") } else { source::check(blobs) };
        if let Err(reason) = reason {
            let right = "write a folder or s3://bucket/prefix".to_owned();
            found.value("/store/blobs", format!("{} {reason}", abbreviated(blobs)), right);
        }
    }
    if engine.is_ok() {
        let instead = |_: &str| "take it out, or write engine = \"postgres\"".to_owned();
        place.check(&OF_POSTGRES, instead, password_of_postgres, found);
    }
}
