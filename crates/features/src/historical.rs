//! What models are trained with: to each row of entities the values that would have been served at its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use futures::stream::BoxStream;
use halny_types::guarded;
use tokio::sync::mpsc;

use crate::offline::files;
use crate::offline::join::Join;
use crate::offline::rows::Rows;
use crate::selection::Selection;
use crate::serve::Asked;
use crate::store::Inside;
use crate::{Features, FeaturesError, View};

/// Batches that are made before they are taken.
const AHEAD: usize = 2;

/// Batches of rows, as they are made.
pub type Batches = BoxStream<'static, Result<RecordBatch, FeaturesError>>;

/// A request for the values of the times of its rows.
pub struct HistoricalRequest {
    /// What is asked for.
    pub asked: Asked,
    /// Rows with the join keys of all views, a time each, and the fields of the request that on-demand features read; other
    /// columns stay as they are.
    pub entities: Batches,
    /// The column that says at which time each row is asked for.
    pub timestamp: String,
    /// Whether features are called `view__feature`, not `feature`.
    pub full_feature_names: bool,
}

impl Features {
    /// Whether all that is asked for is there, and can be told apart by its names.
    ///
    /// # Errors
    /// When it is not, or cannot.
    pub fn check(&self, asked: &Asked, full_feature_names: bool) -> Result<(), FeaturesError> {
        let (_, selection) = self.definitions().selection(asked)?;
        selection.names(full_feature_names).map(drop)
    }

    /// Joins entity rows with the values that held at their times: of each view the newest row that is no later than the
    /// entity row, and no older than the ttl; of rows of one time the one that was made later, then the one that was
    /// written later. The entity rows come back in their order, with all their columns, the features' behind them.
    ///
    /// The join sorts and merges within its share of memory, and in temporary files beyond it.
    ///
    /// # Errors
    /// When something that is asked for is not there. What goes wrong later is the last item of the stream.
    pub async fn historical(&self, request: HistoricalRequest) -> Result<Batches, FeaturesError> {
        let (_, selection) = self.definitions().selection(&request.asked)?;
        let names = selection.names(request.full_feature_names)?;
        self.0.joined(selection, names.to_vec(), request.timestamp, request.entities).await
    }
}

impl Inside {
    pub(crate) async fn joined(
        self: &Arc<Inside>,
        selection: Arc<Selection>,
        names: Vec<String>,
        timestamp: String,
        entities: Batches,
    ) -> Result<Batches, FeaturesError> {
        let turn = self.turn().await?;
        let mut rows = Vec::with_capacity(selection.views.len());
        for picked in &selection.views {
            rows.push(self.rows(&picked.view).await?);
        }
        let (room, runtime) = (self.room(), tokio::runtime::Handle::current());
        let mut join = Join { selection, names, timestamp, rows, room, runtime };
        let (batches, made) = mpsc::channel(AHEAD);
        let whole = Arc::new(AtomicBool::new(false));
        let (inside, ended) = (Arc::clone(self), Arc::clone(&whole));
        let work = move || {
            let runtime = join.runtime.clone();
            // Whoever asked may have left, or take nothing more while the server stops.
            let send = |batch| {
                let sent = async {
                    tokio::select! {
                        sent = batches.send(batch) => sent.is_ok(),
                        () = inside.closing() => false,
                    }
                };
                runtime.block_on(sent)
            };
            // A file may make its reader panic.
            let joined = guarded(|| join.run(entities, &mut |batch| send(Ok(batch))));
            let joined = joined.unwrap_or(Err(FeaturesError::Broken));
            drop(turn);
            match joined {
                Ok(Some(failed)) => {
                    inside.tally.failed(failed);
                    ended.store(true, Ordering::Release);
                }
                Ok(None) => {}
                Err(error) => ended.store(send(Err(error)), Ordering::Release),
            }
        };
        self.tasks().spawn_blocking(work);
        Ok(futures::stream::unfold(Some((made, whole)), next).boxed())
    }

    /// All rows of a view as of now: the journal first, then the files, so that what is written to a file in between is
    /// seen twice and not never.
    pub(crate) async fn rows(&self, view: &Arc<View>) -> Result<Rows, FeaturesError> {
        let journal = Arc::new(self.local.read()?);
        let mut files = files::of_source(view, self.places.as_ref()).await?;
        files.extend(files::of_parts(view, &self.offline, &self.prefix).await?);
        Rows::new(Arc::clone(view), files, journal, self.identity)
    }
}

type Made = (mpsc::Receiver<Result<RecordBatch, FeaturesError>>, Arc<AtomicBool>);

/// The next batch. A stream that ends before all is joined ends with an error, or it would pass for whole.
async fn next(made: Option<Made>) -> Option<(Result<RecordBatch, FeaturesError>, Option<Made>)> {
    let (mut batches, whole) = made?;
    match batches.recv().await {
        Some(batch) => Some((batch, Some((batches, whole)))),
        None if whole.load(Ordering::Acquire) => None,
        None => Some((Err(FeaturesError::Closed), None)),
    }
}
