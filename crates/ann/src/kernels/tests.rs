use proptest::prelude::*;

use super::*;

fn near(a: f32, b: f32, size: f32) -> bool {
    (a - b).abs() <= 1e-5 * (1.0 + size)
}

/// Asserts that every version that runs here gives what plain Rust gives.
fn all_agree(a: &[f32], b: &[f32], codes_a: &[i8], codes_b: &[i8]) {
    let halves: Vec<f16> = b.iter().map(|value| f16::from_f32(*value)).collect();
    let size: f32 = a.iter().zip(b).map(|(a, b)| (a * a).max(b * b) * 4.0).sum();
    for kernels in available() {
        let (name, plain) = (kernels.name, &scalar::SCALAR);
        #[expect(unsafe_code, reason = "the compiler cannot know what the processor has")]
        // SAFETY: `available` gives only what the processor was found to have.
        unsafe {
            assert!(near((kernels.dot)(a, b), (plain.dot)(a, b), size), "{name}");
            assert!(near((kernels.squared_euclid)(a, b), (plain.squared_euclid)(a, b), size), "{name}");
            assert!(near((kernels.dot_half)(a, &halves), (plain.dot_half)(a, &halves), size), "{name}");
            let distances = ((kernels.squared_euclid_half)(a, &halves), (plain.squared_euclid_half)(a, &halves));
            assert!(near(distances.0, distances.1, size), "{name}");
            assert_eq!((kernels.dot_int8)(codes_a, codes_b), (plain.dot_int8)(codes_a, codes_b), "{name}");
            let (mut products, mut expected) = (Vec::new(), Vec::new());
            let query = &codes_a[..codes_a.len().min(3)];
            let rows = [1, 0, u32::MAX, 2, 1_000_000];
            (kernels.dots_int8)(query, codes_b, &rows, &mut products);
            (plain.dots_int8)(query, codes_b, &rows, &mut expected);
            assert_eq!(products, expected, "{name}");
        }
    }
}

proptest! {
    #[test]
    fn all_versions_agree(
        pairs in prop::collection::vec((-10.0f32..10.0, -10.0f32..10.0, any::<i8>(), any::<i8>()), 0..700),
    ) {
        let a: Vec<f32> = pairs.iter().map(|pair| pair.0).collect();
        let b: Vec<f32> = pairs.iter().map(|pair| pair.1).collect();
        let codes_a: Vec<i8> = pairs.iter().map(|pair| pair.2).collect();
        let codes_b: Vec<i8> = pairs.iter().map(|pair| pair.3).collect();
        all_agree(&a, &b, &codes_a, &codes_b);
    }

    #[test]
    fn products_of_a_table_are_those_of_its_rows(
        codes in prop::collection::vec(any::<i8>(), 0..2000),
        length in 1usize..200,
        rows in prop::collection::vec(0u32..40, 0..20),
    ) {
        let query: Vec<i8> = (0..length).map(|at| (at * 37 % 255) as i8).collect();
        let mut products = vec![7];
        dots_int8(&query, &codes, &rows, &mut products);
        let expected = rows.iter().map(|row| {
            let start = *row as usize * length;
            codes.get(start..start + length).map_or(0, |row| scalar::dot_int8(&query, row))
        });
        prop_assert_eq!(products, expected.collect::<Vec<_>>());
    }
}

/// Asserts that every version that runs here finds the sums that plain Rust finds.
fn all_scan_alike(tables: &[u8], codes: &[u8]) {
    let nibbles: Vec<u8> = tables.iter().map(|value| value % 64).collect();
    for kernels in available() {
        let (name, plain) = (kernels.name, &scalar::SCALAR);
        let (mut sums, mut expected) = (Vec::new(), Vec::new());
        #[expect(unsafe_code, reason = "the compiler cannot know what the processor has")]
        // SAFETY: `available` gives only what the processor was found to have.
        unsafe {
            (kernels.scan_nibbles)(nibbles.as_chunks().0, codes.as_chunks().0, &mut sums);
            (plain.scan_nibbles)(nibbles.as_chunks().0, codes.as_chunks().0, &mut expected);
            assert_eq!(sums, expected, "{name}");
            sums.clear();
            expected.clear();
            (kernels.scan_bytes)(tables.as_chunks().0, codes.as_chunks().0, &mut sums);
            (plain.scan_bytes)(tables.as_chunks().0, codes.as_chunks().0, &mut expected);
            assert_eq!(sums, expected, "{name}");
        }
    }
}

proptest! {
    #[test]
    fn all_versions_scan_alike(
        tables in prop::collection::vec(any::<u8>(), 0..2_000),
        codes in prop::collection::vec(any::<u8>(), 0..9_000),
    ) {
        all_scan_alike(&tables, &codes);
    }
}

#[test]
fn the_greatest_sums_are_scanned_alike_and_wrap_around() {
    for steps in [1, 2, 3, 24, 130, 257, 1_000] {
        all_scan_alike(&vec![255; steps * 128], &vec![0xff; steps * 64 * 3]);
    }
}

#[test]
fn a_scan_adds_up_what_each_code_is_worth() {
    // One block of one step: the code of part `p` of row `r` is `(p + r) % 16`, and code `c` of part `p` is worth `3 c + p`.
    let code = |part: usize, row: usize| (part + row) % 16;
    let worth = |part: usize, code: usize| 3 * code + part;
    let mut codes = [0u8; 64];
    let mut table = [0u8; 128];
    for part in 0..8 {
        for row in 0..16 {
            codes[part / 2 * 16 + row] |= (code(part, row) as u8) << (part % 2 * 4);
            table[part % 2 * 64 + part / 2 * 16 + row] = worth(part, row) as u8;
        }
    }
    let mut sums = vec![9];
    scan_nibbles(&[table], &[codes], &mut sums);
    let expected = (0..16).map(|row| (0..8).map(|part| worth(part, code(part, row)) as u16).sum());
    assert_eq!(sums, expected.collect::<Vec<u16>>());
}

#[test]
fn the_most_extreme_codes_do_not_overflow_on_the_way() {
    for length in [1, 15, 16, 63, 64, 65, 128, 384, 1024, 4096] {
        for (a, b) in [(-128, -128), (-128, 127), (127, 127), (127, -128)] {
            all_agree(&[], &[], &vec![a; length], &vec![b; length]);
        }
    }
}

#[test]
fn what_the_longer_one_has_more_is_left_out() {
    assert_eq!(dot(&[1.0, 2.0, 3.0], &[4.0, 5.0]), 14.0);
    assert_eq!(squared_euclid(&[1.0; 70], &[0.0; 65]), 65.0);
    assert_eq!(dot_int8(&[1; 70], &[2; 100]), 140);
    assert_eq!(dot_half(&[2.0; 33], &[f16::ONE; 40]), 66.0);
    assert_eq!(squared_euclid_half(&[2.0; 33], &[f16::ONE; 40]), 33.0);
}
