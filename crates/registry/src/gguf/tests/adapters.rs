//! Low-rank adapters.

use super::*;
use crate::testsuite::gguf::{F16, F32};

#[test]
fn a_sound_adapter_is_accepted_without_a_models_keys() {
    let summary = accepted(&Builder::adapter());
    let kind = GgufKind::LoraAdapter { changes: 2, changes_token_table: false, experts: None };
    assert_eq!((summary.architecture.as_str(), summary.kind, summary.tensors), ("llama", kind, 4));
    let more = Builder::adapter()
        .tensor("token_embd.weight.lora_a", &[4, 260], F16)
        .tensor("token_embd.weight.lora_b", &[4, 32], F16)
        .tensor("blk.0.ffn_up_exps.weight.lora_a", &[32, 4, 8], F32)
        .tensor("blk.0.ffn_up_exps.weight.lora_b", &[4, 64, 8], F32)
        .tensor("output_norm.weight", &[32], F32)
        .set("adapter.alora.invocation_tokens", vec![1_u32, 2]);
    let kind = GgufKind::LoraAdapter { changes: 4, changes_token_table: true, experts: Some(8) };
    assert_eq!(accepted(&more).kind, kind);
}

#[test]
fn adapters_that_llama_cpp_would_assert_on_are_refused() {
    let set = |key: &str, value: crate::testsuite::gguf::Value| Builder::adapter().set(key, value);
    refused(&set("general.type", 1_u32.into()), "general.type is u32, not a text");
    refused(&set("adapter.type", "control_vector".into()), "its adapter.type is not lora");
    refused(&set("adapter.type", 5_u8.into()), "adapter.type is u8");
    refused(&Builder::adapter().without("adapter.type"), "its adapter.type is not lora");
    refused(&set("adapter.lora.alpha", 8_u32.into()), "adapter.lora.alpha is u32, not f32");
    refused(&Builder::adapter().without("adapter.lora.alpha"), "no key adapter.lora.alpha");
    for alpha in [f32::INFINITY, f32::NEG_INFINITY] {
        refused(&set("adapter.lora.alpha", alpha.into()), "not a finite number");
    }
    refused(&set("adapter.lora.alpha", f32::NAN.into()), "NaN");
    refused(&set("adapter.alora.invocation_tokens", vec![1_i32].into()), "an array of i32, not an array of u32");
    refused(&set("adapter.alora.invocation_tokens", vec![1_u32; 5000].into()), "far too long");
}

#[test]
fn halves_without_the_other_or_of_other_shapes_are_refused() {
    let (a, b) = ("blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b");
    refused(&Builder::adapter().without_tensor(b), "tensor blk.0.attn_q.weight has no lora_b");
    refused(&Builder::adapter().without_tensor(a), "has no lora_a");
    for (name, dims) in [(a, &[32, 5][..]), (b, &[5, 32]), (a, &[32]), (b, &[4, 32, 2])] {
        refused(&Builder::adapter().tensor(name, dims, F32), "do not go together");
    }
    for name in ["blk.0.attn_q.weight", "lora_a", ".lora_a", "x.lora_a.lora_b"] {
        refused(&Builder::adapter().tensor(name, &[32, 4], F32), "is none of an adapter");
    }
    let exps = |a: &[u64], b: &[u64]| {
        let file = Builder::adapter().tensor("blk.0.ffn_up_exps.weight.lora_a", a, F32);
        file.tensor("blk.0.ffn_up_exps.weight.lora_b", b, F32)
    };
    refused(&exps(&[32, 4], &[4, 64]), "do not go together");
    refused(&exps(&[32, 4, 2], &[4, 64, 3]), "do not go together");
    let mixed = exps(&[32, 4, 2], &[4, 64, 2]).tensor("blk.1.ffn_up_exps.weight.lora_a", &[32, 4, 3], F32).tensor(
        "blk.1.ffn_up_exps.weight.lora_b",
        &[4, 64, 3],
        F32,
    );
    refused(&mixed, "different numbers of experts");
    let empty = Builder { tensors: Vec::new(), ..Builder::adapter() };
    refused(&empty.tensor("output_norm.weight", &[32], F32), "changes nothing");
}
