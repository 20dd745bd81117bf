//! What is sent reads back as what was meant: whatever a client asks, the function gets exactly that, or it gets nothing.

use std::cell::Cell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn a_streamed_request_is_the_clients() {
    let target = |url: &str| format!("http: {{ url: '{url}/base?own=1' }}");
    holds(target, |asked, sent| {
        let query = asked.query.iter().filter(|query| !query.is_empty()).map(|query| format!("&{query}"));
        let query: String = query.collect();
        assert_eq!(sent.target(), format!("/base/{}?own=1{query}", asked.suffix));
        assert_eq!((sent.method(), &sent.body), (asked.method, &asked.body));
        for (name, _) in &asked.headers {
            assert_eq!(sent.all(name), asked.all(name), "{name}");
        }
        for (name, _) in &sent.head.headers {
            let is_the_gateways = GATEWAYS.iter().any(|known| name.to_lowercase().starts_with(known));
            assert!(is_the_gateways || !asked.all(name).is_empty(), "{name}");
        }
    });
}

#[test]
fn an_action_is_told_what_the_client_asked() {
    let target = |url: &str| {
        format!(
            "openwhisk: {{ api_host: '{url}', service_token: 'u:p', namespace: _, action: a, input: web }}"
        )
    };
    holds(target, |asked, sent| {
        assert_eq!(sent.method(), "POST");
        assert!(sent.target().starts_with("/api/v1/namespaces/_/actions/a?"), "{}", sent.target());
        assert_eq!(sent.all("authorization"), ["Basic dTpw"]);
        let told: Value = serde_json::from_slice(&sent.body).unwrap();
        assert_eq!(told["__ow_method"], asked.method.to_lowercase());
        assert_eq!(told["__ow_path"], format!("/{}", asked.suffix));
        assert_eq!(told["__ow_query"], asked.query.as_deref().unwrap_or_default());
        for (name, _) in &asked.headers {
            let name = name.to_lowercase();
            let separator = if name == "cookie" { "; " } else { ", " };
            assert_eq!(told["__ow_headers"][&name], asked.all(&name).join(separator), "{name}");
        }
        let body = told["__ow_body"].as_str().unwrap();
        assert!(body.as_bytes() == asked.body || STANDARD.decode(body).as_ref() == Ok(&asked.body), "{body}");
    });
}

#[test]
fn a_function_of_lambda_is_told_what_the_client_asked() {
    let target = |url: &str| {
        format!(
            "aws_lambda: {{ function: hello, region: eu-west-1, endpoint: '{url}', payload: apigw_v2, \
             authorization: {{ iam: {{ accesskey: AKIDEXAMPLE, secretkey: key }} }} }}"
        )
    };
    holds(target, |asked, sent| {
        assert_eq!((sent.method(), sent.target()), ("POST", "/2015-03-31/functions/hello/invocations"));
        let told: Value = serde_json::from_slice(&sent.body).unwrap();
        assert_eq!(told["requestContext"]["http"]["method"], asked.method);
        assert_eq!(told["rawPath"], format!("/fn/{}", asked.suffix));
        assert_eq!(told["rawQueryString"], asked.query.as_deref().unwrap_or_default());
        for (name, _) in asked.headers.iter().filter(|(name, _)| name != "Cookie") {
            let name = name.to_lowercase();
            assert_eq!(told["headers"][&name], asked.all(&name).join(","), "{name}");
        }
        let body = told["body"].as_str().unwrap_or_default();
        match told["isBase64Encoded"] == json!(true) {
            true => assert_eq!(STANDARD.decode(body).as_ref(), Ok(&asked.body)),
            false => assert_eq!(body.as_bytes(), asked.body),
        }
    });
}

/// What a client asks of the route `/fn/*`.
#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    suffix: String,
    query: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn any() -> impl Strategy<Value = Asked> {
        let known = prop::sample::select(vec![
            "Accept",
            "Cookie",
            "X-Twice",
            "x-twice",
            "User-Agent",
            "Authorization",
        ]);
        let name = prop_oneof![known.prop_map(str::to_owned), "[A-WYZa-wyz][A-Za-z0-9!#$%&'*+.^`|~-]{8,16}"];
        let field = (name, "[!-~]([ -~]{0,12}[!-~])?");
        let kind = prop::sample::select(vec![
            "",
            "text/plain",
            "application/json",
            "application/x-www-form-urlencoded",
            "image/png",
        ]);
        let body =
            prop_oneof!["(\\{\"a\":[1-9]\\}|a=%C3%A9&b)?".prop_map(String::into_bytes), any::<Vec<u8>>()];
        (
            prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "PURGE"]),
            "([a-zA-Z0-9._~!$&'()*+,;=:@/-]|%[2-7][0-9A-F]|%C3%A9){0,16}",
            prop::option::of("([a-zA-Z0-9._~!$&'()*+,;=:@/?-]|%[2-7][0-9A-F]|%C3%A9){0,16}"),
            prop::collection::vec(field, 0..5),
            kind,
            body,
        )
            .prop_map(|(method, suffix, query, mut headers, kind, body)| {
                if !kind.is_empty() {
                    headers.push(("Content-Type".to_owned(), kind.to_owned()));
                }
                Asked { method, suffix, query, headers, body }
            })
    }

    fn request(&self) -> Request {
        let query = self.query.iter().map(|query| format!("?{query}")).collect::<String>();
        let request = Request::new(self.method, &format!("/fn/{}{query}", self.suffix));
        let request = self.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        if self.body.is_empty() { request } else { request.body(self.body.clone()) }
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let said = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        said.map(|(_, value)| value.as_str()).collect()
    }
}

/// Asks a real gateway with this target again and again. What the function gets is `meant`, or the client is refused.
fn holds(target: fn(&str) -> String, meant: fn(&Asked, &Recorded)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (origin, gateway) = runtime.block_on(async {
        let origin = Origin::http1().reply(|_| Reply::json(&json!({}))).start().await;
        let gateway = Gateway::start(&route("/fn/*", &target(&origin.url()))).await;
        (origin, gateway)
    });
    let passed = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&Asked::any(), |asked| {
        runtime.block_on(async {
            let before = origin.requests().len();
            let answer = gateway.send(&asked.request()).await;
            match origin.requests().get(before) {
                None => prop_assert_eq!(answer.status(), 400, "{}", answer.text()),
                Some(sent) => {
                    meant(&asked, sent);
                    passed.set(passed.get() + 1);
                }
            }
            Ok(())
        })
    });
    // What they hold ends in their runtime.
    runtime.block_on(async move { drop((origin, gateway)) });
    outcome.unwrap();
    assert!(passed.get() > CASES / 4, "most were refused: {passed:?} of {CASES} passed");
}

/// How the names begin of what the gateway says itself.
const GATEWAYS: [&str; 6] =
    ["host", "content-length", "connection", "x-forwarded-", "x-real-ip", "x-request-id"];
const CASES: u32 = 128;
