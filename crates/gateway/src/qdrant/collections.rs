//! Collections and aliases: made, described, changed, removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use halny_types::CollectionName;
use halny_types::project::TaskKind;
use halny_vectors::{
    AliasChange, CollectionConfig, Distance, EF_CONSTRUCT, EmbeddingSpace, M, Payload, Precision, Segmenting,
    SpaceStatus, Tier, VectorConfig, VectorsError,
};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::quantisation::{self, QuantisationForm};
use super::reply::{respond, small};
use super::space::{At, Chosen, collection, engine, made_by, read};
use crate::admission::Arrived;
use crate::path::Named;
use crate::{ApiError, Shared, body, prepare};

/// What makes a collection. `model` is Halny's own: vectors are of that model, and texts become such.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    vectors: Option<VectorForms>,
    model: Option<String>,
    hnsw_config: Option<HnswForm>,
    quantization_config: Option<QuantisationForm>,
    optimizers_config: Option<OptimisersForm>,
    sparse_vectors: Option<BTreeMap<String, Value>>,
    shard_number: Option<Value>,
    sharding_method: Option<Value>,
    replication_factor: Option<Value>,
    write_consistency_factor: Option<Value>,
    on_disk_payload: Option<bool>,
    wal_config: Option<Value>,
    strict_mode_config: Option<Value>,
    init_from: Option<Value>,
    metadata: Option<Payload>,
}

/// One vector without a name, or several by name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum VectorForms {
    One(Box<VectorForm>),
    Named(BTreeMap<String, VectorForm>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VectorForm {
    size: usize,
    distance: DistanceForm,
    hnsw_config: Option<HnswForm>,
    quantization_config: Option<QuantisationForm>,
    on_disk: Option<bool>,
    #[serde(default)]
    datatype: Option<String>,
    memory: Option<Value>,
    multivector_config: Option<Value>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum DistanceForm {
    Cosine,
    Dot,
    Euclid,
    Manhattan,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HnswForm {
    m: Option<usize>,
    ef_construct: Option<usize>,
    full_scan_threshold: Option<usize>,
    max_indexing_threads: Option<usize>,
    on_disk: Option<bool>,
    memory: Option<Value>,
    payload_m: Option<usize>,
    inline_storage: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimisersForm {
    indexing_threshold: Option<usize>,
    max_segment_size: Option<usize>,
    deleted_threshold: Option<Value>,
    vacuum_min_vector_number: Option<Value>,
    default_segment_number: Option<Value>,
    memmap_threshold: Option<Value>,
    flush_interval_sec: Option<Value>,
    max_optimization_threads: Option<Value>,
    prevent_unoptimized: Option<Value>,
}

impl DistanceForm {
    fn distance(self) -> Result<Distance, VectorsError> {
        match self {
            DistanceForm::Cosine => Ok(Distance::Cosine),
            DistanceForm::Dot => Ok(Distance::Dot),
            DistanceForm::Euclid => Ok(Distance::Euclid),
            DistanceForm::Manhattan => Err(VectorsError::Unsupported("Manhattan".to_owned())),
        }
    }
}

impl Create {
    fn config(self, made: Option<EmbeddingSpace>) -> Result<CollectionConfig, VectorsError> {
        let unsupported = |name: &str| Err(VectorsError::Unsupported(name.to_owned()));
        if self.sparse_vectors.is_some_and(|sparse| !sparse.is_empty()) {
            return unsupported("sparse_vectors");
        }
        if self.init_from.is_some() {
            return unsupported("init_from");
        }
        if self.strict_mode_config.is_some() {
            return unsupported("strict_mode_config");
        }
        // One machine has one shard and one replica, and a payload is always on disk.
        let _ = (self.shard_number, self.sharding_method, self.replication_factor, self.write_consistency_factor);
        let _ = (self.on_disk_payload, self.wal_config);
        let (hnsw, quantisation) = (self.hnsw_config.unwrap_or_default(), self.quantization_config);
        let one = |form: VectorForm| form.config(&hnsw, quantisation.as_ref());
        let mut vectors: BTreeMap<String, VectorConfig> = match self.vectors {
            Some(VectorForms::One(form)) => [(String::new(), one(*form)?)].into(),
            Some(VectorForms::Named(named)) => {
                named.into_iter().map(|(name, form)| Ok((name, one(form)?))).collect::<Result<_, VectorsError>>()?
            }
            None => BTreeMap::new(),
        };
        if let Some(made) = &made {
            if vectors.is_empty() {
                let tier = tier(made.dimensions, &hnsw, &HnswForm::default(), quantisation.as_ref())?;
                let vector = VectorConfig { dimensions: made.dimensions, distance: Distance::Cosine, tier, ef: None };
                vectors.insert(String::new(), vector);
            }
            if let Some((name, vector)) = vectors.iter().find(|(_, vector)| vector.dimensions != made.dimensions) {
                let (size, dimensions) = (vector.dimensions, made.dimensions);
                let text = format!(
                    "vector {name:?} has size {size}, and the model {} makes {dimensions} dimensions",
                    made.model
                );
                return Err(VectorsError::Config(text));
            }
        }
        let mut segmenting = Segmenting::default();
        let optimisers = self.optimizers_config.unwrap_or_default();
        optimisers.apply(&mut segmenting, &vectors);
        let mut config = CollectionConfig { vectors, space: made, segmenting, ..CollectionConfig::default() };
        config.change_metadata(self.metadata.unwrap_or_default());
        config.check()?;
        Ok(config)
    }
}

impl OptimisersForm {
    /// Sizes are in kilobytes of vectors, as Qdrant has them; how often and with how many threads
    /// segments are made is Halny's own affair.
    fn apply(&self, segmenting: &mut Segmenting, vectors: &BTreeMap<String, VectorConfig>) {
        let _ = (&self.deleted_threshold, &self.vacuum_min_vector_number, &self.default_segment_number);
        let _ = (&self.memmap_threshold, &self.flush_interval_sec, &self.max_optimization_threads);
        let _ = &self.prevent_unoptimized;
        let bytes: usize = vectors.values().map(|vector| vector.dimensions * 4).sum::<usize>().max(1);
        let points = |kilobytes: usize| (kilobytes.saturating_mul(1_024) / bytes).max(1);
        match self.indexing_threshold {
            // As in Qdrant: no index at all.
            Some(0) => segmenting.index_from_points = usize::MAX,
            Some(threshold) => segmenting.index_from_points = points(threshold),
            None => {}
        }
        if let Some(most) = self.max_segment_size {
            segmenting.merged_points_max = points(most).max(segmenting.open_points);
        }
    }
}

impl VectorForm {
    fn config(self, hnsw: &HnswForm, quantisation: Option<&QuantisationForm>) -> Result<VectorConfig, VectorsError> {
        if self.multivector_config.is_some() {
            return Err(VectorsError::Unsupported("multivector_config".to_owned()));
        }
        match self.datatype.as_deref() {
            None | Some("float32") => {}
            Some(_) => return Err(VectorsError::Unsupported("datatype".to_owned())),
        }
        // Vectors are mapped from disk, and in memory as far as there is room.
        let _ = (self.on_disk, self.memory);
        let own = self.hnsw_config.unwrap_or_default();
        let tier = tier(self.size, &own, hnsw, self.quantization_config.as_ref().or(quantisation))?;
        Ok(VectorConfig { dimensions: self.size, distance: self.distance.distance()?, tier, ef: None })
    }
}

fn tier(
    dimensions: usize,
    own: &HnswForm,
    common: &HnswForm,
    quantisation: Option<&QuantisationForm>,
) -> Result<Tier, VectorsError> {
    let _ = (own.full_scan_threshold, own.max_indexing_threads, own.on_disk, own.payload_m, own.inline_storage);
    let _ = &own.memory;
    if let Some(compact) = quantisation.map(|asked| asked.tier(dimensions)).transpose()?.flatten() {
        return Ok(compact);
    }
    let m = own.m.or(common.m).unwrap_or(M);
    let ef_construct = own.ef_construct.or(common.ef_construct).unwrap_or(EF_CONSTRUCT);
    Ok(Tier::Fast { m, ef_construct, precision: Precision::Int8 })
}

/// `PUT /collections/{collection}`
pub(super) async fn create(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(name): Named<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: Create = body::json(&shared, &headers, body).await?;
        let made = match &form.model {
            Some(model) => Some(made_by(&*prepare::model(&shared, model, &[TaskKind::Embed])?)?),
            None => None,
        };
        let config = form.config(made)?;
        engine(&shared)?.create(collection_name(&name)?, &config).await?;
        small(&shared, arrived, true).await
    };
    respond(answer.await)
}

/// A name that a client chose for a collection.
pub(super) fn collection_name(name: &str) -> Result<CollectionName, VectorsError> {
    CollectionName::new(name).map_err(|error| VectorsError::Name(error.to_string()))
}

/// What changes a collection.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    vectors: Option<BTreeMap<String, VectorUpdate>>,
    hnsw_config: Option<HnswForm>,
    optimizers_config: Option<OptimisersForm>,
    params: Option<Value>,
    quantization_config: Option<Value>,
    sparse_vectors: Option<Value>,
    strict_mode_config: Option<Value>,
    metadata: Option<Payload>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VectorUpdate {
    hnsw_config: Option<HnswForm>,
    quantization_config: Option<Value>,
    on_disk: Option<bool>,
    memory: Option<Value>,
}

/// `PATCH /collections/{collection}`: segments that are built from now on are built so.
pub(super) async fn update(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: Update = body::json(&shared, &headers, body).await?;
        at.space(&shared).await?.configure(Box::new(move |config| form.apply(config))).await?;
        small(&shared, arrived, true).await
    };
    respond(answer.await)
}

impl Update {
    fn apply(self, config: &mut CollectionConfig) -> Result<(), VectorsError> {
        for (name, given) in [
            ("sparse_vectors", &self.sparse_vectors),
            ("strict_mode_config", &self.strict_mode_config),
            ("quantization_config", &self.quantization_config),
        ] {
            if given.is_some() {
                return Err(VectorsError::Unsupported(name.to_owned()));
            }
        }
        let _ = self.params;
        config.change_metadata(self.metadata.unwrap_or_default());
        if let Some(optimisers) = self.optimizers_config {
            optimisers.apply(&mut config.segmenting, &config.vectors);
        }
        if let Some(hnsw) = self.hnsw_config {
            config.vectors.values_mut().for_each(|vector| hnsw.change(&mut vector.tier));
        }
        for (name, update) in self.vectors.unwrap_or_default() {
            if update.quantization_config.is_some() {
                return Err(VectorsError::Unsupported("quantization_config".to_owned()));
            }
            let _ = (update.on_disk, update.memory);
            config.vector(&name)?;
            if let (Some(vector), Some(hnsw)) = (config.vectors.get_mut(&name), update.hnsw_config) {
                hnsw.change(&mut vector.tier);
            }
        }
        Ok(())
    }
}

impl HnswForm {
    fn change(&self, tier: &mut Tier) {
        // Only a graph has them.
        if let Tier::Fast { m, ef_construct, .. } = tier {
            *m = self.m.unwrap_or(*m);
            *ef_construct = self.ef_construct.unwrap_or(*ef_construct);
        }
    }
}

/// `DELETE /collections/{collection}`
pub(super) async fn delete(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(name): Named<String>,
) -> Response {
    let answer = async { small(&shared, arrived, engine(&shared)?.delete(&name).await?).await };
    respond(answer.await)
}

/// `GET /collections`
pub(super) async fn list(State(shared): State<Shared>, Extension(arrived): Extension<Arrived>) -> Response {
    let answer = async {
        let names = engine(&shared)?.names().await?;
        let names: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        small(&shared, arrived, json!({ "collections": names })).await
    };
    respond(answer.await)
}

/// `GET /collections/{collection}/exists`
pub(super) async fn exists(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(name): Named<String>,
) -> Response {
    let answer = async {
        let exists = match engine(&shared)?.get(&name).await {
            Ok(_) => true,
            Err(VectorsError::NoCollection(_)) => false,
            Err(error) => return Err(error.into()),
        };
        small(&shared, arrived, json!({ "exists": exists })).await
    };
    respond(answer.await)
}

/// `GET /collections/{collection}`
pub(super) async fn info(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(name): Named<String>,
) -> Response {
    let answer = async {
        let collection = collection(&shared, &name).await?;
        let space = Chosen::of(&shared, Arc::clone(&collection)).space;
        let mut spaces: Vec<EmbeddingSpace> =
            collection.spaces().iter().filter_map(|space| space.config().space.clone()).collect();
        // The one that is asked comes first: which was decided for last is written down a moment later.
        let asked = space.config().space.clone();
        spaces.sort_by_key(|made| !asked.as_ref().is_some_and(|asked| asked.same(made)));
        let status = read(&shared, &space, |points| points.status()).await?;
        small(&shared, arrived, described(&space.config(), &status, &spaces)).await
    };
    respond(answer.await)
}

fn described(config: &CollectionConfig, status: &SpaceStatus, spaces: &[EmbeddingSpace]) -> Value {
    let vector = |vector: &VectorConfig| {
        let distance = match vector.distance {
            Distance::Cosine => "Cosine",
            Distance::Dot => "Dot",
            Distance::Euclid => "Euclid",
        };
        let mut described = json!({ "size": vector.dimensions, "distance": distance });
        match &vector.tier {
            Tier::Fast { m, ef_construct, .. } if vector.tier != Tier::default() => {
                described["hnsw_config"] = json!({ "m": m, "ef_construct": ef_construct });
            }
            Tier::Fast { .. } => {}
            compact @ Tier::Compact { .. } => {
                described["quantization_config"] = json!(quantisation::described(compact, vector.dimensions));
            }
        }
        described
    };
    let vectors = match config.vectors.get("") {
        Some(only) if config.vectors.len() == 1 => vector(only),
        _ => config.vectors.iter().map(|(name, config)| (name.clone(), vector(config))).collect(),
    };
    let first = config.vectors.values().next();
    let quantised = first.and_then(|vector| quantisation::described(&vector.tier, vector.dimensions));
    let fields: serde_json::Map<String, Value> = config
        .fields
        .iter()
        .map(|(name, kind)| {
            let points = status.fields.get(name).copied().unwrap_or(0);
            (name.clone(), json!({ "data_type": kind.name(), "points": points }))
        })
        .collect();
    let indexed: usize = status.vectors.values().map(|vector| vector.indexed).sum();
    let bytes: usize = config.vectors.values().map(|vector| vector.dimensions * 4).sum::<usize>().max(1);
    let kilobytes = |points: usize| if points == usize::MAX { 0 } else { points.saturating_mul(bytes) / 1_024 };
    json!({
        "status": if status.unfinished == 0 { "green" } else { "yellow" },
        "optimizer_status": "ok",
        "points_count": status.points,
        "indexed_vectors_count": indexed,
        "segments_count": status.segments,
        "config": {
            "params": { "vectors": vectors, "shard_number": 1, "replication_factor": 1,
                        "write_consistency_factor": 1, "on_disk_payload": true },
            "hnsw_config": hnsw(first.map(|vector| &vector.tier)),
            "quantization_config": quantised,
            "optimizer_config": {
                "default_segment_number": 0,
                "flush_interval_sec": 0,
                "indexing_threshold": kilobytes(config.segmenting.index_from_points),
                "max_segment_size": kilobytes(config.segmenting.merged_points_max),
            },
            "wal_config": { "wal_capacity_mb": 64, "wal_segments_ahead": 0 },
            "metadata": (!config.metadata.is_empty()).then_some(&config.metadata),
        },
        "payload_schema": fields,
        "spaces": spaces,
        "ef": config.vectors.iter().filter_map(|(name, vector)| Some((name, vector.ef?))).collect::<BTreeMap<_, _>>(),
        "building": status.building,
        "index_bytes": status.vectors.values().map(|vector| vector.index_bytes).sum::<usize>(),
        "vector_bytes": status.vectors.values().map(|vector| vector.vector_bytes).sum::<usize>(),
    })
}

/// A graph's settings; those that one would have where there is none.
fn hnsw(tier: Option<&Tier>) -> Value {
    let (m, ef_construct) = match tier {
        Some(Tier::Fast { m, ef_construct, .. }) => (*m, *ef_construct),
        _ => (M, EF_CONSTRUCT),
    };
    json!({ "m": m, "ef_construct": ef_construct, "full_scan_threshold": 10_000 })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AliasForms {
    actions: Vec<AliasForm>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "as Qdrant calls them")]
enum AliasForm {
    CreateAlias { collection_name: String, alias_name: String },
    DeleteAlias { alias_name: String },
    RenameAlias { old_alias_name: String, new_alias_name: String },
}

impl AliasForm {
    fn change(self) -> Result<AliasChange, VectorsError> {
        Ok(match self {
            AliasForm::CreateAlias { collection_name: collection, alias_name: alias } => {
                AliasChange::Create { alias: collection_name(&alias)?, collection: collection_name(&collection)? }
            }
            AliasForm::DeleteAlias { alias_name: alias } => AliasChange::Delete(collection_name(&alias)?),
            AliasForm::RenameAlias { old_alias_name: from, new_alias_name: to } => {
                AliasChange::Rename { from: collection_name(&from)?, to: collection_name(&to)? }
            }
        })
    }
}

/// `POST /collections/aliases`
pub(super) async fn change_aliases(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let forms: AliasForms = body::json(&shared, &headers, body).await?;
        let changes = forms.actions.into_iter().map(AliasForm::change).collect::<Result<_, _>>()?;
        engine(&shared)?.change_aliases(changes).await?;
        small(&shared, arrived, true).await
    };
    respond(answer.await)
}

/// `GET /aliases`
pub(super) async fn aliases(State(shared): State<Shared>, Extension(arrived): Extension<Arrived>) -> Response {
    respond(aliases_that(&shared, arrived, None).await)
}

/// `GET /collections/{collection}/aliases`
pub(super) async fn aliases_of(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(name): Named<String>,
) -> Response {
    respond(aliases_that(&shared, arrived, Some(&name)).await)
}

async fn aliases_that(shared: &Shared, arrived: Arrived, of: Option<&str>) -> Result<Response, ApiError> {
    let engine = engine(shared)?;
    if let Some(name) = of {
        engine.get(name).await?;
    }
    let aliases: Vec<Value> = engine
        .aliases()
        .await?
        .into_iter()
        .filter(|(_, collection)| of.is_none_or(|name| name == collection.as_str()))
        .map(|(alias, collection)| json!({ "alias_name": alias, "collection_name": collection }))
        .collect();
    small(shared, arrived, json!({ "aliases": aliases })).await
}
