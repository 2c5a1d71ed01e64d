//! Models: where they come from, what version they are, and whether their files may be trusted.
//!
//! A model server runs files that strangers made. So between a source's name in the project file
//! and the engine stands this crate: it takes only the files it knows the purpose of, refuses what
//! can run code (pickles, archives) by format, checks that what is left tells the truth about
//! itself, and gives the whole a version that anyone can recompute ([`version_of`]).
//!
//! ```no_run
//! use halny_registry::{FileFilter, OpenOptions, SourceRef, open, progress::Silent};
//! use halny_types::project::Precision;
//! # async fn example() -> Result<(), halny_registry::RegistryError> {
//! let source: SourceRef = "hf://sentence-transformers/all-MiniLM-L6-v2".parse()?;
//! let options = OpenOptions::from_env("/var/cache/halny");
//! let wanted = FileFilter::onnx([Precision::Fp32]);
//! let model = open(&source, &options).fetch(&wanted, &Silent).await?;
//! println!("{} in {:?}", model.version.short(), model.weights(&wanted, Precision::Fp32));
//! # Ok(())
//! # }
//! ```
//!
//! Three formats of weights are read, each by what [`FileFilter`] asks for: ONNX (one file a
//! precision, with external data), safetensors, and GGUF ([`gguf`] says what of its header is
//! checked, and [`ModelFolder::gguf`] what the header holds).
//!
//! Not the `hf-hub` crate: it follows the hub's redirects without limits of ours, takes whatever
//! name the listing holds, and verifies no digest.

use std::path::PathBuf;

use futures::future::BoxFuture;

mod checks;
mod digest;
mod error;
mod filter;
mod folder;
pub mod gguf;
mod hub;
mod json;
mod names;
pub mod onnx;
pub mod progress;
mod refused;
mod s3;
pub mod safetensors;
mod shape;
mod source_ref;
#[cfg(any(test, feature = "testsuite"))]
pub mod testsuite;
mod version;

pub use crate::{
    checks::Limits,
    digest::DigestCache,
    error::RegistryError,
    filter::{COMPANIONS, FileFilter},
    folder::FolderSource,
    hub::{HubOptions, HubSource, RetryPolicy, Token},
    names::MAX_NAME_BYTES,
    progress::Progress,
    s3::S3Source,
    source_ref::SourceRef,
    version::{GgufWeights, ModelFile, ModelFolder, NotADigest, Sha256Digest, manifest, version_of},
};

/// A place that models come from.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// Brings the wanted files to this machine if they are not there, checks and hashes them.
    ///
    /// What is given back has passed every check of this crate: names that stay in the folder, no
    /// refused format, sound ONNX, GGUF, safetensors and JSON, external data present and large enough.
    /// Dropping the future stops the work; what was downloaded is kept and resumed.
    ///
    /// # Errors
    /// [`RegistryError`], each a sentence that says what to change.
    fn fetch<'a>(
        &'a self,
        wanted: &'a FileFilter,
        progress: &'a dyn Progress,
    ) -> BoxFuture<'a, Result<ModelFolder, RegistryError>>;
}

/// What every source is opened with.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Where downloads (`hub/`) and remembered digests (`digests/`) are kept.
    pub cache_folder: PathBuf,
    /// How much a model may hold.
    pub limits: Limits,
    /// How the hub is reached.
    pub hub: HubOptions,
}

impl OpenOptions {
    /// Default limits, the public hub, no token.
    #[must_use]
    pub fn new(cache_folder: impl Into<PathBuf>) -> Self {
        Self { cache_folder: cache_folder.into(), limits: Limits::default(), hub: HubOptions::default() }
    }

    /// As [`new`](Self::new), with `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` from the
    /// environment.
    #[must_use]
    pub fn from_env(cache_folder: impl Into<PathBuf>) -> Self {
        Self { hub: HubOptions::from_env(), ..Self::new(cache_folder) }
    }
}

/// Opens the source that `source` names. Nothing is read or asked for before
/// [`fetch`](Source::fetch).
#[must_use]
pub fn open(source: &SourceRef, options: &OpenOptions) -> Box<dyn Source> {
    let digests = DigestCache::new(options.cache_folder.join("digests"));
    match source {
        SourceRef::Folder(path) => Box::new(FolderSource::new(path.clone(), digests, options.limits)),
        SourceRef::Hub { owner, name, revision } => Box::new(HubSource::new(owner, name, revision.as_deref(), options)),
        SourceRef::S3 { .. } => Box::new(S3Source),
    }
}
