//! What single architectures of llama.cpp b11434 demand of their values.
//!
//! Read from `src/models/*.cpp` there: each list is of the architectures whose code asserts the
//! thing, or divides by it. An architecture in no list is held to the rules for all of them; one
//! that llama.cpp does not know is refused by it without harm.

/// What the widths of heads must be to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadWidths {
    /// Keys, values and what is rotated may differ.
    Free,
    /// Keys are as wide as values: what most architectures assert, or take for granted when they
    /// cut both by one width.
    Equal,
    /// Keys are as wide as values, and all of it is rotated.
    Rotated,
}

/// Keys and values are made apart, from a latent vector or by layers of two kinds.
#[rustfmt::skip]
const FREE: &[&str] = &[
    "bailingmoe3", "deepseek2", "deepseek2-ocr", "deepseek32", "deepseek4", "dots3note", "glm-dsa", "glm5-next",
    "hy_v4", "kimi-k3", "kimi-linear", "mimo2", "minicpm3", "mistral4", "plm",
];

/// Nothing is rotated.
#[rustfmt::skip]
const UNROTATED: &[&str] = &[
    "arwkv7", "bloom", "glm5-next", "gpt2", "gptj", "jais", "jamba", "jina-bert-v2", "kimi-k3", "kimi-linear", "mamba",
    "mamba2", "mpt", "nemotron_h", "nemotron_h_moe", "refact", "rwkv6", "rwkv6qwen2", "rwkv7", "t5", "t5encoder",
    "wavtokenizer-dec",
];

/// Keys are as wide as values, and rotated as a whole.
#[rustfmt::skip]
const ROTATED: &[&str] = &[
    "apertus", "arcee", "arctic", "baichuan", "chameleon", "codeshell", "cogvlm", "cohere2moe", "dbrx", "deci",
    "deepseek", "dots1", "dream", "ernie4_5", "ernie4_5-moe", "exaone", "exaone-moe", "exaone4", "falcon", "granite",
    "granite_swa", "granitemoe", "graniteswitch", "grok", "grovemoe", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl",
    "hy_v3", "internlm2", "jais2", "llada", "llada-moe", "llama", "llama-embed", "llama4", "maincoder", "mellum",
    "minicpm", "mistral3", "olmo", "olmo2", "olmoe", "orion", "paddleocr", "pangu-embedded", "plamo", "pockettts",
    "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3tts", "qwen3vl", "qwen3vlmoe", "rnd1", "seed_oss",
    "smallthinker", "smollm3", "starcoder2", "talkie", "xverse",
];

/// No layer has attention.
const RECURRENT: &[&str] = &["arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"];

/// Some layers have attention, and some have none.
const HYBRID: &[&str] = &[
    "bailingmoe3",
    "deci",
    "deepseek4",
    "falcon-h1",
    "glm5-next",
    "granitehybrid",
    "jamba",
    "kimi-k3",
    "kimi-linear",
    "lfm2",
    "lfm2moe",
    "minimax-01",
    "nemotron_h",
    "nemotron_h_moe",
    "plamo2",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen4exp",
];

/// The feed-forward length of an expert is divided by how many are used.
const WITH_EXPERTS: &[&str] =
    &["bailingmoe2", "glm4moe", "grovemoe", "lfm2moe", "llada-moe", "qwen35moe", "qwen4exp", "smallthinker"];

/// The inner size is divided by the groups and by the rank of the time step.
const GROUPED_SCANS: &[&str] = &["falcon-h1", "granitehybrid", "mamba2", "nemotron_h", "nemotron_h_moe"];

/// The groups are key heads and the rank of the time step is the value heads, a multiple of them.
const DELTA_NETS: &[&str] = &["clef", "qwen35", "qwen35moe", "qwen3next", "qwen4exp"];

/// The inner size is twice the embedding length.
const DOUBLED: &[&str] = &["granitehybrid", "jamba", "mamba"];

/// Positions have several parts, of which at least one must have a width.
const SECTIONED: &[&str] =
    &["clef", "paddleocr", "qwen2vl", "qwen35", "qwen35moe", "qwen3tts", "qwen3vl", "qwen3vlmoe", "qwen4exp"];

pub(super) fn head_widths(architecture: &str) -> HeadWidths {
    if ROTATED.contains(&architecture) {
        HeadWidths::Rotated
    } else if FREE.contains(&architecture) {
        HeadWidths::Free
    } else {
        HeadWidths::Equal
    }
}

pub(super) fn rotates(architecture: &str) -> bool {
    !UNROTATED.contains(&architecture)
}

pub(super) fn is_recurrent(architecture: &str) -> bool {
    RECURRENT.contains(&architecture)
}

pub(super) fn is_hybrid(architecture: &str) -> bool {
    HYBRID.contains(&architecture)
}

pub(super) fn needs_experts(architecture: &str) -> bool {
    WITH_EXPERTS.contains(&architecture)
}

pub(super) fn has_grouped_scans(architecture: &str) -> bool {
    GROUPED_SCANS.contains(&architecture)
}

pub(super) fn has_delta_nets(architecture: &str) -> bool {
    DELTA_NETS.contains(&architecture)
}

pub(super) fn doubles_width(architecture: &str) -> bool {
    DOUBLED.contains(&architecture)
}

pub(super) fn has_sections(architecture: &str) -> bool {
    SECTIONED.contains(&architecture)
}

/// How many tokens an RWKV layer looks back with its shift: what the state's size is made of.
pub(super) fn token_shifts(architecture: &str) -> Option<u32> {
    match architecture {
        "rwkv6" | "rwkv7" => Some(2),
        "rwkv6qwen2" | "arwkv7" => Some(1),
        _ => None,
    }
}
