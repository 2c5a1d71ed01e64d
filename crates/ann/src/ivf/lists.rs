//! Which list each row goes to: clusters of rows, many and small.
//!
//! Comparing every row with every centre would take `n √n` steps. Centres are therefore themselves in
//! groups, and a row is compared with those of the groups that it is nearest to.

use super::kmeans::{Centres, Points, cluster};
use super::parallel::{each, pieces};
use crate::{Cancelled, Progress, Rows, kernels};

/// Rows that the centres are learnt from, for each list.
const SAMPLE: usize = 64;
/// Rows that the centres of groups are learnt from, for each group.
const GROUP_SAMPLE: usize = 128;
/// Rounds of the clusterings that the search for centres begins with.
const FIRST_ROUNDS: usize = 8;
/// Rounds in which all centres move at once.
const ROUNDS: usize = 6;
/// A row is compared with the centres of one in so many groups, the nearest ones.
const GROUPS_SHARE: usize = 5;
/// And of at least so many.
const GROUPS_LEAST: usize = 6;

/// Rows by number.
pub(super) struct Chosen<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) numbers: Vec<u32>,
}

impl Points for Chosen<'_> {
    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn dimensions(&self) -> usize {
        self.rows.dimensions()
    }

    fn point(&self, number: usize) -> &[f32] {
        self.numbers.get(number).map_or(&[], |row| self.rows.row(*row))
    }
}

impl<'a> Chosen<'a> {
    /// At most `most` of them, evenly spread.
    pub(super) fn sample(&self, most: usize) -> Chosen<'a> {
        let step = self.numbers.len().div_ceil(most.max(1)).max(1);
        Chosen { rows: self.rows, numbers: self.numbers.iter().copied().step_by(step).collect() }
    }

    /// Those whose length can be told: nothing is learnt from others.
    fn measurable(mut self) -> Chosen<'a> {
        let rows = self.rows;
        self.numbers.retain(|row| kernels::dot(rows.row(*row), rows.row(*row)).is_finite());
        self
    }
}

/// Steps that [`lists`] reports for so many rows and lists.
pub(super) fn steps(rows: usize, lists: usize) -> u64 {
    let sample = rows.div_ceil(rows.div_ceil((lists * SAMPLE).max(1)).max(1));
    (rows + (ROUNDS + 1) * sample) as u64
}

/// The centres of `count` lists, and the list of each row.
pub(super) fn lists(
    rows: &Chosen<'_>,
    count: usize,
    seed: u64,
    threads: usize,
    progress: &Progress,
) -> Result<(Centres, Vec<u32>), Cancelled> {
    let sample = rows.sample(count * SAMPLE).measurable();
    let mut grouped = first_centres(&sample, count, seed, threads, progress)?;
    for _ in 0..ROUNDS {
        let near = pieces(sample.len(), threads, progress, |range| {
            range.map(|number| grouped.nearest(sample.point(number))).collect()
        })?;
        grouped.centres.move_to_means(&sample, &near);
        grouped.move_groups();
    }
    if grouped.centres.len() == 0 && rows.len() > 0 {
        // Nothing was learnt, as from rows of no numbers: they are all in one list.
        grouped.centres = Centres::new(vec![0.0; rows.dimensions()], rows.dimensions());
    }
    let list_of = pieces(rows.len(), threads, progress, |range| {
        range.map(|number| grouped.nearest(rows.point(number)).0 as u32).collect()
    })?;
    Ok((grouped.centres, list_of))
}

/// Centres in groups.
struct Grouped {
    centres: Centres,
    groups: Centres,
    /// Where the centres of each group begin, and behind the last one where they end.
    starts: Vec<usize>,
}

/// Puts rows into about √`count` groups, and each group into lists, as many as its share of the rows asks for.
fn first_centres(
    sample: &Chosen<'_>,
    count: usize,
    seed: u64,
    threads: usize,
    progress: &Progress,
) -> Result<Grouped, Cancelled> {
    let group_count = (count as f64).sqrt().round() as usize;
    progress.check()?;
    let groups = cluster(&sample.sample(group_count.max(1) * GROUP_SAMPLE), group_count.max(1), FIRST_ROUNDS, seed);
    let nearest = pieces(sample.len(), threads, progress, |range| {
        range.map(|number| groups.nearest(sample.point(number), 0..groups.len()).0).collect()
    })?;
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); groups.len()];
    for (group, row) in nearest.into_iter().zip(&sample.numbers) {
        if let Some(members) = members.get_mut(group) {
            members.push(*row);
        }
    }
    let shares = shares(&members.iter().map(Vec::len).collect::<Vec<_>>(), count);
    let parts = each(members.len(), threads, progress, |group| {
        let numbers = members.get(group).cloned().unwrap_or_default();
        let share = shares.get(group).copied().unwrap_or(0);
        cluster(&Chosen { rows: sample.rows, numbers }, share, FIRST_ROUNDS, seed.wrapping_add(1 + group as u64)).values
    })?;
    let mut starts = vec![0];
    let mut values = Vec::new();
    let dimensions = sample.dimensions();
    for part in parts {
        values.extend(part);
        starts.push(values.len() / dimensions.max(1));
    }
    let mut grouped = Grouped { centres: Centres::new(values, dimensions), groups, starts };
    grouped.move_groups();
    Ok(grouped)
}

/// Shares `count` out in proportion to the sizes, to none more than its size; exactly `count` unless
/// the sizes are less together.
fn shares(sizes: &[usize], count: usize) -> Vec<usize> {
    let total: usize = sizes.iter().sum();
    let (mut seen, mut given) = (0, 0);
    let share = |size: &usize| {
        seen += size;
        // Of everything up to here the whole number, so that what is cut off adds up to nothing.
        let due = (count.min(total) as u128 * seen as u128).div_ceil(total.max(1) as u128) as usize;
        let share = (due - given).min(*size);
        given += share;
        share
    };
    sizes.iter().map(share).collect()
}

impl Grouped {
    /// Centres of groups are the means of their centres.
    fn move_groups(&mut self) {
        let dimensions = self.groups.dimensions;
        let mut values = std::mem::take(&mut self.groups.values);
        for (group, pair) in self.starts.windows(2).enumerate() {
            let [start, end] = *pair else { continue };
            let Some(into) = values.get_mut(group * dimensions..(group + 1) * dimensions) else { continue };
            if start < end {
                into.fill(0.0);
                for centre in start..end {
                    into.iter_mut().zip(self.centres.centre(centre)).for_each(|(sum, value)| *sum += value);
                }
                into.iter_mut().for_each(|sum| *sum /= (end - start) as f32);
            }
        }
        self.groups = Centres::new(values, dimensions);
    }

    /// The centre nearest to a point among those of the nearest groups.
    fn nearest(&self, point: &[f32]) -> (usize, f32) {
        let mut groups: Vec<(f32, usize)> =
            (0..self.groups.len()).map(|group| (self.groups.nearest(point, std::iter::once(group)).1, group)).collect();
        let looked_at = (groups.len() / GROUPS_SHARE).max(GROUPS_LEAST);
        if looked_at < groups.len() {
            groups.select_nth_unstable_by(looked_at, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            groups.truncate(looked_at);
        }
        groups.sort_unstable_by_key(|(_, group)| *group);
        let centres =
            groups.iter().filter_map(|(_, group)| Some(*self.starts.get(*group)?..*self.starts.get(group + 1)?));
        self.centres.nearest(point, centres.flatten())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::shares;

    proptest! {
        #[test]
        fn shares_add_up_and_are_no_greater_than_what_there_is(
            sizes in prop::collection::vec(0usize..50, 0..40),
            count in 0usize..500,
        ) {
            let shares = shares(&sizes, count);
            prop_assert!(shares.iter().zip(&sizes).all(|(share, size)| share <= size));
            prop_assert_eq!(shares.iter().sum::<usize>(), count.min(sizes.iter().sum()));
        }
    }
}
