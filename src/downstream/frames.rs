//! The guard on one HTTP/2 connection: what the library that reads the frames leaves unbounded.
//!
//! Owns the budget for frames that cost work and carry nothing (PING and SETTINGS are answered without end, PRIORITY and the like
//! are read without end), and the patience with a client that does not begin, or takes nothing of what is written. It looks at
//! the heads of frames only, judges none, and changes no byte.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::accept::Permit;
use super::alarm::Alarm;
use super::identity::identify;
use super::linger::linger;
use super::pace::{Download, acknowledged};
use super::{Cause, Refusal, Refused, RequestId, Terms};

/// A connection as the HTTP/2 library sees it.
pub struct Frames {
    /// Taken only when this is dropped.
    inner: Option<Stream>,
    terms: Arc<Terms>,
    client: SocketAddr,
    /// Keeps the connection counted until the last byte has been drained.
    permit: Option<Permit>,
    incoming: Cursor,
    outgoing: Cursor,
    budget: Budget,
    /// The highest stream that the client has opened.
    last_stream: u32,
    bytes_in: usize,
    flooded: bool,
    born: Instant,
    /// The client's preface is here, and the head of its first frame.
    has_begun: bool,
    download: Download,
    alarm: Alarm,
}

impl Frames {
    pub(super) fn new(inner: Stream, client: SocketAddr, terms: Arc<Terms>, permit: Permit) -> Self {
        let born = Instant::now();
        Self {
            inner: Some(inner),
            budget: Budget::new(terms.control_frames, born),
            terms,
            client,
            permit: Some(permit),
            incoming: Cursor::after(PREFACE),
            outgoing: Cursor::after(0),
            last_stream: 0,
            bytes_in: 0,
            flooded: false,
            born,
            has_begun: false,
            download: Download::default(),
            alarm: Alarm::default(),
        }
    }

    /// On a connection that nobody counts.
    pub fn alone(inner: Stream, terms: Arc<Terms>) -> Self {
        Self::new(inner, SocketAddr::from(([0; 4], 0)), terms, Permit::alone())
    }

    /// Looks at what the client has sent. False when that was too much.
    fn admit(&mut self, bytes: &[u8]) -> bool {
        let Self { incoming, budget, last_stream, has_begun, .. } = self;
        let mut is_within = true;
        incoming.pass(bytes, |frame| {
            *has_begun = true;
            if frame.kind == HEADERS {
                *last_stream = frame.stream.max(*last_stream);
            }
            is_within &= frame.carries_something() || budget.spend();
        });
        self.bytes_in += bytes.len();
        is_within
    }

    /// Looks at what has been written.
    fn sent(&mut self, mut count: usize, pieces: &[IoSlice<'_>]) {
        let Self { outgoing, budget, .. } = self;
        for piece in pieces {
            let now = count.min(piece.len());
            count -= now;
            outgoing.pass(&piece[..now], |frame| {
                if frame.carries_something() {
                    budget.earn();
                }
            });
        }
    }

    /// Ends the connection, by a failed read.
    fn flood(&mut self) -> io::Error {
        self.flooded = true;
        let Refusal { status, cause, reason } = FLOOD;
        self.terms.observer.refused(&Refused {
            request_id: RequestId::random(),
            client: Some(self.client),
            protocol: http::Version::HTTP_2,
            method: None,
            path: None,
            status,
            code: cause.code(),
            bytes_in: self.bytes_in,
            bytes_out: self.last_words().len(),
            duration: self.born.elapsed(),
        });
        io::Error::new(io::ErrorKind::ConnectionAborted, reason)
    }

    /// What a client that floods is told, unless it is in the middle of a frame and would take it for a part of that.
    fn last_words(&self) -> Vec<u8> {
        if !self.flooded || !self.outgoing.is_between_frames() {
            return Vec::new();
        }
        let [_, length @ ..] = GOAWAY_LENGTH.to_be_bytes();
        let head = [&length[..], &[GOAWAY, 0], &[0; 4]].concat();
        [head, self.last_stream.to_be_bytes().into(), ENHANCE_YOUR_CALM.to_be_bytes().into()].concat()
    }

    /// A client that does not begin is not waited for: the library would do so for ever.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_begun {
            return Poll::Pending;
        }
        ready!(self.alarm.poll(cx, self.born + self.terms.header_timeout));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Nor is one that takes too little.
    fn poll_stall<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let Self { download, alarm, terms, inner, .. } = self;
        ready!(download.poll(cx, alarm, terms, || inner.as_ref().and_then(acknowledged)));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn inner(&self) -> &Stream {
        self.inner.as_ref().expect(INNER)
    }

    fn inner_mut(&mut self) -> &mut Stream {
        self.inner.as_mut().expect(INNER)
    }
}

impl AsyncRead for Frames {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let frames = self.get_mut();
        if frames.flooded {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        match Pin::new(frames.inner_mut()).poll_read(cx, buf) {
            Poll::Ready(read) => read?,
            Poll::Pending => return frames.poll_begin(cx),
        }
        if !frames.admit(&buf.filled()[before..]) {
            buf.set_filled(before);
            return Poll::Ready(Err(frames.flood()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Frames {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let frames = self.get_mut();
        let Poll::Ready(written) = Pin::new(frames.inner_mut()).poll_write_vectored(cx, pieces) else {
            return frames.poll_stall(cx);
        };
        frames.download.went();
        let written = written?;
        frames.sent(written, pieces);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let frames = self.get_mut();
        match Pin::new(frames.inner_mut()).poll_flush(cx) {
            Poll::Ready(flushed) => {
                frames.download.went();
                Poll::Ready(flushed)
            }
            Poll::Pending => frames.poll_stall(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner_mut()).poll_shutdown(cx)
    }
}

identify!(Frames);

impl Drop for Frames {
    fn drop(&mut self) {
        let words = self.last_words();
        if words.is_empty() {
            return;
        }
        if let (Some(inner), Ok(runtime)) = (self.inner.take(), tokio::runtime::Handle::try_current()) {
            let permit = self.permit.take();
            runtime.spawn(async move {
                linger(inner, &words).await;
                drop(permit);
            });
        }
    }
}

/// Without the client's bytes: Pingora prints streams into its log.
impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("flooded", &self.flooded).finish_non_exhaustive()
    }
}

/// Where in a row of frames one direction stands.
struct Cursor {
    /// The head of a frame, as far as it has come.
    head: [u8; FRAME_HEAD],
    known: usize,
    /// What is still to come before the next head.
    skip: usize,
}

/// RFC 9113 section 4.1.
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Cursor {
    /// The first frame begins after so many bytes.
    fn after(skip: usize) -> Self {
        Self { head: [0; FRAME_HEAD], known: 0, skip }
    }

    /// Moves on by `bytes`, and shows each frame whose head is complete now.
    fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (FRAME_HEAD - self.known).min(bytes.len());
            self.head[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            self.known += taken;
            bytes = &bytes[taken..];
            if self.known == FRAME_HEAD {
                let frame = Frame::of(&self.head);
                self.known = 0;
                self.skip = frame.length;
                each(frame);
            }
        }
    }

    fn is_between_frames(&self) -> bool {
        self.known == 0 && self.skip == 0
    }
}

impl Frame {
    fn of(head: &[u8; FRAME_HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Self { length, kind, flags, stream: u32::from_be_bytes(stream) & !RESERVED }
    }

    fn carries_something(&self) -> bool {
        let ends_body = self.kind == DATA && self.flags & END_STREAM != 0;
        self.kind == HEADERS || ends_body || self.kind == DATA && self.length > 0
    }
}

/// So many frames at once, so many more each second, and two for each frame that we send ourselves: a client may have to make room
/// for it, on its stream and on the connection.
struct Budget {
    per_second: u32,
    left: u32,
    earned: u64,
    filled: Instant,
}

impl Budget {
    fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, left: per_second, earned: 0, filled: now }
    }

    fn earn(&mut self) {
        self.earned += 2;
    }

    /// False when there is nothing left. Only who has spent it all looks at the clock.
    fn spend(&mut self) -> bool {
        if self.earned > 0 {
            self.earned -= 1;
            return true;
        }
        if self.left == 0 {
            self.refill(Instant::now());
        }
        let is_within = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_within
    }

    fn refill(&mut self, now: Instant) {
        let since = now.duration_since(self.filled).as_micros();
        let more = (since * u128::from(self.per_second) / 1_000_000).min(u128::from(self.per_second));
        if more > 0 {
            self.left = u32::try_from(more).unwrap_or(self.per_second);
            self.filled = now;
        }
    }
}

const INNER: &str = "the inner stream is taken only by drop";
const FLOOD: Refusal = Refusal {
    status: 429,
    cause: Cause::ClientFlood,
    reason: "there are too many frames that carry nothing",
};
/// What a client says before its first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const RESERVED: u32 = 1 << 31;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const GOAWAY_LENGTH: u32 = 8;
const END_STREAM: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

#[cfg(test)]
mod tests;
