//! How long starting took, now and the first time: shows what the caches are worth.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// The record of a project's first start on this host.
pub(crate) struct Starts {
    file: PathBuf,
}

impl Starts {
    /// The record of the project at `path`, kept in the cache folder.
    pub(crate) fn of(cache: &Path, path: &Path) -> Starts {
        // A name for the path, not a secret: FNV-1a, 64 bits.
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, mix);
        Starts { file: cache.join("starts").join(format!("{hash:016x}.json")) }
    }

    /// How long the first start took, if there was one before this.
    pub(crate) fn first(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        let record: Value = serde_json::from_str(&text).ok()?;
        record.get("first_start_ms")?.as_u64().map(Duration::from_millis)
    }

    /// Remembers the first start. Failing to is no reason not to serve.
    pub(crate) fn remember(&self, took: Duration) {
        let record = json!({ "first_start_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX) });
        let written = self
            .file
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&self.file, record.to_string()));
        if let Err(error) = written {
            tracing::debug!(%error, "the time of this start is not remembered");
        }
    }
}
