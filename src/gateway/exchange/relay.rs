//! An answer that reaches the client piece by piece, as it comes.
//!
//! Owns when an answer has begun. Until then a fault is answered; afterwards it is for the caller to cut the connection, so that
//! no client takes a part for the whole. It never holds more than the piece that is on its way.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::{Line, client_fault, client_leaves, in_time};
use crate::error::GatewayError;
use crate::gateway::ctx::RequestCtx;
use crate::gateway::{Gateway, forward};
use crate::platforms::{Buffered, BufferedTarget, Relay};

/// Passes the answer on. After an `Err`, the client may have a part of it.
pub(super) async fn run(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut RequestCtx,
    target: &BufferedTarget,
    mut head: ResponseHeader,
    mut line: Line,
) -> Result<(), GatewayError> {
    let relay = target.relay(&ctx.call(session), &mut head)?;
    ctx.reported = ctx.reported.or(relay.reported());
    let mut answer = Answer::new(head);
    let passed = in_time(ctx.remaining()?, pass(session, ctx, &mut line, relay, &mut answer)).await;
    ctx.upstream.end();
    passed?;
    // Before the client knows that the answer is over, and asks again.
    line.release(gateway).await;
    answer.end(session, ctx).await
}

async fn pass(
    session: &mut Session,
    ctx: &RequestCtx,
    line: &mut Line,
    mut relay: Relay,
    answer: &mut Answer,
) -> Result<(), GatewayError> {
    if relay.knows_head() {
        answer.begin(session, ctx).await?;
    }
    while answer.state != State::Bodiless {
        let piece = tokio::select! {
            piece = line.read(ctx) => piece?,
            gone = client_leaves(session) => return Err(gone),
        };
        let Some(piece) = piece else {
            let rest = relay.finish()?;
            if !rest.is_empty() {
                answer.send(session, ctx, rest).await?;
            }
            return answer.check_length();
        };
        if let Some(piece) = relay.push(piece, &mut answer.head)? {
            answer.send(session, ctx, piece).await?;
        }
    }
    Ok(())
}

/// What the client gets.
struct Answer {
    head: ResponseHeader,
    state: State,
    /// Bytes of the body.
    sent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is out.
    Waiting,
    /// The head is out, and there will be a body.
    Begun,
    /// The head is out, and that is all.
    Bodiless,
}

impl Answer {
    fn new(head: ResponseHeader) -> Self {
        Answer { head, state: State::Waiting, sent: 0 }
    }

    /// Sends the head, if it is not out yet.
    async fn begin(&mut self, session: &mut Session, ctx: &RequestCtx) -> Result<(), GatewayError> {
        if self.state != State::Waiting {
            return Ok(());
        }
        forward::adopt(&mut self.head, ctx.request_id()).map_err(|_| GatewayError::UpstreamProtocol)?;
        let state = frame(session.req_header(), &mut self.head).map_err(|_| GatewayError::Internal)?;
        if session.req_header().version == Version::HTTP_10 {
            session.set_keepalive(None);
        }
        self.state = state;
        let head = Box::new(self.head.clone());
        let written = session.write_response_header(head, state == State::Bodiless).await;
        // Whatever the cause, nothing can be told to this client any more.
        written.map_err(|_| GatewayError::ClientGone)
    }

    async fn send(
        &mut self,
        session: &mut Session,
        ctx: &RequestCtx,
        piece: Bytes,
    ) -> Result<(), GatewayError> {
        self.begin(session, ctx).await?;
        // An empty chunk would be the last one.
        if self.state == State::Bodiless || piece.is_empty() {
            return Ok(());
        }
        self.sent += piece.len() as u64;
        session.write_response_body(Some(piece), false).await.map_err(|_| client_fault(session))
    }

    async fn end(&mut self, session: &mut Session, ctx: &RequestCtx) -> Result<(), GatewayError> {
        self.begin(session, ctx).await?;
        if self.state == State::Bodiless {
            return Ok(());
        }
        session.write_response_body(None, true).await.map_err(|_| client_fault(session))
    }

    /// HTTP/2 ends an answer that has nothing but a head without a look at the length that it states.
    fn check_length(&self) -> Result<(), GatewayError> {
        let stated = self.head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let length: Option<u64> = stated.and_then(|length| length.parse().ok());
        if self.state == State::Begun && length.is_some_and(|length| length != self.sent) {
            return Err(GatewayError::UpstreamProtocol);
        }
        Ok(())
    }
}

/// Makes the head say where the body ends, as this client understands it.
fn frame(req: &RequestHeader, resp: &mut ResponseHeader) -> pingora::Result<State> {
    // The function's may be another.
    resp.set_version(Version::HTTP_11);
    resp.remove_header(&TRANSFER_ENCODING);
    if req.method == Method::HEAD || matches!(resp.status.as_u16(), 204 | 304) {
        return Ok(State::Bodiless);
    }
    // A client of HTTP/1.0 does not know chunks: the end of the connection is the end of the body.
    if !resp.headers.contains_key(CONTENT_LENGTH) && req.version != Version::HTTP_10 {
        resp.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    Ok(State::Begun)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        (method, version): (&str, Version),
        status: u16,
        fields: &[(&'static str, &str)],
        expected: (State, &[&str]),
    ) {
        let mut req = RequestHeader::build(method, b"/", None).unwrap();
        req.set_version(version);
        let mut resp = ResponseHeader::build(status, None).unwrap();
        resp.set_version(Version::HTTP_10);
        for (name, value) in fields {
            resp.append_header(*name, *value).unwrap();
        }
        let state = frame(&req, &mut resp).unwrap();
        let left: Vec<_> = resp.headers.keys().map(|name| name.as_str()).collect();
        assert_eq!((state, left.as_slice()), expected, "{method} {version:?} {status} {fields:?}");
        assert_eq!(resp.version, Version::HTTP_11);
    }

    #[test]
    fn a_body_is_framed_for_the_client() {
        const GET: (&str, Version) = ("GET", Version::HTTP_11);
        let length = [("content-length", "3"), ("content-length", "3")];
        let chunked = [("transfer-encoding", "chunked")];
        check(GET, 200, &length, (State::Begun, &["content-length"]));
        check(GET, 200, &chunked, (State::Begun, &["transfer-encoding"]));
        check(GET, 200, &[], (State::Begun, &["transfer-encoding"]));
        check(("GET", Version::HTTP_10), 200, &chunked, (State::Begun, &[]));
        check(("GET", Version::HTTP_10), 200, &length, (State::Begun, &["content-length"]));
    }

    #[test]
    fn what_has_no_body_has_no_framing() {
        check(
            ("HEAD", Version::HTTP_11),
            200,
            &[("content-length", "3")],
            (State::Bodiless, &["content-length"]),
        );
        check(("HEAD", Version::HTTP_11), 200, &[("transfer-encoding", "chunked")], (State::Bodiless, &[]));
        check(("GET", Version::HTTP_11), 204, &[("transfer-encoding", "chunked")], (State::Bodiless, &[]));
        check(("GET", Version::HTTP_11), 304, &[], (State::Bodiless, &[]));
    }

    #[test]
    fn a_body_has_the_length_that_was_stated() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header(CONTENT_LENGTH, 3).unwrap();
        let mut answer = Answer { state: State::Begun, ..Answer::new(head) };
        assert_eq!(answer.check_length(), Err(GatewayError::UpstreamProtocol));
        answer.sent = 3;
        assert_eq!(answer.check_length(), Ok(()));
        answer.sent = 0;
        answer.state = State::Bodiless;
        assert_eq!(answer.check_length(), Ok(()));
    }
}
