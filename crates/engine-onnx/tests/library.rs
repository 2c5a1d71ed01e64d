//! Libraries that are missing, old, or something else: refused with what to do, never a crash.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/libraries.rs"]
mod libraries;

use libraries::{compiled, pretender, refusal};

#[test]
fn what_is_not_there_or_no_library_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libonnxruntime.so");
    std::fs::write(&text, b"a text file").unwrap();
    assert!(refusal(&folder.path().join("absent.so")).contains("there is no"));
    assert!(refusal(&text).contains("cannot be loaded"));
    assert!(refusal(folder.path()).contains("a folder"));
}

#[test]
fn another_library_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let other = compiled(folder.path(), "other", "int something(void) { return 1; }\n");
    assert!(refusal(&other).contains("not ONNX Runtime"));
}

#[test]
fn an_old_library_is_refused_by_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let old = compiled(folder.path(), "old", &pretender("\"1.17.3\""));
    let why = refusal(&old);
    assert!(why.contains("1.17.3") && why.contains("too old"), "{why}");
}
