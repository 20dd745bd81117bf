//! Bodies that are on their way while somebody else is waited for: a function that takes its time, a place in a queue, a function that
//! is not there yet. Who is late is named, and nobody is waited for without end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;

use crate::harness::*;

#[tokio::test]
async fn who_has_sent_all_is_not_slow() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.body().await;
            // Longer than a client may be silent.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            exchange.answer(Reply::text(200, "done")).await;
        })
        .start()
        .await;
    let (gateway, ca) = hurried(&route("/fn", &openfunction(&origin, "timeout: 10s"))).await;

    let (small, empty, large, old) = tokio::join!(
        post(&gateway, &ca, "body"),
        post(&gateway, &ca, ""),
        post(&gateway, &ca, vec![b'x'; 300_000]),
        gateway.post("/fn", "body"),
    );

    for answer in [small, empty, large, old] {
        assert_eq!((answer.status(), answer.text().as_str()), (200, "done"));
    }
}

#[tokio::test]
async fn who_waits_for_a_place_with_a_body_is_not_slow() {
    let gate = Gate::closed();
    let origin = Origin::http1().gated(&gate, |mut exchange, gate| async move {
        gate.passed().await;
        exchange.body().await;
        exchange.answer(Reply::text(200, "done")).await;
    });
    let origin = origin.start().await;
    let limits = "    limits: { in_flight: 1, queue: 4, queue_timeout: 30s }\n";
    let yaml = route("/fn", &openfunction(&origin, "timeout: 20s"));
    let yaml = yaml.replacen("    target", &format!("{limits}    target"), 1);
    let (gateway, ca) = hurried(&yaml).await;
    let others = async {
        origin.request(0).await;
        let release = async {
            gateway.counts("fngate_requests_queued", &[("route", "hello")], 3.0).await;
            tokio::time::sleep(Duration::from_millis(2500)).await;
            (0..4).for_each(|_| gate.open());
        };
        let (small, large, old, ()) = tokio::join!(
            post(&gateway, &ca, "body"),
            post(&gateway, &ca, vec![b'x'; 300_000]),
            gateway.post("/fn", vec![b'x'; 300_000]),
            release
        );
        [small, large, old]
    };

    let (first, others) = tokio::join!(gateway.get("/fn"), others);

    for answer in others.into_iter().chain([first]) {
        assert_eq!((answer.status(), answer.text().as_str()), (200, "done"));
    }
}

#[tokio::test]
async fn who_waits_with_a_body_for_a_function_that_is_not_there_is_not_slow() {
    let nobody = Refusing::new();
    let addr = nobody.addr();
    let target = format!("openfunction: {{ function_uri: 'http://{addr}/', timeout: 5s }}");
    let yaml = route("/fn", &target).replacen("    target", "    cold_start: { hold: 30s }\n    target", 1);
    let (gateway, ca) = hurried(&yaml).await;
    let begun = Instant::now();

    let (small, large, _origin) =
        tokio::join!(post(&gateway, &ca, "body"), post(&gateway, &ca, vec![b'x'; 300_000]), async {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            drop(nobody);
            Origin::http1().text("done").start_at(addr).await
        });

    for answer in [small, large] {
        assert_eq!((answer.status(), answer.text().as_str()), (200, "done"));
    }
    assert!(begun.elapsed() >= Duration::from_millis(2500));
}

#[tokio::test]
async fn who_has_to_wait_for_the_next_attempt_in_its_body_is_not_slow() {
    let is_first = AtomicBool::new(true);
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let is_first = is_first.swap(false, Ordering::AcqRel);
            async move {
                if is_first {
                    let busy = Reply::text(503, "busy").header("Retry-After", "3");
                    exchange.answer(busy.header("Connection", "close")).await;
                    return exchange.peer_closed().await;
                }
                let body = exchange.body().await;
                exchange.answer(Reply::new(200, body)).await;
            }
        })
        .start()
        .await;
    let policy = "    retry: { on: [ 503 ], methods: any }\n    target";
    let yaml = route("/fn", &openfunction(&origin, "")).replacen("    target", policy, 1);
    let (gateway, _ca) = hurried(&yaml).await;
    let mut client = gateway.client().await;

    client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\none").await;
    origin.request(1).await;
    client.send("two").await;

    assert_eq!(client.response("POST").await.text(), "onetwo");
}

#[tokio::test]
async fn a_function_that_stops_reading_is_late() {
    let origin = unread().await;
    let ca = Ca::new();
    let yaml = routes(&[
        ("slow", "/slow", &openfunction(&origin, "timeout: 1000")),
        ("late", "/late", &openfunction(&origin, "timeout: 60s, deadline: 1500")),
    ]);
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;

    for (path, code) in [("/slow", "upstream_timeout"), ("/late", "deadline")] {
        let body = vec![b'x'; LARGE];
        let large = format!("{:x}\r\n", LARGE / 2);
        let chunks = [large.as_bytes(), &body[LARGE / 2..], b"\r\n"].concat().repeat(2);
        let small = [&b"3e8\r\n"[..], &[b'x'; 1000], b"\r\n"].concat().repeat(LARGE / 1000);
        let over_http1 = async |fields: &str, bytes: Vec<u8>| {
            let mut client = gateway.client().await;
            client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n")).await;
            client.send(bytes).await;
            client.send("0\r\n\r\n").await;
            client.response("POST").await
        };
        let length = format!("Content-Length: {LARGE}");
        let url = format!("https://localhost{path}");
        let (sized, large, small, streams) = tokio::join!(
            over_http1(&length, body.clone()),
            over_http1("Transfer-Encoding: chunked", chunks),
            over_http1("Transfer-Encoding: chunked", small),
            post_to(&url, &gateway, &ca, body.clone()),
        );
        for (name, answer) in [("sized", sized), ("large", large), ("small", small), ("HTTP/2", streams)] {
            assert_eq!((answer.status(), answer.code().as_str()), (504, code), "{name}");
        }
    }
    let log = gateway.access_log(8).await;
    assert!(log.iter().all(|line| line["dur_ms"].as_f64().unwrap() < 10_000.0), "{log:#?}");
}

/// Whatever it was meant to speak.
#[tokio::test]
async fn a_function_that_knows_no_http2_and_stops_reading_is_late() {
    let ca = Ca::new();
    let script = |_| tokio::time::sleep(PATIENCE);
    let origin = Origin::http1().script(script).tls(ca.leaf(&["127.0.0.1"]).server(&[])).start().await;
    let target =
        format!("http: {{ url: 'https://{}/', http2: on, timeout: 1000, ssl_verify: false }}", origin.addr());
    let gateway = Gateway::start(&route("/fn", &target)).await;

    let answer = gateway.post("/fn", vec![b'x'; LARGE]).await;

    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"));
    let line = gateway.access_log(1).await.remove(0);
    assert!(line["dur_ms"].as_f64().unwrap() < 10_000.0, "{line}");
}

#[tokio::test]
async fn a_function_may_take_a_body_slowly() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            let (mut size, mut pause) = (0, 0);
            while let Some(piece) = exchange.chunk().await {
                size += piece.len();
                if size > pause {
                    // In all half as long again as it may leave a piece for.
                    tokio::time::sleep(Duration::from_millis(1000)).await;
                    pause += LARGE / 6;
                }
            }
            exchange.answer(Reply::text(200, &size.to_string())).await;
        })
        .start()
        .await;
    let ca = Ca::new();
    let yaml = route("/fn", &openfunction(&origin, "timeout: 4s"));
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;

    let (old, new) =
        tokio::join!(gateway.post("/fn", vec![b'x'; LARGE]), post(&gateway, &ca, vec![b'x'; LARGE]));

    for answer in [old, new] {
        assert_eq!((answer.status(), answer.text()), (200, LARGE.to_string()));
    }
}

/// The write is given up, and the answer passes, in whatever time it takes.
#[tokio::test]
async fn a_function_that_answers_without_reading_on_may_do_so_slowly() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/plain").await;
            for _ in 0..12 {
                exchange.send_chunk("x").await;
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            exchange.end_chunked().await;
            exchange.peer_closed().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "timeout: 3s"))).await;

    let answer = gateway.post("/fn", vec![b'x'; LARGE]).await;

    assert_eq!((answer.text().as_str(), answer.whole), ("xxxxxxxxxxxx", true));
    assert_eq!(gateway.access_log(1).await[0]["reason"], serde_json::Value::Null);
}

#[tokio::test]
async fn who_leaves_while_the_function_does_not_read_is_missed() {
    let origin = unread().await;
    let ca = Ca::new();
    let yaml = route("/fn", &openfunction(&origin, "timeout: 60s"));
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;

    let stuck = tokio::time::timeout(Duration::from_secs(2), post(&gateway, &ca, vec![b'x'; LARGE])).await;

    assert!(stuck.is_err(), "{stuck:?}");
    let line = gateway.access_log(1).await.remove(0);
    assert_eq!(
        (line["status"].as_u64(), line["reason"].as_str()),
        (Some(499), Some("client_gone")),
        "{line}"
    );
    assert!(line["dur_ms"].as_f64().unwrap() < 10_000.0, "{line}");
}

/// A function that reads a head, and then nothing for a long time.
async fn unread() -> Origin {
    let script = |_| tokio::time::sleep(PATIENCE);
    Origin::http1().script(script).start().await
}

/// A gateway that waits for no client for longer than two seconds.
async fn hurried(yaml: &str) -> (Gateway, Ca) {
    let ca = Ca::new();
    let yaml = format!("limits: {{ idle_timeout: 2s }}\n{yaml}");
    (Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await, ca)
}

/// A POST over a connection of HTTP/2.
async fn post(gateway: &Gateway, ca: &Ca, body: impl Into<Bytes>) -> Response {
    post_to("https://localhost/fn", gateway, ca, body).await
}

async fn post_to(url: &str, gateway: &Gateway, ca: &Ca, body: impl Into<Bytes>) -> Response {
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    let request = hyper::Request::post(url).body(Full::new(body.into())).unwrap();
    Http2::read(client.call(request).await.unwrap()).await
}

/// Far more than the sockets on the way can hold.
const LARGE: usize = 24 * 1000 * 1000;
