//! The harness against itself: what a test concludes from it must be true without a gateway in between.

use super::*;

#[tokio::test]
async fn an_origin_echoes_and_records() {
    let origin = Origin::echo().await;
    let mut client = Client::connect(origin.addr()).await;

    let first = client.call(&Request::post("/a%20b?c", "body").header("X-One", "1")).await;
    let second = client.call(&Request::get("/second")).await;

    let echo = first.json::<Echo>();
    assert_eq!(
        (echo.method.as_str(), echo.target.as_str(), echo.body.as_str()),
        ("POST", "/a%20b?c", "body")
    );
    assert_eq!(echo.header("x-one"), Some("1"));
    assert_eq!(second.status(), 200);
    assert_eq!(origin.accepted(), 1);
    assert_eq!(origin.requests().iter().map(|r| r.connection).collect::<Vec<_>>(), [0, 0]);
    assert!(origin.bytes_of(0).starts_with(b"POST /a%20b?c HTTP/1.1\r\n"));
    drop(client);
    origin.settles_at(0).await;
}

#[tokio::test]
async fn an_origin_dies_at_the_moment_of_reuse() {
    let origin = Origin::http1().text("once").answers_per_connection(1).start().await;
    let mut client = Client::connect(origin.addr()).await;

    assert_eq!(client.call(&Request::get("/")).await.text(), "once");
    assert!(client.try_call(&Request::get("/")).await.is_none());
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn an_origin_closes_what_is_idle() {
    for ending in [Ending::Fin, Ending::Reset] {
        let origin =
            Origin::http1().text("once").closes_idle(Duration::from_millis(50), ending).start().await;
        let mut client = Client::connect(origin.addr()).await;

        // Before its first request a connection is new, not idle.
        sleep(Duration::from_millis(200)).await;
        assert_eq!(client.call(&Request::get("/")).await.text(), "once");
        assert!(client.rest().await.is_empty());
        origin.settles_at(0).await;
    }
}

#[tokio::test]
async fn a_body_cut_short_is_seen_as_cut() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let origin = Origin::raw(bytes).await;
        let answer = Client::connect(origin.addr()).await.call(&Request::get("/")).await;
        assert!(!answer.whole, "{bytes:?}");
    }
}

#[tokio::test]
async fn chunks_are_seen_one_by_one() {
    let gate = Gate::closed();
    let origin = Origin::http1()
        .gated(&gate, |mut exchange, gate| async move {
            exchange.start_chunked("text/event-stream").await;
            for event in ["one\n", "two\n"] {
                exchange.send_chunk(event).await;
                gate.passed().await;
            }
            exchange.end_chunked().await;
        })
        .start()
        .await;
    let mut client = Client::connect(origin.addr()).await;

    client.start(&Request::get("/")).await;
    let head = client.head().await;
    let mut body = client.body(&head, "GET");
    assert_eq!(body.next().await, Piece::Bytes(b"one\n".to_vec()));
    gate.open();
    assert_eq!(body.next().await, Piece::Bytes(b"two\n".to_vec()));
    gate.open();
    assert_eq!(body.next().await, Piece::End);
}

#[tokio::test]
async fn ports_refuse_or_stay_silent() {
    let refusing = Refusing::new();
    let error = tokio::net::TcpStream::connect(refusing.addr()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);

    let silent = Silent::new();
    let connecting = tokio::net::TcpStream::connect(silent.addr());
    assert!(timeout(Duration::from_millis(300), connecting).await.is_err());
}

#[tokio::test]
async fn tls_origins_know_who_was_asked_for() {
    let ca = Ca::new();
    let origin =
        Origin::http1().text("secret").tls(ca.leaf(&["fn.test"]).server(&["http/1.1"])).start().await;

    let answer =
        Client::tls(origin.addr(), ca.client(&["http/1.1"]), "fn.test").await.call(&Request::get("/")).await;

    assert_eq!(answer.text(), "secret");
    assert_eq!(origin.greeting(0).server_name.as_deref(), Some("fn.test"));
    assert_eq!(origin.greeting(0).alpn.as_deref(), Some("http/1.1"));
}

#[tokio::test]
async fn http2_reaches_an_http2_origin() {
    let ca = Ca::new();
    let origin = Origin::http2().echo().tls(ca.leaf(&["fn.test"]).server(&["h2"])).start().await;

    let client = Http2::connect(origin.addr(), ca.client(&["h2"]), "fn.test").await;
    let answer = client.call(Http2::get("https://fn.test/x")).await.unwrap();

    assert_eq!(answer.status(), 200);
    let seen = origin.only_request();
    assert_eq!((seen.target(), seen.header(":authority")), ("/x", Some("fn.test")));
}

#[tokio::test]
async fn websockets_echo() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    let origin = Origin::http1().script(|mut x| async move { x.websocket_echo().await }).start().await;
    let mut client = Client::connect(origin.addr()).await;
    let mut socket = client.websocket("/chat").await;

    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
}
