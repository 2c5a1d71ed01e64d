//! Models in a folder of this machine, used where they lie.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};

use crate::{
    DigestCache, FileFilter, Limits, ModelFile, ModelFolder, Progress, RegistryError, Source,
    checks::{self, Checked},
    filter, names,
};

/// Files hashed at the same time: more than two readers only make a disk seek.
const HASHED_AT_ONCE: usize = 2;

/// A folder of this machine.
///
/// Links inside it are followed as long as they stay inside; one that leads out is refused, so a
/// folder that someone else filled cannot make the server read `/etc/shadow`. A snapshot in the
/// Hugging Face cache consists of such links: use `hf://`, or a copy made with `cp -rL`.
#[derive(Debug, Clone)]
pub struct FolderSource {
    path: PathBuf,
    digests: DigestCache,
    limits: Limits,
}

impl FolderSource {
    /// The folder at `path`, with digests remembered in `digests`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, digests: DigestCache, limits: Limits) -> Self {
        Self { path: path.into(), digests, limits }
    }
}

impl Source for FolderSource {
    fn fetch<'a>(
        &'a self,
        wanted: &'a FileFilter,
        progress: &'a dyn Progress,
    ) -> BoxFuture<'a, Result<ModelFolder, RegistryError>> {
        async move {
            let (path, filter, limits) = (self.path.clone(), wanted.clone(), self.limits);
            let (root, checked) = blocking(move || check_folder(&path, &filter, &limits)).await?;
            let files = hash_all(&self.digests, &root, checked.names, progress).await?;
            Ok(ModelFolder::new(root, files, checked.gguf))
        }
        .boxed()
    }
}

/// Runs `work` where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| RegistryError::io("check", "the model", io::Error::other(e)))?
}

/// The digests of the files `names` below `root`.
pub(crate) async fn hash_all(
    digests: &DigestCache,
    root: &Path,
    names: Vec<String>,
    progress: &dyn Progress,
) -> Result<Vec<ModelFile>, RegistryError> {
    let hash = |name: String| {
        let path = root.join(&name);
        async move { digests.digest(&path, &name, progress).await }
    };
    stream::iter(names).map(hash).buffered(HASHED_AT_ONCE).try_collect().await
}

fn check_folder(path: &Path, filter: &FileFilter, limits: &Limits) -> Result<(PathBuf, Checked), RegistryError> {
    let bad = |reason| RegistryError::BadFolder { path: path.display().to_string(), reason };
    let root = path.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => bad("does not exist"),
        io::ErrorKind::PermissionDenied => bad("may not be read by this user"),
        _ => bad("cannot be opened"),
    })?;
    if !root.is_dir() {
        return Err(bad("is not a folder"));
    }
    let mut listed = BTreeSet::new();
    for folder in filter::FOLDERS.into_iter().chain(filter.own_folder()) {
        list(&root, folder, limits.max_files, &mut listed)?;
    }
    let selection = filter.select(&listed)?;
    let checked = checks::check_model(&root, &selection, limits)?;
    Ok((root, checked))
}

/// Adds the names in `folder` (relative to `root`; `""` is `root` itself), not those below it.
fn list(root: &Path, folder: &str, limit: usize, listed: &mut BTreeSet<String>) -> Result<(), RegistryError> {
    if !folder.is_empty() {
        names::check_relative(folder)?;
    }
    let failed = |error| RegistryError::io("list", "the model folder", error);
    let entries = match fs::read_dir(root.join(folder)) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) && !folder.is_empty() =>
        {
            return Ok(());
        }
        Err(error) => return Err(failed(error)),
    };
    for (count, entry) in entries.enumerate() {
        if count >= limit {
            let what = "the model folder".to_owned();
            return Err(RegistryError::TooManyFiles { what, limit });
        }
        // A name that is not UTF-8 is none of those looked for.
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            listed.insert(match folder {
                "" => name,
                folder => format!("{folder}/{name}"),
            });
        }
    }
    Ok(())
}
