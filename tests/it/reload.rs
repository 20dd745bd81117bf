//! A new configuration under a running gateway: all of it or nothing, nobody who is being served notices, and whether
//! it was taken can be seen in four places.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::*;

#[tokio::test]
async fn a_signal_brings_the_new_routes() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;
    let before = hash(&gateway).await;

    assert!(gateway.reload(&to(&origin, "two")).await);

    assert_eq!(gateway.get("/one").await.code(), "no_route");
    assert_eq!(gateway.get("/two").await.status(), 200);
    assert_ne!(hash(&gateway).await, before);
    let metrics = gateway.metrics().await;
    assert!(metrics.counter("fngate_config_last_reload_success_timestamp_seconds", &[]) > 1.6e9);
}

#[tokio::test]
async fn a_changed_file_is_noticed_without_a_signal() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;

    // As editors and deployment tools do it: a new file takes the place of the old one.
    gateway.write_config(&to(&origin, "two"));
    serves(&gateway, "/two").await;

    // And once more, because now the watched file is another one than at the start.
    gateway.write_config(&to(&origin, "three"));
    serves(&gateway, "/three").await;
    assert_eq!(gateway.get("/two").await.status(), 404);
}

#[tokio::test]
async fn a_file_written_in_place_is_noticed() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;

    let path = gateway.dir().join("fngate.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("/one", "/two");
    std::fs::write(&path, text).unwrap();

    serves(&gateway, "/two").await;
}

#[tokio::test]
async fn a_config_map_that_swaps_its_link_is_noticed() {
    let origin = Origin::echo().await;
    let gateway = Gateway::builder().config_map().start(&to(&origin, "one")).await;

    for name in ["two", "three"] {
        gateway.write_config(&to(&origin, name));
        serves(&gateway, &format!("/{name}")).await;
    }
}

#[tokio::test]
async fn an_included_file_counts_as_much() {
    let origin = Origin::echo().await;
    let include = "include: [ 'conf.d/*.yaml' ]\nroutes: []\n";
    let gateway = Gateway::builder().file("conf.d/a.yaml", &to(&origin, "one")).start(include).await;
    assert_eq!(gateway.get("/one").await.status(), 200);

    gateway.write_file("conf.d/a.yaml", &to(&origin, "two"));
    serves(&gateway, "/two").await;
    gateway.write_file("conf.d/b.yaml", &to(&origin, "three"));
    serves(&gateway, "/three").await;
    assert_eq!(gateway.get("/two").await.status(), 200);
}

#[tokio::test]
async fn a_faulty_file_changes_nothing_and_says_so_everywhere() {
    let origin = Origin::echo().await;
    let good = to(&origin, "one");
    let gateway = Gateway::start(&good).await;
    let before = hash(&gateway).await;

    for faulty in ["routes: [", "routes:\n  - nmae: x\n", "routes: 5\n", &format!("{good}{good}")] {
        assert!(!gateway.reload(faulty).await, "{faulty:?}");
        assert_eq!(gateway.get("/one").await.status(), 200, "{faulty:?}");
        assert_eq!(hash(&gateway).await, before);
        let ready = gateway.admin_get("/readyz").await;
        assert_eq!(ready.status(), 200, "what runs is still good");
        let verbose = gateway.admin_get("/readyz?verbose").await.text();
        assert!(verbose.contains("fngate.yaml"), "{faulty:?} is not in /readyz?verbose");
    }
    assert!(gateway.metrics().await.counter("fngate_config_reloads_total", &[("result", "failure")]) >= 4.0);
    gateway.says("fngate.yaml").await;

    assert!(gateway.reload(&to(&origin, "two")).await, "and a good one is taken again");
    assert_eq!(gateway.get("/two").await.status(), 200);
}

#[tokio::test]
async fn a_reload_says_once_what_deserves_a_look() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;

    let doubtful = format!("shutdown_grace: 30\n{}", to(&origin, "two"));
    assert!(gateway.reload(&doubtful).await);
    gateway.says("shutdown_grace: `30` is 30 ms").await;
    assert!(gateway.reload(&doubtful).await);
    assert_eq!(gateway.stderr().matches("shutdown_grace").count(), 1, "{}", gateway.stderr());
}

#[tokio::test]
async fn a_missing_file_changes_nothing() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;

    std::fs::remove_file(gateway.dir().join("fngate.yaml")).unwrap();
    gateway.signal(Signal::SIGHUP);
    eventually("the failure to be counted", PATIENCE, async || {
        let metrics = gateway.metrics().await;
        (metrics.counter("fngate_config_reloads_total", &[("result", "failure")]) > 0.0).then_some(())
    })
    .await;

    assert_eq!(gateway.get("/one").await.status(), 200);
}

#[tokio::test]
async fn what_needs_a_restart_is_refused_with_that_reason() {
    let origin = Origin::echo().await;
    let good = to(&origin, "one");
    let gateway = Gateway::start(&good).await;

    for (change, reason) in [
        ("listeners: [ { address: '127.0.0.1:$TLS_PORT' } ]\n", "`listeners` changed, which takes a restart"),
        ("admin: { address: '127.0.0.1:$TLS_PORT' }\n", "`admin` changed, which takes a restart"),
        (
            "threads: 7\nlimits: { http2_streams: 7, header_size: 7KiB }\n",
            "`threads`, `limits.http2_streams`, `limits.header_size` changed, which takes a restart",
        ),
    ] {
        assert!(!gateway.reload(&format!("{change}{}", to(&origin, "two"))).await, "{change}");
        assert_eq!(gateway.get("/two").await.status(), 404, "all or nothing");
        let verbose = gateway.admin_get("/readyz?verbose").await.text();
        assert!(verbose.contains(reason), "{change}: {verbose}");
    }
    assert!(gateway.reload(&to(&origin, "two")).await);
}

#[tokio::test]
async fn a_request_in_flight_keeps_what_it_started_with() {
    let gate = Gate::closed();
    let origin = Origin::http1()
        .gated(&gate, |mut exchange, gate| async move {
            exchange.start_chunked("text/plain").await;
            exchange.send_chunk("before\n").await;
            gate.passed().await;
            exchange.send_chunk("after\n").await;
            exchange.end_chunked().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&to(&origin, "one")).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/one")).await;
    let head = client.head().await;
    let mut body = client.body(&head, "GET");
    body.until("before\n").await;

    assert!(gateway.reload(&to(&origin, "two")).await);
    assert_eq!(gateway.get("/one").await.status(), 404);

    gate.open();
    body.until("after\n").await;
    assert_eq!(body.next().await, Piece::End);
    let log = gateway.access_log(2).await;
    assert!(log.iter().any(|line| line["route"] == "one" && line["status"] == 200), "{log:#?}");
}

#[tokio::test]
async fn a_connection_carries_on_under_the_new_routes() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;
    let mut client = gateway.client().await;
    assert_eq!(client.call(&Request::get("/one")).await.status(), 200);

    assert!(gateway.reload(&to(&origin, "two")).await);

    assert_eq!(client.call(&Request::get("/two")).await.status(), 200);
}

#[tokio::test]
async fn no_request_is_lost_while_it_reloads() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;
    let done = std::sync::atomic::AtomicBool::new(false);

    let load = async {
        let mut served = 0;
        let mut client = gateway.client().await;
        while !done.load(std::sync::atomic::Ordering::Relaxed) || served < 100 {
            assert_eq!(client.call(&Request::get("/one")).await.status(), 200);
            assert_eq!(gateway.get("/one").await.status(), 200);
            served += 1;
        }
    };
    let reloads = async {
        for round in 0..10 {
            let yaml = to(&origin, "one") + &to(&origin, &format!("other-{round}")).replace("routes:\n", "");
            assert!(gateway.reload(&yaml).await);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(load, reloads);
}

#[tokio::test]
async fn connections_of_other_terms_are_not_used_again() {
    let origin = Origin::echo().await;
    let yaml = |token: &str| {
        route(
            "/fn",
            &format!(
                "openfunction: {{ function_uri: '{}/', authorization: {{ service_token: '{token}' }} }}",
                origin.url()
            ),
        )
    };
    let gateway = Gateway::start(&yaml("old:old")).await;
    gateway.get("/fn").await;

    assert!(gateway.reload(&yaml("new:new")).await);
    let echo = gateway.get("/fn").await.json::<Echo>();

    assert_eq!(echo.header("authorization"), Some("Basic bmV3Om5ldw=="));
    assert_eq!(origin.requests().iter().map(|r| r.connection).collect::<Vec<_>>(), [0, 1]);
}

#[tokio::test]
async fn idle_connections_of_other_terms_are_closed() {
    let other = Origin::echo().await;
    for (origin, target) in [
        (Origin::echo().await, "openfunction: { function_uri: '$URL/', $KEYS }"),
        (Origin::http1().reply(|_| Reply::json(&json!({}))).start().await, ACTION),
        (Origin::http2().echo().start().await, "http: { url: '$URL/', http2: 'on', $KEYS }"),
        (announcing().await, "http: { url: '$URL/', $KEYS }"),
    ] {
        let target = target.replace("$URL", &origin.url());
        let kept = ("kept", "/kept", openfunction(&other, ""));
        let yaml = |target: &str| routes(&[("fn", "/fn", target), (kept.0, kept.1, &kept.2)]);
        let gateway = Gateway::start(&yaml(&target.replace("$KEYS", "timeout: 5000"))).await;
        let before = other.accepted();
        // Three at a time, so that more than one slot has a connection.
        for _ in 0..2 {
            futures_util::future::join_all((0..3).map(|_| gateway.get("/fn"))).await;
        }
        gateway.get("/kept").await;
        assert!(origin.open() > 0, "{target}");

        assert!(gateway.reload(&yaml(&target.replace("$KEYS", "timeout: 6000"))).await);
        origin.settles_at(0).await;
        assert_eq!(gateway.get("/fn").await.status(), 200, "{target}");
        assert!(origin.open() > 0, "{target}");

        assert!(gateway.reload(&routes(&[(kept.0, kept.1, &kept.2)])).await);
        origin.settles_at(0).await;
        gateway.get("/kept").await;
        assert_eq!(other.accepted() - before, 1, "whose terms stay keeps its connection");
    }
}

#[tokio::test]
async fn a_connection_in_use_is_closed_when_its_request_has_ended() {
    for end in ["done", "cut"] {
        let gate = Gate::closed();
        let opening = gate.clone();
        let origin = Origin::http1()
            .script(move |mut exchange| {
                let gate = opening.clone();
                async move {
                    exchange.start_chunked("text/plain").await;
                    exchange.send_chunk("before\n").await;
                    gate.passed().await;
                    exchange.send_chunk("after\n").await;
                    exchange.end_chunked().await;
                }
            })
            .start()
            .await;
        let gateway = Gateway::start(&to(&origin, "one")).await;
        let mut client = gateway.client().await;
        client.start(&Request::get("/one")).await;
        let head = client.head().await;
        let mut body = client.body(&head, "GET");
        body.until("before\n").await;

        let removed = route("/other", &openfunction(&Origin::echo().await, ""));
        assert!(gateway.reload(&removed).await);
        assert_eq!(origin.open(), 1);
        match end {
            "done" => {
                gate.open();
                body.until("after\n").await;
                assert_eq!(body.next().await, Piece::End);
            }
            _ => {
                drop(client);
                gate.open();
            }
        }

        origin.settles_at(0).await;
        assert_eq!(origin.accepted(), 1, "nothing was dialled for it");
        assert_eq!(gateway.access_log(1).await.len(), 1, "nor written");
    }
}

/// The rest of its body comes after the reload, and only then is a connection chosen for it.
#[tokio::test]
async fn a_request_from_before_leaves_no_connection_behind() {
    let origin = Origin::http1().reply(|_| Reply::json(&json!({}))).start().await;
    let action = ACTION.replace("$URL", &origin.url());
    let yaml = |timeout: u32| route("/fn", &action.replace("$KEYS", &format!("timeout: {timeout}")));
    let gateway = Gateway::start(&yaml(5000)).await;
    let mut client = gateway.client().await;
    let head = "POST /fn HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\n";
    client.send(format!("{head}\r\n{{")).await;
    gateway.counts("fngate_requests_in_flight", &[("route", "hello")], 1.0).await;
    gateway.get("/fn").await;
    assert_eq!(origin.open(), 1);

    assert!(gateway.reload(&yaml(6000)).await);
    // What was kept is closed.
    origin.settles_at(0).await;
    client.send("}").await;
    assert_eq!(client.response("POST").await.status(), 200);

    assert_eq!(origin.accepted(), 2);
    origin.settles_at(0).await;
}

/// Those who waited have their call under the old terms, whose connections nobody wants any more by then.
#[tokio::test]
async fn who_waited_from_before_leaves_no_connection_behind() {
    let gate = Gate::closed();
    let origin = Origin::http1()
        .gated(&gate, |mut exchange, gate| async move {
            gate.passed().await;
            exchange.answer(Reply::new(200, "")).await;
        })
        .start()
        .await;
    let nobody = Refusing::new();
    let addr = nobody.addr();
    let queueing = "limits: { in_flight: 1, queue: 1, queue_timeout: 30s }";
    let yaml = routes(&[
        ("queued", "/queued", &openfunction(&origin, "")),
        ("cold", "/cold", &format!("openfunction: {{ function_uri: 'http://{addr}' }}")),
    ]);
    let yaml = with_policy(&with_policy(&yaml, "queued", queueing), "cold", "cold_start: { hold: 30s }");
    let gateway = Gateway::start(&yaml).await;
    let [mut first, mut second, mut third] =
        [gateway.client().await, gateway.client().await, gateway.client().await];
    first.start(&Request::get("/queued")).await;
    origin.request(0).await;
    second.start(&Request::get("/queued")).await;
    gateway.counts("fngate_requests_queued", &[("route", "queued")], 1.0).await;
    third.start(&Request::get("/cold")).await;
    gateway.counts("fngate_cold_starts_total", &[("route", "cold")], 1.0).await;

    assert!(gateway.reload(&to(&origin, "other")).await);
    drop(nobody);
    let late = Origin::http1().echo().start_at(addr).await;
    (0..2).for_each(|_| gate.open());

    for client in [&mut first, &mut second, &mut third] {
        assert_eq!(client.response("GET").await.status(), 200);
    }
    origin.settles_at(0).await;
    late.settles_at(0).await;
    assert_eq!((origin.requests().len(), late.requests().len()), (2, 1));
}

#[tokio::test]
async fn limits_and_trust_change_with_the_routes() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;
    let forwarded = Request::post("/one", "12345678901").header("X-Forwarded-For", "203.0.113.9");
    assert_eq!(gateway.send(&forwarded).await.json::<Echo>().header("x-forwarded-for"), Some("127.0.0.1"));

    let settings = "limits: { body: 10 }\ntrusted_proxies: [ 127.0.0.1/32 ]\n";
    assert!(gateway.reload(&format!("{settings}{}", to(&origin, "one"))).await);

    assert_eq!(gateway.send(&forwarded).await.code(), "body_too_large");
    let echo = gateway.send(&forwarded.body("123")).await.json::<Echo>();
    assert_eq!(echo.header("x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
}

#[tokio::test]
async fn thousands_of_routes_come_and_go() {
    let origin = Origin::echo().await;
    let target = format!("http: {{ url: '{}/' }}", origin.url());
    let many = |name: &str| {
        (0..2000).fold("routes:\n".to_owned(), |text, n| {
            text + &format!(
                "  - name: {name}-{n}\n    match: {{ path: '/{name}/{n}/*' }}\n    target: {{ {target} }}\n"
            )
        })
    };
    let gateway = Gateway::start(&many("old")).await;
    assert_eq!(gateway.get("/old/1999/x").await.json::<Echo>().target, "/x");

    assert!(gateway.reload(&many("new")).await);

    assert_eq!(gateway.get("/new/1999/x").await.json::<Echo>().target, "/x");
    assert_eq!(gateway.get("/old/1999/x").await.code(), "no_route");
}

#[tokio::test]
async fn a_secret_in_a_file_is_read_again() {
    let origin = Origin::echo().await;
    let yaml = route(
        "/fn",
        &format!(
            "openfunction: {{ function_uri: '{}/', authorization: {{ service_token: {{ file: $DIR/token }} }} }}",
            origin.url()
        ),
    );
    let gateway = Gateway::builder().file("token", "old:old\n").start(&yaml).await;
    assert_eq!(gateway.get("/fn").await.json::<Echo>().header("authorization"), Some("Basic b2xkOm9sZA=="));

    gateway.write_file("token", "new:new\n");
    assert!(gateway.reload(&yaml).await);

    assert_eq!(gateway.get("/fn").await.json::<Echo>().header("authorization"), Some("Basic bmV3Om5ldw=="));
}

#[tokio::test]
async fn secrets_come_from_the_environment_and_from_credentials() {
    let origin = Origin::echo().await;
    let target = |token: &str| {
        format!(
            "openfunction: {{ function_uri: '{}/', authorization: {{ service_token: {token} }} }}",
            origin.url()
        )
    };
    let yaml = routes(&[
        ("env", "/env", &target("{ env: FN_TOKEN }")),
        ("cred", "/cred", &target("{ credential: fn-token }")),
    ]);
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("fn-token"), "new:new").unwrap();
    let gateway = Gateway::builder()
        .env("FN_TOKEN", "old:old")
        .env("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())
        .start(&yaml)
        .await;

    for (path, value) in [("/env", "Basic b2xkOm9sZA=="), ("/cred", "Basic bmV3Om5ldw==")] {
        assert_eq!(gateway.get(path).await.json::<Echo>().header("authorization"), Some(value), "{path}");
    }
}

/// What a service manager runs after it has asked for a reload.
#[tokio::test]
async fn whether_a_file_is_being_served_can_be_asked() {
    let origin = Origin::echo().await;
    let mut gateway = Gateway::start(&to(&origin, "one")).await;
    let path = gateway.dir().join("fngate.yaml");
    let path = path.to_str().unwrap().to_owned();
    let running = async |within| run(&["check", "--running", "--within", within, &path]).await;

    running("15s").await.accepts();

    gateway.write_config(&to(&origin, "two"));
    running("15s").await.accepts();
    assert_eq!(gateway.get("/two").await.status(), 200, "it is served as soon as it is said so");

    gateway.write_config(&format!("threads: 7\n{}", to(&origin, "three")));
    let refused = running("15s").await;
    assert!(refused.code.is_some_and(|code| code != 0) && refused.said().contains("restart"), "{refused:#?}");

    gateway.write_config("routes: 5\n");
    running("15s").await.refuses(&["routes"]);

    gateway.write_config(&to(&origin, "two"));
    gateway.signal(Signal::SIGTERM);
    gateway.exit().await;
    assert!(running("2s").await.code.is_some_and(|code| code != 0), "nobody serves anything any more");
}

/// Says when it closes idle connections, which puts them under another name in the pool.
async fn announcing() -> Origin {
    Origin::http1().reply(|_| Reply::new(200, "").header("Keep-Alive", "timeout=55")).start().await
}

const ACTION: &str =
    "openwhisk: { api_host: '$URL', service_token: 'a:b', namespace: guest, action: test, $KEYS }";

/// One route that carries its name as path.
pub(crate) fn to(origin: &Origin, name: &str) -> String {
    routes(&[(name, &format!("/{name}"), &format!("http: {{ url: '{}/' }}", origin.url()))])
}

pub(crate) async fn serves(gateway: &Gateway, path: &str) {
    eventually(&format!("{path} to be served"), PATIENCE, async || {
        (gateway.get(path).await.status() == 200).then_some(())
    })
    .await;
}

/// The label of `config_info`.
async fn hash(gateway: &Gateway) -> String {
    gateway.metrics().await.label("fngate_config_info", "hash")
}
