//! A steady load for long, with reloads and a function server that is killed and started again. At its end there must be no
//! answer that these do not explain, and the gateway must hold no more than at its beginning.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::harness::{Footprint, Gateway};
use crate::ledger::{Lane, Ledger, Ran, Seen};
use crate::load::{Habit, Load};
use crate::server::Server;

pub(crate) async fn run(length: Duration) -> ExitCode {
    let mut server = Server::start().await;
    let gateway = Gateway::start(&yaml(&server, 0)).await;
    let ledger = Ledger::default();
    let habit = |path: &str, lane| Habit {
        addr: gateway.addr(),
        path: path.to_owned(),
        lane,
        pause: Duration::from_millis(20),
    };
    let loads = [("/plain", Lane::Struck), ("/held", Lane::Other)]
        .map(|(path, lane)| Load::start(&ledger, &habit(path, lane), CLIENTS));

    let mut account = Account::default();
    let began = Instant::now();
    let mut start = None;
    let mut round = 0;
    while began.elapsed() < length {
        round += 1;
        sleep(BETWEEN_RELOADS).await;
        gateway.write_config(&yaml(&server, round));
        gateway.signal(Signal::SIGHUP);
        if round % RELOADS_PER_RESTART == 0 {
            let killed = Instant::now();
            server.end(Signal::SIGKILL).await;
            sleep(WITHOUT_SERVER).await;
            server.start_again().await;
            account.restarts.push((killed, Instant::now()));
        }
        // What is made once and kept is there by then.
        if start.is_none() && began.elapsed() > length.div_f64(5.0).min(WARM) {
            start = Some(show("start", began, &gateway).await);
        }
        account.add(&ledger);
    }
    let mut complaints = Vec::new();
    for load in loads {
        complaints.extend(load.stop().await.err());
    }
    account.add(&ledger);
    // Idle connections beyond the pool are given up.
    sleep(Duration::from_secs(1)).await;
    let end = show("end", began, &gateway).await;

    let ran = Ran::default();
    server.tell(&ran);
    let (twice, ids) = (ran.twice(), ran.count());
    println!(
        "{} requests, {ids} ran, {round} reloads, {} restarts of the function server",
        account.sent,
        account.restarts.len()
    );
    for (seen, times) in &account.saw {
        println!("{times:>9} {seen}");
    }
    complaints
        .extend(account.unexplained.iter().map(|(seen, times)| format!("{times} x {seen}, unexplained")));
    complaints.extend(
        (twice > 0).then(|| format!("{twice} requests that must not be repeated ran more than once")),
    );
    complaints.extend(start.and_then(|start| end.growth(&start)));
    for complaint in &complaints {
        println!("! {complaint}");
    }
    println!("{}", if complaints.is_empty() { "good" } else { "BAD" });
    ExitCode::from(u8::from(!complaints.is_empty()))
}

/// The same function twice: as it is, and with requests that wait for it.
fn yaml(server: &Server, round: usize) -> String {
    let target =
        format!("http: {{ url: '{}/', timeout: 10s, keepalive_pool: {} }}", server.url(), 16 + round % 2);
    format!(
        "routes:\n  - name: plain\n    match: {{ path: '/plain/*' }}\n    target: {{ {target} }}\n  \
         - name: held\n    match: {{ path: '/held/*' }}\n    cold_start: {{ hold: 5s }}\n    target: {{ {target} }}\n  \
         - name: round-{round}\n    match: {{ path: '/round' }}\n    target: {{ {target} }}\n"
    )
}

#[derive(Default)]
struct Account {
    sent: usize,
    saw: BTreeMap<String, usize>,
    unexplained: BTreeMap<String, usize>,
    /// When the function server was not there.
    restarts: Vec<(Instant, Instant)>,
}

impl Account {
    fn add(&mut self, ledger: &Ledger) {
        for entry in ledger.take() {
            self.sent += 1;
            *self.saw.entry(entry.seen.to_string()).or_default() += 1;
            let without_server = self.restarts.iter().any(|(killed, back)| {
                entry.ended >= *killed && entry.began <= *back + Duration::from_secs(1)
            });
            let is_explained = match &entry.seen {
                Seen::Answered => true,
                Seen::Cut => without_server,
                Seen::Told(_, code) if code == "upstream_reset" => without_server,
                // Requests to the other route wait for it.
                Seen::Told(_, code) if code == "upstream_connect" => {
                    without_server && entry.lane == Lane::Struck
                }
                _ => false,
            };
            if !is_explained {
                *self.unexplained.entry(entry.seen.to_string()).or_default() += 1;
            }
        }
    }
}

/// What a gateway holds, by its own account and the machine's.
struct Figures {
    footprint: Footprint,
    in_flight: f64,
    upstream: f64,
}

impl Figures {
    /// What there is more of than there was.
    fn growth(&self, start: &Figures) -> Option<String> {
        let (now, then) = (self.footprint, start.footprint);
        let grew = [
            ("memory", now.kibibytes > then.kibibytes + then.kibibytes / 20 + 4 * 1024),
            ("descriptors", now.descriptors > then.descriptors + then.descriptors / 20),
            ("threads", now.threads > then.threads + 2),
            ("requests in flight", self.in_flight > 0.0),
            ("connections to functions", self.upstream > start.upstream + 4.0),
        ];
        let grew: Vec<&str> = grew.iter().filter(|(_, grew)| *grew).map(|(what, _)| *what).collect();
        (!grew.is_empty()).then(|| format!("more than at the start: {}", grew.join(", ")))
    }
}

async fn show(when: &str, began: Instant, gateway: &Gateway) -> Figures {
    let metrics = gateway.metrics().await;
    let figures = Figures {
        footprint: Footprint::of(gateway),
        in_flight: metrics.counter("fngate_requests_in_flight", &[]),
        upstream: metrics.counter("fngate_upstream_connections_open", &[]),
    };
    let Footprint { descriptors, threads, kibibytes } = figures.footprint;
    println!(
        "{when:<6} {:>4} s  {kibibytes:>7} KiB  {descriptors:>4} descriptors  {threads:>3} threads  {} connections to functions  \
         {} in flight",
        began.elapsed().as_secs(),
        figures.upstream,
        figures.in_flight
    );
    figures
}

const CLIENTS: usize = 4;
const BETWEEN_RELOADS: Duration = Duration::from_secs(2);
const RELOADS_PER_RESTART: usize = 4;
const WITHOUT_SERVER: Duration = Duration::from_millis(300);
const WARM: Duration = Duration::from_secs(60);
