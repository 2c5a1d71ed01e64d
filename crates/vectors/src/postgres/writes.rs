//! Writes, each one transaction.
//!
//! Points are locked in the order of their ids, so that two writes that meet wait for each other; where
//! they block each other all the same, PostgreSQL ends one, and it is made again. A change of a
//! payload is made here, by the same code as in the embedded store: read, changed and written back under
//! the lock of its point.

use halny_payload::{Filter, PointId};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};

use super::catalog::{config_in, text_of};
use super::error::{is_collision, told};
use super::points::{Reading, Space, condition, id_in};
use super::schema;
use super::wire::{Sql, Vector, id_bytes, payload_text};
use crate::request::{last_of_each, merged};
use crate::{
    CollectionConfig, Named, Payload, PayloadSelect, Point, Reconfigure, Record, Select, Selector, VectorsError, Write,
    edit,
};

/// How often a write is made that met others.
const TRIES_MAX: usize = 8;
/// Points that are read, changed and written at once.
const PAGE: usize = 2_000;
/// Bytes that are sent with one statement, about: PostgreSQL takes one gigabyte, and holds them all in memory.
const STATEMENT_BYTES: usize = 16 << 20;

/// Makes these writes one after the other, and gives the number of the last.
pub(super) async fn all(space: &Space, writes: Vec<Write>, wait: bool) -> Result<u64, VectorsError> {
    let mut number = 0;
    for write in writes {
        number = one(space, write, wait).await?;
    }
    Ok(number)
}

async fn one(space: &Space, write: Write, wait: bool) -> Result<u64, VectorsError> {
    let mut tries = 1;
    loop {
        match attempt(space, &write, wait).await {
            Err(Failure::Met(_)) if tries < TRIES_MAX => tries += 1,
            Err(Failure::Met(error)) => return Err(told(error)),
            Err(Failure::Told(error)) => return Err(error),
            Ok(number) => return Ok(number),
        }
    }
}

enum Failure {
    /// Another write was in the way.
    Met(sqlx::Error),
    Told(VectorsError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Failure {
        if is_collision(&error) { Failure::Met(error) } else { Failure::Told(told(error)) }
    }
}

impl From<VectorsError> for Failure {
    fn from(error: VectorsError) -> Failure {
        Failure::Told(error)
    }
}

async fn attempt(space: &Space, write: &Write, wait: bool) -> Result<u64, Failure> {
    let mut connection = space.database.pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    if !wait {
        sqlx::query("SELECT set_config('synchronous_commit', 'off', true)").execute(&mut *transaction).await?;
    }
    let mut writing = Writing { space, config: space.config.load_full(), connection: &mut transaction };
    writing.make(write).await?;
    let number = sqlx::query("SELECT nextval('halny_vectors.writes')").fetch_one(&mut *transaction).await?;
    let number: i64 = number.try_get(0)?;
    transaction.commit().await?;
    Ok(u64::try_from(number).unwrap_or(0))
}

struct Writing<'a> {
    space: &'a Space,
    config: std::sync::Arc<CollectionConfig>,
    connection: &'a mut PgConnection,
}

impl Writing<'_> {
    async fn make(&mut self, write: &Write) -> Result<(), Failure> {
        match write {
            Write::Upsert(points) => self.upsert(points).await,
            Write::Delete(points) => self.delete(points).await,
            Write::SetPayload { points, payload, key } => {
                self.edit(points, &|old| match key {
                    Some(key) => edit::merge_at(old, key, payload),
                    None => edit::merge(old, payload),
                })
                .await
            }
            Write::OverwritePayload { points, payload } => self.edit(points, &|old| old.clone_from(payload)).await,
            Write::DeletePayload { points, keys } => {
                self.edit(points, &|payload| keys.iter().for_each(|key| edit::remove(payload, key))).await
            }
            Write::ClearPayload(points) => self.edit(points, &Payload::clear).await,
            Write::UpdateVectors(updates) => self.update_vectors(updates).await,
            Write::DeleteVectors { points, names } => self.delete_vectors(points, names).await,
        }
    }

    async fn upsert(&mut self, points: &[Point]) -> Result<(), Failure> {
        let mut points: Vec<&Point> = last_of_each(points.iter().collect(), |point| point.id);
        points.sort_by_key(|point| point.id);
        let mut at = 0;
        while at < points.len() {
            let insert = self.insert(&points, &mut at)?;
            insert.ready()?.execute(&mut *self.connection).await?;
        }
        Ok(())
    }

    /// A statement that brings in the points from `at` on, as many as one may hold.
    fn insert(&self, points: &[&Point], at: &mut usize) -> Result<Sql, VectorsError> {
        let (mut ids, mut payloads, mut vectors, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for point in points.iter().skip(*at) {
            let text = payload_text(&point.payload)?;
            bytes += text.len() + point.vectors.values().map(|vector| vector.len() * 4).sum::<usize>() + 32;
            ids.push(id_bytes(&point.id));
            payloads.push(text);
            vectors.push(&point.vectors);
            if bytes >= STATEMENT_BYTES {
                break;
            }
        }
        *at += ids.len();
        let columns = self.columns();
        let each = |form: &dyn Fn(&String) -> String| columns.iter().map(form).collect::<String>();
        let mut sql = Sql::default();
        let (ids, payloads) = (sql.bind(ids), sql.bind(payloads));
        let bound = self.bound(&vectors, &mut sql);
        sql.text = format!(
            "INSERT INTO {} (id, payload{listed}) SELECT u.id, u.payload::jsonb{} FROM unnest({ids}, {payloads}{bound}) \
             AS u(id, payload{listed}) ON CONFLICT (id) DO UPDATE SET payload = excluded.payload{}",
            self.space.table,
            each(&|column| format!(", u.{column}")),
            each(&|column| format!(", {column} = excluded.{column}")),
            listed = each(&|column| format!(", {column}")),
        );
        Ok(sql)
    }

    /// The names of the vectors' columns.
    fn columns(&self) -> Vec<String> {
        (0..self.config.vectors.len()).map(|column| format!("v{column}")).collect()
    }

    /// The vectors of some points, column by column.
    fn bound(&self, vectors: &[&Named], sql: &mut Sql) -> String {
        let column = |name: &String| -> Vec<Option<Vector>> {
            vectors.iter().map(|vectors| vectors.get(name).cloned().map(Vector)).collect()
        };
        self.config.vectors.keys().map(|name| format!(", {}", sql.bind(column(name)))).collect()
    }

    async fn delete(&mut self, points: &Selector) -> Result<(), Failure> {
        let mut pages = Pages::of(points);
        while let Some(found) = self.locked(&mut pages, PayloadSelect::None, false).await? {
            let mut sql = Sql::default();
            let ids = sql.bind(found.iter().map(|record| id_bytes(&record.id)).collect::<Vec<_>>());
            sql.text = format!("DELETE FROM {} WHERE id = ANY({ids})", self.space.table);
            sql.ready()?.execute(&mut *self.connection).await?;
        }
        Ok(())
    }

    async fn edit(&mut self, points: &Selector, edit: &(dyn Fn(&mut Payload) + Sync)) -> Result<(), Failure> {
        let mut pages = Pages::of(points);
        while let Some(found) = self.locked(&mut pages, PayloadSelect::All, true).await? {
            let (mut ids, mut payloads) = (Vec::new(), Vec::new());
            for record in found {
                let mut payload = record.payload.unwrap_or_default();
                edit(&mut payload);
                ids.push(id_bytes(&record.id));
                payloads.push(payload_text(&payload)?);
            }
            let mut sql = Sql::default();
            let (ids, payloads) = (sql.bind(ids), sql.bind(payloads));
            sql.text = format!(
                "UPDATE {} AS t SET payload = u.payload::jsonb FROM unnest({ids}, {payloads}) AS u(id, payload) \
                 WHERE t.id = u.id",
                self.space.table
            );
            sql.ready()?.execute(&mut *self.connection).await?;
        }
        Ok(())
    }

    async fn update_vectors(&mut self, updates: &[(PointId, Named)]) -> Result<(), Failure> {
        let mut updates = merged(updates.to_vec());
        updates.sort_by_key(|(id, _)| *id);
        let mut pages = Pages::of(&Selector::Ids(updates.iter().map(|(id, _)| *id).collect()));
        let mut at = 0;
        while let Some(found) = self.locked(&mut pages, PayloadSelect::None, true).await? {
            let update = self.update(updates.iter().skip(at).take(found.len()));
            at += found.len();
            if let Some(update) = update {
                update.ready()?.execute(&mut *self.connection).await?;
            }
        }
        Ok(())
    }

    /// A statement that sets these vectors; nothing where the collection has none.
    fn update<'p>(&self, page: impl Iterator<Item = &'p (PointId, Named)>) -> Option<Sql> {
        let (ids, vectors): (Vec<_>, Vec<&Named>) = page.map(|(id, vectors)| (id_bytes(id), vectors)).unzip();
        let columns = self.columns();
        let sets: Vec<String> =
            columns.iter().map(|column| format!("{column} = coalesce(u.{column}, t.{column})")).collect();
        if sets.is_empty() {
            return None;
        }
        let listed: String = columns.iter().map(|column| format!(", {column}")).collect();
        let mut sql = Sql::default();
        let ids = sql.bind(ids);
        let bound = self.bound(&vectors, &mut sql);
        sql.text = format!(
            "UPDATE {} AS t SET {} FROM unnest({ids}{bound}) AS u(id{listed}) WHERE t.id = u.id",
            self.space.table,
            sets.join(", ")
        );
        Some(sql)
    }

    async fn delete_vectors(&mut self, points: &Selector, names: &[String]) -> Result<(), Failure> {
        let gone = self.config.vectors.keys().enumerate().filter(|(_, name)| names.contains(name));
        let sets: Vec<String> = gone.map(|(column, _)| format!("v{column} = NULL")).collect();
        let mut pages = Pages::of(points);
        while let Some(found) = self.locked(&mut pages, PayloadSelect::None, true).await? {
            if sets.is_empty() {
                continue;
            }
            let mut sql = Sql::default();
            let ids = sql.bind(found.iter().map(|record| id_bytes(&record.id)).collect::<Vec<_>>());
            sql.text = format!("UPDATE {} SET {} WHERE id = ANY({ids})", self.space.table, sets.join(", "));
            sql.ready()?.execute(&mut *self.connection).await?;
        }
        Ok(())
    }

    /// The next points that are meant, locked until the transaction ends; nothing when that were all. One that is named
    /// and not there is an error where `needed`, and left out otherwise.
    async fn locked(
        &mut self,
        pages: &mut Pages,
        payload: PayloadSelect,
        needed: bool,
    ) -> Result<Option<Vec<Record>>, Failure> {
        if pages.done {
            return Ok(None);
        }
        let select = Select { payload, ..Select::default() };
        let named = pages.ids.as_ref().map(|(ids, at)| ids[*at..].iter().take(PAGE).copied().collect::<Vec<_>>());
        let reading = Reading::new(std::sync::Arc::clone(&self.config), &select, pages.filter.as_deref());
        let mut sql = Sql::default();
        let known = condition(&self.config, reading.filter, &mut sql);
        let which = match (&named, &pages.behind) {
            (Some(named), _) => {
                let ids = sql.bind(named.iter().map(id_bytes).collect::<Vec<_>>());
                format!("id = ANY({ids})")
            }
            (None, Some(behind)) => format!("id > {}", sql.bind(id_bytes(behind))),
            (None, None) => "true".to_owned(),
        };
        let columns = reading.columns(&known);
        sql.text = format!(
            "SELECT {columns} FROM {} WHERE {which} AND {} ORDER BY id LIMIT {PAGE} FOR UPDATE",
            self.space.table, known.sql
        );
        let rows = sql.ready()?.fetch_all(&mut *self.connection).await?;
        let last = rows.last().map(id_in).transpose()?;
        let records = rows.iter().filter_map(|row| reading.record(row, &known).transpose());
        let records: Vec<Record> = records.collect::<Result<_, _>>()?;
        match named {
            Some(named) => {
                // Both are in the order of the ids.
                let there = |id: &PointId| records.binary_search_by_key(id, |record| record.id).is_ok();
                if let Some(absent) = named.iter().find(|id| needed && !there(id)) {
                    return Err(VectorsError::NoPoint(*absent).into());
                }
                pages.go_on(named.len());
            }
            None => {
                pages.done = rows.len() < PAGE;
                pages.behind = last;
            }
        }
        Ok(Some(records))
    }
}

/// The points that a write is about, some at a time.
struct Pages {
    /// In order, each once, and how many were given.
    ids: Option<(Vec<PointId>, usize)>,
    filter: Option<std::sync::Arc<Filter>>,
    behind: Option<PointId>,
    done: bool,
}

impl Pages {
    fn of(points: &Selector) -> Pages {
        match points {
            Selector::Ids(ids) => {
                let mut ids = ids.clone();
                ids.sort_unstable();
                ids.dedup();
                Pages { done: ids.is_empty(), ids: Some((ids, 0)), filter: None, behind: None }
            }
            Selector::Filter(filter) => {
                Pages { ids: None, filter: Some(std::sync::Arc::clone(filter)), behind: None, done: false }
            }
        }
    }

    fn go_on(&mut self, by: usize) {
        if let Some((ids, at)) = &mut self.ids {
            *at += by;
            self.done = *at >= ids.len();
        }
    }
}

/// Changes the configuration of a space under the lock of its row.
pub(super) async fn configure(space: &Space, change: Reconfigure) -> Result<(), VectorsError> {
    let mut transaction = space.database.pool.begin().await.map_err(told)?;
    let row = sqlx::query("SELECT config FROM halny_vectors.spaces WHERE number = $1 FOR UPDATE")
        .bind(space.number())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(told)?;
    let old = config_in(&row.ok_or(VectorsError::Closed)?, 0)?;
    let mut new = old.clone();
    change(&mut new)?;
    schema::check(&new)?;
    let kinds = |config: &CollectionConfig| -> Vec<_> {
        let kind = |(name, vector): (&String, &crate::VectorConfig)| (name.clone(), vector.dimensions, vector.distance);
        config.vectors.iter().map(kind).collect()
    };
    if kinds(&old) != kinds(&new) || old.space != new.space {
        let text = "the vectors of a collection stay what they are; make another collection";
        return Err(VectorsError::Config(text.to_owned()));
    }
    schema::change(&mut transaction, space.number(), &old, &new).await?;
    sqlx::query("UPDATE halny_vectors.spaces SET config = $2 WHERE number = $1")
        .bind(space.number())
        .bind(text_of(&new)?)
        .execute(&mut *transaction)
        .await
        .map_err(told)?;
    transaction.commit().await.map_err(told)?;
    space.config.store(std::sync::Arc::new(new));
    Ok(())
}
