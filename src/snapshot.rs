//! `Plan`: what a configuration says, compiled; `Snapshot`: a plan brought to life, immutable and swapped whole.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::aws::Keeper;
use crate::downstream::HeadLimits;
use crate::function::{Function, OpenConnections};
use crate::platforms;
use crate::policy::Policy;
use crate::routing::{Matcher, RouteTable};
use crate::telemetry::Metrics;
use crate::tls::Identity;
use crate::upstream::Upstream;
use crate::upstream::resolve::Resolver;
use crate::values::ByteSize;

/// A compiled configuration. Every source of routes ends in one of these.
#[derive(Debug)]
pub struct Plan {
    pub settings: Settings,
    pub routes: Vec<Route>,
    /// A digest of what was read: equal files give equal digests.
    pub hash: String,
}

#[derive(Debug)]
pub struct Route {
    pub name: String,
    pub matcher: Matcher,
    pub policy: Policy,
    pub function: platforms::Compiled,
}

/// Everything in a file that is not a route.
#[derive(Debug)]
pub struct Settings {
    pub listeners: Vec<Listener>,
    pub threads: usize,
    pub admin: Admin,
    pub drain_delay: Duration,
    pub shutdown_grace: Duration,
    pub trusted_proxies: Vec<IpNet>,
    pub deny_addresses: Arc<[IpNet]>,
    pub access_log: AccessLog,
    pub limits: Limits,
}

/// The administrative listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub address: SocketAddr,
    /// The names under which it is asked, besides addresses and `localhost`.
    pub hosts: Vec<String>,
}

#[derive(Debug)]
pub struct Listener {
    pub address: SocketAddr,
    /// Empty: plain HTTP.
    pub identities: Vec<Identity>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub body: ByteSize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub connections: usize,
    pub in_flight: usize,
    /// What a request's head may be, in every protocol.
    pub head: HeadLimits,
    pub requests_per_connection: u32,
    /// Bytes per second; 0 is any pace.
    pub min_rate: u64,
    pub http2_streams: u32,
    pub http2_control_frames: u32,
}

/// A plan brought to life. Immutable; a request takes one and keeps it.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the configurations of this process, from 1.
    pub generation: u64,
    pub hash: String,
    pub settings: Settings,
    pub routes: RouteTable<Arc<Function>>,
}

impl Snapshot {
    /// Builds upstreams and handles. A route whose terms did not change keeps its upstream: connections, slots, known addresses.
    pub fn build(plan: Plan, previous: Option<&Snapshot>, metrics: &Metrics, resolver: &Resolver) -> Self {
        let generation = previous.map_or(1, |snapshot| snapshot.generation + 1);
        let known: HashMap<&str, &Arc<Function>> = previous
            .into_iter()
            .flat_map(|snapshot| snapshot.routes.values())
            .map(|function| (function.route.as_str(), function))
            .collect();
        let routes = plan.routes.into_iter().map(|Route { name, matcher, mut policy, function }| {
            let platforms::Compiled { platform, target, mut terms, max_request, credentials } = function;
            terms.denied = Arc::clone(&plan.settings.deny_addresses);
            // The keeper of a source that was there before lives on.
            let credentials = credentials.map(|source| Keeper::of(&source, &Handle::current()));
            let metrics = metrics.route(&name, platform);
            if let Some(known) = known.get(name.as_str()) {
                policy.succeed(&known.policy);
            }
            let upstream = match known.get(name.as_str()) {
                // Another platform means other counters, and the upstream counts its connections on them.
                Some(known) if known.platform == platform && *known.upstream.terms() == terms => {
                    Arc::clone(&known.upstream)
                }
                _ => Arc::new(Upstream::new(
                    &name,
                    terms,
                    generation,
                    resolver,
                    Arc::new(OpenConnections(Arc::clone(&metrics))),
                )),
            };
            (
                matcher,
                Arc::new(Function {
                    route: name,
                    platform,
                    target,
                    upstream,
                    metrics,
                    max_request,
                    credentials,
                    policy,
                }),
            )
        });
        let routes = RouteTable::build(routes);
        metrics.retain(&routes.values().map(|function| function.route.as_str()).collect::<HashSet<_>>());
        Snapshot { generation, hash: plan.hash, settings: plan.settings, routes }
    }
    /// Waits until each name has been looked up once, at most for `patience`, and warns of those without an address.
    pub async fn settle(&self, patience: Duration) {
        let asked = async {
            for function in self.routes.values() {
                function.upstream.resolved().await;
            }
        };
        let _ = tokio::time::timeout(patience, asked).await;
        for function in self.routes.values() {
            for name in function.upstream.unresolved() {
                log::warn!(
                    "route `{}`: `{name}` does not resolve yet; until it does, the route answers 502",
                    function.route
                );
            }
        }
    }
    /// The upstreams to which no route leads any more when `next` takes the place of this one.
    pub fn retired_by(&self, next: &Snapshot) -> Vec<Arc<Upstream>> {
        let kept: HashSet<_> = next.upstreams().map(Arc::as_ptr).collect();
        self.upstreams().filter(|upstream| !kept.contains(&Arc::as_ptr(upstream))).cloned().collect()
    }

    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.routes.values().map(|function| &function.upstream)
    }

    /// The compiled table, as `/routes` shows it: where requests go, and nothing secret.
    pub fn document(&self) -> Value {
        let routes = self.routes.matchers().map(|(matcher, function)| {
            let terms = function.upstream.terms();
            json!({
                "name": function.route,
                "platform": function.platform,
                "hosts": texts(&matcher.hosts),
                "path": matcher.path.to_string(),
                "methods": matcher.methods.as_ref().map(|methods| texts(methods)),
                "priority": matcher.priority,
                "endpoints": terms.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>(),
            })
        });
        json!({ "generation": self.generation, "config_hash": self.hash, "routes": routes.collect::<Vec<_>>() })
    }
}

fn texts(items: &[impl ToString]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}
