//! What a feature's values are like over a time: what drift is told by.
//!
//! All parts can be merged and kept: counts, moments (Chan, Golub and LeVeque, 1979), a quantile sketch (DDSketch: Masson,
//! Rim and Lee, 2019) and the most frequent values (space-saving: Metwally, Agrawal and El Abbadi, 2005).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sketches_ddsketch::{Config, DDSketch};

use crate::offline::scan::Span;
use crate::{Features, FeaturesError, Moment, Value};

/// Values that are counted by name: each that makes up more than one of so many is among them.
pub const TOP_VALUES: usize = 64;
/// The longest text that is counted by name.
const TOP_BYTES_MAX: usize = 128;

/// What the values of one feature are like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FeatureStatistics {
    /// The feature.
    pub name: String,
    /// Rows.
    pub count: u64,
    /// Of them, those without a value.
    pub nulls: u64,
    /// Of numbers and moments (microseconds since 1970), and of the lengths of lists.
    pub numbers: Option<Numbers>,
    /// Of texts, whole numbers and truths, the most frequent.
    pub top: TopValues,
}

/// What numbers are like.
#[derive(Clone, Serialize, Deserialize)]
pub struct Numbers {
    /// How many there are, NaN and infinities left out.
    pub count: u64,
    /// Those that were left out.
    pub not_finite: u64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The sum of squared differences from the mean.
    squares: f64,
    /// Any quantile, to 1 % of its value.
    sketch: DDSketch,
}

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Numbers { count, not_finite, min, max, mean, .. } = self;
        write!(f, "{count} from {min} to {max}, mean {mean}, {not_finite} not finite")
    }
}

impl Default for Numbers {
    fn default() -> Numbers {
        let sketch = DDSketch::new(Config::defaults());
        Numbers { count: 0, not_finite: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, mean: 0.0, squares: 0.0, sketch }
    }
}

impl Numbers {
    fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.not_finite += 1;
            return;
        }
        self.count += 1;
        (self.min, self.max) = (self.min.min(value), self.max.max(value));
        let off = value - self.mean;
        self.mean += off / self.count as f64;
        self.squares += off * (value - self.mean);
        self.sketch.add(value);
    }

    /// The standard deviation, of the values as a sample; nothing for fewer than two.
    #[must_use]
    pub fn deviation(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.squares / (self.count - 1) as f64).max(0.0).sqrt())
    }

    /// The value below which a part of all lies, `part` from 0 to 1, to 1 % of it; nothing when there are none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        self.sketch.quantile(part).ok().flatten()
    }

    fn merge(&mut self, other: &Numbers) -> Result<(), FeaturesError> {
        let both = self.count + other.count;
        if other.count > 0 {
            let off = other.mean - self.mean;
            let part = other.count as f64 / both as f64;
            self.squares += other.squares + off * off * self.count as f64 * part;
            self.mean += off * part;
            (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
            let differ = |_| FeaturesError::Damaged("two sketches of quantiles were not made alike");
            self.sketch.merge(&other.sketch).map_err(differ)?;
        }
        self.count = both;
        self.not_finite += other.not_finite;
        Ok(())
    }
}

/// The most frequent values, counted in bounded memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TopValues(HashMap<String, (u64, u64)>);

impl TopValues {
    fn add(&mut self, value: &str, count: u64, over: u64) {
        if let Some((known, _)) = self.0.get_mut(value) {
            *known += count;
        } else if self.0.len() < TOP_VALUES {
            self.0.insert(value.to_owned(), (count, over));
        } else if let Some((least, (floor, _))) = self.0.iter().min_by(|a, b| a.1.cmp(b.1).then_with(|| a.0.cmp(b.0))) {
            // It takes the place of the least, whose count it may have had for all that is known.
            let (least, floor) = (least.clone(), *floor);
            self.0.remove(&least);
            self.0.insert(value.to_owned(), (floor + count, floor + over));
        }
    }

    /// The values with how often they came, most first, and by how much that may be too many.
    #[must_use]
    pub fn values(&self) -> Vec<(&str, u64, u64)> {
        let mut values: Vec<_> = self.0.iter().map(|(value, (count, over))| (value.as_str(), *count, *over)).collect();
        values.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        values
    }
}

impl FeatureStatistics {
    /// Those of no values.
    #[must_use]
    pub fn new(name: &str) -> FeatureStatistics {
        FeatureStatistics { name: name.to_owned(), count: 0, nulls: 0, numbers: None, top: TopValues::default() }
    }

    /// Counts a value.
    pub fn add(&mut self, value: &Value) {
        self.count += 1;
        let number = match value {
            Value::Null => {
                self.nulls += 1;
                return;
            }
            Value::Int32(value) => Some(f64::from(*value)),
            Value::Int64(value) => Some(*value as f64),
            Value::Float32(value) => Some(f64::from(*value)),
            Value::Float64(value) => Some(*value),
            Value::Timestamp(value) => Some(value.0 as f64),
            Value::List(items) => Some(items.len() as f64),
            Value::Bool(_) | Value::String(_) | Value::Bytes(_) => None,
        };
        if let Some(number) = number {
            self.numbers.get_or_insert_default().add(number);
        }
        match value {
            Value::Int32(value) => self.top.add(&value.to_string(), 1, 0),
            Value::Int64(value) => self.top.add(&value.to_string(), 1, 0),
            Value::Bool(value) => self.top.add(if *value { "true" } else { "false" }, 1, 0),
            Value::String(value) if value.len() <= TOP_BYTES_MAX => self.top.add(value, 1, 0),
            _ => {}
        }
    }

    /// Counts what another counted too, of the same feature at another time or place.
    ///
    /// # Errors
    /// When it was kept by a version that counts otherwise.
    pub fn merge(&mut self, other: &FeatureStatistics) -> Result<(), FeaturesError> {
        self.count += other.count;
        self.nulls += other.nulls;
        if let Some(numbers) = &other.numbers {
            self.numbers.get_or_insert_default().merge(numbers)?;
        }
        for (value, count, over) in other.top.values() {
            self.top.add(value, count, over);
        }
        Ok(())
    }
}

impl Features {
    /// What the values of a view's features are like, of rows from `start` to before `end`.
    ///
    /// # Errors
    /// When the view is not there, or its rows cannot be read.
    pub async fn statistics(
        &self,
        view: &str,
        start: Moment,
        end: Moment,
    ) -> Result<Vec<FeatureStatistics>, FeaturesError> {
        let view = std::sync::Arc::clone(self.definitions().view(view)?);
        let rows = self.0.rows(&view).await?;
        let runtime = tokio::runtime::Handle::current();
        let span = Span { from: start, until: end.plus(-1) };
        let work = move || {
            let mut all: Vec<_> = view.features.iter().map(|feature| FeatureStatistics::new(&feature.name)).collect();
            let wanted: Vec<usize> = (0..view.features.len()).collect();
            rows.scan(span, &wanted, &runtime, &mut |row| {
                all.iter_mut().zip(row.values).for_each(|(statistics, value)| statistics.add(value));
                Ok(())
            })?;
            Ok(all)
        };
        self.0.heavy(work).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[Option<i64>]) -> FeatureStatistics {
        let mut statistics = FeatureStatistics::new("x");
        values.iter().for_each(|value| statistics.add(&value.map_or(Value::Null, Value::Int64)));
        statistics
    }

    proptest! {
        #[test]
        fn statistics_are_those_of_the_values_however_they_are_merged(
            values in prop::collection::vec(prop::option::weighted(0.9, 1i64..1_000), 2..400),
            cut in any::<prop::sample::Index>(),
        ) {
            let (a, b) = values.split_at(cut.index(values.len()));
            let mut merged = of(a);
            // What was kept is the same when it is read again.
            let kept = serde_json::to_string(&of(b)).unwrap();
            merged.merge(&serde_json::from_str(&kept).unwrap()).unwrap();
            let mut some: Vec<f64> = values.iter().flatten().map(|value| *value as f64).collect();
            some.sort_by(f64::total_cmp);
            prop_assert_eq!(merged.count, values.len() as u64);
            prop_assert_eq!(merged.nulls, (values.len() - some.len()) as u64);
            prop_assume!(some.len() > 1);
            let numbers = merged.numbers.unwrap();
            let mean = some.iter().sum::<f64>() / some.len() as f64;
            let variance = some.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (some.len() - 1) as f64;
            prop_assert!((numbers.mean - mean).abs() < 1e-6);
            prop_assert!((numbers.deviation().unwrap() - variance.sqrt()).abs() < 1e-6);
            prop_assert_eq!((numbers.min, numbers.max), (some[0], some[some.len() - 1]));
            let median = numbers.quantile(0.5).unwrap();
            let place = (some.len() - 1) as f64 * 0.5;
            let near = [some[place.floor() as usize], some[place.ceil() as usize]];
            prop_assert!(median >= near[0] * 0.98 && median <= near[1] * 1.02, "{} of {:?}", median, near);
        }

        #[test]
        fn whatever_makes_up_a_large_part_is_among_the_top(values in prop::collection::vec(0u32..300, 100..2_000)) {
            let mut statistics = FeatureStatistics::new("x");
            for value in &values {
                statistics.add(&Value::String(if value % 10 == 0 { "often".to_owned() } else { value.to_string() }));
            }
            let often = values.iter().filter(|value| *value % 10 == 0).count() as u64;
            prop_assume!(often > (values.len() / TOP_VALUES) as u64);
            let top = statistics.top.values();
            let (_, count, over) = top.iter().find(|(value, ..)| *value == "often").unwrap();
            prop_assert!(*count >= often && count - over <= often);
            prop_assert!(top.len() <= TOP_VALUES);
        }
    }
}
