//! Distributions of text lengths, in tokens.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use rand::Rng;

use crate::LoadError;

/// The longest text a distribution may ask for, in tokens. Draws beyond it are cut to it.
pub const LENGTH_MAX: u32 = 32_768;

/// A quantile file is small; this is a thousand times what one needs.
const QUANTILE_FILE_BYTES_MAX: u64 = 1 << 20;

/// How long texts are, in tokens.
///
/// Written `fixed:N`, `uniform:A:B`, `lognormal:MEDIAN:SIGMA`; the quantiles of real traffic are
/// read from a file with [`Lengths::from_quantile_file`].
#[derive(Debug, Clone, PartialEq)]
pub enum Lengths {
    /// Every text the same.
    Fixed(u32),
    /// Any length from the first to the second, both included.
    Uniform(u32, u32),
    /// Lognormal, as lengths of real texts mostly are.
    LogNormal {
        /// The median, in tokens.
        median: f64,
        /// The standard deviation of the natural logarithm.
        sigma: f64,
    },
    /// Points `(share of texts, length)` of the distribution, straight lines between them. Shares
    /// rise from 0 to 1.
    Quantiles(Vec<(f64, f64)>),
}

impl Lengths {
    /// Reads quantiles: one `share length` a line, shares rising from 0 to 1, lengths not falling;
    /// lines that start with `#` are comments.
    ///
    /// # Errors
    /// [`LoadError::Read`], or [`LoadError::Refused`] that names the line.
    pub fn from_quantile_file(path: &Path) -> Result<Self, LoadError> {
        let read = |source| LoadError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(QUANTILE_FILE_BYTES_MAX).read_to_string(&mut text))
            .map_err(read)?;
        Self::from_quantile_text(&text)
    }

    pub(crate) fn from_quantile_text(text: &str) -> Result<Self, LoadError> {
        let mut points = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.split_whitespace().map(str::parse::<f64>);
            let (Some(Ok(share)), Some(Ok(length)), None) = (fields.next(), fields.next(), fields.next()) else {
                return Err(LoadError::refused(
                    "a line of the quantile file",
                    format!("{line:?} (line {})", index + 1),
                    "a share between 0 and 1 and a length in tokens, such as `0.5 12`",
                ));
            };
            points.push((share, length));
        }
        let lengths = Self::Quantiles(points);
        lengths.validate()?;
        Ok(lengths)
    }

    pub(crate) fn validate(&self) -> Result<(), LoadError> {
        let bad = |allowed: String| Err(LoadError::refused("the length distribution", self.to_string(), allowed));
        let tokens = 1..=LENGTH_MAX;
        match self {
            Self::Fixed(length) if !tokens.contains(length) => {
                bad(format!("a length between 1 and {LENGTH_MAX} tokens"))
            }
            Self::Uniform(low, high) if low > high || !tokens.contains(low) || !tokens.contains(high) => {
                bad(format!("two lengths between 1 and {LENGTH_MAX} tokens, the smaller first"))
            }
            Self::LogNormal { median, sigma }
                if !(*median >= 1.0 && *median <= f64::from(LENGTH_MAX) && *sigma >= 0.0 && *sigma <= 5.0) =>
            {
                bad(format!("a median between 1 and {LENGTH_MAX} tokens and a sigma between 0 and 5"))
            }
            Self::Quantiles(points) => {
                let rising = points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
                let whole = points.first().is_some_and(|point| point.0 == 0.0)
                    && points.last().is_some_and(|point| point.0 == 1.0);
                let sane = points.iter().all(|point| point.1 >= 1.0 && point.1 <= f64::from(LENGTH_MAX));
                if rising && whole && sane && points.len() >= 2 {
                    Ok(())
                } else {
                    bad(format!("shares that rise from 0 to 1 with lengths between 1 and {LENGTH_MAX} that never fall"))
                }
            }
            _ => Ok(()),
        }
    }

    /// One length, between 1 and [`LENGTH_MAX`].
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> u32 {
        let length = match self {
            Self::Fixed(length) => return (*length).clamp(1, LENGTH_MAX),
            Self::Uniform(low, high) => return rng.random_range(*low..=*high).clamp(1, LENGTH_MAX),
            Self::LogNormal { median, sigma } => median * (sigma * standard_normal(rng)).exp(),
            Self::Quantiles(points) => at_share(points, rng.random()),
        };
        // Rounded, and cut where the tail of the lognormal goes beyond what a server reads.
        length.round().clamp(1.0, f64::from(LENGTH_MAX)) as u32
    }
}

/// Box and Muller, 1958.
fn standard_normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

fn at_share(points: &[(f64, f64)], share: f64) -> f64 {
    let after = points.partition_point(|point| point.0 < share);
    match (points.get(after.wrapping_sub(1)), points.get(after)) {
        (Some(low), Some(high)) => low.1 + (high.1 - low.1) * (share - low.0) / (high.0 - low.0),
        (None, Some(point)) | (Some(point), None) => point.1,
        (None, None) => 1.0,
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => write!(f, "fixed:{length}"),
            Self::Uniform(low, high) => write!(f, "uniform:{low}:{high}"),
            Self::LogNormal { median, sigma } => write!(f, "lognormal:{median}:{sigma}"),
            Self::Quantiles(points) => write!(f, "quantiles ({} points)", points.len()),
        }
    }
}

impl FromStr for Lengths {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        let refused = || {
            LoadError::refused(
                "the length distribution",
                format!("{text:?}"),
                "fixed:N, uniform:A:B, lognormal:MEDIAN:SIGMA or quantiles:FILE",
            )
        };
        if let Some(path) = text.strip_prefix("quantiles:") {
            return Self::from_quantile_file(Path::new(path));
        }
        let fields: Vec<&str> = text.split(':').collect();
        let whole = |field: &str| field.parse::<u32>().map_err(|_| refused());
        let real = |field: &str| field.parse::<f64>().map_err(|_| refused());
        let lengths = match fields.as_slice() {
            ["fixed", length] => Self::Fixed(whole(length)?),
            ["uniform", low, high] => Self::Uniform(whole(low)?, whole(high)?),
            ["lognormal", median, sigma] => Self::LogNormal { median: real(median)?, sigma: real(sigma)? },
            _ => return Err(refused()),
        };
        lengths.validate()?;
        Ok(lengths)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    fn any_lengths() -> impl Strategy<Value = Lengths> {
        prop_oneof![
            (1..=LENGTH_MAX).prop_map(Lengths::Fixed),
            (1..=LENGTH_MAX, 1..=LENGTH_MAX).prop_map(|(a, b)| Lengths::Uniform(a.min(b), a.max(b))),
            (1.0..32_768.0f64, 0.0..5.0f64).prop_map(|(median, sigma)| Lengths::LogNormal { median, sigma }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed_to_the_same(lengths in any_lengths()) {
            prop_assert_eq!(lengths.to_string().parse::<Lengths>().unwrap(), lengths);
        }

        #[test]
        fn no_draw_leaves_the_limits(lengths in any_lengths(), seed: u64) {
            let mut rng = StdRng::seed_from_u64(seed);
            for _ in 0..200 {
                let length = lengths.draw(&mut rng);
                prop_assert!((1..=LENGTH_MAX).contains(&length));
                if let Lengths::Uniform(low, high) = lengths {
                    prop_assert!((low..=high).contains(&length));
                }
            }
        }
    }

    #[test]
    fn half_of_the_lognormal_draws_lie_below_the_median() {
        let lengths: Lengths = "lognormal:100:0.6".parse().unwrap();
        let mut rng = StdRng::seed_from_u64(7);
        let below = (0..20_000).filter(|_| lengths.draw(&mut rng) <= 100).count();
        // 20,000 draws: three standard deviations are 212.
        assert!((9_700..=10_400).contains(&below), "{below}");
    }

    #[test]
    fn quantile_draws_follow_the_points() {
        let lengths = Lengths::from_quantile_text("# median 10\n0 1\n0.5 10\n1 1000\n").unwrap();
        let mut rng = StdRng::seed_from_u64(7);
        let below = (0..20_000).filter(|_| lengths.draw(&mut rng) <= 10).count();
        assert!((9_700..=10_400).contains(&below), "{below}");
    }

    #[test]
    fn bad_distributions_are_refused_with_what_is_allowed() {
        for text in [
            "",
            "fixed",
            "fixed:0",
            "fixed:-3",
            "fixed:99999999",
            "uniform:9:3",
            "uniform:1",
            "lognormal:nan:1",
            "lognormal:10:-1",
            "lognormal:inf:1",
            "zipf:3",
        ] {
            let error = text.parse::<Lengths>().unwrap_err().to_string();
            assert!(error.contains("it has to be"), "{text}: {error}");
        }
        for text in ["", "0 1", "0 5\n1 3", "0.5 3\n1 4", "0 1\n1 x", "0 1\n0.5 NaN\n1 3"] {
            assert!(Lengths::from_quantile_text(text).is_err(), "{text:?}");
        }
    }
}
