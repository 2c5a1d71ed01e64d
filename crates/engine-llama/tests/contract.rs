//! The contract of a decoder, kept by llama.cpp with a real model; and that its words are llama.cpp's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::PathBuf;

use halny_engine::testsuite::decoder::{contract, say};
use halny_engine::testsuite::fetched;
use halny_engine::{
    AdapterSpec, CellFormat, Device, EngineError, LanguageEngine, LanguageSpec, LoadedLanguage, SequenceId, Specials,
};
use halny_engine_llama::LlamaEngine;

fn gemma() -> PathBuf {
    fetched("models/gemma3-270m/model.gguf")
}

fn spec() -> LanguageSpec {
    LanguageSpec {
        weights: gemma(),
        device: Device::Cpu,
        device_layers: None,
        threads: 1,
        cells: 512,
        sequences: 8,
        step_tokens: 64,
        cell_format: CellFormat::F16,
        flash_attention: None,
        adapters: Vec::new(),
    }
}

fn load(spec: &LanguageSpec) -> LoadedLanguage {
    LlamaEngine.load(spec).unwrap()
}

#[test]
fn gemma_keeps_the_contract_on_every_device_of_this_machine() {
    for device in LlamaEngine.devices() {
        let mut loaded = load(&LanguageSpec { device, ..spec() });
        assert_eq!(loaded.choice.device, device);
        contract(loaded.model.as_ref(), loaded.decoder.as_mut());
    }
}

/// Of a build with CUDA, without a device too: the library is there, and loading it does no harm.
#[cfg(feature = "cuda")]
#[test]
fn the_library_for_cuda_is_loaded() {
    assert!(LlamaEngine.devices().contains(&Device::Cpu));
    let mapped = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(mapped.contains("libggml-cuda.so"), "it could not be loaded");
}

#[test]
fn smaller_cells_say_the_same_of_what_is_clear() {
    let text = "Monday, Tuesday, Wednesday, Thursday,";
    let words = |cell_format| {
        let mut loaded = load(&LanguageSpec { cell_format, ..spec() });
        let prompt = loaded.model.tokenise(text, Specials::AsText, true);
        let said = say(loaded.decoder.as_mut(), SequenceId(0), &prompt, 0, 64, 1);
        String::from_utf8(loaded.model.piece(said[0]).to_vec()).unwrap()
    };
    assert_eq!([words(CellFormat::F16), words(CellFormat::Q8)], [" Friday", " Friday"]);
}

#[test]
fn characters_that_no_token_has_are_their_bytes_however_many_there_are() {
    let loaded = load(&spec());
    let model = loaded.model.as_ref();
    // Of a private use plane: no model has it. More of them than llama.cpp is given at a time.
    let unit = "\u{f0000} two  words and a line\n";
    let of_one = model.tokenise(unit, Specials::AsText, false);
    assert!(of_one[..4].iter().all(|token| model.piece(*token).len() == 1), "{of_one:?}");
    for specials in [Specials::AsText, Specials::Parsed] {
        assert_eq!(model.tokenise(&unit.repeat(3_000), specials, false), of_one.repeat(3_000));
    }
    assert!(model.card().token_bytes_max > 30, "{}", model.card().token_bytes_max);
}

#[test]
fn the_card_and_the_vocabulary_are_the_files_own() {
    let loaded = load(&spec());
    let card = loaded.model.card();
    assert_eq!((card.architecture.as_str(), card.quantisation.as_str()), ("gemma3", "Q4_K_M"));
    assert_eq!((card.vocabulary, card.context_trained), (262_144, 32_768));
    assert_eq!(card.begin, Some((2, "<bos>".to_owned())));
    let model = loaded.model.as_ref();
    for text in ["Hello, world!", " two  spaces", "naïve café 日本語 🦀", "tabs\tand\nlines", "<eos>"] {
        let tokens = model.tokenise(text, Specials::AsText, false);
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| model.piece(*token)).copied().collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }
    let parsed = model.tokenise("<start_of_turn>user", Specials::Parsed, true);
    assert_eq!(model.special(parsed[1]), Some("<start_of_turn>"));
    assert!(model.tokenise("<start_of_turn>user", Specials::AsText, true).len() > parsed.len());
    assert!(model.tokenise("", Specials::AsText, false).is_empty());
    assert!(model.piece(u32::MAX).is_empty() && model.special(u32::MAX).is_none());
    assert!(model.ends(card.end.as_ref().unwrap().0));
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let refused = |spec: &LanguageSpec| match LlamaEngine.load(spec) {
        Err(EngineError::Load(text)) => text,
        other => panic!("{other:?}"),
    };
    if !LlamaEngine.devices().contains(&Device::Cuda(0)) {
        let why =
            if cfg!(feature = "cuda") { "found no device; it needs NVIDIA's driver" } else { "built without CUDA" };
        let refusal = refused(&LanguageSpec { device: Device::Cuda(0), ..spec() });
        assert!(refusal.contains(why), "{refusal}");
    }
    assert!(refused(&LanguageSpec { device: Device::TensorRt(0), ..spec() }).contains("TensorRT"));
    let nothing = tempfile::NamedTempFile::new().unwrap();
    assert!(refused(&LanguageSpec { weights: nothing.path().to_path_buf(), ..spec() }).contains("cannot load"));
    let adapter = AdapterSpec { weights: nothing.path().to_path_buf(), scale: 1.0 };
    assert!(refused(&LanguageSpec { adapters: vec![adapter], ..spec() }).contains("adapter 0"));
}
