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
use bytes::Bytes;
use http::StatusCode;
use indexmap::IndexMap;
use serde_json::value::RawValue;

use super::ACTIVATION_ID;
use crate::error::GatewayError;
use crate::platforms::envelope::{
    Answer, BAD_BODY, BASE64, JSON, NOT_JSON, TEXT, content_type, finish, header_fields, is_blank,
    is_bodiless, status_code,
};
use crate::platforms::media::MediaType;

/// What the platform was asked for with `result=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Result,
    Record,
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
    let mut headers = key("headers").map_or(Ok(vec![]), |value| header_fields(value))?;
    headers.retain(|(name, _)| *name != ACTIVATION_ID);
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

/// Whether an answer with this status is what an action returned: a success, or the error of an application. 202 is neither.
fn holds_result(status: StatusCode) -> bool {
    (status.is_success() && status != StatusCode::ACCEPTED) || status == StatusCode::BAD_GATEWAY
}

/// The keys that make a result an HTTP answer.
const ENVELOPE: [&str; 3] = ["statusCode", "headers", "body"];

const EMPTY: GatewayError = GatewayError::BadEnvelope("the function's answer is empty");
const NOT_BASE64: GatewayError =
    GatewayError::BadEnvelope("the function's `body` is not base64, though its type is not a text");

#[cfg(test)]
mod tests;
