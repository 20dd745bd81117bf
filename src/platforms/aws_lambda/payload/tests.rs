//! Events and return values in AWS's published forms.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::platforms::Origin;
use crate::platforms::template::Parameters;
use crate::platforms::tests::call;
use crate::values::Scheme;

/// 04/Mar/2020:19:03:58.390 +0000
const AT: Duration = Duration::from_millis(1_583_348_638_390);

const FORMS: [Form; 3] = [Form::ApigwV1, Form::ApigwV2, Form::Alb];

fn payload(form: Form, parameters: &[&str]) -> Payload {
    Payload::new(form, Route { parameters, has_suffix: true })
}

fn head(method: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
    let mut head = RequestHeader::build(method, b"/", None).unwrap();
    for (name, value) in fields {
        head.append_header(*name, *value).unwrap();
    }
    head
}

/// The event of a request to `/hello/x`.
fn event(form: Form, head: &RequestHeader, query: Option<&str>, body: &[u8]) -> Result<Value, GatewayError> {
    let call = Call { query, ..call() };
    let event = payload(form, &[]).event(&call, head, Bytes::copy_from_slice(body), UNIX_EPOCH + AT)?;
    Ok(serde_json::from_slice(&event).unwrap())
}

/// The client's body, from an event.
fn body_of(event: &Value) -> Vec<u8> {
    let body = event["body"].as_str().unwrap_or_default();
    match event["isBase64Encoded"].as_bool().unwrap() {
        true => BASE64_STANDARD.decode(body).unwrap(),
        false => body.into(),
    }
}

#[test]
fn events_are_those_of_the_golden_files() {
    let fields = [
        ("host", "api.example.com"),
        ("content-type", "application/json"),
        ("user-agent", "curl/8.5.0"),
        ("cookie", "a=1; b=2"),
        ("x-multi", "1"),
        ("x-multi", "2"),
        ("x-forwarded-for", "203.0.113.7"),
        ("content-length", "13"),
        ("x-amzn-trace-id", "Root=forged"),
        ("x-amz-invocation-type", "Event"),
    ];
    let place = 6..11;
    let path = "/shop/items/a%20b/x%2Fy";
    let call = Call {
        suffix: Some("a%20b/x%2Fy"),
        parameters: Parameters::new(path, std::slice::from_ref(&place)),
        query: Some("tag=blue&tag=red+light&q=a%26b&flag"),
        path,
        origin: Origin { scheme: Scheme::Https, authority: "api.example.com:8443" },
        request_id: "req-1",
        method: &http::Method::POST,
        client: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    };
    let head = head("POST", &fields);
    let golden = [
        (Form::ApigwV1, include_str!("../golden/apigw_v1.json")),
        (Form::ApigwV2, include_str!("../golden/apigw_v2.json")),
        (Form::Alb, include_str!("../golden/alb.json")),
    ];
    for (form, expected) in golden {
        let body = Bytes::from_static(r#"{"größe":1}"#.as_bytes());
        let event = payload(form, &["kind"]).event(&call, &head, body, UNIX_EPOCH + AT).unwrap();
        let event: Value = serde_json::from_slice(&event).unwrap();
        let expected: Value = serde_json::from_str(expected).unwrap();
        assert_eq!(event, expected, "{form:?}:\n{event:#}");
    }
}

#[test]
fn return_values_become_the_answers_of_the_golden_file() {
    #[derive(Deserialize)]
    struct Case {
        what: String,
        payloads: Vec<Form>,
        returned: Value,
        status: u16,
        reason: Option<String>,
        headers: Vec<(String, String)>,
        body: String,
    }
    let cases: Vec<Case> = serde_json::from_str(include_str!("../golden/answers.json")).unwrap();
    for Case { what, payloads, returned, status, reason, headers, body } in cases {
        for form in payloads {
            let value = Bytes::from(returned.to_string());
            let returned = payload(form, &[]).answer(value).unwrap();
            let answer = &returned.answer;
            let fields: Vec<_> = answer
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect();
            assert_eq!((answer.status.as_u16(), &fields), (status, &headers), "{what}: {form:?}");
            assert_eq!(answer.body, body.as_bytes(), "{what}: {form:?}");
            assert_eq!(returned.reason, reason, "{what}: {form:?}");
            let head = returned.head().unwrap();
            assert_eq!(head.status, status);
        }
    }
}

#[track_caller]
fn malformed(forms: &[Form], value: &str) {
    for form in forms {
        let answer = payload(*form, &[]).answer(Bytes::copy_from_slice(value.as_bytes()));
        assert!(matches!(answer, Err(GatewayError::BadEnvelope(_))), "{form:?} {value}: {answer:?}");
    }
}

#[test]
fn what_is_no_answer_is_a_fault_of_the_envelope() {
    for value in ["", "nonsense", "{", "\u{0}"] {
        malformed(&FORMS, value);
    }
    for value in ["null", "5", "[]", "{}", r#"{"body":"x"}"#, r#"{"statusCode":null}"#] {
        malformed(&[Form::ApigwV1, Form::Alb], value);
    }
    for members in [
        r#""statusCode":99"#,
        r#""statusCode":600"#,
        r#""statusCode":"OK""#,
        r#""statusCode":200,"body":{}"#,
        r#""statusCode":200,"body":"*","isBase64Encoded":true"#,
        r#""statusCode":200,"isBase64Encoded":"yes""#,
        r#""statusCode":200,"headers":[]"#,
        r#""statusCode":200,"headers":{"a b":"1"}"#,
        r#""statusCode":200,"headers":{"a":"1\r\nX: 2"}"#,
        r#""statusCode":200,"headers":{"a":{}}"#,
    ] {
        malformed(&FORMS, &format!("{{{members}}}"));
    }
    malformed(&[Form::ApigwV2], r#"{"statusCode":200,"cookies":"a=1"}"#);
    malformed(&[Form::ApigwV2], r#"{"statusCode":200,"cookies":["a\r\nb"]}"#);
    malformed(
        &[Form::ApigwV1],
        r#"{"statusCode":200,"headers":{"content-type":"a/b"},"multiValueHeaders":{"Content-Type":["c/d"]}}"#,
    );
}

#[test]
fn a_raw_event_is_the_body() {
    let raw = |body: &'static str| {
        payload(Form::Raw, &[]).event(&call(), &head("POST", &[]), body.into(), UNIX_EPOCH)
    };
    for body in [r#"{"a": 1.50}"#, "[1]", "5", "null", "\"é\""] {
        assert_eq!(raw(body).unwrap(), body);
    }
    assert_eq!(raw("").unwrap(), "{}");
    assert_eq!(raw(" \n").unwrap(), "{}");
    for body in ["{", "{}x", "a=1", "\u{0}"] {
        assert!(matches!(raw(body), Err(GatewayError::BadRequest(_))), "{body}");
    }
}

#[test]
fn bodies_are_text_or_base64() {
    let is_base64 = |fields: &[(&'static str, &str)], body: &[u8]| {
        let flags = FORMS.map(|form| {
            let event = event(form, &head("POST", fields), None, body).unwrap();
            assert_eq!(body_of(&event), body);
            event["isBase64Encoded"].as_bool().unwrap()
        });
        assert!(flags.iter().all(|flag| *flag == flags[0]), "{fields:?}");
        flags[0]
    };
    let kind = |kind| [("content-type", kind)];
    assert!(!is_base64(&kind("text/plain"), b"x"));
    assert!(!is_base64(&kind("application/json"), b"{}"));
    assert!(!is_base64(&kind("application/x-www-form-urlencoded"), b"a=1"));
    assert!(!is_base64(&kind("image/png"), b""));
    assert!(is_base64(&kind("image/png"), b"x"));
    assert!(is_base64(&[], b"x"));
    assert!(is_base64(&kind("text/plain"), b"\xff"), "what is not UTF-8 is not lost");
    assert!(is_base64(&[("content-type", "text/plain"), ("content-encoding", "br")], b"x"));
}

#[test]
fn what_is_not_there_is_missing_or_null() {
    let head = head("GET", &[]);
    let v2 = event(Form::ApigwV2, &head, None, b"").unwrap();
    for key in ["cookies", "queryStringParameters", "pathParameters", "body"] {
        assert!(v2.get(key).is_none(), "{key}");
    }
    assert_eq!((&v2["rawQueryString"], &v2["rawPath"]), (&"".into(), &"/hello/x".into()));
    let v1 = event(Form::ApigwV1, &head, None, b"").unwrap();
    for key in ["queryStringParameters", "multiValueQueryStringParameters", "pathParameters", "body"] {
        assert_eq!(v1[key], Value::Null, "{key}");
    }
    assert_eq!(v1["resource"], "/hello/x");
    let alb = event(Form::Alb, &head, None, b"").unwrap();
    assert_eq!((&alb["body"], &alb["queryStringParameters"]), (&"".into(), &serde_json::json!({})));
}

#[test]
fn a_query_that_cannot_be_read_is_refused_where_it_is_decoded() {
    for query in ["a=%zz", "a=%", "%ff=1"] {
        for form in [Form::ApigwV1, Form::ApigwV2] {
            let refused = event(form, &head("GET", &[]), Some(query), b"");
            assert!(matches!(refused, Err(GatewayError::BadRequest(_))), "{query}");
        }
        assert!(event(Form::Alb, &head("GET", &[]), Some(query), b"").is_ok());
    }
}

proptest! {
    #[test]
    fn every_body_comes_through_both_ways(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        kind in "(text/plain|image/png|application/json|)",
    ) {
        for form in FORMS {
            let event = event(form, &head("POST", &[("content-type", &kind)]), None, &body).unwrap();
            prop_assert_eq!(&body_of(&event), &body);
            let returned = serde_json::json!({
                "statusCode": 200, "isBase64Encoded": true, "body": BASE64_STANDARD.encode(&body),
            });
            let answer = payload(form, &[]).answer(returned.to_string().into()).unwrap().answer;
            prop_assert_eq!(&answer.body[..], &body[..]);
        }
    }

    #[test]
    fn whatever_a_function_returns_there_is_an_answer_or_a_fault(value in "\\PC{0,60}", status in any::<i64>()) {
        for form in FORMS {
            for text in [value.clone(), format!(r#"{{"statusCode":{status},"body":{value:?},"headers":{{{value:?}:1}}}}"#)] {
                match payload(form, &[]).answer(text.into()) {
                    Ok(returned) => prop_assert!(returned.head().is_ok()),
                    Err(error) => prop_assert_eq!(error.status(), 502),
                }
            }
        }
    }

    #[test]
    fn arguments_come_through(pairs in proptest::collection::vec(("[a-c]{1,2}", "\\PC{0,8}"), 0..6)) {
        let query: Vec<_> =
            pairs.iter().map(|(name, value)| format!("{name}={}", crate::uri::encode_segment(value))).collect();
        let event = event(Form::ApigwV1, &head("GET", &[]), Some(&query.join("&")), b"").unwrap();
        for (name, _) in &pairs {
            let expected: Vec<_> = pairs.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
            let seen: Vec<_> = event["multiValueQueryStringParameters"][name]
                .as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
