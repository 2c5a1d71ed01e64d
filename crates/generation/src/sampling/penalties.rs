//! Making tokens that were written less probable.

use std::collections::HashMap;

use halny_engine::TokenId;

use super::SamplingOptions;

/// The penalties of one sequence, and the tokens they fall on.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// How often each token was written; 0 for tokens that are in the prompt only. Empty while no
    /// penalty is asked for.
    written: HashMap<TokenId, u32>,
}

impl Penalties {
    pub(super) fn new(options: &SamplingOptions, prompt: &[TokenId]) -> Penalties {
        let mut penalties = Penalties {
            repetition: options.repetition_penalty,
            frequency: options.frequency_penalty,
            presence: options.presence_penalty,
            written: HashMap::new(),
        };
        if penalties.repetition != 1.0 {
            penalties.written.extend(prompt.iter().map(|token| (*token, 0)));
        }
        penalties
    }

    fn asked_for(&self) -> bool {
        self.repetition != 1.0 || self.frequency != 0.0 || self.presence != 0.0
    }

    /// Whether they change any logit now.
    pub(super) fn change(&self) -> bool {
        !self.written.is_empty()
    }

    /// Notes a token of the answer.
    pub(super) fn saw(&mut self, token: TokenId) {
        if self.asked_for() {
            let times = self.written.entry(token).or_default();
            *times = times.saturating_add(1);
        }
    }

    /// Changes the logits. Each token's change depends on its own count only, so the map's order does
    /// not matter.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for (token, times) in &self.written {
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            if *logit > 0.0 {
                *logit /= self.repetition;
            } else {
                *logit *= self.repetition;
            }
            if *times > 0 {
                *logit -= self.frequency * *times as f32 + self.presence;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_counts_the_prompt_and_the_others_do_not() {
        let options = SamplingOptions {
            repetition_penalty: 2.0,
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            ..SamplingOptions::default()
        };
        let mut penalties = Penalties::new(&options, &[0, 1, 1]);
        for token in [2, 2, 2, 3, 99] {
            penalties.saw(token);
        }
        let mut logits = [4.0, -4.0, 8.0, -1.0, 7.0];
        penalties.apply(&mut logits);
        assert_eq!(logits, [2.0, -8.0, 4.0 - 1.75, -2.0 - 0.75, 7.0]);
    }

    #[test]
    fn nothing_is_counted_while_no_penalty_is_asked_for() {
        let mut penalties = Penalties::new(&SamplingOptions::default(), &[1, 2, 3]);
        penalties.saw(4);
        assert!(!penalties.change());
        assert!(penalties.written.is_empty());
    }
}
