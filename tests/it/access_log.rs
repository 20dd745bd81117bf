//! Where the access log goes, and that no trouble with it reaches a client.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::*;

#[tokio::test]
async fn a_file_is_written_and_opened_anew_when_asked() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&logging("{ path: $DIR/access.log }", &origin)).await;
    let (current, rotated) = (gateway.dir().join("access.log"), gateway.dir().join("access.log.1"));
    gateway.get("/fn/first").await;
    lines(&current, 1).await;

    std::fs::rename(&current, &rotated).unwrap();
    gateway.signal(Signal::SIGUSR1);
    eventually("the new file", PATIENCE, async || current.exists().then_some(())).await;
    gateway.get("/fn/second").await;

    assert_eq!(lines(&current, 1).await[0]["path"], "/fn/second");
    assert_eq!(lines(&rotated, 1).await[0]["path"], "/fn/first");
    assert_eq!(gateway.stdout(), "");
}

#[tokio::test]
async fn a_file_keeps_what_an_earlier_run_wrote() {
    let origin = Origin::echo().await;
    let earlier = "{\"path\":\"/earlier\"}\n";
    let gateway = Gateway::builder()
        .file("access.log", earlier)
        .start(&logging("{ path: $DIR/access.log }", &origin))
        .await;

    gateway.get("/fn/now").await;

    let log = lines(&gateway.dir().join("access.log"), 2).await;
    assert_eq!((&log[0]["path"], &log[1]["path"]), (&"/earlier".into(), &"/fn/now".into()));
}

#[tokio::test]
async fn off_is_off() {
    let origin = Origin::echo().await;
    let mut gateway = Gateway::start(&logging("off", &origin)).await;
    gateway.get("/fn/x").await;
    gateway.counts("fngate_http_requests_total", &[], 1.0).await;

    gateway.signal(Signal::SIGTERM);
    gateway.exit().await;

    assert_eq!(gateway.stdout(), "");
}

#[tokio::test]
async fn the_last_lines_are_written_before_the_end() {
    let origin = Origin::echo().await;
    let mut gateway = Gateway::start(&logging("{ path: $DIR/access.log }", &origin)).await;
    let path = gateway.dir().join("access.log");
    let mut client = gateway.client().await;
    for _ in 0..50 {
        client.call(&Request::get("/fn/x")).await;
    }
    drop(client);

    gateway.signal(Signal::SIGTERM);
    gateway.exit().await;

    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 50);
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_not_requests() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&logging("{ path: /dev/full }", &origin)).await;

    let mut client = gateway.client().await;
    for _ in 0..100 {
        assert_eq!(client.call(&Request::get("/fn/x")).await.status(), 200);
    }

    gateway.says("No space left").await;
}

#[tokio::test]
async fn a_reader_that_stalls_costs_lines_and_not_requests() {
    let origin = Origin::echo().await;
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Open for both, so that opening never waits; what is written is never read.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let gateway = Gateway::start(&logging(&format!("{{ path: {} }}", pipe.display()), &origin)).await;

    // Far more than a pipe and a queue hold, with a path as long as a line takes.
    let target = format!("/fn/{}", "x".repeat(1500));
    let mut client = gateway.client().await;
    for _ in 0..3000 {
        assert_eq!(client.call(&Request::get(&target)).await.status(), 200);
    }

    let dropped = gateway.metrics().await.counter("fngate_access_log_dropped_total", &[]);
    assert!(dropped > 0.0, "lines were given up, and counted");
}

/// Waits for a file to have this many lines, and returns them.
async fn lines(path: &std::path::Path, count: usize) -> Vec<Value> {
    eventually("lines in the file", PATIENCE, async || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() == count).then_some(lines)
    })
    .await
}

fn logging(access_log: &str, origin: &Origin) -> String {
    format!("access_log: {access_log}\n{}", route("/fn/*", &format!("http: {{ url: '{}/' }}", origin.url())))
}
