use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::apps::ReusedHttpStream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session, http_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::*;
use crate::downstream::{HeadLimits, Observer};

/// Answers with the path and the length of the body, `/early` without reading it; or asks the origin.
#[derive(Default)]
struct Echo {
    origin: Option<SocketAddr>,
    seen: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl ProxyHttp for Echo {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> pingora_core::Result<bool> {
        let path = session.req_header().uri.path().to_owned();
        self.seen.lock().unwrap().push(path.clone());
        if self.origin.is_some() {
            return Ok(false);
        }
        let mut length = 0;
        while path != "/early"
            && let Some(piece) = session.read_request_body().await?
        {
            length += piece.len();
        }
        let body = Bytes::from(format!("{path} {length}"));
        let mut head = pingora::http::ResponseHeader::build(200, None)?;
        head.insert_header("Content-Length", body.len())?;
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(body), true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        let origin = self.origin.expect("asked only with an origin");
        Ok(Box::new(HttpPeer::new(origin, false, String::new())))
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        _: &pingora_core::Error,
        (): &mut (),
    ) -> FailToProxy {
        let refusal = Wire::of(&session.downstream_session).and_then(Wire::refusal);
        let error_code = refusal.map_or(502, |refusal| refusal.status);
        session.respond_error(error_code).await.unwrap();
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _: Option<&pingora_core::Error>, (): &mut ()) {
        if let Some(wire) = Wire::of(&session.downstream_session) {
            wire.request_done(Instant::now().into_std());
        }
    }
}

#[derive(Default)]
struct Codes(Mutex<Vec<&'static str>>);

impl Observer for Codes {
    fn refused(&self, at: &Refused<'_>) {
        assert!(at.client.is_some());
        self.0.lock().unwrap().push(at.code);
    }
}

struct Gateway {
    front: Arc<Front<HttpProxy<Echo>>>,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    codes: Arc<Codes>,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<io::Result<()>>,
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(400);

impl Gateway {
    fn start(echo: Echo, change: impl FnOnce(&mut Terms), tls: Option<Arc<Acceptor>>) -> Self {
        let codes = Arc::new(Codes::default());
        let mut terms = Terms {
            head: HeadLimits::default(),
            header_timeout: LONG,
            idle_timeout: LONG,
            connections: 100,
            requests_per_connection: 1000,
            min_rate: 0,
            control_frames: 1000,
            observer: Arc::clone(&codes) as Arc<dyn Observer>,
        };
        change(&mut terms);
        let seen = Arc::clone(&echo.seen);
        let app = Arc::new(http_proxy(&Arc::new(ServerConf::default()), echo));
        let (stop, shutdown) = watch::channel(false);
        let front = Front::new(app, terms, shutdown);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(Arc::clone(&front).serve(listener, tls));
        Self { front, address, seen, codes, stop, serving }
    }

    fn plain() -> Self {
        Self::start(Echo::default(), |_| {}, None)
    }

    async fn connect(&self) -> Client<TcpStream> {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    fn codes(&self) -> Vec<&'static str> {
        self.codes.0.lock().unwrap().clone()
    }
}

struct Client<S>(S);

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next answer, which must have a length.
    async fn answer(&mut self) -> (u16, String) {
        let head = read_head(&mut self.0).await;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        (head[9..12].parse().unwrap(), String::from_utf8(body).unwrap())
    }

    /// All that comes until the connection ends in order; a reset fails the test.
    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        tokio::time::timeout(LONG, self.0.read_to_string(&mut rest)).await.unwrap().unwrap();
        rest
    }
}

async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn ok(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

#[tokio::test]
async fn connection_is_kept_alive() {
    let gateway = Gateway::plain();
    let mut client = gateway.connect().await;
    for path in ["/a", "/b", "/c"] {
        client.send(post(path, "hello")).await;
        assert_eq!(client.answer().await, ok(&format!("{path} 5")));
    }
    assert_eq!(gateway.front.open(), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let gateway = Gateway::plain();
    let mut client = gateway.connect().await;
    let chunked = "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    client.send([&get("/1"), chunked, &post("/3", "GET / HTTP/1.1\r\n\r\n"), &get("/4")].concat()).await;
    for body in ["/1 0", "/2 5", "/3 18", "/4 0"] {
        assert_eq!(client.answer().await, ok(body));
    }
}

/// An origin that answers each request on one connection only when it is told to.
async fn origin(mut told: tokio::sync::mpsc::Receiver<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        loop {
            let head = read_head(&mut socket).await;
            let path = head.split(' ').nth(1).unwrap();
            told.recv().await.unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

/// While the function works, Pingora reads the connection to notice a client that leaves; it must not get the pipeline.
#[tokio::test]
async fn pipeline_waits_while_the_function_works() {
    let (tell, told) = tokio::sync::mpsc::channel(1);
    let echo = Echo { origin: Some(origin(told).await), ..Echo::default() };
    let gateway = Gateway::start(echo, |_| {}, None);
    let mut client = gateway.connect().await;
    client.send(get("/1")).await;
    while gateway.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    client.send([get("/2"), get("/3")].concat()).await;
    for path in ["/1", "/2", "/3"] {
        tell.send(()).await.unwrap();
        assert_eq!(client.answer().await, ok(path));
    }
    assert_eq!(gateway.seen(), ["/1", "/2", "/3"]);
}

#[tokio::test]
async fn websocket_passes_untouched_once_the_function_agrees() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let echo = Echo { origin: Some(listener.local_addr().unwrap()), ..Echo::default() };
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_head(&mut socket).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        socket.write_all(answer).await.unwrap();
        let (mut from, mut to) = socket.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    let gateway = Gateway::start(echo, |_| {}, None);
    let mut client = gateway.connect().await;
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let head = read_head(&mut client.0).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for frame in [b"\x81\x00\n\0".as_slice(), b"GET / HTTP/1.1\n\n", &[0xff; 10_000]] {
        client.send(frame).await;
        let mut echoed = vec![0; frame.len()];
        client.0.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, frame);
    }
}

#[tokio::test]
async fn bad_head_never_reaches_the_application() {
    let gateway = Gateway::plain();
    let mut client = gateway.connect().await;
    client
        .send(
            [&get("/good"), "GET /bad HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", &get("/lost")]
                .concat(),
        )
        .await;
    assert_eq!(client.answer().await, ok("/good 0"));
    let rest = client.rest().await;
    assert!(rest.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{rest}");
    assert_eq!(gateway.seen(), ["/good"]);
    assert_eq!(gateway.codes(), ["bad_request"]);
}

/// A client that is still sending when it is answered must not be met with a reset, which would destroy the answer.
#[tokio::test]
async fn client_hears_the_answer_while_it_is_still_sending() {
    let gateway = Gateway::plain();
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1,1\r\n\r\n", "HTTP/1.1 400 "),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\n", "HTTP/1.1 400 "),
        ("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", "HTTP/1.1 200 "),
    ] {
        let mut client = gateway.connect().await;
        client.send([request.as_bytes(), &[b'x'; 10_000]].concat()).await;
        let answer = client.rest().await;
        assert!(answer.starts_with(status), "{request}: {answer}");
        for _ in 0..10 {
            client.send([b'x'; 10_000]).await;
        }
    }
    gateway.front.open.none().await;
}

#[tokio::test]
async fn slow_head_is_408_and_idle_connection_is_closed() {
    let gateway = Gateway::start(
        Echo::default(),
        |terms| {
            terms.header_timeout = SHORT;
            terms.idle_timeout = SHORT;
        },
        None,
    );
    let mut slow = gateway.connect().await;
    slow.send([&get("/x"), "GET /slow HT"].concat()).await;
    assert_eq!(slow.answer().await, ok("/x 0"));
    assert!(slow.rest().await.starts_with("HTTP/1.1 408 Request Timeout\r\n"));
    let mut idle = gateway.connect().await;
    assert_eq!(idle.rest().await, "");
    assert_eq!(gateway.seen(), ["/x"]);
    assert_eq!(gateway.codes(), ["request_timeout"]);
}

/// Counts what it is given, and reads its head.
#[derive(Default)]
struct Reader(AtomicUsize);

#[async_trait]
impl HttpServerApp for Reader {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        self.0.fetch_add(1, Ordering::Relaxed);
        assert!(session.read_request().await.unwrap());
        None
    }
}

/// The proxy has time-outs of its own, which begin when it gets a connection.
#[tokio::test]
async fn proxy_gets_a_connection_with_its_first_byte() {
    let (stop, shutdown) = watch::channel(false);
    let terms = Terms {
        head: HeadLimits::default(),
        header_timeout: LONG,
        idle_timeout: SHORT,
        connections: 100,
        requests_per_connection: 1000,
        min_rate: 0,
        control_frames: 1000,
        observer: Arc::new(Codes::default()),
    };
    let app = Arc::new(Reader::default());
    let front = Front::new(Arc::clone(&app), terms.clone(), shutdown);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Arc::clone(&front).serve(listener, None));
    let connect = async || Client(TcpStream::connect(address).await.unwrap());

    assert_eq!(connect().await.rest().await, "");
    drop(connect().await);
    let mut speaking = connect().await;
    tokio::task::yield_now().await;
    assert_eq!(app.0.load(Ordering::Relaxed), 0);
    speaking.send(get("/")).await;
    assert_eq!(speaking.rest().await, "");
    assert_eq!(app.0.load(Ordering::Relaxed), 1);

    front.set_terms(Terms { idle_timeout: LONG, ..terms });
    let mut idle = connect().await;
    while front.open() == 0 {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    assert_eq!(front.drain(async || (), sleep(LONG)).await, 0);
    assert_eq!(idle.rest().await, "");
    assert_eq!(app.0.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn connections_over_the_limit_are_told_so() {
    let gateway = Gateway::start(Echo::default(), |terms| terms.connections = 1, None);
    let mut first = gateway.connect().await;
    first.send(get("/1")).await;
    first.answer().await;
    let mut second = gateway.connect().await;
    second.send(get("/2")).await;
    let answer = second.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("Retry-After: 1\r\n"), "{answer}");
    assert_eq!(gateway.codes(), ["overloaded"]);
    drop(first);
    gateway.front.open.none().await;
    let mut third = gateway.connect().await;
    third.send(get("/3")).await;
    assert_eq!(third.answer().await, ok("/3 0"));
}

#[tokio::test]
async fn drain_ends_the_idle_and_waits_for_the_busy() {
    let (tell, told) = tokio::sync::mpsc::channel(1);
    let echo = Echo { origin: Some(origin(told).await), ..Echo::default() };
    let gateway = Gateway::start(echo, |_| {}, None);
    let mut busy = gateway.connect().await;
    busy.send(get("/1")).await;
    let mut idle = gateway.connect().await;
    while gateway.seen().is_empty() || gateway.front.open() < 2 {
        tokio::task::yield_now().await;
    }
    gateway.stop.send_replace(true);
    gateway.serving.await.unwrap().unwrap();
    assert!(TcpStream::connect(gateway.address).await.is_err(), "the listener is still open");

    let front = Arc::clone(&gateway.front);
    let draining = tokio::spawn(async move { front.drain(async || (), sleep(LONG)).await });
    assert_eq!(idle.rest().await, "");
    assert!(!draining.is_finished());
    tell.send(()).await.unwrap();
    assert_eq!(busy.answer().await, ok("/1"));
    assert_eq!(draining.await.unwrap(), 0);
}

/// The rest of it makes a request like any other.
#[tokio::test]
async fn drain_waits_for_a_head_that_has_begun() {
    let gateway = Gateway::plain();
    let (mut new, mut kept) = (gateway.connect().await, gateway.connect().await);
    kept.send(get("/1")).await;
    kept.answer().await;
    let half = get("/2");
    let (begun, rest) = half.split_at(10);
    for client in [&mut new, &mut kept] {
        client.send(begun).await;
    }
    while gateway.front.heads.now() < 2 {
        tokio::task::yield_now().await;
    }
    gateway.stop.send_replace(true);
    gateway.serving.await.unwrap().unwrap();
    let front = Arc::clone(&gateway.front);
    let draining = tokio::spawn(async move { front.drain(async || (), sleep(LONG)).await });
    tokio::task::yield_now().await;

    for client in [&mut new, &mut kept] {
        client.send(rest).await;
        assert_eq!(client.answer().await, ok("/2 0"));
    }

    assert_eq!(draining.await.unwrap(), 0);
    assert_eq!(gateway.front.heads.now(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_begins_too_late_is_given_up() {
    let (stop, shutdown) = watch::channel(false);
    assert_eq!(in_time(&shutdown, async { 1 }).await, Some(1));
    let late = tokio::spawn(async move { in_time(&shutdown, std::future::pending::<()>()).await });
    sleep(LONG).await;
    assert!(!late.is_finished());
    stop.send_replace(true);
    let told = Instant::now();
    assert_eq!(late.await.unwrap(), None);
    assert!(told.elapsed() < 2 * FAREWELL);
}

#[tokio::test]
async fn drain_cuts_what_is_left_at_the_end() {
    let (_tell, told) = tokio::sync::mpsc::channel(1);
    let echo = Echo { origin: Some(origin(told).await), ..Echo::default() };
    let gateway = Gateway::start(echo, |_| {}, None);
    let mut busy = gateway.connect().await;
    busy.send(get("/1")).await;
    while gateway.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    gateway.stop.send_replace(true);
    assert_eq!(gateway.front.drain(async || (), sleep(SHORT)).await, 1);
    assert!(busy.rest().await.starts_with("HTTP/1.1 503 "));
    assert_eq!(gateway.front.open(), 0);
}

fn tls_pair() -> (Arc<Acceptor>, rustls::ClientConfig) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(Acceptor::from_server_config(Arc::new(server))), client)
}

async fn connect_tls(
    gateway: &Gateway,
    mut config: rustls::ClientConfig,
    protocol: &[u8],
) -> Client<tokio_rustls::client::TlsStream<TcpStream>> {
    config.alpn_protocols = vec![protocol.to_vec()];
    let socket = TcpStream::connect(gateway.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Client(connector.connect("localhost".try_into().unwrap(), socket).await.unwrap())
}

#[tokio::test]
async fn tls_carries_guarded_http1_and_plain_http2() {
    let (acceptor, config) = tls_pair();
    let gateway = Gateway::start(Echo::default(), |_| {}, Some(acceptor));

    let mut client = connect_tls(&gateway, config.clone(), b"http/1.1").await;
    client.send([&get("/1"), "BAD\r\n\r\n"].concat()).await;
    assert_eq!(client.answer().await, ok("/1 0"));
    assert!(client.rest().await.starts_with("HTTP/1.1 400 "));

    // The preface would be refused by the guard; the answer is a SETTINGS frame.
    let mut client = connect_tls(&gateway, config, b"h2").await;
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut frame = [0; 9];
    client.0.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4);
    assert_eq!(gateway.codes(), ["bad_request"]);
}

#[tokio::test(start_paused = true)]
async fn handshake_that_never_comes_is_given_up() {
    let (acceptor, _) = tls_pair();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, client) = listener.accept().await.unwrap();
    let start = Instant::now();
    assert!(handshake(prepare(socket, client).unwrap(), &acceptor).await.is_none());
    assert_eq!(start.elapsed(), HANDSHAKE_TIME);
}

#[tokio::test(start_paused = true)]
async fn trouble_is_met_with_growing_pauses_and_few_words() {
    let mut trouble = Trouble::default();
    let error = io::Error::from_raw_os_error(24);
    let start = Instant::now();
    let mut reports = 0;
    for _ in 0..20 {
        let before = trouble.reported;
        trouble.pause(&error).await;
        reports += u64::from(before != trouble.reported);
    }
    assert_eq!(trouble.pause, LONGEST_PAUSE);
    assert!(start.elapsed() > 10 * LONGEST_PAUSE, "{:?}", start.elapsed());
    assert!(reports <= start.elapsed().as_secs() + 1, "{reports} reports in {:?}", start.elapsed());
    trouble.over();
    let start = Instant::now();
    trouble.pause(&error).await;
    assert!(start.elapsed() < LONGEST_PAUSE);
}
