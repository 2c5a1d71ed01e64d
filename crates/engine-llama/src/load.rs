//! From a file to a context that is ready.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use halny_engine::{
    CellFormat, Choice, DecoderLimits, Device, EngineError, LanguageModel, LanguageSpec, LoadPhase, LoadedLanguage,
};
use halny_types::Tick;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};

use crate::backends::Backend;
use crate::decoder::{LlamaDecoder, OwnedContext};
use crate::encoder::only_reads;
use crate::model::{LlamaLanguage, architecture};

/// `LLAMA_MAX_SEQ` in llama.cpp's sources.
const SEQUENCES_MAX: usize = 256;

/// Tokens that are computed at once; a longer step runs as several. llama.cpp's default: more makes
/// its buffers larger (by the vocabulary) and nothing faster.
const BATCH_TOKENS_MAX: usize = 512;

pub(crate) fn load(backend: &Backend, spec: &LanguageSpec) -> Result<LoadedLanguage, EngineError> {
    let (choice, device) = choose(backend, spec.device)?;
    let mut phases = Vec::new();
    let mut phase = |name: &'static str, began: Tick| {
        phases.push(LoadPhase { name, took: began.until(Tick::now()), warm: false });
    };
    let began = Tick::now();
    let mut model = weights(backend, &spec.weights, device, spec.device_layers)?;
    if only_reads(&architecture(&model)) {
        return Err(EngineError::Load(
            "the file's model reads and cannot write; serve it as task \"embed\", \"rerank\" or \"classify-text\", \
             with its name as `text.file`"
                .to_owned(),
        ));
    }
    let adapters = adapters(&mut model, spec)?;
    phase("weights", began);
    let began = Tick::now();
    let model = Arc::new(model);
    let language = LlamaLanguage::of(Arc::clone(&model));
    phase("vocabulary", began);
    let began = Tick::now();
    let (context, cells) = context(backend, &model, spec)?;
    phase("cells", began);
    let limits = DecoderLimits {
        cells,
        sequences: spec.sequences.min(SEQUENCES_MAX),
        step_tokens: spec.step_tokens,
        context: language.card().context_trained.min(cells),
        shares: !model.is_recurrent() && !model.is_hybrid(),
    };
    let memory_bytes = model.size() + cell_bytes(&model, spec.cell_format).saturating_mul(cells as u64);
    Ok(LoadedLanguage {
        model: Arc::new(language),
        decoder: Box::new(LlamaDecoder::new(context, limits, choice.device == Device::Cpu, adapters)),
        choice,
        memory_bytes,
        phases,
    })
}

/// The device, and its place in llama.cpp's list unless it is the processor.
pub(crate) fn choose(backend: &Backend, wanted: Device) -> Result<(Choice, Option<usize>), EngineError> {
    let cuda = backend.cuda();
    let chosen = |device, reason: String, index| Ok((Choice { device, reason }, index));
    match wanted {
        Device::Cpu => chosen(Device::Cpu, "the profile names it".to_owned(), None),
        Device::Auto => match cuda.first() {
            Some(found) => chosen(found.device, format!("{} is the first GPU", found.description), Some(found.index)),
            None => chosen(Device::Cpu, format!("no GPU can be used: {}", backend.no_cuda()), None),
        },
        Device::Cuda(number) => match cuda.iter().find(|found| found.device == wanted) {
            Some(found) => {
                chosen(found.device, format!("the profile names it ({})", found.description), Some(found.index))
            }
            None if cuda.is_empty() => {
                Err(EngineError::Load(format!("cuda:{number} cannot be used: {}", backend.no_cuda())))
            }
            None => Err(EngineError::Load(format!(
                "cuda:{number} cannot be used: this machine has {} CUDA device(s), numbered from 0",
                cuda.len()
            ))),
        },
        Device::TensorRt(_) => Err(EngineError::Load(
            "llama.cpp does not run on TensorRT; write \"cuda:0\" or \"cpu\" for the device of a GGUF model".to_owned(),
        )),
    }
}

/// Maps the file. `layers` of it go to the device, all where it does not say.
pub(crate) fn weights(
    backend: &Backend,
    file: &Path,
    device: Option<usize>,
    layers: Option<u32>,
) -> Result<LlamaModel, EngineError> {
    LlamaModel::load_from_file(backend.llama(), file, &model_params(device, layers)?)
        .map_err(|error| EngineError::Load(format!("llama.cpp cannot load the model: {error}; its log says why")))
}

fn model_params(device: Option<usize>, layers: Option<u32>) -> Result<LlamaModelParams, EngineError> {
    let params = LlamaModelParams::default().with_use_mmap(true);
    let Some(index) = device else { return Ok(params.with_n_gpu_layers(0)) };
    let layers = layers.unwrap_or(i32::MAX as u32).min(i32::MAX as u32);
    params
        .with_n_gpu_layers(layers)
        .with_devices(&[index])
        .map_err(|error| EngineError::Load(format!("llama.cpp cannot use the device: {error}")))
}

fn adapters(model: &mut LlamaModel, spec: &LanguageSpec) -> Result<Vec<(LlamaLoraAdapter, f32)>, EngineError> {
    let load = |(place, adapter): (usize, &halny_engine::AdapterSpec)| {
        let loaded = model.lora_adapter_init(&adapter.weights).map_err(|error| {
            EngineError::Load(format!("adapter {place} does not fit the model: {error}; llama.cpp's log says why"))
        })?;
        Ok((loaded, adapter.scale))
    };
    spec.adapters.iter().enumerate().map(load).collect()
}

fn context(
    backend: &Backend,
    model: &Arc<LlamaModel>,
    spec: &LanguageSpec,
) -> Result<(OwnedContext, usize), EngineError> {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let format = match spec.cell_format {
        CellFormat::F16 => KvCacheType::F16,
        CellFormat::Q8 => KvCacheType::Q8_0,
        CellFormat::Q4 => KvCacheType::Q4_0,
    };
    let mut params = context_params(spec.threads)
        .with_n_ctx(NonZeroU32::new(number(spec.cells)))
        .with_n_batch(number(spec.step_tokens))
        .with_n_ubatch(number(spec.step_tokens.min(BATCH_TOKENS_MAX)))
        .with_n_seq_max(number(spec.sequences.min(SEQUENCES_MAX)))
        .with_type_k(format)
        .with_type_v(format)
        .with_swa_full(true)
        .with_offload_kqv(true);
    if let Some(on) = spec.flash_attention {
        params = params.with_flash_attention_policy(if on {
            llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED
        } else {
            llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED
        });
    }
    let made = create(backend, model, params, &format!("{} cells", spec.cells), "cells")?;
    let cells = made.with_dependent(|_, context| context.n_ctx() as usize);
    Ok((made, cells))
}

/// What is asked of every context: its threads, and one cache for all sequences.
pub(crate) fn context_params(threads: usize) -> LlamaContextParams {
    let threads = i32::try_from(threads.max(1)).unwrap_or(i32::MAX);
    LlamaContextParams::default()
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_kv_unified(true)
        .with_no_perf(true)
}

/// Makes a context, which needs room for something that a `setting` makes less of.
pub(crate) fn create(
    backend: &Backend,
    model: &Arc<LlamaModel>,
    params: LlamaContextParams,
    room_for: &str,
    setting: &str,
) -> Result<OwnedContext, EngineError> {
    let _turn = backend.creating().lock();
    OwnedContext::try_new(Arc::clone(model), |model| model.new_context(backend.llama(), params)).map_err(|error| {
        EngineError::Load(format!(
            "llama.cpp cannot make room for {room_for}: {error}; lower `{setting}`, or see its log"
        ))
    })
}

/// Bytes of one cell: keys and values of every layer.
fn cell_bytes(model: &LlamaModel, format: CellFormat) -> u64 {
    let architecture = architecture(model);
    let length = |key: &str| {
        let read = model.meta_val_str(&format!("{architecture}.attention.{key}")).ok();
        let heads = u64::from(model.n_head()).max(1);
        let even = u64::try_from(model.n_embd()).unwrap_or(0) / heads;
        read.and_then(|text| text.parse::<u64>().ok()).unwrap_or(even)
    };
    let numbers =
        u64::from(model.n_layer()) * u64::from(model.n_head_kv()) * (length("key_length") + length("value_length"));
    match format {
        CellFormat::F16 => numbers * 2,
        // 32 numbers and a scale of two bytes.
        CellFormat::Q8 => numbers * 34 / 32,
        CellFormat::Q4 => numbers * 18 / 32,
    }
}
