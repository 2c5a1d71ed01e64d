//! One kept-alive HTTP/1.1 connection, driven by the task that uses it.
//!
//! `hyper` is usually given a task of its own for each connection; every request then costs two
//! wake-ups from task to task. Here the future that waits for the answer polls the connection
//! itself, which is cheaper and leaves nothing running when a connection is dropped.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::options::limits;
use crate::recorder::Failure;

/// How much of the first unexpected answer is kept to show to the user.
const SAMPLE_BYTES_MAX: usize = 300;

/// An answer that came whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The beginning of the body, kept unless the status is a success.
    pub(crate) sample: Vec<u8>,
}

pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<TcpStream>, Full<Bytes>>,
    finished: bool,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await.map_err(|_| Failure::Connect)?;
        stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Connect)?;
        Ok(Self { sender, driver, finished: false })
    }

    /// Whether the server has left the connection open since its last answer.
    pub(crate) fn is_open(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.finished && !self.sender.is_closed()
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.finished {
            self.finished = Pin::new(&mut self.driver).poll(cx).is_ready();
        }
    }

    /// Sends `request` and reads its answer to the end.
    pub(crate) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let Self { sender, driver, finished } = self;
        let mut answer = pin!(answer(sender, request));
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            if !*finished {
                *finished = Pin::new(&mut *driver).poll(cx).is_ready();
            }
            match answer.as_mut().poll(cx) {
                // Nothing is left that could bring the answer.
                Poll::Pending if *finished => Poll::Ready(Err(Failure::Closed)),
                polled => polled,
            }
        })
        .await
    }
}

async fn answer(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Failure> {
    sender.ready().await.map_err(failure)?;
    let response = sender.send_request(request).await.map_err(failure)?;
    let status = response.status();
    let mut body = response.into_body();
    let mut length = 0;
    let mut sample = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(failure)?.into_data() else { continue };
        length += data.len();
        if length > limits::ANSWER_BYTES_MAX {
            return Err(Failure::TooLong);
        }
        if !status.is_success() && sample.len() < SAMPLE_BYTES_MAX {
            let room = SAMPLE_BYTES_MAX - sample.len();
            sample.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(Answer { status: status.as_u16(), sample })
}

fn failure(error: hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::Protocol;
    }
    let kind = error.source().and_then(|source| source.downcast_ref()).map(io::Error::kind);
    let closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
    match kind {
        _ if closed => Failure::Closed,
        Some(
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof,
        ) => Failure::Closed,
        Some(_) => Failure::Io,
        None if error.is_user() => Failure::Protocol,
        // A body cut short is told by hyper as an error with an unnamed source.
        None => Failure::Closed,
    }
}
