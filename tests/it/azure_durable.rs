//! Durable Functions behind the gateway: the URLs of an orchestration lead back to it, and hold neither key nor host.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::harness::*;

const SYSTEM_KEY: &str = "OeBzKjHaccsvy9ygXILmd4JofNl9zuFZahHTZBf/Woir3KAWTMyz0Q==";
const KEYED: &str = "authorization: { apikey: route_key }";

#[tokio::test]
async fn an_orchestration_is_started_watched_and_ended() {
    let app = durable_app().await;
    let gateway = Gateway::start(&route("/fn/*", &azure(&app, KEYED))).await;

    let started = gateway.post("/fn/orchestrators/hello", "{}").await;
    assert_eq!((started.status(), started.header("retry-after")), (202, Some("10")));
    shows_nothing(&started, &app);
    let urls = started.json::<Value>();
    assert_eq!(urls["id"], "4711");
    assert!(urls["sendEventPostUri"].as_str().unwrap().contains("/raiseEvent/{eventName}?"), "{urls}");

    let running = gateway.get(&way(&gateway, started.header("location").unwrap())).await;
    assert_eq!((running.status(), &running.json::<Value>()["runtimeStatus"]), (202, &json!("Running")));
    shows_nothing(&running, &app);

    let event = urls["sendEventPostUri"].as_str().unwrap().replace("{eventName}", "approved");
    assert_eq!(gateway.post(&way(&gateway, &event), "true").await.status(), 202);

    let done = gateway.get(&way(&gateway, running.header("location").unwrap())).await;
    assert_eq!((done.status(), &done.json::<Value>()["runtimeStatus"]), (200, &json!("Completed")));

    let seen: Vec<_> = app.requests();
    assert_eq!(seen[0].target(), "/api/orchestrators/hello");
    assert_eq!(seen[0].all("x-functions-key"), ["route_key"]);
    assert_eq!(seen[1].target(), instance("4711", ""));
    assert_eq!(seen[2].target(), instance("4711", "/raiseEvent/approved"));
    assert!(seen[1..].iter().all(|request| request.header("x-functions-key").is_none()), "{seen:#?}");
}

#[tokio::test]
async fn no_code_but_its_own_opens_an_instance() {
    let app = durable_app().await;
    let gateway = Gateway::start(&routes(&[
        ("fn", "/fn/*", &azure(&app, KEYED)),
        ("root", "/root/*", &format!("azure_functions: {{ function_uri: '{}', {KEYED} }}", app.url())),
    ]))
    .await;
    let started = gateway.post("/fn/orchestrators/hello", "").await;
    let good = way(&gateway, started.header("location").unwrap());
    let (bare, _) = good.split_once("code=").unwrap();

    for target in [
        good.replace("4711", "4712"),
        good.replace("taskHub=hub", "taskHub=other"),
        good.replace("code=", "code=A"),
        format!("{good}&code=x"),
        bare.to_owned(),
        format!("{bare}code={SYSTEM_KEY}"),
        format!("{bare}code=route_key"),
        "/root/runtime/webhooks/durabletask/instances/4711".to_owned(),
        "/root/RUNTIME/webhooks//durabletask/instances/4711".to_owned(),
        "/root/runtime%2Fwebhooks/durabletask/instances/4711".to_owned(),
    ] {
        let request = Request::get(&target).header("x-functions-key", SYSTEM_KEY);
        let answer = gateway.send(&request).await;
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_request"), "{target}");
        assert!(answer.text().contains("the code that was given out with it"), "{}", answer.text());
    }
    assert_eq!(app.requests().len(), 1, "nothing of it was sent on");

    // Of the same app and with the same key, the other route is as good.
    assert_eq!(gateway.get(&good.replace("/fn/", "/root/")).await.status(), 202);
}

#[tokio::test]
async fn a_code_outlives_the_process_that_gave_it_out() {
    let app = durable_app().await;
    let yaml = route("/fn/*", &azure(&app, KEYED));
    let first = Gateway::start(&yaml).await;
    let started = first.post("/fn/orchestrators/hello", "").await;
    let url = way(&first, started.header("location").unwrap());
    drop(first);

    let second = Gateway::start(&yaml).await;
    assert_eq!(second.get(&url).await.status(), 202);

    assert!(second.reload(&yaml.replace("route_key", "new_key")).await);
    assert_eq!(second.get(&url).await.status(), 400, "with the route's key, its codes end");
}

#[tokio::test]
async fn without_a_key_of_the_routes_own_nothing_is_shown_either() {
    let app = durable_app().await;
    let yaml = route("/fn/*", &azure(&app, ""));
    let gateway = Gateway::start(&yaml).await;

    let started =
        gateway.send(&Request::post("/fn/orchestrators/hello", "").header("x-functions-key", "mine")).await;
    shows_nothing(&started, &app);
    assert_eq!(app.only_request().all("x-functions-key"), ["mine"]);

    let url = way(&gateway, started.header("location").unwrap());
    assert_eq!(gateway.get(&url).await.status(), 202);
    assert!(gateway.reload(&format!("{yaml}\n# the same\n")).await);
    assert_eq!(gateway.get(&url).await.status(), 200, "a reload does not end it");
}

/// What comes without a `/*` leads below the route all the same: to nobody, or to the route that is there for it.
#[tokio::test]
async fn an_exact_route_shows_nothing_and_another_may_serve_its_urls() {
    let app = durable_app().await;
    let start =
        format!("azure_functions: {{ function_uri: '{}/api/orchestrators/hello', {KEYED} }}", app.url());
    let gateway = Gateway::start(&route("/start", &start)).await;

    let started = gateway.post("/start", "").await;
    shows_nothing(&started, &app);
    let url = way(&gateway, started.header("location").unwrap());
    assert!(url.starts_with("/start/runtime/webhooks/durabletask/instances/4711?"), "{url}");
    assert_eq!(gateway.get(&url).await.code(), "no_route");

    assert!(
        gateway
            .reload(&routes(&[("start", "/start", &start), ("status", "/start/*", &azure(&app, KEYED))]))
            .await
    );
    assert_eq!(gateway.get(&url).await.status(), 202);
}

#[tokio::test]
async fn one_route_may_serve_many_apps() {
    let app = durable_app().await;
    let target = format!(
        "azure_functions: {{ function_uri: 'http://any.example/api', host: '{{app}}.example', address: '{}', {KEYED} }}",
        app.addr()
    );
    let gateway = Gateway::start(&route("/fn/{app}/*", &target)).await;

    let started = gateway.post("/fn/blue/orchestrators/hello", "").await;
    assert!(!started.text().contains("blue.example"), "{}", started.text());
    let url = way(&gateway, started.header("location").unwrap());
    assert!(url.starts_with("/fn/blue/runtime/"), "{url}");

    assert_eq!(gateway.get(&url).await.status(), 202);
    assert_eq!(app.requests()[1].header("host"), Some("blue.example"));
    let answer = gateway.get(&url.replace("/blue/", "/green/")).await;
    assert_eq!(answer.code(), "bad_request", "another app's key is not for this one");
}

#[tokio::test]
async fn a_compressed_answer_is_read_as_well() {
    let app = Origin::http1()
        .reply(|request| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(start_body(&base(request)).to_string().as_bytes()).unwrap();
            Reply::new(202, packed.finish().unwrap())
                .header("Content-Type", "application/json")
                .header("Content-Encoding", "gzip")
                .header("Location", &format!("{}{}", base(request), instance("4711", "")))
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn/*", &azure(&app, KEYED))).await;

    let answer =
        gateway.send(&Request::post("/fn/start", "").header("Accept-Encoding", "br, gzip, deflate")).await;

    assert_eq!(app.only_request().all("accept-encoding"), ["gzip"]);
    assert_eq!((answer.status(), answer.header("content-encoding")), (202, None));
    assert_eq!(answer.json::<Value>()["id"], "4711");
    shows_nothing(&answer, &app);
}

#[tokio::test]
async fn other_answers_pass_as_they_come() {
    let odd = "{ \"a\": 1.0e5,  \"see\": \"https://elsewhere.example/runtime/webhooks/durabletask/instances/1?code=k\" }";
    let app = Origin::http1()
        .reply(move |request| {
            let status = if request.target().ends_with("/done") { 200 } else { 202 };
            Reply::new(status, odd)
                .header("Content-Type", "application/json")
                .header("Location", "https://elsewhere.example/status")
        })
        .start()
        .await;
    let gateway = Gateway::start(&route("/fn/*", &azure(&app, KEYED))).await;

    for path in ["/fn/accepted", "/fn/done"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.text(), odd, "{path}");
        assert_eq!(answer.header("location"), Some("https://elsewhere.example/status"));
    }
}

#[tokio::test]
async fn a_host_that_does_not_run_is_named_as_such() {
    let app = Origin::http1().reply(|_| Reply::text(503, "Function host is not running.")).start().await;
    let gateway = Gateway::start(&route("/fn", &azure(&app, ""))).await;

    let answer = gateway.get("/fn").await;

    assert_eq!((answer.status(), answer.text().as_str()), (503, "Function host is not running."));
    let line = gateway.access_log(1).await.remove(0);
    assert_eq!((&line["reason"], &line["status"]), (&json!("not_reached"), &json!(503)));
    gateway.counts("fngate_failures_total", &[("code", "not_reached")], 1.0).await;
}

#[tokio::test]
async fn a_refused_key_is_ours_to_notice_unless_it_was_the_clients() {
    let refuse = |_: &Recorded| Reply::new(401, "").header("WWW-Authenticate", "Bearer");
    let app = Origin::http1().reply(refuse).start().await;
    let yaml = route("/fn", &azure(&app, "authorization: { apikey: route_key, prefer: client }"));
    let gateway = Gateway::start(&yaml).await;

    let ours = gateway.get("/fn").await;
    let theirs = gateway.send(&Request::get("/fn").header("x-functions-key", "mine")).await;

    assert_eq!((ours.status(), ours.header("www-authenticate")), (401, None));
    assert_eq!((theirs.status(), theirs.header("www-authenticate")), (401, Some("Bearer")));
    for (answer, reason) in [(ours, json!("credential_refused")), (theirs, Value::Null)] {
        assert_eq!(gateway.line_of(&answer).await["reason"], reason);
    }
}

fn azure(app: &Origin, more: &str) -> String {
    format!("azure_functions: {{ function_uri: '{}/api', {more} }}", app.url())
}

/// The target of a URL that was given out, after a look at where it leads.
#[track_caller]
fn way(gateway: &Gateway, url: &str) -> String {
    let origin = format!("http://{}", gateway.addr());
    url.strip_prefix(&origin).unwrap_or_else(|| panic!("{url} does not lead to {origin}")).to_owned()
}

#[track_caller]
fn shows_nothing(answer: &Response, app: &Origin) {
    let shown = format!("{:?}{}", answer.head, answer.text());
    for secret in [SYSTEM_KEY, "route_key", &app.addr().to_string()] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
}

fn instance(id: &str, operation: &str) -> String {
    format!(
        "/runtime/webhooks/durabletask/instances/{id}{operation}?taskHub=hub&connection=Storage&code={SYSTEM_KEY}"
    )
}

/// What the extension takes for its own name.
fn base(request: &Recorded) -> String {
    format!("http://{}", request.header("host").unwrap())
}

fn start_body(base: &str) -> Value {
    let url = |operation: &str| format!("{base}{}", instance("4711", operation));
    json!({
        "id": "4711",
        "statusQueryGetUri": url(""),
        "sendEventPostUri": url("/raiseEvent/{eventName}"),
        "terminatePostUri": url("/terminate").replace("?", "?reason={text}&"),
        "purgeHistoryDeleteUri": url(""),
        "restartPostUri": url("/restart"),
    })
}

/// An app with one orchestration, which has ended when it is asked for the second time. It wants its system key.
async fn durable_app() -> Origin {
    let polls = std::sync::atomic::AtomicUsize::new(0);
    let answer = move |request: &Recorded| {
        let base = base(request);
        let accepted = |body: Value| {
            let location = format!("{base}{}", instance("4711", ""));
            Reply::json(&body).with_status(202).header("Location", &location).header("Retry-After", "10")
        };
        let target = request.target();
        if target.starts_with("/api/orchestrators/") {
            return accepted(start_body(&base));
        }
        if target == instance("4711", "/raiseEvent/approved") {
            return Reply::new(202, "");
        }
        if target != instance("4711", "") {
            return Reply::new(401, "");
        }
        match polls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => accepted(
                json!({ "runtimeStatus": "Running", "input": { "callback": format!("{base}{target}") } }),
            ),
            _ => Reply::json(&json!({ "runtimeStatus": "Completed", "output": "Hello" })),
        }
    };
    Origin::http1().reply(answer).start().await
}
