//! Stop strings, and where one is in a text.

use std::sync::Arc;

use halny_types::{Blame, Fault};
use thiserror::Error;

/// Strings that end a text. Cheap to clone: the answers to one request share them.
#[derive(Clone, Debug, Default)]
pub struct StopStrings(Arc<[String]>);

/// Why stop strings are refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StopError {
    /// There are too many.
    #[error("stop has {count} strings, at most {} are allowed", StopStrings::COUNT)]
    Count {
        /// How many there are.
        count: usize,
    },
    /// One is too long.
    #[error("stop string {place} has {bytes} bytes, at most {} are allowed", StopStrings::BYTES)]
    Long {
        /// Which one, from 0.
        place: usize,
        /// How long it is.
        bytes: usize,
    },
    /// One is empty: it would end every text before its first character.
    #[error("stop string {place} is empty; leave it out")]
    Empty {
        /// Which one, from 0.
        place: usize,
    },
}

impl Blame for StopError {
    fn fault(&self) -> Fault {
        Fault::Caller
    }
}

/// What is known about stop strings in a text that may go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// None starts anywhere in it.
    Nothing,
    /// From this byte on it may be one, the text before it is free.
    MayStart(usize),
    /// One is there, and none can start before it.
    Found {
        /// Its first byte.
        at: usize,
        /// Its place in the list.
        stop: usize,
        /// Its bytes.
        length: usize,
    },
}

impl StopStrings {
    /// Strings in a request at most.
    pub const COUNT: usize = 16;
    /// Bytes in a string at most. Text that may be the beginning of one is held back.
    pub const BYTES: usize = 256;

    /// Checks the strings of a request.
    ///
    /// # Errors
    /// When there are more than [`COUNT`](Self::COUNT), or one is empty or longer than
    /// [`BYTES`](Self::BYTES).
    pub fn new(strings: Vec<String>) -> Result<StopStrings, StopError> {
        if strings.len() > StopStrings::COUNT {
            return Err(StopError::Count { count: strings.len() });
        }
        for (place, string) in strings.iter().enumerate() {
            if string.is_empty() {
                return Err(StopError::Empty { place });
            }
            if string.len() > StopStrings::BYTES {
                return Err(StopError::Long { place, bytes: string.len() });
            }
        }
        Ok(StopStrings(strings.into()))
    }

    /// The strings, in the order in which they were given.
    #[must_use]
    pub fn strings(&self) -> &[String] {
        &self.0
    }

    /// Looks for the stop string that starts first. With `last`, nothing follows the text, so that
    /// beginnings of stop strings do not count.
    ///
    /// Every byte is compared with every string: what is searched is one token's text and what was
    /// held back before it, hardly ever more than 300 bytes.
    pub(super) fn search(&self, text: &str, last: bool) -> Search {
        if self.0.is_empty() {
            return Search::Nothing;
        }
        // Bytes, not characters: a stop string cannot start inside a character, since its first byte
        // would have to be a continuation byte.
        let bytes = text.as_bytes();
        for at in 0..bytes.len() {
            let rest = &bytes[at..];
            let shortest = self
                .0
                .iter()
                .enumerate()
                .filter(|(_, stop)| rest.starts_with(stop.as_bytes()))
                .min_by_key(|(_, stop)| stop.len());
            if let Some((stop, string)) = shortest {
                return Search::Found { at, stop, length: string.len() };
            }
            if !last && self.0.iter().any(|stop| stop.as_bytes().starts_with(rest)) {
                return Search::MayStart(at);
            }
        }
        Search::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_on_stop_strings_are_kept_and_named() {
        let list = |count: usize, bytes: usize| StopStrings::new(vec!["x".repeat(bytes); count]);
        assert!(list(16, 256).is_ok());
        assert_eq!(list(17, 1).unwrap_err(), StopError::Count { count: 17 });
        assert_eq!(list(2, 257).unwrap_err(), StopError::Long { place: 0, bytes: 257 });
        assert_eq!(list(1, 0).unwrap_err(), StopError::Empty { place: 0 });
        assert_eq!(list(1, 0).unwrap_err().fault(), Fault::Caller);
        assert_eq!(
            StopStrings::new(vec![String::new(); 100_000]).unwrap_err().to_string(),
            "stop has 100000 strings, at most 16 are allowed"
        );
    }

    #[test]
    fn the_string_that_starts_first_is_found_and_of_those_the_shortest() {
        let stops = StopStrings::new(["bcd", "ab", "abc"].map(str::to_owned).to_vec()).unwrap();
        assert_eq!(stops.search("xabcd", false), Search::Found { at: 1, stop: 1, length: 2 });
        assert_eq!(stops.search("xxbc", false), Search::MayStart(2));
        assert_eq!(stops.search("xxbc", true), Search::Nothing);
        assert_eq!(stops.search("bcd", false), Search::Found { at: 0, stop: 0, length: 3 });
    }
}
