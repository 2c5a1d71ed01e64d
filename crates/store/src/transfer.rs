//! Moves the contents of one metadata database into another, all or nothing.
//!
//! The old one is locked meanwhile and says afterwards where its contents went; the new one gets them in one
//! transaction. Counts and digests of every table are compared before that commits. A digest does not depend on the
//! order of rows, since two databases sort texts differently: it is the sum of the rows' SHA-256, as a number modulo
//! 2^256.

use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use sqlx::any::{AnyArguments, AnyRow, AnyTypeInfoKind};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe, Column, Executor, Row, ValueRef};

use crate::migrations::TABLES;
use crate::{Database, Dialect, StoreError};

/// Rows that are written by one statement; SQLite takes 32,766 parameters.
const ROWS_AT_ONCE: usize = 256;

/// What was moved of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The table.
    pub table: &'static str,
    /// Its rows.
    pub rows: u64,
    /// The digest of its rows, in hexadecimal.
    pub digest: String,
}

/// Moves everything from one database into another, which has to be empty. `place` is how the old one names the new.
/// `told` hears of each table.
///
/// # Errors
/// When one of them cannot be used, the new one is not empty, or does not hold what it was given. Then nothing was moved.
pub async fn transfer(
    from: &Database,
    into: &Database,
    place: &str,
    mut told: impl FnMut(&Moved),
) -> Result<Vec<Moved>, StoreError> {
    let mut source = from.write().await?;
    if from.dialect() == Dialect::Postgres {
        // Of all at once, so that two of these do not wait for each other.
        let lock = format!("LOCK TABLE {} IN EXCLUSIVE MODE", TABLES.join(", "));
        source.execute(AssertSqlSafe(lock)).await?;
    }
    let mut target = into.write().await?;
    let mut moved = Vec::new();
    for table in TABLES {
        if sum(&mut target, table).await?.rows > 0 {
            let text = format!("the new database is not empty: its table {table} has rows; give an empty one");
            return Err(StoreError::Transfer(text));
        }
        let given = copy(&mut source, &mut target, table).await?;
        let held = sum(&mut target, table).await?;
        if held != given {
            let text = format!(
                "the table {table} had {} rows and has {} in the new database, or not the same; nothing was moved",
                given.rows, held.rows
            );
            return Err(StoreError::Transfer(text));
        }
        told(&given);
        moved.push(given);
    }
    target.commit().await?;
    // After the commit: between the two both could be used, which loses nothing; the other way round neither could.
    sqlx::query("INSERT INTO meta (name, value) VALUES ('moved_to', $1)").bind(place).execute(&mut *source).await?;
    source.commit().await?;
    Ok(moved)
}

async fn copy(
    source: &mut AnyConnection,
    target: &mut AnyConnection,
    table: &'static str,
) -> Result<Moved, StoreError> {
    let mut total = Total::default();
    let mut waiting = Vec::new();
    let select = format!("SELECT * FROM {table}");
    let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(source);
    while let Some(row) = rows.try_next().await? {
        total.add(&row)?;
        waiting.push(row);
        if waiting.len() == ROWS_AT_ONCE {
            insert(target, table, &waiting).await?;
            waiting.clear();
        }
    }
    insert(target, table, &waiting).await?;
    Ok(total.of(table))
}

async fn insert(target: &mut AnyConnection, table: &str, rows: &[AnyRow]) -> Result<(), StoreError> {
    let Some(first) = rows.first() else { return Ok(()) };
    let columns: Vec<&str> = first.columns().iter().map(Column::name).collect();
    let mut parameter = 0;
    let mut places = Vec::with_capacity(rows.len());
    for row in rows {
        let mut values = Vec::with_capacity(columns.len());
        for place in 0..columns.len() {
            // Written out: a parameter without a value has no type, which PostgreSQL wants to know.
            values.push(if row.try_get_raw(place)?.is_null() {
                "NULL".to_owned()
            } else {
                parameter += 1;
                format!("${parameter}")
            });
        }
        places.push(format!("({})", values.join(", ")));
    }
    let sql = format!("INSERT INTO {table} ({}) VALUES {}", columns.join(", "), places.join(", "));
    let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    for row in rows {
        for place in 0..columns.len() {
            query = bind(query, row, place)?;
        }
    }
    query.execute(target).await?;
    Ok(())
}

fn bind<'q>(
    query: Query<'q, Any, AnyArguments>,
    row: &AnyRow,
    place: usize,
) -> Result<Query<'q, Any, AnyArguments>, StoreError> {
    Ok(match kind(row, place)? {
        AnyTypeInfoKind::Text => query.bind(row.try_get::<String, _>(place)?),
        AnyTypeInfoKind::Double => query.bind(row.try_get::<f64, _>(place)?),
        AnyTypeInfoKind::Null => query,
        _ => query.bind(row.try_get::<i64, _>(place)?),
    })
}

fn kind(row: &AnyRow, place: usize) -> Result<AnyTypeInfoKind, StoreError> {
    let value = row.try_get_raw(place)?;
    Ok(if value.is_null() { AnyTypeInfoKind::Null } else { value.type_info().kind() })
}

/// Count and digest of a table.
async fn sum(connection: &mut AnyConnection, table: &'static str) -> Result<Moved, StoreError> {
    let mut total = Total::default();
    let select = format!("SELECT * FROM {table}");
    let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        total.add(&row)?;
    }
    Ok(total.of(table))
}

#[derive(Default)]
struct Total {
    rows: u64,
    /// 256 bits, the least significant first.
    sum: [u64; 4],
}

impl Total {
    fn add(&mut self, row: &AnyRow) -> Result<(), StoreError> {
        let mut hash = Sha256::new();
        let mut field = |tag: u8, bytes: &[u8]| {
            hash.update([tag]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for column in row.columns() {
            field(b'c', column.name().as_bytes());
            match kind(row, column.ordinal())? {
                AnyTypeInfoKind::Null => field(b'n', b""),
                AnyTypeInfoKind::Text => field(b't', row.try_get::<String, _>(column.ordinal())?.as_bytes()),
                AnyTypeInfoKind::Double => field(b'd', &row.try_get::<f64, _>(column.ordinal())?.to_le_bytes()),
                _ => field(b'i', &row.try_get::<i64, _>(column.ordinal())?.to_le_bytes()),
            }
        }
        let digest = hash.finalize();
        let mut carry = false;
        for (limb, bytes) in self.sum.iter_mut().zip(digest.chunks_exact(8)) {
            let addend = bytes.try_into().map_or(0, u64::from_le_bytes);
            let (with, over) = limb.overflowing_add(addend);
            let (with, over_again) = with.overflowing_add(u64::from(carry));
            (*limb, carry) = (with, over || over_again);
        }
        self.rows += 1;
        Ok(())
    }

    fn of(self, table: &'static str) -> Moved {
        let digest = self.sum.iter().rev().map(|limb| format!("{limb:016x}")).collect();
        Moved { table, rows: self.rows, digest }
    }
}
