//! Writes of points.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::response::Response;
use halny_payload::{Filter, JsonPath, PointId};
use halny_vectors::{Payload, Point, Selector, VectorsError, Write};
use http::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::reply::{respond, small, updated};
use super::space::{At, Chosen, Texts};
use super::vectors::{Input, Vectors};
use crate::admission::Arrived;
use crate::{ApiError, Shared, body};

/// The most points of one write.
const POINTS_MAX: usize = 100_000;
/// The most writes of one batch.
const OPERATIONS_MAX: usize = 10_000;

/// What the query of a write says.
#[derive(Debug, Deserialize)]
pub(super) struct WriteQuery {
    #[serde(default)]
    wait: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Upsert {
    points: Option<Vec<PointForm>>,
    batch: Option<BatchForm>,
    shard_key: Option<Value>,
    update_filter: Option<Value>,
    update_mode: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PointForm {
    id: PointId,
    vector: Option<Vectors>,
    payload: Option<Payload>,
}

/// The same, a column behind the other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchForm {
    ids: Vec<PointId>,
    vectors: Columns,
    payloads: Option<Vec<Option<Payload>>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Columns {
    One(Vec<Input>),
    Named(std::collections::BTreeMap<String, Vec<Input>>),
}

/// Points by id or filter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SelectorForm {
    points: Option<Vec<PointId>>,
    filter: Option<Value>,
    shard_key: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PayloadForm {
    payload: Payload,
    points: Option<Vec<PointId>>,
    filter: Option<Value>,
    key: Option<String>,
    shard_key: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeletePayloadForm {
    keys: Vec<String>,
    points: Option<Vec<PointId>>,
    filter: Option<Value>,
    shard_key: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateVectorsForm {
    points: Vec<VectorsForm>,
    shard_key: Option<Value>,
    update_filter: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VectorsForm {
    id: PointId,
    vector: Vectors,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteVectorsForm {
    points: Option<Vec<PointId>>,
    filter: Option<Value>,
    vector: Vec<String>,
    shard_key: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationForms {
    operations: Vec<OperationForm>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum OperationForm {
    Upsert(Upsert),
    Delete(SelectorForm),
    SetPayload(PayloadForm),
    OverwritePayload(PayloadForm),
    DeletePayload(DeletePayloadForm),
    ClearPayload(SelectorForm),
    UpdateVectors(UpdateVectorsForm),
    DeleteVectors(DeleteVectorsForm),
}

/// Which points: ids or a filter, one of them.
fn selector(points: Option<Vec<PointId>>, filter: Option<&Value>) -> Result<Selector, ApiError> {
    match (points, filter) {
        (Some(ids), None) => Ok(Selector::Ids(ids)),
        (None, Some(filter)) => Ok(Selector::Filter(Arc::new(Filter::read(filter).map_err(VectorsError::from)?))),
        _ => Err(ApiError::invalid("say which points: either `points`, a list of ids, or `filter`")),
    }
}

fn paths(keys: Vec<String>) -> Result<Vec<JsonPath>, ApiError> {
    let path = |key: String| Ok(key.parse::<JsonPath>().map_err(VectorsError::from)?);
    keys.into_iter().map(path).collect()
}

fn unsupported(name: &str, value: Option<&Value>) -> Result<(), VectorsError> {
    if value.is_some() { Err(VectorsError::Unsupported(name.to_owned())) } else { Ok(()) }
}

impl Upsert {
    fn forms(self) -> Result<Vec<PointForm>, ApiError> {
        unsupported("shard_key", self.shard_key.as_ref())?;
        unsupported("update_filter", self.update_filter.as_ref())?;
        if self.update_mode.is_some_and(|mode| mode != "upsert") {
            return Err(VectorsError::Unsupported("update_mode".to_owned()).into());
        }
        match (self.points, self.batch) {
            (Some(points), None) => Ok(points),
            (None, Some(batch)) => batch.forms(),
            _ => Err(ApiError::invalid("give either `points` or `batch`")),
        }
    }
}

impl BatchForm {
    fn forms(self) -> Result<Vec<PointForm>, ApiError> {
        let count = self.ids.len();
        let wrong = |what: &str, is: usize| {
            Err(ApiError::invalid(format!("`batch` has {count} ids and {is} {what}; give one of each")))
        };
        let mut points: Vec<PointForm> =
            self.ids.into_iter().map(|id| PointForm { id, vector: None, payload: None }).collect();
        match self.vectors {
            Columns::One(inputs) if inputs.len() != count => return wrong("vectors", inputs.len()),
            Columns::One(inputs) => {
                points.iter_mut().zip(inputs).for_each(|(point, input)| point.vector = Some(Vectors::One(input)));
            }
            Columns::Named(columns) => {
                points.iter_mut().for_each(|point| point.vector = Some(Vectors::Named(Vec::new())));
                for (name, inputs) in columns {
                    if inputs.len() != count {
                        return wrong(&format!("vectors {name:?}"), inputs.len());
                    }
                    for (point, input) in points.iter_mut().zip(inputs) {
                        if let Some(Vectors::Named(named)) = &mut point.vector {
                            named.push((name.clone(), input));
                        }
                    }
                }
            }
        }
        if let Some(payloads) = self.payloads {
            if payloads.len() != count {
                return wrong("payloads", payloads.len());
            }
            points.iter_mut().zip(payloads).for_each(|(point, payload)| point.payload = payload);
        }
        Ok(points)
    }
}

impl OperationForm {
    /// The write that it means, its texts embedded.
    async fn write(self, texts: &Texts<'_>, chosen: &Chosen) -> Result<Write, ApiError> {
        Ok(match self {
            OperationForm::Upsert(form) => {
                let mut forms = form.forms()?;
                check_count(forms.len())?;
                let inputs = forms.iter_mut().map(|form| form.vector.take().map(Vectors::named).unwrap_or_default());
                let vectors = texts.stored(chosen, inputs.collect()).await?;
                let point = |(form, vectors): (PointForm, _)| Point {
                    id: form.id,
                    vectors,
                    payload: Arc::new(form.payload.unwrap_or_default()),
                };
                Write::Upsert(forms.into_iter().zip(vectors).map(point).collect())
            }
            OperationForm::UpdateVectors(form) => {
                unsupported("shard_key", form.shard_key.as_ref())?;
                unsupported("update_filter", form.update_filter.as_ref())?;
                check_count(form.points.len())?;
                let (ids, inputs): (Vec<_>, Vec<_>) =
                    form.points.into_iter().map(|point| (point.id, point.vector.named())).unzip();
                let vectors = texts.stored(chosen, inputs).await?;
                Write::UpdateVectors(ids.into_iter().zip(vectors).collect())
            }
            OperationForm::Delete(form) => Write::Delete(form.selector()?),
            OperationForm::ClearPayload(form) => Write::ClearPayload(form.selector()?),
            OperationForm::SetPayload(form) => {
                let (points, payload, key) = form.parts()?;
                Write::SetPayload { points, payload, key }
            }
            OperationForm::OverwritePayload(form) => match form.parts()? {
                (points, payload, None) => Write::OverwritePayload { points, payload },
                (points, payload, key) => Write::SetPayload { points, payload, key },
            },
            OperationForm::DeletePayload(form) => {
                unsupported("shard_key", form.shard_key.as_ref())?;
                let points = selector(form.points, form.filter.as_ref())?;
                Write::DeletePayload { points, keys: paths(form.keys)? }
            }
            OperationForm::DeleteVectors(form) => {
                unsupported("shard_key", form.shard_key.as_ref())?;
                let config = chosen.space.config();
                form.vector.iter().try_for_each(|name| config.vector(name).map(drop))?;
                let points = selector(form.points, form.filter.as_ref())?;
                Write::DeleteVectors { points, names: form.vector }
            }
        })
    }
}

impl SelectorForm {
    fn selector(self) -> Result<Selector, ApiError> {
        unsupported("shard_key", self.shard_key.as_ref())?;
        selector(self.points, self.filter.as_ref())
    }
}

impl PayloadForm {
    fn parts(self) -> Result<(Selector, Payload, Option<JsonPath>), ApiError> {
        unsupported("shard_key", self.shard_key.as_ref())?;
        let points = selector(self.points, self.filter.as_ref())?;
        let key = self.key.map(|key| key.parse::<JsonPath>()).transpose().map_err(VectorsError::from)?;
        Ok((points, self.payload, key))
    }
}

fn check_count(points: usize) -> Result<(), ApiError> {
    if points > POINTS_MAX {
        let text = format!("the request has {points} points, one may have {POINTS_MAX}; send several requests");
        return Err(ApiError::invalid(text).with_param("points"));
    }
    Ok(())
}

/// Whether a write is about points whatever their vectors are: it goes to every space of the collection, so
/// that what was deleted does not come back when the model is rolled back.
fn concerns_all_spaces(write: &Write) -> bool {
    match write {
        Write::Delete(_)
        | Write::SetPayload { .. }
        | Write::OverwritePayload { .. }
        | Write::DeletePayload { .. }
        | Write::ClearPayload(_) => true,
        Write::Upsert(_) | Write::UpdateVectors(_) | Write::DeleteVectors { .. } => false,
    }
}

/// The same write for a space that need not have all the points that it names: those that it has are changed.
fn for_those_there(write: Write) -> Write {
    let there = |points: Selector| match points {
        Selector::Ids(ids) => Selector::Filter(Arc::new(Filter::has_id(ids))),
        filter @ Selector::Filter(_) => filter,
    };
    match write {
        Write::Delete(points) => Write::Delete(there(points)),
        Write::ClearPayload(points) => Write::ClearPayload(there(points)),
        Write::SetPayload { points, payload, key } => Write::SetPayload { points: there(points), payload, key },
        Write::OverwritePayload { points, payload } => Write::OverwritePayload { points: there(points), payload },
        Write::DeletePayload { points, keys } => Write::DeletePayload { points: there(points), keys },
        other @ (Write::Upsert(_) | Write::UpdateVectors(_) | Write::DeleteVectors { .. }) => other,
    }
}

/// Makes these writes, and tells the number of the last.
async fn make(at: &At, chosen: &Chosen, writes: Vec<Write>, wait: bool) -> Result<u64, ApiError> {
    let others = at.others(chosen);
    if others.is_empty() {
        return Ok(chosen.space.write(writes, wait).await?);
    }
    // One after the other: where one is refused, those before it have been made everywhere.
    let mut last = 0;
    for write in writes {
        let for_all = concerns_all_spaces(&write).then(|| for_those_there(write.clone()));
        last = chosen.space.write(vec![write], wait).await?;
        if let Some(write) = for_all {
            for space in &others {
                space.write(vec![write.clone()], wait).await?;
            }
        }
    }
    Ok(last)
}

/// What every write of one operation does.
async fn write<F: DeserializeOwned + Send + 'static>(
    shared: &Shared,
    arrived: Arrived,
    at: &At,
    wait: bool,
    headers: &HeaderMap,
    body: Body,
    operation: impl FnOnce(F) -> OperationForm,
) -> Result<Response, ApiError> {
    let form = operation(body::json(shared, headers, body).await?);
    let chosen = at.choose(shared).await?;
    let write = form.write(&Texts { shared, headers, arrived: arrived.0, within: None }, &chosen).await?;
    let number = make(at, &chosen, vec![write], wait).await?;
    small(shared, arrived, updated(number, wait)).await
}

macro_rules! writes {
    ($($(#[$doc:meta])* $name:ident: $operation:expr;)*) => {$(
        $(#[$doc])*
        pub(super) async fn $name(
            State(shared): State<Shared>,
            Extension(arrived): Extension<Arrived>,
            at: At,
            Query(query): Query<WriteQuery>,
            headers: HeaderMap,
            body: Body,
        ) -> Response {
            respond(write(&shared, arrived, &at, query.wait, &headers, body, $operation).await)
        }
    )*};
}

writes! {
    /// `PUT /collections/{collection}/points`
    upsert: OperationForm::Upsert;
    /// `POST /collections/{collection}/points/delete`
    delete: OperationForm::Delete;
    /// `POST /collections/{collection}/points/payload`
    set_payload: OperationForm::SetPayload;
    /// `PUT /collections/{collection}/points/payload`
    overwrite_payload: OperationForm::OverwritePayload;
    /// `POST /collections/{collection}/points/payload/delete`
    delete_payload: OperationForm::DeletePayload;
    /// `POST /collections/{collection}/points/payload/clear`
    clear_payload: OperationForm::ClearPayload;
    /// `PUT /collections/{collection}/points/vectors`
    update_vectors: OperationForm::UpdateVectors;
    /// `POST /collections/{collection}/points/vectors/delete`
    delete_vectors: OperationForm::DeleteVectors;
}

/// `POST /collections/{collection}/points/batch`
pub(super) async fn batch(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    at: At,
    Query(query): Query<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let forms: OperationForms = body::json(&shared, &headers, body).await?;
        if forms.operations.len() > OPERATIONS_MAX {
            let text = format!("a batch has at most {OPERATIONS_MAX} operations, this one {}", forms.operations.len());
            return Err(ApiError::invalid(text));
        }
        let chosen = at.choose(&shared).await?;
        let texts = Texts { shared: &shared, headers: &headers, arrived: arrived.0, within: None };
        let mut writes = Vec::with_capacity(forms.operations.len());
        for form in forms.operations {
            writes.push(form.write(&texts, &chosen).await?);
        }
        let count = writes.len() as u64;
        let last = make(&at, &chosen, writes, query.wait).await?;
        let first = (last + 1).saturating_sub(count);
        let results: Vec<Value> =
            (first..=last).take(count as usize).map(|number| updated(number, query.wait)).collect();
        small(&shared, arrived, results).await
    };
    respond(answer.await)
}
