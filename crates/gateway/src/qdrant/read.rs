//! Reading points: by id, in order, counted, by the values of a field.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use halny_payload::{Filter, JsonPath, PointId};
use halny_vectors::{PayloadSelect, Scroll, Select, VectorSelect, VectorsError};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::query::OrderForm;
use super::reply::{PointReply, large, respond, small};
use super::space::At;
use crate::admission::Arrived;
use crate::path::Named;
use crate::{ApiError, Shared, body};

/// The most points of one answer.
const LIMIT_MAX: usize = 1_000_000;

/// Which part of the payload: yes, no, some paths, or all but some.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum PayloadForm {
    Whole(bool),
    Only(Vec<String>),
    Include(IncludeForm),
    Exclude(ExcludeForm),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IncludeForm {
    include: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExcludeForm {
    exclude: Vec<String>,
}

/// Which vectors: yes, no, or some.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum VectorForm {
    Whole(bool),
    Only(Vec<String>),
}

/// What of the points is wanted.
pub(super) fn select(
    payload: Option<PayloadForm>,
    vector: Option<VectorForm>,
    by_default: PayloadSelect,
) -> Result<Select, VectorsError> {
    let paths = |keys: Vec<String>| -> Result<Vec<JsonPath>, VectorsError> {
        keys.iter().map(|key| Ok(key.parse::<JsonPath>()?)).collect()
    };
    let payload = match payload {
        None => by_default,
        Some(PayloadForm::Whole(true)) => PayloadSelect::All,
        Some(PayloadForm::Whole(false)) => PayloadSelect::None,
        Some(PayloadForm::Only(keys) | PayloadForm::Include(IncludeForm { include: keys })) => {
            PayloadSelect::Include(paths(keys)?)
        }
        Some(PayloadForm::Exclude(form)) => PayloadSelect::Exclude(paths(form.exclude)?),
    };
    let vectors = match vector {
        None | Some(VectorForm::Whole(false)) => VectorSelect::None,
        Some(VectorForm::Whole(true)) => VectorSelect::All,
        Some(VectorForm::Only(names)) => VectorSelect::Only(names),
    };
    Ok(Select { payload, vectors })
}

/// A filter that may be left out.
pub(super) fn filter(form: Option<&Value>) -> Result<Option<Arc<Filter>>, VectorsError> {
    Ok(form.map(Filter::read).transpose()?.map(Arc::new))
}

/// A limit that is not too large.
pub(super) fn limit(wanted: Option<usize>, by_default: usize) -> Result<usize, VectorsError> {
    match wanted.unwrap_or(by_default) {
        0 => Err(VectorsError::Invalid("`limit` is 0, it may be 1 or more".to_owned())),
        limit if limit > LIMIT_MAX => {
            Err(VectorsError::Invalid(format!("`limit` is {limit}, it may be {LIMIT_MAX} at most; ask several times")))
        }
        limit => Ok(limit),
    }
}

/// The answer to a client that asked for points.
pub(super) async fn points(shared: &Shared, arrived: Arrived, points: Vec<PointReply>) -> Result<Response, ApiError> {
    let work = points.iter().map(PointReply::work).sum();
    large(shared, arrived, work, points).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetrieveForm {
    ids: Vec<PointId>,
    with_payload: Option<PayloadForm>,
    #[serde(alias = "with_vectors")]
    with_vector: Option<VectorForm>,
    shard_key: Option<Value>,
}

/// `POST /collections/{collection}/points`
pub(super) async fn retrieve(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: RetrieveForm = body::json(&shared, &headers, body).await?;
        one_shard(form.shard_key.as_ref())?;
        limit(Some(form.ids.len().max(1)), 1)?;
        let select = select(form.with_payload, form.with_vector, PayloadSelect::All)?;
        let space = at.space(&shared)?;
        let vectors = !select.vectors.is_none();
        let small = form.ids.len() <= 16;
        let records = shared.pool.run_unless(small, move || space.retrieve(&form.ids, &select)).await?;
        let replies = records.into_iter().map(|record| PointReply::of(record, vectors)).collect();
        points(&shared, arrived, replies).await
    };
    respond(answer.await)
}

#[derive(Debug, Deserialize)]
pub(super) struct PointPath {
    id: String,
}

/// `GET /collections/{collection}/points/{id}`
pub(super) async fn one(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    Named(PointPath { id }): Named<PointPath>,
) -> Response {
    let answer = async {
        let id: PointId = id.parse().map_err(VectorsError::from)?;
        let select = Select { payload: PayloadSelect::All, vectors: VectorSelect::All };
        let record = at.space(&shared)?.retrieve(&[id], &select).pop();
        small(&shared, arrived, PointReply::of(record.ok_or(VectorsError::NoPoint(id))?, true)).await
    };
    respond(answer.await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScrollForm {
    offset: Option<PointId>,
    limit: Option<usize>,
    filter: Option<Value>,
    with_payload: Option<PayloadForm>,
    #[serde(alias = "with_vectors")]
    with_vector: Option<VectorForm>,
    order_by: Option<OrderForm>,
    shard_key: Option<Value>,
}

/// `POST /collections/{collection}/points/scroll`
pub(super) async fn scroll(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: ScrollForm = body::json(&shared, &headers, body).await?;
        one_shard(form.shard_key.as_ref())?;
        let limit = limit(form.limit, 10)?;
        let select = select(form.with_payload, form.with_vector, PayloadSelect::All)?;
        let (vectors, filter) = (!select.vectors.is_none(), filter(form.filter.as_ref())?);
        let space = at.space(&shared)?;
        let (replies, next) = match form.order_by {
            None => {
                let scroll = Scroll { from: form.offset, limit, filter, select };
                let (records, next) = shared.pool.run(move || space.scroll(&scroll)).await?;
                (records.into_iter().map(|record| PointReply::of(record, vectors)).collect::<Vec<_>>(), next)
            }
            Some(_) if form.offset.is_some() => {
                let text = "`offset` goes with the order of ids; with `order_by` go on from `start_from`";
                return Err(ApiError::invalid(text));
            }
            Some(order) => {
                let order = order.read()?;
                let found = move || {
                    let reply = |(record, value, _)| PointReply::of(record, vectors).with_order(value);
                    let ordered = space.ordered(&order, filter.as_deref(), limit, &select);
                    ordered.into_iter().map(reply).collect::<Vec<_>>()
                };
                (shared.pool.run(found).await?, None)
            }
        };
        let work = replies.iter().map(PointReply::work).sum();
        large(&shared, arrived, work, ScrollReply { points: replies, next_page_offset: next }).await
    };
    respond(answer.await)
}

#[derive(serde::Serialize)]
struct ScrollReply {
    points: Vec<PointReply>,
    next_page_offset: Option<PointId>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CountForm {
    filter: Option<Value>,
    /// Both kinds are counted exactly.
    exact: Option<bool>,
    shard_key: Option<Value>,
}

/// `POST /collections/{collection}/points/count`
pub(super) async fn count(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: CountForm = body::json(&shared, &headers, body).await?;
        one_shard(form.shard_key.as_ref())?;
        let _ = form.exact;
        let filter = filter(form.filter.as_ref())?;
        let space = at.space(&shared)?;
        let count = shared.pool.run(move || space.count(filter.as_deref())).await?;
        small(&shared, arrived, json!({ "count": count })).await
    };
    respond(answer.await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FacetForm {
    key: String,
    limit: Option<usize>,
    filter: Option<Value>,
    exact: Option<bool>,
    shard_key: Option<Value>,
}

/// `POST /collections/{collection}/facet`
pub(super) async fn facet(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: FacetForm = body::json(&shared, &headers, body).await?;
        one_shard(form.shard_key.as_ref())?;
        let _ = form.exact;
        let (limit, filter) = (limit(form.limit, 10)?, filter(form.filter.as_ref())?);
        let field = form.key.parse::<JsonPath>().map_err(VectorsError::from)?.to_string();
        let space = at.space(&shared)?;
        let counts = shared.pool.run(move || space.facet(&field, filter.as_deref(), limit)).await??;
        let hits: Vec<Value> =
            counts.into_iter().map(|(value, count)| json!({ "value": value, "count": count })).collect();
        small(&shared, arrived, json!({ "hits": hits })).await
    };
    respond(answer.await)
}

/// Collections are not sharded by keys here.
pub(super) fn one_shard(key: Option<&Value>) -> Result<(), VectorsError> {
    if key.is_some() { Err(VectorsError::Unsupported("shard_key".to_owned())) } else { Ok(()) }
}
