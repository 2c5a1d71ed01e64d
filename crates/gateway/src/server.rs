//! A port: accepts connections, serves them, and stops without dropping a request.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use futures::FutureExt;
use halny_telemetry::GatewayMetrics;
use halny_types::Fault;
use http::{HeaderValue, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{Rewound, Version, recognise};
use crate::error::Shape;
use crate::{ApiError, LiveLimits, http2};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// The longest head: the request line and all headers.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Why a port could not be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("{setting} = \"{address}\" cannot be listened on: {cause}; is another server running there?")]
    Bind {
        /// The setting in the project file.
        setting: &'static str,
        /// Its value.
        address: String,
        /// What the operating system says.
        cause: io::Error,
    },
    /// The name in the address is not known.
    #[error("{setting} = \"{address}\" names no address of this machine")]
    Resolve {
        /// The setting in the project file.
        setting: &'static str,
        /// Its value.
        address: String,
    },
    /// The operator's port would be open to others.
    #[error(
        "server.admin_address = \"{address}\" can be reached from other machines, and there are no credentials yet; \
         write a loopback address such as \"127.0.0.1:8081\""
    )]
    AdminExposed {
        /// The address.
        address: SocketAddr,
    },
}

/// A port that listens and does not yet answer.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens for clients at `server.address`.
    ///
    /// # Errors
    /// [`ServeError::Resolve`] or [`ServeError::Bind`].
    pub async fn for_clients(address: &str) -> Result<Listener, ServeError> {
        Listener::bind("server.address", address).await
    }

    /// Listens for the operator at `server.admin_address`, on loopback only.
    ///
    /// # Errors
    /// As [`Listener::for_clients`], and [`ServeError::AdminExposed`].
    pub async fn for_operator(address: &str) -> Result<Listener, ServeError> {
        let listener = Listener::bind("server.admin_address", address).await?;
        if listener.address.ip().is_loopback() {
            Ok(listener)
        } else {
            Err(ServeError::AdminExposed { address: listener.address })
        }
    }

    /// The address, with the port that was free where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn bind(setting: &'static str, text: &str) -> Result<Listener, ServeError> {
        let resolve = || ServeError::Resolve { setting, address: text.to_owned() };
        let address = tokio::net::lookup_host(text).await.map_err(|_| resolve())?.next().ok_or_else(resolve)?;
        listen(address)
            .and_then(|listener| Ok(Listener { address: listener.local_addr()?, listener }))
            .map_err(|cause| ServeError::Bind { setting, address: text.to_owned(), cause })
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// How long connections stay open, once the server stops, for the next request of a client that
/// does not know it yet. Each such request is answered, and its answer closes the connection.
const LINGER: Duration = Duration::from_millis(500);

/// Answers on `listener` until `stop` is done. Then:
///
/// 1. takes what the operating system has accepted already, and listens no more;
/// 2. closes each connection with the answer to its next request, so that no request is sent into
///    a connection that is being closed;
/// 3. after [`LINGER`], closes those on which nothing happens;
/// 4. returns when every request is answered, or the drain time is over.
pub async fn serve(
    listener: Listener,
    router: Router,
    limits: LiveLimits,
    metrics: GatewayMetrics,
    stop: impl Future<Output = ()>,
) {
    let stopping = Arc::new(AtomicBool::new(false));
    let router = router.layer(from_fn_with_state(Arc::clone(&stopping), close_when_stopping));
    let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
    let port = Port { router, limits, metrics, stopping, closing, tasks };
    let room = Arc::new(Semaphore::new(port.limits.now().max_connections));
    tokio::pin!(stop);
    loop {
        // A connection over the limit waits in the operating system's queue.
        let permit = tokio::select! {
            permit = Arc::clone(&room).acquire_owned() => permit,
            () = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, _)) => port.spawn(stream, permit.ok()),
            Err(error) => {
                // Out of file descriptors, most likely: there is nothing to accept with until one
                // is given back.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    port.stopping.store(true, Ordering::Relaxed);
    // Unconstrained: a task that has done much is told by its runtime that there is nothing, and
    // those who wait would be turned away.
    while let Some(Ok((stream, _))) = tokio::task::unconstrained(listener.listener.accept()).now_or_never() {
        port.spawn(stream, None);
    }
    drop(listener);
    port.drain().await;
}

async fn close_when_stopping(State(stopping): State<Arc<AtomicBool>>, request: Request, next: Next) -> Response {
    let http1 = request.version() <= http::Version::HTTP_11;
    let mut response = next.run(request).await;
    if http1 && stopping.load(Ordering::Relaxed) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

struct Port {
    router: Router,
    limits: LiveLimits,
    metrics: GatewayMetrics,
    stopping: Arc<AtomicBool>,
    /// Done when connections are to end with the answers they owe.
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Port {
    fn spawn(&self, stream: TcpStream, permit: Option<OwnedSemaphorePermit>) {
        let connection = self.connection(stream);
        self.tasks.spawn(async move {
            connection.await;
            drop(permit);
        });
    }

    /// The life of one connection.
    fn connection(&self, stream: TcpStream) -> impl Future<Output = ()> + Send + 'static {
        let closing = self.closing.clone();
        let (patience, write_patience) = (self.limits.now().header_timeout, self.limits.now().body_timeout);
        let router = self.router.clone();
        let open = Open::count(&self.metrics);
        async move {
            let _open = open;
            // Answers are written whole: waiting for more to send with them only costs time.
            let _ = stream.set_nodelay(true);
            let recognised = tokio::select! {
                recognised = recognise(stream, patience, write_patience) => recognised,
                () = closing.cancelled() => return,
            };
            // Who says nothing, or leaves, is no news.
            let Ok((version, stream)) = recognised else { return };
            let io: TokioIo<Rewound> = TokioIo::new(stream);
            match version {
                Version::Http1 => {
                    let service = TowerToHyperService::new(router);
                    until(closing.cancelled(), http1_server(patience).serve_connection(io, service)).await;
                }
                Version::Http2 => http2::serve(io, router, patience, write_patience, closing).await,
            }
        }
    }

    async fn drain(self) {
        let patience = self.limits.now().drain_timeout;
        self.tasks.close();
        let finished = async {
            let _ = tokio::time::timeout(LINGER, self.tasks.wait()).await;
            self.closing.cancel();
            self.tasks.wait().await;
        };
        if tokio::time::timeout(patience.max(LINGER), finished).await.is_err() {
            let drain_timeout_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(drain_timeout_ms, "some requests were not done in time and are broken off");
        }
    }
}

/// Serves a connection to its end; once `close` is done, only what it has begun.
pub(crate) async fn until<C>(close: impl Future<Output = ()>, connection: C)
where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    tokio::pin!(close, connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = close => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A connection that is counted for as long as it is open.
struct Open(GatewayMetrics);

impl Open {
    fn count(metrics: &GatewayMetrics) -> Open {
        metrics.connections().inc();
        Open(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections().dec();
    }
}

fn http1_server(patience: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEAD_BYTES_MAX);
    builder
}

/// The operator's port answers only to who calls it by a loopback name, and to no page of another
/// origin: a browser on this machine would otherwise do any site's bidding (cross-site requests,
/// DNS rebinding).
pub(crate) async fn loopback_names_only(request: Request, next: Next) -> Response {
    let by_header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = by_header.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    let own = |origin: &str| origin.split_once("://").is_some_and(|(_, rest)| host == Some(rest));
    let foreign_origin = request.headers().get(header::ORIGIN).is_some_and(|origin| !origin.to_str().is_ok_and(own));
    if host.is_none_or(|host| !is_loopback_name(host)) || foreign_origin {
        let refused =
            ApiError::new(Fault::Caller, "this port answers to localhost only, and to no page of another origin");
        return refused.with_status(http::StatusCode::FORBIDDEN).respond(Shape::Oip);
    }
    next.run(request).await
}

fn is_loopback_name(host: &str) -> bool {
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_these_names_and_no_others() {
        for name in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8081", "[::1]:8081", "[::1]", "127.8.9.1:1"] {
            assert!(is_loopback_name(name), "{name}");
        }
        for name in [
            "",
            "example.com",
            "localhost.example.com:80",
            "10.0.0.1:8081",
            "[fe80::1]:80",
            "0.0.0.0",
            "127.0.0.1.example.com",
        ] {
            assert!(!is_loopback_name(name), "{name}");
        }
    }
}
