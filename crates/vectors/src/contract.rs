//! The contract of an engine that keeps collections: by name, by space, by point.
//!
//! Three traits, one below the other. [`Collections`] knows the names; [`Spaces`] are what is under
//! one name; [`Points`] are what a space holds, and all that a query asks for. Everything in
//! [`query`](crate::query) is made of these, so that fusions, recommendations and groups mean the
//! same on every engine.
//!
//! *What computes is a plain call, what waits is a future.* Reading a space of the embedded engine is
//! work for a processor and belongs into the CPU pool; reading a space that is elsewhere waits for
//! a server, and belongs onto a thread that may block. [`Points::blocks`] says which. Writes and changes
//! of the catalogue wait for a disk or a server on every engine, and hold no thread while they do.
//!
//! An engine that cannot do a thing says so with [`VectorsError::Unsupported`]; it never answers
//! something else. Where it promises less than another, its own docs say what.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use halny_payload::{FacetValue, Filter, PointId};
use halny_types::CollectionName;
use serde_json::Value;

use crate::query::OrderBy;
use crate::{
    CollectionConfig, EmbeddingSpace, Record, Scored, Scroll, Search, Select, VectorSelect, VectorsError, Write, scan,
};

/// What is waited for.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = Result<T, VectorsError>> + Send + 'a>>;

/// A change of a configuration.
pub type Reconfigure = Box<dyn FnOnce(&mut CollectionConfig) -> Result<(), VectorsError> + Send>;

/// The collections that an engine keeps, by name.
///
/// A change of the catalogue is made whole or not at all, is on disk when it is answered, and is seen
/// by every call that begins after its answer, at this server and, where several share the engine,
/// at every other.
pub trait Collections: Send + Sync {
    /// The engine's name, as the project file writes it.
    fn engine(&self) -> &'static str;

    /// The collection of that name, or that the alias means. What is given stays with the spaces that
    /// the collection had then: a request takes it once.
    ///
    /// # Errors
    /// When there is none.
    fn get<'a>(&'a self, name: &'a str) -> Waiting<'a, Arc<dyn Spaces>>;

    /// The names of all collections, in order.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn names(&self) -> Waiting<'_, Vec<CollectionName>>;

    /// Every alias and the collection that it means, in order.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn aliases(&self) -> Waiting<'_, Vec<(CollectionName, CollectionName)>>;

    /// Makes an empty collection.
    ///
    /// # Errors
    /// When the name is taken, or the configuration is refused.
    fn create<'a>(&'a self, name: CollectionName, config: &'a CollectionConfig) -> Waiting<'a, ()>;

    /// Removes a collection and the aliases that mean it. Tells whether there was one.
    ///
    /// # Errors
    /// When that cannot be written down.
    fn delete<'a>(&'a self, name: &'a str) -> Waiting<'a, bool>;

    /// Makes all of these changes at once, or none.
    ///
    /// # Errors
    /// When one of them cannot be made.
    fn change_aliases(&self, changes: Vec<AliasChange>) -> Waiting<'_, ()>;

    /// Ends what the engine runs in this process, once what was accepted is done. Blocks for as long as that takes.
    fn close(&self);
}

/// The spaces under one name, one of them active.
///
/// Spaces of one model version are [the same](EmbeddingSpace::same), whatever the model was called.
/// Where several servers share the engine, these may be the spaces of the moment in which they were asked for.
pub trait Spaces: Send + Sync {
    /// The space that was last decided for.
    fn active(&self) -> Arc<dyn Points>;

    /// The space of the vectors that `made` made.
    fn space_of(&self, made: &EmbeddingSpace) -> Option<Arc<dyn Points>> {
        self.spaces().into_iter().find(|space| space.config().is_of(made))
    }

    /// The model whose version decides which vectors are asked.
    fn follows(&self) -> Option<String>;

    /// All spaces, the active one first.
    fn spaces(&self) -> Vec<Arc<dyn Points>>;

    /// Makes an empty space beside the others. The active one stays.
    ///
    /// # Errors
    /// When there is a space of that model version already.
    fn add(&self, config: CollectionConfig) -> Waiting<'_, Arc<dyn Points>>;

    /// Makes the space of `made` the active one, and has the collection follow the model of that name. Requests under
    /// way end with the space that they began with.
    ///
    /// # Errors
    /// When there is none.
    fn activate<'a>(&'a self, made: &'a EmbeddingSpace) -> Waiting<'a, ()>;

    /// Removes a space that is not the active one.
    ///
    /// # Errors
    /// When there is none, or it is active.
    fn drop_space<'a>(&'a self, made: &'a EmbeddingSpace) -> Waiting<'a, ()>;
}

/// The points of one space.
///
/// One call sees the points as of one moment, unless the engine's docs say otherwise. Two calls may
/// see two moments; those on what [`Points::held`] gives see one.
pub trait Points: Send + Sync {
    /// Whether the calls that read wait for another server. Then they are made on threads that may
    /// block, never on one that runs async code; else they compute, and belong into the CPU pool.
    fn blocks(&self) -> bool;

    /// The same points, read as of now by every call, so that a query made of several searches is of one moment;
    /// nothing where the engine cannot hold one. It keeps files and memory of then: let go of it soon.
    fn held(&self) -> Option<Arc<dyn Points>> {
        None
    }

    /// What the space holds.
    fn config(&self) -> Arc<CollectionConfig>;

    /// Makes these writes, one after the other, and tells a number of the last; numbers grow. With
    /// `wait` they are on disk and seen by readers when this is answered; without, they soon will be.
    ///
    /// # Errors
    /// When one of them cannot be made; those before it are. Where the engine was lost on the way, the
    /// write that was under way is there whole or not at all: it may be sent again.
    fn write(&self, writes: Vec<Write>, wait: bool) -> Waiting<'_, u64>;

    /// Changes the configuration: indexes of fields, how vectors are indexed. Vectors stay as they are.
    ///
    /// # Errors
    /// What `change` says, or that the new configuration is refused.
    fn configure(&self, change: Reconfigure) -> Waiting<'_, ()>;

    /// The points nearest to a vector, the nearest first; of two equally near the one with the lower id.
    ///
    /// # Errors
    /// When the space has no such vector, or the engine cannot be asked.
    fn search(&self, search: &Search, select: &Select) -> Result<Vec<Scored>, VectorsError>;

    /// The points of these ids that are there, in the order of the ids given.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn retrieve(&self, ids: &[PointId], select: &Select) -> Result<Vec<Record>, VectorsError>;

    /// Points in the order of their ids, and the id to go on with if there are more.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn scroll(&self, scroll: &Scroll) -> Result<(Vec<Record>, Option<PointId>), VectorsError>;

    /// How many points pass the filter.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn count(&self, filter: Option<&Filter>) -> Result<usize, VectorsError>;

    /// Gives every point that passes to `with`, in the order of their ids.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn each(&self, filter: Option<&Filter>, select: &Select, with: &mut dyn FnMut(Record)) -> Result<(), VectorsError>;

    /// How the space stands.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn status(&self) -> Result<SpaceStatus, VectorsError>;

    /// The vector of that name of a point.
    ///
    /// # Errors
    /// When there is no such point, or it has no such vector.
    fn vector_of(&self, id: &PointId, name: &str) -> Result<Vec<f32>, VectorsError> {
        let select = Select { vectors: VectorSelect::Only(vec![name.to_owned()]), ..Select::default() };
        let mut record = self.retrieve(&[*id], &select)?.pop().ok_or(VectorsError::NoPoint(*id))?;
        record.vectors.remove(name).ok_or_else(|| VectorsError::NoVectorOfPoint { id: *id, name: name.to_owned() })
    }

    /// The `limit` best points by a score of one's own, which may see any of them: greater is better.
    /// Every point that passes the filter and has the vector is looked at.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn best_by(
        &self,
        vector: &str,
        filter: Option<&Filter>,
        limit: usize,
        select: &Select,
        score: &dyn Fn(&[f32]) -> Option<f32>,
    ) -> Result<Vec<Scored>, VectorsError> {
        scan::best_by(self, vector, filter, limit, select, score)
    }

    /// The `limit` first points by a value of their payloads, with the value and the number that it is
    /// ordered by. A point with several values comes once for each.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn ordered(
        &self,
        order: &OrderBy,
        filter: Option<&Filter>,
        limit: usize,
        select: &Select,
    ) -> Result<Vec<(Record, Value, f64)>, VectorsError> {
        scan::ordered(self, order, filter, limit, select)
    }

    /// The ids of `most` points by chance, each as likely as any other.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn sample(&self, filter: Option<&Filter>, most: usize) -> Result<Vec<PointId>, VectorsError> {
        scan::sample(self, filter, most)
    }

    /// The values of an indexed field and how many of the points that pass have each, most first.
    ///
    /// # Errors
    /// When the field has no index that knows its values.
    fn facet(
        &self,
        field: &str,
        filter: Option<&Filter>,
        limit: usize,
    ) -> Result<Vec<(FacetValue, u64)>, VectorsError> {
        scan::facet(self, field, filter, limit)
    }
}

/// A change of an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasChange {
    /// It means this collection from now on, whatever it meant.
    Create {
        /// The alias.
        alias: CollectionName,
        /// What it means.
        collection: CollectionName,
    },
    /// It means nothing from now on.
    Delete(CollectionName),
    /// It is called otherwise from now on.
    Rename {
        /// What it was called.
        from: CollectionName,
        /// What it is called.
        to: CollectionName,
    },
}

/// How a space stands.
#[derive(Clone, Debug, Default)]
pub struct SpaceStatus {
    /// Points that live.
    pub points: usize,
    /// Segments, those in memory included; one where the engine knows no segments.
    pub segments: usize,
    /// Segments that wait to be sealed, and those whose index is not built.
    pub unfinished: usize,
    /// How far the build under way has come, 0 to 1.
    pub building: Option<f32>,
    /// By vector.
    pub vectors: BTreeMap<String, VectorStatus>,
    /// For each indexed field, the points that have a value in it.
    pub fields: BTreeMap<String, usize>,
}

/// How one of the vectors of a space stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorStatus {
    /// Vectors, those of points that died since they were sealed included.
    pub vectors: usize,
    /// Of these, how many an index finds.
    pub indexed: usize,
    /// Bytes of the indexes.
    pub index_bytes: usize,
    /// Bytes of the vectors themselves.
    pub vector_bytes: usize,
}
