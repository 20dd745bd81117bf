//! What is refused because it is too much, and that others do not notice.

use std::sync::Arc;

use crate::harness::*;

#[tokio::test]
async fn a_slow_function_takes_its_own_places_only() {
    let gate = Gate::closed();
    let (slow, quick) = (held(&gate).await, Origin::echo().await);
    let yaml = format!(
        "limits: {{ in_flight: 20 }}\n{}",
        routes(&[
            ("slow", "/slow", &openfunction(&slow, "")),
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
    let yaml = route("/slow", &openfunction(&slow, ""));
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
        &route("/slow", &openfunction(&slow, "")),
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
    let yaml = limit(&route("/slow", &openfunction(&slow, "")), "hello", "in_flight: 1");
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
    let name = format!("  - name: {route}\n");
    yaml.replacen(&name, &format!("{name}    limits: {{ {limits} }}\n"), 1)
}
