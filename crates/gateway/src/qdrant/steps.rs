//! Searches and reads as the steps of routes ask for them.

use std::sync::Arc;

use halny_payload::{JsonPath, PointId};
use halny_pipeline::{FetchRequest, Fetched, Point, SearchFor, SearchRequest, Vector};
use halny_residency::Inference;
use halny_types::project::routes::Payload;
use halny_types::{Fault, RequestContext};
use halny_vectors::query::{Query, QueryRequest, Strategy, VectorInput};
use halny_vectors::{EmbeddingSpace, PayloadSelect, Points, SearchParams, Select, Spaces, VectorSelect, VectorsError};
use http::HeaderMap;
use serde_json::{Map, Value};

use super::read::filter;
use super::space::{Chosen, Texts, collection, read as ask};
use super::vectors::Document;
use crate::{ApiError, Shared};

/// What an embedding model's vectors are of.
///
/// # Errors
/// When the model does not say how many dimensions they have.
pub(crate) fn space_of(model: &Inference) -> Result<EmbeddingSpace, ApiError> {
    super::space::made_by(model)
}

/// The points nearest to a vector or a text, in one space of the collection: that of the version which made the
/// vector, though another serves by now; else that of the version which serves.
///
/// # Errors
/// When there is no such collection, the vector is of another model than the collection's, or what is asked
/// does not fit it.
pub(crate) async fn search(
    shared: &Shared,
    context: &RequestContext,
    request: SearchRequest,
) -> Result<Vec<Point>, ApiError> {
    let collection = collection(shared, &request.collection).await?;
    let (space, query) = match request.near {
        SearchFor::Vector(vector) => {
            let (space, numbers) = of_space(shared, collection, vector)?;
            (space, Query::Nearest(VectorInput::Vector(numbers)))
        }
        SearchFor::Points { positive, negative } => {
            let (positive, negative) = (examples(&positive)?, examples(&negative)?);
            let strategy = Strategy::default();
            (Chosen::of(shared, collection).space, Query::Recommend { positive, negative, strategy })
        }
        SearchFor::Text(text) => {
            let chosen = Chosen::of(shared, collection);
            let headers = HeaderMap::new();
            let texts = Texts { shared, headers: &headers, arrived: context.arrived, within: Some(context) };
            let vectors = texts.embed(&chosen, vec![Document { text, model: None }]).await?;
            let numbers = vectors.into_iter().next().unwrap_or_default();
            (chosen.space, Query::Nearest(VectorInput::Vector(numbers)))
        }
    };
    let filter = filter(request.filter.as_ref()).map_err(|error| {
        // It stands in the project file, so that it is not the client's doing.
        ApiError::new(Fault::Ours, format!("the filter of the step is not right: {error}"))
    })?;
    let select = select(&request.payload)?;
    let asked = QueryRequest {
        query: Some(query),
        using: request.using.unwrap_or_default(),
        filter,
        params: SearchParams { exact: request.exact, ..SearchParams::default() },
        threshold: request.threshold,
        limit: request.limit,
        ..QueryRequest::default()
    };
    let wanted = !select.payload.is_none();
    let found = ask(shared, &space, move |points| asked.run(points, &select)).await?;
    let point = |ranked: halny_vectors::query::Ranked| {
        let point = ranked.point;
        Ok(Point { id: id(&point.id)?, score: point.score, payload: wanted.then(|| point.payload.unwrap_or_default()) })
    };
    found.into_iter().map(point).collect()
}

/// The points of these ids, in their order; those that are not there are left out.
///
/// # Errors
/// When there is no such collection, or an id is none.
pub(crate) async fn fetch(shared: &Shared, request: FetchRequest) -> Result<Vec<Fetched>, ApiError> {
    let space = Chosen::of(shared, collection(shared, &request.collection).await?).space;
    let ids = request.ids.iter().map(point_id).collect::<Result<Vec<PointId>, ApiError>>()?;
    let select = select(&request.payload)?;
    let wanted = !select.payload.is_none();
    let records = ask(shared, &space, move |points| points.retrieve(&ids, &select)).await?;
    let fetched = |record: halny_vectors::Record| {
        let payload: Option<Map<String, Value>> = wanted.then(|| record.payload.unwrap_or_default());
        Ok(Fetched { id: id(&record.id)?, payload })
    };
    records.into_iter().map(fetched).collect()
}

/// The space of a collection whose vectors may be compared with this one, and its numbers.
fn of_space(
    shared: &Shared,
    collection: Arc<dyn Spaces>,
    vector: Vector,
) -> Result<(Arc<dyn Points>, Vec<f32>), VectorsError> {
    let active = Chosen::of(shared, Arc::clone(&collection)).space;
    let (Some(holds), Some(given)) = (&active.config().space, &vector.space) else {
        return Ok((active, vector.numbers.to_vec()));
    };
    match collection.space_of(given) {
        Some(space) => Ok((space, vector.numbers.to_vec())),
        None => Err(VectorsError::Space { holds: Box::new(holds.clone()), given: given.to_string() }),
    }
}

fn point_id(id: &Value) -> Result<PointId, ApiError> {
    serde_json::from_value::<PointId>(id.clone())
        .map_err(|_| ApiError::invalid("the id of a point is a whole number from 0 on, or a UUID as text"))
}

fn examples(ids: &[Value]) -> Result<Vec<VectorInput>, ApiError> {
    ids.iter().map(|id| point_id(id).map(VectorInput::Id)).collect()
}

fn id(id: &PointId) -> Result<Value, ApiError> {
    serde_json::to_value(id).map_err(|_| ApiError::new(Fault::Ours, "the id of a point has no form in JSON"))
}

fn select(payload: &Payload) -> Result<Select, ApiError> {
    let payload = match payload {
        Payload::Whole(true) => PayloadSelect::All,
        Payload::Whole(false) => PayloadSelect::None,
        Payload::Only(paths) => {
            let path = |path: &String| {
                path.parse::<JsonPath>().map_err(|error| {
                    ApiError::new(Fault::Ours, format!("a path of with_payload is not right: {error}"))
                })
            };
            PayloadSelect::Include(paths.iter().map(path).collect::<Result<_, _>>()?)
        }
    };
    Ok(Select { payload, vectors: VectorSelect::None })
}
