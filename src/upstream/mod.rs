//! `Upstream`: how a function is reached. Endpoints, their choice, ready-made peers, the slots of the connection pool.
//!
//! Knows no platform and no route.

pub mod trust;

use std::sync::Arc;
use std::time::Duration;

use crate::values::{HostPort, Scheme};

/// The terms on which a function is reached, fixed when a configuration is compiled.
#[derive(Debug, Clone)]
pub struct Terms {
    pub endpoints: Vec<Endpoint>,
    pub scheme: Scheme,
    /// The name for SNI and certificate checks, without port; never empty for `https`.
    pub sni: String,
    pub verify: Verify,
    /// Instead of the system's roots.
    pub roots: Option<Arc<trust::Roots>>,
    pub connect_timeout: Duration,
    /// The longest silence of the function.
    pub timeout: Duration,
    /// The longest time for everything.
    pub deadline: Option<Duration>,
    pub keepalive: Keepalive,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: HostPort,
    pub weight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verify {
    Certificate,
    /// `ssl_verify: false`
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keepalive {
    /// Every request on a connection of its own.
    Off,
    /// Up to `pool` idle connections per address are kept for `idle`.
    On { idle: Duration, pool: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http1,
    /// By ALPN over TLS, by prior knowledge without.
    Http2,
}
