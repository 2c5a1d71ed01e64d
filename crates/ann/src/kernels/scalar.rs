//! The loops in plain Rust, which the others are measured against.

use half::f16;

use super::{Kernels, each_row};

pub(super) const SCALAR: Kernels =
    Kernels { name: "scalar", needs: || true, dot, squared_euclid, dot_half, squared_euclid_half, dot_int8, dots_int8 };

/// Sums are taken in as many parts, so that the compiler may use vectors of its own.
const LANES: usize = 8;

fn sum<A: Copy, B: Copy>(a: &[A], b: &[B], term: impl Fn(A, B) -> f32) -> f32 {
    let length = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..length].as_chunks::<LANES>(), b[..length].as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += term(*a, *b);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| term(*a, *b)).sum();
    sums.iter().sum::<f32>() + rest
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |a, b| a * b)
}

pub(super) fn squared_euclid(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |a, b| (a - b) * (a - b))
}

pub(super) fn dot_half(a: &[f32], b: &[f16]) -> f32 {
    sum(a, b, |a, b: f16| a * b.to_f32())
}

pub(super) fn squared_euclid_half(a: &[f32], b: &[f16]) -> f32 {
    sum(a, b, |a, b: f16| (a - b.to_f32()) * (a - b.to_f32()))
}

pub(super) fn dot_int8(a: &[i8], b: &[i8]) -> i32 {
    let products = a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b));
    products.fold(0, i32::wrapping_add)
}

fn dots_int8(query: &[i8], table: &[i8], rows: &[u32], products: &mut Vec<i32>) {
    each_row!(query, table, rows, products, dot_int8);
}
