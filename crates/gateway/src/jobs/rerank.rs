//! `rerank-refresh`: searches and ranks again for queries that are known, and keeps what came of it.
//!
//! A cross-encoder is too slow for what a page shows at once, and better than what nearness alone finds. For queries that
//! are known before (the searches that are made most, an item's page) it can rank ahead: this job embeds each query,
//! searches the collection, ranks what was found, and writes a line for each query, in their order, to a file.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use halny_jobs::{Failure, Handler, JobsError, Progress, Run, Stop};
use halny_store::Files;
use halny_types::Tick;
use halny_types::project::jobs::JobKind;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::embed::{escaped, said};
use super::inner::Inner;
use super::parts::{Made, Output, PART_BYTES, describe};
use super::source::{Position, Record, Source};
use crate::openai::fresh_file_id;

/// Queries under way.
const AT_ONCE: usize = 4;
/// A checkpoint is left so often, at least.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// The most that is ranked for one query.
const CANDIDATES_MAX: usize = 1_000;

/// What the job is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// Where queries are: records with a text.
    queries: Source,
    /// The field of a record that is the query.
    #[serde(default = "text")]
    text: String,
    /// The collection, bound to a model.
    collection: String,
    /// The field of a point's payload that is ranked.
    field: String,
    /// The model that ranks.
    model: String,
    /// So many are found for each query, and ranked.
    #[serde(default = "hundred")]
    candidates: usize,
    /// So many of them are kept.
    #[serde(default = "ten")]
    limit: usize,
}

fn text() -> String {
    super::source::TEXT_FIELD.to_owned()
}
fn hundred() -> usize {
    100
}
fn ten() -> usize {
    10
}

/// How far the job is: its checkpoint.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct State {
    total: u64,
    done: u64,
    position: Position,
    output: Output,
    /// The file's name, fixed before it is made.
    file: String,
}

/// Ranks ahead.
pub(super) struct RerankRefresh {
    inner: Inner,
    files: Files,
    folder: PathBuf,
}

fn read(payload: &Value) -> Result<Order, String> {
    let order: Order =
        serde_json::from_value(payload.clone()).map_err(|error| format!("this is no order to rank: {error}"))?;
    order.queries.check()?;
    if !(1..=CANDIDATES_MAX).contains(&order.candidates) || !(1..=order.candidates).contains(&order.limit) {
        return Err(format!("`candidates` is 1 to {CANDIDATES_MAX}, and `limit` 1 to `candidates`"));
    }
    Ok(order)
}

impl RerankRefresh {
    pub(super) fn new(inner: Inner, files: Files, folder: PathBuf) -> RerankRefresh {
        RerankRefresh { inner, files, folder }
    }

    async fn work(&self, run: &Run) -> Result<Value, Failure> {
        let order = read(run.payload()).map_err(Failure::Fatal)?;
        let tenant = run.job().tenant.as_str();
        let resumed = run.resumed().and_then(|manifest| serde_json::from_value(manifest.clone()).ok());
        let mut state: State = match resumed {
            Some(state) => state,
            None => State {
                total: order.queries.count(&self.files, tenant, &self.folder).await?,
                done: 0,
                position: Position::default(),
                output: Output::default(),
                file: fresh_file_id(),
            },
        };
        let mut records = order.queries.open(&self.files, tenant, &self.folder, state.position).await?;
        let (mut under_way, mut marked) = (FuturesOrdered::new(), Tick::now());
        let (mut is_read, mut stop) = (false, None);
        loop {
            let message = order.collection.clone();
            run.progress(Progress { done: state.done, total: Some(state.total), message });
            while !is_read && stop.is_none() && under_way.len() < AT_ONCE {
                match records.next().await? {
                    Some(record) => under_way.push_back(self.rank(run, &order, record)),
                    None => is_read = true,
                }
            }
            let ranked = tokio::select! {
                ranked = under_way.next() => ranked,
                reason = run.stopped(), if stop.is_none() => { stop = Some(reason); continue }
            };
            let Some(ranked) = ranked else { break };
            let Some((next, line)) = ranked? else { break };
            state.output.line(line.to_string().as_bytes());
            (state.position, state.done) = (next, state.done + 1);
            if state.output.waiting.len() >= PART_BYTES || marked.until(Tick::now()) >= CHECKPOINT_EVERY {
                mark(run, &mut state).await?;
                marked = Tick::now();
            }
        }
        match run.is_stopped() {
            Some(Stop::Lost) => return Err(Failure::Stopped),
            Some(_) if state.done < state.total => {
                mark(run, &mut state).await?;
                return Err(Failure::Stopped);
            }
            _ => {}
        }
        self.finish(run, &order, state).await
    }

    async fn finish(&self, run: &Run, order: &Order, mut state: State) -> Result<Value, Failure> {
        mark(run, &mut state).await?;
        let bytes = state.output.joined(run, &self.files, &state.file).await?;
        if let Some(bytes) = bytes {
            let name = format!("rerank_{}.jsonl", run.job().id);
            let made = Made { id: &state.file, name, purpose: "user_data", bytes, expires_after_s: None };
            describe(run, &self.files, &[made]).await?;
        }
        Ok(json!({ "collection": order.collection, "queries": state.done, "file": bytes.map(|_| state.file) }))
    }

    /// What is nearest to a query, ranked; nothing where the job is to stop and there is no answer yet.
    async fn rank(&self, run: &Run, order: &Order, record: Record) -> Result<Option<(Position, Value)>, Failure> {
        let query = record.fields.get(&order.text).and_then(Value::as_str).unwrap_or_default().to_owned();
        if query.is_empty() {
            return Ok(Some((record.next, json!({ "query": query, "results": [] }))));
        }
        let form = json!({ "query": { "text": query }, "limit": order.candidates, "with_payload": [order.field] });
        let path = format!("/collections/{}/points/query", escaped(&order.collection));
        let Some(found) = self.ask(run, &path, &form, record.next).await? else { return Ok(None) };
        let points: Vec<&Value> = found["result"]["points"].as_array().into_iter().flatten().collect();
        let texts: Vec<&str> =
            points.iter().map(|point| point["payload"][&order.field].as_str().unwrap_or_default()).collect();
        if points.is_empty() {
            return Ok(Some((record.next, json!({ "query": query, "results": [] }))));
        }
        let form = json!({ "model": order.model, "query": query, "documents": texts, "top_n": order.limit });
        let Some(ranked) = self.ask(run, "/v1/rerank", &form, record.next).await? else { return Ok(None) };
        let results: Vec<Value> = ranked["results"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|result| {
                let place = usize::try_from(result["index"].as_u64()?).ok()?;
                Some(json!({ "id": points.get(place)?["id"], "score": result["relevance_score"] }))
            })
            .collect();
        Ok(Some((record.next, json!({ "query": query, "results": results }))))
    }

    async fn ask(&self, run: &Run, path: &str, form: &Value, at: Position) -> Result<Option<Value>, Failure> {
        let body = Bytes::from(form.to_string());
        match self.inner.ask(run, Method::POST, path, &body).await {
            None => Ok(None),
            Some(answer) if answer.status == StatusCode::OK => Ok(Some(answer.body)),
            Some(answer) => {
                let text = format!("query {}: {}", at.records, said(&answer.body));
                Err(if answer.status.is_server_error() { Failure::Retry(text) } else { Failure::Fatal(text) })
            }
        }
    }
}

async fn mark(run: &Run, state: &mut State) -> Result<(), JobsError> {
    state.output.flush(run, "ranked").await?;
    let manifest = serde_json::to_value(&*state).map_err(|error| JobsError::Unreadable(error.to_string()))?;
    run.checkpoint(&manifest).await?;
    state.output.discard(run).await;
    Ok(())
}

impl Handler for RerankRefresh {
    fn kind(&self) -> &'static str {
        JobKind::RerankRefresh.as_str()
    }

    fn check(&self, payload: &Value) -> Result<(), String> {
        read(payload).map(|_| ())
    }

    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(self.work(run))
    }
}
