//! A language model's file in the formats that its device computes fast, for as long as it is loaded.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use halny_registry::gguf::{self, GgufSummary};
use halny_types::Tick;

use crate::load::Phases;

/// Larger models stay as they are: writing them at every start would take longer than it saves, and
/// those of that size whose rows are no multiple of 256 are rare.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// A model's widened file, made when a profile first asks for it. It lies in the cache folder without a
/// name: its pages are mapped by the engine, and gone with the last who maps them. It is not kept
/// from one start to the next: making it takes about as long as checking a copy would.
pub(crate) struct Widened<'a> {
    source: &'a Path,
    folder: PathBuf,
    worth_it: bool,
    made: Option<File>,
}

impl<'a> Widened<'a> {
    pub(crate) fn new(source: &'a Path, summary: &GgufSummary, cache: &Path) -> Widened<'a> {
        let bytes = summary.data_bytes.saturating_add(summary.widening_bytes);
        let worth_it = summary.widening_bytes > 0 && bytes <= FILE_BYTES_MAX;
        Widened { source, folder: cache.join("widened"), worth_it, made: None }
    }

    /// Where to load from. The model's own file where widening it is not worth it, or does not work:
    /// that is slower, and no reason not to serve.
    pub(crate) fn path(&mut self, phases: &mut Phases) -> PathBuf {
        if self.worth_it && self.made.is_none() {
            let began = Tick::now();
            match self.make() {
                Ok(file) => self.made = Some(file),
                Err(reason) => {
                    tracing::warn!(reason, "weights are not repacked, prompts are read more slowly");
                    self.worth_it = false;
                }
            }
            phases.add("repacking", began, false);
        }
        match &self.made {
            Some(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
            None => self.source.to_path_buf(),
        }
    }

    fn make(&self) -> Result<File, String> {
        let failed = |error: std::io::Error| format!("no file can be made in {}: {error}", self.folder.display());
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let file = tempfile::tempfile_in(&self.folder).map_err(failed)?;
        let name = self.source.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        gguf::widen(self.source, &name, &file).map_err(|error| error.to_string())?;
        Ok(file)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use halny_registry::testsuite::gguf::Builder;

    use super::*;

    const Q5_0: u32 = 6;

    fn written(builder: &Builder, folder: &Path) -> (PathBuf, GgufSummary) {
        let path = folder.join("model.gguf");
        fs::write(&path, builder.build()).unwrap();
        let summary = gguf::check_file(&path, "model.gguf").unwrap();
        (path, summary)
    }

    #[test]
    fn a_file_with_5_bit_weights_is_widened_once_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (path, summary) = written(&Builder::model().tensor("token_embd.weight", &[32, 260], Q5_0), folder.path());
        let mut widened = Widened::new(&path, &summary, folder.path());
        let mut phases = Phases::default();
        let first = widened.path(&mut phases);
        assert_eq!(gguf::check_file(&first, "widened").unwrap().widening_bytes, 0);
        assert_eq!((widened.path(&mut phases), phases.0.len()), (first, 1));
        assert_eq!(fs::read_dir(folder.path().join("widened")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_need_not_or_cannot_be_widened_is_loaded_itself() {
        let folder = tempfile::tempdir().unwrap();
        let mut phases = Phases::default();
        let (path, summary) = written(&Builder::model(), folder.path());
        assert_eq!(Widened::new(&path, &summary, folder.path()).path(&mut phases), path);
        assert!(phases.0.is_empty());
        let (path, summary) = written(&Builder::model().tensor("token_embd.weight", &[32, 260], Q5_0), folder.path());
        let no_folder = path.join("below a file");
        assert_eq!(Widened::new(&path, &summary, &no_folder).path(&mut phases), path);
        let large = GgufSummary { data_bytes: FILE_BYTES_MAX, ..summary };
        assert_eq!(Widened::new(&path, &large, folder.path()).path(&mut phases), path);
    }
}
