//! Reading a request's body. The door has put it under its limits.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use halny_types::Fault;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::incoming::BodyRefused;
use crate::{ApiError, Shared};

/// A body this large is parsed in the CPU pool: parsing goes at about 300 MB/s, so that 64 KiB
/// take some 200 microseconds.
pub(crate) const PARSE_INLINE_BYTES_MAX: usize = 64 * 1024;

/// Memory that is set aside for a body on the word of its `Content-Length` alone.
const TRUSTED_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a body too large that are read to let its sender see the answer.
const DISCARDED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time that is spent on it.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Bytes that are read of a request which finds no place, without waiting for one of them.
const AT_HAND_BYTES_MAX: usize = 64 * 1024;

/// The whole body.
///
/// # Errors
/// When it is larger than the limit (413), compressed (415), too slow (408), broken off, or finds
/// no room beside those of other requests (503).
pub async fn read(shared: &Shared, headers: &HeaderMap, mut body: Body) -> Result<Bytes, ApiError> {
    let limit = shared.limits.now().max_body_bytes;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let encoded = headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
    let refused = if encoded {
        let text = "compressed bodies are not accepted; send the body as it is, without Content-Encoding";
        Some(ApiError::invalid(text).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
    } else {
        announced.filter(|length| *length > limit).map(|_| BodyRefused::TooLarge { limit_bytes: limit }.to_error())
    };
    if let Some(refused) = refused {
        // Who waits for `100 Continue` has sent nothing, and needs send nothing.
        if !headers.contains_key(header::EXPECT) {
            discard(&mut body).await;
        }
        return Err(refused);
    }
    let capacity = announced.unwrap_or(0).min(TRUSTED_BYTES_MAX);
    let read = collect(&mut body, capacity).await;
    if read.as_ref().is_err_and(|error| [Fault::TooLarge, Fault::Overload].contains(&error.fault())) {
        discard(&mut body).await;
    }
    read
}

/// Reads what has arrived, without waiting for more.
pub(crate) async fn discard_what_is_there(mut body: Body) {
    let mut left = AT_HAND_BYTES_MAX;
    while left > 0
        && let Some(Some(Ok(frame))) = body.frame().now_or_never()
    {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
    }
}

/// Reads on for a while without keeping anything. A client that is still sending when its
/// connection is closed sees a broken connection, not the answer that says why.
pub(crate) async fn discard(body: &mut Body) {
    let reading = async {
        let mut left = DISCARDED_BYTES_MAX;
        while left > 0
            && let Some(frame) = body.frame().await
        {
            match frame.map_err(BodyRefused::within) {
                Ok(frame) => left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len)),
                // That it is too large is why it is thrown away: there is more of it.
                Err(Ok(BodyRefused::TooLarge { .. } | BodyRefused::NoRoom { .. })) => {}
                Err(_) => return,
            }
        }
    };
    // A client that stops sending has heard enough, or will not listen.
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

/// Why the next piece of a body did not come.
pub(crate) fn broken(error: axum::Error) -> ApiError {
    match BodyRefused::within(error) {
        Ok(refused) => refused.to_error(),
        Err(_) => ApiError::invalid("the body broke off before its end"),
    }
}

async fn collect(body: &mut Body, capacity: usize) -> Result<Bytes, ApiError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken)?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.is_empty() {
            whole.reserve(capacity.max(data.len()));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// The body as JSON.
///
/// # Errors
/// As [`read`], and when it is not JSON of the expected form.
pub async fn json<T: DeserializeOwned + Send + 'static>(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, ApiError> {
    let bytes = read(shared, headers, body).await?;
    parse(shared, bytes).await
}

/// Bytes as JSON, off the async threads when there are many.
///
/// # Errors
/// When they are not JSON of the expected form.
pub async fn parse<T: DeserializeOwned + Send + 'static>(shared: &Shared, bytes: Bytes) -> Result<T, ApiError> {
    let small = bytes.len() <= PARSE_INLINE_BYTES_MAX;
    let parsed = shared.pool.run_unless(small, move || serde_json::from_slice::<T>(&bytes)).await?;
    parsed.map_err(|error| not_expected(&error))
}

/// What to say of a body that is not the JSON it should be.
pub(crate) fn not_expected(error: &serde_json::Error) -> ApiError {
    ApiError::invalid(format!("the body is not the JSON that is expected here: {}", shortened(error)))
}

/// What the parser says, which repeats what it did not expect: its begin and its end, where it
/// names what was expected and the place.
fn shortened(error: &serde_json::Error) -> String {
    const SHOWN_CHARS: usize = 160;
    let text = error.to_string();
    let begin = text.char_indices().nth(SHOWN_CHARS).map(|(at, _)| at);
    let end = text.char_indices().nth_back(SHOWN_CHARS).map(|(at, _)| at);
    match (begin, end) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{} ... {}", text.get(..begin).unwrap_or_default(), text.get(end..).unwrap_or_default())
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incoming::{BodyLimits, GRACE, Incoming, Room};

    #[tokio::test]
    async fn a_body_announced_too_large_is_read_to_its_end_so_that_its_sender_sees_the_answer() {
        let pieces =
            futures::stream::iter((0..30).map(|_| Ok::<_, std::convert::Infallible>(Bytes::from_static(b"12345"))));
        let limits = BodyLimits { one_bytes: 12, all_bytes: 1_000, grace: GRACE, patience: GRACE };
        let mut body = Body::new(Incoming::new(Body::from_stream(pieces), Room::default().held(), limits));
        discard(&mut body).await;
        assert!(body.frame().await.is_none(), "nothing is left of it");
    }
}
