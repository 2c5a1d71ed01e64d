//! A request on its way: its tokens, how they are chosen, what of the text has been sent.

use halny_engine::{LanguageModel, SequenceId, TokenId};
use halny_types::{Priority, Tick};

use crate::grammar::Grammar;
use crate::prefixes::Space;
use crate::refusal::GenerationError;
use crate::request::{Event, FinishReason, Finished, Request, Usage, Written};
use crate::sampling::Sampler;
use crate::text::Emitter;

/// Where a request's events go.
pub trait Sink {
    /// Takes an event, or the error that ends the request. Never blocks.
    fn send(&mut self, event: Result<Event, GenerationError>);

    /// Whether nobody listens any more.
    fn is_gone(&self) -> bool;
}

/// A request, and how far it is. It keeps everything that a preempted sequence needs to go on.
pub(crate) struct Job<S> {
    /// Requests are numbered as they arrive.
    pub(crate) order: u64,
    pub(crate) request: Request,
    /// The prompt and what was written.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) space: Space,
    pub(crate) usage: Usage,
    /// Whether its tenant has been charged for reading the prompt.
    pub(crate) charged: bool,
    sampler: Sampler,
    grammar: Option<Grammar>,
    emitter: Emitter,
    written: Vec<Written>,
    last_token: Option<Tick>,
    sink: S,
}

/// A job that holds cells.
pub(crate) struct Running<S> {
    pub(crate) job: Box<Job<S>>,
    pub(crate) sequence: SequenceId,
    /// How many of its tokens have been computed.
    pub(crate) computed: usize,
}

impl<S> Running<S> {
    /// Tokens that are still to be computed. One: it writes. More: it is being read.
    pub(crate) fn due(&self) -> usize {
        self.job.tokens.len() - self.computed
    }
}

/// What came of one token.
pub(crate) enum Next {
    /// It goes on.
    More,
    /// It has ended and said so.
    Done,
}

/// The time between two tokens of a request, or from its arrival to the first.
pub(crate) enum Gap {
    First(std::time::Duration),
    Between(std::time::Duration),
}

impl<S: Sink> Job<S> {
    pub(crate) fn new(order: u64, mut request: Request, sink: S) -> Job<S> {
        let grammar = request.grammar.take();
        let tokens = request.prompt.to_vec();
        let space = Space { tenant: request.context.tenant.clone(), adapter: request.adapter };
        let usage = Usage { prompt_tokens: tokens.len(), ..Usage::default() };
        let sampler = Sampler::new(&request.sampling, &tokens, request.answer);
        let emitter = Emitter::new(request.stop.clone(), request.include_stop);
        Job {
            order,
            request,
            tokens,
            space,
            usage,
            charged: false,
            sampler,
            grammar,
            emitter,
            written: Vec::new(),
            last_token: None,
            sink,
        }
    }

    pub(crate) fn priority(&self) -> Priority {
        self.request.context.priority
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.sink.is_gone()
    }

    pub(crate) fn is_late(&self, now: Tick) -> bool {
        now >= self.request.context.deadline
    }

    /// Ends it with an error.
    pub(crate) fn fail(&mut self, error: GenerationError) {
        self.sink.send(Err(error));
    }

    /// Chooses the next token from the logits, and sends what may be shown of it.
    pub(crate) fn write(&mut self, model: &dyn LanguageModel, logits: &[f32], now: Tick) -> (Next, Gap) {
        let gap = match self.last_token.replace(now) {
            None => {
                self.usage.first_token = self.request.context.arrived.until(now);
                Gap::First(self.usage.first_token)
            }
            Some(last) => Gap::Between(last.until(now)),
        };
        (
            self.write_token(model, logits).unwrap_or_else(|error| {
                self.fail(error);
                Next::Done
            }),
            gap,
        )
    }

    fn write_token(&mut self, model: &dyn LanguageModel, logits: &[f32]) -> Result<Next, GenerationError> {
        let allowed = match &mut self.grammar {
            Some(grammar) => Some(grammar.mask().map_err(|error| GenerationError::Grammar(error.to_string()))?),
            None => None,
        };
        let picked = self.sampler.pick(logits, allowed).map_err(|error| GenerationError::Grammar(error.to_string()))?;
        let token = picked.token;
        self.tokens.push(token);
        self.usage.written_tokens += 1;
        if let Some(logprobs) = picked.logprob {
            self.written.push(Written { token, logprob: logprobs.chosen, top: logprobs.top });
        }
        if model.ends(token) && !self.request.ignore_end {
            return Ok(self.finish(FinishReason::End));
        }
        let mut complete = false;
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token).map_err(|error| GenerationError::Grammar(error.to_string()))?;
            complete = grammar.is_complete();
        }
        let emitted = self.emitter.push(model.piece(token));
        if let Some(place) = emitted.stopped {
            self.send_text(emitted.text);
            return Ok(self.finish(FinishReason::StopString(place)));
        }
        if complete || self.usage.written_tokens >= self.request.max_tokens {
            self.send_text(emitted.text);
            return Ok(self.finish(if complete { FinishReason::End } else { FinishReason::Length }));
        }
        self.send_text(emitted.text);
        Ok(Next::More)
    }

    fn send_text(&mut self, text: String) {
        if !text.is_empty() || !self.written.is_empty() {
            let written = std::mem::take(&mut self.written);
            self.sink.send(Ok(Event::Text { text, written }));
        }
    }

    fn finish(&mut self, reason: FinishReason) -> Next {
        let rest =
            if matches!(reason, FinishReason::StopString(_)) { String::new() } else { self.emitter.finish().text };
        self.send_text(rest);
        self.sink.send(Ok(Event::Finished(Finished { reason, usage: self.usage })));
        Next::Done
    }
}
