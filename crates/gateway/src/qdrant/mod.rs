//! Qdrant's REST API over Halny's collections: its unmodified clients work against them.
//!
//! Fields that have no meaning on one machine (`shard_number`, `ordering`, `consistency`, ...) are
//! taken and do nothing. What would change an answer and is not supported is refused with 501 and
//! the field's name; what Qdrant does not have either, with 400.

mod collections;
mod fields;
mod points;
mod quantisation;
mod query;
mod read;
mod reply;
mod snapshots;
mod space;
mod spaces;
mod tune;
mod vectors;

pub use space::follow_models;
pub use tune::watch_collections;

use axum::Router;
use axum::routing::{delete, get, post, put};

use crate::Shared;

/// The patterns that metrics know these routes by.
pub(crate) const LABELS: [&str; 32] = [
    "/aliases",
    "/collections",
    "/collections/aliases",
    "/collections/{collection}",
    "/collections/{collection}/aliases",
    "/collections/{collection}/exists",
    "/collections/{collection}/facet",
    "/collections/{collection}/index",
    "/collections/{collection}/index/{field}",
    "/collections/{collection}/points",
    "/collections/{collection}/points/batch",
    "/collections/{collection}/points/count",
    "/collections/{collection}/points/delete",
    "/collections/{collection}/points/payload",
    "/collections/{collection}/points/payload/clear",
    "/collections/{collection}/points/payload/delete",
    "/collections/{collection}/points/query",
    "/collections/{collection}/points/query/batch",
    "/collections/{collection}/points/query/groups",
    "/collections/{collection}/points/scroll",
    "/collections/{collection}/points/search/matrix/{form}",
    "/collections/{collection}/points/vectors",
    "/collections/{collection}/points/vectors/delete",
    "/collections/{collection}/points/{id}",
    "/collections/{collection}/snapshots",
    "/collections/{collection}/snapshots/recover",
    "/collections/{collection}/snapshots/upload",
    "/collections/{collection}/snapshots/{snapshot}",
    "/halny/v1/collections/{collection}/spaces",
    "/halny/v1/collections/{collection}/spaces/active",
    "/halny/v1/collections/{collection}/spaces/{version}",
    "/halny/v1/collections/{collection}/tune",
];

/// What clients reach.
pub(crate) fn routes() -> Router<Shared> {
    let collection =
        get(collections::info).put(collections::create).patch(collections::update).delete(collections::delete);
    let payload = post(points::set_payload).put(points::overwrite_payload);
    Router::new()
        .route("/aliases", get(collections::aliases))
        .route("/collections", get(collections::list))
        .route("/collections/aliases", post(collections::change_aliases))
        .route("/collections/{collection}", collection)
        .route("/collections/{collection}/aliases", get(collections::aliases_of))
        .route("/collections/{collection}/exists", get(collections::exists))
        .route("/collections/{collection}/facet", post(read::facet))
        .route("/collections/{collection}/index", put(fields::create))
        .route("/collections/{collection}/index/{field}", delete(fields::delete))
        .route("/collections/{collection}/points", put(points::upsert).post(read::retrieve))
        .route("/collections/{collection}/points/batch", post(points::batch))
        .route("/collections/{collection}/points/count", post(read::count))
        .route("/collections/{collection}/points/delete", post(points::delete))
        .route("/collections/{collection}/points/payload", payload)
        .route("/collections/{collection}/points/payload/clear", post(points::clear_payload))
        .route("/collections/{collection}/points/payload/delete", post(points::delete_payload))
        .route("/collections/{collection}/points/query", post(query::one))
        .route("/collections/{collection}/points/query/batch", post(query::batch))
        .route("/collections/{collection}/points/query/groups", post(query::groups))
        .route("/collections/{collection}/points/scroll", post(read::scroll))
        .route("/collections/{collection}/points/search/matrix/{form}", post(query::matrix))
        .route("/collections/{collection}/points/vectors", put(points::update_vectors))
        .route("/collections/{collection}/points/vectors/delete", post(points::delete_vectors))
        .route("/collections/{collection}/points/{id}", get(read::one))
        .route("/collections/{collection}/snapshots", get(snapshots::list).post(snapshots::create))
        .route("/collections/{collection}/snapshots/recover", put(snapshots::recover))
        .route("/collections/{collection}/snapshots/upload", post(snapshots::upload))
        .route("/collections/{collection}/snapshots/{snapshot}", get(snapshots::download).delete(snapshots::delete))
        .route("/halny/v1/collections/{collection}/spaces", get(spaces::list).post(spaces::add))
        .route("/halny/v1/collections/{collection}/spaces/active", put(spaces::follow))
        .route("/halny/v1/collections/{collection}/spaces/{version}", delete(spaces::remove))
}

/// What the operator reaches.
pub(crate) fn admin_routes() -> Router<Shared> {
    Router::new().route("/halny/v1/collections/{collection}/tune", post(tune::tune))
}
