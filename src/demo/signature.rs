//! Whether a call of AWS is signed with the demo's keys.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::header::AUTHORIZATION;
use http::request::Parts;
use time::PrimitiveDateTime;
use time::macros::format_description;

pub const ACCESS_KEY: &str = "AKIADEMO";
pub const SECRET_KEY: &str = "demo-secret-key";
pub const REGION: &str = "eu-west-1";

/// Why a call is refused.
#[derive(Debug)]
pub(super) enum Fault {
    Missing,
    UnknownKey,
    Expired,
    /// Signed for something else, with another secret, or changed on the way.
    Mismatch,
}

/// Signs what has arrived as its sender should have, and compares.
pub(super) fn verify(head: &Parts, body: &[u8], now: SystemTime) -> Result<(), Fault> {
    let authorization = text(head, AUTHORIZATION.as_str()).ok_or(Fault::Missing)?;
    let given = Given::parse(authorization).ok_or(Fault::Missing)?;
    if given.key != ACCESS_KEY {
        return Err(Fault::UnknownKey);
    }
    let signed_at = text(head, "x-amz-date").and_then(parse_date).ok_or(Fault::Missing)?;
    let age = now.duration_since(signed_at).unwrap_or_else(|ahead| ahead.duration());
    if age > TOLERANCE {
        return Err(Fault::Expired);
    }
    let names: Vec<_> = given.signed_headers.split(';').collect();
    if !["host", "x-amz-date"].iter().all(|name| names.contains(name)) {
        return Err(Fault::Mismatch);
    }
    let headers: Option<Vec<_>> = names.into_iter().map(|name| Some((name, text(head, name)?))).collect();
    let expected = headers.and_then(|headers| signature(head, &headers, body, signed_at));
    let is_same = expected.as_deref() == Some(given.signature);
    let is_for_us = given.scope.split('/').skip(1).eq([REGION, "lambda", "aws4_request"]);
    if is_same && is_for_us { Ok(()) } else { Err(Fault::Mismatch) }
}

fn signature(head: &Parts, headers: &[(&str, &str)], body: &[u8], at: SystemTime) -> Option<String> {
    let identity = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "demo").into();
    let mut settings = SigningSettings::default();
    // Which ones are signed has been chosen by the sender.
    settings.excluded_headers = None;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name("lambda")
        .time(at)
        .settings(settings)
        .build()
        .ok()?
        .into();
    let target = head.uri.path_and_query()?.as_str();
    let body = SignableBody::Bytes(body);
    let request = SignableRequest::new(head.method.as_str(), target, headers.iter().copied(), body).ok()?;
    sign(request, &params).ok().map(|signed| signed.into_parts().1)
}

/// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`
struct Given<'a> {
    key: &'a str,
    scope: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Given<'a> {
    fn parse(authorization: &'a str) -> Option<Given<'a>> {
        let parts = authorization.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let part = |name| {
            let mut parts = parts.split(',').map(str::trim);
            parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
        };
        let (key, scope) = part("Credential")?.split_once('/')?;
        let (signed_headers, signature) = (part("SignedHeaders")?, part("Signature")?);
        Some(Given { key, scope, signed_headers, signature })
    }
}

fn text<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    head.headers.get(name)?.to_str().ok()
}

fn parse_date(text: &str) -> Option<SystemTime> {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    PrimitiveDateTime::parse(text, form).ok().map(|date| date.assume_utc().into())
}

/// AWS's own.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);
