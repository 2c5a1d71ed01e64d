//! Snapshots: a space as one file, and back.
//!
//! A snapshot is a tar archive of what a space's folder held at one moment: `manifest.json`, the logs as
//! far as they were confirmed, and the segments, their indexes included. It is a file of a
//! stranger when it comes back: only files of known names and plain kinds are taken, what a segment
//! holds is checked against its checksums, what a log says against the configuration, and nothing
//! replaces the collection before all is read.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use halny_types::CollectionName;
use sha2::{Digest, Sha256};

use super::collection::Collection;
use super::log::{End, Frame, Log};
use super::record::{self, Change};
use super::segment::Segment;
use super::space::Manifest;
use super::store::Store;
use super::writer::Still;
use super::{files, space};
use crate::{CollectionConfig, VectorsError};

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name, which is that of its file.
    pub name: String,
    /// When it was made.
    pub made: SystemTime,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub checksum: String,
}

/// Segments are numbered one after the other: a greater number was made up.
const SERIAL_MAX: u64 = 1 << 48;
/// So are writes.
const SEQUENCE_MAX: u64 = 1 << 56;

/// The most files in a snapshot.
const FILES_MAX: usize = 1_000_000;

impl Store {
    /// Makes a snapshot of a collection's active space: all that was written before this was called.
    ///
    /// # Errors
    /// When there is no such collection, or files cannot be written.
    pub async fn make_snapshot(&self, name: &str) -> Result<Snapshot, VectorsError> {
        let space = self.get(name)?.active();
        let folder = self.snapshots_of(name)?;
        let work = self.workplace()?;
        let picture = work.path().join("picture");
        let into = picture.clone();
        space.frozen(Box::new(move |still| link(still, &into))).await?;
        let stem = CollectionName::new(name).map_err(|error| VectorsError::Name(error.to_string()))?;
        let packed = tokio::task::spawn_blocking(move || {
            let packed = work.path().join("packed");
            pack(&picture, &packed)?;
            files::make_folder(&folder)?;
            let made = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
            let path = folder.join(format!("{stem}-{made}.snapshot"));
            let checksum = digest(&packed)?;
            // Never that of another file that had the name.
            remove_if_there(&digest_path(&path))?;
            fs::rename(&packed, &path)?;
            keep_digest(&path, &checksum);
            files::sync_parent(&path)?;
            describe(&path)
        });
        Ok(packed.await.map_err(|_| VectorsError::Closed)??)
    }

    /// The snapshots of a collection, the oldest first.
    ///
    /// # Errors
    /// When there is no such collection, or the folder cannot be read.
    pub fn snapshots(&self, name: &str) -> Result<Vec<Snapshot>, VectorsError> {
        let folder = self.snapshots_of(name)?;
        let mut all = files_in(&folder)?.iter().map(|path| describe(path)).collect::<io::Result<Vec<_>>>()?;
        all.sort_by(|a, b| (a.made, &a.name).cmp(&(b.made, &b.name)));
        Ok(all)
    }

    /// The file of a snapshot.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn snapshot_path(&self, name: &str, snapshot: &str) -> Result<PathBuf, VectorsError> {
        // A name is that of a file in the folder, never a way out of it.
        let known =
            files_in(&self.snapshots_of(name)?)?.into_iter().find(|path| path.file_name() == Some(snapshot.as_ref()));
        known.ok_or_else(|| VectorsError::NoSnapshot(snapshot.chars().take(255).collect()))
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be removed.
    pub fn delete_snapshot(&self, name: &str, snapshot: &str) -> Result<(), VectorsError> {
        let path = self.snapshot_path(name, snapshot)?;
        remove_if_there(&digest_path(&path))?;
        Ok(fs::remove_file(path)?)
    }

    /// Puts what a snapshot holds in the place of the collection's active space; a collection that
    /// is not there is made. Requests under way end with what they began with. `checksum`, where given, is
    /// what the file's SHA-256 has to be.
    ///
    /// # Errors
    /// When the file is no whole snapshot: then everything is as before.
    pub async fn restore(&self, name: CollectionName, file: &Path, checksum: Option<&str>) -> Result<(), VectorsError> {
        if let Some(wanted) = checksum {
            let (file, wanted) = (file.to_owned(), wanted.to_ascii_lowercase());
            let is = tokio::task::spawn_blocking(move || digest(&file)).await.map_err(|_| VectorsError::Closed)??;
            if is != wanted {
                return Err(VectorsError::Snapshot(format!("its SHA-256 is {is}, and {wanted} was expected")));
            }
        }
        let work = self.workplace()?;
        let (unpacked, file) = (work.path().join("unpacked"), file.to_owned());
        let into = unpacked.clone();
        let checked = tokio::task::spawn_blocking(move || unpack(&file, &into));
        checked.await.map_err(|_| VectorsError::Closed)?.map_err(|error| VectorsError::Snapshot(error.to_string()))?;
        match self.get(name.as_str()) {
            // The folder that it is in goes with the work: nobody may wait for that any more.
            Ok(collection) => {
                let fill = move |folder: &Path| {
                    let _work = work;
                    move_to(&unpacked, folder)
                };
                collection.replace(fill).await
            }
            Err(VectorsError::NoCollection(_)) => {
                let manifest: Manifest = files::read_json(&unpacked.join("manifest.json"))?;
                let fill = move |folder: &Path| {
                    let _work = work;
                    Collection::create(folder, &manifest.config)?;
                    let space = folder.join("spaces").join("0");
                    files::clear(&space)?;
                    move_to(&unpacked, &space)
                };
                self.create_with(name, fill).await.map(drop)
            }
            Err(error) => Err(error),
        }
    }
}

fn move_to(from: &Path, to: &Path) -> Result<(), VectorsError> {
    let parent = to.parent().ok_or(VectorsError::Closed)?;
    files::make_folder(parent)?;
    fs::rename(from, to)?;
    Ok(files::sync_parent(to)?)
}

/// The files of the snapshots in a folder, which is made with the first.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    if folder.exists() {
        for entry in fs::read_dir(folder)? {
            paths.push(entry?.path());
        }
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "snapshot"));
    Ok(paths)
}

/// A picture of a space that does not change meanwhile: files that never change are linked, the one log
/// that may change is copied. It has the logs too, for a point that was changed and is not sealed
/// again is nowhere else.
fn link(still: &Still<'_>, into: &Path) -> io::Result<()> {
    fs::create_dir_all(into.join("segments"))?;
    fs::create_dir_all(into.join("log"))?;
    for serial in &still.manifest.segments {
        let (from, to) = (space::segment_path(still.folder, *serial), space::segment_path(into, *serial));
        fs::create_dir(&to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            if is_segment_file(&entry.file_name().to_string_lossy()) {
                fs::hard_link(entry.path(), to.join(entry.file_name()))?;
            }
        }
    }
    if let Some((last, before)) = still.logs.split_last() {
        for serial in before {
            fs::hard_link(space::log_path(still.folder, *serial), space::log_path(into, *serial))?;
        }
        let from = File::open(space::log_path(still.folder, *last))?;
        io::copy(&mut from.take(still.confirmed), &mut File::create(space::log_path(into, *last))?)?;
    }
    files::write_json(&into.join("manifest.json"), still.manifest)
}

fn pack(picture: &Path, packed: &Path) -> io::Result<()> {
    let file = File::create(packed)?;
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(1 << 20, &file));
    archive.mode(tar::HeaderMode::Deterministic);
    archive.append_dir_all(".", picture)?;
    archive.into_inner()?.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()
}

/// Unpacks an archive and checks all of it.
fn unpack(file: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(1 << 20, File::open(file)?));
    for (count, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if count > FILES_MAX {
            return Err(files::malformed(format!("it has more than {FILES_MAX} files")));
        }
        let parts = known_path(&path).ok_or_else(|| files::malformed("it holds a file that no snapshot has"))?;
        let target = into.join(parts.iter().collect::<PathBuf>());
        match entry.header().entry_type() {
            tar::EntryType::Directory => fs::create_dir_all(&target)?,
            tar::EntryType::Regular => {
                fs::create_dir_all(target.parent().unwrap_or(into))?;
                // Never onto a file that is there: an archive may name one twice.
                let mut made = File::create_new(&target)?;
                io::copy(&mut entry, &mut made)?;
                made.sync_all()?;
            }
            _ => return Err(files::malformed("it holds a link or a device")),
        }
    }
    files::sync_folders(into)?;
    check(into)
}

/// The parts of a path in an archive, if it is one that a snapshot has.
fn known_path(path: &Path) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str()?.to_owned()),
            _ => return None,
        }
    }
    let number = |text: &String| text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty();
    let known = match parts.as_slice() {
        [] => true,
        [one] => ["manifest.json", "log", "segments"].contains(&one.as_str()),
        [folder, serial] => (folder == "log" || folder == "segments") && number(serial),
        [folder, serial, file] => folder == "segments" && number(serial) && is_segment_file(file),
        _ => false,
    };
    known.then_some(parts)
}

/// Whether a segment may have a file of that name.
fn is_segment_file(name: &str) -> bool {
    let numbered = |prefix: &str| {
        let number = name.strip_prefix(prefix);
        number
            .is_some_and(|number| !number.is_empty() && number.len() < 6 && number.bytes().all(|b| b.is_ascii_digit()))
    };
    ["ids", "payloads", "ends", "gone", "segment.json"].contains(&name)
        || ["vectors-", "present-", "graph-", "ivf-"].into_iter().any(numbered)
}

/// Reads everything once.
fn check(folder: &Path) -> io::Result<()> {
    let manifest: Manifest = files::read_json(&folder.join("manifest.json"))?;
    manifest.config.check().map_err(|error| files::malformed(error.to_string()))?;
    if manifest.next > SERIAL_MAX || manifest.oldest_log >= manifest.next {
        return Err(files::malformed("its segments have impossible numbers"));
    }
    for serial in &manifest.segments {
        let once = manifest.segments.iter().filter(|other| *other == serial).count() == 1;
        if *serial >= manifest.next || !once {
            return Err(files::malformed("its segments have impossible numbers"));
        }
        Segment::verify(&space::segment_path(folder, *serial), is_segment_file)?;
        Segment::open(folder, *serial, &manifest.config)?;
    }
    check_logs(folder, &manifest)
}

/// Reads what its logs say: it is applied when the space is opened, and then has to fit.
fn check_logs(folder: &Path, manifest: &Manifest) -> io::Result<()> {
    for serial in space::logs_of(folder, manifest)? {
        let fits = |frame: Frame<'_>| {
            let changes = record::read(frame.record).filter(|_| frame.sequence < SEQUENCE_MAX);
            changes.is_some_and(|changes| changes.iter().all(|change| fits(&manifest.config, change)))
        };
        Log::open(&space::log_path(folder, serial), End::Whole, fits)
            .map_err(|_| files::malformed("its log is broken, or holds points that do not fit its configuration"))?;
    }
    Ok(())
}

/// Whether a change can be applied. A vector that the collection has no longer is passed over then.
fn fits(config: &CollectionConfig, change: &Change) -> bool {
    let Change::Put(point) = change else { return true };
    let mut known = point.vectors.iter().filter(|(name, _)| config.vectors.contains_key(*name));
    known.all(|(name, vector)| config.check_one(name, vector).is_ok())
}

fn describe(path: &Path) -> io::Result<Snapshot> {
    let metadata = fs::metadata(path)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let checksum = match kept_digest(path) {
        Some(checksum) => checksum,
        None => {
            let checksum = digest(path)?;
            keep_digest(path, &checksum);
            checksum
        }
    };
    Ok(Snapshot { name, made: metadata.modified()?, bytes: metadata.len(), checksum })
}

/// Where the SHA-256 of a snapshot is kept: to read gigabytes for every list would take minutes.
fn digest_path(snapshot: &Path) -> PathBuf {
    snapshot.with_added_extension("sha256")
}

/// The SHA-256 that was kept, if one was that can be one.
fn kept_digest(snapshot: &Path) -> Option<String> {
    let kept = fs::read_to_string(digest_path(snapshot)).ok()?;
    (kept.len() == 64 && kept.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then_some(kept)
}

/// Keeps it, if that can be done: else it is computed again.
fn keep_digest(snapshot: &Path, checksum: &str) {
    let kept = files::write_whole(&digest_path(snapshot), |file| file.write_all(checksum.as_bytes()));
    if let Err(error) = kept {
        tracing::warn!(%error, "the checksum of a snapshot could not be kept and is computed for every list");
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use halny_payload::PointId;
    use serde_json::{Value, json};

    use super::super::Space;
    use super::*;
    use crate::{Distance, Named, Point, Segmenting, Tier, VectorConfig, Write as Change};

    /// A snapshot of a collection with a segment and a log, unpacked.
    async fn unpacked(root: &Path) -> (Store, Snapshot, PathBuf) {
        let store = Store::open(root, 1).unwrap();
        let vector = VectorConfig { dimensions: 2, distance: Distance::Dot, tier: Tier::default(), ef: None };
        let config = CollectionConfig {
            vectors: BTreeMap::from([("a".to_owned(), vector)]),
            segmenting: Segmenting { open_points: 2, ..Segmenting::default() },
            ..CollectionConfig::default()
        };
        store.create(CollectionName::new("c").unwrap(), &config).await.unwrap();
        let space = store.get("c").unwrap().active();
        put(&space, 0..2).await;
        while files::numbers_in(&space.shared.folder.join("log")).unwrap() != [1] {
            std::thread::yield_now();
        }
        put(&space, 2..3).await;
        let made = store.make_snapshot("c").await.unwrap();
        let folder = root.join("unpacked");
        unpack(&store.snapshot_path("c", &made.name).unwrap(), &folder).unwrap();
        (store, made, folder)
    }

    async fn put(space: &Space, ids: std::ops::Range<u64>) {
        let point = |id| Point {
            id: PointId::Number(id),
            vectors: Named::from([("a".to_owned(), vec![1.0, 2.0])]),
            payload: Default::default(),
        };
        space.write(vec![Change::Upsert(ids.map(point).collect())], true).await.unwrap();
    }

    fn run(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    }

    fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
        let mut value: Value = files::read_json(path).unwrap();
        change(&mut value);
        files::write_json(path, &value).unwrap();
    }

    /// What is said when the folder comes back as a snapshot.
    async fn refusal(store: &Store, folder: &Path) -> String {
        let file = folder.with_extension("made");
        pack(folder, &file).unwrap();
        let refused = store.restore(CollectionName::new("d").unwrap(), &file, None).await;
        assert!(matches!(refused, Err(VectorsError::Snapshot(_))), "{refused:?}");
        refused.unwrap_err().to_string()
    }

    #[test]
    fn a_snapshot_that_names_files_elsewhere_is_refused_before_they_are_looked_at() {
        run(async {
            let root = tempfile::tempdir().unwrap();
            let (store, _, folder) = unpacked(root.path()).await;
            let card = folder.join("segments/0/segment.json");
            let mut said = Vec::new();
            for name in [root.path().join("catalog.json").display().to_string(), "../../nothing".to_owned()] {
                edit(&card, |card| card["checksums"] = json!({ name: 0 }));
                said.push(refusal(&store, &folder).await);
            }
            // The same of a file that is there and of one that is not.
            assert!(said.iter().all(|text| text.contains("no segment has") && *text == said[0]), "{said:?}");
            store.close();
        });
    }

    #[test]
    fn a_snapshot_with_impossible_numbers_is_refused() {
        run(async {
            let root = tempfile::tempdir().unwrap();
            let (store, made, folder) = unpacked(root.path()).await;
            let manifest = folder.join("manifest.json");
            edit(&manifest, |manifest| manifest["config"]["segmenting"]["open_points"] = json!(0));
            assert!(refusal(&store, &folder).await.contains("open_points"));
            edit(&manifest, |manifest| {
                manifest["config"]["segmenting"]["open_points"] = json!(2);
                manifest["config"]["vectors"]["a"]["dimensions"] = json!(3);
                manifest["segments"] = json!([]);
            });
            assert!(refusal(&store, &folder).await.contains("do not fit"), "a log with vectors of another size");
            let path = store.snapshot_path("c", &made.name).unwrap();
            store.restore(CollectionName::new("d").unwrap(), &path, None).await.unwrap();
            assert_eq!(store.get("d").unwrap().active().count(None), 3);
            store.close();
        });
    }
}
