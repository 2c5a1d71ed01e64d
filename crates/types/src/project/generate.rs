//! What the project file says of language models.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ModelName;

/// The time a request for text has unless its profile says otherwise: ten minutes, as OpenAI's
/// clients wait.
pub const GENERATE_DEADLINE_MS: u64 = 600_000;

/// For language models: what is not said is taken from the model's own file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateOptions {
    /// The name of the GGUF file, where the source has several.
    #[schemars(length(min = 1, max = 255), extend("examples" = ["model-Q4_K_M.gguf"]))]
    pub file: Option<String>,
    /// A chat template (Jinja), relative to the project file. Without it: `chat_template.jinja` beside
    /// the model, then the template in the model's file.
    #[schemars(length(min = 1, max = 4_096))]
    pub chat_template: Option<PathBuf>,
    /// Tokens an answer may have where the request does not say. By default: what fits.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_tokens: Option<usize>,
    /// Low-rank adapters (LoRA, GGUF). A client asks for one as `model:adapter`.
    #[schemars(length(max = 64))]
    pub adapters: Vec<Adapter>,
}

/// A low-rank change of a model's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// Its name, unique within the model.
    pub name: ModelName,
    /// Its GGUF file, relative to the project file.
    #[schemars(length(min = 1, max = 4_096))]
    pub file: PathBuf,
    /// How strongly it is applied; 1 is as trained.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub scale: f32,
}

fn one() -> f32 {
    1.0
}

/// For language models: how a profile runs them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateProfile {
    /// KV cells: tokens that can be remembered, all requests together.
    #[schemars(range(min = 256, max = 16_777_216))]
    pub cells: usize,
    /// The number format of KV cells.
    pub cell_format: CellFormat,
    /// Requests that run at once; more wait.
    #[schemars(range(min = 1, max = 192))]
    pub max_running: usize,
    /// Tokens computed in one step at most.
    #[schemars(range(min = 16, max = 65_536))]
    pub step_tokens: usize,
    /// How many times as long a step may take, while others are being answered, for reading one prompt:
    /// what a long prompt may do to the time between two tokens of a stream. Each more prompt that
    /// waits may add as much again.
    #[schemars(range(min = 1.05, max = 100.0))]
    pub stretch: f64,
    /// Layers on the device, the others on processors. By default all.
    #[schemars(range(min = 0, max = 10_000))]
    pub device_layers: Option<u32>,
    /// Whether attention is computed in one pass over the cells. By default where the device does it well.
    pub flash_attention: Option<bool>,
    /// Whether weights in a format that the processor computes slowly are written in a faster one when the
    /// model is loaded. No weight changes; they take more memory.
    pub repack: bool,
    /// Requests that may wait.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_waiting: usize,
    /// The longest a request may wait for its first step; those that would are refused.
    #[schemars(range(min = 1, max = 3_600_000))]
    pub max_wait_ms: u64,
}

impl Default for GenerateProfile {
    fn default() -> GenerateProfile {
        GenerateProfile {
            cells: 16_384,
            cell_format: CellFormat::F16,
            max_running: 32,
            step_tokens: 512,
            stretch: 1.7,
            device_layers: None,
            flash_attention: None,
            repack: true,
            max_waiting: 1_024,
            max_wait_ms: 120_000,
        }
    }
}

/// The number format of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CellFormat {
    /// IEEE 754 half.
    #[default]
    F16,
    /// 8 bits with a scale for each 32 numbers: half the memory, hardly a difference.
    Q8,
    /// 4 bits with a scale for each 32 numbers: a quarter of the memory, a difference to be measured.
    Q4,
}
