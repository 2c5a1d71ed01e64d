//! The spaces of one collection, as they were when it was asked for.

use std::sync::Arc;

use sqlx::Row;

use super::catalog::{activate, add_space, config_in, number_in};
use super::error::told;
use super::points::Space;
use super::{Database, schema};
use crate::{CollectionConfig, EmbeddingSpace, Points, Spaces, VectorsError, Waiting};

/// A collection.
pub(super) struct Collection {
    pub(super) database: Arc<Database>,
    pub(super) number: i64,
    /// The model that it follows.
    pub(super) model: Option<String>,
    /// The active one first; there is one at least.
    pub(super) spaces: Vec<Arc<Space>>,
}

/// A space as the catalogue knows it now.
struct Entry {
    number: i64,
    active: bool,
    config: CollectionConfig,
}

impl Collection {
    async fn entries(&self, connection: &mut sqlx::PgConnection) -> Result<Vec<Entry>, VectorsError> {
        let rows = sqlx::query(
            "SELECT s.number, s.number = c.active, s.config
             FROM halny_vectors.spaces s JOIN halny_vectors.collections c ON s.collection = c.number
             WHERE c.number = $1",
        )
        .bind(self.number)
        .fetch_all(connection)
        .await
        .map_err(told)?;
        if rows.is_empty() {
            return Err(VectorsError::Closed);
        }
        let entry = |row| {
            let active = Row::try_get(row, 1).map_err(told)?;
            Ok(Entry { number: number_in(row, 0)?, active, config: config_in(row, 2)? })
        };
        rows.iter().map(entry).collect()
    }

    async fn entry(&self, connection: &mut sqlx::PgConnection, made: &EmbeddingSpace) -> Result<Entry, VectorsError> {
        let found = self.entries(connection).await?.into_iter().find(|entry| entry.config.is_of(made));
        found.ok_or_else(|| VectorsError::NoSpace(made.to_string()))
    }
}

impl Spaces for Collection {
    fn active(&self) -> Arc<dyn Points> {
        // A collection is read with its spaces, so that there is one.
        Arc::clone(&self.spaces[0]) as Arc<dyn Points>
    }

    fn follows(&self) -> Option<String> {
        let made_by = || self.active().config().space.as_ref().map(|made| made.model.clone());
        self.model.clone().or_else(made_by)
    }

    fn spaces(&self) -> Vec<Arc<dyn Points>> {
        self.spaces.iter().map(|space| Arc::clone(space) as Arc<dyn Points>).collect()
    }

    fn add(&self, config: CollectionConfig) -> Waiting<'_, Arc<dyn Points>> {
        Box::pin(async move {
            schema::check(&config)?;
            let mut transaction = self.database.pool.begin().await.map_err(told)?;
            schema::lock(&mut transaction).await?;
            let entries = self.entries(&mut transaction).await?;
            if let Some(made) = &config.space
                && entries.iter().any(|entry| entry.config.is_of(made))
            {
                return Err(VectorsError::Exists(made.to_string()));
            }
            let space = add_space(&mut transaction, self.number, &config).await?;
            transaction.commit().await.map_err(told)?;
            Ok(Arc::new(Space::new(Arc::clone(&self.database), space, config)) as Arc<dyn Points>)
        })
    }

    fn activate<'a>(&'a self, made: &'a EmbeddingSpace) -> Waiting<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.database.pool.begin().await.map_err(told)?;
            schema::lock(&mut transaction).await?;
            let entry = self.entry(&mut transaction, made).await?;
            activate(&mut transaction, self.number, entry.number, Some(&made.model)).await?;
            transaction.commit().await.map_err(told)
        })
    }

    fn drop_space<'a>(&'a self, made: &'a EmbeddingSpace) -> Waiting<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.database.pool.begin().await.map_err(told)?;
            schema::lock(&mut transaction).await?;
            let entry = self.entry(&mut transaction, made).await?;
            if entry.active {
                let text = format!("the vectors of {made} are in use; make others active first");
                return Err(VectorsError::Invalid(text));
            }
            schema::run(&mut transaction, format!("DROP TABLE {}", schema::table(entry.number))).await?;
            let delete = sqlx::query("DELETE FROM halny_vectors.spaces WHERE number = $1").bind(entry.number);
            delete.execute(&mut *transaction).await.map_err(told)?;
            transaction.commit().await.map_err(told)
        })
    }
}
