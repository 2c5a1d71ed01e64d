//! Names of files inside a model, and the rule that none of them leaves the model's folder.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use crate::RegistryError;

/// The longest name of a file inside a model, in bytes. The hub's own limit is lower still.
pub const MAX_NAME_BYTES: usize = 512;

/// The longest part of a name between two slashes: what Linux file systems can store.
const MAX_SEGMENT_BYTES: usize = 255;

/// A name fit for an error text: escaped, and cut so that 10,000 characters do not fill a log.
pub(crate) fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.chars().nth(80).is_some() {
        text.push_str("...");
    }
    text
}

/// A reason fit for an error text: parsers quote what they read, and that may be a 100 MB key.
pub(crate) fn clipped(reason: &str) -> String {
    match reason.char_indices().nth(240) {
        Some((end, _)) => format!("{}...", &reason[..end]),
        None => reason.to_owned(),
    }
}

/// Accepts `folder/file` and nothing that is absolute, climbs, is empty, too long, or holds a
/// control character or backslash.
pub(crate) fn check_relative(name: &str) -> Result<(), RegistryError> {
    let refuse = |reason| Err(RegistryError::UnsafeName { name: shown(name), reason });
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.len() > MAX_NAME_BYTES {
        return refuse("it is longer than 512 bytes");
    }
    if name.chars().any(char::is_control) {
        return refuse("it holds a control character");
    }
    if name.contains('\\') {
        return refuse("it holds a backslash");
    }
    if name.starts_with('/') {
        return refuse("it is an absolute path");
    }
    for segment in name.split('/') {
        match segment {
            ".." => return refuse("it climbs out of its folder with .."),
            "" | "." => return refuse("it holds an empty part or a dot between slashes"),
            _ if segment.len() > MAX_SEGMENT_BYTES => {
                return refuse("a part of it is longer than 255 bytes");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a selection in which a file has a twin that differs in case only, anywhere in `all`.
pub(crate) fn check_case<'a>(
    selected: impl IntoIterator<Item = &'a str>,
    all: impl IntoIterator<Item = &'a str>,
) -> Result<(), RegistryError> {
    let mut by_fold: BTreeMap<String, &str> = BTreeMap::new();
    for name in selected {
        if let Some(other) = by_fold.insert(name.to_lowercase(), name)
            && other != name
        {
            return Err(collision(other, name));
        }
    }
    for name in all {
        if let Some(selected) = by_fold.get(&name.to_lowercase())
            && *selected != name
        {
            return Err(collision(selected, name));
        }
    }
    Ok(())
}

fn collision(first: &str, second: &str) -> RegistryError {
    RegistryError::CaseCollision { first: shown(first), second: shown(second) }
}

/// The real path of `name` under `root`, which must already be canonical: a regular file that
/// lies inside `root` after every link is followed.
pub(crate) fn contained(root: &Path, name: &str, named_in: &str) -> Result<PathBuf, RegistryError> {
    check_relative(name)?;
    let path = match root.join(name).canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RegistryError::MissingFile { file: shown(name), named_in: shown(named_in) });
        }
        Err(error) => return Err(RegistryError::io("find", &shown(name), error)),
    };
    if !path.starts_with(root) {
        return Err(RegistryError::LinkOutside { file: shown(name) });
    }
    let metadata = path.metadata().map_err(|e| RegistryError::io("look at", &shown(name), e))?;
    if !metadata.is_file() {
        return Err(RegistryError::NotAFile { file: shown(name) });
    }
    Ok(path)
}

/// `name` seen from the folder that holds `beside`: `("onnx/model.onnx", "w")` gives `onnx/w`.
pub(crate) fn sibling(beside: &str, name: &str) -> String {
    match beside.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/{name}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let long = "a".repeat(10_000);
        let long_segment = "b".repeat(256);
        for name in [
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a\0b",
            "a\nb",
            "",
            "a//b",
            "./a",
            "a/..",
            "..",
            "a\\..\\b",
            long.as_str(),
            long_segment.as_str(),
        ] {
            let error = check_relative(name).unwrap_err().to_string();
            assert!(error.len() < 300, "{error}");
        }
        for name in ["model.onnx", "onnx/model.onnx", "1_Pooling/config.json", "..a/b..", "a..b"] {
            check_relative(name).unwrap();
        }
    }

    #[test]
    fn names_that_differ_in_case_only_are_refused() {
        assert!(check_case(["config.json"], ["config.json", "Config.json"]).is_err());
        assert!(check_case(["config.json", "Config.json"], []).is_err());
        check_case(["config.json"], ["config.json", "README.md", "readme.md"]).unwrap();
    }

    proptest! {
        #[test]
        fn an_accepted_name_stays_below_its_root(name in r"(\.{0,2}[a-z/]{0,3}\\?){0,6}") {
            if check_relative(&name).is_ok() {
                let joined = Path::new("/root").join(&name);
                prop_assert!(joined.starts_with("/root"));
                prop_assert!(!joined.components().any(|c| c == std::path::Component::ParentDir));
            }
        }
    }
}
