//! The connection keys every target takes, and the [`Terms`] they compile to.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use schemars::JsonSchema;
use serde::Deserialize;

use super::head::Host;
use super::template::{Names, Template};
use crate::diag::{Invalid, Scope, given};
use crate::upstream::trust::Roots;
use crate::upstream::{Endpoint, Keepalive, Protocol, Terms, Verify};
use crate::values::{
    ByteSize, HostPort, Scheme, Written, compile_duration, is_host_name, parse_duration, parse_size,
};

/// Flattened into each platform's keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct Raw {
    /// What to put into Host and SNI instead of the URI's authority; `{name}` is a label from the path
    pub host: Option<String>,
    /// The name for SNI and the certificate instead of the host's
    pub sni: Option<String>,
    /// Where to connect instead of the URI's host: `ip:port` or `name:port`
    pub address: Option<String>,
    /// PEM file with the authorities to trust instead of the system's
    pub ca: Option<String>,
    /// Verify the function's certificate (default true)
    pub ssl_verify: Option<bool>,
    /// Longest silence of the function; milliseconds, or with a unit
    pub timeout: Option<Written>,
    /// Longest time to connect, TLS included (default: the smaller of `timeout` and 5s)
    pub connect_timeout: Option<Written>,
    /// Longest time for the whole call (default: none)
    pub deadline: Option<Written>,
    /// Keep connections for further requests (default true)
    pub keepalive: Option<bool>,
    /// How long an idle connection is kept (default 60000)
    pub keepalive_timeout: Option<Written>,
    /// How many idle connections are kept, at most 4096 (default 5)
    #[schemars(range(min = 1, max = 4_096))]
    pub keepalive_pool: Option<u32>,
    /// The largest request body (default: `limits.body`, which holds besides it; less where the platform needs the whole body)
    pub max_req_body_size: Option<Written>,
    /// HTTP/2 to the function: `on` by ALPN or prior knowledge (default `off`)
    pub http2: Option<Http2>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Http2 {
    Off,
    On,
}

/// The key `scheme` of targets that are not given as a URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawScheme {
    Http,
    Https,
}

/// What differs between platforms.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub timeout: Duration,
    pub timeout_range: (Duration, Duration),
    /// How much longer than `timeout` the gateway waits, so that the platform's own late answer arrives.
    pub patience: Duration,
}

/// The compiled keys, and what goes into the Host header.
#[derive(Debug)]
pub struct Connection {
    pub terms: Terms,
    pub host: Host,
    /// The largest request body, where the file names one.
    pub max_request: Option<ByteSize>,
    /// `timeout` as the file gives it, without the platform's patience.
    pub timeout: Duration,
}

impl Connection {
    /// Marks the terms as those of this credential.
    pub fn with_credential(mut self, credential: Option<u64>) -> Self {
        self.terms.credential = credential;
        self
    }
}

/// A target's own address, from its URI or its nodes.
#[derive(Debug)]
pub struct Base {
    pub scheme: Scheme,
    /// For Host and SNI when `host` does not say otherwise.
    pub origin: HostPort,
    /// Where to connect when `address` does not say otherwise.
    pub endpoints: Vec<Endpoint>,
}

impl Base {
    pub fn from_origin(scheme: Scheme, origin: HostPort) -> Self {
        Base { scheme, endpoints: vec![Endpoint { address: origin.clone(), weight: 1 }], origin }
    }
}

/// Compiles the keys. `scope` stands at the platform, whose keys these are; `base` is `None` when it was found faulty.
pub fn compile(
    raw: Raw,
    base: Option<Base>,
    defaults: Defaults,
    names: &Names<'_>,
    scope: &Scope<'_>,
) -> Option<Connection> {
    let Raw {
        host,
        sni,
        address,
        ca,
        ssl_verify,
        timeout,
        connect_timeout,
        deadline,
        keepalive,
        keepalive_timeout,
        keepalive_pool,
        max_req_body_size,
        http2,
    } = raw;

    if ca.is_some() && ssl_verify == Some(false) {
        scope.key("ca").warn(
            "`ca` says nothing beside `ssl_verify: false`",
            "leave `ssl_verify` out: an authority of one's own is trusted by its `ca`",
        );
    }
    let times = Times::compile(timeout, connect_timeout, deadline, defaults, scope);
    let keepalive = compile_keepalive(keepalive, keepalive_timeout, keepalive_pool, scope);
    let max_request =
        given(max_req_body_size, |written| body_limit(&written, &scope.key("max_req_body_size")));
    let roots = given(ca, |path| {
        let scope = scope.key("ca");
        scope.accept(Roots::load(&scope.file(path))).map(Arc::new)
    });
    let address = given(address, |text| scope.key("address").accept(HostPort::parse(&text, None)));
    let sni = given(sni, |name| scope.key("sni").accept(check_sni(name)));

    let base = base?;
    let (host, name) = match host {
        None => Some((fixed(&base.origin, base.scheme), Some(base.origin.host))),
        Some(text) => compile_host(&text, base.scheme, names, &scope.key("host")),
    }?;
    let sni = match sni?.or(name) {
        Some(name) => name,
        None if base.scheme == Scheme::Http => String::new(),
        None => {
            scope.key("host").reject_with(
                "the host differs from call to call, but the name for SNI cannot",
                "give `sni`, a name that the certificate covers",
            );
            return None;
        }
    };
    let endpoints = match address? {
        Some(address) => vec![Endpoint { address, weight: 1 }],
        None => base.endpoints,
    };
    let times = times?;
    Some(Connection {
        max_request: max_request?,
        host,
        timeout: times.timeout,
        terms: Terms {
            endpoints,
            scheme: base.scheme,
            sni,
            verify: if ssl_verify.unwrap_or(true) { Verify::Certificate } else { Verify::Nothing },
            roots: roots?,
            connect_timeout: times.connect_timeout,
            timeout: times.timeout.saturating_add(defaults.patience),
            deadline: times.deadline,
            keepalive: keepalive?,
            protocol: match http2.unwrap_or(Http2::Off) {
                Http2::Off => Protocol::Http1,
                Http2::On => Protocol::Http2,
            },
            denied: Arc::default(),
            credential: None,
        },
    })
}

/// How long things may take.
struct Times {
    timeout: Duration,
    connect_timeout: Duration,
    deadline: Option<Duration>,
}

impl Times {
    fn compile(
        timeout: Option<Written>,
        connect_timeout: Option<Written>,
        deadline: Option<Written>,
        defaults: Defaults,
        scope: &Scope<'_>,
    ) -> Option<Times> {
        let any = (Duration::from_millis(1), Duration::MAX);
        let time = |key, written, range| given(written, |written| duration(key, &written, range, scope));
        let timeout = time("timeout", timeout, defaults.timeout_range);
        let connect_timeout = time("connect_timeout", connect_timeout, any);
        let deadline = time("deadline", deadline, any);
        let timeout = timeout?.unwrap_or(defaults.timeout);
        let connect_timeout = connect_timeout?.unwrap_or(timeout.min(LONGEST_CONNECT));
        Some(Times { timeout, connect_timeout, deadline: deadline? })
    }
}

fn compile_keepalive(
    keepalive: Option<bool>,
    keepalive_timeout: Option<Written>,
    keepalive_pool: Option<u32>,
    scope: &Scope<'_>,
) -> Option<Keepalive> {
    let range = (Duration::from_secs(1), Duration::MAX);
    let idle = given(keepalive_timeout, |written| duration("keepalive_timeout", &written, range, scope));
    let pool = keepalive_pool.unwrap_or(KEEPALIVE_POOL);
    let idle = idle?.unwrap_or(KEEPALIVE_TIMEOUT);
    Some(if keepalive.unwrap_or(true) { Keepalive::On { idle, pool } } else { Keepalive::Off })
}

/// `scope` stands at the platform.
fn duration(
    key: &str,
    written: &Written,
    (min, max): (Duration, Duration),
    scope: &Scope<'_>,
) -> Option<Duration> {
    let scope = scope.key(key);
    let duration = match key {
        // Attributes of plugins, in which seconds are written as thousands.
        "timeout" | "keepalive_timeout" => scope.accept(parse_duration(written))?,
        _ => compile_duration(written, &scope)?,
    };
    if (min..=max).contains(&duration) {
        return Some(duration);
    }
    let bounds = match max {
        Duration::MAX => format!("at least {} ms", min.as_millis()),
        _ => format!("{} to {} ms", min.as_millis(), max.as_millis()),
    };
    scope.reject_with(format!("`{key}` is {} ms", duration.as_millis()), bounds);
    None
}

/// The host, and the one name it has, when it is not filled in by each call.
fn compile_host(
    text: &str,
    scheme: Scheme,
    names: &Names<'_>,
    scope: &Scope<'_>,
) -> Option<(Host, Option<String>)> {
    let template = scope.accept(Template::parse(text, names))?;
    let origin = scope.accept(HostPort::parse(&template.sample("x"), Some(scheme.default_port())))?;
    match template.constant() {
        Some(_) => Some((fixed(&origin, scheme), Some(origin.host))),
        None => Some((Host::Filled(template), None)),
    }
}

pub fn scheme(raw: Option<RawScheme>) -> Scheme {
    match raw {
        Some(RawScheme::Https) => Scheme::Https,
        Some(RawScheme::Http) | None => Scheme::Http,
    }
}

fn fixed(origin: &HostPort, scheme: Scheme) -> Host {
    Host::Fixed(HeaderValue::try_from(origin.authority(scheme)).expect("hosts and ports are visible ASCII"))
}

fn check_sni(name: String) -> Result<String, Invalid> {
    match is_host_name(&name) {
        true => Ok(name.to_ascii_lowercase()),
        false => {
            Err(Invalid::new(format!("`{name}` is not a name for SNI")).hint("a host name, without port"))
        }
    }
}

/// A bound on a body: at least a byte.
fn body_limit(written: &Written, scope: &Scope<'_>) -> Option<ByteSize> {
    let size = scope.accept(parse_size(written))?;
    if size.0 == 0 {
        scope.reject_with(
            "the limit is 0 bytes",
            "at least 1; for a route that takes no body, leave out the methods that have one",
        );
        return None;
    }
    Some(size)
}

/// A bound on a body that is held, or the default for it.
pub fn held_limit(given: Option<ByteSize>, default: usize, scope: &Scope<'_>) -> Option<usize> {
    let Some(size) = given else { return Some(default) };
    let bytes = usize::try_from(size.0).ok().filter(|bytes| *bytes <= LARGEST_HELD);
    if bytes.is_none() {
        scope.reject_with(format!("the limit is {} bytes", size.0), "at most 1GiB; it is held in memory");
    }
    bytes
}

/// The key `max_resp_body_size` of targets that hold answers. `scope` stands at the key.
pub fn held_response(written: Option<Written>, default: usize, scope: &Scope<'_>) -> Option<usize> {
    match written {
        None => Some(default),
        Some(written) => held_limit(Some(body_limit(&written, scope)?), default, scope),
    }
}

const LARGEST_HELD: usize = 1 << 30;

const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(60);
const KEEPALIVE_POOL: u32 = 5;
const LONGEST_CONNECT: Duration = Duration::from_secs(5);
