//! The operator's side of collections: how thoroughly they have to be asked, and what is told of them.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use halny_telemetry::{CollectionSample, Collections, RecallSample, VectorSample};
use halny_vectors::embedded::{Space, Store, Trial, Tuning, Wanted};
use halny_vectors::{Tier, VectorsError};
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::space::{Chosen, files};
use crate::error::respond;
use crate::path::Named;
use crate::{ApiError, Shared, body};

/// Steps of the way that may wait to be told.
const TOLD_MAX: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TuneForm {
    recall: f64,
    #[serde(default)]
    vector: String,
    #[serde(default = "ten")]
    limit: usize,
    /// Whether what is found is used from now on.
    #[serde(default = "yes")]
    apply: bool,
}

fn ten() -> usize {
    10
}

fn yes() -> bool {
    true
}

/// `POST /halny/v1/collections/{collection}/tune` on the operator's port. The answer comes as lines of
/// JSON: `{"done": 0.25}` while it works, and what was found out last. Whoever leaves before has
/// nothing changed.
pub(super) async fn tune(
    State(shared): State<Shared>,
    Named(name): Named<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: TuneForm = body::json(&shared, &headers, body).await?;
        let collection = files(&shared)?.get(&name)?;
        let chosen = Chosen::of(&shared, Arc::clone(&collection) as Arc<dyn halny_vectors::Spaces>).space.config();
        let made = chosen.space.as_ref();
        let space = made.and_then(|made| collection.space_of(made)).unwrap_or_else(|| collection.active());
        let wanted = Wanted { vector: form.vector, recall: form.recall, limit: form.limit };
        wanted.check()?;
        space.config().vector(&wanted.vector)?;
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], told(space, wanted, form.apply)).into_response())
    };
    respond(answer.await)
}

/// The lines of the answer.
fn told(space: Arc<Space>, wanted: Wanted, apply: bool) -> Body {
    let (tell, steps) = mpsc::channel::<f32>(TOLD_MAX);
    let (asked, of) = (Arc::clone(&space), wanted.clone());
    // Not in the CPU pool: it takes seconds, and requests would wait behind it.
    let work = tokio::task::spawn_blocking(move || {
        asked.tune(&of, &|done| {
            // Who reads slowly hears of fewer steps.
            let _ = tell.try_send(done);
        })
    });
    let steps = stream::unfold(steps, |mut steps| async { Some((json!({ "done": steps.recv().await? }), steps)) });
    let last = stream::once(async move {
        let tuning = match work.await {
            Ok(tuning) => tuning,
            Err(_) => Err(VectorsError::Closed),
        };
        let applied = match tuning {
            Ok(tuning) => applied(&space, &wanted, tuning, apply).await,
            Err(error) => Err(error),
        };
        applied.unwrap_or_else(|error| json!({ "error": ApiError::from(error).message() }))
    });
    Body::from_stream(steps.chain(last).map(|line| Ok::<_, std::convert::Infallible>(Bytes::from(format!("{line}\n")))))
}

/// Uses what was found from now on, if that is wanted, and describes it.
async fn applied(space: &Space, wanted: &Wanted, tuning: Tuning, apply: bool) -> Result<Value, VectorsError> {
    let ef = tuning.chosen.filter(|_| apply);
    if let Some(ef) = ef {
        let name = wanted.vector.clone();
        let set = move |config: &mut halny_vectors::CollectionConfig| {
            if let Some(vector) = config.vectors.get_mut(&name) {
                vector.ef = Some(ef);
            }
            Ok(())
        };
        space.configure(set).await?;
    }
    // What the number is called where a query says it itself.
    let setting = match space.config().vector(&wanted.vector)?.tier {
        Tier::Fast { .. } => "hnsw_ef",
        Tier::Compact { .. } => "nprobe",
    };
    let trial =
        |trial: &Trial| json!({ "ef": trial.ef, "recall": trial.recall, "query_ms": trial.query.as_secs_f64() * 1e3 });
    Ok(json!({
        "vector": wanted.vector,
        "recall": wanted.recall,
        "limit": wanted.limit,
        "queries": tuning.queries,
        "queries_from": if tuning.asked { "clients" } else { "the collection" },
        "setting": setting,
        "trials": tuning.trials.iter().map(trial).collect::<Vec<_>>(),
        "ef": tuning.chosen,
        "applied": ef.is_some(),
    }))
}

/// The collections, as metrics tell of them.
struct Watched(Arc<Store>);

/// Has the server's metrics tell of its collections.
pub fn watch_collections(shared: &Shared) {
    if let Some(store) = &shared.vector_files {
        shared.metrics.watch_collections(Watched(Arc::clone(store)));
    }
}

impl Collections for Watched {
    fn samples(&self) -> Vec<CollectionSample> {
        let sample = |name: &halny_types::CollectionName| {
            let space = self.0.get(name.as_str()).ok()?.active();
            Some(sample(name.as_str(), &space))
        };
        self.0.names().iter().filter_map(sample).collect()
    }
}

fn sample(collection: &str, space: &Space) -> CollectionSample {
    let status = space.status();
    let vector = |(name, vector): (&String, &halny_vectors::VectorStatus)| VectorSample {
        vector: name.clone(),
        indexed: vector.indexed as u64,
        index_bytes: vector.index_bytes as u64,
        vector_bytes: vector.vector_bytes as u64,
    };
    let recall = |((vector, filter), recall): (_, halny_vectors::embedded::Recall)| RecallSample {
        vector,
        filter,
        queries: recall.queries,
        share: recall.share,
    };
    let warm = space.warmth();
    CollectionSample {
        collection: collection.to_owned(),
        warm_bytes: warm.bytes as u64,
        warm_hits: warm.hits,
        warm_misses: warm.misses,
        points: status.points as u64,
        segments: status.segments as u64,
        vectors: status.vectors.iter().map(vector).collect(),
        recalls: space.recall().into_iter().map(recall).collect(),
    }
}
