//! Which of a step's tokens belong to which sequence: so that a step that failed can be undone, and one
//! that is dear as a whole can be cut.

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

/// From so many tokens on, llama.cpp's attention on processors takes queries in tiles of this many, and
/// every query of a tile pays for the cells of all (`GGML_FA_TILE_Q` in its sources). A tile with many
/// sequences in it is dear: 16 that write beside 48 tokens of a prompt take 330 ms where 47 take 141.
const TILE_TOKENS: usize = 64;

/// Whether a step takes less time in two parts ([`cut`]) than as a whole, where attention has tiles.
pub(crate) fn is_dear(tokens: &[StepToken]) -> bool {
    let is_another = |pair: &[StepToken]| pair[0].sequence != pair[1].sequence;
    tokens.len() >= TILE_TOKENS && tokens.windows(2).any(is_another)
}

/// Cuts a step in two: the tokens that only fill cells, then those whose logits are wanted, each with
/// what follows it in its sequence. Both keep the order, and the second stands for itself: its logits
/// are those of the whole step.
pub(crate) fn cut(tokens: &[StepToken]) -> (Vec<StepToken>, Vec<StepToken>) {
    let mut wanting: Vec<SequenceId> = Vec::new();
    tokens.iter().partition(|token| {
        if token.wants_logits && !wanting.contains(&token.sequence) {
            wanting.push(token.sequence);
        }
        !wanting.contains(&token.sequence)
    })
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

    #[test]
    fn a_step_is_cut_where_logits_are_wanted() {
        let token = |sequence, position, wants_logits| StepToken {
            token: 1,
            position,
            sequence: SequenceId(sequence),
            wants_logits,
        };
        let writes = token(0, 9, true);
        let (reads, last) = ([token(1, 0, false), token(1, 1, false)], token(1, 2, true));
        let (wants, follows) = (token(2, 4, true), token(2, 5, false));
        let step = [writes, reads[0], reads[1], last, wants, follows];
        assert_eq!(cut(&step), (reads.to_vec(), vec![writes, last, wants, follows]));
    }
}
