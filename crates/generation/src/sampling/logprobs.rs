//! How probable the model found a token.

use halny_engine::TokenId;

use super::choose::Chooser;
use super::scan;

/// Stands for the log-probability of a token that the model excludes: minus infinity has no form in
/// JSON. OpenAI's and vLLM's number.
pub const LOGPROB_LEAST: f32 = -9999.0;

/// Natural logarithms of probabilities, by the model's own distribution: before penalties, bias,
/// temperature, filters and grammar.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token's own.
    pub chosen: f32,
    /// The most probable tokens, in order; of equal ones the lowest id first. The token that was drawn
    /// may be among them or not.
    pub top: Vec<(TokenId, f32)>,
}

pub(super) fn of(logits: &[f32], token: TokenId, count: usize, chooser: &mut Chooser) -> TokenLogprobs {
    let most = chooser.look(logits).min(f32::MAX);
    let sum = scan::sum_of_exponentials(logits, most).ln();
    let logprob = |logit: f32| {
        // NaN is less than nothing here, too.
        let logprob = (f64::from(logit.min(f32::MAX)) - f64::from(most) - sum) as f32;
        if logit > f32::NEG_INFINITY && logprob > LOGPROB_LEAST { logprob } else { LOGPROB_LEAST }
    };
    let chosen = logits.get(token as usize).copied().map_or(LOGPROB_LEAST, logprob);
    let top = if count == 0 { Vec::new() } else { chooser.largest(logits, count) };
    TokenLogprobs { chosen, top: top.into_iter().map(|(token, logit)| (token, logprob(logit))).collect() }
}
