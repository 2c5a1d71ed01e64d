//! The text that names where a model comes from.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{RegistryError, names::shown};

/// Where a model comes from, parsed from one string.
///
/// ```
/// use halny_registry::SourceRef;
/// let source: SourceRef = "hf://sentence-transformers/all-MiniLM-L6-v2@main".parse()?;
/// assert_eq!(source.to_string(), "hf://sentence-transformers/all-MiniLM-L6-v2@main");
/// # Ok::<(), halny_registry::RegistryError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceRef {
    /// A folder of this machine: any text without `://`.
    Folder(PathBuf),
    /// `hf://owner/name[@revision]`: a repository on a hub that speaks Hugging Face's API.
    Hub {
        /// The user or organisation.
        owner: String,
        /// The repository.
        name: String,
        /// A branch, a tag, or a commit of 40 hexadecimal digits; `main` where none was written.
        revision: Option<String>,
    },
    /// `s3://bucket[/prefix]`: objects under a prefix.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix without slashes around it; may be empty.
        prefix: String,
    },
}

impl FromStr for SourceRef {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let refuse = |reason| RegistryError::BadSource { text: shown(text), reason };
        if text.len() > 4096 {
            return Err(refuse("it is longer than 4096 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(refuse("it holds a control character"));
        }
        match text.split_once("://") {
            None if text.trim().is_empty() => Err(refuse("it is empty")),
            None => Ok(Self::Folder(PathBuf::from(text))),
            Some(("hf", rest)) => parse_hub(rest).map_err(refuse),
            Some(("s3", rest)) => parse_s3(rest).map_err(refuse),
            Some(_) => Err(refuse("its scheme is unknown")),
        }
    }
}

fn parse_hub(rest: &str) -> Result<SourceRef, &'static str> {
    let (repository, revision) = match rest.split_once('@') {
        Some((repository, revision)) => (repository, Some(revision)),
        None => (rest, None),
    };
    let Some((owner, name)) = repository.split_once('/') else {
        return Err("a hub's repository is written owner/name");
    };
    if !is_repository_part(owner) || !is_repository_part(name) {
        return Err("owner and name are letters, digits, '.', '_' and '-', at most 96 of them");
    }
    if let Some(revision) = revision
        && !is_revision(revision)
    {
        return Err("the revision is not the name of a branch, tag or commit");
    }
    Ok(SourceRef::Hub { owner: owner.to_owned(), name: name.to_owned(), revision: revision.map(str::to_owned) })
}

/// The hub's own rule: `--` and `..` never occur, so `owner--name` in the cache is unambiguous.
fn is_repository_part(part: &str) -> bool {
    (1..=96).contains(&part.len())
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        && !part.contains("--")
        && !part.contains("..")
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn is_revision(revision: &str) -> bool {
    revision.len() <= 200
        && revision.split('/').all(|part| !part.is_empty() && part != "." && !part.contains(".."))
        && revision.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}

fn parse_s3(rest: &str) -> Result<SourceRef, &'static str> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_bucket = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b));
    if !is_bucket {
        return Err("a bucket's name has 3 to 63 lower-case letters, digits, '.' and '-'");
    }
    let prefix = prefix.trim_matches('/');
    if !prefix.is_empty() && crate::names::check_relative(prefix).is_err() {
        return Err("the prefix is not a plain path");
    }
    Ok(SourceRef::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Hub { owner, name, revision: None } => write!(f, "hf://{owner}/{name}"),
            Self::Hub { owner, name, revision: Some(revision) } => {
                write!(f, "hf://{owner}/{name}@{revision}")
            }
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_that_are_no_source_are_refused() {
        for text in [
            "",
            "  ",
            "a\0b",
            "http://h/x",
            "hf://",
            "hf://name",
            "hf://a/b/c",
            "hf://../x",
            "hf://a/..",
            "hf://a/b@",
            "hf://a/b@../x",
            "hf://a/b@x//y",
            "hf://a/b@x y",
            "hf://a--b/c",
            "s3://",
            "s3://UP/x",
            "s3://bucket/../x",
            &"x".repeat(10_000),
        ] {
            let error = text.parse::<SourceRef>().unwrap_err().to_string();
            assert!(error.contains("hf://owner/name") && error.len() < 400, "{text}: {error}");
        }
    }

    #[test]
    fn a_folder_is_any_text_without_a_scheme() {
        for text in ["models/x", "/srv/models", "../up", "C:x", "a@b"] {
            assert_eq!(text.parse::<SourceRef>().unwrap(), SourceRef::Folder(text.into()));
        }
    }

    proptest! {
        #[test]
        fn what_is_parsed_prints_back(text in r"(hf|s3)://[a-z.\-]{1,8}/[a-zA-Z0-9._\-]{1,8}(@[a-z0-9/.]{1,9})?") {
            if let Ok(source) = text.parse::<SourceRef>() {
                prop_assert_eq!(source.to_string().parse::<SourceRef>().unwrap(), source);
            }
        }
    }
}
