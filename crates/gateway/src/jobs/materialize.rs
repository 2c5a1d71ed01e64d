//! `materialize`: brings the values that are served up to date with the rows that are kept.
//!
//! A run that is broken off, or made twice, does no harm: what was read is remembered file by file, and an older row never
//! takes the place of a newer. So there is nothing to be left in a checkpoint.

use futures::future::BoxFuture;
use halny_features::{Features, FeaturesError, Moment};
use halny_jobs::{Failure, Handler, Progress, Run};
use halny_types::Blame;
use halny_types::project::jobs::JobKind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::feast::moment;

/// What the job is told.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Order {
    /// These views; without them, all.
    views: Option<Vec<String>>,
    /// From here on; without it, what was not read yet.
    start: Option<String>,
    /// Up to here; without it, now.
    end: Option<String>,
}

/// Materialises views.
pub(super) struct Materialize {
    pub(super) features: Features,
}

fn read(payload: &Value) -> Result<(Order, Option<Moment>, Option<Moment>), String> {
    let order: Order =
        serde_json::from_value(payload.clone()).map_err(|error| format!("this is no order to materialise: {error}"))?;
    let at = |field, text: &Option<String>| {
        let read = text.as_deref().map(|text| moment(field, text)).transpose();
        read.map_err(|error| error.message().to_owned())
    };
    let (start, end) = (at("start", &order.start)?, at("end", &order.end)?);
    if start.zip(end).is_some_and(|(start, end)| start > end) {
        return Err("`end` is before `start`".to_owned());
    }
    Ok((order, start, end))
}

impl Materialize {
    async fn work(&self, run: &Run) -> Result<Value, Failure> {
        let (order, start, end) = read(run.payload()).map_err(Failure::Fatal)?;
        let names = match order.views {
            Some(views) => views,
            None => self.features.definitions().views().map(|view| view.name.clone()).collect(),
        };
        let mut done = serde_json::Map::new();
        for (number, view) in names.iter().enumerate() {
            let progress = Progress { done: number as u64, total: Some(names.len() as u64), message: view.clone() };
            run.progress(progress);
            let (one, until) = (std::slice::from_ref(view), end.unwrap_or(Moment::MAX));
            let materialised = match start {
                Some(start) => self.features.materialize(Some(one), start, until).await,
                None => self.features.materialize_incremental(Some(one), until).await,
            };
            for told in materialised.map_err(|error| failed(&error))? {
                done.insert(told.view, json!({ "rows": told.rows, "served": told.served, "skipped": told.skipped }));
            }
            if run.is_stopped().is_some() && number + 1 < names.len() {
                return Err(Failure::Stopped);
            }
        }
        Ok(Value::Object(done))
    }
}

/// What is wrong with the order stays wrong.
fn failed(error: &FeaturesError) -> Failure {
    let text = error.to_string();
    if error.fault().http_status() < 500 { Failure::Fatal(text) } else { Failure::Retry(text) }
}

impl Handler for Materialize {
    fn kind(&self) -> &'static str {
        JobKind::Materialize.as_str()
    }

    fn check(&self, payload: &Value) -> Result<(), String> {
        read(payload).map(|_| ())
    }

    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(self.work(run))
    }
}
