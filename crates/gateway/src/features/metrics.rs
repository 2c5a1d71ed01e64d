//! The features, as metrics tell of them.

use halny_features::{Features, Status};
use halny_telemetry::{FeatureSample, FeatureValues};

use crate::Shared;

struct Watched(Features);

/// Has the server's metrics tell of its features.
pub fn watch_features(shared: &Shared) {
    if let Some(features) = &shared.features {
        shared.metrics.watch_features(Watched(features.clone()));
    }
}

impl FeatureValues for Watched {
    fn sample(&self) -> FeatureSample {
        let counts = self.0.counts();
        FeatureSample {
            values: Status::ALL.iter().zip(counts.values).map(|(status, count)| (status.as_str(), count)).collect(),
            pushed_rows: counts.pushed,
            materialised_rows: counts.materialised,
            logged_rows: counts.logged,
            unlogged_rows: counts.log_dropped,
            failed_values: counts.on_demand_failed,
            waiting_rows: counts.journalled,
        }
    }
}
