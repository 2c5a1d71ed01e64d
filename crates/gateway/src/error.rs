//! Errors, and the shape each protocol gives them.

use std::borrow::Cow;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use halny_types::{Blame, Fault};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// An error on its way to a client. Its text names what was refused, the limit and what to
/// change, and nothing of the inside.
#[derive(Clone, Debug)]
pub struct ApiError {
    fault: Fault,
    status: StatusCode,
    message: String,
    param: Option<Cow<'static, str>>,
    /// What Feast calls it.
    exception: Option<&'static str>,
    retry_after: Option<Duration>,
}

/// How a protocol writes an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
    /// `{"message": ...}` as Cohere, with Jina's `detail` beside it.
    Rerank,
    /// `{"error": "..."}` as the Open Inference Protocol v2.
    Oip,
    /// `{"status": {"error": "..."}, "time": 0.0}` as Qdrant.
    Qdrant,
    /// `{"detail": "..."}` as Feast, or the text of an object that names one of its exceptions.
    Feast,
}

/// The answer of an API of our own, or its error, which is written as OpenAI does.
pub(crate) fn respond(answer: Result<Response, ApiError>) -> Response {
    answer.unwrap_or_else(|error| error.respond(Shape::OpenAi))
}

impl ApiError {
    /// An error of this fault.
    pub fn new(fault: Fault, message: impl Into<String>) -> ApiError {
        let status = StatusCode::from_u16(fault.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        ApiError { fault, status, message: message.into(), param: None, exception: None, retry_after: None }
    }

    /// The caller sent something that will not be accepted as it is.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(Fault::Caller, message)
    }

    /// Any error that knows whose fault it is.
    pub fn from_blame(error: &dyn Blame) -> ApiError {
        ApiError { retry_after: error.retry_after(), ..ApiError::new(error.fault(), error.to_string()) }
    }

    /// The same, naming the parameter that is wrong.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> ApiError {
        self.param = Some(param.into());
        self
    }

    /// The same, by the name of the exception that Feast's client raises for it.
    #[must_use]
    pub(crate) fn with_exception(mut self, name: &'static str) -> ApiError {
        self.exception = Some(name);
        self
    }

    /// The same, naming which of several inputs it is about.
    #[must_use]
    pub fn at(mut self, place: usize) -> ApiError {
        self.message = format!("input {place}: {}", self.message);
        self
    }

    /// The same, with another HTTP status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> ApiError {
        self.status = status;
        self
    }

    /// The same, saying when another try may do.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> ApiError {
        self.retry_after = Some(after);
        self
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// What to tell the client.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// When another try may do, where that is known.
    #[must_use]
    pub fn retry_time(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The answer, in the shape of a protocol.
    #[must_use]
    pub fn respond(&self, shape: Shape) -> Response {
        let body = match shape {
            Shape::OpenAi => self.openai_body(),
            Shape::Rerank => json!({ "message": self.message, "detail": self.message }),
            Shape::Oip => json!({ "error": self.message }),
            Shape::Qdrant => json!({ "status": { "error": self.message }, "time": 0.0 }),
            Shape::Feast => match self.exception {
                Some(name) => {
                    let named = json!({ "module": "feast.errors", "class": name, "message": self.message });
                    Value::String(named.to_string())
                }
                None => json!({ "detail": self.message }),
            },
        };
        self.with_headers((self.status, axum::Json::<Value>(body)).into_response())
    }

    /// The same as OpenAI writes it, in a body or in a stream.
    pub(crate) fn openai_body(&self) -> Value {
        json!({ "error": {
            "message": self.message,
            "type": self.openai_type(),
            "param": self.param,
            "code": self.fault.as_str(),
        }})
    }

    /// The type that OpenAI's clients sort errors by.
    fn openai_type(&self) -> &'static str {
        match self.fault {
            Fault::Caller | Fault::Missing | Fault::Conflict | Fault::TooLarge | Fault::Unsupported => {
                "invalid_request_error"
            }
            Fault::Throttled => "rate_limit_error",
            Fault::Overload | Fault::Late | Fault::Ours => "server_error",
        }
    }

    fn with_headers(&self, mut response: Response) -> Response {
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up, as RFC 9110 wants; the exact time for who reads it.
            let seconds = after.as_millis().div_ceil(1_000).max(1);
            if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
            if let Ok(value) = HeaderValue::from_str(&after.as_millis().max(1).to_string()) {
                response.headers_mut().insert("retry-after-ms", value);
            }
        }
        let unread = [StatusCode::REQUEST_TIMEOUT, StatusCode::UNSUPPORTED_MEDIA_TYPE, StatusCode::PAYLOAD_TOO_LARGE];
        if unread.contains(&self.status) {
            // The rest of the body was not read: the connection cannot be used again.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The same as a gRPC status.
    #[must_use]
    pub fn to_status(&self) -> tonic::Status {
        let code = match self.fault {
            Fault::Caller => tonic::Code::InvalidArgument,
            Fault::Missing => tonic::Code::NotFound,
            Fault::Conflict => tonic::Code::AlreadyExists,
            Fault::TooLarge | Fault::Throttled => tonic::Code::ResourceExhausted,
            Fault::Overload => tonic::Code::Unavailable,
            Fault::Late => tonic::Code::DeadlineExceeded,
            Fault::Unsupported => tonic::Code::Unimplemented,
            Fault::Ours => tonic::Code::Internal,
        };
        let mut status = tonic::Status::new(code, self.message.clone());
        if let Some(after) = self.retry_after {
            status
                .metadata_mut()
                .insert("retry-after-ms", u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1).into());
        }
        status
    }
}

impl From<ApiError> for tonic::Status {
    fn from(error: ApiError) -> tonic::Status {
        error.to_status()
    }
}

impl<E: Blame> From<E> for ApiError {
    fn from(error: E) -> ApiError {
        ApiError::from_blame(&error)
    }
}
