//! `AccessLog`: one JSON line per request, however it ended.
//!
//! Nothing that a client sends can break a line or blow it up: lines are ASCII, and every field has a limit. The query is never
//! logged, because credentials travel in it.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use http::Version;
use prometheus::IntCounter;
use time::OffsetDateTime;

use super::line_writer::{LineWriter, Sink};

/// A handle: clones share the queue and the thread that empties it.
#[derive(Clone)]
pub struct AccessLog(Arc<Shared>);

struct Shared {
    writer: LineWriter,
    on: AtomicBool,
    dropped: IntCounter,
}

/// What is known of a request when it has ended. Whatever is absent becomes `null`.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// When the request arrived.
    pub ts: SystemTime,
    pub request_id: &'a str,
    pub route: Option<&'a str>,
    pub platform: Option<&'a str>,
    pub method: &'a str,
    pub host: Option<&'a [u8]>,
    /// As the client sent it; a query is cut off.
    pub path: &'a [u8],
    pub status: u16,
    /// The code of a failure.
    pub reason: Option<&'a str>,
    pub duration: Duration,
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// How often the request was sent, or tried to be sent, to the function.
    pub attempts: u32,
    /// Whether the function was reached over a connection from the pool.
    pub reused: Option<bool>,
    pub upstream: Option<SocketAddr>,
    pub client: Option<IpAddr>,
    pub protocol: Version,
    /// How long the request waited for its function to come up; only written when it did.
    pub cold: Option<Duration>,
    /// How long it waited for one of its route's places; only written when it did.
    pub queued: Option<Duration>,
    /// Only written when there is one.
    pub activation_id: Option<&'a [u8]>,
}

impl AccessLog {
    /// Opens the sink, so that one that cannot be opened is known at once. `dropped` counts lines that found no room.
    pub fn start(sink: &Sink, dropped: IntCounter) -> io::Result<Self> {
        let writer = LineWriter::start("access-log", sink.open()?, report)?;
        let on = AtomicBool::new(*sink != Sink::Off);
        Ok(AccessLog(Arc::new(Shared { writer, on, dropped })))
    }

    /// Whether lines are written at all: without, nothing needs to be gathered for them.
    pub fn is_on(&self) -> bool {
        self.0.on.load(Relaxed)
    }

    /// Queues the line of a request. Never waits for the sink.
    pub fn record(&self, entry: &Entry<'_>) {
        if !self.0.on.load(Relaxed) {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            entry.write(line);
            if !self.0.writer.push(line) {
                self.0.dropped.inc();
            }
        });
    }

    /// Opens the file anew, after it was moved away.
    pub fn reopen(&self) {
        self.0.writer.reopen();
    }

    /// Writes to another sink from now on. When that cannot be opened, everything stays as it is.
    pub fn retarget(&self, sink: &Sink) -> io::Result<()> {
        self.0.writer.retarget(sink.open()?);
        self.0.on.store(*sink != Sink::Off, Relaxed);
        Ok(())
    }

    /// Waits until nothing is queued any more, at most for `limit`; tells whether it is so.
    pub fn flush(&self, limit: Duration) -> bool {
        self.0.writer.flush(limit)
    }
}

impl Entry<'_> {
    fn write(&self, line: &mut Vec<u8>) {
        let path = self.path.split(|byte| *byte == b'?').next().unwrap_or_default();
        line.extend_from_slice(b"{\"ts\":\"");
        timestamp(line, self.ts);
        line.push(b'"');
        text(line, "request_id", Some(self.request_id.as_bytes()));
        text(line, "route", self.route.map(str::as_bytes));
        text(line, "platform", self.platform.map(str::as_bytes));
        text(line, "method", Some(self.method.as_bytes()));
        text(line, "host", self.host);
        text(line, "path", Some(path));
        number(line, "status", self.status.into());
        text(line, "reason", self.reason.map(str::as_bytes));
        millis(line, "dur_ms", Some(self.duration));
        millis(line, "connect_ms", self.connect);
        millis(line, "first_byte_ms", self.first_byte);
        number(line, "bytes_in", self.bytes_in);
        number(line, "bytes_out", self.bytes_out);
        number(line, "attempts", self.attempts.into());
        key(line, "reused");
        line.extend_from_slice(match self.reused {
            Some(true) => b"true",
            Some(false) => b"false",
            None => b"null",
        });
        address(line, "upstream", self.upstream);
        address(line, "client", self.client);
        text(line, "protocol", Some(protocol(self.protocol).as_bytes()));
        if self.cold.is_some() {
            millis(line, "cold_ms", self.cold);
        }
        if self.queued.is_some() {
            millis(line, "queue_ms", self.queued);
        }
        if self.activation_id.is_some() {
            text(line, "activation_id", self.activation_id);
        }
        line.extend_from_slice(b"}\n");
    }
}

fn key(line: &mut Vec<u8>, key: &str) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(key.as_bytes());
    line.extend_from_slice(b"\":");
}

fn text(line: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    key(line, name);
    match value {
        None => line.extend_from_slice(b"null"),
        Some(value) => {
            line.push(b'"');
            escape(line, value);
            line.push(b'"');
        }
    }
}

fn number(line: &mut Vec<u8>, name: &str, value: u64) {
    key(line, name);
    digits(line, value, 1);
}

/// Milliseconds with three decimals.
fn millis(line: &mut Vec<u8>, name: &str, value: Option<Duration>) {
    key(line, name);
    match value {
        None => line.extend_from_slice(b"null"),
        Some(value) => {
            let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
            digits(line, micros / 1000, 1);
            line.push(b'.');
            digits(line, micros % 1000, 3);
        }
    }
}

fn address(line: &mut Vec<u8>, name: &str, value: Option<impl std::fmt::Display>) {
    key(line, name);
    match value {
        None => line.extend_from_slice(b"null"),
        // Addresses have nothing to escape, and a vector takes everything.
        Some(value) => drop(write!(line, "\"{value}\"")),
    }
}

/// RFC 3339 in UTC with milliseconds, as it stands in logs.
pub fn rfc3339(time: SystemTime) -> String {
    let mut text = Vec::new();
    timestamp(&mut text, time);
    text.into_iter().map(char::from).collect()
}

pub(super) fn timestamp(line: &mut Vec<u8>, time: SystemTime) {
    let time = OffsetDateTime::from(time);
    let parts = [
        (time.year().unsigned_abs().into(), 4, b'-'),
        (u8::from(time.month()).into(), 2, b'-'),
        (time.day().into(), 2, b'T'),
        (time.hour().into(), 2, b':'),
        (time.minute().into(), 2, b':'),
        (time.second().into(), 2, b'.'),
        (time.millisecond().into(), 3, b'Z'),
    ];
    for (value, width, end) in parts {
        digits(line, value, width);
        line.push(end);
    }
}

/// Decimal, with leading zeros up to `width`.
fn digits(line: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut reversed = [b'0'; 20];
    let mut length = 0;
    while value > 0 || length < width {
        reversed[length] = b'0' + (value % 10) as u8;
        value /= 10;
        length += 1;
    }
    line.extend(reversed[..length].iter().rev());
}

/// The inside of a JSON string, in ASCII: control characters, quotes and everything beyond ASCII are escaped, bytes that are no
/// UTF-8 become `\xff` with a literal backslash. What is longer than a field may be ends in an ellipsis.
fn escape(line: &mut Vec<u8>, value: &[u8]) {
    let kept = &value[..value.len().min(MAX_FIELD)];
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) && *byte != b'"' && *byte != b'\\';
    if kept.iter().all(plain) {
        line.extend_from_slice(kept);
    } else {
        for chunk in kept.utf8_chunks() {
            chunk.valid().chars().for_each(|char| escape_char(line, char));
            for byte in chunk.invalid() {
                line.extend_from_slice(b"\\\\x");
                hex(line, u16::from(*byte), 2);
            }
        }
    }
    if kept.len() < value.len() {
        escape_char(line, '…');
    }
}

fn escape_char(line: &mut Vec<u8>, char: char) {
    match char {
        '"' => line.extend_from_slice(b"\\\""),
        '\\' => line.extend_from_slice(b"\\\\"),
        ' '..='~' => line.push(char as u8),
        _ => {
            for unit in char.encode_utf16(&mut [0; 2]) {
                line.extend_from_slice(b"\\u");
                hex(line, *unit, 4);
            }
        }
    }
}

fn hex(line: &mut Vec<u8>, value: u16, width: u32) {
    for place in (0..width).rev() {
        line.push(b"0123456789abcdef"[usize::from(value >> (4 * place) & 0xf)]);
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

fn report(message: &str) {
    log::error!("the access log {message}");
}

/// Bytes of a field that are written.
const MAX_FIELD: usize = 2 << 10;

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests;
