//! A request in, the API's request out; the API's answer in, ours out.

use super::super::tests::compiled;
use super::*;
use crate::aws::Credentials as Keys;
use crate::platforms::template::Parameters;
use crate::platforms::tests::{call, seal};
use crate::values::Secret;

fn invoke(keys: &str) -> BufferedTarget {
    let yaml =
        format!("{{region: eu-west-1, authorization: {{iam: {{accesskey: AKID, secretkey: s}}}}, {keys}}}");
    match compiled(&yaml).target {
        Target::Buffered(target) => target,
        other => panic!("{other:?}"),
    }
}

fn keys() -> Keys {
    let secret = |text: &str| Secret::new(text.to_owned());
    Keys::new(&secret("AKID"), &secret("s"), Some(&secret("token")))
}

fn sealed(
    keys_of_target: &str,
    call: &Call<'_>,
    body: &'static str,
) -> Result<(RequestHeader, Bytes), GatewayError> {
    let mut req = RequestHeader::build("PUT", b"/hello/x?q=1", None).unwrap();
    for (name, value) in [
        ("host", "api.example.com"),
        ("authorization", "Bearer theirs"),
        ("cookie", "a=1"),
        ("x-amz-client-context", "forged"),
        ("content-type", "text/plain"),
    ] {
        req.append_header(name, value).unwrap();
    }
    let keys = keys();
    let body = invoke(keys_of_target).seal(call, &mut req, body.into(), &seal(Some(&keys)))?;
    Ok((req, body))
}

fn answer(status: u16, fields: &[(&'static str, &str)]) -> ResponseHeader {
    let mut resp = ResponseHeader::build(status, None).unwrap();
    for (name, value) in fields {
        resp.append_header(*name, *value).unwrap();
    }
    resp
}

#[track_caller]
fn target(keys: &str, expected: &str) {
    let (req, _) = sealed(keys, &call(), "{}").unwrap();
    assert_eq!(req.uri.to_string(), expected);
}

#[test]
fn each_kind_of_call_has_its_operation() {
    target("function: hello", "/2015-03-31/functions/hello/invocations");
    target("function: 'hello:live'", "/2015-03-31/functions/hello/invocations?Qualifier=live");
    target(
        "{function: hello, invocation: event}".trim_matches(['{', '}']),
        "/2015-03-31/functions/hello/invocations",
    );
    target(
        "function: hello, qualifier: '$LATEST', invocation: stream",
        "/2021-11-15/functions/hello/response-streaming-invocations?Qualifier=%24LATEST",
    );
    target(
        "function: hello, endpoint: 'https://vpce-1.lambda.eu-west-1.vpce.amazonaws.com/proxy'",
        "/proxy/2015-03-31/functions/hello/invocations",
    );
}

#[test]
fn nothing_of_the_clients_head_is_sent_as_a_head() {
    let (req, body) = sealed("function: hello", &call(), r#"{"a":1}"#).unwrap();
    assert_eq!((req.method.as_str(), body.as_ref()), ("POST", &br#"{"a":1}"#[..]));
    let mut names: Vec<_> = req.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "authorization",
            "content-type",
            "host",
            "user-agent",
            "x-amz-date",
            "x-amz-invocation-type",
            "x-amz-security-token",
        ]
    );
    assert_eq!(req.headers["host"], "lambda.eu-west-1.amazonaws.com");
    assert_eq!(req.headers["content-type"], "application/json");
    assert_eq!(req.headers["x-amz-invocation-type"], "RequestResponse");
    let authorization = req.headers["authorization"].to_str().unwrap();
    assert!(authorization.contains("/eu-west-1/lambda/aws4_request"), "{authorization}");
    assert!(authorization.contains("x-amz-invocation-type;x-amz-security-token"), "{authorization}");
}

#[test]
fn an_event_is_marked_as_one() {
    let (req, _) = sealed("function: hello, invocation: event", &call(), "").unwrap();
    assert_eq!(req.headers["x-amz-invocation-type"], "Event");
}

#[test]
fn a_path_parameter_names_the_function() {
    let path = "/fn/resize";
    let place = 4..10;
    let resize = Call { path, parameters: Parameters::new(path, std::slice::from_ref(&place)), ..call() };
    let (req, _) = sealed("function: '{name}'", &resize, "").unwrap();
    assert_eq!(req.uri.to_string(), "/2015-03-31/functions/resize/invocations");

    let path = "/fn/a:live";
    let climbing = Call { path, parameters: Parameters::new(path, std::slice::from_ref(&place)), ..call() };
    assert_eq!(sealed("function: '{name}'", &climbing, "").unwrap_err(), GatewayError::BadPath);
    assert_eq!(
        sealed("function: '{name}', allow: ['img-*']", &resize, "").unwrap_err(),
        GatewayError::NoRoute
    );
}

#[test]
fn the_clients_request_becomes_the_event() {
    let (_, body) = sealed("function: hello, payload: apigw_v2", &call(), "text").unwrap();
    let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&event["requestContext"]["http"]["method"], &event["body"]), (&"PUT".into(), &"text".into()));
    assert_eq!(event["headers"]["authorization"], "Bearer theirs", "the function's own affair");
    assert!(matches!(sealed("function: hello", &call(), "text"), Err(GatewayError::BadRequest(_))));
}

#[test]
fn a_return_value_becomes_the_answer() {
    let mut resp =
        answer(200, &[("x-amzn-requestid", "call-1"), ("x-amz-executed-version", "7"), ("date", "x")]);
    let body = invoke("function: f").open(&call(), &mut resp, Bytes::from_static(b"[1]")).unwrap();
    assert_eq!((resp.status.as_u16(), body.as_ref()), (200, &b"[1]"[..]));
    let names: Vec<_> = resp.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["content-type", "x-amzn-requestid"]);

    let mut resp = answer(200, &[]);
    let value =
        Bytes::from_static(br#"{"statusCode":418,"headers":{"x-amzn-requestid":"own"},"body":"tea"}"#);
    let body = invoke("function: f, payload: apigw_v1").open(&call(), &mut resp, value).unwrap();
    assert_eq!((resp.status.as_u16(), body.as_ref()), (418, &b"tea"[..]));
}

#[test]
fn an_accepted_event_is_accepted() {
    let mut resp = answer(202, &[("x-amzn-requestid", "call-1"), ("content-type", "text/html")]);
    let body = invoke("function: f, invocation: event, payload: alb").open(&call(), &mut resp, Bytes::new());
    assert_eq!((resp.status.as_u16(), body.unwrap().len()), (202, 0));
    assert_eq!(resp.headers["x-amzn-requestid"], "call-1");
    assert!(!resp.headers.contains_key("content-type"));
}

#[test]
fn a_failed_function_is_never_a_success() {
    let fields = [("x-amz-function-error", "Unhandled")];
    let trace =
        Bytes::from_static(br#"{"errorMessage":"secret","errorType":"Error","stackTrace":["/var/task"]}"#);
    for payload in ["raw", "apigw_v1", "apigw_v2", "alb"] {
        for invocation in ["request_response", "stream"] {
            let target = invoke(&format!("function: f, payload: {payload}, invocation: {invocation}"));
            let mut resp = answer(200, &fields);
            assert_eq!(target.reply(&resp), Reply::Collected);
            let failed = target.open(&call(), &mut resp, trace.clone());
            assert_eq!(failed, Err(GatewayError::FunctionError), "{payload} {invocation}");
        }
    }
}

#[test]
fn only_what_streams_is_relayed() {
    let reply = |invocation: &str, status| {
        invoke(&format!("function: f, invocation: {invocation}")).reply(&answer(status, &[]))
    };
    assert_eq!(reply("stream", 200), Reply::Relayed);
    assert_eq!(reply("stream", 429), Reply::Collected);
    assert_eq!(reply("request_response", 200), Reply::Collected);
    assert_eq!(reply("event", 202), Reply::Collected);
}

#[test]
fn bodies_have_lambdas_bounds() {
    let limits = |keys: &str| {
        let BodyLimits { request, response } = *invoke(keys).limits();
        (request, response)
    };
    assert_eq!(limits("function: f"), (6 << 20, 6 << 20));
    assert_eq!(limits("function: f, invocation: event"), (1 << 20, 6 << 20));
    assert_eq!(
        limits("function: f, invocation: event, max_req_body_size: 2KiB, max_resp_body_size: 1KiB"),
        (2048, 1024)
    );
}
