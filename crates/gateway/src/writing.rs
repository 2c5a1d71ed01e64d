//! From a prompt to what a language model writes: what every protocol does between reading a request
//! and showing text. Prompts are tokenised and grammars compiled in the CPU pool.

use std::sync::Arc;
use std::task::Poll;

use halny_engine::{LanguageModel, Specials, TokenId};
use halny_generation::grammar::Format;
use halny_generation::lane::Generation;
use halny_generation::refusal::GenerationError;
use halny_generation::request::{Event, Finished, Request, Written};
use halny_generation::sampling::SamplingOptions;
use halny_generation::text::StopStrings;
use halny_residency::Writing;
use halny_types::{RequestContext, Tick};
use http::HeaderMap;

use crate::{ApiError, Shared, prepare};

/// Answers that one request may ask for: prompts times `n`.
pub(crate) const ANSWERS_MAX: usize = 128;

/// What is to be continued.
#[derive(Clone, Debug)]
pub(crate) enum Prompt {
    /// A text as someone wrote it: names of special tokens in it are text.
    Text(String),
    /// What a template made: names of special tokens mean these tokens.
    Rendered(String),
    /// Tokens of the model's own vocabulary.
    Tokens(Vec<TokenId>),
}

impl Prompt {
    fn bytes(&self) -> usize {
        match self {
            Prompt::Text(text) | Prompt::Rendered(text) => text.len(),
            Prompt::Tokens(tokens) => tokens.len(),
        }
    }

    /// Its tokens, where it may have `fits` of them.
    fn tokens(self, model: &dyn LanguageModel, fits: usize) -> Result<Vec<TokenId>, GenerationError> {
        let most = fits.saturating_mul(model.card().token_bytes_max);
        if !matches!(self, Prompt::Tokens(_)) && self.bytes() > most {
            return Err(GenerationError::TooManyBytes { bytes: self.bytes(), most, limit: fits });
        }
        Ok(match self {
            Prompt::Text(text) => model.tokenise(&text, Specials::AsText, true),
            Prompt::Rendered(text) => {
                // A template that writes the beginning itself must not get it twice.
                let begins = model.card().begin.as_ref().is_some_and(|(_, name)| text.starts_with(name.as_str()));
                model.tokenise(&text, Specials::Parsed, !begins)
            }
            Prompt::Tokens(tokens) => tokens,
        })
    }
}

/// What is asked of a language model.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// What is to be continued, each by itself.
    pub(crate) prompts: Vec<Prompt>,
    /// Answers to each.
    pub(crate) answers: usize,
    /// How tokens are chosen.
    pub(crate) sampling: SamplingOptions,
    /// Tokens an answer may have; without it, what the model's entry says, or what fits.
    pub(crate) max_tokens: Option<usize>,
    /// Texts that end an answer.
    pub(crate) stop: StopStrings,
    /// Whether the stop string is part of the text.
    pub(crate) include_stop: bool,
    /// Whether the model's own end is written on over.
    pub(crate) ignore_end: bool,
    /// What the text has to look like.
    pub(crate) format: Option<Format>,
    /// The adapter, by its place.
    pub(crate) adapter: Option<usize>,
}

/// Answers that are being written side by side. Dropping it frees what they hold on the device.
pub(crate) struct Answers {
    generations: Vec<Option<Generation>>,
    /// Where to look first, so that no answer goes first each time.
    first: usize,
    /// Names the request.
    pub(crate) context: RequestContext,
    /// The model, which stays loaded until the last answer is written.
    pub(crate) writing: Arc<Writing>,
    /// Answers to each prompt: answer `i` is to prompt `i / per_prompt`.
    pub(crate) per_prompt: usize,
}

impl Answers {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.generations.len()
    }

    /// What happens next, and in which answer; `None` when all have ended.
    pub(crate) async fn next(&mut self) -> Option<(usize, Result<Event, GenerationError>)> {
        std::future::poll_fn(|context| {
            let count = self.generations.len();
            let mut open = false;
            for step in 0..count {
                let place = (self.first + step) % count;
                let Some(generation) = self.generations.get_mut(place).and_then(Option::as_mut) else { continue };
                open = true;
                let Poll::Ready(event) = generation.poll_next(context) else { continue };
                // A channel that closes without an end belongs to a thread that is gone.
                let event = event.unwrap_or(Err(GenerationError::Closed));
                if !matches!(event, Ok(Event::Text { .. })) {
                    self.generations[place] = None;
                }
                self.first = (place + 1) % count;
                return Poll::Ready(Some((place, event)));
            }
            if open { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    }
}

/// Gives the request to the model.
///
/// # Errors
/// When a header is not what it should be, when the request has no chance, when its grammar or its
/// prompt cannot be used.
pub(crate) async fn write(
    shared: &Shared,
    headers: &HeaderMap,
    arrived: Tick,
    writing: Arc<Writing>,
    ask: Ask,
) -> Result<Answers, ApiError> {
    let profile = shared.profile(headers);
    let context = shared.context(headers, arrived, writing.deadline(profile))?;
    write_within(shared, context, profile, writing, ask).await
}

/// The same of a request whose context is made already.
///
/// # Errors
/// As [`write`], but for the headers.
pub(crate) async fn write_within(
    shared: &Shared,
    context: RequestContext,
    profile: Option<&str>,
    writing: Arc<Writing>,
    ask: Ask,
) -> Result<Answers, ApiError> {
    if ask.prompts.is_empty() || ask.prompts.len().saturating_mul(ask.answers) > ANSWERS_MAX || ask.answers == 0 {
        let text = format!(
            "{} prompts with {} answers each; one request may ask for 1 to {ANSWERS_MAX} answers in all",
            ask.prompts.len(),
            ask.answers
        );
        return Err(ApiError::invalid(text).with_param("n"));
    }
    ask.sampling.check(writing.model.card().vocabulary).map_err(|error| {
        let param = error.param();
        ApiError::from(error).with_param(param)
    })?;
    writing.admit(&context, profile)?;
    let (fits, default) = (writing.context(profile), writing.max_tokens);
    let bytes: usize = ask.prompts.iter().map(Prompt::bytes).sum();
    let small = bytes <= prepare::INLINE_BYTES_MAX && ask.format.is_none();
    let per_prompt = ask.answers;
    let (model, grammars, of) = (Arc::clone(&writing.model), Arc::clone(&writing.grammars), context.clone());
    let make = move || -> Result<Vec<Request>, ApiError> {
        let grammar = ask.format.as_ref().map(|format| grammars.compile(format)).transpose()?;
        let mut requests = Vec::with_capacity(ask.prompts.len() * per_prompt);
        for prompt in ask.prompts {
            let prompt: Arc<[TokenId]> = prompt.tokens(model.as_ref(), fits)?.into();
            let left = fits.saturating_sub(prompt.len()).max(1);
            let request = Request {
                context: of.clone(),
                max_tokens: ask.max_tokens.unwrap_or_else(|| default.unwrap_or(left).min(left)),
                prompt,
                sampling: ask.sampling.clone(),
                answer: 0,
                stop: ask.stop.clone(),
                include_stop: ask.include_stop,
                ignore_end: ask.ignore_end,
                grammar: grammar.clone(),
                adapter: ask.adapter,
            };
            requests.extend((0..per_prompt as u64).map(|answer| Request { answer, ..request.clone() }));
        }
        Ok(requests)
    };
    let requests = shared.pool.run_unless(small, make).await??;
    // If one is refused, those before it are dropped, and with them what they hold.
    let submit = |request: &Request| Ok(Some(writing.submit(request, profile)?));
    let generations = requests.iter().map(submit).collect::<Result<Vec<_>, ApiError>>()?;
    Ok(Answers { generations, first: 0, context, writing, per_prompt })
}

/// An answer that is complete.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) text: String,
    pub(crate) written: Vec<Written>,
    pub(crate) finished: Finished,
}

impl Gathered {
    /// About how many bytes it is in JSON.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len() + self.written.iter().map(|written| 64 * (1 + written.top.len())).sum::<usize>()
    }
}

/// Waits for all answers.
///
/// # Errors
/// What the first that fails says; the others are given up.
pub(crate) async fn gather(mut answers: Answers) -> Result<Vec<Gathered>, ApiError> {
    let mut texts: Vec<(String, Vec<Written>, Option<Finished>)> = vec![Default::default(); answers.count()];
    while let Some((place, event)) = answers.next().await {
        let Some(answer) = texts.get_mut(place) else { continue };
        match event? {
            Event::Text { text, written } => {
                answer.0.push_str(&text);
                answer.1.extend(written);
            }
            Event::Finished(finished) => answer.2 = Some(finished),
        }
    }
    let whole = |(text, written, finished): (String, Vec<Written>, Option<Finished>)| {
        let finished = finished.ok_or(GenerationError::Closed)?;
        Ok(Gathered { text, written, finished })
    };
    texts.into_iter().map(whole).collect()
}
