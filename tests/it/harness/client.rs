//! The clients before the gateway: one that sends exactly the bytes a test gives it, one for HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::WebSocketStream;

use super::wire::{Body, Framing, Head, Io, Piece, Wire, header};
use super::within;

/// One HTTP/1 connection.
pub(crate) struct Client {
    wire: Wire,
    host: String,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::over(tcp(addr).await, addr.to_string())
    }

    /// The same where nobody may be listening any more.
    pub(crate) async fn try_connect(addr: SocketAddr) -> Option<Self> {
        let stream = within("a connection or its refusal", TcpStream::connect(addr)).await.ok()?;
        Some(Self::over(stream, addr.to_string()))
    }

    pub(crate) async fn tls(addr: SocketAddr, config: Arc<ClientConfig>, server_name: &str) -> Self {
        Self::try_tls(addr, config, server_name).await.unwrap()
    }

    /// The same where the handshake may fail.
    pub(crate) async fn try_tls(
        addr: SocketAddr,
        config: Arc<ClientConfig>,
        server_name: &str,
    ) -> std::io::Result<Self> {
        let stream = tls(addr, config, server_name).await?;
        Ok(Self::over(stream, server_name.to_owned()))
    }

    fn over(io: impl Io + 'static, host: String) -> Self {
        Self { wire: Wire::new(io), host }
    }

    /// A request and its whole answer. The connection can be used again.
    pub(crate) async fn call(&mut self, request: &Request) -> Response {
        self.start(request).await;
        self.response(&request.method).await
    }

    /// The same for a peer that may close instead of answering.
    pub(crate) async fn try_call(&mut self, request: &Request) -> Option<Response> {
        self.start(request).await;
        self.try_response(&request.method).await
    }

    /// Sends a request and leaves the answer to be read.
    pub(crate) async fn start(&mut self, request: &Request) {
        let bytes = request.bytes(&self.host);
        self.send(bytes).await;
    }

    /// Sends bytes as they are. That the gateway has already hung up shows when reading.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within("the gateway to take bytes", self.wire.send(bytes.as_ref())).await;
    }

    /// The same, and whether they were all taken.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within("the gateway to take bytes", self.wire.send(bytes.as_ref())).await.is_ok()
    }

    /// Ends the sending side only.
    pub(crate) async fn finish(&mut self) {
        self.wire.finish().await;
    }

    /// Leaves with a reset.
    pub(crate) fn reset(self) {
        self.wire.linger_zero();
    }

    /// The whole answer to a request with this method.
    pub(crate) async fn response(&mut self, method: &str) -> Response {
        self.try_response(method).await.expect("the gateway closed the connection without an answer")
    }

    /// The same, or nothing when the gateway closed instead.
    pub(crate) async fn try_response(&mut self, method: &str) -> Option<Response> {
        let mut informational = Vec::new();
        let head = loop {
            let head = within("the head of an answer", self.wire.head()).await?;
            match head.word(1) {
                status if status.starts_with('1') && status != "101" => informational.push(head),
                _ => break head,
            }
        };
        let mut body = Body::new(Framing::of_response(&head, method));
        let mut bytes = Vec::new();
        let whole = loop {
            match within("the body of an answer", body.next(&mut self.wire)).await {
                Piece::Bytes(piece) => bytes.extend_from_slice(&piece),
                Piece::End => break true,
                Piece::Cut => break false,
            }
        };
        Some(Response { head, informational, body: bytes, whole })
    }

    /// Only the next head, informational or final.
    pub(crate) async fn head(&mut self) -> Head {
        within("a head", self.wire.head()).await.expect("the gateway closed the connection without a head")
    }

    /// Reads the body that belongs to `head` piece by piece.
    pub(crate) fn body(&mut self, head: &Head, method: &str) -> Streaming<'_> {
        Streaming { body: Body::new(Framing::of_response(head, method)), wire: &mut self.wire }
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        within("the end of the connection", self.wire.rest()).await
    }

    /// A WebSocket over this connection, its handshake done by a real client.
    pub(crate) async fn websocket(&mut self, path: &str) -> WebSocketStream<&mut dyn Io> {
        let url = format!("ws://{}{path}", self.host);
        let (socket, _) =
            within("a WebSocket handshake", tokio_tungstenite::client_async(url, self.wire.io()))
                .await
                .unwrap();
        socket
    }
}

/// A body on its way.
pub(crate) struct Streaming<'a> {
    body: Body,
    wire: &'a mut Wire,
}

impl Streaming<'_> {
    pub(crate) async fn next(&mut self) -> Piece {
        within("a piece of the body", self.body.next(self.wire)).await
    }

    /// Sends more of the request in the meantime.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within("the gateway to take bytes", self.wire.send(bytes.as_ref())).await;
    }

    /// Reads on until the body so far ends with `text`.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(text.as_bytes()) {
            match self.next().await {
                Piece::Bytes(bytes) => seen.extend_from_slice(&bytes),
                end => panic!("{end:?} after {:?}, waiting for {text:?}", String::from_utf8_lossy(&seen)),
            }
        }
        String::from_utf8(seen).unwrap()
    }
}

/// What a well-behaved client sends.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self { method: method.to_owned(), target: target.to_owned(), headers: Vec::new(), body: None }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body)
    }

    pub(crate) fn post_json(target: &str, body: &str) -> Self {
        Self::post(target, body).header("Content-Type", "application/json")
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    fn bytes(&self, host: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if header(&self.headers, "host").is_none() {
            head += &format!("Host: {host}\r\n");
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        [head.as_bytes(), self.body.as_deref().unwrap_or_default()].concat()
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    /// The heads of the 1xx answers before it.
    pub(crate) informational: Vec<Head>,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended the way its head announced.
    pub(crate) whole: bool,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.word(1).parse().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.head.all(name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.head.first_line, self.text()))
    }

    /// The gateway's own word for what went wrong; empty when the answer is not the gateway's.
    pub(crate) fn code(&self) -> String {
        let value: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        value["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// What an echoing origin says it got.
#[derive(Debug, Deserialize)]
pub(crate) struct Echo {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Echo {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

/// One HTTP/2 connection over TLS.
pub(crate) struct Http2 {
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    /// Ends when the connection does.
    ended: mpsc::Receiver<()>,
}

impl Http2 {
    pub(crate) async fn connect(addr: SocketAddr, config: Arc<ClientConfig>, server_name: &str) -> Self {
        let stream = tls(addr, config, server_name).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "the protocol agreed on");
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let (alive, ended) = mpsc::channel(1);
        tokio::spawn(async move {
            // The error a connection ends with also reaches the requests on it.
            let _ = connection.await;
            drop(alive);
        });
        Self { sender, ended }
    }

    /// Several calls may run at the same time.
    pub(crate) async fn call(
        &self,
        request: hyper::Request<Full<Bytes>>,
    ) -> hyper::Result<hyper::Response<Incoming>> {
        within("an HTTP/2 answer", self.sender.clone().send_request(request)).await
    }

    /// An answer to its end, be it a good one or not.
    pub(crate) async fn read(answer: hyper::Response<Incoming>) -> Response {
        let (head, mut pieces) = answer.into_parts();
        let text =
            |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let head = Head { first_line: format!("HTTP/2 {}", head.status.as_u16()), headers };
        let (mut body, mut whole) = (Vec::new(), true);
        while let Some(piece) = within("a piece of an HTTP/2 answer", pieces.frame()).await {
            match piece.map(|frame| frame.into_data().unwrap_or_default()) {
                Ok(bytes) => body.extend_from_slice(&bytes),
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
        Response { head, informational: Vec::new(), body, whole }
    }

    /// A GET of an absolute URL, whose authority becomes `:authority`.
    pub(crate) fn get(url: &str) -> hyper::Request<Full<Bytes>> {
        hyper::Request::get(url).body(Full::default()).unwrap()
    }

    pub(crate) async fn ended(&mut self) {
        within("the end of the HTTP/2 connection", self.ended.recv()).await;
    }
}

pub(crate) async fn tcp(addr: SocketAddr) -> TcpStream {
    let stream = within("a connection", TcpStream::connect(addr)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) async fn tls(
    addr: SocketAddr,
    config: Arc<ClientConfig>,
    server_name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(server_name.to_owned()).unwrap();
    within("a TLS handshake", TlsConnector::from(config).connect(name, tcp(addr).await)).await
}
