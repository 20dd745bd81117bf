//! `RouteMetrics`: what one route counts.
//!
//! Resolved once, when a configuration is loaded: counting is an atomic addition, without a lock, a look-up of labels or, after
//! a combination's first use, an allocation.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::proto::{Metric, MetricType};

use super::counters::{ByStatus, Held, Histogram, Level, PerThread};
use super::metrics::Family;

pub struct RouteMetrics {
    name: String,
    platform: String,
    /// In the order of `FAILURE_CODES`.
    failures: [AtomicU64; FAILURE_CODES.len()],
    retries: [AtomicU64; Retry::ALL.len()],
    cold_starts: AtomicU64,
    dialled: AtomicU64,
    queued: Level,
    connections_open: Level,
    connect: Histogram<{ CONNECT_BUCKETS.len() }>,
    cold_start_hold: Calls,
    queue: Calls,
    busy: PerThread<Busy>,
}

/// What every request counts.
#[derive(Default)]
struct Busy {
    /// By method.
    requests: [ByStatus; METHODS.len()],
    /// It begins on one thread and may end on another: only the sum of all copies means something.
    in_flight: AtomicI64,
    duration: Calls,
    overhead: Histogram<{ OVERHEAD_BUCKETS.len() }>,
    first_byte: Calls,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    reused: AtomicU64,
}

type Calls = Histogram<{ CALL_BUCKETS.len() }>;

/// Why a request was sent once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The reused connection was gone before the first byte of an answer.
    StaleConnection,
    /// No connection could be made.
    Connect,
    /// The connection broke off before the first byte of an answer.
    Reset,
    /// The function was silent for too long.
    Timeout,
    /// It answered with a status that the route's policy tries again.
    Status,
    /// It was not there yet.
    ColdStart,
}

/// How a request ended, as far as it is counted.
#[derive(Debug)]
pub struct End<'a> {
    /// Any text; what is no known method counts as `other`.
    pub method: &'a str,
    /// What the client got, or what stands in the access log when it got nothing.
    pub status: u16,
    pub total: Duration,
    /// The part of `total` that was ours, not the function's.
    pub overhead: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

impl RouteMetrics {
    pub(super) fn new(name: &str, platform: &str) -> Self {
        RouteMetrics {
            name: name.to_owned(),
            platform: platform.to_owned(),
            failures: Default::default(),
            retries: Default::default(),
            cold_starts: AtomicU64::default(),
            dialled: AtomicU64::default(),
            queued: Level::default(),
            connections_open: Level::default(),
            connect: Histogram::default(),
            cold_start_hold: Calls::default(),
            queue: Calls::default(),
            busy: PerThread::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn platform(&self) -> &str {
        &self.platform
    }

    /// A request is in flight until it leaves.
    pub fn begin(&self) {
        self.busy.own().in_flight.fetch_add(1, Relaxed);
    }

    /// One that began is over.
    pub fn leave(&self) {
        self.busy.own().in_flight.fetch_sub(1, Relaxed);
    }

    /// A request waits for one of the route's places as long as the result lives.
    pub fn queue(&self) -> Held {
        self.queued.hold()
    }

    /// How long a request waited for one of the route's places, whether it got it or not.
    pub fn queued(&self, waited: Duration) {
        self.queue.observe(&CALL_BUCKETS, waited);
    }

    /// Once for every request, however it ended.
    pub fn end(&self, end: &End<'_>) {
        let busy = self.busy.own();
        busy.requests[method_index(end.method)].add(end.status);
        busy.duration.observe(&CALL_BUCKETS, end.total);
        busy.overhead.observe(&OVERHEAD_BUCKETS, end.overhead);
        busy.request_bytes.fetch_add(end.request_bytes, Relaxed);
        busy.response_bytes.fetch_add(end.response_bytes, Relaxed);
    }

    /// `code` is the word of a reason; of another word nothing is counted.
    pub fn failed(&self, code: &str) {
        // Every code has its place, see the test; the search is short and only failures pay for it.
        if let Some(index) = FAILURE_CODES.iter().position(|known| *known == code) {
            self.failures[index].fetch_add(1, Relaxed);
        }
    }

    pub fn retried(&self, reason: Retry) {
        self.retries[reason as usize].fetch_add(1, Relaxed);
    }

    /// The function was found to be missing, after it had been there.
    pub fn cold_start(&self) {
        self.cold_starts.fetch_add(1, Relaxed);
    }

    /// How long a request waited for the function to come up.
    pub fn held_cold(&self, waited: Duration) {
        self.cold_start_hold.observe(&CALL_BUCKETS, waited);
    }

    /// A new connection was made, with TLS where that belongs to it.
    pub fn dialled(&self, took: Duration) {
        self.dialled.fetch_add(1, Relaxed);
        self.connect.observe(&CONNECT_BUCKETS, took);
    }

    /// A connection from the pool was taken.
    pub fn reused(&self) {
        self.busy.own().reused.fetch_add(1, Relaxed);
    }

    pub fn connection_opened(&self) {
        self.connections_open.rise();
    }

    pub fn connection_closed(&self) {
        self.connections_open.fall();
    }

    /// From the request's departure to the first byte of the function's answer.
    pub fn first_byte(&self, took: Duration) {
        self.busy.own().first_byte.observe(&CALL_BUCKETS, took);
    }

    fn sum(&self, counter: impl Fn(&Busy) -> &AtomicU64) -> u64 {
        self.busy.each().map(|busy| counter(busy).load(Relaxed)).sum()
    }

    fn in_flight(&self) -> i64 {
        // While they are added up, one may begin behind and end before the place of the look.
        self.busy.each().map(|busy| busy.in_flight.load(Relaxed)).sum::<i64>().max(0)
    }

    fn collect_requests(&self, family: &Family, into: &mut Vec<Metric>) {
        for (index, method) in METHODS.iter().enumerate() {
            let all = ByStatus::default();
            self.busy.each().for_each(|busy| all.add_all(&busy.requests[index]));
            all.each(|code, count| {
                into.push(family.counter(&[&self.name, &self.platform, method, code], count));
            });
        }
    }
}

impl std::fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteMetrics").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Retry {
    const ALL: [Retry; 6] = [
        Retry::StaleConnection,
        Retry::Connect,
        Retry::Reset,
        Retry::Timeout,
        Retry::Status,
        Retry::ColdStart,
    ];

    /// The label, also the word for logs.
    pub fn reason(self) -> &'static str {
        match self {
            Retry::StaleConnection => "stale_connection",
            Retry::Connect => "connect",
            Retry::Reset => "reset",
            Retry::Timeout => "timeout",
            Retry::Status => "status",
            Retry::ColdStart => "cold_start",
        }
    }
}

fn method_index(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

/// Adds the histogram that these make together. One that has seen nothing is left out: they are most of what an idle route would show.
fn collect_seen<'h, const N: usize>(
    route: &RouteMetrics,
    family: &Family,
    bounds: &[f64; N],
    copies: impl Iterator<Item = &'h Histogram<N>>,
    into: &mut Vec<Metric>,
) {
    let all = Histogram::default();
    copies.for_each(|copy| all.add(copy));
    let (sum, within, count) = all.seen();
    if count > 0 {
        into.push(family.histogram(&[&route.name], bounds.iter().copied().zip(within), sum, count));
    }
}

/// The closed sets.
const OTHER: &str = "other";
const METHODS: [&str; 10] =
    ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE", "CONNECT", OTHER];
const FAILURE_CODES: [&str; 31] = [
    "no_route",
    "method_not_allowed",
    "bad_request",
    "bad_path",
    "body_too_large",
    "headers_too_large",
    "unsupported_coding",
    "request_timeout",
    "upstream_connect",
    "upstream_tls",
    "upstream_resolve",
    "upstream_timeout",
    "connect_timeout",
    "deadline",
    "upstream_reset",
    "upstream_protocol",
    "bad_envelope",
    "function_error",
    "no_credential",
    "no_function",
    "throttled",
    "platform_error",
    "cold_start",
    "overloaded",
    "draining",
    "client_gone",
    "client_slow",
    "client_flood",
    "internal",
    "credential_refused",
    "not_reached",
];

/// Seconds. Functions answer in half a millisecond or in a quarter of an hour.
const CALL_BUCKETS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0, 600.0, 900.0,
];
const OVERHEAD_BUCKETS: [f64; 13] =
    [0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0];
const CONNECT_BUCKETS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// A histogram has a series for each bucket, for +Inf, for the sum and for the count.
const fn histogram_series(buckets: usize) -> usize {
    buckets + 3
}

/// What each route shows, and how.
pub(super) static FAMILIES: [RouteFamily; 16] = [
    RouteFamily {
        family: Family {
            name: "http_requests_total",
            help: "Requests by route, method and status, however they ended.",
            kind: MetricType::COUNTER,
            labels: &["route", "platform", "method", "code"],
            series: METHODS.len() * ByStatus::SERIES,
        },
        collect: RouteMetrics::collect_requests,
    },
    RouteFamily {
        family: Family {
            name: "failures_total",
            help: "Requests that the gateway refused or could not finish, or whose answer reports a failure, by reason.",
            kind: MetricType::COUNTER,
            labels: &["route", "code"],
            series: FAILURE_CODES.len(),
        },
        collect: |route, family, into| {
            for (code, count) in FAILURE_CODES.iter().zip(&route.failures) {
                into.push(family.counter(&[&route.name, code], count.load(Relaxed)));
            }
        },
    },
    RouteFamily {
        family: Family {
            name: "retries_total",
            help: "Requests that were sent to the function once more, by reason.",
            kind: MetricType::COUNTER,
            labels: &["route", "reason"],
            series: Retry::ALL.len(),
        },
        collect: |route, family, into| {
            for (reason, count) in Retry::ALL.iter().zip(&route.retries) {
                into.push(family.counter(&[&route.name, reason.reason()], count.load(Relaxed)));
            }
        },
    },
    RouteFamily {
        family: Family {
            name: "upstream_connections_total",
            help: "Connections that requests got, by whether they were new.",
            kind: MetricType::COUNTER,
            labels: &["route", "result"],
            series: 2,
        },
        collect: |route, family, into| {
            into.push(family.counter(&[&route.name, "dialled"], route.dialled.load(Relaxed)));
            into.push(family.counter(&[&route.name, "reused"], route.sum(|busy| &busy.reused)));
        },
    },
    RouteFamily {
        family: Family {
            name: "upstream_connections_open",
            help: "Connections to the function that are open now.",
            kind: MetricType::GAUGE,
            labels: &["route"],
            series: 1,
        },
        collect: |route, family, into| {
            into.push(family.gauge(&[&route.name], route.connections_open.get()));
        },
    },
    RouteFamily {
        family: Family {
            name: "requests_in_flight",
            help: "Requests that are under way now.",
            kind: MetricType::GAUGE,
            labels: &["route"],
            series: 1,
        },
        collect: |route, family, into| into.push(family.gauge(&[&route.name], route.in_flight())),
    },
    RouteFamily {
        family: Family {
            name: "requests_queued",
            help: "Requests that wait for one of their route's places now.",
            kind: MetricType::GAUGE,
            labels: &["route"],
            series: 1,
        },
        collect: |route, family, into| into.push(family.gauge(&[&route.name], route.queued.get())),
    },
    RouteFamily {
        family: Family {
            name: "request_bytes_total",
            help: "Bytes of request bodies received from clients.",
            kind: MetricType::COUNTER,
            labels: &["route"],
            series: 1,
        },
        collect: |route, family, into| {
            into.push(family.counter(&[&route.name], route.sum(|busy| &busy.request_bytes)));
        },
    },
    RouteFamily {
        family: Family {
            name: "response_bytes_total",
            help: "Bytes of response bodies sent to clients.",
            kind: MetricType::COUNTER,
            labels: &["route"],
            series: 1,
        },
        collect: |route, family, into| {
            into.push(family.counter(&[&route.name], route.sum(|busy| &busy.response_bytes)));
        },
    },
    RouteFamily {
        family: Family {
            name: "cold_starts_total",
            help: "Times the function was found to be missing, after it had been there.",
            kind: MetricType::COUNTER,
            labels: &["route"],
            series: 1,
        },
        collect: |route, family, into| {
            into.push(family.counter(&[&route.name], route.cold_starts.load(Relaxed)));
        },
    },
    RouteFamily {
        family: DURATION,
        collect: |route, family, into| {
            let copies = route.busy.each().map(|busy| &busy.duration);
            collect_seen(route, family, &CALL_BUCKETS, copies, into);
        },
    },
    RouteFamily {
        family: OVERHEAD,
        collect: |route, family, into| {
            let copies = route.busy.each().map(|busy| &busy.overhead);
            collect_seen(route, family, &OVERHEAD_BUCKETS, copies, into);
        },
    },
    RouteFamily {
        family: CONNECT,
        collect: |route, family, into| {
            collect_seen(route, family, &CONNECT_BUCKETS, [&route.connect].into_iter(), into);
        },
    },
    RouteFamily {
        family: FIRST_BYTE,
        collect: |route, family, into| {
            let copies = route.busy.each().map(|busy| &busy.first_byte);
            collect_seen(route, family, &CALL_BUCKETS, copies, into);
        },
    },
    RouteFamily {
        family: COLD_START_HOLD,
        collect: |route, family, into| {
            collect_seen(route, family, &CALL_BUCKETS, [&route.cold_start_hold].into_iter(), into);
        },
    },
    RouteFamily {
        family: QUEUE,
        collect: |route, family, into| {
            collect_seen(route, family, &CALL_BUCKETS, [&route.queue].into_iter(), into);
        },
    },
];

pub(super) struct RouteFamily {
    pub(super) family: Family,
    /// Adds the route's series of the family.
    pub(super) collect: fn(&RouteMetrics, &Family, &mut Vec<Metric>),
}

const DURATION: Family = Family {
    name: "http_request_duration_seconds",
    help: "From a request's head to the end of its answer.",
    kind: MetricType::HISTOGRAM,
    labels: &["route"],
    series: histogram_series(CALL_BUCKETS.len()),
};
const OVERHEAD: Family = Family {
    name: "gateway_overhead_seconds",
    help: "The gateway's own share of a request: its duration less the function's.",
    kind: MetricType::HISTOGRAM,
    labels: &["route"],
    series: histogram_series(OVERHEAD_BUCKETS.len()),
};
const CONNECT: Family = Family {
    name: "upstream_connect_seconds",
    help: "Time that a new connection took, TLS included.",
    kind: MetricType::HISTOGRAM,
    labels: &["route"],
    series: histogram_series(CONNECT_BUCKETS.len()),
};
const COLD_START_HOLD: Family = Family {
    name: "cold_start_hold_seconds",
    help: "How long requests waited for the function to come up.",
    kind: MetricType::HISTOGRAM,
    labels: &["route"],
    series: histogram_series(CALL_BUCKETS.len()),
};
const QUEUE: Family = Family {
    name: "queue_seconds",
    help: "How long requests waited for one of their route's places.",
    kind: MetricType::HISTOGRAM,
    labels: &["route"],
    series: histogram_series(CALL_BUCKETS.len()),
};
const FIRST_BYTE: Family = Family {
    name: "upstream_first_byte_seconds",
    help: "From the beginning of a request's last attempt to the first byte of the function's answer, connecting included.",
    kind: MetricType::HISTOGRAM,
    labels: &["route"],
    series: histogram_series(CALL_BUCKETS.len()),
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails to compile when a reason is added, and to pass when it has no place in the table.
    #[test]
    fn every_reason_has_a_counter() {
        use crate::error::GatewayError::{self, *};
        use crate::error::Reported;
        let next = |error: &GatewayError| match error {
            NoRoute => Some(MethodNotAllowed("GET".into())),
            MethodNotAllowed(_) => Some(BadRequest("x")),
            BadRequest(_) => Some(BadRequestAs(http::StatusCode::URI_TOO_LONG, "x")),
            BadRequestAs(..) => Some(BadPath),
            BadPath => Some(BodyTooLarge),
            BodyTooLarge => Some(HeadersTooLarge),
            HeadersTooLarge => Some(UnsupportedCoding),
            UnsupportedCoding => Some(RequestTimeout),
            RequestTimeout => Some(UpstreamConnect),
            UpstreamConnect => Some(UpstreamTls),
            UpstreamTls => Some(UpstreamResolve),
            UpstreamResolve => Some(UpstreamTimeout),
            UpstreamTimeout => Some(ConnectTimeout),
            ConnectTimeout => Some(Deadline),
            Deadline => Some(UpstreamReset),
            UpstreamReset => Some(UpstreamProtocol),
            UpstreamProtocol => Some(BadEnvelope("x")),
            BadEnvelope(_) => Some(FunctionError),
            FunctionError => Some(NoCredential),
            NoCredential => Some(CredentialRefused),
            CredentialRefused => Some(NoFunction),
            NoFunction => Some(Throttled(None)),
            Throttled(_) => Some(PlatformError("x")),
            PlatformError(_) => Some(ColdStart),
            ColdStart => Some(Overloaded),
            Overloaded => Some(Draining),
            Draining => Some(ClientGone),
            ClientGone => Some(ClientSlow),
            ClientSlow => Some(ClientFlood),
            ClientFlood => Some(Internal),
            Internal => None,
        };
        let errors: Vec<_> = std::iter::successors(Some(NoRoute), next).collect();
        let mut codes: Vec<_> = errors.iter().map(GatewayError::code).collect();
        codes.extend(Reported::ALL.map(Reported::code));
        codes.sort_unstable();
        codes.dedup();
        let route = RouteMetrics::new("hello", "http");
        codes.iter().for_each(|code| route.failed(code));

        assert_eq!(codes.len(), FAILURE_CODES.len());
        for (code, count) in FAILURE_CODES.iter().zip(&route.failures) {
            assert_eq!(count.load(Relaxed), 1, "{code}");
        }
    }
}
