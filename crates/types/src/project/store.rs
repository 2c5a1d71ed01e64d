//! Where what outlives a process is kept, and the rules between those settings.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::Found;
use super::quote::abbreviated;
use super::source;
use super::vectors::is_variable;

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

const POINTER: &str = "/store";
/// What says something to PostgreSQL alone.
const OF_POSTGRES: [&str; 3] = ["url", "url_env", "password_env"];

/// Puts every broken rule of the table `store` into `found`.
pub(super) fn check(table: Option<&Value>, found: &mut Found) {
    let Some(table) = table.and_then(Value::as_object) else { return };
    let pointer = |name: &str| format!("{POINTER}/{name}");
    let written = |name: &str, found: &Found| match table.get(name) {
        Some(Value::String(text)) if !found.is_broken(&pointer(name)) => Some(text.clone()),
        _ => None,
    };
    if let Some(blobs) = written("blobs", found) {
        let reason = if blobs.starts_with("hf:") { Err("is no place to write to") } else { source::check(&blobs) };
        if let Err(reason) = reason {
            let right = "write a folder or s3://bucket/prefix".to_owned();
            found.value(&pointer("blobs"), format!("{} {reason}", abbreviated(&blobs)), right);
        }
    }
    let engine = table.get("engine").map_or(Ok(StoreEngine::default()), |it| serde_json::from_value(it.clone()));
    let Ok(engine) = engine else { return };
    if engine == StoreEngine::Sqlite {
        for name in OF_POSTGRES.into_iter().filter(|name| table.contains_key(*name)) {
            let wrong = format!("`{name}` means nothing to the engine \"sqlite\"");
            found.key(&pointer(name), wrong, "take it out, or write engine = \"postgres\"".to_owned());
        }
        return;
    }
    for name in ["url_env", "password_env"] {
        if let Some(variable) = written(name, found) {
            check_variable(&variable, &pointer(name), "HALNY_STORE_URL", found);
        }
    }
    match (table.contains_key("url"), table.contains_key("url_env")) {
        (false, false) => {
            let wrong = "the engine \"postgres\" needs to know where its server is".to_owned();
            found.missing(POINTER, wrong, "write url = \"postgres://...\", or url_env".to_owned());
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

/// A name that every shell can set.
pub(super) fn check_variable(variable: &str, pointer: &str, example: &str, found: &mut Found) {
    if !is_variable(variable) {
        let wrong = format!("{} is no name of an environment variable", abbreviated(variable));
        found.value(pointer, wrong, format!("write one of letters, digits and `_`, such as {example:?}"));
    }
}

fn check_url(url: &str, pointer: &str, found: &mut Found) {
    let Some(rest) = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme)) else {
        // It may hold a password in the wrong place: it is not shown.
        let wrong = "this is no URL of the engine \"postgres\"".to_owned();
        return found.value(pointer, wrong, "write one that begins with postgres://".to_owned());
    };
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let user = place.split('/').next().unwrap_or_default().rsplit_once('@').map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':')) || options.split('&').any(|option| option.starts_with("password=")) {
        let wrong = "the URL holds a password, which does not belong into this file".to_owned();
        let right = "take it out, and name the variable that holds it in password_env".to_owned();
        found.value(pointer, wrong, right);
    }
}
