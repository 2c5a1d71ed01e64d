//! Blobs: bytes under a name, in a folder or a bucket.

use std::ffi::OsStr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::io::AsyncWriteExt;

use crate::StoreError;

/// Bytes that are held of a blob that is being written: the least that S3 takes as a part.
const PART_BYTES: usize = 5 * 1024 * 1024;
/// Bytes that are read of a blob at once.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// Where blobs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobPlace {
    /// Files under this folder.
    Folder(PathBuf),
    /// A bucket, `s3://bucket/prefix`. Credentials, region and endpoint come from the environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`), or from the machine's role.
    S3(String),
}

/// Blobs in one place. Cloning shares it.
///
/// Names are made by Halny, of letters, digits, `-`, `_`, `.` and `/`; what a client calls something never becomes one.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Where they are, if that is a folder.
    folder: Option<PathBuf>,
}

impl Blobs {
    /// Opens the place; a folder is made.
    ///
    /// # Errors
    /// When the folder cannot be made, or the URL or the environment does not say which bucket.
    pub fn open(place: &BlobPlace) -> Result<Blobs, StoreError> {
        Ok(match place {
            BlobPlace::Folder(folder) => Blobs { store: in_folder(folder)?, folder: Some(folder.clone()) },
            BlobPlace::S3(url) => Blobs { store: in_bucket(url)?, folder: None },
        })
    }

    /// The place as libraries take it that read and write in it themselves.
    #[must_use]
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// Writes a blob that is not there yet. Of several that try, one succeeds.
    ///
    /// # Errors
    /// [`StoreError::BlobExists`] when it is there.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let options = PutOptions::from(PutMode::Create);
        self.store.put_opts(&path(name)?, bytes.into(), options).await?;
        Ok(())
    }

    /// Writes a blob, or another in its place.
    ///
    /// # Errors
    /// When the place cannot be used.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.store.put(&path(name)?, bytes.into()).await?;
        Ok(())
    }

    /// Writes a blob that is too large to be held. It is there when [`BlobWriter::finish`] has returned, and not before.
    ///
    /// # Errors
    /// When the name is no name.
    pub fn writer(&self, name: &str) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter {
            writer: BufWriter::with_capacity(Arc::clone(&self.store), path(name)?, PART_BYTES).with_max_concurrency(1),
            bytes: 0,
        })
    }

    /// The bytes of a blob.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when it is not there.
    pub async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        Ok(self.store.get(&path(name)?).await?.bytes().await?)
    }

    /// The bytes of a blob from an offset on, a piece at a time. Each piece is asked for when the one before was taken, so
    /// that a reader may be as slow as it likes: what is asked for at once is broken off by time limits, here or there.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when it is not there.
    pub async fn stream(
        &self,
        name: &str,
        from: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let (store, path) = (Arc::clone(&self.store), path(name)?);
        let bytes = store.head(&path).await?.size;
        let pieces = stream::try_unfold(from, move |start| {
            let (store, path) = (Arc::clone(&store), path.clone());
            async move {
                if start >= bytes {
                    return Ok(None);
                }
                let end = bytes.min(start + PIECE_BYTES);
                let piece = store.get_range(&path, start..end).await?;
                Ok(Some((piece, end)))
            }
        });
        Ok(pieces.boxed())
    }

    /// The length of a blob in bytes.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when it is not there.
    pub async fn len(&self, name: &str) -> Result<u64, StoreError> {
        Ok(self.store.head(&path(name)?).await?.size)
    }

    /// The names of the blobs under a prefix, which ends at a `/`, in order.
    ///
    /// # Errors
    /// When the place cannot be used.
    pub async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let found = self.store.list(Some(&path(prefix)?)).map_ok(|found| found.location.to_string());
        let mut names: Vec<String> = found.try_collect().await?;
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes a blob; one that is not there is deleted already.
    ///
    /// # Errors
    /// When the place cannot be used.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.store.delete(&path(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes all blobs under a prefix; of a folder with whatever else is there.
    ///
    /// # Errors
    /// When the place cannot be used.
    pub async fn delete_all(&self, prefix: &str) -> Result<(), StoreError> {
        for name in self.names(prefix).await? {
            self.delete(&name).await?;
        }
        let Some(folder) = self.folder.as_ref().map(|folder| folder.join(prefix)) else { return Ok(()) };
        on_disk(move || std::fs::remove_dir_all(folder)).await
    }

    /// Deletes what writers of a blob left in a folder that went away while they wrote: files `NAME#NUMBER`, which are no
    /// blobs. A bucket has rules of its own for uploads that were not completed.
    pub(crate) async fn delete_torn(&self, name: &str) -> Result<(), StoreError> {
        let Some(path) = self.folder.as_ref().map(|folder| folder.join(name)) else { return Ok(()) };
        on_disk(move || {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
                return Ok(());
            };
            for file in std::fs::read_dir(folder)? {
                let file = file?;
                let other = file.file_name();
                let number = other.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('#'));
                if number.is_some_and(|number| number.parse::<u32>().is_ok()) {
                    std::fs::remove_file(file.path())?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Works on a folder of blobs; what is not there is deleted already.
async fn on_disk(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), StoreError> {
    match tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Blobs)? {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(broken),
    }
}

/// A blob that is being written.
pub struct BlobWriter {
    writer: BufWriter,
    bytes: u64,
}

impl BlobWriter {
    /// Adds bytes.
    ///
    /// # Errors
    /// When the place cannot be used.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.writer.write_all(bytes).await.map_err(broken)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes it there; gives its length in bytes.
    ///
    /// # Errors
    /// When the place cannot be used.
    pub async fn finish(mut self) -> Result<u64, StoreError> {
        self.writer.shutdown().await.map_err(broken)?;
        Ok(self.bytes)
    }

    /// Writes nothing after all.
    ///
    /// # Errors
    /// When the place cannot be used.
    pub async fn abandon(mut self) -> Result<(), StoreError> {
        Ok(self.writer.abort().await?)
    }
}

fn broken(error: std::io::Error) -> StoreError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        tracing::error!(%error, "there is no room for blobs");
        return StoreError::NoRoom;
    }
    tracing::warn!(%error, "the place of blobs cannot be used");
    StoreError::Blobs
}

fn path(name: &str) -> Result<Path, StoreError> {
    Path::parse(name).map_err(|error| {
        tracing::error!(%error, "a name of a blob that is none");
        StoreError::NoBlob
    })
}

fn in_folder(folder: &FilePath) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let unusable = |error: &dyn std::fmt::Display| {
        StoreError::Config(format!("the folder of blobs, {}, cannot be used: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
    let files = LocalFileSystem::new_with_prefix(folder).map_err(|error| unusable(&error))?;
    Ok(Arc::new(files.with_fsync(true)))
}

fn in_bucket(url: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let unreadable =
        || StoreError::Config("the place of blobs is no URL of a bucket; write s3://bucket/prefix".to_owned());
    let (bucket, prefix) =
        url.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, ""))).ok_or_else(unreadable)?;
    if bucket.is_empty() {
        return Err(unreadable());
    }
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    // Who names a server without TLS means it.
    if builder.get_config_value(&AmazonS3ConfigKey::Endpoint).is_some_and(|url| url.starts_with("http://")) {
        builder = builder.with_allow_http(true);
    }
    if builder.get_config_value(&AmazonS3ConfigKey::Region).is_none() {
        builder = builder.with_region("us-east-1");
    }
    let store = builder.build().map_err(|error| {
        tracing::error!(%error, "the bucket of blobs cannot be used");
        StoreError::Config("the bucket of blobs cannot be used; the log says why".to_owned())
    })?;
    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|_| unreadable())?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}
