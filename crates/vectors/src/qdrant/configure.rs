//! Changes of a space's configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::catalog::index;
use super::error::{Failure, told};
use super::points::Space;
use super::settings::{self, Info, MARK, Mark, graph, not_ours, optimisers, quantisation};
use crate::{CollectionConfig, Distance, Reconfigure, Tier, VectorConfig, VectorsError};

/// Changes the configuration that the cluster tells now. Each setting is changed by a request of its own; where one is
/// refused, those before it are made.
pub(super) async fn configure(space: &Space, change: Reconfigure) -> Result<(), VectorsError> {
    let info = space.cluster.info(&space.name).await.map_err(told)?.ok_or(VectorsError::Closed)?;
    let mark = info.mark()?.filter(|mark| mark.name == space.name);
    let old = info.known(mark.as_ref())?.config;
    let mut new = old.clone();
    change(&mut new)?;
    // What another client set may be out of the ranges that Halny has.
    let changed = |name: &String, vector: &VectorConfig| old.vectors.get(name) != Some(vector);
    let mut checked = new.clone();
    checked.vectors.retain(|name, vector| changed(name, vector));
    settings::check(&checked)?;
    if kinds(&old) != kinds(&new) || old.space != new.space {
        let text = "the vectors of a collection stay what they are; make another collection";
        return Err(VectorsError::Config(text.to_owned()));
    }
    if mark.is_none() && old.vectors.iter().any(|(name, vector)| new.vectors[name].ef != vector.ef) {
        return Err(not_ours("a tuned `ef`"));
    }
    Change { space, old: &old, new: &new }.make(&info, mark).await?;
    space.config.store(Arc::new(new));
    Ok(())
}

fn kinds(config: &CollectionConfig) -> BTreeMap<&String, (usize, Distance)> {
    config.vectors.iter().map(|(name, vector)| (name, (vector.dimensions, vector.distance))).collect()
}

struct Change<'a> {
    space: &'a Space,
    old: &'a CollectionConfig,
    new: &'a CollectionConfig,
}

impl Change<'_> {
    async fn make(&self, info: &Info, mark: Option<Mark>) -> Result<(), VectorsError> {
        self.quantise().await?;
        let mut patch = Map::new();
        let graphs = self.by_vector(|vector| graph(&vector.tier), "hnsw_config", &Value::Null);
        if !graphs.is_empty() {
            patch.insert("vectors".to_owned(), graphs.into());
        }
        if let Some(optimisers) = optimisers(self.new, &self.old.segmenting) {
            patch.insert("optimizers_config".to_owned(), optimisers);
        }
        let metadata = self.metadata(mark)?;
        if !metadata.is_empty() {
            patch.insert("metadata".to_owned(), metadata.into());
        }
        if !patch.is_empty() {
            self.patch(patch.into()).await.map_err(told)?;
        }
        self.change_fields(info).await
    }

    async fn patch(&self, body: Value) -> Result<(), Failure> {
        self.space.cluster.client.change(Method::PATCH, &["collections", &self.space.name], Some(&body)).await
    }

    /// By vector, the settings that are new: `none` where there are none any more.
    fn by_vector(
        &self,
        setting: impl Fn(&VectorConfig) -> Option<Value>,
        name: &str,
        none: &Value,
    ) -> Map<String, Value> {
        let mut changed = Map::new();
        for (vector, new) in &self.new.vectors {
            let (before, after) = (self.old.vectors.get(vector).and_then(&setting), setting(new));
            if before != after {
                let after = after.unwrap_or_else(|| none.clone());
                if !after.is_null() {
                    changed.insert(vector.clone(), json!({ name: after }));
                }
            }
        }
        changed
    }

    async fn quantise(&self) -> Result<(), VectorsError> {
        let of = |vector: &VectorConfig| quantisation(&vector.tier, vector.dimensions);
        let changed = self.by_vector(of, "quantization_config", &json!("Disabled"));
        if changed.is_empty() {
            return Ok(());
        }
        let is_compact = |name: &String, config: &CollectionConfig| {
            config.vectors.get(name).is_some_and(|vector| matches!(vector.tier, Tier::Compact { .. }))
        };
        let compact = changed.keys().any(|name| is_compact(name, self.old) || is_compact(name, self.new));
        match self.patch(json!({ "vectors": changed })).await {
            // On which numbers a graph is walked is the affair of a cluster that gives no choice.
            Err(failure) if failure.is(StatusCode::NOT_IMPLEMENTED) && !compact => Ok(()),
            done => done.map_err(told),
        }
    }

    /// What is new in the metadata, and what is written down there of ours.
    fn metadata(&self, mark: Option<Mark>) -> Result<Map<String, Value>, VectorsError> {
        let (old, new) = (&self.old.metadata, &self.new.metadata);
        let mut changes: Map<String, Value> = new
            .iter()
            .filter(|(key, value)| old.get(*key) != Some(*value))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        changes.extend(old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
        if let Some(mark) = mark {
            let before = mark.to_json()?;
            let after = mark.with(self.new).to_json()?;
            if before != after {
                changes.insert(MARK.to_owned(), after);
            }
        }
        Ok(changes)
    }

    async fn change_fields(&self, info: &Info) -> Result<(), VectorsError> {
        let space = self.space;
        // By the name that the cluster gave it.
        let known = |field: &String| {
            let is =
                |name: &&String| name.parse::<halny_payload::JsonPath>().is_ok_and(|path| path.to_string() == *field);
            info.payload_schema.keys().find(is)
        };
        for (field, kind) in &self.old.fields {
            if self.new.fields.get(field) == Some(kind) {
                continue;
            }
            if let Some(name) = known(field) {
                let path = ["collections", &space.name, "index", name];
                space.cluster.client.send(Method::DELETE, &path, Some(true), None).await.map_err(told)?;
            }
        }
        for (field, kind) in &self.new.fields {
            if self.old.fields.get(field) != Some(kind) {
                index(&space.cluster, &space.name, field, kind).await.map_err(told)?;
            }
        }
        Ok(())
    }
}
