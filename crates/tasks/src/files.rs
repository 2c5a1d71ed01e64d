//! The files of a model that a task reads, each with a limit on its size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use halny_types::project::Pooling;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::TaskError;
use crate::image::spec::ImageSection;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const CONFIG: &str = "config.json";
pub(crate) const OWN: &str = "halny-model.json";
pub(crate) const PREPROCESSOR: &str = "preprocessor_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SENTENCE_BERT: &str = "sentence_bert_config.json";
const POOLING: &str = "1_Pooling/config.json";

/// The largest tokenizer read; those of 250,000 tokens take 17 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// The largest of the other files read; a `config.json` of 20,000 labels takes 2 MB.
const MAX_CONFIG_BYTES: u64 = 32 << 20;
/// The most labels a classifier may have.
const MAX_LABELS: usize = 1 << 20;

/// A model's folder.
#[derive(Clone, Copy)]
pub(crate) struct Folder<'a>(pub(crate) &'a Path);

/// What is used of `config.json` (Hugging Face).
#[derive(Default, Deserialize)]
pub(crate) struct Config {
    pub(crate) vocab_size: Option<u32>,
    pub(crate) hidden_size: Option<usize>,
    pub(crate) problem_type: Option<String>,
    id2label: Option<BTreeMap<String, String>>,
    max_position_embeddings: Option<i64>,
    model_type: Option<String>,
    pad_token_id: Option<i64>,
}

/// `halny-model.json`: what Halny has to know and no other file of the model says.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Own {
    pub(crate) image: Option<ImageSection>,
    pub(crate) labels: Option<Vec<String>>,
    pub(crate) scores: Option<ScoreForm>,
}

/// What the graph's scores are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ScoreForm {
    Probabilities,
    Logits,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    // A float: Hugging Face writes 1e30 for "no limit".
    model_max_length: Option<f64>,
}

#[derive(Default, Deserialize)]
struct SentenceBert {
    max_seq_length: Option<u32>,
}

#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(flatten)]
    fields: BTreeMap<String, serde_json::Value>,
}

impl Folder<'_> {
    fn read(self, file: &'static str, limit: u64) -> Result<Option<Vec<u8>>, TaskError> {
        let unreadable =
            |error: std::io::Error| TaskError::File { file, problem: format!("cannot be read: {}", error.kind()) };
        let opened = match File::open(self.0.join(file)) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let mut bytes = Vec::new();
        let read = opened.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if read as u64 > limit {
            return Err(TaskError::File { file, problem: format!("is larger than the limit of {limit} bytes") });
        }
        Ok(Some(bytes))
    }

    fn json<T: DeserializeOwned>(self, file: &'static str) -> Result<Option<T>, TaskError> {
        let Some(bytes) = self.read(file, MAX_CONFIG_BYTES)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| TaskError::File { file, problem: error.to_string() })
    }

    /// The bytes of `tokenizer.json`.
    pub(crate) fn tokenizer(self) -> Result<Vec<u8>, TaskError> {
        self.read(TOKENIZER, MAX_TOKENIZER_BYTES)?.ok_or_else(|| TaskError::File {
            file: TOKENIZER,
            problem: "is missing; save the tokenizer in the fast format, as `tokenizer.save_pretrained` does"
                .to_owned(),
        })
    }

    pub(crate) fn config(self) -> Result<Config, TaskError> {
        Ok(self.json(CONFIG)?.unwrap_or_default())
    }

    pub(crate) fn own(self) -> Result<Own, TaskError> {
        Ok(self.json(OWN)?.unwrap_or_default())
    }

    pub(crate) fn preprocessor(self) -> Result<Option<serde_json::Map<String, serde_json::Value>>, TaskError> {
        self.json(PREPROCESSOR)
    }

    /// The longest text by `sentence_bert_config.json`, then `tokenizer_config.json`.
    pub(crate) fn max_tokens(self) -> Result<Option<usize>, TaskError> {
        let sentence_bert: SentenceBert = self.json(SENTENCE_BERT)?.unwrap_or_default();
        if let Some(limit) = sentence_bert.max_seq_length {
            return Ok(Some(limit as usize));
        }
        let tokenizer: TokenizerConfig = self.json(TOKENIZER_CONFIG)?.unwrap_or_default();
        Ok(tokenizer.model_max_length.filter(|limit| (1.0..1e9).contains(limit)).map(|limit| limit as usize))
    }

    /// The pooling by `1_Pooling/config.json` (sentence-transformers).
    pub(crate) fn pooling(self) -> Result<Option<Pooling>, TaskError> {
        let Some(config) = self.json::<PoolingConfig>(POOLING)? else { return Ok(None) };
        let chosen: Vec<&str> = config
            .fields
            .iter()
            .filter(|(name, value)| name.starts_with("pooling_mode_") && value.as_bool() == Some(true))
            .map(|(name, _)| name.as_str())
            .collect();
        match chosen.as_slice() {
            [] => Ok(None),
            ["pooling_mode_mean_tokens"] => Ok(Some(Pooling::Mean)),
            ["pooling_mode_cls_token"] => Ok(Some(Pooling::Cls)),
            ["pooling_mode_lasttoken"] => Ok(Some(Pooling::Last)),
            other => Err(TaskError::File {
                file: POOLING,
                problem: format!(
                    "asks for {}; supported is one of mean, cls and last token: set `text.pooling`, or pool in the graph",
                    other.join(" and ")
                ),
            }),
        }
    }
}

impl Config {
    /// Tokens that have a position, or `None` where the model does not say.
    pub(crate) fn positions(&self) -> Option<usize> {
        // RoBERTa and its kin count positions from the padding token's id + 1 on.
        let taken = match self.model_type.as_deref() {
            Some("roberta" | "xlm-roberta" | "xlm-roberta-xl" | "camembert" | "mpnet" | "longformer") => {
                self.pad_token_id.unwrap_or(1) + 1
            }
            _ => 0,
        };
        self.max_position_embeddings
            .map(|all| all.saturating_sub(taken))
            .and_then(|positions| usize::try_from(positions).ok().filter(|positions| *positions > 0))
    }

    /// The labels in the order of their numbers.
    pub(crate) fn labels(&self) -> Result<Option<Vec<String>>, TaskError> {
        let Some(by_number) = &self.id2label else { return Ok(None) };
        let broken = || TaskError::File {
            file: CONFIG,
            problem: format!("`id2label` has to number its labels 0, 1, 2, ... without gaps, {MAX_LABELS} at most"),
        };
        if by_number.len() > MAX_LABELS {
            return Err(broken());
        }
        let mut labels = vec![None; by_number.len()];
        for (number, label) in by_number {
            let place = number.parse::<usize>().ok().and_then(|number| labels.get_mut(number)).ok_or_else(broken)?;
            *place = Some(label.clone());
        }
        labels.into_iter().collect::<Option<Vec<String>>>().map(Some).ok_or_else(broken)
    }
}
