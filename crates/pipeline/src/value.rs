//! What steps pass to each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use halny_vectors::EmbeddingSpace;
use serde_json::{Map, Value as Json};

/// A vector, and what made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// Its numbers.
    pub numbers: Arc<[f32]>,
    /// What made it; nothing where a client brought it. Vectors of two models cannot be compared.
    pub space: Option<Arc<EmbeddingSpace>>,
}

/// One thing that a step gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Anything that has a form in JSON.
    Json(Json),
    /// A vector.
    Vector(Vector),
    /// Vectors.
    Vectors(Vec<Vector>),
}

/// What a step gives, by name.
pub type Outputs = BTreeMap<String, Value>;

impl Vector {
    fn to_json(&self) -> Json {
        Json::Array(self.numbers.iter().map(|number| number_to_json(*number)).collect())
    }
}

impl Value {
    /// The value in JSON, as answers have it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Value::Json(json) => json.clone(),
            Value::Vector(vector) => vector.to_json(),
            Value::Vectors(vectors) => Json::Array(vectors.iter().map(Vector::to_json).collect()),
        }
    }
}

/// Everything a step gives, as one object.
pub(crate) fn outputs_to_json(outputs: &Outputs) -> Json {
    let fields: Map<String, Json> = outputs.iter().map(|(name, value)| (name.clone(), value.to_json())).collect();
    Json::Object(fields)
}

/// A single in JSON, with no more digits than it has: widened, 0.1 would be 0.10000000149011612.
pub(crate) fn number_to_json(number: f32) -> Json {
    let shortest: f64 = number.to_string().parse().unwrap_or(f64::from(number));
    serde_json::Number::from_f64(shortest).map_or(Json::Null, Json::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_single_survives_json(number in any::<f32>().prop_filter("finite", |number| number.is_finite())) {
            let json = number_to_json(number);
            prop_assert_eq!(json.as_f64().map(|number| number as f32), Some(number));
        }
    }
}
