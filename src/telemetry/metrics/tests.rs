use std::time::Duration;

use super::*;
use crate::error::GatewayError;
use crate::telemetry::{End, Retry};

/// Name, type and labels of every family that is exposed, as the documentation promises them.
const PROMISED: [(&str, &str, &str); 31] = [
    ("fngate_access_log_dropped_total", "counter", ""),
    ("fngate_build_info", "gauge", "commit version"),
    ("fngate_cold_start_hold_seconds", "histogram", "le route"),
    ("fngate_cold_starts_total", "counter", "route"),
    ("fngate_config_info", "gauge", "hash"),
    ("fngate_config_last_reload_success_timestamp_seconds", "gauge", ""),
    ("fngate_config_last_reload_successful", "gauge", ""),
    ("fngate_config_reloads_total", "counter", "result"),
    ("fngate_failures_total", "counter", "code route"),
    ("fngate_gateway_overhead_seconds", "histogram", "le route"),
    ("fngate_http_request_duration_seconds", "histogram", "le route"),
    ("fngate_http_requests_total", "counter", "code method platform route"),
    ("fngate_queue_seconds", "histogram", "le route"),
    ("fngate_request_bytes_total", "counter", "route"),
    ("fngate_requests_in_flight", "gauge", "route"),
    ("fngate_requests_queued", "gauge", "route"),
    ("fngate_response_bytes_total", "counter", "route"),
    ("fngate_retries_total", "counter", "reason route"),
    ("fngate_tls_certificate_not_after_seconds", "gauge", "name"),
    ("fngate_tls_handshakes_failed_total", "counter", ""),
    ("fngate_upstream_connect_seconds", "histogram", "le route"),
    ("fngate_upstream_connections_open", "gauge", "route"),
    ("fngate_upstream_connections_total", "counter", "result route"),
    ("fngate_upstream_first_byte_seconds", "histogram", "le route"),
    ("process_cpu_seconds_total", "counter", ""),
    ("process_max_fds", "gauge", ""),
    ("process_open_fds", "gauge", ""),
    ("process_resident_memory_bytes", "gauge", ""),
    ("process_start_time_seconds", "gauge", ""),
    ("process_threads", "gauge", ""),
    ("process_virtual_memory_bytes", "gauge", ""),
];

#[test]
fn exactly_the_promised_families_with_their_labels() {
    let metrics = Metrics::new();
    metrics.config_loaded("abc");
    metrics.set_certificates([("site", 1_900_000_000)]);
    touch(&metrics.route("hello", "http"));

    let families = parse(&metrics.render());

    let seen: Vec<_> = families.iter().map(Parsed::outline).collect();
    let promised = PROMISED.map(|(name, kind, labels)| (name.to_owned(), kind.to_owned(), labels.to_owned()));
    assert_eq!(seen, promised);
}

#[test]
fn what_was_counted_is_what_is_shown() {
    let metrics = Metrics::new();
    let route = metrics.route("hello", "openfunction");
    route.end(&end("POST", 204));
    route.end(&end("BREW", 418));
    route.failed(GatewayError::Deadline.code());
    route.retried(Retry::StaleConnection);
    route.dialled(Duration::from_millis(3));
    route.reused();
    route.connection_opened();
    metrics.unrouted().begin();

    let text = metrics.render();

    for line in [
        r#"fngate_http_requests_total{route="hello",platform="openfunction",method="POST",code="204"} 1"#,
        r#"fngate_http_requests_total{route="hello",platform="openfunction",method="other",code="418"} 1"#,
        r#"fngate_failures_total{route="hello",code="deadline"} 1"#,
        r#"fngate_failures_total{route="hello",code="no_route"} 0"#,
        r#"fngate_retries_total{route="hello",reason="stale_connection"} 1"#,
        r#"fngate_upstream_connections_total{route="hello",result="dialled"} 1"#,
        r#"fngate_upstream_connections_total{route="hello",result="reused"} 1"#,
        r#"fngate_upstream_connections_open{route="hello"} 1"#,
        r#"fngate_upstream_connect_seconds_bucket{route="hello",le="0.0025"} 0"#,
        r#"fngate_upstream_connect_seconds_bucket{route="hello",le="0.005"} 1"#,
        r#"fngate_http_request_duration_seconds_bucket{route="hello",le="0.0005"} 0"#,
        r#"fngate_http_request_duration_seconds_bucket{route="hello",le="900"} 2"#,
        r#"fngate_gateway_overhead_seconds_bucket{route="hello",le="0.00001"} 0"#,
        r#"fngate_request_bytes_total{route="hello"} 20"#,
        r#"fngate_response_bytes_total{route="hello"} 40"#,
        r#"fngate_requests_in_flight{route="-"} 1"#,
        r#"fngate_requests_in_flight{route="hello"} 0"#,
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
    }
    // A request may end on another thread than it began on.
    std::thread::scope(|scope| scope.spawn(|| metrics.unrouted().leave()).join().unwrap());
    route.connection_closed();
    let text = metrics.render();
    assert!(text.contains(r#"fngate_upstream_connections_open{route="hello"} 0"#), "{text}");
    assert!(text.contains(r#"fngate_requests_in_flight{route="-"} 0"#), "{text}");
}

#[test]
fn a_route_that_is_gone_leaves_no_series_and_one_that_stays_keeps_its_count() {
    let metrics = Metrics::new();
    let before = metrics.route("stays", "http");
    let gone = metrics.route("goes", "http");
    before.end(&end("GET", 200));

    let after = metrics.route("stays", "http");
    metrics.retain(&HashSet::from(["stays"]));
    after.end(&end("GET", 200));
    gone.end(&end("GET", 200));

    let text = metrics.render();
    let kept = r#"fngate_http_requests_total{route="stays",platform="http",method="GET",code="200"} 2"#;
    assert!(text.contains(kept), "{text}");
    assert!(!text.contains("goes"), "{text}");
    assert!(text.contains(r#"route="-""#), "{text}");
}

#[test]
fn an_idle_route_shows_its_counters_at_zero_and_no_histogram() {
    let metrics = Metrics::new();
    metrics.route("idle", "http");

    let text = metrics.render();
    assert!(text.contains("fngate_failures_total{route=\"idle\",code=\"deadline\"} 0\n"), "{text}");
    assert!(!text.contains("_bucket"), "{text}");
}

#[test]
fn a_route_on_another_platform_is_shown_once() {
    let metrics = Metrics::new();
    metrics.route("hello", "openwhisk").end(&end("GET", 200));
    metrics.route("hello", "http").end(&end("GET", 200));

    let text = metrics.render();
    assert!(!text.contains("openwhisk"), "{text}");
    assert_eq!(text.matches(r#"fngate_requests_in_flight{route="hello"}"#).count(), 1);
}

#[test]
fn reloads_are_counted_and_only_the_configuration_in_force_is_shown() {
    let metrics = Metrics::new();
    metrics.config_loaded("older");
    metrics.reload_succeeded("newer");
    metrics.reload_failed();

    let text = metrics.render();
    assert!(text.contains("fngate_config_info{hash=\"newer\"} 1\n"), "{text}");
    assert!(!text.contains("older"), "{text}");
    assert!(text.contains("fngate_config_reloads_total{result=\"success\"} 1\n"), "{text}");
    assert!(text.contains("fngate_config_reloads_total{result=\"failure\"} 1\n"), "{text}");
    assert!(text.contains("fngate_config_last_reload_successful 0\n"), "{text}");
}

#[test]
fn the_bound_is_what_is_reached_when_every_label_is_touched() {
    let metrics = Metrics::new();
    metrics.config_loaded("abc");
    metrics.set_certificates([("a", 1), ("b", 2)]);
    let routes = [metrics.route("one", "http"), metrics.route("two", "openwhisk")];
    let methods = "GET HEAD POST PUT DELETE PATCH OPTIONS TRACE CONNECT BREW PROPFIND";
    let methods: Vec<&str> = methods.split(' ').collect();
    for route in routes.iter().chain([metrics.unrouted()]) {
        touch(route);
        for method in &methods {
            (99..=601).for_each(|status| route.end(&end(method, status)));
        }
    }

    let series: usize = parse(&metrics.render()).iter().map(|family| family.series.len()).sum();
    assert_eq!(series, series_bound(2, 2));
}

#[test]
fn the_process_shows_itself() {
    let families = parse(&Metrics::new().render());
    for name in ["process_open_fds", "process_resident_memory_bytes", "process_threads"] {
        let family = families.iter().find(|family| family.name == name).unwrap();
        assert!(family.series[0].1 > 0.0, "{name}");
    }
    let started = families.iter().find(|family| family.name == "process_start_time_seconds").unwrap();
    let age = unix_seconds() as f64 - started.series[0].1;
    assert!((-5.0..86_400.0).contains(&age), "{age}");
}

/// Uses every histogram.
fn touch(route: &RouteMetrics) {
    route.end(&end("GET", 200));
    route.dialled(Duration::from_millis(3));
    route.first_byte(Duration::from_millis(5));
    route.held_cold(Duration::from_millis(5));
    route.queued(Duration::from_millis(5));
}

fn end(method: &str, status: u16) -> End<'_> {
    let (total, overhead) = (Duration::from_millis(40), Duration::from_micros(60));
    End { method, status, total, overhead, request_bytes: 10, response_bytes: 20 }
}

struct Parsed {
    name: String,
    kind: String,
    /// Name with labels, and value.
    series: Vec<(String, f64)>,
}

impl Parsed {
    fn outline(&self) -> (String, String, String) {
        let mut labels: Vec<_> = self
            .series
            .iter()
            .filter_map(|(series, _)| series.split_once('{'))
            .flat_map(|(_, labels)| labels.trim_end_matches('}').split(','))
            .map(|label| label.split_once('=').unwrap().0)
            .collect();
        labels.sort_unstable();
        labels.dedup();
        (self.name.clone(), self.kind.clone(), labels.join(" "))
    }
}

/// Reads the text format strictly: a help and a type line before each family, no line that is anything else, no series twice.
fn parse(text: &str) -> Vec<Parsed> {
    let mut families: Vec<Parsed> = Vec::new();
    let mut distinct = HashSet::new();
    let mut helped = None;
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(help.ends_with('.'), "{line}");
            helped = Some(name);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(helped, Some(name));
            families.push(Parsed { name: name.to_owned(), kind: kind.to_owned(), series: Vec::new() });
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let family = families.last_mut().unwrap();
            assert!(series.starts_with(&family.name), "{line} under {}", family.name);
            assert!(distinct.insert(series), "twice: {line}");
            family.series.push((series.to_owned(), value.parse().unwrap()));
        }
    }
    families
}

/// A counter in whole seconds moves in steps that no rate over less than minutes survives.
#[test]
fn time_of_the_cpu_is_told_in_parts_of_a_second() {
    let own = || {
        let stat = procfs::process::Process::myself().unwrap().stat().unwrap();
        (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
    };
    while !(0.1..0.9).contains(&own().fract()) {
        std::hint::black_box((0..1000).sum::<u64>());
    }
    let metrics = Metrics::new();
    let before = own();
    let text = metrics.render();
    let told = text.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total ")).unwrap();

    let told: f64 = told.parse().unwrap();
    assert!((before..=own()).contains(&told), "{told} after {before}");
}
