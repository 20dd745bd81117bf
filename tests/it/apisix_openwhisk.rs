//! The acceptance cases of APISIX's `openwhisk` plugin: its attributes copied over, its answers the same or better.
//!
//! The upstream cases that only store a route (19, 23, 25, 27, 29, 31, 33, 35) are the first step of the case after.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::*;

#[tokio::test]
async fn case_16_the_four_required_attributes_are_enough() {
    check(&route("/hello", &action("http://127.0.0.1:3233", "test", ""))).await.accepts();
}

#[tokio::test]
async fn case_17_api_host_is_required() {
    let target = "openwhisk: { service_token: 'test:test', namespace: test, action: test }";
    check(&route("/hello", target)).await.refuses(&["openwhisk", "api_host"]);
}

#[tokio::test]
async fn case_18_api_host_is_a_string() {
    let target = "openwhisk: { api_host: 3233, service_token: 'test:test', namespace: test, action: test }";
    check(&route("/hello", target)).await.refuses(&["api_host", "3233"]);
}

/// APISIX keeps the token encrypted in etcd. There is no store here, so what counts is that it never leaves the
/// process by any way but the request to OpenWhisk.
#[tokio::test]
async fn case_20_the_token_is_never_shown() {
    let whisk = whisk().await;
    let gateway = Gateway::start(&guest_route(&whisk, "test-params", "")).await;
    gateway.get("/hello").await;
    gateway.access_log(1).await;

    let shown = [
        gateway.admin_get("/metrics").await.text(),
        gateway.admin_get("/routes").await.text(),
        gateway.admin_get("/readyz?verbose").await.text(),
        run(&["routes", "-c", gateway.dir().join("fngate.yaml").to_str().unwrap()]).await.said(),
        run(&["check", gateway.dir().join("fngate.yaml").to_str().unwrap()]).await.said(),
        gateway.stderr(),
        gateway.stdout(),
    ];
    for text in shown {
        assert!(!text.contains(GUEST), "{text}");
        assert!(!text.contains(&STANDARD.encode(GUEST)), "{text}");
    }
}

#[tokio::test]
async fn case_19_and_21_an_action_is_called() {
    let whisk = whisk().await;
    let gateway = Gateway::start(&guest_route(&whisk, "test-params", "")).await;

    let answer = gateway.get("/hello").await;

    assert_eq!((answer.status(), answer.json::<Value>()), (200, json!({ "hello": "test" })));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let seen = whisk.only_request();
    assert_eq!(seen.method(), "POST");
    assert_eq!(
        seen.target(),
        "/api/v1/namespaces/guest/actions/test-params?blocking=true&result=true&timeout=60000"
    );
    assert_eq!(seen.header("content-type"), Some("application/json"));
}

/// APISIX passes anything on and OpenWhisk refuses it ("The request content was malformed"). With `input: body`, which
/// is the default, the gateway refuses it before an action is called, with the same status.
#[tokio::test]
async fn case_22_a_form_is_not_an_action_input() {
    let whisk = whisk().await;
    let gateway = Gateway::start(&guest_route(&whisk, "test-params", "")).await;

    let form =
        Request::post("/hello", "test=test").header("Content-Type", "application/x-www-form-urlencoded");
    let answer = gateway.send(&form).await;

    assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_request"));
    assert_eq!(whisk.requests().len(), 0);
}

#[tokio::test]
async fn case_23_and_24_a_json_body_is_the_input() {
    let whisk = whisk().await;
    let gateway = Gateway::start(&guest_route(&whisk, "test-params", "")).await;

    let answer = gateway.send(&Request::post_json("/hello", r#"{"name": "world"}"#)).await;

    assert_eq!(answer.json::<Value>(), json!({ "hello": "world" }));
}

#[tokio::test]
async fn case_25_and_26_a_missing_action_is_openwhisks_404() {
    let whisk = whisk().await;
    let gateway = Gateway::start(&guest_route(&whisk, "non-existent", "")).await;

    let answer = gateway.send(&Request::post_json("/hello", r#"{"name": "world"}"#)).await;

    assert_eq!(answer.status(), 404);
    assert!(answer.text().contains("The requested resource does not exist"), "{}", answer.text());
}

/// APISIX answers 503 to whatever goes wrong on the way. Nobody listening is 502 with its own reason here.
#[tokio::test]
async fn case_27_and_28_nobody_listens() {
    let nobody = Refusing::new();
    let url = format!("http://{}", nobody.addr());
    let gateway = Gateway::start(&route("/hello", &action(&url, "test-params", ""))).await;

    let answer = gateway.send(&Request::post_json("/hello", r#"{"name": "world"}"#)).await;

    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_connect"));
    assert_eq!(gateway.access_log(1).await[0]["reason"], "upstream_connect");
}

#[tokio::test]
async fn case_29_and_30_a_package_is_a_segment_of_its_own() {
    let whisk = whisk().await;
    let gateway = Gateway::start(&guest_route(&whisk, "testpkg", "package: pkg")).await;

    assert_eq!(gateway.get("/hello").await.json::<Value>(), json!({ "hello": "world" }));
}

#[tokio::test]
async fn case_31_and_32_the_result_sets_the_status() {
    let whisk = whisk().await;
    let gateway = Gateway::start(&guest_route(&whisk, "test-statuscode", "")).await;

    assert_eq!(gateway.get("/hello").await.status(), 407);
}

#[tokio::test]
async fn case_33_and_34_the_result_sets_headers() {
    let whisk = whisk().await;
    let gateway = Gateway::start(&guest_route(&whisk, "test-headers", "")).await;

    assert_eq!(gateway.get("/hello").await.header("test"), Some("header"));
}

/// APISIX adds a line end and calls it plain text; here it is the JSON itself, with its type.
#[tokio::test]
async fn case_35_and_36_the_result_sets_the_body() {
    let whisk = whisk().await;
    let gateway = Gateway::start(&guest_route(&whisk, "test-body", "")).await;

    let answer = gateway.get("/hello").await;

    assert_eq!(answer.text().trim_end(), r#"{"test":"body"}"#);
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn case_37_a_credential_in_clear_text_draws_a_warning() {
    let check = check(&route("/hello", &action("http://whisk.example.com", "test", ""))).await;

    check.accepts();
    let said = check.said();
    assert!(said.contains("warning") && said.contains("api_host") && said.contains("TLS"), "{said}");
}

#[tokio::test]
async fn case_38_tls_draws_no_warning() {
    let check = check(&route("/hello", &action("https://whisk.example.com", "test", ""))).await;

    check.accepts();
    assert!(!check.said().contains("TLS"), "{}", check.said());
}

fn action(api_host: &str, action: &str, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!(
        "openwhisk: {{ api_host: '{api_host}', service_token: '{GUEST}', namespace: guest, action: '{action}'{more} }}"
    )
}

fn guest_route(whisk: &Origin, name: &str, more: &str) -> String {
    route("/hello", &action(&whisk.url(), name, more))
}

/// The API of an OpenWhisk with the actions that the upstream cases call.
async fn whisk() -> Origin {
    Origin::http1().reply(|request| invoke(request).header("Content-Type", "application/json")).start().await
}

fn invoke(request: &Recorded) -> Reply {
    let fault = |status, text: &str| Reply::new(status, json!({ "error": text, "code": "4711" }).to_string());
    if request.header("authorization") != Some(&format!("Basic {}", STANDARD.encode(GUEST))) {
        return fault(401, "The supplied authentication is invalid");
    }
    let Ok(input) = serde_json::from_slice::<Value>(&request.body) else {
        return fault(400, "The request content was malformed");
    };
    let path = request.target().split('?').next().unwrap();
    let result = match path.strip_prefix("/api/v1/namespaces/guest/actions/") {
        Some("test-params") => json!({ "hello": input["name"].as_str().unwrap_or("test") }),
        Some("pkg/testpkg") => json!({ "hello": "world" }),
        Some("test-statuscode") => json!({ "statusCode": 407 }),
        Some("test-headers") => json!({ "headers": { "test": "header" } }),
        Some("test-body") => json!({ "body": { "test": "body" } }),
        _ => return fault(404, "The requested resource does not exist."),
    };
    Reply::new(200, result.to_string())
}

/// The key of the namespace `guest`, in the form `uuid:key`.
const GUEST: &str = "guest-namespace-uuid:guest-key-that-nobody-else-may-see";
