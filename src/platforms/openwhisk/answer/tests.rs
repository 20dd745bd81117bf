//! OpenWhisk's answer in, the client's out: every row of the tables above.

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::platforms::envelope::{BAD_HEADERS, BAD_STATUS, MOST_FIELDS};
use crate::platforms::head::HopByHop;

/// Status, headers in their order, body.
type Expected<'a> = Result<(u16, &'a [(&'a str, &'a str)], &'a str), GatewayError>;

#[track_caller]
fn check_as(asked: Asked, status: u16, body: &str, expected: Expected<'_>) {
    let status = StatusCode::from_u16(status).unwrap();
    let got = read(status, Bytes::copy_from_slice(body.as_bytes()), asked);
    let expected = expected.map(|(status, headers, body)| Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap())
            })
            .collect(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    });
    assert_eq!(got, expected, "{status} {body}");
}

#[track_caller]
fn check(status: u16, body: &str, expected: Expected<'_>) {
    check_as(Asked::Result, status, body, expected);
}

/// A result that arrives with 200.
#[track_caller]
fn result(body: &str, expected: Expected<'_>) {
    check(200, body, expected);
}

const AS_JSON: &[(&str, &str)] = &[("content-type", JSON)];
const AS_TEXT: &[(&str, &str)] = &[("content-type", TEXT)];

#[test]
fn json_without_the_special_keys_passes_byte_for_byte() {
    for body in [
        r#"{"hello":"world"}"#,
        "{ \"b\": 1,\n  \"a\": 123456789012345678901234567890.10 }\n",
        r#"{"a":1,"a":2}"#,
        r#"{"StatusCode":404,"Body":1}"#,
        r#"{"response":{"statusCode":404}}"#,
        "{}",
        "[1, 2]",
        r#"[{"statusCode":404}]"#,
        r#""text""#,
        "42",
        "-0.10e5",
        "true",
        "false",
        "null",
    ] {
        result(body, Ok((200, AS_JSON, body)));
    }
}

#[test]
fn a_status_alone_is_an_answer_without_body() {
    result(r#"{"statusCode":407}"#, Ok((407, &[], "")));
    result(r#"{"statusCode":204}"#, Ok((204, &[], "")));
    result(r#"{"statusCode":200}"#, Ok((200, &[], "")));
    result(r#"{"statusCode":599}"#, Ok((599, &[], "")));
    result(r#"{"statusCode":"407"}"#, Ok((407, &[], "")));
    result(r#"{"statusCode":404.0}"#, Ok((404, &[], "")));
    result(r#"{"statusCode":4.04e2}"#, Ok((404, &[], "")));
    result(r#"{"statusCode":null}"#, Ok((200, &[], "")));
}

#[test]
fn what_is_no_status_is_a_bad_envelope() {
    for status in [
        "99",
        "100",
        "101",
        "199",
        "600",
        "200.5",
        "-200",
        "0",
        "1e999",
        "true",
        "[200]",
        "{}",
        r#""""#,
        r#""20x""#,
        r#""99""#,
        r#""600""#,
        r#""200.0""#,
        r#"" 200""#,
        r#""+200""#,
        r#""nan""#,
    ] {
        result(&format!(r#"{{"statusCode":{status},"body":"x"}}"#), Err(BAD_STATUS));
    }
}

#[test]
fn headers_are_set_and_arrays_repeat_them() {
    result(r#"{"headers":{"test":"header"}}"#, Ok((200, &[("test", "header")], "")));
    result(
        r#"{"headers":{"Set-Cookie":["a=1","b=2"],"x-n":1.50,"x-b":true,"x-null":null,"x-none":[],"x-mixed":[1,false,null,"t"]}}"#,
        Ok((
            200,
            &[
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("x-n", "1.50"),
                ("x-b", "true"),
                ("x-mixed", "1"),
                ("x-mixed", "false"),
                ("x-mixed", "t"),
            ],
            "",
        )),
    );
    result(r#"{"headers":null}"#, Ok((200, &[], "")));
    result(r#"{"headers":{}}"#, Ok((200, &[], "")));
    result(r#"{"statusCode":302,"headers":{"location":"/there"}}"#, Ok((302, &[("location", "/there")], "")));
}

#[test]
fn what_are_no_headers_is_a_bad_envelope() {
    for headers in [
        r#""text""#,
        "1",
        "[]",
        r#"["a"]"#,
        r#"{"a":{}}"#,
        r#"{"a":[[]]}"#,
        r#"{"a":[{"b":1}]}"#,
        r#"{"":"x"}"#,
        r#"{"a b":"x"}"#,
        r#"{"a:":"x"}"#,
        r#"{"a\r\nb":"x"}"#,
        r#"{"grün":"x"}"#,
        r#"{"a":"x\r\nset-cookie: y"}"#,
        r#"{"a":"\u0000"}"#,
        r#"{"a":"\ud800"}"#,
        r#"{"content-type":["text/plain","text/html"]}"#,
        r#"{"content-type":"text/plain","Content-Type":"text/html"}"#,
    ] {
        result(&format!(r#"{{"headers":{headers}}}"#), Err(BAD_HEADERS));
    }
}

#[test]
fn the_number_of_headers_is_bounded() {
    let many = |count: usize| format!(r#"{{"headers":{{"a":[{}]}}}}"#, vec!["1"; count].join(","));
    result(&many(MOST_FIELDS), Ok((200, &[("a", "1"); MOST_FIELDS], "")));
    result(&many(MOST_FIELDS + 1), Err(BAD_HEADERS));
    result(&many(100_000), Err(BAD_HEADERS));
}

#[test]
fn headers_of_the_connection_are_not_the_functions_to_set() {
    result(
        r#"{"headers":{
            "Connection":"close, X-Mine","X-Mine":"1","Keep-Alive":"timeout=5","Transfer-Encoding":"chunked",
            "Content-Length":7,"Upgrade":"h2c","TE":"trailers","Trailer":"x","Proxy-Connection":"close",
            "x-openwhisk-activation-id":"forged","X-Kept":"2"
        },"body":"text"}"#,
        Ok((200, &[("x-kept", "2"), ("content-type", TEXT)], "text")),
    );
}

#[test]
fn bodies_are_text_or_json() {
    result(r#"{"body":{"test":"body"}}"#, Ok((200, AS_JSON, r#"{"test":"body"}"#)));
    result(r#"{"body": [1, 2.50] }"#, Ok((200, AS_JSON, "[1, 2.50]")));
    result(
        r#"{"body":{"n":123456789012345678901234567890}}"#,
        Ok((200, AS_JSON, r#"{"n":123456789012345678901234567890}"#)),
    );
    result(r#"{"body":42}"#, Ok((200, AS_JSON, "42")));
    result(r#"{"body":true}"#, Ok((200, AS_JSON, "true")));
    result(r#"{"body":false}"#, Ok((200, AS_JSON, "false")));
    result(r#"{"body":"text"}"#, Ok((200, AS_TEXT, "text")));
    result(r#"{"body":"\u00e9\n\"q\""}"#, Ok((200, AS_TEXT, "é\n\"q\"")));
    result(r#"{"body":""}"#, Ok((200, &[], "")));
    result(r#"{"body":null}"#, Ok((200, &[], "")));
    result(r#"{"body":null,"else":1}"#, Ok((200, &[], "")));
    result(r#"{"body":"text","else":1}"#, Ok((200, AS_TEXT, "text")));
    result(r#"{"body":"\ud800"}"#, Err(BAD_BODY));
}

#[test]
fn without_body_further_keys_are_not_lost() {
    let body = r#"{ "statusCode": 404, "message": "no such order" }"#;
    result(body, Ok((404, AS_JSON, body)));
    let body = r#"{"headers":{"x":"1","content-type":"application/problem+json"},"title":"t"}"#;
    result(body, Ok((200, &[("x", "1"), ("content-type", "application/problem+json")], body)));
}

#[test]
fn the_functions_content_type_is_used() {
    let html = [("content-type", "text/html")];
    result(r#"{"headers":{"Content-Type":"text/html"},"body":"<p>"}"#, Ok((200, &html, "<p>")));
    let hal = [("content-type", "application/hal+json")];
    result(
        r#"{"headers":{"content-type":"application/hal+json"},"body":{"a":1}}"#,
        Ok((200, &hal, "{\"a\":1}")),
    );
    let json = [("content-type", "application/json")];
    result(
        r#"{"headers":{"content-type":"application/json"},"body":"{\"a\":1}"}"#,
        Ok((200, &json, "{\"a\":1}")),
    );
}

#[test]
fn text_of_a_binary_type_is_base64() {
    let png = [("content-type", "image/png")];
    let with = |body: &str| format!(r#"{{"headers":{{"content-type":"image/png"}},"body":{body}}}"#);
    result(&with(r#""aGk=""#), Ok((200, &png, "hi")));
    result(&with(r#""aGk""#), Ok((200, &png, "hi")));
    result(&with(r#""""#), Ok((200, &png, "")));
    result(&with(r#""not base64""#), Err(NOT_BASE64));
    result(&with(r#""aGk=\n""#), Err(NOT_BASE64));
    result(&with(r#""_-8=""#), Err(NOT_BASE64));
}

#[test]
fn some_statuses_have_no_body() {
    for status in [204, 205, 304] {
        result(&format!(r#"{{"statusCode":{status},"body":"text"}}"#), Ok((status, &[], "")));
        result(&format!(r#"{{"statusCode":{status},"else":1}}"#), Ok((status, &[], "")));
    }
    let etag = [("etag", "\"1\""), ("content-type", "text/html")];
    result(
        r#"{"statusCode":304,"headers":{"etag":"\"1\"","content-type":"text/html"},"body":{}}"#,
        Ok((304, &etag, "")),
    );
}

#[test]
fn an_activation_that_still_runs_passes() {
    let body = r#"{"activationId":"4fa1c0de4fa1c0de4fa1c0de4fa1c0de"}"#;
    check(202, body, Ok((202, AS_JSON, body)));
    let body = r#"{"activationId":"x","statusCode":200}"#;
    check(202, body, Ok((202, AS_JSON, body)));
}

#[test]
fn errors_of_the_platform_pass() {
    let body = r#"{"code":"tid","error":"The requested resource does not exist."}"#;
    for status in [400, 401, 403, 404, 408, 413, 429, 500, 503] {
        check(status, body, Ok((status, AS_JSON, body)));
    }
    let body = r#"{"error":"x","statusCode":200,"body":"all is well"}"#;
    check(500, body, Ok((500, AS_JSON, body)));
}

#[test]
fn an_application_error_passes_and_may_name_its_status() {
    let body = r#"{"error":"division by zero"}"#;
    check(502, body, Ok((502, AS_JSON, body)));
    let body = r#"{"error":{"statusCode":418,"body":"x"}}"#;
    check(502, body, Ok((502, AS_JSON, body)));
    let body = r#"{"error":"no such order","statusCode":404}"#;
    check(502, body, Ok((404, AS_JSON, body)));
    check(502, r#"{"error":"x","statusCode":404,"body":"gone"}"#, Ok((404, AS_TEXT, "gone")));
}

#[test]
fn a_record_is_not_taken_apart() {
    let body =
        r#"{"activationId":"x","statusCode":404,"response":{"result":{"body":"text"},"success":true}}"#;
    check_as(Asked::Record, 200, body, Ok((200, AS_JSON, body)));
    check_as(Asked::Record, 502, body, Ok((502, AS_JSON, body)));
}

#[test]
fn what_is_not_openwhisks_is_a_bad_envelope() {
    let page = "<html><body>502 Bad Gateway</body></html>";
    for status in [200, 301, 401, 404, 502, 503] {
        check(status, page, Err(NOT_JSON));
    }
    for body in ["{", "{} {}", "text", "{'a':1}", r#"{"statusCode":200"#, "\u{feff}{}", "nul", "NaN"] {
        result(body, Err(NOT_JSON));
    }
    assert_eq!(read(StatusCode::OK, Bytes::from_static(b"\"\xff\""), Asked::Result), Err(NOT_JSON));
}

#[test]
fn emptiness_is_an_answer_only_with_a_status_that_says_enough() {
    for body in ["", " \r\n"] {
        for status in [200, 201, 202, 302] {
            check(status, body, Err(EMPTY));
        }
        for status in [204, 304, 401, 404, 413, 500, 502, 503] {
            check(status, body, Ok((status, &[], "")));
        }
    }
}

#[test]
fn no_depth_of_nesting_exhausts_the_stack() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    result(&deep, Ok((200, AS_JSON, &deep)));
    result(&format!(r#"{{"body":{deep}}}"#), Ok((200, AS_JSON, &deep)));
    result(&format!(r#"{{"headers":{deep}}}"#), Err(BAD_HEADERS));
    result(&format!(r#"{{"headers":{{"a":{deep}}}}}"#), Err(BAD_HEADERS));
    result(&format!(r#"{{"statusCode":{deep}}}"#), Err(BAD_STATUS));
}

/// Results that come near to an envelope.
fn near_envelopes() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "[0-9eE.+-]{0,5}",
        r#""[0-9a-zA-Z=\\/ ]{0,6}""#,
        Just("null".to_owned()),
        Just("true".to_owned()),
        r#"\{"[a-zA-Z: -]{0,13}":"[ -~]{0,9}"\}"#,
        r#"\{"content-type":"(image/png|text/plain)"\}"#,
        r#"\[("[a-z]{0,2}"|1|null|\[\]),?\]"#,
    ];
    let key = prop_oneof![Just("statusCode"), Just("headers"), Just("body"), Just("else")];
    prop::collection::vec((key, value), 0..5).prop_map(|entries| {
        let members: Vec<_> = entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

fn holds_its_promise(status: u16, body: Bytes) -> Result<(), TestCaseError> {
    let status = StatusCode::from_u16(status).unwrap();
    for asked in [Asked::Result, Asked::Record] {
        match read(status, body.clone(), asked) {
            Ok(answer) => {
                prop_assert!(answer.status == status || (200..=599).contains(&answer.status.as_u16()));
                prop_assert!(answer.body.is_empty() || content_type(&answer.headers).is_some());
                let hop_by_hop = HopByHop::of([].iter());
                prop_assert!(answer.headers.iter().all(|(name, _)| !hop_by_hop.contains(name)));
            }
            Err(error) => prop_assert!(matches!(error, GatewayError::BadEnvelope(_)), "{error}"),
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_answer_or_a_bad_envelope(status in 200u16..600, body: Vec<u8>) {
        holds_its_promise(status, body.into())?;
    }

    #[test]
    fn near_envelopes_are_an_answer_or_a_bad_envelope(body in near_envelopes()) {
        for status in [200, 202, 404, 502] {
            holds_its_promise(status, body.clone().into())?;
        }
    }
}
