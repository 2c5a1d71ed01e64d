//! `GET /halny/v1/features/{view}/statistics`: what the values of a view are like, over a time.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use halny_features::{FeatureStatistics, Moment, Numbers};
use serde_json::{Map, Value, json};

use super::Asked;
use crate::Shared;
use crate::error::respond;
use crate::feast::features;
use crate::path::Named;

/// The parts of all values that the answer tells the bounds of.
const QUANTILES: [f64; 7] = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99];

pub(super) async fn statistics(State(shared): State<Shared>, Named(view): Named<String>, asked: Asked) -> Response {
    let answer = async {
        asked.only(&["start", "end"])?;
        let (start, end) = (asked.moment("start", Moment::MIN)?, asked.moment("end", Moment::MAX)?);
        let found = features(&shared)?.statistics(&view, start, end).await?;
        let features: Vec<Value> = found.iter().map(feature).collect();
        Ok(Json(json!({ "view": view, "features": features })).into_response())
    };
    respond(answer.await)
}

fn feature(of: &FeatureStatistics) -> Value {
    let top = |(value, count, over): (&str, u64, u64)| json!({ "value": value, "count": count, "over": over });
    json!({
        "name": of.name,
        "count": of.count,
        "nulls": of.nulls,
        "numbers": of.numbers.as_ref().map(numbers),
        "top": of.top.values().into_iter().map(top).collect::<Vec<Value>>(),
    })
}

fn numbers(of: &Numbers) -> Value {
    let quantile = |part: f64| Some((part.to_string(), json!(of.quantile(part)?)));
    let quantiles: Map<String, Value> = QUANTILES.into_iter().filter_map(quantile).collect();
    // Of no numbers there is no least, and JSON has no infinities.
    let some = |number: f64| (of.count > 0).then_some(number);
    json!({
        "count": of.count,
        "not_finite": of.not_finite,
        "min": some(of.min),
        "max": some(of.max),
        "mean": some(of.mean),
        "standard_deviation": of.deviation(),
        "quantiles": quantiles,
    })
}
