//! A connection below HTTP: which version it speaks, whether it says anything at all, and whether
//! it takes what it asked for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// What an HTTP/2 connection without TLS begins with (RFC 9113, section 3.4); no HTTP/1.1 method
/// begins so.
const HTTP2_BEGINS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The version a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge, as gRPC uses it.
    Http2,
}

/// A stream whose first bytes were read already and are read again, and whose client has to take
/// what is written: one that stands still breaks off with [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
pub struct Rewound {
    first: [u8; HTTP2_BEGINS.len()],
    read: usize,
    given: usize,
    stream: TcpStream,
    /// How long the client may take nothing while there is something for it.
    patience: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Waits for the first bytes, `patience` long, and tells the version. `write_patience` is how long
/// the client may later stand still while something is written to it.
///
/// # Errors
/// When the client says nothing in time, or has gone.
pub async fn recognise(
    stream: TcpStream,
    patience: Duration,
    write_patience: Duration,
) -> io::Result<(Version, Rewound)> {
    let first = [0; HTTP2_BEGINS.len()];
    let mut rewound = Rewound { first, read: 0, given: 0, stream, patience: write_patience, alarm: None };
    let version = tokio::time::timeout(patience, rewound.version()).await??;
    Ok((version, rewound))
}

impl Rewound {
    async fn version(&mut self) -> io::Result<Version> {
        loop {
            let so_far = self.first.get(..self.read).unwrap_or_default();
            if !HTTP2_BEGINS.starts_with(so_far) {
                return Ok(Version::Http1);
            }
            if self.read == HTTP2_BEGINS.len() {
                return Ok(Version::Http2);
            }
            let rest = self.first.get_mut(self.read..).unwrap_or_default();
            match self.stream.read(rest).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.read += count,
            }
        }
    }
}

impl Rewound {
    /// Lets what was written through; sets an alarm where nothing could be, and breaks off when it
    /// rings.
    fn watched<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.alarm = None;
            return written;
        }
        let patience = self.patience;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        alarm.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < self.read {
            let count = (self.read - self.given).min(buffer.remaining());
            let given = self.given;
            buffer.put_slice(self.first.get(given..given + count).unwrap_or_default());
            self.given += count;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
