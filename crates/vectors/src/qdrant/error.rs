//! What the cluster says, as what a client may be told.
//!
//! Its texts may name spaces and hosts: they go into the log, and the client learns what to do. Only why it refuses a
//! request as wrong is passed on.

use std::fmt::Display;

use reqwest::StatusCode;

use crate::VectorsError;

/// The engine's name in errors.
pub(super) const ENGINE: &str = "Qdrant";

/// What is passed on of a cluster's own words.
const SAID_CHARS_MAX: usize = 400;

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The cluster refused it.
    Refused {
        status: StatusCode,
        /// Why, in its own words.
        said: String,
    },
    /// It took too long.
    Late,
    /// The cluster cannot be reached, or went away in the middle.
    Gone,
    /// The answer has more bytes than that.
    AnswerTooLarge(usize),
    /// It has been told already.
    Told(VectorsError),
}

impl Failure {
    /// What became of a request that got no answer. The address is left out.
    pub(super) fn of(error: reqwest::Error) -> Failure {
        let error = error.without_url();
        // To wait in vain for a connection is not to wait for an answer.
        if error.is_timeout() && !error.is_connect() {
            return Failure::Late;
        }
        tracing::warn!(error = %causes(&error), "the Qdrant cluster of the collections cannot be used at the moment");
        Failure::Gone
    }

    pub(super) fn is(&self, wanted: StatusCode) -> bool {
        matches!(self, Failure::Refused { status, .. } if *status == wanted)
    }

    /// Whether a name that was to be made is there.
    pub(super) fn is_taken(&self) -> bool {
        match self {
            Failure::Refused { status: StatusCode::CONFLICT, .. } => true,
            // As Qdrant said it for long.
            Failure::Refused { status: StatusCode::BAD_REQUEST, said } => said.contains("already exists"),
            _ => false,
        }
    }
}

impl From<VectorsError> for Failure {
    fn from(error: VectorsError) -> Failure {
        Failure::Told(error)
    }
}

/// An error and what caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

/// What is told of a failure.
pub(super) fn told(failure: Failure) -> VectorsError {
    match failure {
        Failure::Told(error) => error,
        Failure::Late => VectorsError::TooSlow(ENGINE),
        Failure::Gone => VectorsError::Unavailable(ENGINE),
        Failure::AnswerTooLarge(most) => {
            VectorsError::Invalid(format!("the answer has more than {} MiB; ask for less at once", most >> 20))
        }
        Failure::Refused { status, said } => refused(status, &said),
    }
}

fn refused(status: StatusCode, said: &str) -> VectorsError {
    match status {
        // The space is gone: it was dropped, or its collection deleted, meanwhile.
        StatusCode::NOT_FOUND => return VectorsError::Closed,
        StatusCode::REQUEST_TIMEOUT => return VectorsError::TooSlow(ENGINE),
        StatusCode::PAYLOAD_TOO_LARGE => {
            let text = "the request is larger than the Qdrant cluster takes; send less at once";
            return VectorsError::Invalid(text.to_owned());
        }
        StatusCode::NOT_IMPLEMENTED => {
            tracing::warn!(said, "the Qdrant cluster does not support a request");
            return VectorsError::Unsupported("this by the server that keeps the collections".to_owned());
        }
        _ => {}
    }
    tracing::warn!(%status, said, "the Qdrant cluster refused a request");
    match status {
        // What it has against it is the caller's affair: a limit of its strict mode, for instance.
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            let said: String = said.chars().take(SAID_CHARS_MAX).collect();
            VectorsError::Invalid(format!("the Qdrant cluster refuses the request: {said}"))
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => VectorsError::Unavailable(ENGINE),
        StatusCode::INSUFFICIENT_STORAGE => VectorsError::NoRoom,
        _ if said.contains("No space left") => VectorsError::NoRoom,
        _ => VectorsError::Engine(ENGINE),
    }
}

/// What should not happen.
pub(super) fn broken(what: &str, error: &(impl Display + ?Sized)) -> VectorsError {
    tracing::error!(%error, "the collections in Qdrant could not {what}");
    VectorsError::Engine(ENGINE)
}
