//! What is wrong with the file of a batch, line by line.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::jobs::lines::Line;

/// The most requests of one batch, and inputs of embeddings over all of them, as OpenAI has it.
const REQUESTS_MAX: u64 = 50_000;
/// The endpoint whose inputs count.
const EMBEDDINGS: &str = "/v1/embeddings";
/// The most errors that are told.
const ERRORS_MAX: usize = 100;
/// The longest `custom_id`.
const ID_CHARS_MAX: usize = 512;

/// What is wrong with a line, as OpenAI's batches tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LineError {
    code: String,
    message: String,
    param: Option<String>,
    line: Option<u64>,
}

/// Looks lines through, one after the other.
pub(super) struct Checker<'a> {
    endpoint: &'a str,
    ids: HashSet<String>,
    model: Option<String>,
    requests: u64,
    inputs: u64,
    errors: Vec<LineError>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(endpoint: &'a str) -> Checker<'a> {
        Checker { endpoint, ids: HashSet::new(), model: None, requests: 0, inputs: 0, errors: Vec::new() }
    }

    pub(super) fn line(&mut self, line: &Line) {
        self.requests += 1;
        // More than that are not kept: memory stays within bounds, and one error says why.
        if self.requests > REQUESTS_MAX || self.errors.len() >= ERRORS_MAX {
            return;
        }
        if let Err((code, param, message)) = self.request(line) {
            let param = param.map(str::to_owned);
            self.errors.push(LineError { code: code.to_owned(), message, param, line: Some(line.number) });
        }
    }

    /// The number of requests and their model, or what is wrong.
    pub(super) fn end(mut self) -> Result<(u64, Option<String>), Vec<LineError>> {
        let whole = |code: &str, message: String| LineError { code: code.to_owned(), message, param: None, line: None };
        if self.requests == 0 {
            self.errors.push(whole("empty_file", "the file has no line; write a request on each".to_owned()));
        }
        if self.requests > REQUESTS_MAX {
            let text = format!("the file has {} requests, a batch has {REQUESTS_MAX} at most; split it", self.requests);
            self.errors.insert(0, whole("too_many_tasks", text));
        } else if self.inputs > REQUESTS_MAX {
            let text =
                format!("the requests have {} inputs, a batch has {REQUESTS_MAX} at most; split it", self.inputs);
            self.errors.insert(0, whole("too_many_tasks", text));
        }
        if self.errors.is_empty() { Ok((self.requests, self.model)) } else { Err(self.errors) }
    }

    fn request(&mut self, line: &Line) -> Result<(), (&'static str, Option<&'static str>, String)> {
        let text = line.text.as_deref();
        let text =
            text.ok_or_else(|| ("invalid_request", None, "the line is longer than a request may be".to_owned()))?;
        let request: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|_| ("invalid_json_line", None, "this line is not parseable as a JSON object".to_owned()))?;
        let missing = |name: &'static str| {
            ("missing_required_parameter", Some(name), format!("`{name}` is missing, or not of its type"))
        };
        let id = request.get("custom_id").and_then(Value::as_str).ok_or_else(|| missing("custom_id"))?;
        if id.chars().count() > ID_CHARS_MAX {
            return Err((
                "invalid_request",
                Some("custom_id"),
                format!("`custom_id` has {ID_CHARS_MAX} characters at most"),
            ));
        }
        let method = request.get("method").and_then(Value::as_str).ok_or_else(|| missing("method"))?;
        if method != "POST" {
            return Err(("invalid_method", Some("method"), "`method` has to be \"POST\"".to_owned()));
        }
        let url = request.get("url").and_then(Value::as_str).ok_or_else(|| missing("url"))?;
        if url != self.endpoint {
            let text = format!("`url` has to be the batch's endpoint, {:?}", self.endpoint);
            return Err(("url_mismatch", Some("url"), text));
        }
        let body = request.get("body").and_then(Value::as_object).ok_or_else(|| missing("body"))?;
        let model = body.get("model").and_then(Value::as_str).ok_or_else(|| missing("body.model"))?;
        if body.get("stream").is_some_and(|stream| *stream != Value::Bool(false) && !stream.is_null()) {
            let text = "an answer of a batch cannot be streamed; leave `stream` out".to_owned();
            return Err(("invalid_request", Some("body.stream"), text));
        }
        match &self.model {
            Some(first) if first != model => {
                let text = format!("all requests of a batch have one model; the first has {first:?}");
                return Err(("mismatched_model", Some("body.model"), text));
            }
            Some(_) => {}
            None => self.model = Some(model.to_owned()),
        }
        if self.endpoint == EMBEDDINGS {
            self.inputs += body.get("input").and_then(Value::as_array).map_or(1, |inputs| inputs.len() as u64);
        }
        if !self.ids.insert(id.to_owned()) {
            return Err(("duplicate_custom_id", Some("custom_id"), "another line has this `custom_id` too".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// Codes, and the lines that they are about.
    type Told = Vec<(String, Option<u64>)>;

    fn check(lines: &[&str]) -> Result<(u64, Option<String>), Told> {
        let mut checker = Checker::new("/v1/embeddings");
        for (at, text) in lines.iter().enumerate() {
            checker.line(&Line { number: at as u64 + 1, next: 0, text: Some(Bytes::copy_from_slice(text.as_bytes())) });
        }
        checker.end().map_err(|errors| errors.into_iter().map(|error| (error.code, error.line)).collect())
    }

    fn line(id: &str, model: &str) -> String {
        format!(
            r#"{{"custom_id": "{id}", "method": "POST", "url": "/v1/embeddings", "body": {{"model": "{model}", "input": "a"}}}}"#
        )
    }

    #[test]
    fn requests_are_counted_and_their_model_known() {
        assert_eq!(check(&[&line("a", "m"), &line("b", "m")]), Ok((2, Some("m".to_owned()))));
    }

    #[test]
    fn each_wrong_line_is_named_with_what_is_wrong() {
        let right = line("a", "m");
        let wrong = check(&[
            &right,
            "no json",
            "[]",
            "",
            r#"{"method": "POST", "url": "/v1/embeddings", "body": {"model": "m"}}"#,
            r#"{"custom_id": "1", "method": "GET", "url": "/v1/embeddings", "body": {"model": "m"}}"#,
            r#"{"custom_id": "2", "method": "POST", "url": "/v1/models", "body": {"model": "m"}}"#,
            r#"{"custom_id": "3", "method": "POST", "url": "/v1/embeddings", "body": {}}"#,
            r#"{"custom_id": "4", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "stream": true}}"#,
            &line("b", "other"),
            &right,
        ]);
        let codes = [
            ("invalid_json_line", 2),
            ("invalid_json_line", 3),
            ("invalid_json_line", 4),
            ("missing_required_parameter", 5),
            ("invalid_method", 6),
            ("url_mismatch", 7),
            ("missing_required_parameter", 8),
            ("invalid_request", 9),
            ("mismatched_model", 10),
            ("duplicate_custom_id", 11),
        ];
        assert_eq!(wrong, Err(codes.map(|(code, line)| (code.to_owned(), Some(line))).to_vec()));
        assert_eq!(check(&[]), Err(vec![("empty_file".to_owned(), None)]));
    }

    #[test]
    fn more_requests_than_a_batch_may_have_are_refused_whole() {
        let mut checker = Checker::new("/v1/embeddings");
        for number in 1..=REQUESTS_MAX + 1 {
            let text = Bytes::from(line(&number.to_string(), "m"));
            checker.line(&Line { number, next: 0, text: Some(text) });
        }
        assert_eq!(checker.end().unwrap_err()[0].code, "too_many_tasks");
    }
}
