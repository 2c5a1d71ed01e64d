#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, io::Cursor};

use proptest::prelude::*;

use super::*;

/// A protobuf message being written.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }
}

fn tensor(dims: &[u64], data_type: u64) -> Message {
    let dims = dims.iter().fold(Message::default(), |message, dim| message.number(1, *dim));
    dims.number(2, data_type).bytes(8, b"weight")
}

fn external(dims: &[u64], entries: &[(&str, &str)]) -> Message {
    entries.iter().fold(tensor(dims, 1).number(14, 1), |message, (key, value)| {
        let entry = Message::default().bytes(1, key.as_bytes()).bytes(2, value.as_bytes());
        message.message(13, &entry)
    })
}

fn model(initializers: &[Message]) -> Vec<u8> {
    let node = Message::default().bytes(1, b"x").bytes(4, b"MatMul");
    let graph = Message::default().message(1, &node).bytes(2, b"graph");
    let graph = initializers.iter().fold(graph, |graph, tensor| graph.message(5, tensor));
    Message::default().number(1, 9).bytes(2, b"test").message(7, &graph).0
}

fn walk_bytes(bytes: &[u8]) -> Result<OnnxSummary, String> {
    walk(Cursor::new(bytes), bytes.len() as u64)
}

/// A graph in an attribute of a node of a graph, `depth` times.
fn nested(depth: usize) -> Vec<u8> {
    let mut graph = Message::default().message(5, &tensor(&[2], 1).bytes(9, &[0; 8]));
    for _ in 1..depth {
        let attribute = Message::default().bytes(1, b"then_branch").message(6, &graph);
        graph = Message::default().message(1, &Message::default().message(5, &attribute));
    }
    Message::default().number(1, 9).message(7, &graph).0
}

fn sound() -> Vec<u8> {
    let packed = Message::default().bytes(1, &[2, 3]).number(2, 1).bytes(4, &[0; 24]);
    let sparse = Message::default()
        .message(1, &tensor(&[1], 1).bytes(9, &[0; 4]))
        .message(2, &tensor(&[1], 7).bytes(7, &[5]))
        .number(3, 10);
    let attribute = Message::default().message(22, &sparse);
    let graph = Message::default()
        .message(1, &Message::default().message(5, &attribute))
        .message(5, &tensor(&[2, 3], 1).bytes(9, &[0; 24]))
        .message(5, &packed)
        .message(5, &tensor(&[], 7).number(7, u64::MAX))
        .message(5, &tensor(&[2], 8).bytes(6, b"a").bytes(6, b"b"))
        .message(5, &tensor(&[3], 22).bytes(9, &[0; 2]))
        .message(5, &tensor(&[3], 21).bytes(5, &[1, 2]))
        .message(5, &tensor(&[0, 7], 1))
        .message(5, &external(&[2, 2], &[("location", "w.onnx_data"), ("offset", "64"), ("length", "16")]))
        .message(5, &external(&[2], &[("location", "w.onnx_data"), ("checksum", "x")]));
    Message::default().number(1, 9).message(7, &graph).0
}

#[test]
fn a_sound_model_is_accepted_and_its_external_files_are_named() {
    let found = walk_bytes(&sound()).unwrap();
    assert_eq!((found.nodes, found.tensors), (1, 11));
    assert_eq!(found.external, BTreeMap::from([("w.onnx_data".to_owned(), 80)]));
}

#[test]
fn shapes_that_lie_are_refused() {
    let raw = |dims: &[u64], bytes: usize| tensor(dims, 1).bytes(9, &vec![0; bytes]);
    for (bad, reason) in [
        (raw(&[2], 7), "needs 8 bytes but holds 7"),
        (raw(&[2], 12), "needs 8 bytes but holds 12"),
        (raw(&[1 << 32, 1 << 32], 8), "overflows"),
        (raw(&[1 << 62], 0), "overflows"),
        (raw(&[i64::MAX as u64, 3, 0], 0), "overflows"),
        (raw(&[-1_i64 as u64], 8), "negative"),
        (raw(&vec![1; 65], 4), "more than 64 dimensions"),
        (tensor(&[2], 99).bytes(9, &[0; 8]), "unknown data type 99"),
        (tensor(&[2], 0).bytes(9, &[0; 8]), "unknown data type 0"),
        (tensor(&[2], 1), "do not fit"),
        (tensor(&[2], 1).bytes(4, &[0; 12]), "do not fit"),
        (tensor(&[2], 1).bytes(4, &[0; 7]), "no whole number"),
        (tensor(&[2], 1).bytes(7, &[0; 2]), "do not fit"),
        (tensor(&[2], 8).bytes(9, &[0; 8]), "needs 0 bytes"),
        (raw(&[2], 8).bytes(4, &[0; 8]), "both raw and typed"),
        (raw(&[2], 8).bytes(9, &[0; 8]), "raw data twice"),
        (raw(&[2], 8).number(2, 1), "data type twice"),
        (raw(&[2], 8).number(14, 1), "marked as external names no file"),
        (raw(&[2], 8).number(9, 1), "not of the type"),
        (raw(&[2], 8).bytes(3, b""), "segments"),
    ] {
        let error = walk_bytes(&model(&[bad])).unwrap_err();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn external_data_that_leads_outside_or_lies_is_refused() {
    let long = "a".repeat(10_000);
    for location in [
        "../w",
        "a/../../w",
        "/etc/passwd",
        "",
        ".",
        "a\0b",
        "a\\b",
        "C:w",
        "*/_ORT_MEM_ADDR_/*",
        "file:///etc/passwd",
        &long,
    ] {
        let bad = external(&[2], &[("location", location)]);
        assert!(walk_bytes(&model(&[bad])).is_err(), "{location}");
    }
    for entries in [
        &[("offset", "0")][..],
        &[("location", "w"), ("location", "v")],
        &[("location", "w"), ("offset", "-1")],
        &[("location", "w"), ("offset", "+1")],
        &[("location", "w"), ("offset", "99999999999999999999")],
        &[("location", "w"), ("offset", "18446744073709551615")],
        &[("location", "w"), ("length", "7")],
        &[("location", "w"), ("length", "")],
    ] {
        assert!(walk_bytes(&model(&[external(&[2], entries)])).is_err(), "{entries:?}");
    }
    let entry = Message::default().bytes(1, b"location").bytes(2, b"w");
    let unmarked = tensor(&[2], 1).bytes(9, &[0; 8]).message(13, &entry);
    assert!(walk_bytes(&model(&[unmarked])).unwrap_err().contains("not marked as external"));
}

#[test]
fn graphs_are_accepted_to_the_depth_limit_and_refused_below_it() {
    assert_eq!(walk_bytes(&nested(MAX_GRAPH_DEPTH)).unwrap().tensors, 1);
    assert!(walk_bytes(&nested(MAX_GRAPH_DEPTH + 1)).unwrap_err().contains("nested deeper"));
    assert!(walk_bytes(&nested(2_000)).unwrap_err().contains("nested deeper"));
}

#[test]
fn messages_in_pieces_and_things_that_are_no_model_are_refused() {
    let graph = Message::default().message(5, &tensor(&[2], 1).bytes(9, &[0; 8]));
    let twice = Message::default().number(1, 9).message(7, &graph).message(7, &graph);
    assert!(walk_bytes(&twice.0).unwrap_err().contains("graph comes twice"));
    let part = tensor(&[2], 1).bytes(9, &[0; 8]);
    let attribute = Message::default().message(5, &part).message(5, &part);
    let node = Message::default().message(5, &attribute);
    let split = Message::default().number(1, 9).message(7, &Message::default().message(1, &node));
    assert!(walk_bytes(&split.0).unwrap_err().contains("tensor comes twice"));
    let (no_version, no_graph) = (Message::default().message(7, &graph), Message::default().number(1, 9));
    let cases: [&[u8]; 6] = [b"", b"hello, world", b"{\"a\": 1}", b"\x80\x04\x95", &no_version.0, &no_graph.0];
    for bytes in cases {
        assert!(walk_bytes(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_tensor_hidden_in_any_place_is_found() {
    let bad = tensor(&[2], 1).bytes(9, &[0; 7]);
    let sparse = Message::default().message(1, &bad);
    let graph = |field, inner: &Message| Message::default().message(field, inner);
    let in_attribute = |attribute: &Message| graph(1, &Message::default().message(5, attribute));
    let attributes = [(5, &bad), (10, &bad), (22, &sparse), (23, &sparse)];
    let mut graphs: Vec<Message> =
        attributes.iter().map(|(field, inner)| in_attribute(&Message::default().message(*field, inner))).collect();
    graphs.extend([graph(5, &bad), graph(15, &sparse)]);
    for field in [6, 11] {
        graphs.push(in_attribute(&Message::default().message(field, &graph(5, &bad))));
    }
    let empty = Message::default().number(1, 9).message(7, &Message::default());
    for hidden in graphs {
        let top = Message::default().number(1, 9).message(7, &hidden);
        assert!(walk_bytes(&top.0).unwrap_err().contains("holds 7"));
        for field in [1, 2] {
            let training = empty.clone().message(20, &Message::default().message(field, &hidden));
            assert!(walk_bytes(&training.0).unwrap_err().contains("holds 7"));
        }
    }
    let attribute = Message::default().message(5, &bad);
    for function in [
        Message::default().message(7, &Message::default().message(5, &attribute)),
        Message::default().message(11, &attribute),
    ] {
        assert!(walk_bytes(&empty.clone().message(25, &function).0).unwrap_err().contains("holds 7"));
    }
}

#[test]
fn weights_of_4_gib_are_walked_over_without_being_read() {
    let bytes: u64 = 4 << 30;
    let mut head = Message::default().number(1, 9);
    let mut inner = tensor(&[bytes], 2);
    inner.varint(9 << 3 | 2);
    inner.varint(bytes);
    let mut graph = Message::default();
    graph.varint(5 << 3 | 2);
    graph.varint(inner.0.len() as u64 + bytes);
    head.varint(7 << 3 | 2);
    head.varint((graph.0.len() + inner.0.len()) as u64 + bytes);
    let head = [head.0, graph.0, inner.0].concat();

    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &head).unwrap();
    file.set_len(head.len() as u64 + bytes).unwrap();
    file.rewind().unwrap();
    assert_eq!(walk(file, head.len() as u64 + bytes).unwrap().tensors, 1);
}

#[test]
fn external_files_must_lie_in_the_folder_and_be_long_enough() {
    let outside = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    fs::create_dir(root.join("onnx")).unwrap();
    let entries = [("location", "w.data"), ("offset", "8")];
    fs::write(root.join("onnx/model.onnx"), model(&[external(&[2], &entries)])).unwrap();
    let data = root.join("onnx/w.data");
    let check = || check_file(&root, "onnx/model.onnx").map(|_| ()).map_err(|e| e.to_string());

    assert!(check().unwrap_err().contains("onnx/w.data is missing, but onnx/model.onnx needs it"));
    fs::write(&data, [0; 15]).unwrap();
    assert!(check().unwrap_err().contains("need 16 bytes of onnx/w.data, which has 15"));
    fs::write(&data, [0; 16]).unwrap();
    check().unwrap();
    fs::remove_file(&data).unwrap();
    fs::write(outside.path().join("secret"), [0; 16]).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), &data).unwrap();
    assert!(check().unwrap_err().contains("leads out of the model's folder"));
    fs::remove_file(&data).unwrap();
    fs::create_dir(&data).unwrap();
    assert!(check().unwrap_err().contains("not a regular file"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn mutations_never_panic_and_are_refused_in_words(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        deep in any::<bool>(),
    ) {
        let mut bytes = if deep { nested(6) } else { sound() };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        match walk_bytes(&bytes) {
            Ok(found) => {
                for location in found.external.keys() {
                    prop_assert!(crate::names::check_relative(location).is_ok());
                }
            }
            Err(reason) => prop_assert!(reason.len() > 10 && reason.len() < 2000, "{}", reason),
        }
    }

    #[test]
    fn a_model_cut_anywhere_inside_its_graph_is_refused(cut in any::<prop::sample::Index>()) {
        let bytes = sound();
        let cut = cut.index(bytes.len());
        prop_assert!(walk_bytes(&bytes[..cut]).is_err());
    }

    #[test]
    fn raw_data_is_accepted_exactly_when_it_fills_the_shape(
        dims in prop::collection::vec(0_u64..5, 0..4),
        bytes in 0_usize..300,
    ) {
        let needed = dims.iter().product::<u64>() * 4;
        let result = walk_bytes(&model(&[tensor(&dims, 1).bytes(9, &vec![0; bytes])]));
        prop_assert_eq!(result.is_ok(), needed == bytes as u64);
    }
}
