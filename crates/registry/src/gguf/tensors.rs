//! The tensors of a header: what they are called, how they are stored, and where.

use std::{collections::HashSet, io::Read};

use super::{Refusal, wire::Wire};
use crate::{names, shape};

/// The most tensors. The largest published models have fewer than 5,000.
const MAX_TENSORS: u64 = 65_536;

/// Names must be shorter: ggml keeps 64 bytes with the NUL.
const NAME_BYTES: u64 = 64;

/// The most dimensions that ggml has.
const MAX_RANK: u32 = 4;

/// How the elements of a tensor are stored: so many of them in a block of so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) name: &'static str,
    block_elements: u64,
    block_bytes: u64,
    use_for: Use,
}

/// What ggml does with a way of storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Rows are taken from it, and matrices multiplied.
    Weights,
    /// Nothing: matrix products look for a function that is not there, and end the process.
    Nothing,
    /// Tables of numbers of tokens or experts.
    Indices,
}

const fn storage(name: &'static str, block_elements: u64, block_bytes: u64, use_for: Use) -> Option<Storage> {
    Some(Storage { name, block_elements, block_bytes, use_for })
}

/// By the number that stands in the file. After `ggml_type` of llama.cpp b11434.
fn storage_of(code: u32) -> Option<Storage> {
    use Use::{Indices, Nothing, Weights};
    match code {
        0 => storage("F32", 1, 4, Weights),
        1 => storage("F16", 1, 2, Weights),
        2 => storage("Q4_0", 32, 18, Weights),
        3 => storage("Q4_1", 32, 20, Weights),
        6 => storage("Q5_0", 32, 22, Weights),
        7 => storage("Q5_1", 32, 24, Weights),
        8 => storage("Q8_0", 32, 34, Weights),
        9 => storage("Q8_1", 32, 36, Nothing),
        10 => storage("Q2_K", 256, 84, Weights),
        11 => storage("Q3_K", 256, 110, Weights),
        12 => storage("Q4_K", 256, 144, Weights),
        13 => storage("Q5_K", 256, 176, Weights),
        14 => storage("Q6_K", 256, 210, Weights),
        15 => storage("Q8_K", 256, 292, Nothing),
        16 => storage("IQ2_XXS", 256, 66, Weights),
        17 => storage("IQ2_XS", 256, 74, Weights),
        18 => storage("IQ3_XXS", 256, 98, Weights),
        19 => storage("IQ1_S", 256, 50, Weights),
        20 => storage("IQ4_NL", 32, 18, Weights),
        21 => storage("IQ3_S", 256, 110, Weights),
        22 => storage("IQ2_S", 256, 82, Weights),
        23 => storage("IQ4_XS", 256, 136, Weights),
        24 => storage("I8", 1, 1, Nothing),
        25 => storage("I16", 1, 2, Nothing),
        26 => storage("I32", 1, 4, Indices),
        27 => storage("I64", 1, 8, Indices),
        28 => storage("F64", 1, 8, Nothing),
        29 => storage("IQ1_M", 256, 56, Weights),
        30 => storage("BF16", 1, 2, Weights),
        34 => storage("TQ1_0", 256, 54, Weights),
        35 => storage("TQ2_0", 256, 66, Weights),
        39 => storage("MXFP4", 32, 17, Weights),
        40 => storage("NVFP4", 64, 36, Weights),
        41 => storage("Q1_0", 128, 18, Weights),
        42 => storage("Q2_0", 64, 18, Weights),
        _ => None,
    }
}

/// How many bytes so many elements take, stored as `code` says.
#[cfg(any(test, feature = "testsuite"))]
pub(crate) fn stored_bytes(code: u32, elements: u64) -> Option<u64> {
    let Storage { block_elements, block_bytes, .. } = storage_of(code)?;
    (elements / block_elements).checked_mul(block_bytes)
}

/// What a number that stands for no storage once stood for.
fn removed(code: u32) -> bool {
    matches!(code, 4 | 5 | 31..=33 | 36..=38)
}

/// How the file as a whole is stored: `general.file_type`, after `llama_ftype` of llama.cpp b11434.
pub(super) fn file_type(code: u32) -> Option<&'static str> {
    Some(match code {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        39 => "NVFP4",
        40 => "Q1_0",
        41 => "Q2_0",
        _ => return None,
    })
}

/// One tensor.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// Its dimensions, the one whose elements lie beside each other first.
    pub(super) dims: Vec<u64>,
    /// The number in the file of how it is stored.
    pub(super) code: u32,
    pub(super) storage: Storage,
    pub(super) elements: u64,
    pub(super) bytes: u64,
    /// Where it lies, from the beginning of the data.
    pub(super) offset: u64,
}

impl Tensor {
    /// The dimension `at`; those that are not written are 1.
    pub(super) fn dim(&self, at: usize) -> u64 {
        self.dims.get(at).copied().unwrap_or(1)
    }

    fn read<R: Read>(wire: &mut Wire<R>) -> Result<Self, Refusal> {
        let name = wire.string(NAME_BYTES - 1, "a tensor's name")?;
        let name = String::from_utf8(name).map_err(|_| "a tensor's name is not UTF-8".to_owned())?;
        let shown = names::shown(&name);
        // ggml keeps names up to the first NUL, so two could become one.
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(format!("the tensor name \"{shown}\" is empty or holds a control character"));
        }
        Self::read_named(wire, name).map_err(|reason| format!("tensor {shown} {reason}"))
    }

    /// Reads what follows a name; the reason of a refusal follows "tensor ...".
    fn read_named<R: Read>(wire: &mut Wire<R>, name: String) -> Result<Self, Refusal> {
        let rank = wire.u32("its number of dimensions")?;
        if rank == 0 || rank > MAX_RANK {
            return Err(format!("has {rank} dimensions, where 1 to {MAX_RANK} are possible"));
        }
        let mut dims = Vec::new();
        for _ in 0..rank {
            let dim = wire.u64("a dimension")?;
            // ggml counts elements of rows in 32 bits in places.
            if dim == 0 || dim > i32::MAX as u64 {
                return Err(format!("has a dimension of {dim}, where 1 to {} are possible", i32::MAX));
            }
            dims.push(dim);
        }
        let code = wire.u32("its type")?;
        let Some(storage) = storage_of(code) else {
            let what =
                if removed(code) { "is of a type that llama.cpp no longer reads" } else { "has an unknown type" };
            return Err(format!("{what} ({code})"));
        };
        let offset = wire.u64("its offset")?;
        let row = dims.first().copied().unwrap_or_default();
        if row % storage.block_elements != 0 {
            let (kind, block) = (storage.name, storage.block_elements);
            return Err(format!(
                "has rows of {row} elements, which is no multiple of the {block} in a block of {kind}"
            ));
        }
        let overflow = || "has a shape whose product overflows 64 bits".to_owned();
        let elements = shape::elements(&dims).ok_or_else(overflow)?;
        let bytes = (elements / storage.block_elements).checked_mul(storage.block_bytes);
        let bytes = bytes.filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(overflow)?;
        Ok(Self { name, dims, code, storage, elements, bytes, offset })
    }

    /// Refuses a way of storing that ends the process when the tensor is computed with, which
    /// llama.cpp does not look at when it loads: products want weights, and sums want F32.
    pub(super) fn check_use(&self) -> Result<(), Refusal> {
        let (name, kind) = (names::shown(&self.name), self.storage.name);
        match self.storage.use_for {
            Use::Nothing => Err(format!("tensor {name} is stored as {kind}, which cannot be computed with")),
            // The tables of DeepSeek's hashed routing and of drafts with a vocabulary of their own.
            Use::Indices if self.name.contains("tid2eid") || self.name.starts_with("d2t") => Ok(()),
            Use::Indices => Err(format!("tensor {name} is stored as {kind}, which is for indices only")),
            Use::Weights if kind != "F32" && self.is_summand() => {
                Err(format!("tensor {name} is stored as {kind}, but what is added or scaled by must be F32"))
            }
            Use::Weights => Ok(()),
        }
    }

    /// Whether the tensor is added to or multiplied with others element by element. The converters
    /// of llama.cpp write exactly these as F32.
    fn is_summand(&self) -> bool {
        let is_matrix = [".weight", ".lora_a", ".lora_b"].iter().any(|end| self.name.ends_with(end));
        self.dims.len() == 1
            || !is_matrix
            || self.name.ends_with("_norm.weight")
            || ["ssm_conv1d", "shortconv.conv", "time_mix_first", "lerp_fused"]
                .iter()
                .any(|part| self.name.contains(part))
    }
}

/// Reads `count` tensors, none of them named twice.
pub(super) fn read<R: Read>(wire: &mut Wire<R>, count: u64) -> Result<Vec<Tensor>, Refusal> {
    // A tensor has at least its name's length, one byte, one dimension, its type and its offset.
    if count > MAX_TENSORS || count > wire.remaining() / 33 {
        return Err(format!("it claims {count} tensors, more than its size or the limit of {MAX_TENSORS} allows"));
    }
    if count == 0 {
        return Err("it has no tensors".to_owned());
    }
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..count {
        let tensor = Tensor::read(wire)?;
        if !seen.insert(tensor.name.clone()) {
            return Err(format!("tensor {} stands in it twice", names::shown(&tensor.name)));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

/// Compares where the tensors say they lie with where they must: one after the other from
/// `header_bytes` on, each at the next multiple of `alignment`. Gives the bytes from the first to
/// the end of the last.
pub(super) fn check_places(
    tensors: &[Tensor],
    alignment: u64,
    header_bytes: u64,
    file_bytes: u64,
) -> Result<u64, Refusal> {
    let overflow = || "its tensors have more bytes than 64 bits can count".to_owned();
    let start = header_bytes.checked_next_multiple_of(alignment).ok_or_else(overflow)?;
    let (mut next, mut end) = (0_u64, 0_u64);
    for tensor in tensors {
        let Tensor { name, offset, bytes, .. } = tensor;
        let name = names::shown(name);
        if offset % alignment != 0 {
            return Err(format!("tensor {name} lies at byte {offset} of the data, no multiple of {alignment}"));
        }
        if *offset < next {
            return Err(format!("tensor {name} lies at byte {offset} of the data and overlaps what ends at {next}"));
        }
        if *offset > next {
            return Err(format!("tensor {name} lies at byte {offset} of the data, where {next} is the next free one"));
        }
        end = offset.checked_add(*bytes).ok_or_else(overflow)?;
        let file_end = start.checked_add(end).ok_or_else(overflow)?;
        if file_end > file_bytes {
            return Err(format!("tensor {name} ends at byte {file_end} of the file, which has {file_bytes}"));
        }
        next = end.checked_next_multiple_of(alignment).ok_or_else(overflow)?;
    }
    Ok(end)
}
