//! Keys: what may stand beside what, and what is missing.

use super::*;
use crate::diag::{Diagnostics, Severity};
use crate::platforms::Target;

const ROUTE: Route<'static> = Route { parameters: &["name"], has_suffix: true };

/// The compiled target of these keys, for the tests of either kind.
#[track_caller]
pub(super) fn compiled(yaml: &str) -> Compiled {
    let book = Diagnostics::default();
    let raw: Raw = serde_yaml::from_str(yaml).expect("the keys are right");
    let compiled = compile(raw, ROUTE, &Scope::root(&book, 0));
    compiled.unwrap_or_else(|| panic!("{:?}", book.into_inner()))
}

/// What the faults or warnings of these keys say, with their hints.
fn said(yaml: &str, severity: Severity) -> Vec<String> {
    let book = Diagnostics::default();
    let raw: Raw = serde_yaml::from_str(yaml).expect("the keys are right");
    let compiled = compile(raw, ROUTE, &Scope::root(&book, 0));
    let found = book.into_inner();
    assert_eq!(compiled.is_none(), found.iter().any(|found| found.severity == Severity::Fault), "{yaml}");
    let found = found.into_iter().filter(|found| found.severity == severity);
    found.map(|found| format!("{} ({})", found.message, found.hint.unwrap_or_default())).collect()
}

#[track_caller]
fn refuses(yaml: &str, expected: &[&str]) {
    let faults = said(yaml, Severity::Fault);
    let all = faults.iter().zip(expected).all(|(fault, expected)| fault.contains(expected));
    assert!(faults.len() == expected.len() && all, "{yaml}: {faults:#?}");
}

#[test]
fn the_keys_decide_the_kind() {
    let kind = |yaml: &str| match compiled(yaml).target {
        Target::Streamed(_) => "streamed",
        Target::Buffered(_) => "buffered",
    };
    assert_eq!(kind("function_uri: https://x.execute-api.eu-west-1.amazonaws.com/prod"), "streamed");
    assert_eq!(kind("{function_uri: 'https://f.example', authorization: {apikey: k}}"), "streamed");
    assert_eq!(kind("{function_uri: 'https://f.example', authorization: {iam: {}}}"), "buffered");
    assert_eq!(kind("{function: hello, region: eu-west-1}"), "buffered");
}

#[test]
fn exactly_one_way_to_the_function() {
    refuses("timeout: 3000", &["give either `function_uri` or `function`"]);
    refuses("{function_uri: 'http://f.example', function: f}", &["give either `function_uri` or `function`"]);
}

#[test]
fn keys_of_the_other_way_are_faults() {
    refuses(
        "{function_uri: 'http://f.example', qualifier: a, region: eu-west-1, endpoint: 'http://e', payload: alb,
          invocation: event, max_resp_body_size: 1}",
        &["`qualifier` belongs", "`region`", "`endpoint`", "`payload`", "`invocation`", "`max_resp_body_size`"],
    );
    refuses(
        "{function: f, region: eu-west-1, authorization: {apikey: k, prefer: client}}",
        &["`apikey` belongs to `function_uri`", "`prefer` belongs to `function_uri`"],
    );
}

#[test]
fn a_function_needs_a_region() {
    refuses("function: f", &["the function's region is missing"]);
    refuses("{function: f, region: Ireland}", &["`Ireland` is not a region"]);
    let host = |yaml: &str| compiled(yaml).terms.endpoints[0].address.to_string();
    assert_eq!(host("{function: f, region: eu-west-1}"), "lambda.eu-west-1.amazonaws.com:443");
    assert_eq!(host("{function: f, region: cn-north-1}"), "lambda.cn-north-1.amazonaws.com.cn:443");
    assert_eq!(
        host("{function: f, authorization: {iam: {aws_region: us-gov-east-1}}}"),
        "lambda.us-gov-east-1.amazonaws.com:443"
    );
    assert_eq!(
        host("{function: 'arn:aws:lambda:eu-west-1:123456789012:function:f'}"),
        "lambda.eu-west-1.amazonaws.com:443"
    );
    assert_eq!(host("{function: f, region: eu-west-1, endpoint: 'http://127.0.0.1:5000'}"), "127.0.0.1:5000");
}

#[test]
fn the_arns_region_holds() {
    let yaml = "{function: 'arn:aws:lambda:eu-west-1:123456789012:function:f', region: us-east-1}";
    assert!(compiled(yaml).terms.endpoints[0].address.to_string().contains("eu-west-1"));
    let warnings = said(yaml, Severity::Warning);
    assert!(warnings.len() == 1 && warnings[0].contains("us-east-1"), "{warnings:?}");
}

#[test]
fn the_api_is_one_host() {
    refuses(
        "{function: '{name}', region: eu-west-1, host: '{name}.example.com', sni: example.com}",
        &["the API is one host"],
    );
    refuses("{function: f, region: eu-west-1, endpoint: 'http://e?x=1'}", &["it has a query"]);
}

#[test]
fn credentials_tell_connections_apart() {
    let credential = |yaml: &str| compiled(yaml).terms.credential;
    let keyed = |key: &str| {
        credential(&format!("{{function_uri: 'https://f.example', authorization: {{apikey: {key}}}}}"))
    };
    assert_eq!(credential("function_uri: https://f.example"), None);
    assert_eq!(keyed("a"), keyed("a"));
    assert_ne!(keyed("a"), keyed("b"));
    let signed = |key: &str| {
        credential(&format!(
            "{{function: f, region: eu-west-1, authorization: {{iam: {{accesskey: {key}, secretkey: s}}}}}}"
        ))
    };
    assert_ne!(signed("a"), signed("b"));
}

#[test]
fn a_signature_without_tls_draws_a_warning() {
    let warnings = |yaml: &str| said(yaml, Severity::Warning).len();
    let url = |uri: &str| format!("{{function_uri: '{uri}', authorization: {{iam: {{}}}}}}");
    assert_eq!(warnings(&url("http://f.example")), 1);
    assert_eq!(warnings(&url("http://127.0.0.1:80")), 0);
    assert_eq!(warnings(&url("https://f.example")), 0);
    assert_eq!(warnings("{function: f, region: eu-west-1, endpoint: 'http://api.example'}"), 1);
    assert_eq!(warnings("{function: f, region: eu-west-1}"), 0);
}
