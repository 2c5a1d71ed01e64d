//! Texts that llama.cpp is slow with, cut so that it is not.
//!
//! Its SentencePiece tokeniser makes room for each character that no token has exactly, and moves all
//! tokens so far for it (`resegment` in llama-vocab.cpp reserves one more at a time): 100,000 such
//! characters take ten seconds, twice as many four times as long. No token spans such a character, so
//! the text may be cut in front of one without changing what comes of it.

use std::collections::HashSet;

use llama_cpp_2::model::LlamaModel;

/// Characters that no token has, in one slice: few enough that their square is nothing.
const SLICE_FOREIGN: usize = 1_024;

/// The characters that a vocabulary's tokens are made of.
#[derive(Debug)]
pub(crate) struct Alphabet {
    characters: HashSet<char>,
}

impl Alphabet {
    /// That of a SentencePiece vocabulary; `None` for others, which are not slow.
    pub(crate) fn of(model: &LlamaModel) -> Option<Alphabet> {
        if model.meta_val_str("tokenizer.ggml.model").ok()? != "llama" {
            return None;
        }
        let vocab = model.vocab();
        let mut characters = HashSet::from([' ']);
        for token in vocab.tokens() {
            characters.extend(vocab.text(token).and_then(|text| text.to_str().ok()).unwrap_or_default().chars());
        }
        Some(Alphabet { characters })
    }

    /// The text in slices that are as good as the whole; each but the first begins with a character that
    /// no token has.
    pub(crate) fn slices<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let (mut slices, mut start, mut foreign) = (Vec::new(), 0, 0);
        for (at, character) in text.char_indices() {
            if self.characters.contains(&character) {
                continue;
            }
            if foreign == SLICE_FOREIGN {
                slices.push(&text[start..at]);
                (start, foreign) = (at, 0);
            }
            foreign += 1;
        }
        slices.push(&text[start..]);
        slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_begin_where_no_token_reaches_across() {
        let alphabet = Alphabet { characters: HashSet::from(['a', 'b']) };
        assert_eq!(alphabet.slices("abab"), ["abab"]);
        assert_eq!(alphabet.slices(""), [""]);
        let text = "ab\u{1f980}".repeat(2 * SLICE_FOREIGN + 1) + "a";
        let slices = alphabet.slices(&text);
        assert_eq!(slices.len(), 3);
        assert_eq!(slices.concat(), text);
        assert!(slices[1..].iter().all(|slice| slice.starts_with('\u{1f980}')));
    }
}
