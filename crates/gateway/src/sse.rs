//! Answers as server-sent events (WHATWG HTML, "Server-sent events"), as fast as they are written.
//!
//! What is there at once goes out at once: one write for all events that are ready. When nothing was
//! said for a while a comment is sent, so that proxies do not take the connection for dead.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{FutureExt, stream};
use halny_generation::refusal::GenerationError;
use halny_generation::request::{Finished, Written};
use http::header;
use serde::Serialize;

use crate::ApiError;
use crate::writing::Answers;

/// A comment is sent after this much silence.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Events that go out in one write at most.
pub(crate) const TOGETHER_MAX: usize = 64;

/// Events on their way out.
#[derive(Debug, Default)]
pub(crate) struct Events(String);

impl Events {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What goes out.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from(self.0)
    }

    /// An event without a name.
    pub(crate) fn data(&mut self, data: &impl Serialize) {
        // What is written has string keys and no maps that refuse to be; writing into a string cannot fail.
        let json = serde_json::to_string(data).unwrap_or_default();
        let _ = write!(self.0, "data: {json}\n\n");
    }

    /// An event with a name.
    pub(crate) fn named(&mut self, name: &str, data: &impl Serialize) {
        let _ = writeln!(self.0, "event: {name}");
        self.data(data);
    }

    /// `data: [DONE]`, as OpenAI ends a stream.
    pub(crate) fn done(&mut self) {
        self.0.push_str("data: [DONE]\n\n");
    }
}

/// How a protocol tells what happens.
pub(crate) trait Teller: Send + 'static {
    /// Before anything is written.
    fn open(&mut self, answers: &Answers, events: &mut Events);
    /// More text of an answer.
    fn text(&mut self, answer: usize, text: String, written: &[Written], events: &mut Events);
    /// An answer has ended.
    fn finished(&mut self, answer: usize, finished: &Finished, events: &mut Events);
    /// All answers have ended.
    fn close(&mut self, events: &mut Events);
    /// Something broke; nothing comes after it.
    fn failed(&mut self, error: &ApiError, events: &mut Events);
}

struct Stream<T> {
    answers: Option<Answers>,
    teller: T,
    opened: bool,
}

/// The response whose body tells the answers as they are written.
pub(crate) fn respond<T: Teller>(answers: Answers, teller: T) -> Response {
    let stream = Stream { answers: Some(answers), teller, opened: false };
    let body = stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), stream))
    });
    response(body)
}

/// A response whose body is events.
pub(crate) fn response<S>(body: S) -> Response
where
    S: futures::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static,
{
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies that collect answers before they pass them on (nginx) are asked not to.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(body)).into_response()
}

impl<T: Teller> Stream<T> {
    async fn next(&mut self) -> Option<Bytes> {
        let mut events = Events::default();
        if !self.opened {
            self.opened = true;
            self.teller.open(self.answers.as_ref()?, &mut events);
            if !events.0.is_empty() {
                return Some(Bytes::from(events.0));
            }
        }
        // Until there is something to send: text may be held back.
        while events.0.is_empty() {
            let answers = self.answers.as_mut()?;
            match tokio::time::timeout(KEEP_ALIVE, answers.next()).await {
                Err(_silence) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                Ok(event) => self.tell(event, &mut events),
            }
            for _ in 1..TOGETHER_MAX {
                let Some(answers) = self.answers.as_mut() else { break };
                let Some(event) = answers.next().now_or_never() else { break };
                self.tell(event, &mut events);
            }
        }
        Some(Bytes::from(events.0))
    }

    fn tell(
        &mut self,
        event: Option<(usize, Result<halny_generation::request::Event, GenerationError>)>,
        events: &mut Events,
    ) {
        use halny_generation::request::Event;
        match event {
            Some((answer, Ok(Event::Text { text, written }))) => self.teller.text(answer, text, &written, events),
            Some((answer, Ok(Event::Finished(finished)))) => self.teller.finished(answer, &finished, events),
            Some((_, Err(error))) => {
                self.teller.failed(&ApiError::from(error), events);
                self.answers = None;
            }
            None => {
                self.teller.close(events);
                self.answers = None;
            }
        }
    }
}
