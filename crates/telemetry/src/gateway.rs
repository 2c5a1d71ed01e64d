//! What the gateway counts: requests, their time, connections.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    route: &'static str,
    status: u16,
}

/// Requests by route. A route is a pattern the program knows, never text a client chose, so that
/// clients cannot make series without end.
#[derive(Clone)]
pub struct GatewayMetrics {
    requests: Family<StatusLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    connections: Gauge,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(5e-4, 2.0, 17))
}

impl GatewayMetrics {
    pub(crate) fn register(registry: &mut Registry) -> GatewayMetrics {
        let metrics = GatewayMetrics {
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
        };
        let m = metrics.clone();
        registry.register("http_requests", "Requests answered, by route and HTTP status", m.requests);
        registry.register("http_request_seconds", "Time from a request's head to its answer", m.seconds);
        registry.register("in_flight_requests", "Requests being worked on now", m.in_flight);
        registry.register("open_connections", "Connections that are open now", m.connections);
        metrics
    }

    /// A request on `route` was answered with `status` after `took`.
    pub fn answered(&self, route: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&StatusLabels { route, status }).inc();
        self.seconds.get_or_create(&RouteLabels { route }).observe(took.as_secs_f64());
    }

    /// Requests being worked on now.
    #[must_use]
    pub fn in_flight(&self) -> &Gauge {
        &self.in_flight
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> &Gauge {
        &self.connections
    }
}
