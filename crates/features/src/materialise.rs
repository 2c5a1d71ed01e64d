//! From files to the online store: all rows of a time, or whatever was not read yet.
//!
//! What was read is known by file, not by time: a file that appears late is read whole, however old its rows are, and one
//! that changed counts as another. A row reaches the store through the fence, so reading too much does no harm, and a
//! run that is interrupted is simply run again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use redb::WriteTransaction;

use crate::local::READ;
use crate::offline::files::{self, RowFile};
use crate::offline::scan::{self, Scanned, ScannedRow, Span};
use crate::online::Put;
use crate::push::put;
use crate::store::Inside;
use crate::{Features, FeaturesError, Moment, View};

/// Rows that are gathered before they are written: of one key only the newest is.
const GATHERED_ROWS: usize = 20_000;
/// Bytes of them at most.
const GATHERED_BYTES: usize = 16 << 20;

/// What one run did, for one view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Materialised {
    /// The view.
    pub view: String,
    /// Files that were read.
    pub files: usize,
    /// Rows that were within the time.
    pub rows: u64,
    /// Of them, how many took a place in the online store.
    pub served: u64,
    /// Rows that have no time or no key.
    pub skipped: u64,
}

impl Features {
    /// Puts the newest rows of a time, both ends included, into the online store. Rows whose time is to come are left for
    /// a later run. Without names, all views are materialised.
    ///
    /// # Errors
    /// When a view is not there, or files cannot be read or the store written to.
    pub async fn materialize(
        &self,
        views: Option<&[String]>,
        start: Moment,
        end: Moment,
    ) -> Result<Vec<Materialised>, FeaturesError> {
        if start > end {
            return Err(FeaturesError::Invalid("the end is before the start; write an end that is later".to_owned()));
        }
        self.each_view(views, Some(start), end).await
    }

    /// Puts whatever was not read yet, of rows until `end`, into the online store: rows of files that are new or changed,
    /// however old, and later rows of files that were read.
    ///
    /// # Errors
    /// As those of [`materialize`](Features::materialize).
    pub async fn materialize_incremental(
        &self,
        views: Option<&[String]>,
        end: Moment,
    ) -> Result<Vec<Materialised>, FeaturesError> {
        self.each_view(views, None, end).await
    }

    async fn each_view(
        &self,
        views: Option<&[String]>,
        start: Option<Moment>,
        end: Moment,
    ) -> Result<Vec<Materialised>, FeaturesError> {
        let definitions = self.definitions();
        let views: Vec<Arc<View>> = match views {
            None => definitions.views().cloned().collect(),
            Some(names) => names.iter().map(|name| definitions.view(name).cloned()).collect::<Result<_, _>>()?,
        };
        // What was pushed to the offline store alone is in the journal.
        self.flush().await?;
        let until = end.min(self.0.now());
        let mut done = Vec::new();
        for view in views {
            let mut files = files::of_source(&view, self.0.places.as_ref()).await?;
            files.extend(files::of_parts(&view, &self.0.offline, &self.0.prefix).await?);
            let (inside, runtime) = (Arc::clone(&self.0), tokio::runtime::Handle::current());
            let run = Run { inside: Arc::clone(&inside), view, files, start, until, runtime };
            let read = inside.heavy(move || run.run()).await?;
            self.0.tally.materialised(read.rows);
            done.push(read);
        }
        Ok(done)
    }
}

struct Run {
    inside: Arc<Inside>,
    view: Arc<View>,
    files: Vec<RowFile>,
    /// Nothing for whatever was not read yet.
    start: Option<Moment>,
    until: Moment,
    runtime: tokio::runtime::Handle,
}

impl Run {
    fn run(self) -> Result<Materialised, FeaturesError> {
        let mut done = Materialised { view: self.view.name.clone(), ..Materialised::default() };
        let known = self.known()?;
        for file in &self.files {
            let name = self.state_name(file);
            let from = match (self.start, known.get(&name).copied()) {
                (Some(start), _) => start,
                (None, None) => Moment::MIN,
                (None, Some(Moment::MAX)) => continue,
                (None, Some(read)) if read >= self.until => continue,
                (None, Some(read)) => read.plus(1),
            };
            let scanned = self.file(file, Span { from, until: self.until }, &mut done)?;
            done.files += 1;
            if self.start.is_none() {
                let whole = scanned.latest.is_none_or(|latest| latest <= self.until);
                self.remember(name, if whole { Moment::MAX } else { self.until })?;
            }
        }
        if self.start.is_none() {
            self.forget(&known)?;
        }
        Ok(done)
    }

    fn file(&self, file: &RowFile, span: Span, done: &mut Materialised) -> Result<Scanned, FeaturesError> {
        let wanted: Vec<usize> = (0..self.view.features.len()).collect();
        let mut gathered = Gathered::default();
        let mut served = 0;
        let now = self.inside.now();
        let scanned = scan::file(&self.view, file, span, &wanted, &self.runtime, &mut |row| {
            gathered.take(&self.view, &row)?;
            if gathered.is_full() {
                served += self.write(&mut gathered, now)?;
            }
            Ok(())
        })?;
        done.served += served + self.write(&mut gathered, now)?;
        done.rows += scanned.rows;
        done.skipped += scanned.skipped;
        Ok(scanned)
    }

    fn write(&self, gathered: &mut Gathered, now: Moment) -> Result<u64, FeaturesError> {
        gathered.bytes = 0;
        let puts = gathered.rows.drain().map(|(key, (event, _, row))| put(&self.view, &key, row, event));
        // What may be removed at once need not be written.
        let puts: Vec<Put> = puts.filter(|put| put.until.is_none_or(|until| until >= now)).collect();
        if puts.is_empty() {
            return Ok(0);
        }
        Ok(self.runtime.block_on(self.inside.online.write(puts))? as u64)
    }

    fn prefix(&self) -> String {
        format!("{}\0", self.view.name)
    }

    fn state_name(&self, file: &RowFile) -> String {
        format!("{}{:08x}\0{}", self.prefix(), self.view.fingerprint, file.identity())
    }

    /// How far the files of the view were read.
    fn known(&self) -> Result<HashMap<String, Moment>, FeaturesError> {
        let table = self.inside.local.read()?.open_table(READ)?;
        let prefix = self.prefix();
        let mut known = HashMap::new();
        for entry in table.range(prefix.as_str()..)? {
            let (name, read) = entry?;
            if !name.value().starts_with(&prefix) {
                break;
            }
            known.insert(name.value().to_owned(), Moment(read.value()));
        }
        Ok(known)
    }

    fn remember(&self, name: String, read: Moment) -> Result<(), FeaturesError> {
        let remember = move |transaction: &WriteTransaction| {
            transaction.open_table(READ)?.insert(name.as_str(), read.0)?;
            Ok(())
        };
        self.runtime.block_on(self.inside.local.write(remember))
    }

    /// Forgets files that are not there any more.
    fn forget(&self, known: &HashMap<String, Moment>) -> Result<(), FeaturesError> {
        let there: BTreeSet<String> = self.files.iter().map(|file| self.state_name(file)).collect();
        let gone: Vec<String> = known.keys().filter(|name| !there.contains(*name)).cloned().collect();
        if gone.is_empty() {
            return Ok(());
        }
        let forget = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(READ)?;
            for name in gone {
                table.remove(name.as_str())?;
            }
            Ok(())
        };
        self.runtime.block_on(self.inside.local.write(forget))
    }
}

/// The newest row of each key, of those that were read last.
#[derive(Default)]
struct Gathered {
    rows: HashMap<Vec<u8>, (Moment, Moment, Vec<u8>)>,
    bytes: usize,
}

impl Gathered {
    fn take(&mut self, view: &View, row: &ScannedRow<'_>) -> Result<(), FeaturesError> {
        let times = (row.event, row.created);
        if self.rows.get(row.key).is_some_and(|(event, created, _)| (*event, *created) > times) {
            return Ok(());
        }
        let packed = view.layout.pack(row.event, row.created, row.values)?;
        self.bytes += packed.len() + row.key.len();
        self.rows.insert(row.key.to_vec(), (row.event, row.created, packed));
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= GATHERED_ROWS || self.bytes >= GATHERED_BYTES
    }
}
