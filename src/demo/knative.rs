//! An ingress of Knative with the services behind it, told apart by Host.
//!
//! | host | answer |
//! | --- | --- |
//! | `hello.default.example.com` | `Hello, {name}!`, by the last segment of the path |
//! | `cold.default.example.com` | scaled to zero: the activator's 503 until the first request has had its pod started; then as `hello` |
//! | `full.default.example.com` | the queue-proxy's 503: no further request may wait |
//! | any other | the ingress' own 404, without a body |
//!
//! With `K-Network-Probe` a request is answered by the queue-proxy, and the service never sees it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::header::{HOST, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Request, StatusCode};

use super::serve::{Reply, empty, greet, text};

/// What the hosts of all services end in.
pub const DOMAIN: &str = "example.com";

#[derive(Debug, Clone, Default)]
pub(super) struct Ingress {
    /// When `cold` was asked for first.
    woken: Arc<OnceLock<Instant>>,
}

impl Ingress {
    pub(super) fn respond<B>(&self, request: &Request<B>) -> Reply {
        let Some(service) = service(request) else { return empty(StatusCode::NOT_FOUND) };
        let is_known = ["hello", "cold", "full"].contains(&service);
        if is_known && request.headers().contains_key("k-network-probe") {
            return text(StatusCode::OK, "queue");
        }
        let (_, name) = request.uri().path().rsplit_once('/').unwrap_or_default();
        match service {
            "hello" => greet(name),
            "cold" if self.woken.get_or_init(Instant::now).elapsed() >= START => greet(name),
            "cold" => unavailable("context deadline exceeded\n"),
            "full" => unavailable("pending request queue full\n"),
            _ => empty(StatusCode::NOT_FOUND),
        }
    }
}

/// The first label of the host, if the rest of it is the namespace and the domain.
fn service<B>(request: &Request<B>) -> Option<&str> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().host().or(host)?;
    host.strip_suffix(DOMAIN)?.strip_suffix(".default.")
}

/// As Go's server writes an error, which both activator and queue-proxy leave it to.
fn unavailable(line: &'static str) -> Reply {
    let mut reply = text(StatusCode::SERVICE_UNAVAILABLE, line);
    reply.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

/// How long a pod takes to start.
const START: Duration = Duration::from_secs(2);
