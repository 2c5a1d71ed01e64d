//! Which files a view is read from.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::parts;
use crate::{FeaturesError, View};

/// Finds the store behind a place that the project file names.
pub trait Places: Send + Sync {
    /// The store of a place, a path or a URL, and the path within it.
    ///
    /// # Errors
    /// When this server cannot read such a place.
    fn open(&self, place: &str) -> Result<(Arc<dyn ObjectStore>, Path), FeaturesError>;
}

/// Places that are paths, relative to a folder.
#[derive(Clone, Debug)]
pub struct Folders(pub PathBuf);

impl Places for Folders {
    fn open(&self, place: &str) -> Result<(Arc<dyn ObjectStore>, Path), FeaturesError> {
        if place.contains("://") {
            return Err(FeaturesError::Place(place.to_owned()));
        }
        let absolute = std::path::absolute(self.0.join(FilePath::new(place)))?;
        let path = Path::from_absolute_path(absolute).map_err(object_store::Error::from)?;
        Ok((Arc::new(LocalFileSystem::new()), path))
    }
}

/// A file with rows of a view.
#[derive(Clone)]
pub(crate) struct RowFile {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) meta: ObjectMeta,
    /// Whether this crate wrote it: its columns are called as the view's features are.
    pub(crate) own: bool,
}

impl RowFile {
    /// What makes it another file when it changes, though its name stays.
    pub(crate) fn identity(&self) -> String {
        let meta = &self.meta;
        let modified = meta.last_modified.timestamp_micros();
        format!("{}\0{}\0{modified}\0{}", meta.location, meta.size, meta.e_tag.as_deref().unwrap_or_default())
    }
}

/// The files of a view's source, the one that was changed first at the front, so that of two rows that are equally new
/// the one that came later counts as written later.
pub(crate) async fn of_source(view: &View, places: &dyn Places) -> Result<Vec<RowFile>, FeaturesError> {
    let Some(batch) = &view.batch else { return Ok(Vec::new()) };
    let file = |store: &Arc<dyn ObjectStore>, meta| RowFile { store: Arc::clone(store), meta, own: false };
    let (folder, name) = batch.path.rsplit_once('/').unwrap_or((".", &batch.path));
    let nothing = || FeaturesError::Source { view: view.name.clone(), why: "no file is at its path".to_owned() };
    let mut files: Vec<RowFile> = if name.contains('*') {
        let (store, folder) = places.open(if folder.is_empty() { "/" } else { folder })?;
        let listed = store.list_with_delimiter(Some(&folder)).await?.objects;
        let matches = |meta: &ObjectMeta| meta.location.filename().is_some_and(|it| is_like(it, name));
        listed.into_iter().filter(matches).map(|meta| file(&store, meta)).collect()
    } else {
        let (store, path) = places.open(&batch.path)?;
        match store.head(&path).await {
            Ok(meta) => vec![file(&store, meta)],
            Err(object_store::Error::NotFound { .. }) => {
                let listed: Vec<ObjectMeta> = store.list(Some(&path)).try_collect().await?;
                let parquet = listed.into_iter().filter(|meta| meta.location.as_ref().ends_with(".parquet"));
                parquet.map(|meta| file(&store, meta)).collect()
            }
            Err(error) => return Err(error.into()),
        }
    };
    if files.is_empty() {
        return Err(nothing());
    }
    files.sort_by(|a, b| (a.meta.last_modified, &a.meta.location).cmp(&(b.meta.last_modified, &b.meta.location)));
    Ok(files)
}

/// The parts of a view that this crate wrote, in the order of their names.
pub(crate) async fn of_parts(
    view: &View,
    store: &Arc<dyn ObjectStore>,
    prefix: &Path,
) -> Result<Vec<RowFile>, FeaturesError> {
    let folder = parts::folder(prefix, &view.name);
    let mut listed: Vec<ObjectMeta> = store.list(Some(&folder)).try_collect().await?;
    listed.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(listed.into_iter().map(|meta| RowFile { store: Arc::clone(store), meta, own: true }).collect())
}

/// Whether a name is like a pattern, in which `*` is any text.
fn is_like(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_by_patterns() {
        for (name, pattern, like) in [
            ("a.parquet", "*.parquet", true),
            ("a.parquet", "a.parquet", true),
            ("a.parquet", "a*", true),
            ("ab-c.parquet", "a*c*quet", true),
            ("a.parquet.tmp", "*.parquet", false),
            ("ab", "ab*b", false),
            ("b", "a*", false),
            ("aa", "a", false),
        ] {
            assert_eq!(is_like(name, pattern), like, "{name} {pattern}");
        }
    }
}
