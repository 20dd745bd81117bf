//! The end of a request: one line in the access log, one count, whoever ended it.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use pingora::proxy::Session;

use super::ctx::RequestCtx;
use super::{Gateway, body};
use crate::downstream::{Observer, Refused};
use crate::error::{GatewayError, Reported};
use crate::telemetry::{AccessLog, End, Entry, Metrics};

/// Writes and counts a request that reached the proxy's hooks.
pub(super) fn write(metrics: &Metrics, log: &AccessLog, session: &Session, ctx: &RequestCtx, now: Instant) {
    let head = session.req_header();
    let downstream = session.as_downstream();
    let total = now.saturating_duration_since(ctx.started);
    let body_in = downstream.body_bytes_read() as u64;
    let body_out = downstream.body_bytes_sent() as u64;
    let status = status(session, ctx);
    let reason = match &ctx.error {
        Some(error) => Some(error.code()),
        None => ctx.reported.or_else(|| body::reported(ctx)).map(Reported::code),
    };

    let function = ctx.function();
    let counts = function.map_or(metrics.unrouted(), |function| &function.metrics);
    counts.end(&End {
        method: head.method.as_str(),
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

    if !log.is_on() {
        return;
    }
    let host = match head.uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes()),
        None => head.headers.get(http::header::HOST).map(http::HeaderValue::as_bytes),
    };
    log.record(&Entry {
        ts: SystemTime::now() - total,
        request_id: ctx.request_id(),
        route: function.map(|function| function.route.as_str()),
        platform: function.map(|function| function.platform),
        method: head.method.as_str(),
        host,
        path: head.raw_path(),
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
        protocol: head.version,
        cold,
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

/// Writes and counts what was refused below the proxy.
pub(super) struct Refusals {
    pub(super) metrics: Metrics,
    pub(super) log: AccessLog,
}

impl Observer for Refusals {
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
            path: at.path.unwrap_or("-").as_bytes(),
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
            protocol: http::Version::HTTP_11,
            cold: None,
            activation_id: None,
        });
    }
}

impl Gateway {
    /// What hears of requests that are refused before the proxy sees them.
    pub fn observer(&self) -> std::sync::Arc<dyn Observer> {
        std::sync::Arc::new(Refusals { metrics: self.metrics.clone(), log: self.access_log.clone() })
    }
}
