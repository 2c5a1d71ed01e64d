//! What a running job writes: checkpoints, and effects that count once. Each under the fence.

use futures::future::BoxFuture;
use halny_store::{Dialect, Write};
use sqlx::{AssertSqlSafe, Row};

use crate::rows::whole;
use crate::scribe::TRIES;
use crate::{JobId, Jobs, JobsError, Usage};

/// A checkpoint that was written, to be the job's last.
pub(crate) struct Mark {
    pub(crate) id: JobId,
    pub(crate) epoch: i64,
    /// The blob.
    pub(crate) checkpoint: String,
    /// What was used since the last.
    pub(crate) usage: Usage,
}

/// Locks the job's row until the transaction ends and gives its checkpoint; refuses whoever has it no more.
async fn fence(write: &mut Write, dialect: Dialect, id: JobId, epoch: i64) -> Result<Option<String>, JobsError> {
    let sql = format!(
        "SELECT checkpoint FROM jobs WHERE id = $1 AND epoch = $2 AND state = 'running'{}",
        dialect.for_update()
    );
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).bind(epoch).fetch_optional(&mut **write).await?;
    Ok(row.ok_or(JobsError::Fenced)?.try_get(0)?)
}

/// Makes a checkpoint the last one; gives the one before. Headway: workers that were lost before are forgotten.
pub(crate) async fn mark(write: &mut Write, dialect: Dialect, mark: &Mark) -> Result<Option<String>, JobsError> {
    let before = fence(write, dialect, mark.id, mark.epoch).await?;
    let sql =
        "UPDATE jobs SET checkpoint = $2, losses = 0, device_us = device_us + $3, tokens = tokens + $4 WHERE id = $1";
    sqlx::query(sql)
        .bind(mark.id.to_string())
        .bind(&mark.checkpoint)
        .bind(whole(mark.usage.device_us))
        .bind(whole(mark.usage.tokens))
        .execute(&mut **write)
        .await?;
    Ok(before)
}

/// Statements that are made in the transaction that notes the effect.
type Statements<'a> = dyn for<'w> Fn(&'w mut Write) -> BoxFuture<'w, Result<(), JobsError>> + Send + Sync + 'a;

impl Jobs {
    /// Makes `statements` unless this job has made the effect of this name already; tells whether it did now.
    pub(crate) async fn effect(
        &self,
        id: JobId,
        epoch: i64,
        name: &str,
        statements: &Statements<'_>,
    ) -> Result<bool, JobsError> {
        let mut tries = 1;
        loop {
            match self.effect_once(id, epoch, name, statements).await {
                Err(JobsError::Store { collided: true, .. }) if tries < TRIES => tries += 1,
                made => return made,
            }
        }
    }

    async fn effect_once(
        &self,
        id: JobId,
        epoch: i64,
        name: &str,
        statements: &Statements<'_>,
    ) -> Result<bool, JobsError> {
        let database = &self.shared.database;
        let mut write = database.write().await?;
        fence(&mut write, database.dialect(), id, epoch).await?;
        let now = database.now_ms(&mut write).await?;
        let sql = "INSERT INTO job_effects (job, effect, made_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let noted = sqlx::query(sql).bind(id.to_string()).bind(name).bind(now).execute(&mut *write).await?;
        if noted.rows_affected() == 0 {
            return Ok(false);
        }
        statements(&mut write).await?;
        write.commit().await?;
        Ok(true)
    }
}
