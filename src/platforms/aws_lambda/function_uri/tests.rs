//! Whose credentials are sent, and what is signed.

use super::super::tests::compiled;
use super::*;
use crate::aws::Credentials as Keys;
use crate::platforms::tests::{self, call, seal};
use crate::values::Secret;

const URI: &str = "https://x.execute-api.eu-west-1.amazonaws.com/prod";

fn head(client: &[(&'static str, &str)]) -> RequestHeader {
    tests::head("GET", "/hello/x", client).into()
}

/// What is sent for a request with these fields, with these keys of `authorization`.
fn sent(authorization: &str, call: &Call<'_>, client: &[(&'static str, &str)]) -> RequestHeader {
    let yaml = format!("{{function_uri: '{URI}', authorization: {{{authorization}}}}}");
    let mut req = head(client);
    match compiled(&yaml).target {
        Target::Streamed(target) => {
            let mut parts = Parts::from(req);
            target.rewrite_request(call, &mut parts).unwrap();
            req = parts.into();
        }
        Target::Buffered(target) => {
            let keys = Keys::new(&Secret::new("AKID".to_owned()), &Secret::new("secret".to_owned()), None);
            let body = target.seal(call, &mut req, Bytes::from_static(b"x"), &seal(Some(&keys))).unwrap();
            assert_eq!(body, "x");
        }
    }
    req
}

fn all<'a>(req: &'a RequestHeader, name: &str) -> Vec<&'a str> {
    req.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

const IAM: &str = "iam: {accesskey: AKID, secretkey: secret}";
/// What of the client's survives.
const CLIENT: [(&str, &str); 3] =
    [("x-api-key", "theirs"), ("x-api-key", "twice"), ("authorization", "Bearer theirs")];

#[track_caller]
fn check(authorization: &str, client: &[(&'static str, &str)], key: &[&str], is_signed: Option<bool>) {
    let req = sent(authorization, &call(), client);
    assert_eq!(all(&req, "x-api-key"), key, "{authorization}");
    match is_signed {
        None => assert!(!req.headers.contains_key("authorization"), "{authorization}"),
        Some(signed) => {
            let value = all(&req, "authorization");
            let expected = if signed { "AWS4-HMAC-SHA256 Credential=AKID/" } else { "Bearer theirs" };
            assert!(value.len() == 1 && value[0].starts_with(expected), "{authorization}: {value:?}");
            assert_eq!(req.headers.contains_key("x-amz-date"), signed);
        }
    }
}

#[test]
fn configured_credentials_win_over_the_clients() {
    check("", &CLIENT, &["theirs", "twice"], Some(false));
    check("apikey: ours", &CLIENT, &["ours"], Some(false));
    check(IAM, &CLIENT, &["theirs", "twice"], Some(true));
    check(&format!("apikey: ours, {IAM}"), &CLIENT, &["ours"], Some(true));
    check("apikey: ours", &[], &["ours"], None);
    check(&format!("apikey: ours, {IAM}"), &[], &["ours"], Some(true));
    check("", &[], &[], None);
}

#[test]
fn the_clients_win_where_the_file_says_so() {
    check("prefer: client, apikey: ours", &CLIENT, &["theirs", "twice"], Some(false));
    check(&format!("prefer: client, {IAM}"), &CLIENT, &["theirs", "twice"], Some(false));
    check("prefer: client, apikey: ours", &[], &["ours"], None);
    check(&format!("prefer: client, {IAM}"), &[], &[], Some(true));
    check(&format!("prefer: client, apikey: ours, {IAM}"), &CLIENT[..2], &["theirs", "twice"], Some(true));
    check(&format!("prefer: client, apikey: ours, {IAM}"), &CLIENT[2..], &["ours"], Some(false));
}

#[test]
fn a_refusal_is_about_the_credential_that_was_sent() {
    let ours = |authorization: &str, client: &[(&'static str, &str)]| match compiled(&format!(
        "{{function_uri: '{URI}', authorization: {{{authorization}}}}}"
    ))
    .target
    {
        Target::Streamed(target) => target.adds_credential(&head(client)),
        Target::Buffered(target) => target.adds_credential(&head(client)),
    };
    assert!(ours("apikey: ours", &CLIENT));
    assert!(ours(IAM, &CLIENT));
    assert!(!ours("prefer: client, apikey: ours", &CLIENT));
    assert!(!ours(&format!("prefer: client, {IAM}"), &CLIENT));
    assert!(ours(&format!("prefer: client, {IAM}"), &CLIENT[..2]));
    assert!(ours(&format!("prefer: client, apikey: ours, {IAM}"), &CLIENT[2..]));
}

#[test]
fn what_only_aws_may_say_never_passes() {
    let client =
        [("x-amzn-trace-id", "Root=1"), ("x-amz-date", "forged"), ("x-amz-security-token", "forged")];
    for authorization in ["", "apikey: ours", IAM, &format!("prefer: client, {IAM}")] {
        let req = sent(authorization, &call(), &client);
        assert!(!req.headers.contains_key("x-amzn-trace-id"), "{authorization}");
        assert!(!req.headers.contains_key("x-amz-security-token"), "{authorization}");
        assert_ne!(all(&req, "x-amz-date"), ["forged"], "{authorization}");
    }
}

#[test]
fn what_is_signed_goes_to_aws_in_aws_form() {
    let call = Call { suffix: Some("a%20b"), query: Some("b=2&a=1&flag&c=x+y"), ..call() };
    let req = sent(IAM, &call, &[("content-length", "0")]);
    assert_eq!(req.uri.to_string(), "/prod/a%20b?a=1&b=2&c=x%20y&flag=");
    assert_eq!(req.headers["host"], "x.execute-api.eu-west-1.amazonaws.com");
    let authorization = all(&req, "authorization")[0];
    assert!(authorization.contains("/eu-west-1/execute-api/aws4_request"), "{authorization}");
    assert!(!req.headers.contains_key("content-length"));
}

#[test]
fn without_a_signature_the_query_stays_as_sent() {
    let call = Call { query: Some("b=2&a=1&flag"), ..call() };
    assert_eq!(sent("apikey: ours", &call, &[]).uri.to_string(), "/prod?b=2&a=1&flag");
}

#[test]
fn nothing_is_sent_without_the_credentials_to_sign_it() {
    let Target::Buffered(target) =
        compiled(&format!("{{function_uri: '{URI}', authorization: {{{IAM}}}}}")).target
    else {
        panic!("it is signed")
    };
    let refused = target.seal(&call(), &mut head(&[]), Bytes::new(), &seal(None));
    assert_eq!(refused, Err(GatewayError::NoCredential));
}

#[test]
fn service_and_region_are_those_of_the_host() {
    let scope = |host: &str| {
        let SigningScope { region, service } = scope_of(host);
        format!("{service} {region}")
    };
    assert_eq!(scope("x.lambda-url.eu-west-1.on.aws"), "lambda eu-west-1");
    assert_eq!(scope("x.execute-api.cn-north-1.amazonaws.com.cn"), "execute-api cn-north-1");
    assert_eq!(scope("x-vpce-1.execute-api.ap-south-1.amazonaws.com"), "execute-api ap-south-1");
    assert_eq!(scope("api.example.com"), "execute-api us-east-1");
    assert_eq!(scope("x.lambda-url.eu-west-1.example.com"), "execute-api us-east-1");
    assert_eq!(scope("execute-api.amazonaws.com"), "execute-api amazonaws");
}

#[test]
fn a_failure_of_the_function_is_known_by_awss_own_mark() {
    let verdict = |status: u16, fields: &[(&'static str, &str)]| {
        let mut resp = ResponseHeader::build(status, None).unwrap();
        fields.iter().for_each(|(name, value)| resp.insert_header(*name, *value).unwrap());
        reported(&resp)
    };
    let marked = [("x-amzn-errortype", "InternalServerErrorException")];
    assert_eq!(verdict(502, &marked), Some(Reported::FunctionError));
    assert_eq!(verdict(502, &[]), None);
    assert_eq!(verdict(404, &marked), None);
}
