//! Halny's own endpoints of features, for what Feast's feature server has none: what there is, values of the past by way
//! of Arrow, what values are like, and whether what was served is what the past says.

mod historical;
mod list;
mod metrics;
mod replay;
mod statistics;
pub(crate) mod steps;

pub use metrics::watch_features;

pub(crate) use historical::PATH as HISTORICAL;

use axum::Router;
use axum::extract::{FromRequestParts, Query};
use axum::response::Response;
use axum::routing::{get, post};
use halny_features::Moment;
use http::request::Parts;

use crate::error::Shape;
use crate::feast::moment;
use crate::{ApiError, Shared};

/// The patterns that metrics know these routes by.
pub(crate) const LABELS: [&str; 5] = [
    "/halny/v1/features",
    HISTORICAL,
    "/halny/v1/features/materialize",
    "/halny/v1/features/replay",
    "/halny/v1/features/{view}/statistics",
];

/// What clients reach.
pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/halny/v1/features", get(list::list))
        .route(HISTORICAL, post(historical::historical))
        .route("/halny/v1/features/{view}/statistics", get(statistics::statistics))
}

/// What the operator reaches.
pub(crate) fn admin_routes() -> Router<Shared> {
    Router::new()
        .route("/halny/v1/features", get(list::list))
        .route("/halny/v1/features/materialize", post(replay::materialise))
        .route("/halny/v1/features/replay", post(replay::replay))
}

/// What stands behind the `?` of a URL, in its order; a name may be there twice.
struct Asked(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked, Response> {
        match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Asked(pairs)),
            Err(_) => Err(ApiError::invalid("what is behind the `?` cannot be read").respond(Shape::OpenAi)),
        }
    }
}

impl Asked {
    /// That nothing else is asked than these.
    fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let shown: String = name.chars().take(64).collect();
                Err(ApiError::invalid(format!("there is no parameter {shown:?}; there are {}", known.join(", "))))
            }
        }
    }

    /// All values of that name.
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn one<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).last()
    }

    /// The moment of that name.
    fn moment(&self, name: &str, default: Moment) -> Result<Moment, ApiError> {
        self.one(name).map_or(Ok(default), |text| moment(name, text))
    }
}
