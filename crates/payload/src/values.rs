//! Numbers, times and words in payload values.

use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime};

/// The number that a value is ordered by: its own, or for a date and time as RFC 3339 writes it the
/// microseconds since 1970.
#[must_use]
pub fn order_value(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => micros(text).map(|micros| micros as f64),
        _ => None,
    }
}

/// Microseconds since 1970. Without a zone, UTC is meant; without a time, midnight.
pub(crate) fn micros(text: &str) -> Option<i64> {
    // What is longer is no time, and not worth parsing five times.
    if !(8..=64).contains(&text.len()) || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let with_zone = OffsetDateTime::parse(text, &Rfc3339).ok();
    let plain = || {
        let seconds =
            format_description!("[year]-[month]-[day][first [T] [ ]][hour]:[minute]:[second][optional [.[subsecond]]]");
        let minutes = format_description!("[year]-[month]-[day][first [T] [ ]][hour]:[minute]");
        let parsed = PrimitiveDateTime::parse(text, seconds).or_else(|_| PrimitiveDateTime::parse(text, minutes));
        parsed.ok().map(PrimitiveDateTime::assume_utc)
    };
    let zoned = || {
        let format = format_description!(
            "[year]-[month]-[day] [hour]:[minute]:[second][optional [.[subsecond]]][first [Z] [[offset_hour sign:mandatory]:[offset_minute]]]"
        );
        OffsetDateTime::parse(text, format).ok()
    };
    let date = || {
        let date = Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?;
        Some(date.midnight().assume_utc())
    };
    let at = with_zone.or_else(plain).or_else(zoned).or_else(date)?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000).ok()
}

/// The words of a text: runs of letters and digits, in lower case where `lowercase` says so, of the
/// lengths that count.
pub(crate) fn words<'a>(text: &'a str, options: &'a crate::TextOptions) -> impl Iterator<Item = String> + 'a {
    let whitespace = options.whitespace;
    let split = move |c: char| if whitespace { c.is_whitespace() } else { !c.is_alphanumeric() };
    let word = |word: &str| if options.lowercase { word.to_lowercase() } else { word.to_owned() };
    let counts = |word: &String| {
        let length = word.chars().count();
        length >= options.min_token_len.max(1) && length <= options.max_token_len
    };
    text.split(split).map(word).filter(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_the_forms_that_people_write() {
        let second = 1_707_389_999_000_000;
        for (text, micros_since_1970) in [
            ("2024-02-08T10:59:59Z", second),
            ("2024-02-08T10:59:59.5Z", second + 500_000),
            ("2024-02-08T11:59:59+01:00", second),
            ("2024-02-08 10:59:59", second),
            ("2024-02-08 10:59:59.250", second + 250_000),
            ("2024-02-08T10:59:59", second),
            ("2024-02-08 10:59:59+00:00", second),
            ("2024-02-08", 1_707_350_400_000_000),
        ] {
            assert_eq!(micros(text), Some(micros_since_1970), "{text}");
        }
        for bad in ["", "now", "2024", "2024-13-01", "2024-02-08T25:00:00Z", "20240208"] {
            assert_eq!(micros(bad), None, "{bad}");
        }
    }
}
