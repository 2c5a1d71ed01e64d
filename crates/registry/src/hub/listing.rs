//! What a repository holds at one commit, as the hub lists it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{RegistryError, Sha256Digest, names};

/// The longest listing taken. 10,000 files with digests have about 4 MB.
pub(super) const MAX_LISTING_BYTES: u64 = 16 << 20;

/// The most files of a repository; what they are for is known from their names, so a repository
/// with more is no model's.
const MAX_SIBLINGS: usize = 20_000;

/// One file, as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) path: String,
    pub(super) bytes: Option<u64>,
    /// The content's SHA-256; given for files in large file storage.
    pub(super) sha256: Option<Sha256Digest>,
    /// The SHA-1 under which git stores the content; given for the others.
    pub(super) git_sha1: Option<String>,
}

/// All files of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) commit: String,
    files: BTreeMap<String, Listed>,
}

/// The hub's answer to `/api/models/{repository}/revision/{revision}?blobs=true`, as far as used.
#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    commit: String,
    files: Vec<Listed>,
}

/// Whether a revision is a full commit: the only kind that always means the same.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Listing {
    /// Reads the hub's answer. One bad name refuses the whole: an honest hub lists none.
    pub(super) fn from_hub(body: &[u8], repository: &str) -> Result<Self, RegistryError> {
        let bad = |reason| RegistryError::BadListing { repository: repository.to_owned(), reason };
        crate::json::check(body).map_err(|reason| bad(format!("it is not JSON: {reason}")))?;
        let info: ModelInfo = serde_json::from_slice(body)
            .map_err(|error| bad(format!("it has no commit or no files: {}", names::clipped(&error.to_string()))))?;
        let files = info.siblings.into_iter().map(Sibling::into_listed).collect::<Result<_, _>>();
        Self::new(info.sha, files.map_err(bad)?, repository)
    }

    /// Reads what [`to_cache`](Self::to_cache) wrote; `None` if it is broken or of another commit.
    pub(super) fn from_cache(text: &str, commit: &str, repository: &str) -> Option<Self> {
        let stored: Stored = serde_json::from_str(text).ok()?;
        let listing = Self::new(stored.commit, stored.files, repository).ok()?;
        (listing.commit == commit).then_some(listing)
    }

    pub(super) fn to_cache(&self) -> String {
        let files = self.files.values().cloned().collect();
        let stored = Stored { commit: self.commit.clone(), files };
        // Strings and numbers always have a JSON form; an empty text reads as a broken entry.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    fn new(commit: String, listed: Vec<Listed>, repository: &str) -> Result<Self, RegistryError> {
        let bad = |reason| RegistryError::BadListing { repository: repository.to_owned(), reason };
        if !is_commit(&commit) {
            return Err(bad("its commit is not 40 lower-case hexadecimal digits".to_owned()));
        }
        if listed.len() > MAX_SIBLINGS {
            let what = format!("the repository {repository}");
            return Err(RegistryError::TooManyFiles { what, limit: MAX_SIBLINGS });
        }
        let mut files = BTreeMap::new();
        for file in listed {
            names::check_relative(&file.path)?;
            if let Some(twice) = files.insert(file.path.clone(), file) {
                return Err(bad(format!("{} stands in it twice", names::shown(&twice.path))));
            }
        }
        Ok(Self { commit, files })
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        self.files.keys().cloned().collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Listed> {
        self.files.get(name)
    }
}

impl Sibling {
    /// A file in large file storage has its digest in `lfs`; its `blobId` is that of a pointer.
    fn into_listed(self) -> Result<Listed, String> {
        let broken = |name: &str| format!("the digest of {} is broken", names::shown(name));
        let (bytes, sha256, git_sha1) = match self.lfs {
            Some(lfs) => {
                let sha256 = lfs.sha256.map(|text| text.parse::<Sha256Digest>()).transpose();
                (lfs.size.or(self.size), sha256.map_err(|_| broken(&self.rfilename))?, None)
            }
            None => match self.blob_id {
                Some(id) if !is_commit(&id) => return Err(broken(&self.rfilename)),
                id => (self.size, None, id),
            },
        };
        Ok(Listed { path: self.rfilename, bytes, sha256, git_sha1 })
    }
}
