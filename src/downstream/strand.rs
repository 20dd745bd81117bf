//! The guard on one request of an HTTP/2 connection: Pingora reads and writes through it.
//!
//! `Frames` guards what the requests of a connection have in common. What belongs to a single one is bounded here, as the wire
//! bounds it for HTTP/1: how long the function is waited for, and how slowly a body may come. All else is done by Pingora's own
//! session for HTTP/2. That this stands beside it as a "custom" one is because no other session can be a type of ours.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderMap, Method};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::v2::server::HttpSession;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::lent::Lent;
use super::pace::{SharedUpload, Uploads};
use super::patience::Patience;
use super::{BODY_STALLED, DRAINING, Refusal, Terms};

/// A request as Pingora sees it.
pub(super) struct Strand {
    inner: HttpSession,
    bounds: Bounds,
}

struct Bounds {
    terms: Arc<Terms>,
    watch: Arc<Watch>,
    upload: SharedUpload,
    /// Changes when the process has waited long enough for its last requests.
    cut: watch::Receiver<()>,
    alarm: Alarm,
}

/// What the hooks of the proxy and the strand tell each other.
pub struct Watch {
    patience: Patience,
    /// Of the body.
    lent: OnceLock<Arc<Lent>>,
    is_conversation: AtomicBool,
    refusal: OnceLock<Refusal>,
}

impl Watch {
    fn new() -> Self {
        Self {
            patience: Patience::new(Instant::now()),
            lent: OnceLock::new(),
            is_conversation: AtomicBool::new(false),
            refusal: OnceLock::new(),
        }
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    pub(super) fn lent(&self) -> &Arc<Lent> {
        self.lent.get_or_init(Arc::default)
    }

    pub(super) fn converse(&self) {
        self.is_conversation.store(true, Ordering::Relaxed);
    }

    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal.get().copied()
    }
}

tokio::task_local! {
    /// The request of this task. Pingora shows its hooks no more of a session than the trait below has.
    static CURRENT: Arc<Watch>;
}

/// The watch over a session, from within the task that serves it.
pub(super) fn current(session: &ServerSession) -> Option<Arc<Watch>> {
    session.as_custom()?;
    CURRENT.try_with(Arc::clone).ok()
}

impl Strand {
    pub(super) fn new(
        inner: HttpSession,
        terms: Arc<Terms>,
        uploads: &Arc<Uploads>,
        cut: watch::Receiver<()>,
    ) -> Self {
        let upload = SharedUpload::begin(uploads, !inner.is_body_done());
        let watch = Arc::new(Watch::new());
        Self { inner, bounds: Bounds { terms, watch, upload, cut, alarm: Alarm::default() } }
    }

    /// Does this with the strand's session at hand for the hooks.
    pub(super) async fn serve<T, F: Future<Output = T>>(self, serve: impl FnOnce(ServerSession) -> F) -> T {
        let watch = Arc::clone(&self.bounds.watch);
        let session = ServerSession::new_custom(Box::new(self));
        CURRENT.scope(watch, serve(session)).await
    }
}

impl Bounds {
    /// A read of the body for as long as it may take. It may be given up at any time and begun again.
    async fn body(&mut self, read: impl Future<Output = Result<Option<Bytes>>>) -> Result<Option<Bytes>> {
        let mut read = pin!(read);
        poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => {
                self.upload.arrived(read.as_ref().ok().and_then(Option::as_ref), &self.terms);
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_slow(cx),
        })
        .await
    }

    /// Waits until the function has taken so much of the body that more may be read.
    async fn room(&mut self, leaving: impl Future<Output = Result<Option<Bytes>>>) -> Result<()> {
        let Some(lent) = self.watch.lent.get().map(Arc::clone) else { return Ok(()) };
        let mut leaving = pin!(leaving);
        poll_fn(|cx| {
            if lent.poll_room(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            self.upload.rest();
            match leaving.as_mut().poll(cx) {
                Poll::Ready(gone) => Poll::Ready(gone.map(drop)),
                Poll::Pending => self.poll_end(cx, Patience::poll_untaken),
            }
        })
        .await
    }

    /// The same for a wait in which nothing is asked of the client: it is only there to be seen leaving.
    async fn idle(&mut self, read: impl Future<Output = Result<Option<Bytes>>>) -> Result<Option<Bytes>> {
        self.upload.rest();
        let mut read = pin!(read);
        poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending => self.poll_end(cx, Patience::poll),
        })
        .await
    }

    fn poll_slow<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T>> {
        if self.watch.is_conversation.load(Ordering::Relaxed) {
            self.upload.end();
        }
        if self.upload.poll(cx, &mut self.alarm, &self.terms).is_ready() {
            return Poll::Ready(failed(self.refuse(BODY_STALLED)));
        }
        self.poll_end(cx, Patience::poll)
    }

    fn poll_end<T>(&mut self, cx: &mut Context<'_>, wait: Wait) -> Poll<Result<T>> {
        // Wakes nobody: whoever cuts polls the request anew.
        if matches!(self.cut.has_changed(), Ok(true)) {
            return Poll::Ready(failed(self.refuse(DRAINING)));
        }
        ready!(wait(&self.watch.patience, cx, &mut self.alarm));
        Poll::Ready(failed("the function was waited for long enough"))
    }

    fn refuse(&self, refusal: Refusal) -> &'static str {
        self.watch.refusal.get_or_init(|| refusal).reason
    }
}

#[async_trait]
impl Session for Strand {
    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let Self { inner, bounds } = self;
        bounds.room(inner.read_body_or_idle(true)).await?;
        let read = bounds.body(inner.read_body_bytes()).await;
        if inner.is_body_done() {
            // Nobody may ever read the end itself.
            bounds.upload.end();
        }
        read
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && !self.inner.is_body_done() {
            return self.read_body_bytes().await;
        }
        let Self { inner, bounds } = self;
        bounds.idle(inner.read_body_or_idle(true)).await
    }

    // From here on all is as the session below does it.

    fn req_header(&self) -> &RequestHeader {
        self.inner.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner.req_header_mut()
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner.drain_request_body().await
    }

    async fn write_response_header(&mut self, resp: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.inner.write_response_header(resp, end)
    }

    async fn write_response_header_ref(&mut self, resp: &ResponseHeader, end: bool) -> Result<()> {
        self.inner.write_response_header_ref(resp, end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.inner.write_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner.write_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, mut tasks: Vec<HttpTask>) -> Result<bool> {
        let method = &self.inner.req_header().method;
        let ends = |task: &mut HttpTask| match task {
            HttpTask::Header(head, end) if ends_with_head(method, head) => {
                *end = true;
                true
            }
            _ => false,
        };
        if let Some(last) = tasks.iter_mut().position(ends) {
            tasks.truncate(last + 1);
        }
        self.inner.response_duplex_vec(tasks).await
    }

    /// What waits has `Terms` and an alarm.
    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner.response_written()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.inner.shutdown();
    }

    fn is_body_done(&mut self) -> bool {
        self.inner.is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner.finish()
    }

    fn is_body_empty(&mut self) -> bool {
        self.inner.is_body_empty()
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner.pseudo_raw_h1_request_header()
    }

    fn enable_retry_buffering(&mut self) {
        self.inner.enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.inner.retry_buffer_truncated()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.inner.get_retry_buffer()
    }

    // Messages of another kind than HTTP's there are none.

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<MessageReader> {
        None
    }

    fn restore_custom_message_reader(&mut self, _: MessageReader) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}

/// What comes after such a head is no part of the answer (RFC 9110 section 6.4.1): neither bytes nor how the function's stream ends.
pub fn ends_with_head(method: &Method, head: &ResponseHeader) -> bool {
    matches!(head.status.as_u16(), 204 | 304) || (*method == Method::HEAD && !head.status.is_informational())
}

/// How the function is waited for.
type Wait = fn(&Patience, &mut Context<'_>, &mut Alarm) -> Poll<()>;

fn failed<T>(reason: &'static str) -> Result<T> {
    Error::e_explain(ErrorType::ReadError, reason)
}

type MessageReader = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync>;
