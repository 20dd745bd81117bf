//! `Function`: what a route yields. The target, the way to it, and the handles it is counted on.

use std::sync::Arc;

use pingora::http::RequestHeader;

use crate::aws::Keeper;
use crate::platforms::{Buffered, Streamed, Target};
use crate::policy::Policy;
use crate::telemetry::RouteMetrics;
use crate::upstream::{Tally, Upstream};
use crate::values::ByteSize;

#[derive(Debug)]
pub struct Function {
    /// The route's name: the label in logs and metrics.
    pub route: String,
    pub platform: &'static str,
    pub target: Target,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<RouteMetrics>,
    /// The largest request body of this route, where the file names one.
    pub max_request: Option<ByteSize>,
    /// Keeps the credentials fresh that requests are signed with.
    pub credentials: Option<Arc<Keeper>>,
    pub policy: Policy,
}

impl Function {
    /// Whether a client's request with this head carries a credential of ours: an answer of 401 or 403 is then ours to notice.
    pub fn has_credential_for(&self, head: &RequestHeader) -> bool {
        let is_added = match &self.target {
            Target::Streamed(target) => target.adds_credential(head),
            Target::Buffered(target) => target.adds_credential(head),
        };
        is_added && self.upstream.terms().credential.is_some()
    }
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
