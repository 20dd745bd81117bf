//! `Plan`: what a configuration says, compiled; `Snapshot`: a plan brought to life, immutable and swapped whole.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::platforms;
use crate::routing::Matcher;
use crate::tls::Identity;
use crate::values::ByteSize;

/// A compiled configuration. Every source of routes ends in one of these.
#[derive(Debug)]
pub struct Plan {
    pub settings: Settings,
    pub routes: Vec<Route>,
    /// A digest of what was read: equal files give equal digests.
    pub hash: String,
}

#[derive(Debug)]
pub struct Route {
    pub name: String,
    pub matcher: Matcher,
    pub function: platforms::Compiled,
}

/// Everything in a file that is not a route.
#[derive(Debug)]
pub struct Settings {
    pub listeners: Vec<Listener>,
    pub threads: usize,
    pub admin: SocketAddr,
    pub shutdown_grace: Duration,
    pub trusted_proxies: Vec<IpNet>,
    pub access_log: AccessLog,
    pub limits: Limits,
}

#[derive(Debug)]
pub struct Listener {
    pub address: SocketAddr,
    /// Empty: plain HTTP.
    pub identities: Vec<Identity>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub body: ByteSize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub connections: usize,
    pub in_flight: usize,
}
