//! `http`: any HTTP service as a target.
//!
//! ```text
//! GET /api/users?page=2 HTTP/1.1           GET /v1/users?page=2 HTTP/1.1
//! Host: api.example.com              →     Host: backend.internal:8080
//!                                          X-Api-Key: …
//! ```

use std::collections::HashMap;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use indexmap::IndexMap;
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::connection::{self, Base, Defaults, RawScheme};
use super::head::{
    Host, TargetPath, as_variable, is_framing, is_gateways, is_hop_by_hop, looks_like_another,
    refuse_look_alikes,
};
use super::template::{Names, Route};
use super::{Call, Compiled, Sought, Streamed, StreamedTarget, Target, Verdict};
use crate::diag::{Invalid, Scope};
use crate::error::GatewayError;
use crate::secrets;
use crate::upstream::Endpoint;
use crate::values::{HostPort, RawSecret, TargetUri, credential_identity};

/// Give either `url`, or `nodes` with `scheme` and `path`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Raw {
    /// The service's URL; what follows the matched path is appended to it
    pub url: Option<String>,
    /// Several addresses instead of one URL
    #[schemars(length(min = 1))]
    pub nodes: Option<Vec<RawNode>>,
    /// With `nodes`: `http` or `https` (default `http`)
    pub scheme: Option<RawScheme>,
    /// With `nodes`: the path to start from (default `/`)
    pub path: Option<String>,
    /// Headers to set on every request; a value may be a secret
    pub headers: Option<IndexMap<String, RawSecret>>,
    /// What a path parameter of this target may be, as patterns with `*` and `?` (default: any name)
    #[schemars(length(min = 1))]
    pub allow: Option<Vec<String>>,
    #[serde(flatten)]
    pub connection: connection::Raw,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawNode {
    /// `host:port`
    pub address: String,
    /// Share of the requests, relative to the other nodes (default 1)
    #[schemars(range(min = 1, max = 1_000))]
    pub weight: Option<u32>,
}

#[derive(Debug)]
pub struct Http {
    path: TargetPath,
    host: Host,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Streamed for Http {
    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        self.path.admit(sought.parameters)?;
        self.host.admit(sought.parameters)
    }

    fn rewrite_request(&self, call: &Call<'_>, req: &mut Parts) -> Result<(), GatewayError> {
        self.path.apply(call, req)?;
        self.host.apply(call, req)?;
        for (name, value) in &self.headers {
            req.headers.insert(name, value.clone());
        }
        if self.headers.iter().any(|(name, _)| looks_like_another(name)) {
            refuse_look_alikes(&req.headers)?;
        }
        Ok(())
    }

    fn map_response<'c>(
        &self,
        _: impl FnOnce() -> Call<'c>,
        _: &mut ResponseHeader,
    ) -> Result<Verdict, GatewayError> {
        Ok(Verdict::Answered)
    }
}

pub fn compile(raw: Raw, route: Route<'_>, scope: &Scope<'_>) -> Option<Compiled> {
    let Raw { url, nodes, scheme, path, headers, allow, connection } = raw;
    let names = Names::compile(route, allow, scope)?;
    let located = match (url, nodes) {
        (Some(url), None) => {
            for (key, given) in [("scheme", scheme.is_some()), ("path", path.is_some())] {
                if given {
                    scope.key(key).reject_with(
                        format!("`{key}` belongs to `nodes`"),
                        "with `url`, it is part of the URL",
                    );
                }
            }
            let scope = scope.key("url");
            scope.accept(url.parse::<TargetUri>()).and_then(|uri| {
                let base = Base::from_origin(uri.scheme, uri.origin.clone());
                Some((base, scope.accept(TargetPath::from_uri(uri, &names))?))
            })
        }
        (None, Some(nodes)) => locate_nodes(nodes, scheme, path, &names, scope),
        _ => {
            scope.reject_with(
                "give either `url` or `nodes`",
                "`url` for one address, `nodes` for several with weights",
            );
            None
        }
    };
    let headers = compile_headers(headers.unwrap_or_default(), &scope.key("headers"));
    let (base, path) = located.unzip();
    let connection = connection::compile(connection, base, DEFAULTS, &names, scope)?;
    let headers = headers?;
    let credentials =
        || headers.iter().filter(|(name, value)| value.is_sensitive() || *name == AUTHORIZATION);
    let credential =
        credentials().next().map(|_| credential_identity(credentials().map(|(_, value)| value.as_bytes())));
    let connection = connection.with_credential(credential);
    let target = Http { path: path?, host: connection.host, headers };
    Some(Compiled {
        platform: "http",
        target: Target::Streamed(StreamedTarget::Http(target)),
        terms: connection.terms,
        max_request: connection.max_request,
        credentials: None,
    })
}

fn locate_nodes(
    nodes: Vec<RawNode>,
    scheme: Option<RawScheme>,
    path: Option<String>,
    names: &Names<'_>,
    scope: &Scope<'_>,
) -> Option<(Base, TargetPath)> {
    let endpoints: Vec<_> = nodes
        .into_iter()
        .enumerate()
        .map(|(i, RawNode { address, weight })| {
            let scope = scope.key("nodes").index(i);
            let address = scope.key("address").accept(HostPort::parse(&address, None))?;
            Some(Endpoint { address, weight: weight.unwrap_or(1) })
        })
        .collect();
    let path = TargetPath::from_key(path, names, scope);
    let endpoints = endpoints.into_iter().collect::<Option<Vec<_>>>()?;
    let origin = endpoints.first()?.address.clone();
    Some((Base { scheme: connection::scheme(scheme), origin, endpoints }, path?))
}

fn compile_headers(
    raw: IndexMap<String, RawSecret>,
    scope: &Scope<'_>,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut places = HashMap::new();
    let compiled: Vec<_> = raw
        .into_iter()
        .map(|(text, value)| {
            let scope = scope.key(&text);
            let refuse = |Invalid { message, hint }| scope.reject_key(message, hint);
            let name = header_name(&text).map_err(refuse).ok();
            if let Some(name) = &name
                && let Some(first) = places.insert(as_variable(name), scope.place().clone())
            {
                let message =
                    format!("`{text}` is the name of another header but for case, or `_` in place of `-`");
                scope.reject_second(message, Some("leave one of them out"), first);
            }
            let is_literal = matches!(value, RawSecret::Literal(_));
            let value = match value {
                // A plain header value is no secret, and may stand in any file.
                RawSecret::Literal(text) => secrecy::ExposeSecret::expose_secret(&text).to_owned(),
                reference => secrets::resolve(reference, &scope)?.expose().to_owned(),
            };
            let mut value = scope.accept(
                HeaderValue::try_from(value).map_err(|_| Invalid::new("the value holds a control character")),
            )?;
            value.set_sensitive(!is_literal);
            Some((name?, value))
        })
        .collect();
    compiled.into_iter().collect()
}

/// Names that frame a message or belong to the gateway cannot be set.
fn header_name(text: &str) -> Result<HeaderName, Invalid> {
    let name =
        HeaderName::try_from(text).map_err(|_| Invalid::new(format!("`{text}` is not a header name")))?;
    let belongs_to = |owner| Invalid::new(format!("`{text}` belongs to the {owner} and cannot be set"));
    if name == HOST {
        return Err(Invalid::new("`Host` is set by the key `host`"));
    }
    let variable = as_variable(&name);
    if is_hop_by_hop(&variable) || is_framing(&variable) {
        return Err(belongs_to("connection"));
    }
    if is_gateways(&variable) {
        return Err(belongs_to("gateway")
            .hint("each request gets its own, which says who asks or how the log names it; leave it out"));
    }
    Ok(name)
}

const DEFAULTS: Defaults = Defaults {
    timeout: Duration::from_secs(60),
    timeout_range: (Duration::from_millis(1), Duration::MAX),
    patience: Duration::ZERO,
};
