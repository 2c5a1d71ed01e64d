//! What steps are done with: the contract between routes and whoever has models and collections.

use std::future::Future;

use halny_types::RequestContext;
use halny_types::project::routes::Payload;
use serde_json::{Map, Value as Json};

use crate::{StepError, Vector};

/// Text as it is written, piece by piece.
pub type Tell = Box<dyn FnMut(&str) + Send>;

/// What steps are done with.
///
/// Each call is one step of one request. It has until `context.deadline`, after which its future is dropped;
/// dropping it, then or before, takes back whatever it asked for. An answer has as many parts as the request
/// has inputs, in their order. Errors carry whose fault they are, with a text for the client that names no path,
/// host or buffer.
pub trait Capabilities: Send + Sync + 'static {
    /// The vectors of texts, by the embedding model of that name. At least one text is given.
    fn embed(
        &self,
        context: &RequestContext,
        model: &str,
        texts: Vec<String>,
    ) -> impl Future<Output = Result<Vec<Vector>, StepError>> + Send;

    /// The points nearest to a vector, the nearest first. A vector that another model made than the
    /// collection's is refused, by the names of both.
    fn search(
        &self,
        context: &RequestContext,
        request: SearchRequest,
    ) -> impl Future<Output = Result<Vec<Point>, StepError>> + Send;

    /// How relevant each document is to the query. At least one document is given.
    fn rerank(
        &self,
        context: &RequestContext,
        model: &str,
        query: String,
        documents: Vec<String>,
    ) -> impl Future<Output = Result<Vec<f32>, StepError>> + Send;

    /// The labels of each input, with scores. At least one input is given.
    fn classify(
        &self,
        context: &RequestContext,
        model: &str,
        inputs: Inputs,
    ) -> impl Future<Output = Result<Vec<Classified>, StepError>> + Send;

    /// Writes text. `tell` is given each piece as it is written; together they are the text of the answer.
    fn generate(
        &self,
        context: &RequestContext,
        request: GenerateRequest,
        tell: Tell,
    ) -> impl Future<Output = Result<Wrote, StepError>> + Send;

    /// The points of these ids, in their order; ids that no point has are left out. At least one id is given.
    fn fetch(
        &self,
        context: &RequestContext,
        request: FetchRequest,
    ) -> impl Future<Output = Result<Vec<Fetched>, StepError>> + Send;

    /// The values of features that hold now, by name; null where there is none.
    fn features(
        &self,
        context: &RequestContext,
        request: FeaturesRequest,
    ) -> impl Future<Output = Result<Map<String, Json>, StepError>> + Send;
}

/// Which features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeaturesAsked {
    /// Those of a service: `name` for its highest version, or `name@version`.
    Service(String),
    /// These: `view:feature`, or `view` for all of its features.
    List(Vec<String>),
}

/// Which features, and whose.
#[derive(Clone, Debug)]
pub struct FeaturesRequest {
    /// Which features.
    pub asked: FeaturesAsked,
    /// Join keys, and the fields of the request that on-demand features read.
    pub given: Map<String, Json>,
    /// Whether they are called `view__feature`.
    pub full_names: bool,
}

/// What is looked for, and where.
#[derive(Clone, Debug)]
pub struct SearchRequest {
    /// The collection, or an alias of one.
    pub collection: String,
    /// What is looked for.
    pub near: SearchFor,
    /// Which of the collection's vectors; the one without a name by default.
    pub using: Option<String>,
    /// How many points.
    pub limit: usize,
    /// Which points, in the form of Qdrant's filters.
    pub filter: Option<Json>,
    /// Which part of their payloads.
    pub payload: Payload,
    /// Points with a worse score are left out.
    pub threshold: Option<f32>,
    /// Whether every point is compared.
    pub exact: bool,
}

/// What is looked for.
#[derive(Clone, Debug)]
pub enum SearchFor {
    /// What is near to a vector.
    Vector(Vector),
    /// What is near to a text, by the collection's own model.
    Text(String),
    /// What is near to some points, and far from others, by their ids. At least one is near.
    Points {
        /// Those that it is near to.
        positive: Vec<Json>,
        /// Those that it is far from.
        negative: Vec<Json>,
    },
}

/// A point that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its id.
    pub id: Json,
    /// How near it is.
    pub score: f32,
    /// The wanted part of its payload; nothing where none was wanted.
    pub payload: Option<Map<String, Json>>,
}

/// Which points are read.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// The collection, or an alias of one.
    pub collection: String,
    /// The ids: whole numbers, or UUIDs as text.
    pub ids: Vec<Json>,
    /// Which part of their payloads.
    pub payload: Payload,
}

/// A point that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// Its id.
    pub id: Json,
    /// The wanted part of its payload; nothing where none was wanted.
    pub payload: Option<Map<String, Json>>,
}

/// What is classified.
#[derive(Clone, Debug)]
pub enum Inputs {
    /// Texts.
    Texts(Vec<String>),
    /// An image (JPEG, PNG, WebP) in base64.
    Image(String),
}

/// Labels and their scores, as many as the model knows.
pub type Classified = Vec<(String, f32)>;

/// What is to be written.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The model, or `model:adapter`.
    pub model: String,
    /// What it is given.
    pub prompt: PromptText,
    /// Tokens to write at most; by default what the model's entry says, or what fits.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// What a language model is given.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptText {
    /// A text to continue. Names of special tokens in it are text.
    Text(String),
    /// Messages, each with its role and its content, for the model's chat template.
    Messages(Vec<(String, String)>),
}

/// How tokens are chosen, where the route says so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// How freely: 0 for always the likeliest.
    pub temperature: Option<f32>,
    /// Among the likeliest that have this probability together.
    pub top_p: Option<f32>,
    /// Among so many of the likeliest.
    pub top_k: Option<u32>,
    /// The same choices each time.
    pub seed: Option<u64>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrote {
    /// The text.
    pub text: String,
    /// Why it ended: `stop` or `length`.
    pub finish_reason: &'static str,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that were written.
    pub written_tokens: usize,
}
