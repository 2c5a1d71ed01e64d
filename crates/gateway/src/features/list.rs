//! `GET /halny/v1/features`: the views, what is computed on demand, and the services with their versions.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use halny_features::{NamedType, OnDemand, Service, View};
use serde_json::{Value, json};

use crate::Shared;
use crate::error::respond;
use crate::feast::features;

pub(super) async fn list(State(shared): State<Shared>) -> Response {
    let answer = features(&shared).map(|features| {
        let definitions = features.definitions();
        let views: Vec<Value> = definitions.views().map(|it| view(it)).collect();
        let on_demand: Vec<Value> = definitions.on_demand_views().map(|it| computed(it)).collect();
        let services: Vec<Value> = definitions.services().map(|it| service(it)).collect();
        Json(json!({
            "online_engine": features.engine(),
            "feature_views": views,
            "on_demand_views": on_demand,
            "feature_services": services,
        }))
        .into_response()
    });
    respond(answer)
}

fn view(view: &View) -> Value {
    let key = |part: &halny_features::KeyPart| json!({ "name": part.name, "type": part.value_type });
    json!({
        "name": view.name,
        "join_keys": view.keys.iter().map(key).collect::<Vec<Value>>(),
        "features": typed(&view.features),
        "ttl_s": view.ttl_micros / 1_000_000,
        "takes_pushes": view.push,
        "has_files": view.batch.is_some(),
    })
}

fn computed(view: &OnDemand) -> Value {
    json!({ "name": view.name, "features": typed(&view.features) })
}

fn service(service: &Service) -> Value {
    json!({
        "name": service.name,
        "version": service.version,
        "features": service.features,
        "log_sample": service.log_sample,
    })
}

fn typed(features: &[NamedType]) -> Vec<Value> {
    features.iter().map(|feature| json!({ "name": feature.name, "type": feature.value_type })).collect()
}
