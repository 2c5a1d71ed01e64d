//! What tokenizers are built from.

use super::*;
use crate::testsuite::gguf::{F32, Value};

/// A model with the vocabulary `tokens` of the kind `model`, and nothing else said of them.
fn with_tokens<T: AsRef<[u8]>>(model: &str, tokens: &[T]) -> Builder {
    let tokens: Vec<Vec<u8>> = tokens.iter().map(|token| token.as_ref().to_vec()).collect();
    let count = tokens.len() as u64;
    let mut file = Builder::model().set("tokenizer.ggml.model", model).set("tokenizer.ggml.tokens", tokens);
    file.keys.retain(|(key, _)| {
        !key.ends_with(b"_token_id") && !key.ends_with(b".scores") && !key.ends_with(b".token_type")
    });
    file.tensor("token_embd.weight", &[32, count], F32)
}

fn words(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("w{number}")).collect()
}

#[test]
fn a_model_without_a_tokenizer_is_refused() {
    for model in ["none", "no_vocab", "test", "none\0x"] {
        refused(&Builder::model().set("tokenizer.ggml.model", model), "no tokenizer");
    }
    refused(&Builder::model().without("tokenizer.ggml.model"), "no key tokenizer.ggml.model");
    refused(&Builder::model().without("tokenizer.ggml.tokens"), "no key tokenizer.ggml.tokens");
    refused(&Builder::model().set("tokenizer.ggml.tokens", vec![1_u32]), "not an array of texts");
    refused(&Builder::model().set("tokenizer.ggml.tokens", Vec::<String>::new()), "has 0 tokens");
    refused(&Builder::model().set("tokenizer.chat_template", 3_u32), "chat_template is u32, not a text");
}

#[test]
fn tokens_that_llama_cpp_would_take_for_the_same_are_refused() {
    let with = |tokens: &[&[u8]]| {
        let words = words(20);
        let all: Vec<&[u8]> = words.iter().map(String::as_bytes).chain(tokens.iter().copied()).collect();
        with_tokens("gpt2", &all)
    };
    accepted(&with(&[b"a", b"b", b"", b"\xff"]));
    refused(&with(&[b"w3"]), "token 20 stands in the vocabulary twice");
    refused(&with(&[b"a\0b", b"a\0c"]), "token 21 stands in the vocabulary twice");
    refused(&with(&[b"", b"[EMPTY_20]"]), "named like an empty one");
    accepted(&with(&[b"", b"\0\0", b"[EMPTY_99]"]));
    refused(&with(&[&[b't'; 4097]]), "token 20 has 4097 bytes");
}

#[test]
fn lists_beside_the_tokens_must_be_as_long() {
    let set = |key: &str, value: Value| Builder::model().set(&format!("tokenizer.ggml.{key}"), value);
    refused(&set("scores", vec![0_f32; 259].into()), "tokenizer.ggml.scores has 259 entries for 260 tokens");
    refused(&set("scores", vec![0_f32; 261].into()), "261 entries");
    refused(&set("scores", vec![0_f64; 260].into()), "an array of f64, not an array of f32 or i32");
    refused(&set("scores", 1_f32.into()), "scores is f32");
    let mut scores = vec![0_f32; 260];
    scores[7] = f32::NAN;
    refused(&set("scores", scores.clone().into()), "NaN");
    scores[7] = f32::INFINITY;
    refused(&set("scores", scores.clone().into()), "infinity");
    scores[7] = f32::NEG_INFINITY;
    accepted(&set("scores", scores.into()));
    refused(&set("token_type", vec![1_i32; 10].into()), "token_type has 10 entries");
    refused(&set("token_type", vec![1_u32; 260].into()), "an array of u32, not an array of i32");
    let bert = with_tokens("bert", &words(200));
    accepted(&bert);
    refused(&bert.set("tokenizer.ggml.token_type", vec![6_i32; 200]), "word pieces do not have");
}

#[test]
fn numbers_of_tokens_must_be_in_the_vocabulary() {
    for key in ["bos", "eos", "unknown", "padding", "seperator", "eot", "fim_pre", "of_the_next_release"] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        refused(&Builder::model().set(&key, 260_u32), "is 260, but the vocabulary has 260 tokens");
        refused(&Builder::model().set(&key, u32::MAX), "but the vocabulary has 260 tokens");
        refused(&Builder::model().set(&key, -1_i32), "is i32, not u32");
        accepted(&Builder::model().set(&key, 259_u32));
    }
    refused(&Builder::model().set("llama.decoder_start_token_id", 260_u32), "decoder_start_token_id is 260");
}

#[test]
fn merges_must_be_of_two() {
    let merges = |merges: Vec<&str>| with_tokens("gpt2", &words(20)).set("tokenizer.ggml.merges", merges);
    accepted(&merges(vec!["a b", "  a", "\u{120} t"]));
    for merge in ["ab", "", " ", " a", "ab\0 c"] {
        refused(&merges(vec!["a b", merge]), "merge 1 has no space between");
    }
    refused(&merges(vec![]).set("tokenizer.ggml.merges", 1_u32), "merges is u32, not an array of texts");
}

#[test]
fn what_is_put_around_a_text_must_be_there() {
    let few = words(10);
    // Too few tokens for the number that is taken where none is given.
    refused(&with_tokens("bert", &words(101)), "no bos_token_id says which");
    refused(&with_tokens("bert", &words(102)), "no seperator_token_id says which");
    refused(&with_tokens("gpt2", &few), "no bos_token_id");
    accepted(&with_tokens("gpt2", &few).set("tokenizer.ggml.add_bos_token", false));
    accepted(&with_tokens("gpt2", &few).set("tokenizer.ggml.bos_token_id", 0_u32));
    refused(
        &with_tokens("gpt2", &words(20)).set("tokenizer.ggml.pre", "glm4").set("tokenizer.ggml.add_bos_token", true),
        "no bos",
    );
    accepted(&with_tokens("gpt2", &words(20)).set("tokenizer.ggml.pre", "glm4"));
    refused(&with_tokens("gemma4", &words(20)).set("tokenizer.ggml.add_bos_token", false), "no bos_token_id");
    accepted(&with_tokens("gemma4", &few).set("tokenizer.ggml.bos_token_id", 0_u32));
    refused(&with_tokens("t5", &words(1)), "no eos_token_id");
    refused(&with_tokens("plamo2", &words(1)).set("tokenizer.ggml.add_eos_token", true), "no eos_token_id");
    refused(&Builder::model().set("tokenizer.ggml.add_bos_token", 1_u32), "add_bos_token is u32, not bool");
}

#[test]
fn a_vocabulary_that_cannot_write_every_byte_is_refused() {
    let all: Vec<Vec<u8>> = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>").into_bytes()).collect();
    let without = |byte: usize, instead: &[u8]| {
        let mut tokens = all.clone();
        tokens[byte] = instead.to_vec();
        with_tokens("llama", &tokens)
    };
    accepted(&with_tokens("llama", &all));
    refused(&without(0x41, b"x"), "no token for the byte 0x41");
    refused(&without(0x00, b"\0"), "no token for the byte 0x00");
    refused(&without(0xf4, b"x"), "no token for the byte 0xf4");
    accepted(&without(0x41, b"A"));
    // No text in UTF-8 has these.
    accepted(&without(0xc1, b"x"));
    accepted(&without(0xff, b"x"));
}

#[test]
fn a_world_vocabulary_that_would_loop_is_refused() {
    let with = |tokens: &[&str]| with_tokens("rwkv", tokens);
    accepted(&with(&["a", "ab", "\\n", "\\n\\n", "\\xe4\\xbd", "\\xe4", "\\\\", "\\\\x"]));
    refused(&with(&["a", "\\n\\n"]), "begin with the byte 0x0a, but none is that byte alone");
    refused(&with(&["a", "\\xe4\\xbd"]), "0xe4");
    refused(&with(&["a", "bc"]), "0x62");
}

/// A map of characters with one entry: `a` becomes `replacement`.
fn charsmap(replacement: &[u8]) -> Vec<u8> {
    let mut nodes = vec![0_u32; 256];
    // The root's children lie at 0 ^ byte; that of `a` is a leaf whose value lies at 97 ^ 98.
    nodes[97] = (98 << 10) | (1 << 8) | 97;
    nodes[97 ^ 98] = 1 << 31;
    let nodes: Vec<u8> = nodes.iter().flat_map(|node| node.to_le_bytes()).collect();
    [&(nodes.len() as u32).to_le_bytes()[..], &nodes, replacement].concat()
}

#[test]
fn a_map_of_characters_that_leads_outside_is_refused() {
    let with = |map: Vec<u8>| with_tokens("t5", &words(20)).set("tokenizer.ggml.precompiled_charsmap", map);
    accepted(&with(charsmap(b"b\0")));
    refused(&with(charsmap(b"b")), "no map of characters");
    refused(&with(charsmap(b"")), "no map of characters");
    refused(&with(vec![1, 2, 3]), "no map of characters");
    refused(&with(vec![0xff; 8]), "no map of characters");
    let mut outside = charsmap(b"b\0");
    outside[4 + 4 * 97 + 2] |= 0xff;
    refused(&with(outside), "no map of characters");
    let mut value = charsmap(b"b\0");
    value[4 + 4 * 3] = 2;
    refused(&with(value), "no map of characters");
    let mut short = charsmap(b"b\0");
    short.truncate(4 + 4 * 128);
    short[..4].copy_from_slice(&(4_u32 * 127).to_le_bytes());
    refused(&with(short), "no map of characters");
    refused(&with(vec![0; 5 << 20]), "more than the limit");
    refused(&with_tokens("t5", &words(20)).set("tokenizer.ggml.precompiled_charsmap", "text"), "is a text");
}
