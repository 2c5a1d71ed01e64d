//! What time does to jobs: leases that are extended or run out, and jobs that are forgotten.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Row};

use crate::{JobId, Jobs, JobsError, Progress};

/// A job that loses so many workers, and makes no headway meanwhile, is what loses them.
pub const LOSSES_MAX: u32 = 20;
/// Rows that are looked at in one transaction.
const AT_ONCE: i64 = 1_000;
/// Jobs that are forgotten before other things are looked after again.
pub(crate) const FORGET_AT_ONCE: i64 = 200;

/// Whether a job that nobody runs any more is cancelled for good: one that has a checkpoint is run once more, since its
/// handler may have something to keep.
pub(crate) const CANCELLED: &str = "cancel_ms IS NOT NULL AND checkpoint IS NULL";

impl Jobs {
    /// Extends the leases of these jobs to last for `lease` from now, where it says so, and writes how far they are;
    /// gives those that are still the caller's, and whether they are cancelled. Where there is nothing to write, nothing is.
    ///
    /// In the connection that writes: those that read may all be taken by whoever looks at jobs.
    pub(crate) async fn beat(
        &self,
        jobs: &[(JobId, i64)],
        lease: Option<Duration>,
        progress: &[(JobId, i64, Progress)],
    ) -> Result<HashMap<JobId, bool>, JobsError> {
        let database = &self.shared.database;
        let mut write = database.write().await?;
        let now = database.now_ms(&mut write).await?;
        for (id, epoch, progress) in progress {
            let sql = "UPDATE jobs SET progress = $3 WHERE id = $1 AND epoch = $2 AND state = 'running'";
            let text = serde_json::to_string(progress).unwrap_or_default();
            sqlx::query(sql).bind(id.to_string()).bind(*epoch).bind(text).execute(&mut *write).await?;
        }
        let until = lease.map(|lease| now.saturating_add(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)));
        let mut held = HashMap::new();
        for (id, epoch) in jobs {
            let row = match until {
                Some(until) => {
                    let sql = "UPDATE jobs SET lease_until_ms = $3 WHERE id = $1 AND epoch = $2 AND state = 'running' \
                               RETURNING cancel_ms";
                    sqlx::query(sql).bind(id.to_string()).bind(*epoch).bind(until).fetch_optional(&mut *write).await?
                }
                None => {
                    let sql = "SELECT cancel_ms FROM jobs WHERE id = $1 AND epoch = $2 AND state = 'running'";
                    sqlx::query(sql).bind(id.to_string()).bind(*epoch).fetch_optional(&mut *write).await?
                }
            };
            if let Some(row) = row {
                held.insert(*id, row.try_get::<Option<i64>, _>(0)?.is_some());
            }
        }
        write.commit().await?;
        Ok(held)
    }

    /// Takes jobs from workers that were not heard of for too long; gives how many.
    pub(crate) async fn reap(&self) -> Result<u64, JobsError> {
        let database = &self.shared.database;
        let mut write = database.write().await?;
        let now = database.now_ms(&mut write).await?;
        // A clock that was set back must not keep the jobs of the lost for as long as it was set back.
        let furthest = now.saturating_add(i64::try_from(self.shared.settings.lease.as_millis()).unwrap_or(i64::MAX));
        let sql = "UPDATE jobs SET lease_until_ms = $1 WHERE state = 'running' AND lease_until_ms > $2";
        sqlx::query(sql).bind(furthest).bind(furthest.saturating_add(1_000)).execute(&mut *write).await?;
        let lock = database.dialect().skip_locked();
        let sql = format!(
            "WITH lost AS MATERIALIZED (SELECT id FROM jobs WHERE state = 'running' AND lease_until_ms < $1 LIMIT {AT_ONCE}{lock}) \
             UPDATE jobs SET losses = losses + 1, lease_until_ms = NULL, \
             state = CASE WHEN {CANCELLED} THEN 'cancelled' WHEN losses + 1 >= {LOSSES_MAX} THEN 'dead' ELSE 'ready' END, \
             ended_ms = CASE WHEN {CANCELLED} OR losses + 1 >= {LOSSES_MAX} THEN $1 ELSE NULL END, \
             error = CASE WHEN losses + 1 >= {LOSSES_MAX} \
             THEN 'its worker was lost {LOSSES_MAX} times without headway; what it does may end the process' ELSE error END \
             WHERE id IN (SELECT id FROM lost)"
        );
        let reaped = sqlx::query(AssertSqlSafe(sql)).bind(now).execute(&mut *write).await?.rows_affected();
        if reaped > 0 {
            database.bell().ring_others(&mut write).await?;
        }
        write.commit().await?;
        if reaped > 0 {
            tracing::warn!(jobs = reaped, "workers were lost; their jobs are given to others");
            database.bell().ring();
        }
        Ok(reaped)
    }

    /// Forgets some jobs that were done or cancelled long ago, with their keys, effects and checkpoints; gives how many.
    ///
    /// # Errors
    /// When the database or the place of blobs cannot be used.
    pub async fn forget(&self) -> Result<u64, JobsError> {
        let database = &self.shared.database;
        let keep = i64::try_from(self.shared.settings.keep.as_millis()).unwrap_or(i64::MAX);
        let now = database.now_ms(&mut *database.read().await?).await?;
        let sql =
            "SELECT id FROM jobs WHERE state IN ('done', 'cancelled') AND ended_ms < $1 ORDER BY ended_ms LIMIT $2";
        let old = sqlx::query_scalar::<_, String>(sql).bind(now.saturating_sub(keep)).bind(FORGET_AT_ONCE);
        let ids = old.fetch_all(&mut *database.read().await?).await?;
        for id in &ids {
            self.forget_one(id).await?;
        }
        Ok(ids.len() as u64)
    }

    /// Forgets one that has ended; one that is tried again meanwhile keeps all that is its. Its blobs last: what is left
    /// of a broken-off attempt takes room, and nothing else.
    pub(crate) async fn forget_one(&self, id: &str) -> Result<(), JobsError> {
        let mut write = self.shared.database.write().await?;
        let sql = "DELETE FROM jobs WHERE id = $1 AND state IN ('done', 'cancelled', 'dead')";
        if sqlx::query(sql).bind(id).execute(&mut *write).await?.rows_affected() == 0 {
            return Ok(());
        }
        for sql in ["DELETE FROM job_keys WHERE job = $1", "DELETE FROM job_effects WHERE job = $1"] {
            sqlx::query(sql).bind(id).execute(&mut *write).await?;
        }
        write.commit().await?;
        self.shared.blobs.delete_all(&format!("jobs/{id}")).await?;
        Ok(())
    }
}
