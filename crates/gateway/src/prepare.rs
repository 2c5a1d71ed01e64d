//! From a request's values to a model's answers: what every protocol does between reading a request
//! and writing its answer. Values become items in the CPU pool.

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use halny_batching::{ItemError, Served};
use halny_residency::{Answers, Inference, LoadedModel, Writing};
use halny_tasks::{Answer, Item, Task};
use halny_types::project::TaskKind;
use halny_types::{Fault, Priority, RequestContext, Tick};
use http::HeaderMap;

use crate::{ApiError, Shared};

/// Text this short is tokenised where it is: at about 1 microsecond a byte it takes a fraction of
/// the 500 microseconds an async thread may be kept, and handing it over would cost as much.
pub(crate) const INLINE_BYTES_MAX: usize = 256;

/// So few values are looked through where they are: each costs some microseconds however short.
const INLINE_VALUES_MAX: usize = 8;

/// Values of one request are prepared in pieces of at least this size, so that all threads share in.
const PIECE_BYTES_MIN: usize = 16 * 1024;

/// Pieces of one request at most: the pool's queue is there for many requests.
const PIECES_MAX: usize = 16;

/// The model of that name, which does one of the `wanted` tasks.
///
/// # Errors
/// When there is none, it is not ready, or it does something else: then where that is asked for.
pub fn model(shared: &Shared, name: &str, wanted: &[TaskKind]) -> Result<Arc<Inference>, ApiError> {
    let model = shared.model(name)?;
    match model.inference() {
        Some(inference) if wanted.contains(&model.kind()) => Ok(Arc::clone(inference)),
        _ => Err(elsewhere(&model)),
    }
}

/// The language model of that name, and the adapter that `model:adapter` names, by its place.
///
/// # Errors
/// When there is none, it is not ready, or it does something else: then where that is asked for.
pub(crate) fn writer(shared: &Shared, name: &str) -> Result<(Arc<Writing>, Option<usize>), ApiError> {
    let (name, adapter) = name.split_once(':').map_or((name, None), |(name, adapter)| (name, Some(adapter)));
    let model = shared.model(name)?;
    let writing = model.writing().map(Arc::clone).ok_or_else(|| elsewhere(&model))?;
    let Some(adapter) = adapter else { return Ok((writing, None)) };
    match writing.adapters.iter().position(|known| known.as_str() == adapter) {
        Some(place) => Ok((writing, Some(place))),
        None => {
            let known = writing.adapters.iter().map(halny_types::ModelName::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
            let text = format!("the model {:?} has no adapter of that name; {known}", writing.name.as_str());
            Err(ApiError::new(Fault::Missing, text).with_param("model"))
        }
    }
}

/// The model does something else than was asked.
fn elsewhere(model: &LoadedModel) -> ApiError {
    let kind = model.kind();
    let place = match kind {
        TaskKind::Embed => "/v1/embeddings",
        TaskKind::Rerank => "/v1/rerank",
        TaskKind::ClassifyText | TaskKind::ClassifyImage => "/halny/v1/classify",
        TaskKind::Tensor => "/v2/models/{model}/infer",
        TaskKind::Generate => "/v1/chat/completions or /v1/completions",
    };
    let text = format!("the model {:?} is for {:?}; POST to {place} instead", model.name.as_str(), kind.as_str());
    ApiError::invalid(text).with_param("model")
}

/// A request whose model is known and would take it, before any of its values is looked into.
pub struct Admitted<'a> {
    shared: &'a Shared,
    model: &'a Arc<Inference>,
    /// Who asks, and until when.
    pub context: RequestContext,
    profile: Option<&'a str>,
}

/// Asks the model whether it would take a request that arrived at `arrived`, and has at most
/// `limit` from then on where its protocol says so.
///
/// # Errors
/// When a header is not what it should be, or the request has no chance.
pub fn admit<'a>(
    shared: &'a Shared,
    headers: &'a HeaderMap,
    arrived: Tick,
    limit: Option<Duration>,
    model: &'a Arc<Inference>,
) -> Result<Admitted<'a>, ApiError> {
    let profile = shared.profile(headers);
    let mut context = shared.context(headers, arrived, model.deadline(profile))?;
    context.deadline = context.deadline.min(limit.map_or(Tick::NEVER, |limit| arrived + limit));
    model.admit(&context, profile)?;
    Ok(Admitted { shared, model, context, profile })
}

/// The same of a step of a route, for whose request `context` was made: it has what is left of that
/// and, unless others go before it, no more than its model gives.
///
/// # Errors
/// When the step has no chance.
pub(crate) fn admit_within<'a>(
    shared: &'a Shared,
    context: &RequestContext,
    model: &'a Arc<Inference>,
) -> Result<Admitted<'a>, ApiError> {
    let mut context = context.clone();
    if context.priority != Priority::Batch {
        context.deadline = context.deadline.min(context.arrived + model.deadline(None));
    }
    model.admit(&context, None)?;
    Ok(Admitted { shared, model, context, profile: None })
}

impl Admitted<'_> {
    /// What the model does.
    #[must_use]
    pub fn task(&self) -> &Arc<Task> {
        &self.model.task
    }

    /// Makes an item of each value with `make`, off the async threads unless there is next to
    /// nothing to do, runs them, and gives their answers, or the first error. `bytes` tells how much
    /// work a value is.
    ///
    /// # Errors
    /// What `make` says of the first value that it refuses, with that value's place; why the request
    /// was refused; what the first item that failed says.
    pub async fn run<V, B, F>(&self, values: Vec<V>, bytes: B, make: F) -> Result<Done, ApiError>
    where
        V: Send + 'static,
        B: Fn(&V) -> usize,
        F: Fn(&Task, V) -> Result<Item, ApiError> + Clone + Send + 'static,
    {
        self.run_items(items(self.shared, self.task(), values, bytes, make).await?).await
    }

    /// Runs items and gives their answers, or the first error.
    ///
    /// # Errors
    /// Why the request was refused, or what the first item that failed says.
    pub async fn run_items(&self, items: Vec<Item>) -> Result<Done, ApiError> {
        let tokens = items.iter().map(Item::tokens).sum();
        let outcomes: Answers = self.model.run(&self.context, items, self.profile).await?;
        let answer = |outcome: Result<Served<Answer>, ItemError>| Ok(outcome?.answer);
        Ok(Done { tokens, answers: outcomes.into_iter().map(answer).collect::<Result<_, ApiError>>()? })
    }
}

/// What came of a request.
#[derive(Debug)]
pub struct Done {
    /// Tokens of all its items.
    pub tokens: usize,
    /// The answer of each value.
    pub answers: Vec<Answer>,
}

async fn items<V, B, F>(
    shared: &Shared,
    task: &Arc<Task>,
    values: Vec<V>,
    bytes: B,
    make: F,
) -> Result<Vec<Item>, ApiError>
where
    V: Send + 'static,
    B: Fn(&V) -> usize,
    F: Fn(&Task, V) -> Result<Item, ApiError> + Clone + Send + 'static,
{
    let total = values.iter().map(&bytes).fold(0usize, usize::saturating_add);
    let small = total <= INLINE_BYTES_MAX && values.len() <= INLINE_VALUES_MAX;
    let many = values.len() > 1;
    let prepare = move |task: Arc<Task>, first: usize, values: Vec<V>| {
        let one = |(place, value)| {
            make(&task, value).map_err(|error| {
                let refused = error.with_param("input");
                if many { refused.at(first + place) } else { refused }
            })
        };
        values.into_iter().enumerate().map(one).collect::<Result<Vec<Item>, ApiError>>()
    };
    let size = (total / PIECES_MAX).max(PIECE_BYTES_MIN);
    let mut first = 0;
    let pieces = pieces(values, size, bytes).into_iter().map(|piece| {
        let (task, prepare, start) = (Arc::clone(task), prepare.clone(), first);
        first += piece.len();
        let work = shared.pool.run_unless(small, move || prepare(task, start, piece));
        async move { work.await.map_err(ApiError::from)? }
    });
    Ok(try_join_all(pieces.collect::<Vec<_>>()).await?.into_iter().flatten().collect())
}

fn pieces<V>(values: Vec<V>, at_least: usize, bytes: impl Fn(&V) -> usize) -> Vec<Vec<V>> {
    let mut pieces = vec![Vec::new()];
    let mut size = 0usize;
    for value in values {
        if size >= at_least {
            pieces.push(Vec::new());
            size = 0;
        }
        size = size.saturating_add(bytes(&value).max(1));
        if let Some(piece) = pieces.last_mut() {
            piece.push(value);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_request_takes_few_places_in_the_pool_and_keeps_its_order(sizes in prop::collection::vec(0usize..200_000, 0..400)) {
            let total: usize = sizes.iter().sum();
            let pieces = pieces(sizes.clone(), (total / PIECES_MAX).max(PIECE_BYTES_MIN), |size| *size);
            prop_assert!(pieces.len() <= PIECES_MAX + 1);
            prop_assert_eq!(pieces.concat(), sizes);
        }
    }
}
