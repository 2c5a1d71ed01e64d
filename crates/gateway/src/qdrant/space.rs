//! Which collection and which of its spaces a request means, and the vectors that its texts become.
//!
//! A request takes its space once, and with it the model that makes vectors of its texts: whatever is
//! swapped meanwhile, what it asks and what it finds are of one model version.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Query};
use axum::response::Response;
use halny_residency::Inference;
use halny_tasks::Answer;
use halny_types::project::TaskKind;
use halny_types::{Fault, RequestContext, Tick};
use halny_vectors::embedded::Store;
use halny_vectors::{Collections, EmbeddingSpace, Named, Points, Spaces, VectorsError};
use http::HeaderMap;
use http::request::Parts;
use serde::Deserialize;

use super::vectors::{Document, Input};
use crate::admission::shape_of;
use crate::{ApiError, Shared, path, prepare};

/// The fewest digits of a version that name a space.
const VERSION_DIGITS_MIN: usize = 6;

/// The collections of this server.
///
/// # Errors
/// When it keeps none.
pub(super) fn engine(shared: &Shared) -> Result<&Arc<dyn Collections>, ApiError> {
    shared.vectors.as_ref().ok_or_else(|| ApiError::new(Fault::Unsupported, "this server keeps no vectors"))
}

/// The collections of this server where they are its files.
///
/// # Errors
/// When another engine keeps them, which is named.
pub(super) fn files(shared: &Shared) -> Result<&Arc<Store>, ApiError> {
    let engine = engine(shared)?.engine();
    shared.vector_files.as_ref().ok_or_else(|| {
        let text = format!(
            "the collections of this server are kept by the engine {engine:?}; snapshots and tuning are for \
             \"embedded\" alone"
        );
        ApiError::new(Fault::Unsupported, text)
    })
}

/// Reads points: in the CPU pool; where another server is asked, on a thread that may wait for it. All that `read`
/// asks is of one moment where the engine can hold one.
///
/// # Errors
/// What `read` says, or that there is no room in the pool.
pub(super) async fn read<T: Send + 'static, E: Into<ApiError> + Send + 'static>(
    shared: &Shared,
    points: &Arc<dyn Points>,
    read: impl FnOnce(&dyn Points) -> Result<T, E> + Send + 'static,
) -> Result<T, ApiError> {
    let points = Arc::clone(points);
    let blocks = points.blocks();
    let read = move || read(points.held().unwrap_or(points).as_ref());
    if blocks {
        let done = tokio::task::spawn_blocking(read).await;
        return done.map_err(|_| ApiError::new(Fault::Ours, "reading points broke off"))?.map_err(Into::into);
    }
    shared.pool.run(read).await?.map_err(Into::into)
}

/// The collection that a name or an alias means.
///
/// # Errors
/// When there is none.
pub(super) async fn collection(shared: &Shared, name: &str) -> Result<Arc<dyn Spaces>, ApiError> {
    Ok(engine(shared)?.get(name).await?)
}

/// What made the vectors of a model that is loaded.
///
/// # Errors
/// When the model gives vectors of no known size.
pub(super) fn made_by(model: &Inference) -> Result<EmbeddingSpace, ApiError> {
    let dimensions = model.task.dimensions().ok_or_else(|| {
        ApiError::invalid("the model does not say how many dimensions its vectors have").with_param("model")
    })?;
    let (name, version) = (model.name.as_str().to_owned(), model.version.to_string());
    Ok(EmbeddingSpace { model: name, version, pooling: model.task.pooling(), dimensions })
}

/// The space that a request is about, and the model that makes its vectors, if that is there.
#[derive(Clone)]
pub(super) struct Chosen {
    pub(super) space: Arc<dyn Points>,
    collection: Arc<dyn Spaces>,
    model: Option<Arc<Inference>>,
    /// The model that the collection follows.
    follows: Option<String>,
}

impl Chosen {
    /// The space of `collection` that belongs to the version of its model that serves now; the one that
    /// was active last where there is none.
    pub(super) fn of(shared: &Shared, collection: Arc<dyn Spaces>) -> Chosen {
        let follows = collection.follows();
        let serving = follows.as_deref().and_then(|name| serving(shared, name));
        let chosen = serving.and_then(|(model, made)| Some((collection.space_of(&made)?, Some(model))));
        let (space, model) = chosen.unwrap_or_else(|| (collection.active(), None));
        Chosen { space, collection, model, follows }
    }

    /// The space that a client names: by a model that is served, or by the first digits of a version.
    fn named(shared: &Shared, collection: Arc<dyn Spaces>, asked: &str) -> Result<Chosen, ApiError> {
        let follows = Some(asked.to_owned());
        if let Some((model, made)) = serving(shared, asked) {
            let space = collection.space_of(&made).ok_or_else(|| VectorsError::NoSpace(made.to_string()))?;
            return Ok(Chosen { space, collection, model: Some(model), follows });
        }
        let begins =
            |space: &Arc<dyn Points>| space.config().space.as_ref().is_some_and(|made| made.version.starts_with(asked));
        let mut found = collection.spaces().into_iter().filter(begins);
        match (found.next(), found.next()) {
            (Some(space), None) if asked.len() >= VERSION_DIGITS_MIN => {
                let made = space.config().space.clone();
                let model = made.and_then(|made| server_of(shared, &made));
                Ok(Chosen { space, collection, model, follows })
            }
            _ => Err(VectorsError::NoSpace(asked.chars().take(64).collect()).into()),
        }
    }

    /// The model that makes vectors of texts for this space.
    fn model(&self, shared: &Shared, made: &EmbeddingSpace) -> Result<Arc<Inference>, ApiError> {
        if let Some(model) = &self.model {
            return Ok(Arc::clone(model));
        }
        // It is not there, or another version of it is: the error says which.
        let name = self.follows.as_ref().unwrap_or(&made.model);
        let model = prepare::model(shared, name, &[TaskKind::Embed])?;
        let given = made_by(&model)?;
        if given.same(made) {
            return Ok(model);
        }
        Err(VectorsError::Space { holds: Box::new(made.clone()), given: given.to_string() }.into())
    }
}

/// The model of that name that makes vectors, if it is there, and what they are.
fn serving(shared: &Shared, name: &str) -> Option<(Arc<Inference>, EmbeddingSpace)> {
    let model = prepare::model(shared, name, &[TaskKind::Embed]).ok()?;
    let made = made_by(&model).ok()?;
    Some((model, made))
}

/// A model that makes such vectors, under whichever name it is served.
fn server_of(shared: &Shared, made: &EmbeddingSpace) -> Option<Arc<Inference>> {
    let names = shared.residency.ready();
    names
        .keys()
        .filter_map(|name| serving(shared, name.as_str()))
        .find(|(_, given)| given.same(made))
        .map(|(model, _)| model)
}

/// Writes down for every collection which space is asked, so that it is asked after a restart too,
/// before its model is there. To be called when models have come, gone or changed.
pub async fn follow_models(shared: &Shared) {
    let Some(engine) = &shared.vectors else { return };
    let names = match engine.names().await {
        Ok(names) => names,
        Err(error) => return tracing::error!(%error, "which models the collections follow could not be written down"),
    };
    for name in names {
        let Ok(collection) = engine.get(name.as_str()).await else { continue };
        let Some((_, made)) = collection.follows().and_then(|model| serving(shared, &model)) else { continue };
        if collection.space_of(&made).is_some()
            && let Err(error) = collection.activate(&made).await
        {
            tracing::error!(collection = %name, %error, "the version of the collection's model could not be written down");
        }
    }
}

/// Where a request goes: a collection, and one of its spaces where `?space=` names one.
pub(super) struct At {
    pub(super) collection: String,
    asked: Option<String>,
}

#[derive(Deserialize)]
struct PathOf {
    collection: String,
}

#[derive(Deserialize)]
struct Asked {
    space: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for At {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<At, Response> {
        let path::Named(PathOf { collection }) = path::Named::from_request_parts(parts, state).await?;
        let Query(Asked { space: asked }) = Query::try_from_uri(&parts.uri).map_err(|error| {
            ApiError::invalid(format!("what follows the question mark cannot be read: {error}"))
                .respond(shape_of(parts.uri.path()))
        })?;
        Ok(At { collection, asked })
    }
}

impl At {
    /// What the request is about.
    ///
    /// # Errors
    /// When there is no such collection, or none of its spaces is called so.
    pub(super) async fn choose(&self, shared: &Shared) -> Result<Chosen, ApiError> {
        let collection = collection(shared, &self.collection).await?;
        match &self.asked {
            Some(asked) => Chosen::named(shared, collection, asked),
            None => Ok(Chosen::of(shared, collection)),
        }
    }

    /// The space alone.
    ///
    /// # Errors
    /// As [`At::choose`].
    pub(super) async fn space(&self, shared: &Shared) -> Result<Arc<dyn Points>, ApiError> {
        Ok(self.choose(shared).await?.space)
    }

    /// The other spaces of the collection, which a write that is not about vectors goes to as well.
    pub(super) fn others(&self, chosen: &Chosen) -> Vec<Arc<dyn Points>> {
        if self.asked.is_some() {
            return Vec::new();
        }
        let mut spaces = chosen.collection.spaces();
        spaces.retain(|space| !Arc::ptr_eq(space, &chosen.space));
        spaces
    }
}

/// What is needed to make vectors of the texts in a request.
pub(super) struct Texts<'a> {
    pub(super) shared: &'a Shared,
    pub(super) headers: &'a HeaderMap,
    pub(super) arrived: Tick,
    /// The request's context, where it is a step of a route: it has been made, and the headers say nothing.
    pub(super) within: Option<&'a RequestContext>,
}

impl Texts<'_> {
    /// The vectors of `documents`, made by the model of the space.
    ///
    /// # Errors
    /// When the space is bound to no model, another is named or serves under its name, or it refuses a text.
    pub(super) async fn embed(&self, chosen: &Chosen, documents: Vec<Document>) -> Result<Vec<Vec<f32>>, ApiError> {
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        let config = chosen.space.config();
        let Some(made) = &config.space else {
            let text = "the collection is bound to no model, so `text` cannot be embedded; create it with `model`, \
                        or give vectors";
            return Err(ApiError::invalid(text));
        };
        let known = |name: &String| *name == made.model || chosen.follows.as_ref() == Some(name);
        if let Some(given) = documents.iter().find_map(|document| document.model.clone().filter(|name| !known(name))) {
            return Err(VectorsError::Space { holds: Box::new(made.clone()), given }.into());
        }
        let model = chosen.model(self.shared, made)?;
        let admitted = match self.within {
            Some(context) => prepare::admit_within(self.shared, context, &model)?,
            None => prepare::admit(self.shared, self.headers, self.arrived, None, &model)?,
        };
        let texts: Vec<String> = documents.into_iter().map(|document| document.text).collect();
        let make = |task: &halny_tasks::Task, text: String| Ok(task.tokenise(&text)?);
        let done = admitted.run(texts, String::len, make).await?;
        let vector = |answer| match answer {
            Answer::Vector(vector) => Ok(vector),
            _ => Err(ApiError::new(Fault::Ours, "the model did not give a vector")),
        };
        done.answers.into_iter().map(vector).collect()
    }

    /// The vectors of points as they are stored: numbers are checked, texts embedded.
    ///
    /// # Errors
    /// What is wrong with the first that cannot be stored.
    pub(super) async fn stored(
        &self,
        chosen: &Chosen,
        points: Vec<Vec<(String, Input)>>,
    ) -> Result<Vec<Named>, ApiError> {
        let mut documents = Vec::new();
        let mut places = Vec::new();
        let mut all: Vec<Named> = Vec::with_capacity(points.len());
        for (place, vectors) in points.into_iter().enumerate() {
            let mut named = Named::new();
            for (name, input) in vectors {
                match input.stored()? {
                    Ok(numbers) => drop(named.insert(name, numbers)),
                    Err(document) => {
                        documents.push(document);
                        places.push((place, name));
                    }
                }
            }
            all.push(named);
        }
        let embedded = self.embed(chosen, documents).await?;
        for ((place, name), vector) in places.into_iter().zip(embedded) {
            if let Some(named) = all.get_mut(place) {
                named.insert(name, vector);
            }
        }
        let config = chosen.space.config();
        let numbers: usize = all.iter().flat_map(Named::values).map(Vec::len).sum();
        let check = move || -> Result<Vec<Named>, VectorsError> {
            all.iter_mut().try_for_each(|named| config.prepare(named))?;
            Ok(all)
        };
        // Checking and normalising takes about a nanosecond a number.
        Ok(self.shared.pool.run_unless(numbers < 100_000, check).await??)
    }
}
