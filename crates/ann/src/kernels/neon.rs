//! The loops for 64-bit ARM, where NEON is never missing.
#![expect(unsafe_code, reason = "loads through pointers are unsafe intrinsics")]

use std::arch::aarch64::*;

use super::{Kernels, each_row, scalar};

/// Half precision is left to the compiler: its conversions are not stable intrinsics yet.
pub(super) const NEON: Kernels =
    Kernels { name: "neon", needs: || true, dot, squared_euclid, dot_int8, dots_int8, ..scalar::SCALAR };

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
