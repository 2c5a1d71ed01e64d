//! How many elements a shape has, for checks that must not overflow.

/// The product of `dims`, if neither it nor any product of its first dimensions exceeds a signed
/// 64-bit number: engines multiply in those, and a zero at the end would hide the overflow.
pub(crate) fn elements(dims: &[u64]) -> Option<u64> {
    let product = dims.iter().try_fold(1_i64, |product, &dim| product.checked_mul(i64::try_from(dim).ok()?));
    product?.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_product_is_exact_or_refused(dims in prop::collection::vec(prop_oneof![0_u64..9, any::<u64>()], 0..6)) {
            let mut exact = Some(1_u128);
            for dim in &dims {
                exact = exact.and_then(|product| product.checked_mul(u128::from(*dim)));
                exact = exact.filter(|product| *product <= i64::MAX as u128 && i64::try_from(*dim).is_ok());
            }
            prop_assert_eq!(elements(&dims).map(u128::from), exact);
        }
    }
}
