use std::path::PathBuf;

use super::*;
use crate::diag::Diagnostics;

fn compiled(yaml: &str) -> Result<Iam, Vec<String>> {
    let raw: Raw = serde_yaml::from_str(yaml).unwrap();
    let book = Diagnostics::new(PathBuf::from("/etc/fngate"));
    let defaults = SigningScope { region: "us-east-1".to_owned(), service: "execute-api".to_owned() };
    let iam = compile(raw, defaults, &Scope::root(&book, 0));
    if book.has_faults() {
        return Err(book.into_inner().into_iter().map(|d| d.message).collect());
    }
    Ok(iam.expect("refused without a word"))
}

#[track_caller]
fn found(yaml: &str, expected: Origin) {
    match compiled(yaml).unwrap().source {
        Source::Lookup(lookup) => assert_eq!(lookup.origin, expected, "{yaml}"),
        Source::Keys(_) => panic!("{yaml}"),
    }
}

#[track_caller]
fn refused(yaml: &str, expected: &[&str]) {
    assert_eq!(compiled(yaml).unwrap_err(), expected, "{yaml}");
}

#[test]
fn keys_that_are_given_are_used() {
    let iam = compiled("{ accesskey: AKID, secretkey: s, session_token: t }").unwrap();
    let Source::Keys(credentials) = iam.source else { panic!() };
    let secret = |text: &str| crate::values::Secret::new(text.to_owned());
    let same = Credentials::new(&secret("AKID"), &secret("s"), Some(&secret("t")));
    assert_eq!(credentials.digest(), same.digest());
    assert_ne!(credentials.digest(), Credentials::new(&secret("AKID"), &secret("s"), None).digest());
    assert_eq!(credentials.expiry(), None);
    assert_eq!(iam.scope, SigningScope { region: "us-east-1".into(), service: "execute-api".into() });
}

#[test]
fn region_and_service_are_those_of_the_file() {
    let iam = compiled("{ aws_region: eu-west-1, service: lambda }").unwrap();
    assert_eq!(iam.scope, SigningScope { region: "eu-west-1".into(), service: "lambda".into() });
    let Source::Lookup(lookup) = iam.source else { panic!() };
    assert_eq!(lookup, Lookup { origin: Origin::Default, region: "eu-west-1".into() });
}

#[test]
fn a_source_is_found_by_name() {
    found("{}", Origin::Default);
    found("{ source: environment }", Origin::Environment);
    found("{ source: web_identity }", Origin::WebIdentity);
    found("{ source: container }", Origin::Container);
    found("{ source: imds }", Origin::Imds);
    found("{ source: profile }", Origin::Profile { name: None, credentials_file: None });
    found("{ profile: gateway }", Origin::Profile { name: Some("gateway".into()), credentials_file: None });
    found(
        "{ source: profile, credentials_file: aws/credentials }",
        Origin::Profile { name: None, credentials_file: Some("/etc/fngate/aws/credentials".into()) },
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    refused("{ secretkey: s }", &["`secretkey` is given, `accesskey` is missing"]);
    refused("{ accesskey: AKID }", &["`accesskey` is given, `secretkey` is missing"]);
    refused("{ session_token: t }", &["`session_token` stands alone"]);
    refused(
        "{ accesskey: AKID, secretkey: s, source: imds, profile: p }",
        &["`source` and `accesskey` exclude each other", "`profile` and `accesskey` exclude each other"],
    );
    refused("{ source: imds, profile: p }", &["`profile` belongs to another source"]);
    refused(
        "{ source: environment, credentials_file: p }",
        &["`credentials_file` belongs to another source"],
    );
    refused(
        "{ aws_region: Ireland/1, service: '' }",
        &[
            "`Ireland/1` is not a region, like `eu-west-1`",
            "`` is not a service, like `lambda` or `execute-api`",
        ],
    );
    refused("{ accesskey: '', secretkey: s }", &["the secret is empty"]);
}
