use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::*;

const SOON: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    status: Arc<Status>,
    metrics: Metrics,
    task: JoinHandle<io::Result<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn start(bounds: Bounds) -> Server {
    start_with(bounds, || json!([{ "name": "hello", "platform": "openfunction" }]))
}

fn start_with(bounds: Bounds, routes: fn() -> Value) -> Server {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (metrics, status) = (Metrics::new(), Arc::new(Status::default()));
    let admin = Admin {
        metrics: metrics.clone(),
        status: status.clone(),
        routes: Box::new(routes),
        hosts: vec!["gateway.internal".to_owned()],
    };
    let task = tokio::spawn(admin.serve_within(listener, bounds));
    Server { address, status, metrics, task }
}

#[derive(Debug)]
struct Seen {
    status: u16,
    head: String,
    body: String,
}

impl Seen {
    fn json(&self) -> Value {
        assert!(self.head.contains("\r\ncontent-type: application/json\r\n"), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends the bytes and reads to the end of the connection.
    async fn send(&self, request: &str) -> Seen {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read(&mut stream).await
    }

    async fn get(&self, target: &str) -> Seen {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address)).await
    }
}

async fn read(stream: &mut TcpStream) -> Seen {
    let mut text = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Seen { status, head: format!("{head}\r\n"), body: body.to_owned() }
}

#[tokio::test]
async fn health_needs_nothing() {
    let server = start(Bounds::default());
    let seen = server.get("/healthz").await;
    assert_eq!((seen.status, seen.body.as_str()), (200, "ok\n"));
    assert!(seen.head.contains("\r\ncache-control: no-store\r\n"), "{seen:?}");
}

#[tokio::test]
async fn readiness_needs_listeners_and_a_configuration_and_ends_with_draining() {
    let server = start(Bounds::default());
    let readiness = async || {
        let seen = server.get("/readyz").await;
        (seen.status, seen.body)
    };
    assert_eq!(readiness().await, (503, "starting\n".to_owned()));
    server.status.config_loaded("abc", 1);
    assert_eq!(readiness().await, (503, "starting\n".to_owned()));
    server.status.bound(&["0.0.0.0:9080".parse().unwrap()]);
    assert_eq!(readiness().await, (200, "ready\n".to_owned()));
    server.status.reload_failed(None, ["routes[0]: wrong".to_owned()]);
    assert_eq!(readiness().await, (200, "ready\n".to_owned()), "the old configuration serves on");
    server.status.draining();
    assert_eq!(readiness().await, (503, "draining\n".to_owned()));
}

#[tokio::test]
async fn verbose_readiness_tells_how_the_last_reload_went() {
    let server = start(Bounds::default());
    server.status.bound(&["0.0.0.0:9080".parse().unwrap()]);
    server.status.config_loaded("abc", 1);
    let mut document = server.get("/readyz?verbose").await.json();
    assert_eq!(
        document,
        json!({ "ready": true, "draining": false, "listeners": ["0.0.0.0:9080"], "config_hash": "abc",
                "generation": 1, "last_reload": null })
    );

    server.status.reload_failed(None, (0..100).map(|fault| format!("fngate.yaml:{fault}: wrong")));
    document = server.get("/readyz?verbose=1").await.json();
    assert_eq!(document["config_hash"], "abc");
    assert_eq!(document["last_reload"]["result"], "failure");
    assert_eq!(document["last_reload"]["faults"][0], "fngate.yaml:0: wrong");
    assert_eq!(document["last_reload"]["faults"].as_array().unwrap().len(), MAX_FAULTS);

    server.status.reload_succeeded("def", 2);
    document = server.get("/readyz?x&verbose").await.json();
    assert_eq!((&document["config_hash"], &document["generation"]), (&json!("def"), &json!(2)));
    assert_eq!(document["last_reload"]["result"], "success");
    assert_eq!(document["last_reload"]["faults"], json!([]));
    let time = document["last_reload"]["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
}

#[tokio::test]
async fn metrics_are_served_in_the_text_format() {
    let server = start(Bounds::default());
    server.metrics.route("hello", "http").failed("credential_refused");
    let seen = server.get("/metrics").await;
    assert_eq!(seen.status, 200);
    assert!(seen.head.contains("\r\ncontent-type: text/plain; version=0.0.4\r\n"), "{}", seen.head);
    let line = "\nfngate_failures_total{route=\"hello\",code=\"credential_refused\"} 1\n";
    assert!(seen.body.contains(line), "{}", seen.body);
}

#[tokio::test]
async fn routes_are_what_the_program_says() {
    let server = start(Bounds::default());
    assert_eq!(server.get("/routes").await.json()[0]["name"], "hello");
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let server = start(Bounds::default());
    let seen = server.send("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((seen.status, &seen.json()["error"]["code"]), (405, &json!("method_not_allowed")));
    assert!(seen.head.contains("\r\nallow: GET, HEAD\r\n"), "{seen:?}");

    for path in ["/", "/metrics/", "/debug", "*"] {
        let seen = server.get(path).await;
        assert_eq!((seen.status, &seen.json()["error"]["code"]), (404, &json!("not_found")), "{path}");
    }
}

#[tokio::test]
async fn head_gets_the_head_only() {
    let server = start(Bounds::default());
    let seen = server.send("HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((seen.status, seen.body.as_str()), (200, ""));
    assert!(seen.head.contains("\r\ncontent-length: 3\r\n"), "{seen:?}");
}

#[tokio::test]
async fn only_names_that_no_page_can_have_are_answered() {
    let server = start(Bounds::default());
    for (host, expected) in [
        ("127.0.0.1", 200),
        ("10.1.2.3:9180", 200),
        ("[::1]:9180", 200),
        ("localhost:9180", 200),
        ("LocalHost", 200),
        ("gateway.internal:9180", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:9180", 403),
        ("", 403),
        ("127.0.0.1\r\nHost: evil.example", 403),
    ] {
        let seen = server.send(&format!("GET /routes HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(seen.status, expected, "{host}");
        assert_eq!(seen.body.contains("hello"), expected == 200, "{host}");
    }
    let absolute = "GET http://evil.example/routes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    assert_eq!(server.send(absolute).await.status, 403);
    assert_eq!(server.send("GET /healthz HTTP/1.1\r\n\r\n").await.status, 403);
    assert_eq!(server.send("GET /healthz HTTP/1.0\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn pages_cannot_look() {
    let server = start(Bounds::default());
    for (header, expected) in [
        ("Origin: http://evil.example", 403),
        ("Origin: null", 403),
        ("Sec-Fetch-Site: cross-site", 403),
        ("Sec-Fetch-Site: same-site", 403),
        ("Sec-Fetch-Site: none", 200),
        ("Sec-Fetch-Site: same-origin", 200),
    ] {
        let seen = server.send(&format!("GET /routes HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\n\r\n")).await;
        assert_eq!(seen.status, expected, "{header}");
    }
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let server = start(Bounds { connections: 1, head: SOON * 6, connection: SOON * 6 });
    let first = server.connect().await;
    let mut second = server.connect().await;
    second.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(200), second.peek(&mut byte)).await;
    assert!(early.is_err(), "answered beside a connection that takes the only place");

    drop(first);
    assert_eq!(read(&mut second).await.status, 200);
}

#[tokio::test]
async fn an_unfinished_head_is_cut() {
    let server =
        start(Bounds { head: Duration::from_millis(100), connection: SOON * 6, ..Bounds::default() });
    for begun in ["", "GET /healthz HTTP/1.1\r\nHost:"] {
        let mut stream = server.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.expect("cut").unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{begun}");
    }
}

#[tokio::test]
async fn who_does_not_read_is_cut() {
    // More than the kernel buffers for somebody who reads nothing.
    let large = || json!("x".repeat(6 << 20));
    let server = start_with(Bounds { connections: 1, connection: SOON / 4, ..Bounds::default() }, large);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut lazy = socket.connect(server.address).await.unwrap();
    lazy.write_all(b"GET /routes HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    lazy.readable().await.unwrap();

    assert_eq!(server.get("/healthz").await.status, 200, "the only place is free again");
    let mut late = Vec::new();
    let _ = lazy.read_to_end(&mut late).await;
    let text = String::from_utf8(late).unwrap();
    let (_, rest) = text.split_once("content-length: ").unwrap();
    let promised: usize = rest.split_once("\r\n").unwrap().0.parse().unwrap();
    assert!(text.len() < promised, "{} of {promised} bytes", text.len());
}
