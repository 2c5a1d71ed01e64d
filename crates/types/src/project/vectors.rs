//! Where collections of vectors are kept, and the rules between those settings.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::Found;
use super::server_place::{Secret, ServerPlace, password_of_postgres};
use crate::ByteSize;

/// Where collections of vectors are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vectors {
    /// What keeps them: `embedded`, files on this host; `postgres`, a PostgreSQL database with pgvector, or `qdrant`, a
    /// Qdrant cluster, which several servers may share.
    pub engine: VectorEngine,
    /// The folder of the embedded engine, relative to this file. It is made with the first collection. One server at
    /// a time may use it.
    #[schemars(length(min = 1, max = 4_096))]
    pub folder: PathBuf,
    /// How much of the vectors is kept in memory, those that are found most, of all collections together: `0B` to
    /// `1TiB`. The system's limit on locked memory has to allow it. For the embedded engine.
    pub warm: ByteSize,
    /// Where the server of another engine is: `postgres://user@host:5432/database`, or the REST API of a Qdrant
    /// cluster, `https://host:6333`. Without a secret: a password is named by `password_env`, a key by `api_key_env`.
    #[schemars(
        length(min = 1, max = 4_096),
        extend("examples" = [
            "postgres://halny@db.internal:5432/halny?sslmode=verify-full",
            "https://qdrant.internal:6333"
        ])
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The environment variable that holds the URL, in place of `url`; in that of a database a password may be.
    #[schemars(length(min = 1, max = 256), extend("examples" = ["HALNY_VECTORS_URL"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_env: Option<String>,
    /// The environment variable that holds the password of the PostgreSQL user.
    #[schemars(length(min = 1, max = 256), extend("examples" = ["HALNY_VECTORS_PASSWORD"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// The environment variable that holds the API key of the Qdrant cluster.
    #[schemars(length(min = 1, max = 256), extend("examples" = ["QDRANT_API_KEY"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
}

impl Default for Vectors {
    fn default() -> Vectors {
        Vectors {
            engine: VectorEngine::default(),
            folder: PathBuf::from("vectors"),
            warm: ByteSize::mib(256),
            url: None,
            url_env: None,
            password_env: None,
            api_key_env: None,
        }
    }
}

/// What [`Vectors::warm`] may be.
pub const WARM_RANGE: RangeInclusive<ByteSize> = ByteSize::kib(0)..=ByteSize::gib(1_024);

/// What keeps collections of vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VectorEngine {
    /// Files on this host.
    #[default]
    Embedded,
    /// PostgreSQL with pgvector.
    Postgres,
    /// A Qdrant cluster.
    Qdrant,
}

impl VectorEngine {
    fn name(self) -> &'static str {
        match self {
            VectorEngine::Embedded => "embedded",
            VectorEngine::Postgres => "postgres",
            VectorEngine::Qdrant => "qdrant",
        }
    }

    /// The settings that say something to it, and what a URL of it begins with.
    fn takes(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            VectorEngine::Embedded => (&[], &[]),
            VectorEngine::Postgres => (&["url", "url_env", "password_env"], &["postgres://", "postgresql://"]),
            VectorEngine::Qdrant => (&["url", "url_env", "api_key_env"], &["http://", "https://"]),
        }
    }

    /// What to do about a setting that says nothing to it.
    fn instead_of(self, setting: &str) -> String {
        let other = match (self, setting) {
            (VectorEngine::Embedded | VectorEngine::Qdrant, "password_env") => VectorEngine::Postgres,
            (VectorEngine::Embedded | VectorEngine::Postgres, "api_key_env") => VectorEngine::Qdrant,
            (VectorEngine::Embedded, _) => {
                return "take it out, or write engine = \"postgres\" or \"qdrant\"".to_owned();
            }
            (VectorEngine::Postgres | VectorEngine::Qdrant, _) => VectorEngine::Embedded,
        };
        format!("take it out, or write engine = {:?}", other.name())
    }
}

/// The settings that are for some engines alone. A folder may stay where it is: it is a default that somebody may have
/// written out.
const OF_ENGINES: [&str; 4] = ["url", "url_env", "password_env", "api_key_env"];
/// Puts every broken rule of the table `vectors` into `found`.
pub(super) fn check(table: Option<&Value>, found: &mut Found) {
    let Some(table) = table.and_then(Value::as_object) else { return };
    let engine =
        table.get("engine").map_or(Ok(VectorEngine::default()), |engine| serde_json::from_value(engine.clone()));
    let Ok(engine) = engine else { return };
    let (takes, schemes) = engine.takes();
    let place = ServerPlace {
        table,
        pointer: "/vectors",
        engine: engine.name(),
        takes,
        schemes,
        told_schemes: schemes,
        variable: "HALNY_VECTORS_URL",
    };
    let secret = |rest: &str| match engine {
        VectorEngine::Qdrant => more_than_a_place(rest),
        VectorEngine::Embedded | VectorEngine::Postgres => password_of_postgres(rest),
    };
    place.check(&OF_ENGINES, |name| engine.instead_of(name), secret, found);
}

/// The URL of a cluster says where it is, and nothing else.
fn more_than_a_place(rest: &str) -> Option<Secret> {
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let has_user = place.split('/').next().unwrap_or_default().contains('@');
    let has_more = has_user || !options.is_empty() || place.contains('#');
    has_more.then_some(("more than where it is, such as a key", "api_key_env"))
}
