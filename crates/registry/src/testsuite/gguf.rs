//! GGUF files: sound ones that llama.cpp loads and runs, and whatever a test makes of them.
//!
//! ```
//! use halny_registry::{gguf, testsuite::gguf::Builder};
//! let file = Builder::model().set("llama.context_length", 64_u32).build();
//! assert!(gguf::check(file.as_slice(), file.len() as u64).is_ok());
//! let file = Builder::model().set("llama.context_length", 0_u32).build();
//! assert!(gguf::check(file.as_slice(), file.len() as u64).is_err());
//! ```

/// The code of tensors of 32-bit floating-point numbers.
pub const F32: u32 = 0;

/// The code of tensors of 16-bit floating-point numbers.
pub const F16: u32 = 1;

/// The code of tensors of 8-bit integers in blocks of 32.
pub const Q8_0: u32 = 8;

/// The vector width of [`Builder::model`].
pub const WIDTH: u64 = 32;

/// The tokens of [`Builder::model`]: three for beginning, end and unknown, 256 bytes, and a space.
pub const TOKENS: u64 = 260;

/// The feed-forward width of [`Builder::model`].
const FEED_FORWARD: u64 = 64;

/// A value: the code of its type, then its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The code of the type.
    pub code: u32,
    /// What follows the code.
    pub bytes: Vec<u8>,
}

impl Value {
    /// An array: the code of its elements' type, how many there are, their bytes.
    #[must_use]
    pub fn array(code: u32, length: u64, elements: &[u8]) -> Self {
        Self { code: 9, bytes: [&code.to_le_bytes()[..], &length.to_le_bytes(), elements].concat() }
    }
}

/// Each number and its array.
macro_rules! numbers {
    ($($number:ty => $code:literal),*) => {$(
        impl From<$number> for Value {
            fn from(number: $number) -> Self {
                Self { code: $code, bytes: number.to_le_bytes().to_vec() }
            }
        }

        impl From<Vec<$number>> for Value {
            fn from(numbers: Vec<$number>) -> Self {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Self::array($code, numbers.len() as u64, &bytes)
            }
        }
    )*};
}

numbers!(u8 => 0, i8 => 1, u16 => 2, i16 => 3, u32 => 4, i32 => 5, f32 => 6, u64 => 10, i64 => 11, f64 => 12);

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self { code: 7, bytes: vec![u8::from(truth)] }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self { code: 8, bytes: string(text.as_bytes()) }
    }
}

impl<T: AsRef<[u8]>> From<Vec<T>> for Value
where
    T: Text,
{
    fn from(texts: Vec<T>) -> Self {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| string(text.as_ref())).collect();
        Self::array(8, texts.len() as u64, &bytes)
    }
}

/// What makes an array of texts.
pub trait Text {}
impl Text for &str {}
impl Text for String {}
impl Text for Vec<u8> {}

/// A length and the bytes.
fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

/// A tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: Vec<u8>,
    /// Its dimensions, innermost first.
    pub dims: Vec<u64>,
    /// The code of how it is stored.
    pub code: u32,
    /// Where it lies; after the ones before where nothing is said.
    pub offset: Option<u64>,
}

/// A file in the making. What it claims can be set apart from what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Builder {
    /// The version.
    pub version: u32,
    /// The keys with their values, in order.
    pub keys: Vec<(Vec<u8>, Value)>,
    /// The tensors, in order.
    pub tensors: Vec<Tensor>,
    /// To what multiple tensors are laid.
    pub alignment: u64,
    /// What a seed makes of the matrices' numbers: as many and as large as a model's that has been trained.
    /// Without one they are small.
    pub seed: Option<u64>,
    /// The number of keys to claim, if not the true one.
    pub claimed_keys: Option<u64>,
    /// The number of tensors to claim, if not the true one.
    pub claimed_tensors: Option<u64>,
}

impl Builder {
    /// No keys, no tensors.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            version: 3,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            seed: None,
            claimed_keys: None,
            claimed_tensors: None,
        }
    }

    /// A Llama of one layer with a SentencePiece vocabulary of bytes, in F32.
    #[must_use]
    pub fn model() -> Self {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
        tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
        tokens.push("\u{2581}".to_owned());
        let types = [vec![2, 3, 3], vec![6; 256], vec![1_i32]].concat();
        let (width, feed_forward) = (WIDTH, FEED_FORWARD);
        Self::empty()
            .set("general.architecture", "llama")
            .set("general.name", "Test Model")
            .set("general.file_type", 0_u32)
            .set("llama.block_count", 1_u32)
            .set("llama.context_length", 128_u32)
            .set("llama.embedding_length", 32_u32)
            .set("llama.feed_forward_length", 64_u32)
            .set("llama.attention.head_count", 4_u32)
            .set("llama.attention.head_count_kv", 2_u32)
            .set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32)
            .set("llama.rope.dimension_count", 8_u32)
            .set("llama.rope.freq_base", 10_000_f32)
            .set("tokenizer.ggml.model", "llama")
            .set("tokenizer.ggml.tokens", tokens)
            .set("tokenizer.ggml.scores", vec![0_f32; 260])
            .set("tokenizer.ggml.token_type", types)
            .set("tokenizer.ggml.bos_token_id", 1_u32)
            .set("tokenizer.ggml.eos_token_id", 2_u32)
            .set("tokenizer.ggml.unknown_token_id", 0_u32)
            .tensor("token_embd.weight", &[width, TOKENS], F32)
            .tensor("output_norm.weight", &[width], F32)
            .tensor("blk.0.attn_norm.weight", &[width], F32)
            .tensor("blk.0.attn_q.weight", &[width, width], F32)
            .tensor("blk.0.attn_k.weight", &[width, 16], F32)
            .tensor("blk.0.attn_v.weight", &[width, 16], F32)
            .tensor("blk.0.attn_output.weight", &[width, width], F32)
            .tensor("blk.0.ffn_norm.weight", &[width], F32)
            .tensor("blk.0.ffn_gate.weight", &[width, feed_forward], F32)
            .tensor("blk.0.ffn_up.weight", &[width, feed_forward], F32)
            .tensor("blk.0.ffn_down.weight", &[feed_forward, width], F32)
    }

    /// As [`model`](Self::model), with three layers, a context of 1,024 tokens, and weights that say
    /// something else after each prompt, clearly: a token's lead over the next is not decided by rounding.
    #[must_use]
    pub fn speaker(seed: u64) -> Self {
        let mut file = Self::model().set("llama.block_count", 3_u32).set("llama.context_length", 1_024_u32);
        file.seed = Some(seed);
        let first = file.tensors.clone();
        for layer in 1..3 {
            for tensor in &first {
                let Ok(name) = str::from_utf8(&tensor.name) else { continue };
                if let Some(rest) = name.strip_prefix("blk.0.") {
                    file = file.tensor(&format!("blk.{layer}.{rest}"), &tensor.dims, F32);
                }
            }
        }
        file.tensor("output.weight", &[WIDTH, TOKENS], F32)
    }

    /// A low-rank adapter for two tensors of [`model`](Self::model).
    #[must_use]
    pub fn adapter() -> Self {
        Self::empty()
            .set("general.architecture", "llama")
            .set("general.type", "adapter")
            .set("adapter.type", "lora")
            .set("adapter.lora.alpha", 8_f32)
            .tensor("blk.0.attn_q.weight.lora_a", &[WIDTH, 4], F32)
            .tensor("blk.0.attn_q.weight.lora_b", &[4, WIDTH], F32)
            .tensor("blk.0.attn_v.weight.lora_a", &[WIDTH, 4], F32)
            .tensor("blk.0.attn_v.weight.lora_b", &[4, 16], F32)
    }

    /// Gives `key` a value, in place of the one it has.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        match self.keys.iter_mut().find(|(there, _)| there == key.as_bytes()) {
            Some((_, there)) => *there = value,
            None => self.keys.push((key.as_bytes().to_vec(), value)),
        }
        self
    }

    /// Takes `key` away.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(there, _)| there != key.as_bytes());
        self
    }

    /// Adds a tensor, or puts it in the place of the one of its name.
    #[must_use]
    pub fn tensor(mut self, name: &str, dims: &[u64], code: u32) -> Self {
        let tensor = Tensor { name: name.as_bytes().to_vec(), dims: dims.to_vec(), code, offset: None };
        match self.tensors.iter_mut().find(|there| there.name == tensor.name) {
            Some(there) => *there = tensor,
            None => self.tensors.push(tensor),
        }
        self
    }

    /// Takes the tensor `name` away.
    #[must_use]
    pub fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|there| there.name != name.as_bytes());
        self
    }

    /// Everything before the data, without what fills up to it.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.claimed_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.claimed_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            bytes.extend(string(key));
            bytes.extend(value.code.to_le_bytes());
            bytes.extend_from_slice(&value.bytes);
        }
        let mut next = 0;
        for tensor in &self.tensors {
            bytes.extend(string(&tensor.name));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            bytes.extend(tensor.code.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(next).to_le_bytes());
            next = self.padded(next.saturating_add(data_of(tensor, self.seed).len() as u64));
        }
        bytes
    }

    /// The whole file.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = self.header();
        for tensor in &self.tensors {
            bytes.resize(self.padded(bytes.len() as u64) as usize, 0);
            bytes.extend(data_of(tensor, self.seed));
        }
        bytes.resize(self.padded(bytes.len() as u64) as usize, 0);
        bytes
    }

    fn padded(&self, bytes: u64) -> u64 {
        bytes.checked_next_multiple_of(self.alignment).unwrap_or(bytes)
    }
}

/// The most bytes of data written for one tensor: a shape that lies has fewer than it claims.
const MAX_DATA_BYTES: u64 = 16 << 20;

/// A tensor's data: ones where a vector is scaled by it, else small numbers that depend on their
/// place, or larger ones that depend on a seed and the tensor's name too; zeros in all storages but F32.
fn data_of(tensor: &Tensor, seed: Option<u64>) -> Vec<u8> {
    let elements = tensor.dims.iter().fold(1_u64, |product, dim| product.saturating_mul(*dim));
    let bytes = crate::gguf::stored_bytes(tensor.code, elements).unwrap_or(elements).min(MAX_DATA_BYTES) as usize;
    if tensor.code != F32 {
        return vec![0; bytes];
    }
    let small = |place: usize| (place.wrapping_mul(2_654_435_761) >> 7 & 0xff) as f32 / 2560.0 - 0.05;
    let noise = |seed: u64, place: usize| {
        let named = tensor.name.iter().fold(seed, |hash, byte| mixed(hash ^ u64::from(*byte)));
        let even = (mixed(named ^ place as u64) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0;
        // As wide as keeps a product with it as large as what it is multiplied with; twice that, for contrast.
        even * 2.0 * (3.0 / tensor.dims[0] as f32).sqrt()
    };
    let number = |place: usize| match seed {
        _ if tensor.dims.len() == 1 => 1.0,
        Some(seed) => noise(seed, place),
        None => small(place),
    };
    (0..bytes / 4).flat_map(|place| number(place).to_le_bytes()).collect()
}

/// The finaliser of SplitMix64 (Steele et al., OOPSLA 2014): every bit depends on all.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
