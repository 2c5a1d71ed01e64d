//! How a sealed segment is searched: by asking its index, or by comparing all that may pass.
//!
//! A walk of a graph takes some time to come near, and then about as much for each of `ef` candidates
//! wherever it is in the segment. When a share `s` of the points passes, it goes past `ef / s` candidates to
//! end with `ef` that do. Lists of codes are looked through `nprobe` at a time, and more of them the
//! fewer pass. A scan compares all that pass, one after the other, and needs no luck.

use halny_ann::Rows;

use super::index::{Asked, Index};

/// How a segment is searched.
pub(super) enum Plan<'a> {
    /// By its index.
    Ask(&'a Index),
    /// By comparing everything that may pass.
    Scan,
}

/// How to search a segment of `rows`, of which about `passing` pass (all, where nothing is known).
pub(super) fn plan<'a>(index: Option<&'a Index>, rows: Rows<'_>, passing: Option<u64>, asked: &Asked<'_>) -> Plan<'a> {
    let Some(index) = index.filter(|_| !asked.search.params.exact) else { return Plan::Scan };
    let Some(passing) = passing else { return Plan::Ask(index) };
    let passing = usize::try_from(passing).unwrap_or(usize::MAX).min(rows.len());
    if passing <= asked.search.limit {
        return Plan::Scan;
    }
    let one_in = rows.len().div_ceil(passing);
    if passing <= index.costs(asked, one_in) { Plan::Scan } else { Plan::Ask(index) }
}
