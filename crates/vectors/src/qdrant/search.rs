//! The nearest points.

use halny_payload::{Filter, PointId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::result;
use super::error::{Failure, told};
use super::points::{LIMIT_MAX, PAGE, Space, page_size};
use super::reading::{Answered, IDS, Reading};
use super::writes::IDS_MAX;
use crate::{Record, Scored, Search, Select, Tier, VectorConfig, VectorsError};

/// Candidates that are kept in a walk unless the request says otherwise, as in the embedded store.
const EF: usize = 128;
/// Candidates of the compact tier that are compared again for each point that is wanted, as in the embedded store.
const OVERSAMPLING: f32 = 3.0;
/// What requests may ask for.
const EF_MAX: usize = 65_536;
const OVERSAMPLING_MAX: f32 = 100.0;

/// Points in the answer to a query.
#[derive(Deserialize)]
pub(super) struct Found<'a> {
    #[serde(borrow)]
    pub(super) points: Vec<Answered<'a>>,
}

/// The points nearest to a vector, the nearest first; of two equally near the one with the lower id.
pub(super) async fn nearest(space: &Space, search: &Search, select: &Select) -> Result<Vec<Scored>, VectorsError> {
    space.check_vector(&search.vector)?;
    let config = space.config.load_full();
    let vector = config.vector(&search.vector)?;
    config.check_one(&search.vector, &search.query)?;
    if search.limit == 0 {
        return Ok(Vec::new());
    }
    let looking = Looking { space, search, select, vector };
    let reading = space.reading(select, search.filter.as_deref());
    if reading.asks() { looking.asking(&reading).await } else { looking.all_at_once(&reading).await }
}

struct Looking<'a> {
    space: &'a Space,
    search: &'a Search,
    select: &'a Select,
    vector: &'a VectorConfig,
}

impl Looking<'_> {
    /// Where the cluster knows what passes.
    async fn all_at_once(&self, reading: &Reading<'_>) -> Result<Vec<Scored>, VectorsError> {
        let limit = self.search.limit.min(LIMIT_MAX);
        if limit <= page_size(reading) {
            match self.query(reading, limit).await {
                // What is wanted of so many points is more than an answer holds.
                Err(Failure::AnswerTooLarge(_)) => {}
                found => return Ok(self.sorted(found.map_err(told)?.0)),
            }
        }
        let ids = self.space.reading(&IDS, self.search.filter.as_deref());
        let found = self.query(&ids, limit).await.map_err(told)?.0;
        self.with_wanted(self.sorted(found)).await
    }

    /// Where it does not: the nearest are asked here, and if too few of them pass, all that pass are compared.
    async fn asking(&self, reading: &Reading<'_>) -> Result<Vec<Scored>, VectorsError> {
        let limit = self.search.limit.min(LIMIT_MAX);
        let read = limit.max(PAGE);
        if read <= page_size(reading) {
            match self.query(reading, read).await {
                Err(Failure::AnswerTooLarge(_)) => {}
                found => {
                    let (found, answered) = found.map_err(told)?;
                    if found.len() >= limit || answered < read {
                        let mut found = self.sorted(found);
                        found.truncate(limit);
                        return Ok(found);
                    }
                }
            }
        }
        let mut found = Vec::new();
        if let Some(filter) = &self.search.filter {
            for ids in self.space.passing(filter).await?.chunks(IDS_MAX) {
                let these = Filter::has_id(ids.to_vec());
                let reading = self.space.reading(&IDS, Some(&these));
                found.extend(self.query(&reading, limit).await.map_err(told)?.0);
                found = self.sorted(found);
                found.truncate(limit);
            }
        }
        self.with_wanted(found).await
    }

    /// Those of the nearest that pass, and how many there were.
    async fn query(&self, reading: &Reading<'_>, limit: usize) -> Result<(Vec<Scored>, usize), Failure> {
        let mut request = reading.request();
        let query: &[f32] = &self.search.query;
        request.insert("query".to_owned(), json!({ "nearest": query }));
        if !self.search.vector.is_empty() {
            request.insert("using".to_owned(), json!(self.search.vector));
        }
        request.insert("limit".to_owned(), json!(limit));
        request.insert("params".to_owned(), self.params());
        if let Some(threshold) = self.search.threshold {
            request.insert("score_threshold".to_owned(), json!(threshold));
        }
        let answer = self.space.ask(&["points", "query"], &request.into()).await?;
        let found: Found<'_> = result(&answer)?;
        let answered = found.points.len();
        let scored = |point: Answered<'_>| {
            let score = point.score.unwrap_or_default();
            let record = reading.record(point).transpose()?;
            Some(record.map(|Record { id, payload, vectors }| Scored { id, score, payload, vectors }))
        };
        let scored = found.points.into_iter().filter_map(scored).collect::<Result<_, VectorsError>>()?;
        Ok((scored, answered))
    }

    fn params(&self) -> Value {
        let params = self.search.params;
        let oversampling = match &self.vector.tier {
            Tier::Compact { .. } => Some(params.oversampling.unwrap_or(OVERSAMPLING)),
            Tier::Fast { .. } => params.oversampling,
        };
        // What is tuned of the compact tier is a number of lists, which Qdrant does not have.
        let tuned = self.vector.ef.filter(|_| matches!(self.vector.tier, Tier::Fast { .. }));
        let mut quantisation = json!({ "rescore": true });
        if let Some(times) = oversampling {
            quantisation["oversampling"] = json!(times.clamp(1.0, OVERSAMPLING_MAX));
        }
        json!({
            "hnsw_ef": params.ef.or(tuned).unwrap_or(EF).clamp(1, EF_MAX),
            "exact": params.exact,
            "quantization": quantisation,
        })
    }

    fn sorted(&self, mut found: Vec<Scored>) -> Vec<Scored> {
        let distance = self.vector.distance;
        if let Some(threshold) = self.search.threshold {
            found.retain(|point| distance.beats(point.score, threshold));
        }
        let nearness = |point: &Scored| if distance == crate::Distance::Euclid { -point.score } else { point.score };
        found.sort_by(|a, b| nearness(b).total_cmp(&nearness(a)).then(a.id.cmp(&b.id)));
        found
    }

    /// The same with what is wanted of each. One that was deleted since is left out.
    async fn with_wanted(&self, found: Vec<Scored>) -> Result<Vec<Scored>, VectorsError> {
        if self.select.payload.is_none() && self.select.vectors.is_none() {
            return Ok(found);
        }
        let ids: Vec<PointId> = found.iter().map(|point| point.id).collect();
        let mut records = self.space.there(&ids, self.select).await?;
        let with = |point: Scored| {
            let Record { id, payload, vectors } = records.remove(&point.id)?;
            Some(Scored { id, score: point.score, payload, vectors })
        };
        Ok(found.into_iter().filter_map(with).collect())
    }
}
