//! All rows of a view, wherever they are: in the files of its source, in parts, in the journal.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::ReadTransaction;
use tokio::runtime::Handle;

use super::files::RowFile;
use super::parts::PartName;
use super::scan::{self, Scanned, ScannedRow, Span};
use crate::local::{JOURNAL, split};
use crate::{FeaturesError, Value, View};

/// The rows of a view as of one moment. Of two that are equally new, the one that comes later counts as written later.
pub(crate) struct Rows {
    pub(crate) view: Arc<View>,
    files: Vec<RowFile>,
    journal: Arc<ReadTransaction>,
}

impl Rows {
    /// Files that were listed after the journal was read: of them, those that were made of it meanwhile are left out.
    pub(crate) fn new(
        view: Arc<View>,
        files: Vec<RowFile>,
        journal: Arc<ReadTransaction>,
        identity: u64,
    ) -> Result<Rows, FeaturesError> {
        let table = journal.open_table(JOURNAL)?;
        let mut kept = Vec::with_capacity(files.len());
        for file in files {
            let name = file.own.then(|| PartName::read(&file.meta.location)).flatten();
            let made_of_it = match name.filter(|name| name.identity == identity) {
                Some(name) => table.get((view.name.as_str(), name.first))?.is_some(),
                None => false,
            };
            if !made_of_it {
                kept.push(file);
            }
        }
        drop(table);
        let files = kept;
        Ok(Rows { view, files, journal })
    }

    /// Gives every row within the span to `with`. Blocks: it is for threads that may.
    ///
    /// # Errors
    /// When a file cannot be read, or `with` fails.
    pub(crate) fn scan(
        &self,
        span: Span,
        wanted: &[usize],
        runtime: &Handle,
        with: &mut dyn FnMut(ScannedRow<'_>) -> Result<(), FeaturesError>,
    ) -> Result<Scanned, FeaturesError> {
        let mut all = Scanned::default();
        for file in &self.files {
            let scanned = scan::file(&self.view, file, span, wanted, runtime, with)?;
            all.rows += scanned.rows;
            all.skipped += scanned.skipped;
            all.latest = all.latest.max(scanned.latest);
        }
        all.rows += self.journalled(span, wanted, with)?;
        if all.skipped > 0 {
            tracing::warn!(view = self.view.name, skipped = all.skipped, "rows without a time or a key are left out");
        }
        Ok(all)
    }

    fn journalled(
        &self,
        span: Span,
        wanted: &[usize],
        with: &mut dyn FnMut(ScannedRow<'_>) -> Result<(), FeaturesError>,
    ) -> Result<u64, FeaturesError> {
        let name = self.view.name.as_str();
        let places: BTreeMap<usize, usize> = wanted.iter().enumerate().map(|(place, at)| (*at, place)).collect();
        let table = self.journal.open_table(JOURNAL)?;
        let mut count = 0;
        for entry in table.range((name, 0)..=(name, u64::MAX))? {
            let (_, joined) = entry?;
            let (key, row, _) = split(joined.value())?;
            let row = self.view.layout.open(row)?;
            if !span.holds(row.event) {
                continue;
            }
            let mut values = vec![Value::Null; wanted.len()];
            for (at, value) in row.values()?.into_iter().enumerate() {
                if let Some(place) = places.get(&at) {
                    values[*place] = value;
                }
            }
            count += 1;
            with(ScannedRow { key, event: row.event, created: row.created, values: &values })?;
        }
        Ok(count)
    }
}
