//! Moments, and the one rule that says whether a row may be served.

use std::time::{SystemTime, UNIX_EPOCH};

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

    /// Eight bytes whose order is the order of the moments.
    pub(crate) fn ordered(self) -> [u8; 8] {
        (self.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
    }

    pub(crate) fn from_ordered(bytes: [u8; 8]) -> Moment {
        Moment((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed())
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

    proptest! {
        #[test]
        fn bytes_are_ordered_as_moments_are(a: i64, b: i64) {
            prop_assert_eq!(Moment(a).ordered().cmp(&Moment(b).ordered()), a.cmp(&b));
            prop_assert_eq!(Moment::from_ordered(Moment(a).ordered()), Moment(a));
        }
    }
}
