//! The write-ahead log: what was accepted and is not in a segment yet.
//!
//! A frame holds the changes of one write. A write is answered once its frame is on disk, so the
//! only frames that may be broken are those behind the last one that was synchronised: a *torn
//! tail*, which is cut off when the log is read again. Each frame says how much of the log was
//! synchronised when it was written. A broken frame before that point was whole once: the
//! disk has lost what was accepted, and the log is refused rather than cut. A log that was followed by
//! another was synchronised to its end, so all of it was.
//!
//! What is not told apart from a torn tail is damage to the frames that were synchronised last, as long as no
//! frame and no log has come behind them.
//!
//! Frame, little-endian: magic `u32`, length of the record `u32`, CRC-32 of all that follows `u32`,
//! synchronised bytes `u64`, sequence number `u64`, record.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};

const HEAD: &[u8; 16] = b"halny vectors 1\n";
const FRAME: u32 = 0x6c6e_7968;
/// The longest record. A write is resolved, kept in the buffer and in memory, so it is bounded for memory's sake
/// long before its length could not be written.
pub(crate) const RECORD_BYTES_MAX: usize = if cfg!(test) { 1 << 20 } else { 256 << 20 };
/// Magic, length, checksum; then what is checked: synchronised, sequence number.
const FRAME_HEAD_BYTES: usize = 12;
const CHECKED_HEAD_BYTES: usize = 16;
/// What the buffer keeps of its memory after a large write.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// The log that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    path: PathBuf,
    /// Bytes that are whole frames.
    written: u64,
    /// Of these, those that are on disk for certain.
    synchronised: u64,
    buffer: Vec<u8>,
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it does not begin as a log does")]
    Head,
    #[error(
        "the frame at byte {at} is broken, though it was on disk once: the file was changed or the disk has lost it"
    )]
    Lost { at: u64 },
}

/// A write that changes more than one record may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the write changes more than {} MiB of points, more than one write may; give a narrower filter, or fewer points \
     in each of several requests",
    RECORD_BYTES_MAX >> 20
)]
pub(crate) struct TooLarge;

/// What may be at the end of a log that is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A frame that was never synchronised.
    MayBeTorn,
    /// A whole frame: another log was begun behind it.
    Whole,
}

/// One write, as the log says it.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) sequence: u64,
    pub(crate) record: &'a [u8],
}

impl Log {
    /// An empty log in a new file, on disk with its name.
    pub(crate) fn create(path: &Path) -> io::Result<Log> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
        match Log::begin(file, path) {
            Ok(log) => Ok(log),
            Err(error) => {
                // Else its name is taken when that is tried again.
                super::files::warn_of(std::fs::remove_file(path));
                Err(error)
            }
        }
    }

    fn begin(mut file: File, path: &Path) -> io::Result<Log> {
        file.write_all(HEAD)?;
        file.sync_all()?;
        super::files::sync_parent(path)?;
        super::faults::at("log made", path)?;
        let written = HEAD.len() as u64;
        Ok(Log { file, path: path.to_owned(), written, synchronised: written, buffer: Vec::new() })
    }

    /// Reads a log from its beginning, gives every frame to `each`, cuts a torn tail off and goes on behind.
    /// `each` tells whether it could read the record, and whether it may come where it does.
    pub(crate) fn open(path: &Path, end: End, mut each: impl FnMut(Frame<'_>) -> bool) -> Result<Log, LogError> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let bytes = super::files::map(&file)?;
        let mut at = HEAD.len();
        if bytes.get(..at) != Some(HEAD.as_slice()) {
            // Made and not yet synchronised when the power went: there is nothing in it.
            if HEAD.starts_with(&bytes) && end == End::MayBeTorn {
                drop(bytes);
                file.set_len(0)?;
                file.write_all(HEAD)?;
                file.sync_all()?;
                return Ok(Log { file, path: path.to_owned(), written: 16, synchronised: 16, buffer: Vec::new() });
            }
            return Err(LogError::Head);
        }
        while let Some((frame, _, length)) = frame_at(&bytes, at) {
            if !each(frame) {
                return Err(LogError::Lost { at: at as u64 });
            }
            at += length;
        }
        if promised(bytes.get(at..).unwrap_or_default()) > at as u64 {
            return Err(LogError::Lost { at: at as u64 });
        }
        let torn = bytes.len() - at;
        if torn > 0 && end == End::Whole {
            return Err(LogError::Lost { at: at as u64 });
        }
        drop(bytes);
        if torn > 0 {
            tracing::warn!(bytes = torn, "cut the torn tail of a log: writes that were never confirmed");
            file.set_len(at as u64)?;
        }
        file.sync_all()?;
        file.seek(SeekFrom::Start(at as u64))?;
        Ok(Log { file, path: path.to_owned(), written: at as u64, synchronised: at as u64, buffer: Vec::new() })
    }

    /// Puts a frame into the buffer; `record` writes it.
    ///
    /// # Errors
    /// When the record is too large. Then the buffer is as it was.
    pub(crate) fn append(
        &mut self,
        sequence: u64,
        record: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLarge>,
    ) -> Result<(), TooLarge> {
        let start = self.buffer.len();
        let framed = self.frame(start, sequence, record);
        if framed.is_err() {
            self.buffer.truncate(start);
            self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        }
        framed
    }

    fn frame(
        &mut self,
        start: usize,
        sequence: u64,
        record: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLarge>,
    ) -> Result<(), TooLarge> {
        self.buffer.put_bytes(0, FRAME_HEAD_BYTES);
        self.buffer.put_u64_le(self.synchronised);
        self.buffer.put_u64_le(sequence);
        record(&mut self.buffer)?;
        let checked = self.buffer.get(start + FRAME_HEAD_BYTES..).unwrap_or_default();
        let length = checked.len() - CHECKED_HEAD_BYTES;
        let length = u32::try_from(length).ok().filter(|_| length <= RECORD_BYTES_MAX).ok_or(TooLarge)?;
        let crc = crc32fast::hash(checked);
        if let Some(mut head) = self.buffer.get_mut(start..start + FRAME_HEAD_BYTES) {
            head.put_u32_le(FRAME);
            head.put_u32_le(length);
            head.put_u32_le(crc);
        }
        Ok(())
    }

    /// Bytes of whole frames.
    pub(crate) fn bytes(&self) -> u64 {
        self.written
    }

    /// Hands the buffer to the operating system: from now on it outlives this process, not the machine.
    ///
    /// # Errors
    /// When it could not be written whole. Then nothing of it is in the log, unless the second
    /// value says that even that is unknown.
    pub(crate) fn write(&mut self) -> Result<(), (io::Error, bool)> {
        let wrote = self.file.write_all(&self.buffer);
        let bytes = self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        match wrote {
            Ok(()) => {
                self.written += bytes;
                Ok(())
            }
            Err(error) => {
                let undone =
                    self.file.set_len(self.written).and_then(|()| self.file.seek(SeekFrom::Start(self.written)));
                Err((error, undone.is_err()))
            }
        }
    }

    /// Waits until what was written is on disk.
    ///
    /// # Errors
    /// Then it is not known what is on disk, and trying again tells nothing: the operating system
    /// may have dropped what it could not write.
    pub(crate) fn synchronise(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        super::faults::at("log synchronised", &self.path)?;
        self.synchronised = self.written;
        Ok(())
    }
}

/// The whole frame that starts at `at`, how much it says was synchronised, and its length.
fn frame_at(bytes: &[u8], at: usize) -> Option<(Frame<'_>, u64, usize)> {
    let mut rest = bytes.get(at..)?;
    if rest.try_get_u32_le().ok()? != FRAME {
        return None;
    }
    let length = rest.try_get_u32_le().ok()? as usize;
    let crc = rest.try_get_u32_le().ok()?;
    let mut checked = rest.get(..length.checked_add(CHECKED_HEAD_BYTES)?)?;
    if crc32fast::hash(checked) != crc {
        return None;
    }
    let synchronised = checked.try_get_u64_le().ok()?;
    let sequence = checked.try_get_u64_le().ok()?;
    Some((Frame { sequence, record: checked }, synchronised, FRAME_HEAD_BYTES + CHECKED_HEAD_BYTES + length))
}

/// How much of the log any whole frame in a broken rest says was synchronised.
fn promised(rest: &[u8]) -> u64 {
    let mut most = 0;
    let mut at = 0;
    while let Some(found) = rest.get(at..).and_then(|rest| rest.windows(4).position(|word| word == FRAME.to_le_bytes()))
    {
        at += found;
        match frame_at(rest, at) {
            Some((_, synchronised, length)) => {
                most = most.max(synchronised);
                at += length;
            }
            None => at += 1,
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(path: &Path) -> Result<Vec<(u64, Vec<u8>)>, LogError> {
        let mut frames = Vec::new();
        Log::open(path, End::MayBeTorn, |frame| {
            frames.push((frame.sequence, frame.record.to_vec()));
            true
        })?;
        Ok(frames)
    }

    fn says(record: &[u8]) -> impl FnOnce(&mut Vec<u8>) -> Result<(), TooLarge> + '_ {
        |bytes| {
            bytes.extend_from_slice(record);
            Ok(())
        }
    }

    /// A log of these records, synchronised after each of the places in `synchronised`.
    fn write(path: &Path, records: &[Vec<u8>], synchronised: impl Fn(usize) -> bool) -> Vec<u64> {
        let mut log = Log::create(path).unwrap();
        let mut ends = Vec::new();
        for (sequence, record) in records.iter().enumerate() {
            log.append(sequence as u64, says(record)).unwrap();
            log.write().unwrap();
            if synchronised(sequence) {
                log.synchronise().unwrap();
            }
            ends.push(log.bytes());
        }
        ends
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_log_cut_anywhere_has_every_whole_frame_before(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8),
            cut in 0.0f64..1.0,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let ends = write(&path, &records, |_| false);
            let length = (*ends.last().unwrap() as f64 * cut) as u64;
            OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
            let whole = ends.iter().filter(|end| **end <= length).count();
            let found = read(&path).unwrap();
            prop_assert_eq!(found.len(), whole);
            prop_assert!(found.iter().zip(&records).all(|((_, found), wrote)| found == wrote));
            prop_assert_eq!(read(&path).unwrap().len(), whole, "and again, once it is cut");
        }

        #[test]
        fn a_byte_changed_in_what_was_confirmed_is_told_apart_from_a_torn_tail(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 2..8),
            place in 0.0f64..1.0,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let ends = write(&path, &records, |_| true);
            let mut bytes = std::fs::read(&path).unwrap();
            // Anywhere before the last frame, whose end nothing confirms.
            let confirmed = ends[ends.len() - 2] as usize;
            let at = HEAD.len() + ((confirmed - HEAD.len() - 1) as f64 * place) as usize;
            bytes[at] ^= 0x55;
            std::fs::write(&path, &bytes).unwrap();
            let lost = matches!(read(&path), Err(LogError::Lost { .. }));
            prop_assert!(lost);
        }
    }

    #[test]
    fn what_was_never_synchronised_may_be_lost_in_the_middle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let records = vec![vec![1; 30], vec![2; 30], vec![3; 30]];
        let ends = write(&path, &records, |place| place == 0);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[ends[0] as usize + 40] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).unwrap(), [(0, vec![1; 30])]);
    }

    #[test]
    fn writing_goes_on_behind_the_last_whole_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let ends = write(&path, &[vec![1; 10], vec![2; 10]], |_| true);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(ends[1] - 3).unwrap();
        let mut log = Log::open(&path, End::MayBeTorn, |_| true).unwrap();
        log.append(7, says(b"new")).unwrap();
        log.write().unwrap();
        log.synchronise().unwrap();
        assert_eq!(read(&path).unwrap(), [(0, vec![1; 10]), (7, b"new".to_vec())]);
    }

    #[test]
    fn a_record_that_is_too_large_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::create(&path).unwrap();
        let large = log.append(1, says(&[0; RECORD_BYTES_MAX + 1]));
        assert_eq!(large, Err(TooLarge));
        log.append(1, says(&[7; RECORD_BYTES_MAX])).unwrap();
        log.write().unwrap();
        assert_eq!(read(&path).unwrap(), [(1, vec![7; RECORD_BYTES_MAX])]);
    }

    #[test]
    fn a_log_that_another_came_behind_has_no_torn_tail() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let ends = write(&path, &[vec![1; 10], vec![2; 10]], |_| true);
        let whole = Log::open(&path, End::Whole, |_| true);
        assert!(whole.is_ok(), "{whole:?}");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(ends[1] - 3).unwrap();
        let cut = Log::open(&path, End::Whole, |_| true);
        assert!(matches!(cut, Err(LogError::Lost { at }) if at == ends[0]), "{cut:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), ends[1] - 3, "it was cut though it was refused");
    }

    #[test]
    fn a_log_that_was_made_and_not_written_is_empty_and_another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read(&path).unwrap(), []);
        std::fs::write(&path, b"something else that is no log").unwrap();
        assert!(matches!(read(&path), Err(LogError::Head)));
    }
}
