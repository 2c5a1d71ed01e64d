//! The vocabulary: what llama.cpp builds its tokenizers from.
//!
//! Its tokenizers take a text as any client sends it, long after the model was loaded, and end the
//! process where the vocabulary has no answer: a byte without a token, a beginning without a token
//! for it. So what each of them falls back on must be there.

use std::{collections::HashSet, io::Write as _};

use super::{
    Refusal, charsmap,
    value::{Metadata, Number, Texts, floats, up_to_nul},
};

/// The most tokens. The largest published vocabularies have 262,144.
pub(super) const MAX_TOKENS: u32 = 1 << 22;

/// The longest token: llama.cpp puts each byte of it on the stack when it builds its tries. The
/// longest published ones have a few hundred.
const MAX_TOKEN_BYTES: usize = 4096;

/// What `tokenizer.ggml.token_type` calls a token that stands for one byte.
const BYTE: i32 = 6;

/// Checks the keys below `tokenizer.`. Gives the number of tokens.
pub(super) fn check(keys: &Metadata, architecture: &str) -> Result<usize, Refusal> {
    let model = keys.text("tokenizer.ggml.model")?.ok_or("it has no key tokenizer.ggml.model")?;
    if matches!(model, b"none" | b"no_vocab" | b"test") {
        return Err("it has no tokenizer, so it can take no text".to_owned());
    }
    let tokens = keys.texts("tokenizer.ggml.tokens")?.ok_or("it has no key tokenizer.ggml.tokens")?;
    if tokens.len() == 0 || tokens.len() > MAX_TOKENS as usize {
        return Err(format!("its vocabulary has {} tokens, where 1 to {MAX_TOKENS} are possible", tokens.len()));
    }
    let known = check_tokens(tokens)?;
    check_scores(keys, tokens.len())?;
    check_types(keys, tokens.len(), model)?;
    check_ids(keys, architecture, tokens.len())?;
    check_merges(keys)?;
    check_ends(keys, model, tokens.len())?;
    match model {
        b"llama" => check_bytes(&known)?,
        b"rwkv" => check_first_bytes(tokens)?,
        b"t5" => charsmap::check(keys)?,
        _ => {}
    }
    Ok(tokens.len())
}

/// Every token once, as llama.cpp sees them: up to a NUL, and an empty one under a name of its own.
/// It asserts that as many texts as numbers come out.
fn check_tokens(tokens: &Texts) -> Result<HashSet<&[u8]>, Refusal> {
    let mut known = HashSet::new();
    let mut empty = HashSet::new();
    for (number, token) in tokens.iter().enumerate() {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(format!("token {number} has {} bytes, more than the limit of {MAX_TOKEN_BYTES}", token.len()));
        }
        let token = up_to_nul(token);
        if token.is_empty() {
            let mut name = Vec::new();
            // Writing to memory cannot fail.
            let _ = write!(name, "[EMPTY_{number}]");
            empty.insert(name);
        } else if !known.insert(token) {
            return Err(format!("token {number} stands in the vocabulary twice"));
        }
    }
    if empty.iter().any(|name| known.contains(name.as_slice())) {
        return Err("a token is named like an empty one".to_owned());
    }
    Ok(known)
}

fn check_scores(keys: &Metadata, count: usize) -> Result<(), Refusal> {
    let key = "tokenizer.ggml.scores";
    let Some((number, scores)) = keys.numbers(key, &[Number::F32, Number::I32])? else { return Ok(()) };
    same_length(key, scores.len() / 4, count)?;
    if number == Number::F32 && floats(scores).any(|score| score == f32::INFINITY) {
        return Err(format!("the key {key} holds an infinity"));
    }
    Ok(())
}

fn check_types(keys: &Metadata, count: usize, model: &[u8]) -> Result<(), Refusal> {
    let key = "tokenizer.ggml.token_type";
    let Some((_, types)) = keys.numbers(key, &[Number::I32])? else { return Ok(()) };
    same_length(key, types.len() / 4, count)?;
    let (types, _) = types.as_chunks();
    // Word pieces have no bytes; llama.cpp aborts where it is to write one out.
    if model == b"bert" && types.iter().any(|of| i32::from_le_bytes(*of) == BYTE) {
        return Err(format!("the key {key} holds a byte, which word pieces do not have"));
    }
    Ok(())
}

fn same_length(key: &str, length: usize, count: usize) -> Result<(), Refusal> {
    if length == count {
        return Ok(());
    }
    Err(format!("the key {key} has {length} entries for {count} tokens"))
}

/// The numbers of tokens with a purpose, in keys like `tokenizer.ggml.bos_token_id`.
fn check_ids(keys: &Metadata, architecture: &str, count: usize) -> Result<(), Refusal> {
    let start = format!("{architecture}.decoder_start_token_id");
    let is_id = |key: &&str| key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id") || **key == start;
    for key in keys.keys().filter(is_id) {
        if let Some(id) = keys.u32(key)?.filter(|id| *id as usize >= count) {
            return Err(format!("the key {key} is {id}, but the vocabulary has {count} tokens"));
        }
    }
    Ok(())
}

/// Two tokens that become one, with a space between; the first may begin with one.
fn check_merges(keys: &Metadata) -> Result<(), Refusal> {
    let Some(merges) = keys.texts("tokenizer.ggml.merges")? else { return Ok(()) };
    for (number, merge) in merges.iter().enumerate() {
        if !up_to_nul(merge).iter().skip(1).any(|byte| *byte == b' ') {
            return Err(format!("merge {number} has no space between its two tokens"));
        }
    }
    Ok(())
}

/// Which tokens a tokenizer puts around a text, and whether there are any: asserted when the first
/// text comes.
fn check_ends(keys: &Metadata, model: &[u8], count: usize) -> Result<(), Refusal> {
    let pre = keys.text("tokenizer.ggml.pre")?.unwrap_or_default();
    // The number that is taken where none is given, and whether it is added where nothing is said.
    let ((begin, begins), (end, ends)) = match model {
        b"llama" => ((Some(1), true), (Some(2), false)),
        b"bert" => ((Some(101), true), (Some(102), true)),
        b"t5" => ((None, false), (Some(1), true)),
        b"plamo2" => ((Some(1), false), (Some(2), false)),
        b"gemma4" => ((None, true), (None, false)),
        b"gpt2" if matches!(pre, b"chatglm-bpe" | b"glm4" | b"glm5") => ((None, false), (Some(11), false)),
        b"gpt2" | b"hybriddna" | b"whitespace" => ((Some(11), pre != b"default"), (Some(11), false)),
        _ => return Ok(()),
    };
    // Word pieces are always put between the two, whatever is said; their end is the separator.
    let pieces = model == b"bert";
    let end_key = if pieces { "seperator_token_id" } else { "eos_token_id" };
    for (id_key, add_key, default, adds) in
        [("bos_token_id", "add_bos_token", begin, begins), (end_key, "add_eos_token", end, ends)]
    {
        let id = keys.u32(&format!("tokenizer.ggml.{id_key}"))?.or(default).filter(|id| (*id as usize) < count);
        let said = keys.bool(&format!("tokenizer.ggml.{add_key}"))?;
        let forced = pieces || (model == b"gemma4" && id_key == "bos_token_id");
        if id.is_none() && (forced || said.unwrap_or(adds)) {
            return Err(format!("its tokenizer puts a token around a text, but no {id_key} says which"));
        }
    }
    Ok(())
}

/// SentencePiece takes what it does not know byte by byte, and throws where a byte has no token.
/// Bytes that no UTF-8 has are never asked for.
fn check_bytes(known: &HashSet<&[u8]>) -> Result<(), Refusal> {
    for byte in (0..=0xbf).chain(0xc2..=0xf4_u8) {
        let name = format!("<0x{byte:02X}>");
        if !known.contains(name.as_bytes()) && (byte == 0 || !known.contains([byte].as_slice())) {
            return Err(format!(
                "its vocabulary has no token for the byte {byte:#04x}, so a text could end the engine"
            ));
        }
    }
    Ok(())
}

/// RWKV takes the longest token at each place; where it starts on one and none fits, it starts over
/// without end. A token for each first byte prevents that.
fn check_first_bytes(tokens: &Texts) -> Result<(), Refusal> {
    let (mut first, mut alone) = ([false; 256], [false; 256]);
    for token in tokens.iter() {
        match unescape(up_to_nul(token)).as_slice() {
            [] => {}
            [byte] => alone[usize::from(*byte)] = true,
            [byte, ..] => first[usize::from(*byte)] = true,
        }
    }
    match first.iter().zip(alone).position(|(first, alone)| *first && !alone) {
        None => Ok(()),
        Some(byte) => Err(format!("tokens begin with the byte {byte:#04x}, but none is that byte alone")),
    }
}

/// What an RWKV token stands for: `\t`, `\n`, `\r` and `\xHH`, read as llama.cpp does.
fn unescape(token: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut bytes = token.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b't') => text.push(b'\t'),
            Some(b'n') => text.push(b'\n'),
            Some(b'r') => text.push(b'\r'),
            Some(b'x') => {
                if let (Some(high), Some(low)) = (bytes.next(), bytes.next()) {
                    text.push((digit(high) << 4).wrapping_add(digit(low)));
                }
            }
            Some(other) => text.push(other),
            None => {}
        }
    }
    text
}

/// A hexadecimal digit as llama.cpp reads one, also where it is none.
fn digit(byte: u8) -> u8 {
    if byte >= b'a' { byte - b'a' + 10 } else { byte.wrapping_sub(b'0') }
}
