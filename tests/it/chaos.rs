//! Many clients, a function that fails in every way it can, and an account at the end: every request had exactly one
//! outcome, none was executed twice that must not be, nobody got somebody else's answer, and nothing is left behind.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::harness::*;

const CLIENTS: usize = 16;
const REQUESTS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_honest_outcome() {
    let origin = Origin::http1().script(misbehave).start().await;
    let target = |timeout| {
        format!(
            "openfunction: {{ function_uri: '{}/', timeout: {timeout}, keepalive_pool: 4 }}",
            origin.url()
        )
    };
    // Only where the function stays silent does time decide anything.
    let yaml = routes(&[("fn", "/fn/*", &target("60s")), ("silent", "/silent/*", &target("300ms"))]);
    let gateway = Gateway::start(&format!("threads: 2\n{yaml}")).await;

    let outcomes: Vec<Outcome> = join_all((0..CLIENTS).map(|client| one_client(&gateway, client)))
        .await
        .into_iter()
        .flatten()
        .collect();

    let wrong: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.wrong.as_ref()).collect();
    assert!(wrong.is_empty(), "{} wrong, of them {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    for kind in ["whole", "cut", "refused", "left"] {
        assert!(outcomes.iter().any(|outcome| outcome.kind == kind), "nobody saw `{kind}`");
    }

    let mut executed = BTreeMap::<(String, String), usize>::new();
    for request in origin.requests() {
        *executed.entry((request.method().to_owned(), request.target().to_owned())).or_default() += 1;
    }
    for ((method, target), times) in executed {
        let most = if method == "POST" { 1 } else { 2 };
        assert!(times <= most, "{method} {target} was executed {times} times");
    }

    let log = gateway.access_log(outcomes.len()).await;
    gateway.counts("fngate_http_requests_total", &[], outcomes.len() as f64).await;
    gateway.counts("fngate_requests_in_flight", &[], 0.0).await;
    let metrics = gateway.metrics().await;
    let mut reasons = BTreeMap::<&str, usize>::new();
    for line in &log {
        *reasons.entry(line["reason"].as_str().unwrap_or_default()).or_default() += 1;
    }
    for (reason, count) in reasons.iter().filter(|(reason, _)| !reason.is_empty()) {
        assert_eq!(metrics.counter("fngate_failures_total", &[("code", reason)]), *count as f64, "{reason}");
    }
    assert_eq!(log.len(), outcomes.len(), "one line for each request");

    // What is over the pool goes; what is counted as open is open.
    // Both are still moving here, so they are compared at one moment.
    becomes("the connections to settle", PATIENCE, async || {
        let counted = gateway.metrics().await.counter("fngate_upstream_connections_open", &[]);
        let open = origin.open();
        if open <= 4 && counted == open as f64 { Ok(()) } else { Err((open, counted)) }
    })
    .await;
}

struct Outcome {
    kind: &'static str,
    wrong: Option<String>,
}

/// One request after the other, over one connection for as long as it lasts.
async fn one_client(gateway: &Gateway, client: usize) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut connection = gateway.client().await;
    for n in 0..REQUESTS {
        let behaviour = BEHAVIOURS[(client * 7 + n) % BEHAVIOURS.len()];
        let id = format!("{client}-{n}-{behaviour}");
        let path = if behaviour == "silent" { format!("/silent/{id}") } else { format!("/fn/{id}") };
        let request = match n % 2 {
            0 => Request::get(&path),
            _ => Request::post(&path, id.as_str()),
        };
        if behaviour == "slow" && n % 3 == 0 {
            connection.start(&request).await;
            // Gone before the answer can come, and certainly after the request was read.
            connection.head().await;
            connection.reset();
            connection = gateway.client().await;
            outcomes.push(Outcome { kind: "left", wrong: None });
            continue;
        }
        let answer = connection.call(&request).await;
        outcomes.push(judge(&id, behaviour, &answer));
        if !answer.whole
            || answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
        {
            connection = gateway.client().await;
        }
    }
    outcomes
}

fn judge(id: &str, behaviour: &str, answer: &Response) -> Outcome {
    let (status, code) = (answer.status(), answer.code());
    let kind = match (status, answer.whole) {
        (502 | 504, true) if !code.is_empty() => "refused",
        (_, true) => "whole",
        (_, false) => "cut",
    };
    let expected = match behaviour {
        "sized" | "chunked" | "closing" | "slow" => kind == "whole" && status == 200 && answer.text() == id,
        "busy" => kind == "whole" && status == 503 && answer.text() == id,
        "cut" => kind == "cut" || code == "upstream_reset",
        "silent" => code == "upstream_timeout",
        "gone" | "reset" => code == "upstream_reset",
        "garbage" => code == "upstream_protocol",
        other => panic!("no such behaviour: {other}"),
    };
    let wrong = (!expected).then(|| format!("{id}: {status} {code} {:?}, {kind}", answer.text()));
    Outcome { kind, wrong }
}

const BEHAVIOURS: [&str; 11] =
    ["sized", "chunked", "sized", "closing", "slow", "busy", "cut", "silent", "gone", "reset", "garbage"];

/// The last word of the path says what to do.
async fn misbehave(mut exchange: Exchange) {
    let id = exchange.target().trim_start_matches('/').to_owned();
    exchange.body().await;
    match id.rsplit('-').next().unwrap() {
        "sized" => exchange.answer(Reply::text(200, &id)).await,
        "busy" => exchange.answer(Reply::text(503, &id)).await,
        "closing" => {
            exchange.answer(Reply::text(200, &id).header("Connection", "close")).await;
            exchange.close();
        }
        "chunked" => {
            exchange.start_chunked("text/plain").await;
            exchange.send_chunk(&id).await;
            exchange.end_chunked().await;
        }
        "slow" => {
            exchange.start_chunked("text/plain").await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            exchange.send_chunk(&id).await;
            exchange.end_chunked().await;
        }
        "cut" => {
            exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{id}")).await;
            exchange.close();
        }
        "silent" => exchange.peer_closed().await,
        "gone" => exchange.close(),
        "reset" => exchange.reset(),
        _ => {
            exchange.send("this is not HTTP\r\n\r\n").await;
            exchange.close();
        }
    }
}
