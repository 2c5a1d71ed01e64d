//! How a job is accepted.

use std::collections::BTreeMap;

use halny_store::Write;
use sqlx::Row;

use crate::job::{Key, NewJob, Submitted};
use crate::rows::whole;
use crate::scribe::Submit;
use crate::settings::QueueSettings;
use crate::{JobId, Jobs, JobsError, State};

/// The most that a handler is told, in bytes of JSON.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// The most jobs of one submission.
pub const SUBMIT_MAX: usize = 1_000;
/// The longest key, in bytes: as long as those of Stripe, whose clients send UUIDs.
pub const KEY_BYTES_MAX: usize = 255;
/// The longest that a job may be put off: ten years.
const DELAY_MS_MAX: u64 = 10 * 365 * 24 * 3_600 * 1_000;
/// The longest try: 30 days.
const TIMEOUT_MS_MAX: u64 = 30 * 24 * 3_600 * 1_000;

impl Jobs {
    /// Accepts a job: when this returns, it is on disk.
    ///
    /// # Errors
    /// When something about it is not as it should be, its key was used for another request, or the database cannot
    /// take it. Then it was not accepted; where the connection to a database was lost it may have been, which a key
    /// makes safe to repeat.
    pub async fn submit(&self, job: NewJob) -> Result<Submitted, JobsError> {
        let submitted = self.submit_all(vec![job]).await?;
        submitted.into_iter().next().ok_or(JobsError::Closed)
    }

    /// Accepts all of these jobs, or none of them.
    ///
    /// # Errors
    /// As [`Jobs::submit`].
    pub async fn submit_all(&self, jobs: Vec<NewJob>) -> Result<Vec<Submitted>, JobsError> {
        if jobs.len() > SUBMIT_MAX {
            let text =
                format!("{} jobs were submitted at once, the most is {SUBMIT_MAX}; send them in parts", jobs.len());
            return Err(JobsError::Invalid(text));
        }
        for job in &jobs {
            self.check(job)?;
        }
        let queues = self.shared.settings.queues.as_slice().into();
        let ids = jobs.iter().map(|_| JobId::fresh()).collect();
        self.shared.scribe.ask_if_room(Submit { jobs, ids, queues }).await
    }

    fn check(&self, job: &NewJob) -> Result<(), JobsError> {
        let wrong = |text: String| Err(JobsError::Invalid(text));
        if self.shared.settings.queue(&job.queue).is_none() {
            let name = job.queue.chars().take(96).collect();
            return Err(JobsError::NoQueue { name, known: self.shared.settings.names() });
        }
        let bytes = job.payload.to_string().len();
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(JobsError::TooLarge { bytes, max: PAYLOAD_BYTES_MAX });
        }
        if job.delay_ms > DELAY_MS_MAX {
            return wrong(format!("`delay_ms` is {}, the most is {DELAY_MS_MAX}, ten years", job.delay_ms));
        }
        if job.timeout_ms.is_some_and(|timeout| timeout == 0 || timeout > TIMEOUT_MS_MAX) {
            return wrong(format!("`timeout_ms` is 1 to {TIMEOUT_MS_MAX}, 30 days"));
        }
        if job.max_attempts.is_some_and(|most| most == 0 || most > 1_000) {
            return wrong("`max_attempts` is 1 to 1000".to_owned());
        }
        match &job.key {
            Some(Key { name, .. })
                if name.is_empty() || name.len() > KEY_BYTES_MAX || name.contains(char::is_control) =>
            {
                wrong(format!("an idempotency key has 1 to {KEY_BYTES_MAX} bytes and no control characters"))
            }
            _ => Ok(()),
        }
    }
}

/// Writes all of them, or says why one cannot be; then nothing of this request may be left in the transaction, so all
/// keys are looked at before anything is written.
pub(crate) async fn submit(
    write: &mut Write,
    jobs: &[NewJob],
    ids: &[JobId],
    queues: &[QueueSettings],
    now: i64,
) -> Result<Vec<Submitted>, JobsError> {
    let mut keyed: BTreeMap<(&str, &str), (JobId, &str, bool)> = BTreeMap::new();
    for (job, fresh) in jobs.iter().zip(ids) {
        let Some(key) = &job.key else { continue };
        let known = match keyed.get(&(job.tenant.as_str(), key.name.as_str())) {
            Some((_, hash, _)) => (*hash == key.request_hash).then_some(None),
            None => match find(write, &job.tenant, &key.name).await? {
                Some((id, hash)) => (hash == key.request_hash).then_some(Some((id, true))),
                None => Some(Some((*fresh, false))),
            },
        };
        match known {
            None => return Err(JobsError::KeyReused(key.name.clone())),
            Some(None) => {}
            Some(Some((id, is_there))) => {
                keyed.insert((&job.tenant, &key.name), (id, &key.request_hash, is_there));
            }
        }
    }
    let mut submitted = Vec::with_capacity(jobs.len());
    for (job, fresh) in jobs.iter().zip(ids) {
        let mut id = *fresh;
        if let Some(key) = &job.key
            && let Some((known, _, is_there)) = keyed.get_mut(&(job.tenant.as_str(), key.name.as_str()))
        {
            if *is_there {
                submitted.push(Submitted { id: *known, is_repeated: true });
                continue;
            }
            id = *known;
            *is_there = true;
            keep_key(write, job, key, id).await?;
        }
        insert(write, job, id, queues, now).await?;
        submitted.push(Submitted { id, is_repeated: false });
    }
    Ok(submitted)
}

async fn find(write: &mut Write, tenant: &str, key: &str) -> Result<Option<(JobId, String)>, JobsError> {
    let sql = "SELECT job, request_hash FROM job_keys WHERE tenant = $1 AND idempotency_key = $2";
    let row = sqlx::query(sql).bind(tenant).bind(key).fetch_optional(&mut **write).await?;
    row.map(|row| Ok((row.try_get::<String, _>(0)?.parse()?, row.try_get(1)?))).transpose()
}

async fn keep_key(write: &mut Write, job: &NewJob, key: &Key, id: JobId) -> Result<(), JobsError> {
    let sql = "INSERT INTO job_keys (tenant, idempotency_key, request_hash, job) VALUES ($1, $2, $3, $4) \
               ON CONFLICT DO NOTHING";
    let query = sqlx::query(sql).bind(&job.tenant).bind(&key.name).bind(&key.request_hash).bind(id.to_string());
    if query.execute(&mut **write).await?.rows_affected() == 0 {
        // Another server took it since it was looked up: looked up again, it is there.
        return Err(JobsError::collision());
    }
    Ok(())
}

async fn insert(
    write: &mut Write,
    job: &NewJob,
    id: JobId,
    queues: &[QueueSettings],
    now: i64,
) -> Result<(), JobsError> {
    let fallback;
    let queue = match queues.iter().find(|queue| queue.name == job.queue) {
        Some(queue) => queue,
        None => {
            fallback = QueueSettings::new(&job.queue);
            &fallback
        }
    };
    let millis = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let state = if job.delay_ms == 0 { State::Ready } else { State::Delayed };
    let sql = "INSERT INTO jobs (id, tenant, queue, kind, state, priority, payload, created_ms, run_at_ms, timeout_ms, \
               failures, failures_max, losses, backoff_ms, backoff_max_ms, epoch, device_us, tokens) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, $11, 0, $12, $13, 0, 0, 0)";
    sqlx::query(sql)
        .bind(id.to_string())
        .bind(&job.tenant)
        .bind(&job.queue)
        .bind(&job.kind)
        .bind(state.as_str())
        .bind(i64::from(job.priority))
        .bind(job.payload.to_string())
        .bind(now)
        .bind(now.saturating_add(whole(job.delay_ms)))
        .bind(job.timeout_ms.map_or(millis(queue.timeout), whole))
        .bind(i64::from(job.max_attempts.unwrap_or(queue.max_attempts)))
        .bind(millis(queue.backoff))
        .bind(millis(queue.backoff_max))
        .execute(&mut **write)
        .await?;
    Ok(())
}
