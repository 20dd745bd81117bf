//! OpenFaaS: functions behind its gateway, called at once or queued.
//!
//! ```text
//! GET /hello/World?u=1 HTTP/1.1            GET /function/hello.dev/World?u=1 HTTP/1.1
//! Host: api.example.com              →     Host: gateway.openfaas:8080
//!
//! HTTP/1.1 504 Gateway Timeout             HTTP/1.1 200 OK
//! Content-Type: application/json     ←     Content-Length: 0
//!
//! {"error":{"code":"upstream_timeout"…
//! ```
//!
//! The last one is how its Community Edition tells that no replica came up in time.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::connection::{self, Base, Defaults};
use super::head::{Host, basic_authorization, bearer_authorization, remove_prefixed, target_uri};
use super::template::{Allow, Name, Names, Parameters, Route, Template};
use super::{Call, Compiled, Sought, Streamed, StreamedTarget, Target, Verdict};
use crate::diag::{Invalid, Scope, given};
use crate::error::{GatewayError, Reported};
use crate::secrets;
use crate::uri::{push_query, push_suffix};
use crate::values::{RawSecret, TargetUri, Wildcard, credential_identity};

#[derive(Debug, Deserialize, JsonSchema)]
pub struct Raw {
    /// The gateway's URI, like `http://gateway.openfaas:8080`
    pub gateway_uri: String,
    /// The function's name, which may be a path parameter (default: the first segment of the suffix)
    pub function: Option<String>,
    /// The function's namespace (default: the gateway's own)
    pub namespace: Option<String>,
    /// `sync` waits for the function's answer, `async` queues the call (default `sync`)
    pub mode: Option<RawMode>,
    /// With `async`: the hosts that `X-Callback-Url` may name, as patterns with `*` and `?` (default: none)
    pub callback_hosts: Option<Vec<String>>,
    pub authorization: Option<RawAuthorization>,
    /// What an empty 200 without `X-Duration-Seconds` is: scaling that ran out of time, or an answer (default `timeout`)
    pub empty_200: Option<RawEmpty>,
    /// What a name from the path may be, as patterns with `*` and `?` (default: any name)
    #[schemars(length(min = 1))]
    pub allow: Option<Vec<String>>,
    #[serde(flatten)]
    pub connection: connection::Raw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawMode {
    Sync,
    Async,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawEmpty {
    Timeout,
    Pass,
}

/// Sent in place of the client's own; give one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAuthorization {
    /// Sent as a bearer token
    pub token: Option<RawSecret>,
    /// `user:password`, sent as basic authentication
    pub service_token: Option<RawSecret>,
}

#[derive(Debug)]
pub struct OpenFaas {
    /// The path up to the function's name, with a final `/`.
    before: String,
    function: Function,
    namespace: Option<Name>,
    host: Host,
    mode: Mode,
    /// Replaces the client's `Authorization`; without it the client's passes.
    authorization: Option<HeaderValue>,
}

#[derive(Debug)]
enum Function {
    Named(Name),
    /// The first segment of the suffix, if it is allowed.
    FirstSegment(Allow),
}

#[derive(Debug)]
enum Mode {
    Sync { empty: RawEmpty },
    Async { callback_hosts: Vec<Wildcard> },
}

impl Streamed for OpenFaas {
    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        if let Mode::Async { callback_hosts } = &self.mode {
            if sought.head.method != Method::POST {
                return Err(GatewayError::MethodNotAllowed("POST".into()));
            }
            check_callback(sought.head, callback_hosts)?;
        }
        self.function.of(sought.parameters, sought.suffix)?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| namespace.of(sought.parameters).map(drop))?;
        self.host.admit(sought.parameters)
    }

    fn rewrite_request(&self, call: &Call<'_>, req: &mut Parts) -> Result<(), GatewayError> {
        req.uri = target_uri(self.target(call)?)?;
        self.host.apply(call, req)?;
        remove_prefixed(&mut req.headers, &["x-openfaas-"]);
        // The gateway names a call only when nobody has done so, and says no word of a name it was given.
        req.headers.remove(&CALL_ID);
        req.headers.remove(&START_TIME);
        if let Some(value) = &self.authorization {
            req.headers.insert(AUTHORIZATION, value.clone());
        }
        Ok(())
    }

    fn map_response<'c>(
        &self,
        call: impl FnOnce() -> Call<'c>,
        resp: &mut ResponseHeader,
    ) -> Result<Verdict, GatewayError> {
        match self.mode {
            // Nothing of the function's is ever answered here.
            Mode::Async { .. } if resp.status.is_server_error() => Ok(Verdict::Failed(Reported::NotReached)),
            Mode::Async { .. } => Ok(Verdict::Answered),
            // A watchdog has measured what a function has answered.
            Mode::Sync { .. } if resp.headers.contains_key(DURATION) => Ok(Verdict::Answered),
            Mode::Sync { empty: RawEmpty::Timeout } if is_empty_200(call().method, resp) => {
                Err(GatewayError::UpstreamTimeout)
            }
            Mode::Sync { .. } => match resp.status.as_u16() {
                404 | 500 | 503 => Ok(Verdict::InBody),
                _ => Ok(Verdict::Answered),
            },
        }
    }

    fn read_body(&self, status: StatusCode, start: &[u8]) -> Option<Reported> {
        let was_on_the_way = match status {
            StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR => {
                start.starts_with(b"error finding function ")
            }
            StatusCode::SERVICE_UNAVAILABLE => start.starts_with(b"No endpoints available for: "),
            _ => false,
        };
        was_on_the_way.then_some(Reported::NotReached)
    }

    fn call_id(&self) -> Option<HeaderName> {
        Some(CALL_ID)
    }
}

impl OpenFaas {
    /// The path with the function's name in it, and the query.
    fn target(&self, call: &Call<'_>) -> Result<String, GatewayError> {
        let mut target = self.before.clone();
        let (name, rest) = self.function.of(call.parameters, call.suffix)?;
        target.push_str(&name);
        if let Some(namespace) = &self.namespace {
            target.push('.');
            target.push_str(&namespace.of(call.parameters)?);
        }
        if let Some(rest) = rest {
            push_suffix(rest, &mut target);
        }
        push_query(None, call.query, &mut target);
        Ok(target)
    }
}

impl Function {
    /// The name that this call has for it, and what of the suffix is left.
    fn of<'a>(
        &'a self,
        parameters: Parameters<'_>,
        suffix: Option<&'a str>,
    ) -> Result<(Cow<'a, str>, Option<&'a str>), GatewayError> {
        match self {
            Function::Named(name) => Ok((name.of(parameters)?, suffix)),
            Function::FirstSegment(allow) => {
                let (segment, rest) = split_segment(suffix.unwrap_or_default());
                if segment.is_empty() {
                    return Err(GatewayError::NoRoute);
                }
                let name = allow.admit(segment)?;
                check_name(&name).map_err(|_| GatewayError::BadPath)?;
                Ok((name, rest))
            }
        }
    }
}

/// What the gateway answers when nothing has answered: its handler returns, and its server writes a head for it.
fn is_empty_200(method: &Method, resp: &ResponseHeader) -> bool {
    let length = resp.headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    // Of an answer to HEAD, the length says nothing.
    resp.status == StatusCode::OK && length == Some(b"0") && method != Method::HEAD
}

/// The gateway would call any URL that a client names, from inside the cluster.
fn check_callback(req: &Parts, hosts: &[Wildcard]) -> Result<(), GatewayError> {
    let mut urls = req.headers.get_all(CALLBACK_URL).iter();
    let Some(url) = urls.next() else { return Ok(()) };
    let url: Option<TargetUri> = url.to_str().ok().and_then(|url| url.parse().ok());
    let is_allowed = |url: TargetUri| hosts.iter().any(|host| host.matches(&url.origin.host));
    match url.is_some_and(is_allowed) && urls.next().is_none() {
        true => Ok(()),
        false => Err(GatewayError::BadRequest("X-Callback-Url is not one that this route allows")),
    }
}

fn split_segment(suffix: &str) -> (&str, Option<&str>) {
    match suffix.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (suffix, None),
    }
}

pub fn compile(raw: Raw, route: Route<'_>, scope: &Scope<'_>) -> Option<Compiled> {
    let Raw {
        gateway_uri,
        function,
        namespace,
        mode,
        callback_hosts,
        authorization,
        empty_200,
        allow,
        connection,
    } = raw;
    let names = Names::compile(route, allow, scope)?;
    let uri = TargetUri::of_api(&gateway_uri, "http://gateway.openfaas:8080");
    let uri = scope.key("gateway_uri").accept(uri);
    let function = compile_function(function, namespace.as_deref(), &names, scope);
    let namespace =
        given(namespace, |text| Name::compile(&text, check_name, &names, &scope.key("namespace")));
    let callback_hosts = compile_hosts(callback_hosts.unwrap_or_default(), &scope.key("callback_hosts"));
    let authorization = compile_authorization(authorization, &scope.key("authorization"));

    let base = uri.as_ref().map(|uri| Base::from_origin(uri.scheme, uri.origin.clone()));
    let connection = connection::compile(connection, base, DEFAULTS, &names, scope)?;
    let authorization = authorization?;
    let credential = authorization.as_ref().map(|value| credential_identity([value.as_bytes()]));
    let connection = connection.with_credential(credential);
    let callback_hosts = callback_hosts?;
    let (segment, mode) = match mode.unwrap_or(RawMode::Sync) {
        RawMode::Async => ("async-function/", Mode::Async { callback_hosts }),
        RawMode::Sync => {
            if !callback_hosts.is_empty() {
                scope.key("callback_hosts").warn(
                    "`callback_hosts` says nothing without `mode: async`",
                    "only of queued calls is X-Callback-Url looked at",
                );
            }
            ("function/", Mode::Sync { empty: empty_200.unwrap_or(RawEmpty::Timeout) })
        }
    };
    let mut before = uri?.path;
    push_suffix(segment, &mut before);
    let target = OpenFaas {
        before,
        function: function?,
        namespace: namespace?,
        host: connection.host,
        mode,
        authorization,
    };
    Some(Compiled {
        platform: "openfaas",
        target: Target::Streamed(StreamedTarget::OpenFaas(target)),
        terms: connection.terms,
        max_request: connection.max_request,
        credentials: None,
    })
}

fn compile_function(
    text: Option<String>,
    namespace: Option<&str>,
    names: &Names<'_>,
    scope: &Scope<'_>,
) -> Option<Function> {
    let Some(text) = text else {
        if !names.route.has_suffix {
            scope.reject_with(
                "`function` is missing, and the route has no suffix to take it from",
                "name it, or let the route's path end in `/*`",
            );
            return None;
        }
        return Some(Function::FirstSegment(names.allow.clone()));
    };
    let scope = scope.key("function");
    let template = scope.accept(Template::parse(&text, names))?;
    let is_constant = template.constant().is_some();
    if !is_constant && template.sample("x").contains('.') {
        scope.reject_with(
            format!("`{text}` holds a `.`, behind which the gateway looks for a namespace"),
            "give it as `namespace`",
        );
        return None;
    }
    let check = if is_constant && namespace.is_none() { check_qualified } else { check_name };
    Name::compile(&text, check, names, &scope).map(Function::Named)
}

fn compile_hosts(patterns: Vec<String>, scope: &Scope<'_>) -> Option<Vec<Wildcard>> {
    let is_of_a_host = |b: u8| b.is_ascii_alphanumeric() || b"-._*?".contains(&b);
    let compile = |(i, pattern): (usize, String)| {
        if !pattern.is_empty() && pattern.bytes().all(is_of_a_host) {
            return Some(Wildcard::new(pattern.to_ascii_lowercase()));
        }
        scope.index(i).reject_with(
            format!("`{pattern}` fits no host"),
            "a host without scheme and port, like `hooks.example.com` or `*.example.com`",
        );
        None
    };
    let compiled: Vec<_> = patterns.into_iter().enumerate().map(compile).collect();
    compiled.into_iter().collect()
}

fn compile_authorization(raw: Option<RawAuthorization>, scope: &Scope<'_>) -> Option<Option<HeaderValue>> {
    let Some(RawAuthorization { token, service_token }) = raw else { return Some(None) };
    match (token, service_token) {
        (None, None) => Some(None),
        (Some(token), None) => {
            let scope = scope.key("token");
            let token = secrets::resolve(token, &scope)?;
            scope.accept(bearer_authorization(&token)).map(Some)
        }
        (None, Some(token)) => {
            let scope = scope.key("service_token");
            let token = secrets::resolve(token, &scope)?;
            secrets::warn_without_colon(&token, "`user:password`", &scope);
            Some(Some(basic_authorization(&token)))
        }
        (Some(_), Some(_)) => {
            scope.reject("give either `token` or `service_token`: a request has one Authorization");
            None
        }
    }
}

/// A name with its namespace in it, or without.
fn check_qualified(name: &str) -> Result<(), Invalid> {
    match name.split('.').all(|part| check_name(part).is_ok()) {
        true => Ok(()),
        false => Err(invalid_name(name)),
    }
}

/// A function's name, or a namespace's: without the `.` between the two, which could lead into another namespace.
fn check_name(name: &str) -> Result<(), Invalid> {
    let is_inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    match !name.is_empty() && name.bytes().all(is_inside) {
        true => Ok(()),
        false => Err(invalid_name(name)),
    }
}

fn invalid_name(name: &str) -> Invalid {
    Invalid::new(format!("`{name}` is not a name in OpenFaaS"))
        .hint("letters, digits, `-` and `_`; its namespace has a key of its own")
}

const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
const START_TIME: HeaderName = HeaderName::from_static("x-start-time");
const DURATION: HeaderName = HeaderName::from_static("x-duration-seconds");
const CALLBACK_URL: HeaderName = HeaderName::from_static("x-callback-url");

/// 100 seconds for a replica to come up, 60 for the function, and some for the answer that it did not.
const DEFAULTS: Defaults = Defaults {
    timeout: Duration::from_secs(165),
    timeout_range: (Duration::from_millis(100), Duration::MAX),
    patience: Duration::ZERO,
};

#[cfg(test)]
mod tests;
