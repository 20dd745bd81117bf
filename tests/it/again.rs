//! What a route's policy makes of functions that fail or are not there yet: how often they are called, and what clients see.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::harness::*;

fn route_with(policy: &str, target: &str) -> String {
    with_policy(&route("/fn/*", target), "hello", policy)
}

fn to(addr: std::net::SocketAddr) -> String {
    format!("openfunction: {{ function_uri: 'http://{addr}/', timeout: 5s }}")
}

#[tokio::test]
async fn a_request_waits_for_a_function_that_is_not_there_yet() {
    let nobody = Refusing::new();
    let addr = nobody.addr();
    let gateway = Gateway::start(&route_with("cold_start: { hold: 30s }", &to(addr))).await;

    let (answer, origin) = tokio::join!(gateway.post("/fn/x", "body"), async {
        tried_again(&gateway, 2.0).await;
        drop(nobody);
        Origin::http1().echo().start_at(addr).await
    });

    let echo: Echo = answer.json();
    assert_eq!((answer.status(), echo.method.as_str(), echo.body.as_str()), (200, "POST", "body"));
    assert_eq!(origin.requests().len(), 1);
    let line = gateway.access_log(1).await.remove(0);
    assert!(line["cold_ms"].as_f64().unwrap() > 0.0, "{line}");
    assert!(line["attempts"].as_u64().unwrap() >= 3, "{line}");
    gateway.counts("fngate_cold_starts_total", &[("route", "hello")], 1.0).await;
    gateway.counts("fngate_cold_start_hold_seconds_count", &[("route", "hello")], 1.0).await;
}

#[tokio::test]
async fn who_waits_does_not_call() {
    let nobody = Refusing::new();
    let addr = nobody.addr();
    let gateway = Arc::new(Gateway::start(&route_with("cold_start: { hold: 30s }", &to(addr))).await);
    let waiting: Vec<_> = (0..40)
        .map(|i| {
            let gateway = Arc::clone(&gateway);
            tokio::spawn(async move { gateway.get(&format!("/fn/{i}")).await.status() })
        })
        .collect();
    gateway.counts("fngate_requests_in_flight", &[("route", "hello")], 40.0).await;
    gateway.counts("fngate_cold_starts_total", &[("route", "hello")], 1.0).await;
    // Those that came together may all have found it missing; from then on, one of them looks.
    let before = gateway.metrics().await.counter("fngate_retries_total", &[("reason", "cold_start")]);
    tried_again(&gateway, before + 2.0).await;

    drop(nobody);
    let origin = Origin::http1().echo().start_at(addr).await;
    for task in waiting {
        assert_eq!(task.await.unwrap(), 200);
    }
    assert_eq!(origin.requests().len(), 40, "each of them once");
}

#[tokio::test]
async fn the_hold_ends_with_a_reason() {
    let nobody = Refusing::new();
    let gateway = Gateway::start(&route_with("cold_start: { hold: 400ms }", &to(nobody.addr()))).await;

    let begun = Instant::now();
    let answer = gateway.get("/fn/x").await;

    assert_eq!((answer.status(), answer.code().as_str()), (503, "cold_start"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(begun.elapsed().as_millis() >= 400);
    // It is known to be cold: the next one waits as well, and does not fail at once.
    let begun = Instant::now();
    assert_eq!(gateway.get("/fn/x").await.code(), "cold_start");
    assert!(begun.elapsed().as_millis() >= 400);
}

#[tokio::test]
async fn who_leaves_while_it_waits_is_let_go() {
    let nobody = Refusing::new();
    let gateway = Gateway::start(&route_with("cold_start: { hold: 60s }", &to(nobody.addr()))).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/fn/x")).await;
    gateway.counts("fngate_requests_in_flight", &[("route", "hello")], 1.0).await;

    drop(client);

    let line = gateway.access_log(1).await.remove(0);
    assert_eq!((line["reason"].as_str(), line["status"].as_u64()), (Some("client_gone"), Some(499)));
}

#[tokio::test]
async fn without_a_policy_nothing_is_tried_again() {
    let origin = failing_first(1, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
    let gateway = Gateway::start(&route("/fn/*", &to(origin.addr()))).await;
    assert_eq!(gateway.get("/fn/x").await.status(), 503);
    assert_eq!(origin.accepted(), 1);
}

#[tokio::test]
async fn what_the_policy_names_is_tried_again() {
    for (on, first) in [
        ("503", "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"),
        ("502", "HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n"),
        ("reset", ""),
    ] {
        let origin = failing_first(2, first).await;
        let policy = format!("retry: {{ attempts: 3, on: [ {on} ] }}");
        let gateway = Gateway::start(&route_with(&policy, &to(origin.addr()))).await;

        let answer = gateway.get("/fn/x").await;

        assert_eq!((answer.status(), answer.text().as_str()), (200, "at last"), "{on}");
        assert_eq!(gateway.access_log(1).await[0]["attempts"], 3, "{on}");
    }
}

#[tokio::test]
async fn a_silent_function_is_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let origin = Origin::http1()
        .script(move |mut exchange| {
            let first = counted.fetch_add(1, Ordering::AcqRel) == 0;
            async move {
                match first {
                    true => exchange.peer_closed().await,
                    false => exchange.answer(Reply::text(200, "at last")).await,
                }
            }
        })
        .start()
        .await;
    let target = format!("openfunction: {{ function_uri: 'http://{}/', timeout: 3s }}", origin.addr());
    let gateway = Gateway::start(&route_with("retry: { on: [ timeout ] }", &target)).await;

    let answer = gateway.get("/fn/x").await;

    assert_eq!((answer.status(), answer.text().as_str()), (200, "at last"));
    gateway.counts("fngate_retries_total", &[("reason", "timeout")], 1.0).await;
}

#[tokio::test]
async fn attempts_are_counted_and_the_last_answer_passes() {
    let origin = failing_first(9, "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy").await;
    let gateway =
        Gateway::start(&route_with("retry: { attempts: 3, on: [ 503 ] }", &to(origin.addr()))).await;
    let answer = gateway.get("/fn/x").await;
    assert_eq!((answer.status(), answer.text().as_str()), (503, "busy"));
    assert_eq!(origin.accepted(), 3);
}

#[tokio::test]
async fn a_post_is_repeated_only_when_the_route_says_any() {
    for (methods, status) in [("idempotent", 503), ("any", 200)] {
        let origin = failing_first(1, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        let policy = format!("retry: {{ on: [ 503 ], methods: {methods} }}");
        let gateway = Gateway::start(&route_with(&policy, &to(origin.addr()))).await;
        assert_eq!(gateway.post("/fn/x", "once").await.status(), status, "{methods}");
    }
}

/// The client has got a consent by then, which is no answer: from the function, or from the gateway where that reads the body.
#[tokio::test]
async fn a_body_that_waited_for_consent_is_repeated_like_any_other() {
    for target in [to, |addr| lambda(addr, "request_response")] {
        let failed = Arc::new(AtomicUsize::new(0));
        let origin = Origin::http1()
            .script(move |mut exchange| {
                let is_first = failed.fetch_add(1, Ordering::AcqRel) == 0;
                async move {
                    if exchange.head.header("expect").is_some() {
                        exchange.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                    }
                    exchange.body().await;
                    match is_first {
                        true => exchange.close(),
                        false => exchange.answer(Reply::text(200, "at last")).await,
                    }
                }
            })
            .start()
            .await;
        let gateway = Gateway::start(&route_with("retry: { on: [ reset ] }", &target(origin.addr()))).await;
        let mut client = gateway.client().await;

        client
            .send("PUT /fn/x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            .await;
        assert_eq!(client.head().await.word(1), "100");
        client.send("{  }").await;

        let answer = client.response("PUT").await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(origin.requests().len(), 2);
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_repeated_is_not() {
    let origin = Origin::http1()
        .script(|mut exchange| async move {
            exchange.body().await;
            exchange.send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        })
        .start()
        .await;
    let policy = "retry: { on: [ 503 ], methods: any }";
    let gateway = Gateway::start(&route_with(policy, &to(origin.addr()))).await;
    assert_eq!(gateway.post("/fn/x", vec![b'x'; 200_000]).await.status(), 503);
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn retry_after_is_waited_for_or_passed_on() {
    let origin = failing_first(1, "HTTP/1.1 429 Slow\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n").await;
    let gateway = Gateway::start(&route_with("retry: { on: [ 429 ] }", &to(origin.addr()))).await;
    let begun = Instant::now();
    assert_eq!(gateway.post("/fn/x", "not run").await.status(), 200);
    assert!(begun.elapsed().as_millis() >= 1000);

    let origin = failing_first(1, "HTTP/1.1 429 Slow\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n").await;
    let gateway = Gateway::start(&route_with("retry: { on: [ 429 ] }", &to(origin.addr()))).await;
    let answer = gateway.get("/fn/x").await;
    assert_eq!((answer.status(), answer.header("retry-after")), (429, Some("60")));
}

#[tokio::test]
async fn a_failing_function_is_not_hit_harder_than_the_budget_allows() {
    let origin = failing_first(1000, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
    let policy = "retry: { attempts: 10, on: [ 503 ], budget: 10% }";
    let gateway = Gateway::start(&route_with(policy, &to(origin.addr()))).await;
    for _ in 0..100 {
        assert_eq!(gateway.get("/fn/x").await.status(), 503);
    }
    // A tenth of what came within the last ten seconds, and three at least.
    assert!((103..=115).contains(&origin.accepted()), "{} calls for 100 requests", origin.accepted());
}

#[tokio::test]
async fn an_action_is_tried_again_too() {
    let origin = failing_first(1, "HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}").await;
    let target = format!(
        "openwhisk: {{ api_host: 'http://{}', service_token: 'u:k', namespace: guest, action: hello }}",
        origin.addr()
    );
    let gateway = Gateway::start(&route_with("retry: { on: [ 503 ] }", &target)).await;
    // What answers at last is no JSON, but it answered.
    assert_eq!(gateway.get("/fn/x").await.code(), "bad_envelope");
    assert_eq!(origin.accepted(), 2);
}

#[tokio::test]
async fn attempts_are_counted_where_the_name_does_not_resolve() {
    for target in [
        "http: { url: 'http://no-such-function.invalid/' }",
        "openwhisk: { api_host: 'http://no-such-function.invalid', service_token: 'a:b', namespace: n, action: a }",
    ] {
        let gateway = Gateway::start(&route_with("retry: { attempts: 2 }", target)).await;

        assert_eq!(gateway.get("/fn/x").await.code(), "upstream_resolve");

        assert_eq!(gateway.access_log(1).await[0]["attempts"], 2, "{target}");
        gateway.counts("fngate_retries_total", &[("reason", "connect")], 1.0).await;
    }
}

/// Each call of it is one more in the queue: who asks for it by GET does not make it repeatable.
#[tokio::test]
async fn a_queued_call_is_repeated_only_when_it_was_not_made() {
    let policy = "retry: { attempts: 10, on: [ connect, reused, reset, timeout, 502, 503 ] }";
    for (invocation, failure, calls, status) in [
        ("event", "", 1, 502),
        ("event", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 1, 502),
        ("request_response", "", 2, 200),
    ] {
        let origin = failing_first(1, failure).await;
        let gateway = Gateway::start(&route_with(policy, &lambda(origin.addr(), invocation))).await;
        let answer = gateway.get("/fn/x").await;
        assert_eq!((origin.accepted(), answer.status()), (calls, status), "{invocation}: {}", answer.text());
    }

    let nobody = Refusing::new();
    let addr = nobody.addr();
    let gateway = Gateway::start(&route_with("cold_start: { hold: 30s }", &lambda(addr, "event"))).await;
    let (answer, origin) = tokio::join!(gateway.get("/fn/x"), async {
        tried_again(&gateway, 1.0).await;
        drop(nobody);
        Origin::http1().reply(|_| Reply::new(202, "")).start_at(addr).await
    });
    assert_eq!((answer.status(), origin.requests().len()), (202, 1));
}

fn lambda(addr: std::net::SocketAddr, invocation: &str) -> String {
    format!(
        "aws_lambda: {{ function: hello, region: eu-west-1, endpoint: 'http://{addr}', invocation: {invocation}, \
         authorization: {{ iam: {{ accesskey: AKID, secretkey: secret }} }} }}"
    )
}

/// Waits until the missing function was looked for so often.
async fn tried_again(gateway: &Gateway, times: f64) {
    eventually("the function to be looked for", PATIENCE, async || {
        let seen = gateway.metrics().await.counter("fngate_retries_total", &[("reason", "cold_start")]);
        (seen >= times).then_some(())
    })
    .await;
}

/// Answers the first connections with these bytes and closes; then with a 200.
async fn failing_first(failures: usize, bytes: &'static str) -> Origin {
    let left = Arc::new(AtomicUsize::new(failures));
    Origin::http1()
        .script(move |mut exchange| {
            let left = Arc::clone(&left);
            async move {
                exchange.body().await;
                let fails =
                    left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
                match fails {
                    Ok(_) => exchange.send(bytes).await,
                    Err(_) => exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nat last").await,
                }
                exchange.close();
            }
        })
        .start()
        .await
}

#[tokio::test]
async fn what_platforms_say_of_a_cold_function_is_waited_out() {
    let go = |text: &str| {
        format!(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Length: {}\r\n\r\n{text}\n",
            text.len() + 1
        )
    };
    let azure = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 29\r\n\r\nFunction host is not running.";
    let keda = "HTTP/1.1 502 Bad Gateway\r\nX-KEDA-HTTP-Cold-Start: true\r\nContent-Length: 0\r\n\r\n";
    for (platform, first) in [
        (
            "knative: { service: hello, domain: example.com, address: '$ADDR' }",
            go("context deadline exceeded"),
        ),
        (
            "knative: { service: hello, domain: example.com, address: '$ADDR' }",
            go("pending request queue full"),
        ),
        ("azure_functions: { function_uri: 'http://$ADDR/api' }", azure.to_owned()),
        ("openfunction: { function_uri: 'http://$ADDR/' }", keda.to_owned()),
    ] {
        let origin = failing_first(3, first.clone().leak()).await;
        let target = platform.replace("$ADDR", &origin.addr().to_string());

        let patient = Gateway::start(&route_with("cold_start: { hold: 30s }", &target)).await;
        let answer = patient.post("/fn/x", "not run before").await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "at last"), "{first}");
        assert_eq!(origin.accepted(), 4);
    }
}

/// What an application says while its host starts cannot be told from what it says later: it holds whoever can be held, and tells
/// the others nothing.
#[tokio::test]
async fn what_may_be_a_cold_function_frees_nobody() {
    let stage = Arc::new(AtomicUsize::new(503));
    let answered = Arc::clone(&stage);
    let reply = move |_: &Recorded| match answered.load(Ordering::Acquire) {
        503 => Reply::new(503, "Function host is not running."),
        404 => Reply::new(404, ""),
        _ => Reply::new(200, "at last"),
    };
    let origin = Origin::http1().reply(reply).start().await;
    let target = format!("azure_functions: {{ function_uri: '{}/api' }}", origin.url());
    let gateway = Arc::new(Gateway::start(&route_with("cold_start: { hold: 30s }", &target)).await);
    let call = |request: Request| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { gateway.send(&request).await })
    };
    let post = call(Request::post("/fn/x", ""));
    tried_again(&gateway, 1.0).await;
    let get = call(Request::get("/fn/x"));
    gateway.counts("fngate_requests_in_flight", &[("route", "hello")], 2.0).await;

    stage.store(404, Ordering::Release);
    assert_eq!(post.await.unwrap().status(), 404, "it may have run");
    let before = gateway.metrics().await.counter("fngate_retries_total", &[("reason", "cold_start")]);
    tried_again(&gateway, before + 1.0).await;

    stage.store(200, Ordering::Release);
    assert_eq!(get.await.unwrap().text(), "at last");
}

#[tokio::test]
async fn a_slow_client_holds_up_nobody_else() {
    let nobody = Refusing::new();
    let addr = nobody.addr();
    let gateway = Gateway::start(&route_with("cold_start: { hold: 30s }", &to(addr))).await;
    let mut slow = gateway.client().await;
    slow.send("POST /fn/slow HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf").await;
    tried_again(&gateway, 2.0).await;
    drop(nobody);
    let _origin = Origin::http1().echo().start_at(addr).await;

    assert_eq!(gateway.get("/fn/x").await.status(), 200);

    slow.send("half").await;
    assert_eq!(slow.response("POST").await.json::<Echo>().body, "halfhalf");
}

#[tokio::test]
async fn a_long_call_of_a_function_that_was_cold_holds_up_nobody_else() {
    let gate = Gate::closed();
    let cold = Arc::new(AtomicUsize::new(1));
    let origin = Origin::http1()
        .gated(&gate, move |mut exchange, gate| {
            let cold = Arc::clone(&cold);
            async move {
                if cold.swap(0, Ordering::AcqRel) == 1 {
                    return exchange.answer(Reply::new(503, "Function host is not running.")).await;
                }
                if exchange.target() == "/api/long" {
                    gate.passed().await;
                }
                exchange.answer(Reply::new(200, "")).await;
            }
        })
        .start()
        .await;
    let target = format!("azure_functions: {{ function_uri: '{}/api' }}", origin.url());
    let gateway = Gateway::start(&route_with("cold_start: { hold: 30s }", &target)).await;
    let mut long = gateway.client().await;
    long.start(&Request::get("/fn/long")).await;
    origin.request(1).await;

    assert_eq!(gateway.get("/fn/x").await.status(), 200);

    gate.open();
    assert_eq!(long.response("GET").await.status(), 200);
}

#[tokio::test]
async fn a_tunnel_to_a_cold_function_frees_the_others() {
    let nobody = Refusing::new();
    let addr = nobody.addr();
    let gateway = Gateway::start(&route_with("cold_start: { hold: 30s }", &to(addr))).await;
    let mut talking = gateway.client().await;
    let (mut socket, _origin) = tokio::join!(talking.websocket("/fn/chat"), async {
        tried_again(&gateway, 2.0).await;
        drop(nobody);
        let origin = Origin::http1().script(|mut exchange| async move {
            match exchange.target() {
                "/chat" => exchange.websocket_echo().await,
                _ => exchange.answer(Reply::new(200, "")).await,
            }
        });
        origin.start_at(addr).await
    });

    assert_eq!(gateway.get("/fn/x").await.status(), 200);
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn what_never_came_to_the_function_is_repeated_whatever_it_is() {
    const NOT_RUNNING: &str =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 29\r\n\r\nFunction host is not running.";
    const QUEUE_FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
                              Content-Length: 27\r\n\r\npending request queue full\n";
    const COLD: &str =
        "HTTP/1.1 502 Bad Gateway\r\nX-KEDA-HTTP-Cold-Start: true\r\nContent-Length: 0\r\n\r\n";
    const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    const OPENWHISK: &str =
        "openwhisk: { api_host: 'http://$ADDR', service_token: 'a:b', namespace: n, action: a }";
    const KNATIVE: &str = "knative: { service: hello, domain: example.com, address: '$ADDR' }";
    for (target, answer, calls) in [
        (KNATIVE, QUEUE_FULL, 2),
        (KNATIVE, BUSY, 1),
        ("azure_functions: { function_uri: 'http://$ADDR/api' }", NOT_RUNNING, 2),
        ("openfunction: { function_uri: 'http://$ADDR/' }", COLD, 2),
        ("openfunction: { function_uri: 'http://$ADDR/' }", BUSY, 1),
        (OPENWHISK, BUSY, 2),
    ] {
        let origin = failing_first(1, answer).await;
        let target = target.replace("$ADDR", &origin.addr().to_string());
        let gateway = Gateway::start(&route_with("retry: { on: [ 502, 503 ], budget: 100% }", &target)).await;

        gateway.post("/fn/x", "{}").await;

        assert_eq!(origin.accepted(), calls, "{target} {answer}");
    }
}

#[tokio::test]
async fn a_functions_own_503_is_not_waited_out() {
    let origin =
        failing_first(1, "HTTP/1.1 503 Busy\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbusy")
            .await;
    let target = format!("knative: {{ service: hello, domain: example.com, address: '{}' }}", origin.addr());
    let gateway = Gateway::start(&route_with("cold_start: { hold: 30s }", &target)).await;
    let answer = gateway.get("/fn/x").await;
    assert_eq!((answer.status(), answer.text().as_str()), (503, "busy"));
}
