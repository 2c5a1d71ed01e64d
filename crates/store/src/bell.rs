//! What wakes those who wait for something to be written, in this process and, over PostgreSQL, in others.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::AnyConnection;
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

use crate::StoreError;

/// The channel of `NOTIFY`.
const CHANNEL: &str = "halny";
/// How long after a lost connection the next is tried.
const AGAIN: Duration = Duration::from_secs(1);

/// Wakes those who wait for something to be written. Cloning shares it.
///
/// It may ring for nothing, and rings of another process may be missed while a connection is lost (it rings once when
/// that is over): who waits looks again from time to time. Processes that share a SQLite file do not hear each other.
#[derive(Clone)]
pub struct Bell(Arc<Inner>);

struct Inner {
    rung: watch::Sender<u64>,
    /// Listens to other processes; ends with the last owner of the bell.
    listener: Mutex<JoinSet<()>>,
    is_shared: bool,
}

impl Bell {
    pub(crate) fn local() -> Bell {
        Bell(Arc::new(Inner { rung: watch::Sender::new(0), listener: Mutex::new(JoinSet::new()), is_shared: false }))
    }

    pub(crate) fn of_postgres(url: &Url) -> Bell {
        let rung = watch::Sender::new(0);
        let mut listener = JoinSet::new();
        listener.spawn(listen(url.clone(), rung.clone()));
        Bell(Arc::new(Inner { rung, listener: Mutex::new(listener), is_shared: true }))
    }

    /// Tells other processes, when the transaction that `connection` is in commits.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn ring_others(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        if self.0.is_shared {
            sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(connection).await?;
        }
        Ok(())
    }

    /// Wakes those of this process. After the commit.
    pub fn ring(&self) {
        self.0.rung.send_modify(|count| *count += 1);
    }

    /// Hears every ring from now on.
    #[must_use]
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.0.rung.subscribe()
    }

    pub(crate) fn close(&self) {
        self.0.listener.lock().abort_all();
    }
}

async fn listen(url: Url, rung: watch::Sender<u64>) {
    loop {
        if let Err(error) = hear(&url, &rung).await {
            tracing::debug!(%error, "the metadata database does not tell of what others write; it is asked instead");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn hear(url: &Url, rung: &watch::Sender<u64>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect(url.as_str()).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // What was written while nobody listened was not told.
        rung.send_modify(|count| *count += 1);
        // `None`: the connection was lost, and is there again.
        while listener.try_recv().await?.is_some() {
            rung.send_modify(|count| *count += 1);
        }
    }
}
