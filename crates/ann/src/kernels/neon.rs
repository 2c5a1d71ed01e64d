//! The loops for 64-bit ARM, where NEON is never missing.
#![expect(unsafe_code, reason = "loads through pointers are unsafe intrinsics")]

use std::arch::aarch64::*;

use super::{Kernels, each_row, scalar};
use crate::ivf::LANES;

/// Half precision is left to the compiler: its conversions are not stable intrinsics yet.
pub(super) const NEON: Kernels =
    Kernels { name: "neon", needs: || true, dot, squared_euclid, dot_int8, dots_int8, scan_nibbles, ..scalar::SCALAR };

#[target_feature(enable = "neon")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |sum, a, b| vfmaq_f32(sum, a, b), scalar::dot)
}

#[target_feature(enable = "neon")]
fn squared_euclid(a: &[f32], b: &[f32]) -> f32 {
    let term = |sum, a, b| {
        let difference = vsubq_f32(a, b);
        vfmaq_f32(sum, difference, difference)
    };
    sum(a, b, term, scalar::squared_euclid)
}

#[inline]
#[target_feature(enable = "neon")]
fn sum(
    a: &[f32],
    b: &[f32],
    term: impl Fn(float32x4_t, float32x4_t, float32x4_t) -> float32x4_t,
    rest: impl Fn(&[f32], &[f32]) -> f32,
) -> f32 {
    let length = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..length].as_chunks::<16>(), b[..length].as_chunks::<16>());
    let mut sums = [vdupq_n_f32(0.0); 4];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a.as_chunks::<4>().0).zip(b.as_chunks::<4>().0) {
            // SAFETY: four numbers are there to be read behind each.
            let (a, b) = unsafe { (vld1q_f32(a.as_ptr()), vld1q_f32(b.as_ptr())) };
            *sum = term(*sum, a, b);
        }
    }
    let joined = vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]));
    vaddvq_f32(joined) + rest(a_rest, b_rest)
}

#[inline]
#[target_feature(enable = "neon")]
fn dot_int8(a: &[i8], b: &[i8]) -> i32 {
    let length = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..length].as_chunks::<16>(), b[..length].as_chunks::<16>());
    let mut sums = [vdupq_n_s32(0); 2];
    for (a, b) in a.iter().zip(b) {
        // SAFETY: 16 bytes are there to be read behind each.
        let (a, b) = unsafe { (vld1q_s8(a.as_ptr()), vld1q_s8(b.as_ptr())) };
        sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(a), vget_low_s8(b)));
        sums[1] = vpadalq_s16(sums[1], vmull_high_s8(a, b));
    }
    vaddvq_s32(vaddq_s32(sums[0], sums[1])).wrapping_add(scalar::dot_int8(a_rest, b_rest))
}

#[target_feature(enable = "neon")]
fn dots_int8(query: &[i8], table: &[i8], rows: &[u32], products: &mut Vec<i32>) {
    each_row!(query, table, rows, products, dot_int8);
}

#[target_feature(enable = "neon")]
fn scan_nibbles(tables: &[[u8; 128]], codes: &[[u8; 64]], sums: &mut Vec<u16>) {
    let mask = vdupq_n_u8(15);
    for block in codes.chunks_exact(tables.len().max(1)) {
        let (mut first, mut last) = (vdupq_n_u16(0), vdupq_n_u16(0));
        for (table, codes) in tables.iter().zip(block) {
            let (low, high) = (table[..64].as_chunks::<16>().0, table[64..].as_chunks::<16>().0);
            for ((low, high), codes) in low.iter().zip(high).zip(codes.as_chunks::<16>().0) {
                // SAFETY: 16 bytes are there to be read behind each.
                let (low, high, codes) =
                    unsafe { (vld1q_u8(low.as_ptr()), vld1q_u8(high.as_ptr()), vld1q_u8(codes.as_ptr())) };
                let low = vqtbl1q_u8(low, vandq_u8(codes, mask));
                let both = vaddq_u8(low, vqtbl1q_u8(high, vshrq_n_u8::<4>(codes)));
                first = vaddw_u8(first, vget_low_u8(both));
                last = vaddw_high_u8(last, both);
            }
        }
        let mut block_sums = [0u16; LANES];
        // SAFETY: there is room for twice eight numbers.
        unsafe {
            vst1q_u16(block_sums.as_mut_ptr(), first);
            vst1q_u16(block_sums[8..].as_mut_ptr(), last);
        }
        sums.extend(block_sums);
    }
}
