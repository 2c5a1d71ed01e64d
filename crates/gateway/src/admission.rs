//! The door: counts requests in and out, names them, and refuses what is over the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use halny_telemetry::GatewayMetrics;
use halny_types::{Fault, RequestId, Tick};
use http::{HeaderValue, Method, header};

use crate::error::Shape;
use crate::{ApiError, LiveLimits};

/// The header that names a request; taken from the client where it is harmless, made otherwise.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The longest request id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The door of one port.
#[derive(Clone)]
pub struct Door {
    in_flight: Arc<AtomicUsize>,
    limits: LiveLimits,
    metrics: GatewayMetrics,
}

/// When a request's head was complete: an extension of every request behind the door.
#[derive(Clone, Copy, Debug)]
pub struct Arrived(pub Tick);

impl Door {
    /// A door that lets as many requests in at once as the limits say.
    #[must_use]
    pub fn new(limits: LiveLimits, metrics: GatewayMetrics) -> Door {
        Door { in_flight: Arc::default(), limits, metrics }
    }

    fn enter(&self) -> Option<Inside> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.metrics.in_flight().inc();
        let inside = Inside(self.clone());
        (before < self.limits.now().max_concurrent_requests).then_some(inside)
    }
}

/// A request that is inside; dropping it, however it ends, counts it out.
struct Inside(Door);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.in_flight().dec();
    }
}

/// The middleware of a port.
pub async fn admit(State(door): State<Door>, path: Option<MatchedPath>, mut request: Request, next: Next) -> Response {
    let arrived = Tick::now();
    // Health and metrics are asked for when it matters most: under overload.
    let exempt = request.method() == Method::GET;
    let inside = door.enter();
    let shape = shape_of(request.uri().path());
    let id = request_id(&request);
    request.extensions_mut().insert(Arrived(arrived));
    let mut response = if inside.is_none() && !exempt {
        let text = format!(
            "{} requests are being worked on, no more are taken; try again shortly",
            door.limits.now().max_concurrent_requests
        );
        ApiError::new(Fault::Overload, text).respond(shape)
    } else {
        next.run(request).await
    };
    response.headers_mut().insert(REQUEST_ID_HEADER, id);
    let route = path.as_ref().map_or("unmatched", |path| route_label(path.as_str()));
    door.metrics.answered(route, response.status().as_u16(), arrived.until(Tick::now()));
    drop(inside);
    response
}

fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID_HEADER);
    let harmless = |id: &&HeaderValue| {
        id.len() <= REQUEST_ID_BYTES_MAX
            && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(b))
    };
    given.filter(harmless).cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&RequestId::fresh().to_string()).unwrap_or(header::HeaderValue::from_static("unnamed"))
    })
}

/// The error shape that a path's clients understand.
#[must_use]
pub fn shape_of(path: &str) -> Shape {
    if path.ends_with("/rerank") {
        Shape::Rerank
    } else if path.starts_with("/v2") || path.starts_with("/inference.") {
        Shape::Oip
    } else {
        Shape::OpenAi
    }
}

/// A route's label: one of the patterns the router knows, so that clients cannot invent series.
fn route_label(path: &str) -> &'static str {
    crate::routes::LABELS.iter().find(|label| **label == path).copied().unwrap_or("other")
}
