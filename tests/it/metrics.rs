//! What is measured and where it is shown: families and labels, their bound, and the admin listener.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::*;

#[tokio::test]
async fn every_family_is_there_under_its_name() {
    let ca = Ca::new();
    let origin = Origin::echo().await;
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &to(&origin)).await;
    gateway.post("/fn/x", "12345").await;
    gateway.get("/nowhere").await;
    gateway.access_log(2).await;
    assert!(gateway.reload(&format!("{}# changed\n", to_tls(&origin))).await);

    let text = gateway.admin_get("/metrics").await.text();
    for (family, kind) in [
        ("http_requests_total", "counter"),
        ("http_request_duration_seconds", "histogram"),
        ("gateway_overhead_seconds", "histogram"),
        ("upstream_first_byte_seconds", "histogram"),
        ("upstream_connect_seconds", "histogram"),
        ("upstream_connections_open", "gauge"),
        ("upstream_connections_total", "counter"),
        ("failures_total", "counter"),
        ("requests_in_flight", "gauge"),
        ("request_bytes_total", "counter"),
        ("response_bytes_total", "counter"),
        ("config_reloads_total", "counter"),
        ("config_last_reload_successful", "gauge"),
        ("config_last_reload_success_timestamp_seconds", "gauge"),
        ("config_info", "gauge"),
        ("tls_certificate_not_after_seconds", "gauge"),
        ("build_info", "gauge"),
    ] {
        assert!(text.contains(&format!("# TYPE fngate_{family} {kind}\n")), "{family} is missing in\n{text}");
        assert!(text.contains(&format!("# HELP fngate_{family} ")), "{family} has no help");
    }
    for family in ["process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds"] {
        assert!(text.contains(family), "{family} is missing");
    }
    let metrics = gateway.metrics().await;
    assert!(!metrics.label("fngate_build_info", "version").is_empty());
    assert!(
        metrics.has("fngate_build_info", &[]) && !metrics.label("fngate_build_info", "commit").is_empty()
    );
    assert!(!metrics.label("fngate_config_info", "hash").is_empty());
}

#[tokio::test]
async fn a_request_is_counted_with_what_it_moved() {
    let origin = Origin::http1().reply(|_| Reply::text(200, "1234567")).start().await;
    let gateway = Gateway::start(&to(&origin)).await;

    gateway.post("/fn/x", "12345").await;
    gateway.access_log(1).await;

    let metrics = gateway.metrics().await;
    let route = [("route", "hello")];
    let labels = [("route", "hello"), ("platform", "http"), ("method", "POST"), ("code", "200")];
    assert_eq!(metrics.counter("fngate_http_requests_total", &labels), 1.0);
    assert_eq!(metrics.counter("fngate_request_bytes_total", &[]), 5.0);
    assert_eq!(metrics.counter("fngate_response_bytes_total", &[]), 7.0);
    for histogram in ["http_request_duration", "gateway_overhead", "upstream_first_byte", "upstream_connect"]
    {
        assert_eq!(metrics.counter(&format!("fngate_{histogram}_seconds_count"), &route), 1.0, "{histogram}");
    }
    for le in ["0.0005", "900"] {
        assert!(metrics.has("fngate_http_request_duration_seconds_bucket", &[("le", le)]), "no bucket {le}");
    }
    let total = metrics.counter("fngate_http_request_duration_seconds_sum", &route);
    let ours = metrics.counter("fngate_gateway_overhead_seconds_sum", &route);
    assert!(0.0 < ours && ours <= total, "{ours} of {total}");
}

#[tokio::test]
async fn what_is_ours_does_not_grow_with_the_functions_time() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            exchange.answer(Reply::text(200, "slow")).await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&to(&origin)).await;

    gateway.get("/fn/x").await;
    gateway.access_log(1).await;

    let metrics = gateway.metrics().await;
    let total = metrics.counter("fngate_http_request_duration_seconds_sum", &[]);
    let ours = metrics.counter("fngate_gateway_overhead_seconds_sum", &[]);
    let first_byte = metrics.counter("fngate_upstream_first_byte_seconds_sum", &[]);
    assert!(total >= 0.5 && first_byte >= 0.5, "{total} and {first_byte} of half a second");
    assert!(ours <= total - 0.49, "{ours} of {total}: the function's time is not ours");
}

#[tokio::test]
async fn requests_in_flight_go_up_and_down() {
    let (origin, gate) = held().await;
    let gateway = Gateway::start(&to(&origin)).await;
    let mut client = gateway.client().await;

    client.start(&Request::get("/fn/x")).await;
    gateway.counts("fngate_requests_in_flight", &[("route", "hello")], 1.0).await;
    gate.open();
    client.response("GET").await;
    gateway.counts("fngate_requests_in_flight", &[("route", "hello")], 0.0).await;
}

#[tokio::test]
async fn no_client_can_make_a_series() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin)).await;
    let mut client = gateway.client().await;
    client.call(&Request::get("/fn/x")).await;
    client.call(&Request::new("BREW", "/fn/x")).await;
    client.call(&Request::get("/nowhere")).await;
    gateway.access_log(3).await;
    let before = series(&gateway).await;

    for n in 0..100 {
        client.call(&Request::get(&format!("/fn/{n}")).header("Host", &format!("h{n}.test"))).await;
        client.call(&Request::new(&format!("BREW{n}"), "/fn/x")).await;
        client.call(&Request::get(&format!("/nowhere/{n}"))).await;
    }
    gateway.access_log(303).await;

    let after = series(&gateway).await;
    assert_eq!(after.difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(!after.iter().any(|series| series.contains("BREW")));
}

#[tokio::test]
async fn counts_and_log_lines_agree() {
    let origin = Origin::echo().await;
    let refusing = Refusing::new();
    let yaml = routes(&[
        ("good", "/good/*", &format!("http: {{ url: '{}/' }}", origin.url())),
        ("bad", "/bad", &format!("http: {{ url: 'http://{}/' }}", refusing.addr())),
    ]);
    let gateway = Gateway::start(&format!("limits: {{ body: 10 }}\n{yaml}")).await;

    for _ in 0..5 {
        gateway.get("/good/x").await;
        gateway.get("/bad").await;
        gateway.get("/good/..").await;
        gateway.get("/none").await;
        gateway.post("/good/x", "more than ten bytes").await;
    }

    let log = gateway.access_log(25).await;
    let failed = |reason: &str| log.iter().filter(|line| line["reason"] == reason).count() as f64;
    gateway.counts("fngate_http_requests_total", &[], 25.0).await;
    let metrics = gateway.metrics().await;
    for code in ["upstream_connect", "bad_path", "no_route", "body_too_large"] {
        assert_eq!(
            (failed(code), metrics.counter("fngate_failures_total", &[("code", code)])),
            (5.0, 5.0),
            "{code}"
        );
    }
    let ids: BTreeSet<&str> = log.iter().map(|line| line["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 25);
}

#[tokio::test]
async fn the_admin_listener_answers_its_four_questions() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin)).await;

    assert_eq!(gateway.admin_get("/healthz").await.status(), 200);
    assert_eq!(gateway.admin_get("/readyz").await.status(), 200);
    assert!(!gateway.admin_get("/readyz?verbose").await.text().is_empty());
    let table = gateway.admin_get("/routes").await;
    assert_eq!(table.header("content-type"), Some("application/json"));
    assert!(table.json::<Value>().to_string().contains("hello"), "{}", table.text());
    let metrics = gateway.admin_get("/metrics").await;
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));

    assert_eq!(gateway.admin_get("/nowhere").await.status(), 404);
    for path in ["/metrics", "/healthz", "/routes"] {
        assert_eq!(gateway.get(path).await.code(), "no_route", "{path} is not for everybody");
    }
}

#[tokio::test]
async fn the_admin_listener_changes_nothing_and_shows_no_secret() {
    let origin = Origin::echo().await;
    let target = format!(
        "openfunction: {{ function_uri: '{}/', authorization: {{ service_token: 'user:do-not-show' }} }}",
        origin.url()
    );
    let gateway = Gateway::start(&route("/fn/*", &target)).await;
    gateway.get("/fn/x").await;

    for path in ["/metrics", "/routes", "/readyz?verbose", "/healthz"] {
        assert!(!gateway.admin_get(path).await.text().contains("do-not-show"), "{path}");
        let answer = gateway.admin_send(&Request::post(path, "")).await;
        assert_eq!(answer.status(), 405, "{path}");
    }
    assert!(!gateway.stderr().contains("do-not-show"));
}

#[tokio::test]
async fn web_pages_cannot_look_at_the_admin_listener() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin)).await;

    for (name, value) in [
        ("Host", "evil.example.com"),
        ("Origin", "https://evil.example.com"),
        ("Sec-Fetch-Site", "cross-site"),
    ] {
        let answer = gateway.admin_send(&Request::get("/metrics").header(name, value)).await;
        assert_eq!(answer.status(), 403, "{name}");
        assert!(!answer.text().contains("fngate_"), "{name}");
    }
}

/// Every series there is, without its value.
async fn series(gateway: &Gateway) -> BTreeSet<String> {
    let text = gateway.admin_get("/metrics").await.text();
    let lines = text.lines().filter(|line| line.starts_with("fngate_"));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

fn to(origin: &Origin) -> String {
    route("/fn/*", &format!("http: {{ url: '{}/' }}", origin.url()))
}

/// The same under the listeners of `start_tls`, which a reload must not change.
fn to_tls(origin: &Origin) -> String {
    format!("{TLS_LISTENERS}{}", to(origin))
}
