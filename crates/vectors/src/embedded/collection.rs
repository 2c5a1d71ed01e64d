//! A collection: the spaces under one name, one of them active.
//!
//! A collection follows a model by name. Which version's vectors are asked is decided by which version
//! of that model serves; the active space is the one that was last decided for, and counts while the
//! model is not there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::builder::Builder;
use super::files;
use super::space::Space;
use crate::{CollectionConfig, EmbeddingSpace, VectorsError};

/// What `collection.json` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Card {
    spaces: Vec<u64>,
    active: u64,
    next: u64,
    /// The model that the collection follows, where its vectors are a model's.
    #[serde(default)]
    model: Option<String>,
}

/// The spaces there are.
struct Spaces {
    card: Card,
    all: Vec<(u64, Arc<Space>)>,
    active: Arc<Space>,
}

/// A collection. Which spaces it has changes as which collections there are does, on a thread that may block.
pub struct Collection {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    builder: Builder,
    spaces: ArcSwap<Spaces>,
    /// Held while spaces come, go or are switched.
    changes: Arc<tokio::sync::Mutex<()>>,
}

impl Spaces {
    fn new(card: Card, all: Vec<(u64, Arc<Space>)>) -> io::Result<Spaces> {
        let active = all.iter().find(|(number, _)| *number == card.active).map(|(_, space)| Arc::clone(space));
        let active = active.ok_or_else(|| files::malformed("a collection's active space is missing"))?;
        Ok(Spaces { card, all, active })
    }

    /// The number of the space whose vectors `made` made.
    fn number_of(&self, made: &EmbeddingSpace) -> Result<u64, VectorsError> {
        let number = self.of(made).map(|(number, _)| *number);
        number.ok_or_else(|| VectorsError::NoSpace(made.to_string()))
    }

    fn of(&self, made: &EmbeddingSpace) -> Option<&(u64, Arc<Space>)> {
        self.all.iter().find(|(_, space)| space.config().is_of(made))
    }
}

impl Collection {
    /// Makes the folder of a collection with one space.
    pub(super) fn create(folder: &Path, config: &CollectionConfig) -> Result<(), VectorsError> {
        config.check()?;
        // What a crash left of an earlier try.
        files::clear(folder)?;
        let space = space_path(folder, 0);
        Space::create(&space, config)?;
        files::sync_parent(&space)?;
        let model = config.space.as_ref().map(|made| made.model.clone());
        let card = Card { spaces: vec![0], active: 0, next: 1, model };
        files::write_json(&folder.join("collection.json"), &card)?;
        Ok(files::sync_parent(folder)?)
    }

    pub(super) fn open(folder: &Path, builder: &Builder) -> Result<Collection, VectorsError> {
        let card: Card = files::read_json(&folder.join("collection.json"))?;
        let mut all = Vec::new();
        for space in &card.spaces {
            all.push((*space, Arc::new(Space::open(&space_path(folder, *space), builder)?)));
        }
        files::warn_of(files::keep_only(&folder.join("spaces"), |number| card.spaces.contains(&number)));
        let inner = Inner {
            folder: folder.to_owned(),
            builder: builder.clone(),
            spaces: ArcSwap::from_pointee(Spaces::new(card, all)?),
            changes: Arc::default(),
        };
        Ok(Collection { inner: Arc::new(inner) })
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
            work(&inner)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| VectorsError::Closed)?
    }

    /// The active space. A request takes it once and keeps it: what it asks and what it finds are of one space.
    #[must_use]
    pub fn active(&self) -> Arc<Space> {
        Arc::clone(&self.inner.spaces.load().active)
    }

    /// The space of the vectors that `made` made, whatever the model was called then.
    #[must_use]
    pub fn space_of(&self, made: &EmbeddingSpace) -> Option<Arc<Space>> {
        self.inner.spaces.load().of(made).map(|(_, space)| Arc::clone(space))
    }

    /// The model whose version decides which vectors are asked.
    #[must_use]
    pub fn follows(&self) -> Option<String> {
        let spaces = self.inner.spaces.load();
        let made_by = || spaces.active.config().space.as_ref().map(|made| made.model.clone());
        spaces.card.model.clone().or_else(made_by)
    }

    /// All spaces, the active one first.
    #[must_use]
    pub fn spaces(&self) -> Vec<Arc<Space>> {
        let spaces = self.inner.spaces.load();
        let mut all = vec![Arc::clone(&spaces.active)];
        all.extend(
            spaces.all.iter().filter(|(number, _)| *number != spaces.card.active).map(|(_, space)| Arc::clone(space)),
        );
        all
    }

    /// Makes an empty space beside the others. The active one stays.
    ///
    /// # Errors
    /// When there is a space of that model version already, or files cannot be written.
    pub async fn add(&self, config: CollectionConfig) -> Result<Arc<Space>, VectorsError> {
        self.change(move |inner| inner.add(&config)).await
    }

    /// Puts what `fill` fills in the place of the active space, and of any other whose vectors the same model made.
    pub(super) async fn replace(
        &self,
        fill: impl FnOnce(&Path) -> Result<(), VectorsError> + Send + 'static,
    ) -> Result<(), VectorsError> {
        self.change(move |inner| inner.replace(fill)).await
    }

    /// Makes the space of `made` the active one, and has the collection follow the model of that name.
    /// Requests under way end with the space that they began with.
    ///
    /// # Errors
    /// When there is none, or that cannot be written down.
    pub async fn activate(&self, made: &EmbeddingSpace) -> Result<(), VectorsError> {
        let made = made.clone();
        self.change(move |inner| inner.activate(made)).await
    }

    /// Removes a space that is not the active one.
    ///
    /// # Errors
    /// When there is none, it is active, or that cannot be written down.
    pub async fn drop_space(&self, made: &EmbeddingSpace) -> Result<(), VectorsError> {
        let made = made.clone();
        self.change(move |inner| inner.drop_space(&made)).await
    }
}

impl Inner {
    fn add(&self, config: &CollectionConfig) -> Result<Arc<Space>, VectorsError> {
        config.check()?;
        let spaces = self.spaces.load_full();
        if let Some(made) = config.space.as_ref().filter(|made| spaces.number_of(made).is_ok()) {
            return Err(VectorsError::Exists(made.to_string()));
        }
        let (number, space) = self.make(|folder| Space::create(folder, config))?;
        let mut card = Card { next: number + 1, ..spaces.card.clone() };
        card.spaces.push(number);
        let mut all = spaces.all.clone();
        all.push((number, Arc::clone(&space)));
        self.publish(card, all)?;
        Ok(space)
    }

    /// Makes a space in a folder that `fill` fills. Nobody knows of it yet.
    fn make(&self, fill: impl FnOnce(&Path) -> Result<(), VectorsError>) -> Result<(u64, Arc<Space>), VectorsError> {
        let number = self.spaces.load().card.next;
        let folder = space_path(&self.folder, number);
        files::clear(&folder)?;
        fill(&folder)?;
        files::sync_parent(&folder)?;
        Ok((number, Arc::new(Space::open(&folder, &self.builder)?)))
    }

    fn replace(&self, fill: impl FnOnce(&Path) -> Result<(), VectorsError>) -> Result<(), VectorsError> {
        let (number, space) = self.make(fill)?;
        let made = space.config().space.clone();
        let spaces = self.spaces.load_full();
        let same = |space: &Space| match (&made, &space.config().space) {
            (Some(new), Some(old)) => new.same(old),
            _ => false,
        };
        let replaced = |(old, space): &(u64, Arc<Space>)| *old == spaces.card.active || same(space);
        let (gone, mut all): (Vec<_>, Vec<_>) = spaces.all.iter().cloned().partition(replaced);
        all.push((number, space));
        let numbers = all.iter().map(|(number, _)| *number).collect();
        let card = Card { spaces: numbers, active: number, next: number + 1, ..spaces.card.clone() };
        // At once: between two changes there would be two spaces of one version, or none.
        self.publish(card, all)?;
        self.let_go(&gone);
        Ok(())
    }

    fn activate(&self, made: EmbeddingSpace) -> Result<(), VectorsError> {
        let spaces = self.spaces.load_full();
        let card = Card { active: spaces.number_of(&made)?, model: Some(made.model), ..spaces.card.clone() };
        if card == spaces.card {
            return Ok(());
        }
        self.publish(card, spaces.all.clone())
    }

    fn drop_space(&self, made: &EmbeddingSpace) -> Result<(), VectorsError> {
        let spaces = self.spaces.load_full();
        let number = spaces.number_of(made)?;
        if number == spaces.card.active {
            return Err(VectorsError::Invalid(format!("the vectors of {made} are in use; make others active first")));
        }
        let mut card = spaces.card.clone();
        card.spaces.retain(|space| *space != number);
        let (gone, all): (Vec<_>, Vec<_>) = spaces.all.iter().cloned().partition(|(space, _)| *space == number);
        self.publish(card, all)?;
        self.let_go(&gone);
        Ok(())
    }

    /// Removes the files of spaces that nobody will find any more.
    fn let_go(&self, gone: &[(u64, Arc<Space>)]) {
        for (number, space) in gone {
            space.let_go();
            files::warn_of(files::clear(&space_path(&self.folder, *number)));
        }
    }

    fn publish(&self, card: Card, all: Vec<(u64, Arc<Space>)>) -> Result<(), VectorsError> {
        let spaces = Spaces::new(card, all)?;
        files::write_json(&self.folder.join("collection.json"), &spaces.card)?;
        self.spaces.store(Arc::new(spaces));
        Ok(())
    }
}

fn space_path(folder: &Path, number: u64) -> PathBuf {
    folder.join("spaces").join(number.to_string())
}
