//! Blobs: bytes under a name, in a folder or a bucket.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, future};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::io::AsyncWriteExt;

use crate::StoreError;

/// Bytes that are held of a blob that is being written: the least that S3 takes as a part.
const PART_BYTES: usize = 5 * 1024 * 1024;

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

    /// The bytes of a blob, a piece at a time; with a range, those of it (`start..u64::MAX` means: to the end).
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when it is not there.
    pub async fn stream(
        &self,
        name: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let range = range.map(|range| match range.end {
            u64::MAX => object_store::GetRange::Offset(range.start),
            _ => object_store::GetRange::Bounded(range),
        });
        let found = self.store.get_opts(&path(name)?, GetOptions { range, ..GetOptions::default() }).await?;
        Ok(found.into_stream().map_err(StoreError::from).boxed())
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

    /// The names of the blobs under a prefix that were written by then.
    pub(crate) async fn older(&self, prefix: &str, than: SystemTime) -> Result<Vec<String>, StoreError> {
        let written = DateTime::<Utc>::from(than);
        let found = self.store.list(Some(&path(prefix)?)).map_err(StoreError::from);
        let older = found.try_filter(|found| future::ready(found.last_modified <= written));
        older.map_ok(|found| found.location.to_string()).try_collect().await
    }

    /// Removes what writers left under a prefix of a folder that were broken off by then. A bucket has rules of its own
    /// for uploads that were not completed.
    pub(crate) async fn remove_torn(&self, prefix: &str, than: SystemTime) -> Result<(), StoreError> {
        let Some(folder) = self.folder.as_ref().map(|folder| folder.join(prefix)) else { return Ok(()) };
        let removing = tokio::task::spawn_blocking(move || remove_torn(&folder, than));
        removing.await.map_err(|_| StoreError::Blobs)?.map_err(broken)
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

    /// Deletes all blobs under a prefix.
    ///
    /// # Errors
    /// When the place cannot be used.
    pub async fn delete_all(&self, prefix: &str) -> Result<(), StoreError> {
        for name in self.names(prefix).await? {
            self.delete(&name).await?;
        }
        Ok(())
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

/// Removes files that the library writes before they get their name: `NAME#NUMBER`.
fn remove_torn(folder: &FilePath, than: SystemTime) -> std::io::Result<()> {
    let files = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        files => files?,
    };
    for file in files {
        let file = file?;
        let name = file.file_name();
        let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
        let is_torn = number.is_some_and(|number| number.parse::<u32>().is_ok());
        if is_torn && file.metadata()?.modified()? <= than {
            std::fs::remove_file(file.path())?;
        }
    }
    Ok(())
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
