//! Files that clients uploaded, or that jobs made for them: a row that describes, a blob that holds.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use crate::blobs::BlobWriter;
use crate::{Blobs, Database, StoreError, Write};

const COLUMNS: &str = "id, tenant, name, purpose, bytes, blob, created_ms, expires_ms";

/// Files of all tenants. Cloning shares them.
#[derive(Clone)]
pub struct Files {
    database: Database,
    blobs: Blobs,
}

/// What is known of a file. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name for machines.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// What its owner calls it.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// Its length.
    pub bytes: u64,
    /// The blob that holds it.
    pub blob: String,
    /// When it was made.
    pub created_ms: i64,
    /// From then on it is there no more.
    pub expires_ms: Option<i64>,
}

/// Which files are listed.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Of this purpose.
    pub purpose: Option<String>,
    /// Behind this one, in the order asked for.
    pub after: Option<String>,
    /// The oldest first; otherwise the latest.
    pub ascending: bool,
}

/// The name of the blob that holds a file.
#[must_use]
pub fn blob_of(id: &str) -> String {
    format!("files/{id}")
}

impl Files {
    /// The files that this database describes and this place holds.
    #[must_use]
    pub fn new(database: Database, blobs: Blobs) -> Files {
        Files { database, blobs }
    }

    /// Begins the blob of a new file, which may have been begun before. Its row comes with [`Files::add`], when the blob is
    /// there; until then the database knows that it was begun.
    ///
    /// # Errors
    /// When `id` is no name of a blob, or the database cannot be used.
    pub async fn writer(&self, id: &str) -> Result<BlobWriter, StoreError> {
        let writer = self.blobs.writer(&blob_of(id))?;
        let mut write = self.database.write().await?;
        let now = self.database.now_ms(&mut write).await?;
        let sql = "INSERT INTO files_begun (id, begun_ms) VALUES ($1, $2) \
                   ON CONFLICT (id) DO UPDATE SET begun_ms = excluded.begun_ms";
        sqlx::query(sql).bind(id).bind(now).execute(&mut *write).await?;
        write.commit().await?;
        Ok(writer)
    }

    /// The time by which files are made and expire.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn now_ms(&self) -> Result<i64, StoreError> {
        self.database.now_ms(&mut *self.database.read().await?).await
    }

    /// Describes a file whose blob is there: from now on it is there.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn add(&self, file: &File) -> Result<(), StoreError> {
        let mut write = self.database.write().await?;
        insert(&mut write, file).await?;
        Ok(write.commit().await?)
    }

    /// A file of a tenant's.
    ///
    /// # Errors
    /// [`StoreError::NoFile`] when it has none of this name, or it has expired.
    pub async fn get(&self, tenant: &str, id: &str) -> Result<File, StoreError> {
        // PostgreSQL has no text with a NUL in it, so nothing has such a name.
        if id.contains('\0') {
            return Err(StoreError::NoFile);
        }
        let mut connection = self.database.read().await?;
        let now = self.database.now_ms(&mut connection).await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM files WHERE id = $1 AND tenant = $2 AND (expires_ms IS NULL OR expires_ms > $3)"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(tenant).bind(now);
        file(&query.fetch_optional(&mut *connection).await?.ok_or(StoreError::NoFile)?)
    }

    /// Files of a tenant's, `limit` at most.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn list(&self, tenant: &str, listing: &Listing, limit: u32) -> Result<Vec<File>, StoreError> {
        let mut connection = self.database.read().await?;
        let now = self.database.now_ms(&mut connection).await?;
        if [&listing.purpose, &listing.after].into_iter().flatten().any(|text| text.contains('\0')) {
            return Ok(Vec::new());
        }
        let (sign, order) = if listing.ascending { (">", "ASC") } else { ("<", "DESC") };
        let mut sql =
            format!("SELECT {COLUMNS} FROM files WHERE tenant = $1 AND (expires_ms IS NULL OR expires_ms > $2)");
        let mut values = Vec::new();
        for (column, sign, value) in [("purpose", "=", &listing.purpose), ("id", sign, &listing.after)] {
            if let Some(value) = value {
                values.push(value.clone());
                sql += &format!(" AND {column} {sign} ${}", values.len() + 2);
            }
        }
        // Names hold the time at which they were made.
        sql += &format!(" ORDER BY id {order} LIMIT {limit}");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(tenant).bind(now);
        let query = values.into_iter().fold(query, |query, value| query.bind(value));
        query.fetch_all(&mut *connection).await?.iter().map(file).collect()
    }

    /// The bytes of a file, from an offset on.
    ///
    /// # Errors
    /// When they are gone, or the place of blobs cannot be used.
    pub async fn read(
        &self,
        file: &File,
        from: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        if from >= file.bytes {
            return Ok(Box::pin(futures::stream::empty()));
        }
        self.blobs.stream(&file.blob, from).await
    }

    /// Deletes a file of a tenant's: its row first, so that what is described is there.
    ///
    /// # Errors
    /// [`StoreError::NoFile`] when it has none of this name.
    pub async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let file = self.get(tenant, id).await?;
        self.remove(&file).await
    }

    /// Deletes the files that have expired; gives how many.
    ///
    /// # Errors
    /// When the database or the place of blobs cannot be used.
    pub async fn expire(&self) -> Result<u64, StoreError> {
        let now = self.now_ms().await?;
        let sql = format!("SELECT {COLUMNS} FROM files WHERE expires_ms IS NOT NULL AND expires_ms <= $1 LIMIT 1000");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(now);
        let rows = query.fetch_all(&mut *self.database.read().await?).await?;
        for row in &rows {
            self.remove(&file(row)?).await?;
        }
        Ok(rows.len() as u64)
    }

    /// Removes blobs that were begun so long ago and never described: a server went away in between. Blobs that this
    /// database knows nothing of are left alone, since others may keep theirs in the same place. Gives how many.
    ///
    /// # Errors
    /// When the database or the place of blobs cannot be used.
    pub async fn sweep(&self, older_than: Duration) -> Result<u64, StoreError> {
        if self.database.moved_to().await?.is_some() {
            return Ok(0);
        }
        let age = i64::try_from(older_than.as_millis()).unwrap_or(i64::MAX);
        let then = self.now_ms().await?.saturating_sub(age);
        let old = sqlx::query_scalar::<_, String>("SELECT id FROM files_begun WHERE begun_ms <= $1").bind(then);
        let old = old.fetch_all(&mut *self.database.read().await?).await?;
        let mut removed = 0;
        for id in old {
            // One that was begun again meanwhile is another's.
            let mut write = self.database.write().await?;
            let sql = "DELETE FROM files_begun WHERE id = $1 AND begun_ms <= $2";
            let gone = sqlx::query(sql).bind(&id).bind(then).execute(&mut *write).await?.rows_affected();
            let described = sqlx::query("SELECT 1 FROM files WHERE id = $1").bind(&id);
            let described = described.fetch_optional(&mut *write).await?.is_some();
            write.commit().await?;
            if gone > 0 && !described {
                tracing::warn!(id, "a file that was begun and never described is removed");
                self.blobs.delete(&blob_of(&id)).await?;
                self.blobs.delete_torn(&blob_of(&id)).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn remove(&self, file: &File) -> Result<(), StoreError> {
        let mut write = self.database.write().await?;
        sqlx::query("DELETE FROM files WHERE id = $1").bind(&file.id).execute(&mut *write).await?;
        write.commit().await?;
        self.blobs.delete(&file.blob).await
    }
}

/// Describes a file in a transaction of the caller's.
///
/// # Errors
/// When the database cannot be used.
pub async fn insert(write: &mut Write, file: &File) -> Result<(), StoreError> {
    let sql = "INSERT INTO files (id, tenant, name, purpose, bytes, blob, created_ms, expires_ms) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    sqlx::query(sql)
        .bind(&file.id)
        .bind(&file.tenant)
        .bind(&file.name)
        .bind(&file.purpose)
        .bind(i64::try_from(file.bytes).unwrap_or(i64::MAX))
        .bind(&file.blob)
        .bind(file.created_ms)
        .bind(file.expires_ms)
        .execute(&mut **write)
        .await?;
    sqlx::query("DELETE FROM files_begun WHERE id = $1").bind(&file.id).execute(&mut **write).await?;
    Ok(())
}

fn file(row: &AnyRow) -> Result<File, StoreError> {
    Ok(File {
        id: row.try_get("id")?,
        tenant: row.try_get("tenant")?,
        name: row.try_get("name")?,
        purpose: row.try_get("purpose")?,
        bytes: row.try_get::<i64, _>("bytes")?.unsigned_abs(),
        blob: row.try_get("blob")?,
        created_ms: row.try_get("created_ms")?,
        expires_ms: row.try_get("expires_ms")?,
    })
}
