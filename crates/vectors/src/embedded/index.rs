//! The index of a segment's vectors of one name: built, kept in a file, asked.
//!
//! Which kind it is, the vector's tier says. What it costs to ask is counted in vectors that a scan
//! compares, one behind the other.

use std::io;
use std::path::{Path, PathBuf};

use halny_ann::{
    Cancelled, Coarse, CodeBits as Bits, Found, Graph, GraphOptions, Ivf, IvfOptions, IvfParams, Precision as Numbers,
    Progress, Rows, SearchParams as Thoroughness,
};

use super::files;
use crate::{CodeBits, Distance, Precision, Search, Tier, VectorConfig};

/// Candidates that are kept in a walk unless the request says otherwise: 99.4 % of the ten nearest
/// among 62,666 sentence embeddings.
const EF: usize = 128;
/// Candidates that are compared on the vectors for each result, unless the request says otherwise.
/// In bytes, twice as many as are wanted found all that more of them found (62,666 sentence embeddings).
pub(super) const BYTES_OVERSAMPLING: f32 = 2.0;
/// The same of lists of codes: among them twice as many found 96.9 %, three times as many 97.2 %, ten times
/// as many no more.
const CODED_OVERSAMPLING: f32 = 3.0;

/// A walk costs as much as so many vectors that are scanned, and so many more for each candidate that it keeps
/// or walks past since it does not pass. Fitted to 62,666 sentence embeddings with filters that a fifth and a
/// twenty-fifth pass, ef 16 to 128: a walk took 140 µs and 0.8 µs a candidate, a scanned vector about 0.1 µs.
const WALK_BEGINS: usize = 1_400;
const KEPT_COSTS: usize = 8;
/// A vector that is gone to costs as much as so many that are scanned, one behind the other.
const GONE_TO_COSTS: usize = 2;
/// So many codes, or centres of lists, cost as much as a vector that is scanned: by their bytes 16 and 4.
const CODES_PER_SCANNED: usize = 8;
const CENTRES_PER_SCANNED: usize = 4;

/// A copy in bytes of vectors that have no index yet; nothing for a tier that does not look at bytes, nor for distances
/// of Euclid: far from the origin bytes tell them apart less well than the distances differ.
pub(super) fn coarse(vector: &VectorConfig) -> Option<Coarse> {
    if vector.distance == Distance::Euclid {
        return None;
    }
    match vector.tier {
        Tier::Fast { precision: Precision::F32 | Precision::F16, .. } => None,
        Tier::Fast { precision: Precision::Int8, .. } | Tier::Compact { .. } => {
            Some(Coarse::new(vector.dimensions, vector.distance.metric()))
        }
    }
}

/// What is asked of the index of one segment.
///
/// How thorough a search is to be is said for the collection. In a segment that holds a share `s` of the vectors that may
/// pass, and so of the nearest too, as many candidates are kept, and lists looked through, as `√s` of what was said: what
/// a small segment misses is that share of the loss, and costs as much to find as in a large one. But at least half as
/// many candidates: what is asked for may all have been written at one time. Lists are as many as
/// the root of what they hold, so that the same share of each segment's is looked through.
pub(super) struct Asked<'a> {
    pub(super) search: &'a Search,
    /// The segment's share of the vectors that may pass, 0 to 1.
    pub(super) share: f32,
}

impl Asked<'_> {
    /// Candidates that a walk keeps.
    fn ef(&self) -> usize {
        let said = self.search.params.ef.unwrap_or(EF);
        let kept = (said as f32 * self.share.sqrt()).ceil() as usize;
        kept.max(said.div_ceil(2)).max(self.search.limit)
    }

    /// Lists that are looked through.
    fn nprobe(&self, ivf: &Ivf) -> usize {
        let root = self.share.sqrt();
        let nprobe = match self.search.params.nprobe {
            Some(said) => said as f32 * root,
            // What suits its lists is more of them than in one that holds all.
            None => ivf.nprobe() as f32 * root.sqrt(),
        };
        (nprobe.ceil() as usize).max(1)
    }
}

/// What finds the nearest vectors without looking at all.
pub(crate) enum Index {
    Fast(Graph),
    Compact(Ivf),
}

impl Index {
    /// Where the index of the vectors in this place among the collection's names is.
    pub(super) fn path(folder: &Path, place: usize, tier: &Tier) -> PathBuf {
        match tier {
            Tier::Fast { .. } => folder.join(format!("graph-{place}")),
            Tier::Compact { .. } => folder.join(format!("ivf-{place}")),
        }
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
        let metric = vector.distance.metric();
        match vector.tier {
            Tier::Fast { m, ef_construct, precision } => {
                let precision = match precision {
                    Precision::F32 => Numbers::F32,
                    Precision::F16 => Numbers::F16,
                    Precision::Int8 => Numbers::Int8,
                };
                let options = GraphOptions { m, ef_construct, precision, ..GraphOptions::default() };
                let graph = Graph::build(rows, metric, &options, threads, progress)?;
                Ok(files::write_whole(path, |file| graph.write_to(file)))
            }
            Tier::Compact { lists, bits, subspaces } => {
                let bits = match bits {
                    CodeBits::Four => Bits::Four,
                    CodeBits::Eight => Bits::Eight,
                };
                let options = IvfOptions { lists, bits, subspaces, ..IvfOptions::default() };
                let ivf = Ivf::build(rows, metric, &options, threads, progress)?;
                Ok(files::write_whole(path, |file| ivf.write_to(file)))
            }
        }
    }

    /// Opens the index of `rows`.
    pub(super) fn open(path: &Path, rows: Rows<'_>, tier: &Tier) -> io::Result<Index> {
        let malformed = |error: halny_ann::Malformed| files::malformed(error.to_string());
        let bytes = files::map_path(path)?;
        let index = match tier {
            Tier::Fast { .. } => Index::Fast(Graph::open(bytes).map_err(malformed)?),
            Tier::Compact { .. } => Index::Compact(Ivf::open(bytes).map_err(malformed)?),
        };
        let (len, dimensions) = match &index {
            Index::Fast(graph) => (graph.len(), graph.dimensions()),
            Index::Compact(ivf) => (ivf.len(), ivf.dimensions()),
        };
        if len != rows.len() || dimensions != rows.dimensions() {
            return Err(files::malformed("the index is of other vectors"));
        }
        Ok(index)
    }

    /// The vectors nearest to the query among those that pass, by their places.
    pub(super) fn search(&self, rows: Rows<'_>, asked: &Asked<'_>, passes: &dyn Fn(u32) -> bool) -> Vec<Found> {
        let Search { query, limit, params, .. } = asked.search;
        let limit = *limit;
        match self {
            Index::Fast(graph) => {
                let oversampling = params.oversampling.unwrap_or(BYTES_OVERSAMPLING);
                graph.search(rows, query, limit, &Thoroughness { ef: asked.ef(), oversampling }, Some(passes))
            }
            Index::Compact(ivf) => {
                let oversampling = params.oversampling.unwrap_or(CODED_OVERSAMPLING);
                ivf.search(
                    rows,
                    query,
                    limit,
                    &IvfParams { nprobe: Some(asked.nprobe(ivf)), oversampling },
                    Some(passes),
                )
            }
        }
    }

    /// How many vectors could be scanned instead of a search, where one of every `one_in` passes.
    pub(super) fn costs(&self, asked: &Asked<'_>, one_in: usize) -> usize {
        match self {
            // Those that do not pass are walked through.
            Index::Fast(_) => WALK_BEGINS.saturating_add(asked.ef().saturating_mul(KEPT_COSTS).saturating_mul(one_in)),
            Index::Compact(ivf) => {
                let oversampling = asked.search.params.oversampling.unwrap_or(CODED_OVERSAMPLING).max(1.0);
                let candidates = (asked.search.limit as f32 * oversampling) as usize;
                // The thinner those that pass are spread, the more lists are looked through.
                let nprobe = asked.nprobe(ivf) as f64 * (one_in as f64).sqrt();
                let share = (nprobe / ivf.lists().max(1) as f64).min(1.0);
                let codes = (ivf.len() as f64 * share) as usize;
                let coded = codes / CODES_PER_SCANNED + ivf.lists() / CENTRES_PER_SCANNED;
                coded.saturating_add(candidates.saturating_mul(GONE_TO_COSTS))
            }
        }
    }

    /// Bytes of memory that it takes, without the vectors.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Index::Fast(graph) => graph.memory_bytes(),
            Index::Compact(ivf) => ivf.memory_bytes(),
        }
    }
}
