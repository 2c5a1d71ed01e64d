//! What is told of features: read from them whenever metrics are asked for, kept nowhere.

use std::fmt::{self, Debug};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What happened to features since they were opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureSample {
    /// Values that were served online, by status.
    pub values: Vec<(&'static str, u64)>,
    /// Rows that were pushed.
    pub pushed_rows: u64,
    /// Rows of files that were read to be served.
    pub materialised_rows: u64,
    /// Served rows that were logged.
    pub logged_rows: u64,
    /// Served rows that should have been, when too many waited.
    pub unlogged_rows: u64,
    /// Values of on-demand features that could not be computed.
    pub failed_values: u64,
    /// Pushed rows that are in no Parquet file yet.
    pub waiting_rows: u64,
}

/// Whoever knows the features.
pub trait FeatureValues: Send + Sync + 'static {
    /// How they stand now.
    fn sample(&self) -> FeatureSample;
}

/// Tells of features.
pub(crate) struct Watch<T>(pub(crate) T);

impl<T> Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl<T: FeatureValues> Collector for Watch<T> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sample = self.0.sample();
        let help = "Values of features that were served online, by status";
        let mut family = encoder.encode_descriptor("feature_values", help, None, MetricType::Counter)?;
        for (status, count) in &sample.values {
            ConstCounter::new(*count).encode(family.encode_family(&[("status", *status)])?)?;
        }
        let counters = [
            ("feature_pushed_rows", "Rows that were pushed", sample.pushed_rows),
            ("feature_materialised_rows", "Rows of files that were read to be served", sample.materialised_rows),
            ("feature_logged_rows", "Served rows that were logged", sample.logged_rows),
            ("feature_unlogged_rows", "Served rows that were not logged since too many waited", sample.unlogged_rows),
            ("feature_failed_values", "On-demand values that could not be computed", sample.failed_values),
        ];
        for (name, help, count) in counters {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let help = "Pushed rows that are in no Parquet file yet";
        let gauge = ConstGauge::new(sample.waiting_rows as f64);
        gauge.encode(encoder.encode_descriptor("feature_waiting_rows", help, None, MetricType::Gauge)?)
    }
}
