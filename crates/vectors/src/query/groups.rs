//! What a query found, by a value in the payload: at most so many of each.

use std::collections::HashMap;
use std::sync::Arc;

use halny_payload::JsonPath;
use serde_json::Value;

use super::{QueryRequest, Ranked};
use crate::{PayloadSelect, Points, Select, VectorsError};

/// Points that are looked at for each that is wanted, at first.
const AHEAD: usize = 4;

/// What the points of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupId {
    /// A whole number.
    Integer(i64),
    /// A whole number too large for [`GroupId::Integer`].
    Unsigned(u64),
    /// A text.
    Text(String),
}

/// How results are grouped.
#[derive(Clone, Debug)]
pub struct Grouping {
    /// Where the value is.
    pub by: JsonPath,
    /// Groups.
    pub groups: usize,
    /// Points of a group.
    pub size: usize,
}

/// A group.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What its points have in common.
    pub id: GroupId,
    /// Its points, the best first.
    pub hits: Vec<Ranked>,
}

impl Grouping {
    /// Asks `request` for as many points as are needed to fill the groups, and puts them in.
    ///
    /// # Errors
    /// As [`QueryRequest::run`].
    pub fn run(&self, space: &dyn Points, request: &QueryRequest, select: &Select) -> Result<Vec<Group>, VectorsError> {
        let total = space.count(None)?.min(super::LIMIT_MAX);
        let mut request = request.clone();
        // How many points a prefetch has may change their scores, so that it has all at once.
        let all_at_once = !request.prefetch.is_empty();
        let mut limit = if all_at_once { total } else { self.ahead() };
        loop {
            request.widen(limit.min(total).max(1));
            // The value may be in a part of the payload that is not wanted.
            let whole = Select { payload: PayloadSelect::All, vectors: select.vectors.clone() };
            let found = request.run(space, &whole)?;
            let exhausted = found.len() < limit.min(total) || limit >= total;
            let groups = self.fill(found, select);
            let full = groups.len() >= self.groups && groups.iter().all(|group| group.hits.len() >= self.size);
            if full || exhausted {
                return Ok(groups);
            }
            limit = limit.saturating_mul(4);
        }
    }

    fn ahead(&self) -> usize {
        self.groups.saturating_mul(self.size).saturating_mul(AHEAD)
    }

    fn fill(&self, found: Vec<Ranked>, select: &Select) -> Vec<Group> {
        let mut places: HashMap<GroupId, usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        for mut ranked in found {
            let payload = Arc::new(ranked.point.payload.take().unwrap_or_default());
            let Some(ids) = self.ids(&payload) else { continue };
            ranked.point.payload = (!select.payload.is_none()).then(|| select.payload.of(payload));
            for id in ids {
                let place = *places.entry(id.clone()).or_insert_with(|| {
                    groups.push(Group { id, hits: Vec::new() });
                    groups.len() - 1
                });
                if let Some(group) = groups.get_mut(place).filter(|group| group.hits.len() < self.size) {
                    group.hits.push(ranked.clone());
                }
            }
        }
        groups.truncate(self.groups);
        groups
    }

    /// The groups a point belongs to. One with a value that no group can have belongs to none.
    fn ids(&self, payload: &crate::Payload) -> Option<Vec<GroupId>> {
        let mut ids: Vec<GroupId> = Vec::new();
        for value in self.by.values(payload) {
            let id = match value {
                Value::String(text) => GroupId::Text(text.clone()),
                Value::Number(number) => match number.as_i64() {
                    Some(number) => GroupId::Integer(number),
                    None => GroupId::Unsigned(number.as_u64()?),
                },
                _ => return None,
            };
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Some(ids)
    }
}

impl QueryRequest {
    /// Asks for so many points, on every level.
    fn widen(&mut self, limit: usize) {
        self.limit = limit;
        self.prefetch.iter_mut().for_each(|prefetch| prefetch.widen(limit));
    }
}
