//! Queries: nearest, by examples, fused, in groups, many at once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use halny_payload::{JsonPath, PointId};
use halny_types::Fault;
use halny_vectors::query::{
    Fusion, Group, GroupId, Grouping, LIMIT_MAX, Lookup, OrderBy, Pair, Query, QueryRequest, RRF_K, Strategy,
    VectorInput, matrix as pairs,
};
use halny_vectors::{PayloadSelect, SearchParams, Select, VectorsError};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::read::{PayloadForm, VectorForm, filter, filter_of, limit, one_shard, select};
use super::reply::{PointReply, large, respond};
use super::space::{At, Chosen, Texts, collection, read as ask};
use super::vectors::{Document, Input};
use crate::admission::Arrived;
use crate::path::Named;
use crate::{ApiError, Shared, body};

/// The most queries of one batch.
const BATCH_MAX: usize = 1_000;
/// The most points that a matrix compares with each other.
const SAMPLE_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryForm {
    prefetch: Option<OneOrMany<QueryForm>>,
    query: Option<What>,
    using: Option<String>,
    filter: Option<Value>,
    params: Option<ParamsForm>,
    score_threshold: Option<f32>,
    limit: Option<usize>,
    offset: Option<usize>,
    with_payload: Option<PayloadForm>,
    #[serde(alias = "with_vectors")]
    with_vector: Option<VectorForm>,
    lookup_from: Option<LookupForm>,
    shard_key: Option<Value>,
    group_by: Option<String>,
    group_size: Option<usize>,
    with_lookup: Option<WithLookup>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(Box<T>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParamsForm {
    hnsw_ef: Option<usize>,
    /// Halny's own: lists of the compact tier that are looked through.
    nprobe: Option<usize>,
    exact: Option<bool>,
    quantization: Option<QuantisationForm>,
    indexed_only: Option<bool>,
    acorn: Option<Value>,
    idf: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuantisationForm {
    /// Scores are always computed on the vectors themselves.
    #[expect(dead_code, reason = "read so that it is no unknown field")]
    ignore: Option<bool>,
    #[expect(dead_code, reason = "read so that it is no unknown field")]
    rescore: Option<bool>,
    oversampling: Option<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LookupForm {
    collection: String,
    vector: Option<String>,
    shard_key: Option<Value>,
}

/// What is looked for: a vector, or one of the kinds of queries.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum What {
    Nearest(NearestForm),
    Recommend {
        recommend: RecommendForm,
    },
    Discover {
        discover: DiscoverForm,
    },
    Context {
        context: OneOrMany<PairForm>,
    },
    OrderBy {
        order_by: OrderForm,
    },
    Fusion {
        fusion: FusionForm,
    },
    Rrf {
        rrf: RrfForm,
    },
    Sample {
        sample: SampleForm,
    },
    Formula {
        #[expect(dead_code, reason = "named in the refusal")]
        formula: Value,
    },
    Feedback {
        #[expect(dead_code, reason = "named in the refusal")]
        relevance_feedback: Value,
    },
    Bare(Input),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NearestForm {
    nearest: Input,
    mmr: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecommendForm {
    positive: Option<Vec<Input>>,
    negative: Option<Vec<Input>>,
    strategy: Option<StrategyForm>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StrategyForm {
    AverageVector,
    BestScore,
    SumScores,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiscoverForm {
    target: Input,
    context: Option<OneOrMany<PairForm>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PairForm {
    positive: Input,
    negative: Input,
}

/// A field, or a field with a direction.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OrderForm {
    Key(String),
    Full(OrderFields),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderFields {
    key: String,
    direction: Option<Direction>,
    start_from: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Asc,
    Desc,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FusionForm {
    Rrf,
    Dbsf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RrfForm {
    k: Option<f32>,
    weights: Option<Vec<f32>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SampleForm {
    Random,
}

/// A collection in which groups are looked up by their ids.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WithLookup {
    Name(String),
    Full(WithLookupFields),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WithLookupFields {
    collection: String,
    with_payload: Option<PayloadForm>,
    with_vectors: Option<VectorForm>,
}

impl<T> OneOrMany<T> {
    fn each(&mut self) -> std::slice::IterMut<'_, T> {
        match self {
            OneOrMany::Many(many) => many.iter_mut(),
            OneOrMany::One(one) => std::slice::from_mut(&mut **one).iter_mut(),
        }
    }

    fn many(self) -> Vec<T> {
        match self {
            OneOrMany::Many(many) => many,
            OneOrMany::One(one) => vec![*one],
        }
    }
}

impl OrderForm {
    pub(super) fn read(self) -> Result<OrderBy, VectorsError> {
        let fields = match self {
            OrderForm::Key(key) => OrderFields { key, direction: None, start_from: None },
            OrderForm::Full(fields) => fields,
        };
        let start = |value: Value| {
            halny_payload::order_value(&value).ok_or_else(|| {
                VectorsError::Invalid("`start_from` is a number, or a date and time as RFC 3339 writes it".to_owned())
            })
        };
        Ok(OrderBy {
            key: fields.key.parse::<JsonPath>()?,
            descending: fields.direction == Some(Direction::Desc),
            start_from: fields.start_from.map(start).transpose()?,
        })
    }
}

impl ParamsForm {
    fn read(&self) -> Result<SearchParams, VectorsError> {
        for (name, value) in [("params.acorn", &self.acorn), ("params.idf", &self.idf)] {
            if value.is_some() {
                return Err(VectorsError::Unsupported(name.to_owned()));
            }
        }
        if self.indexed_only == Some(true) {
            return Err(VectorsError::Unsupported("params.indexed_only".to_owned()));
        }
        let oversampling = self.quantization.as_ref().and_then(|quantisation| quantisation.oversampling);
        let within = |name: &str, value: Option<usize>| match value {
            Some(value) if !(1..=65_536).contains(&value) => {
                Err(VectorsError::Invalid(format!("`{name}` is {value}, it may be 1 to 65536")))
            }
            value => Ok(value),
        };
        if oversampling.is_some_and(|times| !(1.0..=100.0).contains(&times)) {
            return Err(VectorsError::Invalid("`oversampling` may be 1 to 100".to_owned()));
        }
        let (ef, nprobe) = (within("hnsw_ef", self.hnsw_ef)?, within("nprobe", self.nprobe)?);
        Ok(SearchParams { ef, nprobe, oversampling, exact: self.exact.unwrap_or(false) })
    }
}

impl What {
    /// Does something with every vector that is looked for.
    fn each_input(&mut self, with: &mut dyn FnMut(&mut Input)) {
        let pair = |pair: &mut PairForm, with: &mut dyn FnMut(&mut Input)| {
            with(&mut pair.positive);
            with(&mut pair.negative);
        };
        match self {
            What::Nearest(form) => with(&mut form.nearest),
            What::Bare(input) => with(input),
            What::Recommend { recommend } => {
                let both = [&mut recommend.positive, &mut recommend.negative];
                both.into_iter().flatten().flatten().for_each(with);
            }
            What::Discover { discover } => {
                with(&mut discover.target);
                let pairs = discover.context.iter_mut().flat_map(OneOrMany::each);
                pairs.for_each(|form| pair(form, with));
            }
            What::Context { context } => context.each().for_each(|form| pair(form, with)),
            What::OrderBy { .. } | What::Fusion { .. } | What::Rrf { .. } | What::Sample { .. } => {}
            What::Formula { .. } | What::Feedback { .. } => {}
        }
    }

    fn read(self) -> Result<Query, VectorsError> {
        let pairs = |forms: OneOrMany<PairForm>| forms.many().into_iter().map(PairForm::read).collect();
        Ok(match self {
            What::Nearest(NearestForm { mmr: Some(_), .. }) => return Err(VectorsError::Unsupported("mmr".to_owned())),
            What::Nearest(NearestForm { nearest: input, .. }) | What::Bare(input) => Query::Nearest(read(input)?),
            What::Recommend { recommend } => {
                let all = |inputs: Option<Vec<Input>>| -> Result<Vec<VectorInput>, VectorsError> {
                    inputs.unwrap_or_default().into_iter().map(read).collect()
                };
                let strategy = match recommend.strategy {
                    None | Some(StrategyForm::AverageVector) => Strategy::AverageVector,
                    Some(StrategyForm::BestScore) => Strategy::BestScore,
                    Some(StrategyForm::SumScores) => Strategy::SumScores,
                };
                let (positive, negative) = (all(recommend.positive)?, all(recommend.negative)?);
                Query::Recommend { positive, negative, strategy }
            }
            What::Discover { discover } => {
                let context = discover.context.map(pairs).transpose()?.unwrap_or_default();
                Query::Discover { target: read(discover.target)?, context }
            }
            What::Context { context } => Query::Context(pairs(context)?),
            What::OrderBy { order_by } => Query::OrderBy(order_by.read()?),
            What::Fusion { fusion: FusionForm::Rrf } => Query::Fusion(Fusion::Rrf { k: RRF_K, weights: None }),
            What::Fusion { fusion: FusionForm::Dbsf } => Query::Fusion(Fusion::Dbsf),
            What::Rrf { rrf: RrfForm { k, weights } } => {
                Query::Fusion(Fusion::Rrf { k: k.unwrap_or(RRF_K).max(1.0), weights })
            }
            What::Sample { sample: SampleForm::Random } => Query::Sample,
            What::Formula { .. } => return Err(VectorsError::Unsupported("formula".to_owned())),
            What::Feedback { .. } => return Err(VectorsError::Unsupported("relevance_feedback".to_owned())),
        })
    }
}

/// A vector or the point that has it. Texts have become vectors before.
fn read(input: Input) -> Result<VectorInput, VectorsError> {
    match input {
        Input::Point(id) => Ok(VectorInput::Id(id)),
        other => Ok(VectorInput::Vector(other.stored()?.unwrap_or_default())),
    }
}

impl PairForm {
    fn read(self) -> Result<Pair<VectorInput>, VectorsError> {
        Ok(Pair { positive: read(self.positive)?, negative: read(self.negative)? })
    }
}

impl QueryForm {
    fn each_input(&mut self, with: &mut dyn FnMut(&mut Input)) {
        if let Some(what) = &mut self.query {
            what.each_input(with);
        }
        let below = self.prefetch.iter_mut().flat_map(OneOrMany::each);
        below.for_each(|form| form.each_input(with));
    }

    /// The collections that points are looked up in.
    fn lookups<'a>(&'a self, names: &mut BTreeSet<&'a str>) {
        names.extend(self.lookup_from.as_ref().map(|lookup| lookup.collection.as_str()));
        let below = match &self.prefetch {
            Some(OneOrMany::Many(many)) => many.iter().collect(),
            Some(OneOrMany::One(one)) => vec![&**one],
            None => Vec::new(),
        };
        below.into_iter().for_each(|form: &QueryForm| form.lookups(names));
    }

    /// The query without what is wanted of its points.
    fn read(self, lookups: &Lookups, limit_by_default: usize) -> Result<QueryRequest, ApiError> {
        one_shard(self.shard_key.as_ref())?;
        let below = self.prefetch.map(OneOrMany::many).unwrap_or_default();
        let prefetch = below.into_iter().map(|form| form.read(lookups, 10)).collect::<Result<_, _>>()?;
        Ok(QueryRequest {
            prefetch,
            query: self.query.map(What::read).transpose()?,
            using: self.using.unwrap_or_default(),
            filter: filter(self.filter.as_ref())?,
            params: self.params.map(|params| params.read()).transpose()?.unwrap_or_default(),
            threshold: self.score_threshold,
            limit: limit(self.limit, limit_by_default)?,
            offset: self.offset.unwrap_or(0),
            lookup: self.lookup_from.map(|form| form.read(lookups)).transpose()?,
        })
    }
}

impl QueryForm {
    /// A query that is not for groups, and what is wanted of what it finds.
    fn alone(mut self, lookups: &Lookups) -> Result<(QueryRequest, Select), ApiError> {
        let select = select(self.with_payload.take(), self.with_vector.take(), PayloadSelect::None)?;
        for (field, given) in [
            ("group_by", self.group_by.is_some()),
            ("group_size", self.group_size.is_some()),
            ("with_lookup", self.with_lookup.is_some()),
        ] {
            if given {
                return Err(ApiError::invalid(format!("`{field}` belongs to /points/query/groups")));
            }
        }
        Ok((self.read(lookups, 10)?, select))
    }
}

impl LookupForm {
    fn read(self, lookups: &Lookups) -> Result<Lookup, ApiError> {
        one_shard(self.shard_key.as_ref())?;
        let space = lookups.get(&self.collection).cloned();
        let space = space.ok_or_else(|| VectorsError::NoCollection(self.collection.chars().take(255).collect()))?;
        Ok(Lookup { space, vector: self.vector.unwrap_or_default() })
    }
}

/// The spaces that points are looked up in, by the names of their collections.
type Lookups = HashMap<String, Arc<dyn halny_vectors::Points>>;

/// Finds what all of these look points up in.
async fn lookups(shared: &Shared, forms: &[QueryForm]) -> Result<Lookups, ApiError> {
    let mut names = BTreeSet::new();
    forms.iter().for_each(|form| form.lookups(&mut names));
    let mut found = Lookups::new();
    for name in names {
        found.insert(name.to_owned(), Chosen::of(shared, collection(shared, name).await?).space);
    }
    Ok(found)
}

/// Puts vectors in the place of the texts that are looked for.
async fn embed(texts: &Texts<'_>, chosen: &Chosen, forms: &mut [QueryForm]) -> Result<(), ApiError> {
    let mut documents: Vec<Document> = Vec::new();
    let mut collect = |input: &mut Input| {
        if let Input::Text(document) = input {
            documents.push(document.clone());
        }
    };
    forms.iter_mut().for_each(|form| form.each_input(&mut collect));
    let mut vectors = texts.embed(chosen, documents).await?.into_iter();
    let mut replace = |input: &mut Input| {
        if matches!(input, Input::Text(_)) {
            *input = Input::Numbers(vectors.next().unwrap_or_default());
        }
    };
    forms.iter_mut().for_each(|form| form.each_input(&mut replace));
    Ok(())
}

#[derive(Serialize)]
struct Points {
    points: Vec<PointReply>,
}

impl Points {
    fn work(&self) -> usize {
        self.points.iter().map(PointReply::work).sum()
    }
}

/// Answers queries of one request, all of one space and all as of the same moment's model.
async fn answer(
    shared: &Shared,
    arrived: Arrived,
    headers: &HeaderMap,
    at: &At,
    mut forms: Vec<QueryForm>,
) -> Result<Vec<Points>, ApiError> {
    let chosen = at.choose(shared).await?;
    embed(&Texts { shared, headers, arrived: arrived.0, within: None }, &chosen, &mut forms).await?;
    let lookups = lookups(shared, &forms).await?;
    let run = move |space: &dyn halny_vectors::Points| -> Result<Vec<Points>, ApiError> {
        let asked = forms.into_iter().map(|form| form.alone(&lookups)).collect::<Result<Vec<_>, ApiError>>()?;
        let wanted = asked.iter().map(|(request, _)| request.wanted()).fold(0, usize::saturating_add);
        if wanted > LIMIT_MAX {
            let text = format!("the queries want {wanted} points together, they may want {LIMIT_MAX}; send several");
            return Err(ApiError::invalid(text));
        }
        let one = |(request, select): (QueryRequest, Select)| {
            let with_vectors = !select.vectors.is_none();
            let points = request.run(space, &select)?;
            Ok(Points { points: points.into_iter().map(|point| PointReply::ranked(point, with_vectors)).collect() })
        };
        asked.into_iter().map(one).collect()
    };
    ask(shared, &chosen.space, run).await
}

/// `POST /collections/{collection}/points/query`
pub(super) async fn one(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: QueryForm = body::json(&shared, &headers, body).await?;
        let found = answer(&shared, arrived, &headers, &at, vec![form]).await?.pop();
        let found = found.unwrap_or(Points { points: Vec::new() });
        large(&shared, arrived, found.work(), found).await
    };
    respond(answer.await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchForm {
    searches: Vec<QueryForm>,
}

/// `POST /collections/{collection}/points/query/batch`
pub(super) async fn batch(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: BatchForm = body::json(&shared, &headers, body).await?;
        if form.searches.len() > BATCH_MAX {
            let text = format!("a batch has at most {BATCH_MAX} queries, this one {}", form.searches.len());
            return Err(ApiError::invalid(text));
        }
        let found = answer(&shared, arrived, &headers, &at, form.searches).await?;
        large(&shared, arrived, found.iter().map(Points::work).sum(), found).await
    };
    respond(answer.await)
}

#[derive(Serialize)]
struct GroupReply {
    id: Value,
    hits: Vec<PointReply>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lookup: Option<PointReply>,
}

/// `POST /collections/{collection}/points/query/groups`
pub(super) async fn groups(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let mut form: QueryForm = body::json(&shared, &headers, body).await?;
        let chosen = at.choose(&shared).await?;
        let texts = Texts { shared: &shared, headers: &headers, arrived: arrived.0, within: None };
        embed(&texts, &chosen, std::slice::from_mut(&mut form)).await?;
        let by = form.group_by.take().ok_or_else(|| ApiError::invalid("`group_by` names the field to group by"))?;
        let by = by.parse::<JsonPath>().map_err(VectorsError::from)?;
        let grouping = Grouping { by, groups: limit(form.limit, 10)?, size: limit(form.group_size.take(), 3)? };
        let select = select(form.with_payload.take(), form.with_vector.take(), PayloadSelect::None)?;
        let lookup = match form.with_lookup.take() {
            Some(lookup) => Some(lookup.read(&shared).await?),
            None => None,
        };
        let lookups = lookups(&shared, std::slice::from_ref(&form)).await?;
        let run = move |space: &dyn halny_vectors::Points| -> Result<Vec<GroupReply>, ApiError> {
            let request = form.read(&lookups, 10)?;
            let with_vectors = !select.vectors.is_none();
            let groups = grouping.run(space, &request, &select)?;
            let reply = |group| Ok(group_reply(group, with_vectors, lookup.as_ref())?);
            groups.into_iter().map(reply).collect()
        };
        let groups = ask(&shared, &chosen.space, run).await?;
        let work = groups.iter().flat_map(|group| &group.hits).map(PointReply::work).sum();
        large(&shared, arrived, work, json!({ "groups": groups })).await
    };
    respond(answer.await)
}

/// Where the ids of groups are looked up, and what of the points is wanted.
type GroupLookup = (Arc<dyn halny_vectors::Points>, Select);

fn group_reply(group: Group, with_vectors: bool, lookup: Option<&GroupLookup>) -> Result<GroupReply, VectorsError> {
    let (value, id) = match group.id {
        GroupId::Integer(number) => (json!(number), u64::try_from(number).ok().map(PointId::Number)),
        GroupId::Unsigned(number) => (json!(number), Some(PointId::Number(number))),
        GroupId::Text(text) => (json!(text), text.parse().ok()),
    };
    let lookup = match (lookup, id) {
        (Some((space, select)), Some(id)) => {
            let record = space.retrieve(&[id], select)?.pop();
            record.map(|record| PointReply::of(record, !select.vectors.is_none()))
        }
        _ => None,
    };
    let hits = group.hits.into_iter().map(|hit| PointReply::ranked(hit, with_vectors)).collect();
    Ok(GroupReply { id: value, hits, lookup })
}

impl WithLookup {
    async fn read(self, shared: &Shared) -> Result<GroupLookup, ApiError> {
        let fields = match self {
            WithLookup::Name(collection) => WithLookupFields { collection, with_payload: None, with_vectors: None },
            WithLookup::Full(fields) => fields,
        };
        let select = select(fields.with_payload, fields.with_vectors, PayloadSelect::All)?;
        Ok((Chosen::of(shared, collection(shared, &fields.collection).await?).space, select))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MatrixForm {
    filter: Option<Value>,
    sample: Option<usize>,
    limit: Option<usize>,
    using: Option<String>,
    shard_key: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct MatrixPath {
    form: String,
}

/// `POST /collections/{collection}/points/search/matrix/pairs` and `.../offsets`
pub(super) async fn matrix(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    Named(MatrixPath { form }): Named<MatrixPath>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let fields: MatrixForm = body::json(&shared, &headers, body).await?;
        one_shard(fields.shard_key.as_ref())?;
        let (sample, limit) = (limit(fields.sample, 10)?.min(SAMPLE_MAX), limit(fields.limit, 3)?);
        let limit = limit.min(sample);
        if sample.saturating_mul(limit) > LIMIT_MAX {
            let text = format!("a matrix of {sample} points with {limit} each is more than {LIMIT_MAX} pairs");
            return Err(ApiError::invalid(text));
        }
        let filter = filter_of(&shared, fields.filter).await?;
        let using = fields.using.unwrap_or_default();
        let space = at.space(&shared).await?;
        space.config().vector(&using)?;
        let written: fn(&[Row]) -> Value = match form.as_str() {
            "pairs" => in_pairs,
            "offsets" => offsets,
            _ => return Err(ApiError::new(Fault::Missing, "a matrix comes as `pairs` or `offsets`")),
        };
        let find = move |space: &dyn halny_vectors::Points| -> Result<Value, VectorsError> {
            Ok(written(&pairs(space, &using, filter.as_deref(), sample, limit)?))
        };
        let result = ask(&shared, &space, find).await?;
        large(&shared, arrived, sample * limit * 32, result).await
    };
    respond(answer.await)
}

/// A point of a matrix, and those near it.
type Row = (PointId, Vec<(PointId, f32)>);

fn in_pairs(rows: &[Row]) -> Value {
    let pair = |(a, near): &Row| {
        let a = *a;
        near.iter().map(move |(b, score)| json!({ "a": a, "b": b, "score": score })).collect::<Vec<_>>()
    };
    json!({ "pairs": rows.iter().flat_map(pair).collect::<Vec<_>>() })
}

/// A matrix as the places of its entries.
fn offsets(rows: &[Row]) -> Value {
    let places: HashMap<PointId, usize> = rows.iter().enumerate().map(|(place, (id, _))| (*id, place)).collect();
    let (mut row, mut column, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    for (place, (_, near)) in rows.iter().enumerate() {
        for (id, score) in near {
            // One that was deleted while its neighbours were looked for has no place.
            let Some(other) = places.get(id) else { continue };
            row.push(place);
            column.push(*other);
            scores.push(*score);
        }
    }
    let ids: Vec<PointId> = rows.iter().map(|(id, _)| *id).collect();
    json!({ "offsets_row": row, "offsets_col": column, "scores": scores, "ids": ids })
}
