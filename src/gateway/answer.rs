//! The function's answer: how long it may take to begin and to end, and what of it a client may get.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::body::Body;
use super::ctx::{RequestCtx, Turn};
use super::decide::body_length;
use super::purpose;
use crate::downstream::{Guard, ends_with_head, is_field};
use crate::error::{GatewayError, Reported};
use crate::function::Function;
use crate::platforms::{Streamed, StreamedTarget, Target, Verdict};
use crate::policy::retry::Condition;
use crate::upstream::{Protocol, Use};

/// Whether the guard bounds the function's silence as well, in the place of a timer of Pingora's for each read: for a client that waits
/// for an answer as the function gives it. Not in tunnels. Over HTTP/1, not in an attempt after whose silence there may be another one:
/// what the guard ends is over. Over HTTP/2 only where the client sends a body, during all of which Pingora's timer would run; it also
/// gives up a connection on which a function was silent. In gRPC nobody knows whose turn it is, so there it does run.
pub(super) fn is_guarded(session: &mut Session, function: &Function) -> bool {
    let is_possible = purpose(session) == Use::Exchange && Guard::of(session.as_downstream()).is_some();
    is_possible
        && match function.upstream.terms().protocol {
            Protocol::Http1 => !function.policy.tries_again_on(Condition::Timeout),
            Protocol::Http2 => !session.as_downstream_mut().is_body_done() && !is_grpc(session.req_header()),
        }
}

/// Whether an attempt that failed like this waited for its client, which was silent for as long as the function might have been.
pub(super) fn waited_for_client(session: &Session, ctx: &RequestCtx, error: &Error) -> bool {
    *error.esource() == ErrorSource::Upstream
        && *error.etype() == ErrorType::ReadTimedout
        && ctx.upstream.turn == Turn::Client
        && !ctx.upstream.is_guarded
        && purpose(session) == Use::Exchange
        && !is_grpc(session.req_header())
}

/// How long a call with a body can last that is answered in time, by the least pace of its client. Once a write to a function of HTTP/2
/// was given up, Pingora looks at nothing but its own time for the answer, which runs from the head on: that has to end what the guard
/// cannot.
pub(super) fn longest_call(session: &Session, ctx: &RequestCtx) -> Duration {
    let limits = &ctx.snapshot.settings.limits;
    let timeout = ctx.function().map_or(Duration::ZERO, |function| function.upstream.terms().timeout);
    let body = body_length(session.req_header()).unwrap_or(ctx.body_limit());
    let upload = body.checked_div(limits.min_rate).map_or(LONGEST_UPLOAD, Duration::from_secs);
    timeout + limits.idle_timeout + upload.min(LONGEST_UPLOAD)
}

/// While the client is still sending, it is the client that is waited for, by the guard's own measure: of the function's times only
/// the call's deadline counts.
pub(super) fn expect_body(session: &Session, ctx: &RequestCtx) {
    let (Some(guard), Some(function)) = (Guard::of(session.as_downstream()), ctx.function()) else { return };
    if function.upstream.terms().protocol == Protocol::Http2 && is_grpc(session.req_header()) {
        guard.converse();
    }
    guard.expire(end_of_call(ctx), None);
}

/// Lets the guard know of a piece of the body until the function has taken it. HTTP/2 has a window for that, which a write waits for.
pub(super) fn lend(session: &Session, ctx: &RequestCtx, piece: &mut Bytes) {
    let (Some(guard), Some(function)) = (Guard::of(session.as_downstream()), ctx.function()) else { return };
    if ctx.upstream.protocol == Protocol::Http1 && purpose(session) == Use::Exchange {
        // A write is given up by Pingora, after the time-out, to look at what the function may have said instead of reading on.
        let longest = ctx.upstream.is_guarded.then(|| function.upstream.terms().timeout + BREATH);
        *piece = guard.lend(std::mem::take(piece), longest);
    }
}

/// Bounds the wait for the function's whole head. Pingora's time-out starts anew with each byte of it.
pub(super) fn expect_head(session: &Session, ctx: &RequestCtx, from: Instant) {
    let (Some(guard), Some(function)) = (Guard::of(session.as_downstream()), ctx.function()) else { return };
    // Where Pingora's own time-out counts as well, it comes first in the plain case, after which there may be another attempt. Before a
    // tunnel it does not: there it is the one for both sides' silence.
    let is_alone = ctx.upstream.is_guarded || purpose(session) == Use::Tunnel;
    let breath = if is_alone { Duration::ZERO } else { BREATH };
    let whole = function.upstream.terms().timeout + breath;
    let left = ctx.remaining().ok().flatten().map_or(whole, |left| whole.min(left));
    guard.expire(Some(tokio::time::Instant::from_std(from) + left), None);
}

/// The head is there: from now on only the call's own deadline counts, and the silence between two bytes.
pub(super) fn expect_end(session: &Session, ctx: &RequestCtx) {
    let (Some(guard), Some(function)) = (Guard::of(session.as_downstream()), ctx.function()) else { return };
    guard.converse();
    let silence = ctx.upstream.is_guarded.then_some(function.upstream.terms().timeout);
    guard.expire(end_of_call(ctx), silence);
}

/// When the call's deadline is over, if it has one.
fn end_of_call(ctx: &RequestCtx) -> Option<tokio::time::Instant> {
    let left = ctx.remaining().unwrap_or(Some(Duration::ZERO))?;
    Some(tokio::time::Instant::now() + left)
}

/// Its calls are open on both sides for as long as they last, and the client may be the one who speaks seldom.
fn is_grpc(asked: &RequestHeader) -> bool {
    let kind = asked.headers.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    kind.starts_with(b"application/grpc")
}

/// What Pingora takes from a function, but a client should not get.
pub(super) fn check_answer(purpose: Use, resp: &ResponseHeader) -> Result<(), GatewayError> {
    let unasked_switch = resp.status == StatusCode::SWITCHING_PROTOCOLS && purpose == Use::Exchange;
    // What came in lines was read by Pingora's own parser.
    let is_of_lines = resp.version != Version::HTTP_2;
    let (mut size, mut codings, mut is_coded) = (resp.get_reason_phrase().map_or(0, str::len), 0, false);
    for (name, value) in &resp.headers {
        if !is_of_lines && !is_field(name, value) {
            return Err(GatewayError::UpstreamProtocol);
        }
        size += name.as_str().len() + value.len() + 4;
        if name == http::header::TRANSFER_ENCODING {
            // Pingora undoes one `chunked` and forgets about the rest, which the body would still be in.
            codings += 1;
            is_coded |= codings > 1 || !value.as_bytes().eq_ignore_ascii_case(b"chunked");
        }
    }
    if unasked_switch || resp.status.as_u16() > 599 || size > ANSWER_HEAD || is_coded {
        return Err(GatewayError::UpstreamProtocol);
    }
    Ok(())
}

/// The same for the fields that come after the body.
pub(super) fn check_trailers(trailers: &HeaderMap) -> Result<(), GatewayError> {
    match trailers.iter().all(|(name, value)| is_field(name, value)) {
        true => Ok(()),
        false => Err(GatewayError::UpstreamProtocol),
    }
}

/// Makes the function's head the client's, and notes what it says of the call.
pub(super) fn map(
    session: &Session,
    resp: &mut ResponseHeader,
    ctx: &mut RequestCtx,
) -> Result<(), GatewayError> {
    let function = ctx.function().ok_or(GatewayError::Internal)?;
    let Target::Streamed(target) = &function.target else { return Err(GatewayError::Internal) };
    let call_id = notice_call_id(resp, target);
    let mapped = target.map_response(|| ctx.call(session), resp);
    let refused = notice_refusal(session.req_header(), resp, function);
    ctx.activation_id = call_id;
    let verdict = mapped?;
    ctx.reported = match verdict {
        Verdict::Failed(reported) => refused.or(Some(reported)),
        Verdict::Answered | Verdict::InBody | Verdict::Rewritten { .. } => refused,
    };
    ctx.body = Body::begin(verdict, &session.req_header().method, resp)?.map(Box::new);
    Ok(())
}

/// The platform's own name for the call, for the log.
fn notice_call_id(resp: &ResponseHeader, target: &StreamedTarget) -> Option<String> {
    resp.headers.get(target.call_id()?)?.to_str().ok().map(str::to_owned)
}

/// Whether the function refused a credential of ours: the answer passes, but without a challenge that the client could not meet.
pub(super) fn notice_refusal(
    asked: &RequestHeader,
    resp: &mut ResponseHeader,
    function: &Function,
) -> Option<Reported> {
    let is_refused = matches!(resp.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        && function.has_credential_for(asked);
    if is_refused {
        resp.remove_header(&http::header::WWW_AUTHENTICATE);
    }
    is_refused.then_some(Reported::CredentialRefused)
}

/// Whether the answer ends with its head.
pub(super) fn is_bodiless(method: &Method, resp: &ResponseHeader) -> bool {
    let is_empty =
        || resp.headers.iter().any(|(name, value)| *name == http::header::CONTENT_LENGTH && value == "0");
    ends_with_head(method, resp) || is_empty()
}

/// The body of an answer does not fit where it has to be held.
pub(super) const TOO_LARGE: GatewayError =
    GatewayError::BadEnvelope("the function's answer is larger than this gateway accepts");

/// More 1xx before an answer are an attack or a fault.
pub(super) const INTERIM_ANSWERS: u32 = 8;
/// Whoever sends for longer has a function of HTTP/1.
const LONGEST_UPLOAD: Duration = Duration::from_secs(24 * 60 * 60);
/// A busy machine may be late by as much.
const BREATH: Duration = Duration::from_millis(500);
/// The largest head a function may answer with.
const ANSWER_HEAD: usize = 64 * 1024;
