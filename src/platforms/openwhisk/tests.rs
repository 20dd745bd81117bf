//! The keys, and both heads: a request in, the platform's out; the platform's answer in, the client's out.

use super::*;
use crate::diag::{Diagnostic, Diagnostics, Holds, Severity};
use crate::platforms::tests;

fn compile_yaml(yaml: &str) -> (Option<Compiled>, Vec<Diagnostic>) {
    let book = Diagnostics::default();
    let raw: Raw = serde_yaml::from_str(yaml).expect("the keys are right");
    let compiled = compile(raw, Route { parameters: &["name"], has_suffix: true }, &Scope::root(&book, 0));
    // Whether others can read the file is not known here.
    let found = book.into_inner().into_iter().filter(|found| found.holds == Holds::Always).collect();
    (compiled, found)
}

/// `keys` come after those every action has, and win.
fn with(keys: &str) -> String {
    let own = [
        "api_host: https://whisk.example.com",
        "service_token: 'uuid:key'",
        "namespace: guest",
        "action: hello",
    ];
    let name = |line: &str| line.split(':').next().map(str::to_owned);
    let lines = own.into_iter().filter(|line| keys.lines().all(|k| name(k) != name(line)));
    lines.chain(keys.lines()).collect::<Vec<_>>().join("\n")
}

fn action(keys: &str) -> Action {
    match compile_yaml(&with(keys)) {
        (Some(Compiled { target: Target::Buffered(BufferedTarget::OpenWhisk(action)), .. }), _) => action,
        other => panic!("{keys}: {other:?}"),
    }
}

fn call() -> Call<'static> {
    Call { suffix: Some("x"), query: Some("a=1"), ..tests::call() }
}

fn sealed(keys: &str, body: &'static str) -> Result<(RequestHeader, Bytes), GatewayError> {
    let mut req = RequestHeader::build("PUT", b"/hello/x?a=1", None).unwrap();
    for (name, value) in [
        ("Host", "api.example.com"),
        ("Authorization", "Bearer client"),
        ("Cookie", "c=1"),
        ("Content-Type", "text/plain"),
        ("X-Request-Id", "the client's"),
        ("User-Agent", "curl"),
        ("X-Other", "1"),
    ] {
        req.append_header(name, value).unwrap();
    }
    let body =
        action(keys).seal(&call(), &mut req, Bytes::from_static(body.as_bytes()), &tests::seal(None))?;
    Ok((req, body))
}

#[track_caller]
fn target(keys: &str, expected: &str) {
    let (req, _) = sealed(keys, "").unwrap();
    assert_eq!(std::str::from_utf8(req.raw_path()).unwrap(), expected, "{keys}");
}

#[test]
fn the_target_names_the_action() {
    target("", "/api/v1/namespaces/guest/actions/hello?blocking=true&result=true&timeout=60000");
    target(
        "package: pkg\nresult: false\ntimeout: 3s",
        "/api/v1/namespaces/guest/actions/pkg/hello?blocking=true&result=false&timeout=3000",
    );
    target(
        "namespace: _\naction: a b@c.d-e\npackage: x@",
        "/api/v1/namespaces/_/actions/x%40/a%20b%40c.d-e?blocking=true&result=true&timeout=60000",
    );
    for base in ["http://localhost:3233/base", "http://localhost:3233/base/"] {
        target(
            &format!("api_host: {base}\ntimeout: 1"),
            "/base/api/v1/namespaces/guest/actions/hello?blocking=true&result=true&timeout=1",
        );
    }
}

#[test]
fn nothing_of_the_clients_head_is_sent() {
    for keys in ["", "input: web"] {
        let (req, _) = sealed(keys, "").unwrap();
        let mut sent: Vec<_> =
            req.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        sent.sort_unstable();
        assert_eq!(req.method, "POST");
        assert_eq!(
            sent,
            [
                ("accept", "application/json"),
                ("authorization", "Basic dXVpZDprZXk="),
                ("content-type", "application/json"),
                ("host", "whisk.example.com"),
                ("user-agent", concat!("fngate/", env!("CARGO_PKG_VERSION"))),
                ("x-request-id", "req-1"),
            ]
        );
    }
}

#[test]
fn the_input_is_the_body_or_the_whole_request() {
    let (_, body) = sealed("input: body", r#"{"name": "world"}"#).unwrap();
    assert_eq!(body, r#"{"name": "world"}"#);
    let (_, body) = sealed("input: web", "text").unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(seen["__ow_method"], "put");
    assert_eq!(seen["__ow_path"], "/x");
    assert_eq!(seen["__ow_headers"]["authorization"], "Bearer client");
    assert_eq!(seen["__ow_body"], "text");
    assert_eq!(seen["a"], "1");
}

#[test]
fn a_body_that_is_no_object_is_refused_before_anything_is_sent() {
    let refused = sealed("", "test=test").unwrap_err();
    assert_eq!((refused.status().as_u16(), refused.code()), (400, "bad_request"));
}

fn opened(status: u16, headers: &[(&'static str, &str)], body: &'static str) -> (ResponseHeader, Bytes) {
    let mut resp = ResponseHeader::build(status, None).unwrap();
    for (name, value) in headers {
        resp.append_header(*name, *value).unwrap();
    }
    let body = action("").open(&call(), &mut resp, Bytes::from_static(body.as_bytes())).unwrap();
    (resp, body)
}

#[test]
fn of_the_platforms_head_only_the_activation_and_the_wait_are_kept() {
    let platform = [
        ("Content-Type", "text/html"),
        ("Content-Length", "29"),
        ("Connection", "keep-alive"),
        ("Server", "akka"),
        ("Set-Cookie", "lb=1"),
        ("WWW-Authenticate", "Basic realm=whisk"),
        ("X-Request-Id", "tid"),
        ("X-OpenWhisk-Activation-Id", "4fa1c0de"),
        ("Retry-After", "3"),
    ];
    let (resp, body) = opened(401, &platform, r#"{"error":"no","code":"tid"}"#);
    let mut kept: Vec<_> =
        resp.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    kept.sort_unstable();
    assert_eq!(resp.status, 401);
    assert_eq!(
        kept,
        [
            ("content-type", "application/json"),
            ("retry-after", "3"),
            ("x-openwhisk-activation-id", "4fa1c0de")
        ]
    );
    assert_eq!(body, r#"{"error":"no","code":"tid"}"#);
}

#[test]
fn the_functions_answer_becomes_the_clients() {
    let (resp, body) = opened(
        200,
        &[("Retry-After", "3")],
        r#"{"statusCode":503,"headers":{"retry-after":7,"set-cookie":["a=1","b=2"]},"body":"later"}"#,
    );
    let values = |name: &str| resp.headers.get_all(name).iter().collect::<Vec<_>>();
    assert_eq!(resp.status, 503);
    assert_eq!(values("retry-after"), ["7"]);
    assert_eq!(values("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(values("content-type"), ["text/plain; charset=utf-8"]);
    assert_eq!(body, "later");
}

#[test]
fn an_odd_activation_id_is_dropped() {
    for id in ["", "a b", "a\"b", &"a".repeat(65)] {
        let (resp, _) = opened(200, &[("X-OpenWhisk-Activation-Id", id)], "{}");
        assert!(!resp.headers.contains_key(ACTIVATION_ID), "{id}");
    }
}

#[test]
fn a_bad_envelope_leaves_the_head_as_it_came() {
    let mut resp = ResponseHeader::build(200, None).unwrap();
    resp.insert_header(ACTIVATION_ID, "4fa1c0de").unwrap();
    let error = action("").open(&call(), &mut resp, Bytes::new()).unwrap_err();
    assert_eq!(error.code(), "bad_envelope");
    assert_eq!(resp.headers[ACTIVATION_ID], "4fa1c0de");
}

#[test]
fn the_gateway_waits_longer_than_openwhisk() {
    let (compiled, _) = compile_yaml(&with("timeout: 1000"));
    assert_eq!(compiled.unwrap().terms.timeout, Duration::from_secs(6));
}

#[test]
fn bodies_are_bounded() {
    assert_eq!(*action("").limits(), BodyLimits { request: 1 << 20, response: 1 << 20 });
    let keys = "max_req_body_size: 67108864\nmax_resp_body_size: 2MiB";
    assert_eq!(*action(keys).limits(), BodyLimits { request: 64 << 20, response: 2 << 20 });
}

#[track_caller]
fn fault(keys: &str, place: &str, part: &str) {
    let (compiled, found) = compile_yaml(&with(keys));
    assert!(compiled.is_none(), "{keys}");
    let [fault] = found.as_slice() else { panic!("{keys}: {found:?}") };
    assert_eq!((fault.severity, fault.place.to_string().as_str()), (Severity::Fault, place), "{keys}");
    assert!(fault.message.contains(part), "{keys}: {}", fault.message);
}

#[test]
fn names_follow_openwhisks_rule() {
    for name in ["a", "_", "9", "a b", "a@b", "a.b", "a-b", "a@", "a.", "a-", "a..", &"a".repeat(256)] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    fault("action: ''", "action", "it is empty");
    fault("action: ' a'", "action", "does not begin with");
    fault("action: 'a '", "action", "ends with a space");
    fault("action: .a", "action", "does not begin with");
    fault("action: pkg/a", "action", "have a key each");
    fault("namespace: 'a?b'", "namespace", "it holds '?'");
    fault("namespace: 'aé'", "namespace", "it holds 'é'");
    fault("package: 'a%2fb'", "package", "it holds '%'");
    fault(&format!("package: {}", "a".repeat(257)), "package", "longer than 256");
}

#[test]
fn other_values_are_checked_too() {
    fault("api_host: whisk.example.com", "api_host", "the scheme is missing");
    fault("api_host: whisk.example.com:443", "api_host", "the scheme is missing");
    let shown = "`https://whisk.example.com/` is not a usable URI: it has a query";
    fault("api_host: https://whisk.example.com/?a=b", "api_host", shown);
    fault("timeout: 0", "timeout", "`timeout` is 0 ms");
    fault("timeout: 60001", "timeout", "`timeout` is 60001 ms");
    fault("max_req_body_size: 0", "max_req_body_size", "the limit is 0 bytes");
    fault("max_resp_body_size: 2GiB", "max_resp_body_size", "the limit is 2147483648 bytes");
    fault("service_token: ''", "service_token", "the secret is empty");
}

#[test]
fn all_faults_are_found_in_one_run() {
    let (compiled, found) = compile_yaml(&with(
        "api_host: x\nservice_token: ''\nnamespace: '?'\naction: '?'\npackage: '?'\ntimeout: 0",
    ));
    let mut places: Vec<_> = found.iter().map(|d| d.place.to_string()).collect();
    places.sort_unstable();
    assert!(compiled.is_none());
    assert_eq!(places, ["action", "api_host", "namespace", "package", "service_token", "timeout"]);
}

#[test]
fn an_api_without_tls_draws_a_warning() {
    let warnings = |keys: &str| {
        let (compiled, found) = compile_yaml(&with(keys));
        assert!(compiled.is_some(), "{keys}");
        found.into_iter().map(|d| (d.severity, d.message)).collect::<Vec<_>>()
    };
    for host in ["http://whisk.example.com", "http://10.0.0.1:3233"] {
        let found = warnings(&format!("api_host: {host}"));
        let [(Severity::Warning, message)] = found.as_slice() else { panic!("{found:?}") };
        assert!(message.contains("openwhisk `api_host` has no TLS"), "{message}");
    }
    let found = warnings("api_host: http://localhost\naddress: 10.0.0.1:3233");
    assert_eq!(found.len(), 1, "it is the address that is reached: {found:?}");
    assert_eq!(warnings("api_host: http://whisk.example.com\naddress: 127.0.0.1:3233"), []);
    for host in
        ["https://whisk.example.com", "http://127.0.0.1:3233", "http://[::1]:3233", "http://localhost"]
    {
        assert_eq!(warnings(&format!("api_host: {host}")), []);
    }
    let found = warnings("service_token: no-colon");
    assert_eq!(found, [(Severity::Warning, "the service token has no `:`".to_owned())]);
}

#[test]
fn the_token_never_shows() {
    let shown = format!("{:?}", action(""));
    assert!(!shown.contains("uuid") && !shown.contains("dXVpZDprZXk="), "{shown}");
}
