//! Every check of a model's files, in the order in which they must pass before an engine sees one.

use std::{fs::File, io::Read, path::Path};

use crate::{RegistryError, filter::Selection, gguf, json, names, onnx, refused, safetensors, version::GgufWeights};

/// How much a model may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest single file, in bytes.
    pub max_file_bytes: u64,
    /// All files together, in bytes.
    pub max_total_bytes: u64,
    /// The most files that make up a model, and the most that a folder of it may hold.
    pub max_files: usize,
}

impl Default for Limits {
    /// 64 GiB a file (the largest that the hub stores has 50 GB), 1 TiB in all, 10,000 files.
    fn default() -> Self {
        Self { max_file_bytes: 64 << 30, max_total_bytes: 1 << 40, max_files: 10_000 }
    }
}

impl Limits {
    pub(crate) fn check_file(&self, name: &str, bytes: u64) -> Result<(), RegistryError> {
        if bytes <= self.max_file_bytes {
            return Ok(());
        }
        let limit_bytes = self.max_file_bytes;
        Err(RegistryError::TooLarge { file: names::shown(name), bytes, limit_bytes })
    }
}

/// What the checks found out.
pub(crate) struct Checked {
    /// The names of the selected files, and of the external data files that they name.
    pub(crate) names: Vec<String>,
    pub(crate) gguf: Option<GgufWeights>,
}

/// Checks the selected files below `root` (a canonical path) and the external data files that they
/// name.
pub(crate) fn check_model(root: &Path, selection: &Selection, limits: &Limits) -> Result<Checked, RegistryError> {
    let mut all: Vec<String> = selection.names().map(str::to_owned).collect();
    for name in &all {
        check_format(root, name, "the model", limits)?;
    }
    for name in &selection.safetensors {
        let path = names::contained(root, name, "the model")?;
        safetensors::check_file(&path, name)?;
    }
    let gguf = match &selection.gguf {
        Some(name) => {
            let summary = gguf::check_file(&names::contained(root, name, "the model")?, name)?;
            Some(GgufWeights { name: name.clone(), summary })
        }
        None => None,
    };
    for name in &selection.companions {
        json::check_file(&names::contained(root, name, "the model")?, name)?;
    }
    for name in &selection.onnx {
        for location in onnx::check_file(root, name)?.external.into_keys() {
            let external = names::sibling(name, &location);
            if !all.contains(&external) {
                check_format(root, &external, name, limits)?;
                all.push(external);
            }
        }
    }
    if all.len() > limits.max_files {
        let what = "the model".to_owned();
        return Err(RegistryError::TooManyFiles { what, limit: limits.max_files });
    }
    names::check_case(all.iter().map(String::as_str), [])?;
    check_total(root, &all, limits)?;
    Ok(Checked { names: all, gguf })
}

/// Inside the folder, not too large, and neither named nor begun like a refused format.
fn check_format(root: &Path, name: &str, named_in: &str, limits: &Limits) -> Result<(), RegistryError> {
    refused::check_name(name)?;
    let path = names::contained(root, name, named_in)?;
    let failed = |error| RegistryError::io("read", &names::shown(name), error);
    let file = File::open(&path).map_err(failed)?;
    limits.check_file(name, file.metadata().map_err(failed)?.len())?;
    let mut head = Vec::with_capacity(refused::HEAD_BYTES);
    file.take(refused::HEAD_BYTES as u64).read_to_end(&mut head).map_err(failed)?;
    refused::check(name, &head)
}

fn check_total(root: &Path, all: &[String], limits: &Limits) -> Result<(), RegistryError> {
    let mut bytes = 0_u64;
    for name in all {
        let path = names::contained(root, name, "the model")?;
        let metadata = path.metadata().map_err(|e| RegistryError::io("look at", name, e))?;
        bytes = bytes.saturating_add(metadata.len());
    }
    if bytes > limits.max_total_bytes {
        let file = "the model as a whole".to_owned();
        return Err(RegistryError::TooLarge { file, bytes, limit_bytes: limits.max_total_bytes });
    }
    Ok(())
}
