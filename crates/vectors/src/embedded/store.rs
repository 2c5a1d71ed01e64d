//! The collections of one server, by name.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use halny_types::CollectionName;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::builder::Builder;
use super::collection::Collection;
use super::files;
use crate::{AliasChange, CollectionConfig, VectorsError};

/// The most collections of one server: each has a thread and open files of its own.
const COLLECTIONS_MAX: usize = 1_024;
/// The most aliases.
const ALIASES_MAX: usize = 16_384;

/// What `catalog.json` says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Card {
    /// In which folder a collection is.
    collections: BTreeMap<CollectionName, u64>,
    /// Which collection an alias means.
    aliases: BTreeMap<CollectionName, CollectionName>,
    next: u64,
}

#[derive(Default)]
struct Catalog {
    card: Card,
    open: BTreeMap<CollectionName, Arc<Collection>>,
}

/// The collections of one server. It may write to its folder alone.
///
/// What changes which collections there are writes files and waits for them, for seconds where a large one is
/// read: that is done on a thread where it may be, and once begun is done to its end, whether or not somebody
/// still waits for it.
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    catalog: ArcSwap<Catalog>,
    builder: Mutex<Option<(Builder, JoinHandle<()>)>>,
    /// Held while collections and aliases come and go.
    changes: Arc<tokio::sync::Mutex<()>>,
    /// Whether there may be no more changes. Held while one is published.
    closed: Mutex<bool>,
    /// Held from when there is a folder until the process ends; nothing before.
    lock: Mutex<Option<File>>,
}

impl Store {
    /// Opens the folder and every collection in it. One that is not there is made with the first collection.
    /// Indexes are built by `threads` threads in the background.
    ///
    /// # Errors
    /// When another server has the folder, or a collection cannot be read.
    pub fn open(root: &Path, threads: usize) -> Result<Store, VectorsError> {
        let (builder, thread) = Builder::start(threads)?;
        let (lock, card) = match root.try_exists()? {
            true => (Some(take(root)?), read_card(root)?),
            false => (None, Card::default()),
        };
        let mut open = BTreeMap::new();
        for (name, number) in &card.collections {
            let collection = Collection::open(&folder_of(root, *number), &builder).inspect_err(|error| {
                tracing::error!(collection = %name, %error, "a collection cannot be opened");
            })?;
            open.insert(name.clone(), Arc::new(collection));
        }
        // All is there that should be: what else there is, a crash has left.
        if lock.is_some() {
            let known = |number| card.collections.values().any(|known| *known == number);
            for folder in ["collections", "snapshots"] {
                files::warn_of(files::keep_only(&root.join(folder), known));
            }
        }
        let inner = Inner {
            root: root.to_owned(),
            catalog: ArcSwap::from_pointee(Catalog { card, open }),
            builder: Mutex::new(Some((builder, thread))),
            changes: Arc::default(),
            closed: Mutex::new(false),
            lock: Mutex::new(lock),
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// Has no other change made meanwhile, and works where it may block. The turn is kept until the work is done,
    /// even if nobody waits for it any more.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, VectorsError> + Send + 'static,
    ) -> Result<T, VectorsError> {
        let turn = Arc::clone(&self.inner.changes).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let _turn = turn;
            if *inner.closed.lock() { Err(VectorsError::Closed) } else { work(&inner) }
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| VectorsError::Closed)?
    }

    /// Keeps so many bytes of vectors in memory from now on, those that are found most, of all collections together.
    pub fn keep_warm(&self, bytes: usize) {
        if let Some((builder, _)) = self.inner.builder.lock().as_ref() {
            builder.keep_warm(bytes);
        }
    }

    /// The collection of that name, or that the alias means.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<Arc<Collection>, VectorsError> {
        let catalog = self.inner.catalog.load();
        let name_of = |name: &str| catalog.card.aliases.get(name).map(CollectionName::as_str);
        let found = catalog.open.get(name).or_else(|| catalog.open.get(name_of(name)?));
        found.cloned().ok_or_else(|| VectorsError::NoCollection(name.chars().take(255).collect()))
    }

    /// The names of all collections.
    #[must_use]
    pub fn names(&self) -> Vec<CollectionName> {
        self.inner.catalog.load().open.keys().cloned().collect()
    }

    /// Every alias and the collection that it means.
    #[must_use]
    pub fn aliases(&self) -> Vec<(CollectionName, CollectionName)> {
        let catalog = self.inner.catalog.load();
        catalog.card.aliases.iter().map(|(alias, name)| (alias.clone(), name.clone())).collect()
    }

    /// Makes an empty collection.
    ///
    /// # Errors
    /// When the name is taken, the configuration is refused, or files cannot be written.
    pub async fn create(&self, name: CollectionName, config: &CollectionConfig) -> Result<(), VectorsError> {
        let config = config.clone();
        self.create_with(name, move |folder| Collection::create(folder, &config)).await.map(drop)
    }

    /// Makes a collection in a folder that `fill` fills.
    pub(super) async fn create_with(
        &self,
        name: CollectionName,
        fill: impl FnOnce(&Path) -> Result<(), VectorsError> + Send + 'static,
    ) -> Result<Arc<Collection>, VectorsError> {
        self.change(move |inner| inner.create_with(name, fill)).await
    }

    /// Removes a collection and the aliases that mean it. Requests under way end with it. Tells
    /// whether there was one.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub async fn delete(&self, name: &str) -> Result<bool, VectorsError> {
        let name = name.to_owned();
        self.change(move |inner| inner.delete(&name)).await
    }

    /// Makes all of these changes at once, or none.
    ///
    /// # Errors
    /// When one of them cannot be made.
    pub async fn change_aliases(&self, changes: Vec<AliasChange>) -> Result<(), VectorsError> {
        self.change(move |inner| inner.change_aliases(changes)).await
    }

    /// Where the snapshots of a collection are.
    pub(super) fn snapshots_of(&self, name: &str) -> Result<PathBuf, VectorsError> {
        let catalog = self.inner.catalog.load();
        let meant = catalog.card.aliases.get(name).map_or(name, CollectionName::as_str);
        let number = catalog.card.collections.get(meant);
        let number = number.ok_or_else(|| VectorsError::NoCollection(name.chars().take(255).collect()))?;
        Ok(self.inner.root.join("snapshots").join(number.to_string()))
    }

    /// A folder for files that are being made, on the disk of the store.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn workplace(&self) -> Result<tempfile::TempDir, VectorsError> {
        self.inner.settle()?;
        Ok(tempfile::TempDir::with_prefix_in("making-", self.inner.root.join("snapshots"))?)
    }

    /// Ends all threads, once they have written what was accepted. Blocks for as long as that takes. Changes are
    /// refused from then on, and what the catalog says stays.
    pub fn close(&self) {
        let mut closed = self.inner.closed.lock();
        *closed = true;
        let catalog = self.inner.catalog.load_full();
        self.inner.catalog.store(Arc::new(Catalog { card: catalog.card.clone(), open: BTreeMap::new() }));
        drop(closed);
        for collection in catalog.open.values() {
            collection.spaces().iter().for_each(|space| space.close());
        }
        drop(catalog);
        if let Some((builder, thread)) = self.inner.builder.lock().take() {
            builder.stop();
            if thread.join().is_err() {
                tracing::error!("the thread that builds indexes ended in a panic");
            }
        }
    }
}

impl Inner {
    /// Makes the folder, if there is none yet.
    fn settle(&self) -> Result<(), VectorsError> {
        let mut lock = self.lock.lock();
        if lock.is_none() {
            let taken = take(&self.root)?;
            read_card(&self.root)?;
            *lock = Some(taken);
        }
        Ok(())
    }

    fn create_with(
        &self,
        name: CollectionName,
        fill: impl FnOnce(&Path) -> Result<(), VectorsError>,
    ) -> Result<Arc<Collection>, VectorsError> {
        let catalog = self.catalog.load_full();
        if catalog.open.contains_key(&name) || catalog.card.aliases.contains_key(&name) {
            return Err(VectorsError::Exists(name.as_str().to_owned()));
        }
        if catalog.open.len() >= COLLECTIONS_MAX {
            return Err(VectorsError::Config(format!("there are {COLLECTIONS_MAX} collections; delete one first")));
        }
        let builder = self.builder.lock().as_ref().map(|(builder, _)| builder.clone()).ok_or(VectorsError::Closed)?;
        self.settle()?;
        let mut card = catalog.card.clone();
        let folder = folder_of(&self.root, card.next);
        fill(&folder)?;
        let collection = Arc::new(Collection::open(&folder, &builder)?);
        card.collections.insert(name.clone(), card.next);
        card.next += 1;
        let mut open = catalog.open.clone();
        open.insert(name, Arc::clone(&collection));
        self.publish(card, open)?;
        Ok(collection)
    }

    fn delete(&self, name: &str) -> Result<bool, VectorsError> {
        let catalog = self.catalog.load_full();
        let mut card = catalog.card.clone();
        let Some(number) = card.collections.remove(name) else { return Ok(false) };
        card.aliases.retain(|_, collection| collection.as_str() != name);
        let mut open = catalog.open.clone();
        open.remove(name);
        self.publish(card, open)?;
        for folder in [folder_of(&self.root, number), self.root.join("snapshots").join(number.to_string())] {
            files::warn_of(files::clear(&folder));
        }
        Ok(true)
    }

    fn change_aliases(&self, changes: Vec<AliasChange>) -> Result<(), VectorsError> {
        let catalog = self.catalog.load_full();
        let mut card = catalog.card.clone();
        changes.into_iter().try_for_each(|change| card.change(change))?;
        self.publish(card, catalog.open.clone())
    }

    fn publish(&self, card: Card, open: BTreeMap<CollectionName, Arc<Collection>>) -> Result<(), VectorsError> {
        let closed = self.closed.lock();
        if *closed {
            return Err(VectorsError::Closed);
        }
        files::write_json(&self.root.join("catalog.json"), &card)?;
        self.catalog.store(Arc::new(Catalog { card, open }));
        Ok(())
    }
}

impl Card {
    fn change(&mut self, change: AliasChange) -> Result<(), VectorsError> {
        let unknown = |alias: &CollectionName| VectorsError::NoAlias(alias.as_str().to_owned());
        match change {
            AliasChange::Create { alias, collection } => {
                if !self.collections.contains_key(&collection) {
                    return Err(VectorsError::NoCollection(collection.as_str().to_owned()));
                }
                self.name_alias(alias, collection)?;
            }
            AliasChange::Delete(alias) => {
                self.aliases.remove(&alias).ok_or_else(|| unknown(&alias))?;
            }
            AliasChange::Rename { from, to } => {
                let collection = self.aliases.remove(&from).ok_or_else(|| unknown(&from))?;
                self.name_alias(to, collection)?;
            }
        }
        Ok(())
    }

    fn name_alias(&mut self, alias: CollectionName, collection: CollectionName) -> Result<(), VectorsError> {
        if self.collections.contains_key(&alias) {
            return Err(VectorsError::Exists(alias.as_str().to_owned()));
        }
        if self.aliases.len() >= ALIASES_MAX {
            return Err(VectorsError::Config(format!("there are {ALIASES_MAX} aliases; delete one first")));
        }
        self.aliases.insert(alias, collection);
        Ok(())
    }
}

/// Makes the folder where there is none, and takes it for this server.
fn take(root: &Path) -> Result<File, VectorsError> {
    files::make_folder(&root.join("collections"))?;
    files::make_folder(&root.join("snapshots"))?;
    let lock = File::create(root.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(_) => Err(VectorsError::Config("the folder of the vectors is in use by another server".to_owned())),
    }
}

/// What the catalog says; a new folder gets an empty one. From then on its absence is a loss: all that it does not
/// name would be removed.
fn read_card(root: &Path) -> Result<Card, VectorsError> {
    let path = root.join("catalog.json");
    if path.try_exists()? {
        return Ok(files::read_json(&path)?);
    }
    if !files::numbers_in(&root.join("collections"))?.is_empty() {
        let text = "the folder of the vectors holds collections and no catalog.json, which names them; put that file \
                    back from a backup, or move the folder away to begin without collections";
        return Err(VectorsError::Config(text.to_owned()));
    }
    let card = Card::default();
    files::write_json(&path, &card)?;
    Ok(card)
}

fn folder_of(root: &Path, number: u64) -> PathBuf {
    root.join("collections").join(number.to_string())
}
