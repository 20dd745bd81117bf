//! What a function is called with, when it is not called in HTTP, reads back as the request that the client sent; and nothing of the
//! client's head is in the head that takes it there.
#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use fngate::aws::Credentials;
use fngate::gateway::forward::leave_client;
use fngate::platforms::{Buffered, BufferedTarget, Call, Seal, Target};
use fngate::values::Secret;
use fngate_fuzz::{Sent, call, fields, function, is_of_the_hop, read_request, values};
use http::request::Parts;
use libfuzzer_sys::fuzz_target;
use pingora_http::RequestHeader;
use serde_json::{Map, Value};

// The first byte chooses the form; then a head, and after its end the body.
fuzz_target!(|input: &[u8]| {
    let [choice, bytes @ ..] = input else { return };
    let Some((asked, body)) = read_request(bytes) else { return };
    let form = usize::from(*choice) % FORMS.len();
    let (target, check) = (&TARGETS[form], FORMS[form].1);
    let call = call(&asked);
    let with = Seal { at: SystemTime::UNIX_EPOCH, credentials: Some(&KEYS) };
    // As the gateway hands it to a platform.
    let mut head = Parts::from(asked.clone());
    leave_client(&mut head.headers);
    let mut head = RequestHeader::from(head);
    let sealed = match target.seal(&call, &mut head, Bytes::copy_from_slice(body), &with) {
        Ok(sealed) => sealed,
        Err(error) => return assert_eq!(error.status(), 400, "{error}"),
    };
    let sent = Sent::parse(&head);
    assert_eq!(sent.method, "POST");
    assert_eq!(sent.values("content-type"), [b"application/json"]);
    assert_eq!(sent.values("host"), [b"127.0.0.1:1"]);
    for (name, _) in &sent.fields {
        assert!(OWN.contains(&name.as_str()), "{name}");
    }
    check(&Asked { call: &call, head: &asked, body }, &sealed);
});

static TARGETS: LazyLock<Vec<BufferedTarget>> = LazyLock::new(|| {
    let target = |(target, _): &(&str, Check)| match function(target) {
        Target::Buffered(target) => target,
        Target::Streamed(_) => panic!("{target} is not buffered"),
    };
    FORMS.iter().map(target).collect()
});

static KEYS: LazyLock<Credentials> = LazyLock::new(|| {
    Credentials::new(&Secret::new("AKIDEXAMPLE".into()), &Secret::new("secret".into()), None)
});

struct Asked<'a> {
    call: &'a Call<'a>,
    head: &'a RequestHeader,
    body: &'a [u8],
}

type Check = fn(&Asked<'_>, &[u8]);

const FORMS: [(&str, Check); 6] = [
    (
        "openwhisk: { api_host: 'http://127.0.0.1:1', service_token: 'u:p', namespace: _, action: a, input: web }",
        web,
    ),
    ("openwhisk: { api_host: 'http://127.0.0.1:1', service_token: 'u:p', namespace: _, action: a }", as_sent),
    (
        "aws_lambda: { function: hello, region: eu-west-1, endpoint: 'http://127.0.0.1:1', payload: raw, \
         authorization: { iam: { accesskey: a, secretkey: b } } }",
        as_sent,
    ),
    (
        "aws_lambda: { function: hello, region: eu-west-1, endpoint: 'http://127.0.0.1:1', payload: apigw_v1, \
         authorization: { iam: { accesskey: a, secretkey: b } } }",
        apigw_v1,
    ),
    (
        "aws_lambda: { function: hello, region: eu-west-1, endpoint: 'http://127.0.0.1:1', payload: apigw_v2, \
         authorization: { iam: { accesskey: a, secretkey: b } } }",
        apigw_v2,
    ),
    (
        "aws_lambda: { function: hello, region: eu-west-1, endpoint: 'http://127.0.0.1:1', payload: alb, \
         authorization: { iam: { accesskey: a, secretkey: b } } }",
        alb,
    ),
];

/// The body is the event, byte for byte, or there is none.
fn as_sent(asked: &Asked<'_>, event: &[u8]) {
    match asked.body.trim_ascii() {
        b"" => assert_eq!(event, b"{}"),
        _ => assert_eq!(event, asked.body),
    }
}

fn web(asked: &Asked<'_>, event: &[u8]) {
    let event = parsed(event);
    assert_eq!(event["__ow_method"], asked.head.method.as_str().to_ascii_lowercase());
    assert_eq!(event["__ow_path"], format!("/{}", asked.call.suffix.unwrap()));
    assert_eq!(event["__ow_query"], asked.call.query.unwrap_or_default());
    let body = event["__ow_body"].as_str().unwrap();
    assert!(
        body.as_bytes() == asked.body || BASE64_STANDARD.decode(body).is_ok_and(|body| body == asked.body)
    );

    let headers = event["__ow_headers"].as_object().unwrap();
    joined(asked, headers, |name| if name == "cookie" { "; " } else { ", " });

    // The body's members go before the query's arguments.
    let kind = asked.head.headers.get("content-type").map_or(&b""[..], |kind| kind.as_bytes());
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let mut meant: Map<String, Value> = arguments(asked.call.query.unwrap_or_default());
    match (&kind[..], serde_json::from_slice(asked.body)) {
        (b"application/json", Ok(Value::Object(members))) => meant.extend(members),
        (b"application/json", Err(_)) if !asked.body.trim_ascii().is_empty() => return,
        (b"application/x-www-form-urlencoded", _) => {
            meant.extend(arguments(std::str::from_utf8(asked.body).expect("it was taken for text")));
        }
        _ => {}
    }
    let mut rest = event.clone();
    rest.retain(|name, _| !ITS_OWN.contains(&name.as_str()));
    assert_eq!(rest, meant);
}

fn apigw_v1(asked: &Asked<'_>, event: &[u8]) {
    let event = parsed(event);
    assert_eq!(event["path"], asked.call.path);
    assert_eq!(event["httpMethod"], asked.head.method.as_str());
    multiple(asked, &event);
    let meant = arguments(asked.call.query.unwrap_or_default());
    let single = event["queryStringParameters"].as_object().cloned().unwrap_or_default();
    assert_eq!(single, meant);
    body(asked, &event);
}

fn alb(asked: &Asked<'_>, event: &[u8]) {
    let event = parsed(event);
    assert_eq!(event["path"], asked.call.path);
    assert_eq!(event["httpMethod"], asked.head.method.as_str());
    multiple(asked, &event);
    // The arguments as they were sent, in whatever order their names are kept.
    let arguments = event["multiValueQueryStringParameters"].as_object().unwrap();
    let mut listed: Vec<_> = arguments
        .iter()
        .flat_map(|(name, values)| {
            values.as_array().unwrap().iter().map(move |value| (name.as_str(), text(value)))
        })
        .collect();
    let query = asked.call.query.unwrap_or_default();
    let mut meant: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    listed.sort_unstable();
    meant.sort_unstable();
    assert_eq!(listed, meant);
    body(asked, &event);
}

fn apigw_v2(asked: &Asked<'_>, event: &[u8]) {
    let event = parsed(event);
    assert_eq!(event["rawPath"], asked.call.path);
    assert_eq!(event["rawQueryString"], asked.call.query.unwrap_or_default());
    assert_eq!(event["requestContext"]["http"]["method"], asked.head.method.as_str());
    let mut headers = event["headers"].as_object().unwrap().clone();
    let said = |value: &Value| text(value).replace(' ', "");
    if let Some(cookies) = event.get("cookies") {
        let cookies: Vec<_> = cookies.as_array().unwrap().iter().map(text).collect();
        headers.insert("cookie".to_owned(), cookies.join(";").into());
    }
    let crumbs = |text: &str| text.split([';', ',']).map(str::trim).collect::<String>();
    for (name, values) in passing(asked) {
        let got = headers.get(&name).map(|value| match name.as_str() {
            "cookie" => crumbs(text(value)),
            _ => said(value),
        });
        let meant = match name.as_str() {
            "cookie" => Some(crumbs(&values.join(","))).filter(|all| got.is_some() || !all.is_empty()),
            "content-length" => Some(asked.body.len().to_string()),
            _ => Some(values.join(",").replace(' ', "")),
        };
        assert_eq!(got, meant, "{name}");
    }
    body(asked, &event);
}

/// The client's body, out of an event of Lambda.
fn body(asked: &Asked<'_>, event: &Map<String, Value>) {
    let body = event.get("body").and_then(Value::as_str).unwrap_or_default();
    match event["isBase64Encoded"].as_bool().unwrap() {
        true => assert_eq!(BASE64_STANDARD.decode(body).unwrap(), asked.body),
        false => assert_eq!(body.as_bytes(), asked.body),
    }
}

/// Each name with all of its values, and once more with the last one.
fn multiple(asked: &Asked<'_>, event: &Map<String, Value>) {
    let all = event["multiValueHeaders"].as_object().unwrap();
    let last = event["headers"].as_object().unwrap();
    let meant = passing(asked);
    for (name, values) in all {
        let values: Vec<_> = values.as_array().unwrap().iter().map(text).collect();
        assert_eq!(last.get(name).map(text), values.last().copied(), "{name}");
        match name.as_str() {
            "content-length" => assert_eq!(values, [asked.body.len().to_string()]),
            _ => {
                assert_eq!(Some(&values.iter().map(|v| (*v).to_owned()).collect()), meant.get(name), "{name}")
            }
        }
    }
    assert!(meant.keys().all(|name| all.contains_key(name)));
}

fn joined(asked: &Asked<'_>, headers: &Map<String, Value>, by: fn(&str) -> &'static str) {
    let mut meant = passing(asked);
    meant.remove("content-length");
    for name in ["x-amz-", "x-amzn-"] {
        // These mean nothing to OpenWhisk, and pass.
        let was = fields(&asked.head.headers);
        for (known, _) in was.iter().filter(|(known, _)| known.starts_with(name)) {
            if !is_of_the_hop(&was, known) {
                meant.insert(known.clone(), values(&was, known).into_iter().map(latin).collect());
            }
        }
    }
    let meant: Map<String, Value> =
        meant.into_iter().map(|(name, values)| (name.clone(), values.join(by(&name)).into())).collect();
    assert_eq!(headers, &meant);
}

/// The client's fields that are for the function, as text.
fn passing(asked: &Asked<'_>) -> std::collections::BTreeMap<String, Vec<String>> {
    let was = fields(&asked.head.headers);
    let names = was.iter().map(|(name, _)| name);
    names
        .filter(|name| !name.starts_with("x-amz-") && !name.starts_with("x-amzn-"))
        .filter(|name| *name == "content-length" || *name != "expect" && !is_of_the_hop(&was, name))
        .map(|name| (name.clone(), values(&was, name).into_iter().map(latin).collect()))
        .collect()
}

fn latin(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).unwrap_or_else(|_| value.iter().copied().map(char::from).collect())
}

/// As browsers decode a form; of a repeated name, the last value.
fn arguments(query: &str) -> Map<String, Value> {
    form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect()
}

fn parsed(event: &[u8]) -> Map<String, Value> {
    match serde_json::from_slice(event) {
        Ok(Value::Object(members)) => members,
        other => panic!("{other:?}"),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("it is a text")
}

/// What the gateway says to a platform's API, and nobody else.
const OWN: [&str; 9] = [
    "accept",
    "authorization",
    "content-type",
    "host",
    "user-agent",
    "x-amz-date",
    "x-amz-invocation-type",
    "x-amz-security-token",
    "x-request-id",
];
const ITS_OWN: [&str; 5] = ["__ow_method", "__ow_headers", "__ow_path", "__ow_query", "__ow_body"];
