//! Classification heads, and what their scores mean.

use super::{accepted, refused};
use crate::testsuite::gguf::Builder;

const POOLING: &str = "llama.pooling_type";
const LABELS: &str = "llama.classifier.output_labels";

fn ranks() -> Builder {
    Builder::model().set(POOLING, 4_u32)
}

fn labels(file: &Builder) -> Vec<String> {
    accepted(file).model().unwrap().labels.clone()
}

#[test]
fn a_head_of_as_many_scores_as_labels_is_accepted() {
    assert_eq!(labels(&ranks().tensor("cls.output.weight", &[32, 1], 0)), [""; 0]);
    let named = ranks().set(LABELS, vec!["yes", "no"]).tensor("cls.output.weight", &[32, 2], 0);
    assert_eq!(labels(&named), ["yes", "no"]);
    // Rerankers whose only layer is as wide as the model; the first number counts.
    assert_eq!(labels(&ranks().tensor("cls.weight", &[32, 32], 0)), [""; 0]);
}

#[test]
fn labels_that_no_head_speaks_of_are_let_pass() {
    assert_eq!(labels(&Builder::model().set(LABELS, vec!["a", "b"])), ["a", "b"]);
}

#[test]
fn a_head_with_fewer_scores_than_labels_is_refused() {
    refused(&ranks(), "no tensor cls.output.weight");
    refused(&ranks().tensor("cls.output.weight", &[32, 2], 0), "its head gives 2 scores");
    let three = ranks().set(LABELS, vec!["a", "b", "c"]);
    refused(&three.clone().tensor("cls.output.weight", &[32, 2], 0), "names 3");
    refused(&three.tensor("cls.weight", &[32, 2], 0), "names 3");
    refused(&ranks().set(LABELS, vec![1_u32]).tensor("cls.output.weight", &[32, 1], 0), LABELS);
    refused(&ranks().set(LABELS, vec!["x"; 70_000]).tensor("cls.weight", &[32, 32], 0), "70000 labels");
}
