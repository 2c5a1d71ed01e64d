//! Which of a source's files make up a model.

use std::collections::BTreeSet;

use halny_types::project::Precision;

use crate::{RegistryError, names, refused};

/// Where ONNX weights of a precision are looked for, first match first: Halny's own name, then those
/// that exporters and the hub's `onnx/` folders use.
pub(crate) fn onnx_names(precision: Precision) -> &'static [&'static str] {
    match precision {
        Precision::Fp32 => &["model.fp32.onnx", "onnx/model.fp32.onnx", "model.onnx", "onnx/model.onnx"],
        Precision::Fp16 => &["model.fp16.onnx", "onnx/model.fp16.onnx", "model_fp16.onnx", "onnx/model_fp16.onnx"],
        Precision::Int8 => &[
            "model.int8.onnx",
            "onnx/model.int8.onnx",
            "model_int8.onnx",
            "onnx/model_int8.onnx",
            "model_quantized.onnx",
            "onnx/model_quantized.onnx",
        ],
    }
}

/// Files taken wherever they exist: what a tokenizer, pooling or image step is configured by.
pub const COMPANIONS: [&str; 8] = [
    "1_Pooling/config.json",
    "config.json",
    "halny-model.json",
    "preprocessor_config.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The folders, besides the root, in which wanted files can lie.
pub(crate) const FOLDERS: [&str; 3] = ["", "1_Pooling", "onnx"];

const SAFETENSORS: &str = "model.safetensors";
const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";

/// Which files are wanted: weights, and the [`COMPANIONS`] that exist.
///
/// External data files are not named here: the ONNX files name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFilter {
    precisions: BTreeSet<Precision>,
    weights_file: Option<String>,
    safetensors: bool,
}

impl FileFilter {
    /// ONNX weights in each of `precisions`, all of which must be there.
    #[must_use]
    pub fn onnx(precisions: impl IntoIterator<Item = Precision>) -> Self {
        Self { precisions: precisions.into_iter().collect(), weights_file: None, safetensors: false }
    }

    /// One ONNX file with a name of its own, for example `open-nsfw.onnx`.
    #[must_use]
    pub fn onnx_file(name: impl Into<String>) -> Self {
        Self { weights_file: Some(name.into()), ..Self::onnx([]) }
    }

    /// `model.safetensors`, or its pieces and their index.
    #[must_use]
    pub fn safetensors() -> Self {
        Self { safetensors: true, ..Self::onnx([]) }
    }

    /// The name of the weights for `precision` among the files for which `has` says yes. A file
    /// asked for by its own name serves whatever the precision.
    #[must_use]
    pub fn weights_name(&self, precision: Precision, has: impl Fn(&str) -> bool) -> Option<&str> {
        match &self.weights_file {
            Some(name) => has(name).then_some(name.as_str()),
            None => onnx_names(precision).iter().copied().find(|name| has(name)),
        }
    }

    /// The folder of the file asked for by its own name, where it has one.
    pub(crate) fn own_folder(&self) -> Option<&str> {
        let (folder, _) = self.weights_file.as_deref()?.rsplit_once('/')?;
        Some(folder)
    }

    /// The names wanted among `names`, weights first. Refuses names that collide, and weights
    /// that are missing or of a refused format.
    pub(crate) fn select(&self, names: &BTreeSet<String>) -> Result<Selection, RegistryError> {
        let has = |name: &str| names.contains(name);
        let mut onnx = Vec::new();
        if let Some(name) = &self.weights_file {
            names::check_relative(name)?;
            refused::check_name(name)?;
            if !has(name) {
                return Err(no_weights(name.clone(), name.clone(), names));
            }
            onnx.push(name.clone());
        }
        for precision in &self.precisions {
            let looked_for = onnx_names(*precision);
            let Some(name) = looked_for.iter().find(|name| has(name)) else {
                return Err(no_weights(precision.as_str().to_owned(), looked_for.join(", "), names));
            };
            if !onnx.iter().any(|chosen| chosen == name) {
                onnx.push((*name).to_owned());
            }
        }
        let mut safetensors = Vec::new();
        let mut companions: Vec<String> =
            COMPANIONS.iter().filter(|name| has(name)).map(|name| (*name).to_owned()).collect();
        if self.safetensors {
            if has(SAFETENSORS) {
                safetensors.push(SAFETENSORS.to_owned());
            } else {
                safetensors.extend(names.iter().filter(|name| is_piece(name)).cloned());
                if has(SAFETENSORS_INDEX) {
                    companions.push(SAFETENSORS_INDEX.to_owned());
                }
            }
            check_pieces(&safetensors, names)?;
        }
        let selection = Selection { onnx, safetensors, companions };
        names::check_case(selection.names(), names.iter().map(String::as_str))?;
        Ok(selection)
    }
}

/// `model-00001-of-00003.safetensors` gives (1, 3).
fn piece_numbers(name: &str) -> Option<(u32, u32)> {
    let (number, count) = name.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-")?;
    let digits =
        |text: &str| (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?;
    Some((digits(number)?, digits(count)?))
}

fn is_piece(name: &str) -> bool {
    piece_numbers(name).is_some()
}

/// All pieces of one set, from 1 to its count.
fn check_pieces(names: &[String], all: &BTreeSet<String>) -> Result<(), RegistryError> {
    let wanted = "safetensors".to_owned();
    let looked_for = format!("{SAFETENSORS}, model-00001-of-....safetensors");
    let Some(first) = names.first() else {
        return Err(no_weights(wanted, looked_for, all));
    };
    if first == SAFETENSORS {
        return Ok(());
    }
    let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let complete = (1..=count).zip(names).all(|(n, name)| piece_numbers(name) == Some((n, count)));
    if complete {
        return Ok(());
    }
    let hint = format!("{count} pieces are there, not a full set; add the missing ones");
    Err(RegistryError::NoWeights { wanted, looked_for, hint })
}

fn no_weights(wanted: String, looked_for: String, names: &BTreeSet<String>) -> RegistryError {
    let onnx: Vec<String> =
        names.iter().filter(|name| name.ends_with(".onnx")).take(5).map(|name| names::shown(name)).collect();
    let hint = if !onnx.is_empty() {
        format!("it has {}: ask for one of them by name or precision", onnx.join(", "))
    } else if names.iter().any(|name| name.ends_with(".safetensors")) {
        "it has safetensors only: export them to ONNX first".to_owned()
    } else if let Some(name) = names.iter().find(|n| refused::refused_by_name(n).is_some()) {
        format!("it has {}, whose format is refused: export the model to ONNX", names::shown(name))
    } else {
        "it has no weights of any known kind: check the source's name".to_owned()
    };
    RegistryError::NoWeights { wanted, looked_for, hint }
}

/// The names chosen by a [`FileFilter`], apart from external data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) onnx: Vec<String>,
    pub(crate) safetensors: Vec<String>,
    pub(crate) companions: Vec<String>,
}

impl Selection {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.onnx.iter().chain(&self.safetensors).chain(&self.companions).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_layout_of_each_precision_is_found() {
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
            for name in onnx_names(precision) {
                let all = names(&[name, "config.json", "README.md", "pytorch_model.bin"]);
                let chosen = FileFilter::onnx([precision]).select(&all).unwrap();
                assert_eq!(chosen.names().collect::<Vec<_>>(), [name, "config.json"]);
            }
        }
    }

    #[test]
    fn a_missing_precision_says_what_is_there_instead() {
        let ask = |list: &[&str]| FileFilter::onnx([Precision::Fp16]).select(&names(list)).unwrap_err().to_string();
        assert!(ask(&["model.onnx"]).contains("it has model.onnx"));
        assert!(ask(&["model.safetensors"]).contains("safetensors only"));
        assert!(ask(&["pytorch_model.bin"]).contains("pytorch_model.bin, whose format is refused"));
        assert!(ask(&[]).contains("model_fp16.onnx"));
    }

    #[test]
    fn a_file_of_its_own_name_is_found_and_a_pickle_is_not() {
        let all = names(&["open-nsfw.onnx", "x.pt"]);
        assert!(FileFilter::onnx_file("open-nsfw.onnx").select(&all).is_ok());
        assert!(FileFilter::onnx_file("x.pt").select(&all).is_err());
        assert!(FileFilter::onnx_file("../open-nsfw.onnx").select(&all).is_err());
    }

    #[test]
    fn an_incomplete_set_of_pieces_is_refused() {
        let filter = FileFilter::safetensors();
        let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        let both = filter.select(&names(&[one, two, SAFETENSORS_INDEX])).unwrap();
        assert_eq!(both.names().collect::<Vec<_>>(), [one, two, SAFETENSORS_INDEX]);
        assert!(filter.select(&names(&[two])).is_err());
        assert!(filter.select(&names(&["model-1-of-1.safetensors"])).is_err());
    }
}
