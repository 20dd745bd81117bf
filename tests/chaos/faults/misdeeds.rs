//! What a function can do to a request on the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Fault, Outcome};
use crate::harness::{Exchange, Origin, Reply};
use crate::ledger::{Ran, id_of, text};
use crate::stage::{Expect, Pace, Setting, Stage};

struct Misdeed {
    name: &'static str,
    does: Does,
    expect: Expect,
}

type Does = fn(Exchange, u64) -> BoxFuture<'static, ()>;

pub(super) fn all() -> Vec<Fault> {
    let each = MISDEEDS.iter().enumerate().map(|(number, misdeed)| {
        let setting = if number < WORST { Setting::to } else { Setting::hurried };
        Fault::new(misdeed.name, move |pace| strikes(misdeed, setting, pace))
    });
    each.chain([Fault::new("an action (OpenWhisk) does the worst of these in turn", action)]).collect()
}

/// Whether the function misbehaves, and how often it did.
#[derive(Clone, Default)]
struct Mood {
    is_bad: Arc<AtomicBool>,
    misdeeds: Arc<AtomicUsize>,
}

impl Mood {
    fn is_bad_now(&self) -> bool {
        let is_bad = self.is_bad.load(Ordering::Relaxed);
        self.misdeeds.fetch_add(usize::from(is_bad), Ordering::Relaxed);
        is_bad
    }
}

async fn strikes(misdeed: &'static Misdeed, setting: fn(&str) -> Setting, pace: Pace) -> Outcome {
    let ran = Ran::default();
    let mood = Mood::default();
    let function = Origin::http1().script({
        let (ran, mood) = (ran.clone(), mood.clone());
        move |exchange| {
            let id = id_of(exchange.target()).unwrap();
            ran.note(exchange.method(), id);
            if mood.is_bad_now() { (misdeed.does)(exchange, id) } else { behave(exchange, id) }
        }
    });
    let function = function.start().await;
    let stage = Stage::set(pace, &ran, setting(&function.url())).await;
    suffers(stage, &mood, &misdeed.expect).await
}

/// Where the answer is collected before it is passed on, nothing is cut: it is an answer or an error. Nothing is sent twice,
/// because to the platform everything is a POST.
async fn action(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let mood = Mood::default();
    let function = Origin::http1().script({
        let (ran, mood) = (ran.clone(), mood.clone());
        move |mut exchange| {
            let (ran, mood) = (ran.clone(), mood.clone());
            async move {
                let body = exchange.body().await;
                let input: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let id = id_of(input["__ow_path"].as_str().unwrap()).unwrap();
                ran.note(exchange.method(), id);
                if mood.is_bad_now() {
                    let worst = usize::try_from(id).unwrap() % WORST;
                    return (MISDEEDS[worst].does)(exchange, id).await;
                }
                exchange.answer(Reply::json(&serde_json::json!({ "body": text(id) }))).await;
            }
        }
    });
    let function = function.start().await;
    let target = format!(
        "openwhisk: {{ api_host: '{}', service_token: 'a:b', namespace: n, action: a, input: web, \
         keepalive_pool: 16 }}",
        function.url()
    );
    let stage = Stage::set(pace, &ran, Setting { target, ..Setting::default() }).await;
    suffers(stage, &mood, &Expect::of(&["502 upstream_reset", "502 upstream_protocol"])).await
}

async fn suffers(mut stage: Stage, mood: &Mood, expect: &Expect) -> Outcome {
    stage.calm().await;
    mood.is_bad.store(true, Ordering::Relaxed);
    stage.lasts_and_strikes(&mood.misdeeds).await;
    mood.is_bad.store(false, Ordering::Relaxed);
    stage.heals().await;

    Ok(stage.close(expect).await)
}

fn behave(mut exchange: Exchange, id: u64) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        exchange.body().await;
        exchange.answer(Reply::text(200, &text(id))).await;
    })
}

fn only(bytes: &'static str, mut exchange: Exchange) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        exchange.body().await;
        exchange.send(bytes).await;
        exchange.close();
    })
}

/// A head, and the first half of the answer.
async fn half(mut exchange: Exchange, id: u64, framing: &str) -> Exchange {
    exchange.body().await;
    let answer = text(id);
    let half = &answer[..500];
    let half = if framing.contains("chunked") { format!("1f4\r\n{half}\r\n") } else { half.to_owned() };
    exchange.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{half}")).await;
    exchange
}

/// So many of them, from the first on, end a call at once.
const WORST: usize = 11;

static MISDEEDS: [Misdeed; 17] = [
    Misdeed {
        name: "function closes without answering",
        does: |mut x, _| Box::pin(async move { x.close() }),
        expect: Expect::of(&["502 upstream_reset"]),
    },
    Misdeed {
        name: "function resets instead of answering",
        does: |mut x, _| Box::pin(async move { x.reset() }),
        expect: Expect::of(&["502 upstream_reset"]),
    },
    Misdeed {
        name: "function sends 100 and closes",
        does: |x, _| only("HTTP/1.1 100 Continue\r\n\r\n", x),
        expect: Expect::of(&["502 upstream_reset"]),
    },
    Misdeed {
        name: "function closes in the middle of a sized answer",
        does: |x, id| {
            Box::pin(async move {
                let mut x = half(x, id, "Content-Length: 1000").await;
                x.close();
            })
        },
        expect: Expect::of(&["cut"]),
    },
    Misdeed {
        name: "function closes in the middle of a chunked answer",
        does: |x, id| {
            Box::pin(async move {
                let mut x = half(x, id, "Transfer-Encoding: chunked").await;
                x.close();
            })
        },
        expect: Expect::of(&["cut"]),
    },
    Misdeed {
        name: "function resets in the middle of an answer",
        // A reset overtakes what was sent before it, the head included.
        does: |x, id| {
            Box::pin(async move {
                let mut x = half(x, id, "Content-Length: 1000").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                x.reset();
            })
        },
        expect: Expect::of(&["cut", "502 upstream_reset"]),
    },
    Misdeed {
        name: "function sends a bad chunk size",
        does: |x, _| only("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", x),
        expect: Expect::of(&["cut", "502 upstream_protocol"]),
    },
    Misdeed {
        name: "function sends garbage",
        does: |x, _| only("\u{7f}ELF: this is not HTTP\r\n\r\n", x),
        expect: Expect::of(&["502 upstream_protocol"]),
    },
    Misdeed {
        name: "function switches protocols unasked",
        does: |x, _| only("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", x),
        expect: Expect::of(&["502 upstream_protocol"]),
    },
    Misdeed {
        name: "function sends a head of 300 KB",
        does: |mut x, _| {
            Box::pin(async move {
                x.body().await;
                let value = "x".repeat(300 * 1024);
                x.answer(Reply::text(200, "much").header("X-Much", &value)).await;
                x.close();
            })
        },
        expect: Expect::of(&["502 upstream_protocol"]),
    },
    Misdeed {
        name: "function sends two lengths",
        does: |x, _| only("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", x),
        expect: Expect::of(&["502 upstream_protocol"]),
    },
    // From here on they take their time, or do no harm.
    Misdeed {
        name: "function hangs",
        does: |mut x, _| Box::pin(async move { x.peer_closed().await }),
        expect: Expect::of(&["504 upstream_timeout"]),
    },
    Misdeed {
        name: "function hangs in the middle of an answer",
        does: |x, id| {
            Box::pin(async move {
                let mut x = half(x, id, "Content-Length: 1000").await;
                x.peer_closed().await;
            })
        },
        expect: Expect::of(&["cut"]),
    },
    Misdeed {
        name: "function sends its head byte by byte",
        does: |mut x, _| {
            Box::pin(async move {
                for byte in "HTTP/1.1 200 OK\r\nX-Slow: it would take seconds to get to the end\r\n".bytes() {
                    x.send([byte]).await;
                    if x.closing() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                x.close();
            })
        },
        expect: Expect::of(&["504 upstream_timeout"]),
    },
    Misdeed {
        name: "function sends 2000 x 103 first",
        does: |mut x, id| {
            Box::pin(async move {
                x.body().await;
                x.send("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n".repeat(2000)).await;
                behave(x, id).await;
            })
        },
        expect: Expect::of(&["502 upstream_protocol"]),
    },
    Misdeed {
        name: "function sends more than its length",
        does: |mut x, id| {
            Box::pin(async move {
                x.body().await;
                let right = text(id);
                x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{right}surplus", right.len()))
                    .await;
            })
        },
        expect: Expect::of(&["answered"]),
    },
    Misdeed {
        name: "function answers before it has read the request",
        does: |mut x, id| {
            Box::pin(async move {
                let right = text(id);
                x.answer(Reply::text(200, &right).header("Connection", "close")).await;
                x.close();
            })
        },
        expect: Expect::of(&["answered"]),
    },
];
