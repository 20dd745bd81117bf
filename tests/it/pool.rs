//! The connections to the functions: how many are opened, kept and given up, counted at the origin, and what happens to
//! a request whose connection turns out to be dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use crate::harness::*;

#[tokio::test]
async fn one_after_the_other_share_one_connection() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

    for _ in 0..20 {
        assert_eq!(done(&gateway, &Request::get("/fn")).await.status(), 200);
    }

    assert_eq!(origin.accepted(), 1);
    let connections = "fngate_upstream_connections_total";
    gateway.counts(connections, &[("route", "hello"), ("result", "dialled")], 1.0).await;
    gateway.counts(connections, &[("route", "hello"), ("result", "reused")], 19.0).await;
    gateway.counts("fngate_upstream_connections_open", &[("route", "hello")], 1.0).await;
    let log = gateway.access_log(20).await;
    assert_eq!((&log[0]["reused"], &log[19]["reused"]), (&json!(false), &json!(true)));
}

#[tokio::test]
async fn buffered_targets_share_connections_too() {
    let origin = Origin::http1().reply(|_| Reply::json(&json!({ "hello": "test" }))).start().await;
    let gateway = Gateway::start(&routes(&[
        ("kept", "/kept", &openwhisk(&origin, "")),
        ("closed", "/closed", &openwhisk(&origin, "keepalive: false")),
    ]))
    .await;

    for _ in 0..5 {
        assert_eq!(done(&gateway, &Request::get("/kept")).await.status(), 200);
    }
    assert_eq!(origin.accepted(), 1);
    for _ in 0..5 {
        assert_eq!(done(&gateway, &Request::get("/closed")).await.status(), 200);
    }
    assert_eq!(origin.accepted(), 6);
    origin.settles_at(1).await;
}

/// All lines of `Connection` are one list (RFC 9110 section 5.3), of which Pingora reads the first.
#[tokio::test]
async fn a_connection_that_the_function_says_anywhere_to_close_is_not_kept() {
    for answer in [
        "200 OK\r\nConnection: keep-alive\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        "200 OK\r\nConnection: x\r\nConnection: y, Close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "200 OK\r\nConnection: keep-alive\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "204 No Content\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
    ] {
        // It says so, and leaves it to the gateway.
        let origin = Origin::http1()
            .script(move |mut exchange| async move {
                exchange.body().await;
                exchange.send(format!("HTTP/1.1 {answer}")).await;
                exchange.peer_closed().await;
            })
            .start()
            .await;
        let gateway = Gateway::start(&routes(&[
            ("streamed", "/streamed", &openfunction(&origin, "")),
            ("collected", "/collected", &openwhisk(&origin, "")),
            ("relayed", "/relayed", &signed(&origin)),
        ]))
        .await;

        for (path, count) in [("/streamed", 2), ("/collected", 4), ("/relayed", 6)] {
            for _ in 0..2 {
                gateway.post(path, "{}").await;
                origin.settles_at(0).await;
            }
            assert_eq!((origin.requests().len(), origin.accepted()), (count, count), "{path}: {answer}");
        }
    }
}

#[tokio::test]
async fn without_keepalive_every_request_has_its_own_connection() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "keepalive: false"))).await;

    for _ in 0..10 {
        let answer = done(&gateway, &Request::get("/fn")).await;
        assert_eq!(
            answer.json::<Echo>().header("connection").map(str::to_ascii_lowercase).as_deref(),
            Some("close")
        );
    }

    assert_eq!(origin.accepted(), 10);
    origin.settles_at(0).await;
}

#[tokio::test]
async fn after_a_burst_as_many_stay_as_the_pool_holds() {
    let (origin, gate) = held().await;
    let gateway =
        Gateway::start(&route("/fn", &openfunction(&origin, "keepalive_pool: 3, timeout: 20s"))).await;

    burst(&gateway, &origin, &gate, 50).await;
    assert_eq!(origin.accepted(), 50, "nobody waits for a free connection");
    origin.settles_at(3).await;

    // The three are still there and good for three at a time, again and again.
    for _ in 0..5 {
        burst(&gateway, &origin, &gate, 3).await;
    }
    assert_eq!(origin.accepted(), 50);
    assert_eq!(origin.open(), 3);
}

#[tokio::test]
async fn a_trickle_after_a_burst_does_not_wear_the_pool_down() {
    let (origin, gate) = held().await;
    let gateway =
        Gateway::start(&route("/fn", &openfunction(&origin, "keepalive_pool: 2, timeout: 20s"))).await;

    burst(&gateway, &origin, &gate, 10).await;
    for _ in 0..30 {
        burst(&gateway, &origin, &gate, 1).await;
    }

    origin.settles_at(2).await;
    assert_eq!(origin.accepted(), 10);
}

#[tokio::test]
async fn an_idle_connection_ends_after_its_time() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&routes(&[
        ("short", "/short", &openfunction(&origin, "keepalive_timeout: 1000")),
        ("long", "/long", &openfunction(&origin, "keepalive_timeout: 60000")),
    ]))
    .await;

    done(&gateway, &Request::get("/long")).await;
    done(&gateway, &Request::get("/short")).await;
    assert_eq!(origin.accepted(), 2);
    origin.settles_at(1).await;

    done(&gateway, &Request::get("/long")).await;
    assert_eq!(origin.accepted(), 2, "the one with the long time is still there");
    gateway.counts("fngate_upstream_connections_open", &[("route", "short")], 0.0).await;
}

#[tokio::test]
async fn a_connection_ends_before_the_function_would_end_it() {
    let origin = Origin::http1()
        .reply(|_| Reply::text(200, "ok").header("Keep-Alive", "timeout=5, max=100"))
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "keepalive_timeout: 60s"))).await;

    // The first connection was going to be kept for a minute; it is not used again, and ends with the other.
    for _ in 0..4 {
        assert_eq!(done(&gateway, &Request::get("/fn")).await.text(), "ok");
    }
    assert_eq!(origin.accepted(), 2);
    origin.settles_at(0).await;

    assert_eq!(done(&gateway, &Request::get("/fn")).await.text(), "ok");
    assert_eq!(origin.requests().last().unwrap().connection, 2);
}

/// As a machine does that is moved: whoever closes what is idle stood still, too.
#[tokio::test]
async fn a_connection_that_grew_old_while_the_process_stood_still_is_not_used() {
    let origin =
        Origin::http1().reply(|_| Reply::text(200, "ok").header("Keep-Alive", "timeout=2")).start().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;
    for _ in 0..2 {
        assert_eq!(client.call(&Request::get("/fn")).await.status(), 200);
        // The connection is back where it is taken from.
        gateway.counts("fngate_requests_in_flight", &[("route", "hello")], 0.0).await;
    }

    gateway.signal(Signal::SIGSTOP);
    // The age of the connection is what this is about.
    sleep(Duration::from_millis(1_200)).await;
    client.start(&Request::get("/fn")).await;
    gateway.signal(Signal::SIGCONT);

    assert_eq!(client.response("GET").await.status(), 200);
    assert_eq!(origin.requests().last().unwrap().connection, 2);
}

#[tokio::test]
async fn routes_never_share_connections() {
    let origin = Origin::echo().await;
    let target = openfunction(&origin, "");
    let gateway = Gateway::start(&routes(&[("one", "/one", &target), ("two", "/two", &target)])).await;

    for _ in 0..3 {
        done(&gateway, &Request::get("/one")).await;
        done(&gateway, &Request::get("/two")).await;
    }

    assert_eq!(origin.accepted(), 2);
    assert_eq!(origin.requests().iter().map(|r| r.connection).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1]);
}

/// Whether the end of the connection or the failure to write to it is seen first is a matter of luck, and must not matter.
#[tokio::test]
async fn a_put_whose_body_meets_a_dead_connection_is_sent_once_more() {
    let listener = tokio::net::TcpListener::bind(local(free_port())).await.unwrap();
    let target = format!("http: {{ url: 'http://{}/' }}", listener.local_addr().unwrap());
    // Answers one request on each connection, and closes it at the first byte of the next one.
    let origin = tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"end") {
                    connection.read_buf(&mut request).await.unwrap();
                }
                connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                let _ = connection.read_u8().await;
            });
        }
    });
    let gateway = Gateway::start(&route("/fn", &target)).await;
    let mut client = gateway.client().await;

    for length in [10, 3_000, 30_000].repeat(20) {
        let answer =
            client.call(&Request::new("PUT", "/fn").body(format!("{}end", "x".repeat(length)))).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }

    origin.abort();
}

#[tokio::test]
async fn the_log_speaks_of_the_last_attempt() {
    let (mortal, dying) = mortal().await;
    let target = format!("http: {{ url: 'http://{mortal}/' }}");
    let gateway = Gateway::start(&route("/fn", &target)).await;
    assert_eq!(done(&gateway, &Request::get("/fn")).await.status(), 200);

    assert_eq!(done(&gateway, &Request::get("/fn")).await.code(), "upstream_connect");

    dying.await.unwrap();
    let line = &gateway.access_log(2).await[1];
    assert_eq!((&line["attempts"], &line["reused"]), (&json!(2), &Value::Null), "{line}");
}

#[tokio::test]
async fn a_get_whose_reused_connection_died_is_sent_once_more() {
    for body in [None, Some("idempotent methods may have one")] {
        let origin = Origin::http1().echo().answers_per_connection(1).start().await;
        let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
        let request = match body {
            None => Request::get("/fn"),
            Some(body) => Request::new("PUT", "/fn").body(body),
        };

        assert_eq!(done(&gateway, &request).await.status(), 200);
        let answer = done(&gateway, &request).await;

        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.json::<Echo>().body, body.unwrap_or_default());
        assert_eq!(origin.requests().iter().map(|r| r.connection).collect::<Vec<_>>(), [0, 0, 1]);
        let line = gateway.line_of(&answer).await;
        assert_eq!((&line["attempts"], &line["status"]), (&json!(2), &json!(200)), "{line}");
        gateway.counts("fngate_retries_total", &[("route", "hello")], 1.0).await;
    }
}

#[tokio::test]
async fn a_body_that_is_sent_once_more_counts_once() {
    let origin = Origin::http1().echo().answers_per_connection(1).start().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "max_req_body_size: 30"))).await;
    let request = Request::new("PUT", "/fn").body("of these, 30 would do");

    assert_eq!(done(&gateway, &request).await.status(), 200);
    let answer = done(&gateway, &request).await;

    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(origin.requests().len(), 3);
}

#[tokio::test]
async fn a_post_that_was_written_is_never_sent_again() {
    let origin = Origin::http1().echo().answers_per_connection(1).start().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

    assert_eq!(done(&gateway, &Request::post("/fn", "first")).await.status(), 200);
    let answer = done(&gateway, &Request::post("/fn", "second")).await;

    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_reset"));
    let bodies = origin.requests();
    assert_eq!(bodies.len(), 2, "{bodies:#?}");
    gateway.counts("fngate_retries_total", &[("route", "hello")], 0.0).await;
}

#[tokio::test]
async fn an_action_is_never_invoked_twice() {
    let origin =
        Origin::http1().reply(|_| Reply::json(&json!({ "ok": 1 }))).answers_per_connection(1).start().await;
    let gateway = Gateway::start(&route("/fn", &openwhisk(&origin, ""))).await;

    assert_eq!(done(&gateway, &Request::get("/fn")).await.status(), 200);
    let answer = done(&gateway, &Request::get("/fn")).await;

    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_reset"));
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn a_connection_that_ended_while_idle_costs_nobody_anything() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.body().await;
            exchange.answer(Reply::text(200, "ok")).await;
            exchange.close();
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

    for request in [Request::post("/fn", "a"), Request::get("/fn"), Request::post("/fn", "b")] {
        assert_eq!(done(&gateway, &request).await.text(), "ok");
        origin.settles_at(0).await;
    }
    assert_eq!(origin.requests().len(), 3);
}

#[tokio::test]
async fn a_fresh_connection_that_dies_is_not_tried_again() {
    let origin = Origin::http1().echo().answers_per_connection(0).start().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

    let answer = done(&gateway, &Request::get("/fn")).await;

    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_reset"));
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn once_more_is_once() {
    let answered = Arc::new(AtomicUsize::new(0));
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let first = answered.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                match first {
                    true => exchange.answer(Reply::text(200, "only this once")).await,
                    false => exchange.close(),
                }
            }
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

    assert_eq!(done(&gateway, &Request::get("/fn")).await.status(), 200);
    let answer = done(&gateway, &Request::get("/fn")).await;

    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_reset"));
    assert_eq!(origin.requests().len(), 3);
}

#[tokio::test]
async fn a_connection_with_bytes_too_many_is_not_used_again() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil",
    ] {
        let origin = Origin::http1().script(move |mut x| async move { x.send(answer).await }).start().await;
        let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

        for _ in 0..2 {
            let answer = done(&gateway, &Request::get("/fn")).await;
            assert!(!answer.text().contains("evil"), "{}", answer.text());
        }
        assert_eq!(origin.requests().iter().map(|r| r.connection).collect::<Vec<_>>(), [0, 1], "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_the_function_wants_closed_is_not_used_again() {
    let origin =
        Origin::http1().reply(|_| Reply::text(200, "ok").header("Connection", "close")).start().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

    for _ in 0..3 {
        assert_eq!(done(&gateway, &Request::get("/fn")).await.status(), 200);
    }
    assert_eq!(origin.accepted(), 3);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_leaves_no_confusion() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            if exchange.method() == "POST" {
                exchange.answer(Reply::text(413, "enough")).await;
                exchange.peer_closed().await;
            } else {
                exchange.answer(Reply::text(200, "ok")).await;
            }
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(client.response("POST").await.text(), "enough");
    drop(client);

    assert_eq!(done(&gateway, &Request::get("/fn")).await.text(), "ok");
    let requests = origin.requests();
    assert_eq!(requests.len(), 2, "{requests:#?}");
    assert_ne!(requests[0].connection, requests[1].connection);
}

#[tokio::test]
async fn a_function_that_restarts_is_found_again() {
    for (script, http2) in [(Origin::http1 as fn() -> Script, "off"), (Origin::http2, "on")] {
        let first = script().echo().start().await;
        let addr = first.addr();
        let gateway =
            Gateway::start(&route("/fn", &openfunction(&first, &format!("http2: '{http2}'")))).await;
        assert_eq!(done(&gateway, &Request::get("/fn")).await.status(), 200);

        first.stop().await;
        let down = done(&gateway, &Request::post("/fn", "x")).await;
        // The end of an HTTP/2 connection may be noticed by the very request that wants to use it.
        let codes = ["upstream_connect", "upstream_reset"];
        assert!(down.status() == 502 && codes.contains(&down.code().as_str()), "http2 {http2}: {down:?}");

        let second = script().echo().start_at(addr).await;
        for request in [Request::post("/fn", "x"), Request::get("/fn")] {
            assert_eq!(done(&gateway, &request).await.status(), 200, "http2 {http2}");
        }
        assert_eq!(second.requests().len(), 2);
    }
}

#[tokio::test]
async fn http2_to_the_function_is_reused() {
    let origin = Origin::http2().echo().start().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "http2: 'on'"))).await;

    for _ in 0..10 {
        assert_eq!(done(&gateway, &Request::post("/fn", "x")).await.status(), 200);
    }
    assert_eq!(origin.accepted(), 1);
    let request = Request::get("/fn");
    let answers = join_all((0..30).map(|_| done(&gateway, &request))).await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert_eq!(origin.requests().len(), 40);
}

/// This many requests, all of them at the function before the first is answered.
async fn burst(gateway: &Gateway, origin: &Origin, gate: &Gate, size: usize) {
    let before = origin.requests().len();
    let request = Request::get("/fn");
    let requests = join_all((0..size).map(|_| done(gateway, &request)));
    let release = async {
        origin.request(before + size - 1).await;
        (0..size).for_each(|_| gate.open());
    };
    let (answers, ()) = tokio::join!(requests, release);
    assert!(answers.iter().all(|answer| answer.status() == 200));
}

/// A request and its answer, with the connection back where it belongs: the log line is written after that.
async fn done(gateway: &Gateway, request: &Request) -> Response {
    let answer = gateway.send(request).await;
    gateway.line_of(&answer).await;
    answer
}

fn signed(origin: &Origin) -> String {
    let iam = "{ accesskey: AKID, secretkey: key }";
    format!("aws_lambda: {{ function_uri: '{}/', authorization: {{ iam: {iam} }} }}", origin.url())
}

fn openwhisk(origin: &Origin, more: &str) -> String {
    format!(
        "openwhisk: {{ api_host: '{}', service_token: 'a:b', namespace: guest, action: test, {more} }}",
        origin.url()
    )
}

#[tokio::test]
async fn a_request_sent_once_more_goes_to_no_other_dead_connection() {
    let gate = Gate::closed();
    let origin = Origin::http1()
        .gated(&gate, |mut exchange, gate| async move {
            exchange.body().await;
            gate.passed().await;
            exchange.answer(Reply::text(200, "ok")).await;
        })
        .answers_per_connection(1)
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    // Three connections are kept, and each will break at its next request.
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.client().await;
        client.start(&Request::get("/fn")).await;
        clients.push(client);
    }
    origin.request(2).await;
    (0..4).for_each(|_| gate.open());
    for client in &mut clients {
        assert_eq!(client.response("GET").await.status(), 200);
    }

    let answer = done(&gateway, &Request::get("/fn")).await;

    assert_eq!(answer.status(), 200, "{}", answer.text());
}
