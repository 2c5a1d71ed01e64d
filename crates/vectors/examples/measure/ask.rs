//! Asking every query of a file once, in one thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use halny_payload::{Filter, PointId};
use halny_vectors::embedded::Space;
use halny_vectors::{Scored, Search, SearchParams, Select};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Outcome, VECTOR, load};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    queries: PathBuf,
    limit: usize,
    #[serde(default)]
    params: Params,
    #[serde(default)]
    filter: Option<Value>,
}

/// How thoroughly; what is not named is as the product has it.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Params {
    ef: Option<usize>,
    nprobe: Option<usize>,
    oversampling: Option<f32>,
    exact: bool,
}

impl Params {
    pub(crate) fn search(self, query: Arc<[f32]>, limit: usize, filter: Option<Arc<Filter>>) -> Search {
        let Params { ef, nprobe, oversampling, exact } = self;
        let params = SearchParams { ef, nprobe, oversampling, exact };
        Search { vector: VECTOR.to_owned(), query, limit, filter, params, threshold: None }
    }
}

impl Ask {
    pub(crate) fn run(self, space: &Space) -> Outcome<Value> {
        let Ask { queries, limit, params, filter } = self;
        let filter = filter.map(|filter| Filter::read(&filter)).transpose()?.map(Arc::new);
        let queries = load::read_rows(&queries, space.config().vector(VECTOR)?.dimensions)?;
        let searches: Vec<Search> =
            queries.into_iter().map(|query| params.search(query.into(), limit, filter.clone())).collect();
        let select = Select::default();
        let mut micros = Vec::with_capacity(searches.len());
        let mut found = Vec::with_capacity(searches.len());
        let (began, cpu_began_s) = (Instant::now(), thread_cpu_s());
        for search in &searches {
            let asked = Instant::now();
            found.push(space.search(search, &select));
            micros.push(asked.elapsed().as_secs_f64() * 1e6);
        }
        let (took_s, cpu_s) = (began.elapsed().as_secs_f64(), thread_cpu_s() - cpu_began_s);
        let ids = |found: &Vec<Scored>| found.iter().map(|one| number(one.id)).collect::<Vec<_>>();
        let scores = |found: &Vec<Scored>| found.iter().map(|one| one.score).collect::<Vec<_>>();
        Ok(json!({
            "took_s": took_s,
            "cpu_s": cpu_s,
            "p50_us": percentile(&mut micros, 0.50),
            "p99_us": percentile(&mut micros, 0.99),
            "ids": found.iter().map(ids).collect::<Vec<_>>(),
            "scores": found.iter().map(scores).collect::<Vec<_>>(),
        }))
    }
}

fn number(id: PointId) -> Option<u64> {
    match id {
        PointId::Number(number) => Some(number),
        PointId::Uuid(_) => None,
    }
}

/// Processor time of this thread: what it takes when it does not wait for a processor behind strangers.
pub(crate) fn thread_cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The value that so large a share of the values is not above; nothing where there are none.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * share).ceil() as usize;
    values.get(place.max(1) - 1).copied()
}
