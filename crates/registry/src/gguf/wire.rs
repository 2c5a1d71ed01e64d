//! Reading a header's bytes, none of them before it is known that they can be there.

use std::io::{BufReader, Read};

use super::{MAX_HEADER_BYTES, Refusal};

/// What is read from the file at once.
const BUFFER_BYTES: usize = 64 << 10;

/// The beginning of a file, read once from front to back.
///
/// Every length that the file claims goes through [`need`](Self::need) first, so nothing is
/// allocated or looped over that the file, or the limit on headers, cannot hold.
pub(super) struct Wire<R> {
    reader: BufReader<R>,
    position: u64,
    file_bytes: u64,
}

impl<R: Read> Wire<R> {
    pub(super) fn new(reader: R, file_bytes: u64) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER_BYTES, reader), position: 0, file_bytes }
    }

    /// How many bytes came before the next one.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// How many bytes the header can still have.
    pub(super) fn remaining(&self) -> u64 {
        self.file_bytes.min(MAX_HEADER_BYTES).saturating_sub(self.position)
    }

    /// Refuses `bytes` for `what` that the rest of the header cannot have.
    pub(super) fn need(&self, bytes: u64, what: &str) -> Result<(), Refusal> {
        if bytes <= self.remaining() {
            return Ok(());
        }
        let left = self.file_bytes.saturating_sub(self.position);
        Err(if bytes > left {
            format!("{what} needs {bytes} bytes at byte {}, but the file has only {left} from there", self.position)
        } else {
            format!("{what} needs {bytes} bytes, which takes the header over the limit of {MAX_HEADER_BYTES} bytes")
        })
    }

    /// Fills `into`.
    pub(super) fn fill(&mut self, into: &mut [u8], what: &str) -> Result<(), Refusal> {
        self.need(into.len() as u64, what)?;
        self.reader.read_exact(into).map_err(|error| format!("{what} cannot be read: {error}"))?;
        self.position += into.len() as u64;
        Ok(())
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Refusal> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes, what)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Refusal> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes, what)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Appends the next `bytes` to `into`, which grows as they come and not by what was claimed:
    /// a reader may have less than the file's size promised.
    pub(super) fn append(&mut self, bytes: u64, into: &mut Vec<u8>, what: &str) -> Result<(), Refusal> {
        self.need(bytes, what)?;
        let came = self.reader.by_ref().take(bytes).read_to_end(into);
        let came = came.map_err(|error| format!("{what} cannot be read: {error}"))? as u64;
        self.position += came;
        if came < bytes {
            return Err(format!("{what} ends after {came} of {bytes} bytes"));
        }
        Ok(())
    }

    /// Goes past the next `bytes`, giving them to `look` in pieces of whole eights (the last may be
    /// shorter).
    pub(super) fn pass(
        &mut self,
        bytes: u64,
        what: &str,
        mut look: impl FnMut(&[u8]) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.need(bytes, what)?;
        let mut piece = [0; 4096];
        let mut left = bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let piece = &mut piece[..length];
            self.fill(piece, what)?;
            look(piece)?;
            left -= length as u64;
        }
        Ok(())
    }

    /// A length and that many bytes, at most `limit_bytes`.
    pub(super) fn string(&mut self, limit_bytes: u64, what: &str) -> Result<Vec<u8>, Refusal> {
        let bytes = self.u64(what)?;
        self.need(bytes, what)?;
        if bytes > limit_bytes {
            return Err(format!("{what} has {bytes} bytes, more than the limit of {limit_bytes}"));
        }
        let mut text = Vec::new();
        self.append(bytes, &mut text, what)?;
        Ok(text)
    }
}
