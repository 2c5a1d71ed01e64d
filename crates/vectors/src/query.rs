//! Queries that are made of searches: fused, re-scored, by examples, in groups.
//!
//! What they mean is what Qdrant's query API means by them. A query with prefetches is asked
//! of what the prefetches found; one without of the whole collection. Filters of a level hold for
//! the prefetches below it, so that their limits count points that pass.

mod examples;
mod fusion;
mod groups;

use std::sync::Arc;

use halny_payload::{Filter, JsonPath, PointId};
use serde_json::Value;

pub use examples::{Pair, Strategy};
pub use fusion::{Fusion, RRF_K};
pub use groups::{Group, GroupId, Grouping};

use crate::embedded::Space;
use crate::{
    CollectionConfig, PayloadSelect, Record, Scored, Scroll, Search, SearchParams, Select, VectorSelect, VectorsError,
};

/// How deep prefetches may be in each other.
pub const PREFETCH_DEPTH_MAX: usize = 8;
/// Prefetches of one query, all levels together.
pub const PREFETCHES_MAX: usize = 64;
/// The most points that a query, or one of its prefetches, finds.
pub const LIMIT_MAX: usize = 1_000_000;

/// A vector, or the point that has it.
#[derive(Clone, Debug, PartialEq)]
pub enum VectorInput {
    /// The vector, as a client gave it.
    Vector(Vec<f32>),
    /// The point of that id, which is then not among the results.
    Id(PointId),
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// The nearest.
    Nearest(VectorInput),
    /// What is near good examples and far from bad ones.
    Recommend {
        /// Good ones.
        positive: Vec<VectorInput>,
        /// Bad ones.
        negative: Vec<VectorInput>,
        /// How they are weighed.
        strategy: Strategy,
    },
    /// The nearest to a target, where most pairs are answered right first.
    Discover {
        /// What is looked for.
        target: VectorInput,
        /// Where.
        context: Vec<Pair<VectorInput>>,
    },
    /// What is nearer to the good example of each pair than to the bad one.
    Context(Vec<Pair<VectorInput>>),
    /// By a value in the payload.
    OrderBy(OrderBy),
    /// What several prefetches found, as one list.
    Fusion(Fusion),
    /// Any.
    Sample,
}

/// An order by a value in the payload. A point with several values comes once for each.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderBy {
    /// Where the value is.
    pub key: JsonPath,
    /// Whether the greatest come first.
    pub descending: bool,
    /// The first value that may come.
    pub start_from: Option<f64>,
}

/// A query.
#[derive(Clone, Debug, Default)]
pub struct QueryRequest {
    /// Queries whose results this one is asked of.
    pub prefetch: Vec<QueryRequest>,
    /// What is looked for; nothing: points in the order of their ids.
    pub query: Option<Query>,
    /// Which of the collection's vectors.
    pub using: String,
    /// Among which points.
    pub filter: Option<Arc<Filter>>,
    /// How thoroughly.
    pub params: SearchParams,
    /// Points with a worse score are left out.
    pub threshold: Option<f32>,
    /// How many.
    pub limit: usize,
    /// How many of the first are left out.
    pub offset: usize,
    /// Where the vectors of points named in `query` are taken from; the collection itself if nothing is said.
    pub lookup: Option<Lookup>,
}

/// Another place where points that a query names are looked up.
#[derive(Clone)]
pub struct Lookup {
    /// The collection.
    pub space: Arc<Space>,
    /// Which of its vectors.
    pub vector: String,
}

impl Lookup {
    /// Vectors of another model are no examples here.
    fn check(&self, config: &CollectionConfig) -> Result<(), VectorsError> {
        match (&config.space, &self.space.config().space) {
            (Some(holds), Some(given)) if !holds.same(given) => {
                Err(VectorsError::Space { holds: Box::new(holds.clone()), given: given.to_string() })
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").field("vector", &self.vector).finish_non_exhaustive()
    }
}

/// A point that a query found.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// The point.
    pub point: Scored,
    /// The value that it was ordered by, if any.
    pub order_value: Option<Value>,
}

impl QueryRequest {
    /// Asks the space.
    ///
    /// # Errors
    /// When the query names what is not there, has vectors that do not fit, or limits that are too large.
    pub fn run(&self, space: &Space, select: &Select) -> Result<Vec<Ranked>, VectorsError> {
        self.check()?;
        self.ranked(space, None, select)
    }

    fn check(&self) -> Result<(), VectorsError> {
        fn count(request: &QueryRequest, depth: usize) -> Result<usize, VectorsError> {
            if depth > PREFETCH_DEPTH_MAX {
                return Err(VectorsError::Invalid(format!("prefetches may be {PREFETCH_DEPTH_MAX} deep")));
            }
            let wanted = request.limit.saturating_add(request.offset);
            if wanted > LIMIT_MAX {
                let text =
                    format!("`limit` and `offset` are {wanted} together, they may be {LIMIT_MAX}; scroll instead");
                return Err(VectorsError::Invalid(text));
            }
            request.prefetch.iter().try_fold(1, |sum, prefetch| Ok(sum + count(prefetch, depth + 1)?))
        }
        match count(self, 0)? {
            1..=PREFETCHES_MAX => Ok(()),
            many => {
                Err(VectorsError::Invalid(format!("a query has at most {PREFETCHES_MAX} prefetches, this one {many}")))
            }
        }
    }

    fn ranked(&self, space: &Space, outer: Option<&Arc<Filter>>, select: &Select) -> Result<Vec<Ranked>, VectorsError> {
        let filter = both(outer, self.filter.as_ref());
        if self.prefetch.is_empty() {
            return self.base(space, filter, select);
        }
        if self.query.is_none() {
            let text = "`prefetch` needs a `query`, which says what to make of what was found";
            return Err(VectorsError::Invalid(text.to_owned()));
        }
        let none = Select::default();
        let sources: Vec<Vec<Scored>> = self
            .prefetch
            .iter()
            .map(|prefetch| {
                let found = prefetch.ranked(space, filter.as_ref(), &none)?;
                Ok(found.into_iter().map(|ranked| ranked.point).collect())
            })
            .collect::<Result<_, VectorsError>>()?;
        let Some(Query::Fusion(fusion)) = &self.query else {
            let ids: Vec<PointId> = sources.iter().flatten().map(|point| point.id).collect();
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            return self.base(space, both(filter.as_ref(), Some(&Arc::new(Filter::has_id(ids)))), select);
        };
        let mut fused = fusion.fuse(&sources, self.limit.saturating_add(self.offset))?;
        fused.retain(|(_, score)| self.threshold.is_none_or(|least| *score >= least));
        let wanted = fused.into_iter().skip(self.offset);
        let fetched = wanted.filter_map(|(id, score)| {
            let Record { id, payload, vectors } = space.retrieve(&[id], select).pop()?;
            Some(ranked(Scored { id, score, payload, vectors }))
        });
        Ok(fetched.collect())
    }

    /// Asks the collection itself.
    fn base(&self, space: &Space, filter: Option<Arc<Filter>>, select: &Select) -> Result<Vec<Ranked>, VectorsError> {
        let wanted = self.limit.saturating_add(self.offset);
        let found: Vec<Ranked> = match &self.query {
            None => {
                let scroll = Scroll { from: None, limit: wanted, filter, select: select.clone() };
                space.scroll(&scroll).0.into_iter().map(|record| unscored(record, 1.0, None)).collect()
            }
            Some(Query::OrderBy(order)) => {
                let ordered = space.ordered(order, filter.as_deref(), wanted, select);
                let ranked =
                    |(record, value, number): (Record, Value, f64)| unscored(record, number as f32, Some(value));
                ordered.into_iter().map(ranked).collect()
            }
            Some(Query::Sample) => {
                let ids = space.sample(filter.as_deref(), self.limit);
                let records = space.retrieve(&ids, select);
                return Ok(records.into_iter().map(|record| unscored(record, 1.0, None)).collect());
            }
            Some(Query::Fusion(_)) => {
                return Err(VectorsError::Invalid(
                    "a fusion needs `prefetch`, whose results it makes one list of".to_owned(),
                ));
            }
            Some(query) => self.by_vectors(space, query, filter, wanted, select)?,
        };
        Ok(found.into_iter().skip(self.offset).take(self.limit).collect())
    }

    fn by_vectors(
        &self,
        space: &Space,
        query: &Query,
        filter: Option<Arc<Filter>>,
        wanted: usize,
        select: &Select,
    ) -> Result<Vec<Ranked>, VectorsError> {
        let config = space.config();
        config.vector(&self.using)?;
        if let Some(lookup) = &self.lookup {
            lookup.check(&config)?;
        }
        let examples = examples::Examples { space, using: &self.using, lookup: self.lookup.as_ref() };
        let aim = examples.aim(query)?;
        let mentioned = match aim.mentioned {
            ids if ids.is_empty() => None,
            ids => Some(Arc::new(Filter::not(Filter::has_id(ids)))),
        };
        let filter = both(filter.as_ref(), mentioned.as_ref());
        let found = match aim.goal {
            examples::Goal::Near(query) => {
                let search = Search {
                    vector: self.using.clone(),
                    query,
                    limit: wanted,
                    filter,
                    params: self.params,
                    threshold: self.threshold,
                };
                space.search(&search, select)
            }
            examples::Goal::Best(score) => {
                let above = |vector: &[f32]| {
                    Some(score(vector)).filter(|score| self.threshold.is_none_or(|least| *score >= least))
                };
                space.best_by(&self.using, filter.as_deref(), wanted, select, &above)
            }
        };
        Ok(found.into_iter().map(ranked).collect())
    }
}

fn ranked(point: Scored) -> Ranked {
    Ranked { point, order_value: None }
}

fn unscored(record: Record, score: f32, order_value: Option<Value>) -> Ranked {
    let Record { id, payload, vectors } = record;
    Ranked { point: Scored { id, score, payload, vectors }, order_value }
}

/// What passes both.
fn both(a: Option<&Arc<Filter>>, b: Option<&Arc<Filter>>) -> Option<Arc<Filter>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Arc::new(Filter::all(vec![a.as_ref().clone(), b.as_ref().clone()]))),
        (one, other) => one.or(other).cloned(),
    }
}

/// How near every point of a sample is to its nearest within it: for maps of a collection.
#[must_use]
pub fn matrix(
    space: &Space,
    using: &str,
    filter: Option<&Filter>,
    sample: usize,
    limit: usize,
) -> Vec<(PointId, Vec<(PointId, f32)>)> {
    let ids = space.sample(filter, sample);
    let within = Arc::new(Filter::has_id(ids.clone()));
    let neighbours = |id: PointId| {
        let query = space.vector_of(&id, using).ok()?;
        let others = Filter::all(vec![within.as_ref().clone(), Filter::not(Filter::has_id(vec![id]))]);
        let search = Search {
            vector: using.to_owned(),
            query: query.into(),
            limit,
            filter: Some(Arc::new(others)),
            params: SearchParams { exact: true, ..SearchParams::default() },
            threshold: None,
        };
        let none = Select { payload: PayloadSelect::None, vectors: VectorSelect::None };
        Some((id, space.search(&search, &none).into_iter().map(|found| (found.id, found.score)).collect()))
    };
    ids.into_iter().filter_map(neighbours).collect()
}
