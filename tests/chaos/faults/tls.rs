//! TLS that fails: a function's certificate, its handshake, and the gateway's own certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::{Fault, Outcome};
use crate::harness::{Ca, Client, Gateway, Leaf, Origin, Reply, Request, tls};
use crate::ledger::{Entry, Lane, Ledger, Ran, Seen, id_of, text};
use crate::stage::{Expect, LONG_ENOUGH, Pace, Setting, Stage, well};

pub(super) fn all() -> Vec<Fault> {
    vec![
        Fault::new("function's certificate expires", |pace| shows(pace, |ca| ca.expired_leaf(&["fn.test"]))),
        Fault::long("function's certificate names another", |pace| {
            shows(pace, |ca| ca.leaf(&["other.test"]))
        }),
        Fault::long("function's certificate is of another authority", |pace| {
            shows(pace, |_| Ca::new().leaf(&["fn.test"]))
        }),
        Fault::long("function accepts, but never speaks TLS", |pace| stalls(pace, b"")),
        Fault::long("function's handshake stalls", |pace| stalls(pace, SERVER_HELLO_BEGINS)),
        Fault::new("the gateway's certificate is replaced, by a bad one first", is_replaced),
    ]
}

/// The function's server is started again with another certificate, and then with its own.
async fn shows(pace: Pace, bad: impl Fn(&Ca) -> Leaf) -> Outcome {
    let (mut stage, ca, function) = set(pace, "10s").await;
    let (ran, addr) = (stage.ran.clone(), function.addr());

    stage.calm().await;
    function.stop().await;
    let function = well_over_tls(&ran, &bad(&ca), addr).await;
    stage.lasts().await;
    function.stop().await;
    let _function = well_over_tls(&ran, &ca.leaf(&["fn.test"]), addr).await;
    stage.heals().await;

    // What was in flight when it stopped sees the others.
    let expect = Expect::of(&["502 upstream_tls", "502 upstream_connect", "502 upstream_reset", "cut"]);
    Ok(stage.close(&expect).await)
}

/// The function's server is started again as one that says no more than this.
async fn stalls(pace: Pace, words: &'static [u8]) -> Outcome {
    let (mut stage, ca, function) = set(pace, "3s").await;
    let (ran, addr) = (stage.ran.clone(), function.addr());

    stage.calm().await;
    function.stop().await;
    let listener = TcpListener::bind(addr).await.unwrap();
    let stalling = tokio::spawn(async move {
        let mut accepted = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            // Who has left meanwhile is no matter.
            let _ = socket.write_all(words).await;
            accepted.push(socket);
        }
    });
    stage.outlasts_time_limits().await;
    stalling.abort();
    // It ends by being aborted.
    let _ = stalling.await;
    let _function = well_over_tls(&ran, &ca.leaf(&["fn.test"]), addr).await;
    stage.heals().await;

    // What was in flight when it stopped, the one or the other, sees what comes after the first.
    let refused =
        &["504 connect_timeout", "502 upstream_tls", "502 upstream_connect", "502 upstream_reset", "cut"];
    Ok(stage.close(&Expect::of(refused)).await)
}

async fn is_replaced(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let function = well(&ran).await;
    let ca = Ca::new();
    let former = ca.leaf(&["localhost"]);
    let start = async |yaml: String| Gateway::start_tls(&former, &yaml).await;
    let mut stage = Stage::set_with(pace, &ran, Setting::to(&function.url()), start).await;
    let (addr, ledger) = (stage.gateway.tls_addr(), stage.ledger.clone());
    let next = ca.leaf(&["localhost"]);

    stage.calm().await;
    let end = Instant::now() + pace.fault.max(Duration::from_secs(1));
    let asking = join_all((0..4).map(|_| keep_coming(&ledger, addr, &ca, end)));
    let replacing = async {
        stage.gateway.write_file("site.pem", "-----BEGIN CERTIFICATE-----\nnot one\n");
        stage.lasts().await;
        let shown = certificate(addr, &ca).await;
        stage.demand(shown == der(&former), "with a bad file it shows another certificate than before");
        stage.gateway.write_file("site.pem", &next.cert);
        stage.gateway.write_file("site.key", &next.key);
        let taken = async {
            while certificate(addr, &ca).await != der(&next) {
                sleep(PAUSE).await;
            }
        };
        let is_taken = timeout(LONG_ENOUGH, taken).await.is_ok();
        stage.demand(is_taken, "it does not come to show the new certificate");
    };
    join(asking, replacing).await;
    stage.heals().await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

/// A gateway whose struck route leads to a function over TLS.
async fn set(pace: Pace, timeout: &str) -> (Stage, Ca, Origin) {
    let (ran, ca) = (Ran::default(), Ca::new());
    let function = well_over_tls(&ran, &ca.leaf(&["fn.test"]), ([127, 0, 0, 1], 0).into()).await;
    let target = format!(
        "http: {{ url: 'https://fn.test/', address: '{}', ca: $DIR/ca.pem, timeout: {timeout}, keepalive_pool: 16 }}",
        function.addr()
    );
    let start = async |yaml: String| Gateway::builder().file("ca.pem", ca.pem()).start(&yaml).await;
    let setting = Setting { target, ..Setting::default() };
    let stage = Stage::set_with(pace, &ran, setting, start).await;
    (stage, ca, function)
}

async fn well_over_tls(ran: &Ran, leaf: &Leaf, addr: SocketAddr) -> Origin {
    let ran = ran.clone();
    let origin = Origin::http1().tls(leaf.server(&[])).reply(move |request| {
        let id = id_of(request.target()).unwrap();
        ran.note(request.method(), id);
        Reply::text(200, &text(id))
    });
    origin.start_at(addr).await
}

/// A connection of its own for each request.
async fn keep_coming(ledger: &Ledger, addr: SocketAddr, ca: &Ca, end: Instant) {
    let trust = ca.client(&["http/1.1"]);
    while Instant::now() < end {
        let id = ledger.next();
        let began = Instant::now();
        let seen = match Client::try_tls(addr, Arc::clone(&trust), "localhost").await {
            Err(_) => Seen::NotConnected,
            Ok(mut client) => match client.try_call(&Request::get(&format!("/struck/{id}"))).await {
                None => Seen::Closed,
                Some(answer) => Seen::of(&answer, id),
            },
        };
        ledger.add(Entry { id, method: "GET", lane: Lane::Struck, began, ended: Instant::now(), seen });
        sleep(PAUSE).await;
    }
}

/// What the gateway shows.
async fn certificate(addr: SocketAddr, ca: &Ca) -> CertificateDer<'static> {
    let stream = tls(addr, ca.client(&[]), "localhost").await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn der(leaf: &Leaf) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap()
}

const PAUSE: Duration = Duration::from_millis(20);
/// The head of a record that never comes.
const SERVER_HELLO_BEGINS: &[u8] = &[22, 3, 3, 0, 122];
