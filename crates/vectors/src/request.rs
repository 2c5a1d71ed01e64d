//! What is asked of a collection, and what it answers.

use std::sync::Arc;

use halny_payload::{Filter, JsonPath, PointId};

use crate::{Named, Payload, Point, Tier, edit};

/// Which part of a payload is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PayloadSelect {
    /// Nothing.
    #[default]
    None,
    /// All of it.
    All,
    /// What is at these paths.
    Include(Vec<JsonPath>),
    /// All but what is at these paths.
    Exclude(Vec<JsonPath>),
}

impl PayloadSelect {
    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == PayloadSelect::None
    }

    /// The wanted part of a payload.
    #[must_use]
    pub fn of(&self, payload: Arc<Payload>) -> Payload {
        match self {
            PayloadSelect::None => Payload::new(),
            PayloadSelect::All => Arc::unwrap_or_clone(payload),
            PayloadSelect::Include(paths) => edit::project(&payload, paths),
            PayloadSelect::Exclude(paths) => {
                let mut rest = Arc::unwrap_or_clone(payload);
                paths.iter().for_each(|path| edit::remove(&mut rest, path));
                rest
            }
        }
    }
}

/// Which vectors are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum VectorSelect {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// Those of these names.
    Only(Vec<String>),
}

impl VectorSelect {
    /// Whether none is wanted.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == VectorSelect::None
    }

    /// Whether the vector of that name is wanted.
    #[must_use]
    pub fn takes(&self, name: &str) -> bool {
        match self {
            VectorSelect::None => false,
            VectorSelect::All => true,
            VectorSelect::Only(names) => names.iter().any(|wanted| wanted == name),
        }
    }
}

/// What of a point is wanted beside its id.
#[derive(Clone, Debug, Default)]
pub struct Select {
    /// Of its payload.
    pub payload: PayloadSelect,
    /// Of its vectors.
    pub vectors: VectorSelect,
}

/// How thoroughly is searched.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SearchParams {
    /// Candidates that are kept while a graph is walked; 128 by default.
    pub ef: Option<usize>,
    /// Lists of the compact tier that are looked through; what suits their number by default.
    pub nprobe: Option<usize>,
    /// How many candidates are compared exactly for each result that is wanted.
    pub oversampling: Option<f32>,
    /// Every vector that passes the filter is compared exactly.
    pub exact: bool,
}

impl SearchParams {
    /// The same, and as thorough as that number says where nothing is said: it is candidates that a graph's
    /// walk keeps, or lists of the compact tier.
    #[must_use]
    pub fn or_as_thorough(self, tier: &Tier, number: usize) -> SearchParams {
        match tier {
            Tier::Fast { .. } => SearchParams { ef: self.ef.or(Some(number)), ..self },
            Tier::Compact { .. } => SearchParams { nprobe: self.nprobe.or(Some(number)), ..self },
        }
    }
}

/// The points nearest to a vector.
#[derive(Clone, Debug)]
pub struct Search {
    /// Which of the collection's vectors.
    pub vector: String,
    /// The vector, as [`CollectionConfig::prepare_one`](crate::CollectionConfig::prepare_one) made it.
    pub query: Arc<[f32]>,
    /// How many.
    pub limit: usize,
    /// Among which.
    pub filter: Option<Arc<Filter>>,
    /// How thoroughly.
    pub params: SearchParams,
    /// Points with a score that is not better are left out.
    pub threshold: Option<f32>,
}

/// A point that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Its id.
    pub id: PointId,
    /// How near it is, as its distance counts it.
    pub score: f32,
    /// The wanted part of its payload.
    pub payload: Option<Payload>,
    /// The wanted vectors.
    pub vectors: Named,
}

/// A point that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: PointId,
    /// The wanted part of its payload.
    pub payload: Option<Payload>,
    /// The wanted vectors.
    pub vectors: Named,
}

/// Which points a write is about.
#[derive(Clone, Debug)]
pub enum Selector {
    /// Those of these ids.
    Ids(Vec<PointId>),
    /// Those that pass.
    Filter(Arc<Filter>),
}

/// A write. Each is applied whole or not at all; readers see all of it or nothing.
#[derive(Clone, Debug)]
pub enum Write {
    /// The points are these now. Vectors are as [`CollectionConfig::prepare`](crate::CollectionConfig::prepare) made them.
    Upsert(Vec<Point>),
    /// The points are gone.
    Delete(Selector),
    /// The fields of `payload` are set, at `key` where it says so; others stay.
    SetPayload {
        /// Of which points.
        points: Selector,
        /// What is set.
        payload: Payload,
        /// Where in the payload.
        key: Option<JsonPath>,
    },
    /// The payload is this now.
    OverwritePayload {
        /// Of which points.
        points: Selector,
        /// What it is.
        payload: Payload,
    },
    /// What is at these paths is gone.
    DeletePayload {
        /// Of which points.
        points: Selector,
        /// What.
        keys: Vec<JsonPath>,
    },
    /// The payload is empty now.
    ClearPayload(Selector),
    /// These vectors are set; others stay.
    UpdateVectors(Vec<(PointId, Named)>),
    /// The vectors of these names are gone.
    DeleteVectors {
        /// Of which points.
        points: Selector,
        /// Which.
        names: Vec<String>,
    },
}

/// Points in the order of their ids.
#[derive(Clone, Debug)]
pub struct Scroll {
    /// The first id that may be given.
    pub from: Option<PointId>,
    /// How many.
    pub limit: usize,
    /// Which.
    pub filter: Option<Arc<Filter>>,
    /// What of each.
    pub select: Select,
}

/// Of several that are said of one id, the last; in the order in which they stand.
pub(crate) fn last_of_each<T>(all: Vec<T>, id: impl Fn(&T) -> PointId) -> Vec<T> {
    let mut seen = std::collections::HashSet::with_capacity(all.len());
    let mut kept: Vec<T> = all.into_iter().rev().filter(|one| seen.insert(id(one))).collect();
    kept.reverse();
    kept
}

/// One write that names an id twice means both: what it sets the second time comes over the first.
pub(crate) fn merged(updates: Vec<(PointId, Named)>) -> Vec<(PointId, Named)> {
    let mut places = std::collections::HashMap::with_capacity(updates.len());
    let mut merged: Vec<(PointId, Named)> = Vec::with_capacity(updates.len());
    for (id, vectors) in updates {
        match places.get(&id).and_then(|place: &usize| merged.get_mut(*place)) {
            Some((_, known)) => known.extend(vectors),
            None => {
                places.insert(id, merged.len());
                merged.push((id, vectors));
            }
        }
    }
    merged
}
