//! OpenFaaS: functions behind its gateway, called at once or queued.

use serde_json::json;

use crate::harness::*;

#[tokio::test]
async fn one_route_serves_every_function_of_a_namespace() {
    let faas = Origin::echo().await;
    let keys = format!("gateway_uri: '{}', namespace: dev", faas.url());
    let gateway = Gateway::start(&routes(&[
        ("suffix", "/fn/*", &format!("openfaas: {{ {keys}, allow: [ 'img-*', hello ] }}")),
        ("parameter", "/one/{name}", &format!("openfaas: {{ {keys}, function: '{{name}}' }}")),
        ("fixed", "/hello/*", &format!("openfaas: {{ {keys}, function: hello }}")),
    ]))
    .await;

    for (path, target) in [
        ("/fn/img-a/x%2Fy?q=1", "/function/img-a.dev/x%2Fy?q=1"),
        ("/fn/hello", "/function/hello.dev"),
        ("/one/hello?q", "/function/hello.dev?q"),
        ("/hello/x", "/function/hello.dev/x"),
    ] {
        assert_eq!(gateway.get(path).await.json::<Echo>().target, target);
    }
    for (path, code) in [
        ("/fn/", "no_route"),
        ("/fn/other/x", "no_route"),
        ("/one/hello.prod", "bad_path"),
        ("/one/hello%2Eprod", "bad_path"),
        ("/one/a%2Fb", "bad_path"),
    ] {
        assert_eq!(gateway.get(path).await.code(), code, "{path}");
    }
    assert_eq!(faas.requests().len(), 4);
}

#[tokio::test]
async fn scaling_that_ran_out_of_time_is_a_time_out() {
    let faas = Origin::http1()
        .reply(|request| match request.target() {
            "/function/timed" => Reply::new(200, "").header("X-Duration-Seconds", "0.1"),
            _ => Reply::new(200, "").header("X-Call-Id", "1"),
        })
        .start()
        .await;
    let gateway = Gateway::start(&routes(&[
        ("fn", "/fn/*", &format!("openfaas: {{ gateway_uri: '{}' }}", faas.url())),
        ("pass", "/pass/*", &format!("openfaas: {{ gateway_uri: '{}', empty_200: pass }}", faas.url())),
    ]))
    .await;

    let answer = gateway.get("/fn/asleep").await;
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"));
    let line = gateway.line_of(&answer).await;
    assert_eq!((&line["reason"], &line["activation_id"]), (&json!("upstream_timeout"), &json!("1")));

    for (method, path) in [("GET", "/fn/timed"), ("HEAD", "/fn/asleep"), ("GET", "/pass/asleep")] {
        assert_eq!(gateway.send(&Request::new(method, path)).await.status(), 200, "{method} {path}");
    }
}

#[tokio::test]
async fn a_queued_call_is_accepted_and_has_a_name() {
    let faas = Origin::http1().reply(|_| Reply::new(202, "").header("X-Call-Id", "5f1c-1")).start().await;
    let target = format!(
        "openfaas: {{ gateway_uri: '{}', function: hello, mode: async, callback_hosts: [ '*.example.com' ] }}",
        faas.url()
    );
    let gateway = Gateway::start(&route("/queue/*", &target)).await;
    let callback = |url: &str| Request::post("/queue/x", "work").header("X-Callback-Url", url);

    let request = callback("https://hooks.example.com/done")
        .header("X-Call-Id", "forged")
        .header("X-OpenFaaS-Internal", "gateway");
    let answer = gateway.send(&request).await;
    assert_eq!((answer.status(), answer.header("x-call-id")), (202, Some("5f1c-1")));
    let seen = faas.only_request();
    assert_eq!((seen.target(), seen.body.as_slice()), ("/async-function/hello/x", &b"work"[..]));
    assert_eq!(seen.header("x-callback-url"), Some("https://hooks.example.com/done"));
    assert_eq!((seen.header("x-call-id"), seen.header("x-openfaas-internal")), (None, None));
    let line = gateway.line_of(&answer).await;
    assert_eq!((&line["activation_id"], &line["reason"]), (&json!("5f1c-1"), &json!(null)));

    for url in ["http://169.254.169.254/", "http://hooks.example.com@evil.test/"] {
        let answer = gateway.send(&callback(url)).await;
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_request"), "{url}");
    }
    let answer = gateway.get("/queue/x").await;
    assert_eq!((answer.status(), answer.header("allow")), (405, Some("POST")));
    assert_eq!(gateway.line_of(&answer).await["attempts"], json!(0));
    assert_eq!(faas.requests().len(), 1);
}

#[tokio::test]
async fn a_function_that_does_not_exist_was_not_reached() {
    let faas = Origin::http1()
        .reply(|request| match request.target() {
            "/function/missing" => Reply::new(404, "error finding function missing: not there"),
            _ => Reply::text(404, "no such page").header("X-Duration-Seconds", "0.1"),
        })
        .start()
        .await;
    let gateway =
        Gateway::start(&route("/fn/*", &format!("openfaas: {{ gateway_uri: '{}' }}", faas.url()))).await;

    for (path, reason) in [("/fn/missing", json!("not_reached")), ("/fn/site", json!(null))] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status(), 404);
        let line = gateway.line_of(&answer).await;
        assert_eq!(line["reason"], reason, "{path}");
    }
}

#[tokio::test]
async fn the_gateways_credential_replaces_the_clients() {
    let faas =
        Origin::http1().reply(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic")).start().await;
    let target = format!(
        "openfaas: {{ gateway_uri: '{}', function: hello, authorization: {{ token: {{ env: TOKEN }} }} }}",
        faas.url()
    );
    let gateway = Gateway::builder().env("TOKEN", "t0ken").start(&route("/fn", &target)).await;

    let answer = gateway.send(&Request::get("/fn").header("Authorization", "Bearer mine")).await;

    assert_eq!((answer.status(), answer.header("www-authenticate")), (401, None));
    assert_eq!(faas.only_request().all("authorization"), ["Bearer t0ken"]);
    let line = gateway.line_of(&answer).await;
    assert_eq!(line["reason"], "credential_refused");
}
