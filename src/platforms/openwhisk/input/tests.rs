//! The client's request, and the parameters the action gets.

use serde_json::{Value, json};

use super::*;
use crate::platforms::tests::call;

#[track_caller]
fn check_object(body: &'static str, expected: Result<&'static str, GatewayError>) {
    let got = object(Bytes::from_static(body.as_bytes()));
    assert_eq!(got, expected.map(|text| Bytes::from_static(text.as_bytes())), "{body}");
}

#[test]
fn a_json_object_goes_through_unchanged() {
    check_object(r#"{"name": "world"}"#, Ok(r#"{"name": "world"}"#));
    check_object(" {\"b\":1,\n \"a\":2}\n", Ok(" {\"b\":1,\n \"a\":2}\n"));
    check_object(
        r#"{"n":123456789012345678901234567890.10}"#,
        Ok(r#"{"n":123456789012345678901234567890.10}"#),
    );
}

#[test]
fn nothing_is_an_empty_object() {
    check_object("", Ok("{}"));
    check_object(" \r\n\t", Ok("{}"));
}

#[test]
fn what_is_no_object_is_refused() {
    for body in ["[1]", "\"text\"", "42", "true", "null", " [] "] {
        check_object(body, Err(NOT_AN_OBJECT));
    }
}

#[test]
fn what_is_no_json_is_refused() {
    for body in ["test=test", "{", "{} {}", "{'a':1}", "{\"a\":1,}", "\u{feff}{}", "\u{a0}", "{\"a\":01}"] {
        check_object(body, Err(NOT_JSON));
    }
    assert_eq!(object(Bytes::from_static(b"{\"a\":\"\xff\"}")), Err(NOT_JSON));
}

#[test]
fn no_depth_of_nesting_exhausts_the_stack() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let body = Bytes::from(deep);
    assert_eq!(object(body.clone()), Ok(body.clone()));
    assert!(web_of(&[("content-type", "application/json")], None, None, &body).is_ok());
}

fn web_of(
    headers: &[(&'static str, &str)],
    suffix: Option<&str>,
    query: Option<&str>,
    body: &[u8],
) -> Result<Bytes, GatewayError> {
    let mut req = RequestHeader::build("PATCH", b"/hello/x", None).unwrap();
    for (name, value) in headers {
        req.append_header(*name, *value).unwrap();
    }
    web(&Call { suffix, query, ..call() }, &req, body)
}

#[track_caller]
fn check_web(
    headers: &[(&'static str, &str)],
    suffix: Option<&str>,
    query: Option<&str>,
    body: &[u8],
    expected: Value,
) {
    let sent = web_of(headers, suffix, query, body).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), expected);
}

const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

#[test]
fn a_bare_request_gives_the_five_parameters() {
    check_web(
        &[],
        None,
        None,
        b"",
        json!({"__ow_method": "patch", "__ow_headers": {}, "__ow_path": "", "__ow_query": "", "__ow_body": ""}),
    );
}

#[test]
fn path_and_query_arrive_as_sent_and_the_query_as_parameters_too() {
    check_web(
        &[],
        Some("a%2Fb/%C3%A9"),
        Some("a=1&b=x+y%26z&a=2&flag&&%C3%A9=%2B"),
        b"",
        json!({
            "a": "2", "b": "x y&z", "flag": "", "é": "+",
            "__ow_method": "patch", "__ow_headers": {}, "__ow_path": "/a%2Fb/%C3%A9",
            "__ow_query": "a=1&b=x+y%26z&a=2&flag&&%C3%A9=%2B", "__ow_body": "",
        }),
    );
    check_web(
        &[],
        Some(""),
        None,
        b"",
        json!({"__ow_method": "patch", "__ow_headers": {}, "__ow_path": "/", "__ow_query": "", "__ow_body": ""}),
    );
}

#[test]
fn members_of_a_json_body_win_over_the_query() {
    check_web(
        &[JSON],
        None,
        Some("a=query&c=query"),
        br#"{"a":[1],"b":null}"#,
        json!({
            "a": [1], "b": null, "c": "query",
            "__ow_method": "patch", "__ow_headers": {"content-type": JSON.1}, "__ow_path": "",
            "__ow_query": "a=query&c=query", "__ow_body": r#"{"a":[1],"b":null}"#,
        }),
    );
}

#[test]
fn members_of_a_form_win_over_the_query() {
    check_web(
        &[FORM],
        None,
        Some("a=query"),
        b"a=form&b=x+y",
        json!({
            "a": "form", "b": "x y",
            "__ow_method": "patch", "__ow_headers": {"content-type": FORM.1}, "__ow_path": "",
            "__ow_query": "a=query", "__ow_body": "a=form&b=x+y",
        }),
    );
}

#[test]
fn numbers_of_a_json_body_keep_their_digits() {
    let sent = web_of(&[JSON], None, None, br#"{"n":123456789012345678901234567890.10}"#).unwrap();
    assert!(std::str::from_utf8(&sent).unwrap().starts_with(r#"{"n":123456789012345678901234567890.10,"#));
}

#[track_caller]
fn check_body(content_type: Option<&str>, body: &[u8], expected: &str) {
    let headers: Vec<_> = content_type.map(|value| ("content-type", value)).into_iter().collect();
    let sent = web_of(&headers, None, None, body).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&sent).unwrap()["__ow_body"],
        expected,
        "{content_type:?} {body:?}"
    );
}

#[test]
fn the_body_is_text_or_base64_by_its_type() {
    check_body(Some("text/plain"), "grüß".as_bytes(), "grüß");
    check_body(Some("application/json"), b"[1, 2]", "[1, 2]");
    check_body(Some("application/json"), b" ", " ");
    check_body(Some("application/vnd.api+json"), b"{\"a\":1}", "{\"a\":1}");
    check_body(Some("application/octet-stream"), b"\x00\xff", "AP8=");
    check_body(Some("multipart/form-data; boundary=x"), b"--x", "LS14");
    check_body(None, b"abc", "YWJj");
}

#[test]
fn headers_are_lower_case_joined_and_without_the_length() {
    let headers = [
        ("Authorization", "Bearer client"),
        ("X-Twice", "a"),
        ("x-twice", "b"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("Content-Length", "0"),
        ("Accept", "gr\u{fc}n"),
    ];
    let sent = web_of(&headers, None, None, b"").unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&sent).unwrap()["__ow_headers"],
        json!({
            "authorization": "Bearer client", "x-twice": "a, b", "cookie": "a=1; b=2", "accept": "grün",
        })
    );
    assert_eq!(field_text(b"gr\xfcn"), "grün");
}

#[test]
fn openwhisks_own_parameters_are_not_the_clients_to_set() {
    for name in RESERVED {
        assert_eq!(web_of(&[], None, Some(&format!("{name}=1")), b""), Err(RESERVED_PARAMETER), "{name}");
        let json = format!("{{\"{name}\":1}}");
        assert_eq!(web_of(&[JSON], None, None, json.as_bytes()), Err(RESERVED_PARAMETER), "{name}");
    }
    assert_eq!(web_of(&[], None, Some("%5F_ow_user=admin"), b""), Err(RESERVED_PARAMETER));
    assert_eq!(web_of(&[FORM], None, None, b"__ow_path=/x"), Err(RESERVED_PARAMETER));
    assert_eq!(web_of(&[JSON], None, None, br#"{"__\u006fw_user":1}"#), Err(RESERVED_PARAMETER));
    assert!(web_of(&[], None, Some("__ow_other=1"), b"").is_ok());
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    assert_eq!(web_of(&[], None, Some("a=100%"), b""), Err(BAD_QUERY));
    assert_eq!(web_of(&[], None, Some("a=%zz"), b""), Err(BAD_QUERY));
    assert_eq!(web_of(&[], None, Some("%ff=1"), b""), Err(BAD_QUERY));
    assert_eq!(web_of(&[FORM], None, None, b"a=%f"), Err(BAD_FORM));
    assert_eq!(web_of(&[JSON], None, None, b"{"), Err(NOT_JSON));
    assert_eq!(web_of(&[("content-type", "text/plain")], None, None, b"\xff"), Err(NOT_TEXT));
}
