//! The servers over real sockets, spoken to with a client that knows nothing but bytes.

use std::time::SystemTime;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
/// Asking again for what takes a while.
const BETWEEN: Duration = Duration::from_millis(20);
/// `guest:demo-key`
const GOOD: &str = "Basic Z3Vlc3Q6ZGVtby1rZXk=";

struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// One request on a connection of its own.
async fn send(to: SocketAddr, method: &str, target: &str, headers: &[&str], body: &str) -> Answer {
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    for header in headers {
        request += &format!("{header}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    exchange(to, &request).await
}

async fn exchange(to: SocketAddr, request: &str) -> Answer {
    let received = timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut received = String::new();
        stream.read_to_string(&mut received).await.unwrap();
        received
    });
    let received = received.await.expect("the server answers and closes");
    let (head, body) = received.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    Answer { status, head: format!("{}\r\n", head.to_ascii_lowercase()), body: body.to_owned() }
}

async fn get(to: SocketAddr, target: &str) -> (u16, String) {
    let answer = send(to, "GET", target, &[], "").await;
    (answer.status, answer.body)
}

async fn invoke(to: SocketAddr, action: &str, body: &str) -> Answer {
    let target = format!("/api/v1/namespaces/guest/actions/{action}?blocking=true&result=true&timeout=20000");
    send(to, "POST", &target, &[&format!("Authorization: {GOOD}")], body).await
}

#[tokio::test]
async fn a_function_greets_by_the_last_segment() {
    let functions = start().await.unwrap();
    for (path, status, body) in [
        ("/x", 200, "Hello, x!\n"),
        ("/function-sample", 200, "Hello, function-sample!\n"),
        ("/default/function-sample", 200, "Hello, World!\n"),
        ("/default/function-sample/", 200, "Hello, World!\n"),
        ("/default/function-sample/Ada%20L?u=1", 200, "Hello, Ada L!\n"),
        ("/default/function-sample/a/b", 404, "404 not found\n"),
        ("/default/non-existent", 404, "404 not found\n"),
        ("/default/function-sampler", 404, "404 not found\n"),
    ] {
        assert_eq!(get(functions.openfunction, path).await, (status, body.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_function_sees_body_and_credentials() {
    let functions = start().await.unwrap();
    let of = functions.openfunction;
    for path in ["/echo", "/default/test-body"] {
        assert_eq!(send(of, "POST", path, &[], "test").await.body, "Hello, test!\n");
    }
    assert_eq!(send(of, "GET", "/header", &[], "").await.body, "[]");
    let twice = send(of, "POST", "/header", &["Authorization: one", "authorization: Basic dGVzdDp0ZXN0"], "");
    assert_eq!(twice.await.body, "[one Basic dGVzdDp0ZXN0]");
}

#[tokio::test]
async fn a_slow_function_answers_in_the_end() {
    let functions = start().await.unwrap();
    let (status, body) = get(functions.openfunction, "/slow?ms=20").await;
    assert_eq!((status, body.as_str()), (200, "Answered after 20 ms.\n"));
}

#[tokio::test]
async fn all_events_arrive() {
    let functions = start().await.unwrap();
    let answer = send(functions.openfunction, "GET", "/events?ms=1", &[], "").await;
    assert!(answer.head.contains("content-type: text/event-stream"), "{}", answer.head);
    assert_eq!(answer.body.matches("data: event ").count(), 5);
    assert!(answer.body.ends_with("0\r\n\r\n"), "the stream ends in order: {}", answer.body);
}

#[tokio::test]
async fn the_first_event_does_not_wait_for_the_second() {
    let functions = start().await.unwrap();
    let mut stream = TcpStream::connect(functions.openfunction).await.unwrap();
    stream.write_all(b"GET /events?ms=3600000 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut stream, "data: event 1 of 5\n\n").await;
}

#[tokio::test]
async fn a_connection_is_kept_and_closed_when_idle() {
    let (address, listener) = bind("test").await.unwrap();
    let server = tokio::spawn(serve::serve(listener, Duration::from_secs(1), openfunction::respond));
    let mut stream = TcpStream::connect(address).await.unwrap();
    for name in ["one", "two"] {
        let request = format!("GET /{name} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "!\n").await;
        assert!(
            answer.contains("keep-alive: timeout=1\r\n") && answer.ends_with(&format!("Hello, {name}!\n"))
        );
    }
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed when idle").unwrap();
    assert!(rest.is_empty(), "nothing is said on the way out: {rest:?}");
    server.abort();
}

#[tokio::test]
async fn the_http2_preface_is_answered_with_settings() {
    let functions = start().await.unwrap();
    let mut stream = TcpStream::connect(functions.openfunction).await.unwrap();
    let empty_settings = b"\0\0\0\x04\0\0\0\0\0";
    stream
        .write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), empty_settings].concat())
        .await
        .unwrap();
    let mut header = [0; 9];
    timeout(PATIENCE, stream.read_exact(&mut header)).await.expect("a frame arrives").unwrap();
    assert_eq!(header[3], 4, "a SETTINGS frame: {header:?}");
}

#[tokio::test]
async fn dropping_the_functions_ends_their_connections() {
    let functions = start().await.unwrap();
    let address = functions.plain;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.contains("keep-alive: timeout=5\r\n"), "{head}");
    drop(functions);
    let mut rest = Vec::new();
    // Whether it ends with a FIN or a reset does not matter.
    let _ = timeout(Duration::from_secs(3), stream.read_to_end(&mut rest)).await.expect("ends at once");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_plain_server_tells_what_it_saw() {
    let functions = start().await.unwrap();
    let answer = send(functions.plain, "PUT", "/a%20b//c?x=1&x=2", &["X-Note: hi"], "payload").await;
    assert!(answer.body.starts_with("PUT /a%20b//c?x=1&x=2 HTTP/1.1\n"), "{}", answer.body);
    assert!(
        answer.body.contains("\nx-note: hi\n") && answer.body.ends_with("\n\npayload"),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn actions_answer_with_their_result() {
    let functions = start().await.unwrap();
    for (action, body, status, result) in [
        ("hello", "", 200, r#"{"hello":"test"}"#),
        ("hello", r#"{"name":"Ada"}"#, 200, r#"{"hello":"Ada"}"#),
        ("test-params", r#"{"name": "world"}"#, 200, r#"{"hello":"world"}"#),
        ("test%2Dparams", "{}", 200, r#"{"hello":"test"}"#),
        ("pkg/testpkg", "{}", 200, r#"{"hello":"world"}"#),
        ("test-statuscode", "{}", 200, r#"{"statusCode":407}"#),
        ("test-headers", "{}", 200, r#"{"headers":{"test":"header"}}"#),
        ("test-body", "{}", 200, r#"{"body":{"test":"body"}}"#),
        ("web", r#"{"__ow_method":"get"}"#, 200, r#"{"statusCode":200,"body":{"__ow_method":"get"}}"#),
        ("slow", r#"{"ms":1}"#, 200, r#"{"slept_ms":1}"#),
        ("fail", "{}", 502, r#"{"error":"This action always fails."}"#),
    ] {
        let answer = invoke(functions.openwhisk, action, body).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, result), "{action}");
        assert!(answer.head.contains("\r\nx-openwhisk-activation-id: 0"), "{action}: {}", answer.head);
    }
}

#[tokio::test]
async fn the_binary_action_returns_a_png() {
    use base64::Engine as _;
    let functions = start().await.unwrap();
    let answer = invoke(functions.openwhisk, "binary", "").await;
    let result: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let image = base64::prelude::BASE64_STANDARD.decode(result["body"].as_str().unwrap()).unwrap();
    assert!(image.starts_with(b"\x89PNG\r\n") && image.ends_with(b"IEND\xaeB`\x82"));
}

#[tokio::test]
async fn a_call_that_cannot_be_made_is_refused() {
    let functions = start().await.unwrap();
    let good = format!("Authorization: {GOOD}");
    let hello = "/api/v1/namespaces/guest/actions/hello?blocking=true";
    for (method, target, header, body, status, reason) in [
        ("POST", hello, "X-None: 1", "", 401, "needs basic authentication"),
        ("POST", hello, "Authorization: Basic dGVzdDp0ZXN0", "", 401, "is invalid"),
        ("POST", hello, "Authorization: Bearer Z3Vlc3Q6ZGVtby1rZXk=", "", 401, "is invalid"),
        ("GET", hello, good.as_str(), "", 405, "Only POST"),
        ("POST", hello, good.as_str(), "test=test", 400, "The request content was malformed"),
        ("POST", hello, good.as_str(), "[1]", 400, "The request content was malformed"),
        ("POST", "/api/v1/namespaces/guest/actions/gone", good.as_str(), "", 404, "resource does not exist."),
        ("POST", "/api/v1/namespaces/guest/actions/pkg/hello", good.as_str(), "", 404, "does not exist."),
        ("POST", "/elsewhere", good.as_str(), "", 404, "The requested resource does not exist."),
        ("POST", "/api/v1/namespaces/others/actions/hello", good.as_str(), "", 403, "namespace"),
        ("POST", "/api/v1/namespaces/_/actions/hello?timeout=0", good.as_str(), "", 400, "`timeout`"),
        ("POST", "/api/v1/namespaces/_/actions/hello?timeout=60001", good.as_str(), "", 400, "`timeout`"),
    ] {
        let answer = send(functions.openwhisk, method, target, &[header, "X-Request-Id: t-1"], body).await;
        let fault: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer.status, status, "{target} {header}: {}", answer.body);
        assert!(fault["error"].as_str().unwrap().contains(reason), "{target}: {fault}");
        assert_eq!(fault["code"], "t-1", "the caller's request id is the transaction");
        assert_eq!(answer.head.contains("www-authenticate: basic"), status == 401);
    }
}

#[tokio::test]
async fn an_input_over_the_limit_is_413() {
    let functions = start().await.unwrap();
    for (length, status) in [(1 << 20, 200), ((1 << 20) + 1, 413)] {
        let padding = "x".repeat(length - r#"{"name":""}"#.len());
        let answer = invoke(functions.openwhisk, "hello", &format!(r#"{{"name":"{padding}"}}"#)).await;
        assert_eq!(answer.status, status, "{length} bytes");
    }
}

#[tokio::test]
async fn what_is_not_finished_is_202() {
    let functions = start().await.unwrap();
    let good = format!("Authorization: {GOOD}");
    for target in [
        "/api/v1/namespaces/_/actions/slow?blocking=true&result=true&timeout=1",
        "/api/v1/namespaces/_/actions/hello",
    ] {
        let answer = send(functions.openwhisk, "POST", target, &[&good], "").await;
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let id = body["activationId"].as_str().unwrap();
        assert_eq!((answer.status, id.len()), (202, 32));
        assert!(answer.head.contains(&format!("x-openwhisk-activation-id: {id}")));
    }
}

#[tokio::test]
async fn without_result_the_whole_record_is_returned() {
    let functions = start().await.unwrap();
    let target = "/api/v1/namespaces/_/actions/hello?blocking=true";
    let answer = send(functions.openwhisk, "POST", target, &[&format!("Authorization: {GOOD}")], "").await;
    let record: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(record["response"]["result"]["hello"], "test");
    assert_eq!(record["response"]["success"], true);
    assert!(record["end"].as_u64() >= record["start"].as_u64() && record["name"] == "hello");
}

#[tokio::test]
async fn services_of_knative_are_told_apart_by_host() {
    let functions = start().await.unwrap();
    let ask = async |host: &str, more: &str| {
        let request = format!("GET /a/Ada HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        let answer = exchange(functions.knative, &request).await;
        (answer.status, answer.head.contains("\r\nx-content-type-options: nosniff\r\n"), answer.body)
    };
    let told = |status: u16, is_gos, body: &str| (status, is_gos, body.to_owned());

    assert_eq!(ask("hello.default.example.com", "").await, told(200, false, "Hello, Ada!\n"));
    assert_eq!(
        ask("hello.default.example.com", "K-Network-Probe: queue\r\n").await,
        told(200, false, "queue")
    );
    assert_eq!(ask("full.default.example.com", "").await, told(503, true, "pending request queue full\n"));
    for unknown in ["none.default.example.com", "hello.other.example.com", "hello.default.example.org", "x"] {
        assert_eq!(ask(unknown, "").await, told(404, false, ""), "{unknown}");
    }
}

#[tokio::test]
async fn a_cold_service_comes_up_after_it_was_asked_for() {
    let functions = start().await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: cold.default.example.com\r\nConnection: close\r\n\r\n";
    let ask = async || exchange(functions.knative, request).await.body;
    let began = Instant::now();
    let mut body = ask().await;
    assert_eq!(body, "context deadline exceeded\n");
    while body == "context deadline exceeded\n" {
        assert!(began.elapsed() < PATIENCE, "it never comes up");
        sleep(BETWEEN).await;
        body = ask().await;
    }
    assert_eq!(body, "Hello, World!\n");
}

/// What an API call has for headers when it is signed at `at`, for `region`, with `secret`.
fn signed(
    to: SocketAddr,
    target: &str,
    body: &str,
    at: SystemTime,
    region: &str,
    secret: &str,
) -> Vec<String> {
    use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
    let identity = aws_credential_types::Credentials::new(AWS_ACCESS_KEY, secret, None, None, "test").into();
    let params = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("lambda")
        .time(at)
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let url = format!("http://{to}{target}");
    let body = SignableBody::Bytes(body.as_bytes());
    let signed = sign(SignableRequest::new("POST", url, [].into_iter(), body).unwrap(), &params).unwrap();
    signed.into_parts().0.headers().map(|(name, value)| format!("{name}: {value}")).collect()
}

async fn call(to: SocketAddr, target: &str, headers: &[String], body: &str) -> Answer {
    let headers: Vec<_> = headers.iter().map(String::as_str).collect();
    send(to, "POST", target, &headers, body).await
}

const HELLO: &str = "/2015-03-31/functions/hello/invocations";

#[tokio::test]
async fn lambda_takes_calls_that_are_signed_with_the_demos_keys() {
    let functions = start().await.unwrap();
    let aws = functions.aws_lambda;
    let now = SystemTime::now();
    let signed = |target: &str, body: &str| signed(aws, target, body, now, AWS_REGION, AWS_SECRET_KEY);

    let event = r#"{"name":"Ada"}"#;
    let answer = call(aws, HELLO, &signed(HELLO, event), event).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"hello":"Ada"}"#));
    assert!(answer.head.contains("\r\nx-amzn-requestid: "), "{}", answer.head);
    for (kind, status) in [("Event", 202), ("DryRun", 204)] {
        let mut headers = signed(HELLO, event);
        headers.push(format!("X-Amz-Invocation-Type: {kind}"));
        let answer = call(aws, HELLO, &headers, event).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{kind}");
    }
    let failing = HELLO.replace("hello", "fail");
    let failed = call(aws, &failing, &signed(&failing, event), event).await;
    assert_eq!(failed.status, 200);
    assert!(failed.head.contains("\r\nx-amz-function-error: unhandled\r\n"), "{}", failed.head);
    let unknown = HELLO.replace("hello", "none");
    assert_eq!(call(aws, &unknown, &signed(&unknown, event), event).await.status, 404);
    assert_eq!(call(aws, HELLO, &signed(HELLO, "no json"), "no json").await.status, 400);
}

#[tokio::test]
async fn lambda_refuses_every_other_call() {
    let functions = start().await.unwrap();
    let aws = functions.aws_lambda;
    let now = SystemTime::now();
    let late = now - Duration::from_secs(3600);
    let good = signed(aws, HELLO, "{}", now, AWS_REGION, AWS_SECRET_KEY);
    let changed = |from: &str, to: &str| good.iter().map(|line| line.replace(from, to)).collect::<Vec<_>>();
    for (headers, body, exception) in [
        (vec![], "{}", "missingauthenticationtoken"),
        (vec!["Authorization: Basic Z3Vlc3Q6ZGVtby1rZXk=".to_owned()], "{}", "missingauthenticationtoken"),
        (good.clone(), "{ }", "invalidsignature"),
        (signed(aws, HELLO, "{}", now, AWS_REGION, "wrong"), "{}", "invalidsignature"),
        (signed(aws, HELLO, "{}", now, "us-east-1", AWS_SECRET_KEY), "{}", "invalidsignature"),
        (signed(aws, "/other", "{}", now, AWS_REGION, AWS_SECRET_KEY), "{}", "invalidsignature"),
        (signed(aws, HELLO, "{}", late, AWS_REGION, AWS_SECRET_KEY), "{}", "invalidsignature"),
        (changed(AWS_ACCESS_KEY, "AKIAOTHER"), "{}", "unrecognizedclient"),
        (changed("SignedHeaders=host;", "SignedHeaders="), "{}", "invalidsignature"),
        (changed("SignedHeaders=host;", "SignedHeaders=host;x-none;"), "{}", "invalidsignature"),
    ] {
        let answer = call(aws, HELLO, &headers, body).await;
        assert_eq!(answer.status, 403, "{headers:?}");
        let kind = format!("\r\nx-amzn-errortype: {exception}exception\r\n");
        assert!(answer.head.contains(&kind), "{headers:?}: {}", answer.head);
    }
    for (header, status) in [("X-Api-Key: demo-api-key", 200), ("X-Api-Key: other", 403), ("X-None: 1", 403)]
    {
        assert_eq!(send(aws, "GET", "/prod/hello/Ada", &[header], "").await.status, status, "{header}");
    }
}

#[tokio::test]
async fn an_app_of_azure_asks_for_its_key() {
    let functions = start().await.unwrap();
    let app = functions.azure_functions;
    for (target, header, status) in [
        ("/api/hello/Ada", "X-Functions-Key: demo-app-key", 200),
        ("/api/hello/Ada?code=demo-app-key", "X-None: 1", 200),
        ("/api/hello/Ada?code=demo-app-key", "X-Functions-Key: other", 401),
        ("/api/hello/Ada", "X-None: 1", 401),
        ("/api/hello/Ada", "X-Functions-Key: demo-system-key", 401),
        ("/api/none", "X-Functions-Key: demo-app-key", 404),
        ("/api/none", "X-None: 1", 401),
        ("/runtime/webhooks/durabletask/instances/1?code=demo-app-key", "X-None: 1", 401),
        ("/runtime/webhooks/durabletask/instances/1", "X-Functions-Key: demo-system-key", 401),
        ("/runtime/webhooks/durabletask/instances/1?code=demo-system-key", "X-None: 1", 404),
        ("/runtime/webhooks/durabletask/instances/x?code=demo-system-key", "X-None: 1", 404),
        ("/elsewhere", "X-None: 1", 404),
    ] {
        assert_eq!(send(app, "GET", target, &[header], "").await.status, status, "{target} {header}");
    }
}

#[tokio::test]
async fn an_orchestration_runs_and_completes() {
    let functions = start().await.unwrap();
    let app = functions.azure_functions;
    let started = send(app, "POST", "/api/orchestrators/hello", &["X-Functions-Key: demo-app-key"], "").await;
    assert_eq!(started.status, 202);
    let body: serde_json::Value = serde_json::from_str(&started.body).unwrap();
    let url = body["statusQueryGetUri"].as_str().unwrap();
    assert!(
        started.head.contains(&format!("location: {}\r\n", url.to_ascii_lowercase())),
        "{}",
        started.head
    );
    let target = url.strip_prefix(&format!("http://{app}")).unwrap();
    let began = Instant::now();
    let (mut status, mut body) = get(app, target).await;
    assert_eq!(status, 202);
    while status == 202 {
        assert!(body.contains(r#""runtimeStatus":"Running""#) && began.elapsed() < PATIENCE, "{body}");
        sleep(BETWEEN).await;
        (status, body) = get(app, target).await;
    }
    assert!(status == 200 && body.contains(r#""output":"Hello, World!""#), "{status} {body}");
}

#[tokio::test]
async fn openfaas_calls_queues_and_runs_out_of_time() {
    let functions = start().await.unwrap();
    let faas = functions.openfaas;
    for (method, target, status, body, is_measured) in [
        ("GET", "/function/hello", 200, "Hello, World!\n", true),
        ("POST", "/function/hello/Ada%20L?x=1", 200, "Hello, Ada L!\n", true),
        ("GET", "/function/img-resize/a.png", 200, "Resized a.png.\n", true),
        ("GET", "/function/asleep", 200, "", false),
        ("GET", "/function/none", 404, "error finding function none\n", false),
        ("POST", "/async-function/hello", 202, "", false),
        ("GET", "/async-function/hello", 405, "", false),
        ("GET", "/system/functions", 404, "", false),
    ] {
        let answer = send(faas, method, target, &[], "").await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{method} {target}");
        assert_eq!(
            answer.head.contains("\r\nx-duration-seconds: "),
            is_measured,
            "{target}: {}",
            answer.head
        );
        assert_eq!(answer.head.contains("\r\nx-call-id: "), target != "/system/functions", "{target}");
        assert_eq!(answer.head.contains("\r\ncontent-length: 0\r\n"), body.is_empty(), "{target}");
    }
    let named = send(faas, "GET", "/function/hello", &["X-Call-Id: mine"], "").await;
    assert!(!named.head.contains("x-call-id"), "{}", named.head);
}

#[tokio::test]
async fn every_route_has_a_sample() {
    let (listen, admin) = ("127.0.0.1:9080".parse().unwrap(), "127.0.0.1:9180".parse().unwrap());
    let functions = start().await.unwrap();
    let config: serde_json::Value = serde_yaml::from_str(&config(&functions, listen, admin)).unwrap();
    let routes = config["routes"].as_array().unwrap();
    let mut patterns: Vec<_> = routes.iter().map(|route| route["match"]["path"].as_str().unwrap()).collect();
    for sample in samples(listen, admin).iter().flat_map(|group| &group.samples) {
        let Some((_, path)) = sample.command.split_once("127.0.0.1:9080") else {
            assert!(sample.command.ends_with(" 127.0.0.1:9180/metrics"), "{}", sample.command);
            continue;
        };
        let path = path.split(['?', '\'']).next().unwrap();
        let fits = |pattern: &str| {
            let mut segments = path.split('/');
            let named = pattern.trim_end_matches("/*").split('/').all(|named| {
                segments.next().is_some_and(|segment| segment == named || named.starts_with('{'))
            });
            named && segments.next().is_some() == pattern.ends_with("/*")
        };
        assert!(routes.iter().any(|route| fits(route["match"]["path"].as_str().unwrap())), "{path}");
        patterns.retain(|pattern| !fits(pattern));
    }
    assert!(patterns.is_empty(), "routes that no sample shows: {patterns:?}");
}

#[tokio::test]
async fn the_demo_listens_wherever_it_is_told_to() {
    let functions = start().await.unwrap();
    let yaml = config(&functions, "[::1]:9080".parse().unwrap(), "[::1]:9180".parse().unwrap());
    let loaded = crate::config::load_text(std::path::Path::new("fngate.yaml"), yaml);
    assert_eq!(loaded.report.faults(), 0, "{}", loaded.report.render(crate::config::Style::Plain));
}

#[test]
fn the_banner_has_every_sample_below_its_platform() {
    let (listen, admin) = ("127.0.0.1:9080".parse().unwrap(), "127.0.0.1:9180".parse().unwrap());
    let banner = banner(listen, admin);
    let mut lines = banner.lines().skip(1);
    for group in samples(listen, admin) {
        assert_eq!(lines.next(), Some(group.title));
        for sample in group.samples {
            let (command, answer) = lines.next().and_then(|line| line.split_once("  # ")).unwrap();
            assert_eq!((command.trim(), answer), (sample.command.as_str(), sample.answer));
        }
    }
    assert_eq!(lines.collect::<Vec<_>>(), ["Ctrl-C ends it."]);
}

/// Everything up to and with `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut received = String::new();
    let reading = async {
        while !received.contains(end) {
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).await.unwrap();
            assert!(count > 0, "closed before {end:?}: {received}");
            received.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
        }
    };
    timeout(PATIENCE, reading).await.expect("the answer arrives");
    received
}
