//! Why a request about jobs was refused, or failed.

use halny_store::StoreError;
use halny_types::{Blame, Fault};
use thiserror::Error;

/// Why a request about jobs was refused, or failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum JobsError {
    /// No job has this name.
    #[error("there is no job {0:?}; GET /halny/v1/jobs lists those there are")]
    NoJob(String),
    /// No queue has this name.
    #[error("there is no queue {name:?}; the project has {known}")]
    NoQueue {
        /// What was asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// Nobody runs jobs of this kind.
    #[error("no job is of the kind {name:?}; there are {known}")]
    NoKind {
        /// What was asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// Something about the job is not as it should be.
    #[error("{0}")]
    Invalid(String),
    /// What the job is told is too large.
    #[error("the payload has {bytes} bytes, the most is {max}; put what is large into a file, and name it")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What it may have.
        max: usize,
    },
    /// The key was used for another request.
    #[error("the idempotency key {0:?} was used for another request; use a new key, or send the same request")]
    KeyReused(String),
    /// The job has ended, or has not.
    #[error("the job is {state}; {instead}")]
    State {
        /// Where it stands.
        state: &'static str,
        /// What can be done.
        instead: &'static str,
    },
    /// The job is another worker's by now.
    #[error("the job is another worker's by now; what this one did since does not count")]
    Fenced,
    /// A setting cannot be used.
    #[error("{0}")]
    Settings(String),
    /// Too many submissions wait for the database.
    #[error("more jobs are being submitted than the database can take; try again later")]
    Busy,
    /// The server stops.
    #[error("the server is stopping; submit the job again")]
    Closed,
    /// A row that this version of Halny cannot read.
    #[error("the job cannot be read: {0}")]
    Unreadable(String),
    /// The database or the place of blobs.
    #[error("{text}")]
    Store {
        /// What it said.
        text: String,
        /// Who has to change something.
        fault: Fault,
        /// Whether another transaction was in the way, so that the same may go through when it is made again.
        collided: bool,
    },
}

impl JobsError {
    /// Another transaction was in the way.
    pub(crate) fn collision() -> JobsError {
        JobsError::Store { text: StoreError::Unavailable.to_string(), fault: Fault::Overload, collided: true }
    }
}

impl From<StoreError> for JobsError {
    fn from(error: StoreError) -> JobsError {
        JobsError::Store { text: error.to_string(), fault: error.fault(), collided: false }
    }
}

impl From<sqlx::Error> for JobsError {
    fn from(error: sqlx::Error) -> JobsError {
        if StoreError::is_collision(&error) { JobsError::collision() } else { StoreError::from(error).into() }
    }
}

impl Blame for JobsError {
    fn fault(&self) -> Fault {
        use JobsError as E;
        match self {
            E::NoJob(_) => Fault::Missing,
            E::NoQueue { .. } | E::NoKind { .. } | E::Invalid(_) => Fault::Caller,
            E::TooLarge { .. } => Fault::TooLarge,
            E::KeyReused(_) | E::State { .. } | E::Fenced => Fault::Conflict,
            E::Busy | E::Closed => Fault::Overload,
            E::Settings(_) | E::Unreadable(_) => Fault::Ours,
            E::Store { fault, .. } => *fault,
        }
    }
}
