//! Searches while points are written, and segments are sealed, indexed and merged.
//!
//! One thread searches all the time, one query after the other. At first nothing else happens; then
//! points are written until the last of them is indexed and merged; then nothing happens again. The
//! idle times before and after count as one, so that a machine that others use meanwhile does not
//! show as a rebuild.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use halny_vectors::embedded::Space;
use halny_vectors::{Search, Select};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ask::{Params, percentile, thread_cpu_s};
use crate::{Outcome, VECTOR, load};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rebuild {
    queries: PathBuf,
    limit: usize,
    /// New points.
    rows: PathBuf,
    first_id: u64,
    /// How fast they come; as fast as they are taken where nothing is said.
    points_per_s: Option<f64>,
    /// How long nothing happens, before and after.
    idle_s: f64,
    #[serde(default)]
    params: Params,
}

/// A search that has ended.
struct Timed {
    ended: Instant,
    micros: f64,
    cpu_micros: f64,
}

impl Rebuild {
    pub(crate) async fn run(self, space: &Arc<Space>) -> Outcome<Value> {
        let dimensions = space.config().vector(VECTOR)?.dimensions;
        let queries = load::read_rows(&self.queries, dimensions)?;
        let searches: Vec<Search> =
            queries.into_iter().map(|query| self.params.search(query.into(), self.limit, None)).collect();
        let rows = load::read_rows(&self.rows, dimensions)?;
        let (points, idle) = (rows.len(), Duration::from_secs_f64(self.idle_s));
        let new = rows.into_iter().zip(self.first_id..).map(|(row, id)| load::point(id, row, Arc::default()));
        let new = new.collect();

        let over = Arc::new(AtomicBool::new(false));
        let searching = std::thread::Builder::new().name("searches".to_owned()).spawn({
            let (space, over) = (Arc::clone(space), Arc::clone(&over));
            move || search_until(&space, &searches, &over)
        })?;
        tokio::time::sleep(idle).await;
        let began = Instant::now();
        let written = load::write(space, new, self.points_per_s).await;
        let all_written = Instant::now();
        let settled = load::settle(space).await;
        tokio::time::sleep(idle).await;
        over.store(true, Ordering::Relaxed);
        let seen = searching.join().map_err(|_| "the thread that searches ended in a panic")?;
        written?;
        let settled = settled?;

        let of = |is: &dyn Fn(Instant) -> bool| {
            let chosen = || seen.iter().filter(|one| is(one.ended));
            let mut micros: Vec<f64> = chosen().map(|one| one.micros).collect();
            let mut cpu_micros: Vec<f64> = chosen().map(|one| one.cpu_micros).collect();
            json!({
                "searches": micros.len(),
                "p50_us": percentile(&mut micros, 0.50),
                "p99_us": percentile(&mut micros, 0.99),
                "max_us": percentile(&mut micros, 1.0),
                "cpu_p50_us": percentile(&mut cpu_micros, 0.50),
                "cpu_p99_us": percentile(&mut cpu_micros, 0.99),
            })
        };
        Ok(json!({
            "points": points,
            "written_s": all_written.duration_since(began).as_secs_f64(),
            "built_s": settled.duration_since(began).as_secs_f64(),
            "idle_before": of(&|ended| ended < began),
            "idle_after": of(&|ended| ended > settled),
            "idle": of(&|ended| ended < began || ended > settled),
            "writing": of(&|ended| (began..all_written).contains(&ended)),
            "building": of(&|ended| (all_written..=settled).contains(&ended)),
            "rebuild": of(&|ended| (began..=settled).contains(&ended)),
            "segments": load::status(space)?["segments"],
        }))
    }
}

fn search_until(space: &Space, searches: &[Search], over: &AtomicBool) -> Vec<Timed> {
    let mut seen = Vec::new();
    let select = Select::default();
    for search in searches.iter().cycle() {
        let (began, cpu_began_s) = (Instant::now(), thread_cpu_s());
        let found = space.search(search, &select);
        let (ended, cpu_s) = (Instant::now(), thread_cpu_s() - cpu_began_s);
        std::hint::black_box(found);
        seen.push(Timed { ended, micros: ended.duration_since(began).as_secs_f64() * 1e6, cpu_micros: cpu_s * 1e6 });
        if over.load(Ordering::Relaxed) {
            break;
        }
    }
    seen
}
