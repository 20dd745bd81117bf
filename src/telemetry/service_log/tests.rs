use std::io::Read;
use std::os::fd::OwnedFd;

use super::*;
use crate::telemetry::line_writer::Output;

const NOON: Duration = Duration::from_millis(1_795_262_400_042);

fn piped(level: LevelFilter) -> (ServiceLog, io::PipeReader) {
    let (reader, writer) = io::pipe().unwrap();
    let output = Output::to(File::from(OwnedFd::from(writer)), None);
    let writer = LineWriter::start("service-log", output, |_| {}).unwrap();
    (ServiceLog::new(level, Form::Journal, writer), reader)
}

fn read(log: ServiceLog, mut reader: io::PipeReader) -> String {
    drop(log);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

fn log_at(log: &ServiceLog, line: u32, message: &str) {
    let mut record = Record::builder();
    record.level(Level::Warn).target("fngate::app").file_static(Some("src/app.rs")).line(Some(line));
    log.log(&record.args(format_args!("{message}")).build());
}

#[track_caller]
fn check_line(form: Form, message: &str, expected: &str) {
    let line = form.line(Level::Warn, "fngate::app", message, SystemTime::UNIX_EPOCH + NOON);
    assert_eq!(String::from_utf8(line).unwrap(), expected);
}

#[test]
fn a_record_is_one_line() {
    check_line(Form::Readable, "grüße", "2026-11-21T12:00:00.042Z WARN  fngate::app: grüße\n");
    check_line(Form::Journal, "hello", "<4>fngate::app: hello\n");
    check_line(Form::Journal, "a\n<0>b\r\x1b[2J", "<4>fngate::app: a\\n<0>b\\r\\u{1b}[2J\n");
    check_line(Form::Journal, "\u{9b}\u{202e}x", "<4>fngate::app: \\u{9b}\\u{202e}x\n");
    let long = "ü".repeat(MAX_MESSAGE);
    check_line(Form::Journal, &long, &format!("<4>fngate::app: {}…\n", "ü".repeat(MAX_MESSAGE / 2)));
}

#[test]
fn a_flood_is_left_out_and_counted() {
    let (log, reader) = piped(LevelFilter::Info);
    let start = Instant::now();
    let place = ("src/app.rs", 7);
    let admitted = (0..1000).filter(|_| log.admit(place, start).is_some()).count();
    assert_eq!(admitted, BURST as usize);
    assert_eq!(log.admit(("src/app.rs", 8), start), Some(0), "other places are not held back");
    assert_eq!(log.admit(place, start + Duration::from_secs(1)), Some(900));
    assert_eq!(log.admit(place, start + Duration::from_secs(1)), Some(0));
    assert!(read(log, reader).is_empty());
}

#[test]
fn a_message_says_how_many_were_left_out() {
    let (log, reader) = piped(LevelFilter::Info);
    let earlier = Instant::now() - Duration::from_secs(1);
    while log.admit(("src/app.rs", 7), earlier).is_some() {}
    log_at(&log, 7, "again");
    assert_eq!(read(log, reader), "<4>fngate::app: again (1 more like it were left out)\n");
}

#[test]
fn what_stderr_did_not_take_is_told() {
    let (log, reader) = piped(LevelFilter::Info);
    let long = "a".repeat(MAX_MESSAGE);
    let mut place = 0;
    while log.lost.load(Relaxed) == 0 {
        place += 1;
        log_at(&log, place, &long);
    }
    let reading = std::thread::spawn(move || io::read_to_string(reader).unwrap());
    assert!(log.writer.flush(Duration::from_secs(10)));
    log_at(&log, 0, "there is room again");
    drop(log);

    let text = reading.join().unwrap();
    let last: Vec<_> = text.lines().rev().take(2).collect();
    assert_eq!(last[1], "<4>fngate::app: there is room again");
    let notice = "lines are missing here, stderr did not take them";
    assert!(
        last[0].starts_with("<4>fngate::telemetry::service_log: ") && last[0].ends_with(notice),
        "{}",
        last[0]
    );
}

#[test]
fn the_libraries_are_quiet_and_never_tell_details() {
    use LevelFilter::*;
    for (level, target, expected) in [
        (Info, "fngate", Info),
        (Info, "fngate::reload", Info),
        (Info, "fngateway", Warn),
        (Info, "hickory_resolver::udp", Warn),
        (Error, "rustls", Error),
        (Info, "pingora_proxy", Off),
        (Info, "pingora_core::protocols::http::v1::server", Off),
        (Info, "pingora_core::services::listening", Error),
        (Off, "pingora_core::server", Off),
        (Debug, "fngate::gateway", Debug),
        (Trace, "fngate", Trace),
        // More verbose records of theirs hold heads with credentials.
        (Debug, "pingora_proxy", Info),
        (Trace, "h2", Info),
    ] {
        assert_eq!(limit(level, target), expected, "{level} {target}");
    }
}

/// Runs itself as a process of its own, because a logger and a panic hook are for good.
#[test]
fn a_panic_tells_where_and_nothing_of_a_client() {
    const CHILD: &str = "FNGATE_TEST_PANICS";
    if std::env::var_os(CHILD).is_some() {
        install(LevelFilter::Info).unwrap();
        let from_a_client = String::from("hunter2");
        std::thread::spawn(move || panic!("cannot take {from_a_client}")).join().unwrap_err();
        std::thread::spawn(|| panic!("the table is empty")).join().unwrap_err();
        log::info!("served on");
        log::logger().flush();
        return;
    }
    let name = format!("{}::a_panic_tells_where_and_nothing_of_a_client", module_path!());
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name.trim_start_matches("fngate::"), "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env_remove("JOURNAL_STREAM")
        .output()
        .unwrap();

    assert!(child.status.success(), "{child:?}");
    let seen = String::from_utf8(child.stderr).unwrap();
    let lines: Vec<_> = seen.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let [first, second, third] = lines[..] else { panic!("{seen}") };
    assert!(first.starts_with("ERROR fngate::telemetry::service_log: panic at src/"), "{first}");
    assert!(first.ends_with(|last: char| last.is_ascii_digit()), "{first}");
    assert!(second.ends_with(": the table is empty"), "{second}");
    assert_eq!(third, format!("INFO  {}: served on", module_path!()));
}

#[test]
fn the_journal_is_only_meant_when_it_is_our_stderr() {
    assert!(!is_stderr("0:0"));
    assert!(!is_stderr(""));
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().unwrap()).metadata().unwrap();
    assert!(is_stderr(&format!("{}:{}", stderr.dev(), stderr.ino())));
}
