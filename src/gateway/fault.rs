//! Between Pingora's errors and the reasons the gateway names.

use http::StatusCode;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::ctx::RequestCtx;
use crate::downstream::{Cause, Guard, Refusal};
use crate::error::GatewayError;

/// An error of ours on its way through Pingora; the context holds the reason itself.
pub(super) const OURS: ErrorType = ErrorType::Custom("fngate");

/// An attempt that failed and is made again.
pub(super) const AGAIN: ErrorType = ErrorType::Custom("fngate: again");

/// Notes the reason, and gives Pingora an error that leads to `fail_to_proxy` without a retry.
pub(super) fn ours(ctx: &mut RequestCtx, error: GatewayError) -> Box<Error> {
    ctx.error = Some(error);
    Error::new_in(OURS)
}

/// An error that leads to the next attempt.
pub(super) fn again() -> Box<Error> {
    let mut error = Error::new_up(AGAIN);
    error.set_retry(true);
    error
}

/// The reason for an error that came through Pingora; ours were noted when they arose.
pub(super) fn explain(session: &Session, error: &Error, ctx: &RequestCtx) -> GatewayError {
    if let Some(noted) = &ctx.error {
        return noted.clone();
    }
    if *error.esource() == ErrorSource::Downstream
        && let Some(guard) = Guard::of(session.as_downstream())
    {
        if let Some(refusal) = guard.refusal() {
            return refused(refusal);
        }
        if guard.has_expired() {
            return ctx.late(GatewayError::UpstreamTimeout);
        }
    }
    ctx.late(reason(error))
}

/// The reason behind an error that is not of our own making.
pub(super) fn reason(error: &Error) -> GatewayError {
    match error.esource() {
        ErrorSource::Upstream => upstream(error),
        ErrorSource::Downstream => downstream(error.etype()),
        ErrorSource::Internal | ErrorSource::Unset => GatewayError::Internal,
    }
}

/// The reason behind a refusal of the wire.
pub(super) fn refused(refusal: Refusal) -> GatewayError {
    match refusal.cause {
        Cause::BadRequest => match StatusCode::from_u16(refusal.status) {
            Ok(StatusCode::BAD_REQUEST) | Err(_) => GatewayError::BadRequest(refusal.reason),
            Ok(status) => GatewayError::BadRequestAs(status, refusal.reason),
        },
        // Of a tunnel, which has no path of ours.
        Cause::MethodNotAllowed => GatewayError::MethodNotAllowed("".into()),
        Cause::HeadersTooLarge => GatewayError::HeadersTooLarge,
        Cause::UnsupportedCoding => GatewayError::UnsupportedCoding,
        Cause::RequestTimeout => GatewayError::RequestTimeout,
        Cause::ClientSlow => GatewayError::ClientSlow,
        Cause::ClientFlood => GatewayError::ClientFlood,
        Cause::Overloaded => GatewayError::Overloaded,
        Cause::Draining => GatewayError::Draining,
    }
}

/// The error without the bytes that Pingora quotes in it: a function may have sent a credential back.
pub(super) fn unquoted(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(quote) = text.find("buf: ") {
        text.truncate(quote);
    }
    text
}

fn upstream(error: &Error) -> GatewayError {
    use ErrorType::*;
    match error.etype() {
        ConnectTimedout | TLSHandshakeTimedout => GatewayError::ConnectTimeout,
        TLSWantX509Lookup | TLSHandshakeFailure | InvalidCert | HandshakeError => GatewayError::UpstreamTls,
        ConnectRefused | ConnectNoRoute | ConnectError | BindError | SocketError | ConnectProxyFailure => {
            GatewayError::UpstreamConnect
        }
        ReadTimedout | WriteTimedout => GatewayError::UpstreamTimeout,
        ReadError | WriteError | ConnectionClosed => GatewayError::UpstreamReset,
        H2Error if has_ended(error) => GatewayError::UpstreamReset,
        _ => GatewayError::UpstreamProtocol,
    }
}

/// Whether the function ended the stream or the connection, rather than that it sent frames that are none, which the library refuses.
/// An error without a cause is a stream that is found closed.
fn has_ended(error: &Error) -> bool {
    error.root_cause().downcast_ref::<h2::Error>().is_none_or(|cause| !cause.is_library())
}

/// Whether the function has said that it did not look at the request (RFC 9113 section 8.7), which Pingora marks as good for a retry.
/// To be asked when it is decided whether the connection was a reused one.
pub(super) fn is_unprocessed(error: &Error) -> bool {
    *error.etype() == ErrorType::H2Error && error.retry()
}

fn downstream(kind: &ErrorType) -> GatewayError {
    use ErrorType::*;
    match kind {
        ReadTimedout => GatewayError::RequestTimeout,
        // A stream that the client, or a fault of its frames, has reset is gone: nothing can be answered on it.
        ReadError | WriteError | ConnectionClosed | H2Error => GatewayError::ClientGone,
        WriteTimedout => GatewayError::ClientSlow,
        _ => GatewayError::BadRequest("the request's body is malformed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_wire_refuses_keeps_its_name_and_its_status() {
        for (status, cause) in [
            (400, Cause::BadRequest),
            (414, Cause::BadRequest),
            (405, Cause::MethodNotAllowed),
            (431, Cause::HeadersTooLarge),
            (501, Cause::UnsupportedCoding),
            (408, Cause::RequestTimeout),
            (408, Cause::ClientSlow),
            (429, Cause::ClientFlood),
            (503, Cause::Overloaded),
            (503, Cause::Draining),
        ] {
            let error = refused(Refusal { status, cause, reason: "" });
            assert_eq!((error.code(), error.status().as_u16()), (cause.code(), status));
        }
    }
}
