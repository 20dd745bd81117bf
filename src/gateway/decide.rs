//! What is decided before a byte goes anywhere: who asks, for which function, and whether it may be.

use std::time::Duration;

use http::Method;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::ctx::{Match, RequestCtx};
use super::forward::{self, Trust};
use super::record::Outline;
use super::{Gateway, fault};
use crate::downstream::{self, Upgrade, Wire};
use crate::error::GatewayError;
use crate::function::Function;
use crate::routing::Outcome;
use crate::snapshot::Snapshot;

impl Gateway {
    /// Everything that is decided before a byte goes anywhere. After `Ok` the context knows the route, which counts the request.
    pub(super) fn decide(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<(), GatewayError> {
        self.identify(session, ctx);
        // The wire bounds the client's silence, without a timer for every read.
        session.set_read_timeout(None);
        session.set_total_drain_timeout(Some(DRAIN));
        if let Some(wire) = Wire::of(session.as_downstream()) {
            let (is_last, upgrade) = (wire.is_at_its_last_request(), wire.upgrade());
            if is_last {
                session.set_keepalive(None);
            }
            if upgrade == Upgrade::Unknown {
                // For Pingora every request with this field is the beginning of a tunnel.
                session.req_header_mut().remove_header(&http::header::UPGRADE);
            }
        }
        ctx.in_flight = Some(self.load.enter(ctx.snapshot.settings.limits.in_flight)?);

        let head = session.req_header();
        if head.method == Method::CONNECT || head.uri.path() == "*" {
            // A tunnel through the gateway, or the gateway itself: no function is asked for.
            session.set_keepalive(None);
            return Err(GatewayError::MethodNotAllowed("".into()));
        }
        if session.req_header().version == http::Version::HTTP_2 {
            // The wire has seen to all of it for HTTP/1.
            session.set_write_timeout(Some(ctx.snapshot.settings.limits.idle_timeout));
            downstream::check_http2(session.req_header(), &ctx.snapshot.settings.limits.head)
                .map_err(fault::refused)?;
            forward::join_cookies(session.req_header_mut())?;
        }
        if session.req_header().version == http::Version::HTTP_10 {
            // It knows no interim answers (RFC 9110 section 15.2), and cannot ask for one (section 10.1.1).
            session.req_header_mut().remove_header(&http::header::EXPECT);
            session.set_ignore_info_resp(true);
        }
        forward::forget_case(session.req_header_mut());
        let head = session.req_header();
        let host = ctx.outline.as_ref().map_or("", Outline::authority);
        let (matched, function) = find(&ctx.snapshot, host, head)?;
        let matched = ctx.route.insert(matched);
        function.target.admit(&matched.sought(head))?;
        check_body_length(head, ctx.body_limit())?;
        ctx.begin();
        Ok(())
    }

    /// Who asks, and under which id.
    fn identify(&self, session: &Session, ctx: &mut RequestCtx) {
        let peer = forward::peer(session);
        let headers = &session.req_header().headers;
        (ctx.client, ctx.trust) = forward::client(peer, headers, &ctx.snapshot.settings.trusted_proxies);
        if ctx.trust == Trust::Peer {
            ctx.adopted_id = forward::accepted_request_id(headers).map(str::to_owned);
        }
    }
}

/// The route for this head, and its function.
fn find<'s>(
    snapshot: &'s Snapshot,
    host: &str,
    head: &RequestHeader,
) -> Result<(Match, &'s Function), GatewayError> {
    if host.is_empty() && head.version != http::Version::HTTP_10 {
        return Err(GatewayError::BadRequest("the Host header is missing"));
    }
    let path = head.uri.path();
    match snapshot.routes.find(host, &head.method, path) {
        Outcome::Found { id, value, suffix, captures } => {
            let suffix_at = suffix.map(|suffix| path.len() - suffix.len());
            Ok((Match { id, suffix_at, captures }, value))
        }
        Outcome::MethodNotAllowed { allow } => {
            let allow = allow.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
            Err(GatewayError::MethodNotAllowed(allow.into()))
        }
        Outcome::NotFound => Err(GatewayError::NoRoute),
    }
}

/// A body that says that it is too large is refused before anything is read of it.
pub(super) fn check_body_length(head: &RequestHeader, limit: u64) -> Result<(), GatewayError> {
    match body_length(head) {
        Some(length) if length > limit => Err(GatewayError::BodyTooLarge),
        _ => Ok(()),
    }
}

/// The length that a head says.
pub(super) fn body_length(head: &RequestHeader) -> Option<u64> {
    head.headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How long the rest of a body is read that nobody wants, to keep the connection.
const DRAIN: Duration = Duration::from_secs(5);
