//! `impl ProxyHttp for Gateway`: the phases of a request, in the order in which they run.
//!
//! Decide early, act late: `request_filter` takes the snapshot, finds the route and refuses; `upstream_peer` chooses an address;
//! `upstream_request_filter` rewrites; `fail_to_proxy` answers for what went wrong; `logging` writes the one line and counts.

mod again;
mod answer;
mod body;
mod ctx;
mod decide;
mod exchange;
mod fault;
mod forward;
mod leaving;
mod limits;
mod record;
mod reply;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource};

use self::again::{Ending, Repeat};
use self::answer::{
    INTERIM_ANSWERS, check_answer, expect_end, expect_head, finish_head, listener, notice_call_id,
    notice_refusal,
};
use self::body::{Body, Held, Start};
use self::ctx::RequestCtx;
use self::forward::Entrance;
pub use self::leaving::Leaving;
use self::limits::{Load, take_place};
use self::record::{Ledger, Outline};
use crate::downstream::{Guard, Wire};
use crate::error::GatewayError;
use crate::platforms::{Streamed, Target, Verdict};
use crate::policy::retry::Condition;
use crate::snapshot::Snapshot;
use crate::telemetry::{AccessLog, Metrics, Retry};
use crate::upstream::{Keepalive, Use};

/// The proxy application: one for the process, shared by all listeners.
pub struct Gateway {
    snapshot: Arc<ArcSwap<Snapshot>>,
    ledger: Arc<Ledger>,
    load: Load,
    leaving: Leaving,
    /// Pingora's connector and pool, for the exchanges that the proxy phases cannot do.
    connector: Connector,
}

impl Gateway {
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        metrics: Metrics,
        access_log: AccessLog,
        connector: Connector,
    ) -> Self {
        let load = Load::default();
        let leaving = Leaving::new(load.clone());
        let ledger = Arc::new(Ledger { metrics, log: access_log });
        Gateway { snapshot, ledger, load, leaving, connector }
    }

    /// For whoever ends the process.
    pub fn leaving(&self) -> Leaving {
        self.leaving.clone()
    }

    /// The reason for an error that came through Pingora; ours were noted when they arose.
    fn explain(&self, session: &Session, error: &Error, ctx: &RequestCtx) -> GatewayError {
        if let Some(noted) = &ctx.error {
            return noted.clone();
        }
        if *error.esource() == ErrorSource::Downstream
            && let Some(guard) = Guard::of(session.as_downstream())
        {
            if let Some(refusal) = guard.refusal() {
                return fault::refused(refusal);
            }
            if guard.has_expired() {
                return ctx.late(GatewayError::UpstreamTimeout);
            }
        }
        ctx.late(fault::reason(error))
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed, because Pingora keeps it three times over in a future that is made and copied for every request.
    type CTX = Box<RequestCtx>;

    fn new_ctx(&self) -> Self::CTX {
        Box::new(RequestCtx::new(self.snapshot.load_full()))
    }

    /// No modules: the compression module that would be here by default costs every request an allocation.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> pingora::Result<bool> {
        ctx.outline = Some(Outline::of(session, &self.ledger));
        self.leaving.tell(session);
        if let Err(error) = self.decide(session, ctx) {
            return self.refuse(session, ctx, error).await;
        }
        let Some(function) = ctx.function() else { return Err(ours(ctx, GatewayError::Internal)) };
        let held = function.metrics.begin();
        let bulkhead = function.policy.bulkhead.clone();
        let buffered = matches!(function.target, Target::Buffered(_)).then(|| Arc::clone(function));
        ctx.held = Some(held);
        if let Some(bulkhead) = bulkhead
            && let Err(error) = Box::pin(take_place(session, ctx, bulkhead)).await
        {
            return self.refuse(session, ctx, error).await;
        }
        // Who passes here shares the function's counters with all others: its own count of references is touched only where it must.
        let Some(function) = buffered else { return Ok(false) };
        // Boxed, so that its large state is not part of this future, which every request creates and moves.
        match Box::pin(exchange::run(self, session, ctx, &function)).await {
            Ok(()) => Ok(true),
            // A relayed answer broke off; `true` would make a good end of it.
            Err(error) if has_begun(session) => Err(ours(ctx, error)),
            Err(error) => self.refuse(session, ctx, error).await,
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<Box<HttpPeer>> {
        let purpose = purpose(session);
        let Some(function) = ctx.function() else { return Err(ours(ctx, GatewayError::Internal)) };
        if !function.policy.calls_once() {
            wait_for_turn(session, ctx).await.map_err(|error| ours(ctx, error))?;
        }
        let remaining = ctx.remaining().map_err(|error| ours(ctx, error))?;
        let Some(route) = &ctx.route else { return Err(ours(ctx, GatewayError::Internal)) };
        let upstream = &route.function.upstream;
        let peer = ctx.upstream.begin(upstream, purpose).map(|lease| {
            let mut peer = upstream.peer(lease, purpose, remaining);
            if listener(session, &route.function, purpose).is_some() {
                peer.options.read_timeout = None;
            }
            peer
        });
        // What was read of the body passes its filter once more.
        ctx.body_in = 0;
        match peer {
            Ok(peer) => Ok(peer),
            // The name may come with the function.
            Err(_) if again::after(ctx, Ending::Failed(Condition::Connect), None, Repeat::of(session)) => {
                Err(once_more())
            }
            Err(error) => Err(ours(ctx, error)),
        }
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        ctx: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        ctx.upstream.end();
        // Nothing was sent, so another address may be tried, whatever the method.
        let elsewhere =
            ctx.function().filter(|function| ctx.upstream.count < 2 && function.upstream.address_count() > 1);
        if let Some(function) = elsewhere {
            function.metrics.retried(Retry::Connect);
            error.set_retry(true);
        } else if again::after(ctx, Ending::Failed(Condition::Connect), None, Repeat::of(session)) {
            error.set_retry(true);
        }
        error
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        _: &HttpPeer,
        _: std::os::unix::io::RawFd,
        _: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        if let Some(route) = &ctx.route {
            ctx.upstream.connected(reused, &route.function.metrics);
        }
        // A pooled connection is there at once: no need for another look at the clock.
        let from = if reused { ctx.upstream.began } else { None };
        expect_head(session, ctx, from.unwrap_or_else(Instant::now));
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        req: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        rewrite(session, req, ctx).map_err(|error| ours(ctx, error))?;
        // What HTTP/2 fails to write after this may be the end of the body.
        ctx.upstream.head_is_out = req.version == http::Version::HTTP_2;
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            // Pingora would write it as a chunk, which is the last one, and then the last one once more: the function would take
            // that for the beginning of the next request on its connection.
            *body = None;
        }
        ctx.upstream.head_is_out = true;
        ctx.body_in += body.as_ref().map_or(0, |bytes| bytes.len() as u64);
        // Bytes of a tunnel are no body.
        if ctx.body_in > ctx.body_limit() && !ctx.is_tunnel {
            return Err(ours(ctx, GatewayError::BodyTooLarge));
        }
        if body.is_some() {
            match ctx.upstream.first_byte {
                None => expect_head(session, ctx, Instant::now()),
                Some(_) => heard(session),
            }
        }
        ctx.remaining().map(drop).map_err(|error| ours(ctx, error))
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        resp: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        ctx.upstream.answered(resp);
        if resp.status.is_informational() && resp.status != StatusCode::SWITCHING_PROTOCOLS {
            ctx.upstream.interim += 1;
            if ctx.upstream.interim > INTERIM_ANSWERS {
                return Err(ours(ctx, GatewayError::UpstreamProtocol));
            }
        } else {
            expect_end(session, ctx);
        }
        check_answer(purpose(session), resp).map_err(|error| ours(ctx, error))?;
        if !resp.status.is_informational() && again::weigh(resp, ctx, Repeat::of(session)) {
            return Err(once_more());
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        piece: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<Option<Duration>> {
        heard(session);
        if end {
            ctx.upstream.end();
        }
        if ctx.body.is_some() {
            body::pass(session, ctx, piece, end).map_err(|error| ours(ctx, error))?;
        }
        ctx.remaining().map(|_| None).map_err(|error| ours(ctx, error))
    }

    fn upstream_response_trailer_filter(
        &self,
        session: &mut Session,
        _: &mut HeaderMap,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        body::end(session, ctx).map_err(|error| ours(ctx, error))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        resp: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        if resp.status == StatusCode::SWITCHING_PROTOCOLS {
            // The client may be silent for as long as the function talks; when both are, the function's time-out ends the tunnel.
            ctx.is_tunnel = true;
            return Ok(());
        }
        forward::forget_spelling(resp)?;
        forward::tidy(resp)?;
        if resp.status.is_informational() {
            return Ok(());
        }
        self.leaving.tell(session);
        let Some(function) = ctx.function() else { return Ok(()) };
        let call_id = notice_call_id(resp, function);
        let mapped = match &function.target {
            Target::Streamed(target) => target.map_response(&ctx.call(session), resp),
            Target::Buffered(_) => Ok(Verdict::Answered),
        };
        let refused = notice_refusal(session.req_header(), resp, function);
        ctx.activation_id = call_id;
        let verdict = mapped.map_err(|error| ours(ctx, error))?;
        ctx.reported = refused;
        match verdict {
            Verdict::Answered => {}
            Verdict::Failed(reported) => ctx.reported = refused.or(Some(reported)),
            Verdict::InBody => ctx.body = Some(Box::new(Body::Shown(Start::new(resp.status)))),
            Verdict::Rewritten { limit } => {
                let held = Held::begin(limit, &session.req_header().method, resp);
                let held = held.map_err(|error| ours(ctx, error))?;
                ctx.body = held.map(|held| Box::new(Body::Held(held)));
            }
        }
        if session.req_header().version == http::Version::HTTP_10 {
            // It does not know chunks: the end of the connection is the end of the body.
            resp.remove_header(&http::header::TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        finish_head(resp, ctx)
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        _: &mut HeaderMap,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<Option<Bytes>> {
        Ok(match ctx.body.take().map(|body| *body) {
            // It is sent in place of the trailers, which were of the old body.
            Some(Body::Made(body)) => Some(body),
            other => {
                ctx.body = other.map(Box::new);
                None
            }
        })
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<Error> {
        ctx.upstream.end();
        if *error.etype() == fault::AGAIN {
            error.set_retry(true);
            return error;
        }
        // The one safe resend: the pooled connection was gone before a byte of an answer came, which Pingora marks (`ReusedOnly`), and
        // the request may be repeated; or not even the head could be written, which it does not mark, and any request may be.
        error.retry.decide_reuse(client_reused);
        let is_repeatable =
            session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated();
        let resend = *error.esource() == ErrorSource::Upstream
            && session.response_written().is_none()
            && ctx.error.is_none()
            && ctx.upstream.count < 2
            && (ctx.upstream.is_unsent(&error) || is_repeatable && error.retry());
        error.set_retry(resend);
        if resend && let Some(function) = ctx.function() {
            function.metrics.retried(Retry::StaleConnection);
        } else if !resend && *error.esource() == ErrorSource::Upstream && ctx.error.is_none() {
            let ending = Ending::of(&fault::reason(&error), client_reused);
            error
                .set_retry(ending.is_some_and(|ending| again::after(ctx, ending, None, Repeat::of(session))));
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        ctx.upstream.end();
        let reason = self.explain(session, error, ctx);
        if reason != GatewayError::ClientGone {
            log::debug!("{}: {reason}: {}", ctx.request_id(), fault::unquoted(error));
        }
        let status = reason.status().as_u16();
        if !has_begun(session) && !matches!(reason, GatewayError::ClientGone | GatewayError::ClientSlow) {
            session.set_keepalive(None);
            if let Err(e) = reply::refuse(session, ctx, &reason).await {
                log::debug!("{}: the error could not be told to the client: {e}", ctx.request_id());
            }
        }
        ctx.error = Some(reason);
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Self::CTX) {
        if let (Some(error), None) = (error, &ctx.error) {
            ctx.error = Some(self.explain(session, error, ctx));
        }
        let now = Instant::now();
        record::write(&self.ledger, session, ctx, now);
        ctx.outline = None;
        if let Some(wire) = Wire::of(session.as_downstream()) {
            wire.request_done(now);
        }
    }

    /// Failures stand in the access log, once.
    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Self::CTX, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

impl Gateway {
    /// Ends the request in `request_filter` with an answer of ours.
    async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
        error: GatewayError,
    ) -> pingora::Result<bool> {
        if error != GatewayError::ClientGone {
            reply::refuse(session, ctx, &error).await?;
        }
        ctx.error = Some(error);
        Ok(true)
    }
}

/// Waits for what the route's policy wants before the next attempt, for as long as the client is there.
async fn wait_for_turn(session: &mut Session, ctx: &mut RequestCtx) -> Result<(), GatewayError> {
    if let Some(guard) = Guard::of(session.as_downstream()) {
        // What the last attempt had to keep is over.
        guard.expire(None, None);
    }
    exchange::attended(session, again::before(ctx)).await
}

/// An error that leads to the next attempt.
fn once_more() -> Box<Error> {
    let mut error = Error::new_up(fault::AGAIN);
    error.set_retry(true);
    error
}

/// Makes the client's head the function's.
fn rewrite(session: &Session, req: &mut RequestHeader, ctx: &RequestCtx) -> Result<(), GatewayError> {
    let function = ctx.function().ok_or(GatewayError::Internal)?;
    let Target::Streamed(target) = &function.target else { return Err(GatewayError::Internal) };
    forward::announce(req, ctx, peer_address(session), entrance(session))?;
    target.rewrite_request(&ctx.call(session), req)?;
    forward::keep_trailers(session.req_header(), req)?;
    // HTTP/2 knows no such header, and its connections are pooled by groups that nobody shares.
    let may_say_close = req.version != http::Version::HTTP_2 && purpose(session) == Use::Exchange;
    if function.upstream.terms().keepalive == Keepalive::Off && may_say_close {
        let close = HeaderValue::from_static("close");
        req.insert_header(http::header::CONNECTION, close).map_err(|_| GatewayError::Internal)?;
    }
    Ok(())
}

/// Notes the reason, and gives Pingora an error that leads to `fail_to_proxy` without a retry.
fn ours(ctx: &mut RequestCtx, error: GatewayError) -> Box<Error> {
    ctx.error = Some(error);
    Error::new_in(fault::OURS)
}

/// Whether an answer has begun, so that a fault can only be shown by cutting it. After 101 the bytes are those of another protocol.
fn has_begun(session: &Session) -> bool {
    let status = session.response_written().map(|written| written.status);
    status.is_some_and(|status| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS)
}

/// Body bytes have passed, one way or the other.
fn heard(session: &Session) {
    if let Some(guard) = Guard::of(session.as_downstream()) {
        guard.heard();
    }
}

fn purpose(session: &Session) -> Use {
    if session.as_downstream().is_upgrade_req() { Use::Tunnel } else { Use::Exchange }
}

fn peer_address(session: &Session) -> IpAddr {
    let address = session.as_downstream().client_addr().and_then(|address| address.as_inet());
    address.map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip().to_canonical())
}

fn entrance(session: &Session) -> Entrance {
    let session = session.as_downstream();
    let is_tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    let port =
        session.server_addr().and_then(|address| address.as_inet()).map_or(0, |address| address.port());
    Entrance { is_tls, port }
}
