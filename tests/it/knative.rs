//! Knative services: found by Host behind one ingress, and what on the way to them must not be the client's to say.

use serde_json::json;

use crate::harness::*;

#[tokio::test]
async fn services_share_an_ingress_and_are_told_apart_by_host() {
    let ingress = Origin::echo().await;
    let yaml = format!(
        "defaults: {{ knative: {{ domain: example.com, address: '{}' }} }}\n{}",
        ingress.addr(),
        routes(&[
            ("hello", "/hello/*", "knative: { service: hello, path: /api }"),
            ("tagged", "/tagged", "knative: { service: hello, namespace: prod, tag: v2 }"),
            ("host", "/host", "knative: { host: hello.ofn.io }"),
            (
                "any",
                "/fn/{ns}/{name}/*",
                "knative: { service: '{name}', namespace: '{ns}', allow: [ 'team-*', img ] }"
            ),
        ])
    );
    let gateway = Gateway::start(&yaml).await;

    for (path, host, target) in [
        ("/hello/a%2Fb?x=1", "hello.default.example.com", "/api/a%2Fb?x=1"),
        ("/tagged", "v2-hello.prod.example.com", "/"),
        ("/host", "hello.ofn.io", "/"),
        ("/fn/team-a/img/x", "img.team-a.example.com", "/x"),
    ] {
        let seen: Echo = gateway.get(path).await.json();
        assert_eq!((seen.header("host"), seen.target.as_str()), (Some(host), target), "{path}");
    }
    for (path, code) in [
        ("/fn/team-a/team-x%2Eother/x", "bad_path"),
        ("/fn/team-a/..%2Fimg/x", "bad_path"),
        ("/fn/team-a/IMG/x", "no_route"),
        ("/fn/kube-system/img/x", "no_route"),
    ] {
        assert_eq!(gateway.get(path).await.code(), code, "{path}");
    }
    assert_eq!(ingress.requests().len(), 4);
}

#[tokio::test]
async fn address_host_and_server_name_are_three_things() {
    let ca = Ca::new();
    let ingress = Origin::http1().echo().tls(ca.leaf(&["kourier.test"]).server(&["http/1.1"])).start().await;
    let target = format!(
        "knative: {{ service: '{{name}}', domain: example.com, scheme: https, address: '{}', sni: kourier.test, \
         ca: $DIR/ca.pem }}",
        ingress.addr()
    );
    let gateway = Gateway::builder().file("ca.pem", ca.pem()).start(&route("/fn/{name}", &target)).await;

    let seen: Echo = gateway.get("/fn/hello").await.json();

    assert_eq!(seen.header("host"), Some("hello.default.example.com"));
    assert_eq!(ingress.greeting(0).server_name.as_deref(), Some("kourier.test"));
}

#[tokio::test]
async fn what_steers_knative_never_leaves_the_gateway() {
    let ingress = Origin::echo().await;
    let target = format!("knative: {{ service: hello, domain: example.com, address: '{}' }}", ingress.addr());
    let gateway = Gateway::start(&route("/fn", &target)).await;
    let mut client = gateway.client().await;

    client
        .send(
            "GET /fn HTTP/1.1\r\nHost: h\r\nK-Network-Probe: queue\r\nk-original-host: evil\r\nK-ORIGINAL-HOST: evil\r\n\
             K-Kubelet-Probe: 1\r\nKnative-Serving-Revision: other\r\nknative-serving-namespace: other\r\n\
             User-Agent: kube-probe/1.32\r\nX-Kept: 1\r\n\r\n",
        )
        .await;

    assert_eq!(client.response("GET").await.status(), 200);
    let bytes = String::from_utf8(ingress.bytes_of(0)).unwrap().to_ascii_lowercase();
    assert!(bytes.contains("\r\nx-kept: 1\r\n"), "{bytes}");
    for wrong in ["\r\nk-", "knative-serving-", "kube-probe", "evil", "other"] {
        assert!(!bytes.contains(wrong), "{wrong}: {bytes}");
    }
}

#[tokio::test]
async fn a_call_that_never_reached_the_function_is_told_from_one_that_did() {
    let text = "text/plain; charset=utf-8";
    for (status, body, reason) in [
        (503, "pending request queue full\n", json!("not_reached")),
        (503, "context deadline exceeded\n", json!("not_reached")),
        (
            404,
            "Error getting active endpoint: revision.serving.knative.dev \"x\" not found\n",
            json!("not_reached"),
        ),
        (503, "busy with something else\n", json!(null)),
        (502, "EOF\n", json!(null)),
    ] {
        let origin = Origin::http1()
            .reply(move |_| Reply::new(status, body).header("Content-Type", text))
            .start()
            .await;
        let target =
            format!("knative: {{ service: hello, domain: example.com, address: '{}' }}", origin.addr());
        let gateway = Gateway::start(&route("/fn", &target)).await;

        let answer = gateway.get("/fn").await;

        assert_eq!((answer.status(), answer.text().as_str()), (status, body));
        let line = gateway.line_of(&answer).await;
        assert_eq!(line["reason"], reason, "{body}");
        let counted = if reason.is_null() { 0.0 } else { 1.0 };
        gateway
            .counts("fngate_failures_total", &[("route", "hello"), ("code", "not_reached")], counted)
            .await;
    }
}

/// The stock gateway of OpenFunction finds a function by `{name}.{namespace}.ofn.io`, or by `/{namespace}/{name}`.
#[tokio::test]
async fn openfunctions_own_host_and_path_templates() {
    let gateway_of_the_cluster = Origin::echo().await;
    let (addr, url) = (gateway_of_the_cluster.addr(), gateway_of_the_cluster.url());
    let gateway = Gateway::start(&routes(&[
        (
            "by-host",
            "/host/{ns}/{name}/*",
            &format!("openfunction: {{ function_uri: 'http://ofn.io', host: '{{name}}.{{ns}}.ofn.io', address: '{addr}' }}"),
        ),
        ("by-path", "/path/{ns}/{name}/*", &format!("openfunction: {{ function_uri: '{url}/{{ns}}/{{name}}' }}")),
    ]))
    .await;

    let seen: Echo = gateway.get("/host/default/sample/World?u=1").await.json();
    assert_eq!((seen.header("host"), seen.target.as_str()), (Some("sample.default.ofn.io"), "/World?u=1"));
    let seen: Echo = gateway.get("/path/default/sample/World?u=1").await.json();
    assert_eq!(
        (seen.header("host"), seen.target.as_str()),
        (Some(addr.to_string().as_str()), "/default/sample/World?u=1")
    );
    assert_eq!(gateway.get("/host/default/a.b/x").await.code(), "bad_path");
}
