//! The identity of a model's files.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// SHA-256 over the files that make up a model: equal versions run equal weights.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelVersion([u8; 32]);

impl ModelVersion {
    /// The version with this digest.
    #[must_use]
    pub const fn from_digest(digest: [u8; 32]) -> ModelVersion {
        ModelVersion(digest)
    }

    /// The first 12 hexadecimal digits: enough to tell versions apart in labels and on screens.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ModelVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<ModelVersion, String> {
        let refused = || format!("{text:?} is not a version; a version is 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refused());
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| refused())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
        }
        Ok(ModelVersion(digest))
    }
}

impl TryFrom<String> for ModelVersion {
    type Error = String;
    fn try_from(text: String) -> Result<ModelVersion, String> {
        text.parse()
    }
}

impl From<ModelVersion> for String {
    fn from(version: ModelVersion) -> String {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_version_survives_being_printed(digest in any::<[u8; 32]>()) {
            let version = ModelVersion::from_digest(digest);
            prop_assert_eq!(version.to_string().parse::<ModelVersion>().unwrap(), version);
            prop_assert!(version.to_string().starts_with(&version.short()));
        }

        #[test]
        fn other_text_is_refused(text in ".{0,70}") {
            let hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            prop_assert_eq!(text.parse::<ModelVersion>().is_ok(), hex);
        }
    }
}
