//! Nearest neighbours of a vector, among rows that do not change: exact, by a graph, and by lists of codes.
//!
//! What is searched is a table of `f32` [`Rows`], in memory or mapped from a file. Beside it stands
//! an index that was built over exactly these rows: a [`Graph`] (HNSW), or an [`Ivf`] (IVF-PQ), which
//! takes a fraction of the memory; or, where rows still come, no more than a [`Coarse`] copy. Each is searched on approximate numbers of its own, and the
//! last decision is taken on the rows themselves, so that every similarity that is given out is exact.
//!
//! Rows are known by their number. Ids, payloads, deletions, durability are for who calls.

mod coarse;
mod codes;
mod equal;
pub mod exact;
mod hnsw;
mod ivf;
mod kernels;
mod malformed;
mod progress;
mod rows;

pub use coarse::Coarse;
pub use exact::similarity;
pub use hnsw::{Graph, GraphOptions, Precision, SearchParams};
pub use ivf::{CodeBits, Ivf, IvfOptions, IvfParams, LISTS_MAX};
pub use kernels::instruction_set;
pub use malformed::Malformed;
pub use progress::{Cancelled, Progress};
pub use rows::{Found, Metric, Rows};
