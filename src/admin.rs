//! The admin listener: `/healthz`, `/readyz`, `/metrics` and `/routes`.
//!
//! Looking has no side effects, and nothing shown here is a secret. Whoever looks slowly or not at all holds neither a lock nor,
//! for long, a connection. Web pages cannot look: see `Admin::refuse_browsers`.

pub mod inquiry;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::telemetry::{self, Metrics};

/// What the listener shows.
pub struct Admin {
    pub metrics: Metrics,
    pub status: Arc<Status>,
    /// The compiled routes as a document; made anew for every look.
    pub routes: Box<dyn Fn() -> Value + Send + Sync>,
    /// The names under which this listener is known, besides addresses and `localhost`.
    pub hosts: Vec<String>,
}

impl Admin {
    /// Answers on `listener` for as long as the future is polled.
    pub async fn serve(self, listener: std::net::TcpListener) -> io::Result<()> {
        self.serve_within(listener, Bounds::default()).await
    }

    async fn serve_within(self, listener: std::net::TcpListener, bounds: Bounds) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let admin = Arc::new(self);
        let permits = Arc::new(Semaphore::new(bounds.connections));
        loop {
            let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
            match listener.accept().await {
                Ok((stream, _)) => {
                    let admin = admin.clone();
                    tokio::spawn(async move {
                        admin.serve_connection(stream, bounds).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Mostly too many open files, which passes; trying again at once would burn a CPU until then.
                    log::warn!("the admin listener cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One request, then the connection closes: so the time of a connection can be bounded as a whole.
    async fn serve_connection(self: Arc<Self>, stream: TcpStream, bounds: Bounds) {
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let admin = self.clone();
            async move { Ok::<_, Infallible>(admin.answer(request.into_parts().0).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head)
            .keep_alive(false)
            .half_close(true)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        // Who breaks off or is too slow is cut; there is nobody to tell.
        let _ = tokio::time::timeout(bounds.connection, connection).await;
    }

    async fn answer(self: Arc<Self>, request: http::request::Parts) -> Answer {
        if let Err(why) = self.refuse_browsers(&request) {
            return failure(StatusCode::FORBIDDEN, "forbidden", why);
        }
        let path = request.uri.path();
        if !["/healthz", "/readyz", "/metrics", "/routes"].contains(&path) {
            let there = "there are /healthz, /readyz, /metrics and /routes";
            return failure(StatusCode::NOT_FOUND, "not_found", there);
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            let mut answer =
                failure(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "looking takes GET or HEAD");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let verbose = request.uri.query().is_some_and(asks_verbose);
        match path {
            "/healthz" => answer(StatusCode::OK, PLAIN, "ok\n"),
            "/readyz" => self.status.answer(verbose),
            // Both grow with the number of routes: not on a thread that also serves others.
            "/metrics" => rendered(telemetry::TEXT_FORMAT, move || self.metrics.render()).await,
            _ => rendered(JSON, move || pretty(&(self.routes)())).await,
        }
    }

    /// A page in somebody's browser must not read this by pointing a name of its own at our address: the Host is one that no
    /// page can have, and requests that browsers mark as coming from elsewhere are refused.
    fn refuse_browsers(&self, request: &http::request::Parts) -> Result<(), &'static str> {
        if !self.is_our_host(request) {
            return Err("the Host is neither an address nor one of `admin.hosts`");
        }
        if request.headers.contains_key(ORIGIN) || is_cross_site(&request.headers) {
            return Err("pages of other origins cannot look here");
        }
        Ok(())
    }

    fn is_our_host(&self, request: &http::request::Parts) -> bool {
        let mut hosts = request.headers.get_all(HOST).iter();
        let authority = match (request.uri.authority(), hosts.next(), hosts.next()) {
            (_, _, Some(_)) => return false,
            (Some(authority), _, None) => authority.clone(),
            (None, Some(host), None) => match Authority::try_from(host.as_bytes()) {
                Ok(authority) => authority,
                Err(_) => return false,
            },
            // Simple health checkers speak HTTP/1.0 without a Host; browsers do not.
            (None, None, None) => return request.version == Version::HTTP_10,
        };
        let host = authority.host();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let mut names = self.hosts.iter().map(String::as_str).chain(["localhost"]);
        address.parse::<IpAddr>().is_ok() || names.any(|name| name.eq_ignore_ascii_case(host))
    }
}

/// How the gateway stands: written by whoever starts, reloads and stops it, read by `/readyz`.
#[derive(Default)]
pub struct Status(ArcSwap<Standing>);

#[derive(Default, Clone)]
struct Standing {
    listeners: Vec<SocketAddr>,
    draining: bool,
    config: Option<Config>,
    last_reload: Option<Reload>,
}

#[derive(Clone)]
struct Config {
    hash: String,
    generation: u64,
}

#[derive(Clone)]
struct Reload {
    at: SystemTime,
    /// Of the configuration that was tried, when it could be compiled.
    hash: Option<String>,
    /// Empty: it succeeded.
    faults: Vec<String>,
}

impl Status {
    /// Every listener is bound.
    pub fn bound(&self, listeners: &[SocketAddr]) {
        self.change(|standing| standing.listeners = listeners.to_vec());
    }

    /// From now on new requests should go elsewhere.
    pub fn draining(&self) {
        self.change(|standing| standing.draining = true);
    }

    pub fn config_loaded(&self, hash: &str, generation: u64) {
        self.change(|standing| standing.config = Some(Config { hash: hash.to_owned(), generation }));
    }

    pub fn reload_succeeded(&self, hash: &str, generation: u64) {
        let at = SystemTime::now();
        self.change(|standing| {
            standing.config = Some(Config { hash: hash.to_owned(), generation });
            standing.last_reload = Some(Reload { at, hash: Some(hash.to_owned()), faults: Vec::new() });
        });
    }

    /// The faults as place and message, without the lines of the file: those may hold a secret.
    pub fn reload_failed(&self, hash: Option<&str>, faults: impl IntoIterator<Item = String>) {
        let at = SystemTime::now();
        let mut faults: Vec<_> = faults.into_iter().take(MAX_FAULTS).collect();
        if faults.is_empty() {
            faults.push("the reload failed".to_owned());
        }
        self.change(|standing| {
            standing.last_reload = Some(Reload { at, hash: hash.map(str::to_owned), faults: faults.clone() });
        });
    }

    pub fn is_ready(&self) -> bool {
        self.0.load().is_ready()
    }

    fn change(&self, change: impl Fn(&mut Standing)) {
        self.0.rcu(|standing| {
            let mut standing = Standing::clone(standing);
            change(&mut standing);
            standing
        });
    }

    fn answer(&self, verbose: bool) -> Answer {
        let standing = self.0.load();
        let status = if standing.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        match (verbose, standing.is_ready()) {
            (true, _) => answer(status, JSON, pretty(&standing.document())),
            (false, true) => answer(status, PLAIN, "ready\n"),
            (false, false) if standing.draining => answer(status, PLAIN, "draining\n"),
            (false, false) => answer(status, PLAIN, "starting\n"),
        }
    }
}

impl Standing {
    fn is_ready(&self) -> bool {
        !self.listeners.is_empty() && self.config.is_some() && !self.draining
    }

    fn document(&self) -> Value {
        let config = self.config.as_ref();
        let last_reload = self.last_reload.as_ref().map(|reload| {
            json!({
                "result": if reload.faults.is_empty() { "success" } else { "failure" },
                "time": telemetry::rfc3339(reload.at),
                "config_hash": reload.hash,
                "faults": reload.faults,
            })
        });
        json!({
            "ready": self.is_ready(),
            "draining": self.draining,
            "listeners": self.listeners,
            "config_hash": config.map(|config| &config.hash),
            "generation": config.map(|config| config.generation),
            "last_reload": last_reload,
        })
    }
}

type Answer = Response<Full<Bytes>>;

/// The whole text is there before its first byte is sent.
async fn rendered(content_type: &'static str, render: impl FnOnce() -> String + Send + 'static) -> Answer {
    match tokio::task::spawn_blocking(render).await {
        Ok(text) => answer(StatusCode::OK, content_type, text),
        Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this cannot be shown"),
    }
}

fn failure(status: StatusCode, code: &str, message: &str) -> Answer {
    let body = json!({ "error": { "code": code, "message": message } });
    answer(status, JSON, format!("{body}\n"))
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn pretty(document: &Value) -> String {
    format!("{document:#}\n")
}

/// `Sec-Fetch-Site` as browsers send it; a page on another port of the same host is `same-site`.
fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get_all("sec-fetch-site").iter().any(|site| site != "none" && site != "same-origin")
}

fn asks_verbose(query: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next() == Some("verbose"))
}

/// What a client of this listener may take.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    connections: usize,
    /// Until the request's head is there.
    head: Duration,
    /// From the first to the last byte.
    connection: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { connections: 64, head: Duration::from_secs(5), connection: Duration::from_secs(30) }
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const MAX_HEADERS: usize = 64;
const MAX_HEAD: usize = 16 << 10;
const MAX_FAULTS: usize = 20;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
