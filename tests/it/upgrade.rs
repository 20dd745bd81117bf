//! The gateway's process ends or is replaced while clients go on: none of them is refused, none loses a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::{Signal, kill};
use tokio::net::UnixDatagram;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::*;

#[tokio::test]
async fn a_stop_with_a_delay_loses_nothing() {
    let (origin, _gate) = functions().await;
    let mut gateway = Gateway::start(&format!("drain_delay: 60s\n{}", to(&origin))).await;
    let load = Load::on(&gateway);
    load.goes_on().await;

    gateway.signal(Signal::SIGTERM);
    eventually("the gateway to be no longer ready", PATIENCE, async || {
        (gateway.try_admin_get("/readyz").await?.status() == 503).then_some(())
    })
    .await;
    // Not everybody has noticed yet.
    load.goes_on().await;
    let late = gateway.get("/fn/plain").await;
    assert_eq!((late.status(), late.header("Connection")), (200, Some("close")));

    load.goes_elsewhere().await;
    gateway.signal(Signal::SIGTERM);
    gateway.says("signalled again").await;
    assert!(gateway.exit().await.success());
}

#[tokio::test]
async fn a_restart_behind_a_socket_of_the_manager_loses_nothing() {
    let (origin, _gate) = functions().await;
    let mut gateway = Gateway::builder().activated().start(&to(&origin)).await;
    let load = Load::on(&gateway);

    for _ in 0..3 {
        load.goes_on().await;
        gateway.restart().await;
    }

    load.goes_on().await;
    load.goes_elsewhere().await;
}

#[tokio::test]
async fn two_upgrades_lose_nothing() {
    let (origin, _gate) = functions().await;
    let mut gateway = Gateway::start(&to(&origin)).await;
    let load = Load::on(&gateway);
    load.goes_on().await;

    gateway.signal(Signal::SIGUSR2);
    let first = gateway.successors(1).await[0];
    load.goes_on().await;
    assert!(gateway.exit().await.success());
    load.goes_on().await;
    kill(first, Signal::SIGUSR2).unwrap();
    gateway.successors(2).await;
    load.goes_on().await;
    ended(first).await;

    load.goes_on().await;
    load.goes_elsewhere().await;
    assert_eq!(gateway.admin_get("/readyz").await.status(), 200);
}

#[tokio::test]
async fn an_upgrade_that_fails_changes_nothing() {
    let (origin, _gate) = functions().await;
    let gateway = Gateway::start(&to(&origin)).await;
    let load = Load::on(&gateway);

    gateway.write_config("routes: 5\n");
    gateway.signal(Signal::SIGUSR2);
    gateway.says("upgrade failed: the new process ended with exit status: 78; this process serves on").await;
    load.goes_on().await;
    assert_eq!(gateway.admin_get("/readyz").await.status(), 200);

    gateway.write_config(&to(&origin));
    gateway.signal(Signal::SIGUSR2);
    gateway.successors(1).await;
    load.goes_on().await;
    load.goes_elsewhere().await;
}

#[tokio::test]
async fn what_is_open_ends_where_it_began() {
    for signal in [Signal::SIGUSR2, Signal::SIGTERM] {
        let (origin, gate) = functions().await;
        let mut gateway = Gateway::start(&to(&origin)).await;
        let (mut events, mut upload) = (gateway.client().await, gateway.client().await);
        let mut speaker = gateway.client().await;
        let mut socket = speaker.websocket("/fn/socket").await;
        events.start(&Request::get("/fn/events")).await;
        let head = events.head().await;
        let mut events = events.body(&head, "GET");
        events.until("begun").await;
        upload.send("POST /fn/upload HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf").await;
        origin.request(2).await;

        gateway.signal(signal);
        if signal == Signal::SIGUSR2 {
            gateway.successors(1).await;
            assert_eq!(gateway.get("/fn/plain").await.text(), "done");
        } else {
            gateway.says("stopping").await;
        }

        socket.send(Message::text("still there")).await.unwrap();
        let echoed = within("the echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(echoed.into_text().unwrap().as_str(), "still there");
        gate.open();
        events.until("ended").await;
        assert_eq!(events.next().await, Piece::End);
        upload.send("half").await;
        let answer = upload.response("POST").await;
        assert_eq!((answer.text().as_str(), answer.whole), ("halfhalf", true));
        assert_eq!(answer.header("Connection"), Some("close"));
        socket.close(None).await.unwrap();
        while within("the end of the tunnel", socket.next()).await.is_some_and(|message| message.is_ok()) {}
        drop(socket);
        drop(speaker);
        assert!(gateway.exit().await.success(), "{signal}");
    }
}

#[tokio::test]
async fn an_idle_client_is_told_with_its_next_answer() {
    let (origin, gate) = functions().await;
    let gateway = Gateway::start(&to(&origin)).await;
    let (mut idle, mut busy) = (gateway.client().await, gateway.client().await);
    let answer = idle.call(&Request::get("/fn/plain")).await;
    assert_eq!(answer.header("Connection"), Some("keep-alive"));
    busy.start(&Request::get("/fn/events")).await;
    busy.head().await;

    gateway.signal(Signal::SIGTERM);
    gateway.says("stopping").await;

    let answer = idle.call(&Request::get("/fn/plain")).await;
    assert_eq!((answer.status(), answer.header("Connection")), (200, Some("close")));
    gate.open();
}

#[tokio::test]
async fn the_manager_hears_of_the_new_process_first_from_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let (origin, _gate) = functions().await;
    let mut gateway =
        Gateway::builder().env("NOTIFY_SOCKET", path.to_str().unwrap()).start(&to(&origin)).await;
    let told = async || {
        let mut buffer = [0; 4096];
        let size = within("the service manager to be told", manager.recv(&mut buffer)).await.unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    };
    assert!(told().await.contains("READY=1"));

    gateway.signal(Signal::SIGUSR2);
    let successor = gateway.successors(1).await[0];
    assert_eq!(told().await.trim_end(), format!("MAINPID={successor}"));
    assert!(told().await.contains("READY=1"));
    assert!(gateway.exit().await.success());

    // The old one ended in silence: what comes next is the new one's.
    kill(successor, Signal::SIGTERM).unwrap();
    assert!(told().await.contains("STOPPING=1"));
}

/// A manager waits for its children only, and sees the end of no others: `systemctl stop` would kill the new process at once.
#[tokio::test]
async fn the_new_process_is_a_child_of_the_manager() {
    // As the first process of a machine is for those that have lost their parent.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let (origin, gate) = functions().await;
    let mut gateway = Gateway::start(&to(&origin)).await;
    // The old process has still something to do.
    let mut events = gateway.client().await;
    events.start(&Request::get("/fn/events")).await;
    events.head().await;

    gateway.signal(Signal::SIGUSR2);
    let successor = gateway.successors(1).await[0];

    let status = std::fs::read_to_string(format!("/proc/{successor}/status")).unwrap();
    assert!(status.contains(&format!("PPid:\t{}\n", std::process::id())), "{status}");
    gate.open();
    assert!(gateway.exit().await.success());
}

/// Clients that never stop: some keep their connection for as long as they may, some open one for each request.
struct Load {
    answered: Arc<AtomicUsize>,
    leaving: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    fn on(gateway: &Gateway) -> Self {
        let (answered, leaving) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (answered, leaving, addr) = (Arc::clone(&answered), Arc::clone(&leaving), gateway.addr());
            clients.spawn(async move {
                while !leaving.load(Ordering::Acquire) {
                    let mut client = Client::connect(addr).await;
                    loop {
                        let answer = client.call(&Request::get("/fn/plain")).await;
                        assert_eq!(
                            (answer.status(), answer.text().as_str(), answer.whole),
                            (200, "done", true)
                        );
                        answered.fetch_add(1, Ordering::AcqRel);
                        if answer.header("Connection") == Some("close") || number % 2 == 0 {
                            break;
                        }
                        if leaving.load(Ordering::Acquire) {
                            return;
                        }
                    }
                }
            });
        }
        Self { answered, leaving, clients }
    }

    /// Waits for many more answers.
    async fn goes_on(&self) {
        let wanted = self.answered.load(Ordering::Acquire) + STEP;
        eventually("more answers", PATIENCE, async || {
            (self.answered.load(Ordering::Acquire) >= wanted).then_some(())
        })
        .await;
    }

    /// Ends the load. Whoever was refused or got anything but the whole answer fails the test here.
    async fn goes_elsewhere(mut self) {
        self.leaving.store(true, Ordering::Release);
        while let Some(client) = within("the clients to leave", self.clients.join_next()).await {
            client.unwrap();
        }
    }
}

/// Functions of all kinds; the events end when the gate is opened.
async fn functions() -> (Origin, Gate) {
    let gate = Gate::closed();
    let script = Origin::http1().gated(&gate, |mut exchange, gate| async move {
        match exchange.target() {
            "/events" => {
                exchange.start_chunked("text/event-stream").await;
                exchange.send_chunk("begun").await;
                gate.passed().await;
                exchange.send_chunk("ended").await;
                exchange.end_chunked().await;
            }
            "/socket" => exchange.websocket_echo().await,
            "/upload" => {
                let body = exchange.body().await;
                exchange.answer(Reply::new(200, body)).await;
            }
            _ => exchange.answer(Reply::text(200, "done")).await,
        }
    });
    (script.start().await, gate)
}

fn to(origin: &Origin) -> String {
    format!("threads: 2\n{}", route("/fn/*", &format!("http: {{ url: '{}/', timeout: 60s }}", origin.url())))
}

/// Waits for a process that is not a child of ours.
async fn ended(process: nix::unistd::Pid) {
    eventually("a former process to end", PATIENCE, async || {
        let state = std::fs::read_to_string(format!("/proc/{process}/stat"));
        // One that nobody reaps yet has ended, too.
        state.map_or(true, |state| state.contains(") Z ")).then_some(())
    })
    .await;
}

const CLIENTS: usize = 6;
/// How many answers are enough to have seen the effect of a step.
const STEP: usize = 400;
