//! Jobs that are submitted when their time comes.

use std::str::FromStr;

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use halny_store::Write;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Row};

use crate::submit::submit;
use crate::{JobId, Jobs, JobsError, NewJob};

/// A job that is submitted when its time comes.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// When: five fields of cron, or six with seconds first.
    pub cron: String,
    /// Where it is that time, by its name in the IANA database.
    pub timezone: String,
    /// The queue of the job.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// What its handler is told.
    pub payload: Value,
}

impl Schedule {
    /// Reads the times.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn times(&self) -> Result<Times, JobsError> {
        Times::parse(&self.cron, &self.timezone)
            .map_err(|text| JobsError::Settings(format!("the schedule {:?}: {text}", self.name)))
    }
}

/// The times of a schedule.
#[derive(Debug)]
pub struct Times {
    cron: Cron,
    timezone: Tz,
}

impl Times {
    /// Reads five fields of cron, or six with seconds first, and the name of a time zone.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(cron: &str, timezone: &str) -> Result<Times, String> {
        let timezone = Tz::from_str(timezone).map_err(|_| {
            format!("{timezone:?} is no time zone; write one of the IANA database, such as \"Europe/Warsaw\"")
        })?;
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        let cron = parser.parse(cron).map_err(|error| format!("{cron:?} is no time of cron: {error}"))?;
        Ok(Times { cron, timezone })
    }

    /// The first time after a moment, both in milliseconds since 1970; nothing where there is none.
    #[must_use]
    pub fn after(&self, millis: i64) -> Option<i64> {
        let moment: DateTime<Tz> = Utc.timestamp_millis_opt(millis).single()?.with_timezone(&self.timezone);
        let next = self.cron.find_next_occurrence(&moment, false).ok()?;
        Some(next.timestamp_millis())
    }
}

impl Jobs {
    /// Submits what is due of every schedule; gives how many jobs that were, and how long until the next is due, in
    /// milliseconds.
    pub(crate) async fn keep_schedules(&self) -> Result<(usize, Option<i64>), JobsError> {
        let (mut submitted, mut next) = (0, None);
        for (schedule, times) in self.shared.settings.schedules.iter().zip(&self.shared.times) {
            let (is_submitted, due_in) = match self.keep(schedule, times).await {
                // Another server keeps it at this moment.
                Err(JobsError::Store { collided: true, .. }) => (false, Some(0)),
                kept => kept?,
            };
            submitted += usize::from(is_submitted);
            next = [next, due_in].into_iter().flatten().min();
        }
        Ok((submitted, next))
    }

    async fn keep(&self, schedule: &Schedule, times: &Times) -> Result<(bool, Option<i64>), JobsError> {
        let database = &self.shared.database;
        let mut write = database.write().await?;
        let now = database.now_ms(&mut write).await?;
        let Some(due) = due(&mut write, database.dialect().for_update(), schedule, times, now).await? else {
            write.commit().await?;
            return Ok((false, None));
        };
        if due > now {
            write.commit().await?;
            return Ok((false, Some(due - now)));
        }
        let mut job = NewJob::new(&schedule.queue, &schedule.kind, schedule.payload.clone());
        // The moment is its name: however many servers keep the schedule, each is submitted once.
        job = job.with_key(&format!("schedule/{}/{due}", schedule.name), "");
        submit(&mut write, &[job], &[JobId::fresh()], &self.shared.settings.queues, now).await?;
        let next = times.after(now);
        let sql = "UPDATE schedules SET next_ms = $2 WHERE name = $1";
        sqlx::query(sql).bind(&schedule.name).bind(next.unwrap_or(i64::MAX)).execute(&mut *write).await?;
        database.bell().ring_others(&mut write).await?;
        write.commit().await?;
        database.bell().ring();
        Ok((true, next.map(|next| next - now)))
    }
}

/// When the schedule is next due, locked until the transaction ends; one that is new, or was changed, begins now.
async fn due(
    write: &mut Write,
    lock: &str,
    schedule: &Schedule,
    times: &Times,
    now: i64,
) -> Result<Option<i64>, JobsError> {
    let first = times.after(now).unwrap_or(i64::MAX);
    let sql = "INSERT INTO schedules (name, cron, timezone, next_ms) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    let new = sqlx::query(sql).bind(&schedule.name).bind(&schedule.cron).bind(&schedule.timezone).bind(first);
    new.execute(&mut **write).await?;
    let sql = format!("SELECT cron, timezone, next_ms FROM schedules WHERE name = $1{lock}");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(&schedule.name).fetch_one(&mut **write).await?;
    let mut next: i64 = row.try_get(2)?;
    if row.try_get::<String, _>(0)? != schedule.cron || row.try_get::<String, _>(1)? != schedule.timezone {
        let sql = "UPDATE schedules SET cron = $2, timezone = $3, next_ms = $4 WHERE name = $1";
        let changed = sqlx::query(sql).bind(&schedule.name).bind(&schedule.cron).bind(&schedule.timezone).bind(first);
        changed.execute(&mut **write).await?;
        next = first;
    }
    Ok((next < i64::MAX).then_some(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    #[test]
    fn a_time_of_day_follows_the_clocks_of_its_place() {
        let times = Times::parse("30 3 * * *", "Europe/Warsaw").unwrap();
        assert_eq!(times.after(at("2026-01-10T12:00:00Z")), Some(at("2026-01-11T02:30:00Z")));
        assert_eq!(times.after(at("2026-07-10T12:00:00Z")), Some(at("2026-07-11T01:30:00Z")));
        // The moment itself is not after itself.
        assert_eq!(times.after(at("2026-01-11T02:30:00Z")), Some(at("2026-01-12T02:30:00Z")));
    }

    #[test]
    fn seconds_may_come_first() {
        let times = Times::parse("*/20 * * * * *", "UTC").unwrap();
        assert_eq!(times.after(at("2026-01-10T12:00:01Z")), Some(at("2026-01-10T12:00:20Z")));
    }

    #[test]
    fn what_is_no_time_is_named() {
        assert!(Times::parse("61 * * * *", "UTC").unwrap_err().contains("61 * * * *"));
        assert!(Times::parse("* * * * *", "Krakow").unwrap_err().contains("Europe/Warsaw"));
        assert!(Times::parse("", "UTC").is_err());
    }
}
