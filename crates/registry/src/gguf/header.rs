//! What stands before the data, compared with itself and with the file's size.

use std::io::Read;

use super::tensors::{self, Tensor};
use super::value::{Metadata, Number, Value};
use super::{Refusal, wire::Wire};

/// The largest alignment of tensors. Files have 32; a page is 4 KiB, a huge one 2 MiB.
pub const MAX_ALIGNMENT_BYTES: u32 = 1 << 20;

/// The alignment where a file says nothing.
const DEFAULT_ALIGNMENT_BYTES: u32 = 32;

/// A header that was read.
pub(super) struct Header {
    pub(super) keys: Metadata,
    /// Where the table of tensors begins in the file.
    pub(super) table_at: u64,
    pub(super) tensors: Vec<Tensor>,
    /// To what multiple every tensor is laid.
    pub(super) alignment: u64,
    /// Where the header ends.
    end: u64,
}

impl Header {
    pub(super) fn read<R: Read>(wire: &mut Wire<R>) -> Result<Header, Refusal> {
        check_magic(wire)?;
        let tensor_count = wire.u64("the number of tensors")?;
        let key_count = wire.u64("the number of keys")?;
        let keys = Metadata::read(wire, key_count)?;
        let alignment = alignment(&keys)?;
        refuse_split(&keys)?;
        let table_at = wire.position();
        let tensors = tensors::read(wire, tensor_count)?;
        Ok(Header { keys, table_at, tensors, alignment, end: wire.position() })
    }

    /// The bytes from the first tensor to the end of the last, where all lie as they must.
    pub(super) fn data_bytes(&self, file_bytes: u64) -> Result<u64, Refusal> {
        tensors::check_places(&self.tensors, self.alignment, self.end, file_bytes)
    }

    /// Where the first tensor begins in a file whose tensors lie as they must.
    pub(super) fn data_at(&self) -> u64 {
        self.end.next_multiple_of(self.alignment)
    }
}

fn check_magic<R: Read>(wire: &mut Wire<R>) -> Result<(), Refusal> {
    let mut magic = [0; 4];
    wire.fill(&mut magic, "its mark")?;
    match &magic {
        b"GGUF" => {}
        b"FUGG" => return Err("it is written in big-endian order; take a little-endian file".to_owned()),
        b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => {
            return Err("it is of a format older than GGUF; convert the model again".to_owned());
        }
        _ => return Err("it does not begin with GGUF".to_owned()),
    }
    match wire.u32("its version")? {
        2 | 3 => Ok(()),
        1 => Err("it is of version 1, which no engine reads any more; convert the model again".to_owned()),
        version if version & 0xffff == 0 && version != 0 => {
            Err("it is written in big-endian order; take a little-endian file".to_owned())
        }
        version => Err(format!("it is of version {version}, where 2 and 3 are known")),
    }
}

fn alignment(keys: &Metadata) -> Result<u64, Refusal> {
    let bytes = keys.u32("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT_BYTES);
    if !bytes.is_power_of_two() || bytes > MAX_ALIGNMENT_BYTES {
        return Err(format!("its alignment is {bytes}, no power of two up to {MAX_ALIGNMENT_BYTES}"));
    }
    Ok(u64::from(bytes))
}

/// A piece of a model names the others by number alone, so the engine would open files that
/// nobody checked.
fn refuse_split(keys: &Metadata) -> Result<(), Refusal> {
    match keys.get("split.count") {
        None => Ok(()),
        Some(Value::Number(Number::U16, [0 | 1, 0, ..])) => Ok(()),
        Some(Value::Number(Number::U16, [low, high, ..])) => {
            let pieces = u16::from_le_bytes([*low, *high]);
            Err(format!("it is one of {pieces} pieces; join them with llama-gguf-split --merge"))
        }
        Some(_) => Err("the key split.count is not of type u16".to_owned()),
    }
}
