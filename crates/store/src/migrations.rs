//! The history of the schema, the same on both databases.
//!
//! A step that was published is never changed: what has run somewhere is known by its digest.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Connection, SqlSafeStr};

use crate::{Database, StoreError};

/// Every step: its number, its name, its SQL.
const STEPS: [(i64, &str, &str); 3] = [
    (1, "jobs", include_str!("../migrations/0001_jobs.sql")),
    (2, "files", include_str!("../migrations/0002_files.sql")),
    (3, "files begun", include_str!("../migrations/0003_files_begun.sql")),
];

/// The tables of all steps, in the order in which they are moved; `meta` is the database's own.
pub(crate) const TABLES: [&str; 7] = ["jobs", "queues", "job_keys", "job_effects", "schedules", "files", "files_begun"];

/// Of two servers that begin to use a SQLite file at the same moment, one finds the tables made; it looks again.
const TRIES: usize = 5;
const AGAIN: Duration = Duration::from_millis(200);

fn migrator(steps: &[(i64, &'static str, &'static str)]) -> Migrator {
    let step = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(steps.iter().map(step).collect());
    migrator.dangerous_set_table_name("halny_schema");
    migrator
}

/// Brings the schema up to date.
pub(crate) async fn run(database: &Database) -> Result<(), StoreError> {
    run_steps(database, &STEPS).await
}

async fn run_steps(database: &Database, steps: &[(i64, &'static str, &'static str)]) -> Result<(), StoreError> {
    let migrator = migrator(steps);
    let mut tries = 1;
    loop {
        // One that failed holds the lock of migrations until its connection ends.
        let mut connection = database.apart().await?;
        let outcome = migrator.run_direct(None, &mut connection, false).await;
        let _ = connection.close().await;
        match outcome {
            Ok(()) => return Ok(()),
            Err(MigrateError::VersionMissing(step)) => return Err(StoreError::Newer(step)),
            Err(MigrateError::VersionMismatch(step)) => return Err(StoreError::Foreign(step)),
            Err(error) if tries == TRIES => return Err(told(error)),
            Err(error) => tracing::debug!(%error, "the schema could not be brought up to date; trying again"),
        }
        tries += 1;
        tokio::time::sleep(AGAIN).await;
    }
}

fn told(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        error => {
            tracing::error!(%error, "the schema of the metadata database cannot be brought up to date");
            StoreError::Database
        }
    }
}
