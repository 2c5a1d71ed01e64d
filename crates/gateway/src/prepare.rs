//! From a request's values to items, in the CPU pool: what every protocol does before it runs a
//! model.

use std::sync::Arc;

use futures::future::try_join_all;
use halny_batching::Served;
use halny_residency::{Answers, LoadedModel};
use halny_tasks::{Answer, Item, Task, TaskError};
use halny_types::RequestContext;
use halny_types::project::TaskKind;

use crate::{ApiError, Shared};

/// Text this short is tokenised where it is: at about 1 microsecond a byte it takes a fraction of
/// the 500 microseconds an async thread may be kept, and handing it over would cost as much.
const INLINE_BYTES_MAX: usize = 256;

/// So few values are looked through where they are: each costs some microseconds however short.
const INLINE_VALUES_MAX: usize = 8;

/// Values of one request are prepared in pieces of at least this size, so that all threads share in.
const PIECE_BYTES_MIN: usize = 16 * 1024;

/// Pieces of one request at most: the pool's queue is there for many requests.
const PIECES_MAX: usize = 16;

/// Refuses a model whose task is another one.
///
/// # Errors
/// A sentence that says what the model does and where that is asked for.
pub fn expect_task(model: &LoadedModel, wanted: &[TaskKind]) -> Result<(), ApiError> {
    let kind = model.task.kind();
    if wanted.contains(&kind) {
        return Ok(());
    }
    let place = match kind {
        TaskKind::Embed => "/v1/embeddings",
        TaskKind::Rerank => "/v1/rerank",
        TaskKind::ClassifyText | TaskKind::ClassifyImage => "/halny/v1/classify",
        TaskKind::Tensor => "/v2/models/{model}/infer",
    };
    let text = format!("the model {:?} is for {:?}; POST to {place} instead", model.name.as_str(), kind.as_str());
    Err(ApiError::invalid(text).with_param("model"))
}

/// Makes an item of each value with `make`, off the async threads unless there is next to nothing
/// to do. `bytes` tells how much work a value is.
///
/// # Errors
/// What `make` says of the first value that it refuses, with that value's place.
pub async fn items<V, B, F>(
    shared: &Shared,
    task: &Arc<Task>,
    values: Vec<V>,
    bytes: B,
    make: F,
) -> Result<Vec<Item>, ApiError>
where
    V: Send + 'static,
    B: Fn(&V) -> usize,
    F: Fn(&Task, V) -> Result<Item, TaskError> + Clone + Send + 'static,
{
    let total = values.iter().map(&bytes).fold(0usize, usize::saturating_add);
    let small = total <= INLINE_BYTES_MAX && values.len() <= INLINE_VALUES_MAX;
    let many = values.len() > 1;
    let prepare = move |task: Arc<Task>, first: usize, values: Vec<V>| {
        let one = |(place, value)| {
            make(&task, value).map_err(|error| {
                let refused = ApiError::from_blame(&error).with_param("input");
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

/// Runs items and gives their answers, or the first error.
///
/// # Errors
/// Why the request was refused, or what the first item that failed says.
pub async fn run(
    model: &LoadedModel,
    context: &RequestContext,
    items: Vec<Item>,
    profile: Option<&str>,
) -> Result<Vec<Served<Answer>>, ApiError> {
    let answers: Answers = model.run(context, items, profile).await?;
    answers.into_iter().map(|outcome| outcome.map_err(ApiError::from)).collect()
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
