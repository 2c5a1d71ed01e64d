//! The catalogue: collections and aliases by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::{join3, try_join_all};
use halny_types::CollectionName;
use reqwest::Method;
use serde_json::json;

use super::error::{Failure, told};
use super::names::{self, Catalogue, is_usable, none_of};
use super::points::Space;
use super::settings::{self, Info, MARK, Mark};
use super::spaces::Collection;
use super::{Cluster, Moments, Qdrant};
use crate::{AliasChange, CollectionConfig, Collections, Spaces, VectorsError, Waiting};

impl Collections for Qdrant {
    fn engine(&self) -> &'static str {
        "qdrant"
    }

    fn get<'a>(&'a self, name: &'a str) -> Waiting<'a, Arc<dyn Spaces>> {
        Box::pin(async move { Ok(Arc::new(load(&self.cluster, name).await?) as Arc<dyn Spaces>) })
    }

    fn names(&self) -> Waiting<'_, Vec<CollectionName>> {
        Box::pin(async move { Ok(self.cluster.catalogue().await?.names()) })
    }

    fn aliases(&self) -> Waiting<'_, Vec<(CollectionName, CollectionName)>> {
        Box::pin(async move { Ok(self.cluster.catalogue().await?.meanings().into_iter().collect()) })
    }

    fn create<'a>(&'a self, name: CollectionName, config: &'a CollectionConfig) -> Waiting<'a, ()> {
        Box::pin(async move {
            settings::check(config)?;
            names::check(&name)?;
            let named = name.as_str().to_owned();
            self.cluster.alone(&named, create(Arc::clone(&self.cluster), name, config.clone())).await
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Waiting<'a, bool> {
        Box::pin(async move {
            if !is_usable(name) {
                return Ok(false);
            }
            self.cluster.alone(name, delete(Arc::clone(&self.cluster), name.to_owned())).await
        })
    }

    fn change_aliases(&self, changes: Vec<AliasChange>) -> Waiting<'_, ()> {
        Box::pin(async move {
            let actions = self.cluster.catalogue().await?.changed(changes)?;
            self.cluster.change_aliases(actions).await.map_err(told)
        })
    }

    fn close(&self) {
        self.cluster.tasks.close();
        self.cluster.runtime.block_on(self.cluster.tasks.wait());
    }
}

/// The collection of that name, or that the alias means. In the usual case the cluster is asked
/// for three things at the same time, and for nothing else.
async fn load(cluster: &Arc<Cluster>, name: &str) -> Result<Collection, VectorsError> {
    if !is_usable(name) {
        return Err(none_of(name));
    }
    let (mut asked, mut moments) = (name.to_owned(), Moments::default());
    loop {
        let (info, names, aliases) = join3(cluster.info(&asked), cluster.names(), cluster.aliases()).await;
        let catalogue = Catalogue { collections: names.map_err(told)?, aliases: aliases.map_err(told)? };
        match Meant::of(&asked, &catalogue, info.map_err(told)?.as_ref())? {
            Meant::Foreign(target, info) => return Collection::foreign(cluster, target, info),
            Meant::Own(mark, info) => return own(cluster, &catalogue.collections, *mark, info).await,
            Meant::SpaceOf(collection) => asked = collection,
            Meant::Nothing => return Err(none_of(name)),
            Meant::Changing => {}
        }
        if !moments.another().await {
            return Err(none_of(name));
        }
    }
}

/// What a name means, by what the cluster said of it.
enum Meant<'a> {
    /// The collection of another client's, under this name of the cluster's.
    Foreign(&'a str, &'a Info),
    /// A collection of ours, of which this is the active space.
    Own(Box<Mark>, &'a Info),
    /// One space of this collection, which is the one to ask for.
    SpaceOf(String),
    Nothing,
    /// The answers do not fit together.
    Changing,
}

impl Meant<'_> {
    fn of<'a>(asked: &'a str, catalogue: &'a Catalogue, info: Option<&'a Info>) -> Result<Meant<'a>, VectorsError> {
        let is_collection = catalogue.collections.contains(asked);
        let target = catalogue.aliases.get(asked);
        let Some(info) = info else {
            return Ok(if is_collection || target.is_some() { Meant::Changing } else { Meant::Nothing });
        };
        if is_collection {
            return Ok(Meant::Foreign(asked, info));
        }
        let Some(target) = target.filter(|target| catalogue.collections.contains(*target)) else {
            return Ok(Meant::Changing);
        };
        // A snapshot that was restored under another name says whose it was, and is not.
        Ok(match info.mark()?.filter(|mark| mark.name == *target) {
            Some(mark) if mark.collection == asked => Meant::Own(Box::new(mark), info),
            Some(mark) => Meant::SpaceOf(mark.collection),
            None if is_usable(target) => Meant::Foreign(target, info),
            // Of a space that its name was on until now, or no space of ours at all.
            None => Meant::Changing,
        })
    }
}

/// A collection of ours with its spaces, of which the active one was read.
async fn own(
    cluster: &Arc<Cluster>,
    names: &BTreeSet<String>,
    mark: Mark,
    info: &Info,
) -> Result<Collection, VectorsError> {
    let others = names::spaces_of(names, &mark.collection).into_iter().filter(|name| *name != mark.name);
    let others = others.map(|name| async move { Ok((name, cluster.info(name).await?)) });
    let mut spaces = vec![Space::of(cluster, &mark.name, info, Some(&mark))?];
    for (name, info) in try_join_all(others).await.map_err(told)? {
        // One that was dropped meanwhile, or is nobody's, is none.
        let Some(info) = info else { continue };
        if let Some(found) = info.mark()?.filter(|found| found.name == name) {
            spaces.push(Space::of(cluster, name, &info, Some(&found))?);
        }
    }
    Ok(Collection {
        cluster: Arc::clone(cluster),
        name: Some(mark.collection),
        model: mark.follows,
        spaces: spaces.into_iter().map(Arc::new).collect(),
    })
}

/// Makes a collection. To be called alone.
async fn create(cluster: Arc<Cluster>, name: CollectionName, config: CollectionConfig) -> Result<(), VectorsError> {
    let exists = || VectorsError::Exists(name.as_str().to_owned());
    let catalogue = cluster.catalogue().await?;
    if catalogue.is_foreign(name.as_str()) || catalogue.aliases.contains_key(name.as_str()) {
        return Err(exists());
    }
    for space in catalogue.spaces(name.as_str()) {
        let Some(info) = cluster.info(space).await.map_err(told)? else { continue };
        let Some(mark) = info.mark()?.filter(|mark| mark.name == space) else { return Err(exists()) };
        // A name may have been taken away by somebody else: what has points and was not deleted here is left alone.
        if !mark.deleted && cluster.has_points(space).await.map_err(told)? {
            tracing::warn!(space, "a space that no name means has points; put an alias on it, or remove it");
            return Err(exists());
        }
        tracing::warn!(space, "what is left of a collection that was deleted, or not made, is removed");
        cluster.remove(space).await.map_err(told)?;
    }
    let space = names::space_name(name.as_str(), &names::key(config.space.as_ref()));
    let mark = Mark::of(name.as_str(), &space, &config);
    let taken = |failure: Failure| if failure.is_taken() { exists() } else { told(failure) };
    make(&cluster, &mark, &config).await.map_err(taken)?;
    cluster.change_aliases(vec![names::create_alias(name.as_str(), &space)]).await.map_err(told)
}

/// Makes a space and the indexes of its fields, or nothing.
pub(super) async fn make(cluster: &Cluster, mark: &Mark, config: &CollectionConfig) -> Result<(), Failure> {
    let body = settings::creation(config, mark)?;
    cluster.client.change(Method::PUT, &["collections", &mark.name], Some(&body)).await?;
    for (field, kind) in &config.fields {
        if let Err(failure) = index(cluster, &mark.name, field, kind).await {
            cluster.remove(&mark.name).await?;
            return Err(failure);
        }
    }
    Ok(())
}

/// Has a field of a space indexed, and waits for it.
pub(super) async fn index(
    cluster: &Cluster,
    space: &str,
    field: &str,
    kind: &halny_payload::FieldKind,
) -> Result<(), Failure> {
    let path: halny_payload::JsonPath = field.parse().map_err(VectorsError::from)?;
    let body = json!({ "field_name": path.quoted(), "field_schema": settings::field(kind) });
    let body = Some(body.to_string().into_bytes());
    cluster.client.send(Method::PUT, &["collections", space, "index"], Some(true), body).await.map(drop)
}

/// Writes down in these spaces whether their collection is deleted.
async fn mark_deleted(cluster: &Cluster, spaces: &[&str], deleted: bool) -> Result<(), VectorsError> {
    for space in spaces {
        let Some(info) = cluster.info(space).await.map_err(told)? else { continue };
        let Some(mut mark) = info.mark()? else { continue };
        mark.deleted = deleted;
        let body = json!({ "metadata": { MARK: mark.to_json()? } });
        cluster.client.change(Method::PATCH, &["collections", space], Some(&body)).await.map_err(told)?;
    }
    Ok(())
}

/// Removes a collection. To be called alone.
async fn delete(cluster: Arc<Cluster>, name: String) -> Result<bool, VectorsError> {
    let catalogue = cluster.catalogue().await?;
    if catalogue.is_foreign(&name) {
        cluster.remove(&name).await.map_err(told)?;
        return Ok(true);
    }
    if catalogue.active(&name).is_none() {
        return Ok(false);
    }
    let spaces = catalogue.spaces(&name);
    // What is left if this server goes away in the middle is removed when the name is made again.
    mark_deleted(&cluster, &spaces, true).await?;
    // Without a name at once.
    let on = |(_, target): &(&String, &String)| spaces.contains(&target.as_str());
    let actions = catalogue.aliases.iter().filter(on).map(|(alias, _)| names::delete_alias(alias)).collect();
    if let Err(failure) = cluster.change_aliases(actions).await {
        if mark_deleted(&cluster, &spaces, false).await.is_err() {
            tracing::warn!(name, "a collection that could not be deleted is marked as if it had been; delete it again");
        }
        return Err(told(failure));
    }
    for space in spaces {
        cluster.remove(space).await.map_err(told)?;
    }
    Ok(true)
}
