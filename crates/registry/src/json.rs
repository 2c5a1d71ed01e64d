//! Whether a configuration file is JSON of bounded size and depth.

use std::{fs::File, io::Read, path::Path};

use serde::de::IgnoredAny;

use crate::RegistryError;

/// The largest JSON file taken. The largest tokenizers of published models have about 35 MB.
const MAX_JSON_BYTES: u64 = 128 << 20;

/// The deepest nesting taken; `serde_json` itself stops at 128 for values that are built.
const MAX_DEPTH: usize = 64;

/// Refuses a file that is not one JSON value within the limits.
pub(crate) fn check_file(path: &Path, name: &str) -> Result<(), RegistryError> {
    let failed = |error| RegistryError::io("read", name, error);
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > MAX_JSON_BYTES {
        let limit_bytes = MAX_JSON_BYTES;
        return Err(RegistryError::TooLarge { file: name.to_owned(), bytes, limit_bytes });
    }
    let mut text = Vec::new();
    file.take(MAX_JSON_BYTES).read_to_end(&mut text).map_err(failed)?;
    check(&text).map_err(|reason| RegistryError::Malformed { file: name.to_owned(), format: "JSON", reason })
}

/// Refuses text that is not one JSON value of at most [`MAX_DEPTH`].
pub(crate) fn check(text: &[u8]) -> Result<(), String> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
        }
    }
    serde_json::from_slice::<IgnoredAny>(text).map_err(|error| crate::names::clipped(&error.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nesting_without_end_is_refused() {
        let deep = "[".repeat(100_000);
        assert!(check(deep.as_bytes()).unwrap_err().contains("64 levels"));
        let closed = format!("{}{}", "[".repeat(64), "]".repeat(64));
        check(closed.as_bytes()).unwrap();
        check(br#"{"a":"[[[[\"[[","b":[1,2]}"#).unwrap();
        for text in ["", "{", "{}x", "{\"a\":}", "\u{0}"] {
            assert!(check(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&text);
        }
    }
}
