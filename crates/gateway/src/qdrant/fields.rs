//! Indexes of payload fields.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use halny_payload::FieldKind;
use halny_vectors::{CollectionConfig, VectorsError};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use super::reply::{respond, small, updated};
use super::space::collection;
use crate::admission::Arrived;
use crate::path::Named;
use crate::{ApiError, Shared, body};

/// The most indexed fields of a collection.
const FIELDS_MAX: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    field_name: String,
    field_schema: Option<Value>,
}

/// `PUT /collections/{collection}/index`
pub(super) async fn create(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(name): Named<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: Create = body::json(&shared, &headers, body).await?;
        let schema = form.field_schema.ok_or_else(|| {
            ApiError::invalid("`field_schema` says what the field holds: \"keyword\", \"integer\", \"float\", ...")
        })?;
        let kind = FieldKind::read(&schema)?;
        let field = form.field_name.parse::<halny_payload::JsonPath>()?.to_string();
        change(&shared, &name, move |config| {
            config.fields.insert(field, kind);
            if config.fields.len() > FIELDS_MAX {
                return Err(VectorsError::Config(format!("a collection has at most {FIELDS_MAX} indexed fields")));
            }
            Ok(())
        })
        .await?;
        small(&shared, arrived, updated(0, true)).await
    };
    respond(answer.await)
}

/// `DELETE /collections/{collection}/index/{field}`
pub(super) async fn delete(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named((name, field)): Named<(String, String)>,
) -> Response {
    let answer = async {
        change(&shared, &name, move |config| {
            config.fields.remove(&field);
            Ok(())
        })
        .await?;
        small(&shared, arrived, updated(0, true)).await
    };
    respond(answer.await)
}

/// Changes every space: a filter means the same in all of them.
async fn change(
    shared: &Shared,
    name: &str,
    change: impl FnOnce(&mut CollectionConfig) -> Result<(), VectorsError> + Clone + Send + 'static,
) -> Result<(), ApiError> {
    for space in collection(shared, name)?.spaces() {
        space.configure(change.clone()).await?;
    }
    Ok(())
}
