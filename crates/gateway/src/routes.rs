//! Which path leads where, on each of the two ports.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::handler::Handler;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use halny_jobs::Handlers;
use halny_types::Fault;
use http::{StatusCode, Uri};

use crate::admission::{Door, admit, shape_of};
use crate::{
    ApiError, Shared, classify, feast, features, health, jobs, oip, openai, pipelines, playground, qdrant, rerank,
};

/// The patterns that metrics know routes by.
pub(crate) const LABELS: [&str; 49] = [
    "/",
    "/health",
    "/metrics",
    "/openapi.json",
    "/halny/v1/routes",
    "/halny/v1/routes/{route}/schema",
    "/v1/batches",
    "/v1/batches/{batch}",
    "/v1/batches/{batch}/cancel",
    "/v1/files",
    "/v1/files/{file}",
    "/v1/files/{file}/content",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/models",
    "/v1/models/{model}",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/halny/v1/classify",
    "/halny/v1/reload",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{model}",
    "/v2/models/{model}/ready",
    "/v2/models/{model}/infer",
    "/v2/models/{model}/generate",
    "/v2/models/{model}/generate_stream",
    "/v2/models/{model}/versions/{version}/generate",
    "/v2/models/{model}/versions/{version}/generate_stream",
    "/v2/models/{model}/versions/{version}",
    "/v2/models/{model}/versions/{version}/ready",
    "/v2/models/{model}/versions/{version}/infer",
    "/v2/models/{model}/config",
    "/v2/models/{model}/versions/{version}/config",
    "/v2/repository/index",
    "/v2/repository/models/{model}/load",
    "/v2/repository/models/{model}/unload",
    "/inference.GRPCInferenceService/{*rest}",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ModelReady",
    "/inference.GRPCInferenceService/ServerMetadata",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelConfig",
];

/// The patterns of every protocol.
pub(crate) fn labels() -> impl Iterator<Item = &'static str> {
    [LABELS.as_slice(), &qdrant::LABELS, &feast::LABELS, &features::LABELS, &jobs::LABELS]
        .into_iter()
        .flatten()
        .copied()
}

/// What clients reach.
pub fn data_router(shared: &Shared) -> Router {
    let mut router = Router::new().route("/", get(playground::page)).route("/health", get(health::health));
    if shared.limits.now().metrics_on_data_port {
        router = router.route("/metrics", get(health::metrics));
    }
    let router = router
        .route("/v1/batches", get(openai::batches::list).post(openai::batches::create))
        .route("/v1/batches/{batch}", get(openai::batches::retrieve))
        .route("/v1/batches/{batch}/cancel", post(openai::batches::cancel))
        .route("/v1/files", get(openai::files::list).post(openai::files::upload))
        .route("/v1/files/{file}", get(openai::files::retrieve).delete(openai::files::delete))
        .route("/v1/files/{file}/content", get(openai::files::content))
        .route("/openapi.json", get(pipelines::openapi))
        .route("/halny/v1/routes", get(pipelines::list))
        .route("/halny/v1/routes/{route}/schema", get(pipelines::schema))
        .merge(oip::http_routes())
        .with_state(shared.clone())
        .merge(oip::grpc_routes(shared))
        .merge(surfaces(shared));
    let own = shared.clone();
    behind_door(router, shared, move |request: Request| pipelines::dispatch(own.clone(), request))
}

/// What asks models and collections, without the door in front: jobs ask it too.
pub(crate) fn surfaces(shared: &Shared) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v1/responses", post(openai::responses))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{model}", get(openai::model))
        .route("/v1/rerank", post(rerank::rerank))
        .route("/v2/rerank", post(rerank::rerank))
        .route("/rerank", post(rerank::rerank))
        .route("/halny/v1/classify", post(classify::classify))
        .merge(qdrant::routes())
        .merge(feast::routes())
        .merge(features::routes())
        .with_state(shared.clone())
}

/// What the operator reaches, over loopback. Jobs that these handlers would not take are not accepted.
pub fn admin_router(shared: &Shared, handlers: Handlers) -> Router {
    let router = Router::new()
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics))
        .route("/halny/v1/reload", post(reload))
        .merge(oip::admin_routes())
        .merge(qdrant::admin_routes())
        .merge(features::admin_routes())
        .merge(jobs::admin_routes(handlers))
        .with_state(shared.clone());
    behind_door(router, shared, nothing_here).layer(from_fn(crate::server::loopback_names_only))
}

/// What has no path of Halny's own goes to `others`.
fn behind_door<H: Handler<T, ()>, T: 'static>(router: Router, shared: &Shared, others: H) -> Router {
    let door = Door::new(shared.limits.clone(), shared.metrics.gateway().clone());
    router
        .fallback(others)
        .method_not_allowed_fallback(wrong_method)
        // Bodies are limited where they are read, with an error in the protocol's own shape.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(door, admit))
}

pub(crate) async fn nothing_here(uri: Uri) -> Response {
    ApiError::new(Fault::Missing, "there is nothing at this path; GET /v1/models lists the models")
        .respond(shape_of(uri.path()))
}

pub(crate) async fn wrong_method(uri: Uri) -> Response {
    ApiError::invalid("this path takes another method")
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
        .respond(shape_of(uri.path()))
}

/// `POST /halny/v1/reload` on the operator's port: reads the project file again, as SIGHUP does.
async fn reload(axum::extract::State(shared): axum::extract::State<Shared>) -> StatusCode {
    shared.reload.notify_one();
    StatusCode::ACCEPTED
}

#[cfg(test)]
mod tests {
    use halny_types::project::routes::is_reserved;

    #[test]
    fn no_route_of_a_project_can_have_a_path_of_halnys_own() {
        for path in super::labels() {
            assert!(is_reserved(path), "{path}");
        }
    }
}
