//! Optimised graphs on disk: one folder an entry, made elsewhere and renamed into place.
//!
//! An entry is used only when it was made for exactly this graph, library, device and processor, and
//! when its bytes are those that were written. The check sums guard against torn writes and bad disks,
//! not against someone who can write here: they could as well replace the model.
//!
//! Processes share a cache: whoever makes or removes an entry holds its lock alone, whoever opens one
//! holds it together with others.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{debug, info};

use crate::hardware::hex;
use crate::session::{GRAPH_FILE, WEIGHTS_FILE};

/// Raised whenever what an entry holds, or how it is made, changes.
const FORMAT: u32 = 1;

const MANIFEST_FILE: &str = "manifest.json";

/// Entries of one graph that are kept: for each device it runs on, before and after an update.
const ENTRIES_PER_GRAPH: usize = 4;

/// Entries that are kept in all, and their size together.
const ENTRIES_MAX: usize = 64;
const BYTES_MAX: u64 = 32 << 30;

/// Locks are few and never removed, so that no one can hold the lock of a file that is gone.
const LOCKS: u8 = 64;

/// A host's optimised graphs.
pub(crate) struct Store {
    folder: PathBuf,
}

/// What an entry was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    graph: String,
    settings: String,
}

/// The entry's files, as they were when it was made.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    key: String,
    files: Vec<Written>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    name: String,
    bytes: u64,
    crc32: u32,
}

/// An entry that is whole as far as names, sizes and the graph's own check sum tell.
pub(crate) struct Entry {
    folder: PathBuf,
    weights: Option<Written>,
}

/// A lock on an entry; given back when dropped.
pub(crate) struct Guard {
    _file: File,
}

impl Key {
    /// The key of a graph's content under settings that change what is made of it.
    pub(crate) fn new(content: &str, settings: &[&str]) -> Key {
        let digest = |parts: &[&str]| {
            let mut digest = Sha256::new();
            for part in parts {
                digest.update(part.len().to_le_bytes());
                digest.update(part);
            }
            hex(&digest.finalize()[..16])
        };
        let format = FORMAT.to_string();
        let settings: Vec<&str> = settings.iter().copied().chain([format.as_str()]).collect();
        Key { graph: digest(&[content]), settings: digest(&settings) }
    }

    /// A folder's name for what belongs to this key.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.graph, self.settings)
    }
}

impl Store {
    /// The store in a cache folder, which is made where it is missing.
    pub(crate) fn open(cache: &Path) -> io::Result<Store> {
        let folder = cache.join("optimised");
        fs::create_dir_all(&folder)?;
        Ok(Store { folder: folder.canonicalize()? })
    }

    /// Waits for the right to open the entry of a key.
    pub(crate) fn share(&self, key: &Key) -> io::Result<Guard> {
        let file = self.lock_file(&key.name())?;
        file.lock_shared()?;
        Ok(Guard { _file: file })
    }

    /// Waits for the right to make or remove the entry of a key.
    pub(crate) fn own(&self, key: &Key) -> io::Result<Guard> {
        let file = self.lock_file(&key.name())?;
        file.lock()?;
        Ok(Guard { _file: file })
    }

    fn lock_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join(lock_name(name)))
    }

    /// The entry of a key, or `None` where there is none that can be used.
    pub(crate) fn find(&self, key: &Key) -> Option<Entry> {
        let folder = self.folder.join(key.name());
        let manifest: Manifest = serde_json::from_slice(&fs::read(folder.join(MANIFEST_FILE)).ok()?).ok()?;
        if manifest.format != FORMAT || manifest.key != key.name() {
            return None;
        }
        let mut weights = None;
        let mut graph = false;
        for file in manifest.files {
            if fs::metadata(folder.join(&file.name)).ok()?.len() != file.bytes {
                return None;
            }
            match file.name.as_str() {
                GRAPH_FILE => graph = crc32_of(&folder.join(GRAPH_FILE)).ok()? == file.crc32,
                WEIGHTS_FILE => weights = Some(file),
                _ => return None,
            }
        }
        graph.then_some(Entry { folder, weights })
    }

    /// An empty folder in which the owner of a key makes its entry.
    pub(crate) fn workshop(&self, key: &Key) -> io::Result<PathBuf> {
        let folder = self.folder.join(format!("{}.new", key.name()));
        remove(&folder)?;
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// Turns what the owner of a key left in its workshop into the entry of that key.
    pub(crate) fn publish(&self, key: &Key) -> io::Result<()> {
        let made = self.folder.join(format!("{}.new", key.name()));
        let mut files = Vec::new();
        for name in [GRAPH_FILE, WEIGHTS_FILE] {
            let path = made.join(name);
            match fs::metadata(&path) {
                Ok(found) => files.push(Written { name: name.to_owned(), bytes: found.len(), crc32: crc32_of(&path)? }),
                Err(error) if error.kind() == io::ErrorKind::NotFound && name == WEIGHTS_FILE => {}
                Err(error) => return Err(error),
            }
        }
        let manifest = Manifest { format: FORMAT, key: key.name(), files };
        fs::write(made.join(MANIFEST_FILE), serde_json::to_vec_pretty(&manifest)?)?;
        let entry = self.folder.join(key.name());
        remove(&entry)?;
        fs::rename(&made, &entry)
    }

    /// Removes what the owner of a key left unfinished.
    pub(crate) fn abandon(&self, key: &Key) {
        if let Err(error) = remove(&self.folder.join(format!("{}.new", key.name()))) {
            debug!(%error, "a half-made optimised graph could not be removed");
        }
    }

    /// Notes that an entry was used, so that it is removed after others.
    pub(crate) fn touch(&self, key: &Key) {
        let manifest = self.folder.join(key.name()).join(MANIFEST_FILE);
        let touched = File::options().append(true).open(manifest).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            debug!(%error, "the use of an optimised graph could not be noted");
        }
    }

    /// Removes the entries used longest ago, until the limits hold. The owner of `kept` calls this;
    /// entries that others hold are passed over.
    pub(crate) fn evict(&self, kept: &Key) {
        let mut entries = self.entries();
        entries.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let (mut of_graph, mut total, mut bytes) = (0, 0, 0);
        for (_, name, size) in entries {
            total += 1;
            bytes += size;
            of_graph += usize::from(name.starts_with(&kept.graph));
            let too_many = name.starts_with(&kept.graph) && of_graph > ENTRIES_PER_GRAPH;
            if (too_many || total > ENTRIES_MAX || bytes > BYTES_MAX) && name != kept.name() {
                self.evict_one(&name, kept);
            }
        }
    }

    fn evict_one(&self, name: &str, kept: &Key) {
        // The lock of `kept` is held already; asking for it again would wait for ourselves.
        let lock = match lock_name(name) == lock_name(&kept.name()) {
            true => None,
            false => match self.lock_file(name) {
                Ok(file) if file.try_lock().is_ok() => Some(file),
                _ => return,
            },
        };
        match remove(&self.folder.join(name)) {
            Ok(()) => info!(entry = name, "an optimised graph was removed, by the limits of the cache"),
            Err(error) => debug!(%error, "an optimised graph could not be removed"),
        }
        drop(lock);
    }

    /// When each entry was last used, its name and its size.
    fn entries(&self) -> Vec<(SystemTime, String, u64)> {
        let entry = |path: PathBuf| {
            let used = fs::metadata(path.join(MANIFEST_FILE)).and_then(|found| found.modified()).ok()?;
            let size = fs::read_dir(&path).ok()?.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum();
            Some((used, path.file_name()?.to_str()?.to_owned(), size))
        };
        let Ok(listing) = fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = listing.filter_map(|found| Some(found.ok()?.path()));
        paths.filter(|path| path.is_dir() && path.extension().is_none()).filter_map(entry).collect()
    }
}

impl Entry {
    /// The optimised graph.
    pub(crate) fn graph(&self) -> PathBuf {
        self.folder.join(GRAPH_FILE)
    }

    /// Bytes of the weights that its sessions map.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.weights.as_ref().map_or(0, |file| file.bytes)
    }

    /// Whether the weights are those that were written. Takes as long as reading them, so call it beside
    /// other work: weights that are off make a session compute nonsense, they do not break it.
    pub(crate) fn has_right_weights(&self) -> bool {
        let right = |file: &Written| crc32_of(&self.folder.join(&file.name)).is_ok_and(|found| found == file.crc32);
        self.weights.as_ref().is_none_or(right)
    }
}

fn lock_name(name: &str) -> String {
    let shard = crc32fast::hash(name.as_bytes()) % u32::from(LOCKS);
    format!("{shard:02}.lock")
}

fn crc32_of(path: &Path) -> io::Result<u32> {
    let mut file = File::open(path)?;
    let mut digest = crc32fast::Hasher::new();
    let mut chunk = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(digest.finalize()),
            read => digest.update(&chunk[..read]),
        }
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(graph: &str, device: &str) -> Key {
        Key::new(graph, &[device])
    }

    fn make(store: &Store, key: &Key, graph: &[u8]) {
        let _guard = store.own(key).unwrap();
        let workshop = store.workshop(key).unwrap();
        fs::write(workshop.join(GRAPH_FILE), graph).unwrap();
        fs::write(workshop.join(WEIGHTS_FILE), b"weights").unwrap();
        store.publish(key).unwrap();
        store.evict(key);
    }

    #[test]
    fn an_entry_is_found_under_its_own_key_only() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path()).unwrap();
        make(&store, &key("a", "cpu"), b"graph");
        assert!(store.find(&key("a", "cpu")).unwrap().has_right_weights());
        for other in [key("a", "cuda:0"), key("b", "cpu"), Key::new("a", &["c", "pu"]), Key::new("", &["a", "cpu"])] {
            assert!(store.find(&other).is_none(), "{other:?}");
            // An entry that was moved under another key is foreign there.
            fs::create_dir(store.folder.join(other.name())).unwrap();
            for file in [GRAPH_FILE, WEIGHTS_FILE, MANIFEST_FILE] {
                let from = store.folder.join(key("a", "cpu").name()).join(file);
                fs::copy(from, store.folder.join(other.name()).join(file)).unwrap();
            }
            assert!(store.find(&other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn a_changed_byte_or_length_in_any_file_is_noticed() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path()).unwrap();
        let entry = key("a", "cpu");
        for file in [GRAPH_FILE, WEIGHTS_FILE, MANIFEST_FILE] {
            for damage in
                [|bytes: &mut Vec<u8>| bytes[0] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1), Vec::clear]
            {
                make(&store, &entry, b"graph");
                let path = store.folder.join(entry.name()).join(file);
                let mut bytes = fs::read(&path).unwrap();
                damage(&mut bytes);
                fs::write(&path, bytes).unwrap();
                assert!(!store.find(&entry).is_some_and(|found| found.has_right_weights()), "{file}");
            }
        }
    }

    #[test]
    fn the_entries_of_a_graph_are_bounded_and_the_newest_stay() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path()).unwrap();
        let keys: Vec<Key> = (0..ENTRIES_PER_GRAPH + 3).map(|n| key("a", &n.to_string())).collect();
        for (age, entry) in keys.iter().enumerate() {
            make(&store, entry, b"graph");
            let manifest =
                File::options().append(true).open(store.folder.join(entry.name()).join(MANIFEST_FILE)).unwrap();
            manifest.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64)).unwrap();
        }
        let found: Vec<bool> = keys.iter().map(|entry| store.find(entry).is_some()).collect();
        assert_eq!(found.iter().filter(|found| **found).count(), ENTRIES_PER_GRAPH, "{found:?}");
        assert!(found[3..].iter().all(|found| *found), "{found:?}");
    }

    #[test]
    fn what_was_left_unfinished_does_not_hinder_the_next() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path()).unwrap();
        let entry = key("a", "cpu");
        fs::write(store.workshop(&entry).unwrap().join(WEIGHTS_FILE), b"half").unwrap();
        assert!(store.find(&entry).is_none());
        make(&store, &entry, b"graph");
        assert!(store.find(&entry).is_some());
    }
}
