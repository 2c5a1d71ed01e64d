//! The bytes: marks, counts, lengths, types, shapes and places.

use super::*;
use crate::testsuite::gguf::{F16, F32, Q8_0, Value};

#[test]
fn other_formats_and_versions_are_refused_by_name() {
    let with = |start: &[u8]| {
        let mut bytes = Builder::model().build();
        bytes[..start.len()].copy_from_slice(start);
        check(bytes.as_slice(), bytes.len() as u64).unwrap_err()
    };
    for (start, part) in [
        (&b"PK\x03\x04"[..], "does not begin with GGUF"),
        (b"lmgg", "older than GGUF"),
        (b"FUGG", "big-endian"),
        (b"GGUF\0\0\0\x03", "big-endian"),
        (b"GGUF\x01\0\0\0", "version 1"),
        (b"GGUF\0\0\0\0", "version 0"),
        (b"GGUF\x04\0\0\0", "version 4, where 2 and 3 are known"),
    ] {
        let reason = with(start);
        assert!(reason.contains(part), "{reason}");
    }
}

#[test]
fn a_file_that_ends_anywhere_in_its_header_or_data_is_refused() {
    let file = Builder::adapter();
    let (header, whole) = (file.header().len(), file.build());
    for length in (0..header + 40).chain([whole.len() - 1]) {
        let bytes = &whole[..length];
        assert!(check(bytes, length as u64).is_err(), "{length}");
        // The file's size may lie about what can be read.
        if length < header {
            assert!(check(bytes, whole.len() as u64).is_err(), "{length}");
        }
    }
}

#[test]
fn counts_that_the_file_cannot_hold_are_refused() {
    for claimed in [u64::MAX, 1 << 63, 1 << 32, 65_537, 60_000] {
        let keys = Builder { claimed_keys: Some(claimed), ..Builder::adapter() };
        refused(&keys, &format!("it claims {claimed} keys"));
        let tensors = Builder { claimed_tensors: Some(claimed), ..Builder::adapter() };
        refused(&tensors, &format!("it claims {claimed} tensors"));
    }
    refused(&Builder { tensors: Vec::new(), ..Builder::model() }, "no tensors");
}

#[test]
fn keys_that_are_no_names_are_refused() {
    let with = |key: &[u8]| {
        let mut file = Builder::model();
        file.keys.push((key.to_vec(), 1_u32.into()));
        file
    };
    refused(&with(b""), "empty or holds a control character");
    refused(&with(b"general.alignment\0x"), "control character");
    refused(&with(b"a\xff"), "a key is not UTF-8");
    refused(&with(&[b'k'; 65_536]), "a key has 65536 bytes, more than the limit of 65535");
    refused(&with(b"general.architecture"), "general.architecture stands in it twice");
    let mut file = Builder::model();
    file.keys.push((Vec::new(), Value { code: 4, bytes: Vec::new() }));
    let mut bytes = file.header();
    let at = bytes.len() - 12 - file.tensors.iter().map(|t| 24 + t.name.len() + 8 * t.dims.len()).sum::<usize>();
    bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    let reason = check(bytes.as_slice(), bytes.len() as u64).unwrap_err();
    assert!(reason.contains(&format!("a key needs {} bytes", u64::MAX)), "{reason}");
}

#[test]
fn values_of_unknown_types_and_lengths_that_lie_are_refused() {
    let with = |code: u32, bytes: &[u8]| Builder::model().set("x", Value { code, bytes: bytes.to_vec() });
    refused(&with(13, &[0; 8]), "the key x has the unknown type 13");
    refused(&with(u32::MAX, &[0; 8]), "unknown type");
    refused(&with(7, &[2]), "a bool that is neither 0 nor 1");
    refused(&with(8, &(1_u64 << 40).to_le_bytes()), "a text needs 1099511627776 bytes");
    for length in [u64::MAX, 1 << 61, 1 << 40] {
        for code in [0, 4, 8, 12] {
            let file = Builder::model().set("x", Value::array(code, length, &[0; 16]));
            refused(&file, "more than the file can hold");
        }
    }
    refused(&Builder::model().set("x", Value::array(9, 1, &[0; 64])), "an array of arrays");
    refused(&Builder::model().set("x", Value::array(13, 1, &[0; 64])), "the unknown type 13");
    refused(&Builder::model().set("x", Value::array(7, 2, &[1, 3])), "neither 0 nor 1");
    refused(&Builder::model().set("x", Value::array(8, 1, &(1_u64 << 50).to_le_bytes())), "a text in an array needs");
    refused(&Builder::model().set("x", f32::NAN), "the key x holds a NaN");
    refused(&Builder::model().set("x", vec![1.0, f64::NAN]), "holds a NaN");
    let mut long = vec![0_f32; 50_000];
    long[49_999] = f32::NAN;
    refused(&Builder::model().set("x", long), "holds a NaN");
}

#[test]
fn headers_over_the_limit_are_refused_without_being_read() {
    let mut bytes = Builder::model().set("x", Value::array(0, MAX_HEADER_BYTES, &[])).header();
    bytes.truncate(bytes.len().min(20_000));
    let reason = check(bytes.as_slice(), 1 << 40).unwrap_err();
    assert!(reason.contains("more than the file can hold"), "{reason}");
    let text = Value { code: 8, bytes: (MAX_HEADER_BYTES - 100).to_le_bytes().to_vec() };
    let bytes = Builder::model().set("x", text).header();
    let reason = check(bytes.as_slice(), 1 << 40).unwrap_err();
    assert!(reason.contains("over the limit of 268435456 bytes"), "{reason}");
}

#[test]
fn alignments_that_are_none_are_refused() {
    for bytes in [0_u32, 3, 33, 1 << 21, u32::MAX] {
        refused(&Builder::model().set("general.alignment", bytes), "no power of two");
    }
    refused(&Builder::model().set("general.alignment", 32_u64), "general.alignment is u64, not u32");
    refused(&Builder::model().set("general.alignment", "32"), "is a text, not u32");
    accepted(&Builder { alignment: 4096, ..Builder::model() }.set("general.alignment", 4096_u32));
    let halves = Builder::model().tensor("x.weight", &[4, 2], F32).tensor("y.weight", &[4, 2], F32);
    refused(
        &halves.set("general.alignment", 64_u32),
        "tensor y.weight lies at byte 70560 of the data, no multiple of 64",
    );
}

#[test]
fn pieces_are_refused() {
    refused(&Builder::model().set("split.count", 3_u16), "one of 3 pieces; join them");
    refused(&Builder::model().set("split.count", 0x300_u16), "one of 768 pieces");
    refused(&Builder::model().set("split.count", 3_u32), "split.count is not of type u16");
    accepted(&Builder::model().set("split.count", 1_u16));
}

#[test]
fn tensors_whose_names_are_none_are_refused() {
    let with = |name: &[u8]| {
        let mut file = Builder::model().tensor("x.weight", &[32, 2], F32);
        file.tensors.last_mut().unwrap().name = name.to_vec();
        file
    };
    refused(&with(b"output_norm.weight"), "tensor output_norm.weight stands in it twice");
    refused(&with(&[b'n'; 64]), "a tensor's name has 64 bytes, more than the limit of 63");
    accepted(&with(&[[b'n'; 56].as_slice(), b".weight"].concat()));
    refused(&with(b""), "empty or holds a control character");
    refused(&with(b"output_norm.weight\0"), "control character");
    refused(&with(b"\xff\xfe"), "not UTF-8");
}

#[test]
fn shapes_that_lie_are_refused() {
    let with = |dims: &[u64]| Builder::model().tensor("x.weight", dims, F32);
    refused(&with(&[]), "tensor x.weight has 0 dimensions");
    refused(&with(&[1; 5]), "has 5 dimensions, where 1 to 4");
    for dim in [0, 1 << 31, 1 << 63, u64::MAX] {
        refused(&with(&[32, dim]), &format!("has a dimension of {dim}"));
    }
    let wide = (1 << 31) - 1;
    refused(&with(&[wide, wide, wide]), "overflows 64 bits");
    refused(&with(&[wide, wide]), "overflows 64 bits");
    refused(&with(&[wide, 1 << 20]), "ends at byte");
    refused(&Builder::model().tensor("x.weight", &[33, 2], Q8_0), "no multiple of the 32 in a block of Q8_0");
    refused(&Builder::model().tensor("x.weight", &[128, 2], 12), "no multiple of the 256 in a block of Q4_K");
}

#[test]
fn unknown_and_removed_types_are_refused() {
    for code in [43, 1000, u32::MAX] {
        refused(&Builder::model().tensor("x.weight", &[256, 2], code), &format!("unknown type ({code})"));
    }
    for code in [4, 5, 31, 32, 33, 36, 37, 38] {
        refused(&Builder::model().tensor("x.weight", &[256, 2], code), "no longer reads");
    }
}

#[test]
fn every_type_has_the_block_of_the_release() {
    // (code, elements, bytes), after the block structures of ggml-common.h.
    let blocks: [(u32, u64, u64); 35] = [
        (0, 1, 4),
        (1, 1, 2),
        (2, 32, 2 + 16),
        (3, 32, 4 + 16),
        (6, 32, 2 + 4 + 16),
        (7, 32, 4 + 4 + 16),
        (8, 32, 2 + 32),
        (9, 32, 4 + 32),
        (10, 256, 4 + 16 + 64),
        (11, 256, 2 + 64 + 32 + 12),
        (12, 256, 4 + 12 + 128),
        (13, 256, 4 + 12 + 128 + 32),
        (14, 256, 2 + 16 + 192),
        (15, 256, 4 + 256 + 32),
        (16, 256, 2 + 64),
        (17, 256, 2 + 64 + 8),
        (18, 256, 2 + 96),
        (19, 256, 2 + 32 + 16),
        (20, 32, 2 + 16),
        (21, 256, 2 + 104 + 4),
        (22, 256, 2 + 64 + 16),
        (23, 256, 2 + 2 + 4 + 128),
        (24, 1, 1),
        (25, 1, 2),
        (26, 1, 4),
        (27, 1, 8),
        (28, 1, 8),
        (29, 256, 32 + 16 + 8),
        (30, 1, 2),
        (34, 256, 2 + 4 + 48),
        (35, 256, 2 + 64),
        (39, 32, 1 + 16),
        (40, 64, 4 + 32),
        (41, 128, 2 + 16),
        (42, 64, 2 + 16),
    ];
    for (code, elements, bytes) in blocks {
        let header = Builder::empty().tensor("x", &[256 * 3, 5], code).header();
        let mut wire = Wire::new(&header[24..], 1 << 30);
        let read = tensors::read(&mut wire, 1).unwrap();
        let end = tensors::check_places(&read, 32, 64, 1 << 30).unwrap();
        assert_eq!(end, 256 * 3 * 5 / elements * bytes, "{code}");
    }
}

#[test]
fn tensors_must_follow_each_other_inside_the_file() {
    let at = |offset: u64| {
        let mut file = Builder::model();
        file.tensors[3].offset = Some(offset);
        file
    };
    let place = (260 * 32 + 2 * 32) * 4;
    refused(&at(place + 1), "no multiple of 32");
    refused(&at(place + 32), "is the next free one");
    refused(&at(place - 32), "overlaps what ends at");
    refused(&at(0), "overlaps");
    refused(&at(u64::MAX - 31), "is the next free one");
    let whole = Builder::model().build();
    let cut = &whole[..whole.len() - 4];
    assert!(check(cut, cut.len() as u64).unwrap_err().contains("ffn_down.weight ends at byte"));
}

#[test]
fn tensors_stored_so_that_computing_ends_the_process_are_refused() {
    for (code, kind) in [(9, "Q8_1"), (15, "Q8_K"), (24, "I8"), (25, "I16"), (28, "F64")] {
        refused(
            &Builder::model().tensor("x.weight", &[256, 32], code),
            &format!("tensor x.weight is stored as {kind}, "),
        );
    }
    refused(&Builder::model().tensor("token_embd.weight", &[32, 260], 26), "I32, which is for indices only");
    accepted(&Builder::model().tensor("blk.0.ffn_gate_tid2eid.weight", &[32, 2], 26));
    accepted(&Builder::model().tensor("d2t", &[32], 27));
    for name in ["blk.0.attn_norm.weight", "blk.0.attn_q.bias"] {
        refused(&Builder::model().tensor(name, &[32], F16), "must be F32");
    }
    for name in ["blk.0.ffn_down_exps.bias", "blk.0.attn_q_norm.weight", "blk.0.ssm_conv1d.weight", "blk.0.ssm_a"] {
        refused(&Builder::model().tensor(name, &[32, 2], F16), "must be F32");
    }
    accepted(&Builder::model().tensor("output.weight", &[32, 260], F16));
}
