//! The functions behind the gateway: real servers on loopback that record every byte they get, and that misbehave when
//! a test tells them to. An origin ends with the test that started it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::exchange::{Exchange, Line, Reply};
use super::home::{free_port, local};
use super::journal::{Connection, Greeting, Journal, Recorded};
use super::wire::{Body, Framing, Head, Io, Wire};
use super::{Gate, PATIENCE, eventually};

/// A listening origin.
pub(crate) struct Origin {
    addr: SocketAddr,
    journal: Arc<Journal>,
    accepting: JoinHandle<()>,
}

impl Origin {
    pub(crate) fn http1() -> Script {
        Script {
            protocol: Protocol::Http1,
            tls: None,
            answers: None,
            idle: None,
            serve: Serve::Reply(Arc::new(said_nothing)),
        }
    }

    /// HTTP/2, by prior knowledge in clear text or by ALPN over TLS. Only `echo` and `reply` are available.
    pub(crate) fn http2() -> Script {
        Script { protocol: Protocol::Http2, ..Self::http1() }
    }

    /// The shortest way to an HTTP/1 origin that says what it got.
    pub(crate) async fn echo() -> Self {
        Self::http1().echo().start().await
    }

    /// An origin that sends these bytes to whatever it is asked, and then closes.
    pub(crate) async fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::http1()
            .script(move |mut exchange| {
                let bytes = bytes.clone();
                async move {
                    exchange.body().await;
                    exchange.send(&bytes).await;
                    exchange.close();
                }
            })
            .start()
            .await
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ip:port`, to which a test adds the path.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// How many connections were ever accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.journal.read(|state| state.connections.len())
    }

    /// How many of them are open.
    pub(crate) fn open(&self) -> usize {
        self.journal.read(|state| state.connections.iter().filter(|connection| connection.open).count())
    }

    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.journal.read(|state| state.requests.clone())
    }

    /// The only request there was.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Recorded {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "requests at the origin: {requests:#?}");
        requests.remove(0)
    }

    /// Waits for the request at `index` to have a head.
    pub(crate) async fn request(&self, index: usize) -> Recorded {
        eventually("a request at the origin", PATIENCE, async || self.requests().get(index).cloned()).await
    }

    /// Waits until the number of open connections is `wanted`.
    pub(crate) async fn settles_at(&self, wanted: usize) {
        let what = format!("{wanted} open connections at the origin");
        eventually(&what, PATIENCE, async || (self.open() == wanted).then_some(())).await;
    }

    /// Everything that arrived on one connection.
    pub(crate) fn bytes_of(&self, connection: usize) -> Vec<u8> {
        let tap = self.journal.read(|state| Arc::clone(&state.connections[connection].bytes));
        let bytes = tap.lock().unwrap();
        bytes.clone()
    }

    /// What the client said in its TLS greeting: server name and the protocols it offered.
    pub(crate) fn greeting(&self, connection: usize) -> Greeting {
        self.journal.read(|state| state.connections[connection].greeting.clone())
    }

    /// Ends the origin, and returns when its port and all its connections are closed.
    pub(crate) async fn stop(mut self) {
        self.accepting.abort();
        // It ends by being aborted.
        let _ = (&mut self.accepting).await;
        self.settles_at(0).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What an origin will do, before it listens.
pub(crate) struct Script {
    protocol: Protocol,
    tls: Option<Arc<ServerConfig>>,
    answers: Option<usize>,
    idle: Option<(Duration, Ending)>,
    serve: Serve,
}

/// How a connection is closed.
#[derive(Clone, Copy)]
pub(crate) enum Ending {
    Fin,
    Reset,
}

enum Serve {
    Reply(Arc<dyn Fn(&Recorded) -> Reply + Send + Sync>),
    Script(Arc<dyn Fn(Exchange) -> BoxFuture<'static, ()> + Send + Sync>),
}

impl Script {
    /// Answers with what was received, see [`super::Echo`].
    pub(crate) fn echo(self) -> Self {
        self.reply(|request| Reply::json(&request.echo()))
    }

    pub(crate) fn text(self, text: &'static str) -> Self {
        self.reply(move |_| Reply::text(200, text))
    }

    /// Reads the whole request, then answers.
    pub(crate) fn reply(mut self, reply: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        self.serve = Serve::Reply(Arc::new(reply));
        self
    }

    /// Does anything at all. The connection takes the next request when the future ends, unless it was closed.
    pub(crate) fn script<F, A>(mut self, serve: F) -> Self
    where
        F: Fn(Exchange) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        self.serve = Serve::Script(Arc::new(move |exchange| Box::pin(serve(exchange))));
        self
    }

    /// The same for one that waits at this gate.
    pub(crate) fn gated<F, A>(self, gate: &Gate, serve: F) -> Self
    where
        F: Fn(Exchange, Gate) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let gate = gate.clone();
        self.script(move |exchange| serve(exchange, gate.clone()))
    }

    /// Closes each connection, without an answer, at the moment of the request after this many.
    pub(crate) fn answers_per_connection(mut self, answers: usize) -> Self {
        self.answers = Some(answers);
        self
    }

    /// Closes a connection on which no request came for this long after an answer.
    pub(crate) fn closes_idle(mut self, after: Duration, ending: Ending) -> Self {
        self.idle = Some((after, ending));
        self
    }

    pub(crate) fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    pub(crate) async fn start(self) -> Origin {
        self.start_at(local(free_port())).await
    }

    /// Listens on a given address, which a test had from an origin that is gone.
    pub(crate) async fn start_at(self, addr: SocketAddr) -> Origin {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let journal = Arc::new(Journal::default());
        let accepting = tokio::spawn(accept(listener, Arc::new(self), Arc::clone(&journal)));
        Origin { addr, journal, accepting }
    }
}

#[derive(Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

/// Marks a connection as closed, whichever way its task ends.
struct OpenMark {
    journal: Arc<Journal>,
    connection: usize,
}

impl Drop for OpenMark {
    fn drop(&mut self) {
        self.journal.write(|state| state.connections[self.connection].open = false);
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>, journal: Arc<Journal>) {
    // Dropping the set with this task ends every connection with the origin.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let connection = journal.write(|state| {
            state.connections.push(Connection { open: true, ..Connection::default() });
            state.connections.len() - 1
        });
        let mark = OpenMark { journal: Arc::clone(&journal), connection };
        let (script, journal) = (Arc::clone(&script), Arc::clone(&journal));
        connections.spawn(async move {
            let _mark = mark;
            match &script.tls {
                None => serve(socket, &script, journal, connection).await,
                Some(config) => {
                    let Ok(socket) = TlsAcceptor::from(Arc::clone(config)).accept(socket).await else {
                        return;
                    };
                    let session = socket.get_ref().1;
                    let greeting = Greeting {
                        server_name: session.server_name().map(str::to_owned),
                        alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
                    };
                    journal.write(|state| state.connections[connection].greeting = greeting);
                    serve(socket, &script, journal, connection).await;
                }
            }
        });
    }
}

async fn serve(io: impl Io + 'static, script: &Script, journal: Arc<Journal>, connection: usize) {
    match script.protocol {
        Protocol::Http1 => serve_http1(io, script, journal, connection).await,
        Protocol::Http2 => serve_http2(io, script, journal, connection).await,
    }
}

async fn serve_http1(io: impl Io + 'static, script: &Script, journal: Arc<Journal>, connection: usize) {
    let tap = journal.read(|state| Arc::clone(&state.connections[connection].bytes));
    let line = Arc::new(AsyncMutex::new(Line { wire: Wire::new(io).tapped(tap), closing: false }));
    let mut answered = 0;
    loop {
        let mut held = Arc::clone(&line).lock_owned().await;
        if held.closing {
            return;
        }
        let head = match script.idle.filter(|_| answered > 0) {
            None => held.wire.head().await,
            Some((after, ending)) => match timeout(after, held.wire.head()).await {
                Ok(head) => head,
                Err(_) => {
                    if matches!(ending, Ending::Reset) {
                        held.wire.linger_zero();
                    }
                    return;
                }
            },
        };
        let Some(head) = head else { return };
        let index = journal.write(|state| {
            state.requests.push(Recorded { head: head.clone(), body: Vec::new(), connection });
            state.requests.len() - 1
        });
        if script.answers.is_some_and(|limit| answered >= limit) {
            return;
        }
        let body = Body::new(Framing::of_request(&head));
        let mut exchange = Exchange { head, index, body, line: held, journal: Arc::clone(&journal) };
        match &script.serve {
            Serve::Script(serve) => serve(exchange).await,
            Serve::Reply(reply) => {
                exchange.body().await;
                let answer = reply(&exchange.recorded());
                exchange.answer(answer).await;
            }
        }
        answered += 1;
    }
}

async fn serve_http2(io: impl Io + 'static, script: &Script, journal: Arc<Journal>, connection: usize) {
    let Serve::Reply(reply) = &script.serve else {
        panic!("an HTTP/2 origin answers with `reply` or `echo`")
    };
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (reply, journal) = (Arc::clone(reply), Arc::clone(&journal));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes().to_vec();
            let recorded = Recorded { head: head_of(&parts), body, connection };
            journal.write(|state| state.requests.push(recorded.clone()));
            let answer = reply(&recorded);
            let mut response = hyper::Response::builder().status(answer.status);
            for (name, value) in &answer.headers {
                response = response.header(name, value);
            }
            Ok::<_, hyper::Error>(response.body(Full::new(Bytes::from(answer.body))).unwrap())
        }
    });
    // How a client ends its connection is its own affair.
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(io), service)
        .await;
}

/// An HTTP/2 head in the same form, the authority as `:authority`.
fn head_of(parts: &Parts) -> Head {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let authority = parts.uri.authority().map(|authority| (":authority".to_owned(), authority.to_string()));
    let fields = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    Head {
        first_line: format!("{} {target} {:?}", parts.method, parts.version),
        headers: authority.into_iter().chain(fields).collect(),
    }
}

fn said_nothing(_: &Recorded) -> Reply {
    Reply::new(200, "")
}
