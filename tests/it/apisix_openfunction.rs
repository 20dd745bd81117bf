//! The acceptance cases of APISIX's `openfunction` plugin: its attributes copied over, its answers the same or better.
//!
//! The upstream cases that only store a route (4, 6, 8, 10, 12, 14) are the first step of the case that calls it. Their
//! routes also carry an `upstream` without nodes, which APISIX demands and fngate has no use for.

use crate::harness::*;

#[tokio::test]
async fn case_01_function_uri_alone_is_enough() {
    check(&route("/hello", "openfunction: { function_uri: 'http://127.0.0.1:30584/function-sample' }"))
        .await
        .accepts();
}

#[tokio::test]
async fn case_02_function_uri_is_required() {
    check(&route("/hello", "openfunction: { timeout: 60000 }"))
        .await
        .refuses(&["openfunction", "function_uri"]);
}

#[tokio::test]
async fn case_03_function_uri_is_a_string() {
    check(&route("/hello", "openfunction: { function_uri: 30858 }"))
        .await
        .refuses(&["function_uri", "30858"]);
}

#[tokio::test]
async fn case_04_and_05_a_function_is_called() {
    let function = greet_by_path().await;
    let gateway = Gateway::start(&route("/hello", &openfunction(&function, "/function-sample"))).await;

    let answer = gateway.get("/hello").await;

    assert_eq!((answer.status(), answer.text().as_str()), (200, "Hello, function-sample!\n"));
}

#[tokio::test]
async fn case_06_and_07_a_body_reaches_the_function() {
    let function =
        Origin::http1().reply(|request| greeting(&String::from_utf8_lossy(&request.body))).start().await;
    let gateway = Gateway::start(&route("/hello", &openfunction(&function, "/default/test-body"))).await;

    assert_eq!(gateway.post("/hello", "test").await.text(), "Hello, test!\n");
    assert_eq!(function.only_request().target(), "/default/test-body");
}

#[tokio::test]
async fn case_08_and_09_a_service_token_becomes_basic_auth() {
    let function = print_authorization().await;
    let target = format!(
        "openfunction: {{ function_uri: '{}/', authorization: {{ service_token: 'test:test' }} }}",
        function.url()
    );
    let gateway = Gateway::start(&route("/hello", &target)).await;

    assert_eq!(gateway.post("/hello", "").await.text(), "[Basic dGVzdDp0ZXN0]");

    // Not among the upstream cases: whatever the client sends in its place is replaced, every copy of it.
    let forged = Request::post("/hello", "").header("Authorization", "one").header("authorization", "two");
    assert_eq!(gateway.send(&forged).await.text(), "[Basic dGVzdDp0ZXN0]");
}

#[tokio::test]
async fn case_10_and_11_without_a_token_the_clients_own_passes() {
    let function = print_authorization().await;
    let gateway = Gateway::start(&route("/hello", &openfunction(&function, "/"))).await;

    let answer = gateway.send(&Request::post("/hello", "").header("authorization", "user-token-xxx")).await;

    assert_eq!(answer.text(), "[user-token-xxx]");
}

#[tokio::test]
async fn case_12_and_13_the_functions_own_404_passes() {
    let function = greet_by_path().await;
    let gateway = Gateway::start(&route("/hello", &openfunction(&function, "/default/non-existent"))).await;

    let form =
        Request::post("/hello", "test=test").header("Content-Type", "application/x-www-form-urlencoded");
    let answer = gateway.send(&form).await;

    assert_eq!((answer.status(), answer.text().as_str()), (404, "404 page not found\n"));
    assert_eq!(answer.code(), "", "the answer is the function's, not ours");
}

#[tokio::test]
async fn case_14_and_15_the_rest_of_the_path_is_forwarded() {
    let function = greet_by_path().await;
    let gateway = Gateway::start(&route("/hello/*", &openfunction(&function, ""))).await;

    let answer = gateway.get("/hello/openfunction").await;

    assert_eq!((answer.status(), answer.text().as_str()), (200, "Hello, openfunction!\n"));
}

fn openfunction(function: &Origin, path: &str) -> String {
    format!("openfunction: {{ function_uri: '{}{path}' }}", function.url())
}

fn greeting(name: &str) -> Reply {
    Reply::text(200, &format!("Hello, {name}!\n"))
}

/// The fixture `test-uri`: greets the one segment of the path, and knows no other path.
async fn greet_by_path() -> Origin {
    let greet = |request: &Recorded| match request.target().strip_prefix('/') {
        Some(name) if !name.is_empty() && !name.contains('/') => greeting(name),
        _ => Reply::text(404, "404 page not found\n"),
    };
    Origin::http1().reply(greet).start().await
}

/// The fixture `test-header`: all values of `Authorization` in brackets.
async fn print_authorization() -> Origin {
    let print =
        |request: &Recorded| Reply::text(200, &format!("[{}]", request.all("authorization").join(" ")));
    Origin::http1().reply(print).start().await
}
