//! Rows that are equal: an index takes them for one.

use std::collections::HashMap;

use crate::{Cancelled, Progress, Rows};

/// Rows by what they hold.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Where the rows of each group begin, and behind the last one where they end.
    pub(crate) starts: Vec<u32>,
    /// Rows by group, ascending; the first stands for the others, which are equal to it.
    pub(crate) rows: Vec<u32>,
}

impl Groups {
    /// Puts equal rows together; groups are in the order of their first rows.
    pub(crate) fn of(rows: Rows<'_>, progress: &Progress) -> Result<Groups, Cancelled> {
        let mut group_of: HashMap<&[u8], usize> = HashMap::with_capacity(rows.len());
        let mut groups: Vec<Vec<u32>> = Vec::with_capacity(rows.len());
        for row in 0..rows.len() as u32 {
            if row % 1_024 == 0 {
                progress.check()?;
            }
            let group = *group_of.entry(bytemuck::cast_slice(rows.row(row))).or_insert_with(|| {
                groups.push(Vec::with_capacity(1));
                groups.len() - 1
            });
            if let Some(group) = groups.get_mut(group) {
                group.push(row);
            }
        }
        let mut grouped = Groups { starts: vec![0], rows: Vec::with_capacity(rows.len()) };
        for group in groups {
            grouped.rows.extend(group);
            grouped.starts.push(grouped.rows.len() as u32);
        }
        Ok(grouped)
    }

    /// The row that stands for each group.
    pub(crate) fn firsts(&self) -> Vec<u32> {
        let starts = self.starts.iter().take(self.starts.len().saturating_sub(1));
        starts.filter_map(|start| self.rows.get(*start as usize).copied()).collect()
    }

    /// The rows of a group.
    pub(crate) fn rows_of(&self, group: u32) -> &[u32] {
        let group = group as usize;
        let (Some(start), Some(end)) = (self.starts.get(group), self.starts.get(group + 1)) else { return &[] };
        self.rows.get(*start as usize..*end as usize).unwrap_or_default()
    }
}
