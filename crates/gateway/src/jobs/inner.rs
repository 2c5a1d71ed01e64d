//! How a job asks this server: through its own router, as background work.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use halny_jobs::Run;
use halny_types::Tick;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use rand::Rng;
use serde_json::Value;
use tower::ServiceExt;

use crate::Shared;
use crate::admission::{Arrived, Called};
use crate::routes::surfaces;
use crate::state::{DEADLINE_HEADER, PRIORITY_HEADER};

/// The time that one request of a job has: it waits behind all that people wait for.
const DEADLINE_MS: u64 = 3_600_000;
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// However soon the server says that there will be room, others want it too.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The pauses before a request is made again that the server had no time for.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What broke on our side may break each time: it is tried so often.
const TRIES_OF_OURS: u32 = 3;

/// This server's surfaces, without their door: a job is no client that has to be kept out.
#[derive(Clone)]
pub(super) struct Inner {
    router: Router,
}

/// What the server said.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) id: String,
    pub(super) body: Value,
    /// When another try may do, where the server says so.
    again_after: Option<Duration>,
}

impl Answer {
    /// An answer to what needs no asking.
    pub(super) fn nothing() -> Answer {
        Answer { status: StatusCode::OK, id: String::new(), body: Value::Null, again_after: None }
    }
}

impl Inner {
    pub(super) fn of(shared: &Shared) -> Inner {
        Inner { router: surfaces(shared) }
    }

    /// Asks until there is an answer: what is refused since there is no time or room for it is asked again later.
    /// `None` when the job is to stop, and has no answer yet.
    pub(super) async fn ask(&self, run: &Run, method: Method, path: &str, body: &Bytes) -> Option<Answer> {
        let (mut pause, mut tries) = (PAUSE, 0);
        loop {
            let answer = self.ask_once(method.clone(), path, body.clone()).await;
            let again = match answer.status {
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => true,
                status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
                    tries += 1;
                    tries < TRIES_OF_OURS
                }
                _ => false,
            };
            if !again {
                return Some(answer);
            }
            let pause_now = answer.again_after.map_or(pause, |after| after.clamp(PAUSE_MIN, pause));
            let jittered = pause_now.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                _ = run.stopped() => return None,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn ask_once(&self, method: Method, path: &str, body: Bytes) -> Answer {
        let id = halny_types::RequestId::fresh().to_string();
        let broken = |text: &str| Answer {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            id: id.clone(),
            body: serde_json::json!({ "error": { "message": text, "type": "server_error", "param": null, "code": "internal" } }),
            again_after: None,
        };
        let Ok(called) = HeaderValue::from_str(&id) else { return broken("the request has no name") };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(DEADLINE_HEADER, DEADLINE_MS)
            .header(PRIORITY_HEADER, "background")
            .extension(Arrived(Tick::now()))
            .extension(Called(called))
            .body(Body::from(body));
        let Ok(request) = request else { return broken("the path of the request is no path") };
        let response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(error) => match error {},
        };
        let status = response.status();
        let after = response.headers().get("retry-after-ms").and_then(|after| after.to_str().ok()?.parse().ok());
        let again_after = after.map(Duration::from_millis);
        let Ok(whole) = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await else {
            return broken("the answer broke off, or is too long");
        };
        match serde_json::from_slice(&whole.to_bytes()) {
            Ok(body) => Answer { status, id, body, again_after },
            Err(_) => broken("the answer is no JSON"),
        }
    }
}
