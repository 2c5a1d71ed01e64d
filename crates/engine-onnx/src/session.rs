//! Making one session: its threads, its memory, and where its nodes were placed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use ort::ep::ExecutionProviderDispatch;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use parking_lot::Mutex;

use crate::IdleThreads;
use crate::library::{self, Library};

/// The file of an optimised graph, in its folder.
pub(crate) const GRAPH_FILE: &str = "graph.onnx";

/// The file of its weights, in the same folder, which ONNX Runtime maps instead of reading.
pub(crate) const WEIGHTS_FILE: &str = "weights.data";

/// Weights below this size stay in the graph's file: less than a page is not worth mapping.
const WEIGHT_MIN_BYTES: u32 = 1_024;

/// How sessions of one load are made.
pub(crate) struct Maker<'a> {
    pub(crate) library: &'a Library,
    pub(crate) providers: Vec<ExecutionProviderDispatch>,
    pub(crate) threads: usize,
    pub(crate) idle: IdleThreads,
    /// Collect where nodes are placed: wanted when another device than the processor is asked for.
    pub(crate) placements: Option<Placements>,
}

/// What is done with the graph on the way.
#[derive(Clone, Copy)]
pub(crate) enum Optimise<'a> {
    /// Optimise it.
    Fully,
    /// Optimise it, and write what came of it into this folder; with the processor's packed weights
    /// or without.
    Into { folder: &'a Path, packed: bool },
    /// It was optimised before.
    Not,
}

impl Maker<'_> {
    /// Makes a session of the graph in a file.
    ///
    /// `ort` panics on a few types that ONNX has and it does not know; hence `catch_unwind`.
    pub(crate) fn make(&self, graph: &Path, optimise: Optimise<'_>) -> Result<Session, String> {
        let making = catch_unwind(AssertUnwindSafe(|| self.builder(optimise)?.commit_from_file(graph)));
        match making {
            Ok(made) => made.map_err(|error| error.to_string()),
            Err(_) => Err("an input or output is of a type that is not supported".to_owned()),
        }
    }

    fn builder(&self, optimise: Optimise<'_>) -> ort::Result<SessionBuilder> {
        let mut builder = Session::builder(self.library.environment())?
            .with_execution_providers(&self.providers)?
            .with_intra_threads(self.threads)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(self.idle == IdleThreads::Spin)?
            // A pattern is kept for every shape seen; with free dimensions that grows without bound.
            .with_memory_pattern(false)?;
        if let Some(placements) = &self.placements {
            builder = builder.with_log_level(LogLevel::Verbose)?.with_logger(placements.listener())?;
        }
        match optimise {
            Optimise::Fully => Ok(builder.with_optimization_level(GraphOptimizationLevel::All)?),
            Optimise::Not => Ok(builder.with_optimization_level(GraphOptimizationLevel::Disable)?),
            Optimise::Into { folder, packed } => {
                builder = builder
                    .with_optimization_level(GraphOptimizationLevel::All)?
                    .with_optimized_model_path(folder.join(GRAPH_FILE))?
                    .with_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS_FILE)?
                    .with_config_entry(
                        "session.optimized_model_external_initializers_min_size_in_bytes",
                        WEIGHT_MIN_BYTES.to_string(),
                    )?;
                match packed {
                    true => {
                        Ok(builder.with_config_entry("session.save_external_prepacked_constant_initializers", "1")?)
                    }
                    false => Ok(builder),
                }
            }
        }
    }
}

/// How many nodes were placed on each execution provider, as the library's log tells while a session
/// is made. Its C API tells too, but not through `ort`.
#[derive(Clone, Default)]
pub(crate) struct Placements(Arc<Mutex<Vec<(String, usize)>>>);

impl Placements {
    fn listener(&self) -> ort::logging::LoggerFunction {
        let seen = Arc::clone(&self.0);
        Arc::new(move |level, category: &str, _: &str, _: &str, message: &str| {
            if let Some(placed) = placed_in(message) {
                seen.lock().push(placed);
            }
            library::log(level, category, message);
        })
    }

    /// Nodes by provider, so far.
    pub(crate) fn counts(&self) -> Vec<(String, usize)> {
        self.0.lock().clone()
    }
}

/// Reads ` Node(s) placed on [CPUExecutionProvider]. Number of nodes: 12`.
fn placed_in(message: &str) -> Option<(String, usize)> {
    let (_, rest) = message.split_once("placed on [")?;
    let (provider, rest) = rest.split_once(']')?;
    let (_, count) = rest.split_once("Number of nodes: ")?;
    Some((provider.to_owned(), count.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_is_read_from_the_log() {
        let line = " Node(s) placed on [CUDAExecutionProvider]. Number of nodes: 41";
        assert_eq!(placed_in(line), Some(("CUDAExecutionProvider".to_owned(), 41)));
        assert_eq!(
            placed_in(" All nodes placed on [CPUExecutionProvider]. Number of nodes: 1").map(|(_, n)| n),
            Some(1)
        );
        assert_eq!(placed_in("Node(s) placed on nothing"), None);
    }
}
