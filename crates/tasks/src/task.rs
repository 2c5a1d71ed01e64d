//! A model's task: what is read when the model is opened, and what every request goes through.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use halny_engine::{Dim, LoadedEncoder, Signature, Tensor, TensorView};
use halny_types::project::{Pooling, TaskKind, TextOptions};

use crate::collate::{Activation, InputPlan, OutputPlan, Plan};
use crate::files::{Config, Folder, Own, ScoreForm};
use crate::image::decode::decode;
use crate::image::prepare::prepare;
use crate::image::spec::ImageSpec;
use crate::item::{Content, Tokens};
use crate::ports::{Role, TextPorts, VectorPort, joins, score_port};
use crate::text::Text;
use crate::{Collator, Item, TaskError};

/// The most memory that the inputs of one warm-up batch of images or tensors may take.
const MAX_WARM_UP_BYTES: usize = 256 << 20;
/// The length of the short texts of the warm-up: a search query or a title.
const SHORT_TEXT_TOKENS: usize = 16;

/// What a model does with requests, ready to be shared by all threads.
pub struct Task {
    kind: TaskKind,
    labels: Vec<String>,
    dimensions: Option<usize>,
    text: Option<Text>,
    signature: Signature,
    joins: bool,
    plan: Arc<Plan>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("kind", &self.kind).field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// A query's tokens.
#[derive(Clone, Debug)]
pub struct Query(Vec<u32>);

impl Task {
    /// Reads what the task needs from the model's folder and checks it against the graph's
    /// signature.
    ///
    /// Of the files `tokenizer.json` is needed for text, `halny-model.json` or
    /// `preprocessor_config.json` for images; `config.json`, `sentence_bert_config.json`,
    /// `tokenizer_config.json` and `1_Pooling/config.json` are followed where they are there.
    /// `text` goes before them.
    ///
    /// # Errors
    /// [`TaskError::File`], [`TaskError::Graph`] and [`TaskError::Options`]: texts for the operator.
    pub fn open(
        kind: TaskKind,
        folder: &Path,
        signature: &Signature,
        text: Option<&TextOptions>,
    ) -> Result<Task, TaskError> {
        let folder = Folder(folder);
        let options = text.cloned().unwrap_or_default();
        match kind {
            TaskKind::Embed | TaskKind::ClassifyText | TaskKind::Rerank => {
                Task::open_text(kind, folder, signature, &options)
            }
            TaskKind::ClassifyImage => Task::open_image(folder, signature),
            TaskKind::Tensor => Ok(Task::open_tensor(signature)),
            TaskKind::Generate => {
                Err(TaskError::Options("a language model runs no graph; its source holds a GGUF file".to_owned()))
            }
        }
    }

    /// A task on texts by a model that brings its own vocabulary. `labels` are those of its file, none
    /// where it names none.
    ///
    /// # Errors
    /// [`TaskError::Options`] where `options` ask for what the model cannot, [`TaskError::Graph`] where labels
    /// and scores differ in number: texts for the operator.
    pub fn of_encoder(
        kind: TaskKind,
        encoder: &LoadedEncoder,
        labels: &[String],
        options: &TextOptions,
    ) -> Result<Task, TaskError> {
        let signature = &encoder.loaded.signature;
        let own = Own {
            labels: (!labels.is_empty()).then(|| labels.to_vec()),
            scores: encoder.probabilities.then_some(ScoreForm::Probabilities),
            ..Own::default()
        };
        let ports = TextPorts::of(signature)?;
        let text = Text::of(encoder, options, kind == TaskKind::Rerank)?;
        // The engine has pooled already.
        let vectors = || VectorPort::of(signature, None, || Ok(None));
        Task::of_text(kind, signature, options, (ports, text), (&Config::default(), &own), vectors)
    }

    fn open_text(
        kind: TaskKind,
        folder: Folder<'_>,
        signature: &Signature,
        options: &TextOptions,
    ) -> Result<Task, TaskError> {
        let (config, own) = (folder.config()?, folder.own()?);
        let ports = TextPorts::of(signature)?;
        let text = Text::open(folder, &config, options, ports.fixed_length, kind == TaskKind::Rerank)?;
        let vectors = || VectorPort::of(signature, options.pooling, || folder.pooling());
        Task::of_text(kind, signature, options, (ports, text), (&config, &own), vectors)
    }

    fn of_text(
        kind: TaskKind,
        signature: &Signature,
        options: &TextOptions,
        (ports, text): (TextPorts, Text),
        (config, own): (&Config, &Own),
        vectors: impl FnOnce() -> Result<VectorPort, TaskError>,
    ) -> Result<Task, TaskError> {
        let mut labels = Vec::new();
        let mut dimensions = None;
        let output = match kind {
            TaskKind::Embed => {
                let port = vectors()?;
                // Pooled outputs may be narrower than the model is inside; token vectors are not.
                dimensions = port.dimensions.or(config.hidden_size.filter(|_| port.pooling.is_some()));
                OutputPlan::Vector { port, normalise: options.normalise.unwrap_or(true) }
            }
            TaskKind::ClassifyText => {
                let output = classifier(signature, config, own, &mut labels)?;
                OutputPlan::Scores { output, labels: labels.len(), activation: activation(config, own, labels.len()) }
            }
            _ => reranker(signature, own)?,
        };
        let input = InputPlan::Text { ports, padding: text.padding };
        Ok(Task::of(kind, labels, dimensions, Some(text), signature, Plan { input, output }))
    }

    fn open_image(folder: Folder<'_>, signature: &Signature) -> Result<Task, TaskError> {
        let (config, mut own) = (folder.config()?, folder.own()?);
        let spec = ImageSpec::open(folder, own.image.take(), signature)?;
        let mut labels = Vec::new();
        let output = classifier(signature, &config, &own, &mut labels)?;
        let activation = activation(&config, &own, labels.len());
        let output = OutputPlan::Scores { output, labels: labels.len(), activation };
        let plan = Plan { input: InputPlan::Image(spec), output };
        Ok(Task::of(TaskKind::ClassifyImage, labels, None, None, signature, plan))
    }

    fn open_tensor(signature: &Signature) -> Task {
        let elements = signature.inputs.iter().map(|port| port.element).collect();
        let output = OutputPlan::Tensors { outputs: signature.outputs.len() };
        let plan = Plan { input: InputPlan::Tensors(elements), output };
        Task::of(TaskKind::Tensor, Vec::new(), None, None, signature, plan)
    }

    fn of(
        kind: TaskKind,
        labels: Vec<String>,
        dimensions: Option<usize>,
        text: Option<Text>,
        signature: &Signature,
        plan: Plan,
    ) -> Task {
        let joins = joins(signature);
        Task { kind, labels, dimensions, text, signature: signature.clone(), joins, plan: Arc::new(plan) }
    }

    /// What the model does.
    #[must_use]
    pub fn kind(&self) -> TaskKind {
        self.kind
    }

    /// The inputs and outputs that it was made for.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The labels of a classifier, in the order of its scores; none for other tasks. From
    /// `halny-model.json`, then `id2label` in `config.json`, then `LABEL_0`, `LABEL_1`, ...
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The length of an embedding, where graph or files say it before the first run.
    #[must_use]
    pub fn dimensions(&self) -> Option<usize> {
        self.dimensions
    }

    /// How an embedder makes one vector of those of a text's tokens, as the project file calls it, with
    /// `unit` behind where vectors are brought to length 1; `own` where the model does so itself.
    #[must_use]
    pub fn pooling(&self) -> String {
        let OutputPlan::Vector { port, normalise } = &self.plan.output else { return "none".to_owned() };
        let pooled = match port.pooling {
            None => "own",
            Some(Pooling::Mean) => "mean",
            Some(Pooling::Cls) => "cls",
            Some(Pooling::Last) => "last",
        };
        if *normalise { format!("{pooled}-unit") } else { pooled.to_owned() }
    }

    /// The longest text in tokens, special ones counted; for reranking, of query and document
    /// together.
    #[must_use]
    pub fn max_tokens(&self) -> Option<usize> {
        self.text.as_ref().map(Text::max_tokens)
    }

    /// Makes tokens of one text, for `embed` and `classify-text`.
    ///
    /// # Errors
    /// [`TaskError::TooManyTokens`] and [`TaskError::TextTooLong`] unless `text.truncate` is set, which cuts
    /// the end off instead.
    pub fn tokenise(&self, text: &str) -> Result<Item, TaskError> {
        match (&self.text, self.kind) {
            (Some(tokenizer), TaskKind::Embed | TaskKind::ClassifyText) => Ok(self.text_item(tokenizer.single(text)?)),
            _ => Err(self.wrong_input()),
        }
    }

    /// Makes tokens of a query, for `rerank`: once, however many documents it is held against.
    ///
    /// # Errors
    /// [`TaskError::TextTooLong`], and [`TaskError::QueryTooLong`] where it leaves no room for a
    /// document.
    pub fn tokenise_query(&self, query: &str) -> Result<Query, TaskError> {
        match (&self.text, self.kind) {
            (Some(tokenizer), TaskKind::Rerank) => tokenizer.query(query).map(Query),
            _ => Err(self.wrong_input()),
        }
    }

    /// Makes tokens of a query and a document, for `rerank`.
    ///
    /// # Errors
    /// As [`Task::tokenise`]; `text.truncate` cuts only the document.
    pub fn tokenise_pair(&self, query: &Query, document: &str) -> Result<Item, TaskError> {
        match (&self.text, self.kind) {
            (Some(tokenizer), TaskKind::Rerank) => Ok(self.text_item(tokenizer.pair(&query.0, document)?)),
            _ => Err(self.wrong_input()),
        }
    }

    /// Takes tokens that the caller made, for `embed` and `classify-text`. The model's special tokens
    /// are put around them unless they are there already.
    ///
    /// # Errors
    /// [`TaskError::NoTokens`], [`TaskError::UnknownToken`], [`TaskError::TooManyTokens`].
    pub fn from_tokens(&self, ids: &[u32]) -> Result<Item, TaskError> {
        match (&self.text, self.kind) {
            (Some(tokenizer), TaskKind::Embed | TaskKind::ClassifyText) => Ok(self.text_item(tokenizer.given(ids)?)),
            _ => Err(self.wrong_input()),
        }
    }

    /// Decodes a JPEG, PNG or WebP file, told apart by content, and fits it to the graph, for
    /// `classify-image`. Of an animation the first frame is taken; alpha is dropped and orientation
    /// in EXIF ignored, as Pillow's `convert("RGB")` does.
    ///
    /// # Errors
    /// [`TaskError::NoImage`], [`TaskError::BrokenImage`], [`TaskError::UnsupportedImage`]; and
    /// [`TaskError::ImageTooLarge`], before any pixel is decoded.
    pub fn decode_image(&self, bytes: &[u8]) -> Result<Item, TaskError> {
        let InputPlan::Image(spec) = &self.plan.input else { return Err(self.wrong_input()) };
        let levels = prepare(spec, &decode(bytes)?);
        Ok(Item { content: Content::Levels(levels), length: 1, rows: 1, group: 0, batchable: spec.batchable })
    }

    /// Takes tensors in the signature's order, for `tensor`.
    ///
    /// # Errors
    /// [`TaskError::Tensors`] for tensors that do not fit the signature; [`TaskError::UnequalRows`] when
    /// requests can be joined and the outermost dimensions differ or are 0.
    pub fn from_tensors(&self, inputs: Vec<Tensor>) -> Result<Item, TaskError> {
        if self.kind != TaskKind::Tensor {
            return Err(self.wrong_input());
        }
        let views: Vec<TensorView<'_>> = inputs.iter().map(Tensor::view).collect();
        self.signature.accept(&views).map_err(TaskError::Tensors)?;
        if !self.joins {
            return Ok(Item { content: Content::Tensors(inputs), length: 1, rows: 1, group: 0, batchable: false });
        }
        let lengths: Vec<usize> = inputs.iter().filter_map(|input| input.shape().first().copied()).collect();
        let rows = lengths.first().copied().unwrap_or(0);
        if rows == 0 || lengths.iter().any(|length| *length != rows) {
            return Err(TaskError::UnequalRows { lengths });
        }
        let mut hasher = DefaultHasher::new();
        inputs.iter().for_each(|input| input.shape().get(1..).hash(&mut hasher));
        let group = hasher.finish();
        Ok(Item { content: Content::Tensors(inputs), length: 1, rows, group, batchable: true })
    }

    /// A collator for one device thread.
    #[must_use]
    pub fn collator(&self) -> Collator {
        Collator::new(Arc::clone(&self.plan))
    }

    /// A few batches like those to come, smallest first: a lone item, a full batch of short ones, a
    /// full batch of long ones. For tensors they hold zeros, with free inner dimensions of 1.
    #[must_use]
    pub fn warm_up(&self, max_batch_size: usize, max_batch_tokens: usize) -> Vec<Vec<Item>> {
        let most = max_batch_size.max(1);
        let batch = |item: Item, rows: usize| vec![item.clone(); if item.batchable { rows.max(1) } else { 1 }];
        let mut batches = match &self.text {
            Some(text) => {
                let long = text.max_tokens().min(max_batch_tokens.max(SHORT_TEXT_TOKENS));
                let short = long.min(SHORT_TEXT_TOKENS);
                let rows = |length: usize| most.min(max_batch_tokens / length);
                let item = |length: usize| self.text_item(text.filler(length));
                vec![
                    batch(item(short), 1),
                    batch(item(short), rows(short)),
                    batch(item(long), 1),
                    batch(item(long), rows(long)),
                ]
            }
            None => {
                let Some((item, bytes)) = self.blank() else { return Vec::new() };
                let rows = most.min(MAX_WARM_UP_BYTES / bytes.max(1));
                vec![batch(item.clone(), 1), batch(item, rows)]
            }
        };
        let size = |batch: &Vec<Item>| (batch.len() * batch.first().map_or(0, |item| item.length), batch.len());
        batches.sort_by_key(size);
        batches.dedup_by_key(|batch| size(batch));
        batches
    }

    /// An image or tensors of zeros, and the bytes they take as input of the graph.
    fn blank(&self) -> Option<(Item, usize)> {
        if let InputPlan::Image(spec) = &self.plan.input {
            let content = Content::Levels(vec![0; spec.levels()]);
            let item = Item { content, length: 1, rows: 1, group: 0, batchable: spec.batchable };
            return Some((item, spec.levels() * spec.element.size()));
        }
        let length = |dim: &Dim| match dim {
            Dim::Fixed(length) => *length,
            Dim::Free(_) => 1,
        };
        let zeros = |port: &halny_engine::Port| {
            let shape: Vec<usize> = port.dims.iter().map(length).collect();
            let bytes = halny_engine::tensor::bytes_of(port.element, &shape).ok()?;
            (bytes <= MAX_WARM_UP_BYTES).then(|| Tensor::zeros(port.element, &shape).ok()).flatten()
        };
        let tensors: Vec<Tensor> = self.signature.inputs.iter().map(zeros).collect::<Option<_>>()?;
        let bytes = tensors.iter().map(|tensor| tensor.bytes().len()).sum();
        Some((self.from_tensors(tensors).ok()?, bytes))
    }

    fn text_item(&self, mut tokens: Tokens) -> Item {
        let (length, group, batchable) = match &self.plan.input {
            InputPlan::Text { ports, .. } => {
                if !ports.has(Role::Segments) {
                    tokens.types = Vec::new();
                }
                let length = ports.fixed_length.unwrap_or(tokens.ids.len());
                // Without a mask the graph takes padding for text: only equal lengths may meet.
                let group = if ports.has(Role::Mask) { 0 } else { tokens.ids.len() as u64 };
                (length, group, ports.batchable)
            }
            _ => (tokens.ids.len(), 0, false),
        };
        Item { content: Content::Tokens(tokens), length, rows: 1, group, batchable }
    }

    fn wrong_input(&self) -> TaskError {
        let takes = match self.kind {
            TaskKind::Embed | TaskKind::ClassifyText => "texts or lists of tokens",
            TaskKind::Rerank => "pairs of a query and a document",
            TaskKind::ClassifyImage => "images",
            TaskKind::Tensor => "tensors",
            TaskKind::Generate => "prompts",
        };
        TaskError::WrongInput { task: self.kind.as_str(), takes }
    }
}

/// Finds a classifier's output and its labels.
fn classifier(signature: &Signature, config: &Config, own: &Own, labels: &mut Vec<String>) -> Result<usize, TaskError> {
    let (output, scores) = score_port(signature)?;
    let said = match &own.labels {
        Some(labels) => Some(labels.clone()),
        None => config.labels()?,
    };
    *labels = match (said, scores) {
        (Some(said), Some(scores)) if said.len() != scores => {
            return Err(TaskError::Graph(format!(
                "the model's files name {} labels, but its graph gives {scores} scores",
                said.len()
            )));
        }
        (Some(said), _) if !said.is_empty() => said,
        (None, Some(scores)) => (0..scores).map(|number| format!("LABEL_{number}")).collect(),
        _ => {
            return Err(TaskError::Graph(
                "neither the model's files nor its graph say how many labels there are; name them in \
                 halny-model.json: {\"labels\": [...]}"
                    .to_owned(),
            ));
        }
    };
    Ok(output)
}

fn activation(config: &Config, own: &Own, labels: usize) -> Activation {
    let independent = labels == 1 || config.problem_type.as_deref() == Some("multi_label_classification");
    match own.scores {
        Some(ScoreForm::Probabilities) => Activation::None,
        _ if independent => Activation::Sigmoid,
        _ => Activation::Softmax,
    }
}

fn reranker(signature: &Signature, own: &Own) -> Result<OutputPlan, TaskError> {
    let (output, scores) = score_port(signature)?;
    if let Some(scores @ (0 | 2..)) = scores {
        return Err(TaskError::Graph(format!(
            "the graph gives {scores} scores a pair; a reranker gives 1 (serve it as task \"classify-text\" otherwise)"
        )));
    }
    let activation = if own.scores == Some(ScoreForm::Probabilities) { Activation::None } else { Activation::Sigmoid };
    Ok(OutputPlan::Score { output, activation })
}
