//! Which of a step's tokens belong to which sequence, so that a step that failed can be undone.

use halny_engine::{SequenceId, StepToken};

/// The first position that each sequence of a step takes.
pub(crate) fn starts(tokens: &[StepToken]) -> Vec<(SequenceId, u32)> {
    let mut starts: Vec<(SequenceId, u32)> = Vec::new();
    for token in tokens {
        match starts.iter_mut().find(|(sequence, _)| *sequence == token.sequence) {
            Some((_, first)) => *first = (*first).min(token.position),
            None => starts.push((token.sequence, token.position)),
        }
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_position_of_every_sequence_is_told() {
        let token =
            |sequence, position| StepToken { token: 1, position, sequence: SequenceId(sequence), wants_logits: false };
        assert_eq!(starts(&[token(3, 7), token(1, 0), token(3, 8)]), [(SequenceId(3), 7), (SequenceId(1), 0)]);
    }
}
