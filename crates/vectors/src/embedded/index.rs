//! The index of a segment's vectors of one name: built, kept in a file, asked.

use std::io;
use std::path::{Path, PathBuf};

use halny_ann::{
    Cancelled, Found, Graph, GraphOptions, Precision as Numbers, Progress, Rows, SearchParams as Thoroughness,
};

use super::files;
use crate::{Precision, SearchParams, Tier, VectorConfig};

/// Candidates that are compared on the vectors for each result, unless the request says otherwise.
/// Walked in bytes, twice as many as are wanted found all that more of them found (62,666 sentence embeddings).
const OVERSAMPLING: f32 = 2.0;

/// What finds the nearest vectors without looking at all.
pub(crate) struct Index(Graph);

impl Index {
    /// Where the index of the vectors in this place among the collection's names is.
    pub(super) fn path(folder: &Path, place: usize) -> PathBuf {
        folder.join(format!("graph-{place}"))
    }

    /// Builds the index of `rows` into a file.
    ///
    /// # Errors
    /// The outer one when `progress` was called off.
    pub(super) fn build(
        rows: Rows<'_>,
        vector: &VectorConfig,
        path: &Path,
        threads: usize,
        progress: &Progress,
    ) -> Result<io::Result<()>, Cancelled> {
        let Tier::Fast { m, ef_construct, precision } = vector.tier;
        let precision = match precision {
            Precision::F32 => Numbers::F32,
            Precision::F16 => Numbers::F16,
            Precision::Int8 => Numbers::Int8,
        };
        let options = GraphOptions { m, ef_construct, precision, ..GraphOptions::default() };
        let graph = Graph::build(rows, vector.distance.metric(), &options, threads, progress)?;
        Ok(files::write_whole(path, |file| graph.write_to(file)))
    }

    /// Opens the index of `rows`.
    pub(super) fn open(path: &Path, rows: Rows<'_>) -> io::Result<Index> {
        let graph = Graph::open(files::map_path(path)?).map_err(|error| files::malformed(error.to_string()))?;
        if graph.len() != rows.len() || graph.dimensions() != rows.dimensions() {
            return Err(files::malformed("the index is of other vectors"));
        }
        Ok(Index(graph))
    }

    /// The vectors nearest to the query among those that pass, by their places.
    pub(super) fn search(
        &self,
        rows: Rows<'_>,
        query: &[f32],
        limit: usize,
        ef: usize,
        params: &SearchParams,
        passes: &dyn Fn(u32) -> bool,
    ) -> Vec<Found> {
        let oversampling = params.oversampling.unwrap_or(OVERSAMPLING);
        self.0.search(rows, query, limit, &Thoroughness { ef, oversampling }, Some(passes))
    }

    /// Bytes of memory that it takes, without the vectors.
    pub(super) fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}
