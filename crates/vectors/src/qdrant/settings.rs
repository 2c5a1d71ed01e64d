//! A configuration as Qdrant knows it, and what is written down beside it.
//!
//! Sizes, distances, graphs and indexed fields are the cluster's own settings and read from there. What it has no
//! place for is in the collection's metadata, under one key: whose space this is, what made its vectors, the tiers as
//! they were asked for. Whoever asks for the metadata does not see that key.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use halny_payload::{FieldKind, JsonPath, TextOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::{ENGINE, broken};
use crate::{
    CollectionConfig, Distance, EF_CONSTRUCT, EmbeddingSpace, M, Payload, Precision, Segmenting, Tier, VectorConfig,
    VectorsError,
};

/// The key of the metadata that is ours.
pub(super) const MARK: &str = "halny";
/// The version of what stands there.
const VERSION: u32 = 1;

/// What is written down in a space.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    version: u32,
    /// The collection whose space it is.
    pub(super) collection: String,
    /// What the cluster calls the space.
    pub(super) name: String,
    /// What made its vectors.
    pub(super) space: Option<EmbeddingSpace>,
    /// The model that the collection follows since this space was made the active one.
    pub(super) follows: Option<String>,
    vectors: BTreeMap<String, VectorMark>,
    #[serde(default)]
    fields: BTreeMap<String, FieldKind>,
    #[serde(default)]
    segmenting: Segmenting,
    /// When it was made, in seconds since 1970.
    at: u64,
    /// Whether its collection was deleted: what is left of it goes when the name is made again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct VectorMark {
    tier: Tier,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ef: Option<usize>,
}

impl Mark {
    pub(super) fn of(collection: &str, name: &str, config: &CollectionConfig) -> Mark {
        let mark = Mark {
            version: VERSION,
            collection: collection.to_owned(),
            name: name.to_owned(),
            space: config.space.clone(),
            follows: config.space.as_ref().map(|made| made.model.clone()),
            vectors: BTreeMap::new(),
            fields: BTreeMap::new(),
            segmenting: config.segmenting,
            at: now(),
            deleted: false,
        };
        mark.with(config)
    }

    /// The same for another configuration of the space.
    pub(super) fn with(mut self, config: &CollectionConfig) -> Mark {
        let vector = |(name, vector): (&String, &VectorConfig)| {
            (name.clone(), VectorMark { tier: vector.tier.clone(), ef: vector.ef })
        };
        self.vectors = config.vectors.iter().map(vector).collect();
        self.fields.clone_from(&config.fields);
        self.segmenting = config.segmenting;
        self
    }

    pub(super) fn to_json(&self) -> Result<Value, VectorsError> {
        serde_json::to_value(self).map_err(|error| broken("write a configuration", &error))
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// What the cluster tells of a collection.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub(super) status: String,
    pub(super) indexed_vectors_count: Option<usize>,
    pub(super) segments_count: Option<usize>,
    config: Config,
    #[serde(default)]
    pub(super) payload_schema: BTreeMap<String, Field>,
}

#[derive(Debug, Deserialize)]
struct Config {
    params: Params,
    hnsw_config: Hnsw,
    quantization_config: Option<Value>,
    metadata: Option<Payload>,
}

#[derive(Debug, Deserialize)]
struct Params {
    vectors: Option<Value>,
    sparse_vectors: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Hnsw {
    m: Option<usize>,
    ef_construct: Option<usize>,
}

/// An indexed field.
#[derive(Debug, Deserialize)]
pub(super) struct Field {
    data_type: String,
    params: Option<Value>,
    #[serde(default)]
    pub(super) points: usize,
}

/// One of a collection's vectors.
#[derive(Debug, Deserialize)]
struct Vector {
    size: usize,
    distance: String,
    hnsw_config: Option<Hnsw>,
    quantization_config: Option<Value>,
    multivector_config: Option<Value>,
}

/// A configuration that was read.
pub(super) struct Known {
    pub(super) config: CollectionConfig,
    /// Vectors that Halny cannot ask, and what they are.
    pub(super) others: BTreeMap<String, &'static str>,
}

impl Info {
    /// What is written down in it, if that is one of our spaces.
    ///
    /// # Errors
    /// When it cannot be read, or a newer Halny wrote it.
    pub(super) fn mark(&self) -> Result<Option<Mark>, VectorsError> {
        let Some(mark) = self.config.metadata.as_ref().and_then(|metadata| metadata.get(MARK)) else { return Ok(None) };
        let version = mark.get("version").and_then(Value::as_u64).unwrap_or(0);
        if version > u64::from(VERSION) {
            return Err(VectorsError::Config(format!(
                "the collection in the Qdrant cluster is of version {version}, made by a newer Halny, and this one \
                 knows {VERSION}; run that one"
            )));
        }
        let mark = serde_json::from_value(mark.clone());
        mark.map(Some).map_err(|error| broken("read what is written down of a space", &error))
    }

    /// Of a lock, since when it is held, in seconds since 1970, and by whom.
    pub(super) fn held(&self) -> (u64, String) {
        let mark = self.config.metadata.as_ref().and_then(|metadata| metadata.get(MARK));
        let at = mark.and_then(|mark| mark.get("at")?.as_u64()).unwrap_or(0);
        let owner = mark.and_then(|mark| mark.get("owner")?.as_str()).unwrap_or_default();
        (at, owner.to_owned())
    }

    /// The configuration of a space, or without a mark of what another client made.
    pub(super) fn known(&self, mark: Option<&Mark>) -> Result<Known, VectorsError> {
        let mut known = Known { config: CollectionConfig::default(), others: BTreeMap::new() };
        for (name, vector) in self.vectors()? {
            let distance = match vector.distance.as_str() {
                "Cosine" => Distance::Cosine,
                "Dot" => Distance::Dot,
                "Euclid" => Distance::Euclid,
                "Manhattan" => {
                    known.others.insert(name, "Manhattan");
                    continue;
                }
                other => return Err(broken("read a distance", other)),
            };
            if vector.multivector_config.is_some() {
                known.others.insert(name, "multivector_config");
                continue;
            }
            let written = mark.and_then(|mark| mark.vectors.get(&name));
            let tier = self.tier(&vector, written.map(|written| &written.tier));
            let ef = written.and_then(|written| written.ef);
            known.config.vectors.insert(name, VectorConfig { dimensions: vector.size, distance, tier, ef });
        }
        let sparse = self.config.params.sparse_vectors.iter().flat_map(Map::keys);
        known.others.extend(sparse.map(|name| (name.clone(), "sparse_vectors")));
        for (field, found) in &self.payload_schema {
            // What is indexed in a way that Halny does not have is not indexed as far as it is concerned.
            let Ok(path) = field.parse::<JsonPath>() else { continue };
            let written = mark.and_then(|mark| mark.fields.get(&path.to_string()));
            if let Some(kind) = found.kind(written) {
                known.config.fields.insert(path.to_string(), kind);
            }
        }
        if let Some(mark) = mark {
            known.config.space.clone_from(&mark.space);
            known.config.segmenting = mark.segmenting;
        }
        known.config.metadata = self.config.metadata.clone().unwrap_or_default();
        known.config.metadata.shift_remove(MARK);
        Ok(known)
    }

    fn vectors(&self) -> Result<BTreeMap<String, Vector>, VectorsError> {
        let vectors = match &self.config.params.vectors {
            None | Some(Value::Null) => return Ok(BTreeMap::new()),
            Some(vectors) => vectors.clone(),
        };
        let read = if vectors.get("size").is_some_and(Value::is_number) {
            serde_json::from_value(vectors).map(|only| BTreeMap::from([(String::new(), only)]))
        } else {
            serde_json::from_value(vectors)
        };
        read.map_err(|error| broken("read a configuration", &error))
    }

    fn tier(&self, vector: &Vector, written: Option<&Tier>) -> Tier {
        let own = vector.hnsw_config.clone().unwrap_or_default();
        match written {
            Some(Tier::Fast { m, ef_construct, precision }) => Tier::Fast {
                m: own.m.unwrap_or(*m),
                ef_construct: own.ef_construct.unwrap_or(*ef_construct),
                precision: *precision,
            },
            Some(compact @ Tier::Compact { .. }) => compact.clone(),
            None => {
                let quantisation = vector.quantization_config.as_ref().or(self.config.quantization_config.as_ref());
                let times =
                    quantisation.and_then(|quantisation| quantisation.pointer("/product/compression")?.as_str());
                let times = times.and_then(|times| times.strip_prefix('x')?.parse().ok());
                if let Some(compact) = times.and_then(|times| Tier::of_compression(times, vector.size)) {
                    return compact;
                }
                let common = &self.config.hnsw_config;
                let scalar = quantisation.is_some_and(|quantisation| quantisation.get("scalar").is_some());
                Tier::Fast {
                    m: own.m.or(common.m).unwrap_or(M),
                    ef_construct: own.ef_construct.or(common.ef_construct).unwrap_or(EF_CONSTRUCT),
                    precision: if scalar { Precision::Int8 } else { Precision::F32 },
                }
            }
        }
    }
}

impl Field {
    /// What it holds: as the cluster tells, and where that leaves options out, as it was written down.
    fn kind(&self, written: Option<&FieldKind>) -> Option<FieldKind> {
        if let Some(params) = &self.params {
            return FieldKind::read(params).ok();
        }
        match written {
            Some(kind) if kind.name() == self.data_type => Some(kind.clone()),
            _ => FieldKind::read(&json!(self.data_type)).ok(),
        }
    }
}

/// Refuses what the cluster cannot keep.
pub(super) fn check(config: &CollectionConfig) -> Result<(), VectorsError> {
    config.check()?;
    if config.metadata.contains_key(MARK) {
        let text = format!("the key {MARK:?} of the metadata is Halny's own in a Qdrant cluster; choose another");
        return Err(VectorsError::Config(text));
    }
    Ok(())
}

/// The body that makes a space.
pub(super) fn creation(config: &CollectionConfig, mark: &Mark) -> Result<Value, VectorsError> {
    let vector = |config: &VectorConfig| {
        let distance = match config.distance {
            Distance::Cosine => "Cosine",
            Distance::Dot => "Dot",
            Distance::Euclid => "Euclid",
        };
        let mut vector = json!({ "size": config.dimensions, "distance": distance });
        if let Some(graph) = graph(&config.tier) {
            vector["hnsw_config"] = graph;
        }
        if let Some(quantisation) = quantisation(&config.tier, config.dimensions) {
            vector["quantization_config"] = quantisation;
        }
        vector
    };
    let vectors = match config.vectors.get("") {
        Some(only) if config.vectors.len() == 1 => vector(only),
        _ => config.vectors.iter().map(|(name, config)| (name.clone(), vector(config))).collect(),
    };
    let mut metadata = config.metadata.clone();
    metadata.insert(MARK.to_owned(), mark.to_json()?);
    let mut body = json!({ "vectors": vectors, "metadata": metadata });
    if let Some(optimisers) = optimisers(config, &Segmenting::default()) {
        body["optimizers_config"] = optimisers;
    }
    Ok(body)
}

/// A graph's settings; product quantisation in Qdrant has the graph that the cluster gives it.
pub(super) fn graph(tier: &Tier) -> Option<Value> {
    match tier {
        Tier::Fast { m, ef_construct, .. } => Some(json!({ "m": m, "ef_construct": ef_construct })),
        Tier::Compact { .. } => None,
    }
}

/// What the graph is walked on. Qdrant has no 16 bits for that (its `datatype` would store the vectors themselves
/// in so many, and scores would be of those): 32 find as much, in more memory.
pub(super) fn quantisation(tier: &Tier, dimensions: usize) -> Option<Value> {
    match tier {
        Tier::Fast { precision: Precision::Int8, .. } => {
            Some(json!({ "scalar": { "type": "int8", "always_ram": true } }))
        }
        Tier::Fast { precision: Precision::F16 | Precision::F32, .. } => None,
        Tier::Compact { .. } => tier
            .compression(dimensions)
            .map(|times| json!({ "product": { "compression": format!("x{times}"), "always_ram": true } })),
    }
}

/// When segments get an index and how large they become, where that is not as in `before`. The cluster counts in
/// kilobytes of vectors.
pub(super) fn optimisers(config: &CollectionConfig, before: &Segmenting) -> Option<Value> {
    let bytes: usize = config.vectors.values().map(|vector| vector.dimensions * 4).sum::<usize>().max(1);
    let kilobytes = |points: usize| (points.saturating_mul(bytes) / 1_024).max(1);
    let now = &config.segmenting;
    let mut changed = Map::new();
    if now.index_from_points != before.index_from_points {
        let threshold = if now.index_from_points == usize::MAX { 0 } else { kilobytes(now.index_from_points) };
        changed.insert("indexing_threshold".to_owned(), json!(threshold));
    }
    if now.merged_points_max != before.merged_points_max {
        changed.insert("max_segment_size".to_owned(), json!(kilobytes(now.merged_points_max)));
    }
    (!changed.is_empty()).then_some(Value::Object(changed))
}

/// An index of a field in Qdrant's words.
pub(super) fn field(kind: &FieldKind) -> Value {
    let FieldKind::Text(options) = kind else { return json!(kind.name()) };
    let TextOptions { whitespace, lowercase, min_token_len, max_token_len } = options;
    let mut field = json!({
        "type": "text",
        "tokenizer": if *whitespace { "whitespace" } else { "word" },
        "lowercase": lowercase,
        "phrase_matching": true,
    });
    for (name, length, usual) in [("min_token_len", *min_token_len, 0), ("max_token_len", *max_token_len, usize::MAX)] {
        if length != usual {
            field[name] = json!(length);
        }
    }
    field
}

/// That a request is about something that another client made and Halny has not.
pub(super) fn unsupported(what: &str) -> VectorsError {
    VectorsError::Unsupported(what.to_owned())
}

/// That a change is none for what another client made.
pub(super) fn not_ours(what: &str) -> VectorsError {
    VectorsError::Unsupported(format!("{what} of a collection that another client of {ENGINE} made"))
}
