//! The loops in plain Rust, which the others are measured against.

use half::f16;

use super::{Kernels, each_row};
use crate::ivf::LANES;

pub(super) const SCALAR: Kernels = Kernels {
    name: "scalar",
    needs: || true,
    dot,
    squared_euclid,
    dot_half,
    squared_euclid_half,
    dot_int8,
    dots_int8,
    scan_nibbles,
    scan_bytes,
};

/// Sums are taken in as many parts, so that the compiler may use vectors of its own.
const SUMS: usize = 8;

fn sum<A: Copy, B: Copy>(a: &[A], b: &[B], term: impl Fn(A, B) -> f32) -> f32 {
    let length = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..length].as_chunks::<SUMS>(), b[..length].as_chunks::<SUMS>());
    let mut sums = [0.0f32; SUMS];
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

fn scan_nibbles(tables: &[[u8; 128]], codes: &[[u8; 64]], sums: &mut Vec<u16>) {
    for block in codes.chunks_exact(tables.len().max(1)) {
        let mut block_sums = [0u16; LANES];
        for (table, codes) in tables.iter().zip(block) {
            let (low, high) = table.split_at(64);
            let tables = low.as_chunks::<16>().0.iter().zip(high.as_chunks::<16>().0);
            for ((low, high), codes) in tables.zip(codes.as_chunks::<LANES>().0) {
                for (sum, code) in block_sums.iter_mut().zip(codes) {
                    let worth = low[usize::from(code & 15)] + high[usize::from(code >> 4)];
                    *sum = sum.wrapping_add(u16::from(worth));
                }
            }
        }
        sums.extend(block_sums);
    }
}

fn scan_bytes(tables: &[[u8; 256]], codes: &[[u8; LANES]], sums: &mut Vec<u16>) {
    for block in codes.chunks_exact(tables.len().max(1)) {
        let mut block_sums = [0u16; LANES];
        for (table, codes) in tables.iter().zip(block) {
            for (sum, code) in block_sums.iter_mut().zip(codes) {
                *sum = sum.wrapping_add(u16::from(table[usize::from(*code)]));
            }
        }
        sums.extend(block_sums);
    }
}
