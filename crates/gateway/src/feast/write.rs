//! `POST /push` and `POST /write-to-online-store`: rows that come in, as columns by name.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use halny_features::{Definitions, Features, FeaturesError, PushTo, Pushed, View};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{features, form, named, respond};
use crate::{ApiError, Shared};

/// Bodies of fewer values are made into columns where they are.
const SMALL_VALUES: usize = 512;
const EVENT: &str = "event_timestamp";
const CREATED: &str = "created_timestamp";
/// What Feast's client calls the time at which a row was made, whatever its source calls it.
const FEASTS_CREATED: &str = "created";

#[derive(Deserialize)]
struct PushForm {
    push_source_name: String,
    df: Map<String, Value>,
    to: Option<String>,
}

#[derive(Deserialize)]
struct WriteForm {
    feature_view_name: String,
    df: Map<String, Value>,
}

/// Rows of the view that has the name of the push source.
pub(super) async fn push(State(shared): State<Shared>, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let form: PushForm = form(&shared, &headers, body).await?;
        let to = match form.to.as_deref() {
            None | Some("online") => PushTo::Online,
            Some("offline") => PushTo::Offline,
            Some("online_and_offline") => PushTo::OnlineAndOffline,
            Some(_) => {
                let text = "`to` is none of \"online\", \"offline\" and \"online_and_offline\"";
                return Err(ApiError::invalid(text).with_status(StatusCode::UNPROCESSABLE_ENTITY));
            }
        };
        let (features, source) = (features(&shared)?, form.push_source_name);
        if !features.definitions().view(&source).is_ok_and(|view| view.push) {
            return Err(no_source(&source, features));
        }
        let Some(rows) = rows(&shared, features, &source, form.df).await? else { return Ok(told(Pushed::default())) };
        Ok(told(features.push(&source, &rows, to).await.map_err(named)?))
    };
    respond(answer.await)
}

/// Rows of a view for the online store alone: what Feast's client sends when it materialises or pushes.
pub(super) async fn write(State(shared): State<Shared>, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let form: WriteForm = form(&shared, &headers, body).await?;
        let (features, view) = (features(&shared)?, form.feature_view_name);
        let Some(rows) = rows(&shared, features, &view, form.df).await? else { return Ok(told(Pushed::default())) };
        Ok(told(features.write_online(&view, &rows).await.map_err(named)?))
    };
    respond(answer.await)
}

/// Feast answers with nothing; this says more to who wants to know.
fn told(pushed: Pushed) -> Response {
    Json(json!({ "rows": pushed.rows, "served": pushed.served, "to_come": pushed.to_come })).into_response()
}

fn no_source(source: &str, features: &Features) -> ApiError {
    let definitions = features.definitions();
    let sources: Vec<&str> = definitions.views().filter(|it| it.push).map(|it| it.name.as_str()).collect();
    let shown: String = source.chars().take(64).collect();
    let there = if sources.is_empty() { "none".to_owned() } else { sources.join(", ") };
    let text = format!("no view {shown:?} takes pushed rows; those with push = true in their source: {there}");
    ApiError::invalid(text).with_exception("PushSourceNotFoundException").with_status(StatusCode::UNPROCESSABLE_ENTITY)
}

/// The rows; nothing where there are none.
async fn rows(
    shared: &Shared,
    features: &Features,
    view: &str,
    columns: Map<String, Value>,
) -> Result<Option<arrow::record_batch::RecordBatch>, ApiError> {
    let definitions = features.definitions();
    let of = definitions.view(view).map_err(named)?;
    let columns = columns_of(of, &definitions, columns)?;
    let values: usize = columns.values().map(|column| column.as_array().map_or(1, Vec::len)).sum();
    if values == 0 {
        return Ok(None);
    }
    let (reader, view) = (features.clone(), view.to_owned());
    let read = move || -> Result<_, FeaturesError> { reader.rows_from_json(&view, &columns) };
    let rows = shared.pool.run_unless(values <= SMALL_VALUES, read).await?.map_err(named)?;
    Ok(Some(rows))
}

/// The columns by the names that the view has for them; others are left out, as Feast does it, unless there is no time, which
/// one of them may be. The view's source may call its columns otherwise, and so may Feast's client.
fn columns_of(
    view: &View,
    definitions: &Definitions,
    columns: Map<String, Value>,
) -> Result<Map<String, Value>, ApiError> {
    let has = |name: &str| {
        [EVENT, CREATED].contains(&name)
            || view.keys.iter().any(|part| part.name == name)
            || view.features.iter().any(|feature| feature.name == name)
    };
    let name = |column: &str| -> Option<String> {
        if has(column) {
            return Some(column.to_owned());
        }
        let source = view.batch.as_ref();
        if source.is_some_and(|source| source.timestamp == column) {
            return Some(EVENT.to_owned());
        }
        if column == FEASTS_CREATED || source.is_some_and(|source| source.created.as_deref() == Some(column)) {
            return Some(CREATED.to_owned());
        }
        let mapped = source.and_then(|source| source.mapping.get(column)).map(String::as_str);
        mapped.or_else(|| definitions.join_key(column)).filter(|name| has(name)).map(str::to_owned)
    };
    let (mut known, mut unknown) = (Map::new(), Vec::new());
    for (column, values) in columns {
        match name(&column) {
            Some(name) if name == column || !known.contains_key(&name) => drop(known.insert(name, values)),
            Some(_) => {}
            None => unknown.push(column),
        }
    }
    if unknown.is_empty() || known.contains_key(EVENT) {
        return Ok(known);
    }
    let shown: Vec<String> = unknown.iter().take(8).map(|column| column.chars().take(64).collect()).collect();
    let text = format!(
        "there is no column {EVENT}, and the view {:?} knows no {}; call the column of times {EVENT}, or leave out what the \
         view does not have to push rows of now",
        view.name,
        shown.join(", ")
    );
    Err(ApiError::invalid(text).with_status(StatusCode::UNPROCESSABLE_ENTITY))
}
