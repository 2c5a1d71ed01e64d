//! The rule: who is admitted, what each step computes, who gives way. No threads, no clock.

use std::sync::Arc;
use std::time::Duration;

use halny_engine::{Decoder, DecoderLimits, EngineError, LanguageModel, RunReport, StepToken};
use halny_types::{Priority, Tick};

use crate::budget::StepTimes;
use crate::fairness::{READ, WRITTEN, Waiting};
use crate::job::{Gap, Job, Next, Running, Sink};
use crate::memory::Memory;
use crate::prefixes::Prefixes;
use crate::refusal::GenerationError;
use crate::request::Request;

/// Cells kept for what an admitted request will write, as far as it may write that much: enough that
/// it is not preempted at once, little enough that the cache is used.
const RESERVE_TOKENS: usize = 64;

/// So many tokens are worth waiting for while another request reads them.
const SHARED_MIN: usize = 16;

/// Requests that wait for another's prefix are looked through no further than this.
const DEFERRED_MAX: usize = 64;

/// What a scheduler may do in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Requests that run at once.
    pub running: usize,
    /// How many times as long a step may take, while others write, for reading one prompt: 2 doubles
    /// the time between two tokens. Each more prompt that waits may add as much again.
    pub stretch: f64,
}

/// What one step did.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// Tokens of requests that wrote.
    pub written: usize,
    /// Tokens of prompts that were read.
    pub read: usize,
    /// Time the device took.
    pub device_time: Duration,
    /// Prompt tokens of the requests that were admitted, and how many of them were known.
    pub admitted: (usize, usize),
    /// Requests admitted for the first time: those of the background apart.
    pub admissions: usize,
    /// Background requests admitted for the first time.
    pub background_admissions: usize,
    /// Requests that gave way.
    pub preempted: usize,
    /// From arrival to first token, of those that got it.
    pub first_tokens: Vec<Duration>,
    /// From token to token, of the others.
    pub gaps: Vec<Duration>,
}

/// Writes for many requests with one decoder.
pub struct Scheduler<S> {
    settings: Settings,
    limits: DecoderLimits,
    model: Arc<dyn LanguageModel>,
    prefixes: Prefixes,
    memory: Memory,
    waiting: Waiting<Box<Job<S>>>,
    running: Vec<Running<S>>,
    times: StepTimes,
    /// The adapter of the last step.
    adapter: Option<usize>,
    next_order: u64,
}

/// What a step computes: the tokens, and the parts that running requests have in it.
#[derive(Default)]
struct Plan {
    adapter: Option<usize>,
    tokens: Vec<StepToken>,
    /// Which running request, how many tokens, whether its logits are wanted; in the tokens' order.
    parts: Vec<Part>,
    written: usize,
}

#[derive(Clone, Copy)]
struct Part {
    running: usize,
    count: usize,
    wants_logits: bool,
}

impl<S: Sink> Scheduler<S> {
    /// Nothing asked yet.
    #[must_use]
    pub fn new(model: Arc<dyn LanguageModel>, limits: DecoderLimits, settings: Settings) -> Scheduler<S> {
        let running = settings.running.min(limits.sequences).min(limits.step_tokens).max(1);
        Scheduler {
            settings: Settings { running, ..settings },
            limits,
            model,
            prefixes: Prefixes::new(limits),
            memory: Memory::new(limits.cells),
            waiting: Waiting::default(),
            running: Vec::new(),
            times: StepTimes::default(),
            adapter: None,
            next_order: 0,
        }
    }

    /// Tokens that one request may have, read and written.
    #[must_use]
    pub fn context(&self) -> usize {
        self.limits.context.min(self.limits.cells)
    }

    /// Takes a request. It has been checked ([`check`]).
    pub fn submit(&mut self, request: Request, sink: S) {
        let job = Box::new(Job::new(self.next_order, request, sink));
        self.next_order += 1;
        self.waiting.push(&job.space.tenant.clone(), job.priority(), job);
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Background requests among them.
    #[must_use]
    pub fn waiting_background(&self) -> usize {
        self.waiting.len_of(Priority::Batch)
    }

    /// Requests that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Cells that running requests hold.
    #[must_use]
    pub fn cells_running(&self) -> usize {
        self.limits.cells - self.prefixes.available()
    }

    /// Cells that hold something, remembered prefixes included.
    #[must_use]
    pub fn cells_taken(&self) -> usize {
        self.prefixes.taken()
    }

    /// Forgets what is remembered of requests that are done.
    pub fn forget(&mut self, decoder: &mut dyn Decoder) {
        self.prefixes.forget(decoder);
    }

    /// Computes one step for whoever is next; nothing when nobody asks.
    pub fn step(&mut self, decoder: &mut dyn Decoder, clock: &dyn Fn() -> Tick) -> StepReport {
        let mut report = StepReport::default();
        self.let_go(decoder, clock());
        self.admit(decoder, &mut report);
        let plan = self.plan(decoder, &mut report);
        if plan.tokens.is_empty() {
            return report;
        }
        self.adapter = plan.adapter;
        match decoder.step(&plan.tokens, plan.adapter) {
            Ok(ran) => self.advance(decoder, &plan, ran, clock(), &mut report),
            Err(error) => self.one_by_one(decoder, &plan, &error, clock, &mut report),
        }
        report
    }

    /// Lets go of requests whose client has gone, or whose time is over.
    fn let_go(&mut self, decoder: &mut dyn Decoder, now: Tick) {
        self.waiting.retain(|job| {
            let late = job.is_late(now);
            if late {
                job.fail(GenerationError::Late);
            }
            !late && !job.is_gone()
        });
        for place in (0..self.running.len()).rev() {
            let job = &mut self.running[place].job;
            let late = job.is_late(now);
            if late {
                job.fail(GenerationError::Late);
            }
            if late || job.is_gone() {
                self.end(decoder, place);
            }
        }
    }

    /// Admits whoever is next for as long as there is room. Background requests that run make room for
    /// those of other classes.
    fn admit(&mut self, decoder: &mut dyn Decoder, report: &mut StepReport) {
        let mut deferred = Vec::new();
        while deferred.len() < DEFERRED_MAX {
            let full = self.running.len() >= self.settings.running;
            if full && !(self.runs_background() && self.waiting.len() > self.waiting_background()) {
                break;
            }
            let Some(job) = self.waiting.pop() else { break };
            let most = job.tokens.len() - 1;
            let (known, idle) = self.prefixes.known(&job.space, &job.tokens, most);
            if self.is_being_read(&job, known) {
                deferred.push(job);
                continue;
            }
            if full {
                self.put_back(job);
                self.preempt_youngest(decoder, report);
                continue;
            }
            let left = job.request.max_tokens.saturating_sub(job.usage.written_tokens);
            let needed = job.tokens.len() - known + left.min(RESERVE_TOKENS);
            let promised: usize = self.running.iter().map(Running::due).sum();
            let fits = needed + idle + promised <= self.prefixes.available();
            // A request that does not fit beside others fits alone.
            if !fits && !self.running.is_empty() {
                let gives_way = job.priority() > Priority::Batch && self.runs_background();
                self.put_back(job);
                if !gives_way {
                    break;
                }
                self.preempt_youngest(decoder, report);
                continue;
            }
            match self.prefixes.open(decoder, &job.space, &job.tokens, most) {
                None => {
                    self.put_back(job);
                    break;
                }
                Some((sequence, shared)) => {
                    self.memory.shared(idle.min(shared));
                    self.start(job, sequence, shared, report);
                }
            }
        }
        for job in deferred.into_iter().rev() {
            self.put_back(job);
        }
    }

    fn put_back(&mut self, job: Box<Job<S>>) {
        self.waiting.push_front(&job.space.tenant.clone(), job.priority(), job);
    }

    fn start(
        &mut self,
        mut job: Box<Job<S>>,
        sequence: halny_engine::SequenceId,
        shared: usize,
        report: &mut StepReport,
    ) {
        if !job.charged {
            job.charged = true;
            job.usage.shared_tokens = shared;
            match job.priority() {
                Priority::Batch => report.background_admissions += 1,
                Priority::Interactive | Priority::System => report.admissions += 1,
            }
            report.admitted.0 += job.tokens.len();
            report.admitted.1 += shared;
            self.waiting.charge(&job.space.tenant, READ * (job.tokens.len() - shared) as u64);
        }
        self.running.push(Running { job, sequence, computed: shared });
    }

    /// Whether a running request is reading what this one would have to read too: then it is cheaper
    /// to wait for it.
    fn is_being_read(&self, job: &Job<S>, known: usize) -> bool {
        self.limits.shares
            && self.running.iter().any(|other| {
                other.due() > 1 && other.job.space == job.space && {
                    let equal = other.job.tokens.iter().zip(&job.tokens).take_while(|(a, b)| a == b).count();
                    equal >= known.max(other.computed) + SHARED_MIN
                }
            })
    }

    /// What the next step computes. Makes room for it.
    fn plan(&mut self, decoder: &mut dyn Decoder, report: &mut StepReport) -> Plan {
        loop {
            let plan = self.draft();
            if !plan.tokens.is_empty() && self.prefixes.make_room(decoder, plan.tokens.len()) {
                return plan;
            }
            if self.running.is_empty() {
                return Plan::default();
            }
            if self.running.len() > 1 {
                self.preempt_youngest(decoder, report);
            } else {
                // It has all cells to itself: it was never checked, or the decoder has fewer than it says.
                let job = &mut self.running[0].job;
                tracing::error!(request = %job.request.context.id, "a request does not fit into the cache alone");
                job.fail(GenerationError::Failed);
                self.end(decoder, 0);
            }
        }
    }

    /// What the next step should compute. Empty when not even one token can be without someone giving way.
    fn draft(&self) -> Plan {
        let mut plan = Plan { adapter: self.next_adapter(), ..Plan::default() };
        let mut members: Vec<usize> =
            (0..self.running.len()).filter(|place| self.running[*place].job.request.adapter == plan.adapter).collect();
        // Prompts of the background are read last.
        members.sort_by_key(|place| {
            let job = &self.running[*place].job;
            (std::cmp::Reverse(job.priority()), job.order)
        });
        let cells = self.prefixes.available();
        for place in members.iter().filter(|place| self.running[**place].due() == 1) {
            plan.add(&self.running, *place, 1);
        }
        plan.written = plan.tokens.len();
        let writing = self.running.iter().filter(|running| running.due() == 1).count();
        let reading = self.running.len() - writing;
        let mut budget = self.limits.step_tokens - plan.written;
        if writing > 0 {
            budget = budget.min(self.times.read_beside(writing, reading, self.settings.stretch));
        }
        for place in members {
            let due = self.running[place].due();
            let room = cells.saturating_sub(plan.tokens.len());
            let count = due.min(budget).min(room);
            if due > 1 && count > 0 {
                plan.add(&self.running, place, count);
                budget -= count;
            }
        }
        plan
    }

    /// Adapters take turns, a step each.
    fn next_adapter(&self) -> Option<usize> {
        let mut wanted: Vec<Option<usize>> = self.running.iter().map(|running| running.job.request.adapter).collect();
        wanted.sort_unstable();
        let after = wanted.iter().find(|adapter| **adapter > self.adapter);
        after.or(wanted.first()).copied().flatten()
    }

    fn runs_background(&self) -> bool {
        self.running.iter().any(|running| running.job.priority() == Priority::Batch)
    }

    /// The youngest of the least urgent gives up its cells and waits again. The last one is asked to only
    /// for a more urgent one: it has all cells to itself.
    fn preempt_youngest(&mut self, decoder: &mut dyn Decoder, report: &mut StepReport) {
        let youngest = (0..self.running.len()).max_by_key(|place| {
            let job = &self.running[*place].job;
            (std::cmp::Reverse(job.priority()), job.order)
        });
        let Some(place) = youngest else { return };
        let Running { mut job, sequence, .. } = self.running.remove(place);
        self.prefixes.close(decoder, sequence);
        job.usage.preemptions += 1;
        report.preempted += 1;
        self.put_back(job);
    }

    /// The step ran: what it computed is there, and who wanted logits gets a token.
    fn advance(&mut self, decoder: &mut dyn Decoder, plan: &Plan, ran: RunReport, now: Tick, report: &mut StepReport) {
        let total = plan.tokens.len();
        report.device_time += ran.device_time;
        report.written += plan.written;
        report.read += total - plan.written;
        self.times.saw(plan.written, total - plan.written, self.prefixes.taken(), ran.device_time);
        self.memory.carried(total, self.prefixes.remembered());
        let mut spent = Duration::ZERO;
        let mut done = 0;
        let mut row = 0;
        let mut ended = Vec::new();
        for part in &plan.parts {
            let running = &mut self.running[part.running];
            let fresh = &running.job.tokens[running.computed..running.computed + part.count];
            self.prefixes.extend(running.sequence, fresh);
            running.computed += part.count;
            // Shares are differences of rounded sums, so that they add up to the whole.
            done += part.count;
            let part_done = done as f64 / total as f64;
            let until = if done == total { ran.device_time } else { ran.device_time.mul_f64(part_done) };
            running.job.usage.device_time += until.saturating_sub(spent);
            spent = until;
            if part.wants_logits {
                let (next, gap) = running.job.write(self.model.as_ref(), decoder.logits(row), now);
                row += 1;
                match gap {
                    Gap::First(took) => report.first_tokens.push(took),
                    Gap::Between(took) => report.gaps.push(took),
                }
                let tenant = running.job.space.tenant.clone();
                self.waiting.charge(&tenant, WRITTEN);
                if matches!(next, Next::Done) {
                    ended.push(part.running);
                }
            }
        }
        ended.sort_unstable();
        for place in ended.into_iter().rev() {
            self.end(decoder, place);
        }
    }

    /// The step failed: each request's part runs alone, and only who fails alone has failed.
    fn one_by_one(
        &mut self,
        decoder: &mut dyn Decoder,
        plan: &Plan,
        error: &EngineError,
        clock: &dyn Fn() -> Tick,
        report: &mut StepReport,
    ) {
        tracing::warn!(tokens = plan.tokens.len(), requests = plan.parts.len(), cause = cause(error), "a step failed");
        let orders: Vec<u64> = plan.parts.iter().map(|part| self.running[part.running].job.order).collect();
        for order in orders {
            let Some(place) = self.running.iter().position(|running| running.job.order == order) else { continue };
            let mut alone = Plan { adapter: plan.adapter, ..Plan::default() };
            let count = self.running[place].due().min(self.limits.step_tokens).min(self.prefixes.available());
            alone.add(&self.running, place, count);
            alone.written = usize::from(self.running[place].due() == 1);
            let ran = if self.prefixes.make_room(decoder, count) {
                decoder.step(&alone.tokens, alone.adapter)
            } else {
                Err(EngineError::Memory)
            };
            match ran {
                Ok(ran) => self.advance(decoder, &alone, ran, clock(), report),
                Err(error) => {
                    let job = &mut self.running[place].job;
                    tracing::error!(request = %job.request.context.id, cause = cause(&error), "the model failed on a request");
                    job.fail(GenerationError::Failed);
                    self.end(decoder, place);
                }
            }
        }
    }

    /// A running request has ended; its tokens are remembered as far as that pays.
    fn end(&mut self, decoder: &mut dyn Decoder, place: usize) {
        let running = self.running.remove(place);
        self.prefixes.close(decoder, running.sequence);
        let limit = self.memory.request_ended(self.times.costs());
        self.prefixes.trim(decoder, limit);
    }
}

impl Plan {
    fn add<S>(&mut self, running: &[Running<S>], place: usize, count: usize) {
        let member = &running[place];
        let wants_logits = count == member.due();
        let end = member.computed + count;
        for (position, token) in member.job.tokens[..end].iter().enumerate().skip(member.computed) {
            self.tokens.push(StepToken {
                token: *token,
                position: u32::try_from(position).unwrap_or(u32::MAX),
                sequence: member.sequence,
                wants_logits: wants_logits && position + 1 == end,
            });
        }
        self.parts.push(Part { running: place, count, wants_logits });
    }
}

/// Whether a request can ever be answered.
///
/// # Errors
/// When its prompt is empty, has a token the model does not know, or does not fit together with what
/// is to be written.
pub fn check(request: &Request, vocabulary: usize, context: usize) -> Result<(), GenerationError> {
    if request.prompt.is_empty() {
        return Err(GenerationError::Empty);
    }
    if let Some(token) = request.prompt.iter().find(|token| **token as usize >= vocabulary) {
        let last = u32::try_from(vocabulary.saturating_sub(1)).unwrap_or(u32::MAX);
        return Err(GenerationError::UnknownToken { token: *token, last });
    }
    let (prompt, max_tokens) = (request.prompt.len(), request.max_tokens);
    if prompt.saturating_add(max_tokens) > context {
        return Err(GenerationError::TooLong { prompt, max_tokens, limit: context });
    }
    Ok(())
}

fn cause(error: &EngineError) -> String {
    match error {
        EngineError::Run { cause } => cause.clone(),
        other => other.to_string(),
    }
}
