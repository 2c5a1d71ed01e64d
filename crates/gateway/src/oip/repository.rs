//! Triton's model repository extension, for the operator: where models stand, load, unload.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use halny_residency::{ModelState, ModelStatus};
use halny_types::Fault;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use std::collections::BTreeMap;

use crate::error::Shape;
use crate::path::Named;
use crate::{ApiError, Shared, body};

#[derive(Debug, Default, Deserialize)]
struct IndexRequest {
    #[serde(default)]
    ready: bool,
}

#[derive(Debug, Default, Deserialize)]
struct LoadRequest {
    #[serde(default)]
    parameters: BTreeMap<String, IgnoredAny>,
}

/// `POST /v2/repository/index`: every model of the project, or with `{"ready": true}` those that
/// answer.
pub(super) async fn index(State(shared): State<Shared>, headers: HeaderMap, body: Body) -> Response {
    match request::<IndexRequest>(&shared, &headers, body).await {
        Ok(IndexRequest { ready }) => {
            let models = shared.residency.index();
            let shown = models.iter().filter(|status| !ready || status.loaded.is_some());
            axum::Json(shown.map(describe).collect::<Vec<_>>()).into_response()
        }
        Err(error) => error.respond(Shape::Oip),
    }
}

/// `POST /v2/repository/models/{model}/load`: answers when the model does, or with what stood in
/// the way, files of this host included.
pub(super) async fn load(
    State(shared): State<Shared>,
    Named(model): Named<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    done(load_named(&shared, &model, &headers, body).await)
}

/// `POST /v2/repository/models/{model}/unload`: answers when what the model had accepted is
/// answered.
pub(super) async fn unload(State(shared): State<Shared>, Named(model): Named<String>) -> Response {
    done(shared.residency.unload(&model).await.map_err(ApiError::from))
}

fn done(result: Result<(), ApiError>) -> Response {
    match result {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => error.respond(Shape::Oip),
    }
}

async fn load_named(shared: &Shared, model: &str, headers: &HeaderMap, body: Body) -> Result<(), ApiError> {
    let request: LoadRequest = request(shared, headers, body).await?;
    if let Some(name) = request.parameters.keys().find(|name| *name == "config" || name.starts_with("file:")) {
        let text =
            format!("the parameter {name:?} is not supported: a model is what the project file says; change it there");
        return Err(ApiError::new(Fault::Unsupported, text));
    }
    let loaded = shared.residency.load(model).await?;
    // Something of the operator's has to change (a file, the device, the project), as 400 says.
    loaded.map_err(|error| ApiError::invalid(error.to_string()))?;
    crate::follow_models(shared).await;
    Ok(())
}

/// A body that may be left out.
async fn request<T: DeserializeOwned + Default + Send + 'static>(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, ApiError> {
    let bytes = body::read(shared, headers, body).await?;
    if bytes.is_empty() { Ok(T::default()) } else { body::parse(shared, bytes).await }
}

fn describe(status: &ModelStatus) -> Value {
    let version = status.loaded.as_ref().map(|model| model.version.to_string()).unwrap_or_default();
    let state = match (&status.state, &status.loaded) {
        (_, Some(_)) => "READY",
        (ModelState::Loading, None) => "LOADING",
        (_, None) => "UNAVAILABLE",
    };
    let reason = match &status.state {
        ModelState::Failed(reason) => reason.clone(),
        ModelState::Unloaded => "not loaded".to_owned(),
        ModelState::Loading if status.loaded.is_some() => "it is being loaded again".to_owned(),
        ModelState::Loading | ModelState::Ready => String::new(),
    };
    json!({ "name": status.name.as_str(), "version": version, "state": state, "reason": reason })
}
