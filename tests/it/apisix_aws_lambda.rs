//! The acceptance cases of APISIX's `aws-lambda` plugin: its attributes copied over, its answers the same or better.
//!
//! The upstream cases that only store a route (55, 62) are the first step of a case that calls it.

use std::time::{Duration, SystemTime};

use fngate::aws::{Credentials, SigningScope, sign};
use fngate::values::Secret;
use pingora::http::RequestHeader;

use crate::harness::*;

#[tokio::test]
async fn case_53_access_key_and_secret_key_are_enough() {
    check(&route("/aws", &lambda("https://f.example", IAM))).await.accepts();
}

#[tokio::test]
async fn case_54_one_key_without_the_other_is_none() {
    let target = lambda("https://f.example", "authorization: { iam: { secretkey: secret } }");
    check(&route("/aws", &target)).await.refuses(&["iam", "accesskey"]);
}

#[tokio::test]
async fn case_55_and_56_a_function_is_called() {
    let function = trigger().await;
    let target = lambda(&format!("{}/httptrigger", function.url()), "authorization: { apikey: test_key }");
    let gateway = Gateway::start(&route("/aws", &target)).await;

    let answer = gateway.get("/aws").await;

    assert_eq!((answer.status(), answer.text().as_str()), (200, "aws lambda invoked\n"));
    assert_eq!(answer.header("content-length"), Some("19"));
}

#[tokio::test]
async fn case_57_the_api_key_reaches_api_gateway() {
    let function = trigger().await;
    let target = lambda(&function.url(), "authorization: { apikey: test_key }");
    let gateway = Gateway::start(&route("/aws", &target)).await;

    gateway.get("/aws").await;
    // Not among the upstream cases: what the client sends does not count, unless the file says so.
    gateway.send(&Request::get("/aws").header("X-Api-Key", "forged")).await;

    let keys: Vec<_> = function.requests().iter().map(|seen| seen.all("x-api-key").join(",")).collect();
    assert_eq!(keys, ["test_key", "test_key"]);
}

#[tokio::test]
async fn case_57_the_clients_key_counts_where_the_file_says_so() {
    let function = trigger().await;
    let target = lambda(&function.url(), "authorization: { apikey: test_key, prefer: client }");
    let gateway = Gateway::start(&route("/aws", &target)).await;

    gateway.get("/aws").await;
    gateway.send(&Request::get("/aws").header("X-Api-Key", "own")).await;

    let keys: Vec<_> = function.requests().iter().map(|seen| seen.all("x-api-key").join(",")).collect();
    assert_eq!(keys, ["test_key", "own"]);
}

#[tokio::test]
async fn case_58_a_request_is_signed() {
    let function = trigger().await;
    let gateway = Gateway::start(&route("/aws", &lambda(&function.url(), IAM))).await;

    assert_eq!(gateway.get("/aws").await.status(), 200);

    let seen = function.only_request();
    let authorization = seen.header("authorization").unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 "), "{authorization}");
    assert!(authorization.contains("/us-east-1/execute-api/aws4_request"), "{authorization}");
    let date = seen.header("x-amz-date").unwrap();
    let (day, time) = date.strip_suffix('Z').unwrap().split_once('T').unwrap();
    assert!([day, time].iter().all(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())), "{date}");
    assert!(is_signed(&seen));
}

#[tokio::test]
async fn case_59_a_route_that_is_taken_out_is_gone() {
    let function = trigger().await;
    let yaml = route("/aws", &lambda(&function.url(), IAM));
    let gateway = Gateway::start(&yaml).await;
    assert_eq!(gateway.get("/aws").await.status(), 200);

    assert!(gateway.reload(&yaml.replace("/aws", "/other")).await);

    assert_eq!(gateway.get("/aws").await.code(), "no_route");
}

/// APISIX keeps the credentials encrypted in etcd. There is no store here, so what counts is that they never leave the process but for
/// the request.
#[tokio::test]
async fn case_60_the_credentials_are_never_shown() {
    let function = trigger().await;
    let keys =
        "authorization: { apikey: api-key-x, iam: { accesskey: access-key-x, secretkey: secret-key-x } }";
    let gateway = Gateway::start(&route("/aws", &lambda(&function.url(), keys))).await;
    gateway.get("/aws").await;
    gateway.access_log(1).await;

    let file = gateway.dir().join("fngate.yaml");
    let shown = [
        gateway.admin_get("/metrics").await.text(),
        gateway.admin_get("/routes").await.text(),
        gateway.admin_get("/readyz?verbose").await.text(),
        run(&["routes", "-c", file.to_str().unwrap()]).await.said(),
        run(&["check", file.to_str().unwrap()]).await.said(),
        gateway.stderr(),
        gateway.stdout(),
    ];
    for text in shown {
        for key in ["api-key-x", "access-key-x", "secret-key-x"] {
            assert!(!text.contains(key), "{key}: {text}");
        }
    }
}

#[tokio::test]
async fn case_61_the_query_is_sent_as_it_is_signed() {
    let function = trigger().await;
    let gateway = Gateway::start(&route("/aws", &lambda(&function.url(), IAM))).await;

    gateway.get("/aws?with%20space=a%2Fb%20c&multi=m2&multi=m1&flag&a=*&a-=x").await;

    let seen = function.only_request();
    let query = seen.target().split_once('?').unwrap().1;
    assert_eq!(query, "a=%2A&a-=x&flag=&multi=m1&multi=m2&with%20space=a%2Fb%20c");
    assert!(is_signed(&seen));
}

#[tokio::test]
async fn case_62_and_63_a_chunked_body_arrives_whole() {
    for (authorization, framing) in [("", Some("chunked")), (IAM, None)] {
        let function = trigger().await;
        let gateway = Gateway::start(&route("/aws", &lambda(&function.url(), authorization))).await;
        let mut client = gateway.client().await;
        client
            .send("POST /aws HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n")
            .await;

        assert_eq!(client.response("POST").await.status(), 200);

        let seen = function.only_request();
        assert_eq!(seen.body, b"hello world");
        // Without a signature the body is not held, so that its length is not known; what is signed has one.
        assert_eq!(seen.header("transfer-encoding"), framing);
        assert_eq!(seen.header("content-length").is_some(), framing.is_none());
    }
}

fn lambda(uri: &str, more: &str) -> String {
    format!("aws_lambda: {{ function_uri: '{uri}', {more} }}")
}

const IAM: &str = "authorization: { iam: { accesskey: AKID, secretkey: secret } }";

/// The fixture `/httptrigger`.
async fn trigger() -> Origin {
    Origin::http1().text("aws lambda invoked\n").start().await
}

/// Whether the signature is that of what arrived: computed once more, it is the same.
fn is_signed(seen: &Recorded) -> bool {
    let secret = |text: &str| Secret::new(text.to_owned());
    let keys = Credentials::new(&secret("AKID"), &secret("secret"), None);
    let scope = SigningScope { region: "us-east-1".to_owned(), service: "execute-api".to_owned() };
    (0..60).any(|age| {
        let mut head = RequestHeader::build(seen.method(), seen.target().as_bytes(), None).unwrap();
        head.insert_header("Host", seen.header("host").unwrap()).unwrap();
        let at = SystemTime::now() - Duration::from_secs(age);
        sign(&mut head, &seen.body, &scope, &keys, at).unwrap();
        let is_same = |name: &str| head.headers[name].to_str().unwrap() == seen.header(name).unwrap();
        is_same("x-amz-date") && is_same("authorization")
    })
}
