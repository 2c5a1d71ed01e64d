//! `batch`: runs a file of requests, as OpenAI's batches do.
//!
//! The file is looked through first, and refused whole if a line is no request. Then its requests are made, some at once,
//! their answers kept in the order of the lines. A checkpoint says which lines are done and where their answers are; it is
//! left from time to time, and when the job is to stop.

mod check;
mod line;

use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use halny_jobs::{Failure, Handler, Job, JobsError, Progress, Run, Stop, Usage};
use halny_store::files::File;
use halny_store::{Files, StoreError};
use halny_types::Tick;
use halny_types::project::jobs::JobKind;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::inner::{Answer, Inner};
use super::lines::{Line, Lines};
use super::parts::{Made, Output, PART_BYTES, describe};
use crate::LiveLimits;
use crate::openai::{WINDOW_MS, fresh_file_id};
use line::Request;

pub(crate) use check::LineError;

/// What a batch may ask for.
pub(crate) const ENDPOINTS: [&str; 6] =
    ["/v1/embeddings", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/rerank", "/halny/v1/classify"];
/// Requests that are made at once: as many as a batch of a lane has places, unless its profile says otherwise.
const AT_ONCE: usize = 32;
/// How long a batch that is cancelled may take to write what it has: OpenAI's take as long.
const CANCEL_TIME: Duration = Duration::from_mins(10);
/// A checkpoint is left so often, at least.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);

/// What a batch is told: the job's payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    pub(crate) input_file_id: String,
    pub(crate) endpoint: String,
    #[serde(default)]
    pub(crate) metadata: Option<Map<String, Value>>,
    #[serde(default)]
    pub(crate) output_expires_after_s: Option<i64>,
}

/// Requests, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) total: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
}

/// Tokens, as answers told of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tokens {
    input: u64,
    output: u64,
}

impl Tokens {
    fn of(body: &Value) -> Tokens {
        let usage = &body["usage"];
        let read = |names: [&str; 2]| names.iter().find_map(|name| usage[*name].as_u64()).unwrap_or(0);
        Tokens { input: read(["prompt_tokens", "input_tokens"]), output: read(["completion_tokens", "output_tokens"]) }
    }

    /// As OpenAI writes it.
    pub(crate) fn described(self) -> Value {
        json!({
            "input_tokens": self.input,
            "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": self.output,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": self.input + self.output,
        })
    }
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    Completed,
    Failed,
    Expired,
    Cancelled,
}

impl Ended {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Ended::Completed => "completed",
            Ended::Failed => "failed",
            Ended::Expired => "expired",
            Ended::Cancelled => "cancelled",
        }
    }
}

/// What came of a batch: the job's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) status: Ended,
    pub(crate) counts: Counts,
    pub(crate) usage: Tokens,
    pub(crate) output_file_id: Option<String>,
    pub(crate) error_file_id: Option<String>,
    pub(crate) model: Option<String>,
    #[serde(default)]
    pub(crate) errors: Vec<LineError>,
}

/// What a batch is about: its progress says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Validating,
    InProgress,
    Finalizing,
}

impl Phase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Phase::Validating => "validating",
            Phase::InProgress => "in_progress",
            Phase::Finalizing => "finalizing",
        }
    }

    /// The phase that a progress tells, and how many requests have failed.
    pub(crate) fn told(text: &str) -> Option<(Phase, u64)> {
        let (name, failed) = text.split_once(", ").unwrap_or((text, ""));
        let phases = [Phase::Validating, Phase::InProgress, Phase::Finalizing];
        let phase = phases.into_iter().find(|phase| phase.as_str() == name)?;
        Some((phase, failed.strip_suffix(" failed").and_then(|count| count.parse().ok()).unwrap_or(0)))
    }
}

/// How far a batch is: its checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    model: Option<String>,
    counts: Counts,
    usage: Tokens,
    /// Lines that are done, and where the next begins.
    lines: u64,
    offset: u64,
    output: Output,
    errors: Output,
    /// The files' names, fixed before either is made.
    output_file_id: String,
    error_file_id: String,
    /// How it ended, once that is known: the lines that are left get an error each.
    #[serde(default)]
    ended: Option<Ended>,
}

/// Runs batches.
pub(super) struct Batch {
    inner: Inner,
    files: Files,
    limits: LiveLimits,
}

/// A request that was made, and where its line ends.
struct Done {
    line: u64,
    next: u64,
    request: Request,
    answer: Option<Answer>,
}

impl Batch {
    pub(super) fn new(inner: Inner, files: Files, limits: LiveLimits) -> Batch {
        Batch { inner, files, limits }
    }

    async fn work(&self, run: &Run) -> Result<Value, Failure> {
        let order: Order = serde_json::from_value(run.payload().clone())
            .map_err(|error| Failure::Fatal(format!("this is no batch: {error}")))?;
        let file = match self.files.get(&run.job().tenant, &order.input_file_id).await {
            Ok(file) => Some(file),
            Err(StoreError::NoFile) => None,
            Err(error) => return Err(error.into()),
        };
        let gone = || Failure::Fatal("its input file is not there any more".to_owned());
        let resumed = run.resumed().and_then(|manifest| serde_json::from_value(manifest.clone()).ok());
        let mut state: State = match resumed {
            Some(state) => state,
            None => {
                tell(run, Phase::Validating, Counts::default());
                match self.check(&order, file.as_ref().ok_or_else(gone)?).await? {
                    Ok(state) => state,
                    Err(errors) => return result(&refused(errors)),
                }
            }
        };
        let ended = match (state.ended, &file) {
            (Some(ended), _) => ended,
            (None, Some(file)) => self.make_requests(run, &order, file, &mut state).await?,
            // What was done before it went is kept.
            (None, None) => Ended::Failed,
        };
        self.finish(run, &order, file.as_ref(), state, ended).await
    }

    /// Looks the whole file through: how many requests it has, or what is wrong with it.
    async fn check(&self, order: &Order, file: &File) -> Result<Result<State, Vec<LineError>>, StoreError> {
        let mut lines = self.lines(file, 0, 0).await?;
        let mut checker = check::Checker::new(&order.endpoint);
        while let Some(line) = lines.next().await? {
            checker.line(&line);
        }
        Ok(checker.end().map(|(total, model)| State {
            model,
            counts: Counts { total, ..Counts::default() },
            usage: Tokens::default(),
            lines: 0,
            offset: 0,
            output: Output::default(),
            errors: Output::default(),
            output_file_id: fresh_file_id(),
            error_file_id: fresh_file_id(),
            ended: None,
        }))
    }

    async fn lines(&self, file: &File, offset: u64, before: u64) -> Result<Lines, StoreError> {
        let longest = self.limits.now().max_body_bytes;
        Ok(Lines::new(self.files.read(file, offset).await?, offset, before, longest))
    }

    /// Makes the requests of all lines that are left, or until there is a reason to end.
    async fn make_requests(&self, run: &Run, order: &Order, file: &File, state: &mut State) -> Result<Ended, Failure> {
        let mut lines = self.lines(file, state.offset, state.lines).await?;
        let mut under_way = FuturesOrdered::new();
        let mut marked = Tick::now();
        let mut expired = pin!(tokio::time::sleep(time_left(run.job())));
        let (mut is_read, mut stop) = (false, None);
        loop {
            tell(run, Phase::InProgress, state.counts);
            while !is_read && stop.is_none() && under_way.len() < AT_ONCE {
                match lines.next().await? {
                    Some(line) => under_way.push_back(self.make(run, &order.endpoint, line)),
                    None => is_read = true,
                }
            }
            let Some(done) = (tokio::select! {
                done = under_way.next() => done,
                reason = run.stopped(), if stop.is_none() => {
                    stop = Some(reason);
                    match reason {
                        // What is under way is ended, so that no request is made twice; should that take too long, what
                        // came before is kept.
                        Stop::Preempted => mark(run, state).await?,
                        // Nobody waits for what is under way.
                        Stop::Cancelled | Stop::Lost => break,
                    }
                    continue;
                }
                // What is under way is not waited for: it may never be answered.
                () = &mut expired => return Ok(Ended::Expired),
            }) else {
                break;
            };
            if done.answer.is_none() {
                // It is to stop, and the server has no time for this one: from here on nothing is done.
                break;
            }
            take(run, state, done);
            let held = state.output.waiting.len() + state.errors.waiting.len();
            if held >= PART_BYTES || marked.until(Tick::now()) >= CHECKPOINT_EVERY {
                mark(run, state).await?;
                marked = Tick::now();
            }
        }
        match stop.or_else(|| run.is_stopped()) {
            Some(Stop::Lost) => Err(Failure::Stopped),
            Some(Stop::Cancelled) => Ok(Ended::Cancelled),
            Some(Stop::Preempted) if !(is_read && state.lines >= state.counts.total) => {
                mark(run, state).await?;
                Err(Failure::Stopped)
            }
            _ => Ok(Ended::Completed),
        }
    }

    async fn make(&self, run: &Run, endpoint: &str, line: Line) -> Done {
        // It was looked through before: what cannot be read now was changed since, and is no request.
        let request = line.text.as_deref().and_then(Request::read).unwrap_or_default();
        let body = Bytes::from(request.body.get().to_owned());
        let answer = self.inner.ask(run, Method::POST, endpoint, &body).await;
        Done { line: line.number, next: line.next, request, answer }
    }

    /// Makes the files, describes them, and says what came of the batch.
    async fn finish(
        &self,
        run: &Run,
        order: &Order,
        file: Option<&File>,
        mut state: State,
        ended: Ended,
    ) -> Result<Value, Failure> {
        tell(run, Phase::Finalizing, state.counts);
        state.ended = Some(ended);
        if ended != Ended::Completed {
            self.give_up(run, file, &mut state, ended).await?;
        }
        mark(run, &mut state).await?;
        let output = state.output.joined(run, &self.files, &state.output_file_id).await?;
        let errors = state.errors.joined(run, &self.files, &state.error_file_id).await?;
        let files = [(output, &state.output_file_id, "output"), (errors, &state.error_file_id, "error")];
        let made = files.into_iter().filter_map(|(bytes, id, what)| {
            let (bytes, name) = (bytes?, format!("batch_{}_{what}.jsonl", run.job().id));
            Some(Made { id, name, purpose: "batch_output", bytes, expires_after_s: order.output_expires_after_s })
        });
        describe(run, &self.files, &made.collect::<Vec<_>>()).await?;
        // The parts stay until the job is forgotten: before its end is written, another may have to join them again.
        result(&Outcome {
            status: ended,
            counts: state.counts,
            usage: state.usage,
            output_file_id: output.map(|_| state.output_file_id.clone()),
            error_file_id: errors.map(|_| state.error_file_id.clone()),
            model: state.model,
            errors: Vec::new(),
        })
    }

    /// The lines that are left get an error each, if they can be read.
    async fn give_up(&self, run: &Run, file: Option<&File>, state: &mut State, ended: Ended) -> Result<(), Failure> {
        let (code, message) = match ended {
            Ended::Expired => {
                ("batch_expired", "This request could not be executed before the completion window expired.")
            }
            _ => ("batch_cancelled", "This request was not executed, since the batch was cancelled."),
        };
        let Some(file) = file else {
            state.counts.failed = state.counts.total.saturating_sub(state.counts.completed);
            return Ok(());
        };
        let mut lines = self.lines(file, state.offset, state.lines).await?;
        while let Some(line) = lines.next().await? {
            let request = line.text.as_deref().and_then(Request::read).unwrap_or_default();
            state.errors.line(line::given_up(run, line.number, &request, code, message).as_bytes());
            (state.lines, state.offset) = (line.number, line.next);
            state.counts.failed += 1;
        }
        Ok(())
    }
}

impl Handler for Batch {
    fn kind(&self) -> &'static str {
        JobKind::Batch.as_str()
    }

    fn check(&self, payload: &Value) -> Result<(), String> {
        let order: Order =
            serde_json::from_value(payload.clone()).map_err(|error| format!("this is no batch: {error}"))?;
        if ENDPOINTS.contains(&order.endpoint.as_str()) {
            Ok(())
        } else {
            Err(format!("`endpoint` has to be one of {}", ENDPOINTS.join(", ")))
        }
    }

    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(self.work(run))
    }

    fn cancel_time(&self) -> Duration {
        CANCEL_TIME
    }
}

/// How long a batch has yet. By the host's own clock: it has a day.
fn time_left(job: &Job) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = now.saturating_sub(Duration::from_millis(job.created_ms.max(0).unsigned_abs()));
    Duration::from_millis(WINDOW_MS).saturating_sub(since)
}

fn refused(errors: Vec<LineError>) -> Outcome {
    Outcome {
        status: Ended::Failed,
        counts: Counts::default(),
        usage: Tokens::default(),
        output_file_id: None,
        error_file_id: None,
        model: None,
        errors,
    }
}

fn result(outcome: &Outcome) -> Result<Value, Failure> {
    serde_json::to_value(outcome).map_err(|error| Failure::Fatal(format!("what came of it has no form: {error}")))
}

fn tell(run: &Run, phase: Phase, counts: Counts) {
    let done = counts.completed + counts.failed;
    let message = match counts.failed {
        0 => phase.as_str().to_owned(),
        failed => format!("{}, {failed} failed", phase.as_str()),
    };
    run.progress(Progress { done, total: Some(counts.total), message });
}

/// Takes what came of a line, in the order of the lines.
fn take(run: &Run, state: &mut State, done: Done) {
    let Some(answer) = done.answer else { return };
    let written = line::answered(run, done.line, &done.request, &answer);
    if answer.status == StatusCode::OK {
        let tokens = Tokens::of(&answer.body);
        state.usage.input += tokens.input;
        state.usage.output += tokens.output;
        run.used(Usage { device_us: 0, tokens: tokens.input + tokens.output });
        state.counts.completed += 1;
        state.output.line(written.as_bytes());
    } else {
        state.counts.failed += 1;
        state.errors.line(written.as_bytes());
    }
    (state.lines, state.offset) = (done.line, done.next);
}

async fn mark(run: &Run, state: &mut State) -> Result<(), JobsError> {
    state.output.flush(run, "output").await?;
    state.errors.flush(run, "errors").await?;
    let manifest = serde_json::to_value(&*state).map_err(|error| JobsError::Unreadable(error.to_string()))?;
    run.checkpoint(&manifest).await?;
    state.output.discard(run).await;
    state.errors.discard(run).await;
    Ok(())
}
