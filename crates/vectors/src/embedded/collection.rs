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

/// A collection.
pub struct Collection {
    folder: PathBuf,
    builder: Builder,
    spaces: ArcSwap<Spaces>,
    /// Held while spaces come, go or are switched.
    changes: tokio::sync::Mutex<()>,
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
        self.all.iter().find(|(_, space)| space.config().space.as_ref().is_some_and(|known| known.same(made)))
    }
}

impl Collection {
    /// Makes the folder of a collection with one space.
    pub(super) fn create(folder: &Path, config: &CollectionConfig) -> Result<(), VectorsError> {
        config.check()?;
        // What a crash left of an earlier try.
        files::clear(folder)?;
        Space::create(&space_path(folder, 0), config)?;
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
        Ok(Collection {
            folder: folder.to_owned(),
            builder: builder.clone(),
            spaces: ArcSwap::from_pointee(Spaces::new(card, all)?),
            changes: tokio::sync::Mutex::default(),
        })
    }

    /// The active space. A request takes it once and keeps it: what it asks and what it finds are of one space.
    #[must_use]
    pub fn active(&self) -> Arc<Space> {
        Arc::clone(&self.spaces.load().active)
    }

    /// The space of the vectors that `made` made, whatever the model was called then.
    #[must_use]
    pub fn space_of(&self, made: &EmbeddingSpace) -> Option<Arc<Space>> {
        self.spaces.load().of(made).map(|(_, space)| Arc::clone(space))
    }

    /// The model whose version decides which vectors are asked.
    #[must_use]
    pub fn follows(&self) -> Option<String> {
        let spaces = self.spaces.load();
        let made_by = || spaces.active.config().space.as_ref().map(|made| made.model.clone());
        spaces.card.model.clone().or_else(made_by)
    }

    /// All spaces, the active one first.
    #[must_use]
    pub fn spaces(&self) -> Vec<Arc<Space>> {
        let spaces = self.spaces.load();
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
        let _turn = self.changes.lock().await;
        config.check()?;
        if let Some(made) = config.space.as_ref().filter(|made| self.spaces.load().number_of(made).is_ok()) {
            return Err(VectorsError::Exists(made.to_string()));
        }
        self.add_from(|folder| Space::create(folder, &config), false)
    }

    /// Makes a space in a folder that `fill` fills, and the active one of it if `activate` says so.
    fn add_from(
        &self,
        fill: impl FnOnce(&Path) -> Result<(), VectorsError>,
        activate: bool,
    ) -> Result<Arc<Space>, VectorsError> {
        let spaces = self.spaces.load_full();
        let number = spaces.card.next;
        let folder = space_path(&self.folder, number);
        files::clear(&folder)?;
        fill(&folder)?;
        let space = Arc::new(Space::open(&folder, &self.builder)?);
        let mut card = spaces.card.clone();
        card.spaces.push(number);
        card.next += 1;
        let mut all = spaces.all.clone();
        all.push((number, Arc::clone(&space)));
        let active = if activate { number } else { card.active };
        card.active = active;
        self.publish(card, all)?;
        Ok(space)
    }

    /// Puts what `fill` fills in the place of the active space.
    pub(super) async fn replace(
        &self,
        fill: impl FnOnce(&Path) -> Result<(), VectorsError>,
    ) -> Result<(), VectorsError> {
        let _turn = self.changes.lock().await;
        let old = self.spaces.load().card.active;
        self.add_from(fill, true)?;
        self.forget(old)
    }

    /// Makes the space of `made` the active one, and has the collection follow the model of that name.
    /// Requests under way end with the space that they began with.
    ///
    /// # Errors
    /// When there is none, or that cannot be written down.
    pub async fn activate(&self, made: &EmbeddingSpace) -> Result<(), VectorsError> {
        let _turn = self.changes.lock().await;
        let spaces = self.spaces.load_full();
        let card = Card { active: spaces.number_of(made)?, model: Some(made.model.clone()), ..spaces.card.clone() };
        if card == spaces.card {
            return Ok(());
        }
        self.publish(card, spaces.all.clone())
    }

    /// Removes a space that is not the active one.
    ///
    /// # Errors
    /// When there is none, it is active, or that cannot be written down.
    pub async fn drop_space(&self, made: &EmbeddingSpace) -> Result<(), VectorsError> {
        let _turn = self.changes.lock().await;
        let spaces = self.spaces.load_full();
        match spaces.number_of(made)? {
            number if number == spaces.card.active => {
                Err(VectorsError::Invalid(format!("the vectors of {made} are in use; make others active first")))
            }
            number => self.forget(number),
        }
    }

    fn forget(&self, number: u64) -> Result<(), VectorsError> {
        let spaces = self.spaces.load_full();
        let mut card = spaces.card.clone();
        card.spaces.retain(|space| *space != number);
        let (gone, all): (Vec<_>, Vec<_>) = spaces.all.iter().cloned().partition(|(space, _)| *space == number);
        self.publish(card, all)?;
        gone.iter().for_each(|(_, space)| space.let_go());
        files::warn_of(files::clear(&space_path(&self.folder, number)));
        Ok(())
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
