//! SHA-256 of files: streamed, on blocking threads, and remembered between starts.
//!
//! A start would otherwise read gigabytes to learn that nothing changed. What is remembered is
//! keyed on everything by which the file system tells contents apart: path, device, inode, size,
//! modification time and change time. The change time matters because a program can set the
//! modification time back (`cp -p`, `rsync -t`, `touch -r`) but not the change time.
//!
//! Times are coarse: a kernel tick of 1 to 10 ms on ext4 and XFS, 1 s on some network file systems,
//! 2 s on FAT. A file that was written, hashed, and rewritten with the same size within one tick
//! would look unchanged. So a digest is stored only if, when the hashing began, the file's times
//! were more than 2 s in the past: any later write must then get a different time. A time in the
//! future (a clock that was set back) is never in the past, so such a file is not cached either.
//!
//! Not covered: whoever may write the cache folder may put lies there, and a program that writes
//! through a memory map may do so without touching the times. Neither is a way models are copied.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{ModelFile, Progress, RegistryError, Sha256Digest, progress::Step};

/// The coarsest tick of a file system in use (FAT's write time): a write that comes later than this
/// after another gets another time.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What is read at once: large enough that a spinning disk streams, small enough to stay in L2.
const CHUNK_BYTES: usize = 1 << 20;

/// Stored digests are about 300 bytes; what is larger was not written here.
const MAX_ENTRY_BYTES: u64 = 16 << 10;

/// Digests of files, remembered in a folder of the cache.
#[derive(Debug, Clone)]
pub struct DigestCache {
    folder: PathBuf,
    now: fn() -> SystemTime,
}

/// By what a file's content is recognised without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    stamp: Stamp,
    sha256: Sha256Digest,
}

impl Stamp {
    fn of(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(UNIX_EPOCH) else { return false };
        let (seconds, nanoseconds) = self.modified.max(self.changed);
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(seconds), u32::try_from(nanoseconds)) else {
            return false;
        };
        now.checked_sub(Duration::new(seconds, nanoseconds)).is_some_and(|age| age > SETTLED_AFTER)
    }
}

impl DigestCache {
    /// A cache that keeps its entries in `folder`, which is made when first written to.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), now: SystemTime::now }
    }

    /// The size and SHA-256 of the file at `path`, which the model calls `name`.
    ///
    /// # Errors
    /// If the file cannot be read, or changes meanwhile.
    pub async fn digest(&self, path: &Path, name: &str, progress: &dyn Progress) -> Result<ModelFile, RegistryError> {
        // The bound keeps a slow display from being flooded; the thread waits for it. When this
        // future is dropped the receiver goes with it, and the thread stops at its next chunk.
        let (chunks, mut received) = tokio::sync::mpsc::channel::<u64>(16);
        let (cache, owned_path, owned_name) = (self.clone(), path.to_owned(), name.to_owned());
        let hashing = tokio::task::spawn_blocking(move || {
            cache.digest_blocking(&owned_path, &owned_name, |bytes| chunks.blocking_send(bytes).is_ok())
        });
        // The first message is the size; none comes when the cache had the answer.
        if let Some(total_bytes) = received.recv().await {
            progress.started(Step::Hash, name, 0, total_bytes);
            while let Some(bytes) = received.recv().await {
                progress.advanced(Step::Hash, name, bytes);
            }
            progress.finished(Step::Hash, name);
        }
        hashing.await.map_err(|e| RegistryError::io("read", name, io::Error::other(e)))?
    }

    fn digest_blocking(
        &self,
        path: &Path,
        name: &str,
        mut report: impl FnMut(u64) -> bool,
    ) -> Result<ModelFile, RegistryError> {
        let failed = |error| RegistryError::io("read", name, error);
        let mut file = File::open(path).map_err(failed)?;
        let began = (self.now)();
        let stamp = Stamp::of(path, &file.metadata().map_err(failed)?);
        let found = |sha256| ModelFile { path: name.to_owned(), bytes: stamp.bytes, sha256 };
        if let Some(sha256) = self.look_up(&stamp) {
            return Ok(found(sha256));
        }
        let stopped = || failed(io::Error::from(io::ErrorKind::Interrupted));
        if !report(stamp.bytes) {
            return Err(stopped());
        }
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut read_bytes = 0;
        loop {
            let n = match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            hasher.update(&chunk[..n]);
            read_bytes += n as u64;
            if !report(n as u64) {
                return Err(stopped());
            }
        }
        // Both the open file and what the path leads to now: a rename over it counts as a change.
        let after = Stamp::of(path, &file.metadata().map_err(failed)?);
        let at_path = Stamp::of(path, &fs::metadata(path).map_err(failed)?);
        if read_bytes != stamp.bytes || after != stamp || at_path != stamp {
            return Err(RegistryError::Changed { file: name.to_owned() });
        }
        let sha256 = Sha256Digest(hasher.finalize().into());
        if stamp.is_settled(began) {
            self.store(&stamp, sha256);
        }
        Ok(found(sha256))
    }

    /// One file an entry, so that two processes need no lock between them.
    fn entry_path(&self, stamp: &Stamp) -> PathBuf {
        let key = Sha256::digest(stamp.path.as_os_str().as_encoded_bytes());
        self.folder.join(format!("{}.json", Sha256Digest(key.into())))
    }

    fn look_up(&self, stamp: &Stamp) -> Option<Sha256Digest> {
        let mut text = Vec::new();
        let file = File::open(self.entry_path(stamp)).ok()?;
        file.take(MAX_ENTRY_BYTES).read_to_end(&mut text).ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        (entry.stamp == *stamp).then_some(entry.sha256)
    }

    /// A digest that cannot be stored costs time at the next start and nothing else.
    fn store(&self, stamp: &Stamp, sha256: Sha256Digest) {
        let written = || -> io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            let file = tempfile::NamedTempFile::new_in(&self.folder)?;
            serde_json::to_writer(&file, &Entry { stamp: stamp.clone(), sha256 })?;
            file.persist(self.entry_path(stamp))?;
            Ok(())
        };
        if let Err(error) = written() {
            tracing::warn!(%error, "a digest could not be stored; it is computed again next time");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn in_ten_seconds() -> SystemTime {
        SystemTime::now() + Duration::from_secs(10)
    }

    fn an_hour_ago() -> SystemTime {
        SystemTime::now() - Duration::from_secs(3600)
    }

    /// The digest, and whether the file was read for it.
    fn digest(cache: &DigestCache, path: &Path) -> (Sha256Digest, bool) {
        let mut was_read = false;
        let file = cache.digest_blocking(path, "f", |_| {
            was_read = true;
            true
        });
        (file.unwrap().sha256, was_read)
    }

    #[test]
    fn a_settled_file_is_read_once_and_a_fresh_one_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, b"content").unwrap();
        let later = DigestCache { folder: folder.path().join("c"), now: in_ten_seconds };
        let fresh = DigestCache { folder: folder.path().join("d"), now: SystemTime::now };
        let set_back = DigestCache { folder: folder.path().join("e"), now: an_hour_ago };
        for cache in [&fresh, &set_back] {
            assert!(digest(cache, &path).1);
            assert!(digest(cache, &path).1);
        }
        let (first, was_read) = digest(&later, &path);
        assert!(was_read);
        assert_eq!(digest(&later, &path), (first, false));
    }

    #[test]
    fn a_rewrite_with_the_old_modification_time_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let cache = DigestCache { folder: folder.path().join("c"), now: in_ten_seconds };
        fs::write(&path, b"content").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let (before, _) = digest(&cache, &path);
        let changed = fs::metadata(&path).unwrap();
        // Until the file system's clock has moved on: the test's own clock runs ahead of it, so it
        // has to keep the promise that `SETTLED_AFTER` makes for the real one.
        while fs::metadata(&path).unwrap().ctime_nsec() == changed.ctime_nsec() {
            fs::write(&path, b"CONTENT").unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        }
        let (after, was_read) = digest(&cache, &path);
        assert!(was_read);
        assert_ne!(before, after);
    }

    #[test]
    fn a_broken_entry_is_computed_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let cache = DigestCache { folder: folder.path().join("c"), now: in_ten_seconds };
        fs::write(&path, b"content").unwrap();
        let (first, _) = digest(&cache, &path);
        for entry in fs::read_dir(&cache.folder).unwrap() {
            fs::write(entry.unwrap().path(), b"{\"stamp\":").unwrap();
        }
        assert_eq!(digest(&cache, &path), (first, true));
        assert_eq!(digest(&cache, &path), (first, false));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn with_the_real_clock_no_rewrite_is_ever_missed(
            contents in prop::collection::vec(any::<[u8; 4]>(), 1..12),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("f");
            let cache = DigestCache::new(folder.path().join("c"));
            for content in contents {
                fs::write(&path, content).unwrap();
                let expected = Sha256Digest(Sha256::digest(content).into());
                prop_assert_eq!(digest(&cache, &path).0, expected);
            }
        }
    }
}
