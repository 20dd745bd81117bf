//! Answers that are relayed: the request had to be whole, its answer need not be. Nothing of it is collected on the way, and one
//! that breaks off is seen to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use serde_json::json;

use crate::harness::*;
use crate::streaming::{
    LARGE, PIECE, come_one_by_one, come_one_by_one_over_http2, resident, stands_still, three_events,
};

#[tokio::test]
async fn an_event_stream_is_relayed_event_by_event() {
    let gate = Gate::closed();
    let origin = three_events(&gate).await;
    let gateway = relaying(&origin, "").await;
    come_one_by_one(&gateway, "/fn/events", &gate).await;
}

#[tokio::test]
async fn an_event_stream_is_relayed_to_http2_event_by_event() {
    let gate = Gate::closed();
    let origin = three_events(&gate).await;
    let (gateway, ca) = relaying_tls(&origin).await;
    come_one_by_one_over_http2(&gateway, &ca, "/fn/events", &gate).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_a_relayed_function() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let sent = Arc::clone(&counted);
            async move {
                exchange.body().await;
                exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")).await;
                for _ in 0..LARGE / PIECE.len() {
                    exchange.send(PIECE).await;
                    sent.fetch_add(PIECE.len(), Ordering::Relaxed);
                }
            }
        })
        .start()
        .await;
    let gateway = relaying(&origin, "timeout: 20s").await;
    let before = resident(&gateway).await;
    let mut client = gateway.client().await;

    client.start(&Request::get("/fn/x")).await;
    let head = client.head().await;
    stands_still(&sent).await;
    let held = sent.load(Ordering::Relaxed);
    assert!(held < LARGE / 2, "somebody holds {held} bytes");
    let grown = resident(&gateway).await - before;
    assert!(grown < 32e6, "the gateway grew by {grown} bytes");

    assert_eq!(head.header("content-length"), Some(LARGE.to_string().as_str()));
    let mut body = client.body(&head, "GET");
    let mut received = 0;
    while let Piece::Bytes(bytes) = body.next().await {
        received += bytes.len();
    }
    assert_eq!(received, LARGE);
}

#[tokio::test]
async fn a_relayed_answer_that_breaks_off_is_cut() {
    for (name, bytes, reason) in [
        ("sized", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it", "upstream_reset"),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n",
            "upstream_reset",
        ),
        (
            "bad chunk size",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\nzz\r\n",
            "upstream_protocol",
        ),
    ] {
        let origin = Origin::raw(bytes).await;
        let gateway = relaying(&origin, "").await;

        let answer = gateway.get("/fn/x").await;

        assert_eq!((answer.status(), answer.whole), (200, false), "{name}: {:?}", answer.text());
        let line = gateway.access_log(1).await.remove(0);
        assert_eq!((&line["status"], &line["reason"]), (&json!(200), &json!(reason)), "{name}: {line}");
        assert_eq!(gateway.get("/nowhere").await.status(), 404, "{name}: the gateway goes on");
    }
}

#[tokio::test]
async fn a_relayed_answer_that_breaks_off_is_reset_for_http2() {
    let origin =
        Origin::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n").await;
    let (gateway, ca) = relaying_tls(&origin).await;

    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let answer = client.call(Http2::get("https://localhost/fn/x")).await.unwrap();
    let body = within("the cut", answer.into_body().collect()).await;

    assert!(body.is_err(), "a clean end: {body:?}");
    assert_eq!(gateway.access_log(1).await[0]["reason"], "upstream_reset");
}

#[tokio::test]
async fn a_function_that_falls_silent_in_a_relayed_answer_is_cut() {
    for (more, reason) in [("timeout: 2s", "upstream_timeout"), ("deadline: 2s", "deadline")] {
        let origin = Origin::http1()
            .script(|mut exchange| async move {
                exchange.body().await;
                exchange.start_chunked("text/plain").await;
                exchange.send_chunk("half").await;
                exchange.peer_closed().await;
            })
            .start()
            .await;
        let gateway = relaying(&origin, more).await;

        let answer = gateway.get("/fn/x").await;

        assert_eq!((answer.text().as_str(), answer.whole), ("half", false), "{more}");
        assert_eq!(gateway.access_log(1).await[0]["reason"], reason);
        origin.settles_at(0).await;
    }
}

#[tokio::test]
async fn what_fails_before_a_relayed_answer_begins_is_answered() {
    for (bytes, status, code) in [
        ("", 502, "upstream_reset"),
        ("HTTP/1.1 200 OK\r\nContent-", 502, "upstream_reset"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 502, "upstream_protocol"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 502, "upstream_protocol"),
    ] {
        let origin = Origin::raw(bytes).await;
        let gateway = relaying(&origin, "").await;

        let answer = gateway.get("/fn/x").await;

        assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_a_relayed_call() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.body().await;
            exchange.start_chunked("text/event-stream").await;
            exchange.send_chunk("data: 1\n\n").await;
            exchange.peer_closed().await;
        })
        .start()
        .await;
    let gateway = relaying(&origin, "timeout: 20s").await;

    let mut client = gateway.client().await;
    client.start(&Request::get("/fn/events")).await;
    let head = client.head().await;
    client.body(&head, "GET").until("\n\n").await;
    assert_eq!(origin.open(), 1);
    drop(client);

    origin.settles_at(0).await;
    assert_eq!(gateway.access_log(1).await[0]["reason"], "client_gone");
}

#[tokio::test]
async fn connections_are_kept_after_relayed_answers() {
    const SIZED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                           4\r\nbody\r\n0\r\nX-Trailer: 1\r\nSet-Cookie: evil=1\r\n\r\n";
    const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    const BODILESS: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n";
    let said: Arc<Mutex<&str>> = Arc::default();
    let saying = Arc::clone(&said);
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let saying = Arc::clone(&saying);
            async move {
                exchange.body().await;
                let said = *saying.lock().unwrap();
                exchange.send(said).await;
            }
        })
        .start()
        .await;
    let gateway = relaying(&origin, "").await;
    let mut client = gateway.client().await;

    for (method, saying, status, length, body) in [
        ("GET", SIZED, 200, Some("4"), "body"),
        ("GET", CHUNKED, 200, None, "body"),
        ("GET", BODILESS, 204, None, ""),
        ("GET", EMPTY, 200, Some("0"), ""),
        ("HEAD", HEAD, 200, Some("1234"), ""),
        ("POST", SIZED, 200, Some("4"), "body"),
    ] {
        *said.lock().unwrap() = saying;
        let answer = client.call(&Request::new(method, "/fn/x")).await;
        assert_eq!((answer.status(), answer.text().as_str(), answer.whole), (status, body, true), "{saying}");
        assert_eq!(
            (answer.header("content-length"), answer.header("set-cookie")),
            (length, None),
            "{saying}"
        );
    }
    assert_eq!(origin.accepted(), 1);
}

#[tokio::test]
async fn a_broken_answers_connection_is_not_kept() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.body().await;
            exchange.start_chunked("text/plain").await;
            exchange.send_chunk("half").await;
            exchange.send("zz\r\n").await;
        })
        .start()
        .await;
    let gateway = relaying(&origin, "").await;

    for calls in 1..=2 {
        assert!(!gateway.get("/fn/x").await.whole);
        assert_eq!(origin.accepted(), calls);
    }
    origin.settles_at(0).await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_was_read() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.answer(Reply::text(413, "too much")).await;
            // Closing at once would be a reset, which may overtake the answer.
            exchange.body().await;
        })
        .start()
        .await;
    let gateway = relaying(&origin, "").await;

    for _ in 0..2 {
        let answer = gateway.post("/fn/x", vec![b' '; 5_000_000]).await;
        assert_eq!((answer.status(), answer.text().as_str(), answer.whole), (413, "too much", true));
    }
}

#[tokio::test]
async fn fields_of_the_functions_connection_are_not_relayed() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\nConnection: close, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\
         X-Public: 1\r\n\r\nall of it",
    )
    .await;
    let gateway = relaying(&origin, "").await;

    let answer = gateway.get("/fn/x").await;

    assert_eq!((answer.text().as_str(), answer.whole), ("all of it", true));
    assert_eq!((answer.header("x-private"), answer.header("keep-alive")), (None, None));
    assert_eq!(answer.header("x-public"), Some("1"));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"), "an end that can be told from a cut");
    assert!(answer.header("x-request-id").is_some());
}

#[tokio::test]
async fn a_relayed_answer_has_no_chunks_for_the_old_version() {
    let origin =
        Origin::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n").await;
    let gateway = relaying(&origin, "").await;
    let mut client = gateway.client().await;

    client.send("GET /fn/x HTTP/1.0\r\nHost: h\r\n\r\n").await;

    let answer = String::from_utf8(client.rest().await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{head}");
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(body, "body");
}

#[tokio::test]
async fn a_refused_credential_is_named_in_a_relayed_answer() {
    let origin = Origin::http1()
        .reply(|_| Reply::text(403, "no").header("WWW-Authenticate", "AWS4-HMAC-SHA256"))
        .start()
        .await;
    let gateway = relaying(&origin, "").await;

    let answer = gateway.get("/fn/x").await;

    assert_eq!((answer.status(), answer.text().as_str()), (403, "no"));
    assert_eq!(answer.header("www-authenticate"), None);
    assert_eq!(gateway.access_log(1).await[0]["reason"], "credential_refused");
}

#[tokio::test]
async fn answers_of_http2_are_relayed_over_one_connection() {
    let origin = Origin::http2().reply(|request| Reply::text(200, request.method())).start().await;
    let gateway = relaying(&origin, "http2: 'on'").await;

    for _ in 0..3 {
        let answer = gateway.post("/fn/x", "").await;
        assert_eq!((answer.text().as_str(), answer.whole), ("POST", true));
    }
    assert_eq!(origin.accepted(), 1);
}

/// A signed URL: its requests have to be whole.
fn signed(origin: &Origin, more: &str) -> String {
    let iam = "{ accesskey: AKIDEXAMPLE, secretkey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' }";
    format!("aws_lambda: {{ function_uri: '{}/', authorization: {{ iam: {iam} }}, {more} }}", origin.url())
}

async fn relaying(origin: &Origin, more: &str) -> Gateway {
    Gateway::start(&route("/fn/*", &signed(origin, more))).await
}

async fn relaying_tls(origin: &Origin) -> (Gateway, Ca) {
    let ca = Ca::new();
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &route("/fn/*", &signed(origin, ""))).await;
    (gateway, ca)
}
