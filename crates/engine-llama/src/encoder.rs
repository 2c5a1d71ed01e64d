//! Models that read only: contexts whose batches are whole texts, and what belongs around a text.

use std::num::NonZeroU32;
use std::sync::Arc;

use halny_engine::{
    Dim, ElementType, EncoderSpec, EngineError, Head, Instance, LanguageModel, LoadPhase, Loaded, LoadedEncoder,
    Pooling, Port, RunReport, Signature, Tensor, TensorView, TokenFrame,
};
use halny_types::Tick;
use llama_cpp_2::context::params::LlamaPoolingType;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::backends::Backend;
use crate::decoder::OwnedContext;
use crate::load::{choose, context_params, create, weights};
use crate::model::{LlamaLanguage, architecture, token_id};

/// Tokens of a batch of short texts. Attention is computed for every token with every other of its
/// batch, of whichever text: many texts at once cost more than the same texts in turn.
const BATCH_TOKENS: usize = 256;

/// Texts of a batch.
const BATCH_TEXTS: usize = 64;

pub(crate) fn load(backend: &Backend, spec: &EncoderSpec) -> Result<LoadedEncoder, EngineError> {
    let (choice, device) = choose(backend, spec.device)?;
    let mut phases = Vec::new();
    let mut phase = |name: &'static str, began: Tick| {
        phases.push(LoadPhase { name, took: began.until(Tick::now()), warm: false });
    };
    let began = Tick::now();
    let model = Arc::new(weights(backend, &spec.weights, device, None)?);
    let family = Family::of(&model)?;
    let pooling = family.pooling(&model, spec.head)?;
    phase("weights", began);
    let began = Tick::now();
    let frame = frame(&model, spec.head)?;
    let language = LlamaLanguage::of(Arc::clone(&model));
    phase("vocabulary", began);
    let began = Tick::now();
    let tokens_max = spec.tokens_max.min(language.card().context_trained);
    let signature = signature(&model, spec.head);
    let instance = |_| {
        let context = context(backend, &model, spec.threads, tokens_max, pooling)?;
        let vocabulary = language.card().vocabulary;
        Ok(Box::new(LlamaEncoder::new(context, signature.clone(), tokens_max, vocabulary)) as Box<dyn Instance>)
    };
    let instances = (0..spec.instances).map(instance).collect::<Result<Vec<_>, EngineError>>()?;
    phase("contexts", began);
    Ok(LoadedEncoder {
        probabilities: family.gives_probabilities,
        model: Arc::new(language),
        frame,
        tokens_max,
        loaded: Loaded { signature, choice, instances, memory_bytes: model.size(), phases },
    })
}

/// The key of the prompt that a language model trained as a reranker expects (Qwen3-Reranker).
const RERANK_PROMPT: &str = "tokenizer.chat_template.rerank";

/// Architectures that llama.cpp b11434 gives no cells: `create_memory` in its llama-model.cpp. Their
/// tokens see those behind them too, so nothing can be written with them.
#[rustfmt::skip]
const READERS: &[&str] = &[
    "bert", "clef", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe",
    "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "wavtokenizer-dec",
];

/// Whether models of this architecture read only.
pub(crate) fn only_reads(architecture: &str) -> bool {
    READERS.contains(&architecture)
}

/// What a model's file says of how it reads.
struct Family {
    architecture: String,
    /// Whether a token sees only what is before it.
    is_causal: bool,
    /// llama.cpp puts a softmax behind the heads of these.
    gives_probabilities: bool,
}

impl Family {
    fn of(model: &LlamaModel) -> Result<Family, EngineError> {
        let architecture = architecture(model);
        if matches!(architecture.as_str(), "t5" | "t5encoder") {
            return Err(EngineError::Load(format!(
                "models of the kind {architecture} are not read from GGUF files; serve an ONNX graph of it"
            )));
        }
        if model.is_recurrent() || model.is_hybrid() {
            return Err(EngineError::Load(format!(
                "models of the kind {architecture} keep a state instead of tokens, and give no vectors or scores"
            )));
        }
        let causal = model.meta_val_str(&format!("{architecture}.attention.causal"));
        Ok(Family {
            is_causal: causal.map_or(!only_reads(&architecture), |says| says == "true"),
            gives_probabilities: matches!(architecture.as_str(), "qwen3" | "qwen3vl"),
            architecture,
        })
    }

    fn pooling(&self, model: &LlamaModel, head: Head) -> Result<LlamaPoolingType, EngineError> {
        let says = model.meta_val_str(&format!("{}.pooling_type", self.architecture)).ok();
        let filed = says.and_then(|number| number.parse().ok()).map_or(LlamaPoolingType::Unspecified, i32::into);
        let labels = model.n_cls_out();
        match (head, filed) {
            (Head::Vector(Some(Pooling::Mean)), _) => Ok(LlamaPoolingType::Mean),
            (Head::Vector(Some(Pooling::Cls)), _) => Ok(LlamaPoolingType::Cls),
            (Head::Vector(Some(Pooling::Last)), _) => Ok(LlamaPoolingType::Last),
            (Head::Vector(None), LlamaPoolingType::Rank) => Err(EngineError::Load(
                "the file holds a reranker or classifier; serve it as task \"rerank\" or \"classify-text\", or set \
                 `text.pooling` for its vectors"
                    .to_owned(),
            )),
            (Head::Vector(None), LlamaPoolingType::Unspecified | LlamaPoolingType::None) => {
                Ok(if self.is_causal { LlamaPoolingType::Last } else { LlamaPoolingType::Mean })
            }
            (Head::Vector(None), filed) => Ok(filed),
            (Head::Relevance, LlamaPoolingType::Rank) if labels > 1 && !self.gives_probabilities => {
                Err(EngineError::Load(format!(
                    "the file's head gives {labels} scores a pair; a reranker gives 1 (serve it as task \
                     \"classify-text\" otherwise)"
                )))
            }
            (Head::Scores | Head::Relevance, LlamaPoolingType::Rank) => Ok(LlamaPoolingType::Rank),
            (Head::Scores | Head::Relevance, _) => {
                Err(EngineError::Load("the file has no classification head; serve it as task \"embed\"".to_owned()))
            }
        }
    }
}

fn signature(model: &LlamaModel, head: Head) -> Signature {
    let port = |name: &str, element, inner| Port {
        name: name.to_owned(),
        element,
        dims: vec![Dim::Free("batch".to_owned()), inner],
    };
    let input = |name| port(name, ElementType::I32, Dim::Free("tokens".to_owned()));
    let width = usize::try_from(model.n_embd_out()).unwrap_or(0);
    let output = match head {
        Head::Vector(_) => port("sentence_embedding", ElementType::F32, Dim::Fixed(width)),
        Head::Scores => port("logits", ElementType::F32, Dim::Fixed(model.n_cls_out() as usize)),
        Head::Relevance => port("logits", ElementType::F32, Dim::Fixed(1)),
    };
    Signature { inputs: vec![input("input_ids"), input("attention_mask")], outputs: vec![output] }
}

/// What belongs around texts: by the file's prompt where two texts are compared and it has one, else
/// what the vocabulary puts around a text, learned by having it done to one.
fn frame(model: &LlamaModel, head: Head) -> Result<TokenFrame, EngineError> {
    let prompt = model.meta_val_str(RERANK_PROMPT).ok().filter(|_| head == Head::Relevance);
    if let Some(prompt) = prompt {
        return prompted(model, &prompt);
    }
    let vocab = model.vocab();
    let tokens = |special| vocab.tokenize(b"a", special, false).into_iter().map(token_id).collect::<Vec<_>>();
    let (plain, framed) = (tokens(false), tokens(true));
    let starts = if plain.is_empty() { None } else { framed.windows(plain.len()).position(|window| window == plain) };
    let start = starts.ok_or_else(|| {
        EngineError::Load("the file's vocabulary does not put a text's tokens between its special ones".to_owned())
    })?;
    let after = framed.get(start + plain.len()..).unwrap_or_default().to_vec();
    let end = vocab.should_add_eos().then(|| token_id(vocab.eos()));
    let separator = vocab.should_add_sep().then(|| token_id(vocab.sep()));
    Ok(TokenFrame {
        before: framed.get(..start).unwrap_or_default().to_vec(),
        between: end.into_iter().chain(separator).collect(),
        after,
        ..TokenFrame::default()
    })
}

/// A prompt in which `{query}` and `{document}` stand for the two texts. Only its own special tokens are
/// read as such: those that a client writes are text.
fn prompted(model: &LlamaModel, prompt: &str) -> Result<TokenFrame, EngineError> {
    let parts = prompt.split_once("{query}").and_then(|(before, rest)| {
        let (between, after) = rest.split_once("{document}")?;
        Some((before, between, after))
    });
    let (before, between, after) = parts.ok_or_else(|| {
        EngineError::Load(format!(
            "the prompt in the file's key {RERANK_PROMPT} has no {{query}} with {{document}} behind it"
        ))
    })?;
    let tokens = |part: &str| {
        let tokens = model.vocab().tokenize(part.as_bytes(), false, true);
        if part.is_empty() { Vec::new() } else { tokens.into_iter().map(token_id).collect() }
    };
    let (before, first_start) = before.split_at(before.trim_end().len());
    let (first_end, between) = between.split_at(between.len() - between.trim_start().len());
    let (between, second_start) = between.split_at(between.trim_end().len());
    let (second_end, after) = after.split_at(after.len() - after.trim_start().len());
    Ok(TokenFrame {
        before: tokens(before),
        between: tokens(between),
        after: tokens(after),
        around_first: [first_start.to_owned(), first_end.to_owned()],
        around_second: [second_start.to_owned(), second_end.to_owned()],
    })
}

fn context(
    backend: &Backend,
    model: &Arc<LlamaModel>,
    threads: usize,
    tokens_max: usize,
    pooling: LlamaPoolingType,
) -> Result<OwnedContext, EngineError> {
    let tokens = u32::try_from(room(tokens_max)).unwrap_or(u32::MAX);
    let params = context_params(threads)
        .with_n_ctx(NonZeroU32::new(tokens))
        // A text has to be read at once.
        .with_n_batch(tokens)
        .with_n_ubatch(tokens)
        .with_n_seq_max(BATCH_TEXTS as u32)
        .with_embeddings(true)
        .with_pooling_type(pooling);
    create(backend, model, params, &format!("texts of {tokens} tokens"), "text.max_tokens")
}

/// Tokens of the largest batch: one long text, or several short ones.
fn room(tokens_max: usize) -> usize {
    tokens_max.max(BATCH_TOKENS)
}

/// A context with the buffers that are reused from run to run.
struct LlamaEncoder {
    context: OwnedContext,
    batch: LlamaBatch<'static>,
    signature: Signature,
    tokens_max: usize,
    vocabulary: usize,
}

impl LlamaEncoder {
    fn new(context: OwnedContext, signature: Signature, tokens_max: usize, vocabulary: usize) -> LlamaEncoder {
        let batch = LlamaBatch::new(room(tokens_max), 1);
        LlamaEncoder { context, batch, signature, tokens_max, vocabulary }
    }

    /// The tokens of each row.
    fn rows<'a>(&self, inputs: &[TensorView<'a>]) -> Result<Vec<&'a [i32]>, EngineError> {
        self.signature.accept(inputs)?;
        let [ids, mask] = inputs else { return Ok(Vec::new()) };
        let (Some(tokens), Some(marks)) = (ids.elements::<i32>(), mask.elements::<i32>()) else {
            return Ok(Vec::new());
        };
        if ids.shape != mask.shape {
            return Err(EngineError::Input(format!(
                "\"input_ids\" has the shape {:?}, \"attention_mask\" {:?}; they have to be equal",
                ids.shape, mask.shape
            )));
        }
        let width = ids.shape.get(1).copied().unwrap_or(0).max(1);
        tokens.chunks(width).zip(marks.chunks(width)).map(|(tokens, marks)| self.row(tokens, marks)).collect()
    }

    fn row<'a>(&self, tokens: &'a [i32], marks: &[i32]) -> Result<&'a [i32], EngineError> {
        let length = marks.iter().take_while(|mark| **mark != 0).count();
        if length == 0 || marks.iter().skip(length).any(|mark| *mark != 0) {
            return Err(EngineError::Input(
                "each row of \"attention_mask\" is ones, then zeros; at least one 1".to_owned(),
            ));
        }
        if length > self.tokens_max {
            return Err(EngineError::Input(format!("{length} tokens are more than the limit of {}", self.tokens_max)));
        }
        let row = tokens.get(..length).unwrap_or_default();
        match row.iter().find(|token| usize::try_from(**token).map_or(true, |token| token >= self.vocabulary)) {
            Some(token) => {
                Err(EngineError::Input(format!("{token} is not a token; the model knows {}", self.vocabulary)))
            }
            None => Ok(row),
        }
    }

    /// Computes the rows of one batch, and hands each row's numbers to `give`.
    fn compute(&mut self, rows: &[&[i32]], mut give: impl FnMut(&[f32])) -> Result<(), EngineError> {
        self.batch.clear();
        for (text, row) in (0..).zip(rows) {
            for (position, token) in (0..).zip(row.iter()) {
                self.batch.add(LlamaToken(*token), position, &[text], true).map_err(failed)?;
            }
        }
        let batch = &mut self.batch;
        self.context.with_dependent_mut(|_, context| {
            context.clear_kv_cache();
            context.decode(batch).map_err(failed)?;
            context.synchronize();
            for (text, _) in (0..).zip(rows) {
                give(context.embeddings_seq_ith(text).map_err(failed)?);
            }
            Ok(())
        })
    }
}

fn failed(error: impl std::fmt::Display) -> EngineError {
    EngineError::Run { cause: error.to_string() }
}

/// Rows in order, cut into batches of at most [`BATCH_TEXTS`] texts and, unless one text is longer,
/// [`BATCH_TOKENS`] tokens.
fn batches<'a, 'b>(rows: &'a [&'b [i32]]) -> impl Iterator<Item = &'a [&'b [i32]]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fits = |row: &&&[i32]| {
            tokens += row.len();
            tokens <= BATCH_TOKENS
        };
        let count = rest.iter().take(BATCH_TEXTS).take_while(fits).count().max(1);
        let (batch, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(batch)
    })
}

impl Instance for LlamaEncoder {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, inputs: &[TensorView<'_>], outputs: &mut Vec<Tensor>) -> Result<RunReport, EngineError> {
        let rows = self.rows(inputs)?;
        let began = Tick::now();
        let width = match self.signature.outputs.first().and_then(|port| port.dims.get(1)) {
            Some(Dim::Fixed(width)) => *width,
            _ => 0,
        };
        outputs.resize_with(1, || Tensor::empty(ElementType::F32));
        let Some(output) = outputs.first_mut() else { return Ok(RunReport::default()) };
        output.reset(ElementType::F32, &[rows.len(), width])?;
        let mut places = output.elements_mut::<f32>().unwrap_or_default().chunks_mut(width.max(1));
        for batch in batches(&rows) {
            self.compute(batch, |numbers| {
                if let Some((place, numbers)) = places.next().zip(numbers.get(..width)) {
                    place.copy_from_slice(numbers);
                }
            })?;
        }
        Ok(RunReport { device_time: began.until(Tick::now()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_batch_and_no_batch_of_several_is_too_large() {
        let tokens = vec![0; 8 * BATCH_TOKENS];
        for lengths in
            [vec![], vec![1; 200], vec![BATCH_TOKENS + 1, 1, BATCH_TOKENS, 3], vec![100, 100, 56, 1, 5 * BATCH_TOKENS]]
        {
            let rows: Vec<&[i32]> = lengths.iter().map(|length| &tokens[..*length]).collect();
            let cut: Vec<&[&[i32]]> = batches(&rows).collect();
            assert_eq!(cut.concat(), rows);
            for batch in cut {
                let sum: usize = batch.iter().map(|row| row.len()).sum();
                assert!(batch.len() <= BATCH_TEXTS && (batch.len() == 1 || sum <= BATCH_TOKENS), "{}", batch.len());
            }
        }
    }
}
