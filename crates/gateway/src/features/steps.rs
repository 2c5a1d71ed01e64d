//! Features as the steps of routes ask for them.

use halny_features::{Asked, OnlineRequest};
use halny_pipeline::{FeaturesAsked, FeaturesRequest};
use serde_json::{Map, Value};

use crate::feast::features;
use crate::{ApiError, Shared};

/// The values of now, by name; null where there is none.
///
/// # Errors
/// When what is asked for is not there, or what is given is not of its type.
pub(crate) async fn read(shared: &Shared, request: FeaturesRequest) -> Result<Map<String, Value>, ApiError> {
    let features = features(shared)?;
    let definitions = features.definitions();
    let asked = match request.asked {
        FeaturesAsked::Service(name) => Asked::Service(name),
        FeaturesAsked::List(list) => Asked::Features(list),
    };
    let column = |(name, value): (String, Value)| {
        let name = definitions.join_key(&name).map(str::to_owned).unwrap_or(name);
        (name, Value::Array(vec![value]))
    };
    let given: Map<String, Value> = request.given.into_iter().map(column).collect();
    let columns = features.columns_from_json(&asked, &given)?;
    let request = OnlineRequest { asked, columns, full_feature_names: request.full_names };
    let response = features.get_online(request).await?;
    let value = |(at, name): (usize, &String)| (name.clone(), response.value(0, at).to_json());
    Ok(response.names.iter().enumerate().map(value).collect())
}
