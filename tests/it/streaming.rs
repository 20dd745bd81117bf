//! Bodies on their way: every piece reaches the other side before the next one exists, nothing is collected on the
//! way, and a body that breaks off is seen to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::*;

#[tokio::test]
async fn an_event_stream_arrives_event_by_event() {
    let gate = Gate::closed();
    let origin = three_events(&gate).await;
    let gateway = Gateway::start(&route("/events", &openfunction(&origin, ""))).await;
    come_one_by_one(&gateway, "/events", &gate).await;
}

#[tokio::test]
async fn an_event_stream_reaches_an_http2_client_event_by_event() {
    let gate = Gate::closed();
    let origin = three_events(&gate).await;
    let ca = Ca::new();
    let gateway =
        Gateway::start_tls(&ca.leaf(&["localhost"]), &route("/events", &openfunction(&origin, ""))).await;
    come_one_by_one_over_http2(&gateway, &ca, "/events", &gate).await;
}

#[tokio::test]
async fn a_function_may_be_slow_as_long_as_it_is_never_silent_for_long() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/plain").await;
            // Longer than the time-out in all, and none of it in one piece.
            for _ in 0..12 {
                tokio::time::sleep(Duration::from_millis(400)).await;
                exchange.send_chunk("x").await;
            }
            exchange.end_chunked().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/slow", &openfunction(&origin, "timeout: 4s"))).await;

    let answer = gateway.get("/slow").await;

    assert_eq!((answer.text().as_str(), answer.whole), ("xxxxxxxxxxxx", true));
}

#[tokio::test]
async fn an_upload_reaches_the_function_piece_by_piece() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            let body = exchange.body().await;
            exchange.answer(Reply::new(200, body)).await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/upload", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    client.send("POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut sent = String::new();
    for piece in ["first", "second", "third"] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        sent += piece;
        eventually("the piece at the function", PATIENCE, async || {
            let seen = origin.requests();
            seen.first().is_some_and(|request| request.body == sent.as_bytes()).then_some(())
        })
        .await;
    }
    client.send("0\r\n\r\n").await;

    assert_eq!(client.response("POST").await.text(), sent);
}

#[tokio::test]
async fn a_sized_upload_reaches_the_function_piece_by_piece() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/upload", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    client.send("PUT /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nfirst").await;
    let seen = origin.request(0).await;
    assert_eq!(seen.header("content-length"), Some("10"));
    eventually("the piece at the function", PATIENCE, async || {
        (origin.requests()[0].body == b"first").then_some(())
    })
    .await;
    client.send("-last").await;

    assert_eq!(client.response("PUT").await.json::<Echo>().body, "first-last");
}

#[tokio::test]
async fn both_directions_flow_at_the_same_time() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/plain").await;
            while let Some(piece) = exchange.chunk().await {
                exchange.send_chunk(&String::from_utf8(piece).unwrap().to_uppercase()).await;
            }
            exchange.end_chunked().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/duplex", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    client.send("POST /duplex HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let head = client.head().await;
    let mut body = client.body(&head, "POST");
    for (piece, answer) in [("one\n", "ONE\n"), ("two\n", "TWO\n"), ("three\n", "THREE\n")] {
        body.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        assert_eq!(body.until("\n").await, answer);
    }
    body.send("0\r\n\r\n").await;
    assert_eq!(body.next().await, Piece::End);
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let origin = Origin::http1().reply(|request| Reply::new(200, request.body.clone())).start().await;
    let gateway = Gateway::start(&route("/large", &openfunction(&origin, "timeout: 20s"))).await;
    let body: Vec<u8> =
        (0..16 * 1024 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();

    let answer = gateway.post("/large", body.clone()).await;

    assert_eq!(answer.status(), 200);
    assert!(answer.whole && answer.body == body, "{} of {} bytes came back", answer.body.len(), body.len());
}

#[tokio::test]
async fn early_hints_are_relayed() {
    let origin = Origin::raw(
        "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let gateway = Gateway::start(&route("/hints", &openfunction(&origin, ""))).await;

    let answer = gateway.get("/hints").await;

    assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.informational.len(), 1);
    assert_eq!(answer.informational[0].word(1), "103");
    assert_eq!(answer.informational[0].header("link"), Some("</style.css>"));
}

#[tokio::test]
async fn a_storm_of_early_hints_ends() {
    let storm = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(2000);
    let origin = Origin::raw(format!("{storm}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await;
    let gateway = Gateway::start(&route("/hints", &openfunction(&origin, ""))).await;

    let answer = gateway.get("/hints").await;

    assert!(matches!(answer.status(), 200 | 502), "{}", answer.head.first_line);
    assert!(answer.informational.len() < 100, "{} hints were passed on", answer.informational.len());
}

#[tokio::test]
async fn a_continue_that_leads_nowhere_is_a_fault_of_the_function() {
    let origin = Origin::raw("HTTP/1.1 100 Continue\r\n\r\n").await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

    let answer = gateway.post("/fn", "body").await;

    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_reset"));
}

#[tokio::test]
async fn expect_continue_reaches_the_function_and_its_consent_comes_back() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            assert_eq!(exchange.head.header("expect"), Some("100-continue"));
            exchange.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            let body = exchange.body().await;
            exchange.answer(Reply::new(200, body)).await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.head().await.word(1), "100");
    client.send("body").await;

    assert_eq!(client.response("POST").await.text(), "body");
}

/// The time-out is the function's; these pauses are the client's, and each is longer.
#[tokio::test]
async fn a_client_that_pauses_in_its_body_does_not_make_the_function_late() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            if exchange.head.header("expect").is_some() {
                exchange.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            }
            let body = exchange.body().await;
            exchange.answer(Reply::new(200, body)).await;
        })
        .start()
        .await;
    let yaml = route("/fn", &openfunction(&origin, "timeout: 3s"));
    let gateway = Gateway::start(&format!("limits: {{ min_rate: 0 }}\n{yaml}")).await;

    let upload = async |fields: &str, pieces: [&str; 2]| {
        let mut client = gateway.client().await;
        client.send(format!("POST /fn HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n")).await;
        if fields.contains("Expect") {
            assert_eq!(client.head().await.word(1), "100");
        }
        for piece in pieces {
            tokio::time::sleep(Duration::from_millis(3500)).await;
            client.send(piece).await;
        }
        let answer = client.response("POST").await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "onetwo"), "{fields:?}");
    };
    tokio::join!(
        upload("Content-Length: 6", ["one", "two"]),
        upload("Content-Length: 6\r\nExpect: 100-continue", ["one", "two"]),
        upload("Transfer-Encoding: chunked", ["3\r\none\r\n3\r\ntwo\r\n", "0\r\n\r\n"]),
    );
}

#[tokio::test]
async fn the_function_has_its_time_from_the_end_of_the_body_on() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.body().await;
            exchange.peer_closed().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "timeout: 300"))).await;

    for request in [
        "Content-Length: 4\r\n\r\nbody",
        "Content-Length: 4\r\nExpect: 100-continue\r\n\r\nbody",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 0\r\n\r\n",
    ] {
        let mut client = gateway.client().await;
        client.send(format!("POST /fn HTTP/1.1\r\nHost: h\r\n{request}")).await;
        let answer = client.response("POST").await;
        assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"), "{request:?}");
    }
}

#[tokio::test]
async fn a_function_that_does_not_ask_for_the_body_is_late() {
    let origin =
        Origin::http1().script(|mut exchange| async move { exchange.peer_closed().await }).start().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "timeout: 300"))).await;
    let mut client = gateway.client().await;

    client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;

    let answer = client.response("POST").await;
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"));
}

#[tokio::test]
async fn a_deadline_holds_while_the_client_is_sending() {
    let origin = Origin::echo().await;
    let action = format!(
        "openwhisk: {{ api_host: '{}', service_token: 'a:b', namespace: guest, action: test, deadline: 300ms }}",
        origin.url()
    );
    for target in [openfunction(&origin, "deadline: 300ms"), action] {
        let gateway = Gateway::start(&route("/fn", &target)).await;
        let mut client = gateway.client().await;

        client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf").await;

        let answer = client.response("POST").await;
        assert_eq!((answer.status(), answer.code().as_str()), (504, "deadline"), "{target}");
    }
}

#[tokio::test]
async fn websockets_are_tunnelled() {
    let origin =
        Origin::http1().script(|mut exchange| async move { exchange.websocket_echo().await }).start().await;
    let gateway = Gateway::start(&route("/chat/*", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;
    let mut socket = client.websocket("/chat/room").await;

    for text in ["hello", "world"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(within("an echo", socket.next()).await.unwrap().unwrap(), Message::text(text));
    }
    let large = Message::binary(vec![7; 300_000]);
    socket.send(large.clone()).await.unwrap();
    assert_eq!(within("an echo", socket.next()).await.unwrap().unwrap(), large);

    socket.close(None).await.unwrap();
    origin.settles_at(0).await;
    assert_eq!(gateway.access_log(1).await[0]["status"], 101);
}

/// A tunnel begins with an upgrade, which HTTP/2 does not have.
#[tokio::test]
async fn websockets_reach_a_function_of_http2_too() {
    let origin =
        Origin::http1().script(|mut exchange| async move { exchange.websocket_echo().await }).start().await;
    let gateway = Gateway::start(&route("/chat", &openfunction(&origin, "http2: 'on'"))).await;
    let mut client = gateway.client().await;
    let mut socket = client.websocket("/chat").await;

    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(within("an echo", socket.next()).await.unwrap().unwrap(), Message::text("hello"));
}

#[tokio::test]
async fn a_tunnel_that_breaks_is_cut_without_a_word() {
    let gate = Gate::closed();
    let switching = gate.clone();
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let gate = switching.clone();
            async move {
                exchange.send("HTTP/1.1 103 Early Hints\r\n\r\n").await;
                gate.passed().await;
                exchange.send("HTTP/1.1 101 Switching Protocols\r\n").await;
                exchange.send("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
                exchange.peer_closed().await;
            }
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/chat", &openfunction(&origin, "deadline: 3s"))).await;
    let mut client = gateway.client().await;
    client.send("GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.head().await.word(1), "103");
    gate.open();
    assert_eq!(client.head().await.word(1), "101");

    assert_eq!(String::from_utf8_lossy(&client.rest().await), "");

    let line = &gateway.access_log(1).await[0];
    assert_eq!((&line["status"], &line["reason"]), (&json!(101), &json!("deadline")), "{line}");
}

#[tokio::test]
async fn a_function_that_does_not_say_whether_it_upgrades_is_late() {
    let origin =
        Origin::http1().script(|mut exchange| async move { exchange.peer_closed().await }).start().await;
    let gateway = Gateway::start(&route("/chat", &openfunction(&origin, "timeout: 500"))).await;
    let mut client = gateway.client().await;

    client.send("GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;

    let answer = client.response("GET").await;
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"));
}

/// Once there is a tunnel, both sides may be silent.
#[tokio::test]
async fn a_tunnel_outlives_the_time_for_its_beginning() {
    let origin =
        Origin::http1().script(|mut exchange| async move { exchange.websocket_echo().await }).start().await;
    let gateway = Gateway::start(&route("/chat", &openfunction(&origin, "timeout: 1500"))).await;
    let mut client = gateway.client().await;
    let mut socket = client.websocket("/chat").await;

    tokio::time::sleep(Duration::from_secs(3)).await;

    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(within("an echo", socket.next()).await.unwrap().unwrap(), Message::text("hello"));
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let origin = Origin::http1().reply(|_| Reply::text(403, "no sockets here")).start().await;
    let gateway = Gateway::start(&route("/chat", &openfunction(&origin, ""))).await;
    let request = Request::get("/chat")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");

    let answer = gateway.send(&request).await;

    assert_eq!((answer.status(), answer.text().as_str()), (403, "no sockets here"));
}

#[tokio::test]
async fn only_websockets_may_upgrade() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let request = Request::get("/fn")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA");

    let echo = gateway.send(&request).await.json::<Echo>();

    assert_eq!((echo.header("upgrade"), echo.header("http2-settings")), (None, None));
}

/// Clients ask for HTTP/2 in this way, and nobody has to follow.
#[tokio::test]
async fn who_asks_for_no_websocket_is_served_like_anybody() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            match exchange.target() {
                "/silent" => exchange.peer_closed().await,
                _ => exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await,
            }
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/*", &openfunction(&origin, "timeout: 2s"))).await;

    for (method, upgrade) in [("GET", "h2c"), ("POST", "websocket"), ("GET", "websocket, h2c")] {
        let mut client = gateway.client().await;
        let before = origin.accepted();
        let head =
            format!("Host: h\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\nContent-Length: 0\r\n\r\n");
        for path in ["/quick", "/quick", "/silent"] {
            client.send(format!("{method} {path} HTTP/1.1\r\n{head}")).await;
            let answer = client.response(method).await;
            match path {
                "/silent" => assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout")),
                _ => assert_eq!(answer.text(), "ok"),
            }
        }
        // A tunnel is dialled each time. One may be lost by an answer that is faster than the request's own end.
        let dialled = origin.accepted() - before;
        assert!(dialled <= 2, "{method} {upgrade}: {dialled} for 3 requests");
    }

    let requests = origin.requests();
    assert!(requests.iter().all(|request| request.header("upgrade").is_none()));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_cut_for_the_client_too() {
    for (name, bytes) in [
        ("sized", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it"),
        ("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n"),
        ("within a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf of it"),
        ("bad chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\nzz\r\n"),
    ] {
        let origin = Origin::raw(bytes).await;
        let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

        let answer = gateway.get("/fn").await;

        if answer.status() == 200 {
            assert!(!answer.whole, "{name}: a clean end after {:?}", answer.text());
        } else {
            // Nothing of the answer had left yet.
            assert_eq!(answer.status(), 502, "{name}");
        }
        let line = gateway.access_log(1).await.remove(0);
        let reason = line["reason"].as_str().unwrap_or_default();
        assert!(["upstream_reset", "upstream_protocol"].contains(&reason), "{name}: {line}");
    }
}

#[tokio::test]
async fn a_function_that_falls_silent_in_the_body_is_cut() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/plain").await;
            exchange.send_chunk("half").await;
            exchange.peer_closed().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "timeout: 2s"))).await;

    let answer = gateway.get("/fn").await;

    assert_eq!((answer.text().as_str(), answer.whole), ("half", false));
    assert_eq!(gateway.access_log(1).await[0]["reason"], "upstream_timeout");
}

#[tokio::test]
async fn a_client_that_takes_its_time_does_not_make_the_function_late() {
    // More than all buffers on the way hold.
    const LENGTH: usize = 16 * 1024 * 1024;
    let origin = Origin::http1().reply(|_| Reply::new(200, vec![b'x'; LENGTH])).start().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "timeout: 2000"))).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/fn")).await;

    // What the function has said waits here for longer than it may be silent itself, however busy the machine is.
    tokio::time::sleep(Duration::from_millis(4000)).await;
    let answer = client.response("GET").await;

    assert_eq!((answer.text().len(), answer.whole), (LENGTH, true));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_call() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/event-stream").await;
            exchange.send_chunk("data: 1\n\n").await;
            exchange.peer_closed().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/events", &openfunction(&origin, "timeout: 60s"))).await;

    let mut client = gateway.client().await;
    client.start(&Request::get("/events")).await;
    let head = client.head().await;
    client.body(&head, "GET").until("\n\n").await;
    assert_eq!(origin.open(), 1);
    drop(client);

    origin.settles_at(0).await;
    assert_eq!(gateway.access_log(1).await[0]["reason"], "client_gone");
}

#[tokio::test]
async fn head_and_bodiless_answers_end_at_once() {
    let origin = Origin::http1()
        .reply(|request| match request.target() {
            "/204" => Reply::new(204, ""),
            "/304" => Reply::new(304, "").header("ETag", "\"x\""),
            _ => {
                Reply::new(200, if request.method() == "HEAD" { "" } else { "body" }).header("X-Seen", "yes")
            }
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/*", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    for (request, status) in [
        (Request::get("/204"), 204),
        (Request::get("/304"), 304),
        (Request::new("HEAD", "/x"), 200),
        (Request::get("/x"), 200),
    ] {
        assert_eq!(client.call(&request).await.status(), status);
    }
}

#[tokio::test]
async fn trailers_of_an_answer_do_no_harm() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/plain").await;
            exchange.send("4\r\nbody\r\n0\r\nX-Trailer: 1\r\nSet-Cookie: evil=1\r\n\r\n").await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    for _ in 0..2 {
        let answer = client.call(&Request::get("/fn")).await;
        assert_eq!((answer.text().as_str(), answer.whole), ("body", true));
        assert_eq!(answer.header("set-cookie"), None);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_function() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let sent = Arc::clone(&counted);
            async move {
                exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")).await;
                for _ in 0..LARGE / PIECE.len() {
                    exchange.send(PIECE).await;
                    sent.fetch_add(PIECE.len(), Ordering::Relaxed);
                }
            }
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "timeout: 60s"))).await;
    let before = resident(&gateway).await;
    let mut client = gateway.client().await;

    client.start(&Request::get("/fn")).await;
    let head = client.head().await;
    stands_still(&sent).await;
    assert!(
        sent.load(Ordering::Relaxed) < LARGE / 2,
        "somebody holds {} bytes",
        sent.load(Ordering::Relaxed)
    );
    let grown = resident(&gateway).await - before;
    assert!(grown < 32e6, "the gateway grew by {grown} bytes");

    let mut body = client.body(&head, "GET");
    let mut received = 0;
    while let Piece::Bytes(bytes) = body.next().await {
        received += bytes.len();
    }
    assert_eq!(received, LARGE);
}

#[tokio::test]
async fn a_function_that_does_not_read_stops_the_client() {
    let gate = Gate::closed();
    let origin = Origin::http1()
        .gated(&gate, |mut exchange, gate| async move {
            gate.passed().await;
            let size = exchange.body().await.len();
            exchange.answer(Reply::text(200, &size.to_string())).await;
        })
        .start()
        .await;
    let yaml = route("/fn", &openfunction(&origin, "timeout: 60s"));
    let gateway = Gateway::start(&format!("limits: {{ body: 1GiB }}\n{yaml}")).await;
    let before = resident(&gateway).await;
    let mut client = gateway.client().await;
    let sent = Arc::new(AtomicUsize::new(0));

    let upload = async {
        client.send(format!("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: {LARGE}\r\n\r\n")).await;
        for _ in 0..LARGE / PIECE.len() {
            client.send(PIECE).await;
            sent.fetch_add(PIECE.len(), Ordering::Relaxed);
        }
        client.response("POST").await
    };
    let watch = async {
        stands_still(&sent).await;
        let grown = resident(&gateway).await - before;
        gate.open();
        (sent.load(Ordering::Relaxed), grown)
    };
    let (answer, (held, grown)) = tokio::join!(upload, watch);

    assert!(held < LARGE / 2, "somebody holds {held} bytes");
    assert!(grown < 32e6, "the gateway grew by {grown} bytes");
    assert_eq!(answer.text(), LARGE.to_string());
}

/// Waits until a counter that has moved does not move any more.
pub(crate) async fn stands_still(counter: &AtomicUsize) {
    let mut seen = 0;
    let mut since = 0;
    eventually("the flow to stop", PATIENCE, async || {
        let now = counter.load(Ordering::Relaxed);
        since = if now == seen && now > 0 { since + 1 } else { 0 };
        seen = now;
        (since == 60).then_some(())
    })
    .await;
}

pub(crate) async fn resident(gateway: &Gateway) -> f64 {
    gateway.metrics().await.counter("process_resident_memory_bytes", &[])
}

/// Far more than the sockets on the way can hold.
pub(crate) const LARGE: usize = 96 * 1024 * 1024;
pub(crate) const PIECE: &[u8] = &[b'x'; 64 * 1024];

#[tokio::test]
async fn a_length_known_to_head_is_told() {
    let origin = Origin::raw("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nContent-Type: text/x\r\n\r\n").await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

    let answer = gateway.send(&Request::new("HEAD", "/fn")).await;

    assert_eq!(
        (answer.header("content-length"), answer.header("content-type")),
        (Some("1234"), Some("text/x"))
    );
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_whole() {
    for bytes in ["HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it", "HTTP/1.0 200 OK\r\n\r\nall of it"]
    {
        let origin = Origin::raw(bytes).await;
        let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

        let answer = gateway.get("/fn").await;

        assert_eq!((answer.text().as_str(), answer.whole), ("all of it", true), "{bytes:?}");
        assert!(answer.header("transfer-encoding").is_some(), "an end that can be told from a cut");
    }
}

#[tokio::test]
async fn a_client_of_the_old_version_gets_no_chunks() {
    let origin =
        Origin::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n").await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    client.send("GET /fn HTTP/1.0\r\nHost: h\r\n\r\n").await;

    let answer = String::from_utf8(client.rest().await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{head}");
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(body, "body");
}

/// A function that sends three events, each only when the gate has let the one before pass.
pub(crate) async fn three_events(gate: &Gate) -> Origin {
    let origin = Origin::http1().gated(gate, |mut exchange, gate| async move {
        exchange.start_chunked("text/event-stream").await;
        for number in 1..=3 {
            exchange.send_chunk(&format!("data: {number}\n\n")).await;
            gate.passed().await;
        }
        exchange.end_chunked().await;
    });
    origin.start().await
}

/// The events of [`three_events`] reach a client one by one.
pub(crate) async fn come_one_by_one(gateway: &Gateway, path: &str, gate: &Gate) {
    let mut client = gateway.client().await;
    client.start(&Request::get(path).header("Accept", "text/event-stream")).await;
    let head = client.head().await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let mut body = client.body(&head, "GET");
    for number in 1..=3 {
        assert_eq!(body.until("\n\n").await, format!("data: {number}\n\n"));
        gate.open();
    }
    assert_eq!(body.next().await, Piece::End);
}

/// The same over HTTP/2.
pub(crate) async fn come_one_by_one_over_http2(gateway: &Gateway, ca: &Ca, path: &str, gate: &Gate) {
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let mut answer = client.call(Http2::get(&format!("https://localhost{path}"))).await.unwrap();
    for number in 1..=3 {
        let frame = within("an event", answer.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), format!("data: {number}\n\n"));
        gate.open();
    }
    let end = within("the end of the stream", answer.body_mut().frame()).await;
    assert!(end.is_none_or(|frame| frame.unwrap().into_data().unwrap().is_empty()));
}
