//! The answer to `/get-online-features`, written straight into its bytes: 250 features take 30 microseconds, and four
//! times as long by way of a tree of JSON.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use halny_features::{Moment, OnlineResponse, Value};
use serde_json::Value as Json;

/// A join key and its values, as they were given.
pub(super) type Key = (String, Vec<Json>);

/// What stands where there is no time.
const NO_TIME: &str = "1970-01-01T00:00:00Z";
/// Bytes of a feature in the answer, about.
const FEATURE_BYTES: usize = 160;

/// The whole answer.
pub(super) fn written(keys: &[Key], response: &OnlineResponse) -> Vec<u8> {
    let columns = response.names.len();
    let mut out = Vec::with_capacity(256 + columns * (64 + response.rows * FEATURE_BYTES));
    out.extend_from_slice(b"{\"metadata\":{\"feature_names\":[");
    let names = keys.iter().map(|(name, _)| name).chain(response.names.iter());
    separated(&mut out, names, json);
    out.extend_from_slice(b"]},\"results\":[");
    separated(&mut out, keys, |out, (_, values)| key(out, values));
    // The columns of a view stand beside each other, and a row's are of one time.
    let mut times = vec![(None, String::from(NO_TIME)); response.rows];
    for column in 0..columns {
        if column + keys.len() > 0 {
            out.push(b',');
        }
        feature(&mut out, response, column, &mut times);
    }
    out.extend_from_slice(b"]}");
    out
}

/// A join key is there, and has no time.
fn key(out: &mut Vec<u8>, values: &[Json]) {
    out.extend_from_slice(b"{\"values\":[");
    separated(out, values, json);
    out.extend_from_slice(b"],\"statuses\":[");
    separated(out, values, |out, value| {
        out.extend_from_slice(if value.is_null() { b"\"NULL_VALUE\"" } else { b"\"PRESENT\"" });
    });
    out.extend_from_slice(b"],\"event_timestamps\":[");
    separated(out, values, |out, _| quoted(out, NO_TIME));
    out.extend_from_slice(b"]}");
}

fn feature(out: &mut Vec<u8>, response: &OnlineResponse, column: usize, times: &mut [(Option<Moment>, String)]) {
    out.extend_from_slice(b"{\"values\":[");
    separated(out, 0..response.rows, |out, row| value(out, response.value(row, column)));
    out.extend_from_slice(b"],\"statuses\":[");
    separated(out, 0..response.rows, |out, row| quoted(out, response.status(row, column).as_str()));
    out.extend_from_slice(b"],\"event_timestamps\":[");
    separated(out, times.iter_mut().enumerate(), |out, (row, (known, text))| {
        let time = response.event_time(row, column);
        if time != *known {
            *known = time;
            text.clear();
            match time {
                // Writing into a `String` cannot fail.
                Some(time) => drop(write!(text, "{time}")),
                None => text.push_str(NO_TIME),
            }
        }
        quoted(out, text);
    });
    out.extend_from_slice(b"]}");
}

/// A value as Feast's client reads it.
fn value(out: &mut Vec<u8>, of: &Value) {
    match of {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Int32(number) => json(out, number),
        Value::Int64(number) => json(out, number),
        // As the double that it is: what is read from it is the same single again.
        Value::Float32(number) => float(out, f64::from(*number)),
        Value::Float64(number) => float(out, *number),
        Value::Bool(truth) => json(out, truth),
        Value::String(text) => json(out, text),
        Value::Bytes(bytes) => quoted(out, &STANDARD.encode(bytes)),
        Value::Timestamp(_) => json(out, &of.to_json()),
        // Its client cannot tell the type of an empty list, and gives up on the whole answer.
        Value::List(items) if items.is_empty() => out.extend_from_slice(b"null"),
        Value::List(items) => {
            out.push(b'[');
            separated(out, items, value);
            out.push(b']');
        }
    }
}

fn float(out: &mut Vec<u8>, number: f64) {
    if number.is_finite() {
        json(out, &number);
    } else if number.is_nan() {
        quoted(out, "NaN");
    } else {
        quoted(out, if number > 0.0 { "Infinity" } else { "-Infinity" });
    }
}

/// Text that needs no escapes.
fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn json(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Neither a `Vec` nor a scalar can fail.
    let _ = serde_json::to_writer(out, value);
}

fn separated<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut each: impl FnMut(&mut Vec<u8>, T)) {
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        each(out, item);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(one: &Value) -> String {
        let mut out = Vec::new();
        value(&mut out, one);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_what_feasts_client_can_read() {
        for (one, text) in [
            (Value::Float64(1.0), "1.0"),
            (Value::Float32(0.1), "0.10000000149011612"),
            (Value::Float64(f64::NAN), "\"NaN\""),
            (Value::Float64(f64::NEG_INFINITY), "\"-Infinity\""),
            (Value::Int64(i64::MAX), "9223372036854775807"),
            (Value::List(vec![]), "null"),
            (Value::List(vec![Value::Float32(1.5), Value::Float32(2.0)]), "[1.5,2.0]"),
            (Value::String("a\"\u{0}".to_owned()), r#""a\"\u0000""#),
            (Value::Bytes(vec![0, 255]), "\"AP8=\""),
            (Value::Timestamp(Moment::from_seconds(7)), "7"),
            (Value::Null, "null"),
        ] {
            assert_eq!(of(&one), text);
        }
    }
}
