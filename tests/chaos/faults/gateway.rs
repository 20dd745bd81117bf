//! What happens to the gateway itself: reloads, its end, its death, a log that nobody takes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{Fault, Outcome};
use crate::harness::{Exchange, Gate, Gateway, Origin, Piece, Reply, Request};
use crate::ledger::{Ran, Seen, id_of, text};
use crate::stage::{Expect, Impossible, LONG_ENOUGH, Pace, Setting, Stage, route, until, well};

pub(super) fn all() -> Vec<Fault> {
    vec![
        Fault::new("reloads in a storm", reloads),
        Fault::new("faulty configurations in a storm", faulty_reloads),
        Fault::new("nobody takes the access log", blocked_log),
        Fault::new("the access log's disk is full", full_disk),
        Fault::new("SIGTERM with streams, uploads and WebSockets open", terminated),
        Fault::new("SIGKILL and a new process on the inherited socket", killed),
    ]
}

async fn reloads(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = well(&ran).await;
    let mut setting = Setting::to(&function.url());
    // Connections opened under former terms end by being idle.
    setting.target = setting.target.replace("keepalive_pool", "keepalive_timeout: 1s, keepalive_pool");
    let mut stage = Stage::set(pace, &ran, setting).await;

    stage.calm().await;
    let end = Instant::now() + pace.fault;
    let mut number = 0;
    loop {
        number += 1;
        // Every second one also changes how the function is reached, and with it every connection.
        let yaml = stage.yaml(|setting| {
            setting.routes = route(&format!("round-{number}"), "http: { url: 'http://127.0.0.1:9/' }");
            setting.target =
                setting.target.replace("keepalive_pool: 16", &format!("keepalive_pool: {}", 15 + number % 2));
        });
        stage.gateway.write_config(&yaml);
        stage.gateway.signal(Signal::SIGHUP);
        sleep(Duration::from_millis(20)).await;
        if Instant::now() < end {
            continue;
        }
        let metrics = stage.gateway.metrics().await;
        let taken = metrics.counter("fngate_config_reloads_total", &[("result", "success")]);
        if taken > 3.0 {
            break;
        }
        if Instant::now() > end + LONG_ENOUGH {
            stage.complain(format!("only {taken} of {number} reloads were made"));
            break;
        }
    }
    stage.heals().await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

async fn faulty_reloads(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = well(&ran).await;
    let mut stage = Stage::set(pace, &ran, Setting::to(&function.url())).await;
    let good = stage.yaml(|_| {});

    stage.calm().await;
    let end = Instant::now() + pace.fault;
    for faulty in ["routes: [", "routes: []\nlimits: { body: many }", "\u{0}"].iter().cycle() {
        if Instant::now() > end {
            break;
        }
        stage.gateway.write_config(faulty);
        stage.gateway.signal(Signal::SIGHUP);
        sleep(Duration::from_millis(20)).await;
    }
    let last = "fngate_config_last_reload_successful";
    let is_said = stage.comes_to(last, 0.0).await;
    stage.demand(is_said, "the metrics do not say that the file is faulty");
    stage.gateway.write_config(&good);
    stage.heals().await;
    let is_said = stage.comes_to(last, 1.0).await;
    stage.demand(is_said, "the metrics do not say that the file is good again");

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

async fn blocked_log(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = well(&ran).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let taken = Arc::new(AtomicBool::new(true));
    let reader = take_lines(&path, &taken)?;
    let setting = Setting {
        top: format!("access_log: {{ path: '{}' }}", path.display()),
        ..Setting::to(&function.url())
    };
    let mut stage = Stage::set(pace, &ran, setting).await;

    // Long lines and no pause: the queue is soon full.
    stage.calm_at(&format!("/struck/{}", "x".repeat(1800)), Duration::ZERO).await;
    taken.store(false, Ordering::Relaxed);
    stage.outlasts_time_limits().await;
    taken.store(true, Ordering::Relaxed);
    stage.heals().await;

    let findings = stage.close(&Expect::of(&["answered"])).await;
    reader.abort();
    Ok(findings)
}

async fn full_disk(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = well(&ran).await;
    let setting =
        Setting { top: "access_log: { path: /dev/full }".to_owned(), ..Setting::to(&function.url()) };
    let mut stage = Stage::set(pace, &ran, setting).await;

    stage.calm().await;
    stage.lasts().await;
    stage.heals().await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

/// A pipe in the file system from which lines are taken for as long as `taken` says so.
fn take_lines(path: &Path, taken: &Arc<AtomicBool>) -> Result<tokio::task::JoinHandle<()>, Impossible> {
    nix::unistd::mkfifo(path, Mode::S_IRWXU).map_err(|error| Impossible(format!("mkfifo: {error}")))?;
    // Open for writing, too, so that it never comes to its end.
    let mut pipe = pipe::OpenOptions::new().read_write(true).open_receiver(path).unwrap();
    let taken = Arc::clone(taken);
    Ok(tokio::spawn(async move {
        let mut lines = vec![0; 64 * 1024];
        loop {
            match taken.load(Ordering::Relaxed) {
                true => drop(timeout(TICK, pipe.read(&mut lines)).await),
                false => sleep(TICK).await,
            }
        }
    }))
}

/// The gateway is told to end while a download, an upload and a tunnel are open: it says that it is no longer ready, finishes
/// what it has, and is gone when the last of them is.
async fn terminated(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = well(&ran).await;
    let gate = Gate::closed();
    let long = long_calls(&gate).await;
    let setting = Setting {
        // The upload pauses for as long as this lasts, which is no fault of its client's here.
        top: "shutdown_grace: 30s\nlimits: { min_rate: 0 }".to_owned(),
        routes: route("long", &format!("http: {{ url: '{}/', timeout: 60s }}", long.url())),
        ..Setting::to(&function.url())
    };
    let mut stage = Stage::set(pace, &ran, setting).await;

    stage.calm().await;
    let (download, upload) = (stage.ledger.next(), stage.ledger.next());
    let mut downloading = stage.gateway.client().await;
    downloading.start(&Request::get(&format!("/long/download/{download}"))).await;
    let head = downloading.head().await;
    let mut body = downloading.body(&head, "GET");
    let mut downloaded = body.until("\n").await;
    let mut uploading = stage.gateway.client().await;
    let announced =
        format!("POST /long/upload/{upload} HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nfirst");
    uploading.send(announced).await;
    long.request(1).await;
    let mut tunnelling = stage.gateway.client().await;
    let mut tunnel = tunnelling.websocket("/long/tunnel").await;

    stage.gateway.signal(Signal::SIGTERM);
    let is_unready = async || {
        let answer = stage.gateway.try_admin_get("/readyz").await;
        answer.is_some_and(|answer| answer.status() == 503)
    };
    let is_unready = until(is_unready).await;
    stage.demand(is_unready, "after the signal it still says that it is ready");
    stage.lasts().await;

    tunnel.send(Message::text("still there?")).await.unwrap();
    let echo = timeout(LONG_ENOUGH, tunnel.next()).await;
    let goes_on = matches!(echo, Ok(Some(Ok(message))) if message == Message::text("still there?"));
    stage.demand(goes_on, "the tunnel did not go on");
    tunnel.close(None).await.unwrap();
    uploading.send("last!").await;
    let uploaded = uploading.response("POST").await;
    stage.ledger.guest(upload, "POST", Seen::of(&uploaded, upload));
    stage.demand(
        uploaded.text() == text(upload),
        format!("the upload ended with {}", uploaded.head.first_line),
    );
    gate.open();
    let whole = loop {
        match body.next().await {
            Piece::Bytes(bytes) => downloaded += &String::from_utf8_lossy(&bytes),
            Piece::End => break downloaded == text(download),
            Piece::Cut => break false,
        }
    };
    stage.ledger.guest(download, "GET", if whole { Seen::Answered } else { Seen::Cut });
    stage.demand(whole, "the download did not come to its end");

    let status = timeout(LONG_ENOUGH, stage.gateway.exit()).await;
    let is_success = status.as_ref().is_ok_and(|status| status.success());
    stage.demand(is_success, format!("after the last request it does not end with 0: {status:?}"));

    // A connection may be closed for idleness just as its client sends the next request, which then has not run.
    let expect = Expect::everywhere(&["not connected", "closed", "answered"]);
    ran.note("GET", download);
    ran.note("POST", upload);
    Ok(stage.close_without_gateway(&expect).await)
}

/// Answers an upload at its end, a download in two parts, and whatever comes through a tunnel.
async fn long_calls(gate: &Gate) -> Origin {
    let gate = gate.clone();
    let origin = Origin::http1().script(move |mut exchange: Exchange| {
        let gate = gate.clone();
        async move {
            if exchange.target() == "/tunnel" {
                return exchange.websocket_echo().await;
            }
            let right = text(id_of(exchange.target()).unwrap());
            if exchange.target().starts_with("/upload/") {
                exchange.body().await;
                return exchange.answer(Reply::text(200, &right)).await;
            }
            exchange.start_chunked("text/plain").await;
            exchange.send_chunk(&right[..10]).await;
            gate.passed().await;
            exchange.send_chunk(&right[10..]).await;
            exchange.end_chunked().await;
        }
    });
    origin.start().await
}

async fn killed(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = well(&ran).await;
    let start = async |yaml: String| Gateway::builder().activated().start(&yaml).await;
    let mut stage = Stage::set_with(pace, &ran, Setting::to(&function.url()), start).await;
    stage.not_counted();

    stage.calm().await;
    let end = Instant::now() + pace.fault;
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let began = Instant::now();
        stage.gateway.kill_and_restart().await;
        slowest = slowest.max(began.elapsed());
        sleep(pace.fault / 5).await;
    }
    stage.demand(slowest < LONG_ENOUGH / 2, format!("it took {slowest:?} to serve again"));
    stage.heals().await;

    // What was in flight is lost with the process, visibly; nobody is refused, and nothing is done twice.
    let expect = Expect::everywhere(&["answered", "closed", "closed though it ran", "cut"]);
    Ok(stage.close(&expect).await)
}

const TICK: Duration = Duration::from_millis(20);
