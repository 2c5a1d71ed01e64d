//! Why a filter, a path or an id cannot be read.

use halny_types::{Blame, Fault};

/// Why a filter, a path or an id cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Something else was expected.
    #[error("{place}: {expected}")]
    Invalid {
        /// Where in the filter.
        place: String,
        /// What is expected there.
        expected: String,
    },
    /// Something that Qdrant has and Halny has not.
    #[error("{place}: `{field}` is not supported")]
    Unsupported {
        /// Where in the filter.
        place: String,
        /// The field's name.
        field: String,
    },
    /// A path into a payload that cannot be read.
    #[error(
        "the path {0:?} cannot be read; paths are written `a.b`, `a[].b` or `a[0].b`, at most 1024 bytes and 64 deep"
    )]
    Path(String),
    /// An id that is none.
    #[error("{0} is no id of a point; an id is a whole number from 0 to 18446744073709551615 or a UUID")]
    Id(String),
}

impl FilterError {
    pub(crate) fn invalid(place: &str, expected: impl Into<String>) -> FilterError {
        FilterError::Invalid { place: place.to_owned(), expected: expected.into() }
    }
}

impl Blame for FilterError {
    fn fault(&self) -> Fault {
        match self {
            FilterError::Unsupported { .. } => Fault::Unsupported,
            _ => Fault::Caller,
        }
    }
}
