//! What broke the built binary once, from outside: each case here was seen to fail.

use crate::harness::*;

#[tokio::test]
async fn a_length_that_a_function_says_twice_is_said_once() {
    for lengths in ["Content-Length: 2\r\nContent-Length: 2", "Content-Length: 2, 2"] {
        let origin = Origin::raw(format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\nok").as_str()).await;
        let gateway = Gateway::start(&route("/fn", &openfunction(&origin, ""))).await;
        let answer = gateway.get("/fn").await;
        assert_eq!((answer.all("content-length"), answer.text().as_str()), (vec!["2"], "ok"), "{lengths}");
    }
}

#[tokio::test]
async fn the_most_verbose_log_shows_no_credential() {
    let origin = Origin::echo().await;
    let target = format!(
        "http: {{ url: '{}/', headers: {{ authorization: our-secret, x-key: our-secret }} }}",
        origin.url()
    );
    let gateway = Gateway::builder().env("FNGATE_LOG", "trace").start(&route("/fn", &target)).await;

    let answer = gateway.send(&Request::get("/fn").header("Cookie", "their-secret")).await;
    gateway.line_of(&answer).await;
    assert!(gateway.reload(&route("/fn", &target)).await);

    let log = gateway.stderr();
    assert!(!log.contains("our-secret") && !log.contains("their-secret"), "{log}");
}

#[tokio::test]
async fn a_password_in_a_uri_is_not_shown_where_it_is_refused() {
    let checked =
        check(&route("/fn", "http: { url: 'http://user:our-secret@localhost/?code=our-secret' }")).await;

    checked.refuses(&["credentials do not belong into a URI"]);
    assert!(!checked.said().contains("user:our-secret"), "{}", checked.said());
}

#[tokio::test]
async fn a_bundle_of_authorities_without_end_is_refused() {
    let checked = check(&route("/fn", "http: { url: 'https://localhost/', ca: /dev/zero }")).await;
    checked.refuses(&["ca: `/dev/zero` cannot be read"]);
}

#[tokio::test]
async fn a_body_that_waits_to_be_asked_for_does_not_cost_the_connection() {
    let origin = Origin::http1().reply(|_| Reply::json(&serde_json::json!({}))).start().await;
    let target = format!(
        "openwhisk: {{ api_host: '{}', service_token: 'a:b', namespace: guest, action: test }}",
        origin.url()
    );
    let gateway = Gateway::start(&route("/fn", &target)).await;
    let mut client = gateway.client().await;
    for _ in 0..3 {
        client
            .send(
                "POST /fn HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Type: application/json\r\n\
                 Content-Length: 2\r\n\r\n",
            )
            .await;
        assert!(client.head().await.first_line.contains(" 100 "));
        client.send("{}").await;
        let answer = client.response("POST").await;
        assert_eq!((answer.status(), answer.header("connection")), (200, Some("keep-alive")));
    }
}
