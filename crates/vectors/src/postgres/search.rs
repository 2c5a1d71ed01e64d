//! The nearest points: by walking an index, or by comparing all that pass.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::told;
use super::points::{Reading, Space, condition};
use super::schema::{self, Index};
use super::wire::{Sql, Vector};
use crate::{Distance, Record, Scored, Search, Select, VectorConfig, VectorsError};

/// Candidates that are kept in a walk unless the request says otherwise, as in the embedded store.
const EF: usize = 128;
/// What pgvector allows.
const EF_MAX: usize = 1_000;
/// Candidates from an index of 16-bit numbers that are compared in 32 bits for each point that is wanted.
const OVERSAMPLING: f32 = 2.0;
/// Points that are read at first, and again four times as many, where the filter is asked here.
const ASKED: usize = 1_000;

/// The points nearest to a vector, the nearest first; of two equally near the one with the lower id.
pub(super) async fn nearest(space: &Space, search: &Search, select: &Select) -> Result<Vec<Scored>, VectorsError> {
    let config = space.config.load_full();
    let vector = config.vector(&search.vector)?.clone();
    config.check_one(&search.vector, &search.query)?;
    if search.limit == 0 {
        return Ok(Vec::new());
    }
    let reading = Reading::new(config, select, search.filter.as_deref());
    let looking = Looking { space, search, reading, vector };
    if let Some(index) = looking.walks() {
        let found = looking.walk(&index).await?;
        // A walk ends after so many points, whether they pass or not: what it missed has to be compared.
        if found.len() >= search.limit {
            return Ok(looking.near_enough(found));
        }
    }
    let found = looking.compare().await?;
    Ok(looking.near_enough(found))
}

struct Looking<'a> {
    space: &'a Space,
    search: &'a Search,
    reading: Reading<'a>,
    vector: VectorConfig,
}

impl Looking<'_> {
    /// The index to walk, if that is wanted and the filter is SQL's affair alone.
    fn walks(&self) -> Option<Index> {
        let exact = condition(&self.reading.config, self.reading.filter, &mut Sql::default()).exact;
        if self.search.params.exact || !exact {
            return None;
        }
        Index::of(&self.vector, &self.reading.config)
    }

    fn column(&self) -> String {
        let place = self.reading.config.vectors.keys().position(|name| *name == self.search.vector);
        format!("v{}", place.unwrap_or(0))
    }

    /// By the index; PostgreSQL compares all of a small table, and all of what few points pass.
    async fn walk(&self, index: &Index) -> Result<Vec<Scored>, VectorsError> {
        let (column, operator) = (self.column(), schema::operator(self.vector.distance));
        let mut sql = Sql::default();
        let query = sql.bind(Vector(self.search.query.to_vec()));
        let known = condition(&self.reading.config, self.reading.filter, &mut sql);
        let times = self.search.params.oversampling.unwrap_or(OVERSAMPLING).max(1.0);
        let limit = self.search.limit;
        let candidates = if index.half { (limit as f32 * times).ceil() as usize } else { limit };
        let dimensions = self.vector.dimensions;
        let near = format!(
            "{} {operator} {}",
            schema::indexed(&column, index, dimensions),
            schema::indexed(&query, index, dimensions)
        );
        let (columns, table) = (self.reading.columns(&known), &self.space.table);
        sql.text = format!(
            "WITH near AS MATERIALIZED (SELECT {columns}, {column} {operator} {query} AS distance FROM {table} \
             WHERE {column} IS NOT NULL AND {} ORDER BY {near} LIMIT {candidates}) \
             SELECT * FROM near ORDER BY distance, id LIMIT {limit}",
            known.sql
        );
        let ef = self.search.params.ef.or(self.vector.ef).unwrap_or(EF).max(candidates).min(EF_MAX);
        let mut transaction = self.space.database.pool.begin().await.map_err(told)?;
        let settings = "SELECT set_config('hnsw.ef_search', $1, true),
                               set_config('hnsw.iterative_scan', 'relaxed_order', true)";
        sqlx::query(settings).bind(ef.to_string()).execute(&mut *transaction).await.map_err(told)?;
        let rows = sql.ready()?.fetch_all(&mut *transaction).await.map_err(told)?;
        transaction.commit().await.map_err(told)?;
        rows.iter().filter_map(|row| self.scored(row, &known).transpose()).collect()
    }

    /// By comparing everything that passes. The order is one that no index has.
    async fn compare(&self) -> Result<Vec<Scored>, VectorsError> {
        let (column, operator) = (self.column(), schema::operator(self.vector.distance));
        let (limit, table) = (self.search.limit, &self.space.table);
        let mut read = limit;
        loop {
            let mut sql = Sql::default();
            let query = sql.bind(Vector(self.search.query.to_vec()));
            let known = condition(&self.reading.config, self.reading.filter, &mut sql);
            if !known.exact {
                read = read.max(ASKED);
            }
            let columns = self.reading.columns(&known);
            sql.text = format!(
                "SELECT {columns}, {column} {operator} {query} AS distance FROM {table} \
                 WHERE {column} IS NOT NULL AND {} ORDER BY ({column} {operator} {query}) + 0, id LIMIT {read}",
                known.sql
            );
            let rows = sql.ready()?.fetch_all(&self.space.database.pool).await.map_err(told)?;
            let found = rows.iter().filter_map(|row| self.scored(row, &known).transpose());
            let found: Vec<Scored> = found.take(limit).collect::<Result<_, _>>()?;
            if found.len() >= limit || rows.len() < read {
                return Ok(found);
            }
            read = read.saturating_mul(4);
        }
    }

    fn scored(&self, row: &PgRow, known: &super::filter::Known) -> Result<Option<Scored>, VectorsError> {
        let distance: f64 = row.try_get("distance").map_err(told)?;
        let score = match self.vector.distance {
            // pgvector gives the negative of a dot product.
            Distance::Cosine | Distance::Dot => -distance as f32,
            Distance::Euclid => distance as f32,
        };
        let record = self.reading.record(row, known)?;
        Ok(record.map(|Record { id, payload, vectors }| Scored { id, score, payload, vectors }))
    }

    fn near_enough(&self, mut found: Vec<Scored>) -> Vec<Scored> {
        if let Some(threshold) = self.search.threshold {
            found.retain(|point| self.vector.distance.beats(point.score, threshold));
        }
        found
    }
}
