//! A request's body while it arrives: bounded in time, and all bodies together in bytes.
//!
//! One wrapper for every protocol, put around the body at the door. What it holds back counts from
//! the first byte until the request is answered, not until the body is read: its values live on in
//! the items that wait.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use halny_types::{Blame, Fault};
use http_body::{Frame, SizeHint};
use thiserror::Error;
use tokio::time::{Instant, Sleep};

use crate::ApiError;

/// Time a body may take at whatever pace.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// The pace after that. A client that sends a byte now and then holds a request's place for
/// [`GRACE`], not for the whole body timeout.
const BYTES_PER_SECOND_MIN: u64 = 1_024;

/// Why no more of a body is taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum BodyRefused {
    /// It took longer than a body may.
    #[error(
        "the body did not arrive within {limit_ms} ms, or came at less than {BYTES_PER_SECOND_MIN} bytes a second; \
         send it faster or in smaller requests"
    )]
    TooSlow {
        /// How long it may take.
        limit_ms: u64,
    },
    /// It is larger than one may be.
    #[error("the body is larger than {limit_bytes} bytes; send less at once")]
    TooLarge {
        /// How large it may be.
        limit_bytes: usize,
    },
    /// The bodies of all requests together fill what there is for them.
    #[error("the bodies of the requests at work fill {limit_bytes} bytes, no more are taken; try again shortly")]
    NoRoom {
        /// What there is.
        limit_bytes: usize,
    },
}

impl Blame for BodyRefused {
    fn fault(&self) -> Fault {
        match self {
            BodyRefused::TooSlow { .. } => Fault::Caller,
            BodyRefused::TooLarge { .. } => Fault::TooLarge,
            BodyRefused::NoRoom { .. } => Fault::Overload,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            BodyRefused::TooSlow { .. } | BodyRefused::TooLarge { .. } => None,
            BodyRefused::NoRoom { .. } => Some(Duration::from_secs(1)),
        }
    }
}

impl BodyRefused {
    pub(crate) fn to_error(self) -> ApiError {
        let error = ApiError::from(self);
        match self {
            BodyRefused::TooSlow { .. } => error.with_status(http::StatusCode::REQUEST_TIMEOUT),
            BodyRefused::TooLarge { .. } | BodyRefused::NoRoom { .. } => error,
        }
    }

    /// The refusal in an error of the wrapped body, if it is one.
    pub(crate) fn within(error: axum::Error) -> Result<BodyRefused, axum::BoxError> {
        error.into_inner().downcast::<BodyRefused>().map(|refused| *refused)
    }
}

/// The memory there is for the bodies of all requests. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room(Arc<AtomicUsize>);

/// What one request's body takes of it; given back on drop.
#[derive(Debug)]
pub(crate) struct Held {
    room: Room,
    bytes: AtomicUsize,
}

impl Room {
    /// Nothing taken yet.
    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::new(Held { room: self.clone(), bytes: AtomicUsize::new(0) })
    }

    #[cfg(test)]
    fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Held {
    fn take(&self, bytes: usize, limit: usize) -> bool {
        let before = self.room.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= limit;
        if fits {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            self.room.0.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn give_back(&self) {
        self.room.0.fetch_sub(self.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What a body on its way in is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Bytes of this one.
    pub(crate) one_bytes: usize,
    /// Bytes of all bodies together.
    pub(crate) all_bytes: usize,
    /// The time this one has at whatever pace: [`GRACE`].
    pub(crate) grace: Duration,
    /// The time this one has in all.
    pub(crate) patience: Duration,
}

/// The largest body that is put on disk while it comes.
const DISK_BYTES_MAX: usize = 2 << 30;
/// All such bodies together.
const DISK_ALL_BYTES_MAX: usize = 8 << 30;
/// The time that such a body has in all: it keeps its pace, and holds no memory.
const DISK_PATIENCE: Duration = Duration::from_secs(600);

impl BodyLimits {
    /// Those of a body that is put on disk while it comes, and takes no room from those in memory.
    pub(crate) fn on_disk() -> BodyLimits {
        let (one_bytes, all_bytes) = (DISK_BYTES_MAX, DISK_ALL_BYTES_MAX);
        BodyLimits { one_bytes, all_bytes, grace: GRACE, patience: DISK_PATIENCE }
    }
}

/// A body on its way in. When it has been refused for its size, the rest may still be read, to be thrown
/// away: it comes uncounted.
pub(crate) struct Incoming {
    body: Body,
    held: Arc<Held>,
    limits: BodyLimits,
    began: Option<Instant>,
    bytes: u64,
    refused: bool,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// Nothing of it has come yet.
    pub(crate) fn new(body: Body, held: Arc<Held>, limits: BodyLimits) -> Incoming {
        Incoming { body, held, limits, began: None, bytes: 0, refused: false, alarm: None }
    }

    /// Until when the next part has to come.
    fn due(&self, began: Instant) -> Instant {
        let by_pace = self.limits.grace + Duration::from_millis(self.bytes * 1_000 / BYTES_PER_SECOND_MIN);
        began + by_pace.min(self.limits.patience)
    }

    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        let began = *self.began.get_or_insert_with(Instant::now);
        let due = self.due(began);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if alarm.deadline() != due {
            alarm.as_mut().reset(due);
        }
        alarm.as_mut().poll(context).is_ready()
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(other) => return Poll::Ready(other.map(|frame| frame.map_err(Into::into))),
            // Most bodies are there with their heads: those never set an alarm.
            Poll::Pending if !self.is_late(context) => return Poll::Pending,
            Poll::Pending => {
                let limit_ms = u64::try_from(self.limits.patience.as_millis()).unwrap_or(u64::MAX);
                return Poll::Ready(Some(Err(BodyRefused::TooSlow { limit_ms }.into())));
            }
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        self.bytes += bytes as u64;
        if self.refused {
            return Poll::Ready(Some(Ok(frame)));
        }
        let BodyLimits { one_bytes, all_bytes, .. } = self.limits;
        let refused = if self.bytes > one_bytes as u64 {
            BodyRefused::TooLarge { limit_bytes: one_bytes }
        } else if self.held.take(bytes, all_bytes) {
            return Poll::Ready(Some(Ok(frame)));
        } else {
            BodyRefused::NoRoom { limit_bytes: all_bytes }
        };
        self.refused = true;
        // Others may have its room before it knows that it is refused.
        self.held.give_back();
        Poll::Ready(Some(Err(refused.into())))
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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::StreamExt;
    use http_body_util::BodyExt;

    fn pieces(count: usize, every: Duration) -> Body {
        let pieces = futures::stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(every).await;
            Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 100]))
        });
        Body::from_stream(pieces)
    }

    async fn read(body: Body, room: &Room, limit: usize, grace_ms: u64) -> Result<usize, BodyRefused> {
        let (grace, patience) = (Duration::from_millis(grace_ms), Duration::from_secs(30));
        let limits = BodyLimits { one_bytes: limit, all_bytes: limit, grace, patience };
        let incoming = Incoming::new(body, room.held(), limits);
        let whole = Body::new(incoming).collect().await;
        whole.map(|whole| whole.to_bytes().len()).map_err(|error| BodyRefused::within(error).unwrap())
    }

    #[tokio::test]
    async fn a_body_that_trickles_is_refused_when_its_grace_is_over() {
        let room = Room::default();
        assert_eq!(read(pieces(20, Duration::from_millis(5)), &room, 1 << 20, 30_000).await, Ok(2_000));
        let refused = read(pieces(1_000, Duration::from_millis(500)), &room, 1 << 20, 50).await;
        assert_eq!(refused, Err(BodyRefused::TooSlow { limit_ms: 30_000 }));
    }

    #[tokio::test]
    async fn all_bodies_together_keep_to_the_limit_and_give_back_what_they_took() {
        let room = Room::default();
        let first = room.held();
        assert!(first.take(900, 1_000));
        let refused = read(Body::from(vec![0; 200]), &room, 1_000, 500).await;
        assert_eq!(refused, Err(BodyRefused::NoRoom { limit_bytes: 1_000 }));
        assert_eq!(room.taken(), 900);
        drop(first);
        assert_eq!(read(Body::from(vec![0; 200]), &room, 1_000, 500).await, Ok(200));
        assert_eq!(room.taken(), 0);
    }

    #[tokio::test]
    async fn the_rest_of_a_body_that_is_too_large_takes_no_room() {
        let room = Room::default();
        let (grace, patience) = (Duration::from_secs(30), Duration::from_secs(30));
        let limits = BodyLimits { one_bytes: 250, all_bytes: 1_000, grace, patience };
        let mut body = Body::new(Incoming::new(pieces(30, Duration::ZERO), room.held(), limits));
        let (mut read, mut refused) = (0, Vec::new());
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => read += frame.data_ref().unwrap().len(),
                Err(error) => refused.push(BodyRefused::within(error).unwrap()),
            }
        }
        assert_eq!((read, refused), (2_900, vec![BodyRefused::TooLarge { limit_bytes: 250 }]));
    }
}
