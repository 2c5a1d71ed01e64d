//! Looking at jobs, and what an operator does to them.

use sqlx::{AssertSqlSafe, Row};

use crate::rows::{COLUMNS, job};
use crate::{Job, JobId, Jobs, JobsError, State};

/// The most jobs of one list.
pub const LIST_MAX: usize = 1_000;

/// Which jobs are listed: the latest first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Of this queue.
    pub queue: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// That stand so.
    pub state: Option<State>,
    /// Accepted before this one.
    pub before: Option<JobId>,
}

/// Where a queue stands.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Jobs that wait for a worker.
    pub ready: u64,
    /// Jobs whose time has not come.
    pub delayed: u64,
    /// Jobs that workers have.
    pub running: u64,
    /// Jobs that failed each time.
    pub dead: u64,
    /// How long the first of those that wait has waited, in milliseconds.
    pub oldest_ready_ms: u64,
    /// Whether nothing of it starts.
    pub is_drained: bool,
}

impl Jobs {
    /// A job as it stands.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn get(&self, id: JobId) -> Result<Job, JobsError> {
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = $1");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        let row = query.fetch_optional(&mut *self.shared.database.read().await?).await?;
        job(&row.ok_or_else(|| JobsError::NoJob(id.to_string()))?)
    }

    /// Jobs, the latest first, `limit` at most.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Job>, JobsError> {
        let mut conditions = vec!["1 = 1".to_owned()];
        let mut values = Vec::new();
        let mut equals = |column: &str, sign: &str, value: Option<String>| {
            if let Some(value) = value {
                values.push(value);
                conditions.push(format!("{column} {sign} ${}", values.len()));
            }
        };
        equals("tenant", "=", filter.tenant.clone());
        equals("queue", "=", filter.queue.clone());
        equals("kind", "=", filter.kind.clone());
        equals("id", "<", filter.before.map(|id| id.to_string()));
        if let Some(state) = filter.state {
            // Written out: the planner sees which of the partial indexes has them.
            conditions.push(format!("state = '{}'", state.as_str()));
        }
        // PostgreSQL has no text with a NUL in it, so nothing has such a name.
        if values.iter().any(|value| value.contains('\0')) {
            return Ok(Vec::new());
        }
        let limit = limit.min(LIST_MAX);
        let sql =
            format!("SELECT {COLUMNS} FROM jobs WHERE {} ORDER BY id DESC LIMIT {limit}", conditions.join(" AND "));
        let query = values.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, value| query.bind(value));
        let rows = query.fetch_all(&mut *self.shared.database.read().await?).await?;
        rows.iter().map(job).collect()
    }

    /// Where each queue stands: those of the project, and those that still have jobs.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn queues(&self) -> Result<Vec<QueueState>, JobsError> {
        let mut connection = self.shared.database.read().await?;
        let now = self.shared.database.now_ms(&mut connection).await?;
        let mut found: std::collections::BTreeMap<String, QueueState> = std::collections::BTreeMap::new();
        let sql = "SELECT name, is_drained FROM queues";
        for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
            let (name, is_drained) = (row.try_get::<String, _>(0)?, row.try_get::<i64, _>(1)? != 0);
            found.insert(name.clone(), QueueState { name, is_drained, ..QueueState::default() });
        }
        // Each from its own index; of all jobs together there may be millions that have ended.
        for state in [State::Ready, State::Delayed, State::Running, State::Dead] {
            let sql = format!(
                "SELECT queue, count(*), min(run_at_ms) FROM jobs WHERE state = '{}' GROUP BY queue",
                state.as_str()
            );
            for row in sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *connection).await? {
                let (name, count) = (row.try_get::<String, _>(0)?, row.try_get::<i64, _>(1)?.unsigned_abs());
                let queue = found.entry(name.clone()).or_insert_with(|| QueueState { name, ..QueueState::default() });
                match state {
                    State::Ready => {
                        let oldest: i64 = row.try_get(2)?;
                        queue.oldest_ready_ms = now.saturating_sub(oldest).max(0).unsigned_abs();
                        queue.ready = count;
                    }
                    State::Delayed => queue.delayed = count,
                    State::Running => queue.running = count,
                    _ => queue.dead = count,
                }
            }
        }
        Ok(found.into_values().collect())
    }

    /// Cancels a job: one that waits at once, one that runs when its handler stops, or its time to do so is over.
    ///
    /// # Errors
    /// When there is none of that name, or it has ended.
    pub async fn cancel(&self, id: JobId) -> Result<(), JobsError> {
        let mut write = self.shared.database.write().await?;
        let now = self.shared.database.now_ms(&mut write).await?;
        // One that has a checkpoint is run once more: its handler may have something to keep.
        let sql = "UPDATE jobs SET cancel_ms = coalesce(cancel_ms, $2), \
                   ended_ms = CASE WHEN state = 'running' OR checkpoint IS NOT NULL THEN NULL ELSE $2 END, \
                   run_at_ms = CASE WHEN state = 'delayed' AND checkpoint IS NOT NULL THEN $2 ELSE run_at_ms END, \
                   state = CASE WHEN state = 'running' THEN 'running' WHEN checkpoint IS NOT NULL THEN 'ready' ELSE 'cancelled' END \
                   WHERE id = $1 AND state IN ('ready', 'delayed', 'running')";
        let changed = sqlx::query(sql).bind(id.to_string()).bind(now).execute(&mut *write).await?;
        self.shared.database.bell().ring_others(&mut write).await?;
        write.commit().await?;
        self.shared.database.bell().ring();
        self.expect(id, changed.rows_affected(), "what has ended cannot be cancelled").await
    }

    /// Tries a dead or cancelled job again, from the beginning of its tries; its checkpoint stays.
    ///
    /// # Errors
    /// When there is none of that name, or it is neither.
    pub async fn retry(&self, id: JobId) -> Result<(), JobsError> {
        let mut write = self.shared.database.write().await?;
        let now = self.shared.database.now_ms(&mut write).await?;
        let sql = "UPDATE jobs SET state = 'ready', failures = 0, losses = 0, cancel_ms = NULL, ended_ms = NULL, run_at_ms = $2 \
                   WHERE id = $1 AND state IN ('dead', 'cancelled')";
        let changed = sqlx::query(sql).bind(id.to_string()).bind(now).execute(&mut *write).await?;
        self.shared.database.bell().ring_others(&mut write).await?;
        write.commit().await?;
        self.shared.database.bell().ring();
        self.expect(id, changed.rows_affected(), "only a dead or cancelled job is tried again").await
    }

    /// Tries all dead jobs of a queue again; gives how many.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn retry_dead(&self, queue: &str) -> Result<u64, JobsError> {
        let mut retried = 0;
        for job in self.dead(queue).await? {
            match self.retry(job).await {
                Ok(()) => retried += 1,
                // Somebody else was quicker.
                Err(JobsError::State { .. } | JobsError::NoJob(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(retried)
    }

    /// Forgets all dead jobs of a queue; gives how many.
    ///
    /// # Errors
    /// When the database or the place of blobs cannot be used.
    pub async fn purge_dead(&self, queue: &str) -> Result<u64, JobsError> {
        let dead = self.dead(queue).await?;
        for job in &dead {
            self.forget_one(&job.to_string()).await?;
        }
        Ok(dead.len() as u64)
    }

    async fn dead(&self, queue: &str) -> Result<Vec<JobId>, JobsError> {
        let sql = "SELECT id FROM jobs WHERE state = 'dead' AND queue = $1 ORDER BY id";
        let ids = sqlx::query_scalar::<_, String>(sql).bind(queue);
        ids.fetch_all(&mut *self.shared.database.read().await?).await?.iter().map(|id| id.parse()).collect()
    }

    /// From now on nothing of the queue starts, or it does again.
    ///
    /// # Errors
    /// When there is no such queue.
    pub async fn drain(&self, queue: &str, is_drained: bool) -> Result<(), JobsError> {
        let mut write = self.shared.database.write().await?;
        let sql = "UPDATE queues SET is_drained = $2 WHERE name = $1";
        let changed = sqlx::query(sql).bind(queue).bind(i64::from(is_drained)).execute(&mut *write).await?;
        self.shared.database.bell().ring_others(&mut write).await?;
        write.commit().await?;
        self.shared.database.bell().ring();
        if changed.rows_affected() == 0 {
            let name = queue.chars().take(96).collect();
            return Err(JobsError::NoQueue { name, known: self.shared.settings.names() });
        }
        Ok(())
    }

    async fn expect(&self, id: JobId, changed: u64, instead: &'static str) -> Result<(), JobsError> {
        if changed > 0 {
            return Ok(());
        }
        Err(JobsError::State { state: self.get(id).await?.state.as_str(), instead })
    }
}
