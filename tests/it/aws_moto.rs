use std::time::SystemTime;

use fngate::aws::{SigningScope, sign};
use pingora::http::RequestHeader;

use crate::harness::*;

const PAYLOAD: &[u8] = b"{\"name\":\"World\"}";

/// An invocation, signed with these keys.
fn invocation(moto: &Moto, keys: &Keys, function: &str, query: &str) -> RequestHeader {
    let target = format!("/2015-03-31/functions/{function}/invocations{query}");
    signed(moto, keys, "POST", &target, PAYLOAD)
}

fn signed(moto: &Moto, keys: &Keys, method: &str, target: &str, body: &[u8]) -> RequestHeader {
    signed_for("lambda", moto, keys, method, target, body)
}

fn signed_for(
    service: &str,
    moto: &Moto,
    keys: &Keys,
    method: &str,
    target: &str,
    body: &[u8],
) -> RequestHeader {
    let mut head = RequestHeader::build(method, target.as_bytes(), None).unwrap();
    head.insert_header("Host", moto.addr().to_string()).unwrap();
    head.insert_header("Content-Type", "application/json").unwrap();
    head.insert_header("X-Amz-Invocation-Type", "RequestResponse").unwrap();
    let scope = SigningScope { region: Moto::REGION.to_owned(), service: service.to_owned() };
    sign(&mut head, body, &scope, &keys.credentials(), SystemTime::now()).unwrap();
    head
}

#[tokio::test]
async fn what_is_signed_is_accepted() {
    let moto = Moto::start().await;
    let arn = Moto::ARN.replace(':', "%3A");
    for keys in [&moto.user, &moto.role] {
        for (function, query) in [
            (Moto::FUNCTION, ""),
            (Moto::FUNCTION, "?Qualifier=%24LATEST&b=2&a=1&a=*&a-=x&flag&c=1+2"),
            (Moto::ARN, ""),
            (&arn, "?Qualifier=%24LATEST"),
        ] {
            let mut head = invocation(&moto, keys, function, query);
            // What comes later is not signed.
            head.insert_header("User-Agent", "somebody").unwrap();
            head.insert_header("X-Forwarded-For", "192.0.2.1").unwrap();
            let answer = moto.send(&head, PAYLOAD).await;
            assert_eq!(answer.status(), 200, "{function} {query}: {}", answer.text());
            assert_eq!(answer.body, PAYLOAD);
        }
    }
}

#[tokio::test]
async fn what_is_altered_is_refused() {
    let moto = Moto::start().await;
    let good = invocation(&moto, &moto.role, Moto::FUNCTION, "?Qualifier=%24LATEST");
    assert_eq!(moto.send(&good, PAYLOAD).await.status(), 200);

    let refused = async |what: &str, head: &RequestHeader, body: &[u8], code: &str| {
        let answer = moto.send(head, body).await;
        assert_eq!(answer.status(), 403, "{what}: {}", answer.text());
        assert!(answer.text().contains(code), "{what}: {}", answer.text());
    };
    refused("body", &good, b"{\"name\":\"world\"}", "SignatureDoesNotMatch").await;
    let changes: [(&str, fn(&mut RequestHeader), &str); 9] = [
        ("path", |head| head.set_raw_path(b"/2015-03-31/functions/other/invocations").unwrap(), MISMATCH),
        (
            "query",
            |head| {
                head.set_raw_path(b"/2015-03-31/functions/hello/invocations?Qualifier=1").unwrap();
            },
            MISMATCH,
        ),
        ("Host", |head| head.insert_header("Host", "lambda.us-east-1.amazonaws.com").unwrap(), MISMATCH),
        ("content type", |head| head.insert_header("Content-Type", "text/plain").unwrap(), MISMATCH),
        ("date", |head| head.insert_header("X-Amz-Date", "20260101T000000Z").unwrap(), MISMATCH),
        ("invocation", |head| head.insert_header("X-Amz-Invocation-Type", "Event").unwrap(), MISMATCH),
        (
            "invocation removed",
            |head| {
                head.remove_header("x-amz-invocation-type");
            },
            MISMATCH,
        ),
        (
            "session token removed",
            |head| {
                head.remove_header("x-amz-security-token");
            },
            "InvalidClientTokenId",
        ),
        (
            "session token",
            |head| head.insert_header("X-Amz-Security-Token", "another").unwrap(),
            "InvalidClientTokenId",
        ),
    ];
    for (what, change, code) in changes {
        let mut head = good.clone();
        change(&mut head);
        refused(what, &head, PAYLOAD, code).await;
    }

    let wrong = Keys { secretkey: "wrong".to_owned(), ..moto.user.clone() };
    refused("secret", &invocation(&moto, &wrong, Moto::FUNCTION, ""), PAYLOAD, MISMATCH).await;
    let unknown = Keys { accesskey: "AKIAUNKNOWN".to_owned(), ..moto.user.clone() };
    refused("key", &invocation(&moto, &unknown, Moto::FUNCTION, ""), PAYLOAD, "InvalidClientTokenId").await;
    let target = "/2015-03-31/functions/hello/invocations";
    let elsewhere = signed_for("execute-api", &moto, &moto.user, "POST", target, PAYLOAD);
    refused("service", &elsewhere, PAYLOAD, "AccessDenied").await;
}

const MISMATCH: &str = "SignatureDoesNotMatch";
