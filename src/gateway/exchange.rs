//! A round trip for platforms that need the whole request, on Pingora's connector and pool.
//!
//! It cannot pass through the proxy phases, which send the head first. The status of most answers depends on their body as well:
//! they are collected, within a bound. The others are passed on as they come (`relay`).

mod relay;

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST};
use http::request::Parts;
use http::{HeaderValue, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::client::HttpSession;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};

use super::again::{self, Repeat};
use super::answer::{INTERIM_ANSWERS, TOO_LARGE, check_answer, notice_refusal};
use super::ctx::RequestCtx;
use super::decide::check_body_length;
use super::{Gateway, fault, forward, reply};
use crate::downstream::{Guard, Wire};
use crate::error::GatewayError;
use crate::function::Function;
use crate::platforms::{Buffered, BufferedTarget, Reply, Seal, Target};
use crate::telemetry::Retry;
use crate::upstream::{Keepalive, Use};

/// Calls the function and answers the client. An `Err` has not been told to the client yet, but its answer may have begun.
pub(super) async fn run(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut RequestCtx,
    function: &Function,
) -> Result<(), GatewayError> {
    let Target::Buffered(target) = &function.target else { return Err(GatewayError::Internal) };
    let limit = usize::try_from(ctx.body_limit()).unwrap_or(usize::MAX);
    let body = in_time(ctx.remaining()?, read_body(session, ctx, limit.min(target.limits().request))).await?;
    let mut head = Parts::from(session.req_header().clone());
    forward::leave_client(&mut head.headers);
    // What a target makes of the client's fields, it makes of those that can be believed.
    forward::announce(&mut head.headers, ctx.asker(session))?;
    let mut head = RequestHeader::from(head);
    let credentials = match &function.credentials {
        Some(keeper) => {
            let patience = function.upstream.terms().connect_timeout;
            Some(attended(session, in_time(ctx.remaining()?, keeper.ready(patience))).await?)
        }
        None => None,
    };
    let with = Seal { at: SystemTime::now(), credentials: credentials.as_deref() };
    let sealed = target.seal(&ctx.call(session), &mut head, body, &with)?;
    frame(&mut head, function, sealed.len())?;

    let repeat = if target.queues() { Repeat::of(session).queued() } else { Repeat::of(session) };
    let called = attended(session, call(gateway, ctx, function, head, sealed, repeat)).await;
    let (mut resp, line) = called.inspect_err(|_| ctx.upstream.end()).map_err(|error| ctx.late(error))?;
    gateway.leaving.tell(session);
    ctx.activation_id = resp.headers.get(target.call_id()).and_then(|id| id.to_str().ok()).map(str::to_owned);
    // What the action itself answers is not about our credential.
    ctx.reported = notice_refusal(session.req_header(), &mut resp, function).or(target.reported(&resp));
    let answered = match target.reply(&resp) {
        Reply::Collected => collect(gateway, session, ctx, target, resp, line).await,
        Reply::Relayed => relay::run(gateway, session, ctx, target, resp, line).await,
    };
    answered.map_err(|error| ctx.late(error))
}

/// Answers when all of the function's answer is there.
async fn collect(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut RequestCtx,
    target: &BufferedTarget,
    mut resp: ResponseHeader,
    mut line: Line,
) -> Result<(), GatewayError> {
    let body = in_time(ctx.remaining()?, line.read_all(ctx, target.limits().response));
    let body = attended(session, body).await;
    ctx.upstream.end();
    let body = body?;
    line.release(gateway).await;
    let body = target.open(&ctx.call(session), &mut resp, body)?;

    forward::adopt(&mut resp, ctx.request_id()).map_err(|_| GatewayError::UpstreamProtocol)?;
    if !matches!(resp.status.as_u16(), 204 | 304) {
        resp.insert_header(CONTENT_LENGTH, body.len()).map_err(|_| GatewayError::Internal)?;
    }
    // The answer has begun: whatever fails now is the client's connection.
    if reply::send(session, resp, body).await.is_err() {
        ctx.error = Some(GatewayError::ClientGone);
    }
    Ok(())
}

/// Reads the client's body up to the bound.
async fn read_body(session: &mut Session, ctx: &mut RequestCtx, limit: usize) -> Result<Bytes, GatewayError> {
    let limit_bytes = u64::try_from(limit).unwrap_or(u64::MAX);
    check_body_length(session.req_header(), limit_bytes)?;
    if session.req_header().headers.contains_key(EXPECT) {
        let downstream = session.as_downstream_mut();
        // Pingora takes any answer before the end of the body for a reason to close, this one too.
        downstream.set_close_on_response_before_downstream_finish(false);
        downstream.write_continue_response().await.map_err(|_| GatewayError::ClientGone)?;
        downstream.set_close_on_response_before_downstream_finish(true);
    }
    let mut body = BytesMut::new();
    loop {
        match session.read_request_body().await {
            Ok(Some(bytes)) => {
                ctx.body_in += bytes.len() as u64;
                if body.len() + bytes.len() > limit {
                    return Err(GatewayError::BodyTooLarge);
                }
                body.extend_from_slice(&bytes);
            }
            Ok(None) => return Ok(body.freeze()),
            Err(mut e) => {
                e.as_down();
                let refusal = Guard::of(session.as_downstream()).and_then(|guard| guard.refusal());
                return Err(refusal.map_or_else(|| fault::reason(&e), fault::refused));
            }
        }
    }
}

/// Does this for as long as the client is there. One that is still sending over HTTP/1 is not watched: the rest of its body would
/// be taken for its leaving. Nor is it hurried: nobody reads what it sends.
pub(super) async fn attended<T>(
    session: &mut Session,
    work: impl Future<Output = Result<T, GatewayError>>,
) -> Result<T, GatewayError> {
    if !session.as_downstream_mut().is_body_done() && session.req_header().version != Version::HTTP_2 {
        let done = work.await;
        if let Some(wire) = Wire::of(session.as_downstream()) {
            wire.rested();
        }
        return done;
    }
    tokio::select! {
        done = work => done,
        gone = client_leaves(session) => Err(gone),
    }
}

/// Does this within what is left of the call's deadline.
async fn in_time<T, E: From<GatewayError>>(
    left: Option<Duration>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match left {
        None => work.await,
        Some(left) => {
            tokio::time::timeout(left, work).await.unwrap_or_else(|_| Err(GatewayError::Deadline.into()))
        }
    }
}

/// Resolves when the client closes its connection while it waits, or when the wire gives it up.
async fn client_leaves(session: &mut Session) -> GatewayError {
    // There is no body to read, so this only returns when the connection ends or misbehaves.
    match session.as_downstream_mut().read_body_or_idle(true).await {
        Ok(_) => GatewayError::ClientGone,
        Err(_) => client_fault(session),
    }
}

/// Why the client's connection failed.
fn client_fault(session: &Session) -> GatewayError {
    let refusal = Guard::of(session.as_downstream()).and_then(|guard| guard.refusal());
    refusal.map_or(GatewayError::ClientGone, fault::refused)
}

fn frame(head: &mut RequestHeader, function: &Function, length: usize) -> Result<(), GatewayError> {
    let mut frame = || -> pingora::Result<()> {
        head.insert_header(CONTENT_LENGTH, length)?;
        if function.upstream.terms().keepalive == Keepalive::Off {
            head.insert_header(CONNECTION, HeaderValue::from_static("close"))?;
        }
        head.set_version(Version::HTTP_11);
        Ok(())
    };
    frame().map_err(|_| GatewayError::Internal)
}

/// Sends the sealed request; once more, when a pooled connection turned out to be dead before the request was on it.
async fn call(
    gateway: &Gateway,
    ctx: &mut RequestCtx,
    function: &Function,
    head: RequestHeader,
    body: Bytes,
    repeat: Repeat,
) -> Result<(ResponseHeader, Line), GatewayError> {
    loop {
        again::before(ctx).await?;
        let remaining = ctx.remaining()?;
        let lease = ctx.upstream.begin(&function.upstream, Use::Exchange);
        let peer = lease.map(|lease| function.upstream.peer(lease, Use::Exchange, remaining));
        let ended = match peer {
            Ok(peer) => in_time(remaining, attempt(gateway, ctx, function, peer, &head, &body)).await,
            Err(error) => Err(error.into()),
        };
        match ended {
            Ok((resp, _)) if again::weigh(&resp, ctx, repeat) => {}
            Ok(answer) => return Ok(answer),
            Err(Failure { retry: Some(reason), .. }) if ctx.upstream.count < 2 => {
                function.metrics.retried(reason)
            }
            Err(Failure { error, .. }) => {
                if !again::after_failure(ctx, &error, repeat) {
                    return Err(error);
                }
            }
        }
    }
}

/// Why an attempt failed, and whether another one is safe.
struct Failure {
    error: GatewayError,
    retry: Option<Retry>,
}

impl From<GatewayError> for Failure {
    fn from(error: GatewayError) -> Self {
        Failure { error, retry: None }
    }
}

async fn attempt(
    gateway: &Gateway,
    ctx: &mut RequestCtx,
    function: &Function,
    peer: Box<HttpPeer>,
    head: &RequestHeader,
    body: &Bytes,
) -> Result<(ResponseHeader, Line), Failure> {
    let connected = gateway.connector.get_http_session(&*peer).await;
    let (mut upstream, reused) = connected.map_err(|e| {
        ctx.upstream.end();
        let retry = (function.upstream.address_count() > 1).then_some(Retry::Connect);
        Failure { error: explain(ctx, e), retry }
    })?;
    ctx.upstream.connected(reused, &function.metrics);
    again::connected(ctx, reused);
    upstream.set_read_timeout(peer.options.read_timeout);
    upstream.set_write_timeout(peer.options.write_timeout);

    let head = for_session(&upstream, head, function)?;
    upstream.write_request_header(Box::new(head)).await.map_err(|e| Failure {
        // Nothing of the request reached a connection that was already dead.
        retry: (reused && *e.etype() == ErrorType::WriteError).then_some(Retry::StaleConnection),
        error: explain(ctx, e),
    })?;
    let sent = write_body(ctx, &mut upstream, body).await;

    // As a whole: Pingora's own time-out starts anew with each byte of a head.
    let timeout = function.upstream.terms().timeout;
    // Who did not take the body may have said why, and closed; then the answer is here by now.
    let patience = if sent.is_ok() { timeout } else { timeout.min(EARLY_ANSWER) };
    let head = tokio::time::timeout(patience, read_head(&mut upstream, ctx)).await;
    let resp = match (&sent, head.unwrap_or(Err(GatewayError::UpstreamTimeout))) {
        (Err(unsent), Err(_)) => return Err(unsent.clone().into()),
        (_, head) => head?,
    };
    Ok((
        resp,
        Line { upstream, peer, is_asked: sent.is_ok(), is_answered: false, closes: ctx.upstream.closes },
    ))
}

async fn write_body(ctx: &RequestCtx, upstream: &mut HttpSession, body: &Bytes) -> Result<(), GatewayError> {
    upstream.write_request_body(body.clone(), true).await.map_err(|e| explain(ctx, e))?;
    upstream.finish_request_body().await.map_err(|e| explain(ctx, e))
}

/// HTTP/2 wants the authority in the URI and knows no connection headers.
fn for_session(
    upstream: &HttpSession,
    head: &RequestHeader,
    function: &Function,
) -> Result<RequestHeader, GatewayError> {
    let mut head = head.clone();
    if upstream.as_http2().is_none() {
        return Ok(head);
    }
    let scheme = function.upstream.terms().scheme.as_str();
    let authority = head.headers.get(HOST).map_or(&[][..], HeaderValue::as_bytes);
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let uri = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build();
    head.set_uri(uri.map_err(|_| GatewayError::Internal)?);
    head.set_version(Version::HTTP_2);
    head.remove_header(&HOST);
    head.remove_header(&CONNECTION);
    Ok(head)
}

/// The final head; informational ones are passed over.
async fn read_head(upstream: &mut HttpSession, ctx: &mut RequestCtx) -> Result<ResponseHeader, GatewayError> {
    for _ in 0..=INTERIM_ANSWERS {
        upstream.read_response_header().await.map_err(|e| explain(ctx, e))?;
        let Some(head) = upstream.response_header() else { break };
        ctx.upstream.answered(head);
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            check_answer(Use::Exchange, head)?;
            return Ok(head.clone());
        }
    }
    Err(GatewayError::UpstreamProtocol)
}

/// The connection that an answer's body is still to come on.
struct Line {
    upstream: HttpSession,
    peer: Box<HttpPeer>,
    /// The whole request is on it.
    is_asked: bool,
    /// The whole answer has come.
    is_answered: bool,
    /// The function closes it, of which Pingora does not know.
    closes: bool,
}

impl Line {
    /// The next piece of the body, if there is one.
    async fn read(&mut self, ctx: &RequestCtx) -> Result<Option<Bytes>, GatewayError> {
        let piece = self.upstream.read_response_body().await.map_err(|e| explain(ctx, e))?;
        self.is_answered = piece.is_none();
        Ok(piece)
    }

    async fn read_all(&mut self, ctx: &RequestCtx, limit: usize) -> Result<Bytes, GatewayError> {
        let mut body = BytesMut::new();
        while let Some(bytes) = self.read(ctx).await? {
            if body.len() + bytes.len() > limit {
                return Err(TOO_LARGE);
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body.freeze())
    }

    /// Gives the connection back to the pool. With half a message on it, it is of no use to another request.
    async fn release(mut self, gateway: &Gateway) {
        if self.is_asked && !self.closes && (self.is_answered || self.upstream.response_done()) {
            let idle = self.peer.options.idle_timeout;
            gateway.connector.release_http_session(self.upstream, &*self.peer, idle).await;
        }
    }
}

fn explain(ctx: &RequestCtx, mut error: Box<Error>) -> GatewayError {
    if *error.esource() == ErrorSource::Unset {
        error.as_up();
    }
    let reason = fault::reason(&error);
    log::debug!("{}: {reason}: {}", ctx.request_id(), fault::unquoted(&error));
    reason
}

/// How long an answer is waited for that came before the end of the request, if it came.
const EARLY_ANSWER: Duration = Duration::from_secs(1);
