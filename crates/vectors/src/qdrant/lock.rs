//! Changes of a collection's catalogue, one at a time among all servers.
//!
//! Qdrant has neither transactions nor a change that depends on what there is, but of two that make a collection of one
//! name it tells the second. So an empty collection called `NAME.halny-lock` is there while somebody changes what is
//! under the name. One that was left by a server that went away counts for nothing after two minutes; whoever holds one
//! gives up before. Each says whose it is, and is removed by whoever made it, or has seen it go stale.

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

/// How long a lock counts, and how long a change may take.
const HELD_S: u64 = 120;
const WORK_MAX: Duration = Duration::from_secs(90);
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
                let owner = cluster.lock(&lock).await?;
                let done = tokio::time::timeout(WORK_MAX, work).await;
                if let Err(error) = cluster.unlock(&lock, &owner).await {
                    // It ends by itself.
                    tracing::warn!(%error, "the lock of a name could not be removed");
                }
                done.unwrap_or(Err(VectorsError::TooSlow(ENGINE)))
            },
            &self.runtime,
        );
        done.await.map_err(|error| broken("change the catalogue", &error))?
    }

    /// Gives who holds it now.
    async fn lock(&self, lock: &str) -> Result<String, VectorsError> {
        let until = Tick::now() + WAIT;
        let owner = format!("{:032x}", rand::random::<u128>());
        loop {
            let body = json!({ "vectors": {}, "metadata": { MARK: { "version": 1, "at": now(), "owner": owner } } });
            match self.client.change(Method::PUT, &["collections", lock], Some(&body)).await {
                Err(failure) if failure.is_taken() => {}
                done => return done.map_err(told).map(|()| owner),
            }
            match self.info(lock).await.map_err(told)?.map(|info| info.held()) {
                None => continue,
                Some((at, holder)) if at.saturating_add(HELD_S) < now() => {
                    tracing::warn!(lock, "a lock that a server left behind is removed");
                    self.unlock(lock, &holder).await?;
                    continue;
                }
                Some(_) if Tick::now() > until => return Err(VectorsError::Unavailable(ENGINE)),
                Some(_) => tokio::time::sleep(EVERY).await,
            }
        }
    }

    /// Removes a lock, unless somebody else holds it by now.
    async fn unlock(&self, lock: &str, owner: &str) -> Result<(), VectorsError> {
        let Some(info) = self.info(lock).await.map_err(told)? else { return Ok(()) };
        if info.held().1 == owner { self.remove(lock).await.map_err(told) } else { Ok(()) }
    }
}
