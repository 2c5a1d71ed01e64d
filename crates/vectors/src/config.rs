//! What a collection holds: its vectors, how near is measured, and how it is indexed.

use std::collections::BTreeMap;

use halny_payload::FieldKind;
use serde::{Deserialize, Serialize};

use crate::{Payload, VectorsError};

/// The most numbers in a vector.
pub const DIMENSIONS_MAX: usize = 65_536;
/// The most named vectors of one collection.
pub const VECTORS_MAX: usize = 64;
/// The longest name of a vector, in bytes.
pub const VECTOR_NAME_BYTES_MAX: usize = 96;
/// The most bytes of a collection's metadata, as JSON.
pub const METADATA_BYTES_MAX: usize = 64 << 10;
/// Neighbours of a node in a graph, unless said otherwise.
pub const M: usize = 16;
/// Candidates that are looked at for each node when a graph is built, unless said otherwise.
pub const EF_CONSTRUCT: usize = 200;

/// What makes two vectors near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distance {
    /// The cosine of the angle between them, -1 to 1: greater is nearer.
    Cosine,
    /// The dot product: greater is nearer.
    Dot,
    /// The distance of Euclid, from 0: less is nearer.
    Euclid,
}

impl Distance {
    /// What the index works with.
    #[must_use]
    pub fn metric(self) -> halny_ann::Metric {
        match self {
            // Stored vectors and queries have length 1.
            Distance::Cosine | Distance::Dot => halny_ann::Metric::Dot,
            Distance::Euclid => halny_ann::Metric::Euclid,
        }
    }

    /// The score that clients see, of a similarity that the index gives.
    #[must_use]
    pub fn score(self, similarity: f32) -> f32 {
        match self {
            Distance::Cosine | Distance::Dot => similarity,
            Distance::Euclid => (-similarity).max(0.0).sqrt(),
        }
    }

    /// Whether a score is better than a threshold: one that is as good is not, as in Qdrant.
    #[must_use]
    pub fn beats(self, score: f32, threshold: f32) -> bool {
        match self {
            Distance::Cosine | Distance::Dot => score > threshold,
            Distance::Euclid => score < threshold,
        }
    }

    /// Brings a vector in the form in which it is stored and asked with: of length 1 for the
    /// cosine; zeros stay zeros.
    pub fn prepare(self, vector: &mut [f32]) {
        if self != Distance::Cosine {
            return;
        }
        // In double precision: a vector of large numbers must not overflow to an infinite length.
        let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    }
}

/// In which numbers the graph is walked. What is given out is computed on 32-bit numbers whichever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits: no copy of the vectors is made.
    F32,
    /// 16 bits.
    F16,
    /// 8 bits, with a scale for each vector.
    #[default]
    Int8,
}

/// How many bits a code of the compact tier has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum CodeBits {
    /// 4 bits: searched fastest.
    #[default]
    Four,
    /// 8 bits: more of each vector in as many bytes, searched several times more slowly.
    Eight,
}

impl TryFrom<u8> for CodeBits {
    type Error = String;

    fn try_from(bits: u8) -> Result<CodeBits, String> {
        match bits {
            4 => Ok(CodeBits::Four),
            8 => Ok(CodeBits::Eight),
            _ => Err(format!("`bits` is {bits}, it may be 4 or 8")),
        }
    }
}

impl From<CodeBits> for u8 {
    fn from(bits: CodeBits) -> u8 {
        match bits {
            CodeBits::Four => 4,
            CodeBits::Eight => 8,
        }
    }
}

/// How a vector is indexed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "tier", deny_unknown_fields)]
pub enum Tier {
    /// A graph (HNSW) in memory.
    Fast {
        /// Neighbours of a node; twice as many in the lowest layer.
        m: usize,
        /// Candidates that are looked at for each node when the graph is built.
        ef_construct: usize,
        /// In which numbers the graph is walked.
        precision: Precision,
    },
    /// Lists of codes (IVF-PQ), in a fraction of the vectors' memory.
    Compact {
        /// How many lists; nothing for what suits the number of vectors.
        #[serde(default)]
        lists: Option<usize>,
        /// Bits of a code.
        #[serde(default)]
        bits: CodeBits,
        /// Codes of a vector; nothing for one for every two dimensions, with 8 bits every four.
        #[serde(default)]
        subspaces: Option<usize>,
    },
}

impl Default for Tier {
    fn default() -> Tier {
        Tier::Fast { m: M, ef_construct: EF_CONSTRUCT, precision: Precision::default() }
    }
}

/// One of a collection's vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VectorConfig {
    /// Numbers of a vector.
    pub dimensions: usize,
    /// What makes two near.
    pub distance: Distance,
    /// How it is indexed.
    #[serde(default)]
    pub tier: Tier,
    /// How thorough a search is unless it says otherwise itself: how many candidates it keeps, in the compact
    /// tier how many lists it looks through. Found by tuning, or set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef: Option<usize>,
}

/// The most candidates that a search may keep.
pub const EF_MAX: usize = 1_000_000;

/// The most points in a segment in memory: all of them are looked at by every search.
const OPEN_POINTS_MAX: usize = 1_000_000;
/// The most points of a segment: a row is 32 bits.
const MERGED_POINTS_MAX: usize = u32::MAX as usize;

/// When and how segments are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Segmenting {
    /// Points that are written to memory before they become a segment of their own.
    pub open_points: usize,
    /// Points from which on a segment gets an index; a smaller one is scanned.
    pub index_from_points: usize,
    /// Points beyond which segments are merged no further.
    pub merged_points_max: usize,
}

impl Default for Segmenting {
    fn default() -> Segmenting {
        // 5,000 vectors of 384 dimensions are scanned in half the time of a walk through a graph,
        // and their graph is built in less than a second.
        Segmenting { open_points: 5_000, index_from_points: 2_000, merged_points_max: 2_000_000 }
    }
}

/// What made the vectors of a collection: vectors of different spaces cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSpace {
    /// The model's name.
    pub model: String,
    /// The digest of the model version's files, in hexadecimal.
    pub version: String,
    /// How the model makes one vector of many, `mean` for instance.
    pub pooling: String,
    /// Numbers of a vector.
    pub dimensions: usize,
}

impl EmbeddingSpace {
    /// Whether vectors of both can be compared. A name is not asked: the same files may be served under two.
    #[must_use]
    pub fn same(&self, other: &EmbeddingSpace) -> bool {
        self.version == other.version && self.pooling == other.pooling && self.dimensions == other.dimensions
    }
}

impl std::fmt::Display for EmbeddingSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = self.version.get(..12).unwrap_or(&self.version);
        write!(f, "{}@{version} ({} pooling, {} dimensions)", self.model, self.pooling, self.dimensions)
    }
}

/// What a collection holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CollectionConfig {
    /// Its vectors by name; the empty name is that of the one without a name.
    pub vectors: BTreeMap<String, VectorConfig>,
    /// What made them; nothing for vectors that clients bring.
    #[serde(default)]
    pub space: Option<EmbeddingSpace>,
    /// Indexed fields of the payload.
    #[serde(default)]
    pub fields: BTreeMap<String, FieldKind>,
    /// When and how segments are made.
    #[serde(default)]
    pub segmenting: Segmenting,
    /// What clients wrote down about it, and read back as it is.
    #[serde(default, skip_serializing_if = "Payload::is_empty")]
    pub metadata: Payload,
}

impl CollectionConfig {
    /// Whether its vectors are of the space of those that `made` made.
    #[must_use]
    pub fn is_of(&self, made: &EmbeddingSpace) -> bool {
        self.space.as_ref().is_some_and(|known| known.same(made))
    }

    /// Checks it.
    ///
    /// # Errors
    /// Which value is out of its range, and the range.
    pub fn check(&self) -> Result<(), VectorsError> {
        let refused = |text: String| Err(VectorsError::Config(text));
        if self.vectors.len() > VECTORS_MAX {
            return refused(format!("a collection has at most {VECTORS_MAX} vectors, this one {}", self.vectors.len()));
        }
        for (name, vector) in &self.vectors {
            if name.len() > VECTOR_NAME_BYTES_MAX || name.chars().any(char::is_control) {
                return refused(format!(
                    "the name of a vector has at most {VECTOR_NAME_BYTES_MAX} bytes and no control characters"
                ));
            }
            vector.check(name)?;
        }
        let bytes = serde_json::to_string(&self.metadata).map_or(usize::MAX, |text| text.len());
        if bytes > METADATA_BYTES_MAX {
            return refused(format!("`metadata` has {bytes} bytes, it may have {METADATA_BYTES_MAX}"));
        }
        self.segmenting.check()
    }

    /// Takes what is new in `changes` into the metadata: a key that is there gets the new value, one whose value is
    /// null goes.
    pub fn change_metadata(&mut self, changes: Payload) {
        for (key, value) in changes {
            if value.is_null() {
                self.metadata.remove(&key);
            } else {
                self.metadata.insert(key, value);
            }
        }
    }
}

impl Segmenting {
    fn check(self) -> Result<(), VectorsError> {
        for (what, is, most) in [
            ("`open_points`", self.open_points, OPEN_POINTS_MAX),
            ("`merged_points_max`", self.merged_points_max, MERGED_POINTS_MAX),
        ] {
            if !(1..=most).contains(&is) {
                return Err(VectorsError::Config(format!("{what} is {is}, it may be 1 to {most}")));
            }
        }
        Ok(())
    }
}

impl VectorConfig {
    fn check(&self, name: &str) -> Result<(), VectorsError> {
        let refused = |what: &str, is: usize, least: usize, most: usize| {
            let text = format!("vector {name:?}: {what} is {is}, it may be {least} to {most}");
            Err(VectorsError::Config(text))
        };
        if !(1..=DIMENSIONS_MAX).contains(&self.dimensions) {
            return refused("its size", self.dimensions, 1, DIMENSIONS_MAX);
        }
        if let Some(ef) = self.ef.filter(|ef| !(1..=EF_MAX).contains(ef)) {
            return refused("`ef`", ef, 1, EF_MAX);
        }
        match self.tier {
            Tier::Fast { m, .. } if !(4..=128).contains(&m) => refused("`m`", m, 4, 128),
            Tier::Fast { ef_construct, .. } if !(4..=4_096).contains(&ef_construct) => {
                refused("`ef_construct`", ef_construct, 4, 4_096)
            }
            Tier::Compact { lists: Some(lists), .. } if !(1..=halny_ann::LISTS_MAX).contains(&lists) => {
                refused("`lists`", lists, 1, halny_ann::LISTS_MAX)
            }
            Tier::Compact { subspaces: Some(subspaces), .. } if !(1..=self.dimensions).contains(&subspaces) => {
                refused("`subspaces`", subspaces, 1, self.dimensions)
            }
            Tier::Fast { .. } | Tier::Compact { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tiers_of_earlier_manifests_are_read_and_those_of_now_come_back() {
        let fast = json!({"tier": "fast", "m": 16, "ef_construct": 200, "precision": "int8"});
        assert_eq!(serde_json::from_value::<Tier>(fast).unwrap(), Tier::default());
        let short = serde_json::from_value::<Tier>(json!({"tier": "compact"})).unwrap();
        assert_eq!(short, Tier::Compact { lists: None, bits: CodeBits::Four, subspaces: None });
        let full = Tier::Compact { lists: Some(7), bits: CodeBits::Eight, subspaces: Some(3) };
        assert_eq!(serde_json::from_value::<Tier>(serde_json::to_value(&full).unwrap()).unwrap(), full);
        for odd in [json!({"tier": "compact", "bits": 5}), json!({"tier": "compact", "m": 4}), json!({"tier": "slow"})]
        {
            assert!(serde_json::from_value::<Tier>(odd.clone()).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_compact_tier_out_of_its_ranges_is_refused() {
        let checked = |lists, subspaces| {
            let tier = Tier::Compact { lists, bits: CodeBits::Four, subspaces };
            VectorConfig { dimensions: 8, distance: Distance::Dot, tier, ef: None }.check("v")
        };
        assert!(checked(None, None).is_ok() && checked(Some(1), Some(8)).is_ok());
        for (lists, subspaces, what) in
            [(Some(0), None, "`lists`"), (None, Some(0), "`subspaces`"), (None, Some(9), "to 8")]
        {
            let refused = checked(lists, subspaces).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}");
        }
        assert!(checked(Some(halny_ann::LISTS_MAX + 1), None).is_err());
    }
}
