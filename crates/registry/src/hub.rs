//! Models in a repository of a hub that speaks Hugging Face's API.
//!
//! A branch is resolved to a commit first; everything after that names the commit, so a push in
//! the middle of a download cannot mix two versions. What was verified once is kept under the
//! commit and used without a request when the commit is pinned or the listing known.
//!
//! The cache, below `hub/<host>/<owner>--<name>/`: `snapshots/<commit>/` holds the files,
//! `listings/<commit>.json` what the hub listed, `refs/` what a branch last meant, `verified/` the
//! SHA-256 that each file had when it was accepted, `partial/` unfinished downloads and locks.

mod client;
mod download;
mod listing;
mod redirect;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use sha2::{Digest as _, Sha256};

use crate::{
    DigestCache, FileFilter, Limits, ModelFile, ModelFolder, OpenOptions, Progress, RegistryError, Sha256Digest,
    Source, checks, folder::blocking, names, onnx, refused,
};
use client::Client;
use download::Download;
use listing::{Listed, Listing, is_commit};

/// The public hub.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Files fetched at the same time; the hub's own client takes 8, and each may be gigabytes.
const FETCHED_AT_ONCE: usize = 4;

/// How often another process's lock is looked at.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// A secret that proves who asks. Never shown, and sent to no host but the endpoint's.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes the token's text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(not shown)")
    }
}

/// How failed requests are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often in all; a download that got at least 1 MiB further starts counting anew.
    pub attempts: u32,
    /// The wait before the second attempt; doubled for each further one.
    pub first_wait: Duration,
    /// No wait is longer. A hub that asks for more (`Retry-After`) ends the fetch.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    /// 5 attempts, 0.5 s doubling, at most 60 s.
    fn default() -> Self {
        Self { attempts: 5, first_wait: Duration::from_millis(500), longest_wait: Duration::from_secs(60) }
    }
}

/// How the hub is reached.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The address before `/api/models/...`, with scheme.
    pub endpoint: String,
    /// The token, for private or gated repositories.
    pub token: Option<Token>,
    /// Whether no request may be made at all.
    pub offline: bool,
    /// How failed requests are tried again.
    pub retry: RetryPolicy,
    /// How long to wait for another process that is fetching the same file.
    pub lock_wait: Duration,
}

impl Default for HubOptions {
    /// The public hub, no token, on line, one hour for another process's download.
    fn default() -> Self {
        Self {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: None,
            offline: false,
            retry: RetryPolicy::default(),
            lock_wait: Duration::from_secs(3600),
        }
    }
}

impl HubOptions {
    /// The default with `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` (1, true, yes or on) applied.
    #[must_use]
    pub fn from_env() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let default = Self::default();
        Self {
            endpoint: set("HF_ENDPOINT").unwrap_or(default.endpoint),
            token: set("HF_TOKEN").map(|text| Token(text.trim().to_owned())),
            offline: set("HF_HUB_OFFLINE")
                .is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str())),
            ..default
        }
    }
}

/// One repository at one revision.
#[derive(Debug, Clone)]
pub struct HubSource {
    owner: String,
    name: String,
    revision: String,
    options: HubOptions,
    limits: Limits,
    digests: DigestCache,
    cache_folder: PathBuf,
}

impl HubSource {
    /// The repository `owner/name` at `revision` (`main` if none), kept in the options' cache.
    #[must_use]
    pub fn new(owner: &str, name: &str, revision: Option<&str>, options: &OpenOptions) -> Self {
        Self {
            owner: owner.to_owned(),
            name: name.to_owned(),
            revision: revision.unwrap_or("main").to_owned(),
            options: options.hub.clone(),
            limits: options.limits,
            digests: DigestCache::new(options.cache_folder.join("digests")),
            cache_folder: options.cache_folder.join("hub"),
        }
    }

    fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    async fn fetch_model(&self, wanted: &FileFilter, progress: &dyn Progress) -> Result<ModelFolder, RegistryError> {
        let client = Client::new(&self.options, &self.repository())?;
        let folder = self.cache_folder.join(client.host_folder());
        let folder = folder.join(format!("{}--{}", self.owner, self.name));
        let listing = self.listing(&client, &folder).await?;
        let selection = wanted.select(&listing.names())?;
        let snapshot = Snapshot { source: self, client, folder, listing, progress };
        let mut files = snapshot.fetch_all(selection.names().map(str::to_owned).collect()).await?;
        let mut external: Vec<String> = snapshot.external_names(&selection.onnx).await?;
        external.retain(|name| !files.iter().any(|file| file.path == *name));
        files.extend(snapshot.fetch_all(external).await?);

        let (path, limits) = (snapshot.snapshot_folder(), self.limits);
        let (root, checked) = blocking(move || {
            let root = path.canonicalize().map_err(|e| RegistryError::io("find", "the cache", e))?;
            let checked = checks::check_model(&root, &selection, &limits)?;
            Ok((root, checked))
        })
        .await?;
        Ok(ModelFolder::new(root, files, checked.gguf))
    }

    /// What the repository holds at the wanted revision: from the cache if the revision is a
    /// commit or no request may be made, else from the hub.
    async fn listing(&self, client: &Client, folder: &Path) -> Result<Listing, RegistryError> {
        let listings = folder.join("listings");
        let reference = folder.join("refs").join(key(&self.revision));
        let pinned = is_commit(&self.revision);
        let known_commit = if pinned {
            Some(self.revision.clone())
        } else if self.options.offline {
            read_small(&reference).filter(|commit| is_commit(commit))
        } else {
            None
        };
        if let Some(commit) = known_commit
            && let Some(text) = read_small(&listings.join(format!("{commit}.json")))
            && let Some(listing) = Listing::from_cache(&text, &commit, &self.repository())
        {
            return Ok(listing);
        }
        if self.options.offline {
            let what = format!("{} at revision {}", self.repository(), self.revision);
            return Err(RegistryError::NotCached { what });
        }
        let body = client.listing(&self.revision).await?;
        let listing = Listing::from_hub(&body, &self.repository())?;
        if pinned && listing.commit != self.revision {
            return Err(RegistryError::BadListing {
                repository: self.repository(),
                reason: format!("it is of commit {}, not of the one asked for", listing.commit),
            });
        }
        let path = listings.join(format!("{}.json", listing.commit));
        write_small(&path, &listing.to_cache()).map_err(cache_failed)?;
        if !pinned {
            write_small(&reference, &listing.commit).map_err(cache_failed)?;
        }
        Ok(listing)
    }
}

impl Source for HubSource {
    fn fetch<'a>(
        &'a self,
        wanted: &'a FileFilter,
        progress: &'a dyn Progress,
    ) -> BoxFuture<'a, Result<ModelFolder, RegistryError>> {
        self.fetch_model(wanted, progress).boxed()
    }
}

/// One commit of the repository, as far as it is needed, on its way into the cache.
struct Snapshot<'a> {
    source: &'a HubSource,
    client: Client,
    folder: PathBuf,
    listing: Listing,
    progress: &'a dyn Progress,
}

impl Snapshot<'_> {
    fn snapshot_folder(&self) -> PathBuf {
        self.folder.join("snapshots").join(&self.listing.commit)
    }

    async fn fetch_all(&self, names: Vec<String>) -> Result<Vec<ModelFile>, RegistryError> {
        let fetch = |name: String| async move { self.fetch_one(&name).await };
        stream::iter(names).map(fetch).buffered(FETCHED_AT_ONCE).try_collect().await
    }

    /// The external data files of the ONNX files `names`, which are in the snapshot already.
    async fn external_names(&self, names: &[String]) -> Result<Vec<String>, RegistryError> {
        let (names, folder) = (names.to_owned(), self.snapshot_folder());
        blocking(move || {
            let mut external = Vec::new();
            for name in &names {
                for location in onnx::walk_file(&folder.join(name), name)?.external.into_keys() {
                    external.push((names::sibling(name, &location), name.clone()));
                }
            }
            external.sort();
            external.dedup_by(|a, b| a.0 == b.0);
            Ok(external)
        })
        .await?
        .into_iter()
        .map(|(external, named_in)| {
            refused::check_name(&external)?;
            if self.listing.get(&external).is_none() {
                return Err(RegistryError::MissingFile { file: names::shown(&external), named_in });
            }
            Ok(external)
        })
        .collect()
    }

    async fn fetch_one(&self, name: &str) -> Result<ModelFile, RegistryError> {
        let Some(listed) = self.listing.get(name) else {
            let named_in = self.source.repository();
            return Err(RegistryError::MissingFile { file: names::shown(name), named_in });
        };
        if let Some(bytes) = listed.bytes {
            self.source.limits.check_file(name, bytes)?;
        }
        if let Some(file) = self.kept(listed).await? {
            return Ok(file);
        }
        if self.source.options.offline {
            let what = format!("{name} of {}", self.source.repository());
            return Err(RegistryError::NotCached { what });
        }
        let partial = self.folder.join("partial").join(&self.listing.commit);
        fs::create_dir_all(&partial).map_err(cache_failed)?;
        let lock_path = partial.join(format!("{}.lock", key(name)));
        // Released when dropped, and by the system when this process dies.
        let _lock = lock(&lock_path, name, self.source.options.lock_wait).await?;
        if let Some(file) = self.kept(listed).await? {
            return Ok(file);
        }
        let part = partial.join(format!("{}.part", key(name)));
        let download = Download {
            client: &self.client,
            url: self.client.file_url(&self.listing.commit, name),
            listed,
            part: &part,
            limits: &self.source.limits,
            progress: self.progress,
        };
        let sha256 = download.run().await?;
        self.accept(name, &part, sha256)
    }

    /// Moves a verified download to its place. The note of its digest comes after it: a crash
    /// between the two costs one more download, never a file that nobody verified.
    fn accept(&self, name: &str, part: &Path, sha256: Sha256Digest) -> Result<ModelFile, RegistryError> {
        let target = self.snapshot_folder().join(name);
        let failed = |error| RegistryError::io("store", name, error);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let bytes = part.metadata().map_err(failed)?.len();
        fs::rename(part, &target).map_err(failed)?;
        write_small(&self.note(name), &sha256.to_string()).map_err(failed)?;
        Ok(ModelFile { path: name.to_owned(), bytes, sha256 })
    }

    fn note(&self, name: &str) -> PathBuf {
        self.folder.join("verified").join(&self.listing.commit).join(key(name))
    }

    /// The file if it is in the snapshot and still what was accepted.
    async fn kept(&self, listed: &Listed) -> Result<Option<ModelFile>, RegistryError> {
        let name = &listed.path;
        let target = self.snapshot_folder().join(name);
        let noted = read_small(&self.note(name)).and_then(|text| text.parse().ok());
        let Some(noted) = noted.filter(|_| target.is_file()) else { return Ok(None) };
        let file = self.source.digests.digest(&target, name, self.progress).await?;
        if file.sha256 == noted && listed.sha256.is_none_or(|expected| expected == noted) {
            return Ok(Some(file));
        }
        tracing::warn!(file = %name, "a file in the cache is not what was downloaded; it is replaced");
        Ok(None)
    }
}

/// A file name for any text.
fn key(text: &str) -> String {
    Sha256Digest(Sha256::digest(text).into()).to_string()
}

fn cache_failed(error: io::Error) -> RegistryError {
    RegistryError::io("use", "the cache folder", error)
}

/// A small file of the cache; `None` if it is not there or cannot be read. Listings have at most
/// [`listing::MAX_LISTING_BYTES`].
fn read_small(path: &Path) -> Option<String> {
    let metadata = path.metadata().ok()?;
    (metadata.len() <= listing::MAX_LISTING_BYTES).then(|| fs::read_to_string(path).ok())?
}

/// Writes a small file so that nobody ever sees half of it.
fn write_small(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// The lock on one file's download, across processes. It is asked for again and again rather than
/// waited for: a thread that waits in the system cannot be stopped at shutdown.
async fn lock(path: &Path, name: &str, wait: Duration) -> Result<fs::File, RegistryError> {
    let file = fs::File::options().create(true).truncate(false).write(true).open(path).map_err(cache_failed)?;
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::Error(error)) => return Err(cache_failed(error)),
            Err(fs::TryLockError::WouldBlock) if tokio::time::Instant::now() >= deadline => {
                let waited_s = wait.as_secs();
                return Err(RegistryError::Locked { file: name.to_owned(), waited_s });
            }
            Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
        }
    }
}
