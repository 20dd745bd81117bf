//! AWS's published vectors, and a verifier that reads a request from the wire as AWS does. It shares no code with what it
//! verifies but the digests.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::values::Secret;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const STS_TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

fn credentials(session_token: Option<&str>) -> Credentials {
    let secret = |text: &str| Secret::new(text.to_owned());
    Credentials::new(&secret("AKIDEXAMPLE"), &secret(SECRET), session_token.map(secret).as_ref())
}

fn scope() -> SigningScope {
    SigningScope { region: "us-east-1".to_owned(), service: "service".to_owned() }
}

/// 2015-08-30T12:36:00Z, the moment of all vectors.
fn then() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_440_938_160)
}

fn head(method: &str, target: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
    let mut head = RequestHeader::build(method, target.as_bytes(), None).unwrap();
    for (name, value) in headers {
        head.append_header(*name, *value).unwrap();
    }
    head
}

/// The signed request, for the vectors' host.
fn signed(method: &str, target: &str, headers: &[(&'static str, &str)], body: &str) -> RequestHeader {
    let mut head = head(method, target, headers);
    head.insert_header("Host", "example.amazonaws.com").unwrap();
    sign(&mut head, body.as_bytes(), &scope(), &credentials(None), then()).unwrap();
    head
}

fn text<'a>(head: &'a RequestHeader, name: &str) -> &'a str {
    head.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn part<'a>(head: &'a RequestHeader, name: &str) -> &'a str {
    let authorization = text(head, "authorization");
    let (_, rest) =
        authorization.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{authorization:?}"));
    rest.split(',').next().unwrap()
}

#[track_caller]
fn vector(method: &str, target: &str, headers: &[(&'static str, &str)], body: &str, expected: &str) {
    let head = signed(method, target, headers, body);
    assert_eq!(part(&head, "Signature"), expected, "{method} {target}");
    assert_eq!(part(&head, "Credential"), "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request");
    assert_eq!(text(&head, "x-amz-date"), "20150830T123600Z");
}

#[test]
fn the_published_vectors() {
    let get = |target, expected| vector("GET", target, &[], "", expected);
    // Vanilla, and everything that amounts to it.
    for target in ["/", "//", "/?", "/?&"] {
        get(target, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
    }
    get("//example//", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84");
    get(
        "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    );
    get("/?Param1=value1", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb");
    get("/?Param2=value2&Param1=value1", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500");
    get(
        "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
        "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
    );
    get(
        "/?-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz=-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
    );
    get("/?ሴ=bar", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04");

    let post = |target, headers: &[_], body, expected| vector("POST", target, headers, body, expected);
    post("/", &[], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
    post("/?Param1=value1", &[], "", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11");
    post(
        "/",
        &[("Content-Type", "application/x-www-form-urlencoded")],
        "Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    );
    post(
        "/",
        &[("Content-Type", "application/x-www-form-urlencoded; charset=utf8")],
        "Param1=value1",
        "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
    );
}

#[test]
fn the_published_vectors_with_a_session_token() {
    for (method, token, expected) in [
        (
            "GET",
            "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
            "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
        ),
        ("POST", STS_TOKEN, "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"),
    ] {
        let mut head = head(method, "/", &[("Host", "example.amazonaws.com")]);
        sign(&mut head, b"", &scope(), &credentials(Some(token)), then()).unwrap();
        assert_eq!(part(&head, "Signature"), expected);
        assert_eq!(part(&head, "SignedHeaders"), "host;x-amz-date;x-amz-security-token");
        assert_eq!(text(&head, "x-amz-security-token"), token);
    }
}

/// On the wire these bytes are escaped first, so the vector is one for the signature alone.
#[test]
fn the_published_vector_with_utf8_in_the_path() {
    let headers = head("GET", "/", &[("Host", "example.amazonaws.com")]).headers.clone();
    let made = signature("GET", "/ሴ", &headers, b"", &scope(), &credentials(None), then()).unwrap();
    let (_, authorization) = made.headers().find(|(name, _)| *name == "authorization").unwrap();
    let expected = "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85";
    assert!(authorization.ends_with(expected), "{authorization}");
}

#[test]
fn the_path_of_an_arn_is_encoded_twice() {
    let target = "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-west-2%3A892717189312%3Afunction%3Amy-rusty-fun/invocations";
    let mut head = head("POST", target, &[("Host", "lambda.us-east-2.amazonaws.com")]);
    let scope = SigningScope { region: "us-east-2".to_owned(), service: "lambda".to_owned() };
    let at = UNIX_EPOCH + Duration::from_secs(1_620_747_645);
    sign(&mut head, b"", &scope, &credentials(None), at).unwrap();

    assert_eq!(head.raw_path(), target.as_bytes());
    assert_eq!(part(&head, "Signature"), "4b93abbcc68be32bd64c18e2c71150660ab4c29bbd6c32a383a7517a88fc1804");
}

#[test]
fn only_what_nobody_changes_is_signed() {
    let head = signed(
        "POST",
        "/",
        &[
            ("Content-Type", "application/json"),
            ("X-Amz-Invocation-Type", "Event"),
            ("Content-Length", "2"),
            ("User-Agent", "curl"),
            ("Accept", "*/*"),
            ("Connection", "keep-alive"),
            ("TE", "trailers"),
            ("Cookie", "a=b"),
            ("X-Forwarded-For", "192.0.2.1"),
            ("X-Amzn-Trace-Id", "Root=1"),
            ("Traceparent", "00-0-0-00"),
        ],
        "{}",
    );
    assert_eq!(part(&head, "SignedHeaders"), "content-type;host;x-amz-date;x-amz-invocation-type");
    assert_eq!(text(&head, "user-agent"), "curl");
}

#[test]
fn an_earlier_signature_is_replaced() {
    let mut head = signed("GET", "/a?b", &[], "");
    let first = head.headers.clone();
    head.insert_header("X-Amz-Security-Token", "left over").unwrap();
    head.append_header("Authorization", "Bearer of the client").unwrap();
    sign(&mut head, b"", &scope(), &credentials(None), then()).unwrap();
    assert_eq!(head.headers, first);
}

#[test]
fn what_cannot_be_signed_is_refused() {
    let refusal = |target: &[u8], content_type: &[u8]| {
        let mut head = RequestHeader::build("GET", target, None).unwrap();
        head.insert_header("Host", "example.amazonaws.com").unwrap();
        head.insert_header("Content-Type", content_type).unwrap();
        sign(&mut head, b"", &scope(), &credentials(None), then()).unwrap_err().code()
    };
    assert_eq!(refusal(b"/?a=%E9", b"text/plain"), "bad_request");
    assert_eq!(refusal(b"/?%ff%fe", b"text/plain"), "bad_request");
    assert_eq!(refusal(b"/", b"text/\xE9"), "bad_request");

    let nowhere = sign(&mut head("GET", "/", &[]), b"", &scope(), &credentials(None), then());
    assert_eq!(nowhere.unwrap_err().code(), "internal");
}

#[test]
fn what_only_aws_may_say_is_reserved() {
    for (name, expected) in [
        ("X-Amz-Date", true),
        ("x-amzn-trace-id", true),
        ("X-AMZN-RequestId", true),
        ("X-Amazing", false),
        ("Forwarded", false),
    ] {
        assert_eq!(is_reserved(&name.parse().unwrap()), expected, "{name}");
    }
}

#[track_caller]
fn wire(target: &str, expected: &str) {
    let head = signed("GET", target, &[], "");
    assert_eq!(std::str::from_utf8(head.raw_path()), Ok(expected));
    verify(&head, b"", SECRET).unwrap();
}

#[test]
fn a_query_is_sent_in_the_order_in_which_it_is_signed() {
    wire(
        "/fn?with%20space=a%2Fb%20c&multi=m2&multi=m1&flag&a=*&a-=x",
        "/fn?a=%2A&a-=x&flag=&multi=m1&multi=m2&with%20space=a%2Fb%20c",
    );
    wire("/fn?b=1+2&a=%2b&c=d=e&%61=1", "/fn?a=%2B&a=1&b=1%202&c=d%3De");
    wire("/fn?=v&a==&&%zz=%", "/fn?=v&%25zz=%25&a=%3D");
    wire("/fn?é=%C3%A9&q=[a]:@/?", "/fn?%C3%A9=%C3%A9&q=%5Ba%5D%3A%40%2F%3F");
}

#[test]
fn a_path_is_sent_as_it_came_unless_it_is_none() {
    wire("/@me/a:b/%2F/(c)'*!$&,;=+~/%7e", "/@me/a:b/%2F/(c)'*!$&,;=+~/%7e");
    wire("/é/{id}/\"|", "/%C3%A9/%7Bid%7D/%22%7C");
    wire("/a//b/", "/a//b/");
}

#[test]
fn the_verifier_sees_every_change() {
    let good = signed("POST", "/a?b=c", &[("Content-Type", "text/plain")], "body");
    verify(&good, b"body", SECRET).unwrap();

    verify(&good, b"Body", SECRET).unwrap_err();
    verify(&good, b"body", "another secret").unwrap_err();
    let change = |edit: fn(&mut RequestHeader)| {
        let mut head = good.clone();
        edit(&mut head);
        verify(&head, b"body", SECRET).unwrap_err();
    };
    change(|head| head.set_method(http::Method::PUT));
    change(|head| head.set_raw_path(b"/A?b=c").unwrap());
    change(|head| head.set_raw_path(b"/a?b=C").unwrap());
    change(|head| head.set_raw_path(b"/a?b=c&d=").unwrap());
    change(|head| head.insert_header("Host", "other.amazonaws.com").unwrap());
    change(|head| head.insert_header("Content-Type", "text/html").unwrap());
    change(|head| head.insert_header("X-Amz-Date", "20150830T123601Z").unwrap());
    change(|head| head.insert_header("X-Amz-Target", "added").unwrap());
}

proptest! {
    #[test]
    fn every_path_and_query_verifies(
        path in proptest::collection::vec(piece().prop_filter("refused", |p| uri::check_path(p).is_ok()), 0..8),
        query in proptest::option::of(proptest::collection::vec((piece(), proptest::option::of(piece())), 0..8)),
        body in proptest::collection::vec(any::<u8>(), 0..64),
        session_token in proptest::option::of("[!-~]{1,40}"),
    ) {
        let argument = |(name, value): &(String, Option<String>)| match value {
            Some(value) => format!("{name}={value}"),
            None => name.clone(),
        };
        let query = query.map(|arguments| arguments.iter().map(argument).collect::<Vec<_>>().join("&"));
        let target = format!("/{}{}", path.join("/"), query.as_ref().map(|q| format!("?{q}")).unwrap_or_default());
        let mut head = RequestHeader::build("POST", target.as_bytes(), None).unwrap();
        head.insert_header("Host", "example.amazonaws.com:8443").unwrap();
        head.insert_header("Content-Type", "text/plain;  charset=x").unwrap();
        sign(&mut head, &body, &scope(), &credentials(session_token.as_deref()), then()).unwrap();

        let verdict = verify(&head, &body, SECRET);
        prop_assert!(verdict.is_ok(), "{target}: {verdict:?}");
        let sent = std::str::from_utf8(head.raw_path()).unwrap();
        let (sent_path, sent_query) = sent.split_once('?').unwrap_or((sent, ""));
        // Nothing is lost on the way, and nothing is added.
        prop_assert_eq!(decoded(sent_path, false), decoded(target.split('?').next().unwrap(), false));
        prop_assert_eq!(arguments(sent_query, false), arguments(query.as_deref().unwrap_or_default(), true));
    }
}

/// Text as it may stand between the delimiters of a path or a query.
fn piece() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        "[a-zA-Z0-9._~-]",
        "[!$'()*+,;:@/]",
        Just("é".to_owned()),
        Just("ሴ".to_owned()),
        Just("%C3%A9".to_owned()),
        Just("%e1%88%b4".to_owned()),
        (0u8..0x80).prop_map(|byte| format!("%{byte:02X}")),
        (0u8..0x80).prop_map(|byte| format!("%{byte:02x}")),
    ];
    proptest::collection::vec(atom, 0..6).prop_map(|atoms| atoms.concat())
}

/// Names and values, decoded; in the order of the alphabet.
fn arguments(query: &str, is_form: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pairs = query.split('&').filter(|argument| !argument.is_empty());
    let mut pairs: Vec<_> = pairs
        .map(|argument| argument.split_once('=').unwrap_or((argument, "")))
        .map(|(name, value)| (decoded(name, is_form), decoded(value, is_form)))
        .collect();
    pairs.sort();
    pairs
}

fn decoded(text: &str, is_form: bool) -> Vec<u8> {
    let mut bytes = text.bytes().peekable();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' if is_form => b' ',
            b'%' => {
                let pair = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&pair).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    out
}

/// Checks a request as AWS's documentation of signature version 4 says, from what is on the wire.
fn verify(head: &RequestHeader, body: &[u8], secret: &str) -> Result<(), String> {
    let target = std::str::from_utf8(head.raw_path()).unwrap();
    if let Some(byte) = target.bytes().find(|byte| !byte.is_ascii_graphic()) {
        return Err(format!("{byte:#x} in the target"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let slash = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    let canonical_path = strictly_encoded(&format!("/{}{slash}", segments.join("/")), "/");

    // There are services that sort what they read and services that decode it first.
    let mut as_read: Vec<_> = query.split('&').filter_map(|argument| argument.split_once('=')).collect();
    as_read.sort();
    let as_read: Vec<_> = as_read.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let as_decoded: BTreeSet<_> = [false, true].map(|is_form| encoded(&arguments(query, is_form))).into();
    if as_decoded != BTreeSet::from([as_read.join("&")]) {
        return Err(format!("{query} can be read in two ways: {as_read:?}, {as_decoded:?}"));
    }

    let signed_headers = part(head, "SignedHeaders");
    let names: Vec<_> = signed_headers.split(';').collect();
    if !names.is_sorted() || !names.contains(&"host") {
        return Err(format!("{names:?}"));
    }
    if let Some(name) = head
        .headers
        .keys()
        .map(HeaderName::as_str)
        .find(|name| (name.starts_with("x-amz-") || *name == "content-type") && !names.contains(name))
    {
        return Err(format!("{name} is not signed"));
    }
    let headers = names.iter().fold(String::new(), |mut text, name| {
        let words: Vec<_> = self::text(head, name).split(' ').filter(|word| !word.is_empty()).collect();
        let _ = writeln!(text, "{name}:{}", words.join(" "));
        text
    });
    let canonical = format!(
        "{}\n{canonical_path}\n{}\n{headers}\n{signed_headers}\n{}",
        head.method,
        as_read.join("&"),
        hex(Sha256::digest(body).as_slice())
    );

    let credential: Vec<_> = part(head, "Credential").splitn(2, '/').collect();
    let [_, scope] = credential.as_slice() else { return Err("no credential".to_owned()) };
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
        text(head, "x-amz-date"),
        hex(Sha256::digest(&canonical).as_slice())
    );
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part));
    let expected = hex(&hmac(&key, &to_sign));
    if part(head, "Signature") == expected { Ok(()) } else { Err(format!("expected for\n{canonical}")) }
}

fn encoded(arguments: &[(Vec<u8>, Vec<u8>)]) -> String {
    // The order is that of the encoded texts.
    let encoded = |bytes: &[u8]| strictly_encoded(std::str::from_utf8(bytes).unwrap(), "");
    let mut pairs: Vec<_> = arguments.iter().map(|(name, value)| (encoded(name), encoded(value))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn strictly_encoded(text: &str, kept: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match char::from(byte) {
            char @ ('A'..='Z' | 'a'..='z' | '0'..='9' | '-' | '.' | '_' | '~') => out.push(char),
            char if kept.contains(char) => out.push(char),
            _ => drop(write!(out, "%{byte:02X}")),
        }
        out
    })
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
