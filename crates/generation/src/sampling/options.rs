//! What a caller may ask of sampling, and its limits.

use halny_engine::TokenId;
use halny_types::{Blame, Fault};
use thiserror::Error;

/// How tokens are drawn. The default draws from the model's distribution as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits; 0 takes the most probable token. 0 to 2.
    pub temperature: f32,
    /// Only this many most probable tokens are drawn from; 0 for all.
    pub top_k: u32,
    /// Only the most probable tokens that together have this probability are drawn from; 1 for all.
    /// Above 0, up to 1.
    pub top_p: f32,
    /// Only tokens at least this many times as probable as the most probable one are drawn from; 0 for
    /// all. 0 to 1.
    pub min_p: f32,
    /// Tokens of the prompt and the answer become less probable by this factor; 1 for none. Above 0, up
    /// to 10.
    pub repetition_penalty: f32,
    /// Is taken from a token's logit for each time it was written. -2 to 2.
    pub frequency_penalty: f32,
    /// Is taken from a token's logit once it was written. -2 to 2.
    pub presence_penalty: f32,
    /// Where the generator starts: equal seeds give equal texts. `None` for a random one.
    pub seed: Option<u64>,
    /// Is added to the logits of these tokens, in order. At most 1,024 tokens; -100 to 100.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// How many alternatives come with each token and their log-probabilities; 0 for the token's own
    /// only. At most 20.
    pub logprobs: Option<usize>,
}

impl Default for SamplingOptions {
    fn default() -> SamplingOptions {
        SamplingOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
            logprobs: None,
        }
    }
}

/// Why options are refused.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum OptionsError {
    /// A number is out of its range or not a number.
    #[error("{param} is {value}, it must be {range}")]
    Range {
        /// The field.
        param: &'static str,
        /// What it is.
        value: f32,
        /// What it may be.
        range: &'static str,
    },
    /// Too many tokens have a bias.
    #[error("logit_bias has {count} entries, at most {} are allowed", SamplingOptions::BIASES)]
    Biases {
        /// How many have.
        count: usize,
    },
    /// A bias is out of its range or not a number.
    #[error("logit_bias of token {token} is {value}, it must be between -100 and 100")]
    Bias {
        /// The token.
        token: TokenId,
        /// Its bias.
        value: f32,
    },
    /// A bias is for a token that the model does not know.
    #[error("logit_bias names token {token}, the model knows tokens 0 to {}", .vocabulary.saturating_sub(1))]
    BiasToken {
        /// The token.
        token: TokenId,
        /// How many tokens the model knows.
        vocabulary: usize,
    },
    /// Too many alternatives are asked for.
    #[error("top_logprobs is {count}, it must be between 0 and {}", SamplingOptions::LOGPROBS)]
    Logprobs {
        /// How many are.
        count: usize,
    },
}

impl OptionsError {
    /// The parameter of the request that has to be changed, by OpenAI's name.
    #[must_use]
    pub fn param(&self) -> &'static str {
        match self {
            OptionsError::Range { param, .. } => param,
            OptionsError::Biases { .. } | OptionsError::Bias { .. } | OptionsError::BiasToken { .. } => "logit_bias",
            OptionsError::Logprobs { .. } => "top_logprobs",
        }
    }
}

impl Blame for OptionsError {
    fn fault(&self) -> Fault {
        Fault::Caller
    }
}

impl SamplingOptions {
    /// Tokens with a bias at most.
    pub const BIASES: usize = 1_024;
    /// Alternatives with log-probabilities at most.
    pub const LOGPROBS: usize = 20;

    /// Checks the options against their ranges and the size of a model's vocabulary.
    ///
    /// # Errors
    /// For the first option that is out of its range; NaN and infinities always are.
    pub fn check(&self, vocabulary: usize) -> Result<(), OptionsError> {
        let ranges = [
            ("temperature", self.temperature, (0.0..=2.0).contains(&self.temperature), "between 0 and 2"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "between 0 and 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty <= 10.0,
                "above 0 and at most 10",
            ),
            penalty("frequency_penalty", self.frequency_penalty),
            penalty("presence_penalty", self.presence_penalty),
        ];
        if let Some((param, value, _, range)) = ranges.into_iter().find(|(_, _, holds, _)| !holds) {
            return Err(OptionsError::Range { param, value, range });
        }
        if self.logit_bias.len() > SamplingOptions::BIASES {
            return Err(OptionsError::Biases { count: self.logit_bias.len() });
        }
        for &(token, value) in &self.logit_bias {
            if token as usize >= vocabulary {
                return Err(OptionsError::BiasToken { token, vocabulary });
            }
            if !(-100.0..=100.0).contains(&value) {
                return Err(OptionsError::Bias { token, value });
            }
        }
        match self.logprobs {
            Some(count) if count > SamplingOptions::LOGPROBS => Err(OptionsError::Logprobs { count }),
            _ => Ok(()),
        }
    }
}

fn penalty(param: &'static str, value: f32) -> (&'static str, f32, bool, &'static str) {
    (param, value, (-2.0..=2.0).contains(&value), "between -2 and 2")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl Fn(&mut SamplingOptions)) -> OptionsError {
        let mut options = SamplingOptions::default();
        change(&mut options);
        options.check(1_000).unwrap_err()
    }

    #[test]
    fn every_number_has_a_range_and_nan_is_in_none() {
        type Set = fn(&mut SamplingOptions, f32);
        let fields: [(&str, Set, f32, f32); 6] = [
            ("temperature", |o, v| o.temperature = v, 0.0, 2.0),
            ("top_p", |o, v| o.top_p = v, f32::MIN_POSITIVE, 1.0),
            ("min_p", |o, v| o.min_p = v, 0.0, 1.0),
            ("repetition_penalty", |o, v| o.repetition_penalty = v, f32::MIN_POSITIVE, 10.0),
            ("frequency_penalty", |o, v| o.frequency_penalty = v, -2.0, 2.0),
            ("presence_penalty", |o, v| o.presence_penalty = v, -2.0, 2.0),
        ];
        for (param, set, least, most) in fields {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, least - 0.001, most + 0.001] {
                let error = refused(|options| set(options, value));
                assert_eq!(error.param(), param);
                assert_eq!(error.fault(), Fault::Caller);
                assert!(error.to_string().starts_with(param), "{error}");
            }
            for value in [least, most] {
                let mut options = SamplingOptions::default();
                set(&mut options, value);
                assert_eq!(options.check(1_000), Ok(()), "{param} of {value}");
            }
        }
        assert_eq!(SamplingOptions::default().check(0), Ok(()));
    }

    #[test]
    fn biases_and_alternatives_are_limited() {
        assert_eq!(refused(|o| o.logit_bias = vec![(1, 0.0); 1_025]).param(), "logit_bias");
        assert_eq!(refused(|o| o.logit_bias = vec![(1_000, 0.0)]).param(), "logit_bias");
        assert_eq!(refused(|o| o.logit_bias = vec![(1, f32::NAN)]).param(), "logit_bias");
        assert_eq!(refused(|o| o.logit_bias = vec![(1, -100.5)]).param(), "logit_bias");
        assert_eq!(refused(|o| o.logprobs = Some(21)).param(), "top_logprobs");
        let options = SamplingOptions {
            logit_bias: vec![(999, -100.0); 1_024],
            logprobs: Some(20),
            ..SamplingOptions::default()
        };
        assert_eq!(options.check(1_000), Ok(()));
    }

    #[test]
    fn an_error_says_what_to_change() {
        assert_eq!(refused(|o| o.temperature = 3.0).to_string(), "temperature is 3, it must be between 0 and 2");
        assert_eq!(
            refused(|o| o.logit_bias = vec![(5_000, 1.0)]).to_string(),
            "logit_bias names token 5000, the model knows tokens 0 to 999"
        );
    }
}
