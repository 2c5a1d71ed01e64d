//! Finding how thoroughly an index has to be asked for a wanted recall.
//!
//! Queries that were asked lately stand for those that will come; where they are too few, vectors of
//! the collection, which then must not find themselves. Those are easier: they stand in the graph
//! beside what they look for. Exact answers are computed once, and the
//! settings are tried from the quickest to the most thorough until one finds enough.

use std::sync::Arc;
use std::time::Duration;

use halny_types::Tick;

use super::recall::share;
use super::search::{self, Hit};
use super::space::Space;
use super::view::Reading;
use crate::{Search, SearchParams, Tier, VectorSelect, VectorsError};

/// Candidates, in the compact tier lists, that are tried, the fewest first.
const LADDER: [usize; 14] = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 2_048];
/// Queries that are answered exactly.
const QUERIES_MAX: usize = 400;
/// Fewer that were really asked are too few to go by.
const ASKED_MIN: usize = 100;
/// The most results that a query of a trial may want.
pub const TUNE_LIMIT_MAX: usize = 100;

/// What is to be found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Which of the collection's vectors.
    pub vector: String,
    /// The share of the nearest that is to be found, above 0 and at most 1.
    pub recall: f64,
    /// How many nearest a query wants.
    pub limit: usize,
}

/// One setting that was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Candidates that were kept, in the compact tier lists that were looked through.
    pub ef: usize,
    /// The share of the nearest that it found.
    pub recall: f64,
    /// How long a query took, in the mean, on one thread.
    pub query: Duration,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    /// Queries that were tried.
    pub queries: usize,
    /// Whether they are queries that clients asked; else they are vectors of the collection.
    pub asked: bool,
    /// What was tried, the quickest first.
    pub trials: Vec<Trial>,
    /// The quickest that finds enough; nothing where none does.
    pub chosen: Option<usize>,
}

impl Wanted {
    /// Checks the values.
    ///
    /// # Errors
    /// When one is out of its range.
    pub fn check(&self) -> Result<(), VectorsError> {
        if !(self.recall > 0.0 && self.recall <= 1.0) {
            return Err(VectorsError::Invalid(format!("`recall` is {}, it may be above 0 and at most 1", self.recall)));
        }
        if !(1..=TUNE_LIMIT_MAX).contains(&self.limit) {
            let text = format!("`limit` is {}, it may be 1 to {TUNE_LIMIT_MAX}", self.limit);
            return Err(VectorsError::Invalid(text));
        }
        Ok(())
    }
}

impl Space {
    /// Tries how thoroughly the vectors have to be asked. Takes as long as a few hundred exact searches
    /// and some thousand others; `tell` hears how far it has come, 0 to 1.
    ///
    /// # Errors
    /// When a value is out of its range, there is no such vector, or there are no points.
    pub fn tune(&self, wanted: &Wanted, tell: &dyn Fn(f32)) -> Result<Tuning, VectorsError> {
        wanted.check()?;
        let config = self.config();
        config.vector(&wanted.vector)?;
        let tier = config.vectors.get(&wanted.vector).map(|vector| vector.tier.clone()).unwrap_or_default();
        let reading = self.reading();
        let (queries, asked) = self.queries(&reading, wanted);
        if queries.is_empty() {
            return Err(VectorsError::Invalid("the collection has no points to try queries on".to_owned()));
        }
        let total = queries.len() as f32;
        let exact = |(place, search): (usize, &Search)| {
            tell(place as f32 / total / 2.0);
            let params = SearchParams { exact: true, ..SearchParams::default() };
            search::nearest(&reading, &Search { params, ..search.clone() })
        };
        let nearest: Vec<Vec<Hit>> = queries.iter().enumerate().map(exact).collect();
        let mut trials = Vec::new();
        let mut chosen = None;
        // A walk keeps as many as are wanted anyway.
        let differ = |ef: &usize| matches!(tier, Tier::Compact { .. }) || *ef >= wanted.limit;
        for ef in LADDER.into_iter().filter(differ) {
            let trial = try_out(&reading, &queries, &nearest, &tier, ef);
            trials.push(trial);
            tell(0.5 + trials.len() as f32 / LADDER.len() as f32 / 2.0);
            if trial.recall >= wanted.recall {
                chosen = Some(ef);
                break;
            }
        }
        Ok(Tuning { queries: queries.len(), asked, trials, chosen })
    }

    /// Queries to try, and whether clients asked them.
    fn queries(&self, reading: &Reading, wanted: &Wanted) -> (Vec<Search>, bool) {
        let plain = |query: Arc<[f32]>| Search {
            vector: wanted.vector.clone(),
            query,
            limit: wanted.limit,
            filter: None,
            params: SearchParams::default(),
            threshold: None,
        };
        let dimensions = self.config().vectors.get(&wanted.vector).map_or(0, |vector| vector.dimensions);
        let mut asked = self.shared.recalls.recent(&wanted.vector);
        asked.retain(|search| search.query.len() == dimensions);
        if asked.len() >= ASKED_MIN {
            let latest = asked.len().saturating_sub(QUERIES_MAX);
            return (asked.drain(latest..).map(|search| plain(search.query)).collect(), true);
        }
        let one = VectorSelect::Only(vec![wanted.vector.clone()]);
        let of_point = |id| {
            let place = reading.place_of(&id)?;
            let query = reading.vectors(place, &one).remove(&wanted.vector)?;
            // Without itself: what is found at once says nothing of the search.
            let itself = halny_payload::Filter::not(halny_payload::Filter::has_id(vec![id]));
            Some(Search { filter: Some(Arc::new(itself)), ..plain(query.into()) })
        };
        (self.sample(None, QUERIES_MAX).into_iter().filter_map(of_point).collect(), false)
    }
}

fn try_out(reading: &Reading, queries: &[Search], nearest: &[Vec<Hit>], tier: &Tier, ef: usize) -> Trial {
    let params = SearchParams::default().or_as_thorough(tier, ef);
    let (mut found, mut count, mut took) = (0.0, 0, Duration::ZERO);
    for (search, nearest) in queries.iter().zip(nearest) {
        let search = Search { params, ..search.clone() };
        let began = Tick::now();
        let hits = search::nearest(reading, &search);
        took += began.until(Tick::now());
        if let Some(share) = share(&hits, nearest) {
            found += share;
            count += 1;
        }
    }
    let recall = if count == 0 { 1.0 } else { found / f64::from(count) };
    Trial { ef, recall, query: took / queries.len().max(1) as u32 }
}
