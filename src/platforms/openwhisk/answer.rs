//! What an action returned, as the client's answer.
//!
//! | OpenWhisk's answer | the client's |
//! | --- | --- |
//! | 2xx or 502, `result: true`, an object with `statusCode`, `headers` or `body` | made from these keys, see below |
//! | any other JSON: objects, arrays, strings, numbers, `true`, `false`, `null` | its status, its bytes, `application/json` |
//! | 202 with an activation's id; an error of the platform; a record (`result: false`) | likewise: it is not a result |
//! | nothing, with an error's status | its status, and nothing |
//! | nothing otherwise; not JSON, like an ingress's page | 502 `bad_envelope` |
//!
//! 502 is how OpenWhisk marks an application error. The result is still the action's own, so its keys count there, too.
//!
//! | key | is | otherwise |
//! | --- | --- | --- |
//! | `statusCode` | 200 to 599 as a number or text; OpenWhisk's own status when absent or `null` | `bad_envelope` |
//! | `headers` | an object of strings, numbers, booleans and arrays of these, which repeat the header; `null` is ignored | `bad_envelope` |
//! | `body`, text | sent as it is, as `text/plain; charset=utf-8` unless `headers` say otherwise | |
//! | `body`, text with a content type that is not text | decoded from base64 | `bad_envelope` |
//! | `body`, other JSON | its bytes as they are, as `application/json` unless `headers` say otherwise | |
//! | `body`, `null` or `""` | nothing | |
//! | no `body` | the whole JSON when it has further keys, so that nothing is lost; nothing when it has none | |
//!
//! 204, 205 and 304 never have a body. Hop-by-hop headers, those `Connection` nominates and `Content-Length` are dropped, and so are
//! all headers of OpenWhisk itself, but for the activation's id and `Retry-After`.
//!
//! It differs from OpenWhisk's own web API where APISIX and plain sense do: texts are not `text/html` by default, which would make a
//! page of whatever an action echoes, and an answer without `statusCode` and `body` is not 204.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use indexmap::IndexMap;
use serde_json::value::RawValue;

use super::media::MediaType;
use super::{ACTIVATION_ID, is_blank, is_hop_by_hop, nominated};
use crate::error::GatewayError;

/// What the platform was asked for with `result=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Result,
    Record,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// Reads the platform's answer. Whatever the bytes are, this is an answer or `BadEnvelope`.
pub fn read(status: StatusCode, body: Bytes, asked: Asked) -> Result<Answer, GatewayError> {
    if is_blank(&body) {
        let says_enough = status.is_client_error() || status.is_server_error() || is_bodiless(status);
        return if says_enough {
            Ok(Answer { status, headers: vec![], body: Bytes::new() })
        } else {
            Err(EMPTY)
        };
    }
    let text = std::str::from_utf8(&body).map_err(|_| NOT_JSON)?;
    let json: &RawValue = serde_json::from_str(text).map_err(|_| NOT_JSON)?;
    if asked == Asked::Result && holds_result(status) && json.get().starts_with('{') {
        let keys: IndexMap<String, &RawValue> = serde_json::from_str(json.get()).map_err(|_| NOT_JSON)?;
        if ENVELOPE.iter().any(|key| keys.contains_key(*key)) {
            return unwrap(status, &body, &keys);
        }
    }
    Ok(finish(status, vec![], body, JSON))
}

/// Makes the answer that a result's `statusCode`, `headers` and `body` describe. `whole` is the result itself.
fn unwrap(
    platform: StatusCode,
    whole: &Bytes,
    keys: &IndexMap<String, &RawValue>,
) -> Result<Answer, GatewayError> {
    let key = |name: &str| keys.get(name).filter(|value| value.get() != "null");
    let status = key("statusCode").map_or(Ok(platform), |value| status_code(value))?;
    let headers = key("headers").map_or(Ok(vec![]), |value| header_fields(value))?;
    let nothing = || Ok(finish(status, headers.clone(), Bytes::new(), JSON));
    let body = match key("body") {
        Some(body) => body.get(),
        None if keys.contains_key("body") => return nothing(),
        None if keys.keys().all(|name| ENVELOPE.contains(&name.as_str())) => return nothing(),
        None => return Ok(finish(status, headers, whole.clone(), JSON)),
    };
    if !body.starts_with('"') {
        return Ok(finish(status, headers, whole.slice_ref(body.as_bytes()), JSON));
    }
    let text: String = serde_json::from_str(body).map_err(|_| BAD_BODY)?;
    let is_binary =
        content_type(&headers).is_some_and(|value| MediaType::parse(value.as_bytes()).is_binary());
    let body = if is_binary { BASE64.decode(text).map_err(|_| NOT_BASE64)? } else { text.into_bytes() };
    Ok(finish(status, headers, body.into(), TEXT))
}

/// Puts an answer together: without a body where there must be none, with `default_type` where the function names none.
fn finish(
    status: StatusCode,
    mut headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    default_type: &'static str,
) -> Answer {
    let body = if is_bodiless(status) { Bytes::new() } else { body };
    if !body.is_empty() && content_type(&headers).is_none() {
        headers.push((CONTENT_TYPE, HeaderValue::from_static(default_type)));
    }
    Answer { status, headers, body }
}

fn status_code(value: &RawValue) -> Result<StatusCode, GatewayError> {
    let text = value.get();
    let number = match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<f64>(),
        Some(_) => return Err(BAD_STATUS),
        // A number, or what `f64` does not parse either. `404.0` is how some languages write an integer.
        None => text.parse(),
    };
    let code = number.ok().filter(|n| n.fract() == 0.0 && (200.0..=599.0).contains(n)).ok_or(BAD_STATUS)?;
    StatusCode::from_u16(code as u16).map_err(|_| BAD_STATUS)
}

fn header_fields(value: &RawValue) -> Result<Vec<(HeaderName, HeaderValue)>, GatewayError> {
    let map: IndexMap<String, &RawValue> = serde_json::from_str(value.get()).map_err(|_| BAD_HEADERS)?;
    let mut fields = Vec::with_capacity(map.len().min(MOST_FIELDS));
    for (name, value) in map {
        let name = HeaderName::try_from(name).map_err(|_| BAD_HEADERS)?;
        let values = if value.get().starts_with('[') {
            serde_json::from_str(value.get()).map_err(|_| BAD_HEADERS)?
        } else {
            vec![value]
        };
        for value in values {
            if let Some(value) = field_value(value)? {
                fields.push((name.clone(), value));
            }
            if fields.len() > MOST_FIELDS {
                return Err(BAD_HEADERS);
            }
        }
    }
    let nominated = nominated(fields.iter().filter(|(name, _)| *name == CONNECTION).map(|(_, value)| value));
    fields.retain(|(name, _)| {
        *name != ACTIVATION_ID && !is_hop_by_hop(name) && !nominated.iter().any(|n| n == name.as_str())
    });
    match fields.iter().filter(|(name, _)| *name == CONTENT_TYPE).count() {
        0 | 1 => Ok(fields),
        _ => Err(BAD_HEADERS),
    }
}

/// A string's text, a number or boolean as it was written, nothing for `null`.
fn field_value(value: &RawValue) -> Result<Option<HeaderValue>, GatewayError> {
    let text = match value.get().as_bytes() {
        b"null" => return Ok(None),
        [b'"', ..] => serde_json::from_str(value.get()).map_err(|_| BAD_HEADERS)?,
        [b'{' | b'[', ..] => return Err(BAD_HEADERS),
        _ => value.get().to_owned(),
    };
    HeaderValue::try_from(text).map(Some).map_err(|_| BAD_HEADERS)
}

/// Whether an answer with this status is what an action returned: a success, or the error of an application. 202 is neither.
fn holds_result(status: StatusCode) -> bool {
    (status.is_success() && status != StatusCode::ACCEPTED) || status == StatusCode::BAD_GATEWAY
}

fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

fn content_type(headers: &[(HeaderName, HeaderValue)]) -> Option<&HeaderValue> {
    headers.iter().find(|(name, _)| *name == CONTENT_TYPE).map(|(_, value)| value)
}

pub(super) const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The keys that make a result an HTTP answer.
const ENVELOPE: [&str; 3] = ["statusCode", "headers", "body"];

/// More fields than any client takes.
const MOST_FIELDS: usize = 256;

/// Padding may be missing, as OpenWhisk allows.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const EMPTY: GatewayError = GatewayError::BadEnvelope("the function's answer is empty");
const NOT_JSON: GatewayError = GatewayError::BadEnvelope("the function's answer is not JSON");
const BAD_STATUS: GatewayError =
    GatewayError::BadEnvelope("the function's `statusCode` is not a status from 200 to 599");
const BAD_HEADERS: GatewayError = GatewayError::BadEnvelope("the function's `headers` are not HTTP headers");
const BAD_BODY: GatewayError = GatewayError::BadEnvelope("the function's `body` is not text");
const NOT_BASE64: GatewayError =
    GatewayError::BadEnvelope("the function's `body` is not base64, though its type is not a text");

#[cfg(test)]
mod tests;
