//! Points: an id, vectors by name, a payload.

use std::collections::BTreeMap;
use std::sync::Arc;

use halny_payload::PointId;
use serde_json::{Map, Value};

use crate::{CollectionConfig, Distance, VectorsError};

/// A JSON object.
pub type Payload = Map<String, Value>;

/// Vectors by name, each of its collection's dimensions; the empty name is that of the one without.
pub type Named = BTreeMap<String, Vec<f32>>;

/// What is stored under an id.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its id.
    pub id: PointId,
    /// Its vectors; a point need not have all.
    pub vectors: Named,
    /// Its payload.
    pub payload: Arc<Payload>,
}

impl CollectionConfig {
    /// Checks vectors that a client brought, and brings them in the form in which they are stored.
    ///
    /// # Errors
    /// When the collection has no vector of that name, or it has another size, or holds what is no number.
    pub fn prepare(&self, vectors: &mut Named) -> Result<(), VectorsError> {
        vectors.iter_mut().try_for_each(|(name, vector)| self.prepare_one(name, vector))
    }

    /// The same for one vector.
    ///
    /// # Errors
    /// As [`CollectionConfig::prepare`].
    pub fn prepare_one(&self, name: &str, vector: &mut [f32]) -> Result<(), VectorsError> {
        let distance = self.check_one(name, vector)?;
        distance.prepare(vector);
        Ok(())
    }

    /// Checks a vector and tells how its nearness is measured.
    ///
    /// # Errors
    /// As [`CollectionConfig::prepare`].
    pub fn check_one(&self, name: &str, vector: &[f32]) -> Result<Distance, VectorsError> {
        let config = self.vector(name)?;
        if vector.len() != config.dimensions {
            let (name, expected, is) = (name.to_owned(), config.dimensions, vector.len());
            return Err(VectorsError::Dimensions { name, expected, is });
        }
        if let Some((place, value)) = vector.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            return Err(VectorsError::NotFinite { name: name.to_owned(), place, value: *value });
        }
        Ok(config.distance)
    }

    /// What is known of the vector of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn vector(&self, name: &str) -> Result<&crate::VectorConfig, VectorsError> {
        self.vectors.get(name).ok_or_else(|| {
            let known = match self.vectors.keys().map(|name| format!("{name:?}")).collect::<Vec<_>>() {
                names if names.is_empty() => "none".to_owned(),
                names => names.join(", "),
            };
            VectorsError::NoVector { name: name.to_owned(), known }
        })
    }
}
