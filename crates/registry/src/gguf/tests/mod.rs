//! What is refused, and that it says why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod adapters;
mod labels;
mod layout;
mod models;
mod vocabularies;
mod widening;

use super::*;
use crate::testsuite::gguf::Builder;

fn summary(file: &Builder) -> Result<GgufSummary, String> {
    let bytes = file.build();
    check(bytes.as_slice(), bytes.len() as u64)
}

/// The file must be refused with a reason that has `part` in it.
#[track_caller]
fn refused(file: &Builder, part: &str) {
    let reason = match summary(file) {
        Err(reason) => reason,
        Ok(summary) => panic!("accepted, where {part:?} should have been said: {summary:?}"),
    };
    assert!(reason.contains(part), "{part}: {reason}");
    assert!(reason.len() < 400 && !reason.ends_with('.'), "{reason}");
}

#[track_caller]
fn accepted(file: &Builder) -> GgufSummary {
    summary(file).unwrap()
}

#[test]
fn a_sound_model_is_accepted_with_its_measures() {
    let summary = accepted(&Builder::model().set("tokenizer.chat_template", "{{ messages }}"));
    let GgufSummary { architecture, name, file_type, parameters, tensors, data_bytes, widening_bytes, kind } = summary;
    assert_eq!(
        (architecture.as_str(), name.as_deref(), file_type, tensors),
        ("llama", Some("Test Model"), Some("F32"), 11)
    );
    assert_eq!(parameters, 260 * 32 + 3 * 32 + 32 * (32 + 16 + 16 + 32) + 3 * 32 * 64);
    assert_eq!((data_bytes, widening_bytes), (parameters * 4, 0));
    let GgufKind::Model(model) = kind else { panic!("{kind:?}") };
    let expected = GgufModel {
        context_length: 128,
        embedding_length: 32,
        block_count: 1,
        head_counts: vec![4],
        kv_head_counts: vec![2],
        key_length: 8,
        value_length: 8,
        experts: 0,
        shares_token_table: true,
        vocabulary: 260,
        has_chat_template: true,
        labels: Vec::new(),
    };
    assert_eq!(model, expected);
}

#[test]
fn what_nobody_here_knows_is_let_pass() {
    let long = "x".repeat(100_000);
    let file = Builder::model()
        .set("general.tags", vec!["a", "b"])
        .set("general.description", long.as_str())
        .set("someone.else", f64::INFINITY)
        .set("someone.elses.list", vec![1_i64, 2])
        .set("someone.elses.long.list", vec![7_u8; 100_000])
        .set("llama.new_in_the_next_release", true)
        .set("general.file_type", 4000_u32);
    let summary = accepted(&file);
    assert_eq!(summary.file_type, None);
    let mut second_version = Builder::model();
    second_version.version = 2;
    accepted(&second_version);
}

#[test]
fn a_file_that_grew_or_a_last_tensor_without_filling_is_accepted() {
    let mut bytes = Builder::model().build();
    bytes.extend([7; 100]);
    check(bytes.as_slice(), bytes.len() as u64).unwrap();
    let file = Builder::model().tensor("output.weight", &[32, 260], 1).tensor("zz.weight", &[3, 3], 1);
    let mut bytes = file.build();
    bytes.truncate(bytes.len() - 14);
    check(bytes.as_slice(), bytes.len() as u64).unwrap();
    bytes.truncate(bytes.len() - 1);
    assert!(check(bytes.as_slice(), bytes.len() as u64).unwrap_err().contains("zz.weight ends at byte"));
}

#[test]
fn a_file_says_which_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, Builder::model().build()).unwrap();
    assert_eq!(check_file(&path, "m.gguf").unwrap().architecture, "llama");
    std::fs::write(&path, b"GGML").unwrap();
    let error = check_file(&path, "m.gguf").unwrap_err().to_string();
    assert!(error.starts_with("m.gguf is not a sound GGUF file: "), "{error}");
    assert!(matches!(check_file(&folder.path().join("none"), "none"), Err(RegistryError::Io { .. })));
}
