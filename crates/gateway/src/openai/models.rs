//! `GET /v1/models` and `GET /v1/models/{model}`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use halny_residency::{LoadedModel, Work};
use serde_json::{Value, json};

use crate::Shared;
use crate::error::Shape;
use crate::path::Named;

/// Every model that answers now.
pub async fn models(State(shared): State<Shared>) -> Response {
    let data: Vec<Value> = shared.residency.ready().values().map(|model| describe(model)).collect();
    axum::Json(json!({ "object": "list", "data": data })).into_response()
}

/// One model.
pub(crate) async fn model(State(shared): State<Shared>, Named(name): Named<String>) -> Response {
    match shared.model(&name) {
        Ok(model) => axum::Json(describe(&model)).into_response(),
        Err(error) => error.respond(Shape::OpenAi),
    }
}

/// OpenAI's fields, and what Halny knows beyond them: the version, the task, the profiles.
fn describe(model: &LoadedModel) -> Value {
    let profiles: Vec<Value> = model
        .profiles()
        .iter()
        .map(|profile| json!({ "name": profile.name, "device": profile.device, "precision": profile.precision }))
        .collect();
    let mut described = json!({
        "id": model.name.as_str(),
        "object": "model",
        "created": model.ready_at_unix,
        "owned_by": "halny",
        "version": model.version.to_string(),
        "task": model.kind().as_str(),
        "profiles": profiles,
    });
    let more = match &model.work {
        Work::Inference(inference) => json!({
            "dimensions": inference.task.dimensions(),
            "max_tokens": inference.task.max_tokens(),
            "labels": inference.task.labels(),
        }),
        // `max_model_len` is vLLM's name, which clients of language models look for.
        Work::Writing(writing) => json!({
            "max_tokens": writing.context(None),
            "max_model_len": writing.context(None),
            "vocabulary": writing.model.card().vocabulary,
            "parameters": writing.model.card().parameters,
            "chat": writing.chat.is_some(),
            "adapters": writing.adapters,
        }),
    };
    if let (Value::Object(described), Value::Object(more)) = (&mut described, more) {
        described.extend(more);
    }
    described
}
