//! Collections in PostgreSQL with pgvector, beyond one machine: several servers share them.
//!
//! One schema, `halny_vectors`. A catalogue of tables says which collections, aliases and spaces there are;
//! each space is a table of its own, `space_N`: an id, the payload as `jsonb`, and a column of type
//! `vector` for each of its vectors, each with an HNSW index. All names are made of numbers; whatever
//! a client sent is bound, never written into SQL.
//!
//! What is promised, and what is not as in [`embedded`](crate::embedded):
//!
//! - A write that is waited for is as durable as the database makes a commit; `synchronous_commit` is never
//!   `off` for it. A server with `fsync = off` is warned of at the start.
//! - Each [`Write`](crate::Write) is one transaction. Writes of several servers meet as transactions do;
//!   where two block each other, one of them is made again.
//! - Every call reads as of one moment (a query that is made of several searches, of several).
//! - Scores are computed in 32 bits. Where the index holds 16-bit numbers (`halfvec`: for cosines unless the
//!   tier says `f32`, and beyond 2,000 dimensions), more candidates than wanted are compared again in 32 bits.
//! - A walk that finds fewer points than wanted is followed by a comparison of all, so that a filter never
//!   hides what passes it.
//! - Filters that SQL cannot answer as [`Filter::matches`](halny_payload::Filter::matches) does (words, times,
//!   places on the globe) are answered here, point by point, nearest first.
//! - Of payload fields, an index (GIN) answers which points have a keyword, whole number, boolean or UUID;
//!   other kinds of fields are read.
//! - Orders, examples, samples and facets read every point that passes; the status counts by reading all.
//!
//! A statement ends after two minutes unless the server or the URL says otherwise (`statement_timeout`); only indexes
//! take the time that they need. Between Halny and the database there may be no pooler that gives every transaction
//! another connection: settings are made once for each.
//!
//! Refused, by pgvector's limits: vectors beyond 16,000 dimensions; an index beyond 4,000 dimensions is not made
//! (all is compared); `m` beyond 100 and `ef_construct` beyond 1,000; the compact tier.

mod catalog;
mod error;
mod filter;
mod points;
mod schema;
mod search;
mod spaces;
mod wire;
mod writes;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::runtime::Handle;

use crate::VectorsError;

/// The most connections of one server. PostgreSQL allows 100 in all unless told otherwise.
const CONNECTIONS_MAX: u32 = 16;
/// How long a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that nobody uses for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The collections in a PostgreSQL database.
pub struct Postgres {
    database: Arc<Database>,
}

/// What everything that asks the database shares.
struct Database {
    pool: PgPool,
    /// What waits for the database on threads that may block.
    runtime: Handle,
}

impl Postgres {
    /// Connects to `url`, `postgres://user@host:5432/database` with options behind `?` as libpq has them
    /// (`sslmode`, `sslrootcert`, ...), and makes or brings up to date the schema `halny_vectors`. `password` takes
    /// the place of the one in the URL. Has to be called within a tokio runtime of several threads.
    ///
    /// # Errors
    /// When the URL cannot be read, the database cannot be reached, has no pgvector 0.8 or later, or was used by a
    /// newer version of Halny.
    pub async fn connect(url: &str, password: Option<&str>) -> Result<Postgres, VectorsError> {
        let unreadable = |()| {
            let text = "the URL of the vectors' database cannot be read; write postgres://user@host:5432/database";
            VectorsError::Config(text.to_owned())
        };
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(unreadable(()));
        }
        let mut options = PgConnectOptions::from_str(url).map_err(|_| unreadable(()))?;
        if let Some(password) = password {
            options = options.password(password);
        }
        let options = options.application_name("halny-vectors").disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .after_connect(|connection, _| Box::pin(schema::settle(connection)))
            .connect_lazy_with(options);
        schema::migrate(&pool).await?;
        Ok(Postgres { database: Arc::new(Database { pool, runtime: Handle::current() }) })
    }
}

impl Database {
    /// Waits for the database, on a thread that may block.
    fn wait<T>(&self, work: impl Future<Output = Result<T, VectorsError>>) -> Result<T, VectorsError> {
        self.runtime.block_on(work)
    }
}
