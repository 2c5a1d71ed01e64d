//! HTTP/2 connections, and when they have had their time.
//!
//! One connection carries many requests, so that neither a quiet socket nor a busy one says whether
//! its client still takes part: it may answer pings for ever and ask for nothing, or ask, and open
//! its windows to nothing. Both hold what others could use.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::connection::Rewound;
use crate::server::{HEAD_BYTES_MAX, until};

/// Streams one connection may have open: what RFC 9113 advises at least, and twice that.
const STREAMS_MAX: u32 = 200;

/// Streams that a client may open and reset before the server has seen them; past that the
/// connection is closed (the rapid reset of CVE-2023-44487).
const RESETS_MAX: usize = 50;

/// A connection without a request is asked to end after so long. Clients open another when they
/// need one.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// Serves a connection until it ends, has been idle for long, its client takes nothing of an
/// answer for `write_patience`, or `closing` is done.
pub(crate) async fn serve(
    io: TokioIo<Rewound>,
    router: Router,
    patience: Duration,
    write_patience: Duration,
    closing: CancellationToken,
) {
    let streams = Arc::new(Streams::default());
    let seen = Arc::clone(&streams);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (router, stream) = (router.clone(), Stream::open(&seen));
        async move {
            let response: Response = match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            stream.moved();
            Ok::<_, Infallible>(response.map(|body| Watched { body, stream }))
        }
    });
    let connection = server(patience).serve_connection(io, service);
    let over = streams.over(IDLE_MAX, &closing).shared();
    let left_over = async {
        over.clone().await;
        streams.quiet(write_patience).await;
    };
    tokio::select! {
        () = until(over.clone(), connection) => {}
        // Asked to end, it owes no answer, and still it stays: for the last piece of one, perhaps,
        // for which its client opens no window.
        () = left_over => {}
        () = streams.stalled(write_patience) => {
            tracing::debug!("a connection is closed whose client takes nothing of its answers");
        }
    }
}

fn server(patience: Duration) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Some(patience.max(Duration::from_secs(10))))
        .keep_alive_timeout(patience);
    builder
}

/// The requests of one connection.
#[derive(Default)]
struct Streams {
    next: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    requests: usize,
    /// Answers that are being written, and when each last moved.
    written: HashMap<u64, Instant>,
    empty_since: Option<Instant>,
}

/// One request, until its answer is written or given up.
struct Stream {
    number: u64,
    streams: Arc<Streams>,
}

impl Stream {
    fn open(streams: &Arc<Streams>) -> Stream {
        streams.open.lock().requests += 1;
        Stream { number: streams.next.fetch_add(1, Ordering::Relaxed), streams: Arc::clone(streams) }
    }

    /// The client took something of the answer, or may begin to.
    fn moved(&self) {
        self.streams.open.lock().written.insert(self.number, Instant::now());
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock();
        open.requests -= 1;
        open.written.remove(&self.number);
        open.empty_since = (open.requests == 0).then(Instant::now);
    }
}

impl Streams {
    /// Done when the connection has had no request for `idle`, or `closing` is done.
    async fn over(&self, idle: Duration, closing: &CancellationToken) {
        let began = Instant::now();
        let mut due = began + idle;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = closing.cancelled() => return,
            }
            let open = self.open.lock();
            let empty_since = if open.requests > 0 { Instant::now() } else { open.empty_since.unwrap_or(began) };
            if empty_since.elapsed() >= idle {
                return;
            }
            due = empty_since + idle;
        }
    }

    /// Done when there has been no request for `patience`.
    async fn quiet(&self, patience: Duration) {
        self.over(patience, &CancellationToken::new()).await;
    }

    /// Done when some answer has not moved for `patience`.
    async fn stalled(&self, patience: Duration) {
        let mut due = Instant::now() + patience;
        loop {
            tokio::time::sleep_until(due).await;
            let oldest = self.open.lock().written.values().min().copied().unwrap_or_else(Instant::now);
            if oldest.elapsed() >= patience {
                return;
            }
            due = oldest + patience;
        }
    }
}

/// An answer's body, which is taken as the client's windows allow.
struct Watched {
    body: Body,
    stream: Stream,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.stream.moved();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_connection_is_over_when_it_has_been_without_a_request_for_long() {
        let (streams, closing) = (Arc::new(Streams::default()), CancellationToken::new());
        let stream = Stream::open(&streams);
        let over = streams.over(SOON, &closing);
        tokio::pin!(over);
        assert!(tokio::time::timeout(SOON * 5, over.as_mut()).await.is_err(), "a request is at work");
        drop(stream);
        over.await;
        let idle = streams.over(NEVER, &closing);
        closing.cancel();
        idle.await;
    }

    #[tokio::test]
    async fn an_answer_nobody_takes_ends_the_connection_however_busy_others_are() {
        let streams = Arc::new(Streams::default());
        let (computing, stuck, moving) = (Stream::open(&streams), Stream::open(&streams), Stream::open(&streams));
        stuck.moved();
        let keep_moving = async {
            loop {
                moving.moved();
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = streams.stalled(SOON) => {}
            () = keep_moving => {}
        }
        drop(stuck);
        moving.moved();
        drop(moving);
        assert!(tokio::time::timeout(SOON * 5, streams.stalled(SOON)).await.is_err(), "one computes, none is stuck");
        drop(computing);
    }
}
