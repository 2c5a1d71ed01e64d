//! What time does to jobs: leases that are extended or run out, and jobs that are forgotten.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use crate::{JobId, Jobs, JobsError, Progress};

/// A job that loses so many workers, and makes no headway meanwhile, is what loses them.
pub const LOSSES_MAX: u32 = 20;
/// Rows that are looked at in one transaction.
const AT_ONCE: i64 = 1_000;

/// What a worker hears of a job that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) epoch: i64,
    pub(crate) is_cancelled: bool,
}

impl Jobs {
    /// Extends the leases of a worker to last for `lease` from now, where it says so, and writes how far its jobs are;
    /// gives those that are still its own. Where there is nothing to write, nothing is.
    pub(crate) async fn beat(
        &self,
        worker: &str,
        lease: Option<Duration>,
        progress: &[(JobId, i64, Progress)],
    ) -> Result<HashMap<JobId, Held>, JobsError> {
        let database = &self.shared.database;
        if lease.is_some() || !progress.is_empty() {
            let mut write = database.write().await?;
            let now = database.now_ms(&mut write).await?;
            for (id, epoch, progress) in progress {
                let sql = "UPDATE jobs SET progress = $3 WHERE id = $1 AND epoch = $2 AND state = 'running'";
                let text = serde_json::to_string(progress).unwrap_or_default();
                sqlx::query(sql).bind(id.to_string()).bind(*epoch).bind(text).execute(&mut *write).await?;
            }
            if let Some(lease) = lease {
                let until = now.saturating_add(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX));
                let sql = "UPDATE jobs SET lease_until_ms = $2 WHERE state = 'running' AND worker = $1";
                sqlx::query(sql).bind(worker).bind(until).execute(&mut *write).await?;
            }
            write.commit().await?;
        }
        let sql = "SELECT id, epoch, cancel_ms FROM jobs WHERE state = 'running' AND worker = $1";
        let rows = sqlx::query(sql).bind(worker).fetch_all(&mut *database.read().await?).await?;
        let held = |row: &AnyRow| {
            let is_cancelled = row.try_get::<Option<i64>, _>("cancel_ms")?.is_some();
            Ok((row.try_get::<String, _>("id")?.parse()?, Held { epoch: row.try_get("epoch")?, is_cancelled }))
        };
        rows.iter().map(held).collect()
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
             state = CASE WHEN cancel_ms IS NOT NULL THEN 'cancelled' WHEN losses + 1 >= {LOSSES_MAX} THEN 'dead' ELSE 'ready' END, \
             ended_ms = CASE WHEN cancel_ms IS NOT NULL OR losses + 1 >= {LOSSES_MAX} THEN $1 ELSE NULL END, \
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

    /// Forgets jobs that were done or cancelled long ago, with their keys, effects and checkpoints; gives how many.
    ///
    /// # Errors
    /// When the database or the place of blobs cannot be used.
    pub async fn forget(&self) -> Result<u64, JobsError> {
        let database = &self.shared.database;
        let keep = i64::try_from(self.shared.settings.keep.as_millis()).unwrap_or(i64::MAX);
        let mut forgotten = 0;
        loop {
            let now = database.now_ms(&mut *database.read().await?).await?;
            let sql =
                "SELECT id FROM jobs WHERE state IN ('done', 'cancelled') AND ended_ms < $1 ORDER BY ended_ms LIMIT $2";
            let old = sqlx::query_scalar::<_, String>(sql).bind(now.saturating_sub(keep)).bind(AT_ONCE);
            let ids = old.fetch_all(&mut *database.read().await?).await?;
            for id in &ids {
                self.forget_one(id).await?;
            }
            forgotten += ids.len() as u64;
            if (ids.len() as i64) < AT_ONCE {
                return Ok(forgotten);
            }
        }
    }

    /// Forgets one that has ended. Its blobs first: what is left of a broken-off attempt is found again.
    pub(crate) async fn forget_one(&self, id: &str) -> Result<(), JobsError> {
        self.shared.blobs.delete_all(&format!("jobs/{id}")).await?;
        let mut write = self.shared.database.write().await?;
        for sql in [
            "DELETE FROM job_keys WHERE job = $1",
            "DELETE FROM job_effects WHERE job = $1",
            "DELETE FROM jobs WHERE id = $1 AND state IN ('done', 'cancelled', 'dead')",
        ] {
            sqlx::query(sql).bind(id).execute(&mut *write).await?;
        }
        write.commit().await?;
        Ok(())
    }
}
