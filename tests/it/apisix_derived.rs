//! Acceptance cases derived from what the APISIX plugins do badly: for each, the better outcome. Where a whole module
//! is about the same thing, the case here is the one input that showed the weakness.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::*;

#[tokio::test]
async fn derived_01_escapes_arrive_as_sent() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/ext/*", &openfunction(&origin, "/fn"))).await;

    for suffix in ["a%20b", "a%3Fb", "a%23b", "a%2Fb", "100%25", "caf%C3%A9"] {
        let echo = gateway.get(&format!("/ext/{suffix}")).await.json::<Echo>();
        assert_eq!(echo.target, format!("/fn/{suffix}"));
    }
}

#[tokio::test]
async fn derived_02_a_line_end_in_the_path_is_never_one_at_the_function() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/ext/*", &openfunction(&origin, "/fn"))).await;

    let answer = gateway.get("/ext/x%0d%0aY:%201").await;

    assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_path"));
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn derived_03_a_function_without_a_path_is_called_at_its_root() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/exact", &openfunction(&origin, ""))).await;

    assert_eq!(gateway.get("/exact").await.json::<Echo>().target, "/");
}

#[tokio::test]
async fn derived_04_both_queries_arrive_in_order() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&routes(&[
        ("own", "/own", &openfunction(&origin, "/fn?code=k")),
        ("none", "/none", &openfunction(&origin, "/fn")),
    ]))
    .await;

    for (path, target) in [
        ("/own?z=1&a=2&z=3", "/fn?code=k&z=1&a=2&z=3"),
        ("/own", "/fn?code=k"),
        ("/none?z=1&a=2&z=3", "/fn?z=1&a=2&z=3"),
        ("/none", "/fn"),
    ] {
        assert_eq!(gateway.get(path).await.json::<Echo>().target, target);
    }
}

#[tokio::test]
async fn derived_05_a_wildcard_host_does_not_disturb_the_suffix() {
    let origin = Origin::echo().await;
    let yaml = format!(
        "routes:
  - name: any
    match: {{ path: '/any/*', hosts: [ '*' ] }}
    target: {{ {0} }}
  - name: below
    match: {{ path: '/below/*', hosts: [ '*.example.com' ] }}
    target: {{ {0} }}
",
        openfunction(&origin, "/fn")
    );
    let gateway = Gateway::start(&yaml).await;

    for path in ["/any/rest", "/below/rest"] {
        let answer = gateway.send(&Request::get(path).header("Host", "api.example.com")).await;
        assert_eq!(answer.json::<Echo>().target, "/fn/rest", "{path}");
    }
}

#[tokio::test]
async fn derived_06_many_headers_arrive_or_are_refused_aloud() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "/"))).await;
    let request =
        (0..150).fold(Request::get("/fn"), |request, n| request.header(&format!("X-Many-{n}"), "1"));

    let answer = gateway.send(&request.header("Authorization", "last")).await;

    match answer.status() {
        200 => {
            let echo = answer.json::<Echo>();
            assert_eq!(
                echo.headers.iter().filter(|(name, _)| name.to_lowercase().starts_with("x-many-")).count(),
                150
            );
            assert_eq!(echo.header("authorization"), Some("last"));
        }
        _ => assert_eq!((answer.status(), answer.code().as_str()), (431, "headers_too_large")),
    }
}

#[tokio::test]
async fn derived_07_what_the_client_says_about_its_connection_ends_here() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "/"))).await;

    for _ in 0..5 {
        let request = Request::get("/fn").header("Connection", "close, X-Foo").header("X-Foo", "1");
        let answer = gateway.send(&request).await;
        let echo = answer.json::<Echo>();
        assert_eq!((echo.header("connection"), echo.header("x-foo")), (None, None));
        gateway.line_of(&answer).await;
    }
    assert_eq!(origin.accepted(), 1);
}

#[tokio::test]
async fn derived_08_one_byte_over_the_limit_is_413_however_it_is_framed() {
    let whisk = answering(|_| Reply::json(&json!({}))).await;
    let origin = Origin::echo().await;
    let yaml = routes(&[("of", "/of", &openfunction(&origin, "/")), ("ow", "/ow", &openwhisk(&whisk, ""))]);
    let gateway = Gateway::start(&format!("limits: {{ body: 100 }}\n{yaml}")).await;
    // Both are JSON objects, which is what an action takes.
    let (fits, over) = (format!("{{{:98}}}", ""), format!("{{{:99}}}", ""));

    for path in ["/of", "/ow"] {
        assert_eq!(gateway.post(path, fits.clone()).await.status(), 200, "{path}");
        let sized = gateway.post(path, over.clone()).await;
        assert_eq!((sized.status(), sized.code().as_str()), (413, "body_too_large"), "{path}");
        let mut client = gateway.client().await;
        let chunks = format!("32\r\n{}\r\n33\r\n{}\r\n0\r\n\r\n", &over[..50], &over[50..]);
        client
            .send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"))
            .await;
        let chunked = client.response("POST").await;
        assert_eq!((chunked.status(), chunked.code().as_str()), (413, "body_too_large"), "{path}");
    }
    assert_eq!(whisk.requests().len(), 1);
    assert!(origin.requests().iter().all(|request| request.body.len() <= 100));
}

#[tokio::test]
async fn derived_09_the_first_event_comes_before_the_last_exists() {
    let gate = Gate::closed();
    let confirmed = gate.clone();
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let gate = confirmed.clone();
            async move {
                exchange.start_chunked("text/event-stream").await;
                exchange.send_chunk("data: first\n\n").await;
                gate.passed().await;
                exchange.send_chunk("data: last\n\n").await;
                exchange.end_chunked().await;
            }
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/events", &openfunction(&origin, "/"))).await;
    let mut client = gateway.client().await;

    client.start(&Request::get("/events")).await;
    let head = client.head().await;
    let mut body = client.body(&head, "GET");
    assert_eq!(body.until("\n\n").await, "data: first\n\n");
    gate.open();
    assert_eq!(body.until("\n\n").await, "data: last\n\n");
}

#[tokio::test]
async fn derived_10_interim_answers_never_hang_a_client() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            match exchange.target() {
                "/103" => {
                    exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
                    exchange.answer(Reply::text(200, "after the hint")).await;
                }
                _ => exchange.websocket_echo().await,
            }
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/*", &openfunction(&origin, ""))).await;

    assert_eq!(gateway.get("/103").await.text(), "after the hint");
    let mut client = gateway.client().await;
    client.websocket("/101").await;
}

#[tokio::test]
async fn derived_11_every_failure_has_its_own_word() {
    let refusing = Refusing::new();
    let silent =
        Origin::http1().script(|mut exchange| async move { exchange.peer_closed().await }).start().await;
    let broken = Origin::raw("").await;
    let garbage = Origin::raw("HTTP/1.1 nonsense\r\n\r\n").await;
    let to = |addr: std::net::SocketAddr, more: &str| {
        format!("openfunction: {{ function_uri: 'http://{addr}/', {more} }}")
    };
    let gateway = Gateway::start(&routes(&[
        ("refused", "/refused", &to(refusing.addr(), "")),
        ("silent", "/silent", &to(silent.addr(), "timeout: 300")),
        ("broken", "/broken", &to(broken.addr(), "")),
        ("garbage", "/garbage", &to(garbage.addr(), "")),
    ]))
    .await;

    for (path, status, code) in [
        ("/refused", 502, "upstream_connect"),
        ("/silent", 504, "upstream_timeout"),
        ("/broken", 502, "upstream_reset"),
        ("/garbage", 502, "upstream_protocol"),
    ] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{path}");
    }
}

#[tokio::test]
async fn derived_12_a_dead_pooled_connection_is_not_the_clients_problem() {
    let origin = Origin::http1().echo().answers_per_connection(1).start().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "/"))).await;

    for expected in [1, 3] {
        let answer = gateway.get("/fn").await;
        assert_eq!(answer.status(), 200);
        gateway.line_of(&answer).await;
        assert_eq!(origin.requests().len(), expected);
    }
}

/// What an action returns, and what the client gets: status, content type, body.
#[tokio::test]
async fn derived_13_every_result_of_an_action_has_a_defined_outcome() {
    const JSON: Option<&str> = Some("application/json");
    let image = STANDARD.encode([0x89, b'P', b'N', b'G', 0, 1, 2, 3]);
    let cases: Vec<(Value, u16, Option<&str>, Vec<u8>)> = vec![
        (json!({ "a": 1 }), 200, JSON, b"{\"a\":1}".into()),
        (json!([1, 2]), 200, JSON, b"[1,2]".into()),
        (json!("text"), 200, JSON, b"\"text\"".into()),
        (json!(42), 200, JSON, b"42".into()),
        (json!(true), 200, JSON, b"true".into()),
        (json!(false), 200, JSON, b"false".into()),
        (Value::Null, 200, JSON, b"null".into()),
        (json!({ "statusCode": 201, "body": { "a": 1 } }), 201, JSON, b"{\"a\":1}".into()),
        (json!({ "statusCode": "407", "body": "x" }), 407, None, b"x".into()),
        (json!({ "statusCode": 204 }), 204, None, b"".into()),
        (json!({ "body": "text" }), 200, None, b"text".into()),
        (json!({ "body": "" }), 200, None, b"".into()),
        (json!({ "body": 42 }), 200, None, b"42".into()),
        (json!({ "body": [1, 2] }), 200, JSON, b"[1,2]".into()),
        (
            json!({ "body": "<p>x</p>", "headers": { "Content-Type": "text/html" } }),
            200,
            Some("text/html"),
            b"<p>x</p>".into(),
        ),
        (
            json!({ "body": image, "headers": { "content-type": "image/png" } }),
            200,
            Some("image/png"),
            vec![0x89, b'P', b'N', b'G', 0, 1, 2, 3],
        ),
    ];
    let answers = invoke_each(cases.iter().map(|(result, ..)| Reply::json(result))).await;
    for ((result, status, content_type, body), answer) in cases.into_iter().zip(answers) {
        assert_eq!((answer.status(), &answer.body), (status, &body), "{result}");
        if content_type.is_some() {
            assert_eq!(answer.header("content-type"), content_type, "{result}");
        }
        assert!(answer.whole, "{result}");
    }
}

#[tokio::test]
async fn derived_13_what_cannot_be_understood_is_a_bad_envelope() {
    let results = [
        json!({ "statusCode": 99 }).to_string(),
        json!({ "statusCode": 600 }).to_string(),
        json!({ "statusCode": 100 }).to_string(),
        json!({ "statusCode": -1 }).to_string(),
        json!({ "statusCode": 200.5 }).to_string(),
        json!({ "statusCode": "abc" }).to_string(),
        json!({ "statusCode": [] }).to_string(),
        json!({ "headers": { "bad name": "x" } }).to_string(),
        json!({ "headers": { "x": "line\r\nend: 1" } }).to_string(),
        json!({ "body": "not base64!", "headers": { "content-type": "image/png" } }).to_string(),
        String::new(),
        "not JSON".to_owned(),
        "{\"a\":".to_owned(),
    ];
    let replies = results
        .iter()
        .map(|result| Reply::new(200, result.as_str()).header("Content-Type", "application/json"));
    let answers = invoke_each(replies).await;
    for (result, answer) in results.iter().zip(answers) {
        assert_eq!((answer.status(), answer.code().as_str()), (502, "bad_envelope"), "{result:?}");
    }
}

#[tokio::test]
async fn derived_13_headers_of_a_result_are_set_as_they_are_meant() {
    let result = json!({
        "headers": { "X-Text": "t", "X-Number": 7, "X-Boolean": true, "Set-Cookie": ["a=1", "b=2"], "Connection": "x-hidden", "X-Hidden": "1" },
        "body": "x",
    });

    let answer = invoke(Reply::json(&result)).await;

    assert_eq!((answer.header("x-text"), answer.header("x-number")), (Some("t"), Some("7")));
    assert_eq!((answer.header("x-boolean"), answer.header("x-hidden")), (Some("true"), None));
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    assert!(invoke(Reply::json(&json!({ "headers": null, "body": "x" }))).await.status() == 200);
}

#[tokio::test]
async fn derived_13_openwhisks_own_answers_pass() {
    let cases = [
        (202, json!({ "activationId": "0123456789abcdef0123456789abcdef" })),
        (400, json!({ "error": "The request content was malformed", "code": "x" })),
        (403, json!({ "error": "not authorized", "code": "x" })),
        (429, json!({ "error": "Too many requests", "code": "x" })),
        (502, json!({ "error": "An error has occurred", "code": "x" })),
    ];
    let reply = |(status, body): &(u16, Value)| {
        Reply::json(body).with_status(*status).header("x-openwhisk-activation-id", "0123")
    };
    let answers = invoke_each(cases.iter().map(reply)).await;
    for ((status, body), answer) in cases.into_iter().zip(answers) {
        assert_eq!((answer.status(), answer.json::<Value>()), (status, body));
        assert_eq!(answer.header("x-openwhisk-activation-id"), Some("0123"), "{status}");
    }
}

#[tokio::test]
async fn derived_13_a_page_in_place_of_json_is_never_a_success() {
    let reply = Reply::new(503, "<html>no backend</html>").header("Content-Type", "text/html");

    let answer = invoke(reply).await;

    assert!(matches!(answer.status(), 502 | 503), "{}", answer.head.first_line);
    assert!(!answer.body.is_empty());
}

#[tokio::test]
async fn derived_14_faults_are_refused_at_load_with_the_place() {
    const URI: &str = "function_uri: 'http://127.0.0.1:1/'";
    const ACTION: &str = "api_host: 'https://whisk.example.com', service_token: 'a:b', namespace: guest";
    for (target, words) in [
        (format!("openfunction: {{ {URI}, authorization: 5 }}"), &["authorization"][..]),
        (format!("openfunction: {{ {URI}, authorization: {{ service_token: true }} }}"), &["service_token"]),
        (format!("openfunction: {{ {URI}, timeuot: 5000 }}"), &["timeuot", "timeout"]),
        (format!("openfunction: {{ {URI}, timeout: 99 }}"), &["timeout", "100"]),
        (format!("openfunction: {{ {URI}, keepalive_timeout: 999 }}"), &["keepalive_timeout", "1000"]),
        (format!("openfunction: {{ {URI}, keepalive_pool: 0 }}"), &["keepalive_pool"]),
        (format!("openfunction: {{ {URI}, ssl_verify: 'perhaps' }}"), &["ssl_verify"]),
        ("openfunction: { function_uri: 'not a url' }".into(), &["function_uri", "not a url"]),
        ("openfunction: { function_uri: 'ftp://h/' }".into(), &["function_uri", "ftp"]),
        ("openfunction: { function_uri: 'http:///x' }".into(), &["function_uri"]),
        (format!("openwhisk: {{ {ACTION}, action: ' blank-first' }}"), &["action"]),
        (format!("openwhisk: {{ {ACTION}, action: 'a/b' }}"), &["action", "a/b"]),
        (format!("openwhisk: {{ {ACTION}, action: '{}' }}", "a".repeat(257)), &["action", "256"]),
        (format!("openwhisk: {{ {ACTION}, action: a, package: '' }}"), &["package"]),
        (format!("openwhisk: {{ {ACTION}, action: a, timeout: 60001 }}"), &["timeout", "60000"]),
        (format!("openwhisk: {{ {ACTION}, action: a, timeout: 0 }}"), &["timeout"]),
        ("lambda: { function: x }".into(), &["lambda"]),
        (format!("openfunction: {{ {URI} }}, http: {{ url: 'http://127.0.0.1:1/' }}"), &["one platform"]),
    ] {
        let found = check(&route("/hello", &target)).await;
        found.refuses(words);
        assert!(found.said().contains("fngate.yaml:"), "no file and line in:\n{}", found.said());
    }
}

/// OpenWhisk allows blanks within a name; APISIX accepts them and every call fails.
#[tokio::test]
async fn derived_14_a_name_with_a_blank_works() {
    let whisk = answering(|_| Reply::json(&json!({}))).await;
    let target = format!(
        "openwhisk: {{ api_host: '{}', service_token: 'a:b', namespace: guest, package: 'my pkg', action: 'my action@1' }}",
        whisk.url()
    );
    let gateway = Gateway::start(&route("/hello", &target)).await;

    assert_eq!(gateway.get("/hello").await.status(), 200);
    let target = whisk.only_request().target().to_owned();
    assert!(
        target.starts_with("/api/v1/namespaces/guest/actions/my%20pkg/my%20action%401?")
            || target.starts_with("/api/v1/namespaces/guest/actions/my%20pkg/my%20action@1?"),
        "{target}"
    );
}

#[tokio::test]
async fn derived_14_all_faults_come_out_in_one_run() {
    let found = check(
        "routes:
  - name: one
    match: { path: no-slash }
    target: { openfunction: { function_uri: 'http://127.0.0.1:1/', timeout: 1 } }
  - name: two
    match: { path: /two, methd: [ GET ] }
    target: { openwhisk: { namespace: guest, action: a } }
",
    )
    .await;

    found.refuses(&["no-slash", "timeout", "methd", "api_host", "service_token"]);
}

#[tokio::test]
async fn derived_15_one_bad_route_changes_nothing() {
    let origin = Origin::echo().await;
    let good = routes(&[("one", "/one", &openfunction(&origin, "/old"))]);
    let gateway = Gateway::start(&good).await;

    let bad = routes(&[("one", "/one", &openfunction(&origin, "/new")), ("two", "/two", "openfunction: {}")]);
    assert!(!gateway.reload(&bad).await, "a faulty file is not taken");

    assert_eq!(gateway.get("/one").await.json::<Echo>().target, "/old");
    assert_eq!(gateway.get("/two").await.status(), 404);
    gateway.says("function_uri").await;
    assert!(gateway.admin_get("/readyz?verbose").await.text().contains("function_uri"));
}

#[tokio::test]
async fn derived_16_metrics_and_log_know_the_function() {
    let origin = Origin::http1().reply(|_| Reply::text(503, "busy")).start().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "/"))).await;

    gateway.get("/fn").await;

    let line = gateway.access_log(1).await.remove(0);
    assert_eq!((&line["route"], &line["platform"]), (&json!("hello"), &json!("openfunction")));
    assert_eq!((&line["status"], &line["upstream"]), (&json!(503), &json!(origin.addr().to_string())));
    let metrics = gateway.metrics().await;
    let labels = [("route", "hello"), ("platform", "openfunction"), ("method", "GET"), ("code", "503")];
    assert_eq!(metrics.counter("fngate_http_requests_total", &labels), 1.0);
    for name in ["http_request_duration", "upstream_first_byte", "upstream_connect", "gateway_overhead"] {
        assert_eq!(metrics.counter(&format!("fngate_{name}_seconds_count"), &labels[..1]), 1.0, "{name}");
    }
}

/// What a client gets for this answer of OpenWhisk.
async fn invoke(reply: Reply) -> Response {
    invoke_each([reply]).await.remove(0)
}

/// The same for many, each the answer of an action of its own.
async fn invoke_each(replies: impl IntoIterator<Item = Reply>) -> Vec<Response> {
    let replies: Vec<Reply> = replies.into_iter().collect();
    let count = replies.len();
    let number = |request: &Recorded| -> usize {
        let action = request.target().split(['/', '?']).find_map(|part| part.strip_prefix("action-"));
        action.unwrap().parse().unwrap()
    };
    let whisk = answering(move |request| replies[number(request)].clone()).await;
    let yaml = (0..count).fold("routes:\n".to_owned(), |text, n| {
        let target = openwhisk(&whisk, "").replace("action: test", &format!("action: action-{n}"));
        text + &format!("  - name: r{n}\n    match: {{ path: /{n} }}\n    target: {{ {target} }}\n")
    });
    let gateway = Gateway::start(&yaml).await;
    let mut answers = Vec::new();
    for n in 0..count {
        answers.push(gateway.get(&format!("/{n}")).await);
    }
    answers
}

async fn answering(reply: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Origin {
    Origin::http1().reply(reply).start().await
}

fn openfunction(origin: &Origin, path: &str) -> String {
    format!("openfunction: {{ function_uri: '{}{path}' }}", origin.url())
}

fn openwhisk(origin: &Origin, more: &str) -> String {
    format!(
        "openwhisk: {{ api_host: '{}', service_token: 'a:b', namespace: guest, action: test, {more} }}",
        origin.url()
    )
}
