//! The loops for x86-64: AVX2 with FMA, AVX-512, and AVX-512 with VNNI.
#![expect(unsafe_code, reason = "loads through pointers, and prefetching, are unsafe intrinsics")]

use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;

use super::{Kernels, each_row, scalar, x86_scan};

pub(super) const AVX2: Kernels = Kernels {
    name: "avx2",
    needs: || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"),
    dot: avx2::dot,
    squared_euclid: avx2::squared_euclid,
    dot_half: avx2::dot_half,
    squared_euclid_half: avx2::squared_euclid_half,
    dot_int8: avx2::dot_int8,
    dots_int8: avx2::dots_int8,
    scan_nibbles: x86_scan::avx2,
    ..scalar::SCALAR
};

pub(super) const AVX512: Kernels = Kernels {
    name: "avx512",
    needs: || is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && (AVX2.needs)(),
    dot: avx512::dot,
    squared_euclid: avx512::squared_euclid,
    dot_half: avx512::dot_half,
    squared_euclid_half: avx512::squared_euclid_half,
    dot_int8: avx512::dot_int8,
    dots_int8: avx512::dots_int8,
    scan_nibbles: x86_scan::avx512,
    ..scalar::SCALAR
};

pub(super) const AVX512_VNNI: Kernels = Kernels {
    name: "avx512-vnni",
    needs: || is_x86_feature_detected!("avx512vnni") && (AVX512.needs)(),
    dot_int8: vnni::dot_int8,
    dots_int8: vnni::dots_int8,
    ..AVX512
};

/// Bytes that come from memory at once.
const LINE: usize = 64;

#[inline]
pub(super) fn prefetch<T>(values: Range<*const T>) {
    let mut at = values.start.cast::<i8>();
    while at < values.end.cast() {
        // SAFETY: a prefetch of any address is allowed; it reads nothing as far as the program can tell.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
        at = at.wrapping_add(LINE);
    }
}

/// Sums over two slices, four vectors of `$lanes` numbers at a time, then one, then what is left by itself.
macro_rules! sums {
    ($a:expr, $b:expr, $lanes:literal, $zero:expr, $term:expr, $join:expr, $total:expr, $rest:expr) => {{
        let length = $a.len().min($b.len());
        let (a, a_rest) = $a[..length].as_chunks::<$lanes>();
        let (b, b_rest) = $b[..length].as_chunks::<$lanes>();
        let ((a, a_last), (b, b_last)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
        let mut sums = [$zero; 4];
        for (a, b) in a.iter().zip(b) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum = $term(*sum, a, b);
            }
        }
        for (a, b) in a_last.iter().zip(b_last) {
            sums[0] = $term(sums[0], a, b);
        }
        $total($join($join(sums[0], sums[1]), $join(sums[2], sums[3]))) + $rest(a_rest, b_rest)
    }};
}

mod avx2 {
    use super::*;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let term = |sum, a, b| _mm256_fmadd_ps(load(a), load(b), sum);
        sums!(a, b, 8, _mm256_setzero_ps(), term, add, total, scalar::dot)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn squared_euclid(a: &[f32], b: &[f32]) -> f32 {
        let term = |sum, a, b| square(sum, _mm256_sub_ps(load(a), load(b)));
        sums!(a, b, 8, _mm256_setzero_ps(), term, add, total, scalar::squared_euclid)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dot_half(a: &[f32], b: &[f16]) -> f32 {
        let term = |sum, a, b| _mm256_fmadd_ps(load(a), load_half(b), sum);
        sums!(a, b, 8, _mm256_setzero_ps(), term, add, total, scalar::dot_half)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn squared_euclid_half(a: &[f32], b: &[f16]) -> f32 {
        let term = |sum, a, b| square(sum, _mm256_sub_ps(load(a), load_half(b)));
        sums!(a, b, 8, _mm256_setzero_ps(), term, add, total, scalar::squared_euclid_half)
    }

    /// Widened to 16 bits first: the instruction that multiplies bytes cuts its sums off.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dot_int8(a: &[i8], b: &[i8]) -> i32 {
        let length = a.len().min(b.len());
        let ((a, a_rest), (b, b_rest)) = (a[..length].as_chunks::<16>(), b[..length].as_chunks::<16>());
        let mut sum = _mm256_setzero_si256();
        for (a, b) in a.iter().zip(b) {
            let products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(load_int8(a)), _mm256_cvtepi8_epi16(load_int8(b)));
            sum = _mm256_add_epi32(sum, products);
        }
        let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b_00_00_11_10>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b_00_00_00_01>(sum));
        _mm_cvtsi128_si32(sum).wrapping_add(scalar::dot_int8(a_rest, b_rest))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dots_int8(query: &[i8], table: &[i8], rows: &[u32], products: &mut Vec<i32>) {
        each_row!(query, table, rows, products, dot_int8);
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn load(from: &[f32; 8]) -> __m256 {
        // SAFETY: eight numbers are there to be read.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn load_half(from: &[f16; 8]) -> __m256 {
        // SAFETY: eight numbers of 16 bits are there to be read.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn load_int8(from: &[i8; 16]) -> __m128i {
        // SAFETY: 16 bytes are there to be read.
        unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn square(sum: __m256, difference: __m256) -> __m256 {
        _mm256_fmadd_ps(difference, difference, sum)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn total(sum: __m256) -> f32 {
        let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
        _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps::<1>(sum, sum)))
    }
}

mod avx512 {
    use super::*;

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let term = |sum, a, b| _mm512_fmadd_ps(load(a), load(b), sum);
        sums!(a, b, 16, _mm512_setzero_ps(), term, add, total, scalar::dot)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn squared_euclid(a: &[f32], b: &[f32]) -> f32 {
        let term = |sum, a, b| square(sum, _mm512_sub_ps(load(a), load(b)));
        sums!(a, b, 16, _mm512_setzero_ps(), term, add, total, scalar::squared_euclid)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn dot_half(a: &[f32], b: &[f16]) -> f32 {
        let term = |sum, a, b| _mm512_fmadd_ps(load(a), load_half(b), sum);
        sums!(a, b, 16, _mm512_setzero_ps(), term, add, total, scalar::dot_half)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn squared_euclid_half(a: &[f32], b: &[f16]) -> f32 {
        let term = |sum, a, b| square(sum, _mm512_sub_ps(load(a), load_half(b)));
        sums!(a, b, 16, _mm512_setzero_ps(), term, add, total, scalar::squared_euclid_half)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn dot_int8(a: &[i8], b: &[i8]) -> i32 {
        let length = a.len().min(b.len());
        let ((a, a_rest), (b, b_rest)) = (a[..length].as_chunks::<32>(), b[..length].as_chunks::<32>());
        let mut sum = _mm512_setzero_si512();
        for (a, b) in a.iter().zip(b) {
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(load_wide(a), load_wide(b)));
        }
        _mm512_reduce_add_epi32(sum).wrapping_add(scalar::dot_int8(a_rest, b_rest))
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn dots_int8(query: &[i8], table: &[i8], rows: &[u32], products: &mut Vec<i32>) {
        each_row!(query, table, rows, products, dot_int8);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load(from: &[f32; 16]) -> __m512 {
        // SAFETY: 16 numbers are there to be read.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load_half(from: &[f16; 16]) -> __m512 {
        // SAFETY: 16 numbers of 16 bits are there to be read.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
    }

    /// 32 bytes, each as a number of 16 bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load_wide(from: &[i8; 32]) -> __m512i {
        // SAFETY: 32 bytes are there to be read.
        _mm512_cvtepi8_epi16(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn square(sum: __m512, difference: __m512) -> __m512 {
        _mm512_fmadd_ps(difference, difference, sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn total(sum: __m512) -> f32 {
        _mm512_reduce_add_ps(sum)
    }
}

mod vnni {
    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn dot_int8(a: &[i8], b: &[i8]) -> i32 {
        shifted_dot(a, b).wrapping_sub(shift(a))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn dots_int8(query: &[i8], table: &[i8], rows: &[u32], products: &mut Vec<i32>) {
        let shift = shift(query);
        each_row!(query, table, rows, products, |query, row| shifted_dot(query, row).wrapping_sub(shift));
    }

    /// `Σ a · (b + 128)`: the instruction takes one factor without a sign.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn shifted_dot(a: &[i8], b: &[i8]) -> i32 {
        let length = a.len().min(b.len());
        let ((a, a_rest), (b, b_rest)) = (a[..length].as_chunks::<64>(), b[..length].as_chunks::<64>());
        let sign = _mm512_set1_epi8(i8::MIN);
        let mut sums = [_mm512_setzero_si512(); 2];
        let ((a, a_last), (b, b_last)) = (a.as_chunks::<2>(), b.as_chunks::<2>());
        for (a, b) in a.iter().zip(b) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(load(b), sign), load(a));
            }
        }
        for (a, b) in a_last.iter().zip(b_last) {
            sums[0] = _mm512_dpbusd_epi32(sums[0], _mm512_xor_si512(load(b), sign), load(a));
        }
        let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]));
        let rest = a_rest.iter().zip(b_rest).map(|(a, b)| i32::from(*a) * (i32::from(*b) + 128));
        rest.fold(sum, i32::wrapping_add)
    }

    /// `Σ 128 · a`, what [`shifted_dot`] is too large by.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn shift(a: &[i8]) -> i32 {
        let (chunks, rest) = a.as_chunks::<64>();
        let ones = _mm512_set1_epi8(1);
        let mut sum = _mm512_setzero_si512();
        for a in chunks {
            sum = _mm512_dpbusd_epi32(sum, ones, load(a));
        }
        let rest: i32 = rest.iter().map(|a| i32::from(*a)).sum();
        _mm512_reduce_add_epi32(sum).wrapping_add(rest).wrapping_mul(128)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn load(from: &[i8; 64]) -> __m512i {
        // SAFETY: 64 bytes are there to be read.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
}
