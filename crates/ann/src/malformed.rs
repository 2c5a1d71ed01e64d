//! Bytes that are no index.

/// The bytes are not what this release writes, or were changed since they were written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not {what} that this release wrote, or have changed since")]
pub struct Malformed {
    what: &'static str,
}

impl Malformed {
    pub(crate) fn new(what: &'static str) -> Malformed {
        Malformed { what }
    }
}
