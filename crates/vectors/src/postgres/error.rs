//! What PostgreSQL says, as what a client may be told.
//!
//! Its texts name tables and hosts: they go into the log, and the client learns what to do.

use std::fmt::Display;

use sqlx::Error;
use sqlx::error::DatabaseError;

use crate::VectorsError;

/// The engine's name in errors.
pub(super) const ENGINE: &str = "PostgreSQL";

/// Whether the same transaction, made again, may go through: two met, and one had to give way.
pub(super) fn is_collision(error: &Error) -> bool {
    matches!(error.as_database_error().and_then(DatabaseError::code).as_deref(), Some("40001" | "40P01"))
}

/// What is told of an error.
pub(super) fn told(error: Error) -> VectorsError {
    let code = error.as_database_error().and_then(DatabaseError::code).map(|code| code.into_owned());
    match code.as_deref() {
        // The table, or its row in the catalogue, is gone: the collection was deleted meanwhile.
        Some("42P01") => VectorsError::Closed,
        Some("53100") => VectorsError::NoRoom,
        // A statement or a value that is too large or too deep for the server.
        Some(code) if code.starts_with("54") => {
            tracing::warn!(%error, "PostgreSQL refused a statement as too large");
            VectorsError::Invalid("the request is too large or too deep for PostgreSQL; send less at once".to_owned())
        }
        // Numbers beyond a halfvec's range.
        Some("22003") => {
            let text = "a vector has a number beyond 65504, the greatest in the 16 bits of pgvector's halfvec, which \
                        indexes this collection";
            VectorsError::Invalid(text.to_owned())
        }
        // The connection broke, the server ends, begins, or has no more connections to give.
        Some(code) if code.starts_with("08") || code.starts_with("57P") || code.starts_with("53") => gone(&error),
        Some("57014") => VectorsError::TooSlow(ENGINE),
        Some("55P03" | "40001" | "40P01" | "25006") => gone(&error),
        Some(_) => broken("answer", &error),
        None => match error {
            Error::Io(_) | Error::Tls(_) | Error::PoolTimedOut | Error::WorkerCrashed => gone(&error),
            Error::Protocol(_) | Error::BeginFailed => gone(&error),
            Error::PoolClosed => VectorsError::Closed,
            error => broken("answer", &error),
        },
    }
}

fn gone(error: &Error) -> VectorsError {
    tracing::warn!(%error, "the PostgreSQL server of the collections cannot be used at the moment");
    VectorsError::Unavailable(ENGINE)
}

/// What should not happen.
pub(super) fn broken(what: &str, error: &(impl Display + ?Sized)) -> VectorsError {
    tracing::error!(%error, "the collections in PostgreSQL could not {what}");
    VectorsError::Engine(ENGINE)
}
