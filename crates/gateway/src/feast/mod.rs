//! Feast's feature server: its unmodified client reads and writes features here (`online_store: type: remote`).
//!
//! Feast's client retries 429, 500, 502, 503 and 504, and hides what they say. So what is the caller's mistake is
//! answered with another status: with the name of Feast's own exception where there is one, which its client raises
//! again, and else with `{"detail": "..."}`.
//!
//! Where Feast's server and the promises of [features](halny_features) differ, the promises hold: what expired is not
//! served, an older row never takes the place of a newer one. In what its client can read of JSON, Feast decides: numbers
//! of floats have a fraction, an empty list is null, since its client breaks on `[]`, and NaN and infinities are texts.
//!
//! Writes are on the clients' port, where Feast's client sends them.

mod materialise;
mod online;
mod reply;
mod write;

pub(crate) use materialise::{moment, told};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::post;
use halny_features::{Features, FeaturesError};
use halny_types::Fault;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;

use crate::error::Shape;
use crate::{ApiError, Shared, body, bounded};

/// The patterns that metrics know these routes by.
pub(crate) const LABELS: [&str; 5] =
    ["/get-online-features", "/push", "/write-to-online-store", "/materialize", "/materialize-incremental"];

/// Values in the body of one request at most: what they take in memory is in proportion.
pub(crate) const VALUES_MAX: usize = 2_000_000;

/// What clients reach.
pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/get-online-features", post(online::get))
        .route("/push", post(write::push))
        .route("/write-to-online-store", post(write::write))
        .route("/materialize", post(materialise::materialise))
        .route("/materialize-incremental", post(materialise::incrementally))
}

/// The features of this server.
///
/// # Errors
/// When its project declares none.
pub(crate) fn features(shared: &Shared) -> Result<&Features, ApiError> {
    shared.features.as_ref().ok_or_else(|| {
        let text = "this server has no features; declare entities and feature_views in its project file";
        ApiError::new(Fault::Missing, text)
    })
}

/// The body in the form that is expected, read off the async threads when it is long.
async fn form<T: DeserializeOwned + Send + 'static>(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, ApiError> {
    let bytes = body::read(shared, headers, body).await?;
    let small = bytes.len() <= body::PARSE_INLINE_BYTES_MAX;
    let parse = move || {
        if !small && std::str::from_utf8(&bytes).is_ok_and(|text| bounded::elements(text) > VALUES_MAX) {
            let text = format!("the body has more than {VALUES_MAX} values; send fewer rows at once");
            return Err(ApiError::new(Fault::TooLarge, text));
        }
        serde_json::from_slice(&bytes).map_err(|error| body::not_expected(&error))
    };
    shared.pool.run_unless(small, parse).await?
}

fn respond(answer: Result<Response, ApiError>) -> Response {
    answer.unwrap_or_else(|error| error.respond(Shape::Feast))
}

/// An error by the name of Feast's exception.
fn named(error: FeaturesError) -> ApiError {
    let name = match &error {
        FeaturesError::NoView(_) => "FeatureViewNotFoundException",
        FeaturesError::NoService(_) => "FeatureServiceNotFoundException",
        FeaturesError::NoFeature { .. } => "FeastObjectNotFoundException",
        FeaturesError::Ambiguous { .. } => "FeatureNameCollisionError",
        _ => return error.into(),
    };
    let not_found = matches!(error, FeaturesError::NoFeature { .. });
    let named = ApiError::from(error).with_exception(name);
    if not_found { named.with_status(StatusCode::NOT_FOUND) } else { named }
}
