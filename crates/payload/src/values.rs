//! Numbers, times and words in payload values.

use serde_json::Value;
use time::macros::format_description;
use time::{Date, PrimitiveDateTime, UtcOffset};

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

/// Microseconds since 1970. Without a zone, UTC is meant; without a time, midnight. Written as Qdrant takes
/// them: date and time with `T` or a space between, a zone as `Z`, `UTC`, `+01:00`, `+0100` or `+01`.
pub(crate) fn micros(text: &str) -> Option<i64> {
    let text = text.trim_start();
    // What is longer is no time, and not worth parsing.
    if !(8..=64).contains(&text.len()) || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (local, zone) = split_zone(text)?;
    let at = date_time(local)?.assume_offset(zone);
    i64::try_from(at.unix_timestamp_nanos() / 1_000).ok()
}

/// A date and time without a zone, or a date.
fn date_time(text: &str) -> Option<PrimitiveDateTime> {
    let seconds =
        format_description!("[year]-[month]-[day][first [T] [t] [ ]][hour]:[minute]:[second][optional [.[subsecond]]]");
    let minutes = format_description!("[year]-[month]-[day][first [T] [t] [ ]][hour]:[minute]");
    let date = || Some(Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?.midnight());
    PrimitiveDateTime::parse(text, seconds).or_else(|_| PrimitiveDateTime::parse(text, minutes)).ok().or_else(date)
}

/// A text in what stands before the zone, and the zone. Nothing where what looks like one is none.
fn split_zone(text: &str) -> Option<(&str, UtcOffset)> {
    let utc = ["Z", "z", " UTC"].into_iter().find_map(|zone| text.strip_suffix(zone));
    if let Some(local) = utc {
        return Some((local.trim_end(), UtcOffset::UTC));
    }
    // The date has signs of its own.
    let Some(place) = text.bytes().skip(DATE_BYTES).position(|byte| byte == b'+' || byte == b'-') else {
        return Some((text, UtcOffset::UTC));
    };
    let (local, zone) = text.split_at_checked(DATE_BYTES + place)?;
    let digits: String = zone.get(1..)?.chars().filter(|c| *c != ':').collect();
    let number = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i8>().ok();
    let (hours, minutes) = match digits.len() {
        2 => (number(0..2)?, 0),
        4 => (number(0..2)?, number(2..4)?),
        _ => return None,
    };
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    Some((local.trim_end(), UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()?))
}

/// Bytes of `2024-02-08`.
const DATE_BYTES: usize = 10;

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
            ("2024-02-08T11:59:59+0100", second),
            ("2024-02-08 11:59:59+01", second),
            ("2024-02-08 05:29:59.5 -05:30", second + 500_000),
            ("2024-02-08t10:59:59.123456789z", second + 123_456),
            ("  2024-02-08 10:59:59 UTC", second),
            ("2024-02-08T10:59Z", second - 59_000_000),
            ("2024-02-08", 1_707_350_400_000_000),
        ] {
            assert_eq!(micros(text), Some(micros_since_1970), "{text}");
        }
        for bad in [
            "",
            "now",
            "2024",
            "2024-13-01",
            "2024-02-08T25:00:00Z",
            "20240208",
            "2024-02-08T10:59:59+1",
            "2024-02-08T10:59:59+99:00",
            "2024-02-08T10:59:59+é1",
        ] {
            assert_eq!(micros(bad), None, "{bad}");
        }
    }
}
