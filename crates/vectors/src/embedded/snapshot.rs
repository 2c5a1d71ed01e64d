//! Snapshots: a space as one file, and back.
//!
//! A snapshot is a tar archive of what a space's folder would hold if it had just been sealed:
//! `manifest.json`, an empty log, and the segments, their indexes included. It is a file of a
//! stranger when it comes back: only files of known names and plain kinds are taken, what a segment
//! holds is checked against its checksums, and nothing replaces the collection before all is read.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use halny_types::CollectionName;
use sha2::{Digest, Sha256};

use super::collection::Collection;
use super::log::Log;
use super::segment::Segment;
use super::space::Manifest;
use super::store::Store;
use super::{files, space};
use crate::VectorsError;

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
        space.frozen(Box::new(move |folder| link(folder, &into))).await?;
        let stem = CollectionName::new(name).map_err(|error| VectorsError::Name(error.to_string()))?;
        let packed = tokio::task::spawn_blocking(move || {
            let packed = work.path().join("packed");
            pack(&picture, &packed)?;
            fs::create_dir_all(&folder)?;
            let made = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
            let path = folder.join(format!("{stem}-{made}.snapshot"));
            fs::rename(&packed, &path)?;
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
        Ok(fs::remove_file(self.snapshot_path(name, snapshot)?)?)
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
            Ok(collection) => collection.replace(|folder| move_to(&unpacked, folder)).await,
            Err(VectorsError::NoCollection(_)) => {
                let manifest: Manifest = files::read_json(&unpacked.join("manifest.json"))?;
                let fill = |folder: &Path| {
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
    fs::create_dir_all(parent)?;
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

/// A picture of the space in `folder`, which does not change meanwhile: files that never change
/// are linked, what may change is copied.
fn link(folder: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir_all(into.join("segments"))?;
    fs::create_dir_all(into.join("log"))?;
    let manifest: Manifest = files::read_json(&folder.join("manifest.json"))?;
    for serial in &manifest.segments {
        let (from, to) = (space::segment_path(folder, *serial), space::segment_path(into, *serial));
        fs::create_dir(&to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            if is_segment_file(&entry.file_name().to_string_lossy()) {
                fs::hard_link(entry.path(), to.join(entry.file_name()))?;
            }
        }
    }
    // All is in segments: the log of what comes next is empty.
    let (oldest_log, next) = (manifest.next, manifest.next + 1);
    Log::create(&space::log_path(into, oldest_log))?;
    files::write_json(&into.join("manifest.json"), &Manifest { oldest_log, next, ..manifest })
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
        Segment::verify(&space::segment_path(folder, *serial))?;
        Segment::open(folder, *serial, &manifest.config)?;
    }
    let log = Log::open(&space::log_path(folder, manifest.oldest_log), |_| false);
    log.map(drop).map_err(|_| files::malformed("its log is not empty"))
}

fn describe(path: &Path) -> io::Result<Snapshot> {
    let metadata = fs::metadata(path)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Snapshot { name, made: metadata.modified()?, bytes: metadata.len(), checksum: digest(path)? })
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
