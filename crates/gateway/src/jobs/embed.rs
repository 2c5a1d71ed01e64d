//! `embed-collection`: embeds the texts of a source into a collection.
//!
//! Records are written a chunk at a time, two chunks under way; a checkpoint says how far all are written. A job that is
//! told to stop ends the chunks that are under way first, so that no text is embedded twice.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use halny_jobs::{Failure, Handler, Progress, Run, Stop};
use halny_store::Files;
use halny_types::Tick;
use halny_types::project::jobs::JobKind;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::inner::{Answer, Inner};
use super::source::{Position, Record, Records, Source, TEXT_FIELD};

/// Records of one chunk: some batches of a lane, and an answer within some seconds.
const CHUNK: usize = 128;
/// Chunks under way: while one is being written to disk, the other is embedded.
const AT_ONCE: usize = 2;
/// A checkpoint is left so often, at least.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);

/// What the job is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// The collection, or an alias of it.
    collection: String,
    source: Source,
    /// The field that is embedded.
    #[serde(default = "text_field")]
    text: String,
    /// The field that names points: a whole number, or a UUID. Without it, the number of the record is its name.
    #[serde(default)]
    id: Option<String>,
    /// The fields that are kept with a point. Without it, all but the one that names it.
    #[serde(default)]
    payload: Option<Vec<String>>,
    /// Which of the collection's vectors, where they have names.
    #[serde(default)]
    vector: Option<String>,
    /// The model, where the collection does not say.
    #[serde(default)]
    model: Option<String>,
}

fn text_field() -> String {
    TEXT_FIELD.to_owned()
}

/// How far the job is: its checkpoint.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
struct State {
    /// Records in the source.
    total: u64,
    /// Where it is read on.
    position: Position,
    /// Points that were written.
    written: u64,
    /// Records without a text.
    skipped: u64,
}

/// Embeds texts into collections.
pub(super) struct EmbedCollection {
    inner: Inner,
    files: Files,
    folder: PathBuf,
}

/// A chunk that was sent.
struct Sent {
    next: Position,
    points: u64,
    skipped: u64,
    answer: Option<Answer>,
}

impl EmbedCollection {
    pub(super) fn new(inner: Inner, files: Files, folder: PathBuf) -> EmbedCollection {
        EmbedCollection { inner, files, folder }
    }

    async fn work(&self, run: &Run) -> Result<Value, Failure> {
        let order: Order = serde_json::from_value(run.payload().clone())
            .map_err(|error| Failure::Fatal(format!("this is no order to embed: {error}")))?;
        let tenant = run.job().tenant.as_str();
        let resumed = run.resumed().and_then(|manifest| serde_json::from_value(manifest.clone()).ok());
        let mut state: State = match resumed {
            Some(state) => state,
            None => State { total: order.source.count(&self.files, tenant, &self.folder).await?, ..State::default() },
        };
        let mut records = order.source.open(&self.files, tenant, &self.folder, state.position).await?;
        let mut under_way = FuturesOrdered::new();
        let mut marked = Tick::now();
        let (mut is_read, mut stop) = (false, None);
        loop {
            let done = state.written + state.skipped;
            run.progress(Progress { done, total: Some(state.total), message: order.collection.clone() });
            while !is_read && stop.is_none() && under_way.len() < AT_ONCE {
                let (chunk, over) = read(&mut records).await?;
                is_read = over;
                if !chunk.is_empty() {
                    under_way.push_back(self.send(run, &order, chunk));
                }
            }
            let sent = tokio::select! {
                sent = under_way.next() => sent,
                reason = run.stopped(), if stop.is_none() => { stop = Some(reason); continue }
            };
            let Some(sent) = sent else { break };
            if !took(&mut state, sent)? {
                break;
            }
            if marked.until(Tick::now()) >= CHECKPOINT_EVERY {
                mark(run, &state).await?;
                marked = Tick::now();
            }
        }
        let is_done = is_read && state.written + state.skipped >= state.total;
        match run.is_stopped() {
            Some(Stop::Lost) => Err(Failure::Stopped),
            Some(_) if !is_done => {
                mark(run, &state).await?;
                Err(Failure::Stopped)
            }
            _ => Ok(json!({ "collection": order.collection, "written": state.written, "skipped": state.skipped })),
        }
    }

    async fn send(&self, run: &Run, order: &Order, chunk: Vec<Record>) -> Sent {
        let next = chunk.last().map(|record| record.next).unwrap_or_default();
        let count = chunk.len() as u64;
        let points: Vec<Value> = chunk.into_iter().filter_map(|record| point(order, record)).collect();
        let written = points.len() as u64;
        if points.is_empty() {
            // Nothing but records without texts.
            return Sent { next, points: 0, skipped: count, answer: Some(Answer::nothing()) };
        }
        let body = Bytes::from(json!({ "points": points }).to_string());
        let path = format!("/collections/{}/points?wait=true", escaped(&order.collection));
        let answer = self.inner.ask(run, Method::PUT, &path, &body).await;
        Sent { next, points: written, skipped: count - written, answer }
    }
}

async fn read(records: &mut Records) -> Result<(Vec<Record>, bool), Failure> {
    let mut chunk = Vec::with_capacity(CHUNK);
    while chunk.len() < CHUNK {
        match records.next().await? {
            Some(record) => chunk.push(record),
            None => return Ok((chunk, true)),
        }
    }
    Ok((chunk, false))
}

/// Takes what came of a chunk; tells whether there is an answer.
fn took(state: &mut State, sent: Sent) -> Result<bool, Failure> {
    let Some(answer) = sent.answer else { return Ok(false) };
    if answer.status != StatusCode::OK {
        let (first, last) = (state.position.records + 1, sent.next.records);
        let text = format!("records {first} to {last}: {}", said(&answer.body));
        // What is wrong with the order or a record stays wrong.
        let is_ours = answer.status.is_server_error();
        return Err(if is_ours { Failure::Retry(text) } else { Failure::Fatal(text) });
    }
    state.position = sent.next;
    state.written += sent.points;
    state.skipped += sent.skipped;
    Ok(true)
}

async fn mark(run: &Run, state: &State) -> Result<(), Failure> {
    let manifest = serde_json::to_value(state).map_err(|error| Failure::Fatal(error.to_string()))?;
    Ok(run.checkpoint(&manifest).await?)
}

/// The point of a record; nothing where it has no text.
fn point(order: &Order, record: Record) -> Option<Value> {
    let mut fields = record.fields;
    let text = fields.get(&order.text).and_then(Value::as_str).filter(|text| !text.is_empty())?.to_owned();
    let id = match &order.id {
        Some(field) => fields.remove(field)?,
        None => Value::from(record.next.records),
    };
    let mut document = json!({ "text": text });
    if let Some(model) = &order.model {
        document["model"] = json!(model);
    }
    let vector = match &order.vector {
        Some(name) => json!({ name: document }),
        None => document,
    };
    let payload: Map<String, Value> = match &order.payload {
        Some(kept) => kept.iter().filter_map(|name| fields.remove_entry(name)).collect(),
        None => fields,
    };
    Some(json!({ "id": id, "vector": vector, "payload": payload }))
}

/// What a refusal says, whichever protocol's it is.
pub(super) fn said(body: &Value) -> &str {
    let places = [&body["status"]["error"], &body["error"]["message"], &body["message"]];
    places.into_iter().find_map(Value::as_str).unwrap_or("the server refused")
}

/// A name as a part of a path.
pub(super) fn escaped(name: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    name.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

impl Handler for EmbedCollection {
    fn kind(&self) -> &'static str {
        JobKind::EmbedCollection.as_str()
    }

    fn check(&self, payload: &Value) -> Result<(), String> {
        let order: Order =
            serde_json::from_value(payload.clone()).map_err(|error| format!("this is no order to embed: {error}"))?;
        order.source.check()
    }

    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(self.work(run))
    }
}
