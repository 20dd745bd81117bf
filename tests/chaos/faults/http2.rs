//! Clients of HTTP/2: many requests on one connection, of which a fault may end one and must end no other.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::{join, join_all};
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

use super::{Fault, Outcome};
use crate::harness::{Ca, Exchange, Gate, Gateway, Http2, Origin, tls};
use crate::ledger::{Entry, Lane, Ledger, Ran, Seen, id_of, text};
use crate::stage::{Expect, LONG_ENOUGH, Pace, Setting, Stage, route, well};

pub(super) fn all() -> Vec<Fault> {
    vec![
        Fault::long("function sends its head byte by byte, over HTTP/2", drips),
        Fault::new("function breaks off its answer, over HTTP/2", breaks_off),
        Fault::new("clients open and reset streams of HTTP/2", opened_and_reset),
        Fault::long("SIGTERM with a stream of HTTP/2 open", terminated),
    ]
}

async fn drips(pace: Pace) -> Outcome {
    let function = Origin::http1().script(|mut exchange: Exchange| async move {
        exchange.send("HTTP/1.1 200 OK\r\nX-Slow: ").await;
        while !exchange.closing() {
            exchange.send("x").await;
            sleep(Duration::from_millis(100)).await;
        }
    });
    let expect = Expect::of(&["504 upstream_timeout"]);
    let function = function.start().await;
    side_by_side(pace, Setting::hurried(&function.url()), &expect).await
}

async fn breaks_off(pace: Pace) -> Outcome {
    let function = Origin::http1().script(|mut exchange: Exchange| async move {
        let right = text(id_of(exchange.target()).unwrap());
        exchange.start_chunked("text/plain").await;
        exchange.send_chunk(&right[..500]).await;
        exchange.reset();
    });
    // What was not passed on yet when the connection broke is lost with it.
    let expect = Expect::of(&["cut", "502 upstream_reset"]);
    let function = function.start().await;
    side_by_side(pace, Setting::to(&function.url()), &expect).await
}

/// Requests for the function that fails, and for another one, over the same connections.
async fn side_by_side(pace: Pace, setting: Setting, expect: &Expect) -> Outcome {
    let ran = Ran::default();
    let (mut stage, ca) = set(pace, &ran, setting).await;
    let ledger = stage.ledger.clone();
    let connect = || Http2::connect(stage.gateway.tls_addr(), ca.client(&["h2"]), "localhost");
    let clients = join_all([connect(), connect()]).await;

    // There is no time without this fault.
    stage.begin_others();
    let over = Cell::new(false);
    let asking = clients.iter().flat_map(|client| {
        let lanes = [(Lane::Struck, "/struck"), (Lane::Other, "/other")].repeat(4);
        lanes.into_iter().map(|(lane, path)| keep_asking(&ledger, client, lane, path, &over))
    });
    let lasting = async {
        stage.lasts().await;
        over.set(true);
    };
    join(lasting, join_all(asking)).await;

    Ok(stage.close(expect).await)
}

async fn opened_and_reset(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = well(&ran).await;
    let silent = Origin::http1().script(|mut exchange: Exchange| async move { exchange.peer_closed().await });
    let silent = silent.start().await;
    let hang = format!("http: {{ url: '{}/', timeout: 30s }}", silent.url());
    let setting = Setting { routes: route("hang", &hang), ..Setting::to(&function.url()) };
    let (mut stage, ca) = set(pace, &ran, setting).await;
    // Attackers keep no account.
    stage.not_counted();
    let addr = stage.gateway.tls_addr();
    let ledger = stage.ledger.clone();
    let client = Http2::connect(addr, ca.client(&["h2"]), "localhost").await;

    stage.calm().await;
    let over = Cell::new(false);
    let attackers = (0..4).map(|_| async {
        while !over.get() {
            let Ok(mut socket) = tls(addr, ca.client(&["h2"]), "localhost").await else { continue };
            let mut stream = 1;
            let mut wave = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
            while !over.get() && socket.write_all(&wave).await.is_ok() {
                wave = (0..50).flat_map(|n| opened_and_closed(stream + 2 * n)).collect();
                stream += 100;
            }
        }
    });
    let asking = keep_asking(&ledger, &client, Lane::Other, "/other", &over);
    let lasting = async {
        stage.lasts().await;
        over.set(true);
    };
    join(lasting, join(join_all(attackers), asking)).await;
    stage.heals().await;
    silent.settles_at(0).await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

async fn terminated(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = well(&ran).await;
    let gate = Gate::closed();
    let passing = gate.clone();
    let long = Origin::http1().script(move |mut exchange: Exchange| {
        let gate = passing.clone();
        async move {
            let right = text(id_of(exchange.target()).unwrap());
            exchange.start_chunked("text/plain").await;
            exchange.send_chunk(&right[..10]).await;
            gate.passed().await;
            exchange.send_chunk(&right[10..]).await;
            exchange.end_chunked().await;
        }
    });
    let long = long.start().await;
    let target = format!("http: {{ url: '{}/', timeout: 60s }}", long.url());
    let setting = Setting { routes: route("long", &target), ..Setting::to(&function.url()) };
    let (mut stage, ca) = set(pace, &ran, setting).await;
    let mut client = Http2::connect(stage.gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;

    stage.calm().await;
    let download = stage.ledger.next();
    ran.note("GET", download);
    let url = format!("https://localhost/long/{download}");
    let answer = client.call(Http2::get(&url)).await.unwrap();
    stage.gateway.signal(Signal::SIGTERM);
    let told = async {
        while ask(&stage.ledger, &client, Lane::Guest, "/other").await == Seen::Answered {
            sleep(PAUSE).await;
        }
    };
    let is_told = timeout(LONG_ENOUGH, told).await.is_ok();
    stage.demand(is_told, "after the signal the connection still takes streams");
    stage.lasts().await;

    gate.open();
    let seen = Seen::of(&Http2::read(answer).await, download);
    stage.demand(seen == Seen::Answered, format!("the download was {seen}"));
    stage.ledger.guest(download, "GET", seen);
    client.ended().await;
    let status = timeout(LONG_ENOUGH, stage.gateway.exit()).await;
    let is_success = status.as_ref().is_ok_and(|status| status.success());
    stage.demand(is_success, format!("after the last request it does not end with 0: {status:?}"));

    // A connection may be closed for idleness just as its client sends the next request, which then has not run.
    let expect = Expect::everywhere(&["not connected", "closed", "answered"]);
    Ok(stage.close_without_gateway(&expect).await)
}

/// A stage whose gateway also listens with TLS, and what its clients trust.
async fn set(pace: Pace, ran: &Ran, setting: Setting) -> (Stage, Ca) {
    let ca = Ca::new();
    let leaf = ca.leaf(&["localhost"]);
    let start = async |yaml: String| Gateway::start_tls(&leaf, &yaml).await;
    (Stage::set_with(pace, ran, setting, start).await, ca)
}

async fn keep_asking(ledger: &Ledger, client: &Http2, lane: Lane, path: &str, over: &Cell<bool>) {
    while !over.get() {
        ask(ledger, client, lane, path).await;
        sleep(PAUSE).await;
    }
}

/// One request over a connection that others share, and its line in the account.
async fn ask(ledger: &Ledger, client: &Http2, lane: Lane, path: &str) -> Seen {
    let id = ledger.next();
    let began = Instant::now();
    let seen = match client.call(Http2::get(&format!("https://localhost{path}/{id}"))).await {
        Ok(answer) => Seen::of(&Http2::read(answer).await, id),
        Err(_) => Seen::Closed,
    };
    ledger.add(Entry { id, method: "GET", lane, began, ended: Instant::now(), seen: seen.clone() });
    seen
}

/// A request for what nobody answers, and its end.
fn opened_and_closed(stream: u32) -> Vec<u8> {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const END_STREAM_AND_HEADERS: u8 = 5;
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let frame = |kind, flags, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags], &stream.to_be_bytes()[..], payload].concat()
    };
    let literal = |index: u8, value: &str| {
        let length = u8::try_from(value.len()).unwrap();
        [&[index, length], value.as_bytes()].concat()
    };
    // Of the static table: `:method: GET`, `:scheme: https`, and the names of `:authority` and `:path`.
    let block = [vec![0x82, 0x87], literal(1, "localhost"), literal(4, "/hang/x")].concat();
    [frame(HEADERS, END_STREAM_AND_HEADERS, &block), frame(RST_STREAM, 0, &CANCEL)].concat()
}

const PAUSE: Duration = Duration::from_millis(20);
