//! Promises about texts: which tokens they become, and what happens at the limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use fixture::{CLS, SEP, TextModel, input, text_signature};
use halny_engine::ElementType;
use halny_tasks::{Item, Task, TaskError};
use halny_types::project::{TaskKind, TextOptions};
use halny_types::{Blame, Fault};
use proptest::prelude::*;
use tokenizers::Tokenizer;

fn limited(max_tokens: usize, truncate: bool) -> TextOptions {
    TextOptions { max_tokens: Some(max_tokens), truncate, ..TextOptions::default() }
}

fn texts() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        prop::sample::select(vec!["hello", "world", "abba", "ZEBRA", "a", "zz", ".", "[SEP]", "naïve", "世界"])
            .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    prop::collection::vec(word, 0..30).prop_map(|words| words.join(" "))
}

/// What the collator makes of an item alone: ids, mask, segments.
fn rows(task: &Task, item: &Item) -> Vec<Vec<i64>> {
    let mut collator = task.collator();
    collator.collate(&[item]).unwrap();
    (0..3).map(|place| input::<i64>(&collator, place)).collect()
}

fn pair(task: &Task, query: &str, document: &str) -> Result<Item, TaskError> {
    task.tokenise_pair(&task.tokenise_query(query)?, document)
}

proptest! {
    #[test]
    fn tokens_and_segments_are_those_of_the_tokenizer_itself(a in texts(), b in texts()) {
        let model = TextModel::new();
        let mut reference = Tokenizer::from_file(model.path().join("tokenizer.json")).unwrap();
        reference.with_padding(None).with_truncation(None).unwrap();
        let long = limited(512, false);
        let embed = model.open(TaskKind::Embed, Some(&long)).unwrap();
        let rerank = model.open(TaskKind::Rerank, Some(&long)).unwrap();
        for (task, ours, theirs) in [
            (&embed, embed.tokenise(&a), reference.encode(a.as_str(), true)),
            (&rerank, pair(&rerank, &a, &b), reference.encode((a.as_str(), b.as_str()), true)),
        ] {
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            let rows = rows(task, &ours);
            let wide = |row: &[u32]| row.iter().map(|x| i64::from(*x)).collect::<Vec<_>>();
            prop_assert_eq!(&rows[0], &wide(theirs.get_ids()));
            prop_assert_eq!(&rows[1], &vec![1; theirs.len()]);
            prop_assert_eq!(&rows[2], &wide(theirs.get_type_ids()));
            prop_assert_eq!(ours.tokens(), theirs.len());
        }
    }

    #[test]
    fn a_cut_text_keeps_to_the_limit_and_keeps_its_special_tokens(text in texts(), limit in 3usize..20) {
        let model = TextModel::new();
        let whole = model.open(TaskKind::Embed, None).unwrap().tokenise(&text).unwrap().tokens();
        let task = model.open(TaskKind::Embed, Some(&limited(limit, true))).unwrap();
        let item = task.tokenise(&text).unwrap();
        prop_assert_eq!(item.tokens(), whole.min(limit));
        let ids = &rows(&task, &item)[0];
        prop_assert_eq!((ids[0], ids[ids.len() - 1]), (i64::from(CLS), i64::from(SEP)));
    }

    #[test]
    fn a_cut_pair_keeps_to_the_limit_and_loses_nothing_of_its_query(query in texts(), document in texts(), limit in 4usize..40) {
        let model = TextModel::new();
        let embed = model.open(TaskKind::Embed, None).unwrap();
        let alone = rows(&embed, &embed.tokenise(&query).unwrap())[0].clone();
        let task = model.open(TaskKind::Rerank, Some(&limited(limit, true))).unwrap();
        match pair(&task, &query, &document) {
            Ok(item) => {
                prop_assert!(item.tokens() <= limit);
                let ids = &rows(&task, &item)[0];
                prop_assert_eq!(&ids[..alone.len()], &alone[..]);
                prop_assert_eq!(ids[ids.len() - 1], i64::from(SEP));
            }
            Err(TaskError::QueryTooLong { tokens, limit: room }) => {
                prop_assert_eq!((tokens, room), (alone.len() - 2, limit - 3));
                prop_assert!(tokens >= room);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn a_text_over_the_limit_is_refused_with_both_numbers(words in 1usize..40, limit in 3usize..20) {
        let model = TextModel::new();
        let task = model.open(TaskKind::Embed, Some(&limited(limit, false))).unwrap();
        match task.tokenise(&"hello ".repeat(words)) {
            Ok(item) => prop_assert!(item.tokens() == words + 2 && words + 2 <= limit),
            Err(error) => {
                prop_assert!(words + 2 > limit);
                prop_assert_eq!(error.fault(), Fault::TooLarge);
                let text = error.to_string();
                let (length, limit) = (format!("{} tokens", words + 2), limit.to_string());
                prop_assert!(text.contains(&length) && text.contains(&limit), "{}", text);
            }
        }
    }

    #[test]
    fn given_tokens_are_framed_once(words in prop::collection::vec(5u32..10, 1..20)) {
        let model = TextModel::new();
        let task = model.open(TaskKind::Embed, None).unwrap();
        let framed: Vec<u32> = [CLS].into_iter().chain(words.iter().copied()).chain([SEP]).collect();
        let (a, b) = (task.from_tokens(&words).unwrap(), task.from_tokens(&framed).unwrap());
        prop_assert_eq!(rows(&task, &a), rows(&task, &b));
        prop_assert_eq!(a.tokens(), words.len() + 2);
    }
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let model = TextModel::new();
    let task = model.open(TaskKind::Embed, None).unwrap();
    let size = fixture::vocabulary().len() as u32;
    assert!(task.from_tokens(&[size - 1]).is_ok());
    for id in [size, size + 1, i32::MAX as u32 + 1, u32::MAX - 1, u32::MAX] {
        let error = task.from_tokens(&[5, id]).unwrap_err();
        assert!(matches!(error, TaskError::UnknownToken { .. }), "{error}");
        assert_eq!(error.fault(), Fault::Caller);
    }
    assert!(matches!(task.from_tokens(&[]), Err(TaskError::NoTokens)));
    model.write("config.json", r#"{"vocab_size": 7}"#);
    let task = model.open(TaskKind::Embed, None).unwrap();
    assert!(task.from_tokens(&[6]).is_ok());
    assert!(task.from_tokens(&[7]).is_err());
}

#[test]
fn a_text_far_over_the_limit_is_refused_by_its_bytes_or_cut_between_characters() {
    let model = TextModel::new();
    let text = format!("a{}", "世".repeat(1 << 20));
    let task = model.open(TaskKind::Embed, Some(&limited(8, false))).unwrap();
    assert!(matches!(task.tokenise(&text), Err(TaskError::TextTooLong { .. })));
    let task = model.open(TaskKind::Embed, Some(&limited(8, true))).unwrap();
    assert_eq!(task.tokenise(&text).unwrap().tokens(), 8);
}

#[test]
fn the_limit_comes_from_the_project_then_the_files_then_the_positions() {
    let model = TextModel::new();
    let limit =
        |options: Option<&TextOptions>| model.open(TaskKind::Embed, options).map(|task| task.max_tokens().unwrap());
    assert_eq!(limit(None).unwrap(), 512);
    model.write("config.json", r#"{"max_position_embeddings": 130, "model_type": "roberta", "pad_token_id": 1}"#);
    assert_eq!(limit(None).unwrap(), 128);
    model.write("tokenizer_config.json", r#"{"model_max_length": 1000000000000000019884624838656}"#);
    assert_eq!(limit(None).unwrap(), 128);
    model.write("tokenizer_config.json", r#"{"model_max_length": 100}"#);
    assert_eq!(limit(None).unwrap(), 100);
    model.write("sentence_bert_config.json", r#"{"max_seq_length": 64, "do_lower_case": false}"#);
    assert_eq!(limit(None).unwrap(), 64);
    assert_eq!(limit(Some(&limited(120, false))).unwrap(), 120);
    assert!(limit(Some(&limited(129, false))).unwrap_err().to_string().contains("128"));
    assert!(limit(Some(&limited(2, true))).unwrap_err().to_string().contains("special tokens"));
}

#[test]
fn a_graph_of_fixed_length_limits_and_pads_to_it() {
    let model = TextModel::new();
    let mut signature = text_signature(&["input_ids", "attention_mask"], ElementType::I64, 3);
    for port in &mut signature.inputs {
        port.dims[1] = halny_engine::Dim::Fixed(6);
    }
    let task = Task::open(TaskKind::Embed, model.path(), &signature, None).unwrap();
    assert_eq!(task.max_tokens(), Some(6));
    let item = task.tokenise("hello").unwrap();
    assert_eq!((item.length(), item.tokens()), (6, 3));
    let mut collator = task.collator();
    collator.collate(&[&item]).unwrap();
    assert_eq!(collator.inputs()[0].shape, [1, 6]);
    assert_eq!(input::<i64>(&collator, 1), [1, 1, 1, 0, 0, 0]);
}

#[test]
fn what_the_task_cannot_follow_is_refused_at_open_by_name() {
    let model = TextModel::new();
    let open = |inputs: &[&str], rank| {
        let signature = text_signature(inputs, ElementType::I64, rank);
        Task::open(TaskKind::Embed, model.path(), &signature, None).map(|_| ()).unwrap_err().to_string()
    };
    assert!(open(&["input_ids", "position_ids"], 2).contains("position_ids"));
    assert!(open(&["attention_mask"], 2).contains("input_ids"));
    assert!(open(&["input_ids"], 4).contains("[batch, dimensions]"));
    model.write("1_Pooling/config.json", r#"{"pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": true}"#);
    assert!(open(&["input_ids"], 3).contains("pooling_mode_max_tokens"));
    model.write("halny-model.json", r#"{"labls": []}"#);
    assert!(open(&["input_ids"], 2).contains("labls"));
    model.write("halny-model.json", "{}");
    model.write("tokenizer.json", "{\"version\": ");
    assert!(open(&["input_ids"], 2).starts_with("tokenizer.json: "));
    std::fs::remove_file(model.path().join("tokenizer.json")).unwrap();
    let missing = open(&["input_ids"], 2);
    assert!(missing.contains("is missing") && !missing.contains(&model.path().display().to_string()), "{missing}");
}

#[test]
fn a_value_of_another_task_is_refused_with_what_the_model_takes() {
    let model = TextModel::new();
    let task = model.open(TaskKind::Embed, None).unwrap();
    for refused in [pair(&task, "a", "b"), task.decode_image(b"x"), task.from_tensors(Vec::new())] {
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("texts"), "{error}");
        assert_eq!(error.fault(), Fault::Caller);
    }
    let task = model.open(TaskKind::Rerank, None).unwrap();
    assert!(task.tokenise("a").unwrap_err().to_string().contains("pairs"));
}
