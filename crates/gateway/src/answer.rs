//! Answers in JSON, written off the async threads where they are long.

use axum::response::{IntoResponse, Response};
use halny_types::Fault;
use http::header;
use serde::Serialize;

use crate::{ApiError, Shared};

/// Numbers of this many bytes are written in the CPU pool: JSON numbers are written at about
/// 100 MB/s of tensor, so that 32 KiB take some 300 microseconds.
pub(crate) const INLINE_BYTES_MAX: usize = 32 * 1024;

/// What `make` makes, as an answer. `work` tells how many bytes of numbers it writes.
///
/// # Errors
/// What `make` says, or that its value has no form in JSON.
pub(crate) async fn json<T, F>(shared: &Shared, work: usize, make: F) -> Result<Response, ApiError>
where
    T: Serialize,
    F: FnOnce() -> Result<T, ApiError> + Send + 'static,
{
    let write = || -> Result<Vec<u8>, ApiError> {
        serde_json::to_vec(&make()?).map_err(|_| ApiError::new(Fault::Ours, "the answer could not be written"))
    };
    let body = shared.pool.finish_unless(work <= INLINE_BYTES_MAX, write).await??;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}
