//! `POST /get-online-features`: the values of now.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use halny_features::{Asked, Definitions, Features, FeaturesError, OnlineRequest, SERVE_ROWS_MAX};
use halny_types::Fault;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::reply::{self, Key};
use super::{features, form, named, respond};
use crate::{ApiError, Shared};

/// With fewer values a request is read, and its answer written, where it is: some 100 microseconds.
const SMALL_VALUES: usize = 4_096;

#[derive(Deserialize)]
struct Form {
    entities: Map<String, Value>,
    features: Option<Vec<String>>,
    /// It goes before `features`.
    feature_service: Option<String>,
    #[serde(default)]
    full_feature_names: bool,
}

pub(super) async fn get(State(shared): State<Shared>, headers: HeaderMap, body: Body) -> Response {
    respond(answer(&shared, &headers, body).await)
}

async fn answer(shared: &Shared, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let features = features(shared)?;
    let form: Form = form(shared, headers, body).await?;
    let definitions = features.definitions();
    let asked = match (form.feature_service, form.features) {
        (Some(service), _) => Asked::Service(service),
        (None, Some(references)) if !references.is_empty() => Asked::Features(references),
        _ => return Err(ApiError::invalid("nothing is asked for; name features, or a feature_service")),
    };
    let entities = by_join_key(form.entities, &definitions);
    let rows = entities.values().map(|column| column.as_array().map_or(0, Vec::len)).max().unwrap_or(0);
    if rows > SERVE_ROWS_MAX {
        let text = format!("{rows} rows are asked for; ask for at most {SERVE_ROWS_MAX} at once");
        return Err(ApiError::new(Fault::TooLarge, text));
    }
    let few = rows * entities.len() <= SMALL_VALUES;
    let (reader, of) = (features.clone(), asked.clone());
    let read = move || -> Result<_, FeaturesError> { Ok((reader.columns_from_json(&of, &entities)?, entities)) };
    let (columns, entities) = shared.pool.run_unless(few, read).await?.map_err(named)?;
    let request = OnlineRequest { asked, columns, full_feature_names: form.full_feature_names };
    let response = features.get_online(request).await.map_err(|error| missing(error, features))?;
    let keys = keys(entities, &definitions);
    let small = response.rows * response.names.len() <= SMALL_VALUES;
    let body = shared.pool.finish_unless(small, move || reply::written(&keys, &response)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The columns, those that are called as an entity by its join key.
fn by_join_key(entities: Map<String, Value>, definitions: &Definitions) -> Map<String, Value> {
    let key = |name: &String| {
        let key = definitions.join_key(name)?;
        (key != name.as_str() && !entities.contains_key(key)).then(|| key.to_owned())
    };
    let keys: Vec<Option<String>> = entities.keys().map(key).collect();
    if keys.iter().all(Option::is_none) {
        return entities;
    }
    keys.into_iter().zip(entities).map(|(key, (name, column))| (key.unwrap_or(name), column)).collect()
}

/// The join keys as they were given, for the answer; fields of the request are not in it.
fn keys(entities: Map<String, Value>, definitions: &Definitions) -> Vec<Key> {
    let key = |(name, column): (String, Value)| {
        let is_key = definitions.join_key(&name).is_some_and(|key| key == name);
        match column {
            Value::Array(values) if is_key => Some((name, values)),
            _ => None,
        }
    };
    entities.into_iter().filter_map(key).collect()
}

/// What Feast calls a field of the request that is missing has a name of its own.
fn missing(error: FeaturesError, features: &Features) -> ApiError {
    match &error {
        FeaturesError::Missing { name, .. } if features.definitions().join_key(name).is_none() => ApiError::from(error)
            .with_exception("RequestDataNotFoundInEntityRowsException")
            .with_status(StatusCode::NOT_FOUND),
        _ => named(error),
    }
}
