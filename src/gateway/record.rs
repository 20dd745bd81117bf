//! The end of a request: one line in the access log, one count, whoever ended it.
//!
//! Three ways lead here: `logging`, for what went through the proxy's phases; `Observer`, for what was refused before; and
//! `abandon`, for what was dropped in between.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::HOST;
use http::{HeaderValue, Method, Uri, Version};
use pingora::proxy::Session;

use super::ctx::RequestCtx;
use super::{Gateway, body};
use crate::downstream::{Observer, Refused};
use crate::error::{GatewayError, Reported};
use crate::telemetry::{AccessLog, End, Entry, Metrics};

/// Where requests are written and counted.
pub(super) struct Ledger {
    pub(super) metrics: Metrics,
    pub(super) log: AccessLog,
}

/// What a request was, kept for the case that nobody asks its session any more.
pub(super) struct Outline {
    ledger: Arc<Ledger>,
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
}

impl Outline {
    pub(super) fn of(session: &Session, ledger: &Arc<Ledger>) -> Self {
        let head = session.req_header();
        Outline {
            ledger: Arc::clone(ledger),
            method: head.method.clone(),
            uri: head.uri.clone(),
            host: head.headers.get(HOST).cloned(),
            version: head.version,
        }
    }

    /// What a tunnel is asked for has none.
    fn path(&self) -> &str {
        if self.method == Method::CONNECT { NO_PATH } else { self.uri.path() }
    }

    /// The host that the client asked for, with its port if it named one.
    pub(super) fn host(&self) -> Option<HeaderValue> {
        match self.uri.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => self.host.clone(),
        }
    }

    /// The same as text; empty without any.
    pub(super) fn authority(&self) -> &str {
        match self.uri.authority() {
            Some(authority) => authority.as_str(),
            None => self
                .host
                .as_ref()
                .map(|host| std::str::from_utf8(host.as_bytes()))
                .and_then(Result::ok)
                .unwrap_or_default(),
        }
    }
}

/// How a request ended.
struct Ended {
    at: Instant,
    status: u16,
    reason: Option<&'static str>,
    body_in: u64,
    body_out: u64,
}

/// Writes and counts a request that went through the proxy's hooks. It has an outline until then.
pub(super) fn write(session: &Session, ctx: &mut RequestCtx, now: Instant) {
    let Some(outline) = ctx.outline.take() else { return };
    let downstream = session.as_downstream();
    let reason = match &ctx.error {
        Some(error) => Some(error.code()),
        None => ctx.reported.or_else(|| body::reported(ctx)).map(Reported::code),
    };
    let ended = Ended {
        at: now,
        status: status(session, ctx),
        reason,
        body_in: downstream.body_bytes_read() as u64,
        body_out: downstream.body_bytes_sent() as u64,
    };
    enter(&outline, ctx, &ended);
}

/// The same for a request that is dropped: the process ends while it waits for something that nothing wakes it from, or a bug
/// has shown itself.
pub(super) fn abandon(ctx: &mut RequestCtx) {
    let Some(outline) = ctx.outline.take() else { return };
    let error = if std::thread::panicking() { GatewayError::Internal } else { GatewayError::Draining };
    let ended = Ended {
        at: Instant::now(),
        status: error.status().as_u16(),
        reason: Some(error.code()),
        body_in: ctx.body_in,
        body_out: 0,
    };
    enter(&outline, ctx, &ended);
}

fn enter(outline: &Outline, ctx: &RequestCtx, ended: &Ended) {
    let Ledger { metrics, log } = &*outline.ledger;
    let &Ended { at, status, reason, body_in, body_out } = ended;
    let total = at.saturating_duration_since(ctx.started);
    let function = ctx.function();
    let counts = function.map_or(metrics.unrouted(), |function| &function.metrics);
    counts.end(&End {
        method: outline.method.as_str(),
        status,
        total,
        overhead: total.saturating_sub(ctx.upstream.duration()),
        request_bytes: body_in,
        response_bytes: body_out,
    });
    if let Some(reason) = reason {
        counts.failed(reason);
    }
    if let Some(first_byte) = ctx.upstream.first_byte {
        counts.first_byte(first_byte);
    }

    let cold = ctx.again.as_ref().map(|again| again.held).filter(|held| !held.is_zero());
    if let Some(held) = cold {
        counts.held_cold(held);
    }
    if let Some(waited) = ctx.queued {
        counts.queued(waited);
    }

    if !log.is_on() {
        return;
    }
    log.record(&Entry {
        ts: SystemTime::now() - total,
        request_id: ctx.request_id(),
        route: function.map(|function| function.route.as_str()),
        platform: function.map(|function| function.platform),
        method: outline.method.as_str(),
        host: Some(outline.authority().as_bytes()).filter(|host| !host.is_empty()),
        path: outline.path().as_bytes(),
        status,
        reason,
        duration: total,
        connect: ctx.upstream.connect,
        first_byte: ctx.upstream.first_byte,
        bytes_in: body_in,
        bytes_out: body_out,
        attempts: ctx.upstream.count,
        reused: ctx.upstream.reused,
        upstream: ctx.upstream.lease.as_ref().map(|lease| lease.address()),
        client: Some(ctx.client),
        protocol: outline.version,
        cold,
        queued: ctx.queued,
        activation_id: ctx.activation_id.as_deref().map(str::as_bytes),
    });
}

/// What the client got; what it would have got, when nothing was written.
fn status(session: &Session, ctx: &RequestCtx) -> u16 {
    let written = session
        .response_written()
        .map(|head| head.status.as_u16())
        .filter(|status| *status >= 200 || *status == 101);
    match (&ctx.error, written) {
        (Some(GatewayError::ClientGone), _) => GatewayError::ClientGone.status().as_u16(),
        (_, Some(status)) => status,
        (Some(error), None) => error.status().as_u16(),
        (None, None) => GatewayError::ClientGone.status().as_u16(),
    }
}

/// Stands where no method could be read; counted as `other`.
const NO_METHOD: &str = "-";
const NO_PATH: &str = "-";

/// What was refused below the proxy.
impl Observer for Ledger {
    fn refused(&self, at: &Refused<'_>) {
        let method = at.method.unwrap_or(NO_METHOD);
        let counts = self.metrics.unrouted();
        counts.end(&End {
            method,
            status: at.status,
            total: at.duration,
            overhead: at.duration,
            request_bytes: at.bytes_in as u64,
            response_bytes: at.bytes_out as u64,
        });
        counts.failed(at.code);
        self.log.record(&Entry {
            ts: SystemTime::now() - at.duration,
            request_id: at.request_id.as_str(),
            route: None,
            platform: None,
            method,
            host: None,
            path: at.path.unwrap_or(NO_PATH).as_bytes(),
            status: at.status,
            reason: Some(at.code),
            duration: at.duration,
            connect: None,
            first_byte: None,
            bytes_in: at.bytes_in as u64,
            bytes_out: at.bytes_out as u64,
            attempts: 0,
            reused: None,
            upstream: None,
            client: at.client.as_ref().map(SocketAddr::ip),
            protocol: at.protocol,
            cold: None,
            queued: None,
            activation_id: None,
        });
    }

    fn handshake_failed(&self) {
        self.metrics.handshake_failed();
    }
}

impl Gateway {
    /// What hears of requests that are refused before the proxy sees them.
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.ledger) as Arc<dyn Observer>
    }
}
