//! Which collection a request means, and the vectors that its texts become.

use std::sync::Arc;
use std::time::Duration;

use halny_tasks::Answer;
use halny_types::project::TaskKind;
use halny_types::{Fault, Tick};
use halny_vectors::embedded::{Collection, Space, Store};
use halny_vectors::{Named, VectorsError};
use http::HeaderMap;

use super::vectors::{Document, Input};
use crate::{ApiError, Shared, prepare};

/// The collections of this server.
///
/// # Errors
/// When they cannot be opened.
pub(super) fn store(shared: &Shared) -> Result<&Arc<Store>, ApiError> {
    shared.vectors.as_ref().ok_or_else(|| ApiError::new(Fault::Unsupported, "this server keeps no vectors"))
}

/// The collection that a name or an alias means.
///
/// # Errors
/// When there is none.
pub(super) fn collection(shared: &Shared, name: &str) -> Result<Arc<Collection>, ApiError> {
    Ok(store(shared)?.get(name)?)
}

/// What is needed to make vectors of the texts in a request.
pub(super) struct Texts<'a> {
    pub(super) shared: &'a Shared,
    pub(super) headers: &'a HeaderMap,
    pub(super) arrived: Tick,
    /// The time there is from then on, where it is less than the model gives.
    pub(super) limit: Option<Duration>,
}

impl Texts<'_> {
    /// The vectors of `documents`, made by the model of the space.
    ///
    /// # Errors
    /// When the space is bound to no model, another is named or serves under its name, or it refuses a text.
    pub(super) async fn embed(&self, space: &Space, documents: Vec<Document>) -> Result<Vec<Vec<f32>>, ApiError> {
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        let config = space.config();
        let Some(made) = &config.space else {
            let text = "the collection is bound to no model, so `text` cannot be embedded; create it with `model`, \
                        or give vectors";
            return Err(ApiError::invalid(text));
        };
        let named = documents.iter().find_map(|document| document.model.as_ref().filter(|name| **name != made.model));
        if let Some(given) = named {
            return Err(VectorsError::Space { holds: Box::new(made.clone()), given: given.clone() }.into());
        }
        let model = prepare::model(self.shared, &made.model, &[TaskKind::Embed])?;
        let serving = super::collections::space_made_by(&model)?;
        if serving != *made {
            let given = serving.to_string();
            return Err(VectorsError::Space { holds: Box::new(made.clone()), given }.into());
        }
        let admitted = prepare::admit(self.shared, self.headers, self.arrived, self.limit, &model)?;
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
        space: &Space,
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
        let embedded = self.embed(space, documents).await?;
        for ((place, name), vector) in places.into_iter().zip(embedded) {
            if let Some(named) = all.get_mut(place) {
                named.insert(name, vector);
            }
        }
        let config = space.config();
        let numbers: usize = all.iter().flat_map(Named::values).map(Vec::len).sum();
        let check = move || -> Result<Vec<Named>, VectorsError> {
            all.iter_mut().try_for_each(|named| config.prepare(named))?;
            Ok(all)
        };
        // Checking and normalising takes about a nanosecond a number.
        Ok(self.shared.pool.run_unless(numbers < 100_000, check).await??)
    }
}
