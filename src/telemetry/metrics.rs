//! `Metrics`: every family that is exposed, and the routes whose series exist.
//!
//! Label values come from the configuration or from closed sets, so the number of series has a bound, [`series_bound`].
//! A request never comes here: it counts on the [`RouteMetrics`] that its route was given when the configuration was loaded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

pub use prometheus::TEXT_FORMAT;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{IntCounter, Opts, Registry, TextEncoder};

use super::route_metrics::{self, RouteFamily, RouteMetrics};

/// The label of what belongs to no route.
const UNROUTED: &str = "-";

/// A handle: clones share everything.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    state: Arc<State>,
}

/// What is counted outside of routes, and what the last configuration brought.
struct State {
    unrouted: Arc<RouteMetrics>,
    /// Only touched when a configuration is loaded and when somebody looks.
    inventory: RwLock<Inventory>,
    reloads_succeeded: AtomicU64,
    reloads_failed: AtomicU64,
    last_reload_successful: AtomicI64,
    last_reload_success: AtomicI64,
    access_log_dropped: IntCounter,
    handshakes_failed: AtomicU64,
}

#[derive(Default)]
struct Inventory {
    routes: BTreeMap<String, Arc<RouteMetrics>>,
    certificates: BTreeMap<String, i64>,
    config_hash: Option<String>,
}

impl Metrics {
    pub fn new() -> Self {
        let unrouted = Arc::new(RouteMetrics::new(UNROUTED, UNROUTED));
        let mut inventory = Inventory::default();
        inventory.routes.insert(UNROUTED.to_owned(), unrouted.clone());
        let state = Arc::new(State {
            unrouted,
            inventory: RwLock::new(inventory),
            reloads_succeeded: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            last_reload_successful: AtomicI64::new(0),
            last_reload_success: AtomicI64::new(0),
            access_log_dropped: IntCounter::with_opts(ACCESS_LOG_DROPPED.opts()).expect(VALID),
            handshakes_failed: AtomicU64::new(0),
        });
        let registry = Registry::new();
        registry.register(Box::new(Exposed::new(state.clone()))).expect(VALID);
        registry.register(Box::new(Process::new())).expect(VALID);
        Metrics { registry, state }
    }

    /// The counters of a route. One that stays under its name keeps what it has counted; with another platform it starts
    /// anew. To be called when a configuration is certain to be used.
    pub fn route(&self, name: &str, platform: &str) -> Arc<RouteMetrics> {
        let mut inventory = self.write();
        match inventory.routes.get(name) {
            Some(known) if known.platform() == platform => known.clone(),
            _ => {
                let route = Arc::new(RouteMetrics::new(name, platform));
                inventory.routes.insert(name.to_owned(), route.clone());
                route
            }
        }
    }

    /// The counters of requests that no route took.
    pub fn unrouted(&self) -> &Arc<RouteMetrics> {
        &self.state.unrouted
    }

    /// Ends the series of every route that is not in `names`. Requests still under way on such a route go on counting, but
    /// nobody sees it.
    pub fn retain(&self, names: &HashSet<&str>) {
        self.write().routes.retain(|name, _| name == UNROUTED || names.contains(name.as_str()));
    }

    /// Replaces the certificates that are shown: name and the end of validity in seconds of Unix time.
    pub fn set_certificates<'a>(&self, certificates: impl IntoIterator<Item = (&'a str, i64)>) {
        let certificates = certificates.into_iter().map(|(name, end)| (name.to_owned(), end)).collect();
        self.write().certificates = certificates;
    }

    /// A configuration came into force, at the start or by a reload.
    pub fn config_loaded(&self, hash: &str) {
        self.write().config_hash = Some(hash.to_owned());
        self.state.last_reload_successful.store(1, Relaxed);
        self.state.last_reload_success.store(unix_seconds(), Relaxed);
    }

    pub fn reload_succeeded(&self, hash: &str) {
        self.state.reloads_succeeded.fetch_add(1, Relaxed);
        self.config_loaded(hash);
    }

    pub fn reload_failed(&self) {
        self.state.reloads_failed.fetch_add(1, Relaxed);
        self.state.last_reload_successful.store(0, Relaxed);
    }

    /// Lines of the access log that were given up.
    pub fn access_log_dropped(&self) -> IntCounter {
        self.state.access_log_dropped.clone()
    }

    /// A client's TLS handshake failed.
    pub fn handshake_failed(&self) {
        self.state.handshakes_failed.fetch_add(1, Relaxed);
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // The encoder only fails on a family without name or series, and the registry leaves those out.
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            log::error!("metrics cannot be written: {error}");
        }
        text
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inventory> {
        self.state.inventory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The largest number of series that so many routes and certificates can have, whatever their clients and functions do.
pub fn series_bound(routes: usize, certificates: usize) -> usize {
    let per_route: usize = route_metrics::FAMILIES.iter().map(|entry| entry.family.series).sum();
    let fixed: usize = PROCESS_WIDE.iter().map(|family| family.series).sum();
    (routes + 1) * per_route + certificates * CERTIFICATE_NOT_AFTER.series + fixed + PROCESS_SERIES
}

/// One family: its name without the prefix, and how many series it has for each route, each certificate, or in all.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
    pub(super) series: usize,
}

impl Family {
    pub(super) fn opts(&self) -> Opts {
        Opts::new(self.name, self.help).namespace(PREFIX)
    }

    pub(super) fn counter(&self, labels: &[&str], value: u64) -> Metric {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = Metric::from_label(self.pairs(labels));
        metric.set_counter(counter);
        metric
    }

    pub(super) fn gauge(&self, labels: &[&str], value: i64) -> Metric {
        let mut gauge = Gauge::default();
        gauge.set_value(value as f64);
        let mut metric = Metric::from_label(self.pairs(labels));
        metric.set_gauge(gauge);
        metric
    }

    /// `within` are the bounds, and how many lay within each of them.
    pub(super) fn histogram(
        &self,
        labels: &[&str],
        within: impl Iterator<Item = (f64, u64)>,
        sum: f64,
        count: u64,
    ) -> Metric {
        let buckets = within.map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_sum(sum);
        histogram.set_sample_count(count);
        let mut metric = Metric::from_label(self.pairs(labels));
        metric.set_histogram(histogram);
        metric
    }

    fn pairs(&self, values: &[&str]) -> Vec<LabelPair> {
        self.labels
            .iter()
            .zip(values)
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value((*value).to_owned());
                pair
            })
            .collect()
    }

    fn desc(&self) -> Result<Desc, prometheus::Error> {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.opts().fq_name(), self.help.to_owned(), labels, HashMap::new())
    }

    fn exposed(&self, metrics: Vec<Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.opts().fq_name());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(metrics);
        family
    }
}

/// Shows the state to the registry.
struct Exposed {
    state: Arc<State>,
    descs: Vec<Desc>,
}

impl Exposed {
    fn new(state: Arc<State>) -> Self {
        let of_routes = route_metrics::FAMILIES.iter().map(|entry| &entry.family);
        let families = PROCESS_WIDE.into_iter().chain([&CERTIFICATE_NOT_AFTER]).chain(of_routes);
        Exposed { state, descs: families.map(|family| family.desc().expect(VALID)).collect() }
    }
}

impl Collector for Exposed {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let state = &*self.state;
        let inventory = state.inventory.read().unwrap_or_else(PoisonError::into_inner);
        let certificates = inventory.certificates.iter();
        let certificates =
            certificates.map(|(name, end)| CERTIFICATE_NOT_AFTER.gauge(&[name], *end)).collect();
        let config = inventory.config_hash.iter().map(|hash| CONFIG.gauge(&[hash], 1)).collect();
        let routes: Vec<_> = inventory.routes.values().cloned().collect();
        drop(inventory);

        let reloads = [("success", &state.reloads_succeeded), ("failure", &state.reloads_failed)];
        let reloads = reloads.map(|(result, count)| CONFIG_RELOADS.counter(&[result], count.load(Relaxed)));
        let successful = LAST_RELOAD_SUCCESSFUL.gauge(&[], state.last_reload_successful.load(Relaxed));
        let success = LAST_RELOAD_SUCCESS.gauge(&[], state.last_reload_success.load(Relaxed));
        let dropped = ACCESS_LOG_DROPPED.counter(&[], state.access_log_dropped.get());
        let handshakes = HANDSHAKES_FAILED.counter(&[], state.handshakes_failed.load(Relaxed));
        let mut families = vec![
            CERTIFICATE_NOT_AFTER.exposed(certificates),
            CONFIG.exposed(config),
            CONFIG_RELOADS.exposed(reloads.into()),
            LAST_RELOAD_SUCCESSFUL.exposed(vec![successful]),
            LAST_RELOAD_SUCCESS.exposed(vec![success]),
            ACCESS_LOG_DROPPED.exposed(vec![dropped]),
            HANDSHAKES_FAILED.exposed(vec![handshakes]),
            BUILD.exposed(vec![BUILD.gauge(&[VERSION, COMMIT], 1)]),
        ];
        for RouteFamily { family, collect } in &route_metrics::FAMILIES {
            let mut metrics = Vec::with_capacity(routes.len());
            routes.iter().for_each(|route| collect(route, family, &mut metrics));
            families.push(family.exposed(metrics));
        }
        families
    }
}

/// The crate's own collector, but for two families. The start time is taken here: a unit with `ProcSubset=pid` hides the boot time
/// from it, and it would say 1970. And it cuts the time of the CPU down to whole seconds, which the kernel counts in hundredths.
struct Process {
    collector: ProcessCollector,
    started: i64,
}

impl Process {
    fn new() -> Self {
        Process { collector: ProcessCollector::for_self(), started: unix_seconds() }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.collector.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.collector.collect();
        let cpu = families.iter_mut().find(|family| family.name() == "process_cpu_seconds_total");
        if let (Some(family), Some(seconds)) = (cpu, cpu_seconds()) {
            let mut counter = Counter::default();
            counter.set_value(seconds);
            family.mut_metric().iter_mut().for_each(|metric| metric.set_counter(counter.clone()));
        }
        let start_time = families.iter_mut().find(|family| family.name() == "process_start_time_seconds");
        for metric in start_time.into_iter().flat_map(|family| family.mut_metric()) {
            if metric.get_gauge().get_value() == 0.0 {
                let mut gauge = Gauge::default();
                gauge.set_value(self.started as f64);
                metric.set_gauge(gauge);
            }
        }
        families
    }
}

/// What this process has used, in user and in kernel mode.
fn cpu_seconds() -> Option<f64> {
    let stat = procfs::process::Process::myself().ok()?.stat().ok()?;
    Some((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

const PREFIX: &str = "fngate";
const VALID: &str = "the families' names are fixed, valid and distinct";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: &str = match option_env!("FNGATE_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Series of the `process_*` families.
const PROCESS_SERIES: usize = 7;

static PROCESS_WIDE: [&Family; 7] = [
    &CONFIG,
    &CONFIG_RELOADS,
    &LAST_RELOAD_SUCCESSFUL,
    &LAST_RELOAD_SUCCESS,
    &ACCESS_LOG_DROPPED,
    &HANDSHAKES_FAILED,
    &BUILD,
];

static CERTIFICATE_NOT_AFTER: Family = Family {
    name: "tls_certificate_not_after_seconds",
    help: "End of a listener certificate's validity, in seconds of Unix time.",
    kind: MetricType::GAUGE,
    labels: &["name"],
    series: 1,
};
static CONFIG: Family = Family {
    name: "config_info",
    help: "Digest of the configuration in force; always 1.",
    kind: MetricType::GAUGE,
    labels: &["hash"],
    series: 1,
};
static CONFIG_RELOADS: Family = Family {
    name: "config_reloads_total",
    help: "Reloads of the configuration by their result.",
    kind: MetricType::COUNTER,
    labels: &["result"],
    series: 2,
};
static LAST_RELOAD_SUCCESSFUL: Family = Family {
    name: "config_last_reload_successful",
    help: "1 when the configuration that was read last came into force, else 0.",
    kind: MetricType::GAUGE,
    labels: &[],
    series: 1,
};
static LAST_RELOAD_SUCCESS: Family = Family {
    name: "config_last_reload_success_timestamp_seconds",
    help: "When a configuration last came into force, in seconds of Unix time.",
    kind: MetricType::GAUGE,
    labels: &[],
    series: 1,
};
static ACCESS_LOG_DROPPED: Family = Family {
    name: "access_log_dropped_total",
    help: "Lines of the access log given up because its sink could not take them.",
    kind: MetricType::COUNTER,
    labels: &[],
    series: 1,
};
static HANDSHAKES_FAILED: Family = Family {
    name: "tls_handshakes_failed_total",
    help: "TLS handshakes of clients that failed or took too long.",
    kind: MetricType::COUNTER,
    labels: &[],
    series: 1,
};
static BUILD: Family = Family {
    name: "build_info",
    help: "Version and commit of this program; always 1.",
    kind: MetricType::GAUGE,
    labels: &["version", "commit"],
    series: 1,
};

#[cfg(test)]
mod tests;
