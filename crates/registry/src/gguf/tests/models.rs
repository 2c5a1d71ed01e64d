//! The numbers from which a graph is built.

use super::*;
use crate::testsuite::gguf::{F32, Value};

fn set(key: &str, value: impl Into<Value>) -> Builder {
    Builder::model().set(&format!("llama.{key}"), value)
}

/// The model as if it were of another architecture.
fn of(architecture: &str) -> Builder {
    let mut file = Builder::model().set("general.architecture", architecture);
    for (key, _) in &mut file.keys {
        if let Some(rest) = key.strip_prefix(b"llama.") {
            *key = [architecture.as_bytes(), b".", rest].concat();
        }
    }
    file
}

/// The model with `blocks` layers; only their number matters here.
fn layers(file: Builder, architecture: &str, blocks: u32) -> Builder {
    file.set(&format!("{architecture}.block_count"), blocks)
}

#[test]
fn an_architecture_must_be_a_short_name() {
    for name in ["", "Llama", "llama 2", "../x", "a\0b\u{1}", &"a".repeat(65), "l%s"] {
        // What follows a NUL is not seen, so the third last is `a`.
        let part = if name.starts_with('a') && name.len() < 10 { "it has no key" } else { "short name" };
        refused(&Builder::model().set("general.architecture", name), part);
    }
    refused(&Builder::model().set("general.architecture", 3_u32), "is u32, not a text");
    refused(&Builder::model().without("general.architecture"), "does not say its general.architecture");
    refused(&Builder::model().set("general.architecture", "clip"), "mmproj");
    for name in ["gpt-oss", "nemotron_h", "qwen4exp"] {
        refused(&Builder::model().set("general.architecture", name), &format!("it has no key {name}."));
    }
}

#[test]
fn what_every_model_has_must_be_there_and_in_range() {
    for key in ["block_count", "context_length", "embedding_length"] {
        refused(&Builder::model().without(&format!("llama.{key}")), &format!("it has no key llama.{key}"));
        for value in [0, u32::MAX] {
            refused(&set(key, value), &format!("the key llama.{key} is {value}, where 1 to"));
        }
        refused(&set(key, 1_u64), "is u64, not u32");
        refused(&set(key, -1_i32), "is i32, not u32");
        refused(&set(key, "1"), "is a text, not u32");
        refused(&set(key, vec![1_u32]), "is an array of u32, not u32");
    }
    refused(&set("block_count", 513_u32), "where 1 to 512");
}

#[test]
fn lengths_that_are_divided_by_are_not_zero_and_none_is_absurd() {
    for key in [
        "attention.key_length",
        "attention.value_length",
        "attention.group_norm_groups",
        "attention.indexer.block_size",
        "attention.output_group_count",
        "decoder_block_count",
        "experts_per_group",
        "full_attention_interval",
        "num_loops",
        "ssm.inner_size",
        "ssm.time_step_rank",
        "vocab_size",
        "wkv.head_size",
    ] {
        refused(&set(key, 0_u32), &format!("llama.{key} is 0, where 1 to"));
        refused(&set(key, u32::MAX), &format!("llama.{key} is {}", u32::MAX));
        refused(&set(key, true), "is bool, not u32");
    }
    refused(&set("attention.relative_buckets_count", 3_u32), "where 4 to");
    refused(&set("shortconv.l_cache", 1_u32), "where 2 to");
    refused(&set("pooling_type", 5_u32), "where 0 to 4");
    refused(&set("expert_gating_func", 9_u32), "where 0 to 4");
    refused(&set("attention.sliding_window", 1_u32 << 31), "attention.sliding_window is 2147483648");
    accepted(&set("attention.sliding_window", 0_u32));
    accepted(&set("pooling_type", 3_u32));
}

#[test]
fn floating_point_numbers_must_be_finite_and_of_the_sign_asserted() {
    let epsilon = "attention.layer_norm_rms_epsilon";
    for value in [f32::INFINITY, f32::NEG_INFINITY, -1e-6] {
        refused(&set(epsilon, value), "not a finite number that is not negative");
    }
    refused(&set(epsilon, f32::NAN), "NaN");
    refused(&set(epsilon, 1e-6_f64), "is f64, not f32");
    accepted(&set(epsilon, 0_f32));
    for value in [0_f32, -1.0, f32::INFINITY] {
        refused(&set("rope.freq_base", value), "not a finite number above 0");
        refused(&set("rope.freq_base_swa", value), "not a finite number above 0");
    }
    refused(&set("rope.scaling.factor", -2_f32), "not negative");
    refused(&set("logit_scale", f32::INFINITY), "llama.logit_scale is inf, not a finite number");
    refused(&set("rope.scaling.type", "dynamic"), "none of none, linear, yarn, longrope");
    refused(&set("rope.scaling.type", 1_u32), "is u32, not a text");
    accepted(&set("rope.scaling.type", "yarn"));
}

#[test]
fn numbers_of_layers_must_go_together() {
    refused(&set("nextn_predict_layers", 1_u32), "nextn_predict_layers is 1, which does not go with 1 layers");
    accepted(&layers(set("nextn_predict_layers", 1_u32), "llama", 2));
    refused(&layers(set("num_loops", 300_u32), "llama", 2), "num_loops is 300");
    refused(&set("posnet.block_count", 2_u32), "posnet.block_count is 2");
    for key in ["feed_forward_length", "attention.head_count", "attention.head_count_kv", "expert_used_count"] {
        refused(&set(key, vec![4_u32, 4]), "has 2 entries for 1 layers");
        refused(&set(key, vec![-1_i32]), "negative");
        refused(&set(key, vec![1_u64]), "not of u32 or i32");
        refused(&set(key, vec!["4"]), "not an array of u32 or i32");
        refused(&set(key, u32::MAX), "more than the limit of");
    }
    let model = accepted(&layers(set("feed_forward_length", vec![0_i32, 64]), "llama", 2));
    assert_eq!(model.model().unwrap().head_counts, [4, 4]);
}

#[test]
fn heads_must_be_there_and_be_shared_evenly() {
    refused(&set("attention.head_count", 0_u32), "layers without heads");
    refused(&Builder::model().without("llama.attention.head_count"), "layers without heads");
    refused(&set("attention.head_count_kv", 0_u32), "layers without key heads");
    refused(&set("attention.head_count_kv", 3_u32), "4 heads cannot share 3 key heads");
    refused(&set("attention.head_count_kv", 8_u32), "4 heads cannot share 8 key heads");
    let two = |heads: Vec<u32>, architecture: &str| {
        layers(of(architecture).set(&format!("{architecture}.attention.head_count"), heads), architecture, 2)
    };
    refused(&two(vec![4, 0], "llama"), "layers without heads");
    refused(&two(vec![0, 0], "jamba"), "layers without heads");
    let hybrid = two(vec![4, 4], "jamba").set("jamba.attention.head_count_kv", vec![0_u32, 2]);
    assert_eq!(accepted(&hybrid).model().unwrap().kv_head_counts, [0, 2]);
    let recurrent = of("mamba").set("mamba.attention.head_count", 0_u32).without("mamba.attention.head_count_kv");
    assert_eq!(accepted(&recurrent).model().unwrap().key_length, 0);
    // 64 heads for 32 numbers.
    refused(&set("attention.head_count", 64_u32), "more of them than the embedding length");
    let wide = set("attention.head_count", 65_536_u32).set("llama.attention.key_length", 65_536_u32);
    let wide = wide.set("llama.attention.value_length", 65_536_u32).set("llama.rope.dimension_count", 65_536_u32);
    refused(&wide, "wider than 32 bits");
}

#[test]
fn widths_of_heads_must_go_together_as_each_architecture_asserts() {
    let with = |architecture: &str, key: u32, value: u32, rotated: u32| {
        of(architecture)
            .set(&format!("{architecture}.attention.key_length"), key)
            .set(&format!("{architecture}.attention.value_length"), value)
            .set(&format!("{architecture}.rope.dimension_count"), rotated)
    };
    accepted(&with("llama", 16, 16, 16));
    refused(&with("llama", 16, 8, 16), "do not go together in llama");
    refused(&with("llama", 16, 16, 8), "do not go together in llama");
    accepted(&with("stablelm", 16, 16, 4));
    refused(&with("stablelm", 16, 8, 4), "do not go together in stablelm");
    accepted(&with("deepseek2", 24, 16, 8));
    for (key, rotated) in [(16, 18), (16, 15), (16, 0)] {
        refused(&with("deepseek2", key, 16, rotated), "cannot be rotated");
    }
    let window = with("gemma3", 16, 16, 16).set("gemma3.attention.key_length_swa", 8_u32);
    let window = window.set("gemma3.attention.value_length_swa", 8_u32);
    refused(&window, "rope.dimension_count_swa is 16, which heads of 8 cannot");
    accepted(&window.set("gemma3.rope.dimension_count_swa", 8_u32));
    // Nothing is said: all of a head is rotated.
    let unsaid = |file: Builder, architecture: &str| file.without(&format!("{architecture}.rope.dimension_count"));
    accepted(&unsaid(Builder::model(), "llama"));
    refused(&unsaid(with("gemma", 7, 7, 0), "gemma"), "is 7, which heads of 7 cannot be rotated");
    refused(&with("gemma", 16, 8, 8), "do not go together in gemma");
    accepted(&with("gpt2", 7, 7, 0));
}

#[test]
fn sections_of_positions_must_have_a_width() {
    let with = |sections: Vec<i32>| of("qwen2vl").set("qwen2vl.rope.dimension_sections", sections);
    accepted(&with(vec![2, 1, 1, 0]));
    refused(&with(vec![0, 0, 0, 0]), "no section with a width");
    refused(&with(vec![1, -1, 0, 0]), "negative");
    refused(&with(vec![1, 1 << 20, 0, 0]), "a section above");
    accepted(&set("rope.dimension_sections", vec![0_i32; 4]));
}

#[test]
fn windows_must_be_seen_by_a_layer() {
    let with = |pattern: Value| {
        let file = layers(of("gemma3"), "gemma3", 3).set("gemma3.attention.sliding_window", 64_u32);
        file.set("gemma3.attention.sliding_window_pattern", pattern)
    };
    let none = Value::array(7, 3, &[0; 3]);
    refused(&with(none.clone()), "no layer that sees it");
    refused(&with(1_u32.into()), "no layer that sees it");
    accepted(&with(Value::array(7, 3, &[1, 1, 0])));
    accepted(&with(6_u32.into()));
    accepted(&with(none).set("gemma3.attention.sliding_window", 0_u32));
}

#[test]
fn layers_that_take_keys_from_earlier_ones_must_find_them() {
    let with = |shared: u32, pattern: &[u8]| {
        layers(of("gemma4"), "gemma4", pattern.len() as u32)
            .set("gemma4.attention.shared_kv_layers", shared)
            .set("gemma4.attention.sliding_window_pattern", Value::array(7, pattern.len() as u64, pattern))
    };
    accepted(&with(2, &[1, 0, 1, 0]));
    accepted(&with(0, &[1, 0, 1, 0]));
    refused(&with(3, &[1, 0, 1, 0]), "3 of 4 layers cannot take keys");
    refused(&with(9, &[1, 0, 1, 0]), "9 of 4 layers cannot take keys");
    refused(&with(2, &[0, 1, 1, 0]), "layer 2 cannot take the keys of layer 0");
    accepted(&layers(of("gemma3n"), "gemma3n", 30));
    let other = layers(of("gemma3n"), "gemma3n", 30).set("gemma3n.attention.sliding_window_pattern", 7_u32);
    refused(&other, "cannot take the keys of layer");
}

#[test]
fn experts_must_be_counted_right() {
    let with = |count: u32, used: u32| set("expert_count", count).set("llama.expert_used_count", used);
    accepted(&with(8, 2));
    refused(&with(8, 0), "uses 0 of 8 experts");
    refused(&with(8, 9), "uses 9 of 8 experts");
    refused(&with(0, 2), "no experts");
    refused(&with(1025, 2), "expert_count is 1025");
    refused(&set("expert_group_count", 2_u32), "no experts");
    let groups = |count: u32, used: u32| {
        with(8, 2).set("llama.expert_group_count", count).set("llama.expert_group_used_count", used)
    };
    accepted(&groups(4, 2));
    accepted(&groups(1, 0));
    for (count, used) in [(8, 1), (3, 1), (4, 0), (4, 4), (4, 5)] {
        refused(&groups(count, used), &format!("8 experts do not go in {count} groups of which {used}"));
    }
    refused(&with(8, 2).set("llama.experts_per_group", 9_u32), "groups of 9");
    refused(&of("glm4moe"), "no experts (the key glm4moe.expert_count)");
    let layered = |architecture: &str| {
        layers(of(architecture), architecture, 2)
            .set(&format!("{architecture}.expert_count"), 8_u32)
            .set(&format!("{architecture}.expert_used_count"), vec![0_u32, 2])
    };
    refused(&layered("qwen35moe"), "a layer uses none");
    accepted(&layered("nemotron_h_moe"));
    accepted(&of("hunyuan-dense").set("hunyuan-dense.expert_count", 1_u32));
}

#[test]
fn scans_must_divide_into_their_groups() {
    let with = |architecture: &str, inner: u32, groups: u32, rank: u32, state: u32| {
        of(architecture)
            .set(&format!("{architecture}.ssm.inner_size"), inner)
            .set(&format!("{architecture}.ssm.group_count"), groups)
            .set(&format!("{architecture}.ssm.time_step_rank"), rank)
            .set(&format!("{architecture}.ssm.state_size"), state)
    };
    accepted(&with("mamba2", 64, 2, 8, 16));
    for (groups, rank) in [(0, 8), (3, 8), (2, 7)] {
        refused(&with("mamba2", 64, groups, rank, 16), "does not go with");
    }
    accepted(&with("qwen3next", 64, 2, 4, 16));
    for (groups, rank, state) in [(0, 4, 16), (3, 4, 16), (2, 4, 8)] {
        refused(&with("qwen3next", 64, groups, rank, state), "does not go with");
    }
    accepted(&with("plamo2", 64, 0, 3, 5));
    refused(&with("jamba", 63, 0, 3, 5), "not twice the embedding length of 32");
}

#[test]
fn shifts_must_be_those_of_the_architecture() {
    let with = |architecture: &str, size: u32| of(architecture).set(&format!("{architecture}.wkv.head_size"), size);
    accepted(&with("rwkv7", 8));
    refused(&with("rwkv7", 5), "does not divide into heads of 5");
    refused(&with("rwkv7", 8).set("rwkv7.token_shift_count", 1_u32), "token_shift_count must be 2");
    refused(&with("arwkv7", 8), "token_shift_count must be 1");
    accepted(&with("arwkv7", 8).set("arwkv7.token_shift_count", 1_u32));
}

#[test]
fn the_table_of_tokens_must_fit_the_vocabulary() {
    for dims in [&[32, 259][..], &[32, 261], &[33, 260], &[260, 32], &[32, 260, 1]] {
        refused(&Builder::model().tensor("token_embd.weight", dims, F32), "make it [32, 260]");
    }
    refused(&Builder::model().without_tensor("token_embd.weight"), "no tensor token_embd.weight");
    let own = accepted(&Builder::model().tensor("output.weight", &[32, 260], F32));
    assert!(!own.model().unwrap().shares_token_table);
}
