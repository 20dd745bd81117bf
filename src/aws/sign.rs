//! Signature version 4: what makes a request the caller's own, to the last byte of its body.
//!
//! AWS recomputes the signature from the bytes it received, so a request is first brought into a form that can be read in one
//! way only. Signed are the target, the body and those headers that nobody on the way may change. Reads no clock.
//!
//! ```text
//! GET /dev/hello?b=2&a=*&flag HTTP/1.1     GET /dev/hello?a=%2A&b=2&flag= HTTP/1.1
//! Host: x.execute-api.…                →   Host: x.execute-api.…
//!                                          X-Amz-Date: 20150830T123600Z
//!                                          Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/…
//! ```

use std::time::SystemTime;

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningInstructions, SigningSettings};
use aws_sigv4::sign::v4;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap};
use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};
use pingora::http::RequestHeader;

use super::Credentials;
use crate::error::GatewayError;
use crate::uri;

/// Where a signature is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningScope {
    pub region: String,
    /// As AWS knows it: `lambda`, `execute-api`.
    pub service: String,
}

/// Whether a client has no business to send a field of this name: AWS answers with 403 to some of them, and believes the rest.
pub fn is_reserved(name: &HeaderName) -> bool {
    ["x-amz-", "x-amzn-"].iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// Signs what is about to be sent, as the last step: afterwards only headers may change that are not signed. These are all but
/// Host, Content-Type and `X-Amz-*`. An earlier signature is replaced.
pub fn sign(
    head: &mut RequestHeader,
    body: &[u8],
    scope: &SigningScope,
    credentials: &Credentials,
    at: SystemTime,
) -> Result<(), GatewayError> {
    for name in MADE_HERE {
        head.remove_header(&name);
    }
    let target = unambiguous(head.raw_path())?;
    head.set_raw_path(target.as_bytes()).map_err(|_| GatewayError::BadPath)?;
    let made = signature(head.method.as_str(), &target, &head.headers, body, scope, credentials, at)?;
    for (name, value) in made.headers() {
        let name = HeaderName::try_from(name).map_err(|_| GatewayError::Internal)?;
        let mut value = HeaderValue::try_from(value).map_err(|_| GatewayError::Internal)?;
        value.set_sensitive(name != X_AMZ_DATE);
        head.insert_header(name, value).map_err(|_| GatewayError::Internal)?;
    }
    Ok(())
}

/// The headers that prove who sends this. The path in the signature is encoded once more than in the request, and without its
/// empty segments; only S3 takes it as it is.
fn signature(
    method: &str,
    target: &str,
    headers: &HeaderMap,
    body: &[u8],
    scope: &SigningScope,
    credentials: &Credentials,
    at: SystemTime,
) -> Result<SigningInstructions, GatewayError> {
    if !headers.contains_key(HOST) {
        return Err(GatewayError::Internal);
    }
    let headers: Vec<_> = headers
        .iter()
        .filter(|(name, _)| is_signed(name))
        .map(|(name, value)| value.to_str().map(|value| (name.as_str(), value)))
        .collect::<Result<_, _>>()
        .map_err(|_| GatewayError::BadRequest("the content type has characters that cannot be signed"))?;
    let mut settings = SigningSettings::default();
    // The headers that it gets are chosen already.
    settings.excluded_headers = None;
    let params = v4::SigningParams::builder()
        .identity(credentials.identity())
        .region(&scope.region)
        .name(&scope.service)
        .time(at)
        .settings(settings)
        .build()
        .map_err(|_| GatewayError::Internal)?
        .into();
    SignableRequest::new(method, target, headers.into_iter(), SignableBody::Bytes(body))
        .and_then(|request| aws_sigv4::http_request::sign(request, &params))
        .map(|signed| signed.into_parts().0)
        .map_err(|_| GatewayError::Internal)
}

fn is_signed(name: &HeaderName) -> bool {
    *name == HOST || *name == CONTENT_TYPE || name.as_str().starts_with("x-amz-")
}

/// The target as AWS reads it, whichever way it reads: the path without bytes that have no place in one, the query decoded as a
/// form, strictly encoded and in the order in which it is signed.
fn unambiguous(target: &[u8]) -> Result<String, GatewayError> {
    let mut halves = target.splitn(2, |byte| *byte == b'?');
    let path = percent_encode(halves.next().unwrap_or_default(), NOT_IN_PATHS).to_string();
    let mut arguments: Vec<_> = halves
        .next()
        .unwrap_or_default()
        .split(|byte| *byte == b'&')
        .filter(|argument| !argument.is_empty())
        .map(argument)
        .collect::<Result<_, _>>()?;
    if arguments.is_empty() {
        return Ok(path);
    }
    // By name, then by value. As whole texts `a-=` would come before `a=`.
    arguments.sort();
    let arguments: Vec<_> = arguments.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(format!("{path}?{}", arguments.join("&")))
}

/// Name and value of `name=value`, or of `name` alone.
fn argument(text: &[u8]) -> Result<(String, String), GatewayError> {
    let encoded = |part: &[u8]| {
        let spaced: Vec<_> = part.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        // What is no text could not be in the event that a function gets, either.
        let text = String::from_utf8(percent_decode(&spaced).collect())
            .map_err(|_| GatewayError::BadRequest("the query is not UTF-8 and cannot be signed"))?;
        Ok(uri::encode_segment(&text))
    };
    let mut parts = text.splitn(2, |byte| *byte == b'=');
    Ok((encoded(parts.next().unwrap_or_default())?, encoded(parts.next().unwrap_or_default())?))
}

const X_AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const MADE_HERE: [HeaderName; 3] =
    [AUTHORIZATION, X_AMZ_DATE, HeaderName::from_static("x-amz-security-token")];

/// All but RFC 3986 `pchar`, `/`, and the escapes that are there already.
const NOT_IN_PATHS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[cfg(test)]
mod tests;
