//! Lists of codes (an inverted file with product quantisation, IVF-PQ: Jégou, Douze and Schmid,
//! 2011) over rows that do not change: an eighth of the rows' memory, and less.
//!
//! Rows are in lists by the centre that they are nearest to, each as a code of some bytes. A search
//! looks through the lists whose centres are nearest to the query, adds up for each code what tables
//! say that its parts are worth, and compares the best again on the rows themselves.
//!
//! Codes are of what a row differs from its list's centre by. Whether of that or of the row itself made no
//! difference on 62,666 sentence embeddings, but rows that lie in narrow clusters far apart are
//! found by the former alone. Rows that are equal are one entry: thousands of copies would crowd out
//! what is nearer.
//!
//! Scans count in whole numbers, so that they find the same on every processor.

mod blocks;
mod build;
mod file;
mod kmeans;
mod lists;
mod parallel;
mod quantiser;
mod search;
mod tables;

use bytes::Bytes;

pub(crate) use blocks::LANES;
pub use quantiser::CodeBits;

use crate::{Cancelled, Found, Metric, Progress, Rows};

/// The most lists.
pub const LISTS_MAX: usize = 65_536;

/// How lists are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IvfOptions {
    /// How many lists, 1 to [`LISTS_MAX`]; nothing for what suits the number of rows.
    pub lists: Option<usize>,
    /// Bits of a code.
    pub bits: CodeBits,
    /// Codes of a row, at most as many as dimensions; nothing for one for every two dimensions, with
    /// eight bits every four.
    pub subspaces: Option<usize>,
    /// What chance begins with.
    pub seed: u64,
}

impl Default for IvfOptions {
    fn default() -> IvfOptions {
        IvfOptions { lists: None, bits: CodeBits::default(), subspaces: None, seed: 0x9e37_79b9_7f4a_7c15 }
    }
}

/// How thoroughly lists are searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IvfParams {
    /// How many lists are looked through; nothing for what suits their number.
    pub nprobe: Option<usize>,
    /// How many candidates are compared on the rows for each that is wanted, 1 or more.
    pub oversampling: f32,
}

impl Default for IvfParams {
    fn default() -> IvfParams {
        IvfParams { nprobe: None, oversampling: 3.0 }
    }
}

/// Lists of codes of the rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ivf {
    bytes: Bytes,
    sizes: file::Sizes,
    sections: file::Sections,
}

impl Ivf {
    /// Builds lists with so many threads. The same options make the same lists, whatever their number.
    ///
    /// # Errors
    /// [`Cancelled`] when `progress` was called off.
    pub fn build(
        rows: Rows<'_>,
        metric: Metric,
        options: &IvfOptions,
        threads: usize,
        progress: &Progress,
    ) -> Result<Ivf, Cancelled> {
        build::build(rows, metric, options, threads.max(1), progress)
    }

    /// The `k` rows nearest to the query among those that `allowed` lets pass, the nearest first; of two
    /// equally near the one with the lower number. `rows` are those that it was built over.
    ///
    /// More lists than `nprobe` are looked through where they hold too few rows, or `allowed`
    /// lets only some pass.
    #[must_use]
    pub fn search(
        &self,
        rows: Rows<'_>,
        query: &[f32],
        k: usize,
        params: &IvfParams,
        allowed: Option<&dyn Fn(u32) -> bool>,
    ) -> Vec<Found> {
        let dimensions = self.dimensions();
        if k == 0 || query.len() != dimensions || rows.len() != self.len() || rows.dimensions() != dimensions {
            return Vec::new();
        }
        search::search(self, rows, query, k, params, allowed)
    }

    /// How many rows it was built over.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sizes.rows
    }

    /// Whether it was built over none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sizes.rows == 0
    }

    /// How many numbers a row has.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.sizes.parts.dimensions
    }

    /// How many lists there are.
    #[must_use]
    pub fn lists(&self) -> usize {
        self.sizes.lists
    }

    /// How many lists a search looks through unless it is told.
    #[must_use]
    pub fn nprobe(&self) -> usize {
        let suits = (NPROBE_PER_ROOT * (self.sizes.lists as f64).sqrt()).ceil() as usize;
        suits.clamp(1, self.sizes.lists.max(1))
    }

    /// Bytes of memory that it takes, without the rows.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Lists that are looked through, for each in the square root of their number. 221 of 1,950 then, which found 96.7 %
/// of the ten nearest among 62,666 sentence embeddings; 3 found 94.9 %, 6 found 97.2 %.
const NPROBE_PER_ROOT: f64 = 5.0;
