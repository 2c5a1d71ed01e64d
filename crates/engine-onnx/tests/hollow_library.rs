//! A library of the right name and version that then breaks its promises: in a test binary of its own,
//! since it stays loaded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/libraries.rs"]
mod libraries;

use libraries::{compiled, pretender, refusal};

#[test]
fn a_library_without_an_api_does_not_end_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let hollow = compiled(folder.path(), "hollow", &pretender("\"1.99.0\""));
    assert!(refusal(&hollow).contains("does not behave"));
}
