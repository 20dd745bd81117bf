//! A function server that nobody here wrote behind the gateway: Google's functions framework, whose contract OpenFunction's
//! shares but for the name of one header. What it makes of requests is what functions out there will make of them.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::*;

#[tokio::test]
async fn a_greeting_arrives_whatever_is_asked() {
    let functions = Framework::serve("greet").await;
    let gateway = Gateway::start(&to(&functions, "")).await;
    let cases = [
        (Request::get("/"), "Hello, World!"),
        (Request::get("/?u=OpenFunction"), "Hello, OpenFunction!"),
        (Request::get("/default/function-sample/test"), "Hello, World!"),
        (Request::post("/hello", "test"), "Hello, World!"),
        (Request::new("DELETE", "/"), "Hello, World!"),
        (Request::new("OPTIONS", "/"), "Hello, World!"),
    ];
    for (request, greeting) in cases {
        let answer = gateway.send(&request).await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, greeting));
        assert_eq!(answer.header("Content-Type"), Some("text/html; charset=utf-8"));
    }

    let head = gateway.send(&Request::new("HEAD", "/")).await;
    assert_eq!((head.status(), head.header("Content-Length"), head.text().as_str()), (200, Some("13"), ""));
}

#[tokio::test]
async fn what_the_framework_answers_by_itself_is_the_functions_answer() {
    let functions = Framework::serve("probe").await;
    let gateway = Gateway::start(&to(&functions, "")).await;

    let icon = gateway.get("/favicon.ico").await;
    assert_eq!((icon.status(), icon.code().as_str(), icon.text().as_str()), (404, "", ""));
    let malformed = gateway.send(&Request::post_json("/", "{ nonsense")).await;
    assert_eq!((malformed.status(), malformed.code().as_str()), (400, ""));
    assert!(malformed.text().contains("SyntaxError"), "{}", malformed.text());

    let tagged = Request::get("/tagged");
    assert_eq!(gateway.send(&tagged).await.header("ETag"), Some("\"one\""));
    let unchanged = gateway.send(&tagged.header("If-None-Match", "\"one\"")).await;
    assert_eq!((unchanged.status(), unchanged.header("ETag")), (304, Some("\"one\"")));

    gateway.counts("fngate_failures_total", &[("route", "hello")], 0.0).await;
}

#[tokio::test]
async fn a_function_that_throws_is_passed_on_and_counted() {
    let functions = Framework::serve("probe").await;
    let gateway = Gateway::start(&to(&functions, "")).await;

    for (path, text) in [("/throw", "thrown on purpose"), ("/reject", "rejected on purpose")] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status(), answer.text().as_str()), (500, text));
        assert_eq!(answer.header("X-Google-Status"), Some("crash"));
        assert_eq!(reason(&gateway, &answer).await, "function_error");
    }

    gateway.counts("fngate_failures_total", &[("route", "hello"), ("code", "function_error")], 2.0).await;
    assert_eq!(gateway.get("/").await.status(), 200, "the process survives");
}

#[tokio::test]
async fn events_are_consumed_without_an_answer() {
    let functions = Framework::consume("consume").await;
    let gateway = Gateway::start(&to(&functions, "")).await;
    let event = |kind: &str| {
        let event = json!({ "specversion": "1.0", "type": kind, "source": "/test", "id": "1" });
        Request::post("/", event.to_string()).header("Content-Type", "application/cloudevents+json")
    };

    let good = gateway.send(&event("good")).await;
    assert_eq!((good.status(), good.text().as_str()), (204, ""));
    let bad = gateway.send(&event("bad")).await;
    assert_eq!((bad.status(), bad.header("X-Google-Status")), (500, Some("error")));
    assert_eq!(reason(&gateway, &bad).await, "function_error");

    // The framework itself fails on what is no event at all, and no function of the user's was called.
    let none = gateway.get("/").await;
    assert_eq!((none.status(), none.header("X-Google-Status")), (500, None));
    assert_eq!(reason(&gateway, &none).await, Value::Null);
}

#[tokio::test]
async fn bodies_arrive_in_every_form() {
    let functions = Framework::serve("probe").await;
    let gateway = Gateway::start(&to(&functions, "timeout: 60s")).await;
    let mut client = gateway.client().await;

    let head = "POST /body HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n";
    client.send(format!("{head}Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")).await;
    assert_eq!(client.head().await.word(1), "100");
    client.send("late").await;
    assert_eq!(client.response("POST").await.text(), "late");

    let mut client = gateway.client().await;
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nin \r\n")).await;
    client.send("6\r\nchunks\r\n0\r\n\r\n").await;
    assert_eq!(client.response("POST").await.text(), "in chunks");

    // The framework inflates it before it calls the function.
    let post = |body: &[u8]| Request::post("/body", body).header("Content-Type", "application/octet-stream");
    let compressed = post(COMPRESSED).header("Content-Encoding", "gzip");
    assert_eq!(client.call(&compressed).await.text(), "a body, compressed");

    let large: Vec<u8> = (0..40 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    let answer = client.call(&post(&large)).await;
    assert_eq!((answer.status(), answer.whole), (200, true));
    assert!(answer.body == large, "{} bytes of 40 MiB came back, or others", answer.body.len());
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let functions = Framework::serve("probe").await;
    let gateway = Gateway::start(&to(&functions, "")).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/events")).await;
    let head = client.head().await;
    assert_eq!(head.header("Content-Type"), Some("text/event-stream; charset=utf-8"));

    let mut events = client.body(&head, "GET");
    // Each is sent only when the one before it has arrived.
    events.until("data: 0\n\n").await;
    assert_eq!(gateway.get("/step").await.status(), 204);
    events.until("data: 1\n\n").await;
    assert_eq!(gateway.get("/step").await.status(), 204);
    events.until("data: 2\n\n").await;
    assert_eq!(events.next().await, Piece::End);
}

#[tokio::test]
async fn the_function_sees_the_target_as_sent_and_the_client_as_it_is() {
    let functions = Framework::serve("probe").await;
    let gateway = Gateway::start(&to(&functions, "host: fn.test")).await;

    // The framework believes all of these, whoever sends them.
    let spoofed = Request::get("/a%2Fb//c?x=1&x=2")
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Forwarded-Host", "spoofed.test")
        .header("X-Forwarded-Proto", "https");
    let seen: Value = gateway.send(&spoofed).await.json();

    assert_eq!(seen["target"], "/a%2Fb//c?x=1&x=2");
    assert_eq!((&seen["ip"], &seen["protocol"]), (&json!("127.0.0.1"), &json!("http")));
    assert_eq!(seen["host"], "127.0.0.1", "the host that the client asked for");
}

#[tokio::test]
async fn a_function_that_is_scaled_down_answers_first() {
    let mut functions = Framework::serve("probe").await;
    let gateway = Gateway::start(&to(&functions, "timeout: 60s")).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/hold")).await;
    functions.says("holding").await;

    functions.terminate();

    let answer = client.response("GET").await;
    assert_eq!((answer.status(), answer.text().as_str()), (500, "Received SIGTERM"));
    assert_eq!(reason(&gateway, &answer).await, "function_error");
    functions.exit().await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_connect"));
}

/// Node closes a connection that was idle for five seconds, which meets requests that are on their way. Every route has a
/// pool of its own, so each of them comes upon one connection of a certain age.
#[tokio::test]
async fn nobody_notices_that_idle_connections_are_closed() {
    let functions = Framework::serve("greet").await;
    // The first connection is opened before the function has said how long it keeps one, the second after that.
    let routes: Vec<_> = (4_800..=6_500)
        .step_by(100)
        .flat_map(|idle| ["GET", "POST"].map(|method| [1, 2].map(|first| (idle, method, first))))
        .flatten()
        .collect();
    let text = (0..routes.len()).fold("routes:\n".to_owned(), |text, number| {
        let target = format!("openfunction: {{ function_uri: '{}/' }}", functions.url());
        text + &format!("  - {{ name: r{number}, match: {{ path: /{number} }}, target: {{ {target} }} }}\n")
    });
    let gateway = Gateway::start(&text).await;

    let calls = routes.iter().enumerate().map(async |(number, (idle, method, first))| {
        let mut client = gateway.client().await;
        let request = Request::new(method, &format!("/{number}")).body("");
        for _ in 0..*first {
            assert_eq!(client.call(&request).await.status(), 200);
        }
        // The age of the connection is what this is about.
        sleep(Duration::from_millis(*idle)).await;
        [client.call(&request).await, client.call(&request).await]
    });
    let answers = join_all(calls).await;

    let asked = routes.iter().map(|(_, _, first)| first + 2).sum();
    let log = gateway.access_log(asked).await;
    let is_reused = |answer: &Response| {
        let line = log.iter().find(|line| line["request_id"] == answer.header("x-request-id").unwrap());
        line.unwrap()["reused"] == true
    };
    let mut reused = 0;
    for ([first, second], route) in answers.iter().zip(&routes) {
        for answer in [first, second] {
            assert_eq!((answer.status(), answer.text().as_str()), (200, "Hello, World!"), "{route:?}");
        }
        // Not by chance: the function closes at five seconds, and nobody was given such a connection.
        assert!(!is_reused(first), "{route:?}");
        reused += usize::from(is_reused(second));
    }
    assert!(reused > 0, "there was nothing to close");
    // Nor by sending them again, which a POST would not be.
    gateway.counts("fngate_retries_total", &[], 0.0).await;
}

/// A file with one route, on every path to the framework, with more keys of its target.
fn to(functions: &Framework, more: &str) -> String {
    route("/*", &format!("openfunction: {{ function_uri: '{}/', {more} }}", functions.url()))
}

/// Why the request failed, as the access log has it.
async fn reason(gateway: &Gateway, answer: &Response) -> Value {
    gateway.line_of(answer).await["reason"].clone()
}

/// `a body, compressed`, by gzip.
const COMPRESSED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03KTH\xcaO\xa9\xd4QH\xce\xcf-(J-.NM\x01\x00\x04\xe1\x1d\xae\x12\x00\x00\x00";
