//! `Function`: what a route yields. The target, the way to it, and the handles it is counted on.

use std::sync::Arc;

use crate::platforms::Target;
use crate::telemetry::RouteMetrics;
use crate::upstream::{Tally, Upstream};

#[derive(Debug)]
pub struct Function {
    /// The route's name: the label in logs and metrics.
    pub route: String,
    pub platform: &'static str,
    pub target: Target,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<RouteMetrics>,
    /// Whether requests carry a credential of ours.
    pub has_credential: bool,
}

/// Counts a route's open connections where its metrics are.
#[derive(Debug)]
pub struct OpenConnections(pub Arc<RouteMetrics>);

impl Tally for OpenConnections {
    fn opened(&self) {
        self.0.connection_opened();
    }

    fn closed(&self) {
        self.0.connection_closed();
    }
}
