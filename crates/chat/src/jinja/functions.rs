//! Functions that a template finds in its environment, and what was passed to a call.

use std::time::{SystemTime, UNIX_EPOCH};

use super::budget::Stop;
use super::run::{Passed, Run};
use super::value::{Items, Map, Value};

/// The functions there are.
pub(crate) const NAMES: [&str; 5] = ["range", "namespace", "dict", "raise_exception", "strftime_now"];

impl Passed {
    /// The arguments by the names of their parameters.
    pub(crate) fn read<const N: usize>(self, what: &str, names: [&str; N]) -> Result<[Option<Value>; N], Stop> {
        if self.positional.len() > N {
            return Err(Stop::wrong(format!(
                "`{what}` takes at most {N} arguments, {} are given",
                self.positional.len()
            )));
        }
        let mut found = [const { None }; N];
        for (place, value) in found.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (given, value) in self.named {
            match names.iter().position(|name| *name == given.as_str()) {
                Some(place) => found[place] = Some(value),
                None => {
                    let given = super::shortened(given.as_str(), 40);
                    return Err(Stop::wrong(format!("`{what}` has no parameter `{given}`")));
                }
            }
        }
        Ok(found)
    }
}

/// The integer that was passed, or another.
pub(crate) fn integer_or(value: Option<Value>, otherwise: i64) -> Result<i64, Stop> {
    match value {
        None => Ok(otherwise),
        Some(value) => {
            value.integer().ok_or_else(|| Stop::wrong(format!("an integer is needed, not {}", value.kind())))
        }
    }
}

/// The count that was passed, or another; negative ones are 0.
pub(crate) fn count_or(value: Option<Value>, otherwise: i64) -> Result<usize, Stop> {
    Ok(usize::try_from(integer_or(value, otherwise)?.max(0)).unwrap_or(usize::MAX))
}

pub(crate) fn call(run: &mut Run<'_>, name: &str, passed: Passed) -> Result<Value, Stop> {
    match name {
        "range" => range(run, passed),
        "namespace" | "dict" => {
            let mut entries = Vec::new();
            match passed.positional.as_slice() {
                [] => {}
                [Value::Map(map)] => {
                    run.budget.spend(map.entries.len() as u64)?;
                    entries.extend(map.entries.iter().cloned());
                }
                _ => return Err(Stop::wrong(format!("`{name}` takes one map and names"))),
            }
            entries.extend(passed.named.into_iter().map(|(name, value)| (Value::Text(name), value)));
            if name == "dict" {
                return Map::make(&run.budget, entries);
            }
            let number = run.new_namespace()?;
            for (key, value) in entries {
                if let Value::Text(key) = key {
                    run.set_attribute(number, key, value)?;
                }
            }
            Ok(Value::Namespace(number))
        }
        "raise_exception" => {
            let [message] = passed.read(name, ["message"])?;
            let message = message.unwrap_or(Value::Undefined).to_text(&run.budget)?;
            Err(Stop::Raised(super::shortened(message.as_str(), super::RAISED_CHARACTERS_MAX)))
        }
        "strftime_now" => {
            let [format] = passed.read(name, ["format"])?;
            let format = format.unwrap_or(Value::Undefined).to_text(&run.budget)?;
            let mut draft = super::draft::Draft::new(&run.budget)?;
            strftime(format.as_str(), run.now, |piece| draft.push(piece))?;
            Ok(draft.value())
        }
        _ => Err(Stop::wrong(format!("there is no function `{name}`"))),
    }
}

fn range(run: &mut Run<'_>, passed: Passed) -> Result<Value, Stop> {
    let [first, second, step] = passed.read("range", ["start", "stop", "step"])?;
    let (from, to) = match second {
        Some(to) => (integer_or(first, 0)?, integer_or(Some(to), 0)?),
        None => (0, integer_or(first, 0)?),
    };
    let step = integer_or(step, 1)?;
    if step == 0 {
        return Err(Stop::wrong("the step of `range` is not zero"));
    }
    let span = if step > 0 { i128::from(to) - i128::from(from) } else { i128::from(from) - i128::from(to) };
    let stride = i128::from(step.unsigned_abs());
    let count = (span.max(0) + stride - 1) / stride;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut items = Items::new(&run.budget)?;
    items.reserve(count)?;
    items.extend((0..count as i64).map(|number| Value::Int(from + number * step)))?;
    items.list()
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Writes a time as C's `strftime` does, in UTC; what it does not know stays as it is.
fn strftime(format: &str, now: SystemTime, mut write: impl FnMut(&str) -> Result<(), Stop>) -> Result<(), Stop> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day, year_day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let hour_of_12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let month_name = MONTHS[(month as usize - 1) % 12];
    let day_name = DAYS[(days % 7) as usize];
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        write(&rest[..at])?;
        rest = &rest[at + 1..];
        let bare = rest.starts_with('-');
        let letter = rest[usize::from(bare)..].chars().next().unwrap_or('%');
        let padded = |number: u64, width: usize| if bare { number.to_string() } else { format!("{number:0width$}") };
        let piece = match letter {
            'Y' => year.to_string(),
            'y' => padded(year % 100, 2),
            'm' => padded(month, 2),
            'd' => padded(day, 2),
            'e' => format!("{day:2}"),
            'j' => padded(year_day, 3),
            'H' => padded(hour, 2),
            'I' => padded(hour_of_12, 2),
            'M' => padded(minute, 2),
            'S' => padded(second, 2),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'B' => month_name.to_owned(),
            'b' | 'h' => month_name[..3].to_owned(),
            'A' => day_name.to_owned(),
            'a' => day_name[..3].to_owned(),
            'F' => format!("{year}-{month:02}-{day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        };
        write(&piece)?;
        rest = rest[usize::from(bare)..].strip_prefix(letter).unwrap_or("");
    }
    write(rest)
}

/// Year, month, day and day of the year of a day since 1970-01-01, after Howard Hinnant's
/// `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let from_march = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * from_march + 2) / 153;
    let day = from_march - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let leap = (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][(month as usize - 1) % 12];
    (year, month, day, before + day + u64::from(leap && month > 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_written_as_c_writes_it() {
        let at = |seconds: u64, format: &str| {
            let mut text = String::new();
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            strftime(format, now, |piece| {
                text.push_str(piece);
                Ok(())
            })
            .unwrap();
            text
        };
        assert_eq!(at(1_721_692_805, "%d %b %Y %H:%M:%S %A %j %-d %p %%"), "23 Jul 2024 00:00:05 Tuesday 205 23 AM %");
        assert_eq!(at(951_782_400, "%F %B %a"), "2000-02-29 February Tue");
        assert_eq!(at(1_767_225_599, "%Y-%m-%d %I:%M%p %q%"), "2025-12-31 11:59PM %q%");
        assert_eq!(at(0, "%-d/%-m %y"), "1/1 70");
    }
}
