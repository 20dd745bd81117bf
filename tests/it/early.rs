//! Answers that come before the end of the request: the consent to a body that waits for it, and refusals of a body that is still
//! on its way. A client that sends all before it reads anything must get to hear them, too.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::harness::*;

#[tokio::test]
async fn a_connection_outlives_the_consent_to_a_body() {
    let origin = consenting().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    for body in ["first", "second", "third"] {
        client.send(expecting(body.len(), "")).await;
        assert_eq!(client.head().await.word(1), "100");
        client.send(body).await;
        let answer = client.response("POST").await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, body));
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
    assert_eq!(origin.accepted(), 1, "nor does it cost the function's connection");
}

#[tokio::test]
async fn a_client_that_does_not_wait_for_the_consent_keeps_its_connection() {
    let origin = consenting().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    for _ in 0..3 {
        client.send(expecting(4, "") + "body").await;
        let answer = client.response("POST").await;
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("body", Some("keep-alive")));
    }
}

#[tokio::test]
async fn a_client_that_wants_to_close_is_not_talked_out_of_it() {
    let origin = consenting().await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    client.send(expecting(4, "Connection: close\r\n")).await;
    assert_eq!(client.head().await.word(1), "100");
    client.send("body").await;

    let answer = client.response("POST").await;
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("body", Some("close")));
    assert_eq!(client.rest().await, b"");
}

/// The body never comes, so nothing may be read as a next request: the connection ends, and does not wait for the client to end it.
#[tokio::test]
async fn a_refusal_in_place_of_the_consent_ends_the_connection() {
    for (status, refusal) in [
        (417, "HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno"),
        (401, "HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n"),
        (413, "HTTP/1.1 413 Large\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"),
        (204, "HTTP/1.1 204 Done\r\n\r\n"),
    ] {
        let origin = Origin::http1()
            .script(move |mut exchange| async move {
                exchange.send(refusal).await;
                exchange.peer_closed().await;
            })
            .start()
            .await;
        let yaml = format!("limits: {{ min_rate: 0 }}\n{}", route("/fn", &openfunction(&origin, "")));
        let gateway = Gateway::start(&yaml).await;
        let mut client = gateway.client().await;

        client.send(expecting(4, "")).await;

        let answer = client.response("POST").await;
        assert_eq!(
            (answer.status(), answer.header("connection"), answer.whole),
            (status, Some("close"), true)
        );
        assert_eq!(client.rest().await, b"", "{status}");
        let line = &gateway.access_log(1).await[0];
        assert_eq!((&line["status"], &line["reason"]), (&json!(status), &Value::Null), "{line}");
        origin.settles_at(0).await;
    }
}

#[tokio::test]
async fn a_body_that_is_sent_in_spite_of_a_refusal_is_no_request() {
    let origin = Origin::http1()
        .script(|mut exchange| async move { exchange.answer(Reply::text(417, "no")).await })
        .start()
        .await;
    let gateway = Gateway::start(&route("/*", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

    client.send(expecting(smuggled.len(), "")).await;
    let answer = client.response("POST").await;
    client.send(smuggled.repeat(2)).await;

    assert_eq!((answer.status(), answer.header("connection")), (417, Some("close")));
    assert_eq!(client.rest().await, b"");
    assert!(origin.requests().iter().all(|request| request.head.word(1) != "/smuggled"));
    assert_eq!(gateway.access_log(1).await.len(), 1);
}

#[tokio::test]
async fn a_body_known_to_be_too_large_is_refused_without_consent() {
    let origin = consenting().await;
    let yaml = format!("limits: {{ body: 1KiB }}\n{}", route("/fn", &openfunction(&origin, "")));
    let gateway = Gateway::start(&yaml).await;
    let mut client = gateway.client().await;

    client.send(expecting(1025, "")).await;

    let answer = client.response("POST").await;
    assert_eq!((answer.status(), answer.code().as_str()), (413, "body_too_large"));
    assert_eq!((answer.informational.len(), answer.header("connection")), (0, Some("close")));
    assert_eq!(client.rest().await, b"");
    assert_eq!(origin.accepted(), 0);
}

/// A client that waits to be asked for its body is not slow: the function is.
#[tokio::test]
async fn a_function_may_take_its_time_to_consent() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            exchange.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            let body = exchange.body().await;
            exchange.answer(Reply::new(200, body)).await;
        })
        .start()
        .await;
    let yaml =
        format!("limits: {{ idle_timeout: 3s }}\n{}", route("/fn", &openfunction(&origin, "timeout: 20s")));
    let gateway = Gateway::start(&yaml).await;
    let mut client = gateway.client().await;

    client.send(expecting(4, "")).await;
    assert_eq!(client.head().await.first_line, "HTTP/1.1 100 Continue");
    client.send("body").await;

    assert_eq!(client.response("POST").await.text(), "body");
}

#[tokio::test]
async fn a_client_that_was_asked_for_its_body_has_to_send_it() {
    let origin = consenting().await;
    let yaml =
        format!("limits: {{ idle_timeout: 1s }}\n{}", route("/fn", &openfunction(&origin, "timeout: 10s")));
    let gateway = Gateway::start(&yaml).await;
    let mut client = gateway.client().await;

    client.send(expecting(4, "")).await;
    assert_eq!(client.head().await.word(1), "100");

    let answer = client.response("POST").await;
    assert_eq!((answer.status(), answer.code().as_str()), (408, "request_timeout"));
}

/// It does not know them, RFC 9110 section 15.2; nor does its expectation count, section 10.1.1.
#[tokio::test]
async fn a_client_of_http_1_0_gets_no_interim_answers() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            if exchange.head.header("expect").is_some() {
                exchange.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            }
            exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
            let body = exchange.body().await;
            exchange.answer(Reply::new(200, body)).await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;

    client
        .send("POST /fn HTTP/1.0\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody")
        .await;

    let answer = client.response("POST").await;
    assert_eq!((answer.informational.len(), answer.status(), answer.text().as_str()), (0, 200, "body"));
    assert_eq!(origin.only_request().header("expect"), None);
}

/// The gateway refuses a body while it comes.
#[tokio::test]
async fn who_sends_all_before_it_reads_hears_that_it_is_too_much() {
    let origin = Origin::http1().reply(|_| Reply::text(200, "never")).start().await;
    let ca = Ca::new();
    let yaml = format!("limits: {{ body: 1MiB }}\n{}", route("/fn", &openfunction(&origin, "")));
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;
    let tls = Client::tls(gateway.tls_addr(), ca.client(&["http/1.1"]), "localhost").await;

    for mut client in [gateway.client().await, tls] {
        upload(&mut client).await;

        let answer = client.response("POST").await;
        assert_eq!((answer.status(), answer.code().as_str()), (413, "body_too_large"));
        assert_eq!(client.rest().await, b"");
    }
    assert!(origin.requests().iter().all(|request| request.body.len() <= 1024 * 1024));
}

/// The function refuses it, in whatever way it takes leave: the client is told what the function said.
#[tokio::test]
async fn who_sends_all_before_it_reads_hears_what_the_function_says() {
    let ca = Ca::new();
    for leave in [Leave::Close, Leave::Reset, Leave::Linger] {
        for (scheme, status) in [("http", 413), ("https", 401)] {
            let mut origin = Origin::http1().script(move |mut exchange| async move {
                exchange.chunk().await;
                exchange.answer(Reply::text(status, "enough").header("Connection", "close")).await;
                match leave {
                    // With bytes unread, which makes it a reset that comes after the answer.
                    Leave::Close => exchange.close(),
                    Leave::Reset => exchange.reset(),
                    Leave::Linger => exchange.peer_closed().await,
                }
            });
            if scheme == "https" {
                origin = origin.tls(ca.leaf(&["fn.test"]).server(&[]));
            }
            let origin = origin.start().await;
            let target = format!(
                "http: {{ url: '{scheme}://fn.test/', address: '{}', ca: $DIR/ca.pem }}",
                origin.addr()
            );
            let gateway = Gateway::builder().file("ca.pem", ca.pem()).start(&route("/fn", &target)).await;
            for attempt in 0..5 {
                let mut client = gateway.client().await;
                upload(&mut client).await;

                let answer = client.response("POST").await;
                let seen = (answer.status(), answer.text());
                assert_eq!(seen, (status, "enough".to_owned()), "{leave:?} {attempt}: {}", gateway.stdout());
                assert_eq!(answer.header("connection"), Some("close"));
                assert_eq!(client.rest().await, b"");
            }
            for line in gateway.access_log(5).await {
                assert_eq!((&line["status"], &line["reason"]), (&json!(status), &Value::Null), "{line}");
            }
        }
    }
}

/// It neither reads nor closes: the write that waits for it ends by `timeout`, and then the answer is read.
#[tokio::test]
async fn a_function_that_answers_and_stands_still_is_heard_late() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.answer(Reply::text(413, "enough")).await;
            std::future::pending().await
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, "timeout: 3s"))).await;
    let mut client = gateway.client().await;

    upload(&mut client).await;

    assert_eq!(client.response("POST").await.text(), "enough");
}

/// A server of HTTP/2 says with a reset that it wants no more of the body, which is no fault of its answer.
#[tokio::test]
async fn a_function_of_http2_that_answers_early_is_heard() {
    let listener = tokio::net::TcpListener::bind(local(free_port())).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let refuse = service_fn(|_: hyper::Request<Incoming>| async {
                let refusal = hyper::Response::builder().status(413);
                Ok::<_, hyper::Error>(refusal.body(Full::new(Bytes::from("enough"))).unwrap())
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), refuse),
            );
        }
    });
    let gateway =
        Gateway::start(&route("/fn", &format!("http: {{ url: 'http://{addr}/', http2: 'on' }}"))).await;

    for attempt in 0..10 {
        let mut client = gateway.client().await;
        upload(&mut client).await;
        let answer = client.response("POST").await;
        let seen = (answer.status(), answer.text(), answer.whole);
        assert_eq!(seen, (413, "enough".to_owned(), true), "{attempt}: {}", gateway.stdout());
        assert_eq!(client.rest().await, b"");
    }
    serving.abort();
}

/// A client that hears it earlier and leaves has got its answer.
#[tokio::test]
async fn who_leaves_with_the_answer_has_not_gone_without_it() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.answer(Reply::text(401, "who are you?")).await;
            exchange.peer_closed().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;
    client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\na part of it").await;
    assert_eq!(client.response("POST").await.text(), "who are you?");

    drop(client);

    let line = &gateway.access_log(1).await[0];
    assert_eq!((&line["status"], &line["reason"]), (&json!(401), &Value::Null), "{line}");
    origin.settles_at(0).await;
}

/// A function that answers early may go on reading.
#[tokio::test]
async fn a_body_goes_on_after_the_answer() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.answer(Reply::text(202, "coming")).await;
            exchange.body().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
    let mut client = gateway.client().await;
    client.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nfirst").await;
    assert_eq!(client.response("POST").await.text(), "coming");

    client.send("-last").await;

    eventually("the whole body at the function", PATIENCE, async || {
        (origin.only_request().body == b"first-last").then_some(())
    })
    .await;
    assert_eq!(gateway.access_log(1).await[0]["reason"], Value::Null);
}

/// How a function ends a connection on which it does not want to read any more.
#[derive(Debug, Clone, Copy)]
enum Leave {
    Close,
    Reset,
    Linger,
}

/// Sends much more than any buffer on the way holds, without a look at what comes back.
async fn upload(client: &mut Client) {
    let chunk = [format!("{:x}\r\n", PIECE).as_bytes(), &[b'x'; PIECE], b"\r\n"].concat();
    client.send("POST /fn HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for sent in 0..PIECES {
        assert!(client.try_send(&chunk).await, "the connection broke after {sent} of {PIECES} pieces");
    }
    assert!(client.try_send("0\r\n\r\n").await, "the connection broke at the end");
}

const PIECE: usize = 256 * 1024;
const PIECES: usize = 96;

/// A function that asks for the body of a request before it answers with it.
async fn consenting() -> Origin {
    Origin::http1()
        .script(|mut exchange| async move {
            exchange.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            let body = exchange.body().await;
            exchange.answer(Reply::new(200, body)).await;
        })
        .start()
        .await
}

fn expecting(length: usize, fields: &str) -> String {
    format!(
        "POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n{fields}\r\n"
    )
}
