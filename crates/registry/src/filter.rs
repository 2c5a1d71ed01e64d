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

/// How many names a refusal lists.
const MAX_LISTED: usize = 5;

const SAFETENSORS: &str = "model.safetensors";
const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";

/// Which files are wanted: weights of one format, and the [`COMPANIONS`] that exist.
///
/// External data files are not named here: the ONNX files name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFilter(Weights);

/// The formats of weights, and by what they are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Weights {
    Onnx(BTreeSet<Precision>),
    OnnxFile(String),
    Safetensors,
    Gguf,
    GgufFile(String),
}

impl FileFilter {
    /// ONNX weights in each of `precisions`, all of which must be there.
    #[must_use]
    pub fn onnx(precisions: impl IntoIterator<Item = Precision>) -> Self {
        Self(Weights::Onnx(precisions.into_iter().collect()))
    }

    /// One ONNX file with a name of its own, for example `open-nsfw.onnx`.
    #[must_use]
    pub fn onnx_file(name: impl Into<String>) -> Self {
        Self(Weights::OnnxFile(name.into()))
    }

    /// `model.safetensors`, or its pieces and their index.
    #[must_use]
    pub fn safetensors() -> Self {
        Self(Weights::Safetensors)
    }

    /// The one GGUF file beside the model's other files. Those with `mmproj` in their name (parts
    /// of models that see) and those in folders below (adapters) do not count.
    #[must_use]
    pub fn gguf() -> Self {
        Self(Weights::Gguf)
    }

    /// The GGUF file of this name, for example `gemma-3-270m-Q4_K_M.gguf` or `adapters/tone.gguf`.
    #[must_use]
    pub fn gguf_file(name: impl Into<String>) -> Self {
        Self(Weights::GgufFile(name.into()))
    }

    /// Whether the weights wanted are in a GGUF file.
    #[must_use]
    pub fn is_gguf(&self) -> bool {
        matches!(self.0, Weights::Gguf | Weights::GgufFile(_))
    }

    /// The name of the weights for `precision` among the files for which `has` says yes. A file
    /// asked for by its own name serves whatever the precision. `None` for [`gguf`](Self::gguf) and
    /// [`safetensors`](Self::safetensors), which have no fixed name.
    #[must_use]
    pub fn weights_name(&self, precision: Precision, has: impl Fn(&str) -> bool) -> Option<&str> {
        match &self.0 {
            Weights::Onnx(_) => onnx_names(precision).iter().copied().find(|name| has(name)),
            Weights::OnnxFile(name) | Weights::GgufFile(name) => has(name).then_some(name.as_str()),
            Weights::Safetensors | Weights::Gguf => None,
        }
    }

    /// The folder of the file asked for by its own name, where it has one.
    pub(crate) fn own_folder(&self) -> Option<&str> {
        let (Weights::OnnxFile(name) | Weights::GgufFile(name)) = &self.0 else { return None };
        let (folder, _) = name.rsplit_once('/')?;
        Some(folder)
    }

    /// The names wanted among `names`, weights first. Refuses names that collide, and weights
    /// that are missing or of a refused format.
    pub(crate) fn select(&self, names: &BTreeSet<String>) -> Result<Selection, RegistryError> {
        let companions = COMPANIONS.iter().filter(|name| names.contains(**name)).map(|name| (*name).to_owned());
        let mut selection = Selection { companions: companions.collect(), ..Selection::default() };
        match &self.0 {
            Weights::Onnx(precisions) => selection.onnx = select_onnx(precisions, names)?,
            Weights::OnnxFile(name) => selection.onnx.push(named(name, Format::Onnx, names)?),
            Weights::Safetensors if names.contains(SAFETENSORS) => selection.safetensors.push(SAFETENSORS.to_owned()),
            Weights::Safetensors => {
                selection.safetensors.extend(names.iter().filter(|name| is_piece(name)).cloned());
                check_pieces(&selection.safetensors, names)?;
                if names.contains(SAFETENSORS_INDEX) {
                    selection.companions.push(SAFETENSORS_INDEX.to_owned());
                }
            }
            Weights::Gguf => selection.gguf = Some(only_gguf(names)?),
            Weights::GgufFile(name) => selection.gguf = Some(named(name, Format::Gguf, names)?),
        }
        names::check_case(selection.names(), names.iter().map(String::as_str))?;
        Ok(selection)
    }
}

/// What an engine reads, for the advice that a refusal gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Onnx,
    Gguf,
}

fn select_onnx(precisions: &BTreeSet<Precision>, names: &BTreeSet<String>) -> Result<Vec<String>, RegistryError> {
    let mut onnx = Vec::new();
    for precision in precisions {
        let looked_for = onnx_names(*precision);
        let Some(name) = looked_for.iter().find(|name| names.contains(**name)) else {
            return Err(no_weights(precision.as_str().to_owned(), looked_for.join(", "), Format::Onnx, names));
        };
        if !onnx.iter().any(|chosen| chosen == name) {
            onnx.push((*name).to_owned());
        }
    }
    Ok(onnx)
}

/// The file asked for by its own name.
fn named(name: &str, format: Format, names: &BTreeSet<String>) -> Result<String, RegistryError> {
    names::check_relative(name)?;
    refused::check_name(name)?;
    if names.contains(name) {
        return Ok(name.to_owned());
    }
    Err(no_weights(names::shown(name), names::shown(name), format, names))
}

/// The one GGUF file that is neither a part that sees nor in a folder below.
fn only_gguf(names: &BTreeSet<String>) -> Result<String, RegistryError> {
    let counts = |name: &&String| {
        let lower = name.to_ascii_lowercase();
        !name.contains('/') && lower.ends_with(".gguf") && !lower.contains("mmproj")
    };
    let found: Vec<&String> = names.iter().filter(counts).collect();
    match found.as_slice() {
        [] => Err(no_weights("GGUF".to_owned(), "*.gguf".to_owned(), Format::Gguf, names)),
        [one] => Ok((*one).clone()),
        many if many.iter().all(|name| is_gguf_piece(name)) => Err(RegistryError::NoWeights {
            wanted: "GGUF".to_owned(),
            looked_for: "*.gguf".to_owned(),
            hint: format!("it has pieces only ({}): join them with llama-gguf-split --merge", listed(&found)),
        }),
        many => Err(RegistryError::ManyWeights { count: many.len(), found: listed(&found) }),
    }
}

/// At most five names, and how many more there are.
fn listed(names: &[&String]) -> String {
    let shown: Vec<String> = names.iter().take(MAX_LISTED).map(|name| names::shown(name)).collect();
    match names.len().saturating_sub(MAX_LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `name-00001-of-00003.gguf`.
fn is_gguf_piece(name: &str) -> bool {
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let pieces = name.strip_suffix(".gguf").and_then(|stem| stem.rsplit_once("-of-"));
    pieces.is_some_and(|(stem, count)| number(count) && stem.rsplit_once('-').is_some_and(|(_, nth)| number(nth)))
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
    if names.is_empty() {
        return Err(no_weights(wanted, looked_for, Format::Onnx, all));
    }
    let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let complete = (1..=count).zip(names).all(|(n, name)| piece_numbers(name) == Some((n, count)));
    if complete {
        return Ok(());
    }
    let hint = format!("{count} pieces are there, not a full set; add the missing ones");
    Err(RegistryError::NoWeights { wanted, looked_for, hint })
}

fn no_weights(wanted: String, looked_for: String, format: Format, names: &BTreeSet<String>) -> RegistryError {
    let ending = |ending: &str| names.iter().filter(|name| name.ends_with(ending)).collect::<Vec<_>>();
    let (onnx, gguf, safetensors) = (ending(".onnx"), ending(".gguf"), ending(".safetensors"));
    let hint = match format {
        Format::Onnx if !onnx.is_empty() => {
            format!("it has {}: ask for one of them by name or precision", listed(&onnx))
        }
        Format::Gguf if !gguf.is_empty() => format!("it has {}: ask for one of them by name", listed(&gguf)),
        Format::Onnx if !safetensors.is_empty() => "it has safetensors only: export them to ONNX first".to_owned(),
        Format::Gguf if !safetensors.is_empty() => {
            "it has safetensors only: convert them with llama.cpp's convert_hf_to_gguf.py first".to_owned()
        }
        Format::Onnx if !gguf.is_empty() => format!("it has {}, which generate text only", listed(&gguf)),
        Format::Gguf if !onnx.is_empty() => format!("it has {}, which do not generate text", listed(&onnx)),
        _ => match names.iter().find(|name| refused::refused_by_name(name).is_some()) {
            Some(name) => format!("it has {}, whose format is refused: export the model to ONNX", names::shown(name)),
            None => "it has no weights of any known kind: check the source's name".to_owned(),
        },
    };
    RegistryError::NoWeights { wanted, looked_for, hint }
}

/// The names chosen by a [`FileFilter`], apart from external data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) onnx: Vec<String>,
    pub(crate) safetensors: Vec<String>,
    pub(crate) gguf: Option<String>,
    pub(crate) companions: Vec<String>,
}

impl Selection {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.onnx.iter().chain(&self.safetensors).chain(&self.gguf).chain(&self.companions).map(String::as_str)
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
    fn the_one_gguf_file_is_found_and_parts_that_see_and_adapters_do_not_count() {
        let beside = ["mmproj-gemma.gguf", "gemma-mmproj-BF16.GGUF", "adapters/tone.gguf", "config.json", "README.md"];
        let with = |more: &[&str]| FileFilter::gguf().select(&names(&[&beside, more].concat()));
        let chosen = with(&["gemma.Q4_K_M.gguf"]).unwrap();
        assert_eq!(chosen.names().collect::<Vec<_>>(), ["gemma.Q4_K_M.gguf", "config.json"]);
        assert!(with(&[]).unwrap_err().to_string().contains("it has adapters/tone.gguf, mmproj-gemma.gguf: ask for"));
        let many: Vec<String> = (0..8).map(|n| format!("{n}.gguf")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = with(&many).unwrap_err().to_string();
        assert!(error.contains("8 GGUF files (0.gguf, 1.gguf, 2.gguf, 3.gguf, 4.gguf and 3 more)"), "{error}");
        let error = with(&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]).unwrap_err().to_string();
        assert!(error.contains("pieces only") && error.contains("llama-gguf-split --merge"), "{error}");
    }

    #[test]
    fn a_gguf_file_of_its_own_name_is_found_in_its_folder() {
        let all = names(&["a.gguf", "b.gguf", "adapters/tone.gguf"]);
        for name in ["b.gguf", "adapters/tone.gguf"] {
            let filter = FileFilter::gguf_file(name);
            assert_eq!(filter.select(&all).unwrap().gguf.as_deref(), Some(name));
            assert_eq!(filter.weights_name(Precision::Fp32, |_| true), Some(name));
        }
        assert_eq!(FileFilter::gguf_file("adapters/tone.gguf").own_folder(), Some("adapters"));
        for name in ["c.gguf", "../a.gguf", "a.bin"] {
            assert!(FileFilter::gguf_file(name).select(&all).is_err(), "{name}");
        }
        let missing = |list: &[&str]| FileFilter::gguf().select(&names(list)).unwrap_err().to_string();
        assert!(missing(&["model.safetensors"]).contains("convert_hf_to_gguf.py"));
        assert!(missing(&["model.onnx"]).contains("do not generate text"));
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
