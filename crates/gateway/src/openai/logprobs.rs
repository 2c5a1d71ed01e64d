//! Probabilities of tokens, in the two forms OpenAI has for them.

use halny_engine::{LanguageModel, TokenId};
use halny_generation::request::Written;
use serde_json::{Value, json};

/// A token as text: its name where it is special, else its bytes, with U+FFFD for what is no character.
fn name(model: &dyn LanguageModel, token: TokenId) -> String {
    match model.special(token) {
        Some(name) => name.to_owned(),
        None => String::from_utf8_lossy(model.piece(token)).into_owned(),
    }
}

fn bytes(model: &dyn LanguageModel, token: TokenId) -> Vec<u8> {
    model.special(token).map_or_else(|| model.piece(token).to_vec(), |name| name.as_bytes().to_vec())
}

/// As chats have them: each token with its bytes and its alternatives.
pub(super) fn of_chat(model: &dyn LanguageModel, written: &[Written]) -> Value {
    let one = |token: TokenId, logprob: f32| json!({ "token": name(model, token), "logprob": shown(logprob), "bytes": bytes(model, token) });
    let content = written.iter().map(|written| {
        let mut entry = one(written.token, written.logprob);
        entry["top_logprobs"] = written.top.iter().map(|(token, logprob)| one(*token, *logprob)).collect();
        entry
    });
    json!({ "content": content.collect::<Vec<Value>>(), "refusal": null })
}

/// As completions have them: lists side by side. `offset` is where the first token begins in the text,
/// in characters; it is moved on.
pub(super) fn of_completion(model: &dyn LanguageModel, written: &[Written], offset: &mut usize) -> Value {
    let (mut tokens, mut logprobs, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for written in written {
        let text = name(model, written.token);
        // A token may hold a part of a character only: the character is counted where it begins, and its
        // later parts point there.
        let bytes = bytes(model, written.token);
        let continues = |byte: &u8| byte & 0xc0 == 0x80;
        offsets.push(offset.saturating_sub(usize::from(bytes.first().is_some_and(continues))));
        *offset += bytes.iter().filter(|byte| !continues(byte)).count();
        tokens.push(text);
        logprobs.push(shown(written.logprob));
        let top = written.top.iter().map(|(token, logprob)| (name(model, *token), json!(shown(*logprob))));
        tops.push(Value::Object(top.collect()));
    }
    json!({ "tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets })
}

/// JSON has no infinities; a token without probability has -9999, as OpenAI writes it.
fn shown(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9_999.0 }
}
