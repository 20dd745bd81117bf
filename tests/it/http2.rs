//! HTTP/2 from clients: what passes, and frame by frame what must never become an HTTP/1 request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::*;

#[tokio::test]
async fn a_request_passes_with_all_it_has() {
    let (gateway, origin, ca) = guarded().await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let request = hyper::Request::post("https://localhost/fn/a%2Fb?x=1&y")
        .header("x-custom", "yes")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::new(Bytes::from_static(b"body")))
        .unwrap();

    let answer = client.call(request).await.unwrap();

    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("x-request-id"));
    assert!(!answer.headers().contains_key("connection"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(!body.is_empty());
    let seen = origin.only_request();
    assert_eq!(
        (seen.method(), seen.target(), seen.body.as_slice()),
        ("POST", "/base/a%2Fb?x=1&y", &b"body"[..])
    );
    assert_eq!(seen.header("x-custom"), Some("yes"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("localhost"));
    assert_eq!(seen.all("cookie"), ["a=1; b=2"]);
    assert_eq!(seen.all("host"), [origin.addr().to_string()]);
}

#[tokio::test]
async fn a_function_of_http2_learns_the_same() {
    let ca = Ca::new();
    let origin = Origin::http2().echo().start().await;
    let target = format!("http: {{ url: '{}/', http2: on }}", origin.url());
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &route("/fn", &target)).await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;

    assert_eq!(client.call(Http2::get("https://localhost/fn")).await.unwrap().status(), 200);

    let seen = origin.only_request();
    assert_eq!(seen.header("x-forwarded-host"), Some("localhost"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn many_requests_share_the_clients_connection() {
    let (gateway, origin, ca) = guarded().await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;

    let calls = (0..50).map(|n| client.call(Http2::get(&format!("https://localhost/fn/{n}"))));
    let answers = futures_util::future::join_all(calls).await;

    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().status() == 200));
    assert_eq!(origin.requests().len(), 50);
}

#[tokio::test]
async fn the_gateways_own_answers_are_the_same() {
    let (gateway, _origin, ca) = guarded().await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;

    for (path, status, code) in [("/none", 404, "no_route"), ("/fn/%2e%2e", 400, "bad_path")] {
        let answer = client.call(Http2::get(&format!("https://localhost{path}"))).await.unwrap();
        assert_eq!(answer.status(), status);
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["code"], code);
        assert_eq!(gateway.log_line(&id).await["reason"], code);
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let ca = Ca::new();
    let origin = Origin::http1().reply(|request| Reply::new(200, request.body.clone())).start().await;
    let target = format!("openfunction: {{ function_uri: '{}/', timeout: 20s }}", origin.url());
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &route("/fn", &target)).await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let body: Bytes = (0..8 * 1024 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();

    let request = hyper::Request::post("https://localhost/fn").body(Full::new(body.clone())).unwrap();
    let answer = client.call(request).await.unwrap();

    let back = within("the body", answer.into_body().collect()).await.unwrap().to_bytes();
    assert!(back == body, "{} of {} bytes came back", back.len(), body.len());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let ca = Ca::new();
    let origin = Origin::echo().await;
    let yaml = route("/fn", &format!("http: {{ url: '{}/' }}", origin.url()));
    let gateway =
        Gateway::start_tls(&ca.leaf(&["localhost"]), &format!("limits: {{ body: 1KiB }}\n{yaml}")).await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;

    for size in [1025, 200_000] {
        let request =
            hyper::Request::post("https://localhost/fn").body(Full::new(vec![b'x'; size].into())).unwrap();
        assert_eq!(client.call(request).await.unwrap().status(), 413, "{size}");
    }
    assert_eq!(
        client.call(Http2::get("https://localhost/fn")).await.unwrap().status(),
        200,
        "the connection lives on"
    );
}

#[tokio::test]
async fn a_cancelled_stream_ends_the_call_and_only_that() {
    let ca = Ca::new();
    let origin =
        Origin::http1().script(|mut exchange| async move { exchange.peer_closed().await }).start().await;
    let other = Origin::echo().await;
    let gateway = Gateway::start_tls(
        &ca.leaf(&["localhost"]),
        &routes(&[
            ("slow", "/slow", &format!("http: {{ url: '{}/' }}", origin.url())),
            ("other", "/other", &format!("http: {{ url: '{}/' }}", other.url())),
        ]),
    )
    .await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;

    let mut call = Box::pin(client.call(Http2::get("https://localhost/slow")));
    tokio::select! {
        _ = &mut call => panic!("nobody answers"),
        _ = origin.request(0) => (),
    }
    drop(call);

    origin.settles_at(0).await;
    assert_eq!(gateway.access_log(1).await[0]["reason"], "client_gone");
    assert_eq!(client.call(Http2::get("https://localhost/other")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_is_malformed_never_becomes_a_request() {
    let (gateway, origin, ca) = guarded().await;
    let good: &[(&str, &[u8])] =
        &[(":method", b"GET"), (":scheme", b"https"), (":authority", b"localhost"), (":path", b"/fn/x")];
    let with = |name: &'static str, value: &'static [u8]| [good, &[(name, value)]].concat();
    let instead = |name: &str, value: &'static [u8]| {
        good.iter().map(|(n, v)| (*n, if *n == name { value } else { *v })).collect::<Vec<_>>()
    };
    let without = |name: &str| good.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>();

    let mut wrong = Vec::new();
    for (name, fields, passes) in [
        ("well-formed", good.to_vec(), true),
        ("well-formed, te: trailers", with("te", b"trailers"), true),
        ("upper-case name", with("X-Upper", b"1"), false),
        ("blank in a name", with("x y", b"1"), false),
        ("colon in a name", with("x:y", b"1"), false),
        ("line end in a name", with("x\r\ny", b"1"), false),
        ("quote in a name", with("x\"y", b"1"), false),
        ("empty name", with("", b"1"), false),
        ("CR LF in a value", with("x", b"1\r\nhost: evil"), false),
        ("LF in a value", with("x", b"1\nhost: evil"), false),
        ("NUL in a value", with("x", b"a\0b"), false),
        ("transfer-encoding", with("transfer-encoding", b"chunked"), false),
        ("connection", with("connection", b"close"), false),
        ("keep-alive", with("keep-alive", b"timeout=5"), false),
        ("proxy-connection", with("proxy-connection", b"close"), false),
        ("upgrade", with("upgrade", b"h2c"), false),
        ("te: gzip", with("te", b"gzip"), false),
        ("second path", with(":path", b"/fn/y"), false),
        ("unknown pseudo-header", with(":protocol-x", b"y"), false),
        ("pseudo-header after a field", [&[("x", &b"1"[..])], good].concat(), false),
        ("response pseudo-header", with(":status", b"200"), false),
        ("no path", without(":path"), false),
        ("no method", without(":method"), false),
        ("empty path", instead(":path", b""), false),
        ("path without slash", instead(":path", b"fn/x"), false),
        ("blank in the path", instead(":path", b"/fn/x HTTP/1.1"), false),
        ("line end in the path", instead(":path", b"/fn/x HTTP/1.1\r\nhost: evil\r\n\r\n"), false),
        ("raw UTF-8 in the path", instead(":path", "/fn/é".as_bytes()), false),
        ("raw UTF-8 in the query", instead(":path", "/fn/x?é".as_bytes()), false),
        ("UTF-8 in escapes", instead(":path", b"/fn/%C3%A9"), true),
        ("another scheme", instead(":scheme", b"ftp"), false),
        ("blank in the method", instead(":method", b"GET /fn/evil"), false),
        ("line end in the method", instead(":method", b"GET\r\n"), false),
        ("asterisk", instead(":path", b"*"), false),
        ("other host", with("host", b"evil"), false),
        ("user in the authority", instead(":authority", b"user@localhost"), false),
        ("path in the authority", instead(":authority", b"localhost/x"), false),
        ("blank in the authority", instead(":authority", b"local host"), false),
        ("no authority and no host", without(":authority"), false),
        ("length without a body", with("content-length", b"5"), false),
        ("two lengths", [good, &[("content-length", b"0"), ("content-length", b"1")]].concat(), false),
        ("length that is none", with("content-length", b"+0"), false),
        ("TRACE", instead(":method", b"TRACE"), false),
        ("underscore look-alike", with("x_forwarded_for", b"6.6.6.6"), false),
        ("underscore look-alike of the length", with("content_length", b"6"), false),
        (
            "the same length twice",
            [good, &[("content-length", b"0"), ("content-length", b"0")]].concat(),
            false,
        ),
        ("length with a leading zero", with("content-length", b"00"), false),
        ("unknown expectation", with("expect", b"200-ok"), false),
        ("blank before a value", with("x", b" 1"), false),
        ("list in the authority", instead(":authority", b"localhost,evil"), false),
        ("method without end", instead(":method", &[b'A'; 33]), false),
        ("too many fields", [good, &[("x", &b"1"[..]); 201]].concat(), false),
        ("many crumbs of a cookie", [good, &[("cookie", &b"a=1"[..]); 201]].concat(), true),
    ] {
        let before = origin.requests().len();
        let answer = frames(&gateway, &ca, &fields).await;
        let arrived = origin.requests().len() - before;
        if passes != (answer == Outcome::Answered { ok: true }) || passes != (arrived == 1) {
            wrong.push(format!("{name}: {answer:?}, {arrived} requests at the function"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_request_without_a_clear_authority_is_told_of() {
    let (gateway, _origin, ca) = guarded().await;
    let asked: &[(&str, &[u8])] = &[(":method", b"GET"), (":scheme", b"https"), (":path", b"/fn/x")];
    let local: (&str, &[u8]) = ("host", b"localhost");
    let with = |more: &[(&'static str, &'static [u8])]| [asked, more].concat();
    let cases = [
        with(&[]),
        with(&[local, local]),
        with(&[(":authority", b"user@localhost")]),
        [&[(":authority", &b"localhost"[..])], asked, &[("host", &b"evil"[..])]].concat(),
    ];

    for fields in &cases {
        assert_eq!(frames(&gateway, &ca, fields).await, Outcome::Answered { ok: false }, "{fields:?}");
    }

    let log = gateway.access_log(cases.len()).await;
    assert_eq!(log.len(), cases.len());
    for line in log {
        assert_eq!((&line["status"], &line["reason"]), (&400.into(), &"bad_request".into()), "{line}");
        assert_eq!((&line["protocol"], &line["client"]), (&"HTTP/2".into(), &"127.0.0.1".into()), "{line}");
    }
    gateway.counts("fngate_failures_total", &[("code", "bad_request")], cases.len() as f64).await;
}

#[tokio::test]
async fn a_tunnel_is_refused_alike_over_both_protocols() {
    let (gateway, _origin, ca) = guarded().await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let request = hyper::Request::connect("localhost:443").body(Full::default()).unwrap();

    let over_http2 = Http2::read(client.call(request).await.unwrap()).await;
    let mut client = gateway.client().await;
    client.send("CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n").await;
    let over_http1 = client.response("GET").await;

    for (protocol, answer) in [("HTTP/2", over_http2), ("HTTP/1.1", over_http1)] {
        assert_eq!((answer.status(), answer.code().as_str()), (405, "method_not_allowed"), "{protocol}");
        assert_eq!(answer.header("allow"), Some(""), "{protocol}");
        let line = gateway.line_of(&answer).await;
        assert_eq!((&line["status"], &line["protocol"]), (&405.into(), &protocol.into()));
        assert_eq!((&line["method"], &line["path"]), (&"CONNECT".into(), &"-".into()), "{protocol}");
    }
    gateway.counts("fngate_failures_total", &[("code", "method_not_allowed")], 2.0).await;
}

#[tokio::test]
async fn a_head_may_be_as_large_as_one_of_the_old_version() {
    let (gateway, origin, ca) = guarded().await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let long = |length| "x".repeat(length);

    for (path, field, status) in [(8_000, 8_000, 200), (17_000, 10, 414), (10, 17_000, 431)] {
        let request = hyper::Request::get(format!("https://localhost/fn/{}", long(path)))
            .header("x-long", long(field))
            .body(Full::default())
            .unwrap();
        assert_eq!(client.call(request).await.unwrap().status(), status, "{path} {field}");
    }
    assert_eq!(origin.requests().len(), 1);

    let request = |method: &str, expectation| {
        let request = hyper::Request::builder().method(method).uri("https://localhost/fn/x");
        request.header("expect", expectation).body(Full::default()).unwrap()
    };
    assert_eq!(client.call(request("GET", "wonders")).await.unwrap().status(), 417);
    assert_eq!(client.call(request(&"A".repeat(33), "100-continue")).await.unwrap().status(), 501);
}

#[tokio::test]
async fn an_upload_that_stalls_is_given_up() {
    let origin = Origin::echo().await;
    let ca = Ca::new();
    let yaml = routes(&[
        ("streamed", "/streamed", &format!("http: {{ url: '{}/' }}", origin.url())),
        (
            "buffered",
            "/buffered",
            &format!(
                "openwhisk: {{ api_host: '{}', service_token: 'a:b', namespace: guest, action: test }}",
                origin.url()
            ),
        ),
    ]);
    let leaf = ca.leaf(&["localhost"]);
    let gateway = Gateway::start_tls(&leaf, &format!("limits: {{ idle_timeout: 1s }}\n{yaml}")).await;

    for path in ["/streamed", "/buffered"] {
        let mut client = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
        client.write_all(&preface()).await.unwrap();
        let fields: &[(&str, &[u8])] = &[
            (":method", b"POST"),
            (":scheme", b"https"),
            (":authority", b"localhost"),
            (":path", path.as_bytes()),
        ];
        let mut open = headers(1, fields);
        open[4] &= !1; // Without END_STREAM.
        client.write_all(&open).await.unwrap();
        let line = &gateway.access_log(if path == "/streamed" { 1 } else { 2 }).await;
        assert_eq!(line.last().unwrap()["status"], 408, "{line:?}");
        assert_eq!(line.last().unwrap()["reason"], "request_timeout", "{line:?}");
    }
}

#[tokio::test]
async fn an_upload_that_drips_is_given_up() {
    let (gateway, _origin, ca) = limited("limits: { min_rate: 1KiB }\n").await;
    let mut client = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
    let fields: &[(&str, &[u8])] =
        &[(":method", b"POST"), (":scheme", b"https"), (":authority", b"localhost"), (":path", b"/fn")];
    let mut open = headers(1, fields);
    open[4] &= !1; // Without END_STREAM.
    client.write_all(&[preface(), open].concat()).await.unwrap();

    // Never silent for longer than a twentieth of a second.
    let drip = async {
        while client.write_all(&frame(DATA, 0, 1, b"x")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = drip => {}
        () = gateway.counts("fngate_failures_total", &[("code", "request_timeout")], 1.0) => {}
    }

    let line = gateway.access_log(1).await.remove(0);
    assert_eq!(line["status"], 408, "{line}");
    assert!(line["dur_ms"].as_f64().unwrap() >= 5000.0, "{line}");
}

#[tokio::test]
async fn an_empty_frame_ends_a_body_once() {
    let (gateway, origin, ca) = limited("").await;
    let mut client = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
    client.write_all(&preface()).await.unwrap();
    let fields: &[(&str, &[u8])] =
        &[(":method", b"POST"), (":scheme", b"https"), (":authority", b"localhost"), (":path", b"/fn")];
    for (stream, frames) in [
        (1, vec![frame(DATA, 0, 1, b"one"), frame(DATA, 1, 1, b"")]),
        (3, vec![frame(DATA, 0, 3, b""), frame(DATA, 0, 3, b"two"), frame(DATA, 1, 3, b"")]),
        (5, vec![frame(DATA, 1, 5, b"")]),
    ] {
        let mut open = headers(stream, fields);
        open[4] &= !1; // Without END_STREAM.
        client.write_all(&open).await.unwrap();
        // So that no two frames are looked at at once.
        let number = (stream / 2) as usize;
        origin.request(number).await;
        for frame in frames {
            client.write_all(&frame).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(gateway.access_log(number + 1).await[number]["status"], 200);
    }

    assert_eq!((origin.accepted(), origin.requests().len()), (1, 3));
    let sent = String::from_utf8(origin.bytes_of(0)).unwrap();
    assert_eq!(sent.matches("\r\n0\r\n\r\n").count(), 3, "{sent}");
    assert_eq!(sent.matches("0\r\n\r\n").count(), 3, "{sent}");
}

/// As clients of gRPC send many messages at once.
#[tokio::test]
async fn a_burst_of_small_frames_is_a_body_like_any_other() {
    const FRAMES: usize = 1000;
    let (gateway, origin, ca) = limited("").await;
    let mut client = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
    let fields: &[(&str, &[u8])] =
        &[(":method", b"POST"), (":scheme", b"https"), (":authority", b"localhost"), (":path", b"/fn")];
    let mut open = headers(1, fields);
    open[4] &= !1; // Without END_STREAM.
    let burst = frame(DATA, 0, 1, &[b'x'; 50]).repeat(FRAMES);
    client.write_all(&[preface(), open, burst, frame(DATA, 1, 1, b"")].concat()).await.unwrap();

    let line = gateway.access_log(1).await.remove(0);

    assert_eq!((line["status"].as_u64(), line["bytes_in"].as_u64()), (Some(200), Some(50_000)), "{line}");
    assert_eq!(origin.only_request().body.len(), 50 * FRAMES);
}

#[tokio::test]
async fn a_head_that_drips_is_not_waited_for() {
    let dripping = Origin::http1()
        .script(|mut exchange| async move {
            exchange.send("HTTP/1.1 200 OK\r\nX-Drip: ").await;
            while !exchange.closing() {
                exchange.send("x").await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .start()
        .await;
    let (gateway, _good, ca) = beside(&dripping, "timeout: 1s").await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let (bad, good) = tokio::join!(
        client.call(Http2::get("https://localhost/bad")),
        client.call(Http2::get("https://localhost/good")),
    );

    assert_eq!(good.unwrap().status(), 200);
    let bad = Http2::read(bad.unwrap()).await;
    assert_eq!((bad.status(), bad.code().as_str()), (504, "upstream_timeout"));
    dripping.settles_at(0).await;
    assert_eq!(client.call(Http2::get("https://localhost/good")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_deadline_ends_an_answer_that_has_begun() {
    let stalling = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/plain").await;
            // Late, so that a wait that begins anew with it would be half as long again.
            tokio::time::sleep(Duration::from_secs(3)).await;
            exchange.send_chunk("some").await;
            exchange.peer_closed().await;
        })
        .start()
        .await;
    let (gateway, _good, ca) = beside(&stalling, "timeout: 60s, deadline: 6s").await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;

    let answer = client.call(Http2::get("https://localhost/bad")).await.unwrap();

    let answer = Http2::read(answer).await;
    assert_eq!((answer.status(), answer.text().as_str(), answer.whole), (200, "some", false));
    let line = gateway.access_log(1).await.remove(0);
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(200), Some("deadline")), "{line}");
    assert!(line["dur_ms"].as_f64().unwrap() < 9000.0, "{line}");
    stalling.settles_at(0).await;
    assert_eq!(client.call(Http2::get("https://localhost/good")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn silence_in_a_body_ends_it() {
    let stalling = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/plain").await;
            // Twice the time-out in all.
            for _ in 0..24 {
                exchange.send_chunk("some").await;
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            exchange.peer_closed().await;
        })
        .start()
        .await;
    let (gateway, _good, ca) = beside(&stalling, "timeout: 3s").await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;

    let mut body = client.call(Http2::get("https://localhost/bad")).await.unwrap().into_body();

    let mut pieces = 0;
    while within("a piece", body.frame()).await.unwrap().is_ok() {
        pieces += 1;
    }
    assert!(pieces >= 24, "{pieces}");
    assert_eq!(gateway.access_log(1).await[0]["reason"], "upstream_timeout");
}

#[tokio::test]
async fn a_connection_that_has_brought_its_requests_ends_with_them() {
    let (origin, gate) = held().await;
    let ca = Ca::new();
    let other = Origin::echo().await;
    let yaml = routes(&[
        ("held", "/held", &format!("http: {{ url: '{}/' }}", origin.url())),
        ("good", "/good", &format!("http: {{ url: '{}/' }}", other.url())),
    ]);
    let yaml = format!("limits: {{ requests_per_connection: 3 }}\n{yaml}");
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;
    let mut client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let last = client.call(Http2::get("https://localhost/held"));
    let others = async {
        for _ in 0..2 {
            assert_eq!(client.call(Http2::get("https://localhost/good")).await.unwrap().status(), 200);
        }
        origin.request(0).await;
        // The client has been told, and opens no further stream.
        eventually("the end of new requests", PATIENCE, async || {
            client.call(Http2::get("https://localhost/good")).await.is_err().then_some(())
        })
        .await;
        gate.open();
    };

    let (last, ()) = tokio::join!(last, others);

    let body = last.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "done");
    client.ended().await;
}

#[tokio::test]
async fn a_request_that_outlives_the_grace_is_told_so() {
    let (origin, _gate) = held().await;
    let ca = Ca::new();
    let target = format!("http: {{ url: '{}/', timeout: 60s }}", origin.url());
    let yaml = format!("shutdown_grace: 1s\n{}", route("/fn", &target));
    let mut gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;
    let mut client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let call = client.call(Http2::get("https://localhost/fn"));
    let stop = async {
        origin.request(0).await;
        gateway.signal(Signal::SIGTERM);
    };

    let (answer, ()) = tokio::join!(call, stop);

    let answer = Http2::read(answer.unwrap()).await;
    assert_eq!((answer.status(), answer.code().as_str()), (503, "draining"));
    client.ended().await;
    assert!(gateway.exit().await.success());
    assert_eq!(gateway.access_log(1).await[0]["reason"], "draining");
}

#[tokio::test]
async fn a_client_that_opens_and_resets_hurts_only_itself() {
    let origin =
        Origin::http1().script(|mut exchange| async move { exchange.peer_closed().await }).start().await;
    let ca = Ca::new();
    let target = format!("http: {{ url: '{}/', timeout: 60s }}", origin.url());
    let other = Origin::echo().await;
    let gateway = Gateway::start_tls(
        &ca.leaf(&["localhost"]),
        &routes(&[
            ("slow", "/slow", &target),
            ("other", "/other", &format!("http: {{ url: '{}/' }}", other.url())),
        ]),
    )
    .await;
    let mut attacker = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
    attacker.write_all(&preface()).await.unwrap();
    let fields: &[(&str, &[u8])] =
        &[(":method", b"GET"), (":scheme", b"https"), (":authority", b"localhost"), (":path", b"/slow")];

    for stream in (1..4001).step_by(2) {
        let burst = [headers(stream, fields), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat();
        if attacker.write_all(&burst).await.is_err() {
            break;
        }
    }

    assert_eq!(gateway.get("/other").await.status(), 200);
    origin.settles_at(0).await;
    gateway.counts("fngate_requests_in_flight", &[("route", "slow")], 0.0).await;
}

#[tokio::test]
async fn an_http2_client_that_floods_is_told_to_calm_down() {
    let (gateway, _origin, ca) = limited("limits: { http2_control_frames: 100 }\n").await;
    let other = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    for (n, (kind, payload)) in
        [(PING, &[0; 8][..]), (SETTINGS, &[]), (PRIORITY, &[0, 0, 0, 0, 1])].into_iter().enumerate()
    {
        let mut client = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
        client.write_all(&preface()).await.unwrap();
        let stream = u32::from(kind == PRIORITY);
        // It may be cut off before all of it is sent.
        let _ = client.write_all(&frame(kind, 0, stream, payload).repeat(2_000)).await;

        let mut heard = Vec::new();
        let _ = within("the end of the connection", client.read_to_end(&mut heard)).await;

        let goaway = [0, 0, 8, GO_AWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
        assert!(heard.ends_with(&goaway), "{kind}: {:?}", heard.last_chunk::<17>());
        let line = gateway.access_log(n + 1).await.remove(n);
        assert_eq!(
            (line["reason"].as_str(), line["protocol"].as_str()),
            (Some("client_flood"), Some("HTTP/2"))
        );
    }
    gateway.counts("fngate_failures_total", &[("code", "client_flood")], 3.0).await;
    assert_eq!(other.call(Http2::get("https://localhost/fn")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_http2_client_that_takes_no_answer_gives_its_place_back() {
    let (gateway, _origin, ca) = limited("limits: { idle_timeout: 1s }\n").await;
    let mut client = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
    let fields: &[(&str, &[u8])] =
        &[(":method", b"GET"), (":scheme", b"https"), (":authority", b"localhost"), (":path", b"/fn")];
    // A window of nothing, for all streams.
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    client.write_all(&[&preface()[..24], &no_window[..], &headers(1, fields)].concat()).await.unwrap();

    let line = gateway.access_log(1).await.remove(0);

    assert_eq!(line["reason"], "client_slow", "{line}");
    gateway.counts("fngate_requests_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn an_http2_client_that_says_nothing_is_sent_home() {
    let (gateway, _origin, ca) = limited("limits: { header_timeout: 1s }\n").await;
    let mut client = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
    let _ = within("the end of the connection", client.read_to_end(&mut Vec::new())).await;
}

/// It never answers the PING by which the connection would be given back in order.
#[tokio::test]
async fn an_http2_client_that_says_nothing_does_not_hold_up_the_end() {
    let (mut gateway, _origin, ca) = limited("shutdown_grace: 60s\n").await;
    let mut silent = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
    let fields: &[(&str, &[u8])] =
        &[(":method", b"GET"), (":scheme", b"https"), (":authority", b"localhost"), (":path", b"/fn")];
    silent.write_all(&[preface(), headers(1, fields)].concat()).await.unwrap();
    gateway.access_log(1).await;

    gateway.signal(Signal::SIGTERM);

    assert!(gateway.exit().await.success());
}

#[tokio::test]
async fn what_a_function_did_not_look_at_is_sent_once_more() {
    const REFUSED_STREAM: u32 = 7;
    let refused = |stream: u32| frame(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes());
    // The last stream it has processed is none, and there is no error.
    let going = |_| frame(GO_AWAY, 0, 0, &[0; 8]);

    for words in [Box::new(refused) as Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>, Box::new(going)] {
        let mut ended = 0;
        let (addr, asked) = function_of_frames(move |stream| {
            ended += 1;
            if ended == 1 { words(stream) } else { frame(HEADERS, END_OF_ALL, stream, &[STATUS_200]) }
        })
        .await;
        let target = format!("openfunction: {{ function_uri: 'http://{addr}/', http2: on }}");
        let gateway = Gateway::start(&route("/fn", &target)).await;

        let answer = gateway.post("/fn", "").await;

        assert_eq!((answer.status(), asked.load(Relaxed)), (200, 2), "{}", answer.text());
        assert_eq!(gateway.access_log(1).await[0]["attempts"], 2);
    }
}

#[tokio::test]
async fn a_function_that_resets_a_stream_has_broken_off() {
    const CANCEL: u32 = 8;
    let (addr, asked) =
        function_of_frames(|stream| frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())).await;
    let target = format!("openfunction: {{ function_uri: 'http://{addr}/', http2: on }}");
    let gateway = Gateway::start(&route("/fn", &target)).await;

    let answer = gateway.post("/fn", "body").await;

    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_reset"));
    assert_eq!(asked.load(Relaxed), 1, "it may have run");
}

#[tokio::test]
async fn a_function_that_gives_no_room_for_a_body_is_late() {
    let (addr, _) = function_of_frames(|_| Vec::new()).await;
    let ca = Ca::new();
    let target = |more: &str| format!("http: {{ url: 'http://{addr}/', http2: on, {more} }}");
    let yaml = routes(&[
        ("slow", "/slow", &target("timeout: 3s")),
        ("late", "/late", &target("timeout: 60s, deadline: 4s")),
    ]);
    let yaml = format!("limits: {{ min_rate: 1MB, idle_timeout: 3s }}\n{yaml}");
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;
    let body = vec![b'x'; 1_000_000];

    for (path, code) in [("/slow", "upstream_timeout"), ("/late", "deadline")] {
        let request = Request::post(path, body.clone());
        let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
        let stream = hyper::Request::post(format!("https://localhost{path}"))
            .body(Full::new(Bytes::from(body.clone())))
            .unwrap();
        let (over_http1, over_http2) = tokio::join!(gateway.send(&request), client.call(stream));
        let over_http2 = Http2::read(over_http2.unwrap()).await;
        for (name, answer) in [("HTTP/1", over_http1), ("HTTP/2", over_http2)] {
            assert_eq!((answer.status(), answer.code().as_str()), (504, code), "{name} {path}");
        }
    }
    let log = gateway.access_log(4).await;
    assert!(log.iter().all(|line| line["dur_ms"].as_f64().unwrap() < 15000.0), "{log:#?}");
}

/// One that waits to be asked for it does not send its body any more.
#[tokio::test]
async fn an_answer_with_trailers_ends_the_wait_for_a_body() {
    let (addr, _) = function_of_frames(|stream| {
        let mut head = frame(HEADERS, END_OF_HEADERS, stream, &[STATUS_200]);
        head.extend(frame(DATA, 0, stream, b"body"));
        head.extend(headers(stream, &[("x-trailer", b"1")]));
        head
    })
    .await;
    let target = format!("http: {{ url: 'http://{addr}/', http2: on }}");
    let gateway = Gateway::start(&route("/fn", &target)).await;
    let mut client = gateway.client().await;

    client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;

    let answer = client.response("POST").await;
    assert_eq!((answer.status(), answer.text().as_str(), answer.whole), (200, "body", true));
    assert_eq!(client.rest().await, b"");
    let line = gateway.access_log(1).await.remove(0);
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(200), None), "{line}");
}

/// RFC 9110 section 6.4.1; the library takes the third for a fault (RFC 9113 section 8.1.1 does not).
#[tokio::test]
async fn an_answer_without_a_body_ends_with_its_head() {
    let (setting, ca, gateway) = spoken().await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;

    for (method, fields, data) in [
        ("GET", vec![(":status", "204")], "EVIL"),
        ("GET", vec![(":status", "304")], "EVIL"),
        ("GET", vec![(":status", "304"), ("content-length", "5")], ""),
        ("GET", vec![(":status", "204")], ""),
        ("HEAD", vec![(":status", "200"), ("content-length", "5")], ""),
    ] {
        setting.say(&fields, data.as_bytes(), &[]);
        let status: u16 = fields[0].1.parse().unwrap();
        // Whether the fault is seen together with the head is a matter of luck.
        for _ in 0..10 {
            let request = Request::new(method, "/fn");
            let over_http1 = gateway.send(&request).await;
            let request =
                hyper::Request::builder().method(method).uri("https://localhost/fn").body(Full::default());
            let over_http2 = Http2::read(client.call(request.unwrap()).await.unwrap()).await;

            for (protocol, answer) in [("HTTP/1", over_http1), ("HTTP/2", over_http2)] {
                let what = format!("{method} {fields:?} {protocol}: {answer:?}");
                assert_eq!(
                    (answer.status(), answer.text().as_str(), answer.whole),
                    (status, "", true),
                    "{what}"
                );
                let line = gateway.line_of(&answer).await;
                assert_eq!((&line["status"], &line["reason"]), (&status.into(), &().into()), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_with_fields_that_are_none_is_no_answer() {
    let (setting, ca, gateway) = spoken().await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let call = async || Http2::read(client.call(Http2::get("https://localhost/fn")).await.unwrap()).await;

    for field in [("x\"y", "1"), ("x", " 1"), ("x", "1\t")] {
        setting.say(&[(":status", "200"), field], b"body", &[]);
        for answer in [gateway.get("/fn").await, call().await] {
            assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_protocol"), "{field:?}");
        }
        setting.say(&[(":status", "200")], b"body", &[field]);
        for answer in [gateway.get("/fn").await, call().await] {
            // The head may be on its way already, or not.
            let is_told = matches!((answer.status(), answer.whole), (200, false) | (502, true));
            assert!(is_told, "{field:?} after the body: {answer:?}");
            let line = gateway.line_of(&answer).await;
            assert_eq!(line["reason"], "upstream_protocol", "{field:?}");
        }
    }
}

/// RFC 9112 section 6.1.
#[tokio::test]
async fn a_client_of_the_old_version_gets_no_chunks_of_a_function_of_http2() {
    let (addr, _) = function_of_frames(|stream| {
        let head = frame(HEADERS, END_OF_HEADERS, stream, &[STATUS_200]);
        [head, frame(DATA, 0, stream, b"one"), frame(DATA, 1, stream, b"two")].concat()
    })
    .await;
    let target = format!("http: {{ url: 'http://{addr}/', http2: on }}");
    let gateway = Gateway::start(&route("/fn", &target)).await;

    for (method, whole) in [("GET", "onetwo"), ("HEAD", "")] {
        let mut client = gateway.client().await;
        client.send(format!("{method} /fn HTTP/1.0\r\nHost: h\r\n\r\n")).await;

        let answer = String::from_utf8(client.rest().await).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
        assert_eq!(body, whole);
    }
}

#[tokio::test]
async fn an_idle_connection_is_told_that_it_ends() {
    let (gateway, _origin, ca) = limited("limits: { idle_timeout: 3s }\n").await;
    let mut client = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
    client.write_all(&preface()).await.unwrap();

    let mut heard = Vec::new();
    let _ = within("the end of the connection", client.read_to_end(&mut heard)).await;

    let mut kinds = Vec::new();
    let mut rest = &heard[..];
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        kinds.push(*kind);
        rest = &payload[u32::from_be_bytes([0, *a, *b, *c]) as usize..];
    }
    assert!(kinds.contains(&GO_AWAY), "{kinds:?}");
    let mut client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    assert_eq!(client.call(Http2::get("https://localhost/fn")).await.unwrap().status(), 200);
    client.ended().await;
}

/// A function of HTTP/2 on `/fn` that says what it was told last.
struct Spoken(Arc<Mutex<Vec<Frame>>>);

/// Kind, flags and payload.
type Frame = (u8, u8, Vec<u8>);

impl Spoken {
    /// The head does not end the stream; without trailers the body does.
    fn say(&self, head: &[(&str, &str)], body: &[u8], trailers: &[(&str, &str)]) {
        let block = |fields: &[(&str, &str)]| {
            block(&fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect::<Vec<_>>())
        };
        let mut frames = vec![(HEADERS, END_OF_HEADERS, block(head))];
        frames.push((DATA, u8::from(trailers.is_empty()), body.to_vec()));
        if !trailers.is_empty() {
            frames.push((HEADERS, END_OF_ALL, block(trailers)));
        }
        *self.0.lock().unwrap() = frames;
    }
}

async fn spoken() -> (Spoken, Ca, Gateway) {
    let spoken = Spoken(Arc::default());
    let frames = Arc::clone(&spoken.0);
    let (addr, _) = function_of_frames(move |stream| {
        let frames = frames.lock().unwrap();
        frames.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, stream, payload)).collect()
    })
    .await;
    let ca = Ca::new();
    let target = format!("http: {{ url: 'http://{addr}/', http2: on }}");
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &route("/fn", &target)).await;
    (spoken, ca, gateway)
}

/// A function of HTTP/2 in the clear that says to each request what it is given; and how many there were.
async fn function_of_frames(
    answer: impl FnMut(u32) -> Vec<u8> + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(local(free_port())).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let answer = Arc::new(Mutex::new(answer));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (answer, counted) = (Arc::clone(&answer), Arc::clone(&counted));
            tokio::spawn(async move {
                socket.write_all(&frame(SETTINGS, 0, 0, b"")).await?;
                socket.read_exact(&mut [0; 24]).await?;
                loop {
                    let mut head = [0; 9];
                    socket.read_exact(&mut head).await?;
                    let [a, b, c, kind, _, stream @ ..] = head;
                    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
                    socket.read_exact(&mut payload).await?;
                    if kind == HEADERS {
                        counted.fetch_add(1, Relaxed);
                        let words = (answer.lock().unwrap())(u32::from_be_bytes(stream));
                        socket.write_all(&words).await?;
                    }
                }
                #[expect(unreachable_code, reason = "says what the block fails with")]
                Ok::<(), std::io::Error>(())
            });
        }
    });
    (addr, asked)
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Answered {
        /// 200, and not a refusal.
        ok: bool,
    },
    StreamReset,
    ConnectionEnded,
}

/// Sends one request of exactly these fields, and says what came of it.
async fn frames(gateway: &Gateway, ca: &Ca, fields: &[(&str, &[u8])]) -> Outcome {
    let mut socket = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
    // A refusal may already be on its way; what it says is read below.
    let _ = socket.write_all(&[preface(), headers(1, fields)].concat()).await;
    let read = async {
        loop {
            let mut head = [0; 9];
            if socket.read_exact(&mut head).await.is_err() {
                return Outcome::ConnectionEnded;
            }
            let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; size];
            if socket.read_exact(&mut payload).await.is_err() {
                return Outcome::ConnectionEnded;
            }
            match head[3] {
                HEADERS => return Outcome::Answered { ok: payload.first() == Some(&STATUS_200) },
                RST_STREAM => return Outcome::StreamReset,
                GO_AWAY => return Outcome::ConnectionEnded,
                _ => (),
            }
        }
    };
    within("an outcome", read).await
}

fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, b"")].concat()
}

/// A whole request without a body.
fn headers(stream: u32, fields: &[(&str, &[u8])]) -> Vec<u8> {
    frame(HEADERS, END_OF_ALL, stream, &block(fields))
}

/// Every field literal.
fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name.as_bytes(), value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text);
        }
    }
    block
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&size[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

async fn guarded() -> (Gateway, Origin, Ca) {
    let ca = Ca::new();
    let origin = Origin::echo().await;
    let target = format!(
        "openfunction: {{ function_uri: '{}/base', authorization: {{ service_token: 'a:b' }} }}",
        origin.url()
    );
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &route("/fn/*", &target)).await;
    (gateway, origin, ca)
}

/// An echoing function on `/fn`, with these settings.
async fn limited(settings: &str) -> (Gateway, Origin, Ca) {
    let ca = Ca::new();
    let origin = Origin::echo().await;
    let yaml = format!("{settings}{}", route("/fn", &openfunction(&origin, "")));
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;
    (gateway, origin, ca)
}

/// END_STREAM and END_HEADERS.
const END_OF_ALL: u8 = 0x5;
const END_OF_HEADERS: u8 = 0x4;
/// A function on `/bad`, and an echoing one on `/good`.
async fn beside(bad: &Origin, more: &str) -> (Gateway, Origin, Ca) {
    let ca = Ca::new();
    let good = Origin::echo().await;
    let yaml = routes(&[
        ("bad", "/bad", &format!("http: {{ url: '{}/', {more} }}", bad.url())),
        ("good", "/good", &format!("http: {{ url: '{}/' }}", good.url())),
    ]);
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;
    (gateway, good, ca)
}

/// A function that answers once the gate is open.
async fn held() -> (Origin, Gate) {
    let gate = Gate::closed();
    let passing = gate.clone();
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let gate = passing.clone();
            async move {
                gate.passed().await;
                exchange.answer(Reply::text(200, "done")).await;
            }
        })
        .start()
        .await;
    (origin, gate)
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
/// `:status: 200` as the static table has it.
const STATUS_200: u8 = 0x88;
