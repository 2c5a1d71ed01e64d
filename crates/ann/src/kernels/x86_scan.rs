//! Scanning codes of four bits on x86-64: 16 rows at a time (André, Kermarrec and Le Scouarnec, 2015).
//!
//! A table is a register, and a look-up is a shuffle of it. Four numbers of a table make a byte at most,
//! so four look-ups are added as bytes before they are widened. Bytes are widened by adding them as numbers
//! of 16 bits: of every two rows the sum of both is kept, the second one 256 times, and the sum of
//! the second alone, so that subtracting gives the first.
#![expect(unsafe_code, reason = "loads through pointers are unsafe intrinsics")]

use std::arch::x86_64::*;

use crate::ivf::LANES;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn avx2(tables: &[[u8; 128]], codes: &[[u8; 64]], sums: &mut Vec<u16>) {
    for block in codes.chunks_exact(tables.len().max(1)) {
        let (mut both, mut second) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (table, codes) in tables.iter().zip(block) {
            let (table, codes) = (table.as_chunks::<32>().0, codes.as_chunks::<32>().0);
            let bytes =
                _mm256_add_epi8(half_step(&table[0], &table[2], &codes[0]), half_step(&table[1], &table[3], &codes[1]));
            both = _mm256_add_epi16(both, bytes);
            second = _mm256_add_epi16(second, _mm256_srli_epi16::<8>(bytes));
        }
        let first = _mm256_sub_epi16(both, _mm256_slli_epi16::<8>(second));
        let join = |sums| _mm_add_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        put(join(first), join(second), sums);
    }
}

/// The codes of four parts, two in each lane of 128 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn half_step(low: &[u8; 32], high: &[u8; 32], codes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are there to be read behind each.
    let load = |from: &[u8; 32]| unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
    let (mask, codes) = (_mm256_set1_epi8(15), load(codes));
    let low = _mm256_shuffle_epi8(load(low), _mm256_and_si256(codes, mask));
    let high = _mm256_shuffle_epi8(load(high), _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask));
    _mm256_add_epi8(low, high)
}

#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn avx512(tables: &[[u8; 128]], codes: &[[u8; 64]], sums: &mut Vec<u16>) {
    let (pairs, last) = tables.as_chunks::<2>();
    for block in codes.chunks_exact(tables.len().max(1)) {
        let (mut both, mut second) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        let (steps, last_step) = block.as_chunks::<2>();
        for (tables, codes) in pairs.iter().zip(steps) {
            let bytes = _mm512_add_epi8(step(&tables[0], &codes[0]), step(&tables[1], &codes[1]));
            both = _mm512_add_epi16(both, bytes);
            second = _mm512_add_epi16(second, _mm512_srli_epi16::<8>(bytes));
        }
        for (table, codes) in last.iter().zip(last_step) {
            let bytes = step(table, codes);
            both = _mm512_add_epi16(both, bytes);
            second = _mm512_add_epi16(second, _mm512_srli_epi16::<8>(bytes));
        }
        let first = _mm512_sub_epi16(both, _mm512_slli_epi16::<8>(second));
        put(join512(first), join512(second), sums);
    }
}

/// The codes of eight parts, two in each lane of 128 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn step(table: &[u8; 128], codes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes are there to be read behind each.
    let load = |from: &[u8; 64]| unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
    let (table, mask, codes) = (table.as_chunks::<64>().0, _mm512_set1_epi8(15), load(codes));
    let low = _mm512_shuffle_epi8(load(&table[0]), _mm512_and_si512(codes, mask));
    let high = _mm512_shuffle_epi8(load(&table[1]), _mm512_and_si512(_mm512_srli_epi16::<4>(codes), mask));
    _mm512_add_epi8(low, high)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn join512(sums: __m512i) -> __m128i {
    let sums = _mm256_add_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
    _mm_add_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums))
}

/// Appends the sums of a block, of which those of every first and of every second row are given.
#[inline]
#[target_feature(enable = "sse2")]
fn put(first: __m128i, second: __m128i, sums: &mut Vec<u16>) {
    let mut block = [0u16; LANES];
    // SAFETY: there is room for twice eight numbers.
    unsafe {
        _mm_storeu_si128(block.as_mut_ptr().cast(), _mm_unpacklo_epi16(first, second));
        _mm_storeu_si128(block[8..].as_mut_ptr().cast(), _mm_unpackhi_epi16(first, second));
    }
    sums.extend(block);
}
