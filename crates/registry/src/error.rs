//! What can go wrong between a source's name and a folder of trusted files.

use std::io;

/// Why a model could not be fetched or may not be loaded: what was refused, the limit, what to change.
///
/// The texts are for the operator who wrote the source. They hold names of files inside the model,
/// never the token, and never a folder of this machine that the operator did not write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The text that names the source cannot be understood.
    #[error(
        "the model source {text:?} is refused: {reason}; write a folder's path, hf://owner/name[@revision] or s3://bucket/prefix"
    )]
    BadSource {
        /// What was written, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The scheme is known but this version cannot read from it.
    #[error("{scheme}:// sources are not yet available in this version; copy the files to a folder, or use hf://")]
    NotYetAvailable {
        /// The scheme, without `://`.
        scheme: &'static str,
    },
    /// The folder does not exist or is not a folder.
    #[error("the model folder {path:?} {reason}; correct the model's source")]
    BadFolder {
        /// The folder as it was written.
        path: String,
        /// `does not exist`, `is not a folder`, ...
        reason: &'static str,
    },
    /// None of the names that hold weights of a precision is there.
    #[error("no {wanted} weights found: looked for {looked_for}; {hint}")]
    NoWeights {
        /// The precision or format asked for.
        wanted: String,
        /// The names tried, in order.
        looked_for: String,
        /// What is there instead, and what to do.
        hint: String,
    },
    /// More than one file could be the weights.
    #[error("it has {count} GGUF files ({found}), and nothing says which is meant; name one of them")]
    ManyWeights {
        /// How many there are.
        count: usize,
        /// The first of them.
        found: String,
    },
    /// A file needed by another file is missing.
    #[error("{file} is missing, but {named_in} needs it; add it beside that file")]
    MissingFile {
        /// The missing file.
        file: String,
        /// The file that names it.
        named_in: String,
    },
    /// The file is of a format that can run code when it is loaded, or an archive that may hold one.
    #[error(
        "{file} is {format}, a format that can run code when it is loaded or hide files that can; it is refused without being read: export the model to ONNX, GGUF or safetensors, under a name such as model.onnx or model.onnx_data"
    )]
    RefusedFormat {
        /// The file.
        file: String,
        /// The format, with its article.
        format: &'static str,
    },
    /// A file's name could reach outside the model's folder or cannot be stored faithfully.
    #[error("the file name {name} is refused: {reason}; rename the file in the source")]
    UnsafeName {
        /// The name, shortened and escaped.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two names that differ in case only: one of them would hide the other on some file systems.
    #[error("{first} and {second} differ in case only, so which one is meant depends on the file system; remove one")]
    CaseCollision {
        /// The file that the model needs.
        first: String,
        /// The one that collides.
        second: String,
    },
    /// A symbolic link leads out of the model's folder.
    #[error("{file} is a link that leads out of the model's folder; replace it by a copy of the file (cp -L)")]
    LinkOutside {
        /// The file.
        file: String,
    },
    /// A directory, socket, pipe or device stands where a file should be.
    #[error("{file} is not a regular file; replace it by a copy of the file")]
    NotAFile {
        /// The file.
        file: String,
    },
    /// One file, or all files together, are larger than allowed.
    #[error("{file} has {bytes} bytes, more than the limit of {limit_bytes}; raise the limit if you trust the source")]
    TooLarge {
        /// The file, or a phrase for all of them.
        file: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// More files than allowed.
    #[error("{what} holds more than {limit} files; point the source at the model's own folder or repository")]
    TooManyFiles {
        /// What was listed.
        what: String,
        /// The limit.
        limit: usize,
    },
    /// The file's structure lies or is broken.
    #[error("{file} is not a sound {format} file: {reason}; fetch or export it again")]
    Malformed {
        /// The file.
        file: String,
        /// `ONNX`, `GGUF`, `safetensors` or `JSON`.
        format: &'static str,
        /// What was found, with its numbers.
        reason: String,
    },
    /// The file changed while it was read.
    #[error("{file} changed while it was read; start again when nothing writes to it")]
    Changed {
        /// The file.
        file: String,
    },
    /// The operating system refused.
    #[error("could not {doing} {file}: {source}; check permissions and free space")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file, as the source names it.
        file: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The hub's address or the token cannot be used.
    #[error("the hub cannot be asked: {reason}; correct HF_ENDPOINT or HF_TOKEN")]
    BadEndpoint {
        /// What is wrong.
        reason: String,
    },
    /// The hub wants a (better) token.
    #[error(
        "the hub refused access to {repository} (status {status}); set HF_TOKEN to a token that may read it, and accept the model's terms on its page if it has any"
    )]
    AccessDenied {
        /// `owner/name`.
        repository: String,
        /// 401 or 403.
        status: u16,
    },
    /// The repository, revision or file does not exist, or is private.
    #[error(
        "the hub has no {what} in {repository}; check the name and the revision, and set HF_TOKEN if the repository is private"
    )]
    NotFound {
        /// `owner/name`.
        repository: String,
        /// The revision or file.
        what: String,
    },
    /// The hub asked to come back later, and did so until the attempts were used up.
    #[error(
        "the hub refused {attempts} attempts as too many requests; try again in {retry_after_s} s, or set HF_TOKEN for a higher limit"
    )]
    RateLimited {
        /// How often it was tried.
        attempts: u32,
        /// What the hub asked for last, in seconds.
        retry_after_s: u64,
    },
    /// The hub answered with something that is neither the file nor a known refusal.
    #[error("the hub answered with status {status}; try again, or check HF_ENDPOINT")]
    HubStatus {
        /// The HTTP status.
        status: u16,
    },
    /// The hub could not be reached or broke off.
    #[error(
        "the hub could not be reached or broke off ({reason}) in {attempts} attempts; check the network, or pin a revision that is already in the cache"
    )]
    Network {
        /// What happened, without addresses.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The hub's listing cannot be used.
    #[error("the hub's listing of {repository} is refused: {reason}; check HF_ENDPOINT")]
    BadListing {
        /// `owner/name`.
        repository: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A redirect that is not followed.
    #[error("a redirect of the hub is refused: {reason}; check HF_ENDPOINT")]
    BadRedirect {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The bytes that came are not the file's size.
    #[error(
        "{file} broke off after {got_bytes} of {expected_bytes} bytes in every attempt; try again, what came is kept"
    )]
    Truncated {
        /// The file.
        file: String,
        /// What came.
        got_bytes: u64,
        /// What was announced.
        expected_bytes: u64,
    },
    /// The bytes that came are not the file that the hub listed.
    #[error(
        "{file} does not match its digest: the hub lists {expected}, what came has {got}; it is discarded: try again, and check HF_ENDPOINT if it stays so"
    )]
    WrongDigest {
        /// The file.
        file: String,
        /// The digest listed.
        expected: String,
        /// The digest of what came.
        got: String,
    },
    /// A large file for which the hub gives nothing to check it by.
    #[error(
        "the hub gives no digest for {file}, and files over {limit_bytes} bytes are not taken without one; use a hub that lists digests, or copy the files to a folder"
    )]
    NoDigest {
        /// The file.
        file: String,
        /// Above this many bytes a digest is required.
        limit_bytes: u64,
    },
    /// Off-line use was asked for and something is not in the cache.
    #[error(
        "{what} is not in the cache and off-line use was asked for; fetch it once with the network (unset HF_HUB_OFFLINE)"
    )]
    NotCached {
        /// The repository or file.
        what: String,
    },
    /// Another process holds the download for longer than the limit.
    #[error("another process has been fetching {file} for more than {waited_s} s; wait for it or stop it")]
    Locked {
        /// The file.
        file: String,
        /// How long was waited.
        waited_s: u64,
    },
}

impl RegistryError {
    pub(crate) fn io(doing: &'static str, file: &str, source: io::Error) -> Self {
        Self::Io { doing, file: file.to_owned(), source }
    }
}
