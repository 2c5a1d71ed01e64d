//! The lines of a file that is read as it comes, each with where it begins.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use halny_store::StoreError;

/// A line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Which one, from 1.
    pub(super) number: u64,
    /// Where the one behind it begins.
    pub(super) next: u64,
    /// What it holds; nothing where it is longer than it may be.
    pub(super) text: Option<Bytes>,
}

/// Reads lines.
pub(super) struct Lines {
    bytes: BoxStream<'static, Result<Bytes, StoreError>>,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no end of a line.
    searched: usize,
    number: u64,
    offset: u64,
    longest: usize,
    /// The line at hand is longer than it may be: the rest of it is passed over.
    is_long: bool,
    is_over: bool,
}

impl Lines {
    /// Lines of at most `longest` bytes out of `bytes`, which begin at `offset` behind `before` lines.
    pub(super) fn new(
        bytes: BoxStream<'static, Result<Bytes, StoreError>>,
        offset: u64,
        before: u64,
        longest: usize,
    ) -> Lines {
        let buffer = BytesMut::new();
        Lines { bytes, buffer, searched: 0, number: before, offset, longest, is_long: false, is_over: false }
    }

    /// The next line; nothing at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, StoreError> {
        loop {
            let fresh = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1);
                return Ok(Some(self.line(line)));
            }
            self.searched = self.buffer.len();
            if self.searched > self.longest {
                self.offset += self.buffer.len() as u64;
                self.buffer.clear();
                (self.searched, self.is_long) = (0, true);
            }
            match self.bytes.next().await.transpose()? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.is_over || (self.buffer.is_empty() && !self.is_long) => return Ok(None),
                None => {
                    self.is_over = true;
                    let line = self.buffer.split();
                    return Ok(Some(self.line(line)));
                }
            }
        }
    }

    fn line(&mut self, whole: BytesMut) -> Line {
        self.offset += whole.len() as u64;
        self.number += 1;
        self.searched = 0;
        let is_long = std::mem::take(&mut self.is_long);
        let mut text = whole.freeze();
        for end in [b'\n', b'\r'] {
            if text.last() == Some(&end) {
                text.truncate(text.len() - 1);
            }
        }
        if self.number == 1 && text.starts_with("\u{feff}".as_bytes()) {
            text = text.slice(3..);
        }
        let text = (!is_long && text.len() <= self.longest).then_some(text);
        Line { number: self.number, next: self.offset, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn read(pieces: Vec<Vec<u8>>, offset: u64, longest: usize) -> Vec<Line> {
        let pieces = futures::stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece)))).boxed();
        let mut lines = Lines::new(pieces, offset, 0, longest);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_text_however_it_comes(
            text in "[ab\r\n]{0,60}", cuts in prop::collection::vec(0usize..60, 0..6), longest in 1usize..8,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| text.as_bytes()[cut[0]..cut[1]].to_vec()).collect();
            let read = runtime.block_on(read(pieces, 7, longest));
            let mut expected = Vec::new();
            let mut next = 7;
            for (number, whole) in text.split_inclusive('\n').enumerate() {
                next += whole.len() as u64;
                let line = whole.strip_suffix('\n').unwrap_or(whole);
                let line = line.strip_suffix('\r').unwrap_or(line);
                // One that is too long is known to be so whatever ends it.
                let fits = line.len() <= longest;
                expected.push((number as u64 + 1, next, fits.then(|| line.to_owned())));
            }
            let read: Vec<_> = read
                .into_iter()
                .map(|line| (line.number, line.next, line.text.map(|text| String::from_utf8(text.to_vec()).unwrap())))
                .collect();
            let numbers = |lines: &[(u64, u64, Option<String>)]| lines.iter().map(|(number, next, _)| (*number, *next)).collect::<Vec<_>>();
            prop_assert_eq!(numbers(&read), numbers(&expected));
            for ((_, _, got), (_, _, wanted)) in read.iter().zip(&expected) {
                // A line whose end is cut off from it may be taken for one that is too long by that end.
                prop_assert!(got == wanted || (got.is_none() && wanted.as_ref().is_some_and(|text| text.len() + 1 >= longest)), "{:?} {:?}", got, wanted);
            }
        }
    }
}
