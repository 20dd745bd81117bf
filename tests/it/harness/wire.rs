//! One connection seen as bytes, and just enough HTTP/1 to find where a message ends. It never corrects what it reads:
//! a body that stops early is reported as cut.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// A socket with or without TLS around it.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {
    fn tcp(&self) -> &TcpStream;
}

impl Io for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Io for tokio_rustls::server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Io for tokio_rustls::client::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

pub(crate) struct Wire {
    io: Box<dyn Io>,
    unread: Vec<u8>,
    tap: Option<Arc<Mutex<Vec<u8>>>>,
}

impl Wire {
    pub(crate) fn new(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), unread: Vec::new(), tap: None }
    }

    /// Copies what arrives from now on into `tap`, up to `TAP_LIMIT`.
    pub(crate) fn tapped(mut self, tap: Arc<Mutex<Vec<u8>>>) -> Self {
        self.tap = Some(tap);
        self
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Ends the sending side only.
    pub(crate) async fn finish(&mut self) {
        // A peer that is gone already has what it wants.
        let _ = self.io.shutdown().await;
    }

    /// Makes the close that follows a reset.
    pub(crate) fn linger_zero(&self) {
        self.io.tcp().set_zero_linger().unwrap();
    }

    /// The next head with its empty line, or nothing when the peer closed before it was complete.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.unread.split_off(end + 4);
                return Some(Head::parse(&std::mem::replace(&mut self.unread, rest)));
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Whatever is there or comes next; empty at the end of the connection.
    pub(crate) async fn some(&mut self) -> Vec<u8> {
        if self.unread.is_empty() {
            self.fill().await;
        }
        std::mem::take(&mut self.unread)
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.unread)
    }

    /// The raw connection, for protocols that take over after an upgrade. Nothing may be left unread.
    pub(crate) fn io(&mut self) -> &mut dyn Io {
        assert!(self.unread.is_empty(), "bytes were sent before the upgrade was answered");
        &mut *self.io
    }

    async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|window| window == b"\r\n") {
                let rest = self.unread.split_off(end + 2);
                let mut line = std::mem::replace(&mut self.unread, rest);
                line.truncate(end);
                return Some(line);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// False at the end of the connection, however it ended.
    async fn fill(&mut self) -> bool {
        let before = self.unread.len();
        self.unread.reserve(64 * 1024);
        let more = matches!(self.io.read_buf(&mut self.unread).await, Ok(n) if n > 0);
        if let Some(tap) = &self.tap {
            let mut tap = tap.lock().unwrap();
            let room = TAP_LIMIT.saturating_sub(tap.len());
            let new = &self.unread[before..];
            tap.extend_from_slice(&new[..new.len().min(room)]);
        }
        more
    }
}

/// A request or response head.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) first_line: String,
    /// Names as sent, in the order sent; values without the blanks around them.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    fn parse(raw: &[u8]) -> Self {
        let text = String::from_utf8_lossy(raw).into_owned();
        let mut lines = text.split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| match line.split_once(':') {
                Some((name, value)) => (name.to_owned(), value.trim_matches([' ', '\t']).to_owned()),
                None => (line.to_owned(), String::new()),
            })
            .collect();
        Self { first_line, headers }
    }

    /// The word at `index` of the first line.
    pub(crate) fn word(&self, index: usize) -> &str {
        self.first_line.split(' ').nth(index).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
}

pub(crate) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    pub(crate) fn of_request(head: &Head) -> Self {
        Self::announced(head).unwrap_or(Self::Length(0))
    }

    pub(crate) fn of_response(head: &Head, method: &str) -> Self {
        let status = head.word(1);
        if method == "HEAD" || matches!(status, "204" | "304") || status.starts_with('1') {
            return Self::Length(0);
        }
        Self::announced(head).unwrap_or(Self::UntilClose)
    }

    fn announced(head: &Head) -> Option<Self> {
        if head.header("transfer-encoding").is_some_and(|te| te.eq_ignore_ascii_case("chunked")) {
            return Some(Self::Chunked);
        }
        head.header("content-length").map(|length| Self::Length(length.parse().unwrap()))
    }
}

/// What reading a body yields.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// The end that the framing announced.
    End,
    /// The connection ended before that.
    Cut,
}

/// Reads one body from a wire, a piece at a time.
pub(crate) struct Body {
    framing: Framing,
    /// Bytes left of the announced length or of the current chunk.
    left: u64,
    ended: bool,
}

impl Body {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(left) => Self { framing, left, ended: left == 0 },
            Framing::Chunked | Framing::UntilClose => Self { framing, left: 0, ended: false },
        }
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    pub(crate) async fn next(&mut self, wire: &mut Wire) -> Piece {
        if self.ended {
            return Piece::End;
        }
        match self.framing {
            Framing::UntilClose => {
                let bytes = wire.some().await;
                self.ended = bytes.is_empty();
                if self.ended { Piece::End } else { Piece::Bytes(bytes) }
            }
            Framing::Length(_) => {
                let piece = self.take(wire).await;
                self.ended = self.left == 0;
                piece
            }
            Framing::Chunked => {
                if self.left == 0 {
                    match chunk_size(wire).await {
                        None => return Piece::Cut,
                        Some(0) => return self.trailers(wire).await,
                        Some(size) => self.left = size,
                    }
                }
                let piece = self.take(wire).await;
                if self.left == 0 && wire.line().await.is_none_or(|line| !line.is_empty()) {
                    return Piece::Cut;
                }
                piece
            }
        }
    }

    async fn take(&mut self, wire: &mut Wire) -> Piece {
        let mut bytes = wire.some().await;
        if bytes.is_empty() {
            return Piece::Cut;
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        wire.unread = bytes.split_off(wanted);
        self.left -= wanted as u64;
        Piece::Bytes(bytes)
    }

    async fn trailers(&mut self, wire: &mut Wire) -> Piece {
        while let Some(line) = wire.line().await {
            if line.is_empty() {
                self.ended = true;
                return Piece::End;
            }
        }
        Piece::Cut
    }
}

async fn chunk_size(wire: &mut Wire) -> Option<u64> {
    let line = wire.line().await?;
    let digits = line.split(|byte| *byte == b';').next()?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Enough for every head a test looks at; large bodies are not kept twice.
const TAP_LIMIT: usize = 1024 * 1024;
