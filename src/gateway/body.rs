//! What a platform has to do with the body of a streamed answer: most nothing, some look at its start, few change it.
//!
//! Owns how much of a body is kept, and what its head may still say when the body becomes another. Never decides what it means.

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderName, TRANSFER_ENCODING};
use http::{HeaderValue, Method, StatusCode};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::answer::TOO_LARGE;
use super::ctx::RequestCtx;
use crate::error::{GatewayError, Reported};
use crate::platforms::{Streamed, StreamedTarget, Target, Verdict};

/// A body that does not just pass.
#[derive(Debug)]
pub(super) enum Body {
    /// It passes, and the platform will be asked what its start says.
    Shown(Start),
    /// It is held until its end, and goes out as the platform makes it.
    Held(Held),
    /// It was held, and waits for the trailers that came instead of a last piece.
    Made(Bytes),
}

/// The first bytes of a body.
#[derive(Debug)]
pub(super) struct Start {
    /// The status that the client gets.
    status: StatusCode,
    bytes: Vec<u8>,
}

/// A body as far as it has come.
#[derive(Debug)]
pub(super) struct Held {
    limit: usize,
    bytes: BytesMut,
}

impl Body {
    /// What the platform wants of the body behind this head, if it wants anything. An `Err` is answered in its place.
    pub(super) fn begin(
        verdict: Verdict,
        method: &Method,
        resp: &mut ResponseHeader,
    ) -> Result<Option<Self>, GatewayError> {
        match verdict {
            Verdict::Answered | Verdict::Failed(_) => Ok(None),
            Verdict::InBody => Ok(Some(Body::Shown(Start::new(resp.status)))),
            Verdict::Rewritten { limit } => Ok(Held::begin(limit, method, resp)?.map(Body::Held)),
        }
    }
}

/// Takes a piece of the body from its way, or leaves it there.
pub(super) fn pass(
    session: &Session,
    ctx: &mut RequestCtx,
    piece: &mut Option<Bytes>,
    end: bool,
) -> Result<(), GatewayError> {
    match ctx.body.as_deref_mut() {
        None | Some(Body::Made(_)) => Ok(()),
        Some(Body::Shown(start)) => {
            start.see(piece.as_deref().unwrap_or_default());
            Ok(())
        }
        Some(Body::Held(held)) => {
            held.push(piece.take().as_deref().unwrap_or_default())?;
            if end {
                let whole = held.take();
                *piece = Some(streamed(ctx)?.map_body(&ctx.call(session), whole)?);
            }
            Ok(())
        }
    }
}

/// Ends a held body that has no last piece.
pub(super) fn end(session: &Session, ctx: &mut RequestCtx) -> Result<(), GatewayError> {
    if matches!(ctx.body.as_deref(), Some(Body::Held(_))) {
        let mut made = None;
        pass(session, ctx, &mut made, true)?;
        ctx.body = made.map(|made| Box::new(Body::Made(made)));
    }
    Ok(())
}

/// What the start of the body says, if the platform is to read it.
pub(super) fn reported(ctx: &RequestCtx) -> Option<Reported> {
    match ctx.body.as_deref()? {
        Body::Shown(start) => streamed(ctx).ok()?.read_body(start.status, &start.bytes),
        Body::Held(_) | Body::Made(_) => None,
    }
}

fn streamed(ctx: &RequestCtx) -> Result<&StreamedTarget, GatewayError> {
    match ctx.function().map(|function| &function.target) {
        Some(Target::Streamed(target)) => Ok(target),
        _ => Err(GatewayError::Internal),
    }
}

impl Start {
    fn new(status: StatusCode) -> Self {
        Start { status, bytes: Vec::new() }
    }

    fn see(&mut self, piece: &[u8]) {
        let room = SHOWN - self.bytes.len();
        self.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}

impl Held {
    /// Makes the head fit for another body. `None` when there is none to change, or none that can be: one that is encoded, or a
    /// part. An `Err` is answered in its place.
    fn begin(limit: usize, method: &Method, resp: &mut ResponseHeader) -> Result<Option<Self>, GatewayError> {
        let is_encoded = resp
            .headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
        if is_encoded || matches!(resp.status.as_u16(), 204 | 206 | 304) {
            return Ok(None);
        }
        let length = resp.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        for name in &OF_THE_OLD_BODY {
            resp.remove_header(name);
        }
        if method == Method::HEAD {
            return Ok(None);
        }
        if length.is_some_and(|length: usize| length > limit) {
            return Err(TOO_LARGE);
        }
        let chunked = HeaderValue::from_static("chunked");
        resp.insert_header(TRANSFER_ENCODING, chunked).map_err(|_| GatewayError::Internal)?;
        Ok(Some(Held { limit, bytes: BytesMut::with_capacity(length.unwrap_or_default()) }))
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), GatewayError> {
        if self.bytes.len() + piece.len() > self.limit {
            return Err(TOO_LARGE);
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn take(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }
}

/// Fields that describe the very bytes of a body, or promise parts of them.
const OF_THE_OLD_BODY: [HeaderName; 7] = [
    CONTENT_LENGTH,
    ETAG,
    ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// How much of a body a platform gets to see.
const SHOWN: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, fields: &[(&'static str, &str)]) -> ResponseHeader {
        let mut resp = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            resp.append_header(*name, *value).unwrap();
        }
        resp
    }

    #[track_caller]
    fn names(resp: &ResponseHeader, expected: &[&str]) {
        let mut names: Vec<_> = resp.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
    }

    #[test]
    fn only_so_much_of_a_start_is_kept() {
        let mut start = Start::new(StatusCode::OK);
        start.see(b"{");
        start.see(&[b'x'; SHOWN - 2]);
        start.see(b"yz");
        start.see(b"z");
        assert_eq!(start.bytes.len(), SHOWN);
        assert!(start.bytes.starts_with(b"{x") && start.bytes.ends_with(b"xy"));
    }

    #[test]
    fn a_body_that_becomes_another_loses_its_length_and_validators() {
        let fields = [
            ("content-length", "10"),
            ("content-type", "application/json"),
            ("etag", "\"1\""),
            ("content-digest", "sha-256=:1:"),
            ("accept-ranges", "bytes"),
            ("content-encoding", "identity"),
        ];
        let mut resp = head(202, &fields);
        assert!(Held::begin(10, &Method::GET, &mut resp).unwrap().is_some());
        names(&resp, &["content-encoding", "content-type", "transfer-encoding"]);

        let mut resp = head(202, &fields);
        assert!(Held::begin(10, &Method::HEAD, &mut resp).unwrap().is_none(), "there is nothing to hold");
        names(&resp, &["content-encoding", "content-type"]);
    }

    #[test]
    fn a_body_that_cannot_be_changed_passes_as_it_is() {
        let encoded = [("content-length", "10"), ("content-encoding", "gzip"), ("etag", "\"1\"")];
        for (status, fields) in
            [(200, &encoded[..]), (206, &encoded[..1]), (204, &[]), (304, &[("etag", "\"1\"")])]
        {
            let before = head(status, fields);
            let mut resp = before.clone();
            assert!(Held::begin(5, &Method::GET, &mut resp).unwrap().is_none(), "{status}");
            assert_eq!(resp.headers, before.headers, "{status}");
        }
    }

    #[test]
    fn no_more_than_the_limit_is_held() {
        let mut resp = head(200, &[("content-length", "11")]);
        assert_eq!(Held::begin(10, &Method::GET, &mut resp).unwrap_err(), TOO_LARGE);

        let mut held = Held::begin(10, &Method::GET, &mut head(200, &[])).unwrap().unwrap();
        held.push(b"01234").unwrap();
        held.push(b"56789").unwrap();
        assert_eq!(held.push(b"x").unwrap_err(), TOO_LARGE);
        assert_eq!(held.take(), "0123456789");
    }
}
