//! From the bytes of tokens to text that may be sent.
//!
//! A token is often half a character, and a stop string often lies across tokens. What was sent cannot
//! be taken back, so an [`Emitter`] holds two things back: bytes that may become a character, and text
//! that may become a stop string. Everything else goes out at once.
//!
//! What comes out, put together, is [`String::from_utf8_lossy`] of all the bytes, cut before the stop
//! string that starts first; of several that start at the same place, the shortest ends the text. How
//! the bytes were cut into tokens changes nothing. The cost is that a stop string which lies inside a
//! longer one (`b` in `abc`) ends the text only once the longer one is out of the question.

mod stop;

pub use stop::{StopError, StopStrings};

use stop::Search;

/// Turns the bytes of one sequence's tokens into text, and notices its end.
#[derive(Clone, Debug)]
pub struct Emitter {
    stops: StopStrings,
    include_stop: bool,
    /// The beginning of a character, at most three bytes.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: Option<usize>,
}

/// What may be sent now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emitted {
    /// Whole characters, none of them part of a stop string unless stop strings are to be kept.
    pub text: String,
    /// The stop string that ended the text, by its place in the list. Nothing comes after it.
    pub stopped: Option<usize>,
}

impl Emitter {
    /// An emitter for one sequence. With `include_stop`, the stop string that ends the text is its last
    /// part; otherwise it is left out.
    #[must_use]
    pub fn new(stops: StopStrings, include_stop: bool) -> Emitter {
        Emitter { stops, include_stop, bytes: Vec::new(), held: String::new(), stopped: None }
    }

    /// Takes the bytes of one token and gives the text that is certain now. After a stop string was
    /// found, bytes are thrown away.
    pub fn push(&mut self, bytes: &[u8]) -> Emitted {
        if self.stopped.is_none() {
            self.decode(bytes);
        }
        self.emit(false)
    }

    /// Gives what was held back, for a sequence that ended otherwise than by a stop string: the
    /// beginning of a character becomes U+FFFD. A stop string may still be found here, when what
    /// looked like a longer one in front of it stayed unfinished.
    pub fn finish(&mut self) -> Emitted {
        if self.stopped.is_none() && !self.bytes.is_empty() {
            self.bytes.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        self.emit(true)
    }

    /// The stop string that ended the text, if one did.
    #[must_use]
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// Appends the characters that are certain to `held`, and keeps the beginning of the last one.
    fn decode(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let mut rest = self.bytes.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.held.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            self.held.push_str(&String::from_utf8_lossy(valid));
            rest = after;
            // `None`: the end came too early, what is there may still become a character.
            let Some(invalid) = error.error_len() else { break };
            self.held.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[invalid..];
        }
        let kept = self.bytes.len() - rest.len();
        self.bytes.drain(..kept);
    }

    /// Sends what cannot belong to a stop string any more; with `last`, nothing can.
    fn emit(&mut self, last: bool) -> Emitted {
        if self.stopped.is_some() {
            return Emitted { text: String::new(), stopped: self.stopped };
        }
        let text = match self.stops.search(&self.held, last) {
            Search::Nothing => std::mem::take(&mut self.held),
            Search::MayStart(at) => self.held.drain(..at).collect(),
            Search::Found { at, stop, length } => {
                self.stopped = Some(stop);
                self.bytes.clear();
                let mut text = std::mem::take(&mut self.held);
                text.truncate(if self.include_stop { at + length } else { at });
                text
            }
        };
        Emitted { text, stopped: self.stopped }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(list: &[&str]) -> StopStrings {
        StopStrings::new(list.iter().map(|stop| (*stop).to_owned()).collect()).unwrap()
    }

    /// Everything at once, by the definition.
    fn reference(bytes: &[u8], stops: &[String], include_stop: bool) -> (String, Option<usize>) {
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        let first = stops
            .iter()
            .enumerate()
            .filter_map(|(place, stop)| text.find(stop.as_str()).map(|at| (at, stop.len(), place)))
            .min();
        if let Some((at, length, _)) = first {
            text.truncate(if include_stop { at + length } else { at });
        }
        (text, first.map(|(_, _, place)| place))
    }

    /// Bytes that are cut at any place, as tokens cut them.
    fn pieces(bytes: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*length).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = after;
        }
        pieces
    }

    /// Few letters, so that stop strings occur, overlap and stay unfinished; whole characters, halves
    /// of characters and bytes that are in no character.
    fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => prop::sample::select(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]),
            2 => prop::sample::select(vec!["\u{e9}".into(), "\u{1f600}".into(), "\u{fffd}".into()]),
            1 => prop::collection::vec(any::<u8>(), 1..3),
            1 => prop::sample::select(vec![vec![0xf0], vec![0xf0, 0x9f], vec![0xe2, 0x82], vec![0xc3], vec![0xff]]),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    fn some_stops() -> impl Strategy<Value = Vec<String>> {
        let letter = prop::sample::select(vec!["a", "b", "c", "\u{e9}", "\u{fffd}"]);
        let stop = prop::collection::vec(letter, 1..5).prop_map(|letters| letters.concat());
        prop::collection::vec(stop, 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_comes_out_does_not_depend_on_where_tokens_are_cut(
            bytes in some_bytes(),
            list in some_stops(),
            lengths in prop::collection::vec(1usize..6, 1..8),
            include_stop in any::<bool>(),
        ) {
            let mut emitter = Emitter::new(StopStrings::new(list.clone()).unwrap(), include_stop);
            let mut text = String::new();
            let mut stopped = None;
            for piece in pieces(&bytes, &lengths) {
                let emitted = emitter.push(&piece);
                text.push_str(&emitted.text);
                stopped = stopped.or(emitted.stopped);
            }
            let last = emitter.finish();
            text.push_str(&last.text);
            stopped = stopped.or(last.stopped);
            let (expected, by) = reference(&bytes, &list, include_stop);
            prop_assert_eq!(&text, &expected);
            // Of equal strings in the list, either may be named.
            prop_assert_eq!(stopped.map(|place| &list[place]), by.map(|place| &list[place]));
        }

        #[test]
        fn nothing_is_sent_that_a_later_byte_could_make_wrong(
            bytes in some_bytes(),
            list in some_stops(),
            more in some_bytes(),
            cut in 0usize..60,
        ) {
            // What was sent after a beginning must be the beginning of what any continuation gives.
            let cut = cut.min(bytes.len());
            let mut emitter = Emitter::new(StopStrings::new(list.clone()).unwrap(), false);
            let sent = emitter.push(&bytes[..cut]).text;
            for continuation in [&bytes[cut..], &more[..], &[]] {
                let whole = [&bytes[..cut], continuation].concat();
                let (expected, _) = reference(&whole, &list, false);
                prop_assert!(expected.starts_with(&sent), "{sent:?} was sent, the text is {expected:?}");
            }
        }
    }

    #[test]
    fn half_a_character_waits_for_its_other_half() {
        let mut emitter = Emitter::new(stops(&[]), false);
        assert_eq!(emitter.push(&[b'x', 0xf0, 0x9f]).text, "x");
        assert_eq!(emitter.push(&[0x98]).text, "");
        assert_eq!(emitter.push(&[0x80, b'y']).text, "\u{1f600}y");
    }

    #[test]
    fn a_character_that_cannot_be_completed_is_replaced_at_once() {
        let mut emitter = Emitter::new(stops(&[]), false);
        assert_eq!(emitter.push(&[0xf0, 0x9f]).text, "");
        assert_eq!(emitter.push(b"y").text, "\u{fffd}y");
        assert_eq!(emitter.push(&[0xe2, 0x82]).text, "");
        assert_eq!(emitter.finish().text, "\u{fffd}");
        assert_eq!(emitter.finish().text, "");
    }

    #[test]
    fn nothing_comes_after_a_stop_string() {
        let mut emitter = Emitter::new(stops(&["\n\n", "END"]), false);
        assert_eq!(emitter.push(b"text E").text, "text ");
        assert_eq!(emitter.push(b"N").text, "");
        let found = emitter.push(b"D and more");
        assert_eq!((found.text.as_str(), found.stopped), ("", Some(1)));
        assert_eq!(emitter.push(b"more"), Emitted { text: String::new(), stopped: Some(1) });
        assert_eq!(emitter.finish(), Emitted { text: String::new(), stopped: Some(1) });
        assert_eq!(emitter.stopped(), Some(1));
    }

    #[test]
    fn a_stop_string_inside_a_longer_one_waits_for_it() {
        let mut emitter = Emitter::new(stops(&["b", "abc"]), true);
        assert_eq!(emitter.push(b"xab"), Emitted { text: "x".to_owned(), stopped: None });
        let mut other = emitter.clone();
        assert_eq!(emitter.push(b"c"), Emitted { text: "abc".to_owned(), stopped: Some(1) });
        assert_eq!(other.finish(), Emitted { text: "ab".to_owned(), stopped: Some(0) });
    }
}
