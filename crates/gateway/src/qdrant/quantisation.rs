//! Quantisation as Qdrant's clients ask for it, and the tier that does what it asks for.
//!
//! `scalar` asks for 8 bits a dimension, in which a graph is walked anyway. `product` asks for a share of
//! the vectors' memory, and gets the compact tier with codes of that size; found vectors are always
//! compared again at full precision, so a code need not be larger than its table is fast.

use halny_vectors::{Tier, VectorsError};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuantisationForm {
    scalar: Option<Value>,
    product: Option<ProductForm>,
    binary: Option<Value>,
    turbo: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProductForm {
    compression: Compression,
    /// Codes are mapped from disk, and in memory as far as there is room.
    #[expect(dead_code, reason = "read so that it is no unknown field")]
    always_ram: Option<bool>,
    #[expect(dead_code, reason = "read so that it is no unknown field")]
    memory: Option<Value>,
}

/// How many times smaller a code is than its vector.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Compression {
    X4,
    X8,
    X16,
    X32,
    X64,
}

impl QuantisationForm {
    /// The tier that vectors of so many dimensions get; nothing for a graph.
    pub(super) fn tier(&self, dimensions: usize) -> Result<Option<Tier>, VectorsError> {
        for (name, asked) in [("binary", &self.binary), ("turbo", &self.turbo)] {
            if asked.is_some() {
                return Err(VectorsError::Unsupported(format!("quantization_config.{name}")));
            }
        }
        let product =
            self.product.as_ref().and_then(|product| Tier::of_compression(product.compression.times(), dimensions));
        if product.is_some() && self.scalar.is_some() {
            let text = "`quantization_config` asks for `scalar` and `product`; it may be one of them";
            return Err(VectorsError::Invalid(text.to_owned()));
        }
        Ok(product)
    }
}

impl Compression {
    fn times(self) -> u32 {
        match self {
            Compression::X4 => 4,
            Compression::X8 => 8,
            Compression::X16 => 16,
            Compression::X32 => 32,
            Compression::X64 => 64,
        }
    }
}

/// What a tier is called in Qdrant's words; nothing for a graph.
pub(super) fn described(tier: &Tier, dimensions: usize) -> Option<Value> {
    let times = tier.compression(dimensions)?;
    Some(json!({ "product": { "compression": format!("x{times}") } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_takes_the_share_of_a_vector_that_was_asked_for() {
        for (asked, told) in [("x4", "x8"), ("x8", "x8"), ("x16", "x16"), ("x32", "x32"), ("x64", "x64")] {
            let form = json!({ "product": { "compression": asked, "always_ram": true } });
            let form: QuantisationForm = serde_json::from_value(form).unwrap();
            let tier = form.tier(384).unwrap().unwrap();
            assert_eq!(described(&tier, 384), Some(json!({ "product": { "compression": told } })));
        }
        let scalar: QuantisationForm = serde_json::from_value(json!({ "scalar": { "type": "int8" } })).unwrap();
        assert_eq!(scalar.tier(384).unwrap(), None);
        assert_eq!(described(&Tier::default(), 384), None);
    }

    #[test]
    fn what_is_not_supported_or_contradicts_itself_is_refused() {
        for form in [
            json!({ "binary": {} }),
            json!({ "turbo": {} }),
            json!({ "scalar": {}, "product": { "compression": "x16" } }),
        ] {
            let form: QuantisationForm = serde_json::from_value(form).unwrap();
            assert!(form.tier(4).is_err());
        }
        assert!(serde_json::from_value::<QuantisationForm>(json!({ "product": { "compression": "x5" } })).is_err());
    }
}
