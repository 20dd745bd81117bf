//! What an action is called with: the client's JSON object, or its whole request in the form web actions know.
//!
//! With `input: web` the parameters are, in this order of precedence, the query's and the body's, and with them always:
//!
//! | parameter | holds |
//! | --- | --- |
//! | `__ow_method` | the method in lower case |
//! | `__ow_headers` | names in lower case; repeated fields joined with `, ` (cookies with `; `); no hop-by-hop fields, no Content-Length. `Authorization` is there, as OpenWhisk itself hands it to web actions |
//! | `__ow_path` | what follows the matched path, with its leading `/` and its escapes as sent; empty on an exact route |
//! | `__ow_query` | the query as sent, without `?` |
//! | `__ow_body` | the body as sent: base64 when its content type is missing or not text, the text otherwise |
//!
//! A JSON object (`application/json`) or a form gives its members to the parameters, too. A repeated parameter counts the last time.
//! A request that names one of OpenWhisk's own parameters is refused, so that an action can trust them.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE};
use indexmap::IndexMap;
use pingora::http::RequestHeader;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::error::GatewayError;
use crate::platforms::Call;
use crate::platforms::envelope::is_blank;
use crate::platforms::head::field_text;
use crate::platforms::media::MediaType;
use crate::uri::decode_component;

/// The body itself, bytes unchanged, when it is one JSON object; `{}` for an empty one.
pub fn object(body: Bytes) -> Result<Bytes, GatewayError> {
    if is_blank(&body) {
        return Ok(Bytes::from_static(b"{}"));
    }
    let text = std::str::from_utf8(&body).map_err(|_| NOT_JSON)?;
    // Values that are only skipped are skipped without recursion: no depth of nesting can exhaust the stack.
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| NOT_JSON)?;
    if is_object(text) { Ok(body) } else { Err(NOT_AN_OBJECT) }
}

/// The request as the parameters of a web action.
pub fn web(call: &Call<'_>, req: &RequestHeader, body: &[u8]) -> Result<Bytes, GatewayError> {
    let media = MediaType::parse(req.headers.get(CONTENT_TYPE).map_or(b"", |value| value.as_bytes()));
    let body = if media.is_binary() {
        Cow::Owned(BASE64_STANDARD.encode(body))
    } else {
        Cow::Borrowed(std::str::from_utf8(body).map_err(|_| NOT_TEXT)?)
    };
    let path = call.suffix.map_or_else(String::new, |suffix| format!("/{suffix}"));
    let query = call.query.unwrap_or_default();

    let mut parameters = IndexMap::new();
    merge_pairs(query, &mut parameters).ok_or(BAD_QUERY)?;
    if media.is_form() {
        merge_pairs(&body, &mut parameters).ok_or(BAD_FORM)?;
    } else if media.is_json() && !is_blank(body.as_bytes()) {
        let json: &RawValue = serde_json::from_str(&body).map_err(|_| NOT_JSON)?;
        if is_object(json.get()) {
            let members: IndexMap<String, &RawValue> =
                serde_json::from_str(json.get()).map_err(|_| NOT_JSON)?;
            parameters.extend(members.into_iter().map(|(name, value)| (name, Parameter::Json(value))));
        }
    }
    if RESERVED.iter().any(|name| parameters.contains_key(*name)) {
        return Err(RESERVED_PARAMETER);
    }
    let own = [
        ("__ow_method", Parameter::Text(req.method.as_str().to_ascii_lowercase().into())),
        ("__ow_headers", Parameter::Fields(fields(&req.headers))),
        ("__ow_path", Parameter::Text(path.into())),
        ("__ow_query", Parameter::Text(query.into())),
        ("__ow_body", Parameter::Text(Cow::Borrowed(&body))),
    ];
    parameters.extend(own.map(|(name, value)| (name.to_owned(), value)));
    serde_json::to_vec(&parameters).map(Bytes::from).map_err(|_| GatewayError::Internal)
}

#[derive(Serialize)]
#[serde(untagged)]
enum Parameter<'a> {
    Text(Cow<'a, str>),
    /// As the client wrote it: no number loses a digit.
    Json(&'a RawValue),
    Fields(IndexMap<&'a str, String>),
}

/// The client's header fields as one map.
fn fields(headers: &HeaderMap) -> IndexMap<&str, String> {
    headers
        .keys()
        .filter(|name| **name != CONTENT_LENGTH)
        .map(|name| {
            let separator = if *name == COOKIE { "; " } else { ", " };
            let values: Vec<_> = headers.get_all(name).iter().map(|v| field_text(v.as_bytes())).collect();
            (name.as_str(), values.join(separator))
        })
        .collect()
}

/// Adds `a=1&b=2`; `None` when an escape is broken or is not UTF-8.
fn merge_pairs(text: &str, parameters: &mut IndexMap<String, Parameter<'_>>) -> Option<()> {
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters.insert(decode_component(name)?, Parameter::Text(decode_component(value)?.into()));
    }
    Some(())
}

fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

/// What a web action is told by OpenWhisk only.
const RESERVED: [&str; 6] =
    ["__ow_method", "__ow_headers", "__ow_path", "__ow_query", "__ow_body", "__ow_user"];

const NOT_JSON: GatewayError = GatewayError::BadRequest("the body is not JSON");
const NOT_AN_OBJECT: GatewayError = GatewayError::BadRequest("the body is not a JSON object");
const NOT_TEXT: GatewayError = GatewayError::BadRequest("the body is not UTF-8, though its type is a text");
const BAD_QUERY: GatewayError = GatewayError::BadRequest("the query has broken escapes or is not UTF-8");
const BAD_FORM: GatewayError = GatewayError::BadRequest("the form has broken escapes or is not UTF-8");
const RESERVED_PARAMETER: GatewayError =
    GatewayError::BadRequest("parameters named `__ow_…` are not the client's to set");

#[cfg(test)]
mod tests;
