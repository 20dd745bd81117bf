//! Knative Serving: services behind one ingress (Kourier), which tells them apart by Host.
//!
//! ```text
//! GET /hello/World?u=1 HTTP/1.1            GET /World?u=1 HTTP/1.1
//! Host: api.example.com              →     Host: hello.default.example.com
//! K-Network-Probe: queue
//!
//! HTTP/1.1 503 Service Unavailable         HTTP/1.1 503 Service Unavailable
//! Content-Type: text/plain           ←     Content-Type: text/plain
//!
//! pending request queue full               pending request queue full
//! ```
//!
//! The last one comes from the way to the function, not from the function: it passes, and is called `not_reached`.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::connection::{self, Base, Defaults, RawScheme};
use super::head::{Host, TargetPath, cold_marker, read_status, remove_prefixed};
use super::template::{Name, Names, Parameters, Route, Template};
use super::{Call, Compiled, Readiness, Sought, Streamed, StreamedTarget, Target, Verdict};
use crate::diag::{Invalid, Scope};
use crate::error::{GatewayError, Reported};
use crate::values::{HostPort, Scheme, is_host_name};

/// Give `service` and `domain`, or the whole `host`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Raw {
    /// The service's name, which may be a path parameter: Host is `{service}.{namespace}.{domain}`
    pub service: Option<String>,
    /// The service's namespace (default `default`)
    pub namespace: Option<String>,
    /// The domain of the cluster's services
    pub domain: Option<String>,
    /// The tag of one of the service's revisions: Host is `{tag}-{service}.{namespace}.{domain}`
    pub tag: Option<String>,
    /// `http` or `https`, towards the ingress (default `http`)
    pub scheme: Option<RawScheme>,
    /// The path to start from; what follows the matched path is appended to it (default `/`)
    pub path: Option<String>,
    /// What a path parameter of this target may be, as patterns with `*` and `?` (default: any name)
    #[schemars(length(min = 1))]
    pub allow: Option<Vec<String>>,
    #[serde(flatten)]
    pub connection: connection::Raw,
}

#[derive(Debug)]
pub struct Knative {
    path: TargetPath,
    authority: Authority,
}

/// What the ingress finds the service by.
#[derive(Debug)]
enum Authority {
    Whole(Host),
    /// A part of it comes from the request's path.
    Parts(ServiceHost),
}

#[derive(Debug)]
struct ServiceHost {
    /// The service, with its tag before it.
    service: Name,
    namespace: Name,
    domain: String,
}

impl Streamed for Knative {
    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        self.path.admit(sought.parameters)?;
        match &self.authority {
            Authority::Whole(host) => host.admit(sought.parameters),
            Authority::Parts(host) => host.fill(sought.parameters).map(drop),
        }
    }

    fn rewrite_request(&self, call: &Call<'_>, req: &mut Parts) -> Result<(), GatewayError> {
        self.path.apply(call, req)?;
        match &self.authority {
            Authority::Whole(host) => host.apply(call, req)?,
            Authority::Parts(host) => drop(req.headers.insert(HOST, host.fill(call.parameters)?)),
        }
        remove_prefixed(&mut req.headers, CONTROL);
        // Who says to be the kubelet's probe is answered on the way, and never by the function.
        let mut agents = req.headers.get_all(USER_AGENT).iter();
        if agents.any(|agent| agent.as_bytes().starts_with(b"kube-probe/")) {
            req.headers.remove(&USER_AGENT);
        }
        Ok(())
    }

    fn readiness(&self, resp: &ResponseHeader) -> Readiness {
        // The body is not here yet, but nothing else looks like Go's own errors with a text of one of these lengths.
        let length = resp.headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
        let is_gos = resp.headers.get(X_CONTENT_TYPE_OPTIONS).is_some_and(|value| value == "nosniff");
        let is_no_functions = resp.status == StatusCode::SERVICE_UNAVAILABLE && may_come_from_the_way(resp);
        match is_no_functions && is_gos && matches!(length, Some(b"26" | b"27")) {
            true => Readiness::NotReady,
            false => cold_marker(resp),
        }
    }

    fn map_response<'c>(
        &self,
        _: impl FnOnce() -> Call<'c>,
        resp: &mut ResponseHeader,
    ) -> Result<Verdict, GatewayError> {
        match read_status(resp) {
            Verdict::Answered if may_come_from_the_way(resp) => Ok(Verdict::InBody),
            verdict => Ok(verdict),
        }
    }

    fn read_body(&self, status: StatusCode, start: &[u8]) -> Option<Reported> {
        let text = start.trim_ascii();
        let was_on_the_way = match status {
            // The activator's queue or the pod's own is full, or nobody came to serve it.
            StatusCode::SERVICE_UNAVAILABLE => {
                [&b"pending request queue full"[..], b"context deadline exceeded"].contains(&text)
            }
            StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR => {
                text.starts_with(b"Error getting active endpoint: ")
            }
            StatusCode::BAD_GATEWAY => text.starts_with(b"dial tcp "),
            _ => false,
        };
        was_on_the_way.then_some(Reported::NotReached)
    }
}

impl ServiceHost {
    fn fill(&self, parameters: Parameters<'_>) -> Result<HeaderValue, GatewayError> {
        let service = self.service.of(parameters)?;
        let namespace = self.namespace.of(parameters)?;
        HeaderValue::try_from(format!("{service}.{namespace}.{}", self.domain))
            .map_err(|_| GatewayError::BadPath)
    }
}

/// Whether it looks like an answer of activator or queue-proxy, which is a line of text. Most answers do not.
fn may_come_from_the_way(resp: &ResponseHeader) -> bool {
    let is_text =
        || resp.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    matches!(resp.status.as_u16(), 404 | 500 | 502 | 503) && is_text()
}

pub fn compile(raw: Raw, route: Route<'_>, scope: &Scope<'_>) -> Option<Compiled> {
    let Raw { service, namespace, domain, tag, scheme, path, allow, mut connection } = raw;
    let names = Names::compile(route, allow, scope)?;
    let scheme = connection::scheme(scheme);
    let path = TargetPath::from_key(path, &names, scope);

    let host = match (service, connection.host.take()) {
        (Some(service), None) => compile_service(&service, namespace, domain, tag, &names, scope),
        // The namespace and the domain may be defaults of the platform.
        (None, Some(host)) if tag.is_none() => Some((host, None)),
        (None, Some(_)) => {
            scope.key("tag").reject_with("`tag` belongs to `service`", "with `host`, it is part of the host");
            None
        }
        (Some(_), Some(_)) | (None, None) => {
            scope.reject_with(
                "give either `service` or `host`",
                "`service` with `domain`, or the whole `host`",
            );
            None
        }
    };
    let (host, service) = host.unzip();
    let base = host.as_ref().and_then(|host| locate(host, scheme, &connection, &names, scope));
    connection.host = host;
    let connection = connection::compile(connection, base, DEFAULTS, &names, scope)?;
    let authority = match service? {
        Some(service) => Authority::Parts(service),
        None => Authority::Whole(connection.host),
    };
    Some(Compiled {
        platform: "knative",
        target: Target::Streamed(StreamedTarget::Knative(Knative { path: path?, authority })),
        terms: connection.terms,
        max_request: connection.max_request,
        credentials: None,
    })
}

/// The host as text, and its parts when a request's path fills them in.
fn compile_service(
    service: &str,
    namespace: Option<String>,
    domain: Option<String>,
    tag: Option<String>,
    names: &Names<'_>,
    scope: &Scope<'_>,
) -> Option<(String, Option<ServiceHost>)> {
    let label = |key: &str, text: &str, check| Name::compile(text, check, names, &scope.key(key));
    let namespace_text = namespace.unwrap_or_else(|| "default".to_owned());
    let name = label("service", service, check_service);
    let namespace = label("namespace", &namespace_text, check_label);
    let (service, name) = match tag {
        None => (service.to_owned(), name),
        Some(tag) => {
            let tagged = format!("{tag}-{service}");
            let alone = label("tag", &tag, check_service);
            let name = name.zip(alone).and_then(|_| label("tag", &tagged, check_service));
            (tagged, name)
        }
    };
    let domain = compile_domain(domain, scope);
    let (name, namespace, domain) = (name?, namespace?, domain?);
    let host = format!("{service}.{namespace_text}.{domain}");
    if name.constant().is_some() && namespace.constant().is_some() {
        return Some((host, None));
    }
    Some((host, Some(ServiceHost { service: name, namespace, domain })))
}

fn compile_domain(domain: Option<String>, scope: &Scope<'_>) -> Option<String> {
    let hint = "the domain of the cluster's services, like `example.com`, or `svc.cluster.local` inside";
    match domain {
        Some(domain) if is_host_name(&domain) => Some(domain.to_ascii_lowercase()),
        Some(domain) => {
            scope.key("domain").reject_with(format!("`{domain}` is not a domain"), hint);
            None
        }
        None => {
            scope.reject_with("`service` needs a `domain`", hint);
            None
        }
    }
}

/// Where to connect when `address` does not say so: to the host itself, which has to be known by then.
fn locate(
    host: &str,
    scheme: Scheme,
    connection: &connection::Raw,
    names: &Names<'_>,
    scope: &Scope<'_>,
) -> Option<Base> {
    let scope_of_host = scope.key("host");
    let template = scope_of_host.accept(Template::parse(host, names))?;
    let origin = scope_of_host.accept(HostPort::parse(&template.sample("x"), Some(scheme.default_port())))?;
    if template.constant().is_none() && connection.address.is_none() {
        scope.reject_with(
            "the host differs from call to call, so it cannot be connected to",
            "give `address`: the ingress of the cluster, like `kourier.kourier-system:80`",
        );
        return None;
    }
    Some(Base::from_origin(scheme, origin))
}

/// A service is also the name of a DNS entry, which begins with a letter.
fn check_service(name: &str) -> Result<(), Invalid> {
    check_label(name)?;
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(Invalid::new(format!("`{name}` is not a name in Knative: it begins with a digit"))
            .hint("a lower-case letter, then letters, digits and `-`; 63 characters at most"));
    }
    Ok(())
}

/// Kubernetes' rule for what becomes one label of a host.
fn check_label(name: &str) -> Result<(), Invalid> {
    let is_inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = (1..=63).contains(&name.len())
        && name.bytes().all(is_inside)
        && !name.starts_with('-')
        && !name.ends_with('-');
    match is_label {
        true => Ok(()),
        false => Err(Invalid::new(format!("`{name}` is not a name in Knative"))
            .hint("lower-case letters, digits and, inside, `-`; 63 characters at most")),
    }
}

/// What steers activator and queue-proxy: `K-Original-Host` alone gives the function another Host.
const CONTROL: &[&str] = &["k-", "knative-serving-"];

/// A revision may take 300 seconds to answer, the wait for its pod included.
const DEFAULTS: Defaults = Defaults {
    timeout: Duration::from_secs(305),
    timeout_range: (Duration::from_millis(100), Duration::MAX),
    patience: Duration::ZERO,
};

#[cfg(test)]
mod tests;
