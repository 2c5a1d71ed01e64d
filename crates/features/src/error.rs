//! Why a request for features was refused, or failed.

use halny_types::{Blame, Fault};
use thiserror::Error;

/// Why a request for features was refused, or failed.
#[derive(Debug, Error)]
pub enum FeaturesError {
    /// No view has this name.
    #[error("there is no feature view {0:?}; name one of those in the project file")]
    NoView(String),
    /// The view has no such feature.
    #[error("the view {view:?} has no feature {feature:?}; it has {known}")]
    NoFeature {
        /// The view.
        view: String,
        /// What was asked for.
        feature: String,
        /// What there is.
        known: String,
    },
    /// No service has this name, or none this version.
    #[error("there is no feature service {0:?}; name one of the project file, as `name` or `name@version`")]
    NoService(String),
    /// Two features that were asked for have the same name.
    #[error("{first} and {second} are both called {name:?} in the answer; ask with full_feature_names")]
    Ambiguous {
        /// The name.
        name: String,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A join key or a field of the request is missing.
    #[error("{name:?} is missing; {why}")]
    Missing {
        /// What is missing.
        name: String,
        /// What needs it.
        why: String,
    },
    /// A value of a wrong type.
    #[error("{name:?} holds {is} where {expected} is expected")]
    Type {
        /// Where.
        name: String,
        /// What was expected.
        expected: String,
        /// What there is.
        is: String,
    },
    /// Something that was given cannot be taken as it is.
    #[error("{0}")]
    Invalid(String),
    /// More than one request may ask for or bring.
    #[error("{what} are {count}; at most {most} may be in one request")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// The view takes no pushes.
    #[error("the view {0:?} takes no pushed rows; write push = true in its source")]
    NoPush(String),
    /// The files of a view are not what its definition says.
    #[error("a file of the view {view:?} cannot be read: {why}")]
    Source {
        /// The view.
        view: String,
        /// What is wrong with it.
        why: String,
    },
    /// A place that this server has no way to read.
    #[error("{0:?} cannot be read here; write a path, or configure that store")]
    Place(String),
    /// What is stored is not what was written.
    #[error("a stored value of features is damaged ({0}); push or materialise the row again")]
    Damaged(&'static str),
    /// The folder belongs to another process.
    #[error("the folder of features is used by another process; give each server a folder of its own")]
    InUse,
    /// The local database failed.
    #[error("the database of features cannot be read or written; see the log")]
    Local(#[source] Box<redb::Error>),
    /// A local file failed.
    #[error("the files of features cannot be read or written")]
    Files(#[from] std::io::Error),
    /// The store of Parquet files failed.
    #[error("the offline store of features cannot be read or written; see the log")]
    Objects(#[from] object_store::Error),
    /// Parquet could not be written or read.
    #[error("rows of features cannot be written as Parquet, or read from it")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// A computation on columns failed.
    #[error("columns of features cannot be put together")]
    Columns(#[from] arrow::error::ArrowError),
    /// The server of the online store cannot be reached.
    #[error("the server of the online store cannot be reached or refused the request; try again")]
    Unavailable(#[source] redis::RedisError),
    /// So much waits that nothing more is taken.
    #[error("{0}; try again shortly")]
    Busy(&'static str),
    /// The store is closing.
    #[error("the features were closed while the request waited")]
    Closed,
    /// Work that computed did not come to its end.
    #[error("work on features did not come to its end; see the log")]
    Broken,
}

/// The longest part of a name that is said again.
const SHOWN_CHARS: usize = 100;

/// A name as errors say it again: clients send them as long as they like.
pub(crate) fn shown(name: &str) -> String {
    match name.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

impl Blame for FeaturesError {
    fn fault(&self) -> Fault {
        use FeaturesError as E;
        match self {
            E::NoView(_) | E::NoService(_) => Fault::Missing,
            E::NoFeature { .. } | E::Ambiguous { .. } | E::Missing { .. } | E::Type { .. } => Fault::Caller,
            E::Invalid(_) | E::NoPush(_) => Fault::Caller,
            E::TooMany { .. } => Fault::TooLarge,
            E::Place(_) => Fault::Unsupported,
            E::Unavailable(_) | E::Busy(_) => Fault::Overload,
            E::Source { .. } | E::Damaged(_) | E::InUse | E::Local(_) | E::Files(_) | E::Objects(_) => Fault::Ours,
            E::Parquet(_) | E::Columns(_) | E::Closed | E::Broken => Fault::Ours,
        }
    }
}

macro_rules! local {
    ($($error:ty),*) => { $(
        impl From<$error> for FeaturesError {
            fn from(error: $error) -> FeaturesError {
                FeaturesError::Local(Box::new(error.into()))
            }
        }
    )* };
}

local!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);

impl From<redb::DatabaseError> for FeaturesError {
    fn from(error: redb::DatabaseError) -> FeaturesError {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => FeaturesError::InUse,
            other => FeaturesError::Local(Box::new(other.into())),
        }
    }
}

impl From<redis::RedisError> for FeaturesError {
    fn from(error: redis::RedisError) -> FeaturesError {
        tracing::warn!(%error, "the online store");
        FeaturesError::Unavailable(error)
    }
}
