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
pub mod forward;
mod leaving;
mod limits;
mod record;
mod reply;
mod sweep;

use std::any::Any;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};

use self::again::Repeat;
use self::answer::{
    INTERIM_ANSWERS, check_answer, check_trailers, expect_body, expect_end, expect_head, is_bodiless,
    is_guarded, lend, longest_call, waited_for_client,
};
use self::body::Body;
use self::ctx::{RequestCtx, Turn};
use self::fault::ours;
pub use self::leaving::Leaving;
use self::limits::{Load, take_place};
use self::record::{Ledger, Outline};
use self::sweep::Errand;
pub use self::sweep::Sweeper;
use crate::downstream::{Guard, Upgrade, Wire};
use crate::error::GatewayError;
use crate::function::Function;
use crate::platforms::Target;
use crate::snapshot::Snapshot;
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::{Protocol, Use};

/// The proxy application: one for the process, shared by all listeners.
pub struct Gateway {
    snapshot: Arc<ArcSwap<Snapshot>>,
    ledger: Arc<Ledger>,
    load: Load,
    leaving: Leaving,
    /// Pingora's connector and pool, for the exchanges that the proxy phases cannot do.
    connector: Arc<Connector>,
}

impl Gateway {
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        metrics: Metrics,
        access_log: AccessLog,
        connector: Arc<Connector>,
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

    /// Nothing is remembered from one request to the next: only an errand comes with something.
    fn on_connection_reuse(&self, _: &mut Session, ctx: &mut Self::CTX, brought: Box<dyn Any + Send + Sync>) {
        ctx.errand = brought.downcast::<Errand>().ok();
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> pingora::Result<bool> {
        if ctx.errand.is_some() {
            return Ok(false);
        }
        ctx.outline = Some(Outline::of(session, &self.ledger));
        self.leaving.tell(session);
        if let Err(error) = self.decide(session, ctx) {
            return self.refuse(session, ctx, error).await;
        }
        // Boxed, here and below, so that their large states are not part of this future, which every request creates and moves.
        if let Some(bulkhead) = limits::bulkhead(ctx)
            && let Err(error) = Box::pin(take_place(session, ctx, bulkhead)).await
        {
            return self.refuse(session, ctx, error).await;
        }
        let Some(function) = buffered(ctx) else { return Ok(false) };
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
        if let Some(errand) = &ctx.errand {
            return Ok(errand.0.clone());
        }
        let Some(function) = ctx.function() else { return Err(ours(ctx, GatewayError::Internal)) };
        if !function.policy.calls_once() {
            again::wait_for_turn(session, ctx).await.map_err(|error| ours(ctx, error))?;
        }
        // What was read of the body passes its filter once more.
        ctx.body_in = 0;
        match next_peer(session, ctx) {
            Ok(peer) => Ok(peer),
            // The name may come with the function.
            Err(error) if again::after_failure(ctx, &error, Repeat::of(session)) => Err(fault::again()),
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
        if again::after_refusal(ctx, Repeat::of(session)) {
            error.set_retry(true);
        }
        error
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        _: &HttpPeer,
        socket: RawFd,
        _: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        if ctx.errand.is_some() {
            // What does not go on is closed.
            return Err(Error::new_in(fault::OURS));
        }
        let function = ctx.route.as_ref().and_then(|route| route.function(&ctx.snapshot));
        if let Some(function) = function {
            ctx.upstream.connected(reused, &function.metrics);
        }
        again::connected(ctx, reused);
        ctx.upstream.socket = Some(socket);
        // A pooled connection is there at once: no need for another look at the clock.
        let from = if reused { ctx.upstream.began } else { None };
        // Whoever wants to be asked for the body waits for the function, too.
        let is_asked = session.as_downstream_mut().is_body_done()
            || session.req_header().headers.contains_key(http::header::EXPECT);
        if is_asked {
            ctx.upstream.turn = Turn::Function;
            expect_head(session, ctx, from.unwrap_or_else(Instant::now));
        } else {
            expect_body(session, ctx);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        req: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        forward::rewrite(session, req, ctx).map_err(|error| ours(ctx, error))?;
        // What HTTP/2 fails to write after this may be the end of the body.
        ctx.upstream.head_is_out = req.version == http::Version::HTTP_2;
        ctx.upstream.protocol = if ctx.upstream.head_is_out { Protocol::Http2 } else { Protocol::Http1 };
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
        match (ctx.upstream.turn, &*body) {
            (Turn::Answer, Some(_)) => heard(session),
            (Turn::Answer | Turn::Function, None) => {}
            _ if end => {
                ctx.upstream.turn = Turn::Function;
                expect_head(session, ctx, Instant::now());
            }
            _ => {
                ctx.upstream.turn = Turn::Client;
                expect_body(session, ctx);
            }
        }
        if !end && let Some(piece) = body {
            lend(session, ctx, piece);
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
        let is_final = !resp.status.is_informational() || resp.status == StatusCode::SWITCHING_PROTOCOLS;
        if !is_final {
            ctx.upstream.interim += 1;
            if ctx.upstream.interim > INTERIM_ANSWERS {
                return Err(ours(ctx, GatewayError::UpstreamProtocol));
            }
            if resp.status == StatusCode::CONTINUE && !session.as_downstream_mut().is_body_done() {
                ctx.upstream.turn = Turn::Client;
                expect_body(session, ctx);
            }
        } else {
            ctx.upstream.turn = Turn::Answer;
            expect_end(session, ctx);
        }
        check_answer(purpose(session), resp).map_err(|error| ours(ctx, error))?;
        if is_final && again::weigh(resp, ctx, Repeat::of(session)) {
            return Err(fault::again());
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
            end_answer(session, ctx);
        }
        if ctx.body.is_some() {
            body::pass(session, ctx, piece, end).map_err(|error| ours(ctx, error))?;
        }
        ctx.remaining().map(|_| None).map_err(|error| ours(ctx, error))
    }

    fn upstream_response_trailer_filter(
        &self,
        session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        check_trailers(trailers).map_err(|error| ours(ctx, error))?;
        end_answer(session, ctx);
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
        // Pingora takes any answer before the end of the body for a reason to close, the consent to the body too.
        let is_final = !resp.status.is_informational();
        session.as_downstream_mut().set_close_on_response_before_downstream_finish(is_final);
        forward::adopt(resp, ctx.request_id())?;
        if !is_final {
            return Ok(());
        }
        self.leaving.tell(session);
        answer::map(session, resp, ctx).map_err(|error| ours(ctx, error))?;
        if is_bodiless(&session.req_header().method, resp) {
            end_answer(session, ctx);
        }
        if session.req_header().version == http::Version::HTTP_10 {
            // It does not know chunks: the end of the connection is the end of the body.
            resp.remove_header(&http::header::TRANSFER_ENCODING);
            session.set_keepalive(None);
            // Written here, because Pingora puts chunks into an answer of HTTP/2 after this. It writes no head twice.
            resp.set_version(http::Version::HTTP_11);
            let head = Box::new(resp.clone());
            session.write_response_header(head, false).await.map_err(|error| error.into_down())?;
        }
        Ok(())
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
        // Pingora marks what may be the end of a pooled connection (`ReusedOnly`).
        error.retry.decide_reuse(client_reused);
        if ctx.error.is_none() && waited_for_client(session, ctx, &error) {
            ctx.error = Some(ctx.remaining().err().unwrap_or(GatewayError::RequestTimeout));
        }
        // What we ended, and what the client did, is over.
        let is_functions = *error.esource() == ErrorSource::Upstream && ctx.error.is_none();
        let again = is_functions && again::after_break(ctx, &error, Repeat::of(session));
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        ctx.upstream.end();
        if ctx.errand.is_some() || ended_well(session, error) {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let reason = fault::explain(session, error, ctx);
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
        if ctx.errand.is_some() {
            return;
        }
        if let (Some(error), None) = (error, &ctx.error)
            && !ended_well(session, error)
        {
            ctx.error = Some(fault::explain(session, error, ctx));
        }
        let now = Instant::now();
        record::write(session, ctx, now);
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

/// The function, if its target is a buffered one. Its count of references, which all requests share, is touched for no other.
fn buffered(ctx: &RequestCtx) -> Option<Arc<Function>> {
    ctx.function().filter(|function| matches!(function.target, Target::Buffered(_))).cloned()
}

/// Begins an attempt, and says how its address is reached.
fn next_peer(session: &mut Session, ctx: &mut RequestCtx) -> Result<Box<HttpPeer>, GatewayError> {
    let purpose = purpose(session);
    let remaining = ctx.remaining()?;
    let function = ctx.route.as_ref().and_then(|route| route.function(&ctx.snapshot));
    let function = function.ok_or(GatewayError::Internal)?;
    let lease = ctx.upstream.begin(&function.upstream, purpose)?;
    let mut peer = function.upstream.peer(lease, purpose, remaining);
    ctx.upstream.is_guarded = is_guarded(session, function);
    if ctx.upstream.is_guarded {
        peer.options.read_timeout = match function.upstream.terms().protocol {
            Protocol::Http1 => None,
            Protocol::Http2 => Some(remaining.unwrap_or_else(|| longest_call(session, ctx))),
        };
    }
    Ok(peer)
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

/// The last of the function's answer is here.
fn end_answer(session: &Session, ctx: &mut RequestCtx) {
    ctx.upstream.end();
    if ctx.is_tunnel {
        return;
    }
    ctx.upstream.part();
    // It will be written before anything else is read.
    if let Some(wire) = Wire::of(session.as_downstream()) {
        wire.answered();
    }
}

/// Whether nothing failed but to read something after the whole answer: the rest of the client's body, or what a function has to say
/// after an answer that ends with its head.
fn ended_well(session: &Session, error: &Error) -> bool {
    let is_read = !matches!(error.etype(), ErrorType::WriteError | ErrorType::WriteTimedout);
    let is_nobodys = match error.esource() {
        ErrorSource::Downstream => true,
        ErrorSource::Upstream => session
            .response_written()
            .is_some_and(|written| is_bodiless(&session.req_header().method, written)),
        _ => false,
    };
    is_nobodys && is_read && Wire::of(session.as_downstream()).is_some_and(Wire::is_answered)
}

fn purpose(session: &Session) -> Use {
    match Wire::of(session.as_downstream()).map(Wire::upgrade) {
        Some(Upgrade::WebSocket) => Use::Tunnel,
        _ => Use::Exchange,
    }
}
