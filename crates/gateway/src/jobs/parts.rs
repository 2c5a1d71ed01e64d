//! What a job writes while it runs: parts that are there for good once a checkpoint names them, and the file that they
//! make at the end.

use bytes::Bytes;
use futures::TryStreamExt;
use halny_jobs::{JobsError, Run};
use halny_store::files::{File, blob_of, insert};
use halny_store::{Files, StoreError};

/// Bytes of an output that are held before they are written.
pub(super) const PART_BYTES: usize = 8 * 1024 * 1024;
/// A part that is smaller is written again with what follows it, so that a slow job does not make parts without end.
const SMALL_BYTES: usize = 1024 * 1024;

/// One output of a job, as far as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Output {
    /// The blobs that hold it, in order.
    pub(super) parts: Vec<String>,
    /// Parts that were written, also those that others took the place of.
    written: u64,
    /// What came since, not in a part yet.
    #[serde(skip)]
    pub(super) waiting: Vec<u8>,
    /// What the last part holds, while that is little.
    #[serde(skip)]
    tail: Vec<u8>,
    /// Parts that others took the place of. The last checkpoint may name them.
    #[serde(skip)]
    replaced: Vec<String>,
}

impl Output {
    /// Adds a line.
    pub(super) fn line(&mut self, text: &[u8]) {
        self.waiting.extend_from_slice(text);
        self.waiting.push(b'\n');
    }

    /// Writes what waits as the next part, or as one in place of the last. It counts when a checkpoint that names it does.
    pub(super) async fn flush(&mut self, run: &Run, name: &str) -> Result<(), JobsError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        // The epoch makes it one that no other worker writes.
        let part = format!("{}/parts/{name}-{:06}-{:08}", run.folder(), run.job().epoch, self.written);
        let is_more = !self.tail.is_empty();
        let mut bytes = std::mem::take(&mut self.tail);
        bytes.append(&mut self.waiting);
        self.written += 1;
        run.jobs().blobs().put(&part, Bytes::from(bytes.clone())).await?;
        if is_more {
            self.replaced.extend(self.parts.pop());
        }
        self.parts.push(part);
        if bytes.len() < SMALL_BYTES {
            self.tail = bytes;
        }
        Ok(())
    }

    /// Deletes what no checkpoint names any more: after the last one was left.
    pub(super) async fn discard(&mut self, run: &Run) {
        for part in std::mem::take(&mut self.replaced) {
            if let Err(error) = run.jobs().blobs().delete(&part).await {
                tracing::warn!(%error, part, "a part of a job's output stays until the job is forgotten");
            }
        }
    }

    /// Makes a file of all parts, under a name that was fixed before: made again, it is the same. Nothing where there is
    /// nothing in it.
    pub(super) async fn joined(&self, run: &Run, files: &Files, id: &str) -> Result<Option<u64>, StoreError> {
        if self.parts.is_empty() {
            return Ok(None);
        }
        let mut writer = files.writer(id).await?;
        for part in &self.parts {
            let mut bytes = run.jobs().blobs().stream(part, 0).await?;
            while let Some(piece) = bytes.try_next().await? {
                writer.write(&piece).await?;
            }
        }
        writer.finish().await.map(Some)
    }
}

/// A file that a job made, to be described.
pub(super) struct Made<'a> {
    pub(super) id: &'a str,
    pub(super) name: String,
    pub(super) purpose: &'a str,
    pub(super) bytes: u64,
    pub(super) expires_after_s: Option<i64>,
}

/// Describes the files that a job made, once.
pub(super) async fn describe(run: &Run, files: &Files, made: &[Made<'_>]) -> Result<(), JobsError> {
    let now = files.now_ms().await?;
    let rows: Vec<File> = made
        .iter()
        .map(|made| File {
            id: made.id.to_owned(),
            tenant: run.job().tenant.clone(),
            name: made.name.clone(),
            purpose: made.purpose.to_owned(),
            bytes: made.bytes,
            blob: blob_of(made.id),
            created_ms: now,
            expires_ms: made.expires_after_s.map(|seconds| now.saturating_add(seconds.saturating_mul(1_000))),
        })
        .collect();
    run.effect("files", |write| {
        let rows = rows.clone();
        Box::pin(async move {
            for row in &rows {
                insert(write, row).await?;
            }
            Ok(())
        })
    })
    .await?;
    Ok(())
}
