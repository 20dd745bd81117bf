//! The accept loop: from a bound listener to a stream that the proxy serves.
//!
//! Owns how many connections there are, and their end when the process stops. It survives a lack of file descriptors, never
//! spins, and never lets one connection hold up the next.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use log::{debug, error};
use pingora_core::apps::{HttpServerApp, ServerApp};
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{ALPN, GetSocketDigest, SocketDigest, Stream};
use procfs::process::{LimitValue, Process};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::frames::Frames;
use super::linger::linger;
use super::wire::Wire;
use super::{Cause, Refusal, Refused, RequestId, Terms, answer, streams};

/// What all listeners share: the application behind them, the terms, and the count.
pub struct Front<A> {
    app: Arc<A>,
    terms: ArcSwap<Terms>,
    open: Arc<Count>,
    /// Requests of which a part of the head is here.
    heads: Arc<Count>,
    turned_away: Arc<Count>,
    shutdown: watch::Receiver<bool>,
    /// Ends what is left when the grace is over.
    cut: watch::Sender<()>,
    /// The first descriptor that is kept for who is served already.
    reserve: RawFd,
}

impl<A: HttpServerApp + Send + Sync + 'static> Front<A> {
    /// Once `shutdown` says true, or its sender is gone, nothing more is accepted.
    pub fn new(app: Arc<A>, terms: Terms, shutdown: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self {
            app,
            terms: ArcSwap::from_pointee(terms),
            open: Arc::default(),
            heads: Arc::default(),
            turned_away: Arc::default(),
            shutdown,
            cut: watch::Sender::new(()),
            reserve: reserve(),
        })
    }

    /// Serves connections accepted from now on under other terms.
    pub fn set_terms(&self, terms: Terms) {
        self.terms.store(Arc::new(terms));
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.now()
    }

    /// Accepts until the shutdown, then closes the listener. Whoever is in its queue by then was told that the connection stands,
    /// and is served.
    pub async fn serve(
        self: Arc<Self>,
        listener: std::net::TcpListener,
        tls: Option<Arc<Acceptor>>,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let mut shutdown = self.shutdown.clone();
        let mut stop = pin!(shutdown.wait_for(|stopping| *stopping));
        let mut trouble = Trouble::default();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut stop => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, client)) => {
                    trouble.over();
                    self.admit(socket, client, tls.clone());
                }
                Err(error) if concerns_one_connection(&error) => debug!("a client left the queue: {error}"),
                Err(error) => tokio::select! {
                    biased;
                    _ = &mut stop => break,
                    () = trouble.pause(&error) => {}
                },
            }
        }
        let listener = listener.into_std()?;
        // Ends with the queue: there is nothing to wait for.
        while let Ok((socket, client)) = listener.accept() {
            socket.set_nonblocking(true)?;
            self.admit(TcpStream::from_std(socket)?, client, tls.clone());
        }
        Ok(())
    }

    /// To be called once all listeners are closed: idle connections have until it is `quiet`, the others until it is `over`.
    /// Returns how many had to be cut.
    pub async fn drain(&self, quiet: impl AsyncFn(), over: impl Future<Output = ()>) -> usize {
        let idle_end = async {
            quiet().await;
            // To the proxy, half a head is an idle connection. The rest of it makes a request, and is no quiet.
            while self.heads.now() > 0 {
                self.heads.none().await;
                quiet().await;
            }
            self.app.cleanup().await;
            self.open.none().await;
        };
        tokio::select! {
            biased;
            () = self.open.none() => return 0,
            () = idle_end => return 0,
            () = over => {}
        }
        let left = self.open.now();
        self.cut.send_replace(());
        // Those that do not even end now are dropped with the runtime.
        let _ = tokio::time::timeout(LAST_WORDS, self.open.none()).await;
        left
    }

    fn admit(self: &Arc<Self>, socket: TcpStream, client: SocketAddr, tls: Option<Arc<Acceptor>>) {
        let terms = self.terms.load_full();
        // The lowest free number is given out first, so this one says how many are in use, without asking.
        if socket.as_raw_fd() >= self.reserve {
            return turn_away(socket, client, None, &terms);
        }
        let Some(permit) = Count::enter(&self.open, terms.connections) else {
            let told = if tls.is_none() { Count::enter(&self.turned_away, TURNED_AWAY_LIMIT) } else { None };
            return turn_away(socket, client, told, &terms);
        };
        let front = Arc::clone(self);
        let cut = self.cut.subscribe();
        tokio::spawn(async move {
            let mut connection = pin!(front.connection(socket, client, tls, terms, permit, cut.clone()));
            tokio::select! {
                biased;
                () = &mut connection => return,
                () = changed(cut) => {}
            }
            // Polled once more, the wire fails what waits for the client, and the proxy ends the request as it ends others.
            let _ = tokio::time::timeout(LAST_WORDS, connection).await;
        });
    }

    async fn connection(
        &self,
        socket: TcpStream,
        client: SocketAddr,
        tls: Option<Arc<Acceptor>>,
        terms: Arc<Terms>,
        permit: Permit,
        cut: watch::Receiver<()>,
    ) {
        let Some(stream) = prepare(socket, client) else { return };
        let inner: Stream = match tls {
            None => Box::new(stream),
            // Boxed, so that a connection does not carry the handshake's state for all its life.
            Some(acceptor) => match Box::pin(in_time(&self.shutdown, handshake(stream, &acceptor))).await {
                Some(Some(stream)) => stream,
                Some(None) => return terms.observer.handshake_failed(),
                None => return,
            },
        };
        // It frames its messages itself, and its rules are enforced by the library that reads the frames.
        if inner.selected_alpn_proto() == Some(ALPN::H2) {
            let frames = Box::new(Frames::new(inner, client, Arc::clone(&terms), permit));
            return Box::pin(streams::serve(&self.app, frames, &terms, &self.shutdown, cut)).await;
        }
        let mut wire = Box::new(Wire::new(inner, Some(client), terms, permit, cut, Arc::clone(&self.heads)));
        // The proxy's own time-out for a first request begins when it gets the connection.
        if in_time(&self.shutdown, wire.first_byte()).await != Some(true) {
            return;
        }
        let mut stream: Stream = wire;
        while let Some(again) = self.app.process_new(stream, &self.shutdown).await {
            stream = again;
        }
    }
}

/// The beginning of a connection; `None` when it comes too late after the process began to end.
pub(super) async fn in_time<T>(
    shutdown: &watch::Receiver<bool>,
    beginning: impl Future<Output = T>,
) -> Option<T> {
    let mut shutdown = shutdown.clone();
    let too_late = async {
        let _ = shutdown.wait_for(|stopping| *stopping).await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        biased;
        begun = beginning => Some(begun),
        () = too_late => None,
    }
}

/// A tenth of the descriptors is for connections to functions and for the admin listener: whoever is served goes on while new
/// clients are refused.
fn reserve() -> RawFd {
    match Process::myself()
        .and_then(|process| process.limits())
        .map(|limits| limits.max_open_files.soft_limit)
    {
        Ok(LimitValue::Value(limit)) => RawFd::try_from(limit - limit / 10).unwrap_or(RawFd::MAX),
        Ok(LimitValue::Unlimited) | Err(_) => RawFd::MAX,
    }
}

/// Waits for a change. It is polled along with every event of a connection, and each poll of the receiver's own future would take a
/// lock that all connections share; so that one is polled when there is a waker it does not know, which a task changes once.
pub(super) async fn changed<T>(receiver: watch::Receiver<T>) {
    let mut waiting = receiver.clone();
    let mut waiting = pin!(waiting.changed());
    let mut known: Option<Waker> = None;
    poll_fn(|cx| {
        if !matches!(receiver.has_changed(), Ok(false)) {
            return Poll::Ready(());
        }
        if known.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        known = Some(cx.waker().clone());
        waiting.as_mut().poll(cx).map(drop)
    })
    .await;
}

/// Refuses a client over the limit. With a permit it is told so; those over TLS, which would need a handshake first, and
/// those beyond the permits are only closed.
fn turn_away(socket: TcpStream, client: SocketAddr, permit: Option<Permit>, terms: &Terms) {
    let request_id = RequestId::random();
    let mut words = BytesMut::new();
    if permit.is_some() {
        answer::write(&mut words, &OVERLOADED, &request_id, None);
    }
    terms.observer.refused(&Refused {
        request_id,
        client: Some(client),
        protocol: http::Version::HTTP_11,
        method: None,
        path: None,
        status: OVERLOADED.status,
        code: OVERLOADED.cause.code(),
        bytes_in: 0,
        bytes_out: words.len(),
        duration: Duration::ZERO,
    });
    if let Some(permit) = permit {
        tokio::spawn(async move {
            linger(Box::new(L4Stream::from(socket)), &words).await;
            drop(permit);
        });
    }
}

/// The socket as Pingora's own listeners would hand it over, but without their buffers: the wire has its own.
fn prepare(socket: TcpStream, client: SocketAddr) -> Option<L4Stream> {
    let mut stream = L4Stream::from(socket);
    if let Err(error) = stream.set_nodelay() {
        debug!("a client left before it was served: {error}");
        return None;
    }
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // The address is known; this spares the proxy a system call when it asks.
    digest.peer_addr.get_or_init(|| Some(client.into()));
    stream.set_socket_digest(digest);
    Some(stream)
}

async fn handshake(stream: L4Stream, acceptor: &Acceptor) -> Option<Stream> {
    match tokio::time::timeout(HANDSHAKE_TIME, acceptor.tls_handshake(stream)).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            debug!("TLS handshake failed: {error}");
            None
        }
        Err(_) => {
            debug!("TLS handshake took too long");
            None
        }
    }
}

/// Errors of `accept` that belong to the connection it would have returned; the next one may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A lack of descriptors or memory, while which `accept` fails at once each time it is called.
#[derive(Default)]
struct Trouble {
    pause: Duration,
    reported: Option<Instant>,
}

impl Trouble {
    fn over(&mut self) {
        self.pause = Duration::ZERO;
    }

    /// Waits, longer each time, and reports at most once a second.
    fn pause(&mut self, error: &io::Error) -> impl Future<Output = ()> + use<> {
        if self.reported.is_none_or(|last| last.elapsed() >= REPORT_EVERY) {
            self.reported = Some(Instant::now());
            error!("connections cannot be accepted: {error}");
        }
        self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        tokio::time::sleep(self.pause)
    }
}

/// How many there are of something, and a signal when there are none.
#[derive(Debug, Default)]
pub(super) struct Count {
    now: AtomicUsize,
    none: Notify,
}

impl Count {
    /// One more, unless that would be more than `limit`.
    pub(super) fn enter(this: &Arc<Self>, limit: usize) -> Option<Permit> {
        let one_more = |now| (now < limit).then_some(now + 1);
        this.now.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Permit(Arc::clone(this)))
    }

    fn now(&self) -> usize {
        self.now.load(Ordering::Acquire)
    }

    pub(super) async fn none(&self) {
        loop {
            let mut none = pin!(self.none.notified());
            none.as_mut().enable();
            if self.now() == 0 {
                return;
            }
            none.await;
        }
    }
}

/// The right to be counted; it ends with the connection.
#[derive(Debug)]
pub(super) struct Permit(Arc<Count>);

impl Permit {
    /// One that nobody counts.
    pub(super) fn alone() -> Self {
        Self(Arc::new(Count { now: AtomicUsize::new(1), none: Notify::new() }))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.0.now.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

const OVERLOADED: Refusal =
    Refusal { status: 503, cause: Cause::Overloaded, reason: "there are too many connections" };
/// How many refused clients may be told so at a time.
const TURNED_AWAY_LIMIT: usize = 64;
/// How long a request may take to end that was cut.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a connection on which nothing happens is kept while the process ends, for what a client may just be sending.
pub const FAREWELL: Duration = Duration::from_secs(1);
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
