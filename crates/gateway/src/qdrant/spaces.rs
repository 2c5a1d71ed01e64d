//! The spaces of a collection: which model versions' vectors it holds, and which are asked.
//!
//! Halny's own endpoints: Qdrant's collections know no models. A collection is carried over to another
//! model by adding a space, writing points to it by `?space=`, and having the collection follow the
//! other model; or, where the new version takes the old one's name, by replacing the model. Rolling the model
//! back rolls the vectors back: they are asked by which version serves.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use halny_types::project::TaskKind;
use halny_vectors::{CollectionConfig, EmbeddingSpace, Points, VectorsError};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::space::{Chosen, collection, made_by, read};
use crate::error::respond;
use crate::path::Named;
use crate::{ApiError, Shared, answer, body, prepare};

/// The most spaces of a collection: each has threads and files of its own.
const SPACES_MAX: usize = 16;

#[derive(Serialize)]
struct SpaceReply {
    #[serde(flatten)]
    made: EmbeddingSpace,
    /// Whether it is what requests are about that name no space.
    active: bool,
    points: usize,
    /// By vector, how many of its points' vectors an index finds.
    indexed: BTreeMap<String, usize>,
}

#[derive(Serialize)]
struct SpacesReply {
    /// The model whose version decides.
    follows: Option<String>,
    spaces: Vec<SpaceReply>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfModel {
    model: String,
}

/// Where the collection stands.
async fn described(shared: &Shared, name: &str) -> Result<Response, ApiError> {
    let collection = collection(shared, name).await?;
    let active = Chosen::of(shared, Arc::clone(&collection)).space;
    let (follows, spaces) = (collection.follows(), collection.spaces());
    let asked = Arc::clone(&active);
    let reply = move |_: &dyn Points| -> Result<SpacesReply, VectorsError> {
        let reply = |space: &Arc<dyn Points>| reply_of(space, Arc::ptr_eq(space, &active)).transpose();
        Ok(SpacesReply { follows, spaces: spaces.iter().filter_map(reply).collect::<Result<_, VectorsError>>()? })
    };
    let reply = read(shared, &asked, reply).await?;
    answer::json(shared, 0, move || Ok(reply)).await
}

/// Nothing of a space whose vectors no model made.
fn reply_of(space: &Arc<dyn Points>, active: bool) -> Result<Option<SpaceReply>, VectorsError> {
    let Some(made) = space.config().space.clone() else { return Ok(None) };
    let status = space.status()?;
    let indexed = status.vectors.iter().map(|(name, vector)| (name.clone(), vector.indexed)).collect();
    Ok(Some(SpaceReply { made, active, points: status.points, indexed }))
}

/// The vectors of the model of that name, as it serves now.
fn made_now(shared: &Shared, name: &str) -> Result<EmbeddingSpace, ApiError> {
    made_by(&*prepare::model(shared, name, &[TaskKind::Embed])?)
}

/// `GET /halny/v1/collections/{collection}/spaces`
pub(super) async fn list(State(shared): State<Shared>, Named(name): Named<String>) -> Response {
    let answer = async { described(&shared, &name).await };
    respond(answer.await)
}

/// `POST /halny/v1/collections/{collection}/spaces`: an empty space for the vectors of a model, beside the others.
pub(super) async fn add(
    State(shared): State<Shared>,
    Named(name): Named<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: OfModel = body::json(&shared, &headers, body).await?;
        let collection = collection(&shared, &name).await?;
        let count = collection.spaces().len();
        if count >= SPACES_MAX {
            let text = format!("the collection has {count} spaces, it may have {SPACES_MAX}; remove one first");
            return Err(ApiError::invalid(text));
        }
        let made = made_now(&shared, &form.model)?;
        collection.add(config_for(&collection.active().config(), made)?).await?;
        described(&shared, &name).await.map(|response| with_status(response, StatusCode::CREATED))
    };
    respond(answer.await)
}

fn with_status(mut response: Response, status: StatusCode) -> Response {
    *response.status_mut() = status;
    response
}

/// The configuration of a collection, for vectors of another model.
fn config_for(config: &CollectionConfig, made: EmbeddingSpace) -> Result<CollectionConfig, VectorsError> {
    if config.space.is_none() {
        let text = "the collection is bound to no model: what its vectors are is known to its clients alone";
        return Err(VectorsError::Invalid(text.to_owned()));
    }
    let mut config = config.clone();
    config.vectors.values_mut().for_each(|vector| vector.dimensions = made.dimensions);
    config.space = Some(made);
    Ok(config)
}

/// `PUT /halny/v1/collections/{collection}/spaces/active`: the collection follows this model from now on.
pub(super) async fn follow(
    State(shared): State<Shared>,
    Named(name): Named<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: OfModel = body::json(&shared, &headers, body).await?;
        let collection = collection(&shared, &name).await?;
        collection.activate(&made_now(&shared, &form.model)?).await?;
        described(&shared, &name).await
    };
    respond(answer.await)
}

#[derive(Debug, Deserialize)]
pub(super) struct SpacePath {
    collection: String,
    version: String,
}

/// `DELETE /halny/v1/collections/{collection}/spaces/{version}`: by the whole version.
pub(super) async fn remove(State(shared): State<Shared>, Named(path): Named<SpacePath>) -> Response {
    let answer = async {
        let collection = collection(&shared, &path.collection).await?;
        let made = collection
            .spaces()
            .iter()
            .find_map(|space| space.config().space.clone().filter(|made| made.version == path.version));
        let made = made.ok_or_else(|| VectorsError::NoSpace(path.version.chars().take(64).collect()))?;
        let chosen = Chosen::of(&shared, Arc::clone(&collection)).space.config().space.clone();
        if chosen.is_some_and(|chosen| chosen.same(&made)) {
            let text = format!("the vectors of {made} are asked now; have the collection follow another model first");
            return Err(VectorsError::Invalid(text).into());
        }
        collection.drop_space(&made).await?;
        described(&shared, &path.collection).await
    };
    respond(answer.await)
}
