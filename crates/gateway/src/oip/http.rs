//! The protocol over HTTP.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use halny_residency::LoadedModel;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ports::{Datatype, PortView, Ports, backend, check_version, platform};
use super::{EXTENSIONS, SERVER_NAME, SERVER_VERSION, envelope, reply};
use crate::admission::Arrived;
use crate::error::Shape;
use crate::path::Named;
use crate::{ApiError, Shared, body};

/// JSON this long is read in the CPU pool: at about 1 GB/s (tensors are only skipped over), that
/// 256 KiB take some 250 microseconds.
const PARSE_INLINE_BYTES_MAX: usize = 256 * 1024;

/// The model in the path, and its version where that is named.
#[derive(Debug, Deserialize)]
pub(super) struct Target {
    pub(super) model: String,
    #[serde(default)]
    pub(super) version: String,
}

fn answer(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(|error| error.respond(Shape::Oip))
}

/// `GET /v2`.
pub(super) async fn server() -> Response {
    axum::Json(json!({ "name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS })).into_response()
}

/// `GET /v2/health/live`.
pub(super) async fn live() -> Response {
    axum::Json(json!({ "live": true })).into_response()
}

/// `GET /v2/health/ready`: 503 until every preloaded model answers.
pub(super) async fn ready(State(shared): State<Shared>) -> Response {
    let ready = shared.residency.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(json!({ "ready": ready }))).into_response()
}

/// `GET /v2/models/{model}/ready`.
pub(super) async fn model_ready(State(shared): State<Shared>, Named(target): Named<Target>) -> Response {
    let ready = |model: &LoadedModel| json!({ "name": model.name.as_str(), "ready": true });
    answer(of_model(&shared, &target, ready))
}

/// `GET /v2/models/{model}`.
pub(super) async fn model(State(shared): State<Shared>, Named(target): Named<Target>) -> Response {
    answer(of_model(&shared, &target, metadata))
}

/// `GET /v2/models/{model}/config`.
pub(super) async fn model_config(State(shared): State<Shared>, Named(target): Named<Target>) -> Response {
    answer(of_model(&shared, &target, config))
}

fn of_model(shared: &Shared, target: &Target, tell: impl Fn(&LoadedModel) -> Value) -> Result<Response, ApiError> {
    let model = shared.model(&target.model)?;
    check_version(&model.name, &model.version, &target.version)?;
    Ok(axum::Json(tell(&model)).into_response())
}

fn metadata(model: &LoadedModel) -> Value {
    let ports = Ports::of_model(model);
    let one = |port: &PortView| json!({ "name": port.name, "datatype": port.datatype.name(), "shape": port.shape });
    json!({
        "name": model.name.as_str(),
        "versions": [model.version.to_string()],
        "platform": platform(model),
        "inputs": ports.inputs.iter().map(one).collect::<Vec<_>>(),
        "outputs": ports.outputs.iter().map(one).collect::<Vec<_>>(),
    })
}

/// As Triton writes it. A batch size of 0 says that `dims` hold the batch dimension too.
fn config(model: &LoadedModel) -> Value {
    let ports = Ports::of_model(model);
    let one =
        |port: &PortView| json!({ "name": port.name, "data_type": triton_name(port.datatype), "dims": port.shape });
    json!({
        "name": model.name.as_str(),
        "platform": platform(model),
        "backend": backend(model),
        "max_batch_size": 0,
        "input": ports.inputs.iter().map(one).collect::<Vec<_>>(),
        "output": ports.outputs.iter().map(one).collect::<Vec<_>>(),
    })
}

fn triton_name(datatype: Datatype) -> String {
    match datatype {
        Datatype::Number(element) => format!("TYPE_{element}"),
        Datatype::Bytes => "TYPE_STRING".to_owned(),
    }
}

/// `POST /v2/models/{model}/infer`.
pub(super) async fn infer(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(target): Named<Target>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(run(&shared, arrived, target, &headers, body).await)
}

async fn run(
    shared: &Shared,
    arrived: Arrived,
    target: Target,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let json_length = envelope::json_length(headers)?;
    let bytes = body::read(shared, headers, body).await?;
    let small = json_length.unwrap_or(bytes.len()) <= PARSE_INLINE_BYTES_MAX;
    let read = move || envelope::read(target.model, target.version, &bytes, json_length);
    let ask = shared.pool.run_unless(small, read).await??;
    let outcome = super::infer::infer(shared, headers, arrived.0, None, ask).await?;
    reply::respond(shared, outcome).await
}
