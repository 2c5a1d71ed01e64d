//! Collections in a Qdrant cluster, beyond one machine: several servers share them, with each other and with Qdrant's
//! own clients.
//!
//! Each space is a collection of Qdrant's, called `NAME.halny-KEY`, and the alias `NAME` is on the active one: to make
//! another active is one change of aliases, and whoever asks Qdrant for `NAME` reads the same vectors. What
//! Qdrant has no place for (what made the vectors, the model that is followed, tuned settings) is written down in
//! the space's metadata. A collection that another client made is served as it is: one space, bound to no model.
//!
//! What is promised, and what is not as in [`embedded`](crate::embedded):
//!
//! - A write that is waited for is as durable, and seen at as many replicas, as the cluster is set up for
//!   (`write_consistency_factor`). In a cluster of several nodes another one may tell of a change of the
//!   catalogue a moment later.
//! - A [`Write`](crate::Write) is one request. Where its points are more than 16 MiB or 20,000, or its ids more than
//!   50,000, it is several, each seen whole and the write not.
//! - Points that a change needs and names are looked for before it is sent. Where one is deleted in between, that is
//!   told, and the others may be changed.
//! - Writes of one call are made in their order; all but the last are waited for. A change right after a call that did
//!   not wait may miss its points.
//! - What reads many points reads pages of at most 1,000, each as of a moment of its own.
//! - Scores are of the vectors as the cluster keeps them, computed again where it walked on smaller numbers. Where the
//!   limit falls among equal scores, the cluster says which points are in.
//! - Filters mean what [`Filter::matches`](halny_payload::Filter::matches) says. Where Qdrant means something else, or
//!   has no such condition, points are asked here, one by one: words in a field without an index of words or within
//!   nested objects, beginnings and parts of texts.
//! - What is under a name is changed by one server at a time, under a lock. A server that goes away in the middle
//!   leaves the name locked for two minutes, and maybe a space that no name means, which is removed when that name is made
//!   again, if it is empty or was being deleted. Aliases change without a lock: one that is made while its own name becomes a collection is lost, and one
//!   that is made while its collection is deleted goes with it, or is refused.
//! - A space that is held while its collection is deleted and made again with the same vectors is the new one.
//! - Facets and samples are the cluster's; orders, and examples other than the mean, read every point that passes.
//! - Vectors are stored in 32 bits. A graph walks on 8 bits or on 32, for Qdrant has no 16 for that; the compact tier
//!   is Qdrant's product quantisation, which walks a graph and has no `nprobe`.
//! - A field's index is waited for, a minute at the most; the cluster goes on with it.
//!
//! Only collections with names that Halny takes are seen. Vectors that it does not have (sparse ones, several in one,
//! Manhattan) are left out, and refused where one is named.
//!
//! Not `qdrant-client`: it speaks gRPC, which a Halny server does not, so that nothing here could be tried on one.

mod catalog;
mod client;
mod configure;
mod error;
mod lock;
mod names;
mod points;
mod reading;
mod search;
mod settings;
mod spaces;
#[cfg(test)]
mod tests;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::VectorsError;
use client::Client;
use error::{Failure, told};
use names::Catalogue;
use settings::Info;

/// The first release whose collections have metadata.
const VERSION_MIN: (u32, u32) = (1, 16);

/// How often names are asked for again where answers do not fit together, and what is waited more each time.
const MOMENTS: u32 = 5;
const MOMENT: Duration = Duration::from_millis(10);

/// The collections in a Qdrant cluster.
pub struct Qdrant {
    cluster: Arc<Cluster>,
}

/// What everything that asks the cluster shares.
struct Cluster {
    client: Client,
    /// What waits for the cluster on threads that may block.
    runtime: Handle,
    /// Changes of the catalogue, which are done to their end.
    tasks: TaskTracker,
}

#[derive(Deserialize)]
struct Greeting {
    version: Option<String>,
}

#[derive(Deserialize)]
struct Names {
    collections: Vec<Name>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct Aliases {
    aliases: Vec<Alias>,
}

#[derive(Deserialize)]
struct Alias {
    alias_name: String,
    collection_name: String,
}

/// The names of a cluster come in several answers, and where those do not fit together, something was changed in
/// between: then they are asked for again, a few times.
#[derive(Default)]
struct Moments(u32);

impl Moments {
    /// Waits until it may be worth while to ask again; `false` when it was asked often enough.
    async fn another(&mut self) -> bool {
        if self.0 == MOMENTS {
            return false;
        }
        tokio::time::sleep(MOMENT * self.0).await;
        self.0 += 1;
        true
    }
}

impl Qdrant {
    /// Connects to the REST API at `url`, `http://host:6333` or `https://`. Has to be called within a tokio runtime of
    /// several threads.
    ///
    /// # Errors
    /// When the URL cannot be read, the cluster cannot be reached or refuses the key, or is older than 1.16.
    pub async fn connect(url: &str, api_key: Option<&str>) -> Result<Qdrant, VectorsError> {
        let client = Client::new(url, api_key)?;
        let refuses = |failure: Failure| match failure {
            Failure::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => {
                let text = "the Qdrant cluster refuses the API key, or asks for one; set that of a user who may change \
                            collections";
                VectorsError::Config(text.to_owned())
            }
            failure => told(failure),
        };
        let greeting: Greeting = client.get_bare(&[]).await.map_err(refuses)?;
        check_version(greeting.version.as_deref())?;
        let cluster = Cluster { client, runtime: Handle::current(), tasks: TaskTracker::new() };
        cluster.names().await.map_err(refuses)?;
        Ok(Qdrant { cluster: Arc::new(cluster) })
    }
}

fn check_version(version: Option<&str>) -> Result<(), VectorsError> {
    let Some(version) = version else {
        let text =
            "what answers at the URL of the Qdrant cluster does not tell a version; write the address of its REST API";
        return Err(VectorsError::Config(text.to_owned()));
    };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let parts = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if parts < VERSION_MIN {
        let version: String = version.chars().take(32).collect();
        return Err(VectorsError::Config(format!(
            "the Qdrant cluster is of version {version:?}, and 1.16 or later is needed, whose collections have metadata"
        )));
    }
    Ok(())
}

impl Cluster {
    /// Waits for the cluster, on a thread that may block.
    fn wait<T>(&self, work: impl Future<Output = Result<T, VectorsError>>) -> Result<T, VectorsError> {
        self.runtime.block_on(work)
    }

    /// The names of all collections, spaces included.
    async fn names(&self) -> Result<BTreeSet<String>, Failure> {
        let names: Names = self.client.get(&["collections"]).await?;
        Ok(names.collections.into_iter().map(|collection| collection.name).collect())
    }

    async fn aliases(&self) -> Result<BTreeMap<String, String>, Failure> {
        let aliases: Aliases = self.client.get(&["aliases"]).await?;
        Ok(aliases.aliases.into_iter().map(|alias| (alias.alias_name, alias.collection_name)).collect())
    }

    /// All names, as they are at one moment.
    async fn catalogue(&self) -> Result<Catalogue, VectorsError> {
        let mut moments = Moments::default();
        loop {
            let (collections, aliases) = futures::try_join!(self.names(), self.aliases()).map_err(told)?;
            let catalogue = Catalogue { collections, aliases };
            if catalogue.is_of_one_moment() || !moments.another().await {
                return Ok(catalogue);
            }
        }
    }

    /// What is told of a collection, or of the one that an alias is on; nothing where there is none.
    async fn info(&self, name: &str) -> Result<Option<Info>, Failure> {
        match self.client.get(&["collections", name]).await {
            Ok(info) => Ok(Some(info)),
            Err(failure) if failure.is(StatusCode::NOT_FOUND) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Whether a collection of the cluster's has points.
    async fn has_points(&self, name: &str) -> Result<bool, Failure> {
        #[derive(Deserialize)]
        struct Page {
            points: Vec<Value>,
        }
        let body = json!({ "limit": 1, "with_payload": false }).to_string().into_bytes();
        let path = ["collections", name, "points", "scroll"];
        let answer = self.client.send(Method::POST, &path, None, Some(body)).await?;
        Ok(!client::result::<Page>(&answer)?.points.is_empty())
    }

    /// Makes all of these changes of aliases at once.
    async fn change_aliases(&self, actions: Vec<Value>) -> Result<(), Failure> {
        if actions.is_empty() {
            return Ok(());
        }
        let body = json!({ "actions": actions });
        self.client.change(Method::POST, &["collections", "aliases"], Some(&body)).await
    }

    /// Removes a collection of the cluster's, if it is there. Its aliases go with it.
    async fn remove(&self, name: &str) -> Result<(), Failure> {
        match self.client.change(Method::DELETE, &["collections", name], None).await {
            Err(failure) if failure.is(StatusCode::NOT_FOUND) => Ok(()),
            done => done,
        }
    }
}
