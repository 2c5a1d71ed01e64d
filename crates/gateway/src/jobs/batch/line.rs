//! One line of a batch: the request, and what is written of it.

use halny_jobs::Run;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::jobs::inner::Answer;

/// A request, as its line has it. It was checked when the batch began.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    pub(super) custom_id: String,
    pub(super) body: Box<RawValue>,
}

impl Default for Request {
    fn default() -> Request {
        Request { custom_id: String::new(), body: RawValue::NULL.to_owned() }
    }
}

impl Request {
    pub(super) fn read(text: &[u8]) -> Option<Request> {
        serde_json::from_slice(text).ok().or_else(|| Request::of_twins(text))
    }

    /// Of a line that has a key twice: the last counts.
    fn of_twins(text: &[u8]) -> Option<Request> {
        let fields: Map<String, Value> = serde_json::from_slice(text).ok()?;
        let body = RawValue::from_string(fields.get("body")?.to_string()).ok()?;
        Some(Request { custom_id: fields.get("custom_id")?.as_str()?.to_owned(), body })
    }
}

fn name(run: &Run, line: u64) -> String {
    format!("batch_req_{}_{line}", run.job().id)
}

/// The line of the output or the error file for a request that was answered.
pub(super) fn answered(run: &Run, line: u64, request: &Request, answer: &Answer) -> String {
    json!({
        "id": name(run, line),
        "custom_id": request.custom_id,
        "response": { "status_code": answer.status.as_u16(), "request_id": answer.id, "body": answer.body },
        "error": null,
    })
    .to_string()
}

/// The line of the error file for a request that was never made.
pub(super) fn given_up(run: &Run, line: u64, request: &Request, code: &str, message: &str) -> String {
    json!({
        "id": name(run, line),
        "custom_id": request.custom_id,
        "response": null,
        "error": { "code": code, "message": message },
    })
    .to_string()
}
