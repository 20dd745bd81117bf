//! What attackers send, row by row over raw sockets: refused, never repaired; nothing of it reaches a function, and
//! the next client does not notice.

use std::time::Duration;

use futures_util::future::join_all;

use crate::harness::*;

/// A malformed head: the status it is answered with, and the bytes.
type Row = (&'static str, &'static [u16], Vec<u8>);

#[tokio::test]
async fn framing_that_leaves_something_to_be_guessed() {
    let post = |fields: &str| format!("POST /fn/x HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes();
    let te = |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"));
    let raw_te = |value: &[u8]| {
        [b"POST /fn/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: ", value, b"\r\n\r\n"].concat()
    };
    let cl = |value: &str| post(&format!("Content-Length: {value}\r\n"));
    refused(vec![
        ("CL.TE", &[400], post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n")),
        ("TE.CL", &[400], post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n")),
        ("TE xchunked", &[400, 501], te("xchunked")),
        ("TE ,chunked", &[400, 501], te(",chunked")),
        ("TE chunked,", &[400, 501], te("chunked,")),
        ("TE chunked;x", &[400, 501], te("chunked;x=1")),
        ("TE quoted", &[400, 501], te("\"chunked\"")),
        ("TE identity", &[400, 501], te("identity")),
        ("TE chunked, identity", &[400, 501], te("chunked, identity")),
        ("TE chunked, chunked", &[400, 501], te("chunked, chunked")),
        ("TE gzip", &[400, 501], te("gzip")),
        ("TE gzip, chunked", &[501], te("gzip, chunked")),
        ("TE empty", &[400, 501], te("")),
        ("TE VT", &[400, 501], te("\u{b}chunked")),
        ("TE FF", &[400, 501], te("chunked\u{c}")),
        ("TE 0x85", &[400, 501], raw_te(b"\x85chunked")),
        ("TE 0xA0", &[400, 501], raw_te(b"chunked\xa0")),
        ("TE twice", &[400, 501], post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")),
        (
            "TE twice, other",
            &[400, 501],
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ),
        ("TE blank before colon", &[400], post("Transfer-Encoding : chunked\r\n")),
        ("TE folded", &[400], post("Transfer-Encoding:\r\n chunked\r\n")),
        (
            "TE in HTTP/1.0",
            &[400],
            b"POST /fn/x HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        ),
        ("CL differing", &[400], post("Content-Length: 4\r\nContent-Length: 5\r\n")),
        ("CL equal", &[400], post("Content-Length: 4\r\nContent-Length: 4\r\n")),
        ("CL list", &[400], cl("4, 4")),
        ("CL plus", &[400], cl("+4")),
        ("CL minus", &[400], cl("-1")),
        ("CL hex", &[400], cl("0x4")),
        ("CL underscore", &[400], cl("4_0")),
        ("CL empty", &[400], cl("")),
        ("CL exponent", &[400], cl("1e3")),
        ("CL over 2^63", &[400, 413], cl("9223372036854775808")),
        ("CL over 2^64", &[400, 413], cl("99999999999999999999")),
        ("CL blank inside", &[400], cl("4 4")),
        ("CL folded", &[400], post("Content-Length:\r\n 4\r\n")),
    ])
    .await;
}

#[tokio::test]
async fn heads_that_are_no_heads() {
    let get = |fields: &str| format!("GET /fn/x HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes();
    let line = |line: &str| format!("{line}\r\nHost: h\r\n\r\n").into_bytes();
    let raw = |bytes: &[u8]| [b"GET /fn/x HTTP/1.1\r\nHost: h\r\n", bytes, b"\r\n\r\n"].concat();
    refused(vec![
        ("bare LF ends a field", &[400], get("X: a\nY: b\r\n")),
        ("bare LF ends the request line", &[400], b"GET /fn/x HTTP/1.1\nHost: h\r\n\r\n".into()),
        ("bare LF everywhere", &[400], b"GET /fn/x HTTP/1.1\nHost: h\n\n".into()),
        ("bare CR in a value", &[400], raw(b"X: a\rb")),
        ("NUL in a value", &[400], raw(b"X: a\0b")),
        ("control in a value", &[400], raw(b"X: a\x01b")),
        ("DEL in a value", &[400], raw(b"X: a\x7fb")),
        ("obs-fold", &[400], get("X: a\r\n b\r\n")),
        ("blank before colon", &[400], get("X : a\r\n")),
        ("no colon", &[400], get("nonsense\r\n")),
        ("empty name", &[400], get(": a\r\n")),
        ("name with a blank", &[400], get("X Y: a\r\n")),
        ("blank before the first field", &[400], b"GET /fn/x HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n".into()),
        ("two blanks", &[400], line("GET  /fn/x HTTP/1.1")),
        ("tab between words", &[400], line("GET\t/fn/x\tHTTP/1.1")),
        ("blank in the target", &[400], line("GET /fn/a b HTTP/1.1")),
        ("blank before the method", &[400], line(" GET /fn/x HTTP/1.1")),
        ("blank after the version", &[400], line("GET /fn/x HTTP/1.1 ")),
        ("NUL in the target", &[400], line("GET /fn/a\0b HTTP/1.1")),
        ("no version", &[400, 505], b"GET /fn/x\r\n\r\n".into()),
        ("HTTP/1.9", &[400, 505], line("GET /fn/x HTTP/1.9")),
        ("HTTP/2.0 as text", &[400, 505], line("GET /fn/x HTTP/2.0")),
        ("http/1.1", &[400, 505], line("GET /fn/x http/1.1")),
        ("HTTP/1.1x", &[400, 505], line("GET /fn/x HTTP/1.1x")),
        ("method with a separator", &[400, 405, 501], line("G(T /fn/x HTTP/1.1")),
        ("fragment", &[400], line("GET /fn/x#y HTTP/1.1")),
        ("asterisk with GET", &[400], line("GET * HTTP/1.1")),
        ("authority form", &[400], line("GET h:80 HTTP/1.1")),
        ("target without slash", &[400], line("GET fn/x HTTP/1.1")),
    ])
    .await;
}

#[tokio::test]
async fn hosts_that_are_no_hosts() {
    let host = |fields: &str| format!("GET /fn/x HTTP/1.1\r\n{fields}\r\n").into_bytes();
    refused(vec![
        ("missing", &[400], host("")),
        ("empty", &[400], host("Host:\r\n")),
        ("twice", &[400], host("Host: h\r\nHost: h\r\n")),
        ("twice, other", &[400], host("Host: h\r\nHost: evil\r\n")),
        ("list", &[400], host("Host: h, evil\r\n")),
        ("user", &[400], host("Host: user@h\r\n")),
        ("path", &[400], host("Host: h/x\r\n")),
        ("query", &[400], host("Host: h?x\r\n")),
        ("blank inside", &[400], host("Host: h evil\r\n")),
        ("port that is none", &[400], host("Host: h:abc\r\n")),
        ("port too large", &[400], host("Host: h:99999\r\n")),
        ("absolute form, other host", &[400], b"GET http://evil/fn/x HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        ("absolute form with user", &[400], b"GET http://u@h/fn/x HTTP/1.1\r\nHost: h\r\n\r\n".into()),
    ])
    .await;
}

#[tokio::test]
async fn methods_that_must_not_carry_a_credential() {
    let (gateway, origin) = guarded().await;
    for (line, statuses) in [
        ("TRACE /fn/x HTTP/1.1", &[405][..]),
        ("OPTIONS * HTTP/1.1", &[400, 404, 405, 501]),
        ("CONNECT h:443 HTTP/1.1", &[400, 405]),
    ] {
        let mut client = gateway.client().await;
        client.send(format!("{line}\r\nHost: h\r\n\r\n")).await;
        let answer = client.response("GET").await;
        assert!(statuses.contains(&answer.status()), "{line}: {}", answer.head.first_line);
    }
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn heads_without_end() {
    refused(vec![
        (
            "target",
            &[400, 414, 431],
            format!("GET /fn/{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(200_000)).into(),
        ),
        (
            "one field",
            &[431],
            format!("GET /fn/x HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(200_000)).into(),
        ),
        (
            "all fields",
            &[400, 431],
            format!("GET /fn/x HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(5000)).into(),
        ),
        (
            "method",
            &[400, 405, 414, 431, 501],
            format!("{} /fn/x HTTP/1.1\r\nHost: h\r\n\r\n", "M".repeat(70_000)).into(),
        ),
    ])
    .await;
}

#[tokio::test]
async fn chunks_that_are_no_chunks() {
    let (gateway, origin) = guarded().await;
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(200_000));
    let mut wrong = Vec::new();
    for (name, body) in [
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("minus", "-5\r\nhello\r\n0\r\n\r\n"),
        ("underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("empty size", "\r\nhello\r\n0\r\n\r\n"),
        ("no digits", "zz\r\nhello\r\n0\r\n\r\n"),
        ("blank first", " 5\r\nhello\r\n0\r\n\r\n"),
        ("seventeen digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("overflow", "ffffffffffffffff1\r\nhello\r\n0\r\n\r\n"),
        ("bare LF after the size", "5\nhello\r\n0\r\n\r\n"),
        ("no line end after the data", "5\r\nhelloXX0\r\n\r\n"),
        ("bare LF after the data", "5\r\nhello\n0\r\n\r\n"),
        ("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("endless extension", &long),
    ] {
        let before = origin.requests().len();
        let mut client = gateway.client().await;
        client.send("POST /fn/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.send(body).await;
        client.send("GET /fn/smuggled HTTP/1.1\r\nHost: h\r\n\r\n").await;
        match client.try_response("POST").await {
            Some(answer) if answer.status() == 400 => (),
            Some(answer) => wrong.push(format!("{name}: {}", answer.head.first_line)),
            None => wrong.push(format!("{name}: closed without an answer")),
        }
        client.rest().await;
        origin.settles_at(0).await;
        for request in &origin.requests()[before..] {
            if request.target().contains("smuggled") {
                wrong.push(format!("{name}: the smuggled request arrived"));
            }
            if origin.bytes_of(request.connection).ends_with(b"0\r\n\r\n") {
                wrong.push(format!("{name}: the function saw a whole body"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(gateway.get("/fn/x").await.status(), 200);
}

#[tokio::test]
async fn trailers_carry_nothing() {
    let (gateway, origin) = guarded().await;
    let mut client = gateway.client().await;

    client
        .send(
            "POST /fn/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n5\r\nhello\r\n0\r\n\
             Authorization: forged\r\nContent-Length: 31999\r\nHost: evil\r\nX-Trailer: 1\r\n\r\n",
        )
        .await;

    assert_eq!(client.response("POST").await.status(), 200);
    let seen = String::from_utf8_lossy(&origin.bytes_of(0)).into_owned();
    for text in ["forged", "evil", "X-Trailer", "31999"] {
        assert!(!seen.contains(text), "{text} in {seen}");
    }
}

#[tokio::test]
async fn a_length_is_sent_on_in_its_canonical_form() {
    let (gateway, origin) = guarded().await;
    let mut client = gateway.client().await;

    client.send("POST /fn/x HTTP/1.1\r\nHost: h\r\nContent-Length: 005\r\n\r\nhello").await;

    match client.response("POST").await.status() {
        200 => assert_eq!(origin.only_request().header("content-length"), Some("5")),
        status => assert_eq!((status, origin.requests().len()), (400, 0)),
    }
}

#[tokio::test]
async fn only_the_exact_expectation_is_passed_on() {
    let (gateway, origin) = guarded().await;
    for value in ["100-continue, x", "x", "\"100-continue\"", "100-continue;q=1"] {
        let request = Request::post("/fn/x", "body").header("Expect", value);
        let answer = gateway.send(&request).await;
        assert!(matches!(answer.status(), 400 | 417), "{value}: {}", answer.head.first_line);
    }
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn a_body_with_get_is_a_body() {
    let (gateway, origin) = guarded().await;
    let mut client = gateway.client().await;

    client.send("GET /fn/x HTTP/1.1\r\nHost: h\r\nContent-Length: 41\r\n\r\nGET /fn/smuggled HTTP/1.1\r\nHost: evil\r\n\r\n").await;

    assert_eq!(client.response("GET").await.status(), 200);
    assert_eq!(client.call(&Request::get("/fn/next")).await.json::<Echo>().target, "/base/next");
    let seen = origin.requests();
    assert_eq!(seen.iter().map(|r| r.target()).collect::<Vec<_>>(), ["/base/x", "/base/next"]);
    assert!(seen[0].body.starts_with(b"GET /fn/smuggled"));
}

#[tokio::test]
async fn a_refused_body_is_not_the_next_request() {
    let (gateway, origin) = guarded().await;
    for path in ["/nowhere", "/fn/.."] {
        let mut client = gateway.client().await;
        client
            .send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 41\r\n\r\nGET /fn/smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"))
            .await;
        assert!(client.response("POST").await.status() >= 400);
        // What is left of the body is drained, or the connection is closed; it is never read as a request.
        client.finish().await;
        client.rest().await;
    }
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn pipelined_requests_are_served_in_order_or_not_at_all() {
    let (gateway, _origin) = guarded().await;
    let mut client = gateway.client().await;

    client.send("GET /fn/1 HTTP/1.1\r\nHost: h\r\n\r\nGET /fn/2 HTTP/1.1\r\nHost: h\r\n\r\n").await;

    assert_eq!(client.response("GET").await.json::<Echo>().target, "/base/1");
    if let Some(second) = client.try_response("GET").await {
        assert_eq!(second.json::<Echo>().target, "/base/2");
    }
}

#[tokio::test]
async fn the_absolute_form_becomes_the_origin_form() {
    let (gateway, origin) = guarded().await;
    let mut client = gateway.client().await;

    client.send("GET http://api.example.com/fn/x?q=1 HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;

    assert_eq!(client.response("GET").await.status(), 200);
    assert_eq!(origin.only_request().target(), "/base/x?q=1");
}

#[tokio::test]
async fn our_credential_cannot_be_named_away() {
    let (gateway, origin) = guarded().await;

    for nominated in ["authorization", "Authorization, close", "host", "content-length", "x-forwarded-for"] {
        let before = origin.requests().len();
        let request = Request::post("/fn/x", "body")
            .header("Connection", nominated)
            .header("Authorization", "Bearer forged");
        let answer = gateway.send(&request).await;
        match answer.status() {
            200 => {
                let seen = origin.requests().remove(before);
                assert_eq!(seen.all("authorization"), ["Basic YTpi"], "{nominated}");
                assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "{nominated}");
                assert_eq!(seen.header("host"), Some(origin.addr().to_string().as_str()), "{nominated}");
                assert_eq!(seen.body, b"body", "{nominated}");
            }
            status => {
                assert_eq!((status, origin.requests().len()), (400, before), "{nominated}");
                assert!(answer.text().contains("Connection names a header"), "{}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn our_credential_has_no_look_alike() {
    let origin = Origin::echo().await;
    let target =
        format!("http: {{ url: '{}/', headers: {{ X-Api-Key: ours, X_Internal-Key: ours }} }}", origin.url());
    let gateway = Gateway::start(&route("/fn/*", &target)).await;

    for name in ["X_Api_Key", "x-api_key", "X-Internal-Key", "X_Internal_Key"] {
        let answer = gateway.send(&Request::get("/fn/x").header(name, "theirs")).await;
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_request"), "{name}");
    }
    assert_eq!(origin.requests().len(), 0);
    // A name of the client's own may have one.
    let request =
        Request::get("/fn/x").header("user_id", "1").header("x-api-key", "theirs").header("x-internal", "1");
    let echo = gateway.send(&request).await.json::<Echo>();
    assert_eq!((echo.header("user_id"), echo.header("x-api-key")), (Some("1"), Some("ours")));
}

#[tokio::test]
async fn what_follows_an_upgrade_too_early_never_reaches_the_function_raw() {
    let origin = Origin::http1()
        .script(|mut exchange| async move { exchange.answer(Reply::text(200, "no upgrade")).await })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &format!("http: {{ url: '{}/' }}", origin.url()))).await;
    let mut client = gateway.client().await;

    client
        .send(
            "GET /fn HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n",
        )
        .await;

    assert_eq!(client.response("GET").await.text(), "no upgrade");
    client.finish().await;
    client.rest().await;
    assert_eq!(gateway.get("/fn").await.status(), 200);
    for request in origin.requests() {
        assert_eq!(request.target(), "/");
    }
    assert!(!String::from_utf8_lossy(&origin.bytes_of(0)).contains("smuggled"));
}

#[tokio::test]
async fn an_answer_with_two_framings_poisons_nobody() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n").await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &format!("http: {{ url: '{}/' }}", origin.url()))).await;

    for _ in 0..2 {
        let answer = gateway.get("/fn").await;
        assert!(answer.status() == 502 || (answer.text() == "body" && answer.whole), "{answer:?}");
        assert!(
            answer.all("content-length").len() + answer.all("transfer-encoding").len() == 1,
            "{answer:?}"
        );
        gateway.line_of(&answer).await;
    }
    // Pingora goes by the chunks and forgets the length before any hook sees it; what follows them begins the next answer.
}

#[tokio::test]
async fn what_is_unusual_and_right_is_served() {
    let (gateway, origin) = guarded().await;
    for host in ["h", "H.Example.", "h:80", "a-b_c.example", "127.0.0.1:9", "[::1]", "[::1]:8080"] {
        let answer = gateway.send(&Request::get("/fn/x").header("Host", host)).await;
        assert_eq!(answer.status(), 200, "{host}: {}", answer.text());
    }
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "PROPFIND", "QUERY", "x-own!"]
    {
        let echo = gateway.send(&Request::new(method, "/fn/x")).await.json::<Echo>();
        assert_eq!(echo.method, method);
    }
    let mut client = gateway.client().await;
    client.send(b"GET /fn/x HTTP/1.1\r\nhOsT:h\r\nX-Latin:\t caf\xe9 \t\r\nX-Empty:\r\n\r\n").await;
    assert_eq!(client.response("GET").await.status(), 200);
    let last = origin.accepted() - 1;
    let seen = (0..=last).flat_map(|connection| origin.bytes_of(connection)).collect::<Vec<u8>>();
    assert!(seen.windows(6).any(|window| window == b" caf\xe9\r"), "the bytes of a value are the client's");
}

#[tokio::test]
async fn a_redirect_is_the_clients_to_follow() {
    let elsewhere = Origin::echo().await;
    let location = format!("{}/internal", elsewhere.url());
    let value = location.clone();
    let origin = Origin::http1().reply(move |_| Reply::new(302, "").header("Location", &value)).start().await;
    let gateway = Gateway::start(&route("/fn", &format!("http: {{ url: '{}/' }}", origin.url()))).await;

    let answer = gateway.get("/fn").await;

    assert_eq!((answer.status(), answer.header("location")), (302, Some(location.as_str())));
    assert_eq!(elsewhere.accepted(), 0);
}

#[tokio::test]
async fn a_query_cannot_change_how_an_action_is_called() {
    let whisk = Origin::http1().reply(|_| Reply::json(&serde_json::json!({}))).start().await;
    let target = format!(
        "openwhisk: {{ api_host: '{}', service_token: 'a:b', namespace: guest, action: test, timeout: 5000 }}",
        whisk.url()
    );
    let gateway = Gateway::start(&route("/hello", &target)).await;

    for query in
        ["blocking=false&result=false&timeout=1", "%62locking=false", "x=1#&blocking=false", "BLOCKING=false"]
    {
        gateway.get(&format!("/hello?{query}")).await;
    }

    for request in whisk.requests() {
        assert_eq!(
            request.target(),
            "/api/v1/namespaces/guest/actions/test?blocking=true&result=true&timeout=5000"
        );
    }
}

#[tokio::test]
async fn a_client_that_half_closes_is_served() {
    let (gateway, _origin) = guarded().await;
    let mut client = gateway.client().await;

    client.start(&Request::get("/fn/x")).await;
    client.finish().await;

    assert_eq!(client.response("GET").await.status(), 200);
}

#[tokio::test]
async fn a_client_that_half_closes_gets_an_answer_that_takes_its_time() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/plain").await;
            // In all longer than a client that closed its side is waited for in silence.
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                exchange.send_chunk("x").await;
            }
            exchange.end_chunked().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    client.start(&Request::get("/fn")).await;
    client.finish().await;

    let answer = client.response("GET").await;
    assert_eq!((answer.text().as_str(), answer.whole), ("x".repeat(20).as_str(), true));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_sent_home() {
    let (gateway, _origin) = limited("header_timeout: 1s, idle_timeout: 1s").await;
    let mut client = gateway.client().await;

    assert_eq!(client.rest().await, b"", "who said nothing gets no answer");
}

#[tokio::test]
async fn half_a_head_is_given_up() {
    let (gateway, origin) = limited("header_timeout: 1s").await;
    let mut client = gateway.client().await;

    client.send("GET /fn/x HTTP/1.1\r\nHost: h\r\nX-Half").await;

    given_up(&client.rest().await);
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn half_a_head_after_a_good_request_is_given_up() {
    let (gateway, origin) = limited("header_timeout: 1s").await;
    let mut client = gateway.client().await;
    assert_eq!(client.call(&Request::get("/fn/x")).await.status(), 200);

    client.send("GET /fn/x HTTP/1.1\r\nHost: h\r\nX-Half").await;

    given_up(&client.rest().await);
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_head_that_drips_is_given_up() {
    let (gateway, origin) = limited("header_timeout: 1s").await;
    let mut client = gateway.client().await;

    client.send("GET /fn/x HTTP/1.1\r\nHost: h\r\nX: ").await;
    // Four times the limit in all, never silent for a tenth of it.
    for _ in 0..40 {
        client.send("x").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    client.send("\r\n\r\n").await;

    given_up(&client.rest().await);
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.body().await;
            exchange.answer(Reply::text(200, "whole")).await;
        })
        .start()
        .await;
    // However short the function's own time is: it was not asked yet.
    for timeout in ["200ms", "60s"] {
        let yaml = route("/fn", &format!("http: {{ url: '{}/', timeout: {timeout} }}", origin.url()));
        let gateway =
            Gateway::start(&format!("limits: {{ idle_timeout: 1s, header_timeout: 1s }}\n{yaml}")).await;
        let mut client = gateway.client().await;

        client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf").await;

        given_up(&client.rest().await);
        origin.settles_at(0).await;
        assert_eq!(gateway.access_log(1).await[0]["reason"], "request_timeout", "{timeout}");
    }
}

/// A client that stalls in its body, or takes its time over it, says nothing about the function: whatever that speaks, and whatever the
/// route does about functions that are silent.
#[tokio::test]
async fn the_time_of_a_client_is_not_the_functions() {
    let again = "retry: { on: [ timeout ], methods: any }";
    let cases = [("off", ""), ("off", again), ("on", ""), ("on", again)];
    join_all(cases.map(|(http2, policy)| async move {
        let origin = if http2 == "on" { Origin::http2() } else { Origin::http1() }.echo().start().await;
        let target = format!("http: {{ url: '{}/', timeout: 4s, http2: '{http2}' }}", origin.url());
        let yaml = with_policy(&route("/fn", &target), "hello", policy);
        let gateway = Gateway::start(&format!("limits: {{ idle_timeout: 5s, min_rate: 0 }}\n{yaml}")).await;
        let mut client = gateway.client().await;

        client.send("PUT /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n").await;
        for piece in "taking times".chars() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            client.send(piece.to_string()).await;
        }
        let answer = client.response("PUT").await;
        assert_eq!(answer.status(), 200, "{http2} {policy}: {}", answer.text());
        assert_eq!(answer.json::<Echo>().body, "taking times", "{http2} {policy}");

        client.send("PUT /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nst").await;
        let answer = client.response("PUT").await;
        let code = answer.code();
        assert_eq!((answer.status(), code.as_str()), (408, "request_timeout"), "{http2} {policy}");
        let line = gateway.access_log(2).await.remove(1);
        assert_eq!((&line["status"], &line["attempts"]), (&408.into(), &1.into()), "{http2} {policy}");
    }))
    .await;
}

#[tokio::test]
async fn running_out_of_files_is_survived() {
    let origin = Origin::echo().await;
    let yaml = route("/fn/*", &format!("http: {{ url: '{}/' }}", origin.url()));
    let gateway = Gateway::builder().open_files(96).start(&yaml).await;

    let crowd = join_all((0..150).map(|_| gateway.client())).await;
    drop(crowd);

    eventually("service for a new client", PATIENCE, async || {
        let answer = gateway.client().await.try_call(&Request::get("/fn/x")).await?;
        (answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn idle_clients_are_sent_home() {
    let (gateway, _origin) = limited("idle_timeout: 1s").await;
    let mut client = gateway.client().await;
    assert_eq!(client.call(&Request::get("/fn/x")).await.status(), 200);

    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn connections_are_bounded_and_room_comes_back() {
    let (gateway, _origin) = limited("connections: 5").await;
    let mut held = join_all((0..5).map(|_| gateway.client())).await;
    for client in &mut held {
        assert_eq!(client.call(&Request::get("/fn/x")).await.status(), 200);
    }

    let mut sixth = gateway.client().await;
    if let Some(answer) = sixth.try_call(&Request::get("/fn/x")).await {
        assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
    }
    assert_eq!(gateway.admin_get("/healthz").await.status(), 200, "the admin listener has its own room");

    drop(held);
    eventually("room for a new client", PATIENCE, async || {
        let answer = gateway.client().await.try_call(&Request::get("/fn/x")).await?;
        (answer.status() == 200).then_some(())
    })
    .await;
}

/// A time-out is said, or the connection is closed without a word; nothing else.
#[track_caller]
fn given_up(answer: &[u8]) {
    let answer = String::from_utf8_lossy(answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

/// Sends each row on a connection of its own; every one must be answered with one of its statuses and a close, and
/// nothing may reach the function.
async fn refused(rows: Vec<Row>) {
    let (gateway, origin) = guarded().await;
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, statuses, head) in rows {
        let mut client = gateway.client().await;
        client.send(&head).await;
        client.send("0\r\n\r\nGET /fn/smuggled HTTP/1.1\r\nHost: h\r\n\r\n").await;
        match client.try_response("GET").await {
            None => wrong.push(format!("{name}: closed without an answer")),
            Some(answer) if !statuses.contains(&answer.status()) => {
                wrong.push(format!("{name}: {} {}", answer.head.first_line, answer.text()));
            }
            Some(_) if !client.rest().await.is_empty() => wrong.push(format!("{name}: a second answer")),
            Some(_) => (),
        }
        for request in &origin.requests()[seen..] {
            wrong.push(format!("{name}: the function got {:?}", request.head.first_line));
        }
        seen = origin.requests().len();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(gateway.get("/fn/x").await.status(), 200, "and it goes on serving");
}

/// A route with a credential, to an origin that says what it got.
async fn guarded() -> (Gateway, Origin) {
    limited("").await
}

async fn limited(limits: &str) -> (Gateway, Origin) {
    let origin = Origin::echo().await;
    let target = format!(
        "openfunction: {{ function_uri: '{}/base', authorization: {{ service_token: 'a:b' }} }}",
        origin.url()
    );
    let gateway = Gateway::start(&format!("limits: {{ {limits} }}\n{}", route("/fn/*", &target))).await;
    (gateway, origin)
}
