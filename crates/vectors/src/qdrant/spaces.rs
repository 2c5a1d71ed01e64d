//! The spaces of one collection, as they were when it was asked for.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::Cluster;
use super::catalog::make;
use super::error::{broken, told};
use super::names::{self, Catalogue};
use super::points::Space;
use super::settings::{self, Info, MARK, Mark, not_ours};
use crate::{CollectionConfig, EmbeddingSpace, Points, Spaces, VectorsError, Waiting};

/// A collection.
pub(super) struct Collection {
    pub(super) cluster: Arc<Cluster>,
    /// Its name; nothing where another client made it.
    pub(super) name: Option<String>,
    /// The model that it follows.
    pub(super) model: Option<String>,
    /// The active one first; there is one at least.
    pub(super) spaces: Vec<Arc<Space>>,
}

impl Collection {
    /// What another client made.
    pub(super) fn foreign(cluster: &Arc<Cluster>, name: &str, info: &Info) -> Result<Collection, VectorsError> {
        let space = Space::of(cluster, name, info, None)?;
        Ok(Collection { cluster: Arc::clone(cluster), name: None, model: None, spaces: vec![Arc::new(space)] })
    }

    fn owned(&self) -> Result<Owned, VectorsError> {
        let name = self.name.clone().ok_or_else(|| not_ours("another space"))?;
        Ok(Owned { cluster: Arc::clone(&self.cluster), name })
    }
}

/// A collection of ours, as it is now.
struct Owned {
    cluster: Arc<Cluster>,
    name: String,
}

impl Owned {
    /// The names of the cluster, and the active space.
    async fn now(&self) -> Result<(Catalogue, String), VectorsError> {
        let catalogue = self.cluster.catalogue().await?;
        let active = catalogue.active(&self.name).ok_or(VectorsError::Closed)?.to_owned();
        Ok((catalogue, active))
    }

    /// What the cluster calls the space of those vectors, if the collection has one.
    fn found(&self, catalogue: &Catalogue, made: &EmbeddingSpace) -> Result<String, VectorsError> {
        let space = names::space_name(&self.name, &names::key(Some(made)));
        let there = catalogue.collections.contains(&space);
        there.then_some(space).ok_or_else(|| VectorsError::NoSpace(made.to_string()))
    }

    /// Makes a space. To be called alone.
    async fn add(self, config: CollectionConfig) -> Result<Arc<Space>, VectorsError> {
        self.now().await?;
        let space = names::space_name(&self.name, &names::key(config.space.as_ref()));
        let mark = Mark::of(&self.name, &space, &config);
        make(&self.cluster, &mark, &config).await.map_err(|failure| {
            let made = || config.space.as_ref().map_or_else(|| self.name.clone(), ToString::to_string);
            if failure.is_taken() { VectorsError::Exists(made()) } else { told(failure) }
        })?;
        let info = self.cluster.info(&space).await.map_err(told)?.ok_or(VectorsError::Closed)?;
        Ok(Arc::new(Space::of(&self.cluster, &space, &info, Some(&mark))?))
    }

    /// What is to be done so that the space of `made` is the active one, and the collection follows its model.
    async fn activation(&self, made: &EmbeddingSpace) -> Result<Activation, VectorsError> {
        let (catalogue, active) = self.now().await?;
        let space = self.found(&catalogue, made)?;
        let info = self.cluster.info(&space).await.map_err(told)?.ok_or(VectorsError::Closed)?;
        let mut mark = info.mark()?.ok_or_else(|| broken("make a space the active one", "it is not marked"))?;
        let follows = mark.follows.as_ref() == Some(&made.model);
        mark.follows = Some(made.model.clone());
        // It was to be deleted, and could not be.
        let follows = follows && !mark.deleted;
        mark.deleted = false;
        // Every alias of the collection means what its name means, for other clients of the cluster too.
        let moved = if active == space { Vec::new() } else { catalogue.moved(&catalogue.spaces(&self.name), &space) };
        Ok(Activation { mark: (!follows).then_some(mark), moved, space })
    }

    /// Makes another space the active one. To be called alone.
    async fn activate(self, made: EmbeddingSpace) -> Result<(), VectorsError> {
        let Activation { mark, moved, space } = self.activation(&made).await?;
        if let Some(mark) = mark {
            let body = json!({ "metadata": { MARK: mark.to_json()? } });
            self.cluster.client.change(Method::PATCH, &["collections", &space], Some(&body)).await.map_err(told)?;
        }
        self.cluster.change_aliases(moved).await.map_err(told)
    }

    /// Removes a space. To be called alone.
    async fn remove(self, made: EmbeddingSpace) -> Result<(), VectorsError> {
        let (catalogue, active) = self.now().await?;
        let space = self.found(&catalogue, &made)?;
        if active == space {
            let text = format!("the vectors of {made} are in use; make others active first");
            return Err(VectorsError::Invalid(text));
        }
        // Aliases go with the collection that they are on.
        self.cluster.change_aliases(catalogue.moved(&[&space], &active)).await.map_err(told)?;
        self.cluster.remove(&space).await.map_err(told)
    }
}

struct Activation {
    space: String,
    /// What is to be written down in it.
    mark: Option<Mark>,
    moved: Vec<Value>,
}

impl Spaces for Collection {
    fn active(&self) -> Arc<dyn Points> {
        // A collection is read with its spaces, so that there is one.
        Arc::clone(&self.spaces[0]) as Arc<dyn Points>
    }

    fn follows(&self) -> Option<String> {
        let made_by = || self.active().config().space.as_ref().map(|made| made.model.clone());
        self.model.clone().or_else(made_by)
    }

    fn spaces(&self) -> Vec<Arc<dyn Points>> {
        self.spaces.iter().map(|space| Arc::clone(space) as Arc<dyn Points>).collect()
    }

    fn add(&self, config: CollectionConfig) -> Waiting<'_, Arc<dyn Points>> {
        Box::pin(async move {
            let owned = self.owned()?;
            settings::check(&config)?;
            let name = owned.name.clone();
            Ok(self.cluster.alone(&name, owned.add(config)).await? as Arc<dyn Points>)
        })
    }

    fn activate<'a>(&'a self, made: &'a EmbeddingSpace) -> Waiting<'a, ()> {
        Box::pin(async move {
            let owned = self.owned()?;
            // Asked for after every change of a model: most often there is nothing to do.
            let Activation { mark, moved, .. } = owned.activation(made).await?;
            if mark.is_none() && moved.is_empty() {
                return Ok(());
            }
            let name = owned.name.clone();
            self.cluster.alone(&name, owned.activate(made.clone())).await
        })
    }

    fn drop_space<'a>(&'a self, made: &'a EmbeddingSpace) -> Waiting<'a, ()> {
        Box::pin(async move {
            let owned = self.owned()?;
            let name = owned.name.clone();
            self.cluster.alone(&name, owned.remove(made.clone())).await
        })
    }
}
