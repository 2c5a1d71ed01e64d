//! What warming up showed, kept between starts: a second start knows batch time from the first.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The record of one model version on one device, run by so many threads.
pub(crate) struct WarmUps {
    file: PathBuf,
}

impl WarmUps {
    /// The record for `what`, which names version, precision, device, threads and engine.
    pub(crate) fn of(cache: &Path, what: &str) -> WarmUps {
        let name: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        WarmUps { file: cache.join("warm-ups").join(format!("{name}.txt")) }
    }

    /// Tokens and time of each batch of the first warm-up; empty when there is no sound record.
    pub(crate) fn recall(&self) -> Vec<(usize, Duration)> {
        let Ok(text) = std::fs::read_to_string(&self.file) else { return Vec::new() };
        let line = |line: &str| {
            let (tokens, nanos) = line.split_once(' ')?;
            Some((tokens.parse().ok()?, Duration::from_nanos(nanos.parse().ok()?)))
        };
        text.lines().map(line).collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// Keeps them. Failing to is no reason not to serve.
    pub(crate) fn remember(&self, seen: &[(usize, Duration)]) {
        let text: String = seen.iter().map(|(tokens, took)| format!("{tokens} {}\n", took.as_nanos())).collect();
        let written = self.file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            let part = self.file.with_extension("part");
            std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &self.file))
        });
        if let Err(error) = written {
            tracing::debug!(%error, "what warming up showed is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_remembered_is_recalled_and_a_damaged_record_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let record = WarmUps::of(folder.path(), "v/fp32/cpu/1/fake 1");
        assert!(record.recall().is_empty());
        let seen = [(8, Duration::from_micros(7)), (512, Duration::from_millis(3))];
        record.remember(&seen);
        assert_eq!(record.recall(), seen);
        std::fs::write(&record.file, "8 7000\n512 ").unwrap();
        assert!(record.recall().is_empty());
    }
}
