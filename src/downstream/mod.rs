//! Everything between the accepted socket and Pingora's HTTP session.
//!
//! Owns the accept loop (`accept`), the guard that sits on each HTTP/1 connection (`wire`) and what it demands of a request's
//! bytes (`head`, `chunked`), the one on each HTTP/2 connection (`frames`) and the one on each request there (`strand`). Rule:
//! refuse, never repair. What gets through is passed on byte for byte. It knows no route and no platform, and never decides
//! anything that a filter of the proxy can decide.

mod accept;
mod alarm;
mod answer;
mod chunked;
mod ends;
mod frames;
mod grammar;
mod guard;
mod head;
mod identity;
mod lent;
mod linger;
mod pace;
mod patience;
mod strand;
mod streams;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use accept::{FAREWELL, Front};
pub use answer::RequestId;
pub use chunked::{Progress, Scanner};
pub use ends::{Ends, address_value};
pub use frames::Frames;
pub use grammar::authority_is_valid;
pub use guard::Guard;
pub use head::{Framing, Head, HeadLimits, Upgrade, check, check_http2, is_field};
pub use strand::ends_with_head;
pub use wire::Wire;

/// On which terms connections are served. Those that are open keep the terms they were accepted under.
#[derive(Clone)]
pub struct Terms {
    pub head: HeadLimits,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// From the end of a request, or from the accept, to the first byte of the next one.
    pub idle_timeout: Duration,
    /// Open connections over all listeners.
    pub connections: usize,
    /// After this many, a connection ends.
    pub requests_per_connection: u32,
    /// The least a client sends or takes while it is waited for, in bytes per second; 0 is any pace.
    pub min_rate: u64,
    /// Frames of an HTTP/2 connection that carry nothing, per second.
    pub control_frames: u32,
    pub observer: Arc<dyn Observer>,
}

/// Learns of the requests that end before the proxy could see them, so that each has its line and its count.
pub trait Observer: Send + Sync {
    fn refused(&self, at: &Refused<'_>);

    /// A client's TLS handshake failed, or took too long: there is nothing of a request to tell.
    fn handshake_failed(&self) {}
}

/// A request, or a connection, that was refused below the proxy.
#[derive(Debug)]
pub struct Refused<'a> {
    pub request_id: RequestId,
    pub client: Option<SocketAddr>,
    pub protocol: http::Version,
    /// Only if it is a token.
    pub method: Option<&'a str>,
    /// Without the query, at most 2 KiB, and only if it can be told for sure.
    pub path: Option<&'a str>,
    pub status: u16,
    pub code: &'static str,
    pub bytes_in: usize,
    pub bytes_out: usize,
    /// Since the first byte.
    pub duration: Duration,
}

/// Why a request is not passed on. Holds fixed text only, so that all of it may be shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    pub status: u16,
    pub cause: Cause,
    pub reason: &'static str,
}

/// What a refusal is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    BadRequest,
    MethodNotAllowed,
    HeadersTooLarge,
    UnsupportedCoding,
    RequestTimeout,
    ClientSlow,
    ClientFlood,
    Overloaded,
    Draining,
}

impl Cause {
    /// The word for it in answers, log and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Cause::BadRequest => "bad_request",
            Cause::MethodNotAllowed => "method_not_allowed",
            Cause::HeadersTooLarge => "headers_too_large",
            Cause::UnsupportedCoding => "unsupported_coding",
            Cause::RequestTimeout => "request_timeout",
            Cause::ClientSlow => "client_slow",
            Cause::ClientFlood => "client_flood",
            Cause::Overloaded => "overloaded",
            Cause::Draining => "draining",
        }
    }
}

/// Where the rest of a body does not come.
const BODY_STALLED: Refusal =
    Refusal { status: 408, cause: Cause::RequestTimeout, reason: "the body took too long to arrive" };
const DRAINING: Refusal =
    Refusal { status: 503, cause: Cause::Draining, reason: "the gateway is shutting down" };
