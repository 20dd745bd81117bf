//! What is refused because it is too much, and that others do not notice.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::*;

#[tokio::test]
async fn a_slow_function_takes_its_own_places_only() {
    let gate = Gate::closed();
    let (slow, quick) = (held(&gate).await, Origin::echo().await);
    let yaml = format!(
        "limits: {{ in_flight: 20 }}\n{}",
        routes(&[
            ("slow", "/slow", &openfunction(&slow, "timeout: 60s")),
            ("quick", "/quick", &openfunction(&quick, ""))
        ])
    );
    let gateway =
        Arc::new(Gateway::start(&limit(&yaml, "slow", "in_flight: 2, queue: 3, queue_timeout: 30s")).await);

    let calls: Vec<_> = (0..40).map(|_| tokio::spawn(call(Arc::clone(&gateway), "/slow"))).collect();
    gateway.counts("fngate_failures_total", &[("route", "slow"), ("code", "overloaded")], 35.0).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/quick").await.status(), 200, "another route is as before");
    }
    slow.request(1).await;
    assert_eq!(slow.requests().len(), 2);
    gateway.counts("fngate_requests_queued", &[("route", "slow")], 3.0).await;

    (0..5).for_each(|_| gate.open());
    let answers = futures_util::future::join_all(calls).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.as_ref().unwrap().status()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    for refused in
        answers.iter().map(|answer| answer.as_ref().unwrap()).filter(|answer| answer.status() != 200)
    {
        assert_eq!((refused.status(), refused.code().as_str()), (503, "overloaded"));
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    gateway.counts("fngate_queue_seconds_count", &[("route", "slow")], 3.0).await;
    let log = gateway.access_log(50).await;
    assert_eq!(log.iter().filter(|line| line["queue_ms"].is_number()).count(), 3);
}

#[tokio::test]
async fn the_wait_for_a_place_ends() {
    let gate = Gate::closed();
    let slow = held(&gate).await;
    let yaml = route("/slow", &openfunction(&slow, "timeout: 60s"));
    let gateway = Arc::new(
        Gateway::start(&limit(&yaml, "hello", "in_flight: 1, queue: 1, queue_timeout: 300ms")).await,
    );
    let first = tokio::spawn(call(Arc::clone(&gateway), "/slow"));
    slow.request(0).await;

    let begun = std::time::Instant::now();
    for request in [Request::get("/slow"), Request::post("/slow", "body")] {
        let late = gateway.send(&request).await;
        assert_eq!((late.status(), late.code().as_str()), (503, "overloaded"));
    }
    assert!(begun.elapsed().as_millis() >= 600);

    gate.open();
    assert_eq!(first.await.unwrap().status(), 200);
    gate.open();
    assert_eq!(gateway.get("/slow").await.status(), 200, "a place was given back by everybody");
}

#[tokio::test]
async fn who_leaves_the_queue_makes_room_in_it() {
    let gate = Gate::closed();
    let slow = held(&gate).await;
    let ca = Ca::new();
    let yaml = limit(
        &route("/slow", &openfunction(&slow, "timeout: 60s")),
        "hello",
        "in_flight: 1, queue: 1, queue_timeout: 60s",
    );
    let gateway = Arc::new(Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await);
    let first = tokio::spawn(call(Arc::clone(&gateway), "/slow"));
    slow.request(0).await;

    let mut leaving = gateway.client().await;
    leaving.start(&Request::get("/slow")).await;
    gateway.counts("fngate_requests_queued", &[("route", "hello")], 1.0).await;
    drop(leaving);
    gateway.counts("fngate_requests_queued", &[("route", "hello")], 0.0).await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let mut cancelled = Box::pin(client.call(Http2::get("https://localhost/slow")));
    tokio::select! {
        _ = &mut cancelled => panic!("nobody answers"),
        () = gateway.counts("fngate_requests_queued", &[("route", "hello")], 1.0) => {}
    }
    drop(cancelled);
    gateway.counts("fngate_requests_queued", &[("route", "hello")], 0.0).await;

    let next = tokio::spawn(call(Arc::clone(&gateway), "/slow"));
    gateway.counts("fngate_requests_queued", &[("route", "hello")], 1.0).await;
    gate.open();
    gate.open();
    assert_eq!((first.await.unwrap().status(), next.await.unwrap().status()), (200, 200));
    assert_eq!(slow.requests().len(), 2, "those who left were never sent");
}

#[tokio::test]
async fn a_reload_does_not_forget_who_is_under_way() {
    let gate = Gate::closed();
    let slow = held(&gate).await;
    let yaml = limit(&route("/slow", &openfunction(&slow, "timeout: 60s")), "hello", "in_flight: 1");
    let gateway = Arc::new(Gateway::start(&yaml).await);
    let first = tokio::spawn(call(Arc::clone(&gateway), "/slow"));
    slow.request(0).await;

    assert!(gateway.reload(&format!("{yaml}# changed\n")).await);

    assert_eq!(gateway.get("/slow").await.code(), "overloaded");
    gate.open();
    assert_eq!(first.await.unwrap().status(), 200);
}

async fn call(gateway: Arc<Gateway>, target: &'static str) -> Response {
    gateway.get(target).await
}

#[tokio::test]
async fn a_body_that_drips_is_given_up() {
    let origin = Origin::echo().await;
    let yaml = route("/fn", &openfunction(&origin, "timeout: 60s"));
    let gateway = Gateway::start(&format!("limits: {{ min_rate: 1KiB }}\n{yaml}")).await;
    let mut client = gateway.client().await;
    client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n").await;

    // Never silent for longer than a twentieth of a second.
    let drip = async {
        loop {
            client.send("x").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = drip => {}
        () = gateway.counts("fngate_failures_total", &[("route", "hello"), ("code", "request_timeout")], 1.0) => {}
    }

    let line = gateway.access_log(1).await.remove(0);
    assert_eq!(
        (line["status"].as_u64(), line["reason"].as_str()),
        (Some(408), Some("request_timeout")),
        "{line}"
    );
    assert!(line["dur_ms"].as_f64().unwrap() >= 5000.0, "{line}");
}

#[tokio::test]
async fn a_reader_that_sips_is_cut() {
    let origin = Origin::http1().reply(|_| Reply::new(200, vec![b'x'; 64 << 20])).start().await;
    let yaml = route("/fn", &openfunction(&origin, "timeout: 60s"));
    let gateway = Gateway::start(&format!("limits: {{ idle_timeout: 1s, min_rate: 1GiB }}\n{yaml}")).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/fn")).await;
    let head = client.head().await;

    let mut body = client.body(&head, "GET");
    let sip = async {
        while let Piece::Bytes(_) = body.next().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = sip => {}
        () = gateway.counts("fngate_failures_total", &[("code", "client_slow")], 1.0) => {}
    }

    let line = gateway.access_log(1).await.remove(0);
    assert_eq!(
        (line["status"].as_u64(), line["reason"].as_str()),
        (Some(200), Some("client_slow")),
        "{line}"
    );
    origin.settles_at(0).await;
}

#[tokio::test]
async fn a_stream_that_is_silent_by_nature_has_no_pace() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/event-stream").await;
            exchange.send_chunk("data: 1\n\n").await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            exchange.send_chunk("data: 2\n\n").await;
            exchange.peer_closed().await;
        })
        .start()
        .await;
    let yaml = route("/events", &openfunction(&origin, "timeout: 60s"));
    let gateway = Gateway::start(&format!("limits: {{ idle_timeout: 1s, min_rate: 1MiB }}\n{yaml}")).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/events")).await;
    let head = client.head().await;
    client.body(&head, "GET").until("data: 1\n\ndata: 2\n\n").await;
}

#[tokio::test]
async fn a_head_is_as_large_as_the_file_says() {
    let ca = Ca::new();
    let origin = Origin::echo().await;
    let yaml = route("/fn", &openfunction(&origin, ""));
    let yaml = format!("limits: {{ header_count: 10, header_size: 4KiB }}\n{yaml}");
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let long = "x".repeat(1500);

    for (fields, value, status) in
        [(8, "x", 200), (11, "x", 431), (2, long.as_str(), 200), (3, long.as_str(), 431)]
    {
        let mut one = Request::get("/fn");
        let mut two = hyper::Request::get("https://localhost/fn");
        for n in 0..fields {
            one = one.header(&format!("x-{n}"), value);
            two = two.header(format!("x-{n}"), value);
        }
        assert_eq!(gateway.send(&one).await.status(), status, "HTTP/1, {fields} of {}", value.len());
        let answer = client.call(two.body(http_body_util::Full::default()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "HTTP/2, {fields} of {}", value.len());
    }
}

#[tokio::test]
async fn a_connection_ends_after_its_last_request() {
    let origin = Origin::echo().await;
    let yaml = route("/fn", &openfunction(&origin, ""));
    let gateway = Gateway::start(&format!("limits: {{ requests_per_connection: 3 }}\n{yaml}")).await;
    let mut client = gateway.client().await;

    for (n, close) in [(1, "keep-alive"), (2, "keep-alive"), (3, "close")] {
        let answer = client.call(&Request::post("/fn", "body")).await;
        assert_eq!((answer.status(), answer.header("connection")), (200, Some(close)), "{n}");
    }
    assert_eq!(client.rest().await, b"");
}

/// All lines of `Connection` are one list (RFC 9110 section 5.3).
#[tokio::test]
async fn a_client_that_says_anywhere_that_it_closes_gets_one_answer() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;

    for (path, status) in [("/fn", 200), ("/none", 404)] {
        for (version, first) in [("1.1", "x"), ("1.1", "keep-alive"), ("1.0", "keep-alive")] {
            let mut client = gateway.client().await;
            let asked = format!(
                "GET {path} HTTP/{version}\r\nHost: h\r\nConnection: {first}\r\nConnection: close\r\n\r\n"
            );
            client.send(asked.repeat(2)).await;
            let answer = client.response("GET").await;
            assert_eq!((answer.status(), answer.header("connection")), (status, Some("close")), "{asked}");
            assert_eq!(client.rest().await, b"", "{asked}");
        }
    }
    assert_eq!(origin.requests().len(), 3);
}

#[tokio::test]
async fn an_http2_connection_has_so_many_streams() {
    let gate = Gate::closed();
    let (ca, slow) = (Ca::new(), held(&gate).await);
    let yaml = route("/slow", &openfunction(&slow, "timeout: 60s"));
    let gateway =
        Gateway::start_tls(&ca.leaf(&["localhost"]), &format!("limits: {{ http2_streams: 2 }}\n{yaml}"))
            .await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    // With the first answer, the client knows the limit.
    gate.open();
    assert_eq!(client.call(Http2::get("https://localhost/slow")).await.unwrap().status(), 200);

    let calls =
        futures_util::future::join_all((0..3).map(|_| client.call(Http2::get("https://localhost/slow"))));
    let open = async {
        gateway.counts("fngate_requests_in_flight", &[("route", "hello")], 2.0).await;
        slow.request(2).await;
        assert_eq!(slow.requests().len(), 3, "the third call waits at the client");
        (0..3).for_each(|_| gate.open());
    };
    let (answers, ()) = tokio::join!(calls, open);
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().status() == 200));
}

#[tokio::test]
async fn who_is_served_goes_on_when_files_run_out() {
    let origin = Origin::echo().await;
    // A call takes a descriptor, because none is kept.
    let yaml = route("/fn/*", &openfunction(&origin, "keepalive: false"));
    let gateway = Gateway::builder().open_files(96).start(&yaml).await;
    let mut served = gateway.client().await;
    assert_eq!(served.call(&Request::get("/fn/x")).await.status(), 200);

    let crowd = futures_util::future::join_all((0..150).map(|_| gateway.client())).await;
    let refused = [("route", "-"), ("code", "overloaded")];
    eventually("clients to be refused", PATIENCE, async || {
        (gateway.metrics().await.counter("fngate_failures_total", &refused) > 50.0).then_some(())
    })
    .await;

    for _ in 0..10 {
        assert_eq!(served.call(&Request::get("/fn/x")).await.status(), 200);
    }
    assert!(!gateway.stderr().contains("connections cannot be accepted"), "{}", gateway.stderr());
    drop(crowd);
    eventually("service for a new client", PATIENCE, async || {
        let answer = gateway.client().await.try_call(&Request::get("/fn/x")).await?;
        (answer.status() == 200).then_some(())
    })
    .await;
}

/// Answers each request when the gate is opened once more.
async fn held(gate: &Gate) -> Origin {
    let gate = gate.clone();
    let script = move |mut exchange: Exchange| {
        let gate = gate.clone();
        async move {
            gate.passed().await;
            exchange.answer(Reply::text(200, "done")).await;
        }
    };
    Origin::http1().script(script).start().await
}

/// Gives the route of this name limits of its own.
fn limit(yaml: &str, route: &str, limits: &str) -> String {
    with_policy(yaml, route, &format!("limits: {{ {limits} }}"))
}
