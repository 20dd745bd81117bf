//! Function servers that go away, come back, move, and stand still.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::{Fault, Outcome};
use crate::harness::{Client, Ending, NameServer, Origin, Reply, Zone};
use crate::ledger::{Entry, Lane, Ran, Seen, id_of, text};
use crate::load::{Habit, ask};
use crate::server::Server;
use crate::stage::{Expect, Impossible, LONG_ENOUGH, Pace, Setting, Stage, until, well, well_at};
use crate::terrain;

pub(super) fn all() -> Vec<Fault> {
    vec![
        Fault::new("connections to the function are refused", refused),
        Fault::new("function closes idle connections", |pace| closes_idle(pace, Ending::Fin)),
        Fault::new("function resets idle connections", |pace| closes_idle(pace, Ending::Reset)),
        Fault::new("function server is killed and started again", restarts),
        Fault::new("the same with `cold_start`", restarts_with_cold_start),
        Fault::new("function server stands still (SIGSTOP)", stands_still),
        Fault::new("one of two function servers is killed", one_of_two),
        Fault::new("name server fails, then forgets the name", names_fail),
        Fault::new("function moves to another address", moves),
    ]
}

async fn refused(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = well(&ran).await;
    let addr = function.addr();
    let mut stage = Stage::set(pace, &ran, Setting::to(&function.url())).await;

    stage.calm().await;
    function.stop().await;
    stage.lasts().await;
    let _function = well_at(&ran, addr).await;
    stage.heals().await;

    // What was in flight when it closed sees that instead.
    let expect = Expect::of(&["502 upstream_connect", "502 upstream_reset", "cut", "answered"]);
    Ok(stage.close(&expect).await)
}

/// Clients come back just when the connections that wait for them are being closed.
async fn closes_idle(pace: Pace, ending: Ending) -> Outcome {
    let ran = Ran::default();
    let noting = ran.clone();
    let function = Origin::http1().closes_idle(IDLE, ending).reply(move |request| {
        let id = id_of(request.target()).unwrap();
        noting.note(request.method(), id);
        Reply::text(200, &text(id))
    });
    let function = function.start().await;
    let mut stage = Stage::set(pace, &ran, Setting::to(&function.url())).await;

    // There is no time without this fault.
    stage.begin_others();
    let habit = Habit {
        addr: stage.gateway.addr(),
        path: "/struck".to_owned(),
        lane: Lane::Struck,
        pause: Duration::ZERO,
    };
    let mut connections: [Option<Client>; 8] = Default::default();
    let rounds = (2 * pace.fault).div_duration_f64(IDLE) as u32;
    for round in 0..rounds {
        let method = if round % 2 == 0 { "GET" } else { "POST" };
        join_all(connections.iter_mut().map(|kept| ask(&stage.ledger, &habit, kept, method))).await;
        // They all come back at once, a little earlier or later each time.
        sleep(IDLE - Duration::from_micros(500) * (round % 10)).await;
    }
    stage.rests().await;
    let is_visible = |entry: &Entry| entry.method == "GET" && entry.seen != Seen::Answered;
    let visible = stage.ledger.entries().into_iter().filter(is_visible).count();
    stage.demand(visible == 0, format!("{visible} GETs saw what a second try would have hidden"));

    Ok(stage.close(&Expect::of(&["answered", "502 upstream_reset"])).await)
}

async fn restarts(pace: Pace) -> Outcome {
    let expect = Expect::of(&["502 upstream_connect", "502 upstream_reset", "cut", "answered"]);
    killed_and_started(pace, "", &expect).await
}

async fn restarts_with_cold_start(pace: Pace) -> Outcome {
    let expect = Expect::of(&["answered", "502 upstream_reset", "cut"]);
    killed_and_started(pace, "cold_start: { hold: 5s }", &expect).await
}

async fn killed_and_started(pace: Pace, policy: &str, expect: &Expect) -> Outcome {
    let ran = Ran::default();
    let mut function = Server::start().await;
    let setting = Setting { policy: policy.to_owned(), ..Setting::to(&function.url()) };
    let mut stage = Stage::set(pace, &ran, setting).await;

    stage.calm().await;
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGKILL] {
        function.end(signal).await;
        let away = Instant::now();
        sleep(pace.fault / 6).await;
        if policy.is_empty() {
            stage.is_asked(away).await;
        }
        function.start_again().await;
        sleep(pace.fault / 6).await;
    }
    stage.heals().await;

    stage.rests().await;
    function.tell(&ran);
    Ok(stage.close(expect).await)
}

async fn stands_still(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = Server::start().await;
    let mut stage = Stage::set(pace, &ran, Setting::hurried(&function.url())).await;

    stage.calm().await;
    function.signal(Signal::SIGSTOP);
    stage.outlasts_time_limits().await;
    // It now does what nobody waits for any more; that counts as done once.
    function.signal(Signal::SIGCONT);
    stage.heals().await;

    stage.rests().await;
    function.tell(&ran);
    Ok(stage.close(&Expect::of(&["504 upstream_timeout", "answered"])).await)
}

async fn one_of_two(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let (mut mortal, stays) = (Server::start().await, Server::start().await);
    let target = format!(
        "http: {{ nodes: [ {{ address: '{}' }}, {{ address: '{}' }} ], timeout: 10s, keepalive_pool: 16 }}",
        mortal.addr(),
        stays.addr()
    );
    let mut stage = Stage::set(pace, &ran, Setting { target, ..Setting::default() }).await;

    stage.calm().await;
    mortal.end(Signal::SIGKILL).await;
    stage.lasts().await;
    mortal.start_again().await;
    stage.heals().await;

    stage.rests().await;
    mortal.tell(&ran);
    stays.tell(&ran);
    Ok(stage.close(&Expect::of(&["answered", "502 upstream_reset", "cut"])).await)
}

async fn names_fail(pace: Pace) -> Outcome {
    let (names, ran) = (named().await?, Ran::default());
    let function = well(&ran).await;
    names.set(Zone::At(vec![Ipv4Addr::LOCALHOST]));
    let url = format!("http://fn.test:{}", function.addr().port());
    let mut stage = Stage::set(pace, &ran, Setting::to(&url)).await;

    stage.calm().await;
    // Answers last for a second.
    for zone in [Zone::Fails, Zone::Absent] {
        names.set(zone);
        names.is_asked_again().await;
        stage.lasts().await;
    }
    names.set(Zone::At(vec![Ipv4Addr::LOCALHOST]));
    stage.heals().await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

async fn moves(pace: Pace) -> Outcome {
    let (names, ran) = (named().await?, Ran::default());
    let before = well(&ran).await;
    let there = SocketAddr::from(([127, 0, 0, 2], before.addr().port()));
    let after = well_at(&ran, there).await;
    names.set(Zone::At(vec![Ipv4Addr::LOCALHOST]));
    let url = format!("http://fn.test:{}", before.addr().port());
    let mut stage = Stage::set(pace, &ran, Setting::to(&url)).await;

    stage.calm().await;
    names.set(Zone::At(vec![Ipv4Addr::new(127, 0, 0, 2)]));
    let is_found = until(async || !after.requests().is_empty()).await;
    stage.demand(is_found, "no request goes to the new address");
    // Some were on their way to the old one.
    sleep(LIFE_OF_AN_ANSWER).await;
    let left = before.requests().len();
    stage.lasts().await;
    let late = before.requests().len() - left;
    stage.demand(late == 0, format!("{late} requests went to the old address after that"));
    stage.heals().await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

/// The name server that the machine of this network asks.
async fn named() -> Result<NameServer, Impossible> {
    let address = terrain::name_server()?;
    let end = Instant::now() + LONG_ENOUGH;
    loop {
        match NameServer::start_at(address).await {
            Some(names) => return Ok(names),
            None if Instant::now() > end => return Err(Impossible(format!("port 53 of {address} is taken"))),
            // The one of the fault before is about to go.
            None => sleep(Duration::from_millis(20)).await,
        }
    }
}

const IDLE: Duration = Duration::from_millis(100);
const LIFE_OF_AN_ANSWER: Duration = Duration::from_secs(1);
