//! The embedded store behind the contract: its own calls, under the names that every engine has.

use std::sync::Arc;

use halny_payload::{FacetValue, Filter, PointId};
use halny_types::CollectionName;
use serde_json::Value;

use super::collection::Collection;
use super::search;
use super::space::Space;
use super::store::Store;
use crate::query::OrderBy;
use crate::{
    AliasChange, CollectionConfig, Collections, EmbeddingSpace, Points, Reconfigure, Record, Scored, Scroll, Search,
    Select, SpaceStatus, Spaces, VectorsError, Waiting, Write,
};

impl Collections for Store {
    fn engine(&self) -> &'static str {
        "embedded"
    }

    fn get<'a>(&'a self, name: &'a str) -> Waiting<'a, Arc<dyn Spaces>> {
        let found = Store::get(self, name).map(|collection| collection as Arc<dyn Spaces>);
        Box::pin(std::future::ready(found))
    }

    fn names(&self) -> Waiting<'_, Vec<CollectionName>> {
        Box::pin(std::future::ready(Ok(Store::names(self))))
    }

    fn aliases(&self) -> Waiting<'_, Vec<(CollectionName, CollectionName)>> {
        Box::pin(std::future::ready(Ok(Store::aliases(self))))
    }

    fn create<'a>(&'a self, name: CollectionName, config: &'a CollectionConfig) -> Waiting<'a, ()> {
        Box::pin(Store::create(self, name, config))
    }

    fn delete<'a>(&'a self, name: &'a str) -> Waiting<'a, bool> {
        Box::pin(Store::delete(self, name))
    }

    fn change_aliases(&self, changes: Vec<AliasChange>) -> Waiting<'_, ()> {
        Box::pin(Store::change_aliases(self, changes))
    }

    fn close(&self) {
        Store::close(self);
    }
}

impl Spaces for Collection {
    fn active(&self) -> Arc<dyn Points> {
        Collection::active(self)
    }

    fn space_of(&self, made: &EmbeddingSpace) -> Option<Arc<dyn Points>> {
        Collection::space_of(self, made).map(|space| space as Arc<dyn Points>)
    }

    fn follows(&self) -> Option<String> {
        Collection::follows(self)
    }

    fn spaces(&self) -> Vec<Arc<dyn Points>> {
        Collection::spaces(self).into_iter().map(|space| space as Arc<dyn Points>).collect()
    }

    fn add(&self, config: CollectionConfig) -> Waiting<'_, Arc<dyn Points>> {
        Box::pin(async move { Ok(Collection::add(self, config).await? as Arc<dyn Points>) })
    }

    fn activate<'a>(&'a self, made: &'a EmbeddingSpace) -> Waiting<'a, ()> {
        Box::pin(Collection::activate(self, made))
    }

    fn drop_space<'a>(&'a self, made: &'a EmbeddingSpace) -> Waiting<'a, ()> {
        Box::pin(Collection::drop_space(self, made))
    }
}

impl Points for Space {
    fn blocks(&self) -> bool {
        false
    }

    fn held(&self) -> Option<Arc<dyn Points>> {
        Some(Arc::new(Space::held(self)))
    }

    fn config(&self) -> Arc<CollectionConfig> {
        Space::config(self)
    }

    fn write(&self, writes: Vec<Write>, wait: bool) -> Waiting<'_, u64> {
        Box::pin(Space::write(self, writes, wait))
    }

    fn configure(&self, change: Reconfigure) -> Waiting<'_, ()> {
        Box::pin(Space::configure(self, change))
    }

    fn search(&self, search: &Search, select: &Select) -> Result<Vec<Scored>, VectorsError> {
        Space::config(self).vector(&search.vector)?;
        Ok(Space::search(self, search, select))
    }

    fn retrieve(&self, ids: &[PointId], select: &Select) -> Result<Vec<Record>, VectorsError> {
        Ok(Space::retrieve(self, ids, select))
    }

    fn scroll(&self, scroll: &Scroll) -> Result<(Vec<Record>, Option<PointId>), VectorsError> {
        Ok(Space::scroll(self, scroll))
    }

    fn count(&self, filter: Option<&Filter>) -> Result<usize, VectorsError> {
        Ok(Space::count(self, filter))
    }

    fn each(&self, filter: Option<&Filter>, select: &Select, with: &mut dyn FnMut(Record)) -> Result<(), VectorsError> {
        let reading = self.reading();
        for (id, place) in search::passing(&reading, filter, None, usize::MAX) {
            let (payload, vectors) = (reading.payload(place, &select.payload), reading.vectors(place, &select.vectors));
            with(Record { id, payload, vectors });
        }
        Ok(())
    }

    fn status(&self) -> Result<SpaceStatus, VectorsError> {
        Ok(Space::status(self))
    }

    fn best_by(
        &self,
        vector: &str,
        filter: Option<&Filter>,
        limit: usize,
        select: &Select,
        score: &dyn Fn(&[f32]) -> Option<f32>,
    ) -> Result<Vec<Scored>, VectorsError> {
        Ok(Space::best_by(self, vector, filter, limit, select, score))
    }

    fn ordered(
        &self,
        order: &OrderBy,
        filter: Option<&Filter>,
        limit: usize,
        select: &Select,
    ) -> Result<Vec<(Record, Value, f64)>, VectorsError> {
        Ok(Space::ordered(self, order, filter, limit, select))
    }

    fn sample(&self, filter: Option<&Filter>, most: usize) -> Result<Vec<PointId>, VectorsError> {
        Ok(Space::sample(self, filter, most))
    }

    fn facet(
        &self,
        field: &str,
        filter: Option<&Filter>,
        limit: usize,
    ) -> Result<Vec<(FacetValue, u64)>, VectorsError> {
        Space::facet(self, field, filter, limit)
    }
}
