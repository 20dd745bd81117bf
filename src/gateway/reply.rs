//! The responses the gateway itself writes.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::ctx::RequestCtx;
use crate::error::GatewayError;
use crate::platforms::head::X_REQUEST_ID;

/// Answers with the reason: `{"error":{"code":…,"message":…,"route":…,"request_id":…}}`.
pub(super) async fn refuse(
    session: &mut Session,
    ctx: &RequestCtx,
    error: &GatewayError,
) -> pingora::Result<()> {
    let body = body(error, ctx);
    let mut head = ResponseHeader::build(error.status(), Some(8))?;
    head.insert_header(CONTENT_TYPE, "application/json")?;
    head.insert_header(CONTENT_LENGTH, body.len())?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    head.insert_header(X_REQUEST_ID, ctx.request_id())?;
    if let GatewayError::MethodNotAllowed(allow) = error {
        head.insert_header(ALLOW, allow.as_ref())?;
    }
    if let Some(seconds) = error.retry_after() {
        head.insert_header(RETRY_AFTER, seconds)?;
    }
    send(session, head, body).await
}

/// Writes a whole response. A request whose body was not read to its end costs the client its connection.
pub(super) async fn send(session: &mut Session, head: ResponseHeader, body: Bytes) -> pingora::Result<()> {
    if !session.as_downstream_mut().is_body_done() {
        session.set_keepalive(None);
    }
    let has_body = session.req_header().method != http::Method::HEAD && !body.is_empty();
    session.write_response_header(Box::new(head), !has_body).await?;
    if has_body {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

fn body(error: &GatewayError, ctx: &RequestCtx) -> Bytes {
    let route = ctx.function().map(|function| function.route.as_str());
    let body = serde_json::json!({
        "error": {
            "code": error.code(),
            "message": error.message(),
            "route": route,
            "request_id": ctx.request_id(),
        }
    });
    Bytes::from(body.to_string())
}
