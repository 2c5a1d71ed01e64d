//! What a path names, with refusals in its protocol's own shape.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::response::Response;
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::ApiError;
use crate::admission::shape_of;

/// The named parts of a path.
pub(crate) struct Named<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named<T>, Response> {
        let named: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, state).await;
        named.map(|Path(named)| Named(named)).map_err(|_| {
            let text = "a name in the path is not UTF-8 behind its percent signs; write it as it was given";
            ApiError::invalid(text).respond(shape_of(parts.uri.path()))
        })
    }
}
