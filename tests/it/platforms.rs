//! What every platform has to go through, and what only one of them can do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::*;

#[tokio::test]
async fn every_platform_answers_a_plain_call() {
    for platform in PLATFORMS {
        let origin = answering().await;
        let gateway = Gateway::start(&platform.route(&origin, "")).await;

        let answer = gateway.get("/fn").await;

        assert_eq!((answer.status(), answer.json::<Value>()), (200, json!({ "ok": true })), "{platform:?}");
        let line = gateway.access_log(1).await.remove(0);
        assert_eq!((&line["platform"], &line["status"]), (&json!(platform.name()), &json!(200)));
    }
}

#[tokio::test]
async fn every_platform_speaks_tls_and_knows_whom_it_speaks_to() {
    let ca = Ca::new();
    for platform in PLATFORMS {
        let reply = |_: &Recorded| Reply::json(&json!({ "ok": true }));
        let origin =
            Origin::http1().reply(reply).tls(ca.leaf(&["fn.test"]).server(&["http/1.1"])).start().await;
        let more = |trust: &str| format!("address: '{}', {trust}", origin.addr());
        let yaml = platform.route_to("https://fn.test", &more("ca: $DIR/ca.pem"));
        let gateway = Gateway::builder().file("ca.pem", ca.pem()).start(&yaml).await;
        let distrustful = Gateway::start(&platform.route_to("https://fn.test", &more(""))).await;

        assert_eq!(gateway.get("/fn").await.status(), 200, "{platform:?}");
        assert_eq!(distrustful.get("/fn").await.code(), "upstream_tls", "{platform:?}");

        assert_eq!(origin.greeting(0).server_name.as_deref(), Some("fn.test"));
        assert_eq!(origin.only_request().header("host"), Some("fn.test"), "{platform:?}");
    }
}

#[tokio::test]
async fn every_platform_passes_a_large_body() {
    for platform in PLATFORMS {
        let origin = Origin::http1()
            .reply(|request| Reply::new(200, request.body.clone()).header("Content-Type", "application/json"))
            .start()
            .await;
        let gateway = Gateway::start(&platform.route(&origin, "")).await;
        let body = json!({ "large": "x".repeat(900_000) }).to_string();

        let answer = gateway.send(&Request::post_json("/fn", &body)).await;

        assert_eq!(answer.status(), 200, "{platform:?}");
        assert!(answer.text() == body, "{platform:?}: {} of {} bytes", answer.body.len(), body.len());
    }
}

#[tokio::test]
async fn every_platform_names_what_went_wrong_on_the_way() {
    for platform in PLATFORMS {
        let refusing = Refusing::new();
        let silent = Silent::new();
        let mute =
            Origin::http1().script(|mut exchange| async move { exchange.peer_closed().await }).start().await;
        let broken = Origin::raw("").await;
        let garbage = Origin::raw("HTTP/1.1 nonsense\r\n\r\n").await;
        let late = match platform {
            // An action's `timeout` is OpenWhisk's own; the gateway waits some seconds more for its 202.
            Platform::OpenWhisk => "timeout: 100, deadline: 600ms",
            _ => "timeout: 300",
        };
        let cases = [
            (refusing.addr(), "", 502, &["upstream_connect"][..]),
            (silent.addr(), "connect_timeout: 200", 504, &["connect_timeout"]),
            (mute.addr(), late, 504, &["upstream_timeout", "deadline"]),
            (broken.addr(), "", 502, &["upstream_reset"]),
            (garbage.addr(), "", 502, &["upstream_protocol"]),
        ];
        let yaml =
            cases.iter().enumerate().fold("routes:\n".to_owned(), |text, (number, (addr, more, ..))| {
                let target = platform.target(&format!("http://{addr}"), more);
                text + &format!(
                    "  - name: r{number}\n    match: {{ path: /{number} }}\n    target: {{ {target} }}\n"
                )
            });
        let gateway = Gateway::start(&yaml).await;

        for (number, (_, _, status, codes)) in cases.iter().enumerate() {
            let answer = gateway.get(&format!("/{number}")).await;
            let code = answer.code();
            assert!(
                answer.status() == *status && codes.contains(&code.as_str()),
                "{platform:?}: {code}, not {codes:?}"
            );
            let line = gateway.line_of(&answer).await;
            assert_eq!((&line["reason"], &line["platform"]), (&json!(code), &json!(platform.name())));
            let labels = [("route", &*format!("r{number}")), ("code", &*code)];
            gateway.counts("fngate_failures_total", &labels, 1.0).await;
        }
    }
}

#[tokio::test]
async fn every_platform_notices_that_the_client_left() {
    for platform in PLATFORMS {
        let origin =
            Origin::http1().script(|mut exchange| async move { exchange.peer_closed().await }).start().await;
        let gateway = Gateway::start(&platform.route(&origin, "")).await;

        let mut client = gateway.client().await;
        client.start(&Request::get("/fn")).await;
        origin.request(0).await;
        client.reset();

        origin.settles_at(0).await;
        let line = gateway.access_log(1).await.remove(0);
        assert_eq!((&line["reason"], &line["status"]), (&json!("client_gone"), &json!(499)), "{platform:?}");
    }
}

#[tokio::test]
async fn every_platform_keeps_a_request_through_a_reload() {
    for platform in PLATFORMS {
        let gate = Gate::closed();
        let origin = Origin::http1()
            .gated(&gate, |mut exchange, gate| async move {
                exchange.body().await;
                gate.passed().await;
                exchange.answer(Reply::json(&json!({ "ok": true }))).await;
            })
            .start()
            .await;
        let gateway = Gateway::start(&platform.route(&origin, "")).await;
        let mut client = gateway.client().await;
        client.start(&Request::get("/fn")).await;
        origin.request(0).await;

        assert!(gateway.reload(&platform.route(&origin, "").replace("/fn", "/other")).await);
        gate.open();

        assert_eq!(client.response("GET").await.json::<Value>(), json!({ "ok": true }), "{platform:?}");
    }
}

#[tokio::test]
async fn an_action_that_is_still_running_answers_202() {
    let id = "44794bd6aab74415b4e42a308d880e5b";
    let accepted = move |_: &Recorded| {
        Reply::json(&json!({ "activationId": id })).with_status(202).header("x-openwhisk-activation-id", id)
    };
    let origin = Origin::http1().reply(accepted).start().await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&origin, "")).await;

    let answer = gateway.get("/fn").await;

    assert_eq!((answer.status(), answer.json::<Value>()), (202, json!({ "activationId": id })));
    assert_eq!(answer.header("x-openwhisk-activation-id"), Some(id));
}

#[tokio::test]
async fn the_gateway_waits_a_little_longer_than_openwhisk() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.body().await;
            // Later than the action's time, as a 202 always is.
            tokio::time::sleep(std::time::Duration::from_millis(1000)).await;
            exchange.answer(Reply::json(&json!({ "activationId": "1" })).with_status(202)).await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&origin, "timeout: 200")).await;

    assert_eq!(gateway.get("/fn").await.status(), 202);
    assert!(origin.only_request().target().ends_with("timeout=200"));
}

#[tokio::test]
async fn the_whole_record_when_it_is_asked_for() {
    let record = json!({ "activationId": "1", "response": { "result": { "statusCode": 418 } } });
    let value = record.clone();
    let origin = Origin::http1().reply(move |_| Reply::json(&value)).start().await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&origin, "result: false")).await;

    let answer = gateway.get("/fn").await;

    assert_eq!((answer.status(), answer.json::<Value>()), (200, record));
    assert!(origin.only_request().target().contains("result=false"));
}

#[tokio::test]
async fn nothing_of_the_client_reaches_an_action_but_its_body() {
    let origin = answering().await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&origin, "")).await;
    let request = Request::new("PUT", "/fn?a=1")
        .header("Authorization", "Bearer mine")
        .header("Cookie", "a=1")
        .header("X-Custom", "1")
        .header("Content-Type", "application/json")
        .body(r#"{"a": [1, 2.50, "é"]}"#);

    assert_eq!(gateway.send(&request).await.status(), 200);

    let seen = origin.only_request();
    assert_eq!(seen.method(), "POST");
    assert_eq!(seen.all("authorization"), [format!("Basic {}", STANDARD.encode("a:b"))]);
    assert_eq!((seen.header("cookie"), seen.header("x-custom")), (None, None));
    assert_eq!(
        String::from_utf8(seen.body).unwrap(),
        r#"{"a": [1, 2.50, "é"]}"#,
        "a JSON object goes as it is"
    );
}

#[tokio::test]
async fn only_json_objects_are_action_input() {
    let origin = answering().await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&origin, "")).await;

    for body in ["[1]", "5", "\"text\"", "null", "{", "{}x", "\u{0}"] {
        let answer = gateway.send(&Request::post_json("/fn", body)).await;
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_request"), "{body:?}");
    }
    assert_eq!(origin.requests().len(), 0);
    assert_eq!(gateway.post("/fn", "").await.status(), 200);
    assert_eq!(origin.only_request().body, b"{}");
}

#[tokio::test]
async fn a_web_input_tells_the_action_everything() {
    let origin = answering().await;
    let yaml = Platform::OpenWhisk.route(&origin, "input: web").replace("\"/fn\"", "\"/fn/*\"");
    let gateway = Gateway::start(&yaml).await;

    let request =
        Request::post_json("/fn/a/b?q=1&over=query", r#"{"over": "body", "n": 5}"#).header("X-Custom", "yes");
    assert_eq!(gateway.send(&request).await.status(), 200);
    assert_eq!(
        gateway
            .send(&Request::post("/fn/raw", "plain text").header("Content-Type", "text/plain"))
            .await
            .status(),
        200
    );
    assert_eq!(gateway.get("/fn/").await.status(), 200);

    let inputs: Vec<Value> =
        origin.requests().iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    let input = &inputs[0];
    assert_eq!(input["__ow_method"], "post");
    assert_eq!(input["__ow_path"], "/a/b");
    assert_eq!(input["__ow_headers"]["x-custom"], "yes");
    assert_eq!(
        (&input["q"], &input["over"], &input["n"]),
        (&json!("1"), &json!("body"), &json!(5)),
        "{input}"
    );
    assert_eq!(inputs[1]["__ow_body"], "plain text");
    assert_eq!(inputs[2]["__ow_method"], "get");
}

#[tokio::test]
async fn bodies_of_actions_are_bounded() {
    let large = Origin::http1().reply(|_| Reply::json(&json!({ "x": "y".repeat(1_100_000) }))).start().await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&large, "")).await;

    let answer = gateway.get("/fn").await;
    assert_eq!(answer.status(), 502, "an answer over the bound");
    assert_eq!(large.requests().len(), 1);

    let request = Request::post_json("/fn", &json!({ "x": "y".repeat(1_100_000) }).to_string());
    let answer = gateway.send(&request).await;
    assert_eq!((answer.status(), answer.code().as_str()), (413, "body_too_large"));
    assert_eq!(large.requests().len(), 1);
}

/// An ingress in front of the platform refuses by the head alone, and closes.
#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_heard() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.answer(Reply::json(&json!({ "error": "enough" })).with_status(413)).await;
            exchange.close();
        })
        .start()
        .await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&origin, "max_req_body_size: 16MiB")).await;
    let request = Request::post_json("/fn", &json!({ "x": "y".repeat(14 << 20) }).to_string());

    for _ in 0..2 {
        let answer = gateway.send(&request).await;
        assert_eq!((answer.status(), answer.text().as_str()), (413, r#"{"error":"enough"}"#));
    }
    assert_eq!(origin.accepted(), 2);
}

#[tokio::test]
async fn nodes_are_used_by_weight() {
    let (one, two) = (answering().await, answering().await);
    let target = format!(
        "http: {{ nodes: [ {{ address: '{}', weight: 3 }}, {{ address: '{}', weight: 1 }} ], path: /base }}",
        one.addr(),
        two.addr()
    );
    let gateway = Gateway::start(&route("/fn/*", &target)).await;

    for _ in 0..40 {
        assert_eq!(gateway.get("/fn/x").await.status(), 200);
    }

    assert_eq!((one.requests().len(), two.requests().len()), (30, 10));
    assert_eq!(one.requests()[0].target(), "/base/x");
}

#[tokio::test]
async fn a_node_that_refuses_is_passed_over() {
    let (refusing, good) = (Refusing::new(), answering().await);
    let target = format!(
        "http: {{ nodes: [ {{ address: '{}' }}, {{ address: '{}' }} ] }}",
        refusing.addr(),
        good.addr()
    );
    let gateway = Gateway::start(&route("/fn", &target)).await;

    for request in
        [Request::get("/fn"), Request::post("/fn", "x"), Request::get("/fn"), Request::post("/fn", "x")]
    {
        assert_eq!(
            gateway.send(&request).await.status(),
            200,
            "nothing was sent, so it is safe for every method"
        );
    }
    assert_eq!(good.requests().len(), 4);
}

#[tokio::test]
async fn a_node_that_refuses_is_passed_over_whatever_its_weight() {
    let (refusing, good) = (Refusing::new(), answering().await);
    let target = format!(
        "http: {{ nodes: [ {{ address: '{}', weight: 9 }}, {{ address: '{}', weight: 1 }} ] }}",
        refusing.addr(),
        good.addr()
    );
    let gateway = Gateway::start(&route("/fn", &target)).await;

    for _ in 0..10 {
        assert_eq!(gateway.get("/fn").await.status(), 200);
    }
}

#[tokio::test]
async fn a_node_that_dies_at_the_moment_of_reuse_is_passed_over() {
    let good = answering().await;
    let (mortal, dying) = mortal().await;
    let target = format!(
        "http: {{ nodes: [ {{ address: '{}', weight: 9 }}, {{ address: '{}', weight: 1 }} ] }}",
        mortal,
        good.addr()
    );
    let gateway = Gateway::start(&route("/fn", &target)).await;

    let answer = gateway.get("/fn").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(good.requests().len(), 0, "the heavier one comes first");
    // Its connection is back in the pool by then.
    gateway.line_of(&answer).await;
    assert_eq!(gateway.get("/fn").await.status(), 200);

    dying.await.unwrap();
    assert_eq!(good.requests().len(), 1);
}

#[tokio::test]
async fn an_action_takes_a_body_that_waits_to_be_asked_for() {
    let origin = answering().await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&origin, "")).await;
    let mut client = gateway.client().await;

    client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.head().await.word(1), "100");
    client.send(r#"{"a":1}"#).await;

    assert_eq!(client.response("POST").await.status(), 200);
    assert_eq!(origin.only_request().body, br#"{"a":1}"#);
}

#[tokio::test]
async fn a_web_action_is_told_only_what_can_be_believed_of_the_client() {
    let origin = answering().await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&origin, "input: web")).await;
    let request = Request::get("/fn")
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Real-IP", "203.0.113.7")
        .header("X-Forwarded-Proto", "https")
        .header("Forwarded", "for=203.0.113.7")
        .header("X-Request-Id", "forged");

    let id = gateway.send(&request).await.header("x-request-id").unwrap().to_owned();

    let parameters: Value = serde_json::from_slice(&origin.only_request().body).unwrap();
    let seen = &parameters["__ow_headers"];
    assert_eq!((&seen["x-forwarded-for"], &seen["x-real-ip"]), (&json!("127.0.0.1"), &json!("127.0.0.1")));
    assert_eq!((&seen["x-forwarded-proto"], &seen["x-request-id"]), (&json!("http"), &json!(id)));
    assert_eq!(seen["forwarded"], Value::Null);
}

/// What a client names in `Connection` is what it said itself, never what the gateway says in its place.
#[tokio::test]
async fn a_client_cannot_take_away_what_the_gateway_says() {
    for (platform, more) in [
        (Platform::OpenFunction, ""),
        (Platform::OpenWhisk, "input: web"),
        (Platform::SignedLambdaUrl, ""),
        (Platform::Lambda, "payload: apigw_v2"),
    ] {
        let origin = answering().await;
        let gateway = Gateway::start(&platform.route(&origin, more)).await;
        let mut client = gateway.client().await;
        client
            .send(
                "POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nUpgrade: h2c\r\n\
                 Proxy-Authorization: Basic eA==\r\nX-Inner: 1\r\nX-Outer: 2\r\n\
                 Connection: X-Inner, Keep-Alive\r\nConnection: X-Real-IP, x-request-id, TE, Upgrade\r\n\r\n",
            )
            .await;
        let id = client.response("POST").await.header("x-request-id").unwrap().to_owned();

        let sent = origin.only_request();
        let told: Value = serde_json::from_slice(&sent.body).unwrap_or_default();
        let told = told.get("__ow_headers").or(told.get("headers"));
        let said = |name: &str| match told {
            Some(told) => told.get(name).and_then(Value::as_str),
            None => sent.header(name),
        };
        assert_eq!((said("x-real-ip"), said("x-request-id")), (Some("127.0.0.1"), Some(&*id)), "{sent:#?}");
        assert_eq!(said("x-outer"), Some("2"), "{sent:#?}");
        for left in ["connection", "keep-alive", "proxy-authorization", "te", "upgrade", "x-inner"] {
            assert_eq!(said(left), None, "{left}: {sent:#?}");
        }
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_interim_answer() {
    let origin = answering().await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&origin, "")).await;
    let mut client = gateway.client().await;

    client.send("POST /fn HTTP/1.0\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}").await;

    assert_eq!(client.head().await.word(1), "200");
}

#[tokio::test]
async fn an_action_answers_head_without_a_body() {
    let origin = answering().await;
    let gateway = Gateway::start(&Platform::OpenWhisk.route(&origin, "")).await;
    let mut client = gateway.client().await;

    assert_eq!(client.call(&Request::new("HEAD", "/fn")).await.status(), 200);
    assert_eq!(
        client.call(&Request::get("/fn")).await.json::<Value>(),
        json!({ "ok": true }),
        "nothing was left over"
    );
}

#[tokio::test]
async fn a_name_with_several_addresses_or_one_is_resolved() {
    let origin = answering().await;
    let port = origin.addr().port();
    let gateway = Gateway::start(&routes(&[
        ("url", "/url", &format!("http: {{ url: 'http://localhost:{port}/' }}")),
        ("address", "/address", &format!("http: {{ url: 'http://fn.test/', address: 'localhost:{port}' }}")),
        ("node", "/node", &format!("http: {{ nodes: [ {{ address: 'localhost:{port}' }} ] }}")),
    ]))
    .await;

    for path in ["/url", "/address", "/node"] {
        assert_eq!(gateway.get(path).await.status(), 200, "{path}");
    }
    assert_eq!(origin.requests()[0].header("host"), Some(format!("localhost:{port}").as_str()));
}

#[tokio::test]
async fn headers_of_a_target_replace_the_clients() {
    let origin = Origin::echo().await;
    let target = format!(
        "http: {{ url: '{}/', headers: {{ X-Api-Key: {{ env: API_KEY }}, X-Fixed: literal }} }}",
        origin.url()
    );
    let gateway = Gateway::builder().env("API_KEY", "s3cret").start(&route("/fn", &target)).await;

    let request = Request::get("/fn").header("x-api-key", "forged").header("X-Fixed", "forged");
    gateway.send(&request).await;

    let seen = origin.only_request();
    assert_eq!((seen.all("x-api-key"), seen.all("x-fixed")), (vec!["s3cret"], vec!["literal"]));
    assert!(!gateway.admin_get("/routes").await.text().contains("s3cret"));
}

#[tokio::test]
async fn defaults_of_a_platform_are_merged_under_its_targets() {
    let origin = answering().await;
    let yaml = format!(
        "defaults:
  openwhisk: {{ api_host: '{}', service_token: 'a:b', namespace: guest, timeout: 7000 }}
routes:
  - name: one
    match: {{ path: /one }}
    target: {{ openwhisk: {{ action: one }} }}
  - name: two
    match: {{ path: /two }}
    target: {{ openwhisk: {{ action: two, namespace: other, timeout: 8000 }} }}
",
        origin.url()
    );
    let gateway = Gateway::start(&yaml).await;

    gateway.get("/one").await;
    gateway.get("/two").await;

    let targets: Vec<String> = origin.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(
        targets,
        [
            "/api/v1/namespaces/guest/actions/one?blocking=true&result=true&timeout=7000",
            "/api/v1/namespaces/other/actions/two?blocking=true&result=true&timeout=8000",
        ]
    );
}

#[derive(Clone, Copy, Debug)]
enum Platform {
    OpenFunction,
    OpenWhisk,
    /// A URL of API Gateway, or a function's own.
    LambdaUrl,
    /// The same, signed.
    SignedLambdaUrl,
    /// Lambda's API.
    Lambda,
    AzureFunctions,
    Knative,
    OpenFaas,
    Http,
}

impl Platform {
    fn name(self) -> &'static str {
        match self {
            Self::OpenFunction => "openfunction",
            Self::OpenWhisk => "openwhisk",
            Self::LambdaUrl | Self::SignedLambdaUrl | Self::Lambda => "aws_lambda",
            Self::AzureFunctions => "azure_functions",
            Self::Knative => "knative",
            Self::OpenFaas => "openfaas",
            Self::Http => "http",
        }
    }

    fn route(self, origin: &Origin, more: &str) -> String {
        self.route_to(&origin.url(), more)
    }

    /// A route `/fn` to a function of this platform.
    fn route_to(self, url: &str, more: &str) -> String {
        route("/fn", &self.target(url, more))
    }

    fn target(self, url: &str, more: &str) -> String {
        let keys = match self {
            Self::OpenFunction | Self::AzureFunctions => format!("function_uri: '{url}/'"),
            Self::OpenWhisk => {
                format!("api_host: '{url}', service_token: 'a:b', namespace: guest, action: test")
            }
            Self::LambdaUrl => format!("function_uri: '{url}/', authorization: {{ apikey: key }}"),
            Self::SignedLambdaUrl => format!("function_uri: '{url}/', {IAM}"),
            Self::Lambda => format!("function: test, region: eu-west-1, endpoint: '{url}', {IAM}"),
            Self::Knative => {
                let (scheme, host) = url.split_once("://").unwrap();
                format!("scheme: {scheme}, host: '{host}'")
            }
            Self::OpenFaas => format!("gateway_uri: '{url}', function: test"),
            Self::Http => format!("url: '{url}/'"),
        };
        format!("{}: {{ {keys}, {more} }}", self.name())
    }
}

/// What every platform takes for a good answer.
async fn answering() -> Origin {
    Origin::http1().reply(|_| Reply::json(&json!({ "ok": true }))).start().await
}

const IAM: &str = "authorization: { iam: { accesskey: AKID, secretkey: secret } }";

const PLATFORMS: [Platform; 9] = [
    Platform::OpenFunction,
    Platform::OpenWhisk,
    Platform::LambdaUrl,
    Platform::SignedLambdaUrl,
    Platform::Lambda,
    Platform::Knative,
    Platform::AzureFunctions,
    Platform::OpenFaas,
    Platform::Http,
];
