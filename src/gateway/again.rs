//! Again, or not: what a route's policy makes of an attempt that failed, and of a call for a function that is not there.
//!
//! Asked only while the client has got no byte of an answer, besides 1xx, and only for what can still be sent as a whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::RETRY_AFTER;
use pingora::Error;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::ctx::{Attempts, RequestCtx};
use super::exchange::attended;
use super::{fault, has_begun};
use crate::downstream::Guard;
use crate::error::{GatewayError, Reported};
use crate::function::Function;
use crate::platforms::{Buffered, Readiness, Streamed, Target};
use crate::policy::cold_start::{ColdStart, Pass, Sign};
use crate::policy::retry::Condition;
use crate::telemetry::Retry;

/// What a policy has done with one request so far.
#[derive(Debug, Default)]
pub(super) struct Again {
    wait: Option<Wait>,
    /// Attempts that found the function missing.
    cold: u32,
    /// The right to find out whether it has come.
    pass: Option<Pass>,
    /// How long it was waited for.
    pub(super) held: Duration,
}

/// What comes before the next attempt.
#[derive(Debug)]
enum Wait {
    For(Duration),
    /// Until it is this request's turn to see whether the function has come.
    Turn,
}

/// What an attempt ended with, as far as a policy is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Failed(Condition),
    /// The platform answered that the function is not there yet.
    NotReady,
}

impl Ending {
    /// What an attempt is to a policy that failed for this reason, if it is anything.
    fn of(error: &GatewayError, attempt: &Attempts) -> Option<Ending> {
        let condition = match error {
            GatewayError::UpstreamConnect | GatewayError::ConnectTimeout | GatewayError::UpstreamResolve => {
                Condition::Connect
            }
            GatewayError::UpstreamReset if attempt.reused == Some(true) => Condition::Reused,
            GatewayError::UpstreamReset => Condition::Reset,
            GatewayError::UpstreamTimeout => Condition::Timeout,
            _ => return None,
        };
        Some(Ending::Failed(condition))
    }
}

/// Whether a request can be sent once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The client has a part of an answer, or too much of the body is gone.
    Impossible,
    Idempotent,
    /// Doing it twice is not the same as doing it once.
    NotIdempotent,
}

impl Repeat {
    pub(super) fn of(session: &Session) -> Self {
        if has_begun(session) || session.as_ref().retry_buffer_truncated() {
            return Repeat::Impossible;
        }
        match session.req_header().method.is_idempotent() {
            true => Repeat::Idempotent,
            false => Repeat::NotIdempotent,
        }
    }

    /// The same for a call that the platform did not bring to its function.
    fn turned_away(self) -> Self {
        match self {
            Repeat::NotIdempotent => Repeat::Idempotent,
            other => other,
        }
    }

    /// The same for a call that the platform puts into a queue, once more each time.
    pub(super) fn queued(self) -> Self {
        match self {
            Repeat::Idempotent => Repeat::NotIdempotent,
            other => other,
        }
    }
}

/// As [`before`], for as long as the client is there.
pub(super) async fn wait_for_turn(session: &mut Session, ctx: &mut RequestCtx) -> Result<(), GatewayError> {
    if let Some(guard) = Guard::of(session.as_downstream()) {
        // What the last attempt had to keep is over.
        guard.expire(None, None);
    }
    attended(session, before(ctx)).await
}

/// Waits for as long as the policy wants before an attempt. An `Err` is the client's answer.
pub(super) async fn before(ctx: &mut RequestCtx) -> Result<(), GatewayError> {
    let Some(function) = policed(ctx) else { return Ok(()) };
    if ctx.upstream.count == 0 && ctx.again.is_none() {
        if let Some(retry) = &function.policy.retry {
            retry.budget.request(Instant::now());
        }
        if function.policy.cold_start.as_ref().is_some_and(ColdStart::is_cold) {
            ctx.again.get_or_insert_default().wait = Some(Wait::Turn);
        }
    }
    let Some(wait) = ctx.again.as_mut().and_then(|again| again.wait.take()) else { return Ok(()) };
    match (wait, &function.policy.cold_start) {
        (Wait::For(delay), _) => {
            let left = ctx.remaining()?.unwrap_or(Duration::MAX);
            tokio::time::sleep(delay.min(left)).await;
            ctx.remaining().map(drop)
        }
        (Wait::Turn, Some(room)) => await_turn(ctx, room).await,
        (Wait::Turn, None) => Ok(()),
    }
}

async fn await_turn(ctx: &mut RequestCtx, room: &ColdStart) -> Result<(), GatewayError> {
    let left = room.hold.saturating_sub(ctx.started.elapsed());
    let left = ctx.remaining()?.map_or(left, |deadline| deadline.min(left));
    let (kept, cold) = ctx.again.as_mut().map_or((None, 0), |again| (again.pass.take(), again.cold));
    let begun = Instant::now();
    let pass = room.turn(kept, cold, tokio::time::Instant::from_std(begun) + left).await;
    let again = ctx.again.get_or_insert_default();
    again.held += begun.elapsed();
    again.pass = pass;
    if again.pass.is_some() {
        return Ok(());
    }
    ctx.remaining()?;
    Err(GatewayError::ColdStart)
}

/// Takes in that there is a connection. One from the pool says nothing of what is there now.
pub(super) fn connected(ctx: &RequestCtx, reused: bool) {
    if let Some(room) = ctx.function().and_then(|function| function.policy.cold_start.as_ref())
        && !reused
    {
        room.connected();
    }
}

/// Whether there will be another attempt after one that got no connection. Nothing was sent, so another address may be tried,
/// whatever the method.
pub(super) fn after_refusal(ctx: &mut RequestCtx, repeat: Repeat) -> bool {
    if let Some(function) = ctx.function().filter(|function| function.upstream.address_count() > 1)
        && ctx.upstream.count < 2
    {
        function.metrics.retried(Retry::Connect);
        return true;
    }
    after(ctx, Ending::Failed(Condition::Connect), None, repeat)
}

/// Whether there will be another attempt after one whose connection broke, or ended, by the function's doing.
pub(super) fn after_break(ctx: &mut RequestCtx, error: &Error, repeat: Repeat) -> bool {
    // The one safe resend: the pooled connection was gone before a byte of an answer came, and the request may be repeated; or not
    // even its head could be written, or the function says that it did not look at it, and any request may be.
    let is_safe = match repeat {
        Repeat::Impossible => false,
        Repeat::Idempotent => error.retry() || ctx.upstream.is_unheard(error),
        Repeat::NotIdempotent => ctx.upstream.is_unsent(error) || fault::is_unprocessed(error),
    };
    if is_safe && ctx.upstream.count < 2 {
        if let Some(function) = ctx.function() {
            function.metrics.retried(Retry::StaleConnection);
        }
        return true;
    }
    after_failure(ctx, &fault::reason(error), repeat)
}

/// Whether there will be another attempt after one that failed for this reason.
pub(super) fn after_failure(ctx: &mut RequestCtx, error: &GatewayError, repeat: Repeat) -> bool {
    Ending::of(error, &ctx.upstream).is_some_and(|ending| after(ctx, ending, None, repeat))
}

/// Whether there will be another attempt after one that ended like this; `asked` is what the function wants to be waited.
fn after(ctx: &mut RequestCtx, ending: Ending, asked: Option<Duration>, repeat: Repeat) -> bool {
    let Some(function) = policed(ctx).filter(|_| repeat != Repeat::Impossible) else { return false };
    let sign = match ending {
        Ending::NotReady => Some(Sign::NotReady),
        Ending::Failed(Condition::Connect) => Some(Sign::NoConnection),
        Ending::Failed(_) => None,
    };
    if let (Some(room), Some(sign)) = (&function.policy.cold_start, sign) {
        if room.cooled(sign) {
            function.metrics.cold_start();
        }
        let again = ctx.again.get_or_insert_default();
        again.cold += 1;
        again.wait = Some(Wait::Turn);
        function.metrics.retried(Retry::ColdStart);
        return true;
    }
    let (Some(retry), Ending::Failed(what)) = (&function.policy.retry, ending) else { return false };
    let Some(delay) = retry.delay(ctx.upstream.count, asked) else { return false };
    if !retry.allows(what, repeat == Repeat::Idempotent, ctx.upstream.count, Instant::now()) {
        return false;
    }
    function.metrics.retried(match what {
        Condition::Connect => Retry::Connect,
        Condition::Reused => Retry::StaleConnection,
        Condition::Reset => Retry::Reset,
        Condition::Timeout => Retry::Timeout,
        Condition::Status(_) => Retry::Status,
    });
    ctx.again.get_or_insert_default().wait = Some(Wait::For(delay));
    true
}

/// Looks at the head of a final answer; `true` when the request is sent once more instead.
pub(super) fn weigh(resp: &ResponseHeader, ctx: &mut RequestCtx, repeat: Repeat) -> bool {
    let Some(function) = policed(ctx) else { return false };
    let (readiness, was_reached) = match &function.target {
        Target::Streamed(target) => {
            let readiness = target.readiness(resp);
            (readiness, readiness != Readiness::NotReady)
        }
        Target::Buffered(target) => (Readiness::Ready, target.reported(resp) != Some(Reported::NotReached)),
    };
    if let Some(room) = &function.policy.cold_start {
        let is_held = match readiness {
            Readiness::Unsure if room.is_starting() => repeat == Repeat::Idempotent,
            Readiness::NotReady => true,
            Readiness::Ready | Readiness::Unsure => {
                room.warmed();
                false
            }
        };
        if is_held && after(ctx, Ending::NotReady, None, repeat) {
            return true;
        }
        // What it found out is known now. If that is not the end of the wait, it is another one's turn.
        if let Some(again) = &mut ctx.again {
            again.pass = None;
        }
    }
    let is_failure = resp.status == StatusCode::TOO_MANY_REQUESTS || resp.status.is_server_error();
    let status = Condition::Status(resp.status.as_u16());
    let repeat = if was_reached { repeat } else { repeat.turned_away() };
    is_failure && after(ctx, Ending::Failed(status), retry_after(resp), repeat)
}

/// The seconds that the function asks for. A date is not taken: its clock is another one.
fn retry_after(resp: &ResponseHeader) -> Option<Duration> {
    resp.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The request's function, if its route has a policy.
fn policed(ctx: &RequestCtx) -> Option<Arc<Function>> {
    ctx.function().filter(|function| !function.policy.calls_once()).cloned()
}
