//! Answers that functions give as JSON: a status, header fields and a body as its members, to be made an answer of HTTP again.
//!
//! Whatever a function says there, what comes out is an answer that can be sent, or a fault of its envelope.

use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use indexmap::IndexMap;
use pingora::http::ResponseHeader;
use serde_json::value::RawValue;

use super::head::HopByHop;
use crate::error::GatewayError;

/// An answer of HTTP, made from what a function says.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Answer {
    pub fn head(&self) -> Result<ResponseHeader, GatewayError> {
        let mut head = ResponseHeader::build(self.status, Some(self.headers.len() + ROOM))
            .map_err(|_| GatewayError::Internal)?;
        for (name, value) in &self.headers {
            head.append_header(name, value).map_err(|_| GatewayError::Internal)?;
        }
        Ok(head)
    }
}

/// For the fields that are the gateway's.
const ROOM: usize = 4;

/// Puts an answer together: without a body where there must be none, with `default_type` where the function names none.
pub fn finish(
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

/// JSON's white space and nothing else.
pub fn is_blank(body: &[u8]) -> bool {
    body.iter().all(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'))
}

pub fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

pub fn content_type(headers: &[(HeaderName, HeaderValue)]) -> Option<&HeaderValue> {
    headers.iter().find(|(name, _)| *name == CONTENT_TYPE).map(|(_, value)| value)
}

/// `statusCode`: a number, or text that is one.
pub fn status_code(value: &RawValue) -> Result<StatusCode, GatewayError> {
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

/// An object of header fields, without those that speak of a connection; an array repeats its field.
pub fn header_fields(value: &RawValue) -> Result<Vec<(HeaderName, HeaderValue)>, GatewayError> {
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
    let connection = fields.iter().filter(|(name, _)| *name == CONNECTION).map(|(_, value)| value);
    let hop_by_hop = HopByHop::of(connection);
    fields.retain(|(name, _)| !hop_by_hop.contains(name));
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

pub const JSON: &str = "application/json";
pub const TEXT: &str = "text/plain; charset=utf-8";

/// More fields than any client takes.
pub const MOST_FIELDS: usize = 256;

/// Padding may be missing, as platforms allow.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub const BAD_STATUS: GatewayError =
    GatewayError::BadEnvelope("the function's `statusCode` is not a status from 200 to 599");
pub const BAD_HEADERS: GatewayError =
    GatewayError::BadEnvelope("the function's `headers` are not HTTP headers");
pub const BAD_BODY: GatewayError = GatewayError::BadEnvelope("the function's `body` is not text");
pub const NOT_JSON: GatewayError = GatewayError::BadEnvelope("the function's answer is not JSON");
