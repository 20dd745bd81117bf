//! Clients that leave, dawdle, and come in crowds. The load beside them is not to notice.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Fault, Outcome};
use crate::harness::{Gateway, Origin, Request};
use crate::ledger::{Ledger, Ran, Seen};
use crate::stage::{Expect, LONG_ENOUGH, Pace, Setting, Stage, route, until, well};

pub(super) fn all() -> Vec<Fault> {
    vec![
        Fault::new("clients half-close after their request", half_close),
        Fault::new("clients vanish in the middle of an answer", |pace| vanish(pace, Leaves::InAnswer)),
        Fault::new("clients vanish in the middle of an upload", |pace| vanish(pace, Leaves::InUpload)),
        Fault::new("clients send their head byte by byte", slow_heads),
        Fault::new("clients stop in the middle of their body", silent_bodies),
        Fault::new("clients do not take their answers", slow_readers),
        Fault::new("more connections than `limits.connections`", too_many),
        Fault::new("more connections than file descriptors", no_descriptors),
    ]
}

async fn half_close(pace: Pace) -> Outcome {
    let (mut stage, _function) = busy(pace, "", "").await;

    stage.calm().await;
    let end = Instant::now() + pace.fault;
    while Instant::now() < end {
        let id = stage.ledger.next();
        let mut client = stage.gateway.client().await;
        client.start(&Request::get(&format!("/struck/{id}"))).await;
        client.finish().await;
        let finished = Instant::now();
        let seen = match client.try_response("GET").await {
            Some(answer) => Seen::of(&answer, id),
            // The function stood still, so that the client is taken to have left.
            None if finished.elapsed() >= AFTER_HALF_CLOSE => Seen::Left,
            None => Seen::Closed,
        };
        let is_well = matches!(seen, Seen::Answered | Seen::Left);
        stage.demand(is_well, format!("who half-closed was not answered: {seen}"));
        stage.ledger.guest(id, "GET", seen);
    }
    stage.heals().await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

#[derive(Clone, Copy)]
enum Leaves {
    InAnswer,
    InUpload,
}

async fn vanish(pace: Pace, leaves: Leaves) -> Outcome {
    let endless = endless().await;
    let routes = route("long", &format!("http: {{ url: '{}/', timeout: 60s }}", endless.url()));
    let (mut stage, _function) = busy(pace, "", &routes).await;
    if matches!(leaves, Leaves::InUpload) {
        // A reset may throw away what the gateway has not read yet, and with it the request.
        stage.not_counted();
    }

    stage.calm().await;
    let end = Instant::now() + pace.fault;
    while Instant::now() < end {
        join_all((0..10).map(|number| leave(&stage.gateway, &stage.ledger, leaves, number % 2 == 0))).await;
        sleep(BETWEEN_WAVES).await;
    }
    ends(&mut stage, &endless, "that left").await;
    stage.heals().await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

async fn leave(gateway: &Gateway, ledger: &Ledger, leaves: Leaves, resets: bool) {
    let id = ledger.next();
    let mut client = gateway.client().await;
    let method = match leaves {
        Leaves::InAnswer => {
            client.start(&Request::get(&format!("/long/{id}"))).await;
            client.head().await;
            "GET"
        }
        Leaves::InUpload => {
            let head = format!("POST /long/{id} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
            client.send(head + &"x".repeat(100_000)).await;
            "POST"
        }
    };
    if resets {
        client.reset();
    }
    ledger.guest(id, method, Seen::Left);
}

async fn slow_heads(pace: Pace) -> Outcome {
    let (mut stage, _function) = busy(pace, "limits: { header_timeout: 1s }", "").await;

    stage.calm().await;
    let begun = Instant::now();
    let slow = join_all((0..SLOW).map(|_| slow_head(&stage.gateway, &stage.ledger))).await;
    let told = slow.iter().filter(|seen| **seen == Seen::Told(408, "request_timeout".to_owned())).count();
    stage.demand(told == SLOW, format!("{told} of {SLOW} slow clients were told so"));
    let took = begun.elapsed();
    stage
        .demand(took < HEADER_TIMEOUT_BY_ITSELF, format!("it took {took:?} to be rid of them, not a second"));
    stage.lasts().await;
    stage.heals().await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

async fn slow_head(gateway: &Gateway, ledger: &Ledger) -> Seen {
    let id = ledger.next();
    let mut client = gateway.client().await;
    let head = format!("GET /struck/{id} HTTP/1.1\r\nHost: h\r\nX-Slow: {}\r\n\r\n", "x".repeat(200));
    for byte in head.bytes() {
        client.send([byte]).await;
        let next = Instant::now() + Duration::from_millis(100);
        if let Ok(answer) = timeout_at(next, client.try_response("GET")).await {
            let seen = answer.map_or(Seen::Closed, |answer| Seen::of(&answer, id));
            ledger.guest(id, "GET", seen.clone());
            return seen;
        }
    }
    let seen = Seen::Lost("never given up".to_owned());
    ledger.guest(id, "GET", seen.clone());
    seen
}

async fn silent_bodies(pace: Pace) -> Outcome {
    let endless = endless().await;
    let routes = route("long", &format!("http: {{ url: '{}/', timeout: 60s }}", endless.url()));
    let (mut stage, _function) = busy(pace, WITHOUT_PATIENCE, &routes).await;

    stage.calm().await;
    let silent = join_all((0..SLOW).map(|_| silent_body(&stage.gateway, &stage.ledger))).await;
    let told = silent.iter().filter(|seen| **seen == Seen::Told(408, "request_timeout".to_owned())).count();
    stage.demand(told == SLOW, format!("{told} of {SLOW} silent clients were told so"));
    ends(&mut stage, &endless, "that fell silent").await;
    stage.lasts().await;
    stage.heals().await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

async fn silent_body(gateway: &Gateway, ledger: &Ledger) -> Seen {
    let id = ledger.next();
    let mut client = gateway.client().await;
    let head = format!("POST /long/{id} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n");
    client.send(head + &"x".repeat(500)).await;
    let seen = client.try_response("POST").await.map_or(Seen::Closed, |answer| Seen::of(&answer, id));
    ledger.guest(id, "POST", seen.clone());
    seen
}

/// A function learns that nobody waits for it any more.
async fn ends(stage: &mut Stage, function: &Origin, whose: &str) {
    let has_ended = until(async || function.open() == 0).await;
    stage.demand(has_ended, format!("{} calls go on for clients {whose}", function.open()));
}

async fn slow_readers(pace: Pace) -> Outcome {
    let endless = endless().await;
    let routes = route("long", &format!("http: {{ url: '{}/', timeout: 60s }}", endless.url()));
    let (mut stage, _function) = busy(pace, WITHOUT_PATIENCE, &routes).await;

    stage.calm().await;
    let mut clients = Vec::new();
    for _ in 0..READERS {
        let id = stage.ledger.next();
        let mut client = stage.gateway.client().await;
        client.start(&Request::get(&format!("/long/{id}"))).await;
        stage.ledger.guest(id, "GET", Seen::Left);
        clients.push(client);
    }
    let has_begun = until(async || endless.accepted() >= READERS).await;
    stage.demand(has_begun, "not everybody's call began");
    ends(&mut stage, &endless, "that take nothing").await;
    stage.heals().await;
    drop(clients);

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

/// Those who are connected go on; those who come beyond the reserve are refused and counted, and served when there is room again.
async fn no_descriptors(pace: Pace) -> Outcome {
    let pace = Pace { fault: pace.fault.max(MEASURABLE), ..pace };
    let ran = Ran::default();
    let function = well(&ran).await;
    let start = async |yaml: String| Gateway::builder().open_files(128).start(&yaml).await;
    let mut stage = Stage::set_with(pace, &ran, Setting::to(&function.url()), start).await;

    let beginning = Spent::of(&stage);
    stage.calm().await;
    until(async || stage.ledger.count(|_| true) >= ENOUGH_TO_MEASURE).await;
    let calm = Spent::of(&stage);
    let crowd = join_all((0..200).map(|_| stage.gateway.client())).await;
    stage.lasts().await;
    drop(crowd);
    let crowded = Spent::of(&stage);
    // By what requests cost before. How many there were is a matter of the machine.
    let ordinary = (calm.seconds - beginning.seconds) / (calm.requests - beginning.requests)
        * (crowded.requests - calm.requests);
    let took = crowded.seconds - calm.seconds;
    let passed = (crowded.at - calm.at).as_secs_f64();
    stage.demand(
        took < ordinary * 1.5 + passed * 0.4,
        format!("in {passed:.2} s of the crowd it took {took:.2} s of a processor, not {ordinary:.2}: something spins"),
    );
    stage.heals().await;
    // Whoever comes now comes after all of the crowd, of which none is then still to be refused.
    let id = stage.ledger.next();
    let request = Request::get(&format!("/struck/{id}"));
    let is_served = until(async || match stage.gateway.client().await.try_call(&request).await {
        Some(answer) => Seen::of(&answer, id) == Seen::Answered,
        None => false,
    });
    let is_served = is_served.await;
    stage.demand(is_served, "there is room again, and nobody new is served");
    stage.ledger.guest(id, "GET", Seen::Answered);
    let refused = stage.gateway.metrics().await.counter("fngate_failures_total", &[("code", "overloaded")]);
    stage.demand(refused > 0.0, "nobody was refused: the reserve was not touched");
    // Their connections were closed, which is all that they can be told.
    (0..).take_while(|told| f64::from(*told) < refused).for_each(|_: u32| {
        stage.ledger.guest(stage.ledger.next(), "GET", Seen::Told(503, "overloaded".to_owned()));
    });

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

/// How much of a processor a gateway has taken, and for how many requests.
struct Spent {
    seconds: f64,
    requests: f64,
    at: Instant,
}

impl Spent {
    fn of(stage: &Stage) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", stage.gateway.pid())).unwrap();
        // Behind the name, which may contain anything, come eleven other fields.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().unwrap());
        let requests = u32::try_from(stage.ledger.count(|_| true)).unwrap().into();
        Spent { seconds: ticks.sum::<f64>() / TICKS_PER_SECOND, requests, at: Instant::now() }
    }
}

async fn too_many(pace: Pace) -> Outcome {
    let (mut stage, _function) = busy(pace, "limits: { connections: 40 }", "").await;

    stage.calm().await;
    let mut crowd = join_all((0..60).map(|_| stage.gateway.client())).await;
    // Those for whom there is room are waited for; the others, with ten that came before, are told at once.
    let mut answers: FuturesUnordered<_> =
        crowd.iter_mut().map(|client| client.try_response("GET")).collect();
    let patience = Instant::now() + LONG_ENOUGH;
    let mut told = 0;
    while told < 30
        && let Ok(Some(Some(answer))) = timeout_at(patience, answers.next()).await
    {
        told += usize::from((answer.status(), answer.code().as_str()) == (503, "overloaded"));
        stage.ledger.guest(stage.ledger.next(), "GET", Seen::Told(answer.status(), answer.code()));
    }
    drop(answers);
    stage.demand(told == 30, format!("{told} of 60 were told that there is no room, not 30"));
    stage.lasts().await;
    drop(crowd);
    stage.heals().await;

    Ok(stage.close(&Expect::of(&["answered"])).await)
}

/// A stage with a function that does as it should.
async fn busy(pace: Pace, top: &str, routes: &str) -> (Stage, Origin) {
    let ran = Ran::default();
    let function = well(&ran).await;
    let setting = Setting { top: top.to_owned(), routes: routes.to_owned(), ..Setting::to(&function.url()) };
    (Stage::set(pace, &ran, setting).await, function)
}

/// A function that sends for as long as somebody takes it, and takes whatever is sent.
async fn endless() -> Origin {
    let origin = Origin::http1().script(|mut exchange| async move {
        if exchange.method() == "POST" {
            exchange.body().await;
            return;
        }
        exchange.start_chunked("text/plain").await;
        while !exchange.closing() {
            exchange.send_chunk(&"x".repeat(16 * 1024)).await;
        }
    });
    origin.start().await
}

const SLOW: usize = 60;
/// It holds for those who are between two requests, too, and they are not to be closed for a pause.
const WITHOUT_PATIENCE: &str = "limits: { idle_timeout: 3s, min_rate: 0 }";
/// How long a client that closed its side is waited for in silence.
const AFTER_HALF_CLOSE: Duration = Duration::from_secs(1);
/// `limits.header_timeout` is ten seconds where nothing is said. What takes no longer than this is not that.
const HEADER_TIMEOUT_BY_ITSELF: Duration = Duration::from_secs(8);
/// Requests of which each costs a millisecond or two, counted in hundredths of a second.
const ENOUGH_TO_MEASURE: usize = 300;
/// A crowd of a shorter time shows nothing.
const MEASURABLE: Duration = Duration::from_secs(1);
const READERS: usize = 20;
const BETWEEN_WAVES: Duration = Duration::from_millis(100);
/// In which /proc counts (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;
