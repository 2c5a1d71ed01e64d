//! What keeps the collections of vectors, as the project file says.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use halny_types::project::{VectorEngine, Vectors};
use halny_vectors::Collections;
use halny_vectors::embedded::Store;
use halny_vectors::postgres::Postgres;
use halny_vectors::qdrant::Qdrant;

/// Opens the collections; those in files of this server also as what they are.
pub(crate) async fn open(
    vectors: &Vectors,
    folder: &Path,
    threads: usize,
) -> anyhow::Result<(Arc<dyn Collections>, Option<Arc<Store>>)> {
    match vectors.engine {
        VectorEngine::Embedded => {
            let folder = folder.join(&vectors.folder);
            let store = Store::open(&folder, threads)
                .with_context(|| format!("the collections in {} cannot be opened", folder.display()))?;
            let store = Arc::new(store);
            Ok((Arc::clone(&store) as Arc<dyn Collections>, Some(store)))
        }
        VectorEngine::Postgres => {
            let password = vectors.password_env.as_deref().map(|name| variable("vectors", name)).transpose()?;
            let postgres = Postgres::connect(
                &url("vectors", vectors.url.as_ref(), vectors.url_env.as_ref())?,
                password.as_deref(),
            )
            .await;
            Ok((Arc::new(postgres.context("the collections in PostgreSQL cannot be opened")?), None))
        }
        VectorEngine::Qdrant => {
            let key = vectors.api_key_env.as_deref().map(|name| variable("vectors", name)).transpose()?;
            let qdrant =
                Qdrant::connect(&url("vectors", vectors.url.as_ref(), vectors.url_env.as_ref())?, key.as_deref()).await;
            Ok((Arc::new(qdrant.context("the collections in the Qdrant cluster cannot be opened")?), None))
        }
    }
}

/// The URL that a table of the project file writes, or names the variable of.
pub(crate) fn url(table: &str, url: Option<&String>, url_env: Option<&String>) -> anyhow::Result<String> {
    match (url, url_env) {
        (Some(url), _) => Ok(url.clone()),
        (None, Some(name)) => variable(table, name),
        (None, None) => bail!("[{table}] says neither `url` nor `url_env`"),
    }
}

/// What an environment variable holds that a table of the project file names.
pub(crate) fn variable(table: &str, name: &str) -> anyhow::Result<String> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        _ => bail!("[{table}] names the environment variable {name}, which is not set; set it or name another"),
    }
}
