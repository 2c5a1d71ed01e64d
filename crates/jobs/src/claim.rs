//! How a worker gets jobs.

use std::sync::Arc;

use halny_store::{Database, Dialect, Write};
use sqlx::{AssertSqlSafe, Row};

use crate::rows::{COLUMNS, job};
use crate::settings::{QueueSettings, Settings};
use crate::{Job, JobsError};

/// Jobs whose time has come that are made ready by one claim.
const DUE_AT_ONCE: i64 = 1_000;

/// What a worker wants.
pub(crate) struct Want {
    /// Who asks.
    pub(crate) worker: String,
    /// For how long, in milliseconds.
    pub(crate) lease_ms: i64,
    /// How many jobs.
    pub(crate) jobs: usize,
    /// Of which queues, in the order in which they are asked.
    pub(crate) queues: Arc<[QueueSettings]>,
    /// Where in that order it begins.
    pub(crate) turn: usize,
    /// The kinds that it can run.
    pub(crate) kinds: Arc<[String]>,
}

/// What it got.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) jobs: Vec<Job>,
    /// How long until there may be more though nobody says so, in milliseconds.
    pub(crate) again_in_ms: Option<i64>,
}

/// Makes a row for each queue, on which claims can agree.
pub(crate) async fn make_queues(database: &Database, settings: &Settings) -> Result<(), JobsError> {
    let mut write = database.write().await?;
    let now = database.now_ms(&mut write).await?;
    // In one order on all servers: two that make the same rows must not wait for each other.
    let mut names: Vec<&QueueSettings> = settings.queues.iter().collect();
    names.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    for queue in names {
        let sql =
            "INSERT INTO queues (name, is_drained, starts, refilled_ms) VALUES ($1, 0, $2, $3) ON CONFLICT DO NOTHING";
        let starts = burst(queue).unwrap_or_default();
        sqlx::query(sql).bind(&queue.name).bind(starts).bind(now).execute(&mut *write).await?;
    }
    write.commit().await?;
    Ok(())
}

/// How many jobs of the queue may start at once after a pause: as many as in one second, one at least.
fn burst(queue: &QueueSettings) -> Option<f64> {
    queue.rate_per_s.map(|rate| rate.max(1.0))
}

pub(crate) async fn claim(
    write: &mut Write,
    database: &Database,
    want: &Want,
    mut now: i64,
) -> Result<Claimed, JobsError> {
    let dialect = database.dialect();
    if agree(write, dialect, &want.queues).await? {
        // Others were waited for.
        now = database.now_ms(write).await?;
    }
    let mut again = make_due(write, dialect, now).await?;
    let mut jobs = Vec::new();
    for place in 0..want.queues.len() {
        let Some(queue) = want.queues.get((want.turn + place) % want.queues.len()) else { continue };
        let left = want.jobs - jobs.len();
        if left == 0 {
            break;
        }
        let most = room(write, queue, left, now, &mut again).await?;
        if most > 0 {
            let taken = take(write, dialect, queue, want, most, now).await?;
            spend(write, queue, taken.len(), now).await?;
            jobs.extend(taken);
        }
    }
    Ok(Claimed { jobs, again_in_ms: again })
}

/// Makes ready what is due; tells when the next will be.
async fn make_due(write: &mut Write, dialect: Dialect, now: i64) -> Result<Option<i64>, JobsError> {
    let next = "SELECT min(run_at_ms) FROM jobs WHERE state = 'delayed'";
    let first: Option<i64> = sqlx::query_scalar(next).fetch_one(&mut **write).await?;
    match first {
        None => return Ok(None),
        Some(first) if first > now => return Ok(Some(first - now)),
        Some(_) => {}
    }
    let sql = format!(
        "WITH due AS MATERIALIZED (SELECT id FROM jobs WHERE state = 'delayed' AND run_at_ms <= $1 \
         ORDER BY run_at_ms LIMIT $2{}) UPDATE jobs SET state = 'ready' WHERE id IN (SELECT id FROM due)",
        dialect.skip_locked()
    );
    sqlx::query(AssertSqlSafe(sql)).bind(now).bind(DUE_AT_ONCE).execute(&mut **write).await?;
    let first: Option<i64> = sqlx::query_scalar(next).fetch_one(&mut **write).await?;
    Ok(first.map(|first| (first - now).max(0)))
}

/// Where workers have to agree on a number they take turns; all of them in one order, so that no two wait for each other.
/// Tells whether there was anything to agree on.
async fn agree(write: &mut Write, dialect: Dialect, queues: &[QueueSettings]) -> Result<bool, JobsError> {
    let limited = queues.iter().filter(|queue| queue.concurrency.is_some() || queue.rate_per_s.is_some());
    let names: Vec<&str> = limited.map(|queue| queue.name.as_str()).collect();
    if dialect == Dialect::Sqlite || names.is_empty() {
        return Ok(false);
    }
    let places: Vec<String> = (1..=names.len()).map(|place| format!("${place}")).collect();
    let sql = format!("SELECT name FROM queues WHERE name IN ({}) ORDER BY name FOR UPDATE", places.join(", "));
    let query = names.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, name| query.bind(*name));
    query.fetch_all(&mut **write).await?;
    Ok(true)
}

/// How many jobs of the queue may start now.
async fn room(
    write: &mut Write,
    queue: &QueueSettings,
    left: usize,
    now: i64,
    again: &mut Option<i64>,
) -> Result<usize, JobsError> {
    let sql = "SELECT is_drained, starts, refilled_ms FROM queues WHERE name = $1";
    let row = sqlx::query(sql).bind(&queue.name).fetch_optional(&mut **write).await?;
    let Some(row) = row else { return Ok(0) };
    if row.try_get::<i64, _>(0)? != 0 {
        return Ok(0);
    }
    let mut most = left;
    if let Some(concurrency) = queue.concurrency {
        let sql = "SELECT count(*) FROM jobs WHERE queue = $1 AND state = 'running'";
        let running: i64 = sqlx::query_scalar(sql).bind(&queue.name).fetch_one(&mut **write).await?;
        let running = usize::try_from(running).unwrap_or(usize::MAX);
        most = most.min((concurrency as usize).saturating_sub(running));
    }
    if let (Some(rate), Some(burst)) = (queue.rate_per_s, burst(queue)) {
        let starts = refilled(row.try_get(1)?, row.try_get(2)?, now, rate, burst);
        most = most.min(starts.floor() as usize);
        if most < left && starts < burst {
            let until_next = ((1.0 - starts.fract()) / rate * 1_000.0).ceil() as i64;
            *again = Some(again.map_or(until_next, |again| again.min(until_next)));
        }
    }
    Ok(most)
}

/// What a token bucket holds now.
fn refilled(starts: f64, refilled_ms: i64, now: i64, rate: f64, burst: f64) -> f64 {
    // A clock that was set back refills nothing, and takes nothing.
    let since = now.saturating_sub(refilled_ms).max(0) as f64 / 1_000.0;
    (starts + since * rate).clamp(0.0, burst)
}

async fn spend(write: &mut Write, queue: &QueueSettings, started: usize, now: i64) -> Result<(), JobsError> {
    let (Some(rate), Some(burst)) = (queue.rate_per_s, burst(queue)) else { return Ok(()) };
    if started == 0 {
        return Ok(());
    }
    let sql = "SELECT starts, refilled_ms FROM queues WHERE name = $1";
    let row = sqlx::query(sql).bind(&queue.name).fetch_one(&mut **write).await?;
    let left = refilled(row.try_get(0)?, row.try_get(1)?, now, rate, burst) - started as f64;
    let (refilled_ms, sql): (i64, _) =
        (row.try_get(1)?, "UPDATE queues SET starts = $2, refilled_ms = $3 WHERE name = $1");
    sqlx::query(sql).bind(&queue.name).bind(left).bind(now.max(refilled_ms)).execute(&mut **write).await?;
    Ok(())
}

async fn take(
    write: &mut Write,
    dialect: Dialect,
    queue: &QueueSettings,
    want: &Want,
    most: usize,
    now: i64,
) -> Result<Vec<Job>, JobsError> {
    let kinds: Vec<String> = (0..want.kinds.len()).map(|place| format!("${}", place + 6)).collect();
    let sql = format!(
        "WITH next AS MATERIALIZED (SELECT id FROM jobs WHERE queue = $1 AND state = 'ready' AND kind IN ({}) \
         ORDER BY priority DESC, run_at_ms, id LIMIT $2{}) \
         UPDATE jobs SET state = 'running', epoch = epoch + 1, worker = $3, lease_until_ms = $4, \
         started_ms = coalesce(started_ms, $5) WHERE id IN (SELECT id FROM next) RETURNING {COLUMNS}",
        kinds.join(", "),
        dialect.skip_locked()
    );
    let mut query = sqlx::query(AssertSqlSafe(sql))
        .bind(&queue.name)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .bind(&want.worker)
        .bind(now.saturating_add(want.lease_ms))
        .bind(now);
    for kind in want.kinds.iter() {
        query = query.bind(kind);
    }
    let rows = query.fetch_all(&mut **write).await?;
    // One that this version cannot read is nobody's until its lease runs out; the others are run.
    let readable = |row| job(row).inspect_err(|error| tracing::error!(%error, "a job cannot be run")).ok();
    let mut jobs: Vec<Job> = rows.iter().filter_map(readable).collect();
    // What is returned has no order.
    jobs.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.run_at_ms, job.id));
    Ok(jobs)
}
