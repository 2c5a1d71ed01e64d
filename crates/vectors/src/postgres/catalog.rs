//! The catalogue: collections and aliases by name.

use std::sync::Arc;

use halny_types::CollectionName;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::error::{broken, told};
use super::points::Space;
use super::spaces::Collection;
use super::{Database, Postgres, schema};
use crate::{AliasChange, CollectionConfig, Collections, Spaces, VectorsError, Waiting};

/// The most collections and aliases of one database.
const COLLECTIONS_MAX: i64 = 16_384;
const ALIASES_MAX: i64 = 65_536;

impl Collections for Postgres {
    fn engine(&self) -> &'static str {
        "postgres"
    }

    fn get<'a>(&'a self, name: &'a str) -> Waiting<'a, Arc<dyn Spaces>> {
        Box::pin(async move {
            let found = load(&self.database, name).await?;
            Ok(found.map(Arc::new).ok_or_else(|| none_of(name))? as Arc<dyn Spaces>)
        })
    }

    fn names(&self) -> Waiting<'_, Vec<CollectionName>> {
        Box::pin(async move {
            let rows = sqlx::query("SELECT name FROM halny_vectors.collections ORDER BY name")
                .fetch_all(&self.database.pool)
                .await
                .map_err(told)?;
            rows.iter().map(|row| name_in(row, 0)).collect()
        })
    }

    fn aliases(&self) -> Waiting<'_, Vec<(CollectionName, CollectionName)>> {
        Box::pin(async move {
            let rows = sqlx::query(
                "SELECT alias, name FROM halny_vectors.aliases JOIN halny_vectors.collections ON collection = number
                 ORDER BY alias",
            )
            .fetch_all(&self.database.pool)
            .await
            .map_err(told)?;
            rows.iter().map(|row| Ok((name_in(row, 0)?, name_in(row, 1)?))).collect()
        })
    }

    fn create<'a>(&'a self, name: CollectionName, config: &'a CollectionConfig) -> Waiting<'a, ()> {
        Box::pin(async move {
            schema::check(config)?;
            let mut transaction = self.database.pool.begin().await.map_err(told)?;
            schema::lock(&mut transaction).await?;
            free(&mut transaction, &name).await?;
            let count = sqlx::query("SELECT count(*) FROM halny_vectors.collections");
            let row = count.fetch_one(&mut *transaction).await.map_err(told)?;
            if number_in(&row, 0)? >= COLLECTIONS_MAX {
                let text = format!("there are {COLLECTIONS_MAX} collections; delete one first");
                return Err(VectorsError::Config(text));
            }
            let insert =
                "INSERT INTO halny_vectors.collections (name, active, model) VALUES ($1, 0, $2) RETURNING number";
            let model = config.space.as_ref().map(|made| made.model.as_str());
            let insert = sqlx::query(insert).bind(name.as_str()).bind(model);
            let row = insert.fetch_one(&mut *transaction).await.map_err(told)?;
            let collection = number_in(&row, 0)?;
            let space = add_space(&mut transaction, collection, config).await?;
            activate(&mut transaction, collection, space, model).await?;
            transaction.commit().await.map_err(told)
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Waiting<'a, bool> {
        Box::pin(async move {
            let mut transaction = self.database.pool.begin().await.map_err(told)?;
            schema::lock(&mut transaction).await?;
            let spaces = sqlx::query(
                "SELECT s.number FROM halny_vectors.spaces s JOIN halny_vectors.collections c ON s.collection = c.number
                 WHERE c.name = $1",
            )
            .bind(name)
            .fetch_all(&mut *transaction)
            .await
            .map_err(told)?;
            for row in &spaces {
                schema::run(&mut transaction, format!("DROP TABLE {}", schema::table(number_in(row, 0)?))).await?;
            }
            let delete = sqlx::query("DELETE FROM halny_vectors.collections WHERE name = $1").bind(name);
            let gone = delete.execute(&mut *transaction).await.map_err(told)?.rows_affected();
            transaction.commit().await.map_err(told)?;
            Ok(gone > 0)
        })
    }

    fn change_aliases(&self, changes: Vec<AliasChange>) -> Waiting<'_, ()> {
        Box::pin(async move {
            let mut transaction = self.database.pool.begin().await.map_err(told)?;
            schema::lock(&mut transaction).await?;
            for change in changes {
                change_alias(&mut transaction, change).await?;
            }
            transaction.commit().await.map_err(told)
        })
    }

    fn close(&self) {
        self.database.runtime.block_on(self.database.pool.close());
    }
}

/// A name that is a client's own is shown cut short.
pub(super) fn none_of(name: &str) -> VectorsError {
    VectorsError::NoCollection(name.chars().take(255).collect())
}

/// The collection of that name, or that the alias means, with all its spaces, as of one moment.
async fn load(database: &Arc<Database>, name: &str) -> Result<Option<Collection>, VectorsError> {
    // No name has it, and PostgreSQL takes none with it.
    if name.contains('\0') {
        return Ok(None);
    }
    let rows = sqlx::query(
        "SELECT c.number, c.active, s.number, s.config, c.model
         FROM halny_vectors.collections c JOIN halny_vectors.spaces s ON s.collection = c.number
         WHERE c.number = coalesce((SELECT number FROM halny_vectors.collections WHERE name = $1),
                                   (SELECT collection FROM halny_vectors.aliases WHERE alias = $1))
         ORDER BY s.number",
    )
    .bind(name)
    .fetch_all(&database.pool)
    .await
    .map_err(told)?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (number, active) = (number_in(first, 0)?, number_in(first, 1)?);
    let model = first.try_get(4).map_err(told)?;
    let mut spaces = Vec::with_capacity(rows.len());
    for row in &rows {
        let config = config_in(row, 3)?;
        spaces.push(Arc::new(Space::new(Arc::clone(database), number_in(row, 2)?, config)));
    }
    // The active one first.
    spaces.sort_by_key(|space| space.number() != active);
    Ok(Some(Collection { database: Arc::clone(database), number, model, spaces }))
}

/// Makes an empty space of a collection.
pub(super) async fn add_space(
    connection: &mut PgConnection,
    collection: i64,
    config: &CollectionConfig,
) -> Result<i64, VectorsError> {
    let row = sqlx::query("INSERT INTO halny_vectors.spaces (collection, config) VALUES ($1, $2) RETURNING number")
        .bind(collection)
        .bind(text_of(config)?)
        .fetch_one(&mut *connection)
        .await
        .map_err(told)?;
    let space = number_in(&row, 0)?;
    schema::create(connection, space, config).await?;
    Ok(space)
}

/// Makes a space the active one of its collection, which follows a model from then on.
pub(super) async fn activate(
    connection: &mut PgConnection,
    collection: i64,
    space: i64,
    model: Option<&str>,
) -> Result<(), VectorsError> {
    sqlx::query(
        "UPDATE halny_vectors.collections SET active = $2, model = $3
         WHERE number = $1 AND (active, model) IS DISTINCT FROM ($2, $3)",
    )
    .bind(collection)
    .bind(space)
    .bind(model)
    .execute(connection)
    .await
    .map_err(told)?;
    Ok(())
}

/// Refuses a name that a collection or an alias has.
async fn free(connection: &mut PgConnection, name: &CollectionName) -> Result<(), VectorsError> {
    let taken = sqlx::query(
        "SELECT EXISTS (SELECT FROM halny_vectors.collections WHERE name = $1)
             OR EXISTS (SELECT FROM halny_vectors.aliases WHERE alias = $1)",
    );
    let row = taken.bind(name.as_str()).fetch_one(connection).await.map_err(told)?;
    match row.try_get(0).map_err(told)? {
        true => Err(VectorsError::Exists(name.as_str().to_owned())),
        false => Ok(()),
    }
}

async fn change_alias(connection: &mut PgConnection, change: AliasChange) -> Result<(), VectorsError> {
    match change {
        AliasChange::Create { alias, collection } => {
            let of = sqlx::query("SELECT number FROM halny_vectors.collections WHERE name = $1");
            let row = of.bind(collection.as_str()).fetch_optional(&mut *connection).await.map_err(told)?;
            let row = row.ok_or_else(|| none_of(collection.as_str()))?;
            name_alias(connection, &alias, number_in(&row, 0)?).await
        }
        AliasChange::Delete(alias) => take_alias(connection, &alias).await.map(drop),
        AliasChange::Rename { from, to } => {
            let collection = take_alias(connection, &from).await?;
            name_alias(connection, &to, collection).await
        }
    }
}

/// Removes an alias, and tells what it meant.
async fn take_alias(connection: &mut PgConnection, alias: &CollectionName) -> Result<i64, VectorsError> {
    let taken = sqlx::query("DELETE FROM halny_vectors.aliases WHERE alias = $1 RETURNING collection");
    let row = taken.bind(alias.as_str()).fetch_optional(connection).await.map_err(told)?;
    let row = row.ok_or_else(|| VectorsError::NoAlias(alias.as_str().to_owned()))?;
    number_in(&row, 0)
}

async fn name_alias(
    connection: &mut PgConnection,
    alias: &CollectionName,
    collection: i64,
) -> Result<(), VectorsError> {
    let row = sqlx::query(
        "SELECT EXISTS (SELECT FROM halny_vectors.collections WHERE name = $1),
                (SELECT count(*) FROM halny_vectors.aliases)",
    )
    .bind(alias.as_str())
    .fetch_one(&mut *connection)
    .await
    .map_err(told)?;
    if row.try_get(0).map_err(told)? {
        return Err(VectorsError::Exists(alias.as_str().to_owned()));
    }
    if number_in(&row, 1)? >= ALIASES_MAX {
        return Err(VectorsError::Config(format!("there are {ALIASES_MAX} aliases; delete one first")));
    }
    sqlx::query(
        "INSERT INTO halny_vectors.aliases (alias, collection) VALUES ($1, $2)
         ON CONFLICT (alias) DO UPDATE SET collection = excluded.collection",
    )
    .bind(alias.as_str())
    .bind(collection)
    .execute(connection)
    .await
    .map_err(told)?;
    Ok(())
}

pub(super) fn number_in(row: &PgRow, column: usize) -> Result<i64, VectorsError> {
    row.try_get(column).map_err(told)
}

fn name_in(row: &PgRow, column: usize) -> Result<CollectionName, VectorsError> {
    let name: String = row.try_get(column).map_err(told)?;
    CollectionName::new(name.as_str()).map_err(|error| broken("read a name", &error))
}

pub(super) fn config_in(row: &PgRow, column: usize) -> Result<CollectionConfig, VectorsError> {
    let config: String = row.try_get(column).map_err(told)?;
    serde_json::from_str(&config).map_err(|error| broken("read a configuration", &error))
}

pub(super) fn text_of(config: &CollectionConfig) -> Result<String, VectorsError> {
    serde_json::to_string(config).map_err(|error| broken("write a configuration", &error))
}
