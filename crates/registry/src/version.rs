//! A model's version: one digest over all files that make it up.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
    str::FromStr,
};

use halny_types::ModelVersion;
use halny_types::project::Precision;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::{FileFilter, gguf::GgufSummary};

/// A SHA-256 digest; shown and stored as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub(crate) [u8; 32]);

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({self})")
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is written as 64 hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Sha256Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(NotADigest);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = (hex_digit(pair[0]).ok_or(NotADigest)? << 4) | hex_digit(pair[1]).ok_or(NotADigest)?;
        }
        Ok(Self(bytes))
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelFile {
    /// Its path below the model's folder, with `/` between the parts.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its content.
    pub sha256: Sha256Digest,
}

/// The version of a model: the SHA-256 of its manifest.
///
/// The manifest has one line a file, sorted by path as bytes: the SHA-256 of the content in
/// lower-case hexadecimal, a space, the size in bytes in decimal, a space, the path relative to
/// the model's folder, a line feed. Paths cannot hold a line feed (control characters are refused),
/// so the manifest can be read in one way only. Two models have the same version exactly when the
/// same bytes lie under the same names.
///
/// Anyone can recompute it in the model's folder, here for a model of two files:
///
/// ```sh
/// printf '%s\n' model.onnx tokenizer.json | LC_ALL=C sort | while IFS= read -r f; do
///   printf '%s %s %s\n' "$(sha256sum < "$f" | cut -d ' ' -f 1)" "$(wc -c < "$f" | tr -d ' ')" "$f"
/// done | sha256sum | cut -d ' ' -f 1
/// ```
#[must_use]
pub fn version_of(files: &[ModelFile]) -> ModelVersion {
    ModelVersion::from_digest(Sha256::digest(manifest(files)).into())
}

/// The text whose SHA-256 is the version; see [`version_of`].
#[must_use]
pub fn manifest(files: &[ModelFile]) -> String {
    let mut sorted: Vec<&ModelFile> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    sorted.iter().fold(String::new(), |mut text, file| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", file.sha256, file.bytes, file.path);
        text
    })
}

/// A model's weights in a GGUF file, and what the check of them found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufWeights {
    /// The file's path below the model's folder, with `/` between the parts.
    pub name: String,
    /// What it holds.
    pub summary: GgufSummary,
}

/// A model's files on this machine, checked and hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    /// The folder below which the files lie; a canonical path.
    pub root: PathBuf,
    /// The files that make up the model, sorted by path.
    pub files: Vec<ModelFile>,
    /// The version of exactly these files.
    pub version: ModelVersion,
    /// The weights, where they are a GGUF file.
    pub gguf: Option<GgufWeights>,
}

impl ModelFolder {
    pub(crate) fn new(root: PathBuf, mut files: Vec<ModelFile>, gguf: Option<GgufWeights>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let version = version_of(&files);
        Self { root, files, version, gguf }
    }

    /// The path on this machine of one of the model's files; `None` if the model has no such file.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.files.iter().any(|file| file.path == name).then(|| self.root.join(name))
    }

    /// The path of the ONNX weights for `precision`, as `wanted` names them; for a GGUF file, which
    /// has its own, that of the file.
    #[must_use]
    pub fn weights(&self, wanted: &FileFilter, precision: Precision) -> Option<PathBuf> {
        if wanted.is_gguf() {
            return self.gguf.as_ref().map(|weights| self.root.join(&weights.name));
        }
        let has = |name: &str| self.files.iter().any(|file| file.path == name);
        wanted.weights_name(precision, has).map(|name| self.root.join(name))
    }

    /// The size of all files together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn file(path: &str, content: &[u8]) -> ModelFile {
        ModelFile {
            path: path.to_owned(),
            bytes: content.len() as u64,
            sha256: Sha256Digest(Sha256::digest(content).into()),
        }
    }

    #[test]
    fn short_is_a_prefix_of_the_full_version() {
        let version = version_of(&[file("a", b"1")]);
        assert_eq!(version.short().len(), 12);
        assert!(version.to_string().starts_with(&version.short()));
        assert_eq!(serde_json::to_string(&version).unwrap(), format!("\"{version}\""));
    }

    proptest! {
        #[test]
        fn version_ignores_order_and_sees_every_change(
            contents in prop::collection::btree_map("[a-z]{1,4}", prop::collection::vec(any::<u8>(), 0..9), 1..6),
            flip in any::<prop::sample::Index>(),
        ) {
            let mut files: Vec<ModelFile> = contents.iter().map(|(p, c)| file(p, c)).collect();
            let version = version_of(&files);
            files.reverse();
            prop_assert_eq!(version_of(&files), version);
            let at = flip.index(files.len());
            let original = files[at].clone();
            files[at].sha256.0[0] ^= 1;
            prop_assert_ne!(version_of(&files), version);
            files[at] = ModelFile { path: format!("{}x", original.path), ..original.clone() };
            prop_assert_ne!(version_of(&files), version);
            files.remove(at);
            prop_assert_ne!(version_of(&files), version);
        }

        #[test]
        fn digest_text_round_trips(bytes in any::<[u8; 32]>()) {
            let digest = Sha256Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Sha256Digest>().unwrap(), digest);
        }
    }
}
