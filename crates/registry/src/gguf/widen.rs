//! A model with its 5-bit weights written as 8-bit ones that say exactly the same.
//!
//! A block of Q5_0 is a 16-bit scale and 32 integers from -16 to 15; one of Q8_0 is the same with
//! integers from -128 to 127 (`block_q5_0` and `block_q8_0` in ggml's sources). So no weight changes,
//! and 22 bytes become 34. Quantisers fall back to Q5_0 where a row is no multiple of the 256 weights
//! that a block of their own has: two thirds of Gemma 3 270M's `Q4_K_M`. Not Q5_1, whose offset a
//! block of Q8_0 does not have.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use super::{Refusal, header, tensors::Tensor, wire::Wire};
use crate::RegistryError;

/// The number of Q5_0 in the file.
pub(super) const Q5_0: u32 = 6;
/// The number of Q8_0 in the file.
const Q8_0: u32 = 8;

const NARROW_BYTES: usize = 22;
const WIDE_BYTES: usize = 34;
const SCALE_BYTES: usize = 2;

/// What is read and written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes the model of `source`, which it calls `name`, to the empty file `into`, with every tensor in
/// Q5_0 as one in Q8_0. The rest is as it was.
///
/// # Errors
/// [`RegistryError::Malformed`] where [`check_file`](super::check_file) gives it, [`RegistryError::Io`].
pub fn widen(source: &Path, name: &str, into: &File) -> Result<(), RegistryError> {
    let reading = |error| RegistryError::io("read", name, error);
    let mut file = File::open(source).map_err(reading)?;
    let file_bytes = file.metadata().map_err(reading)?.len();
    let malformed = |reason: Refusal| RegistryError::Malformed { file: name.to_owned(), format: "GGUF", reason };
    let header = header::Header::read(&mut Wire::new(&file, file_bytes)).map_err(malformed)?;
    header.data_bytes(file_bytes).map_err(malformed)?;
    file.rewind().map_err(reading)?;
    write(&header, &mut BufReader::with_capacity(BUFFER_BYTES, file), into)
        .map_err(|error| RegistryError::io("write faster weights for", name, error))
}

/// How many bytes more the tensors take when they are widened.
pub(super) fn growth_bytes(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|tensor| widened(tensor).1 - tensor.bytes).sum()
}

/// A tensor's storage and size in the file that is written.
fn widened(tensor: &Tensor) -> (u32, u64) {
    match tensor.code {
        Q5_0 => (Q8_0, tensor.bytes / NARROW_BYTES as u64 * WIDE_BYTES as u64),
        code => (code, tensor.bytes),
    }
}

fn write(header: &header::Header, source: &mut (impl Read + Seek), into: &File) -> io::Result<()> {
    let mut into = Counted { file: BufWriter::with_capacity(BUFFER_BYTES, into), bytes: 0 };
    copy(source, header.table_at, &mut into)?;
    let mut next = 0_u64;
    for tensor in &header.tensors {
        let (code, bytes) = widened(tensor);
        into.write_all(&(tensor.name.len() as u64).to_le_bytes())?;
        into.write_all(tensor.name.as_bytes())?;
        into.write_all(&(tensor.dims.len() as u32).to_le_bytes())?;
        for dim in &tensor.dims {
            into.write_all(&dim.to_le_bytes())?;
        }
        into.write_all(&code.to_le_bytes())?;
        into.write_all(&next.to_le_bytes())?;
        next = (next + bytes).next_multiple_of(header.alignment);
    }
    into.pad(header.alignment)?;
    for tensor in &header.tensors {
        source.seek(SeekFrom::Start(header.data_at() + tensor.offset))?;
        if tensor.code == Q5_0 {
            widen_blocks(source, tensor.bytes, &mut into)?;
        } else {
            copy(source, tensor.bytes, &mut into)?;
        }
        into.pad(header.alignment)?;
    }
    into.file.flush()
}

fn copy(source: &mut impl Read, bytes: u64, into: &mut impl Write) -> io::Result<()> {
    let copied = io::copy(&mut source.take(bytes), into)?;
    if copied == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn widen_blocks(source: &mut impl Read, bytes: u64, into: &mut impl Write) -> io::Result<()> {
    let mut narrow = [0; NARROW_BYTES];
    for _ in 0..bytes / NARROW_BYTES as u64 {
        source.read_exact(&mut narrow)?;
        into.write_all(&widen_block(&narrow))?;
    }
    Ok(())
}

/// The scale stays. Of each integer, four bits lie in a nibble (the first half of the block in the low
/// ones, the second in the high ones), the fifth in a word before them; 16 is added to all.
fn widen_block(narrow: &[u8; NARROW_BYTES]) -> [u8; WIDE_BYTES] {
    let [scale_low, scale_high, a, b, c, d, nibbles @ ..] = *narrow;
    let fifths = u32::from_le_bytes([a, b, c, d]);
    let integer = |nibble: u8, place: usize| (nibble | ((fifths >> place & 1) as u8) << 4).wrapping_sub(16);
    let mut wide = [0; WIDE_BYTES];
    let (scale, integers) = wide.split_at_mut(SCALE_BYTES);
    scale.copy_from_slice(&[scale_low, scale_high]);
    let (first, second) = integers.split_at_mut(nibbles.len());
    for (place, (byte, (low, high))) in nibbles.iter().zip(first.iter_mut().zip(second)).enumerate() {
        *low = integer(byte & 15, place);
        *high = integer(byte >> 4, place + nibbles.len());
    }
    wide
}

/// A file that knows how far it is written.
struct Counted<W: Write> {
    file: W,
    bytes: u64,
}

impl<W: Write> Counted<W> {
    /// Zeros up to the next multiple of `alignment`.
    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        let missing = self.bytes.next_multiple_of(alignment) - self.bytes;
        copy(&mut io::repeat(0), missing, self)
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
