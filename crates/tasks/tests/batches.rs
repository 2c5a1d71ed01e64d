//! Promises about batches: an item's answer is its own, whoever it shared a batch with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use fixture::{TextModel, input, port, text_signature};
use half::f16;
use halny_engine::{ElementType, Signature, Tensor, TensorView};
use halny_tasks::{Answer, Collator, Item, Task, TaskError};
use halny_types::project::{Pooling, TaskKind, TextOptions};
use halny_types::{Blame, Fault};
use proptest::prelude::*;

const DIMENSIONS: usize = 4;

/// The vector a fake graph gives a token.
fn token_vector(id: i64, segment: i64) -> [f32; DIMENSIONS] {
    let id = id as f32;
    [id.sin(), id.cos(), (id * 0.37).sin() + segment as f32, 0.25]
}

/// A fake graph: `[b, t, 4]`, with vectors at the padding that would show in any answer.
fn token_vectors(inputs: &[TensorView<'_>]) -> Tensor {
    let read = |place: usize| inputs[place].elements::<i64>().unwrap();
    let (ids, mask, segments) = (read(0), read(1), read(2));
    let vectors =
        (0..ids.len()).flat_map(|i| if mask[i] == 1 { token_vector(ids[i], segments[i]) } else { [1e9; DIMENSIONS] });
    let shape = [inputs[0].shape[0], inputs[0].shape[1], DIMENSIONS];
    Tensor::from_slice(&shape, &vectors.collect::<Vec<f32>>()).unwrap()
}

/// A fake graph: the sum over the tokens that the mask leaves, as 3 logits or 1.
fn logits(inputs: &[TensorView<'_>], count: usize) -> Tensor {
    let vectors = token_vectors(inputs);
    let mask = inputs[1].elements::<i64>().unwrap();
    let (rows, length) = (vectors.shape()[0], vectors.shape()[1]);
    let mut sums = vec![0.0; rows * count];
    for (i, vector) in vectors.elements::<f32>().unwrap().chunks(DIMENSIONS).enumerate() {
        if mask[i] == 1 {
            (0..count).for_each(|c| sums[i / length * count + c] += vector[c]);
        }
    }
    Tensor::from_slice(&[rows, count], &sums).unwrap()
}

fn run(task: &Task, collator: &mut Collator, items: &[&Item]) -> Vec<Answer> {
    collator.collate(items).unwrap();
    let output = match task.kind() {
        TaskKind::Embed => token_vectors(&collator.inputs()),
        TaskKind::Rerank => logits(&collator.inputs(), 1),
        _ => logits(&collator.inputs(), 3),
    };
    collator.split(items, &[output]).unwrap()
}

proptest! {
    #[test]
    fn an_answer_does_not_depend_on_its_neighbours(
        lengths in prop::collection::vec(0usize..30, 1..12),
        kind in prop::sample::select(vec![TaskKind::Embed, TaskKind::ClassifyText, TaskKind::Rerank]),
        pooling in prop::sample::select(vec![None, Some(Pooling::Cls), Some(Pooling::Last)]),
    ) {
        let model = TextModel::new();
        let options = TextOptions { pooling, ..TextOptions::default() };
        let task = model.open(kind, Some(&options)).unwrap();
        let text = |length: &usize| "hello zebra abba world . ".repeat(*length / 4) + &"a".repeat(length % 4);
        let items: Vec<Item> = lengths.iter().map(|length| match kind {
            TaskKind::Rerank => task.tokenise_pair(&task.tokenise_query("hello").unwrap(), &text(length)).unwrap(),
            _ => task.tokenise(&text(length)).unwrap(),
        }).collect();
        let all: Vec<&Item> = items.iter().collect();
        let mut collator = task.collator();
        // Used before, so that a buffer that is not overwritten would show.
        let _ = run(&task, &mut collator, &all.iter().rev().copied().collect::<Vec<_>>());
        let together = run(&task, &mut collator, &all);
        for (item, answer) in items.iter().zip(&together) {
            prop_assert_eq!(&run(&task, &mut task.collator(), &[item])[0], answer);
            match answer {
                Answer::Vector(vector) => {
                    let norm: f32 = vector.iter().map(|x| x * x).sum();
                    prop_assert!((norm - 1.0).abs() < 1e-5);
                }
                Answer::Scores(scores) => prop_assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5),
                Answer::Score(score) => prop_assert!((0.0..=1.0).contains(score)),
                Answer::Tensors(_) => prop_assert!(false),
            }
        }
    }

    #[test]
    fn tensors_come_back_in_order_and_whole(rows in prop::collection::vec(1usize..5, 1..8), width in 1usize..4) {
        let signature = Signature {
            inputs: vec![port("x", ElementType::F32, &[-1, -1]), port("y", ElementType::U8, &[-1])],
            outputs: vec![port("u", ElementType::U8, &[-1]), port("v", ElementType::F32, &[-1, -1])],
        };
        let folder = tempfile::tempdir().unwrap();
        let task = Task::open(TaskKind::Tensor, folder.path(), &signature, None).unwrap();
        let given: Vec<Vec<Tensor>> = rows.iter().enumerate().map(|(number, rows)| {
            let x: Vec<f32> = (0..rows * width).map(|i| (number * 100 + i) as f32).collect();
            vec![Tensor::from_slice(&[*rows, width], &x).unwrap(), Tensor::from_slice(&[*rows], &vec![number as u8; *rows]).unwrap()]
        }).collect();
        let items: Vec<Item> = given.iter().map(|tensors| task.from_tensors(tensors.clone()).unwrap()).collect();
        let all: Vec<&Item> = items.iter().collect();
        let mut collator = task.collator();
        collator.collate(&all).unwrap();
        let swapped: Vec<Tensor> = collator.inputs().iter().rev()
            .map(|view| Tensor::from_bytes(view.element, view.shape, view.bytes).unwrap()).collect();
        let answers = collator.split(&all, &swapped).unwrap();
        for (answer, (mut tensors, item)) in answers.into_iter().zip(given.into_iter().zip(&items)) {
            prop_assert_eq!(item.rows(), tensors[0].shape()[0]);
            prop_assert_eq!(item.group(), items[0].group());
            tensors.reverse();
            prop_assert_eq!(answer, Answer::Tensors(tensors));
        }
    }
}

#[test]
fn padding_has_the_padding_token_and_no_mask() {
    let model = TextModel::new();
    let signature = text_signature(&["attention_mask", "input_ids"], ElementType::I32, 2);
    let task = Task::open(TaskKind::Embed, model.path(), &signature, None).unwrap();
    assert_eq!(task.dimensions(), Some(4));
    let items = [task.tokenise("hello").unwrap(), task.tokenise("hello world .").unwrap()];
    let mut collator = task.collator();
    collator.collate(&[&items[0], &items[1]]).unwrap();
    assert_eq!(input::<i32>(&collator, 0), [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]);
    assert_eq!(input::<i32>(&collator, 1), [2, 5, 3, 0, 0, 2, 5, 6, 4, 3]);
    assert_eq!(collator.padded_elements(), 10);
}

#[test]
fn a_graph_without_a_mask_gets_equal_lengths_only() {
    let model = TextModel::new();
    let signature = text_signature(&["input_ids"], ElementType::I64, 2);
    let task = Task::open(TaskKind::Embed, model.path(), &signature, None).unwrap();
    let [a, b, c] = ["hello", "world", "hello world"].map(|text| task.tokenise(text).unwrap());
    assert_eq!(a.group(), b.group());
    assert_ne!(a.group(), c.group());
    assert!(task.collator().collate(&[&a, &b]).is_ok());
    assert!(matches!(task.collator().collate(&[&a, &c]), Err(TaskError::Mixed)));
}

#[test]
fn inner_shapes_that_differ_do_not_share_a_batch() {
    let signature = Signature {
        inputs: vec![port("x", ElementType::F32, &[-1, -1])],
        outputs: vec![port("y", ElementType::F32, &[-1, -1])],
    };
    let folder = tempfile::tempdir().unwrap();
    let task = Task::open(TaskKind::Tensor, folder.path(), &signature, None).unwrap();
    let item = |shape: &[usize]| task.from_tensors(vec![Tensor::zeros(ElementType::F32, shape).unwrap()]);
    let (a, b) = (item(&[1, 2]).unwrap(), item(&[1, 3]).unwrap());
    assert_ne!(a.group(), b.group());
    assert!(matches!(task.collator().collate(&[&a, &b]), Err(TaskError::Mixed)));
    assert!(matches!(item(&[0, 2]), Err(TaskError::UnequalRows { .. })));
    assert_eq!(item(&[2]).unwrap_err().fault(), Fault::Caller);
}

#[test]
fn dimensions_named_apart_are_not_joined() {
    let named = |name: &str| halny_engine::Port {
        dims: vec![halny_engine::Dim::Free(name.to_owned())],
        ..port("x", ElementType::F32, &[])
    };
    let joins = |input: &str, output: &str| {
        let signature = Signature { inputs: vec![named(input)], outputs: vec![named(output)] };
        let folder = tempfile::tempdir().unwrap();
        let task = Task::open(TaskKind::Tensor, folder.path(), &signature, None).unwrap();
        task.from_tensors(vec![Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap()]).unwrap().is_batchable()
    };
    assert!(joins("batch", "batch"));
    assert!(joins("unk__1", "unk__2"));
    assert!(!joins("batch", "detections"));
}

#[test]
fn an_answer_that_is_not_finite_is_an_error_and_not_a_vector() {
    let model = TextModel::new();
    let task =
        Task::open(TaskKind::Embed, model.path(), &text_signature(&["input_ids"], ElementType::I64, 2), None).unwrap();
    let item = task.tokenise("hello").unwrap();
    let mut collator = task.collator();
    collator.collate(&[&item]).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let output = Tensor::from_slice(&[1, 4], &[1.0, bad, 0.0, 0.0]).unwrap();
        let error = collator.split(&[&item], &[output]).unwrap_err();
        assert!(matches!(error, TaskError::NotFinite));
    }
}

#[test]
fn outputs_unlike_the_signature_are_an_error() {
    let model = TextModel::new();
    let task = model.open(TaskKind::Embed, None).unwrap();
    let item = task.tokenise("hello world").unwrap();
    let mut collator = task.collator();
    collator.collate(&[&item]).unwrap();
    let refused = |collator: &mut Collator, outputs: &[Tensor]| {
        assert!(matches!(collator.split(&[&item], outputs), Err(TaskError::Outputs { .. })));
    };
    refused(&mut collator, &[]);
    for shape in [&[2, 4, 4][..], &[1, 3, 4], &[1, 4], &[1, 4, 5], &[1, 4, 0], &[0, 4, 4], &[4]] {
        refused(&mut collator, &[Tensor::zeros(ElementType::F32, shape).unwrap()]);
    }
    refused(&mut collator, &[Tensor::zeros(ElementType::I64, &[1, 4, 4]).unwrap()]);
}

#[test]
fn halves_give_the_answers_of_singles() {
    let model = TextModel::new();
    let mut signature = text_signature(&["input_ids"], ElementType::I64, 2);
    signature.outputs[0].element = ElementType::F16;
    let options = TextOptions { normalise: Some(false), ..TextOptions::default() };
    let task = Task::open(TaskKind::Embed, model.path(), &signature, Some(&options)).unwrap();
    let item = task.tokenise("hello").unwrap();
    let halves = [0.5f32, -3.0, 2048.0, 0.0].map(f16::from_f32);
    let mut collator = task.collator();
    collator.collate(&[&item]).unwrap();
    let answers = collator.split(&[&item], &[Tensor::from_slice(&[1, 4], &halves).unwrap()]).unwrap();
    assert_eq!(answers, [Answer::Vector(vec![0.5, -3.0, 2048.0, 0.0])]);
}

#[test]
fn scores_follow_what_the_files_say_they_are() {
    let model = TextModel::new();
    let answer = |task: &Task| {
        let item = task.tokenise("hello").unwrap();
        let mut collator = task.collator();
        collator.collate(&[&item]).unwrap();
        match collator.split(&[&item], &[Tensor::from_slice(&[1, 3], &[0.0f32, 0.0, 0.5]).unwrap()]).unwrap().pop() {
            Some(Answer::Scores(scores)) => scores,
            other => panic!("{other:?}"),
        }
    };
    let open = || model.open(TaskKind::ClassifyText, None);
    assert_eq!(open().unwrap().labels(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
    assert!((answer(&open().unwrap()).iter().sum::<f32>() - 1.0).abs() < 1e-6);
    model.write(
        "config.json",
        r#"{"problem_type": "multi_label_classification", "id2label": {"0": "x", "2": "z", "1": "y"}}"#,
    );
    assert_eq!(open().unwrap().labels(), ["x", "y", "z"]);
    assert_eq!(answer(&open().unwrap())[..2], [0.5, 0.5]);
    model.write("halny-model.json", r#"{"labels": ["p", "q", "r"], "scores": "probabilities"}"#);
    assert_eq!(open().unwrap().labels(), ["p", "q", "r"]);
    assert_eq!(answer(&open().unwrap()), [0.0, 0.0, 0.5]);
    model.write("halny-model.json", r#"{"labels": ["p"]}"#);
    assert!(open().unwrap_err().to_string().contains("3 scores"));
}

#[test]
fn the_output_follows_the_pooling_that_is_asked_for() {
    let model = TextModel::new();
    let mut signature = text_signature(&["input_ids"], ElementType::I64, 3);
    signature.outputs.push(port("sentence_embedding", ElementType::F32, &[-1, 4]));
    let open = |signature: &Signature, pooling| {
        let options = TextOptions { pooling, normalise: Some(false), ..TextOptions::default() };
        Task::open(TaskKind::Embed, model.path(), signature, Some(&options))
    };
    let answer = |task: Task| {
        let item = task.tokenise("").unwrap();
        let mut collator = task.collator();
        collator.collate(&[&item]).unwrap();
        let tokens: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let outputs =
            [Tensor::from_slice(&[1, 2, 4], &tokens).unwrap(), Tensor::from_slice(&[1, 4], &[9.0f32; 4]).unwrap()];
        collator.split(&[&item], &outputs).unwrap()
    };
    let is = |vector: [f32; 4]| vec![Answer::Vector(vector.to_vec())];
    assert_eq!(answer(open(&signature, None).unwrap()), is([9.0; 4]));
    assert_eq!(answer(open(&signature, Some(Pooling::Cls)).unwrap()), is([0.0, 1.0, 2.0, 3.0]));
    assert_eq!(answer(open(&signature, Some(Pooling::Last)).unwrap()), is([4.0, 5.0, 6.0, 7.0]));
    assert_eq!(answer(open(&signature, Some(Pooling::Mean)).unwrap()), is([2.0, 3.0, 4.0, 5.0]));
    signature.outputs.remove(0);
    assert!(open(&signature, Some(Pooling::Mean)).unwrap_err().to_string().contains("text.pooling"));
}

#[test]
fn warm_up_grows_keeps_to_the_limits_and_can_be_joined() {
    let model = TextModel::new();
    for kind in [TaskKind::Embed, TaskKind::Rerank] {
        let task = model.open(kind, None).unwrap();
        for (size, tokens) in [(1, 1), (32, 16_384), (1000, 100)] {
            let batches = task.warm_up(size, tokens);
            let cost: Vec<usize> = batches.iter().map(|batch| batch.iter().map(Item::length).sum()).collect();
            assert!(cost.is_sorted() && !batches.is_empty());
            for (batch, cost) in batches.iter().zip(cost) {
                assert!(batch.len() <= size && (cost <= tokens || batch.len() == 1));
                task.collator().collate(&batch.iter().collect::<Vec<_>>()).unwrap();
            }
        }
    }
    let signature = Signature {
        inputs: vec![port("x", ElementType::F32, &[-1, 3, -1])],
        outputs: vec![port("y", ElementType::F32, &[-1, 3])],
    };
    let task = Task::open(TaskKind::Tensor, model.path(), &signature, None).unwrap();
    let sizes: Vec<usize> = task.warm_up(8, 1).iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 8]);
}
