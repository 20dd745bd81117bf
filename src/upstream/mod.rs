//! `Upstream`: how a function is reached. Endpoints, their choice, ready-made peers, the slots of the connection pool.
//!
//! Knows no platform and no route.

mod endpoint;
mod idle;
mod names;
pub mod resolve;
mod retired;
mod slots;
pub mod trust;
mod tunnel;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use pingora::protocols::{ALPN, TcpKeepalive};
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy, Tracer, Tracing};

use self::endpoint::Address;
pub use self::endpoint::is_denied;
use self::resolve::Resolver;
pub use self::retired::{Retired, Stale};
use self::slots::Slot;
use crate::error::GatewayError;
use crate::values::{HostPort, Scheme};

/// The terms on which a function is reached, fixed when a configuration is compiled.
#[derive(Debug, Clone, PartialEq)]
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
    /// No function is at one of these, whatever its name resolves to.
    pub denied: Arc<[IpNet]>,
    /// Tells credentials apart without showing them; requests with different ones never share a connection.
    pub credential: Option<u64>,
}

impl Terms {
    /// An address that is reached without TLS by a way that others can be on.
    pub fn exposed(&self) -> Option<&HostPort> {
        let remote = self.endpoints.iter().find(|endpoint| !endpoint.address.is_loopback());
        remote.map(|remote| &remote.address).filter(|_| self.scheme == Scheme::Http)
    }
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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    #[default]
    Http1,
    /// By ALPN over TLS, by prior knowledge without.
    Http2,
}

/// What the request does with its connection once the answer's head is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Exchange,
    /// The client asks for an upgrade: both sides may be silent for long.
    Tunnel,
}

/// A function's place in the network. Outlives a reload that does not change its terms.
#[derive(Debug)]
pub struct Upstream {
    terms: Terms,
    endpoints: Vec<endpoint::Endpoint>,
    /// Endpoint indices, each as often as its weight, evenly mixed.
    schedule: Vec<u16>,
    turn: AtomicUsize,
    /// The peer but for its address, group and time-outs.
    template: HttpPeer,
    group: u64,
}

/// The address and the pool slot one request uses. Given back on drop, after Pingora has put the connection into its pool.
#[derive(Debug)]
pub struct Lease {
    address: Arc<Address>,
    slot: Slot,
    /// A number of its own.
    turn: usize,
    /// It gets a new connection, which nobody has after it.
    is_alone: bool,
}

impl Lease {
    pub fn address(&self) -> SocketAddr {
        self.address.socket
    }

    /// Takes in the `Keep-Alive` field of an answer from this address.
    pub fn hear_keep_alive(&self, field: &[u8]) {
        self.address.idle_limit.hear(field);
    }

    /// A tunnel's connection never comes back to the pool, so it leaves its slot to one that does.
    pub fn for_tunnel(mut self) -> Self {
        self.slot.leave();
        self
    }
}

impl Upstream {
    /// `generation` keeps connections opened under other terms apart; `tally` hears of every connection.
    pub fn new(
        name: &str,
        terms: Terms,
        generation: u64,
        resolver: &Resolver,
        tally: Arc<dyn Tally>,
    ) -> Self {
        let pool = match (terms.keepalive, terms.protocol) {
            (Keepalive::On { pool, .. }, Protocol::Http1) => pool,
            // HTTP/2 shares one connection, which slots would prevent.
            _ => 0,
        };
        let endpoints = terms
            .endpoints
            .iter()
            .map(|e| endpoint::Endpoint::new(&e.address, pool, resolver, Arc::clone(&terms.denied)))
            .collect();
        Upstream {
            schedule: schedule(&terms.endpoints),
            endpoints,
            turn: AtomicUsize::new(0),
            template: template(&terms, tally),
            group: group(name, &terms, generation),
            terms,
        }
    }

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Waits until each name has been looked up once, whatever came of it.
    pub async fn resolved(&self) {
        for endpoint in &self.endpoints {
            endpoint.asked().await;
        }
    }

    /// Names that have no address.
    pub fn unresolved(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().filter_map(endpoint::Endpoint::unresolved_name)
    }

    /// How many addresses a request could use now.
    pub fn address_count(&self) -> usize {
        self.endpoints.iter().map(|endpoint| endpoint.known().addresses.len()).sum()
    }

    /// Chooses an address in turn and a slot on it.
    pub fn lease(&self, now: Instant) -> Result<Lease, GatewayError> {
        self.choose(now, |_| true).ok_or(GatewayError::UpstreamResolve)
    }

    /// The same after an attempt that failed: another address, if there is another one. Otherwise this attempt dials, and does not come
    /// upon another dead connection: by the same slot, of which the connection is gone, or, without one, apart from what the surplus
    /// shares.
    pub fn lease_after(&self, failed: Lease, now: Instant) -> Result<Lease, GatewayError> {
        let gone = failed.address();
        match self.choose(now, |address| address != gone) {
            Some(elsewhere) => Ok(elsewhere),
            None if self.address_count() == 0 => Err(GatewayError::UpstreamResolve),
            None => {
                let mut again = Lease { turn: self.turn.fetch_add(1, Ordering::Relaxed), ..failed };
                if self.terms.protocol == Protocol::Http1 && again.slot.index().is_none() {
                    again.is_alone = true;
                    again.slot.leave();
                }
                Ok(again)
            }
        }
    }

    fn choose(&self, now: Instant, suits: impl Fn(SocketAddr) -> bool) -> Option<Lease> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // An endpoint whose name does not resolve is passed over.
        for offset in 0..self.schedule.len() {
            let step = turn.wrapping_add(offset);
            let endpoint = &self.endpoints[usize::from(self.schedule[step % self.schedule.len()])];
            let known = endpoint.known();
            let addresses = &known.addresses;
            let (before, from) = addresses.split_at((step / self.schedule.len()) % addresses.len().max(1));
            if let Some(address) = from.iter().chain(before).find(|address| suits(address.socket)) {
                let slot = self.slot(address, now);
                return Some(Lease { slot, address: Arc::clone(address), turn, is_alone: false });
            }
        }
        None
    }

    fn slot(&self, address: &Address, now: Instant) -> Slot {
        let idle = match self.terms.keepalive {
            Keepalive::On { idle, .. } => address.idle_limit.within(idle).unwrap_or(idle),
            Keepalive::Off => Duration::ZERO,
        };
        address.slots.take(now, idle)
    }

    /// What there is to close once no route leads here. A request that came before may still find an address that is new, so this
    /// is to be asked again for as long as there can be such a request.
    pub fn retire(&self) -> Vec<Retired> {
        self.retired(endpoint::Endpoint::give_up)
    }

    /// The same for addresses that names have lost since this was asked last.
    pub fn departed(&self) -> Vec<Retired> {
        self.retired(endpoint::Endpoint::departed)
    }

    /// What has been idle for as long as it may be.
    pub fn stale(&self) -> Vec<Stale> {
        self.swept(|address, idle| Stale::of(address, &self.template, self.group, idle))
    }

    /// Where there is a connection that served a burst and is not needed any more.
    pub fn unneeded(&self) -> Vec<HttpPeer> {
        self.swept(|address, _| retired::unneeded(address, &self.template, self.group))
    }

    /// What there is of this at each address that was used and whose connections have no timer.
    fn swept<T>(&self, of: impl Fn(&Address, Duration) -> Vec<T>) -> Vec<T> {
        let (Keepalive::On { idle, .. }, Protocol::Http1) = (self.terms.keepalive, self.terms.protocol)
        else {
            return Vec::new();
        };
        let mut swept = Vec::new();
        for endpoint in &self.endpoints {
            for address in endpoint.known().addresses.iter().filter(|address| address.slots.is_used(0)) {
                swept.extend(of(address, idle));
            }
        }
        swept
    }

    fn retired(&self, which: impl Fn(&endpoint::Endpoint) -> Vec<Arc<Address>>) -> Vec<Retired> {
        let retire = |endpoint: &endpoint::Endpoint| {
            let retire = |address| Retired::new(address, &self.template, self.group, self.terms.protocol);
            which(endpoint).into_iter().map(retire).collect::<Vec<_>>()
        };
        match self.terms.keepalive {
            // Nothing is kept.
            Keepalive::Off => Vec::new(),
            Keepalive::On { .. } => self.endpoints.iter().flat_map(retire).collect(),
        }
    }

    /// The peer for a lease. `remaining` is what is left of the call's deadline.
    pub fn peer(&self, lease: &Lease, purpose: Use, remaining: Option<Duration>) -> Box<HttpPeer> {
        let mut peer = Box::new(self.template.clone());
        peer._address = pingora::protocols::l4::socket::SocketAddr::Inet(lease.address.socket);
        let cap = |timeout: Duration| Some(remaining.map_or(timeout, |left| timeout.min(left)));
        let silence = match purpose {
            Use::Exchange => self.terms.timeout,
            Use::Tunnel => self.terms.timeout.max(TUNNEL_SILENCE),
        };
        let options = &mut peer.options;
        options.connection_timeout = cap(self.terms.connect_timeout);
        options.total_connection_timeout = options.connection_timeout;
        options.read_timeout = cap(silence);
        options.write_timeout = options.read_timeout;
        let (key, idle) = match purpose {
            Use::Exchange => self.place(lease),
            Use::Tunnel => {
                options.custom_l4 = Some(Arc::new(tunnel::Dialer));
                // HTTP/2 has no upgrade: the request would arrive as a plain GET.
                options.alpn = ALPN::H1;
                options.max_h2_streams = 1;
                // Never on a connection that was dialled for something else.
                (TUNNEL_GROUP, Some(Duration::ZERO))
            }
        };
        options.idle_timeout = idle;
        peer.group_key = self.group ^ key;
        peer
    }

    /// Where in the pool a lease's connection stands, and what timer it has there. A timer of Pingora's would be set anew for each
    /// request; what is swept needs none (`stale`).
    fn place(&self, lease: &Lease) -> (u64, Option<Duration>) {
        if lease.is_alone {
            return (ALONE_GROUP, Some(Duration::ZERO));
        }
        let (idle, is_swept, key) = match (self.terms.keepalive, lease.slot.index(), self.terms.protocol) {
            // Otherwise concurrent streams of HTTP/2 would share a connection.
            (Keepalive::Off, _, _) => (Duration::ZERO, false, lease.turn as u64 % UNSHARED_GROUPS),
            (Keepalive::On { idle, .. }, slot, Protocol::Http2) => (idle, false, key_of_slot(slot)),
            (Keepalive::On { idle, .. }, Some(slot), Protocol::Http1) => {
                (idle, true, key_of_slot(Some(slot)))
            }
            (Keepalive::On { idle, .. }, None, Protocol::Http1) => {
                (idle.min(SURPLUS_IDLE), true, key_of_slot(None))
            }
        };
        match lease.address.idle_limit.within(idle) {
            // Connections that were kept for longer, before this was known, are not found again.
            Some(limit) => (key ^ key_of_limit(limit), (!is_swept || limit < SWEPT).then_some(limit)),
            None => (key, (!is_swept).then_some(idle)),
        }
    }
}

fn template(terms: &Terms, tally: Arc<dyn Tally>) -> HttpPeer {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    // Without TLS nobody reads the name, which would be copied and hashed for every request; the group tells names apart.
    let (is_tls, sni) = match terms.scheme {
        Scheme::Https => (true, terms.sni.clone()),
        Scheme::Http => (false, String::new()),
    };
    let mut peer = HttpPeer::new(nowhere, is_tls, sni);
    let options = &mut peer.options;
    options.verify_cert = terms.verify == Verify::Certificate;
    options.verify_hostname = options.verify_cert;
    options.ca = terms.roots.as_ref().map(|roots| roots.authorities());
    options.alpn = match (terms.protocol, terms.scheme) {
        (Protocol::Http1, _) => ALPN::H1,
        (Protocol::Http2, Scheme::Https) => ALPN::H2H1,
        (Protocol::Http2, Scheme::Http) => ALPN::H2,
    };
    options.max_h2_streams = match terms.protocol {
        Protocol::Http1 => 1,
        Protocol::Http2 => H2_STREAMS,
    };
    options.h2_ping_interval = (terms.protocol == Protocol::Http2).then_some(H2_PING);
    // A peer that vanished without a word is noticed by the kernel, also on connections in the pool.
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(15),
        interval: Duration::from_secs(5),
        count: 3,
        user_timeout: Duration::from_secs(30),
    });
    // The gateway has left out what is not for the function.
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    options.tracer = Some(Tracer(Box::new(Tallied(tally))));
    peer
}

/// What a slot is in the number of its group.
fn key_of_slot(slot: Option<u32>) -> u64 {
    slot.map_or(OVERFLOW_GROUP, |slot| u64::from(slot) + 1)
}

/// What the function's own limit is in that number.
fn key_of_limit(limit: Duration) -> u64 {
    (limit.as_millis() as u64 + 1) << LIMIT_SHIFT
}

/// Equal terms of one route in one generation give equal groups; everything that Pingora's own hash leaves out is in it.
fn group(name: &str, terms: &Terms, generation: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, generation, terms.verify, terms.protocol, &terms.sni).hash(&mut hasher);
    terms.roots.as_ref().map(|roots| roots.identity()).hash(&mut hasher);
    (terms.keepalive == Keepalive::Off).hash(&mut hasher);
    hasher.finish()
}

/// Smooth weighted round robin, written out: an endpoint's turns are spread evenly over the round.
fn schedule(endpoints: &[Endpoint]) -> Vec<u16> {
    let divisor = endpoints.iter().map(|e| e.weight).fold(0, greatest_common_divisor).max(1);
    let weights: Vec<i64> = endpoints.iter().map(|e| i64::from(e.weight / divisor)).collect();
    let total: i64 = weights.iter().sum();
    let mut current = vec![0; weights.len()];
    let mut round = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for _ in 0..total {
        current.iter_mut().zip(&weights).for_each(|(current, weight)| *current += weight);
        let Some(best) = (0..current.len()).max_by_key(|i| (current[*i], std::cmp::Reverse(*i))) else {
            break;
        };
        current[best] -= total;
        round.extend(u16::try_from(best));
    }
    round
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Hears of connections exactly: from the TCP connect until the stream is dropped, wherever that happens.
pub trait Tally: Send + Sync + std::fmt::Debug {
    fn opened(&self);
    fn closed(&self);
}

#[derive(Debug)]
struct Tallied(Arc<dyn Tally>);

impl Tracing for Tallied {
    fn on_connected(&self) {
        self.0.opened();
    }

    fn on_disconnected(&self) {
        self.0.closed();
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(Tallied(Arc::clone(&self.0)))
    }
}

const OVERFLOW_GROUP: u64 = 0;
const TUNNEL_GROUP: u64 = u64::MAX;
const ALONE_GROUP: u64 = u64::MAX - 1;
/// Leaves room for every slot's number.
const LIMIT_SHIFT: u32 = 16;
/// Pingora remembers for each group, for ever, that a function refused HTTP/2, so there must be an end to them.
const UNSHARED_GROUPS: u64 = 1024;
/// Surplus connections of a burst serve the burst and are gone soon after.
const SURPLUS_IDLE: Duration = Duration::from_millis(300);
/// What may be idle for so long can wait for the sweep.
const SWEPT: Duration = Duration::from_secs(1);
/// How often there is to be one.
pub const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// A WebSocket may be silent for this long on either side.
const TUNNEL_SILENCE: Duration = Duration::from_secs(300);
const H2_STREAMS: usize = 100;
const H2_PING: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
