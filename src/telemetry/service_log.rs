//! The service's own log: the `log` facade's records as single lines on stderr.
//!
//! Tells what an operator should know about the process; facts about a request belong to the access log. A record never blocks
//! its thread, never spans lines, and a flood from one place in the code cannot fill a disk.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::access_log::timestamp;
use super::line_writer::{LineWriter, Sink};

/// Sends all records to stderr from now on, and panics with them. `log::logger().flush()` waits for what is queued.
pub fn install(level: LevelFilter) -> io::Result<()> {
    let journal = std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stderr(&stream));
    // Nothing is left to complain to when stderr itself fails.
    let writer = LineWriter::start("service-log", Sink::Stderr.open()?, |_| {})?;
    let form = if journal { Form::Journal } else { Form::Readable };
    log::set_logger(LOG.get_or_init(|| ServiceLog::new(level, form, writer)))
        .map_err(|error| io::Error::other(error.to_string()))?;
    log::set_max_level(level);
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

static LOG: OnceLock<ServiceLog> = OnceLock::new();

struct ServiceLog {
    level: LevelFilter,
    form: Form,
    writer: LineWriter,
    /// By the place in the code; there are as many as there are calls of the log macros.
    budgets: Mutex<HashMap<Place, Budget>>,
    /// Lines for which stderr had no room since the last one that it took.
    lost: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// systemd's priority prefix; the journal adds the time.
    Journal,
    Readable,
}

impl ServiceLog {
    fn new(level: LevelFilter, form: Form, writer: LineWriter) -> Self {
        ServiceLog { level, form, writer, budgets: Mutex::default(), lost: AtomicU64::new(0) }
    }

    fn write(&self, level: Level, target: &str, message: &str, now: SystemTime) {
        let line = self.form.line(level, target, message, now);
        if !self.writer.push(&line) {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        match self.lost.swap(0, Relaxed) {
            0 => {}
            lost => {
                let notice = format!("{lost} lines are missing here, stderr did not take them");
                if !self.writer.push(&self.form.line(Level::Warn, module_path!(), &notice, now)) {
                    self.lost.fetch_add(lost, Relaxed);
                }
            }
        }
    }

    /// Whether the place may write now, and how many of its records were left out before.
    fn admit(&self, place: Place, now: Instant) -> Option<u32> {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.entry(place).or_insert_with(|| Budget::full(now)).spend(now)
    }
}

impl Log for ServiceLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= limit(self.level, metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let place = (record.file_static().unwrap_or_default(), record.line().unwrap_or_default());
        let Some(left_out) = self.admit(place, Instant::now()) else { return };
        let mut message = record.args().to_string();
        if left_out > 0 {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            message.push_str(&format!(" ({left_out} more like it were left out)"));
        }
        self.write(record.level(), record.target(), &message, SystemTime::now());
    }

    fn flush(&self) {
        self.writer.flush(FLUSH_LIMIT);
    }
}

impl Form {
    fn line(self, level: Level, target: &str, message: &str, now: SystemTime) -> Vec<u8> {
        let mut line = Vec::with_capacity(64 + target.len() + message.len());
        match self {
            Form::Journal => {
                line.extend_from_slice(match level {
                    Level::Error => b"<3>",
                    Level::Warn => b"<4>",
                    Level::Info => b"<6>",
                    Level::Debug | Level::Trace => b"<7>",
                });
            }
            Form::Readable => {
                timestamp(&mut line, now);
                line.extend_from_slice(format!(" {level:5} ").as_bytes());
            }
        }
        line.extend_from_slice(target.as_bytes());
        line.extend_from_slice(b": ");
        let kept = message.floor_char_boundary(MAX_MESSAGE);
        for char in message[..kept].chars() {
            match char {
                // A quoted backslash would make paths and patterns hard to read; nothing parses these lines.
                char if char.is_control() || is_line_or_direction_mark(char) => {
                    line.extend(char.escape_default().map(|char| char as u8));
                }
                char => line.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if kept < message.len() {
            line.extend_from_slice("…".as_bytes());
        }
        line.push(b'\n');
        line
    }
}

/// File and line of a log macro.
type Place = (&'static str, u32);

/// Lets a burst through, such as all faults of a file, and then a trickle.
struct Budget {
    tokens: f64,
    filled: Instant,
    left_out: u32,
}

impl Budget {
    fn full(now: Instant) -> Self {
        Budget { tokens: BURST, filled: now, left_out: 0 }
    }

    fn spend(&mut self, now: Instant) -> Option<u32> {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * PER_SECOND;
        self.tokens = (self.tokens + gained).min(BURST);
        self.filled = now;
        if self.tokens < 1.0 {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.tokens -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// The most verbose level that is shown of a target. Pingora logs an error for every client that leaves and every function that
/// fails, which the access log says better; what remains is what its listeners and its server have to say. Other libraries only
/// warn. Who asks for `debug` gets what all of them find worth telling, but never more: their details are whole heads, and the
/// credentials in them.
fn limit(level: LevelFilter, target: &str) -> LevelFilter {
    let is_of =
        |name: &str| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    if is_of("fngate") {
        level
    } else if level >= LevelFilter::Debug {
        LevelFilter::Info
    } else if is_of("pingora_core::services") || is_of("pingora_core::server") {
        level.min(LevelFilter::Error)
    } else if target.starts_with("pingora") {
        LevelFilter::Off
    } else {
        level.min(LevelFilter::Warn)
    }
}

/// Says where, and what only when that is fixed text: a formatted message may hold what a client sent.
fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
    let place = place.unwrap_or_default();
    let message = info.payload().downcast_ref::<&'static str>().map(|message| format!(": {message}"));
    log::error!("panic{place}{}", message.unwrap_or_default());
}

/// Whether `JOURNAL_STREAM` (device and inode, as systemd writes them) means our stderr, and not that of some parent.
fn is_stderr(journal_stream: &str) -> bool {
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    stderr.is_ok_and(|stderr| journal_stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Marks that break a line or turn its direction in a terminal.
fn is_line_or_direction_mark(char: char) -> bool {
    matches!(char, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes of a message that are shown.
const MAX_MESSAGE: usize = 2 << 10;
/// What one place in the code may write at once, and then per second.
const BURST: f64 = 100.0;
const PER_SECOND: f64 = 5.0;
/// How long the end of the process may wait for stderr.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
