//! The door: counts requests in and out, names them, and refuses what is over the limit.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use halny_telemetry::GatewayMetrics;
use halny_types::{Fault, RequestId, Tick};
use http::{HeaderValue, Method, header};
use http_body::{Frame, SizeHint};

use crate::error::Shape;
use crate::features::HISTORICAL;
use crate::incoming::{BodyLimits, GRACE, Held, Incoming, Room};
use crate::openai::files::FILE_BYTES_MAX;
use crate::{ApiError, LiveLimits, body};

/// The header that names a request; taken from the client where it is harmless, made otherwise.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The longest request id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The door of one port. Cloning shares it.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    in_flight: AtomicUsize,
    /// How long requests have lately been inside, in the mean.
    mean_micros: AtomicU64,
    bodies: Room,
    /// Of bodies that are on disk.
    on_disk: Room,
    limits: LiveLimits,
    metrics: GatewayMetrics,
}

/// The time that an upload has in all; it has to come at a pace, as every body.
const FILE_PATIENCE: Duration = Duration::from_secs(3_600);
/// Where files are uploaded to.
const FILES: &str = "/v1/files";
/// What a form says beside its file.
const FORM_BYTES: usize = 64 * 1024;

/// When a request's head was complete: an extension of every request behind the door.
#[derive(Clone, Copy, Debug)]
pub struct Arrived(pub Tick);

/// What a request is called: an extension of every request behind the door, and a header of its answer.
#[derive(Clone, Debug)]
pub struct Called(pub HeaderValue);

/// What metrics know an answer's route by, where the router does not: an extension of the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label(pub(crate) &'static str);

impl Door {
    /// A door that lets as many requests in at once as the limits say.
    #[must_use]
    pub fn new(limits: LiveLimits, metrics: GatewayMetrics) -> Door {
        let (in_flight, mean_micros) = (AtomicUsize::new(0), AtomicU64::new(0));
        let (bodies, on_disk) = (Room::default(), Room::default());
        Door(Arc::new(Inner { in_flight, mean_micros, bodies, on_disk, limits, metrics }))
    }

    fn enter(&self, arrived: Tick, path: &str) -> Inside {
        let before = self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        self.0.metrics.in_flight().inc();
        let has_place = before < self.0.limits.now().max_concurrent_requests;
        let held = match path {
            // A file goes to its place as it comes: it takes no room from bodies in memory.
            FILES => Room::default().held(),
            HISTORICAL => self.0.on_disk.held(),
            _ => self.0.bodies.held(),
        };
        Inside { door: self.clone(), arrived, has_place, held }
    }

    /// The limits of a body that is sent to this path.
    fn body_limits(&self, path: &str) -> BodyLimits {
        let now = self.0.limits.now();
        let (one_bytes, all_bytes, patience) = match path {
            FILES => (FILE_BYTES_MAX + FORM_BYTES, usize::MAX, now.body_timeout.max(FILE_PATIENCE)),
            HISTORICAL => return BodyLimits::on_disk(),
            _ => (now.max_body_bytes, now.max_bodies_bytes, now.body_timeout),
        };
        BodyLimits { one_bytes, all_bytes, grace: GRACE, patience }
    }

    /// What to tell a request that finds no place: one becomes free, in the mean, when the requests
    /// inside have been inside for as long as requests are.
    fn full(&self) -> ApiError {
        let mean = Duration::from_micros(self.0.mean_micros.load(Ordering::Relaxed));
        let limit = self.0.limits.now().max_concurrent_requests;
        ApiError::new(Fault::Overload, format!("{limit} requests are being worked on, no more are taken; try again"))
            .retry_after(mean.max(Duration::from_millis(1)))
    }
}

/// A request that is inside until its answer has been taken from us, or its client has gone.
struct Inside {
    door: Door,
    arrived: Tick,
    has_place: bool,
    held: Arc<Held>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let door = &self.door.0;
        door.in_flight.fetch_sub(1, Ordering::Relaxed);
        door.metrics.in_flight().dec();
        if self.has_place {
            let took = u64::try_from(self.arrived.until(Tick::now()).as_micros()).unwrap_or(u64::MAX);
            let mean = door.mean_micros.load(Ordering::Relaxed);
            // One of several writers wins; a mean does not mind.
            door.mean_micros.store(mean - mean / 16 + took / 16, Ordering::Relaxed);
        }
    }
}

/// The middleware of a port.
pub async fn admit(State(door): State<Door>, path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let arrived = Tick::now();
    // Health and metrics are asked for when it matters most: under overload. What asks a database is no such thing.
    let asks_store = [FILES, "/v1/batches"].iter().any(|path| request.uri().path().starts_with(path));
    let exempt = [Method::GET, Method::HEAD].contains(request.method()) && !asks_store;
    let inside = door.enter(arrived, request.uri().path());
    let shape = shape_of(request.uri().path());
    let id = request_id(&request);
    let mut response = if inside.has_place || exempt {
        let mut request = wrapped(request, &door, &inside);
        request.extensions_mut().insert(Arrived(arrived));
        request.extensions_mut().insert(Called(id.clone()));
        next.run(request).await
    } else {
        let refused = door.full().respond(shape);
        // The little that a request of usual size has sent by now: its sender sees the answer then.
        body::discard_what_is_there(request.into_body()).await;
        refused
    };
    response.headers_mut().insert(REQUEST_ID_HEADER, id);
    let own = response.extensions().get::<Label>().map_or("unmatched", |label| label.0);
    let route = path.as_ref().map_or(own, |path| route_label(path.as_str()));
    door.0.metrics.answered(route, response.status().as_u16(), arrived.until(Tick::now()));
    response.map(|body| Body::new(Outgoing { body, rest: Bytes::new(), _inside: inside }))
}

/// The request, its body bounded in time and memory.
fn wrapped(request: Request, door: &Door, inside: &Inside) -> Request {
    if http_body::Body::is_end_stream(request.body()) {
        return request;
    }
    let limits = door.body_limits(request.uri().path());
    request.map(|body| Body::new(Incoming::new(body, Arc::clone(&inside.held), limits)))
}

/// An answer goes out in pieces of this size: what is below takes a piece whole, however little its
/// client takes, and lets go of the body with the last.
const PIECE_BYTES: usize = 32 * 1024;

/// An answer's body. Its request is inside as long as there is a piece left to take.
struct Outgoing {
    body: Body,
    rest: Bytes,
    _inside: Inside,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
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
    } else if path.starts_with("/collections") || path.starts_with("/aliases") {
        Shape::Qdrant
    } else if crate::feast::LABELS.contains(&path) {
        Shape::Feast
    } else {
        Shape::OpenAi
    }
}

/// A route's label: one of the patterns the router knows, so that clients cannot invent series.
fn route_label(path: &str) -> &'static str {
    crate::routes::labels().find(|label| *label == path).unwrap_or("other")
}
