//! The Open Inference Protocol v2, which KServe, Triton and their clients speak: over HTTP with
//! Triton's binary data, and over gRPC.
//!
//! A request keeps its tensors as they came (text, slices of the body) until its model is known,
//! its version, names, datatypes and shapes are checked, and a lane would take it; only then are
//! elements decoded, in the CPU pool where there are many.
//!
//! Models of the task `tensor` are asked by the tensors of their own graph. The other tasks take
//! what people have: BYTES named `text` (UTF-8) give `embedding` or `scores`, BYTES named `image`
//! (a JPEG, PNG or WebP file; as binary data or raw contents only, since JSON carries text) give
//! `scores`.
//!
//! Where the protocol leaves a choice: a JSON array may be flat or nested as the shape is; halves
//! have no form in JSON, in either direction, as in Triton; an infinity or a NaN in an output asked
//! for as JSON is an error that says how to ask instead; parameters that nobody here knows are
//! ignored, and those that change what an answer means (classification, sequences, shared memory)
//! are refused. `timeout` is Triton's: microseconds.

mod codec;
mod elements;
mod envelope;
mod generate;
mod grpc;
mod http;
mod infer;
mod parameters;
mod ports;
/// The messages of the gRPC surface, as generated from `proto/open_inference.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod proto {
    tonic::include_proto!("inference");
}
mod reply;
mod repository;
mod tensors;

use axum::Router;
use axum::routing::{get, post};

use crate::Shared;

pub use grpc::grpc_routes;

/// What this server is called in the protocol's metadata.
const SERVER_NAME: &str = "halny";
/// Its version.
const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");
/// What it has beyond the protocol, in Triton's words.
const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "generate", "model_configuration", "parameters"];

/// What clients reach over HTTP.
pub fn http_routes() -> Router<Shared> {
    let mut router = Router::new()
        .route("/v2", get(http::server))
        .route("/v2/health/live", get(http::live))
        .route("/v2/health/ready", get(http::ready));
    for path in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        router = router
            .route(path, get(http::model))
            .route(&format!("{path}/ready"), get(http::model_ready))
            .route(&format!("{path}/config"), get(http::model_config))
            .route(&format!("{path}/infer"), post(http::infer))
            .route(&format!("{path}/generate"), post(generate::generate))
            .route(&format!("{path}/generate_stream"), post(generate::generate_stream));
    }
    router
}

/// What the operator reaches: Triton's model repository extension.
pub fn admin_routes() -> Router<Shared> {
    Router::new()
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/repository/models/{model}/load", post(repository::load))
        .route("/v2/repository/models/{model}/unload", post(repository::unload))
}
