//! What is done without being asked: rows whose time has come are served, pushed rows are written to Parquet, what does
//! not hold any more is removed; and what is done once, when features are opened after a crash.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use object_store::ObjectMeta;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, WriteTransaction};
use tokio_util::sync::CancellationToken;

use crate::local::{ASIDE, JOURNAL, TO_COME, numbers, split};
use crate::offline::parts::{self, PartName, PartRow};
use crate::online::{MayGo, Put, apply};
use crate::packed::times;
use crate::push::{put, until};
use crate::store::Inside;
use crate::{Definitions, Features, FeaturesError, Moment, View, key};

/// How late a row may be served after its time has come.
const TICK: Duration = Duration::from_secs(1);
/// Rows that are looked at in one tick, to see whether they still hold.
const SWEEP_ROWS: usize = 2_000;
/// Rows of one part.
const PART_ROWS: usize = 200_000;
/// Bytes of them in the journal.
const PART_BYTES: usize = 32 << 20;
/// Rows that are served or forgotten in one transaction.
const STEP_ROWS: usize = 5_000;

/// Works until it is told to end. A row whose time has come does not wait for files to be written.
pub(crate) async fn run(inside: &Inside, closing: &CancellationToken) {
    tokio::join!(ticks(inside, closing), flushes(inside, closing));
}

async fn ticks(inside: &Inside, closing: &CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut after = None;
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            _ = tick.tick() => tell(inside.tick(&mut after).await),
        }
    }
}

async fn flushes(inside: &Inside, closing: &CancellationToken) {
    let mut flush = tokio::time::interval_at(tokio::time::Instant::now() + inside.flush.every, inside.flush.every);
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            _ = flush.tick() => tell(inside.flush().await),
            () = inside.flush_now.notified() => tell(inside.flush().await),
        }
    }
}

fn tell(done: Result<(), FeaturesError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "the background of features; it goes on");
    }
}

impl Features {
    /// Writes all pushed rows and logged vectors to Parquet files.
    ///
    /// # Errors
    /// When the offline store cannot be written to; they are kept.
    pub async fn flush(&self) -> Result<(), FeaturesError> {
        self.0.flush().await
    }

    /// Serves the rows whose time has come, and removes some of those that do not hold any more: what happens once a
    /// second by itself.
    ///
    /// # Errors
    /// When a store cannot be written to.
    pub async fn tick(&self) -> Result<(), FeaturesError> {
        self.0.tick(&mut None).await
    }
}

/// How long rows under this key of the online store hold; nothing when their view is not there.
fn ttl(definitions: &Definitions, key: &[u8]) -> Option<i64> {
    let name = std::str::from_utf8(key.split(|byte| *byte == 0).next()?).ok()?;
    Some(definitions.view(name).ok()?.ttl_micros)
}

/// A row whose time has come, and what it is called in the table.
type Due = ((i64, u64), Put);

impl Inside {
    async fn tick(&self, after: &mut Option<Vec<u8>>) -> Result<(), FeaturesError> {
        self.serve_due().await?;
        let now = self.now();
        let definitions = self.definitions.load_full();
        // Rows of views that are not there are left: a project file may be wrong for an hour.
        let may_go: MayGo = Arc::new(move |key, row| {
            let ttl = ttl(&definitions, key);
            let gone =
                |(event, _): (Moment, Moment)| ttl.and_then(|ttl| until(event, ttl)).is_some_and(|until| until < now);
            times(row).is_some_and(gone)
        });
        let (removed, last) = self.online.sweep(after.take(), SWEEP_ROWS, may_go).await?;
        if removed > 0 {
            tracing::debug!(removed, "rows that do not hold any more");
        }
        *after = last;
        Ok(())
    }

    /// Puts the rows whose time has come into the online store.
    async fn serve_due(&self) -> Result<(), FeaturesError> {
        let now = self.now();
        loop {
            let due = self.due(now)?;
            if due.is_empty() {
                return Ok(());
            }
            let (numbers, puts): (Vec<(i64, u64)>, Vec<Put>) = due.into_iter().unzip();
            let puts = if self.embedded {
                puts
            } else {
                self.online.write(puts).await?;
                Vec::new()
            };
            let done = move |transaction: &WriteTransaction| {
                let mut to_come = transaction.open_table(TO_COME)?;
                for number in numbers {
                    to_come.remove(number)?;
                }
                apply(transaction, &puts).map(drop)
            };
            self.local.write(done).await?;
        }
    }

    fn due(&self, now: Moment) -> Result<Vec<Due>, FeaturesError> {
        let table = self.local.read()?.open_table(TO_COME)?;
        let definitions = self.definitions.load();
        let mut due = Vec::new();
        for entry in table.range(..=(now.0, u64::MAX))?.take(STEP_ROWS) {
            let (number, joined) = entry?;
            let (key, row, _) = split(joined.value())?;
            let until = until(Moment(number.value().0), ttl(&definitions, key).unwrap_or(0));
            due.push((number.value(), Put { key: key.to_vec(), row: row.to_vec(), until }));
        }
        Ok(due)
    }

    /// Writes what was pushed and logged to Parquet.
    pub(crate) async fn flush(&self) -> Result<(), FeaturesError> {
        let _one_at_a_time = self.flushing.lock().await;
        let mut done = self.served.flush(self).await;
        let views: Vec<_> = self.definitions.load().views().cloned().collect();
        for view in views {
            // What ails one view is not the others' fault.
            done = done.and(self.flush_view(&view).await);
        }
        done
    }

    async fn flush_view(&self, view: &Arc<View>) -> Result<(), FeaturesError> {
        loop {
            let Next { part, unreadable } = self.next_part(view).await?;
            if part.is_none() && unreadable.is_empty() {
                return Ok(());
            }
            // First: the part's numbers are forgotten, and theirs may be among them.
            if !unreadable.is_empty() {
                self.set_aside(&view.name, unreadable).await?;
            }
            if let Some((name, batch)) = part {
                parts::write(self.offline.as_ref(), &name.path(&self.prefix, &view.name), batch).await?;
                self.forget(view.name.clone(), name).await?;
            }
        }
    }

    /// What comes next of a view's journal: nothing when no rows of it wait.
    async fn next_part(&self, view: &Arc<View>) -> Result<Next, FeaturesError> {
        let (journal, of, identity) = (self.local.read()?, Arc::clone(view), self.identity);
        let made = tokio::task::spawn_blocking(move || next_part(&journal, &of, identity));
        made.await.map_err(|_| FeaturesError::Broken)?
    }

    /// Moves rows out of the journal that cannot be read, so that those behind them are written.
    async fn set_aside(&self, view: &str, unreadable: Vec<u64>) -> Result<(), FeaturesError> {
        let of = view.to_owned();
        let aside = move |transaction: &WriteTransaction| {
            let (mut journal, mut aside) = (transaction.open_table(JOURNAL)?, transaction.open_table(ASIDE)?);
            let mut moved = 0;
            for number in unreadable {
                if let Some(joined) = journal.remove((of.as_str(), number))? {
                    aside.insert((of.as_str(), number), joined.value())?;
                    moved += 1;
                }
            }
            Ok(moved)
        };
        let rows = self.local.write(aside).await?;
        self.journalled_less(rows);
        tracing::warn!(view, rows, "pushed rows whose keys are not those of the view any more are set aside");
        Ok(())
    }

    fn journalled_less(&self, rows: u64) {
        let less = |count: u64| Some(count.saturating_sub(rows));
        let _ = self.journalled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Puts rows that were set aside, and can be read again, back into the journal. They get other numbers: theirs may be
    /// among those of a part, which are forgotten.
    async fn put_back(&self, view: &Arc<View>) -> Result<(), FeaturesError> {
        let mut from = 0;
        while let Some((last, readable)) = self.readable_aside(view, from)? {
            from = last + 1;
            let of = Arc::clone(view);
            let back = move |transaction: &WriteTransaction| {
                let mut new = numbers(transaction, readable.len() as u64)?;
                let (mut journal, mut aside) = (transaction.open_table(JOURNAL)?, transaction.open_table(ASIDE)?);
                for number in readable {
                    if let Some(joined) = aside.remove((of.name.as_str(), number))? {
                        journal.insert((of.name.as_str(), new), joined.value())?;
                        new += 1;
                    }
                }
                Ok(())
            };
            self.local.write(back).await?;
        }
        Ok(())
    }

    /// Of rows that were set aside the next numbers that can be read, and the last that was looked at.
    fn readable_aside(&self, view: &View, from: u64) -> Result<Option<(u64, Vec<u64>)>, FeaturesError> {
        let table = self.local.read()?.open_table(ASIDE)?;
        let (mut last, mut readable) = (None, Vec::new());
        for entry in table.range((view.name.as_str(), from)..=(view.name.as_str(), u64::MAX))?.take(STEP_ROWS) {
            let (number, joined) = entry?;
            last = Some(number.value().1);
            if read(view, joined.value()).is_ok() {
                readable.extend(last);
            }
        }
        Ok(last.map(|last| (last, readable)))
    }

    /// Forgets the journal's rows that are in a part, some at a time, so that pushes do not wait behind it.
    async fn forget(&self, view: String, part: PartName) -> Result<(), FeaturesError> {
        loop {
            let of = view.clone();
            let some = move |transaction: &WriteTransaction| {
                let mut journal = transaction.open_table(JOURNAL)?;
                let range = (of.as_str(), part.first)..=(of.as_str(), part.last);
                let numbers: Vec<u64> = {
                    let entries = journal.range(range)?.take(STEP_ROWS);
                    entries.map(|entry| Ok(entry?.0.value().1)).collect::<Result<_, FeaturesError>>()?
                };
                for number in &numbers {
                    journal.remove((of.as_str(), *number))?;
                }
                Ok(numbers.len())
            };
            let forgotten = self.local.write(some).await?;
            self.journalled_less(forgotten as u64);
            if forgotten < STEP_ROWS {
                return Ok(());
            }
        }
    }

    /// Ends what a crash may have left undone: rows that are in a part are forgotten, those in the journal are served.
    pub(crate) async fn recover(&self) -> Result<(), FeaturesError> {
        let views: Vec<_> = self.definitions.load().views().cloned().collect();
        for view in &views {
            self.put_back(view).await?;
        }
        let journalled = self.local.read()?.open_table(JOURNAL)?.len()?;
        self.journalled.store(journalled, Ordering::Relaxed);
        if journalled == 0 {
            return Ok(());
        }
        for view in views.iter().map(|view| view.name.clone()) {
            let Some(first) = self.first_journalled(&view)? else { continue };
            let folder = parts::folder(&self.prefix, &view);
            let listed: Vec<ObjectMeta> = self.offline.list(Some(&folder)).try_collect().await?;
            let own = listed.iter().filter_map(|meta| PartName::read(&meta.location));
            for part in own.filter(|part| part.identity == self.identity && part.last >= first) {
                self.forget(view.clone(), part).await?;
            }
        }
        if self.embedded { Ok(()) } else { self.serve_journalled().await }
    }

    fn first_journalled(&self, view: &str) -> Result<Option<u64>, FeaturesError> {
        let table = self.local.read()?.open_table(JOURNAL)?;
        let first = table.range((view, 0)..=(view, u64::MAX))?.next();
        Ok(first.transpose()?.map(|(number, _)| number.value().1))
    }

    /// A row is journalled before it is served: what was journalled is served again, which the fence makes harmless.
    async fn serve_journalled(&self) -> Result<(), FeaturesError> {
        let now = self.now();
        let views: Vec<_> = self.definitions.load().views().cloned().collect();
        for view in views {
            let mut from = 0;
            loop {
                let mut puts = Vec::new();
                {
                    let table = self.local.read()?.open_table(JOURNAL)?;
                    let name = view.name.as_str();
                    for entry in table.range((name, from)..=(name, u64::MAX))?.take(STEP_ROWS) {
                        let (number, joined) = entry?;
                        from = number.value().1 + 1;
                        let (key, row, online) = split(joined.value())?;
                        let event = times(row).map_or(Moment::MAX, |(event, _)| event);
                        puts.push((online && event <= now, put(&view, key, row.to_vec(), event)));
                    }
                }
                if puts.is_empty() {
                    break;
                }
                let due = puts.into_iter().filter(|(due, _)| *due).map(|(_, put)| put).collect();
                self.online.write(due).await?;
            }
        }
        Ok(())
    }
}

/// What comes next of a view's journal.
struct Next {
    part: Option<(PartName, RecordBatch)>,
    /// The numbers of rows before the part's last that cannot be read, as after the type of a key was changed.
    unreadable: Vec<u64>,
}

fn next_part(journal: &ReadTransaction, view: &View, identity: u64) -> Result<Next, FeaturesError> {
    let table = journal.open_table(JOURNAL)?;
    let (mut rows, mut unreadable, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut name: Option<PartName> = None;
    for entry in table.range((view.name.as_str(), 0)..=(view.name.as_str(), u64::MAX))?.take(PART_ROWS) {
        let (number, joined) = entry?;
        let (number, joined) = (number.value().1, joined.value());
        match read(view, joined) {
            Ok(row) => {
                name = Some(PartName { identity, first: name.map_or(number, |name| name.first), last: number });
                rows.push(row);
            }
            Err(FeaturesError::Damaged(_)) => unreadable.push(number),
            Err(error) => return Err(error),
        }
        bytes += joined.len();
        if bytes >= PART_BYTES {
            break;
        }
    }
    let part = name.map(|name| Ok::<_, FeaturesError>((name, parts::batch(view, &rows)?))).transpose()?;
    Ok(Next { part, unreadable })
}

/// A row of the journal.
fn read(view: &View, joined: &[u8]) -> Result<PartRow, FeaturesError> {
    let (key, row, _) = split(joined)?;
    let row = view.layout.open(row)?;
    let keys = key::parts(&view.keys, key)?;
    Ok(PartRow { keys, event: row.event, created: row.created, values: row.values()? })
}
