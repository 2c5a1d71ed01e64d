//! The metadata database: where it is, and how it is read and written.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Any, AnyConnection, AnyPool, ConnectOptions, Executor, Row, Transaction};

use crate::{Bell, StoreError, migrations};

/// Connections of one server that read.
const READERS_MAX: u32 = 8;
/// Connections of one server that write to PostgreSQL. To SQLite one writes: it has one lock.
const WRITERS_MAX: u32 = 8;
/// How long a request waits for a connection, and for SQLite's lock where other processes have it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that nobody uses for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The name of SQLite's file in its folder.
pub const FILE: &str = "halny.db";

/// Where a metadata database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// SQLite, the file [`FILE`] in this folder.
    Folder(PathBuf),
    /// PostgreSQL, `postgres://user@host:5432/database`; the password takes the place of one in the URL.
    Postgres {
        /// Where its server is.
        url: String,
        /// The password of the user.
        password: Option<String>,
    },
}

/// Which SQL is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Dialect {
    /// What is said behind the rows that a claim takes, so that claims do not wait for one another. SQLite's claims have
    /// the whole database.
    #[must_use]
    pub fn skip_locked(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::Postgres => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// What is said behind a row that others shall not change until the transaction ends.
    #[must_use]
    pub fn for_update(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::Postgres => " FOR UPDATE",
        }
    }
}

/// The time that is written down, in milliseconds since 1970: of this host for SQLite, of the database's for
/// PostgreSQL, since the clocks of the servers that share it differ.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// A clock that stands still until it is [wound](Clock::wind): for tests.
    #[must_use]
    pub fn standing(millis: i64) -> Clock {
        Clock(Some(Arc::new(AtomicI64::new(millis))))
    }

    /// Moves a standing clock, back too.
    pub fn wind(&self, millis: i64) {
        if let Some(now) = &self.0 {
            now.fetch_add(millis, Ordering::SeqCst);
        }
    }

    fn fixed(&self) -> Option<i64> {
        self.0.as_ref().map(|now| now.load(Ordering::SeqCst))
    }
}

/// The metadata database. Cloning shares it.
#[derive(Clone)]
pub struct Database {
    dialect: Dialect,
    readers: AnyPool,
    writers: AnyPool,
    clock: Clock,
    bell: Bell,
}

/// A transaction that may write. Dropped without [`commit`](Transaction::commit), it did nothing.
pub type Write = Transaction<'static, Any>;

impl Database {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// When it cannot be reached or made, a newer Halny has used it, or its contents were moved away.
    pub async fn open(place: &Place) -> Result<Database, StoreError> {
        Database::open_at(place, Clock::default()).await
    }

    /// The same with a clock of the caller's: for tests.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub async fn open_at(place: &Place, clock: Clock) -> Result<Database, StoreError> {
        let database = Database::connect(place, clock).await?;
        migrations::run(&database).await?;
        if let Some(place) = database.moved_to().await? {
            return Err(StoreError::Moved(place));
        }
        database.warn_of_haste().await?;
        Ok(database)
    }

    async fn connect(place: &Place, clock: Clock) -> Result<Database, StoreError> {
        sqlx::any::install_default_drivers();
        let (dialect, options, writers) = match place {
            Place::Folder(folder) => (Dialect::Sqlite, file(folder)?, 1),
            Place::Postgres { url, password } => (Dialect::Postgres, server(url, password.as_deref())?, WRITERS_MAX),
        };
        let options = options.disable_statement_logging();
        let pool = |max: u32| {
            AnyPoolOptions::new()
                .max_connections(max)
                .acquire_timeout(PATIENCE)
                .idle_timeout(IDLE_TIMEOUT)
                .after_connect(move |connection, _| Box::pin(settle(connection, dialect)))
                .connect_lazy_with(options.clone())
        };
        let (readers, writers) = (pool(READERS_MAX), pool(writers));
        let bell = match place {
            Place::Folder(_) => Bell::local(),
            Place::Postgres { url, password } => Bell::of_postgres(&postgres(url, password.as_deref())?),
        };
        Ok(Database { dialect, readers, writers, clock, bell })
    }

    /// Which SQL is spoken.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What wakes those who wait for something to be written.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// A connection to read with: each statement as of one moment.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn read(&self) -> Result<PoolConnection<Any>, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    /// Begins a transaction that may write.
    ///
    /// # Errors
    /// When the database cannot be reached, or others have SQLite's lock for too long.
    pub async fn write(&self) -> Result<Write, StoreError> {
        let begin = match self.dialect {
            // With the lock: one that began to read and then wants to write may find that it cannot.
            Dialect::Sqlite => "BEGIN IMMEDIATE",
            Dialect::Postgres => "BEGIN",
        };
        Ok(self.writers.begin_with(begin).await?)
    }

    /// A connection of its own, which ends with whoever has it: a lock of its session ends with it too.
    pub(crate) async fn apart(&self) -> Result<AnyConnection, StoreError> {
        Ok(self.writers.acquire().await?.detach())
    }

    /// The time, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn now_ms(&self, connection: &mut AnyConnection) -> Result<i64, StoreError> {
        if let Some(now) = self.clock.fixed() {
            return Ok(now);
        }
        match self.dialect {
            Dialect::Sqlite => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                Ok(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
            }
            Dialect::Postgres => {
                let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
                Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
            }
        }
    }

    /// Ends all connections; what was committed stays.
    pub async fn close(&self) {
        self.bell.close();
        self.writers.close().await;
        self.readers.close().await;
    }

    pub(crate) async fn moved_to(&self) -> Result<Option<String>, StoreError> {
        let mut connection = self.read().await?;
        let row =
            sqlx::query("SELECT value FROM meta WHERE name = 'moved_to'").fetch_optional(&mut *connection).await?;
        row.map(|row| row.try_get("value")).transpose().map_err(StoreError::from)
    }

    /// Warns of a PostgreSQL that answers before a commit is on its disk.
    async fn warn_of_haste(&self) -> Result<(), StoreError> {
        if self.dialect == Dialect::Postgres {
            let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&mut *self.read().await?).await?;
            if fsync == "off" {
                tracing::warn!("the metadata database runs with fsync = off: a power failure loses what was accepted");
            }
        }
        Ok(())
    }
}

fn file(folder: &Path) -> Result<AnyConnectOptions, StoreError> {
    let unusable = |error: &dyn std::fmt::Display| {
        StoreError::Config(format!("the folder of the store, {}, cannot be used: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
    let folder = folder.canonicalize().map_err(|error| unusable(&error))?;
    let mut url = url::Url::from_file_path(folder.join(FILE)).map_err(|()| unusable(&"its path is no path"))?;
    // The path, escaped, is all of it that SQLite needs.
    url.set_query(Some("mode=rwc"));
    let url = url.as_str().replacen("file://", "sqlite://", 1);
    AnyConnectOptions::from_str(&url).map_err(|error| unusable(&error))
}

fn unreadable() -> StoreError {
    let text = "the URL of the metadata database cannot be read; write postgres://user@host:5432/database";
    StoreError::Config(text.to_owned())
}

/// The URL with the password in it: a driver that is chosen by URL takes nothing else.
fn postgres(url: &str, password: Option<&str>) -> Result<url::Url, StoreError> {
    let mut url = url::Url::parse(url).map_err(|_| unreadable())?;
    if !["postgres", "postgresql"].contains(&url.scheme()) || PgConnectOptions::from_str(url.as_str()).is_err() {
        return Err(unreadable());
    }
    if password.is_some() {
        url.set_password(password).map_err(|()| unreadable())?;
    }
    if !url.query_pairs().any(|(name, _)| name == "application_name") {
        url.query_pairs_mut().append_pair("application_name", "halny-store");
    }
    Ok(url)
}

fn server(url: &str, password: Option<&str>) -> Result<AnyConnectOptions, StoreError> {
    AnyConnectOptions::from_str(postgres(url, password)?.as_str()).map_err(|_| unreadable())
}

/// The settings of a connection, made once.
async fn settle(connection: &mut AnyConnection, dialect: Dialect) -> Result<(), sqlx::Error> {
    match dialect {
        Dialect::Sqlite => {
            // First, since changing the journal needs a lock that another process may have.
            connection.execute("PRAGMA busy_timeout = 10000").await?;
            connection.execute("PRAGMA journal_mode = WAL").await?;
            connection.execute("PRAGMA synchronous = FULL").await?;
            // 16 MiB of pages, and a log that is cut to 64 MiB when it is taken in.
            connection.execute("PRAGMA cache_size = -16384").await?;
            connection.execute("PRAGMA journal_size_limit = 67108864").await?;
        }
        Dialect::Postgres => {
            connection.execute("SET synchronous_commit = on").await?;
            connection.execute("SET statement_timeout = '120s'").await?;
            connection.execute("SET lock_timeout = '10s'").await?;
        }
    }
    Ok(())
}
