//! `Asked`: what the events tell of a request, whatever their form.

use std::borrow::Cow;
use std::hash::Hash;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, USER_AGENT};
use http::{HeaderName, HeaderValue, Version};
use indexmap::IndexMap;
use percent_encoding::percent_decode_str;
use pingora::http::RequestHeader;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::aws::is_reserved;
use crate::error::GatewayError;
use crate::platforms::Call;
use crate::platforms::head::field_text;
use crate::platforms::media::MediaType;
use crate::uri::decode_component;

/// The request, in the pieces that events are made of.
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    pub(super) protocol: &'static str,
    /// As sent, with its escapes.
    pub(super) path: &'a str,
    /// The path with the route's parameters named instead of filled in.
    pub(super) resource: String,
    pub(super) path_parameters: Option<IndexMap<&'a str, Cow<'a, str>>>,
    /// As sent.
    pub(super) query: &'a str,
    pub(super) headers: IndexMap<&'a str, Vec<Cow<'a, str>>>,
    /// The name under which the client knows the gateway, without a port.
    pub(super) host: &'a str,
    pub(super) user_agent: Cow<'a, str>,
    pub(super) source_ip: String,
    pub(super) request_id: &'a str,
    pub(super) body: Body<'a>,
    pub(super) epoch_millis: i64,
    /// `12/Mar/2020:19:03:58 +0000`
    pub(super) time: String,
}

/// The body as JSON can hold it.
pub(super) struct Body<'a> {
    /// Empty when there is none.
    pub(super) text: Cow<'a, str>,
    pub(super) is_base64: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn new(
        call: &'a Call<'_>,
        head: &'a RequestHeader,
        body: &'a [u8],
        parameters: &'a [String],
        at: SystemTime,
    ) -> Result<Self, GatewayError> {
        let at = OffsetDateTime::from(at);
        let user_agent = head.headers.get(USER_AGENT).map_or(&[][..], HeaderValue::as_bytes);
        let (resource, path_parameters) = resource(call, parameters);
        Ok(Asked {
            method: head.method.as_str(),
            protocol: match head.version {
                Version::HTTP_2 => "HTTP/2.0",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            path: call.path,
            resource,
            path_parameters,
            query: call.query.unwrap_or_default(),
            headers: fields(&head.headers, body.len()),
            host: without_port(call.origin.authority),
            user_agent: field_text(user_agent),
            source_ip: call.client.to_string(),
            request_id: call.request_id,
            body: Body::new(&head.headers, body),
            epoch_millis: i64::try_from(at.unix_timestamp_nanos() / 1_000_000)
                .map_err(|_| GatewayError::Internal)?,
            time: at.format(TIME).map_err(|_| GatewayError::Internal)?,
        })
    }

    /// The first label of the host, by which AWS tells its APIs apart.
    pub(super) fn domain_prefix(&self) -> &'a str {
        self.host.split('.').next().unwrap_or_default()
    }

    /// The query's arguments in their order, decoded.
    pub(super) fn arguments(&self) -> Result<Arguments<'a>, GatewayError> {
        let decode = |text| decode_component(text).map(Cow::Owned).ok_or(BAD_QUERY);
        let mut arguments = Arguments::new();
        for (name, value) in self.pairs() {
            arguments.entry(decode(name)?).or_default().push(decode(value)?);
        }
        Ok(arguments)
    }

    /// The same with their escapes, as they were sent.
    pub(super) fn arguments_as_sent(&self) -> Arguments<'a> {
        let mut arguments = Arguments::new();
        for (name, value) in self.pairs() {
            arguments.entry(name.into()).or_default().push(value.into());
        }
        arguments
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let arguments = self.query.split('&').filter(|argument| !argument.is_empty());
        arguments.map(|argument| argument.split_once('=').unwrap_or((argument, "")))
    }
}

pub(super) type Arguments<'a> = IndexMap<Cow<'a, str>, Vec<Cow<'a, str>>>;

/// The last value of each name: what forms with one value per name hold.
pub(super) fn last_values<'a, K: Clone + Eq + Hash>(
    values: &IndexMap<K, Vec<Cow<'a, str>>>,
) -> IndexMap<K, Cow<'a, str>> {
    values.iter().filter_map(|(name, values)| Some((name.clone(), values.last()?.clone()))).collect()
}

impl<'a> Body<'a> {
    /// Text is what is called text, is not compressed, and is UTF-8.
    fn new(headers: &HeaderMap, body: &'a [u8]) -> Self {
        let media = MediaType::parse(headers.get(CONTENT_TYPE).map_or(b"", |value| value.as_bytes()));
        let is_binary = media.is_binary() || headers.contains_key(CONTENT_ENCODING);
        match std::str::from_utf8(body) {
            Ok(text) if text.is_empty() || !is_binary => Body { text: text.into(), is_base64: false },
            _ => Body { text: BASE64_STANDARD.encode(body).into(), is_base64: true },
        }
    }

    /// `None` when there is none.
    pub(super) fn text(&self) -> Option<&str> {
        (!self.text.is_empty()).then_some(self.text.as_ref())
    }
}

/// The path as its route describes it, and what the client filled in.
fn resource<'a>(
    call: &Call<'a>,
    parameters: &'a [String],
) -> (String, Option<IndexMap<&'a str, Cow<'a, str>>>) {
    let mut resource = String::with_capacity(call.path.len());
    let mut values = IndexMap::new();
    let mut copied = 0;
    for (name, place) in parameters.iter().zip(call.parameters.places()) {
        resource.push_str(call.path.get(copied..place.start).unwrap_or_default());
        resource.push_str(&format!("{{{name}}}"));
        values.insert(name.as_str(), decoded(call.path.get(place.clone()).unwrap_or_default()));
        copied = place.end;
    }
    match call.suffix {
        None => resource.push_str(call.path.get(copied..).unwrap_or_default()),
        Some(suffix) => {
            resource.push_str(call.base().get(copied..).unwrap_or_default());
            resource.push_str("/{proxy+}");
            values.insert("proxy", decoded(suffix));
        }
    }
    (resource, (!values.is_empty()).then_some(values))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8().unwrap_or(Cow::Borrowed(text))
}

/// The client's header fields without those that only AWS may set.
fn fields(headers: &HeaderMap, length: usize) -> IndexMap<&str, Vec<Cow<'_, str>>> {
    let passes = |name: &&HeaderName| **name != CONTENT_LENGTH && !is_reserved(name);
    let values = |name| headers.get_all(name).iter().map(|value| field_text(value.as_bytes())).collect();
    let mut fields: IndexMap<_, _> =
        headers.keys().filter(passes).map(|name| (name.as_str(), values(name))).collect();
    if length > 0 || headers.contains_key(CONTENT_LENGTH) {
        fields.insert(CONTENT_LENGTH.as_str(), vec![length.to_string().into()]);
    }
    fields
}

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

const BAD_QUERY: GatewayError = GatewayError::BadRequest("the query has broken escapes or is not UTF-8");
