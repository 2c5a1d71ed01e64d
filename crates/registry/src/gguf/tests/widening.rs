//! Files whose 5-bit weights were widened: every weight as it was, the rest byte for byte.

use std::io::Read;

use proptest::prelude::*;

use super::*;
use crate::gguf::header::Header;

const Q5_0: u32 = 6;

/// A model with matrices in Q5_0, at the beginning, in the middle and at the end, and noise as data.
fn model(seed: u64) -> Vec<u8> {
    let file = Builder::model()
        .tensor("token_embd.weight", &[32, 260], Q5_0)
        .tensor("blk.0.attn_k.weight", &[32, 16], Q5_0)
        .tensor("blk.0.ffn_down.weight", &[64, 32], Q5_0);
    let mut bytes = file.build();
    let mut state = seed;
    for byte in bytes.iter_mut().skip(file.header().len().next_multiple_of(32)) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    bytes
}

/// `bytes` widened, through files.
fn widened(bytes: &[u8]) -> Result<Vec<u8>, RegistryError> {
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), bytes).unwrap();
    let into = tempfile::NamedTempFile::new().unwrap();
    widen(source.path(), "model.gguf", into.as_file())?;
    let mut read = Vec::new();
    into.reopen().unwrap().read_to_end(&mut read).unwrap();
    Ok(read)
}

fn header(bytes: &[u8]) -> Header {
    Header::read(&mut Wire::new(bytes, bytes.len() as u64)).unwrap()
}

/// Scales with the integers they go with, of blocks in Q5_0 or Q8_0; as ggml takes them apart.
fn weights(code: u32, data: &[u8]) -> Vec<([u8; 2], Vec<i8>)> {
    let narrow = |block: &[u8]| {
        let bit = |place: usize| i16::from(block[2 + place / 8] >> (place % 8) & 1) * 16;
        let nibble =
            |place: usize| i16::from(if place < 16 { block[6 + place] & 15 } else { block[6 + place - 16] >> 4 });
        (0..32).map(|place| (nibble(place) + bit(place) - 16) as i8).collect()
    };
    let wide = |block: &[u8]| block[2..].iter().map(|byte| *byte as i8).collect();
    let scale = |block: &[u8]| [block[0], block[1]];
    match code {
        Q5_0 => data.chunks_exact(22).map(|block| (scale(block), narrow(block))).collect(),
        8 => data.chunks_exact(34).map(|block| (scale(block), wide(block))).collect(),
        other => panic!("{other}"),
    }
}

proptest! {
    #[test]
    fn every_weight_is_as_it_was_and_all_else_too(seed in any::<u64>()) {
        let narrow = model(seed);
        let wide = widened(&narrow).unwrap();
        let summary = check(wide.as_slice(), wide.len() as u64).unwrap();
        let before = check(narrow.as_slice(), narrow.len() as u64).unwrap();
        prop_assert_eq!(summary.widening_bytes, 0);
        let grown = summary.data_bytes - before.data_bytes;
        prop_assert!(grown.abs_diff(before.widening_bytes) < 32 * summary.tensors as u64, "{grown}");
        let (old, new) = (header(&narrow), header(&wide));
        prop_assert_eq!(&narrow[..old.table_at as usize], &wide[..new.table_at as usize]);
        prop_assert_eq!(old.tensors.len(), new.tensors.len());
        for (old_tensor, new_tensor) in old.tensors.iter().zip(&new.tensors) {
            prop_assert_eq!((&old_tensor.name, &old_tensor.dims), (&new_tensor.name, &new_tensor.dims));
            let data = |bytes: &'_ [u8], header: &Header, tensor: &super::super::tensors::Tensor| {
                let start = (header.data_at() + tensor.offset) as usize;
                bytes[start..start + tensor.bytes as usize].to_vec()
            };
            let (old_data, new_data) = (data(&narrow, &old, old_tensor), data(&wide, &new, new_tensor));
            if old_tensor.code == Q5_0 {
                prop_assert_eq!(new_tensor.code, 8);
                prop_assert_eq!(weights(Q5_0, &old_data), weights(8, &new_data));
            } else {
                prop_assert_eq!(old_tensor.code, new_tensor.code);
                prop_assert_eq!(old_data, new_data);
            }
        }
    }
}

#[test]
fn a_model_without_5_bit_weights_stays_as_it_is() {
    let bytes = Builder::model().build();
    assert_eq!(accepted(&Builder::model()).widening_bytes, 0);
    assert_eq!(widened(&bytes).unwrap(), bytes);
}

#[test]
fn a_file_that_is_not_sound_is_refused_and_one_that_was_cut_too() {
    let whole = model(1);
    for bytes in [b"nothing".as_slice(), &whole[..whole.len() / 2], &whole[..whole.len() - 64]] {
        assert!(matches!(widened(bytes), Err(RegistryError::Malformed { .. })));
    }
}
