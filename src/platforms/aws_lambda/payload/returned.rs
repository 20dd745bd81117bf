//! `Returned`: the answer that a function's return value describes.
//!
//! | member | is | otherwise |
//! | --- | --- | --- |
//! | `statusCode` | 200 to 599, as a number or text | `bad_envelope`; in `apigw_v2`, a value without it is the body of a 200 |
//! | `headers` | an object of strings, numbers and booleans | `bad_envelope` |
//! | `multiValueHeaders` | the same with lists; not in `apigw_v2` | `bad_envelope` |
//! | `cookies` | a list of `Set-Cookie` fields; only in `apigw_v2` | `bad_envelope` |
//! | `body` | text, or `null` | `bad_envelope` |
//! | `isBase64Encoded` | whether the body is base64 | `bad_envelope` |
//! | `statusDescription` | the reason phrase; only in `alb` | ignored |
//!
//! A field that stands in `headers` and `multiValueHeaders` is sent with the values of both, each once. Hop-by-hop fields and
//! `Content-Length` are dropped. Further members are ignored.

use base64::Engine;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderName, HeaderValue, StatusCode};
use indexmap::IndexMap;
use pingora::http::ResponseHeader;
use serde_json::value::RawValue;

use super::{Form, NOT_JSON};
use crate::error::GatewayError;
use crate::platforms::envelope::{
    Answer, BAD_BODY, BAD_HEADERS, BASE64, JSON, MOST_FIELDS, finish, header_fields, status_code,
};

#[derive(Debug, PartialEq, Eq)]
pub struct Returned {
    pub answer: Answer,
    /// In place of the status's own phrase.
    pub reason: Option<String>,
}

impl From<Answer> for Returned {
    fn from(answer: Answer) -> Self {
        Returned { answer, reason: None }
    }
}

impl Returned {
    pub fn head(&self) -> Result<ResponseHeader, GatewayError> {
        let mut head = self.answer.head()?;
        head.set_reason_phrase(self.reason.as_deref()).map_err(|_| GatewayError::Internal)?;
        Ok(head)
    }
}

/// The head that a function says in JSON: status, fields and phrase. With `raw` they may be said in any form's way.
pub fn read_head(
    members: &Members<'_>,
    form: Form,
) -> Result<(StatusCode, Fields, Option<String>), GatewayError> {
    let status = members.get("statusCode").map(status_code).transpose()?.ok_or(NO_STATUS)?;
    let fields = |name| members.get(name).map_or(Ok(Vec::new()), header_fields);
    let mut headers = match form {
        Form::ApigwV2 => fields("headers")?,
        Form::Raw | Form::ApigwV1 | Form::Alb => merged(fields("multiValueHeaders")?, fields("headers")?),
    };
    if let (Form::Raw | Form::ApigwV2, Some(value)) = (form, members.get("cookies")) {
        let cookies: Vec<String> = serde_json::from_str(value.get()).map_err(|_| BAD_COOKIES)?;
        for cookie in cookies {
            headers.push((SET_COOKIE, HeaderValue::try_from(cookie).map_err(|_| BAD_COOKIES)?));
        }
    }
    let types = headers.iter().filter(|(name, _)| *name == CONTENT_TYPE).count();
    if headers.len() > MOST_FIELDS || types > 1 {
        return Err(BAD_HEADERS);
    }
    let reason = match form {
        Form::Alb => members.get("statusDescription").and_then(phrase),
        Form::Raw | Form::ApigwV1 | Form::ApigwV2 => None,
    };
    Ok((status, headers, reason))
}

pub type Fields = Vec<(HeaderName, HeaderValue)>;

/// The members of an object, without those that are `null`.
pub struct Members<'a>(IndexMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    pub fn parse(json: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().map(Members)
    }

    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied().filter(|value| value.get() != "null")
    }
}

/// Makes the answer. Whatever the bytes are, this is one, or `BadEnvelope`.
pub(super) fn read(value: &Bytes, form: Form) -> Result<Returned, GatewayError> {
    let json: &RawValue = serde_json::from_slice(value).map_err(|_| NOT_JSON)?;
    let members = Members::parse(json.get().as_bytes());
    let members = match (members, form) {
        (Some(members), Form::ApigwV2) if members.get("statusCode").is_some() => members,
        (_, Form::ApigwV2) => return Ok(finish(StatusCode::OK, vec![], value.clone(), JSON).into()),
        (Some(members), Form::Raw | Form::ApigwV1 | Form::Alb) => members,
        (None, Form::Raw | Form::ApigwV1 | Form::Alb) => return Err(NOT_AN_OBJECT),
    };
    let (status, headers, reason) = read_head(&members, form)?;
    let body = members
        .get("body")
        .map_or(Ok(String::new()), |text| serde_json::from_str(text.get()).map_err(|_| BAD_BODY))?;
    let is_base64 = members
        .get("isBase64Encoded")
        .map_or(Ok(false), |value| serde_json::from_str(value.get()).map_err(|_| BAD_FLAG))?;
    let body = if is_base64 { BASE64.decode(body).map_err(|_| NOT_BASE64)? } else { body.into_bytes() };
    Ok(Returned { answer: finish(status, headers, body.into(), default_type(form)), reason })
}

/// What each form's own front calls a body that its function calls nothing. For `alb` it is what no browser takes for a page.
fn default_type(form: Form) -> &'static str {
    match form {
        Form::Raw | Form::ApigwV1 => JSON,
        Form::ApigwV2 => "text/plain;charset=UTF-8",
        Form::Alb => "application/octet-stream",
    }
}

/// The lists, and what is in `single` besides.
fn merged(mut lists: Fields, single: Fields) -> Fields {
    for field in single {
        if !lists.contains(&field) {
            lists.push(field);
        }
    }
    lists
}

/// `200 OK` or `OK`, as visible ASCII.
fn phrase(value: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(value.get()).ok()?;
    let phrase = text.trim_start_matches(|c: char| c.is_ascii_digit()).trim();
    let is_visible = phrase.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    (!phrase.is_empty() && phrase.len() <= LONGEST_PHRASE && is_visible).then(|| phrase.to_owned())
}

const LONGEST_PHRASE: usize = 64;

const NOT_AN_OBJECT: GatewayError = GatewayError::BadEnvelope("the function's answer is not an object");
const NO_STATUS: GatewayError = GatewayError::BadEnvelope("the function's answer has no `statusCode`");
const BAD_COOKIES: GatewayError =
    GatewayError::BadEnvelope("the function's `cookies` are not a list of cookies");
const BAD_FLAG: GatewayError =
    GatewayError::BadEnvelope("the function's `isBase64Encoded` is neither true nor false");
const NOT_BASE64: GatewayError = GatewayError::BadEnvelope("the function's `body` is not base64");
