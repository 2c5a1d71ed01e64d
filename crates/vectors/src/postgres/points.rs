//! What can be asked of a space: points by id, in order, counted, and how it stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::TryStreamExt;
use halny_payload::{Condition, Filter, JsonPath, PointId, Subject};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};

use super::error::{broken, told};
use super::filter::{Known, Translator};
use super::wire::{Sql, Vector, id_bytes, read_id};
use super::{Database, schema, search, writes};
use crate::{
    CollectionConfig, Named, Payload, Points, Reconfigure, Record, Scored, Scroll, Search, Select, SpaceStatus,
    VectorStatus, VectorsError, Waiting, Write,
};

/// Points that are read at once where a filter has to be asked here.
const PAGE: usize = 1_000;

/// A space: one table.
pub(super) struct Space {
    pub(super) database: Arc<Database>,
    number: i64,
    pub(super) table: String,
    pub(super) config: ArcSwap<CollectionConfig>,
}

impl Space {
    pub(super) fn new(database: Arc<Database>, number: i64, config: CollectionConfig) -> Space {
        Space { database, number, table: schema::table(number), config: ArcSwap::from_pointee(config) }
    }

    pub(super) fn number(&self) -> i64 {
        self.number
    }

    /// Points in the order of their ids that pass, from one on, at most so many.
    async fn page(
        &self,
        connection: &mut PgConnection,
        reading: &Reading<'_>,
        from: From,
        most: usize,
    ) -> Result<(Vec<Record>, From), VectorsError> {
        let mut sql = Sql::default();
        let known = condition(&reading.config, reading.filter, &mut sql);
        let begins = match &from {
            From::Start => "true".to_owned(),
            From::At(id) => format!("id >= {}", sql.bind(id_bytes(id))),
            From::Behind(id) => format!("id > {}", sql.bind(id_bytes(id))),
            From::End => return Ok((Vec::new(), From::End)),
        };
        let (columns, table) = (reading.columns(&known), &self.table);
        sql.text = format!("SELECT {columns} FROM {table} WHERE {begins} AND {} ORDER BY id LIMIT {most}", known.sql);
        let rows = sql.ready()?.fetch_all(connection).await.map_err(told)?;
        let last = rows.last().map(id_in).transpose()?;
        let next = last.filter(|_| rows.len() >= most).map_or(From::End, From::Behind);
        let records = rows.iter().filter_map(|row| reading.record(row, &known).transpose());
        Ok((records.collect::<Result<_, _>>()?, next))
    }

    async fn scrolled(&self, scroll: &Scroll) -> Result<(Vec<Record>, Option<PointId>), VectorsError> {
        let reading = Reading::new(self.config.load_full(), &scroll.select, scroll.filter.as_deref());
        let mut connection = self.database.pool.acquire().await.map_err(told)?;
        let mut transaction = connection.begin_with(ONE_MOMENT).await.map_err(told)?;
        let wanted = scroll.limit.saturating_add(1);
        let mut from = scroll.from.map_or(From::Start, From::At);
        let mut records: Vec<Record> = Vec::new();
        while records.len() < wanted && from != From::End {
            // What passes is not known before it is read where the filter is asked here.
            let most = (wanted - records.len()).max(if reading.asks() { PAGE } else { 1 });
            let (more, next) = self.page(&mut transaction, &reading, from, most).await?;
            records.extend(more);
            from = next;
        }
        transaction.rollback().await.map_err(told)?;
        let next = records.get(scroll.limit).map(|record| record.id);
        records.truncate(scroll.limit);
        Ok((records, next))
    }

    async fn all(
        &self,
        filter: Option<&Filter>,
        select: &Select,
        with: &mut dyn FnMut(Record),
    ) -> Result<(), VectorsError> {
        let reading = Reading::new(self.config.load_full(), select, filter);
        let mut sql = Sql::default();
        let known = condition(&reading.config, filter, &mut sql);
        let (columns, table) = (reading.columns(&known), &self.table);
        sql.text = format!("SELECT {columns} FROM {table} WHERE {} ORDER BY id", known.sql);
        let mut rows = sql.ready()?.fetch(&self.database.pool);
        while let Some(row) = rows.try_next().await.map_err(told)? {
            if let Some(record) = reading.record(&row, &known)? {
                with(record);
            }
        }
        Ok(())
    }

    async fn by_id(&self, ids: &[PointId], select: &Select) -> Result<Vec<Record>, VectorsError> {
        let reading = Reading::new(self.config.load_full(), select, None);
        let mut sql = Sql::default();
        let known = condition(&reading.config, None, &mut sql);
        let wanted = sql.bind(ids.iter().map(id_bytes).collect::<Vec<_>>());
        sql.text = format!("SELECT {} FROM {} WHERE id = ANY({wanted})", reading.columns(&known), self.table);
        let rows = sql.ready()?.fetch_all(&self.database.pool).await.map_err(told)?;
        let mut found: BTreeMap<PointId, Record> = BTreeMap::new();
        for row in &rows {
            found.extend(reading.record(row, &known)?.map(|record| (record.id, record)));
        }
        Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
    }

    async fn counted(&self, filter: Option<&Filter>) -> Result<usize, VectorsError> {
        let mut sql = Sql::default();
        let known = condition(&self.config.load(), filter, &mut sql);
        if !known.exact {
            let mut count = 0;
            self.all(filter, &Select::default(), &mut |_| count += 1).await?;
            return Ok(count);
        }
        sql.text = format!("SELECT count(*) FROM {} WHERE {}", self.table, known.sql);
        let row = sql.ready()?.fetch_one(&self.database.pool).await.map_err(told)?;
        count_in(&row, 0)
    }

    async fn stands(&self) -> Result<SpaceStatus, VectorsError> {
        let config = self.config.load_full();
        let mut sql = Sql::default();
        let mut counts = vec!["count(*)".to_owned()];
        counts.extend((0..config.vectors.len()).map(|column| format!("count(v{column})")));
        for field in config.fields.keys() {
            let filled = Filter { must_not: vec![Condition::IsEmpty(field.parse()?)], ..Filter::default() };
            let known = condition(&config, Some(&filled), &mut sql);
            counts.push(format!("count(*) FILTER (WHERE {})", known.sql));
        }
        let sizes = (0..config.vectors.len()).map(|column| {
            let name = schema::index_name(self.number, column);
            format!("coalesce(pg_relation_size(to_regclass('{name}')), -1)")
        });
        counts.extend(sizes);
        sql.text = format!("SELECT {} FROM {}", counts.join(", "), self.table);
        let row = sql.ready()?.fetch_one(&self.database.pool).await.map_err(told)?;
        let mut status = SpaceStatus { points: count_in(&row, 0)?, segments: 1, ..SpaceStatus::default() };
        let (vectors, fields) = (config.vectors.len(), config.fields.len());
        for (place, (name, vector)) in config.vectors.iter().enumerate() {
            let count = count_in(&row, 1 + place)?;
            let index: i64 = row.try_get(1 + vectors + fields + place).map_err(told)?;
            let column = VectorStatus {
                vectors: count,
                indexed: if index < 0 { 0 } else { count },
                index_bytes: usize::try_from(index).unwrap_or(0),
                vector_bytes: count * vector.dimensions * 4,
            };
            status.vectors.insert(name.clone(), column);
        }
        for (place, field) in config.fields.keys().enumerate() {
            status.fields.insert(field.clone(), count_in(&row, 1 + vectors + place)?);
        }
        Ok(status)
    }
}

/// Reads as of one moment, however many statements.
pub(super) const ONE_MOMENT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Where a page of points begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Start,
    At(PointId),
    Behind(PointId),
    /// There are no more.
    End,
}

impl Points for Space {
    fn blocks(&self) -> bool {
        true
    }

    fn config(&self) -> Arc<CollectionConfig> {
        self.config.load_full()
    }

    fn write(&self, writes: Vec<Write>, wait: bool) -> Waiting<'_, u64> {
        Box::pin(writes::all(self, writes, wait))
    }

    fn configure(&self, change: Reconfigure) -> Waiting<'_, ()> {
        Box::pin(writes::configure(self, change))
    }

    fn search(&self, search: &Search, select: &Select) -> Result<Vec<Scored>, VectorsError> {
        self.database.wait(search::nearest(self, search, select))
    }

    fn retrieve(&self, ids: &[PointId], select: &Select) -> Result<Vec<Record>, VectorsError> {
        self.database.wait(self.by_id(ids, select))
    }

    fn scroll(&self, scroll: &Scroll) -> Result<(Vec<Record>, Option<PointId>), VectorsError> {
        self.database.wait(self.scrolled(scroll))
    }

    fn count(&self, filter: Option<&Filter>) -> Result<usize, VectorsError> {
        self.database.wait(self.counted(filter))
    }

    fn each(&self, filter: Option<&Filter>, select: &Select, with: &mut dyn FnMut(Record)) -> Result<(), VectorsError> {
        self.database.wait(self.all(filter, select, with))
    }

    fn status(&self) -> Result<SpaceStatus, VectorsError> {
        self.database.wait(self.stands())
    }
}

/// The filter in SQL; everything passes where there is none.
pub(super) fn condition(config: &CollectionConfig, filter: Option<&Filter>, sql: &mut Sql) -> Known {
    let Some(filter) = filter else { return Known { sql: "true".to_owned(), exact: true } };
    let vectors: Vec<String> = config.vectors.keys().cloned().collect();
    let contains = |path: &JsonPath| config.fields.get(&path.to_string()).is_some_and(schema::is_contained);
    Translator { vectors: &vectors, contains: &contains, into: sql, names: 0 }.whole(filter)
}

/// What is read of each point, and whether it passes where SQL does not know.
pub(super) struct Reading<'a> {
    pub(super) config: Arc<CollectionConfig>,
    select: &'a Select,
    pub(super) filter: Option<&'a Filter>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(config: Arc<CollectionConfig>, select: &'a Select, filter: Option<&'a Filter>) -> Reading<'a> {
        Reading { config, select, filter }
    }

    /// Whether some points that SQL passes may not pass.
    fn asks(&self) -> bool {
        !condition(&self.config, self.filter, &mut Sql::default()).exact
    }

    /// The columns that are read, the id first, each by a name of its own.
    pub(super) fn columns(&self, known: &Known) -> String {
        let payload = if self.reads_payload(known) { ", payload::text AS payload" } else { "" };
        let vectors = self.config.vectors.keys().enumerate().map(|(column, name)| {
            if self.select.vectors.takes(name) {
                format!(", v{column} AS r{column}")
            } else if known.exact {
                String::new()
            } else {
                format!(", v{column} IS NOT NULL AS r{column}")
            }
        });
        format!("id{payload}{}", vectors.collect::<String>())
    }

    fn reads_payload(&self, known: &Known) -> bool {
        !known.exact || !self.select.payload.is_none()
    }

    /// The point in a row, if it passes.
    pub(super) fn record(&self, row: &PgRow, known: &Known) -> Result<Option<Record>, VectorsError> {
        let id = id_in(row)?;
        let payload: Payload = match self.reads_payload(known) {
            true => {
                let text: &str = row.try_get("payload").map_err(told)?;
                serde_json::from_str(text).map_err(|error| broken("read a payload", &error))?
            }
            false => Payload::new(),
        };
        let mut vectors = Named::new();
        let mut present: Vec<&str> = Vec::new();
        for (column, name) in self.config.vectors.keys().enumerate() {
            let place = format!("r{column}");
            if self.select.vectors.takes(name) {
                let vector: Option<Vector> = row.try_get(place.as_str()).map_err(told)?;
                if let Some(Vector(vector)) = vector {
                    present.push(name);
                    vectors.insert(name.clone(), vector);
                }
            } else if !known.exact && row.try_get::<bool, _>(place.as_str()).map_err(told)? {
                present.push(name);
            }
        }
        if let Some(filter) = self.filter.filter(|_| !known.exact) {
            let has_vector = |name: &str| present.contains(&name);
            let subject = Subject { id, payload: &payload, has_vector: &has_vector, fields: &self.config.fields };
            if !filter.matches(&subject) {
                return Ok(None);
            }
        }
        let payload = (!self.select.payload.is_none()).then(|| self.select.payload.of(Arc::new(payload)));
        Ok(Some(Record { id, payload, vectors }))
    }
}

pub(super) fn id_in(row: &PgRow) -> Result<PointId, VectorsError> {
    let bytes: &[u8] = row.try_get("id").map_err(told)?;
    read_id(bytes).ok_or_else(|| broken("read an id", "it is none"))
}

fn count_in(row: &PgRow, column: usize) -> Result<usize, VectorsError> {
    let count: i64 = row.try_get(column).map_err(told)?;
    Ok(usize::try_from(count).unwrap_or(0))
}
