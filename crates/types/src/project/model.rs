//! The types behind `halny.toml`. Their docs become the descriptions in the JSON Schema.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::features::{Entity, FeatureService, FeatureView, Features, OnDemandView};
use super::generate::{GENERATE_DEADLINE_MS, GenerateOptions, GenerateProfile};
use super::jobs::{Command, Jobs, Queue, Schedule, Webhook};
use super::routes::Route;
use super::store::Store;
use super::vectors::Vectors;
use crate::{ByteSize, ModelName, ProfileName};

/// The most models in one project.
pub const MODELS_MAX: usize = 1_024;
/// The largest number a [`CpuThreads`] may say.
pub const THREADS_MAX: usize = 1_024;
/// What [`Server::max_body`] may be. Below 1 KiB no real request fits; above 4 GiB a handful of
/// them fills a host.
pub const MAX_BODY_RANGE: RangeInclusive<ByteSize> = ByteSize::kib(1)..=ByteSize::gib(4);
/// What [`Server::max_bodies`] may be.
pub const MAX_BODIES_RANGE: RangeInclusive<ByteSize> = ByteSize::kib(1)..=ByteSize::gib(1_024);
/// What [`Profile::max_queue`] may be.
pub const MAX_QUEUE_RANGE: RangeInclusive<ByteSize> = ByteSize::kib(64)..=ByteSize::gib(1_024);

/// The time a request has unless its profile says otherwise.
pub const DEADLINE_MS: u64 = 10_000;

/// A Halny project: what is served, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Project {
    /// Addresses and limits of the server.
    pub server: Server,
    /// The ONNX Runtime library.
    pub onnxruntime: OnnxRuntime,
    /// What may be kept on this host between starts.
    pub cache: Cache,
    /// Where collections of vectors are kept.
    pub vectors: Vectors,
    /// Where what outlives a process is kept.
    pub store: Store,
    /// How this server works on jobs.
    pub jobs: Jobs,
    /// Queues of jobs, beside `default` and `batches`.
    #[schemars(length(max = 256))]
    pub queues: Vec<Queue>,
    /// Jobs that are submitted again and again.
    #[schemars(length(max = 1_024))]
    pub schedules: Vec<Schedule>,
    /// Programs that jobs may run.
    #[schemars(length(max = 256))]
    pub commands: Vec<Command>,
    /// Where jobs may send to.
    #[schemars(length(max = 256))]
    pub webhooks: Vec<Webhook>,
    /// The models that are served.
    #[schemars(length(max = 1_024))]
    pub models: Vec<Model>,
    /// Where the values of features are kept.
    pub features: Features,
    /// What has features.
    #[schemars(length(max = 256))]
    pub entities: Vec<Entity>,
    /// Features that are kept, by entity.
    #[schemars(length(max = 512))]
    pub feature_views: Vec<FeatureView>,
    /// Features that are computed when they are asked for.
    #[schemars(length(max = 512))]
    pub on_demand_views: Vec<OnDemandView>,
    /// Versioned lists of features, for models to be served with.
    #[schemars(length(max = 512))]
    pub feature_services: Vec<FeatureService>,
    /// Paths of the project's own, each answered by steps over its models and collections.
    #[schemars(length(max = 256))]
    pub routes: Vec<Route>,
}

/// Addresses and limits of the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Where clients connect: `host:port`. Port 0 takes a free one.
    #[schemars(length(min = 1, max = 300), extend("examples" = ["127.0.0.1:8080", "0.0.0.0:8080"]))]
    pub address: String,
    /// Where the operator connects: `host:port`, a loopback address until credentials exist.
    #[schemars(length(min = 1, max = 300), extend("examples" = ["127.0.0.1:8081"]))]
    pub admin_address: String,
    /// The largest request body: `1KiB` to `4GiB`.
    pub max_body: ByteSize,
    /// All request bodies together, for as long as their requests are being worked on: `1KiB` to
    /// `1TiB`, and never less than `max_body`. Requests beyond it are refused with 503.
    pub max_bodies: ByteSize,
    /// Requests being worked on at once; more are refused with 503.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_concurrent_requests: usize,
    /// Open connections; more wait in the operating system's queue.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: usize,
    /// Time a client has to send a request's head.
    #[schemars(range(min = 1, max = 600_000))]
    pub header_timeout_ms: u64,
    /// Time a client has to send a request's body; also the longest that it may stop reading its
    /// answer. After five seconds a body has to come at 1 KiB a second at least.
    #[schemars(range(min = 1, max = 600_000))]
    pub body_timeout_ms: u64,
    /// Time that accepted requests have to finish after SIGTERM.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub drain_timeout_ms: u64,
    /// Texts, pairs or images in one request.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_inputs_per_request: usize,
    /// Whether `/metrics` answers on the clients' port too, not only on the operator's.
    pub metrics_on_data_port: bool,
    /// Threads for tokenising, decoding and resizing.
    pub cpu_threads: CpuThreads,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            address: "127.0.0.1:8080".to_owned(),
            admin_address: "127.0.0.1:8081".to_owned(),
            max_body: ByteSize::mib(16),
            max_bodies: ByteSize::mib(512),
            max_concurrent_requests: 4_096,
            max_connections: 20_000,
            header_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            drain_timeout_ms: 30_000,
            max_inputs_per_request: 2_048,
            metrics_on_data_port: true,
            cpu_threads: CpuThreads::default(),
        }
    }
}

/// How many: a number, or `"auto"` for what suits the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CpuThreads {
    /// What suits the machine: for threads, as many as it has cores.
    #[default]
    Auto,
    /// Exactly so many, 1 to [`THREADS_MAX`].
    Count(usize),
}

// Not `#[serde(untagged)]`: its error is "data did not match any variant", and a unit variant that
// stands for one word needs a second type beside it.
impl Serialize for CpuThreads {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            CpuThreads::Auto => serializer.serialize_str("auto"),
            CpuThreads::Count(count) => count.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CpuThreads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CpuThreads, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = CpuThreads;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "\"auto\" or a whole number from 1 to {THREADS_MAX}")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<CpuThreads, E> {
                if word == "auto" {
                    Ok(CpuThreads::Auto)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(word), &self))
                }
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<CpuThreads, E> {
                usize::try_from(count)
                    .ok()
                    .filter(|count| (1..=THREADS_MAX).contains(count))
                    .map(CpuThreads::Count)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(count), &self))
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<CpuThreads, E> {
                match u64::try_from(count) {
                    Ok(count) => self.visit_u64(count),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(count), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for CpuThreads {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CpuThreads".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number, or \"auto\" for what suits the machine.",
            "oneOf": [
                { "const": "auto" },
                { "type": "integer", "minimum": 1, "maximum": THREADS_MAX },
            ],
        })
    }
}

impl CpuThreads {
    /// The number, on this machine.
    #[must_use]
    pub fn resolve(self) -> usize {
        match self {
            CpuThreads::Auto => std::thread::available_parallelism().map_or(1, usize::from),
            CpuThreads::Count(count) => count.max(1),
        }
    }
}

/// The ONNX Runtime library.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnnxRuntime {
    /// The path of `libonnxruntime.so`. Without it: `$HALNY_ONNXRUNTIME`, then the cache.
    #[schemars(length(min = 1, max = 4_096))]
    pub library: Option<PathBuf>,
}

/// What may be kept on this host between starts: downloads, optimised graphs, digests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// The folder. Without it: `$HALNY_CACHE`, then `~/.cache/halny`.
    #[schemars(length(min = 1, max = 4_096))]
    pub folder: Option<PathBuf>,
}

/// A model that is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The name clients ask for.
    pub name: ModelName,
    /// Where its files are: a folder (relative to this file), `hf://owner/name[@revision]`, or
    /// `s3://bucket/prefix`.
    #[schemars(
        length(min = 1, max = 4_096),
        extend("examples" = ["models/minilm", "hf://owner/name", "s3://bucket/prefix"])
    )]
    pub source: String,
    /// What it does.
    pub task: TaskKind,
    /// For text tasks: how texts become tokens and tokens become an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextOptions>,
    /// For language models (`generate`): templates, adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate: Option<GenerateOptions>,
    /// Whether it is loaded at start; otherwise it waits for a load request on the admin port.
    #[serde(default = "yes")]
    pub preload: bool,
    /// The ways to run it, the preferred one first; a later one takes what an earlier one refuses
    /// because its queue is full or its deadline too near.
    /// Without any: one profile, `default`, on the best device.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub profiles: Vec<Profile>,
}

fn yes() -> bool {
    true
}

/// What a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Texts to vectors.
    Embed,
    /// Texts to labels with scores.
    ClassifyText,
    /// A query and documents to relevance scores, by a cross-encoder.
    Rerank,
    /// Images (JPEG, PNG, WebP) to labels with scores.
    ClassifyImage,
    /// Raw tensors in and out.
    Tensor,
    /// Text to more text, token by token, by a language model (GGUF).
    Generate,
}

impl TaskKind {
    /// Whether its inputs are texts, so that `text` options mean something.
    #[must_use]
    pub fn takes_text(self) -> bool {
        matches!(self, TaskKind::Embed | TaskKind::ClassifyText | TaskKind::Rerank)
    }

    /// The task as the project file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            TaskKind::Embed => "embed",
            TaskKind::ClassifyText => "classify-text",
            TaskKind::Rerank => "rerank",
            TaskKind::ClassifyImage => "classify-image",
            TaskKind::Tensor => "tensor",
            TaskKind::Generate => "generate",
        }
    }
}

/// How texts become tokens and tokens become an answer. What is not said is taken from the
/// model's own files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextOptions {
    /// The GGUF file that holds the model, by its name in the source. Without it the source holds ONNX
    /// graphs.
    #[schemars(length(min = 1, max = 1_024), extend("examples" = ["bge-small-en-v1.5-q8_0.gguf"]))]
    pub file: Option<String>,
    /// The longest text in tokens; longer ones are refused, or cut with `truncate`. Without it, what the
    /// model's files say; for a GGUF file 2,048 or what the model was trained for, whichever is less.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_tokens: Option<usize>,
    /// Whether texts that are too long are cut instead of refused.
    pub truncate: bool,
    /// How token vectors become one vector, where the graph gives one for each token; for a GGUF file,
    /// instead of how the file says.
    pub pooling: Option<Pooling>,
    /// Whether vectors are scaled to length 1. By default they are.
    pub normalise: Option<bool>,
}

/// How token vectors become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The mean over the tokens that are not padding.
    Mean,
    /// The first token's vector.
    Cls,
    /// The last token's vector.
    Last,
}

/// One way to run a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// Its name, unique within the model.
    pub name: ProfileName,
    /// `auto`, `cpu`, `cuda:N` or `tensorrt:N`. A device that is named is never replaced by another.
    #[schemars(
        regex(pattern = r"^(auto|cpu|(cuda|tensorrt):[0-9]{1,4})$"),
        extend("examples" = ["auto", "cpu", "cuda:0", "tensorrt:0"])
    )]
    pub device: String,
    /// The number format of the weights: the file `model.<precision>.onnx`.
    pub precision: Precision,
    /// Copies that run side by side on the device. `auto`: on processors as many as there are
    /// cores, elsewhere one.
    pub instances: CpuThreads,
    /// Processor threads one copy uses for one batch (CPU only). `auto`: one when there are as many
    /// copies as cores.
    pub threads: CpuThreads,
    /// Items in one batch at most.
    #[schemars(range(min = 1, max = 65_536))]
    pub max_batch_size: usize,
    /// Tokens in one batch at most, padding counted.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_batch_tokens: usize,
    /// The longest an item waits for others while the device is free.
    #[schemars(range(min = 0, max = 60_000))]
    pub max_batch_delay_ms: u64,
    /// Items that may wait.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_queue_items: usize,
    /// Bytes of items that may wait: `64KiB` to `1TiB`.
    pub max_queue: ByteSize,
    /// The time a request has, unless it asks for less. By default 10 s, for `generate` 10 minutes.
    #[schemars(range(min = 1, max = 3_600_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// How batches are packed.
    pub packing: Packing,
    /// For language models (`generate`): cells, steps, waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generate: Option<GenerateProfile>,
}

impl Profile {
    /// The time a request has, unless it asks for less, in milliseconds.
    #[must_use]
    pub fn deadline_ms(&self, task: TaskKind) -> u64 {
        self.deadline_ms.unwrap_or(if task == TaskKind::Generate { GENERATE_DEADLINE_MS } else { DEADLINE_MS })
    }
}

impl Default for Profile {
    fn default() -> Profile {
        Profile {
            name: ProfileName::try_from("default".to_owned()).unwrap_or_else(|_| unreachable!("a valid name")),
            device: "auto".to_owned(),
            precision: Precision::default(),
            instances: CpuThreads::Auto,
            threads: CpuThreads::Auto,
            max_batch_size: 32,
            max_batch_tokens: 16_384,
            max_batch_delay_ms: 5,
            max_queue_items: 8_192,
            max_queue: ByteSize::mib(256),
            deadline_ms: None,
            packing: Packing::Length,
            generate: None,
        }
    }
}

/// The number format of a model's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE 754 single.
    #[default]
    Fp32,
    /// IEEE 754 half.
    Fp16,
    /// 8-bit integers with scales.
    Int8,
}

impl Precision {
    /// The precision as the project file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Int8 => "int8",
        }
    }
}

/// How batches are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// Items of like length together, so that padding is not computed.
    #[default]
    Length,
    /// In order of arrival, as most servers do: for comparison.
    Arrival,
}
