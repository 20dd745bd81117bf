//! Lambda's API, as moto plays it and as origins do that fail in its ways.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::harness::*;

#[tokio::test]
async fn a_function_is_called_with_keys_that_aws_accepts() {
    let moto = Moto::start().await;
    let arn = Moto::ARN;
    let cases = [
        ("hello", &moto.user, "region: us-east-1"),
        ("hello:$LATEST", &moto.user, "region: us-east-1"),
        ("123456789012:function:hello", &moto.user, "region: us-east-1"),
        (arn, &moto.user, ""),
        ("hello", &moto.role, "region: us-east-1"),
    ];
    for (function, keys, more) in cases {
        let target = format!("{}, {more}", api(&moto_url(&moto), function, keys));
        let gateway = Gateway::start(&route("/fn", &format!("aws_lambda: {{ {target} }}"))).await;

        let answer = gateway.send(&Request::post_json("/fn", r#"{"name": "World"}"#)).await;

        assert_eq!(
            (answer.status(), answer.json::<Value>()),
            (200, json!({ "name": "World" })),
            "{function}"
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn an_event_is_accepted_by_aws() {
    let moto = Moto::start().await;
    let target =
        format!("{}, region: us-east-1, invocation: event", api(&moto_url(&moto), "hello", &moto.user));
    let gateway = Gateway::start(&route("/fn", &format!("aws_lambda: {{ {target} }}"))).await;

    let answer = gateway.send(&Request::post_json("/fn", "{}")).await;

    assert_eq!((answer.status(), answer.body.len()), (202, 0));
}

#[tokio::test]
async fn a_path_parameter_names_the_function() {
    let moto = Moto::start().await;
    let target =
        format!("{}, region: us-east-1, allow: [ hel*, x* ]", api(&moto_url(&moto), "{name}", &moto.user));
    let gateway = Gateway::start(&route("/fn/{name}", &format!("aws_lambda: {{ {target} }}"))).await;

    let call = async |name: &str| gateway.send(&Request::post_json(&format!("/fn/{name}"), "[1]")).await;

    let answer = call("hello").await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "[1]"));
    assert_eq!(call("other").await.code(), "no_route");
    for climbing in ["x:live", "x%3Alive", "x%2Fy", "hel%2e%2e%2f"] {
        assert_eq!(call(climbing).await.code(), "bad_path", "{climbing}");
    }
}

#[tokio::test]
async fn a_refused_credential_is_named_and_says_nothing_of_the_account() {
    let moto = Moto::start().await;
    let wrong = Keys { secretkey: "wrong".to_owned(), ..moto.user.clone() };
    let unknown = Keys { accesskey: "AKIAUNKNOWN".to_owned(), ..moto.user.clone() };
    let without_token = Keys { session_token: None, ..moto.role.clone() };
    for keys in [wrong, unknown, without_token] {
        let target = format!("{}, region: us-east-1", api(&moto_url(&moto), "hello", &keys));
        let gateway = Gateway::start(&route("/fn", &format!("aws_lambda: {{ {target} }}"))).await;

        let answer = gateway.post("/fn", "{}").await;

        assert_eq!((answer.status(), answer.code().as_str()), (403, "credential_refused"));
        let line = gateway.line_of(&answer).await;
        assert_eq!((&line["reason"], &line["status"]), (&json!("credential_refused"), &json!(403)));
        gateway.counts("fngate_failures_total", &[("code", "credential_refused")], 1.0).await;
    }
}

/// A function's URL and an API of API Gateway are signed alike; moto has neither, but its API takes what is sent there.
#[tokio::test]
async fn a_signed_url_is_accepted_by_aws() {
    let moto = Moto::start().await;
    let Keys { accesskey, secretkey, .. } = &moto.user;
    let target = format!(
        "aws_lambda: {{ function_uri: '{}/2015-03-31/functions', authorization: {{ iam: {{ accesskey: '{accesskey}', \
         secretkey: '{secretkey}', service: lambda }} }} }}",
        moto_url(&moto)
    );
    let gateway = Gateway::start(&route("/aws/*", &target)).await;

    let request = Request::post_json("/aws/hello/invocations?Qualifier=%24LATEST&b=2&a=x+y", r#"{"a":"é"}"#)
        .header("X-Amz-Invocation-Type", "Event")
        .header("X-Amzn-Trace-Id", "Root=1");
    let answer = gateway.send(&request).await;

    assert_eq!((answer.status(), answer.text().as_str()), (200, r#"{"a":"é"}"#), "not the client's Event");
}

#[tokio::test]
async fn credentials_are_found_where_awss_own_tools_find_them() {
    let moto = Moto::start().await;
    let target = format!(
        "aws_lambda: {{ function: hello, region: us-east-1, endpoint: '{}', connect_timeout: 10s }}",
        moto_url(&moto)
    );
    let gateway = Gateway::builder()
        .env("AWS_ACCESS_KEY_ID", &moto.role.accesskey)
        .env("AWS_SECRET_ACCESS_KEY", &moto.role.secretkey)
        .env("AWS_SESSION_TOKEN", moto.role.session_token.as_deref().unwrap())
        .start(&route("/fn", &target))
        .await;

    assert_eq!(gateway.post("/fn", "5").await.text(), "5");
}

#[tokio::test]
async fn without_credentials_nothing_is_sent() {
    let origin = answering(Reply::json(&json!({}))).await;
    let target = format!(
        "aws_lambda: {{ function: f, region: eu-west-1, endpoint: '{}', authorization: {{ iam: {{ source: environment }} }} }}",
        origin.url()
    );
    let gateway = Gateway::start(&route("/fn", &target)).await;

    let answer = gateway.get("/fn").await;

    assert_eq!((answer.status(), answer.code().as_str()), (502, "no_credential"));
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn a_deadline_holds_while_credentials_are_waited_for() {
    let origin = answering(Reply::json(&json!({}))).await;
    let silent = Silent::new();
    let target = format!(
        "aws_lambda: {{ function: f, region: eu-west-1, endpoint: '{}', connect_timeout: 60s, deadline: 300ms, \
         authorization: {{ iam: {{ source: container }} }} }}",
        origin.url()
    );
    let gateway = Gateway::builder()
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("http://{}/", silent.addr()))
        .start(&route("/fn", &target))
        .await;

    let answer = gateway.get("/fn").await;

    assert_eq!((answer.status(), answer.code().as_str()), (504, "deadline"));
}

#[tokio::test]
async fn nothing_is_signed_with_expired_credentials_while_their_source_hangs() {
    const LIFE: Duration = Duration::from_secs(9);
    let (gate, first_expiry) = (Gate::closed(), Arc::new(OnceLock::new()));
    let given = Arc::clone(&first_expiry);
    let source = Origin::http1().gated(&gate, move |mut exchange, gate| {
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
        let is_first = given.set(now + LIFE).is_ok();
        let expiry = now + if is_first { LIFE } else { HOUR };
        let expiry = expiry.format(&Rfc3339).unwrap();
        async move {
            gate.passed().await;
            let keys =
                json!({ "AccessKeyId": "AKID", "SecretAccessKey": "s", "Token": "t", "Expiration": expiry });
            exchange.answer(Reply::json(&keys)).await;
        }
    });
    let source = source.start().await;
    let origin = answering(Reply::json(&json!({}))).await;
    let target = format!(
        "aws_lambda: {{ function: f, region: eu-west-1, endpoint: '{}', connect_timeout: 500ms, \
         authorization: {{ iam: {{ source: container }} }} }}",
        origin.url()
    );
    gate.open();
    let gateway = Gateway::builder()
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/keys", source.url()))
        .start(&route("/fn", &target))
        .await;
    let answers = async |status: u16| {
        let call = async || Some(gateway.get("/fn").await).filter(|answer| answer.status() == status);
        eventually(&format!("an answer {status}"), PATIENCE, call).await
    };

    answers(200).await;
    assert_eq!(answers(502).await.code(), "no_credential");
    let expiry = first_expiry
        .get()
        .unwrap()
        .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
        .unwrap();
    for signed in origin.requests() {
        let at = signed.header("x-amz-date").unwrap();
        assert!(at < expiry.as_str(), "signed at {at} with keys that expired at {expiry}");
    }

    (0..10).for_each(|_| gate.open());
    answers(200).await;
}

#[tokio::test]
async fn a_failed_function_is_no_success() {
    let trace =
        json!({ "errorMessage": "boom", "errorType": "Error", "stackTrace": ["/var/task/index.js:1"] });
    let failed =
        Reply::json(&trace).header("X-Amz-Function-Error", "Unhandled").header("x-amzn-RequestId", "call-1");
    let origin = answering(failed).await;
    for more in ["", "payload: apigw_v2", "payload: alb, invocation: stream"] {
        let gateway = Gateway::start(&function(&origin, more)).await;

        let answer = gateway.get("/fn").await;

        assert_eq!((answer.status(), answer.code().as_str()), (502, "function_error"), "{more}");
        assert!(!answer.text().contains("boom") && !answer.text().contains("/var/task"), "{}", answer.text());
        let line = gateway.line_of(&answer).await;
        assert_eq!((&line["reason"], &line["activation_id"]), (&json!("function_error"), &json!("call-1")));
        gateway.counts("fngate_failures_total", &[("code", "function_error")], 1.0).await;
    }
}

#[tokio::test]
async fn what_the_api_refuses_has_a_reason_and_tells_no_secrets() {
    let cases = [
        (400, "InvalidRequestContentException", 400, "bad_request"),
        (400, "InvalidParameterValueException", 502, "platform_error"),
        (403, "AccessDeniedException", 403, "credential_refused"),
        (404, "ResourceNotFoundException", 404, "no_function"),
        (409, "ResourceConflictException", 502, "platform_error"),
        (413, "RequestTooLargeException", 413, "body_too_large"),
        (429, "TooManyRequestsException", 429, "throttled"),
        (500, "ServiceException", 502, "platform_error"),
        (502, "KMSAccessDeniedException", 502, "platform_error"),
    ];
    for invocation in ["request_response", "event", "stream"] {
        for (status, kind, expected, code) in cases {
            let said = json!({ "Message": "User: arn:aws:iam::123456789012:user/x may not", "Type": "User" });
            let reply = Reply::json(&said)
                .with_status(status)
                .header("x-amzn-ErrorType", kind)
                .header("Retry-After", "7");
            let origin = answering(reply).await;
            let gateway = Gateway::start(&function(&origin, &format!("invocation: {invocation}"))).await;

            let answer = gateway.get("/fn").await;

            assert_eq!((answer.status(), answer.code().as_str()), (expected, code), "{invocation} {kind}");
            assert!(!answer.text().contains("123456789012"), "{}", answer.text());
            assert_eq!(answer.header("retry-after"), (status == 429).then_some("7"));
        }
    }
}

#[tokio::test]
async fn an_event_has_a_call_id() {
    let origin = answering(Reply::new(202, "").header("x-amzn-RequestId", "call-1")).await;
    let gateway = Gateway::start(&function(&origin, "invocation: event")).await;

    let answer = gateway.send(&Request::post_json("/fn", "{}")).await;

    assert_eq!((answer.status(), answer.header("x-amzn-requestid")), (202, Some("call-1")));
    let line = gateway.line_of(&answer).await;
    assert_eq!(line["activation_id"], "call-1");
    assert_eq!(origin.only_request().header("x-amz-invocation-type"), Some("Event"));

    let large = Request::post_json("/fn", &json!("x".repeat(1 << 20)).to_string());
    assert_eq!(gateway.send(&large).await.code(), "body_too_large");
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_request_becomes_an_event_and_a_return_value_an_answer() {
    let origin = Origin::http1()
        .reply(|request| {
            let event: Value = serde_json::from_slice(&request.body).unwrap();
            Reply::json(&json!({
                "statusCode": 201,
                "headers": { "content-type": "image/png", "x-method": event["requestContext"]["http"]["method"] },
                "cookies": ["a=1; Secure", "b=2"],
                "isBase64Encoded": event["isBase64Encoded"],
                "body": event["body"],
            }))
        })
        .start()
        .await;
    let yaml = function(&origin, "payload: apigw_v2").replace("\"/fn\"", "\"/fn/{kind}/*\"");
    let gateway = Gateway::start(&yaml).await;
    let bytes: Vec<u8> = (0..=255).collect();
    let request = Request::new("PUT", "/fn/image/a%2Fb?q=1&q=2")
        .header("Content-Type", "image/png")
        .header("Cookie", "c=3")
        .header("X-Amzn-Trace-Id", "Root=forged")
        .body(bytes.clone());

    let answer = gateway.send(&request).await;

    assert_eq!((answer.status(), answer.header("x-method")), (201, Some("PUT")));
    assert_eq!(answer.all("set-cookie"), ["a=1; Secure", "b=2"]);
    assert!(answer.body == bytes);
    let event: Value = serde_json::from_slice(&origin.only_request().body).unwrap();
    assert_eq!((&event["rawPath"], &event["rawQueryString"]), (&json!("/fn/image/a%2Fb"), &json!("q=1&q=2")));
    assert_eq!(event["pathParameters"], json!({ "kind": "image", "proxy": "a/b" }));
    assert_eq!(event["requestContext"]["http"]["sourceIp"], "127.0.0.1");
    assert_eq!(event["requestContext"]["requestId"], answer.header("x-request-id").unwrap());
    assert_eq!((&event["cookies"], &event["headers"]["x-amzn-trace-id"]), (&json!(["c=3"]), &Value::Null));
}

#[tokio::test]
async fn a_return_value_that_is_no_answer_is_a_bad_envelope() {
    let origin = answering(Reply::json(&json!({ "message": "no status" }))).await;
    for (payload, status) in [("apigw_v1", 502), ("alb", 502), ("apigw_v2", 200), ("raw", 200)] {
        let gateway = Gateway::start(&function(&origin, &format!("payload: {payload}"))).await;
        let answer = gateway.get("/fn").await;
        assert_eq!(answer.status(), status, "{payload}");
        assert_eq!(answer.code() == "bad_envelope", status == 502, "{payload}");
    }
}

#[tokio::test]
async fn the_first_byte_of_a_stream_is_out_before_the_last_is_written() {
    let gate = Gate::closed();
    let origin = Origin::http1()
        .gated(&gate, |mut exchange, gate| async move {
            exchange.body().await;
            exchange.start_chunked("application/vnd.amazon.eventstream").await;
            exchange.send(piece(&said(r#"{"statusCode":201,"headers":{"x-own":"1"}}"#, "first"))).await;
            gate.passed().await;
            exchange.send(piece(&[chunk(b", last"), complete("{}")].concat())).await;
            exchange.end_chunked().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&function(&origin, "invocation: stream, payload: apigw_v1")).await;
    let mut client = gateway.client().await;
    for _ in 0..2 {
        client.start(&Request::get("/fn")).await;
        let head = client.head().await;
        assert_eq!((head.word(1), head.header("x-own")), ("201", Some("1")));
        let mut body = client.body(&head, "GET");
        assert_eq!(body.until("first").await, "first");
        gate.open();
        assert_eq!(body.until("last").await, ", last");
        assert!(matches!(body.next().await, Piece::End), "a clean end");
    }
    assert_eq!(origin.accepted(), 1, "the connection is used again");
    let target = "/2021-11-15/functions/test/response-streaming-invocations";
    assert!(origin.requests().iter().all(|request| request.target() == target));
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_byte_is_a_502() {
    let failed = complete(r#"{"ErrorCode":"Unhandled","ErrorDetails":"secret"}"#);
    let exception = message("exception", "ServiceException", b"{}");
    for (stream, code) in [
        (failed, "function_error"),
        (exception, "platform_error"),
        (chunk(b"{"), "upstream_reset"),
        (b"nonsense, and more of it".to_vec(), "bad_envelope"),
    ] {
        let origin = streaming(stream).await;
        let gateway = Gateway::start(&function(&origin, "invocation: stream, payload: apigw_v2")).await;

        let answer = gateway.get("/fn").await;

        assert_eq!((answer.status(), answer.code().as_str()), (502, code));
        assert!(!answer.text().contains("secret"));
    }
}

#[tokio::test]
async fn a_stream_that_fails_later_is_cut() {
    let gate = Gate::closed();
    let origin = Origin::http1()
        .gated(&gate, |mut exchange, gate| async move {
            exchange.body().await;
            exchange.start_chunked("application/vnd.amazon.eventstream").await;
            exchange.send(piece(&chunk(b"half"))).await;
            gate.passed().await;
            exchange.send(piece(&complete(r#"{"ErrorCode":"Unhandled"}"#))).await;
            exchange.end_chunked().await;
        })
        .start()
        .await;
    let gateway = Gateway::start(&function(&origin, "invocation: stream")).await;
    let mut client = gateway.client().await;
    client.start(&Request::get("/fn")).await;
    let head = client.head().await;
    assert_eq!(head.word(1), "200");
    let mut body = client.body(&head, "GET");
    assert_eq!(body.until("half").await, "half");
    gate.open();

    assert!(matches!(body.next().await, Piece::Cut), "never a clean end");

    let line = gateway.access_log(1).await.remove(0);
    assert_eq!((&line["reason"], &line["status"]), (&json!("function_error"), &json!(200)));
}

/// The keys of Lambda's API, without the region.
fn api(url: &str, function: &str, keys: &Keys) -> String {
    let Keys { accesskey, secretkey, session_token } = keys;
    let token = session_token.as_ref().map_or(String::new(), |token| format!(", session_token: '{token}'"));
    format!(
        "function: '{function}', endpoint: '{url}', \
         authorization: {{ iam: {{ accesskey: '{accesskey}', secretkey: '{secretkey}'{token} }} }}"
    )
}

fn moto_url(moto: &Moto) -> String {
    format!("http://{}", moto.addr())
}

/// A route `/fn` to the function `test`.
fn function(origin: &Origin, more: &str) -> String {
    let keys = Keys { accesskey: "AKID".to_owned(), secretkey: "secret".to_owned(), session_token: None };
    route(
        "/fn",
        &format!("aws_lambda: {{ {}, region: eu-west-1, {more} }}", api(&origin.url(), "test", &keys)),
    )
}

async fn answering(reply: Reply) -> Origin {
    Origin::http1().reply(move |_| reply.clone()).start().await
}

/// An origin that writes this event stream.
async fn streaming(stream: Vec<u8>) -> Origin {
    answering(Reply::new(200, stream).header("Content-Type", "application/vnd.amazon.eventstream")).await
}

/// A piece of a chunked body.
fn piece(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

fn message(kind: &'static str, name: &'static str, payload: &[u8]) -> Vec<u8> {
    let text = |text: &'static str| HeaderValue::String(text.into());
    let label = if kind == "event" { ":event-type" } else { ":exception-type" };
    let message = Message::new(payload.to_vec())
        .add_header(Header::new(":message-type", text(kind)))
        .add_header(Header::new(label, text(name)));
    let mut out = Vec::new();
    write_message_to(&message, &mut out).unwrap();
    out
}

fn chunk(payload: &[u8]) -> Vec<u8> {
    message("event", "PayloadChunk", payload)
}

/// A chunk with a head of the function's, and what follows.
fn said(head: &str, body: &str) -> Vec<u8> {
    chunk(&[head.as_bytes(), &[0; 8], body.as_bytes()].concat())
}

fn complete(payload: &str) -> Vec<u8> {
    message("event", "InvokeComplete", payload.as_bytes())
}

const HOUR: Duration = Duration::from_secs(3600);
