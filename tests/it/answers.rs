//! The answers the gateway itself gives: status, code and form of each, one access log line and one count for every
//! request however it ended, and what the function's own answers look like afterwards.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::*;

/// What every answer of the gateway's own has in common: the JSON form, the request's id, one line, one count.
async fn expect(gateway: &Gateway, answer: &Response, status: u16, code: &str) -> Value {
    assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let id = answer.header("x-request-id").expect("an id on the answer");
    let error = &answer.json::<Value>()["error"];
    assert_eq!(error["request_id"], id);
    assert!(!error["message"].as_str().unwrap().is_empty());
    assert_eq!(answer.header("retry-after").is_some(), status == 503, "Retry-After belongs to 503 alone");

    let line = gateway.log_line(id).await;
    assert_eq!((&line["status"], &line["reason"]), (&json!(status), &json!(code)), "{line}");
    gateway.counts("fngate_failures_total", &[("code", code)], 1.0).await;
    gateway.counts("fngate_http_requests_total", &[("code", &status.to_string())], 1.0).await;
    line
}

#[tokio::test]
async fn no_route_and_method_not_allowed() {
    let yaml = "routes:\n  - name: hello\n    match: { path: /hello, methods: [ GET ] }\n    target: { http: { url: 'http://127.0.0.1:1/' } }\n";
    let gateway = Gateway::start(yaml).await;

    let line = expect(&gateway, &gateway.get("/other?secret=1").await, 404, "no_route").await;
    assert_eq!((&line["path"], &line["method"]), (&json!("/other"), &json!("GET")), "the query is left out");
    let answer = gateway.post("/hello", "x").await;
    assert_eq!(answer.header("allow"), Some("GET"));
    expect(&gateway, &answer, 405, "method_not_allowed").await;
}

#[tokio::test]
async fn bad_path() {
    let (gateway, origin) = echoing("").await;

    expect(&gateway, &gateway.get("/fn/%2e%2e/x").await, 400, "bad_path").await;
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn bad_request() {
    let (gateway, origin) = echoing("").await;
    let mut client = gateway.client().await;

    client.send("GET /fn/x HTTP/1.1\r\nHost:\r\n\r\n").await;
    expect(&gateway, &client.response("GET").await, 400, "bad_request").await;
    assert_eq!(client.rest().await, b"", "the connection is closed");
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn body_too_large() {
    let (gateway, origin) = echoing("limits: { body: 1KiB }\n").await;

    assert_eq!(gateway.post("/fn/x", vec![b'x'; 1024]).await.status(), 200);
    expect(&gateway, &gateway.post("/fn/x", vec![b'x'; 1025]).await, 413, "body_too_large").await;
    assert_eq!(origin.requests().len(), 1, "a body known to be too large is not announced to the function");
}

#[tokio::test]
async fn a_chunked_body_is_cut_at_the_limit() {
    let (gateway, origin) = echoing("limits: { body: 1KiB }\n").await;
    let mut client = gateway.client().await;

    client.send("POST /fn/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send(format!("401\r\n{}\r\n0\r\n\r\n", "x".repeat(1025))).await;

    expect(&gateway, &client.response("POST").await, 413, "body_too_large").await;
    assert!(
        origin.requests().iter().all(|request| request.body.len() <= 1024),
        "more than the limit went on"
    );
    let sent: Vec<u8> = if origin.accepted() > 0 { origin.bytes_of(0) } else { Vec::new() };
    assert!(!sent.ends_with(b"0\r\n\r\n"), "a body that was cut does not look whole");
}

#[tokio::test]
async fn headers_too_large() {
    let (gateway, origin) = echoing("").await;

    let answer = gateway.send(&Request::get("/fn/x").header("X-Large", &"x".repeat(200_000))).await;

    assert_eq!((answer.status(), answer.code().as_str()), (431, "headers_too_large"));
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn unsupported_coding() {
    let (gateway, origin) = echoing("").await;
    let mut client = gateway.client().await;

    client.send("POST /fn/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n").await;

    let answer = client.response("POST").await;
    assert_eq!((answer.status(), answer.code().as_str()), (501, "unsupported_coding"));
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn upstream_connect() {
    let refusing = Refusing::new();
    let gateway =
        Gateway::start(&route("/fn", &format!("http: {{ url: 'http://{}/' }}", refusing.addr()))).await;

    let answer = gateway.get("/fn").await;

    assert!(!answer.text().contains(&refusing.addr().port().to_string()), "no address: {}", answer.text());
    let line = expect(&gateway, &answer, 502, "upstream_connect").await;
    assert_eq!((&line["route"], &line["platform"]), (&json!("hello"), &json!("http")));
}

#[tokio::test]
async fn connect_timeout() {
    let silent = Silent::new();
    let target = format!("http: {{ url: 'http://{}/', connect_timeout: 150 }}", silent.addr());
    let gateway = Gateway::start(&route("/fn", &target)).await;

    expect(&gateway, &gateway.get("/fn").await, 504, "connect_timeout").await;
}

#[tokio::test]
async fn upstream_tls() {
    let ca = Ca::new();
    let origin = Origin::http1().text("never").tls(ca.leaf(&["fn.test"]).server(&[])).start().await;
    let target = format!("http: {{ url: 'https://fn.test/', address: '{}' }}", origin.addr());
    let gateway = Gateway::start(&route("/fn", &target)).await;

    expect(&gateway, &gateway.get("/fn").await, 502, "upstream_tls").await;
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn upstream_resolve() {
    let gateway = Gateway::start(&route("/fn", "http: { url: 'http://no-such-function.invalid/' }")).await;

    expect(&gateway, &gateway.get("/fn").await, 502, "upstream_resolve").await;
}

#[tokio::test]
async fn upstream_timeout() {
    let origin =
        Origin::http1().script(|mut exchange| async move { exchange.peer_closed().await }).start().await;
    let gateway = Gateway::start(&route("/fn", &with(&origin, "timeout: 200"))).await;

    expect(&gateway, &gateway.get("/fn").await, 504, "upstream_timeout").await;
}

#[tokio::test]
async fn deadline() {
    // Never silent for long, and never done.
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            let mut answer = b"HTTP/1.1 200 OK\r\nX-Endless: ".iter().copied().chain(std::iter::repeat(b'x'));
            while !exchange.closing() {
                exchange.send([answer.next().unwrap()]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &with(&origin, "timeout: 10s, deadline: 300ms"))).await;

    expect(&gateway, &gateway.get("/fn").await, 504, "deadline").await;
}

#[tokio::test]
async fn upstream_reset() {
    for reset in [false, true] {
        let origin = Origin::http1()
            .script(move |mut exchange| async move {
                exchange.body().await;
                if reset { exchange.reset() } else { exchange.close() }
            })
            .start()
            .await;
        let gateway = Gateway::start(&route("/fn", &with(&origin, ""))).await;

        expect(&gateway, &gateway.get("/fn").await, 502, "upstream_reset").await;
    }
}

/// RFC 9112 lets a proxy mend these two instead of refusing them (sections 5.1 and 5.2); no hook sees them before they are.
#[tokio::test]
async fn what_may_be_mended_in_an_answer_reaches_the_client_mended() {
    for (field, mended) in [("X: a\r\n folded", "a folded"), ("X : blank", "blank")] {
        let origin =
            Origin::raw(format!("HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 0\r\n\r\n").as_str()).await;
        let gateway = Gateway::start(&route("/fn", &with(&origin, ""))).await;
        let answer = gateway.get("/fn").await;
        assert_eq!((answer.status(), answer.header("x")), (200, Some(mended)), "{field:?}");
    }
}

/// Said by the function to the gateway; the client gets the gateway's own version and a framing that is right for it.
#[tokio::test]
async fn an_answer_is_framed_anew_for_the_client() {
    for (answer, line, length) in [
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 200 OK", Some("2")),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}",
            "HTTP/1.1 200 OK",
            Some("2"),
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK",
            None,
        ),
        ("HTTP/1.0 200 OK\r\n\r\n{}", "HTTP/1.1 200 OK", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 002\r\n\r\n{}", "HTTP/1.1 200 OK", Some("2")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 00\r\n\r\n", "HTTP/1.1 200 OK", Some("0")),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 204 No Content", None),
        (
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content",
            None,
        ),
    ] {
        let origin = Origin::raw(answer).await;
        let gateway = Gateway::start(&route("/fn", &with(&origin, ""))).await;
        let mut client = gateway.client().await;
        // Twice on one connection: where one answer ends is clear.
        for _ in 0..2 {
            let got = client.call(&Request::get("/fn")).await;
            assert!(got.whole, "{answer:?}: {got:?}");
            assert_eq!(got.head.first_line, line, "{answer:?}");
            assert_eq!(got.header("content-length"), length, "{answer:?}");
            let is_chunked = got.status() == 200 && length.is_none();
            assert_eq!(got.header("transfer-encoding").is_some(), is_chunked, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn upstream_protocol() {
    let long = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(300_000));
    let reason = "r".repeat(100_000);
    let told = format!("HTTP/1.1 200 {reason}\r\nContent-Length: 0\r\n\r\n");
    let hinted = format!("HTTP/1.1 103 {reason}\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let mut wrong = Vec::new();
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X-Many: 1\r\n".repeat(2000));
    let rows = [
        "garbage\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\u{0}b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &long,
        &many,
        &told,
        &hinted,
    ];
    let bytes: Vec<Vec<u8>> = rows.iter().map(|row| row.as_bytes().to_vec()).collect();
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let row = bytes[exchange.target()[1..].parse::<usize>().unwrap()].clone();
            async move {
                exchange.send(row).await;
                exchange.close();
            }
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn/*", &with(&origin, ""))).await;

    for (number, row) in rows.iter().enumerate() {
        // An answer that is passed on may have no end but that of the connection.
        let answer =
            gateway.send(&Request::get(&format!("/fn/{number}")).header("Connection", "close")).await;
        let (status, code) = (answer.status(), answer.code());
        if (status, code.as_str()) != (502, "upstream_protocol") {
            wrong.push(format!("{:?}: {status} {code}", &row[..row.len().min(60)]));
            continue;
        }
        let line = gateway.line_of(&answer).await;
        assert_eq!((&line["status"], &line["reason"]), (&json!(502), &json!("upstream_protocol")), "{line}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    gateway.counts("fngate_failures_total", &[("code", "upstream_protocol")], rows.len() as f64).await;
}

#[tokio::test]
async fn overloaded() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let gate = held.clone();
            async move {
                gate.passed().await;
                exchange.answer(Reply::text(200, "done")).await;
            }
        })
        .start()
        .await;
    let yaml = format!("limits: {{ in_flight: 1 }}\n{}", route("/fn", &with(&origin, "")));
    let gateway = Gateway::start(&yaml).await;

    let mut first = gateway.client().await;
    first.start(&Request::get("/fn")).await;
    origin.request(0).await;
    let refused = gateway.get("/fn").await;
    gate.open();
    assert_eq!(first.response("GET").await.text(), "done");
    expect(&gateway, &refused, 503, "overloaded").await;

    // Room again, as soon as the first is done.
    gateway.counts("fngate_requests_in_flight", &[("route", "hello")], 0.0).await;
    gate.open();
    assert_eq!(gateway.get("/fn").await.status(), 200);
}

#[tokio::test]
async fn client_gone() {
    let origin =
        Origin::http1().script(|mut exchange| async move { exchange.peer_closed().await }).start().await;
    let gateway = Gateway::start(&route("/fn", &with(&origin, ""))).await;

    let mut client = gateway.client().await;
    client.start(&Request::get("/fn")).await;
    origin.request(0).await;
    client.reset();

    let line = gateway.access_log(1).await.remove(0);
    assert_eq!((&line["status"], &line["reason"]), (&json!(499), &json!("client_gone")), "{line}");
    origin.settles_at(0).await;
    gateway.counts("fngate_failures_total", &[("code", "client_gone")], 1.0).await;
}

#[tokio::test]
async fn a_refused_credential_of_ours_is_told_from_the_clients() {
    let refuse =
        |_: &Recorded| Reply::text(401, "who?").header("WWW-Authenticate", "Basic realm=\"internal\"");
    let origin = Origin::http1().reply(refuse).start().await;
    let ours = format!(
        "openfunction: {{ function_uri: '{}/', authorization: {{ service_token: 'a:b' }} }}",
        origin.url()
    );
    let theirs = format!("openfunction: {{ function_uri: '{}/' }}", origin.url());
    let gateway = Gateway::start(&routes(&[("ours", "/ours", &ours), ("theirs", "/theirs", &theirs)])).await;

    let answer = gateway.get("/ours").await;
    assert_eq!((answer.status(), answer.text().as_str()), (401, "who?"));
    assert_eq!(answer.header("www-authenticate"), None, "the challenge was for us");
    gateway.counts("fngate_failures_total", &[("code", "credential_refused"), ("route", "ours")], 1.0).await;
    assert_eq!(gateway.line_of(&answer).await["reason"], "credential_refused");

    let answer = gateway.get("/theirs").await;
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"internal\""));
    assert_ne!(gateway.line_of(&answer).await["reason"], "credential_refused");
}

#[tokio::test]
async fn a_functions_own_errors_pass_unchanged() {
    let origin = Origin::http1()
        .reply(|request| {
            let status = request.target().trim_start_matches('/').parse().unwrap();
            Reply::new(status, "the function's own words")
                .header("X-Own", "yes")
                .header("Content-Type", "text/own")
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/*", &with(&origin, ""))).await;

    for status in [400, 403, 404, 409, 418, 429, 500, 502, 503, 504, 599] {
        let answer = gateway.get(&format!("/{status}")).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.text(), "the function's own words", "{status}");
        assert_eq!((answer.header("x-own"), answer.header("content-type")), (Some("yes"), Some("text/own")));
        assert!(answer.header("x-request-id").is_some(), "{status}");
    }
}

#[tokio::test]
async fn hop_by_hop_fields_of_the_function_stay_behind() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Private, close\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authenticate: Basic\r\nTrailer: X-T\r\nUpgrade: h2c\r\nTE: trailers\r\nProxy-Connection: close\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Public: 1\r\n\r\nok",
    )
    .await;
    let gateway = Gateway::start(&route("/fn", &with(&origin, ""))).await;

    let answer = gateway.get("/fn").await;

    for name in
        ["x-private", "keep-alive", "proxy-authenticate", "trailer", "upgrade", "te", "proxy-connection"]
    {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!((answer.header("x-public"), answer.text().as_str()), (Some("1"), "ok"));
}

/// It has no body, and whether the connection stays is for the final answer to say (RFC 9110 section 8.6, RFC 9112 section 6.1).
#[tokio::test]
async fn an_interim_answer_frames_nothing() {
    for (status, framing) in [
        ("103 Early Hints", "Content-Length: 2\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"),
        ("102 Processing", "Content-Length: 2\r\nConnection: X-Inner\r\nX-Inner: 1\r\n"),
    ] {
        let answer = format!(
            "HTTP/1.1 {status}\r\n{framing}Link: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        );
        let origin = Origin::raw(answer.as_str()).await;
        let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
        let mut client = gateway.client().await;

        client.start(&Request::get("/fn")).await;

        let interim = client.head().await;
        assert_eq!(interim.first_line, format!("HTTP/1.1 {status}"));
        assert_eq!(
            (interim.header("link"), interim.headers.len()),
            (Some("</a>"), 1),
            "{:?}",
            interim.headers
        );
        assert_eq!(client.response("GET").await.text(), "ok");
    }
}

#[tokio::test]
async fn hop_by_hop_fields_of_the_client_stay_behind() {
    let (gateway, origin) = echoing("").await;

    for _ in 0..2 {
        let request = Request::get("/fn/x")
            .header("Connection", "close, X-Private")
            .header("X-Private", "1")
            .header("Keep-Alive", "timeout=5")
            .header("TE", "trailers")
            .header("Proxy-Authorization", "Basic eDp5")
            .header("Proxy-Connection", "close")
            .header("X-Public", "1");
        let answer = gateway.send(&request).await;
        // The line is written when the function's connection is free again.
        gateway.line_of(&answer).await;
        let echo = answer.json::<Echo>();
        for name in ["x-private", "keep-alive", "te", "proxy-authorization", "proxy-connection", "connection"]
        {
            assert_eq!(echo.header(name), None, "{name}");
        }
        assert_eq!(echo.header("x-public"), Some("1"));
    }
    assert_eq!(origin.accepted(), 1, "a client that closes does not cost the function's connection");
}

#[tokio::test]
async fn forwarding_fields_are_the_gateways_own() {
    let (gateway, _origin) = echoing("").await;
    let forged = Request::get("/fn/x")
        .header("Host", "api.example.com")
        .header("X-Forwarded-For", "6.6.6.6")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "evil.example.com")
        .header("X-Forwarded-Prefix", "/6.6.6.6")
        .header("X-Forwarded-Ssl", "6.6.6.6")
        .header("X-Real-IP", "6.6.6.6")
        .header("Forwarded", "for=6.6.6.6");

    let echo = gateway.send(&forged).await.json::<Echo>();

    assert_eq!(echo.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(echo.header("x-forwarded-proto"), Some("http"));
    assert_eq!(echo.header("x-forwarded-host"), Some("api.example.com"));
    assert!(echo.headers.iter().all(|(_, value)| !value.contains("6.6.6.6")), "{:?}", echo.headers);
}

#[tokio::test]
async fn a_trusted_proxys_word_is_taken() {
    let (gateway, _origin) = echoing("trusted_proxies: [ 127.0.0.0/8 ]\n").await;
    let request = Request::get("/fn/x")
        .header("X-Forwarded-For", "203.0.113.9")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "public.example.com")
        .header("X-Forwarded-Prefix", "/public");

    let answer = gateway.send(&request).await;

    let echo = answer.json::<Echo>();
    assert_eq!(echo.header("x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(echo.header("x-forwarded-proto"), Some("https"));
    assert_eq!(echo.header("x-forwarded-host"), Some("public.example.com"));
    assert_eq!(echo.header("x-forwarded-prefix"), Some("/public"));
    let line = gateway.line_of(&answer).await;
    assert_eq!(line["client"], "203.0.113.9");
}

#[tokio::test]
async fn a_log_line_says_how_the_request_went() {
    let (gateway, origin) = echoing("").await;

    let answer =
        gateway.send(&Request::post("/fn/x?secret=1", "12345").header("Host", "api.example.com")).await;

    let line = gateway.line_of(&answer).await;
    for (key, value) in [
        ("route", json!("hello")),
        ("platform", json!("http")),
        ("method", json!("POST")),
        ("host", json!("api.example.com")),
        ("path", json!("/fn/x")),
        ("status", json!(200)),
        ("bytes_in", json!(5)),
        ("bytes_out", json!(answer.body.len())),
        ("attempts", json!(1)),
        ("reused", json!(false)),
        ("upstream", json!(origin.addr().to_string())),
        ("client", json!("127.0.0.1")),
    ] {
        assert_eq!(line[key], value, "{key} of {line}");
    }
    for key in ["dur_ms", "connect_ms", "first_byte_ms"] {
        assert!(line[key].as_f64().is_some_and(|ms| (0.0..60_000.0).contains(&ms)), "{key} of {line}");
    }
    for key in ["ts", "protocol"] {
        assert!(line[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {line}");
    }
    assert!(line["reason"].is_null() || line["reason"] == "", "nothing went wrong: {line}");
}

#[tokio::test]
async fn hostile_bytes_cannot_break_a_log_line() {
    let (gateway, _origin) = echoing("").await;
    let mut client = gateway.client().await;
    let request =
        b"GET /fn/\"},{\"status\":200,%22\xc3\xa9 HTTP/1.1\r\nHost: h\r\nUser-Agent: \"\\\x9b\r\n\r\n";

    client.send(request).await;
    client.try_response("GET").await;
    gateway.get("/fn/next").await;

    // Every line parses, or `access_log` fails.
    let lines = gateway.access_log(1).await;
    assert!(lines.iter().all(|line| line["path"].as_str().is_none_or(|path| !path.contains('\n'))));
    gateway.counts("fngate_http_requests_total", &[], gateway.access_log(2).await.len() as f64).await;
}

#[tokio::test]
async fn a_request_id_is_made_and_passed_on() {
    let (gateway, _origin) = echoing("").await;

    let first = gateway.get("/fn/x").await;
    let second = gateway.get("/fn/x").await;

    let (one, two) = (first.header("x-request-id").unwrap(), second.header("x-request-id").unwrap());
    assert_ne!(one, two);
    assert_eq!(first.json::<Echo>().header("x-request-id"), Some(one), "the function learns it too");
}

#[tokio::test]
async fn a_strangers_request_id_is_not_ours() {
    let (gateway, _origin) = echoing("").await;

    let answer = gateway.send(&Request::get("/fn/x").header("X-Request-Id", "forged")).await;

    let id = answer.header("x-request-id").unwrap();
    assert_ne!(id, "forged");
    let echo = answer.json::<Echo>();
    let seen: Vec<_> =
        echo.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-request-id")).collect();
    assert!(seen.len() == 1 && seen[0].1 == id, "{seen:?}");
    gateway.log_line(id).await;
}

#[tokio::test]
async fn a_line_of_eight_thousand_bytes_is_not_too_long() {
    let (gateway, _origin) = echoing("").await;
    let target = format!("/fn/{}", "x".repeat(7_900));
    let value = "y".repeat(7_900);

    let echo = gateway.send(&Request::get(&target).header("X-Long", &value)).await.json::<Echo>();

    assert_eq!(echo.target.len(), target.len() - "/fn".len());
    assert_eq!(echo.header("x-long"), Some(value.as_str()));
}

fn with(origin: &Origin, more: &str) -> String {
    format!("http: {{ url: '{}/', {more} }}", origin.url())
}

async fn echoing(settings: &str) -> (Gateway, Origin) {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&format!("{settings}{}", route("/fn/*", &with(&origin, "")))).await;
    (gateway, origin)
}
