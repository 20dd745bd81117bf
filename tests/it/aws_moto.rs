use std::time::SystemTime;

use fngate::aws::{SigningScope, sign};
use pingora::http::RequestHeader;

use crate::harness::*;

const PAYLOAD: &[u8] = b"{\"name\":\"World\"}";

/// An invocation, signed with these keys.
fn invocation(moto: &Moto, keys: &Keys, function: &str, query: &str) -> RequestHeader {
    let target = format!("/2015-03-31/functions/{function}/invocations{query}");
    signed(moto, keys, "lambda", &target)
}

fn signed(moto: &Moto, keys: &Keys, service: &str, target: &str) -> RequestHeader {
    let mut head = RequestHeader::build("POST", target.as_bytes(), None).unwrap();
    head.insert_header("Host", moto.addr().to_string()).unwrap();
    head.insert_header("Content-Type", "application/json").unwrap();
    head.insert_header("X-Amz-Invocation-Type", "RequestResponse").unwrap();
    let scope = SigningScope { region: Moto::REGION.to_owned(), service: service.to_owned() };
    sign(&mut head, PAYLOAD, &scope, &keys.credentials(), SystemTime::now()).unwrap();
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
    refused("body", &good, b"{\"name\":\"world\"}", MISMATCH).await;
    let altered = async |what: &str, change: fn(&mut RequestHeader), code: &str| {
        let mut head = good.clone();
        change(&mut head);
        refused(what, &head, PAYLOAD, code).await;
    };
    let elsewhere = |head: &mut RequestHeader| {
        head.set_raw_path(b"/2015-03-31/functions/other/invocations?Qualifier=%24LATEST").unwrap();
    };
    let another_version = |head: &mut RequestHeader| {
        head.set_raw_path(b"/2015-03-31/functions/hello/invocations?Qualifier=1").unwrap();
    };
    altered("path", elsewhere, MISMATCH).await;
    altered("query", another_version, MISMATCH).await;
    altered("host", |head| set(head, "Host", "lambda.us-east-1.amazonaws.com"), MISMATCH).await;
    altered("content type", |head| set(head, "Content-Type", "text/plain"), MISMATCH).await;
    altered("date", |head| set(head, "X-Amz-Date", "20260101T000000Z"), MISMATCH).await;
    altered("own header", |head| set(head, "X-Amz-Invocation-Type", "Event"), MISMATCH).await;
    altered("no own header", |head| drop(head.remove_header("x-amz-invocation-type")), MISMATCH).await;
    altered("token", |head| set(head, "X-Amz-Security-Token", "another"), UNKNOWN).await;
    altered("no token", |head| drop(head.remove_header("x-amz-security-token")), UNKNOWN).await;

    let wrong = Keys { secretkey: "wrong".to_owned(), ..moto.user.clone() };
    refused("secret", &invocation(&moto, &wrong, Moto::FUNCTION, ""), PAYLOAD, MISMATCH).await;
    let unknown = Keys { accesskey: "AKIAUNKNOWN".to_owned(), ..moto.user.clone() };
    refused("key", &invocation(&moto, &unknown, Moto::FUNCTION, ""), PAYLOAD, UNKNOWN).await;
    let target = "/2015-03-31/functions/hello/invocations";
    let another = signed(&moto, &moto.user, "execute-api", target);
    refused("service", &another, PAYLOAD, "AccessDenied").await;
}

fn set(head: &mut RequestHeader, name: &'static str, value: &'static str) {
    head.insert_header(name, value).unwrap();
}

const MISMATCH: &str = "SignatureDoesNotMatch";
const UNKNOWN: &str = "InvalidClientTokenId";
