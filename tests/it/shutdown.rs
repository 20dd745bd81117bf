//! Starting and ending: ready only when it can serve, gone as soon as the last request is answered, and a start that
//! cannot succeed says why.

use futures_util::StreamExt;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use serde_json::json;
use tokio::net::UnixDatagram;

use crate::harness::*;

#[tokio::test]
async fn an_idle_gateway_ends_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let origin = Origin::echo().await;
        let mut gateway = Gateway::start(&to(&origin)).await;
        gateway.get("/fn").await;

        gateway.signal(signal);

        assert!(gateway.exit().await.success());
        origin.settles_at(0).await;
    }
}

#[tokio::test]
async fn an_idle_client_does_not_hold_it_up() {
    let origin = Origin::echo().await;
    let mut gateway = Gateway::start(&to(&origin)).await;
    let mut client = gateway.client().await;
    client.call(&Request::get("/fn")).await;

    gateway.signal(Signal::SIGTERM);

    assert!(gateway.exit().await.success());
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn an_idle_http2_client_does_not_hold_it_up() {
    let ca = Ca::new();
    let origin = Origin::echo().await;
    let mut gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &to(&origin)).await;
    let mut client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;
    assert_eq!(client.call(Http2::get("https://localhost/fn")).await.unwrap().status(), 200);

    gateway.signal(Signal::SIGTERM);

    client.ended().await;
    assert!(gateway.exit().await.success());
}

#[tokio::test]
async fn a_request_in_flight_is_answered_first() {
    let (origin, gate) = held().await;
    let mut gateway = Gateway::start(&to(&origin)).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/fn")).await;
    origin.request(0).await;

    gateway.signal(Signal::SIGTERM);
    eventually("the gateway to be no longer ready", PATIENCE, async || {
        let answer = gateway.try_admin_get("/readyz").await;
        answer.is_none_or(|answer| answer.status() == 503).then_some(())
    })
    .await;
    gate.open();

    let answer = client.response("GET").await;
    assert_eq!((answer.text().as_str(), answer.whole), ("done", true));
    assert!(gateway.exit().await.success());
    assert_eq!(gateway.access_log(1).await[0]["status"], 200);
}

#[tokio::test]
async fn idle_connections_end_in_their_time_until_it_ends() {
    let origin = Origin::echo().await;
    let target = openfunction(&origin, "keepalive_timeout: 1000");
    let gateway = Gateway::start(&format!("drain_delay: 60s\n{}", route("/fn", &target))).await;
    gateway.signal(Signal::SIGTERM);
    eventually("the gateway to be no longer ready", PATIENCE, async || {
        (gateway.admin_get("/readyz").await.status() == 503).then_some(())
    })
    .await;

    assert_eq!(gateway.get("/fn").await.status(), 200);

    assert_eq!(origin.accepted(), 1);
    origin.settles_at(0).await;
}

#[tokio::test]
async fn a_request_that_never_ends_is_told_so_after_the_grace() {
    let (origin, _never) = held().await;
    for target in [
        format!("http: {{ url: '{}/', timeout: 60s }}", origin.url()),
        format!(
            "openwhisk: {{ api_host: '{}', service_token: 'a:b', namespace: n, action: a }}",
            origin.url()
        ),
    ] {
        let mut gateway = Gateway::start(&format!("shutdown_grace: 1s\n{}", route("/fn", &target))).await;
        let mut client = gateway.client().await;
        let before = origin.requests().len();
        client.start(&Request::get("/fn")).await;
        origin.request(before).await;

        gateway.signal(Signal::SIGTERM);

        let answer = client.response("GET").await;
        assert_eq!((answer.status(), answer.code().as_str()), (503, "draining"), "{target}");
        assert_eq!(answer.header("Retry-After"), Some("1"));
        gateway.exit().await;
        let line = &gateway.access_log(1).await[0];
        assert_eq!((&line["status"], &line["reason"]), (&json!(503), &json!("draining")), "{line}");
    }
}

#[tokio::test]
async fn an_upload_and_a_download_that_never_end_have_their_lines() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/plain").await;
            exchange.send_chunk("begun").await;
            exchange.peer_closed().await;
        })
        .start()
        .await;
    let mut gateway = Gateway::start(&format!("shutdown_grace: 1s\n{}", to(&origin))).await;
    let (mut download, mut upload) = (gateway.client().await, gateway.client().await);
    download.start(&Request::get("/fn")).await;
    upload.send("POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nbegun").await;
    assert_eq!((download.head().await.word(1), upload.head().await.word(1)), ("200", "200"));

    gateway.signal(Signal::SIGTERM);

    gateway.exit().await;
    for line in gateway.access_log(2).await {
        assert_eq!((&line["status"], &line["reason"]), (&json!(200), &json!("draining")), "{line}");
    }
}

#[tokio::test]
async fn requests_that_wait_for_the_function_s_side_have_their_lines() {
    let silent = Silent::new();
    // The kernel takes the connection and what fits into its buffers; nobody takes them from there.
    let deaf = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let yaml = routes(&[
        (
            "dial",
            "/dial",
            &format!("http: {{ url: 'http://{}/', connect_timeout: 60s, timeout: 60s }}", silent.addr()),
        ),
        (
            "deaf",
            "/deaf",
            &format!("http: {{ url: 'http://{}/', timeout: 60s }}", deaf.local_addr().unwrap()),
        ),
    ]);
    let mut gateway = Gateway::start(&format!("shutdown_grace: 1s\n{yaml}")).await;
    let (mut dialling, mut sending) = (gateway.client().await, gateway.client().await);
    dialling.send("GET /dial?secret HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    sending.send("POST /deaf HTTP/1.1\r\nHost: b.example\r\nContent-Length: 60000000\r\n\r\n").await;
    let flood = tokio::spawn(async move {
        for _ in 0..1000 {
            sending.send(vec![b'x'; 60_000]).await;
        }
    });
    gateway.counts("fngate_requests_in_flight", &[], 2.0).await;

    gateway.signal(Signal::SIGTERM);

    gateway.exit().await;
    flood.abort();
    let mut lines = gateway.access_log(2).await;
    lines.sort_by_key(|line| line["path"].to_string());
    assert_eq!(lines.len(), 2, "{lines:#?}");
    for (line, path) in lines.iter().zip(["/deaf", "/dial"]) {
        assert_eq!((&line["reason"], &line["path"]), (&json!("draining"), &json!(path)), "{line}");
        assert_eq!(line["status"], 503, "{line}");
    }
    assert_eq!((&lines[1]["host"], &lines[1]["method"]), (&json!("a.example"), &json!("GET")));
}

#[tokio::test]
async fn a_download_that_nobody_takes_has_its_line() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.start_chunked("text/plain").await;
            while !exchange.closing() {
                exchange.send_chunk(&"x".repeat(64 * 1024)).await;
            }
        })
        .start()
        .await;
    let mut gateway = Gateway::start(&format!("shutdown_grace: 1s\n{}", to(&origin))).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/fn")).await;
    assert_eq!(client.head().await.word(1), "200");

    gateway.signal(Signal::SIGTERM);

    gateway.exit().await;
    let line = &gateway.access_log(1).await[0];
    assert_eq!((&line["status"], &line["reason"]), (&json!(200), &json!("draining")), "{line}");
}

#[tokio::test]
async fn websockets_are_given_up_after_the_grace() {
    let origin =
        Origin::http1().script(|mut exchange| async move { exchange.websocket_echo().await }).start().await;
    let mut gateway = Gateway::start(&format!("shutdown_grace: 1s\n{}", to(&origin))).await;
    let mut clients = [gateway.client().await, gateway.client().await, gateway.client().await];
    let sockets = join_all(clients.iter_mut().map(|client| client.websocket("/fn"))).await;

    gateway.signal(Signal::SIGTERM);

    gateway.exit().await;
    for mut socket in sockets {
        let message = within("the end of the tunnel", socket.next()).await;
        assert!(message.is_none_or(|message| message.is_err()));
    }
    for line in gateway.access_log(3).await {
        assert_eq!((&line["status"], &line["reason"]), (&json!(101), &json!("draining")), "{line}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_wait() {
    let (origin, _never) = held().await;
    let mut gateway = Gateway::start(&format!("shutdown_grace: 60s\n{}", to(&origin))).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/fn")).await;
    origin.request(0).await;

    gateway.signal(Signal::SIGTERM);
    gateway.says("stopping").await;
    gateway.signal(Signal::SIGINT);

    gateway.exit().await;
    gateway.says("signalled again").await;
    assert_eq!(gateway.access_log(1).await[0]["reason"], "draining");
}

#[tokio::test]
async fn a_port_in_use_is_said_and_nothing_starts() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let route = route("/fn", "http: { url: 'http://127.0.0.1:1/' }");

    for yaml in [
        format!("listeners: [ {{ address: '{address}' }} ]\n{route}"),
        format!("admin: {{ address: '{address}' }}\n{route}"),
    ] {
        let run = Gateway::builder().start_and_fail(&yaml).await;
        assert!(run.code.is_some_and(|code| code != 0), "{run:#?}");
        assert!(run.stderr.contains(&address), "{run:#?}");
        assert!(!run.stderr.contains("panicked"), "{run:#?}");
    }
}

#[tokio::test]
async fn a_faulty_file_never_starts() {
    let run = Gateway::builder().start_and_fail("routes:\n  - nmae: x\n").await;

    assert_eq!(run.code, Some(78), "{run:#?}");
    assert!(run.stderr.contains("nmae") && run.stderr.contains("name"), "{run:#?}");
}

#[tokio::test]
async fn a_socket_of_the_service_manager_is_taken_over() {
    let origin = Origin::echo().await;
    let gateway = Gateway::builder().activated().start(&to(&origin)).await;

    assert_eq!(gateway.get("/fn").await.status(), 200);
}

#[tokio::test]
async fn a_client_that_connects_to_a_dead_gateway_is_served_by_the_next() {
    let origin = Origin::echo().await;
    let mut gateway = Gateway::builder().activated().start(&to(&origin)).await;
    gateway.signal(Signal::SIGSTOP);
    // Until then, it could still accept.
    waitpid(gateway.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
    let mut client = gateway.client().await;
    client.start(&Request::get("/fn")).await;

    gateway.kill_and_restart().await;

    assert_eq!(client.response("GET").await.status(), 200);
}

#[tokio::test]
async fn the_service_manager_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let origin = Origin::echo().await;
    let mut gateway =
        Gateway::builder().env("NOTIFY_SOCKET", path.to_str().unwrap()).start(&to(&origin)).await;

    told(&manager, "READY=1").await;
    assert!(gateway.reload(&to(&origin)).await);
    told(&manager, "RELOADING=1").await;
    told(&manager, "READY=1").await;
    assert!(!gateway.reload("routes: 5\n").await);
    let status = told(&manager, "STATUS=").await;
    assert!(!status.is_empty());
    gateway.signal(Signal::SIGTERM);
    told(&manager, "STOPPING=1").await;
    assert!(gateway.exit().await.success());
}

#[tokio::test]
async fn the_watchdog_is_fed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let origin = Origin::echo().await;
    let _gateway = Gateway::builder()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "400000")
        .start(&to(&origin))
        .await;

    for _ in 0..3 {
        told(&manager, "WATCHDOG=1").await;
    }
}

/// Reads what the service manager is told until a line begins with `wanted`.
async fn told(manager: &UnixDatagram, wanted: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let size = within(wanted, manager.recv(&mut buffer)).await.unwrap();
        let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
        if let Some(line) = text.lines().find(|line| line.starts_with(wanted)) {
            return line.to_owned();
        }
    }
}

fn to(origin: &Origin) -> String {
    format!("threads: 2\n{}", route("/fn", &format!("http: {{ url: '{}/', timeout: 60s }}", origin.url())))
}
