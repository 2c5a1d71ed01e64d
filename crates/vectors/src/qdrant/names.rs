//! Which of the cluster's names are ours, and what they mean.
//!
//! A space is a collection of Qdrant's called `NAME.halny-KEY`, where the key is derived from what made its vectors:
//! the same space made twice meets at the cluster. The alias `NAME` is on the active one. What other clients made is called
//! otherwise, and is a collection of one space.

use std::collections::{BTreeMap, BTreeSet};

use halny_types::CollectionName;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{AliasChange, EmbeddingSpace, VectorsError};

/// Between a collection's name and the key of one of its spaces.
const BETWEEN: &str = ".halny-";
/// The key of a space of vectors that clients bring.
const PLAIN: &str = "plain";
/// In the place of a key: the name is being changed.
const LOCK: &str = "lock";
/// Bytes of a digest that make a key.
const KEY_BYTES: usize = 8;

/// The key of the space of such vectors. What the model was called is no part of it.
pub(super) fn key(made: Option<&EmbeddingSpace>) -> String {
    let Some(made) = made else { return PLAIN.to_owned() };
    let mut digest = Sha256::new();
    for part in [made.version.as_str(), made.pooling.as_str(), made.dimensions.to_string().as_str()] {
        digest.update(part);
        digest.update([0]);
    }
    digest.finalize().iter().take(KEY_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// What the cluster calls a space.
pub(super) fn space_name(collection: &str, key: &str) -> String {
    format!("{collection}{BETWEEN}{key}")
}

/// What the cluster calls the lock of a name.
pub(super) fn lock_name(collection: &str) -> String {
    space_name(collection, LOCK)
}

/// The collection and the key in the name of a space.
pub(super) fn split(name: &str) -> Option<(&str, &str)> {
    let (collection, key) = name.rsplit_once(BETWEEN)?;
    let digits = |key: &str| key.len() == 2 * KEY_BYTES && key.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
    (key == PLAIN || digits(key)).then_some((collection, key))
}

/// Whether a name is that of a space or a lock: such are the cluster's alone.
fn is_kept(name: &str) -> bool {
    split(name).is_some() || name.rsplit_once(BETWEEN).is_some_and(|(_, key)| key == LOCK)
}

/// Whether a name may be a collection's or an alias'.
pub(super) fn is_usable(name: &str) -> bool {
    CollectionName::new(name).is_ok() && !is_kept(name)
}

/// A name that is a client's own is shown cut short.
pub(super) fn none_of(name: &str) -> VectorsError {
    VectorsError::NoCollection(name.chars().take(255).collect())
}

/// All names of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalogue {
    /// Of collections, as the cluster knows them.
    pub(super) collections: BTreeSet<String>,
    /// Of aliases, and the collections that they are on.
    pub(super) aliases: BTreeMap<String, String>,
}

impl Catalogue {
    /// Whether there is what each alias is on. A cluster removes aliases with their collection.
    pub(super) fn is_of_one_moment(&self) -> bool {
        self.aliases.values().all(|target| self.collections.contains(target))
    }

    /// The active space of a collection of ours.
    pub(super) fn active(&self, name: &str) -> Option<&str> {
        let target = self.aliases.get(name)?;
        let own = split(target).is_some_and(|(collection, _)| collection == name);
        (own && self.collections.contains(target)).then_some(target)
    }

    /// Whether another client made the collection.
    pub(super) fn is_foreign(&self, name: &str) -> bool {
        is_usable(name) && self.collections.contains(name)
    }

    /// What the cluster calls the collection of that name.
    fn target(&self, name: &str) -> Option<&str> {
        self.active(name).or_else(|| self.collections.get(name).map(String::as_str).filter(|name| is_usable(name)))
    }

    /// All spaces of a collection of ours, those without an alias included.
    pub(super) fn spaces(&self, collection: &str) -> Vec<&str> {
        spaces_of(&self.collections, collection)
    }

    /// The names of collections, ours and others', in order. Those that Halny could not ask for by name are left out.
    pub(super) fn names(&self) -> Vec<CollectionName> {
        let own = self.aliases.keys().filter(|name| self.active(name).is_some());
        let foreign = self.collections.iter().filter(|name| self.is_foreign(name));
        let mut names: Vec<_> = own.chain(foreign).filter_map(|name| CollectionName::new(name).ok()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The aliases that are not themselves collections of ours, and the collection that each means.
    pub(super) fn meanings(&self) -> BTreeMap<CollectionName, CollectionName> {
        let meaning = |(alias, target): (&String, &String)| {
            if self.active(alias).is_some() || !is_usable(alias) {
                return None;
            }
            let collection = match split(target) {
                // On whichever of its spaces: the collection is meant.
                Some((collection, _)) => self.active(collection).map(|_| collection)?,
                None if is_kept(target) => return None,
                None => target,
            };
            Some((CollectionName::new(alias).ok()?, CollectionName::new(collection).ok()?))
        };
        self.aliases.iter().filter_map(meaning).collect()
    }

    /// What has to be done to the cluster's aliases so that these changes are made, in order.
    ///
    /// # Errors
    /// When one of them cannot be made.
    pub(super) fn changed(&self, changes: Vec<AliasChange>) -> Result<Vec<Value>, VectorsError> {
        let before = self.meanings();
        let mut after = before.clone();
        let unknown = |alias: &CollectionName| VectorsError::NoAlias(alias.as_str().to_owned());
        for change in changes {
            let (alias, collection) = match change {
                AliasChange::Create { alias, collection } => {
                    self.target(collection.as_str()).ok_or_else(|| none_of(collection.as_str()))?;
                    (alias, collection)
                }
                AliasChange::Delete(alias) => {
                    after.remove(&alias).ok_or_else(|| unknown(&alias))?;
                    continue;
                }
                AliasChange::Rename { from, to } => {
                    let collection = after.remove(&from).ok_or_else(|| unknown(&from))?;
                    (to, collection)
                }
            };
            if self.target(alias.as_str()).is_some() {
                return Err(VectorsError::Exists(alias.as_str().to_owned()));
            }
            check(&alias)?;
            after.insert(alias, collection);
        }
        let gone = before.keys().filter(|alias| !after.contains_key(*alias)).map(|alias| delete_alias(alias.as_str()));
        let new = after.iter().filter(|(alias, collection)| before.get(*alias) != Some(*collection));
        let new = new.filter_map(|(alias, collection)| {
            self.target(collection.as_str()).map(|target| create_alias(alias.as_str(), target))
        });
        Ok(gone.chain(new).collect())
    }

    /// What brings every alias on one of these to `target`.
    pub(super) fn moved(&self, from: &[&str], target: &str) -> Vec<Value> {
        let on = |(_, known): &(&String, &String)| known.as_str() != target && from.contains(&known.as_str());
        self.aliases.iter().filter(on).map(|(alias, _)| create_alias(alias, target)).collect()
    }
}

/// The spaces of a collection among the cluster's names.
pub(super) fn spaces_of<'a>(names: &'a BTreeSet<String>, collection: &str) -> Vec<&'a str> {
    let of = |name: &&str| split(name).is_some_and(|(of, _)| of == collection);
    names.iter().map(String::as_str).filter(of).collect()
}

/// Bytes that a name may have, so that those of its spaces are names as well.
const NAME_BYTES_MAX: usize = halny_types::NAME_BYTES_MAX - BETWEEN.len() - 2 * KEY_BYTES;

/// Refuses a name that a space or a lock could have, and one that is too long to be part of theirs.
pub(super) fn check(name: &CollectionName) -> Result<(), VectorsError> {
    let bytes = name.as_str().len();
    if bytes > NAME_BYTES_MAX {
        return Err(VectorsError::Name(format!(
            "the name has {bytes} bytes; a collection in a Qdrant cluster has {NAME_BYTES_MAX} at most"
        )));
    }
    if is_kept(name.as_str()) {
        return Err(VectorsError::Name(format!(
            "a name that ends in `{BETWEEN}` and a key is that of a space in the Qdrant cluster; choose another"
        )));
    }
    Ok(())
}

pub(super) fn create_alias(alias: &str, target: &str) -> Value {
    json!({ "create_alias": { "collection_name": target, "alias_name": alias } })
}

pub(super) fn delete_alias(alias: &str) -> Value {
    json!({ "delete_alias": { "alias_name": alias } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_has_spaces_and_a_lock() {
        let named = |bytes: usize| CollectionName::new(&"x".repeat(bytes)).unwrap();
        assert!(check(&named(NAME_BYTES_MAX + 1)).is_err());
        let longest = named(NAME_BYTES_MAX);
        check(&longest).unwrap();
        CollectionName::new(&format!("{longest}{BETWEEN}{}", "0".repeat(2 * KEY_BYTES))).unwrap();
    }

    const ONE: &str = "notes.halny-0123456789abcdef";
    const TWO: &str = "notes.halny-fedcba9876543210";

    fn catalogue() -> Catalogue {
        let collections =
            [ONE, TWO, "orphan.halny-plain", "theirs", "no name of ours", "notes.halny-lock", "new.halny-lock"];
        let aliases = [("notes", TWO), ("now", TWO), ("old", ONE), ("them", "theirs"), ("lost", "orphan.halny-plain")];
        Catalogue {
            collections: collections.map(str::to_owned).into(),
            aliases: aliases.map(|(alias, target)| (alias.to_owned(), target.to_owned())).into(),
        }
    }

    fn name(name: &str) -> CollectionName {
        CollectionName::new(name).unwrap()
    }

    #[test]
    fn a_key_is_that_of_what_made_the_vectors_whatever_the_model_is_called() {
        let made = |model: &str, version: &str, dimensions| EmbeddingSpace {
            model: model.to_owned(),
            version: version.to_owned(),
            pooling: "mean".to_owned(),
            dimensions,
        };
        let one = key(Some(&made("a", "1", 384)));
        assert_eq!(one, key(Some(&made("b", "1", 384))));
        assert_ne!(one, key(Some(&made("a", "2", 384))));
        assert_ne!(one, key(Some(&made("a", "1", 385))));
        assert_eq!(split(&space_name("n", &one)), Some(("n", one.as_str())));
        assert_eq!(split(&space_name("a.halny-plain", &key(None))), Some(("a.halny-plain", "plain")));
        for other in ["notes", "notes.halny-", "notes.halny-x", "notes.halny-0123456789ABCDEF", "notes.halny-plain2"] {
            assert_eq!(split(other), None, "{other}");
        }
        for kept in ["notes.halny-plain", &lock_name("notes"), &space_name("notes", &one)] {
            assert!(check(&name(kept)).is_err() && !is_usable(kept), "{kept}");
        }
        assert!(check(&name("notes.halny")).is_ok() && is_usable("notes.halny") && !is_usable("no name of ours"));
    }

    #[test]
    fn names_are_those_of_collections_and_aliases_mean_them() {
        let catalogue = catalogue();
        assert_eq!(catalogue.names(), [name("notes"), name("theirs")]);
        assert_eq!(catalogue.active("notes"), Some(TWO));
        assert_eq!(catalogue.spaces("notes"), [ONE, TWO]);
        assert!(["orphan", "now", "theirs", ONE].iter().all(|other| catalogue.active(other).is_none()));
        let meanings = [("now", "notes"), ("old", "notes"), ("them", "theirs")];
        assert_eq!(catalogue.meanings(), meanings.map(|(alias, of)| (name(alias), name(of))).into());
    }

    #[test]
    fn changes_of_aliases_are_told_by_what_comes_of_them() {
        let create = |alias: &str, of: &str| AliasChange::Create { alias: name(alias), collection: name(of) };
        let rename = |from: &str, to: &str| AliasChange::Rename { from: name(from), to: name(to) };
        let changed = |changes| catalogue().changed(changes);
        assert_eq!(changed(vec![create("x", "notes")]).unwrap(), [create_alias("x", TWO)]);
        assert_eq!(changed(vec![create("x", "theirs")]).unwrap(), [create_alias("x", "theirs")]);
        // On an older space it means the collection already.
        assert!(changed(vec![create("old", "notes")]).unwrap().is_empty());
        assert!(changed(vec![create("x", "notes"), AliasChange::Delete(name("x"))]).unwrap().is_empty());
        assert_eq!(changed(vec![rename("them", "x")]).unwrap(), [delete_alias("them"), create_alias("x", "theirs")]);
        let both = vec![AliasChange::Delete(name("now")), create("now", "theirs")];
        assert_eq!(changed(both).unwrap(), [create_alias("now", "theirs")]);
        for taken in ["notes", "theirs"] {
            assert!(matches!(changed(vec![create(taken, "notes")]), Err(VectorsError::Exists(_))));
            assert!(matches!(changed(vec![rename("now", taken)]), Err(VectorsError::Exists(_))));
        }
        for none in ["now", "orphan", ONE] {
            assert!(matches!(changed(vec![create("x", none)]), Err(VectorsError::NoCollection(_))), "{none}");
        }
        for none in ["notes", "x", "lost"] {
            assert!(matches!(changed(vec![AliasChange::Delete(name(none))]), Err(VectorsError::NoAlias(_))), "{none}");
        }
        assert!(matches!(changed(vec![create(ONE, "notes")]), Err(VectorsError::Name(_))));
    }

    #[test]
    fn all_aliases_of_a_collection_are_moved_together() {
        let moved = catalogue().moved(&[ONE, TWO], ONE);
        assert_eq!(moved, [create_alias("notes", ONE), create_alias("now", ONE)]);
    }
}
