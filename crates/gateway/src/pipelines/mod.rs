//! Paths of the project's own: `[[routes]]`, each a plan of steps that run in this process.
//!
//! What is at a path is looked up for each request, so that a change of the project file applies to the next
//! one; a request keeps the plan that it began with. Routes are found only where no path of Halny's own
//! is, which the check of the project file takes care of.

mod reply;
mod steps;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use halny_pipeline::{Plan, request_schema, response_schema};
use halny_telemetry::{Metrics, Objective, RouteMetrics};
use halny_types::Fault;
use halny_types::project::features::Catalogue;
use halny_types::project::routes::Route;
use http::{HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::admission::{Arrived, Called, Label};
use crate::error::Shape;
use crate::path::Named;
use crate::{ApiError, Shared, routes};

/// How metrics of the gateway know these paths, whichever they are.
const LABEL: &str = "{route}";

/// The project's routes, as of now. Cloning shares them.
#[derive(Clone)]
pub struct Routes {
    table: Arc<ArcSwap<Table>>,
    /// The requests of routes that have changed or gone, until [`Routes::settled`] has waited for them.
    retired: Arc<Mutex<Vec<TaskTracker>>>,
    metrics: Metrics,
}

#[derive(Default)]
struct Table {
    by_path: HashMap<String, Arc<Served>>,
    /// By name: the order of the list.
    by_name: BTreeMap<String, Arc<Served>>,
    /// The OpenAPI document of all.
    openapi: Bytes,
}

/// A route that is served.
struct Served {
    plan: Arc<Plan>,
    metrics: RouteMetrics,
    /// Done when the route is in no table any more, and the last request that began with it has ended.
    used: TaskTracker,
    _use: TaskTrackerToken,
}

impl Served {
    fn new(plan: Plan, metrics: RouteMetrics) -> Served {
        let used = TaskTracker::new();
        used.close();
        Served { plan: Arc::new(plan), metrics, _use: used.token(), used }
    }
}

impl Routes {
    /// No route yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Routes {
        let routes = Routes { table: Arc::default(), retired: Arc::default(), metrics };
        routes.set(&[], &Catalogue::default());
        routes
    }

    /// From now on these routes are served, in a project with these features. Requests that have begun go on with what they began with. A route
    /// that has not changed is not touched.
    ///
    /// Tells which could not be: a project that was checked has none such.
    pub fn set(&self, routes: &[Route], features: &Catalogue) -> Vec<halny_pipeline::PlanError> {
        let before = self.table.load_full();
        let (mut table, mut refused) = (Table::default(), Vec::new());
        for route in routes {
            let same = before.by_name.get(route.name.as_str()).filter(|served| served.plan.is_of(route, features));
            let served = match same {
                Some(served) => Arc::clone(served),
                None => match Plan::new(route.clone(), features) {
                    Ok(plan) => {
                        let metrics = self.bind(&plan);
                        Arc::new(Served::new(plan, metrics))
                    }
                    Err(error) => {
                        refused.push(error);
                        continue;
                    }
                },
            };
            table.by_path.insert(route.path.clone(), Arc::clone(&served));
            table.by_name.insert(route.name.to_string(), served);
        }
        let document = halny_pipeline::openapi(table.by_name.values().map(|served| served.plan.as_ref()));
        table.openapi = Bytes::from(document.to_string());
        self.retired.lock().retain(|requests| !requests.is_empty());
        for (name, served) in &before.by_name {
            let now = table.by_name.get(name);
            if now.is_none_or(|now| !Arc::ptr_eq(now, served)) {
                self.retired.lock().push(served.used.clone());
            }
            match now {
                Some(now) => served.metrics.forget_but(&now.metrics),
                None => served.metrics.forget(),
            }
        }
        self.table.store(Arc::new(table));
        refused
    }

    /// Waits until the last request has ended that began with a route which has changed or gone since. What
    /// those need may go then.
    pub async fn settled(&self) {
        let retired = std::mem::take(&mut *self.retired.lock());
        for requests in retired {
            requests.wait().await;
        }
    }

    fn bind(&self, plan: &Plan) -> RouteMetrics {
        let route = plan.route();
        let objective = route.slo.map(|slo| Objective {
            latency: Duration::from_millis(slo.latency_ms),
            quantile: slo.quantile,
            errors: slo.errors,
        });
        let steps: Vec<&str> = route.steps.iter().map(|step| step.name.as_str()).collect();
        self.metrics.routes().bind(route.name.as_str(), &steps, objective)
    }
}

/// What is at a path that is not Halny's own.
pub(crate) async fn dispatch(shared: Shared, request: Request) -> Response {
    let served = shared.routes.table.load().by_path.get(request.uri().path()).map(Arc::clone);
    let Some(served) = served else { return routes::nothing_here(request.uri().clone()).await };
    let mut response = if request.method() == Method::POST {
        answer(&shared, &served, request).await
    } else {
        let mut refused = routes::wrong_method(request.uri().clone()).await;
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        refused
    };
    response.extensions_mut().insert(Label(LABEL));
    response
}

async fn answer(shared: &Shared, served: &Arc<Served>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let arrived = parts.extensions.get::<Arrived>().copied();
    let called = parts.extensions.get::<Called>().and_then(|called| called.0.to_str().ok()).unwrap_or_default();
    let Some(arrived) = arrived else {
        return ApiError::new(Fault::Ours, "the request came by no door").respond(Shape::OpenAi);
    };
    reply::answer(shared, served, arrived, called, &parts.headers, body).await
}

/// `GET /halny/v1/routes`: the project's routes.
pub(crate) async fn list(State(shared): State<Shared>) -> Response {
    let table = shared.routes.table.load();
    let routes: Vec<Value> = table.by_name.values().map(|served| card(&served.plan)).collect();
    axum::Json(json!({ "routes": routes })).into_response()
}

fn card(plan: &Plan) -> Value {
    let route = plan.route();
    let step = |(at, step): (usize, &halny_types::project::routes::Step)| {
        let needs: Vec<&str> = plan.needs(at).iter().map(|need| plan.step_name(*need)).collect();
        json!({
            "name": step.name,
            "kind": step.action().map(|action| action.name()),
            "reads": needs,
            "has_fallback": step.fallback.is_some(),
        })
    };
    json!({
        "name": route.name,
        "path": route.path,
        "description": route.description,
        "deadline_ms": route.deadline_ms,
        "slo": route.slo,
        "streams": plan.streams(),
        "steps": route.steps.iter().enumerate().map(step).collect::<Vec<Value>>(),
    })
}

/// `GET /halny/v1/routes/{route}/schema`: the JSON Schema of its requests, and of its answers.
pub(crate) async fn schema(State(shared): State<Shared>, Named(name): Named<String>) -> Response {
    let table = shared.routes.table.load();
    match table.by_name.get(&name) {
        Some(served) => {
            let plan = &served.plan;
            let schemas = json!({ "request": request_schema(plan), "response": response_schema(plan) });
            axum::Json(schemas).into_response()
        }
        None => {
            let shown: String = name.chars().take(64).collect();
            let text = format!("there is no route {shown:?}; GET /halny/v1/routes lists those there are");
            ApiError::new(Fault::Missing, text).respond(Shape::OpenAi)
        }
    }
}

/// `GET /openapi.json`: the OpenAPI document of the project's routes.
pub(crate) async fn openapi(State(shared): State<Shared>) -> Response {
    let document = shared.routes.table.load().openapi.clone();
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], document).into_response()
}
