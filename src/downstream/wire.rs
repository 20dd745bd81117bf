//! The guard on one HTTP/1 connection: Pingora reads and writes through it.
//!
//! Owns where requests begin and end. A head is withheld until it is complete and good; a body is counted or scanned while it
//! streams into the reader's own buffer; a byte of a later request never gets out before the current one is over, so
//! pipelining needs nothing from Pingora. It changes no byte and knows nothing of what a request means.
//!
//! ```text
//! Head ──good──▶ Release ──▶ Body ──whole body out, request_done()──▶ Head
//!   └─bad, late─▶ Closed ◀─bad──┘ └──101 written──▶ Tunnel
//! ```
//!
//! `request_done` comes from the proxy's `logging` hook: Pingora reads the connection while it answers, to notice a client
//! that leaves, and nothing in those reads tells them from the wait for the next request.

mod writing;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::accept::{Count, Permit};
use super::alarm::Alarm;
use super::chunked::Scanner;
use super::head::{self, Framing, Head, HeadLimits, Search, Upgrade};
use super::identity::identify;
use super::lent::Lent;
use super::linger::linger;
use super::pace::{Download, Upload};
use super::patience::Patience;
use super::{BODY_STALLED, Cause, DRAINING, Ends, Refusal, Refused, RequestId, Terms, answer};

/// A connection as Pingora sees it.
pub struct Wire {
    /// Taken only when the wire is dropped.
    inner: Option<Stream>,
    terms: Arc<Terms>,
    client: Option<SocketAddr>,
    /// Keeps the connection counted until the last byte has been drained.
    permit: Option<Permit>,
    stage: Stage,
    body: Body,
    /// Read, but not yet given out: an unfinished head, what follows a head, or a later request.
    held: BytesMut,
    search: Search,
    /// One empty line before a request line has been dropped, RFC 9112 section 2.2.
    blank_line: bool,
    wish: Wish,
    /// What the current request asks for.
    upgrade: Upgrade,
    closes: bool,
    /// The whole answer was handed over. Set through a shared reference, as `done` is.
    answered: AtomicBool,
    /// Written by Pingora, not yet passed on.
    out: BytesMut,
    refusal: Option<Refusal>,
    /// The client closed, or the connection failed: nobody is there to linger for.
    gone: bool,
    /// When the current request was over, in microseconds after `born`; 0 is not yet. Set through a shared reference, by the task
    /// that also reads and writes.
    done: AtomicU64,
    /// With the function.
    patience: Patience,
    /// Of the current body, and of those before.
    lent: OnceLock<Arc<Lent>>,
    /// Changes when the process has waited long enough for its last requests.
    cut: watch::Receiver<()>,
    cut_off: bool,
    /// Where is counted who has sent a part of a head, and this one's place among them.
    heads: Arc<Count>,
    in_head: Option<Permit>,
    born: Instant,
    ends: OnceLock<Ends>,
    /// Requests that have begun.
    requests: u32,
    upload: Upload,
    /// The body was not asked for in between. Set through a shared reference, as `done` is.
    rested: AtomicBool,
    download: Download,
    /// The client has closed its side while it waits for an answer; when that is taken for leaving.
    leaves: Option<Instant>,
    /// Start of the current wait: for a first byte, then for the rest of the head.
    since: Instant,
    alarm: Alarm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Between requests, or within a head.
    Head,
    /// This many bytes of `held` are a good head that the reader has not taken yet.
    Release(usize),
    /// The body, and after it the wait for the end of the answer.
    Body,
    /// After 101: bytes of another protocol, both ways.
    Tunnel,
    /// Nothing more is read.
    Closed,
}

/// What the client waits for, besides a final answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    /// A WebSocket.
    Tunnel,
    /// To be asked for its body.
    Consent,
    /// It was answered instead, so that the body does not come.
    Denied,
}

/// What is left of the current request's body.
enum Body {
    Ended,
    Length(u64),
    Chunked(Scanner),
}

impl Wire {
    pub(super) fn new(
        inner: Stream,
        client: Option<SocketAddr>,
        terms: Arc<Terms>,
        permit: Permit,
        cut: watch::Receiver<()>,
        heads: Arc<Count>,
    ) -> Self {
        let born = Instant::now();
        Self {
            inner: Some(inner),
            terms,
            client,
            permit: Some(permit),
            stage: Stage::Head,
            body: Body::Ended,
            held: BytesMut::new(),
            search: Search::default(),
            blank_line: false,
            wish: Wish::Nothing,
            upgrade: Upgrade::None,
            closes: false,
            answered: AtomicBool::new(false),
            out: BytesMut::new(),
            refusal: None,
            gone: false,
            done: AtomicU64::new(0),
            patience: Patience::new(born),
            lent: OnceLock::new(),
            cut,
            cut_off: false,
            heads,
            in_head: None,
            born,
            ends: OnceLock::new(),
            requests: 0,
            upload: Upload::begin(),
            rested: AtomicBool::new(false),
            download: Download::default(),
            leaves: None,
            since: born,
            alarm: Alarm::default(),
        }
    }

    /// On a connection that nobody counts and nobody cuts.
    pub fn alone(inner: Stream, terms: Arc<Terms>) -> Self {
        Self::new(inner, None, terms, Permit::alone(), watch::channel(()).1, Arc::default())
    }

    /// Waits for the first byte, for as long as a connection may be idle. False when there is none, nor will be.
    pub(super) async fn first_byte(&mut self) -> bool {
        let has_begun = poll_fn(|cx| match self.poll_hold(cx) {
            Poll::Ready(read) => Poll::Ready(read.is_ok_and(|length| length > 0)),
            Poll::Pending => self.poll_idle(cx).map(|_| false),
        });
        let has_begun = has_begun.await;
        self.since = Instant::now();
        has_begun
    }

    /// The wire under a session, for the hooks of the proxy; HTTP/2 has none.
    pub fn of(session: &ServerSession) -> Option<&Self> {
        session.as_http1()?.stream().as_any().downcast_ref()
    }

    /// The ends of the connection, looked at once.
    pub fn ends(&self, look: impl FnOnce() -> Ends) -> &Ends {
        self.ends.get_or_init(look)
    }

    pub fn upgrade(&self) -> Upgrade {
        self.upgrade
    }

    /// Whether the current request is the last one that this connection may carry. That the client says so is for Pingora to see, too,
    /// but it looks at the first line of `Connection` only.
    pub fn is_at_its_last_request(&self) -> bool {
        self.closes || self.requests >= self.terms.requests_per_connection
    }

    /// The answer to the current request was written by `at`: once its body is read to its end, the next head may come.
    pub fn request_done(&self, at: std::time::Instant) {
        self.patience.set(None, None);
        let micros = Instant::from_std(at).duration_since(self.born).as_micros();
        self.done.store(u64::try_from(micros).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// How long the function is waited for; when that is over, a read fails. For HTTP/1 this takes the place of Pingora's own
    /// time-outs, each of which is a timer set anew for every request: it watches the client for as long as it waits for the
    /// function, and whoever waits here has an alarm already.
    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// What is on its way from here to the function.
    pub(super) fn lent(&self) -> &Arc<Lent> {
        self.lent.get_or_init(Arc::default)
    }

    /// The function's answer is complete and about to be written: whatever becomes of the rest of the body, the request did not fail. A
    /// body that was never asked for does not come any more; the wait for it ends by a failed read.
    pub fn answered(&self) {
        self.patience.set(None, None);
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Something else was waited for than the client's body.
    pub fn rested(&self) {
        self.rested.store(true, Ordering::Relaxed);
    }

    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Why the client was not waited for any longer, when that is the cause of a failed read or write.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.or(self.cut_off.then_some(DRAINING))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_whole_head(cx, buf);
        // Most heads are there at once, and never counted.
        if polled.is_ready() || self.held.is_empty() {
            self.in_head = None;
        } else if self.in_head.is_none() {
            self.in_head = Count::enter(&self.heads, usize::MAX);
        }
        polled
    }

    fn poll_whole_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            self.drop_blank_line();
            if self.held.is_empty() {
                ready!(self.poll_fresh_head(cx, buf))?;
                if self.stage != Stage::Head {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match examine(&self.held, &mut self.search, &self.terms.head) {
                Ok(Some((head, length))) => {
                    self.begin(head);
                    self.release(length, buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => {}
                Err(refusal) => {
                    let head = mem::take(&mut self.held);
                    self.refuse(refusal, &head);
                    return Poll::Ready(Ok(()));
                }
            }
            match self.poll_hold(cx) {
                Poll::Ready(Ok(0)) => {
                    self.stage = Stage::Closed;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(read) => read.map(drop)?,
                Poll::Pending => {
                    ready!(self.alarm.poll(cx, self.since + self.terms.header_timeout));
                    let head = mem::take(&mut self.held);
                    self.refuse(TOO_SLOW, &head);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Reads the first bytes of a head straight into the reader's buffer. Mostly they are the whole head, and stay there.
    fn poll_fresh_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match self.poll_inner(cx, buf) {
            Poll::Ready(read) => read?,
            Poll::Pending => return self.poll_idle(cx),
        }
        let fresh = &buf.filled()[before..];
        if fresh.is_empty() {
            self.stage = Stage::Closed;
            return Poll::Ready(Ok(()));
        }
        let found = match fresh[0] {
            b'\r' => Ok(None), // `drop_blank_line` has to see it first.
            _ => examine(fresh, &mut self.search, &self.terms.head),
        };
        if !matches!(found, Ok(Some(_))) {
            // Only a head that is not there at once has a deadline; most need no look at the clock.
            self.since = Instant::now();
        }
        let keep = match found {
            Ok(None) => 0,
            Ok(Some((head, length))) => {
                self.begin(head);
                let of_body = self.body.sized(fresh.len() - length);
                if of_body > 0 {
                    self.wish = Wish::Nothing;
                }
                length + of_body
            }
            Err(refusal) => {
                self.refuse(refusal, fresh);
                buf.set_filled(before);
                return Poll::Ready(Ok(()));
            }
        };
        self.held.extend_from_slice(&fresh[keep..]);
        buf.set_filled(before + keep);
        Poll::Ready(Ok(()))
    }

    /// No byte of a next request yet. What the last one needed is given back meanwhile.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held = BytesMut::new();
        if self.out.is_empty() {
            self.out = BytesMut::new();
        }
        ready!(self.alarm.poll(cx, self.since + self.terms.idle_timeout));
        self.stage = Stage::Closed;
        Poll::Ready(Ok(()))
    }

    fn drop_blank_line(&mut self) {
        if !self.blank_line && self.held.starts_with(b"\r\n") {
            self.held.advance(2);
            self.blank_line = true;
        }
    }

    fn begin(&mut self, head: Head) {
        self.body = match head.framing {
            Framing::None => Body::Ended,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Scanner::default()),
        };
        self.upload = Upload::begin();
        self.requests = self.requests.saturating_add(1);
        self.upgrade = head.upgrade;
        self.closes = head.closes;
        self.wish = match head {
            Head { upgrade: Upgrade::WebSocket, .. } => Wish::Tunnel,
            Head { expects: true, .. } => Wish::Consent,
            Head { .. } => Wish::Nothing,
        };
        *self.answered.get_mut() = false;
        self.search = Search::default();
        self.blank_line = false;
        self.stage = Stage::Body;
    }

    fn release(&mut self, length: usize, buf: &mut ReadBuf<'_>) {
        let now = length.min(buf.remaining());
        buf.put_slice(&self.held[..now]);
        self.held.advance(now);
        self.stage = if now == length { Stage::Body } else { Stage::Release(length - now) };
    }

    /// Answers a bad head: Pingora gets the end of the connection, the client what `Drop` writes out.
    fn refuse(&mut self, refusal: Refusal, head: &[u8]) {
        let request_id = RequestId::random();
        let (method, path) = head::identify(head);
        let before = self.out.len();
        answer::write(&mut self.out, &refusal, &request_id, method);
        self.terms.observer.refused(&Refused {
            request_id,
            client: self.client,
            protocol: http::Version::HTTP_11,
            method,
            path,
            status: refusal.status,
            code: refusal.cause.code(),
            bytes_in: head.len(),
            bytes_out: self.out.len() - before,
            duration: self.since.elapsed(),
        });
        self.refusal = Some(refusal);
        self.stage = Stage::Closed;
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.wish == Wish::Denied && *self.answered.get_mut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if mem::take(self.rested.get_mut()) {
            self.upload.rest();
        }
        if self.lent.get().is_some_and(|lent| lent.poll_room(cx).is_pending()) {
            return self.poll_expiry(cx, Patience::poll_untaken);
        }
        if !self.held.is_empty() {
            self.wish = Wish::Nothing;
            let offered = self.held.len().min(buf.remaining());
            let used = match self.body.take(&self.held[..offered]) {
                Ok(used) => used,
                Err(refusal) => return Poll::Ready(self.refuse_body(refusal)),
            };
            buf.put_slice(&self.held[..used]);
            self.held.advance(used);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match self.poll_inner(cx, buf) {
            Poll::Ready(read) => read?,
            Poll::Pending => {
                // Who was not asked yet is not slow: then it is the function that is waited for.
                let is_asked = !matches!(self.wish, Wish::Consent | Wish::Denied);
                if is_asked && self.upload.poll(cx, &mut self.alarm, &self.terms).is_ready() {
                    return Poll::Ready(self.refuse_body(BODY_STALLED));
                }
                return self.poll_expiry(cx, Patience::poll);
            }
        }
        let fresh = &buf.filled()[before..];
        self.wish = Wish::Nothing;
        self.upload.arrived(fresh.len(), &self.terms);
        let used = match self.body.take(fresh) {
            Ok(used) => used,
            Err(refusal) => {
                buf.set_filled(before);
                return Poll::Ready(self.refuse_body(refusal));
            }
        };
        self.held.extend_from_slice(&fresh[used..]);
        buf.set_filled(before + used);
        Poll::Ready(Ok(()))
    }

    /// A bad body ends in the proxy's phases: the request is known there, and may be answered already.
    fn refuse_body(&mut self, refusal: Refusal) -> io::Result<()> {
        self.refusal = Some(refusal);
        self.stage = Stage::Closed;
        Err(io::Error::new(io::ErrorKind::InvalidData, refusal))
    }

    /// The request is read to its end and not answered yet: all that may be seen is the client leaving. Bytes of a next
    /// request are put aside, once; after that nothing is read, so that a client cannot make us hold its whole pipeline.
    fn poll_away(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty()
            && self.leaves.is_none()
            && let Poll::Ready(read) = self.poll_hold(cx)
            && read? == 0
        {
            // It may only have said all it had to say (RFC 9112 section 9.6). Nothing tells that from leaving, but time.
            self.leaves = Some(Instant::now() + HALF_CLOSE);
        }
        while let Some(at) = self.leaves
            && self.alarm.poll(cx, at).is_ready()
        {
            if at.elapsed() < LATE {
                return Poll::Ready(Ok(()));
            }
            // The process stood still: what has come for the client meanwhile comes first.
            self.leaves = Some(Instant::now() + LATE);
        }
        // But for the expiry nobody needs to be woken: the reader asks again when the answer is done, or never.
        self.poll_expiry(cx, Patience::poll)
    }

    fn poll_expiry(
        &mut self,
        cx: &mut Context<'_>,
        wait: fn(&Patience, &mut Context<'_>, &mut Alarm) -> Poll<()>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(cut) = self.poll_cut() {
            return Poll::Ready(cut);
        }
        ready!(wait(&self.patience, cx, &mut self.alarm));
        self.stage = Stage::Closed;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Fails whatever has to wait once the process cannot, so that the proxy ends the request in its own phases. Wakes nobody:
    /// whoever cuts polls the connection anew.
    fn poll_cut(&mut self) -> Poll<io::Result<()>> {
        self.cut_off |= matches!(self.cut.has_changed(), Ok(true));
        if self.cut_off { Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())) } else { Poll::Pending }
    }

    fn poll_tunnel(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return match self.poll_inner(cx, buf) {
                Poll::Pending => self.poll_cut(),
                read => read,
            };
        }
        let now = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..now]);
        self.held.advance(now);
        Poll::Ready(Ok(()))
    }

    /// Reads into `held` and returns how much.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [const { MaybeUninit::uninit() }; HOLD_STEP];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(self.poll_inner(cx, &mut buf))?;
        self.held.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(self.inner_mut()).poll_read(cx, buf));
        self.gone |= result.is_err() || buf.filled().len() == before;
        Poll::Ready(result)
    }

    fn inner(&self) -> &Stream {
        self.inner.as_ref().expect(INNER)
    }

    fn inner_mut(&mut self) -> &mut Stream {
        self.inner.as_mut().expect(INNER)
    }

    /// Whether closing at once could lose what the client has yet to read: with unread bytes in the socket the kernel
    /// sends a reset, which discards the answer on its way (RFC 9112 section 9.6).
    fn must_linger(&self) -> bool {
        let unread = !self.held.is_empty() || !matches!(self.body, Body::Ended);
        !self.gone
            && self.stage != Stage::Tunnel
            && (unread || self.refusal.is_some() || !self.out.is_empty())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if !self.must_linger() {
            return;
        }
        if let (Some(inner), Ok(runtime)) = (self.inner.take(), tokio::runtime::Handle::try_current()) {
            let (out, permit) = (mem::take(&mut self.out), self.permit.take());
            runtime.spawn(async move {
                linger(inner, &out).await;
                drop(permit);
            });
        }
    }
}

impl Body {
    /// How many of `bytes`, which is not empty, are of this body, up to the end of a chunk.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match self {
            Self::Ended => Ok(0),
            Self::Length(_) => Ok(self.sized(bytes.len())),
            Self::Chunked(scanner) => {
                // The proxy makes a piece of each chunk, and would read no more from here before it has passed all of them on.
                let progress = scanner.feed_chunk(bytes)?;
                if progress.ended {
                    *self = Self::Ended;
                }
                Ok(progress.used)
            }
        }
    }

    /// The same for a body whose bytes need not be looked at; none for the others.
    fn sized(&mut self, available: usize) -> usize {
        let Self::Length(left) = self else { return 0 };
        let used = usize::try_from(*left).map_or(available, |left| left.min(available));
        *left -= used as u64;
        if *left == 0 {
            *self = Self::Ended;
        }
        used
    }
}

/// The head that `bytes` begin with, if all of it is there, and its length.
fn examine(bytes: &[u8], search: &mut Search, limits: &HeadLimits) -> Result<Option<(Head, usize)>, Refusal> {
    // The line end that some clients put after a body; `drop_blank_line` deals with it when it is complete.
    if bytes == b"\r" || !search.is_complete(bytes, limits)? {
        return Ok(None);
    }
    head::check(bytes, limits).map(Some)
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match wire.stage {
            Stage::Head => wire.poll_head(cx, buf),
            Stage::Release(length) => {
                wire.release(length, buf);
                Poll::Ready(Ok(()))
            }
            Stage::Body if !matches!(wire.body, Body::Ended) => wire.poll_body(cx, buf),
            Stage::Body => match mem::take(wire.done.get_mut()) {
                0 => wire.poll_away(cx),
                micros => {
                    wire.stage = Stage::Head;
                    wire.since = wire.born + Duration::from_micros(micros);
                    wire.poll_head(cx, buf)
                }
            },
            Stage::Tunnel => wire.poll_tunnel(cx, buf),
            Stage::Closed => Poll::Ready(Ok(())),
        }
    }
}

identify!(Wire);

/// Without the client's bytes: Pingora prints streams into its log.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("stage", &self.stage).finish_non_exhaustive()
    }
}

const INNER: &str = "the inner stream is taken only by drop";
const TOO_SLOW: Refusal =
    Refusal { status: 408, cause: Cause::RequestTimeout, reason: "the headers took too long to arrive" };
const NOT_TAKEN: Refusal =
    Refusal { status: 408, cause: Cause::ClientSlow, reason: "the answer was not taken in time" };
const HOLD_STEP: usize = 4 * 1024;
/// How long nothing may be there for a client that closed its side until it is taken to have left. Longer than tools wait that send,
/// half-close and read.
const HALF_CLOSE: Duration = Duration::from_secs(1);
/// A timer that is late by as much was not waiting for the client alone.
const LATE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
