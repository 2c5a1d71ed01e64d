//! A model's vocabulary as llguidance wants it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use halny_engine::{LanguageModel, TokenId};
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::{ParserFactory, panic_utils};
use toktrie::{ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use super::{GrammarError, Limits};

/// The trie's nodes have 24 bits for a token, one value of which means none.
const TOKENS: usize = 0xff_ffff;

/// The trie's nodes have 10 bits for their depth. Longer tokens (there are some, of spaces) are never
/// allowed: what they say can be said with shorter ones.
const TOKEN_BYTES: usize = 1_000;

/// Builds the trie.
pub(super) fn factory(model: &dyn LanguageModel) -> Result<ParserFactory, GrammarError> {
    let vocabulary = model.card().vocabulary;
    if vocabulary == 0 || vocabulary >= TOKENS {
        return Err(GrammarError::Vocabulary { reason: "its vocabulary is empty or too large" });
    }
    let tokens = 0..vocabulary as TokenId;
    let words: Vec<Vec<u8>> = tokens.clone().map(|token| word(model, token)).collect();
    let mut ends: Vec<TokenId> = tokens.filter(|token| model.ends(*token)).collect();
    if ends.is_empty() {
        ends.extend(model.card().end.as_ref().map(|(token, _)| *token).filter(|token| (*token as usize) < vocabulary));
    }
    let build = AssertUnwindSafe(|| {
        let trie = TokTrie::from(&TokRxInfo::new(vocabulary as u32, INVALID_TOKEN), &words);
        let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) };
        // Which tokens a forced text would be cut into is left to the model: it was trained on one way
        // only, and that way depends on what comes before.
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        ParserFactory::new(&env, InferenceCapabilities::default(), &SlicedBiasComputer::general_slices())
    });
    let mut factory = panic_utils::catch_unwind(build)
        .map_err(|_| GrammarError::Vocabulary { reason: "its vocabulary cannot be made a tree of bytes" })?;
    // Errors reach callers: no state, no grammar of llguidance's making in them; and nothing to stderr.
    factory.quiet();
    *factory.limits_mut() = ParserLimits { verbose_errors: false, ..Limits::default().work };
    Ok(factory)
}

/// The bytes of a token. Special tokens stand for no bytes, so that no text allows them; llguidance wants
/// their names behind a byte that is in no text.
fn word(model: &dyn LanguageModel, token: TokenId) -> Vec<u8> {
    let bytes = match model.special(token) {
        Some(name) if !name.is_empty() => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
        _ => model.piece(token).to_vec(),
    };
    if bytes.len() > TOKEN_BYTES { Vec::new() } else { bytes }
}
