use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::AtomicUsize;

use serde_json::Value;

use super::*;
use crate::telemetry::line_writer::{Output, RETRY};

const SOON: Duration = Duration::from_secs(10);

fn entry() -> Entry<'static> {
    Entry {
        ts: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_238_400_007),
        request_id: "0af7651916cd43dd",
        route: Some("hello"),
        platform: Some("openfunction"),
        method: "GET",
        host: Some(b"api.example.com"),
        path: b"/hello/a%20b",
        status: 200,
        reason: None,
        duration: Duration::from_micros(12_034),
        connect: Some(Duration::from_nanos(999_999)),
        first_byte: None,
        bytes_in: 0,
        bytes_out: 18_446_744_073_709_551_615,
        attempts: 1,
        reused: Some(false),
        upstream: Some("[::1]:30583".parse().unwrap()),
        client: Some("192.0.2.7".parse().unwrap()),
        protocol: Version::HTTP_11,
        cold: None,
        queued: None,
        activation_id: None,
    }
}

fn line(entry: &Entry<'_>) -> String {
    let mut line = Vec::new();
    entry.write(&mut line);
    String::from_utf8(line).unwrap()
}

fn counter() -> IntCounter {
    IntCounter::new("dropped", "Dropped.").unwrap()
}

#[test]
fn a_line_has_the_promised_fields_in_their_order() {
    let expected = concat!(
        r#"{"ts":"2026-11-21T05:20:00.007Z","request_id":"0af7651916cd43dd","route":"hello","platform":"openfunction","#,
        r#""method":"GET","host":"api.example.com","path":"/hello/a%20b","status":200,"reason":null,"dur_ms":12.034,"#,
        r#""connect_ms":0.999,"first_byte_ms":null,"bytes_in":0,"bytes_out":18446744073709551615,"attempts":1,"#,
        r#""reused":false,"upstream":"[::1]:30583","client":"192.0.2.7","protocol":"HTTP/1.1"}"#,
        "\n"
    );
    assert_eq!(line(&entry()), expected);
}

#[test]
fn an_activation_id_stands_at_the_end() {
    let line = line(&Entry { activation_id: Some(b"3f2c"), protocol: Version::HTTP_2, ..entry() });
    assert!(line.ends_with("\"protocol\":\"HTTP/2\",\"activation_id\":\"3f2c\"}\n"), "{line}");
}

#[test]
fn the_query_is_left_out() {
    let line = line(&Entry { path: b"/hello?token=hunter2", ..entry() });
    assert!(line.contains("\"path\":\"/hello\""), "{line}");
    assert!(!line.contains("hunter2"), "{line}");
}

#[track_caller]
fn check_escape(sent: &[u8], read: &str) {
    let line = line(&Entry { path: sent, host: Some(sent), ..entry() });
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    assert!(line.trim_end().bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{line}");
    let parsed: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(parsed["host"], read, "{line}");
    assert_eq!(parsed["path"], read, "{line}");
    assert_eq!(parsed["status"], 200, "{line}");
}

#[test]
fn hostile_bytes_stay_inside_their_field() {
    check_escape(b"\",\"status\":500,\"x\":\"", "\",\"status\":500,\"x\":\"");
    check_escape(b"a\r\n{\"ts\":\"forged\"}\n", "a\r\n{\"ts\":\"forged\"}\n");
    check_escape(b"\\", "\\");
    check_escape(b"\0\x1b[2J\x7f\t", "\0\u{1b}[2J\u{7f}\t");
    check_escape("ü … 🦀 \u{2028} \u{9b}".as_bytes(), "ü … 🦀 \u{2028} \u{9b}");
    check_escape(b"\xff\xfe ok \xe2\x82", "\\xff\\xfe ok \\xe2\\x82");
    check_escape(b"", "");
}

#[test]
fn every_single_byte_is_harmless() {
    for byte in (0..=255).filter(|byte| *byte != b'?') {
        let line = line(&Entry { path: &[b'/', byte], ..entry() });
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert!(parsed["path"].as_str().unwrap().starts_with('/'), "{byte}: {line}");
    }
}

#[test]
fn a_field_is_cut_at_its_limit() {
    let long = vec![b'a'; MAX_FIELD + 1];
    let parsed: Value = serde_json::from_str(&line(&Entry { path: &long, ..entry() })).unwrap();
    assert_eq!(parsed["path"].as_str().unwrap(), format!("{}…", "a".repeat(MAX_FIELD)));

    let hostile = vec![0xff; 1 << 20];
    assert!(line(&Entry { path: &hostile, ..entry() }).len() < 6 * MAX_FIELD);
}

fn read_lines(path: &Path) -> Vec<String> {
    let read = fs::read_to_string(path).unwrap();
    assert!(read.is_empty() || read.ends_with('\n'), "{read}");
    read.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["route"].as_str().unwrap().to_owned())
        .collect()
}

fn named(route: &'static str) -> Entry<'static> {
    Entry { route: Some(route), ..entry() }
}

#[test]
fn a_file_that_was_moved_away_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log = AccessLog::start(&Sink::File(path.clone()), counter()).unwrap();

    log.record(&named("first"));
    assert!(log.flush(SOON));
    fs::rename(&path, &moved).unwrap();
    log.record(&named("second"));
    assert!(log.flush(SOON));
    log.reopen();
    log.record(&named("third"));
    assert!(log.flush(SOON));

    assert_eq!(read_lines(&moved), ["first", "second"]);
    assert_eq!(read_lines(&path), ["third"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7137, 0, "at most 0640");
}

#[test]
fn a_new_sink_takes_over_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old.log"), dir.path().join("new.log"));
    let log = AccessLog::start(&Sink::File(old.clone()), counter()).unwrap();

    assert!(log.retarget(&Sink::File(dir.path().join("missing/access.log"))).is_err());
    log.record(&named("first"));
    assert!(log.flush(SOON));
    log.retarget(&Sink::File(new.clone())).unwrap();
    log.record(&named("second"));
    assert!(log.flush(SOON));
    log.retarget(&Sink::Off).unwrap();
    log.record(&named("third"));
    assert!(log.flush(SOON));
    log.retarget(&Sink::File(new.clone())).unwrap();
    log.record(&named("fourth"));
    assert!(log.flush(SOON));

    assert_eq!(read_lines(&old), ["first"]);
    assert_eq!(read_lines(&new), ["second", "fourth"]);
}

#[test]
fn a_sink_that_cannot_be_opened_is_known_at_the_start() {
    assert!(AccessLog::start(&Sink::File("/dev/null/access.log".into()), counter()).is_err());
}

/// A log into a pipe, and the pipe's other end.
fn piped() -> (AccessLog, io::PipeReader) {
    let (reader, writer) = io::pipe().unwrap();
    (log_to(writer, |_| {}), reader)
}

fn log_to(sink: impl Into<OwnedFd>, report: fn(&str)) -> AccessLog {
    let writer = LineWriter::start("access-log", Output::to(File::from(sink.into()), None), report).unwrap();
    AccessLog(Arc::new(Shared { writer, on: AtomicBool::new(true), dropped: counter() }))
}

#[test]
fn a_blocked_sink_loses_lines_and_blocks_nobody() {
    let (log, reader) = piped();
    let path = vec![b'a'; 1000];
    let sent = 20_000_u64;
    for _ in 0..sent {
        log.record(&Entry { path: &path, ..entry() });
    }
    let dropped = log.0.dropped.get();
    assert!(dropped > 0 && dropped < sent, "{dropped}");
    assert!(!log.flush(Duration::from_millis(50)), "nobody reads");

    // Once somebody reads, every line that was not dropped arrives, and arrives whole.
    let reading = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines();
        lines.filter(|line| serde_json::from_str::<Value>(line.as_ref().unwrap()).is_ok()).count()
    });
    assert!(log.flush(SOON));
    drop(log);
    assert_eq!(reading.join().unwrap() as u64, sent - dropped);
}

#[test]
fn a_sink_that_is_gone_ends_nothing_and_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let (log, reader) = piped();
    drop(reader);

    log.record(&named("first"));
    assert!(!log.flush(Duration::from_millis(50)), "a closed pipe takes nothing");
    log.retarget(&Sink::File(path.clone())).unwrap();
    assert!(log.flush(SOON));

    assert_eq!(read_lines(&path), ["first"], "what was queued goes to the new sink");
}

#[test]
fn a_full_disk_is_reported_once_and_tried_again() {
    static REPORTS: AtomicUsize = AtomicUsize::new(0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let log = log_to(full, |_| _ = REPORTS.fetch_add(1, Relaxed));

    log.record(&named("first"));
    assert!(!log.flush(RETRY + RETRY / 2), "long enough for a second attempt");
    assert_eq!(REPORTS.load(Relaxed), 1);
    log.retarget(&Sink::File(path.clone())).unwrap();
    assert!(log.flush(SOON));

    assert_eq!(REPORTS.load(Relaxed), 2, "and once that it is over");
    assert_eq!(read_lines(&path), ["first"]);
}

#[test]
fn a_sink_in_non_blocking_mode_gets_every_line() {
    let (reader, writer) = UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    let log = log_to(writer, |trouble| panic!("{trouble}"));
    let path = vec![b'a'; 1000];
    (0..1000).for_each(|_| log.record(&Entry { path: &path, ..entry() }));

    let reading = std::thread::spawn(move || io::read_to_string(reader).unwrap());
    assert!(log.flush(SOON));
    drop(log);
    let read = reading.join().unwrap();
    assert!(read.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert_eq!(read.lines().count(), 1000);
}

#[test]
fn dropping_the_log_writes_what_is_queued() {
    let (log, mut reader) = piped();
    (0..100).for_each(|_| log.record(&entry()));
    drop(log);

    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read.lines().count(), 100);
}
