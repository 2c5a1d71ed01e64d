//! What a model is served with: the newest values of what is asked for, as of now.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use halny_types::project::features::FeatureType;

use crate::definitions::{Definitions, Service};
use crate::moment::{Age, age};
use crate::online::within;
use crate::packed::Kept;
use crate::selection::{Picked, Selection};
use crate::store::Inside;
use crate::{Features, FeaturesError, Moment, Value, key};

/// Rows of one request at most.
pub const SERVE_ROWS_MAX: usize = 10_000;
/// Values of one request at most, those that are read for others included.
pub const SERVE_VALUES_MAX: usize = 2_000_000;
/// Bytes of rows of one request at most, a row counted as often as it is asked for: values in memory are up to 24 times as
/// large as in rows (a list of bools), so that this is 400 MB at worst.
const SERVE_BYTES_MAX: usize = 16 << 20;
/// With fewer values, in fewer bytes, it is cheaper to answer where the request is than to hand it over.
const SMALL_VALUES: usize = 4_096;
const SMALL_BYTES: usize = 64 << 10;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The features of a service: `name` for its highest version, or `name@version`.
    Service(String),
    /// These: `view:feature`, or `view` for all of its features.
    Features(Vec<String>),
}

/// A request for the values of now.
#[derive(Clone, Debug)]
pub struct OnlineRequest {
    /// What is asked for.
    pub asked: Asked,
    /// Columns of equal length: the join keys of all views, and the fields of the request that are read.
    pub columns: BTreeMap<String, Vec<Value>>,
    /// Whether features are called `view__feature`, not `feature`.
    pub full_feature_names: bool,
}

/// How a value came about. The names are Feast's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Status {
    /// There is one.
    Present,
    /// There is a row that holds, and it says null; or the value could not be computed.
    NullValue,
    /// There is no row of this key, or it does not know the feature.
    #[default]
    NotFound,
    /// The newest row is older than the view's ttl.
    OutsideMaxAge,
}

impl Status {
    /// Every status, each in the place of its number.
    pub const ALL: [Status; 4] = [Status::Present, Status::NullValue, Status::NotFound, Status::OutsideMaxAge];

    /// The status as Feast writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Present => "PRESENT",
            Status::NullValue => "NULL_VALUE",
            Status::NotFound => "NOT_FOUND",
            Status::OutsideMaxAge => "OUTSIDE_MAX_AGE",
        }
    }
}

/// The values of now, `rows` times as many as there are columns.
#[derive(Debug)]
pub struct OnlineResponse {
    /// The version of the service, if one was asked for.
    pub service: Option<Arc<Service>>,
    /// The names of the columns, in the order in which they were asked for.
    pub names: Arc<[String]>,
    /// How many rows there are.
    pub rows: usize,
    /// As of when.
    pub at: Moment,
    selection: Arc<Selection>,
    cells: Vec<(Value, Status)>,
    /// By row, then by view: the time of the row that was read, whether or not it holds.
    events: Vec<Option<Moment>>,
}

impl OnlineResponse {
    fn slot(&self, row: usize, column: usize) -> Option<&(Value, Status)> {
        let output = self.selection.outputs.get(column)?;
        self.cells.get(row * self.selection.slots + output.slot)
    }

    /// A value; null where there is none.
    #[must_use]
    pub fn value(&self, row: usize, column: usize) -> &Value {
        self.slot(row, column).map_or(&Value::Null, |(value, _)| value)
    }

    /// How a value came about.
    #[must_use]
    pub fn status(&self, row: usize, column: usize) -> Status {
        self.slot(row, column).map_or(Status::NotFound, |(_, status)| *status)
    }

    /// The time of the row that a value was read from; of a value that is computed, now.
    #[must_use]
    pub fn event_time(&self, row: usize, column: usize) -> Option<Moment> {
        match self.selection.outputs.get(column)?.read_from {
            Some(view) => *self.events.get(row * self.selection.views.len() + view)?,
            None => Some(self.at),
        }
    }

    /// The type of a column.
    #[must_use]
    pub fn value_type(&self, column: usize) -> Option<FeatureType> {
        self.selection.outputs.get(column).map(|output| output.value_type)
    }
}

/// Where a row of a view was asked for: its row of the request, its view, and its key's place among those that are read.
struct Lookup {
    row: usize,
    view: usize,
    key: usize,
}

impl Features {
    /// The values of now. A value is served when its row's time has come and is no longer ago than the view's ttl.
    ///
    /// # Errors
    /// When something that is asked for is not there, a column is missing or of a wrong type, there is too much of it, or
    /// the store cannot be asked.
    pub async fn get_online(&self, request: OnlineRequest) -> Result<OnlineResponse, FeaturesError> {
        let definitions = self.definitions();
        let (service, selection) = definitions.selection(&request.asked)?;
        let names = selection.names(request.full_feature_names)?;
        let rows = count(&request.columns)?;
        let values = rows.saturating_mul(selection.slots);
        if values > SERVE_VALUES_MAX {
            return Err(FeaturesError::TooMany { what: "values", count: values, most: SERVE_VALUES_MAX });
        }
        let small = values <= SMALL_VALUES;
        let busy = |_| FeaturesError::Busy("too much waits to be computed");
        let (of, columns) = (Arc::clone(&selection), request.columns);
        let asked = self.0.pool.run_unless(small, move || Looked::up(of, columns, rows)).await.map_err(busy)??;
        let found = self.0.online.read(&asked.keys, SERVE_BYTES_MAX).await?;
        // Not before: what was pushed in between would be read in its stead, as a row whose time is to come.
        let at = self.0.now();
        let bytes = asked.bytes(&found)?;
        let small = small && bytes <= SMALL_BYTES;
        let filled = self.0.pool.run_unless(small, move || asked.fill(&found, at)).await.map_err(busy)??;
        self.0.tally.served(&filled.statuses, filled.failed);
        let response =
            OnlineResponse { service, names, rows, at, selection, cells: filled.cells, events: filled.events };
        self.0.log(&response, &filled.columns);
        Ok(response)
    }
}

impl Definitions {
    /// What is asked for, as places; and the service, if it is one.
    pub(crate) fn selection(&self, asked: &Asked) -> Result<(Option<Arc<Service>>, Arc<Selection>), FeaturesError> {
        match asked {
            Asked::Service(name) => {
                let service = self.service(name)?;
                Ok((Some(Arc::clone(service)), Arc::clone(&service.selection)))
            }
            Asked::Features(references) => Ok((None, self.selected(references)?)),
        }
    }
}

impl Inside {
    fn log(&self, response: &OnlineResponse, columns: &BTreeMap<String, Vec<Value>>) {
        if let Some(service) = response.service.as_ref().filter(|service| service.log_sample > 0.0) {
            self.served.offer(service, response, columns, self.flush.rows, &self.flush_now);
        }
    }
}

fn count(columns: &BTreeMap<String, Vec<Value>>) -> Result<usize, FeaturesError> {
    let rows = columns.values().next().map_or(1, Vec::len);
    if let Some((name, column)) = columns.iter().find(|(_, column)| column.len() != rows) {
        let wrong = format!("{name:?} has {} values where others have {rows}; send one for each row", column.len());
        return Err(FeaturesError::Invalid(wrong));
    }
    if rows > SERVE_ROWS_MAX {
        return Err(FeaturesError::TooMany { what: "rows", count: rows, most: SERVE_ROWS_MAX });
    }
    Ok(rows)
}

/// What is to be read, and what each row is for.
struct Looked {
    selection: Arc<Selection>,
    keys: Vec<Vec<u8>>,
    lookups: Vec<Lookup>,
    rows: usize,
    columns: BTreeMap<String, Vec<Value>>,
}

impl Looked {
    fn up(
        selection: Arc<Selection>,
        columns: BTreeMap<String, Vec<Value>>,
        rows: usize,
    ) -> Result<Looked, FeaturesError> {
        let (keys, lookups) = lookups(&selection, &columns, rows)?;
        Ok(Looked { selection, keys, lookups, rows, columns })
    }
}

/// The keys to read, each once, and what they are for.
fn lookups(
    selection: &Selection,
    columns: &BTreeMap<String, Vec<Value>>,
    rows: usize,
) -> Result<(Vec<Vec<u8>>, Vec<Lookup>), FeaturesError> {
    let given = |name: &str, why: &str| {
        let missing = || FeaturesError::Missing { name: name.to_owned(), why: why.to_owned() };
        columns.get(name).ok_or_else(missing)
    };
    let parts = selection.keys.iter().map(|part| given(&part.name, "it is a join key of the features"));
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    for (name, of, _) in &selection.fields {
        let field = given(name, "an on-demand feature reads it as a field of the request")?;
        if let Some(wrong) = field.iter().find(|value| !value.is_of(*of)) {
            let (expected, is) = (of.to_string(), wrong.described().to_owned());
            return Err(FeaturesError::Type { name: name.clone(), expected, is });
        }
    }
    let mut places = HashMap::with_capacity(rows * selection.views.len());
    let mut lookups = Vec::with_capacity(rows * selection.views.len());
    for row in 0..rows {
        for (view, picked) in selection.views.iter().enumerate() {
            if let Some(key) = storage_key(selection, picked, &parts, row)? {
                let next = places.len();
                lookups.push(Lookup { row, view, key: *places.entry(key).or_insert(next) });
            }
        }
    }
    let mut keys = vec![Vec::new(); places.len()];
    places.into_iter().for_each(|(key, place)| keys[place] = key);
    Ok((keys, lookups))
}

/// The key of a row of a view; nothing when a part of it is null, which is the key of no row.
fn storage_key(
    selection: &Selection,
    picked: &Picked,
    columns: &[&Vec<Value>],
    row: usize,
) -> Result<Option<Vec<u8>>, FeaturesError> {
    let mut bytes = picked.view.storage_key(&[]);
    for at in &picked.keys {
        let (part, value) = (&selection.keys[*at], &columns[*at][row]);
        if value.is_null() {
            return Ok(None);
        }
        if !value.is_of(part.value_type) {
            let (expected, is) = (part.value_type.to_string(), value.described().to_owned());
            return Err(FeaturesError::Type { name: part.name.clone(), expected, is });
        }
        key::put(part, value, &mut bytes)?;
    }
    Ok(Some(bytes))
}

struct Filled {
    cells: Vec<(Value, Status)>,
    events: Vec<Option<Moment>>,
    failed: u64,
    /// How many values came about in which way.
    statuses: [u64; 4],
    columns: BTreeMap<String, Vec<Value>>,
}

impl Looked {
    /// The bytes that are to be looked into.
    fn bytes(&self, found: &[Option<Vec<u8>>]) -> Result<usize, FeaturesError> {
        let bytes = self.lookups.iter().map(|lookup| found[lookup.key].as_ref().map_or(0, Vec::len)).sum();
        within(bytes, SERVE_BYTES_MAX).map(|()| bytes)
    }

    /// Looks into what was read.
    fn fill(self, found: &[Option<Vec<u8>>], at: Moment) -> Result<Filled, FeaturesError> {
        let selection = &self.selection;
        let slots = selection.slots;
        let mut cells = vec![(Value::Null, Status::NotFound); self.rows * slots];
        let mut events = vec![None; self.rows * selection.views.len()];
        for lookup in &self.lookups {
            let Some(bytes) = &found[lookup.key] else { continue };
            let cells = &mut cells[lookup.row * slots..][..slots];
            let event = fill(&selection.views[lookup.view], bytes, at, cells)?;
            events[lookup.row * selection.views.len() + lookup.view] = event;
        }
        let mut failed = 0;
        if !selection.computed.is_empty() {
            for (row, cells) in cells.chunks_mut(slots.max(1)).enumerate() {
                failed += self.compute(row, cells);
            }
        }
        let mut statuses = [0; 4];
        for cells in cells.chunks(slots.max(1)) {
            selection.outputs.iter().for_each(|output| statuses[cells[output.slot].1 as usize] += 1);
        }
        Ok(Filled { cells, events, failed, statuses, columns: self.columns })
    }

    fn compute(&self, row: usize, cells: &mut [(Value, Status)]) -> u64 {
        let mut values: Vec<Value> = cells.iter_mut().map(|(value, _)| std::mem::take(value)).collect();
        for (name, _, slot) in &self.selection.fields {
            if let Some(value) = self.columns.get(name).and_then(|column| column.get(row)) {
                values[*slot] = value.clone();
            }
        }
        let failed = self.selection.compute(&mut values);
        for slot in self.selection.computed_slots() {
            cells[slot].1 = if values[slot].is_null() { Status::NullValue } else { Status::Present };
        }
        cells.iter_mut().zip(values).for_each(|(cell, value)| cell.0 = value);
        failed
    }
}

/// Puts the values of one row of a view into their slots; gives its time, unless that is to come.
fn fill(
    picked: &Picked,
    bytes: &[u8],
    now: Moment,
    cells: &mut [(Value, Status)],
) -> Result<Option<Moment>, FeaturesError> {
    let row = picked.view.layout.open(bytes)?;
    match age(row.event, now, picked.view.ttl_micros) {
        // As if it were not there: it is not known yet.
        Age::ToCome => return Ok(None),
        Age::Expired => {
            picked.wanted().for_each(|(_, slot)| cells[slot].1 = Status::OutsideMaxAge);
        }
        Age::Holds => row.read(|feature, kept| {
            let (Some(slot), Kept::Known(value)) = (picked.slots[feature], kept) else { return };
            let status = if value.is_null() { Status::NullValue } else { Status::Present };
            cells[slot] = (value, status);
        })?,
    }
    Ok(Some(row.event))
}
