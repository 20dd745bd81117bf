//! One request in the hands of a script, and what it may answer.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::OwnedMutexGuard;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::journal::{Journal, Recorded};
use super::wire::{Body, Head, Piece, Wire};

/// One request on one HTTP/1 connection, in the hands of a script.
pub(crate) struct Exchange {
    pub(crate) head: Head,
    pub(super) index: usize,
    pub(super) body: Body,
    pub(super) line: OwnedMutexGuard<Line>,
    pub(super) journal: Arc<Journal>,
}

impl Exchange {
    pub(crate) fn method(&self) -> &str {
        self.head.word(0)
    }

    pub(crate) fn target(&self) -> &str {
        self.head.word(1)
    }

    /// The next piece of the request body as it arrives; nothing at its end, clean or not.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        match self.body.next(&mut self.line.wire).await {
            Piece::Bytes(bytes) => {
                self.journal.write(|state| state.requests[self.index].body.extend_from_slice(&bytes));
                Some(bytes)
            }
            Piece::End => None,
            Piece::Cut => {
                self.close();
                None
            }
        }
    }

    /// What is left of the request body.
    pub(crate) async fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(bytes) = self.chunk().await {
            body.extend_from_slice(&bytes);
        }
        body
    }

    /// Sends bytes as they are. A peer that is gone is no fault of the script.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if self.line.wire.send(bytes.as_ref()).await.is_err() {
            self.close();
        }
    }

    pub(crate) async fn answer(&mut self, reply: Reply) {
        self.send(reply.http1()).await;
    }

    /// Starts a chunked answer.
    pub(crate) async fn start_chunked(&mut self, content_type: &str) {
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n");
        self.send(head).await;
    }

    pub(crate) async fn send_chunk(&mut self, data: &str) {
        self.send(format!("{:x}\r\n{data}\r\n", data.len())).await;
    }

    pub(crate) async fn end_chunked(&mut self) {
        self.send("0\r\n\r\n").await;
    }

    /// No further request on this connection.
    pub(crate) fn close(&mut self) {
        self.line.closing = true;
    }

    /// Whether there will be no further request: closed here, or the peer is gone.
    pub(crate) fn closing(&self) -> bool {
        self.line.closing
    }

    /// The same, with a reset instead of an orderly end.
    pub(crate) fn reset(&mut self) {
        self.line.wire.linger_zero();
        self.close();
    }

    /// Waits for the peer to end the connection, and swallows what it still sends.
    pub(crate) async fn peer_closed(&mut self) {
        self.line.wire.rest().await;
        self.close();
    }

    /// Answers the handshake and returns every message until the peer closes.
    pub(crate) async fn websocket_echo(&mut self) {
        let key = self.head.header("sec-websocket-key").unwrap_or_default().to_owned();
        self.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        ))
        .await;
        let mut socket = WebSocketStream::from_raw_socket(self.line.wire.io(), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                break;
            }
        }
        drop(socket);
        self.close();
    }

    pub(super) fn recorded(&self) -> Recorded {
        self.journal.read(|state| state.requests[self.index].clone())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // What is left of a body must not be taken for the next request.
        self.line.closing |= !self.body.ended();
    }
}

/// The connection itself, lent to one exchange after the other.
pub(super) struct Line {
    pub(super) wire: Wire,
    pub(super) closing: bool,
}

/// An answer in full.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn text(status: u16, text: &str) -> Self {
        Self::new(status, text).header("Content-Type", "text/plain")
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::new(200, value.to_string()).header("Content-Type", "application/json")
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn http1(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Said\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.status != 204 {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        head += "\r\n";
        [head.as_bytes(), &self.body].concat()
    }
}
