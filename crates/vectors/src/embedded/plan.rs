//! How a sealed segment is searched: by walking its index, or by comparing all that may pass.
//!
//! A walk of a graph with `ef` candidates compares about `ef · m` vectors wherever it is in the
//! segment. When a share `s` of the points passes, it has to keep `ef / s` candidates to end with `ef`
//! that do, up to a bound. A scan compares all that pass, one after the other, and needs no luck.

use halny_ann::Rows;

use super::index::Index;
use super::search::EF;
use crate::Search;

/// How a segment is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// By its index, which keeps `ef` candidates.
    Walk { ef: usize },
    /// By comparing everything that may pass.
    Scan,
}

/// A walk compares so many vectors for each candidate that it keeps.
const COMPARED_PER_CANDIDATE: usize = 16;
/// A vector that is walked to costs as much as so many that are scanned, one behind the other.
const WALKED_COSTS: usize = 2;

/// How to search a segment of `rows`, of which about `passing` pass (all, where nothing is known).
pub(super) fn plan(index: Option<&Index>, rows: Rows<'_>, passing: Option<u64>, search: &Search) -> Plan {
    if index.is_none() || search.params.exact {
        return Plan::Scan;
    }
    let ef = search.params.ef.unwrap_or(EF).max(search.limit);
    let Some(passing) = passing else { return Plan::Walk { ef } };
    let passing = usize::try_from(passing).unwrap_or(usize::MAX).min(rows.len());
    if passing <= search.limit {
        return Plan::Scan;
    }
    let walk = ef * COMPARED_PER_CANDIDATE * WALKED_COSTS;
    // Those that do not pass are walked through.
    let share = rows.len().div_ceil(passing).clamp(1, 4);
    if passing <= walk * share { Plan::Scan } else { Plan::Walk { ef } }
}
