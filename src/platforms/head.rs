//! What several platforms do to a message's head: set its target, replace a header, make basic credentials, leave out what speaks of one
//! connection only.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::template::{Filling, Names, Parameters, Template};
use super::{Call, Readiness, Verdict};
use crate::diag::{Invalid, Scope};
use crate::error::{GatewayError, Reported};
use crate::uri;
use crate::values::{Secret, TargetUri};

/// The path and query a target starts from. In the path, `{name}` stands for a parameter of the route.
#[derive(Debug, Clone)]
pub struct TargetPath {
    path: Template,
    query: Option<String>,
}

impl TargetPath {
    pub fn compile(path: &str, query: Option<String>, names: &Names<'_>) -> Result<Self, Invalid> {
        Ok(TargetPath { path: Template::parse(path, names)?, query })
    }

    pub fn from_uri(uri: TargetUri, names: &Names<'_>) -> Result<Self, Invalid> {
        TargetPath::compile(&uri.path, uri.query, names)
    }

    /// The key `path` of targets that are not given as a URI; `scope` stands at the platform.
    pub fn from_key(path: Option<String>, names: &Names<'_>, scope: &Scope<'_>) -> Option<Self> {
        let path = path.unwrap_or_else(|| "/".to_owned());
        let scope = scope.key("path");
        if !path.starts_with('/') || path.contains(['?', '#', ' ']) || uri::check_path(&path).is_err() {
            scope.reject_with(
                format!("`{path}` is not a path to start from"),
                "it starts with `/` and has no query and no dot segments",
            );
            return None;
        }
        scope.accept(TargetPath::compile(&path, None, names))
    }

    pub fn admit(&self, parameters: Parameters<'_>) -> Result<(), GatewayError> {
        self.path.admit(parameters, Filling::Segment)
    }

    /// Sets the request's target: this path, then the call's suffix; this query, then the client's.
    pub fn apply(&self, call: &Call<'_>, req: &mut Parts) -> Result<(), GatewayError> {
        let room = call.path.len() + call.query.map_or(0, str::len);
        let mut target = String::with_capacity(room + self.query.as_ref().map_or(0, String::len) + ROOM);
        self.path.fill(call.parameters, Filling::Segment, &mut target)?;
        if let Some(suffix) = call.suffix {
            uri::push_suffix(suffix, &mut target);
        }
        uri::push_query(self.query.as_deref(), call.query, &mut target);
        req.uri = target_uri(target)?;
        Ok(())
    }
}

/// Most functions' own paths are not longer than this.
const ROOM: usize = 64;

/// The authority for the Host header, which may have a parameter of the route as one of its labels.
#[derive(Debug, Clone)]
pub enum Host {
    Fixed(HeaderValue),
    Filled(Template),
}

impl Host {
    pub fn admit(&self, parameters: Parameters<'_>) -> Result<(), GatewayError> {
        match self {
            Host::Fixed(_) => Ok(()),
            Host::Filled(template) => template.admit(parameters, Filling::Label),
        }
    }

    /// Replaces what the client asked for.
    pub fn apply(&self, call: &Call<'_>, req: &mut Parts) -> Result<(), GatewayError> {
        req.headers.insert(HOST, self.value(call)?.into_owned());
        Ok(())
    }

    /// What this call is sent to.
    pub fn value(&self, call: &Call<'_>) -> Result<Cow<'_, HeaderValue>, GatewayError> {
        match self {
            Host::Fixed(value) => Ok(Cow::Borrowed(value)),
            Host::Filled(template) => {
                let mut host = String::new();
                template.fill(call.parameters, Filling::Label, &mut host)?;
                HeaderValue::try_from(host).map(Cow::Owned).map_err(|_| GatewayError::BadPath)
            }
        }
    }
}

/// Whose credentials count when both sides have some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    Route,
    Client,
}

/// The request line's target, in origin form.
pub fn target_uri(target: String) -> Result<Uri, GatewayError> {
    // What the client sent has passed the checks of the wire, so this only fails for what they let through and `http` does not know.
    let target = PathAndQuery::from_maybe_shared(Bytes::from(target)).map_err(|_| GatewayError::BadPath)?;
    Ok(target.into())
}

/// Removes all fields whose names begin with one of these prefixes, which are in lower case.
pub fn remove_prefixed(headers: &mut HeaderMap, prefixes: &[&str]) {
    remove_fields(headers, |name| prefixes.iter().any(|prefix| name.as_str().starts_with(prefix)));
}

/// Removes all fields with such names.
pub fn remove_fields(headers: &mut HeaderMap, is_meant: impl Fn(&HeaderName) -> bool) {
    // Most requests have none, and an empty list takes no memory.
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_meant(name)).cloned().collect();
    for name in &names {
        headers.remove(name);
    }
}

/// Refuses two fields whose names differ by `_` for `-` only, once all of ours are set: a server that makes variables of names, as
/// CGI and WSGI do, shows its function one of them, and that may be the client's in place of a key of ours.
pub fn refuse_look_alikes(headers: &HeaderMap) -> Result<(), GatewayError> {
    const LOOK_ALIKES: GatewayError =
        GatewayError::BadRequest("two headers differ only by an underscore for a hyphen");
    for name in headers.keys().filter(|name| looks_like_another(name)) {
        let name = name.as_str().as_bytes();
        let twins = headers.keys().map(|other| other.as_str().as_bytes()).filter(|other| {
            other.len() == name.len() && other.iter().zip(name).all(|(a, b)| plain(*a) == plain(*b))
        });
        if twins.count() > 1 {
            return Err(LOOK_ALIKES);
        }
    }
    Ok(())
}

/// The one name that stands for all that such a server cannot tell from this one.
pub fn as_variable(name: &HeaderName) -> HeaderName {
    let bytes: Vec<u8> = name.as_str().bytes().map(plain).collect();
    HeaderName::from_bytes(&bytes).unwrap_or_else(|_| name.clone())
}

fn plain(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

/// Whether a name has a `_` where another may have a `-`.
pub fn looks_like_another(name: &HeaderName) -> bool {
    memchr::memchr(b'_', name.as_str().as_bytes()).is_some()
}

/// What the functions frameworks say of the function's own code. A failure has status 500, but so has what a function answers.
pub fn read_status(resp: &ResponseHeader) -> Verdict {
    // Answers have few fields, so one look at all names is cheaper than to ask the map for each of these.
    let says_so = |(name, value): (&HeaderName, &HeaderValue)| {
        FRAMEWORKS.contains(name) && matches!(value.as_bytes(), b"crash" | b"error")
    };
    match resp.headers.iter().any(says_so) {
        true => Verdict::Failed(Reported::FunctionError),
        false => Verdict::Answered,
    }
}

/// KEDA's interceptor marks what it answers while it starts the function, OpenFunction's second engine among them.
pub fn cold_marker(resp: &ResponseHeader) -> Readiness {
    let is_marked = resp.headers.get(COLD_START).is_some_and(|mark| mark == "true");
    match is_marked && matches!(resp.status.as_u16(), 502..=504) {
        true => Readiness::NotReady,
        false => Readiness::Ready,
    }
}

const COLD_START: HeaderName = HeaderName::from_static("x-keda-http-cold-start");

/// OpenFunction's framework and Google's, which it came from.
const FRAMEWORKS: [HeaderName; 2] =
    [HeaderName::from_static("x-openfunction-status"), HeaderName::from_static("x-google-status")];

/// `Bearer …` for a token, marked as sensitive.
pub fn bearer_authorization(token: &Secret) -> Result<HeaderValue, Invalid> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
        .map_err(|_| Invalid::new("the token holds a control character"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `Basic …` for `user:password`, marked as sensitive.
pub fn basic_authorization(token: &Secret) -> HeaderValue {
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(token.expose())))
        .expect("base64 is visible ASCII");
    value.set_sensitive(true);
    value
}

/// The fields of a message that speak of one connection only, or of the message's framing, which is not for a function to say or to
/// know.
#[derive(Debug)]
pub struct HopByHop {
    /// Those that its `Connection` names.
    nominated: Vec<HeaderName>,
}

impl HopByHop {
    /// In a message with these values of `Connection`.
    pub fn of<'a>(connection: impl Iterator<Item = &'a HeaderValue>) -> Self {
        HopByHop { nominated: nominated(connection).collect() }
    }

    pub fn contains(&self, name: &HeaderName) -> bool {
        self.is_of_connection(name) || is_framing(name)
    }

    /// The same without framing.
    pub fn is_of_connection(&self, name: &HeaderName) -> bool {
        is_hop_by_hop(name) || self.nominated.contains(name)
    }
}

/// Whether a field of this name says how the body of its message comes.
pub fn is_framing(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH || *name == EXPECT
}

/// Whether a field of this name speaks of one connection only, wherever it stands (RFC 9110 section 7.6.1).
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Whether the gateway sets the field of this name in every request.
pub fn is_gateways(name: &HeaderName) -> bool {
    const ALL: [HeaderName; 6] =
        [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_FORWARDED_PORT, X_REAL_IP, X_REQUEST_ID];
    ALL.contains(name)
}

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What one line of `Connection` says.
pub fn options(connection: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    connection.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// The fields that a `Connection` header names. What is no name names none.
fn nominated<'a>(connection: impl Iterator<Item = &'a HeaderValue>) -> impl Iterator<Item = HeaderName> {
    connection.flat_map(options).filter_map(|name| HeaderName::from_bytes(name).ok())
}

/// UTF-8, or else ISO 8859-1, which RFC 9110 5.5 names as what such bytes once meant.
pub fn field_text(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => text.into(),
        Err(_) => value.iter().copied().map(char::from).collect::<String>().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &'static str, value: &str, expected: Verdict) {
        let mut resp = ResponseHeader::build(500, None).unwrap();
        resp.insert_header(name, value).unwrap();
        assert_eq!(read_status(&resp), expected, "{name}: {value}");
    }

    #[test]
    fn both_frameworks_mark_what_their_functions_fail_at() {
        let failed = || Verdict::Failed(Reported::FunctionError);
        check("X-OpenFunction-Status", "crash", failed());
        check("X-OpenFunction-Status", "error", failed());
        check("X-Google-Status", "crash", failed());
        check("X-Google-Status", "error", failed());
        check("X-OpenFunction-Status", "load", Verdict::Answered);
        check("X-Function-Status", "crash", Verdict::Answered);
    }
    proptest::proptest! {
        /// What a function is sent can be read back into what the client meant, and is below the function's own path.
        #[test]
        fn what_is_sent_parses_back_to_what_was_meant(
            name in "[ -~é]{1,12}",
            suffix in "([a-z%20./;=~-]|%[2-7][0-9A-F]){0,16}",
            query in "[a-z0-9=&%?/+]{0,12}",
        ) {
            let sent_name = uri::encode_segment(&name);
            let path = format!("/fn/{sent_name}/{suffix}");
            if uri::check_path(&path).is_err() {
                return Ok(());
            }
            let place = 4..4 + sent_name.len();
            let places = std::slice::from_ref(&place);
            let call = Call {
                method: &http::Method::GET,
                suffix: Some(&suffix),
                parameters: Parameters::new(&path, places),
                query: Some(&query),
                path: &path,
                origin: crate::platforms::Origin { scheme: crate::values::Scheme::Http, authority: "" },
                request_id: "",
                client: std::net::Ipv4Addr::LOCALHOST.into(),
            };
            let route = crate::platforms::template::Route { parameters: &["name"], has_suffix: true };
            let names = Names { route, allow: Default::default() };
            let target = TargetPath::compile("/base/{name}/run", Some("code=k".to_owned()), &names).unwrap();
            let mut req = crate::platforms::tests::head("GET", "/", &[]);
            if target.apply(&call, &mut req).is_ok() {
                let sent: Uri = req.uri.to_string().parse().unwrap();
                let mut segments = sent.path().splitn(5, '/').skip(1);
                proptest::prop_assert_eq!(segments.next(), Some("base"));
                proptest::prop_assert_eq!(segments.next().and_then(decoded), Some(name));
                proptest::prop_assert_eq!(segments.next(), Some("run"));
                proptest::prop_assert_eq!(segments.next(), Some(&*suffix));
                let sent_query = sent.query().and_then(|query| query.strip_prefix("code=k"));
                let clients = sent_query.map(|query| query.strip_prefix('&').unwrap_or(query));
                proptest::prop_assert_eq!(clients, Some(&*query));
            }
        }
    }

    fn decoded(segment: &str) -> Option<String> {
        percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(Cow::into_owned)
    }

    #[test]
    fn names_that_one_variable_stands_for_do_not_meet() {
        let check = |names: &[&'static str], expected: bool| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
            }
            assert_eq!(refuse_look_alikes(&headers).is_ok(), expected, "{names:?}");
        };
        check(&["x-key", "accept"], true);
        check(&["x_key", "accept"], true);
        check(&["x_key", "x_key"], true);
        check(&["x_key", "x-key-2", "x-kay"], true);
        check(&["x-key", "x_key"], false);
        check(&["x_api-key", "x-api_key"], false);
    }
}
