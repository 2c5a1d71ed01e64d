//! Why the store refused, or failed.

use halny_types::{Blame, Fault};
use sqlx::Error as Sql;
use sqlx::error::DatabaseError;
use thiserror::Error;

/// Why the store refused, or failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A setting cannot be used.
    #[error("{0}")]
    Config(String),
    /// The database was used by a newer Halny.
    #[error("the metadata database was used by a newer version of Halny (its schema has step {0}); use that version")]
    Newer(i64),
    /// A step of the schema is not what this Halny knows by its number.
    #[error("step {0} of the metadata database's schema was made by another program; give Halny a database of its own")]
    Foreign(i64),
    /// Its contents were moved away.
    #[error(
        "the metadata database was moved to {0} by `halny store migrate`; point [store] there, or delete the old one"
    )]
    Moved(String),
    /// The database cannot be reached or used at the moment.
    #[error("the metadata database cannot be used at the moment; try again, and look at the server's log")]
    Unavailable,
    /// There is no room on the disk.
    #[error("there is no room left for the metadata database; free some space on its disk")]
    NoRoom,
    /// The database said what it should not say.
    #[error("the metadata database refused a request; what it said is in the log")]
    Database,
    /// A file is not there.
    #[error("there is no file of that name; GET /v1/files lists those there are")]
    NoFile,
    /// A blob is not there.
    #[error("there is no blob of that name")]
    NoBlob,
    /// A blob of that name is there already.
    #[error("there is a blob of that name already")]
    BlobExists,
    /// The place of the blobs cannot be used.
    #[error("the place of blobs cannot be used at the moment; try again, and look at the server's log")]
    Blobs,
    /// What a moved database holds is not what it held.
    #[error("{0}")]
    Transfer(String),
}

impl Blame for StoreError {
    fn fault(&self) -> Fault {
        match self {
            StoreError::NoFile | StoreError::NoBlob => Fault::Missing,
            StoreError::BlobExists => Fault::Conflict,
            StoreError::Unavailable | StoreError::Blobs => Fault::Overload,
            StoreError::Config(_) => Fault::Caller,
            StoreError::Newer(_) | StoreError::Foreign(_) | StoreError::Moved(_) => Fault::Ours,
            StoreError::NoRoom | StoreError::Database | StoreError::Transfer(_) => Fault::Ours,
        }
    }
}

impl StoreError {
    /// Whether the same transaction, made again, may go through: two met, and one had to give way.
    #[must_use]
    pub fn is_collision(error: &Sql) -> bool {
        // PostgreSQL: serialization failure, deadlock. SQLite: busy, busy with a newer snapshot.
        matches!(code(error).as_deref(), Some("40001" | "40P01" | "5" | "517"))
    }
}

fn code(error: &Sql) -> Option<String> {
    error.as_database_error().and_then(DatabaseError::code).map(|code| code.into_owned())
}

/// Its texts name tables and hosts: they go into the log, and the caller learns what to do.
impl From<Sql> for StoreError {
    fn from(error: Sql) -> StoreError {
        match code(&error).as_deref() {
            // SQLite: full; PostgreSQL: disk full.
            Some("13" | "53100") => {
                tracing::error!(%error, "there is no room for the metadata database");
                StoreError::NoRoom
            }
            // SQLite: busy, I/O; PostgreSQL: the connection broke, the server ends or begins, too many connections,
            // a cancelled statement, a lock that was not had, a collision.
            Some(code)
                if ["5", "517", "10", "57014", "55P03", "40001", "40P01", "25006"].contains(&code)
                    || ["08", "57P", "53"].iter().any(|class| code.len() == 5 && code.starts_with(class)) =>
            {
                tracing::warn!(%error, "the metadata database cannot be used at the moment");
                StoreError::Unavailable
            }
            Some(_) => {
                tracing::error!(%error, "the metadata database refused a statement");
                StoreError::Database
            }
            None => match error {
                Sql::Io(_)
                | Sql::Tls(_)
                | Sql::PoolTimedOut
                | Sql::PoolClosed
                | Sql::WorkerCrashed
                | Sql::Protocol(_)
                | Sql::BeginFailed => {
                    tracing::warn!(%error, "the metadata database cannot be used at the moment");
                    StoreError::Unavailable
                }
                error => {
                    tracing::error!(%error, "the metadata database could not be asked");
                    StoreError::Database
                }
            },
        }
    }
}

impl From<object_store::Error> for StoreError {
    fn from(error: object_store::Error) -> StoreError {
        match error {
            object_store::Error::NotFound { .. } => StoreError::NoBlob,
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                StoreError::BlobExists
            }
            error => {
                tracing::warn!(%error, "the place of blobs cannot be used");
                StoreError::Blobs
            }
        }
    }
}
