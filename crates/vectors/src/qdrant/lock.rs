//! Changes of a collection's catalogue, one at a time among all servers.
//!
//! Qdrant has neither transactions nor a change that depends on what there is, but of two that make a collection of one
//! name it tells the second. So an empty collection called `NAME.halny-lock` is there while somebody changes what is
//! under the name. One that was left by a server that went away counts for nothing after two minutes.

use std::sync::Arc;
use std::time::Duration;

use halny_types::Tick;
use reqwest::Method;
use serde_json::json;

use super::Cluster;
use super::error::{ENGINE, broken, told};
use super::names::lock_name;
use super::settings::{MARK, now};
use crate::VectorsError;

/// How long a lock counts.
const HELD_S: u64 = 120;
/// How long is waited for one, and how often it is asked for.
const WAIT: Duration = Duration::from_secs(20);
const EVERY: Duration = Duration::from_millis(100);

impl Cluster {
    /// Does this while nobody else changes what is under the name. It is done to its end, whether or not anybody still
    /// waits for it.
    pub(super) async fn alone<T: Send + 'static>(
        self: &Arc<Cluster>,
        name: &str,
        work: impl Future<Output = Result<T, VectorsError>> + Send + 'static,
    ) -> Result<T, VectorsError> {
        let (cluster, lock) = (Arc::clone(self), lock_name(name));
        let done = self.tasks.spawn_on(
            async move {
                cluster.lock(&lock).await?;
                let done = work.await;
                if let Err(failure) = cluster.remove(&lock).await {
                    // It ends by itself.
                    tracing::warn!(?failure, "the lock of a name could not be removed");
                }
                done
            },
            &self.runtime,
        );
        done.await.map_err(|error| broken("change the catalogue", &error))?
    }

    async fn lock(&self, lock: &str) -> Result<(), VectorsError> {
        let until = Tick::now() + WAIT;
        loop {
            let body = json!({ "vectors": {}, "metadata": { MARK: { "version": 1, "at": now() } } });
            match self.client.change(Method::PUT, &["collections", lock], Some(&body)).await {
                Err(failure) if failure.is_taken() => {}
                done => return done.map_err(told),
            }
            match self.info(lock).await.map_err(told)?.map(|info| info.made_at()) {
                None => continue,
                Some(at) if at + HELD_S < now() => {
                    tracing::warn!(lock, "a lock that a server left behind is removed");
                    self.remove(lock).await.map_err(told)?;
                    continue;
                }
                Some(_) if Tick::now() > until => return Err(VectorsError::Unavailable(ENGINE)),
                Some(_) => tokio::time::sleep(EVERY).await,
            }
        }
    }
}
