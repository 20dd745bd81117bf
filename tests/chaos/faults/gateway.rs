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
use crate::stage::{Expect, Impossible, Pace, Setting, Stage, route, well};

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
    setting.target = setting.target.replace("timeout: 1s", "timeout: 500ms, keepalive_timeout: 1s");
    let mut stage = Stage::set(pace, &ran, setting).await;

    stage.calm().await;
    let end = Instant::now() + pace.fault;
    let mut number = 0;
    while Instant::now() < end {
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
    }
    stage.heals().await;
    let taken =
        stage.gateway.metrics().await.counter("fngate_config_reloads_total", &[("result", "success")]);
    stage.demand(taken > 3.0, format!("only {taken} of {number} reloads were made"));

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
    let said = stage.gateway.metrics().await.counter(last, &[]);
    stage.demand(said == 0.0, "the metrics do not say that the file is faulty");
    stage.gateway.write_config(&good);
    stage.heals().await;
    let said = stage.gateway.metrics().await.counter(last, &[]);
    stage.demand(said == 1.0, "the metrics do not say that the file is good again");

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
    stage.lasts().await;
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
    let unready = is_unready(&stage.gateway).await;
    stage.demand(unready, "a second after the signal it still says that it is ready");
    stage.lasts().await;

    tunnel.send(Message::text("still there?")).await.unwrap();
    let echo = timeout(Duration::from_secs(2), tunnel.next()).await;
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

    // A second of it is for idle clients that may be sending.
    let status = timeout(Duration::from_secs(3), stage.gateway.exit()).await;
    let is_success = status.as_ref().is_ok_and(|status| status.success());
    stage.demand(
        is_success,
        format!("three seconds after the last request it has not ended with 0: {status:?}"),
    );

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

async fn is_unready(gateway: &Gateway) -> bool {
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        let answer = gateway.try_admin_get("/readyz").await;
        if answer.is_some_and(|answer| answer.status() == 503) {
            return true;
        }
        sleep(TICK).await;
    }
    false
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
    stage.demand(slowest < Duration::from_secs(1), format!("it took {slowest:?} to serve again"));
    stage.heals().await;

    // What was in flight is lost with the process, visibly; nobody is refused, and nothing is done twice.
    let expect = Expect::everywhere(&["answered", "closed", "closed though it ran", "cut"]);
    Ok(stage.close(&expect).await)
}

const TICK: Duration = Duration::from_millis(20);
