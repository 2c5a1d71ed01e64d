//! What a program leaves in its folder: kept as blobs of the job's, and put back when the job is run again.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::unusable;
use crate::{Failure, JobsError, Run};

/// The most that a checkpoint may hold.
const CHECKPOINT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The most files of a checkpoint.
const CHECKPOINT_FILES_MAX: usize = 5_000;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    files: Vec<Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    name: String,
    blob: String,
}

/// The folder of a program, and the blobs that the last checkpoint of it names.
pub(super) struct Checkpoints<'a> {
    run: &'a Run,
    place: &'a Path,
    blobs: BTreeSet<String>,
}

impl<'a> Checkpoints<'a> {
    /// Puts back into the folder what the last checkpoint kept.
    pub(super) async fn restored(run: &'a Run, place: &'a Path) -> Result<Checkpoints<'a>, Failure> {
        let mut blobs = BTreeSet::new();
        let Some(manifest) = run.resumed() else { return Ok(Checkpoints { run, place, blobs }) };
        let manifest: Manifest = serde_json::from_value(manifest.clone())
            .map_err(|error| JobsError::Unreadable(format!("its checkpoint cannot be read: {error}")))?;
        for file in manifest.files {
            let bytes = run.jobs().blobs().get(&file.blob).await?;
            // The manifest is a blob, and a place of blobs may be written to by others.
            if !Path::new(&file.name).components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(Failure::Fatal("its checkpoint names a file outside of its folder".to_owned()));
            }
            let path = place.join(&file.name);
            if let Some(folder) = path.parent() {
                tokio::fs::create_dir_all(folder).await.map_err(|error| unusable(&error))?;
            }
            tokio::fs::write(&path, &bytes).await.map_err(|error| unusable(&error))?;
            blobs.insert(file.blob);
        }
        Ok(Checkpoints { run, place, blobs })
    }

    /// Keeps what is in the folder: each file a blob of the job's, and a checkpoint that names them.
    pub(super) async fn keep(&mut self) -> Result<(), Failure> {
        let mut files = Vec::new();
        let mut bytes = 0;
        let found = files_below(self.place).await.map_err(|error| unusable(&error))?;
        if found.len() > CHECKPOINT_FILES_MAX {
            return Err(Failure::Fatal(format!("the checkpoint has more than {CHECKPOINT_FILES_MAX} files")));
        }
        for path in found {
            // Gone or renamed since it was listed: it is not part of what was finished.
            let Ok(known) = tokio::fs::metadata(&path).await else { continue };
            bytes += known.len();
            if bytes > CHECKPOINT_BYTES_MAX {
                return Err(Failure::Fatal(format!("the checkpoint has more than {CHECKPOINT_BYTES_MAX} bytes")));
            }
            let content = match tokio::fs::read(&path).await {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                content => content.map_err(|error| unusable(&error))?,
            };
            // By its digest: a file that did not change is written once. The epoch makes it one that no other worker
            // writes, so that what this one deletes is not another's.
            let digest = Sha256::digest(&content);
            let blob = format!("{}/files/{:06}-{digest:x}", self.run.folder(), self.run.job().epoch);
            if !self.blobs.contains(&blob) {
                // Not waited for without end: there may be no room for it.
                let put = self.run.jobs().blobs().put(&blob, content.into()).await;
                put.map_err(|error| Failure::Retry(error.to_string()))?;
            }
            let name = path.strip_prefix(self.place).unwrap_or(&path).to_string_lossy().into_owned();
            files.push(Kept { name, blob });
        }
        if files.is_empty() {
            return Ok(());
        }
        let blobs: BTreeSet<String> = files.iter().map(|file| file.blob.clone()).collect();
        let manifest = serde_json::to_value(Manifest { files });
        let manifest = manifest.map_err(|error| JobsError::Unreadable(error.to_string()))?;
        self.run.checkpoint(&manifest).await?;
        for blob in std::mem::replace(&mut self.blobs, blobs).difference(&self.blobs) {
            if let Err(error) = self.run.jobs().blobs().delete(blob).await {
                tracing::warn!(%error, blob, "a file of an older checkpoint stays until its job is forgotten");
            }
        }
        Ok(())
    }
}

async fn files_below(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        let mut entries = tokio::fs::read_dir(&folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            let kind = entry.file_type().await?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && files.len() <= CHECKPOINT_FILES_MAX {
                // Links lead elsewhere: what is there is not the program's to keep.
                files.push(entry.path());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}
