//! What Halny says about itself while it runs: metrics in Prometheus' format, and logs.
//!
//! Each part of the house gets a handle with its labels already bound ([`LaneMetrics`],
//! [`GatewayMetrics`]), so that the hot path touches atomics and never looks a label up. Names
//! carry their unit (`_seconds`, `_bytes`, `_items`), after the Prometheus naming guide.
//!
//! Not the `metrics` facade: its recorder is a process-wide global, and two servers in one test
//! would count into each other.

pub mod collections;
pub mod features;
pub mod gateway;
pub mod generation;
pub mod jobs;
pub mod lane;
pub mod log;
pub mod model;
pub mod route;

use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

pub use collections::{CollectionSample, Collections, RecallSample, VectorSample};
pub use features::{FeatureSample, FeatureValues};
pub use gateway::GatewayMetrics;
pub use generation::GenerationMetrics;
pub use jobs::{JobMetrics, QueueSample};
pub use lane::{LaneLabels, LaneMetrics};
pub use log::LogFormat;
pub use model::ModelMetrics;
pub use route::{Objective, RouteFamilies, RouteMetrics, RouteOutcome};

/// Everything that is counted in one server. Cloning shares it, and costs one count: every request
/// does.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    registry: RwLock<Registry>,
    /// What goes by others' names.
    foreign: RwLock<Registry>,
    generation: generation::GenerationFamilies,
    lanes: lane::LaneFamilies,
    models: ModelMetrics,
    gateway: GatewayMetrics,
    jobs: JobMetrics,
    routes: RouteFamilies,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("halny");
        let lanes = lane::LaneFamilies::register(&mut registry);
        let models = ModelMetrics::register(&mut registry);
        let gateway = GatewayMetrics::register(&mut registry);
        let jobs = JobMetrics::register(&mut registry);
        let routes = RouteFamilies::register(&mut registry);
        let mut foreign = Registry::default();
        let generation = generation::GenerationFamilies::register(&mut registry, &mut foreign);
        let (registry, foreign) = (RwLock::new(registry), RwLock::new(foreign));
        Metrics(Arc::new(Families { registry, foreign, generation, lanes, models, gateway, jobs, routes }))
    }

    /// The handle of one lane.
    #[must_use]
    pub fn lane(&self, labels: &LaneLabels) -> LaneMetrics {
        self.0.lanes.bind(labels)
    }

    /// The handle of one language model's lane.
    #[must_use]
    pub fn generation(&self, labels: &LaneLabels) -> GenerationMetrics {
        self.0.generation.bind(labels)
    }

    /// Items that lanes of these labels have answered.
    #[must_use]
    pub fn answered(&self, labels: &LaneLabels) -> u64 {
        self.0.lanes.answered(labels)
    }

    /// A lane is gone. Its series are forgotten with the last lane of these labels, which is when
    /// this returns true: a model that is replaced has two for a while.
    pub fn forget_lane(&self, labels: &LaneLabels) -> bool {
        let last = self.0.lanes.unbind(labels);
        if last {
            self.0.lanes.forget(labels);
        }
        last
    }

    /// The handle for loading and unloading.
    #[must_use]
    pub fn models(&self) -> &ModelMetrics {
        &self.0.models
    }

    /// The handle of the gateway.
    #[must_use]
    pub fn gateway(&self) -> &GatewayMetrics {
        &self.0.gateway
    }

    /// The handle for jobs.
    #[must_use]
    pub fn jobs(&self) -> &JobMetrics {
        &self.0.jobs
    }

    /// Tells of these collections too from now on.
    pub fn watch_collections(&self, collections: impl Collections) {
        self.0.registry.write().register_collector(Box::new(collections::Watch(collections)));
    }

    /// Tells of these features too from now on.
    pub fn watch_features(&self, features: impl FeatureValues) {
        self.0.registry.write().register_collector(Box::new(features::Watch(features)));
    }

    /// What the project's own routes are counted with.
    #[must_use]
    pub fn routes(&self) -> &RouteFamilies {
        &self.0.routes
    }

    /// All metrics in the OpenMetrics text format 1.0, as `/metrics` answers.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing into a `String` cannot fail; what was written stays readable in any case.
        for registry in [&self.0.registry, &self.0.foreign] {
            let _ = encode_registry(&mut text, &registry.read());
        }
        let _ = encode_eof(&mut text);
        text
    }
}

/// The media type of [`Metrics::render`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn labels() -> LaneLabels {
        LaneLabels {
            model: "m".to_owned(),
            version: "abc".to_owned(),
            profile: "p".to_owned(),
            device: "cpu".to_owned(),
        }
    }

    #[test]
    fn a_forgotten_lane_leaves_no_series() {
        let metrics = Metrics::new();
        let lane = metrics.lane(&labels());
        lane.batch(4, 40, 10, Duration::from_millis(3));
        lane.refused("deadline", 2);
        assert!(
            metrics
                .render()
                .contains("halny_batch_items_count{model=\"m\",version=\"abc\",profile=\"p\",device=\"cpu\"} 1")
        );
        metrics.forget_lane(&labels());
        assert!(!metrics.render().contains("profile=\"p\""), "{}", metrics.render());
    }

    #[test]
    fn a_language_model_is_counted_under_both_names_and_forgotten_under_both() {
        let metrics = Metrics::new();
        let lane = metrics.generation(&labels());
        lane.first_token(Duration::from_millis(30));
        lane.stepped(20, 4, Duration::from_millis(9));
        lane.finished("stop", Duration::from_secs(1));
        let text = metrics.render();
        assert!(text.contains("halny_generation_written_tokens_total{model=\"m\""), "{text}");
        assert!(text.contains("vllm:generation_tokens_total{model_name=\"m\",engine=\"0\"} 4"), "{text}");
        assert!(text.contains("vllm:time_to_first_token_seconds_count{model_name=\"m\",engine=\"0\"} 1"), "{text}");
        assert!(text.contains("vllm:request_success_total{model_name=\"m\",engine=\"0\",finished_reason=\"stop\"} 1"));
        drop(lane);
        let text = metrics.render();
        assert!(!text.contains("\"m\""), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
    }

    #[test]
    fn collections_are_told_of_as_they_stand_when_metrics_are_asked_for() {
        struct One;
        impl Collections for One {
            fn samples(&self) -> Vec<CollectionSample> {
                let vector = VectorSample { vector: String::new(), indexed: 7, index_bytes: 70, vector_bytes: 700 };
                let recall =
                    RecallSample { vector: String::new(), filter: "must(match a)".to_owned(), queries: 3, share: 0.75 };
                let (vectors, recalls) = (vec![vector], vec![recall]);
                let sample =
                    CollectionSample { collection: "notes".to_owned(), points: 9, warm_hits: 5, ..Default::default() };
                vec![CollectionSample { vectors, recalls, ..sample }]
            }
        }
        let metrics = Metrics::new();
        metrics.watch_collections(One);
        let text = metrics.render();
        for line in [
            "halny_collection_points{collection=\"notes\"} 9",
            "halny_collection_warm_hits_total{collection=\"notes\"} 5",
            "halny_collection_index_bytes{collection=\"notes\",vector=\"\"} 70",
            "halny_collection_recall_ratio{collection=\"notes\",vector=\"\",filter=\"must(match a)\"} 0.75",
            "halny_collection_recall_queries_total{collection=\"notes\",vector=\"\",filter=\"must(match a)\"} 3",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[test]
    fn features_are_told_of_as_they_stand_when_metrics_are_asked_for() {
        struct Some;
        impl FeatureValues for Some {
            fn sample(&self) -> FeatureSample {
                let values = vec![("PRESENT", 7), ("NOT_FOUND", 1)];
                FeatureSample { values, pushed_rows: 5, waiting_rows: 2, ..FeatureSample::default() }
            }
        }
        let metrics = Metrics::new();
        metrics.watch_features(Some);
        let text = metrics.render();
        for line in [
            "halny_feature_values_total{status=\"PRESENT\"} 7",
            "halny_feature_pushed_rows_total 5",
            "halny_feature_waiting_rows 2.0",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_route_counts_promises_kept_and_broken_and_leaves_no_series_when_it_goes() {
        let metrics = Metrics::new();
        let objective = Objective { latency: Duration::from_millis(10), quantile: 0.9, errors: 0.01 };
        let route = metrics.routes().bind("ask", &["hits"], Some(objective));
        let (short, long) = (Duration::from_millis(10), Duration::from_millis(11));
        route.ended(RouteOutcome::Answered, long, short);
        route.ended(RouteOutcome::Answered, long, long);
        route.ended(RouteOutcome::Failed("overloaded"), long, long);
        route.ended(RouteOutcome::Refused("invalid_request"), short, short);
        route.ended(RouteOutcome::Cancelled, short, short);
        route.step("hits", short);
        route.fell_back("hits");
        let text = metrics.render();
        for line in [
            "halny_route_requests_total{route=\"ask\",outcome=\"ok\"} 2",
            "halny_route_requests_total{route=\"ask\",outcome=\"cancelled\"} 1",
            "halny_route_duration_seconds_count{route=\"ask\"} 2",
            "halny_route_step_duration_seconds_count{route=\"ask\",step=\"hits\"} 1",
            "halny_route_fallbacks_total{route=\"ask\",step=\"hits\"} 1",
            "halny_route_slo_requests_total{route=\"ask\",objective=\"latency\",event=\"good\"} 1",
            "halny_route_slo_requests_total{route=\"ask\",objective=\"latency\",event=\"bad\"} 1",
            "halny_route_slo_requests_total{route=\"ask\",objective=\"errors\",event=\"good\"} 2",
            "halny_route_slo_requests_total{route=\"ask\",objective=\"errors\",event=\"bad\"} 1",
            "halny_route_slo_objective_ratio{route=\"ask\",objective=\"errors\"} 0.99",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
        }
        let changed = metrics.routes().bind("ask", &["other"], None);
        route.forget_but(&changed);
        let text = metrics.render();
        assert!(text.contains("halny_route_requests_total{route=\"ask\",outcome=\"ok\"} 2"), "{text}");
        assert!(!text.contains("step=\"hits\"") && !text.contains("objective="), "{text}");
        changed.forget();
        // One that was under way, of the route as it was and as it had become, ends after it has gone.
        for late in [&route, &changed] {
            late.ended(RouteOutcome::Answered, long, short);
            late.step("hits", short);
            late.fell_back("hits");
        }
        assert!(!metrics.render().contains("\"ask\""), "{}", metrics.render());
    }

    #[test]
    fn every_name_says_its_unit() {
        let metrics = Metrics::new();
        let units =
            ["seconds", "items", "tokens", "ratio", "bytes", "requests", "models", "info", "connections", "fallbacks"];
        for line in metrics.render().lines().filter(|line| line.starts_with("# TYPE halny")) {
            let name = line.split(' ').nth(2).unwrap_or_default();
            assert!(units.iter().any(|unit| name.ends_with(unit)), "{name} says no unit");
        }
    }
}
