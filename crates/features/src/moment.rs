//! Moments, and the one rule that says whether a row may be served.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime};

/// A moment of the calendar: microseconds since 1970, in UTC.
///
/// Not [`halny_types::Tick`]: rows carry the times of the world that they are about, and outlive this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub i64);

/// Microseconds in a second.
pub(crate) const SECOND: i64 = 1_000_000;

impl Moment {
    /// Before every other moment.
    pub const MIN: Moment = Moment(i64::MIN);
    /// After every other moment.
    pub const MAX: Moment = Moment(i64::MAX);

    /// So many seconds since 1970.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Moment {
        Moment(seconds.saturating_mul(SECOND))
    }

    /// Now, by this host's calendar.
    #[must_use]
    pub fn now() -> Moment {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// The moment so many microseconds later.
    #[must_use]
    pub const fn plus(self, micros: i64) -> Moment {
        Moment(self.0.saturating_add(micros))
    }

    /// Reads a moment as clients write it: RFC 3339, the same with a blank in place of the `T`, without a zone (then it is
    /// UTC), or a day alone.
    #[must_use]
    pub fn parse(text: &str) -> Option<Moment> {
        let plain = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second][optional [.[subsecond]]]");
        let day = format_description!("[year]-[month]-[day]");
        let text = text.replacen(' ', "T", 1);
        let at = OffsetDateTime::parse(&text, &Rfc3339)
            .or_else(|_| PrimitiveDateTime::parse(&text, &plain).map(PrimitiveDateTime::assume_utc))
            .or_else(|_| Date::parse(&text, &day).map(|day| day.midnight().assume_utc()))
            .ok()?;
        i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).ok().map(Moment)
    }

    /// Eight bytes whose order is the order of the moments.
    pub(crate) fn ordered(self) -> [u8; 8] {
        (self.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
    }

    pub(crate) fn from_ordered(bytes: [u8; 8]) -> Moment {
        Moment((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed())
    }
}

/// As RFC 3339 has it, in UTC, with a fraction where there is one. What no calendar of four digits holds is written as its
/// first or last moment.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (-62_135_596_800 * SECOND, 253_402_300_799 * SECOND);
        let micros = self.0.clamp(first, last);
        let (seconds, fraction) = (micros.div_euclid(SECOND), micros.rem_euclid(SECOND));
        let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())?;
        match fraction {
            0 => f.write_str("Z"),
            whole if whole % 1_000 == 0 => write!(f, ".{:03}Z", whole / 1_000),
            micros => write!(f, ".{micros:06}Z"),
        }
    }
}

/// What tells the time: [`Moment::now`], or a variable in tests.
pub type Clock = std::sync::Arc<dyn Fn() -> Moment + Send + Sync>;

/// How a row stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It holds.
    Holds,
    /// It is not yet known: its time is to come.
    ToCome,
    /// It held too long ago.
    Expired,
}

/// How a row of `event` stands at `now`: it holds when `event <= now` and `now - event <= ttl`, where a ttl of 0 is for
/// ever. Both the online store and the join ask this and nothing else.
#[must_use]
pub fn age(event: Moment, now: Moment, ttl_micros: i64) -> Age {
    if event > now {
        Age::ToCome
    } else if ttl_micros > 0 && now.0.checked_sub(event.0).is_none_or(|age| age > ttl_micros) {
        Age::Expired
    } else {
        Age::Holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_row_holds_from_its_time_until_its_ttl_has_passed() {
        let at = |now: i64| age(Moment(100), Moment(now), 10);
        assert_eq!([at(99), at(100), at(110), at(111)], [Age::ToCome, Age::Holds, Age::Holds, Age::Expired]);
        assert_eq!(age(Moment::MIN, Moment::MAX, 0), Age::Holds);
        assert_eq!(age(Moment::MIN, Moment::MAX, i64::MAX), Age::Expired, "an age that no number holds is too old");
    }

    #[test]
    fn times_are_read_as_clients_write_them() {
        for text in ["1970-01-01T00:00:01.5Z", "1970-01-01 00:00:01.5", "1970-01-01T01:00:01.500000+01:00"] {
            assert_eq!(Moment::parse(text), Some(Moment(1_500_000)), "{text}");
        }
        assert_eq!(Moment::parse("1970-01-02"), Some(Moment::from_seconds(86_400)));
        for text in ["yesterday", "", "1970-13-01", "1970-01-01T25:00:00"] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
    }

    #[test]
    fn moments_that_no_calendar_holds_are_written_all_the_same() {
        assert_eq!(Moment::MIN.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(Moment::MAX.to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Moment(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same_moment(micros in -62_135_596_800_000_000_i64..253_402_300_799_000_000) {
            prop_assert_eq!(Moment::parse(&Moment(micros).to_string()), Some(Moment(micros)));
        }

        #[test]
        fn bytes_are_ordered_as_moments_are(a: i64, b: i64) {
            prop_assert_eq!(Moment(a).ordered().cmp(&Moment(b).ordered()), a.cmp(&b));
            prop_assert_eq!(Moment::from_ordered(Moment(a).ordered()), Moment(a));
        }
    }
}
