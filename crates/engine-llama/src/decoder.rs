//! One llama.cpp context: its cells, its steps, its logits.

use std::sync::Arc;

use halny_engine::{Decoder, DecoderLimits, EngineError, RunReport, SequenceId, StepToken};
use halny_types::Tick;
use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_2::token::LlamaToken;
use self_cell::self_cell;

use crate::cells;

self_cell!(
    /// A context and the model that it borrows.
    pub(crate) struct OwnedContext {
        owner: Arc<LlamaModel>,
        #[not_covariant]
        dependent: LlamaContext,
    }
);

/// A context with the buffers that are reused from step to step.
pub(crate) struct LlamaDecoder {
    context: OwnedContext,
    batch: LlamaBatch<'static>,
    limits: DecoderLimits,
    /// Whether attention is computed in tiles of queries, so that many sequences in one batch are dear.
    tiles: bool,
    adapters: Vec<(LlamaLoraAdapter, f32)>,
    /// The adapter that is set, by its place.
    adapter: Option<usize>,
    /// The places in the last batch of the tokens that wanted logits.
    rows: Vec<i32>,
}

impl LlamaDecoder {
    pub(crate) fn new(
        context: OwnedContext,
        limits: DecoderLimits,
        tiles: bool,
        adapters: Vec<(LlamaLoraAdapter, f32)>,
    ) -> LlamaDecoder {
        let batch = LlamaBatch::new(limits.step_tokens, 1);
        LlamaDecoder { context, batch, limits, tiles, adapters, adapter: None, rows: Vec::new() }
    }

    fn set_adapter(&mut self, wanted: Option<usize>) -> Result<(), EngineError> {
        if self.adapter == wanted {
            return Ok(());
        }
        let failed = |cause: String| EngineError::Run { cause };
        let adapters = &mut self.adapters;
        self.context.with_dependent_mut(|_, context| match wanted {
            Some(place) => {
                let (adapter, scale) =
                    adapters.get_mut(place).ok_or_else(|| failed(format!("there is no adapter {place}")))?;
                context.lora_adapter_set(adapter, *scale).map_err(|error| failed(error.to_string()))
            }
            None => match adapters.first_mut() {
                // The binding wants an adapter and takes all of them away.
                Some((adapter, _)) => context.lora_adapter_remove(adapter).map_err(|error| failed(error.to_string())),
                None => Ok(()),
            },
        })?;
        self.adapter = wanted;
        Ok(())
    }

    /// Computes tokens as one batch; the rows of logits are then theirs.
    fn run(&mut self, tokens: &[StepToken]) -> Result<(), EngineError> {
        self.fill(tokens)?;
        if tokens.is_empty() {
            return Ok(());
        }
        let batch = &mut self.batch;
        let ran = self.context.with_dependent_mut(|_, context| {
            let ran = context.decode(batch);
            context.synchronize();
            ran
        });
        ran.map_err(|error| match error {
            DecodeError::NoKvCacheSlot => EngineError::Memory,
            other => EngineError::Run { cause: other.to_string() },
        })
    }

    fn fill(&mut self, tokens: &[StepToken]) -> Result<(), EngineError> {
        let failed = |cause: String| EngineError::Run { cause };
        self.batch.clear();
        self.rows.clear();
        for (place, token) in (0..).zip(tokens) {
            let id = i32::try_from(token.token).map_err(|error| failed(error.to_string()))?;
            let position = i32::try_from(token.position).map_err(|error| failed(error.to_string()))?;
            self.batch
                .add(LlamaToken(id), position, &[i32::from(token.sequence.0)], token.wants_logits)
                .map_err(|error| failed(error.to_string()))?;
            if token.wants_logits {
                self.rows.push(place);
            }
        }
        Ok(())
    }
}

impl Decoder for LlamaDecoder {
    fn limits(&self) -> DecoderLimits {
        self.limits
    }

    fn step(&mut self, tokens: &[StepToken], adapter: Option<usize>) -> Result<RunReport, EngineError> {
        let began = Tick::now();
        self.set_adapter(adapter)?;
        let ran = if self.tiles && cells::is_dear(tokens) {
            let (fill, write) = cells::cut(tokens);
            self.run(&fill).and_then(|()| self.run(&write))
        } else {
            self.run(tokens)
        };
        if let Err(error) = ran {
            self.rows.clear();
            // A step of several batches may have failed in the middle.
            for (sequence, first) in cells::starts(tokens) {
                self.keep(sequence, first);
            }
            return Err(error);
        }
        Ok(RunReport { device_time: began.until(Tick::now()) })
    }

    fn logits(&self, row: usize) -> &[f32] {
        match self.rows.get(row) {
            Some(place) => self.context.with_dependent(|_, context| context.get_logits_ith(*place)),
            None => &[],
        }
    }

    fn share(&mut self, from: SequenceId, to: SequenceId, tokens: u32) {
        self.context.with_dependent_mut(|_, context| {
            let copied = context.copy_kv_cache_seq(i32::from(from.0), i32::from(to.0), Some(0), Some(tokens));
            debug_assert!(copied.is_ok(), "{copied:?}");
        });
    }

    fn keep(&mut self, sequence: SequenceId, tokens: u32) {
        self.context.with_dependent_mut(|_, context| {
            let cut = context.clear_kv_cache_seq(Some(u32::from(sequence.0)), Some(tokens), None);
            debug_assert_eq!(cut, Ok(true));
        });
    }
}
