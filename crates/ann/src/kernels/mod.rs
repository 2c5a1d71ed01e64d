//! The inner loops: how near two vectors are, for each kind of number that vectors are held in.
//!
//! What the processor offers is asked once; from then on every call goes through one table of
//! functions. Products of whole numbers are exact (modulo 2³²), so all versions agree to the bit. Sums of `f32`
//! are taken in the order that suits each version, and differ by rounding.
//!
//! Where two slices differ in length, what the longer one has more is left out.

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_scan;

use std::sync::OnceLock;

use half::f16;

use crate::ivf::LANES;

/// Tables and codes of four bits, steps of a block, and where sums go.
type ScanNibbles = unsafe fn(&[[u8; 128]], &[[u8; 64]], &mut Vec<u16>);
/// Tables and codes of eight bits, and where sums go.
type ScanBytes = unsafe fn(&[[u8; 256]], &[[u8; LANES]], &mut Vec<u16>);
type DotsInt8 = unsafe fn(&[i8], &[i8], &[u32], &mut Vec<i32>);

/// One version of every loop. None may be called where the processor lacks what `needs` asks for.
struct Kernels {
    name: &'static str,
    needs: fn() -> bool,
    dot: unsafe fn(&[f32], &[f32]) -> f32,
    squared_euclid: unsafe fn(&[f32], &[f32]) -> f32,
    dot_half: unsafe fn(&[f32], &[f16]) -> f32,
    squared_euclid_half: unsafe fn(&[f32], &[f16]) -> f32,
    #[cfg_attr(not(test), expect(dead_code, reason = "the table's loop is made of it, and tested by it"))]
    dot_int8: unsafe fn(&[i8], &[i8]) -> i32,
    /// The same for many rows of a table, each as long as the query: rows that the table lacks give 0.
    dots_int8: DotsInt8,
    scan_nibbles: ScanNibbles,
    scan_bytes: ScanBytes,
}

/// All that were compiled, the best first. The last works everywhere.
const ALL: &[Kernels] = &[
    #[cfg(target_arch = "x86_64")]
    x86::AVX512_VNNI,
    #[cfg(target_arch = "x86_64")]
    x86::AVX512,
    #[cfg(target_arch = "x86_64")]
    x86::AVX2,
    #[cfg(target_arch = "aarch64")]
    neon::NEON,
    scalar::SCALAR,
];

/// Those that this processor can run.
fn available() -> impl Iterator<Item = &'static Kernels> {
    ALL.iter().filter(|kernels| (kernels.needs)())
}

fn chosen() -> &'static Kernels {
    static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| available().next().unwrap_or(&scalar::SCALAR))
}

/// What the loops were written for that this processor runs.
#[must_use]
pub fn instruction_set() -> &'static str {
    chosen().name
}

/// The dot product.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[expect(unsafe_code, reason = "the compiler cannot know what the processor has")]
    // SAFETY: `chosen` gives only what the processor was found to have.
    unsafe {
        (chosen().dot)(a, b)
    }
}

/// The square of Euclid's distance.
pub(crate) fn squared_euclid(a: &[f32], b: &[f32]) -> f32 {
    #[expect(unsafe_code, reason = "the compiler cannot know what the processor has")]
    // SAFETY: `chosen` gives only what the processor was found to have.
    unsafe {
        (chosen().squared_euclid)(a, b)
    }
}

/// The dot product with a vector of half precision.
pub(crate) fn dot_half(a: &[f32], b: &[f16]) -> f32 {
    #[expect(unsafe_code, reason = "the compiler cannot know what the processor has")]
    // SAFETY: `chosen` gives only what the processor was found to have.
    unsafe {
        (chosen().dot_half)(a, b)
    }
}

/// The square of Euclid's distance to a vector of half precision.
pub(crate) fn squared_euclid_half(a: &[f32], b: &[f16]) -> f32 {
    #[expect(unsafe_code, reason = "the compiler cannot know what the processor has")]
    // SAFETY: `chosen` gives only what the processor was found to have.
    unsafe {
        (chosen().squared_euclid_half)(a, b)
    }
}

/// The dot product of whole numbers; sums that do not fit wrap around.
#[cfg(test)]
pub(crate) fn dot_int8(a: &[i8], b: &[i8]) -> i32 {
    #[expect(unsafe_code, reason = "the compiler cannot know what the processor has")]
    // SAFETY: `chosen` gives only what the processor was found to have.
    unsafe {
        (chosen().dot_int8)(a, b)
    }
}

/// The dot products of `query` with these rows of a table `[rows, query.len()]`, in their order; 0 for
/// a row that the table does not have. What was in `products` is lost.
pub(crate) fn dots_int8(query: &[i8], table: &[i8], rows: &[u32], products: &mut Vec<i32>) {
    products.clear();
    #[expect(unsafe_code, reason = "the compiler cannot know what the processor has")]
    // SAFETY: `chosen` gives only what the processor was found to have.
    unsafe {
        (chosen().dots_int8)(query, table, rows, products);
    }
}

/// What the codes of each row of some blocks are worth together (modulo 2¹⁶), with codes of four bits. A block has as
/// many steps as there are tables, and numbers in tables are 63 at most. What was in `sums` is lost.
pub(crate) fn scan_nibbles(tables: &[[u8; 128]], codes: &[[u8; 64]], sums: &mut Vec<u16>) {
    sums.clear();
    #[expect(unsafe_code, reason = "the compiler cannot know what the processor has")]
    // SAFETY: `chosen` gives only what the processor was found to have.
    unsafe {
        (chosen().scan_nibbles)(tables, codes, sums);
    }
}

/// The same with codes of eight bits, a table for each part.
pub(crate) fn scan_bytes(tables: &[[u8; 256]], codes: &[[u8; LANES]], sums: &mut Vec<u16>) {
    sums.clear();
    #[expect(unsafe_code, reason = "the compiler cannot know what the processor has")]
    // SAFETY: `chosen` gives only what the processor was found to have.
    unsafe {
        (chosen().scan_bytes)(tables, codes, sums);
    }
}

/// Asks for these bytes to be brought near the processor. Only a hint: it changes no result.
#[inline]
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(values.as_ptr_range());
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// The body of a `dots_int8`, in terms of a `dot_int8` that is to be compiled into it.
macro_rules! each_row {
    ($query:expr, $table:expr, $rows:expr, $products:expr, $dot:expr) => {
        for row in $rows {
            let start = (*row as usize).saturating_mul($query.len());
            let row = $table.get(start..).and_then(|rest| rest.get(..$query.len()));
            $products.push(row.map_or(0, |row| $dot($query, row)));
        }
    };
}
use each_row;

#[cfg(test)]
mod tests;
