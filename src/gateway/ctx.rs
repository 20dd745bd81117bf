//! `RequestCtx`: what one request has learned so far.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderName;
use http::header::CONNECTION;
use nix::sys::socket::{Shutdown, shutdown};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType};

use super::again::Again;
use super::body::Body;
use super::forward::{self, Asker, Trust};
use super::limits::InFlight;
use super::record::{self, Outline};
use super::sweep::Errand;
use crate::downstream::{Ends, RequestId, Wire};
use crate::error::{GatewayError, Reported};
use crate::function::Function;
use crate::platforms::head::options;
use crate::platforms::template::Parameters;
use crate::platforms::{Call, Origin, Sought};
use crate::policy::bulkhead::Place;
use crate::routing::{Captures, RouteId};
use crate::snapshot::Snapshot;
use crate::telemetry::RouteMetrics;
use crate::upstream::{Lease, Protocol, Upstream, Use};
use crate::values::Scheme;

pub struct RequestCtx {
    pub(super) started: Instant,
    pub(super) snapshot: Arc<Snapshot>,
    own_id: RequestId,
    /// The id a trusted proxy gave.
    pub(super) adopted_id: Option<String>,
    /// The client's address, as far as it can be believed.
    pub(super) client: IpAddr,
    pub(super) trust: Trust,
    pub(super) route: Option<Match>,
    /// Why the request ended early, or how its answer was cut.
    pub(super) error: Option<GatewayError>,
    /// A failure that the function's answer reports; it was passed on.
    pub(super) reported: Option<Reported>,
    pub(super) upstream: Attempts,
    /// Bytes of the request's body that the current attempt has been given.
    pub(super) body_in: u64,
    /// `Some` from the moment the request counts against the limits.
    pub(super) in_flight: Option<InFlight>,
    /// One of the route's places, where it has a limit of its own, and how long the request waited for it.
    pub(super) place: Option<Place>,
    pub(super) queued: Option<Duration>,
    /// The route's gauge of requests in flight is up by one.
    has_begun: bool,
    /// 101 was answered: what follows is no body.
    pub(super) is_tunnel: bool,
    /// The answer's body, where the platform wants something of it.
    pub(super) body: Option<Box<Body>>,
    /// What the route's policy has to do with this request.
    pub(super) again: Option<Box<Again>>,
    pub(super) activation_id: Option<String>,
    /// It is no request, but an errand of ours.
    pub(super) errand: Option<Box<Errand>>,
    /// `Some` until the request is written and counted.
    pub(super) outline: Option<Outline>,
}

/// The route, and where in the path its suffix begins and its parameters stand.
pub(super) struct Match {
    pub(super) id: RouteId,
    pub(super) suffix_at: Option<usize>,
    pub(super) captures: Captures,
}

impl Match {
    /// The function of the route. It is looked up again, because all requests would have to share its count of references.
    pub(super) fn function<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Arc<Function>> {
        snapshot.routes.get(self.id)
    }

    /// What of this request, whose head it matched, decides whether the function is called.
    pub(super) fn sought<'a>(&'a self, head: &'a RequestHeader) -> Sought<'a> {
        let path = head.uri.path();
        Sought { head, suffix: self.suffix(path), parameters: Parameters::new(path, &self.captures) }
    }

    fn suffix<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.get(self.suffix_at?..)
    }
}

/// What happened between us and the function.
#[derive(Default)]
pub(super) struct Attempts {
    pub(super) count: u32,
    pub(super) lease: Option<Lease>,
    pub(super) reused: Option<bool>,
    /// When the current attempt began, and when the first one did.
    pub(super) began: Option<Instant>,
    pub(super) first_began: Option<Instant>,
    pub(super) connect: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    /// The function may have the head of the current attempt, and with it a request that has no body.
    pub(super) head_is_out: bool,
    pub(super) turn: Turn,
    /// The guard bounds how long the function may be silent, in Pingora's place.
    pub(super) is_guarded: bool,
    /// What the connection speaks, once there is one: a function may know no more than HTTP/1.
    pub(super) protocol: Protocol,
    /// Of the connection, which is Pingora's.
    pub(super) socket: Option<RawFd>,
    /// The function says that it closes the connection, but after the first line of `Connection`, where Pingora does not look.
    pub(super) closes: bool,
    /// 1xx answers of the current attempt.
    pub(super) interim: u32,
    /// When the function's answer was complete, or the attempt failed.
    pub(super) ended: Option<Instant>,
}

/// Who is waited for in the current attempt.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The client, for the rest of its body.
    #[default]
    Client,
    /// The function, for the head of its final answer, or for its consent to a body.
    Function,
    /// The function, for the rest of its answer; the client may still be sending.
    Answer,
}

impl RequestCtx {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        RequestCtx {
            started: Instant::now(),
            snapshot,
            own_id: RequestId::random(),
            adopted_id: None,
            client: IpAddr::from([0, 0, 0, 0]),
            trust: Trust::Nobody,
            route: None,
            error: None,
            reported: None,
            upstream: Attempts::default(),
            body_in: 0,
            in_flight: None,
            place: None,
            queued: None,
            has_begun: false,
            is_tunnel: false,
            body: None,
            again: None,
            activation_id: None,
            errand: None,
            outline: None,
        }
    }

    pub(super) fn request_id(&self) -> &str {
        self.adopted_id.as_deref().unwrap_or(self.own_id.as_str())
    }

    pub(super) fn function(&self) -> Option<&Arc<Function>> {
        self.route.as_ref()?.function(&self.snapshot)
    }

    /// From now on the route counts it among those in flight.
    pub(super) fn begin(&mut self) {
        if let Some(function) = self.function() {
            function.metrics.begin();
            self.has_begun = true;
        }
    }

    /// What a platform may know of the request.
    pub(super) fn call<'a>(&'a self, session: &'a Session) -> Call<'a> {
        let head = session.req_header();
        let path = head.uri.path();
        let authority = self.outline.as_ref().map_or("", Outline::authority);
        let scheme = if forward::is_tls(session) { Scheme::Https } else { Scheme::Http };
        let origin = Origin { scheme, authority };
        Call {
            method: &head.method,
            suffix: self.route.as_ref().and_then(|route| route.suffix(path)),
            parameters: Parameters::new(path, self.route.as_ref().map_or(&[], |route| &route.captures)),
            query: head.uri.query(),
            path,
            origin: match self.trust {
                Trust::Peer => forward::origin_before(head, origin),
                Trust::Nobody => origin,
            },
            request_id: self.request_id(),
            client: self.client,
        }
    }

    /// What the function is told of who asks.
    pub(super) fn asker(&self, session: &Session) -> Asker<'_> {
        let look = || Ends::new(forward::peer(session), forward::port(session));
        let ends = match Wire::of(session.as_downstream()) {
            Some(wire) => wire.ends(look).clone(),
            None => look(),
        };
        Asker {
            ends,
            is_tls: forward::is_tls(session),
            host: self.outline.as_ref().and_then(Outline::host),
            client: self.client,
            trust: self.trust,
            request_id: self.request_id(),
        }
    }

    /// The largest body this request may have.
    pub(super) fn body_limit(&self) -> u64 {
        let limit = self.snapshot.settings.limits.body;
        let route = self.function().and_then(|function| function.max_request);
        route.map_or(limit, |route| route.min(limit)).0
    }

    /// The reason for a time-out: the call's deadline, if that is over, which also cuts the others short.
    pub(super) fn late(&self, error: GatewayError) -> GatewayError {
        match error {
            GatewayError::UpstreamTimeout | GatewayError::ConnectTimeout => {
                self.remaining().err().unwrap_or(error)
            }
            other => other,
        }
    }

    /// What is left of the call's deadline; `Err` when nothing is.
    pub(super) fn remaining(&self) -> Result<Option<Duration>, GatewayError> {
        let Some(deadline) = self.function().and_then(|function| function.upstream.terms().deadline) else {
            return Ok(None);
        };
        match deadline.checked_sub(self.started.elapsed()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(GatewayError::Deadline),
        }
    }
}

impl Drop for RequestCtx {
    fn drop(&mut self) {
        record::abandon(self);
        // Its places first: whoever sees the gauge fall may come at once.
        (self.in_flight, self.place) = (None, None);
        if self.has_begun
            && let Some(function) = self.function()
        {
            function.metrics.leave();
        }
    }
}

impl Attempts {
    /// Begins an attempt on the address whose turn it is. After one that failed it is another address, if there is another:
    /// who dies closes its connections first and refuses new ones then.
    pub(super) fn begin(&mut self, upstream: &Upstream, purpose: Use) -> Result<&Lease, GatewayError> {
        let failed = self.lease.take();
        *self = Attempts { count: self.count + 1, first_began: self.first_began, ..Attempts::default() };
        let now = Instant::now();
        let lease = match failed {
            Some(failed) => upstream.lease_after(failed, now),
            None => upstream.lease(now),
        }?;
        let lease = match purpose {
            Use::Exchange => lease,
            Use::Tunnel => lease.for_tunnel(),
        };
        self.began = Some(now);
        self.first_began.get_or_insert(now);
        Ok(self.lease.insert(lease))
    }

    pub(super) fn connected(&mut self, reused: bool, metrics: &RouteMetrics) {
        self.reused = Some(reused);
        if reused {
            metrics.reused();
        } else if let Some(took) = self.began.map(|began| began.elapsed()) {
            metrics.dialled(took);
            self.connect = Some(took);
        }
    }

    pub(super) fn answered(&mut self, resp: &ResponseHeader) {
        if self.first_byte.is_none() {
            self.first_byte = self.began.map(|began| began.elapsed());
        }
        let mut is_first = true;
        self.closes = false;
        // Answers have few fields, so one look at all names is cheaper than to ask the map.
        for (name, value) in &resp.headers {
            if *name == CONNECTION {
                self.closes |= !is_first && options(value).any(|word| word.eq_ignore_ascii_case(b"close"));
                is_first = false;
            } else if *name == KEEP_ALIVE
                && let Some(lease) = &self.lease
            {
                lease.hear_keep_alive(value.as_bytes());
            }
        }
    }

    /// Shuts the connection under Pingora, which would keep it, if the function closes it. The answer must be here, with its last byte,
    /// and the session still have its connection.
    pub(super) fn part(&mut self) {
        if self.closes
            && self.protocol == Protocol::Http1
            && let Some(socket) = self.socket.take()
        {
            // It fails where the function was faster.
            let _ = shutdown(socket, Shutdown::Both);
        }
    }

    pub(super) fn end(&mut self) {
        self.ended.get_or_insert_with(Instant::now);
    }

    /// Whether not even the head could be written to a connection from the pool: the function cannot have run.
    pub(super) fn is_unsent(&self, error: &Error) -> bool {
        self.reused == Some(true) && !self.head_is_out && *error.etype() == ErrorType::WriteError
    }

    /// Whether a connection from the pool broke while the request was written to it. One of HTTP/2 does not break by one request.
    pub(super) fn is_unheard(&self, error: &Error) -> bool {
        let is_pooled = self.reused == Some(true) && self.protocol == Protocol::Http1;
        is_pooled && self.first_byte.is_none() && *error.etype() == ErrorType::WriteError
    }

    /// The time that was the function's, connecting included.
    pub(super) fn duration(&self) -> Duration {
        let ended = self.ended.unwrap_or_else(Instant::now);
        self.first_began.map_or(Duration::ZERO, |began| ended.saturating_duration_since(began))
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_unsent_until_its_head_is_out() {
        let failed = |kind| Error::new_up(kind);
        let pooled = Attempts { reused: Some(true), ..Attempts::default() };
        assert!(pooled.is_unsent(&failed(ErrorType::WriteError)));
        assert!(!pooled.is_unsent(&failed(ErrorType::ConnectionClosed)));
        let fresh = Attempts { reused: Some(false), ..Attempts::default() };
        assert!(!fresh.is_unsent(&failed(ErrorType::WriteError)));
        // A POST with an empty body: what could not be written is the end of the body, and the function may have run.
        let begun = Attempts { head_is_out: true, ..pooled };
        assert!(!begun.is_unsent(&failed(ErrorType::WriteError)));
    }
}
