//! What a function can do to a request on the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Fault, Outcome};
use crate::harness::{Exchange, Origin, Reply};
use crate::ledger::{Ran, id_of, text};
use crate::stage::{Expect, Pace, Setting, Stage};

struct Misdeed {
    name: &'static str,
    does: fn(Exchange) -> BoxFuture<'static, ()>,
    expect: Expect,
}

pub(super) fn all() -> Vec<Fault> {
    MISDEEDS
        .iter()
        .map(|misdeed| Fault::new(misdeed.name, move |pace| strikes(misdeed.does, &misdeed.expect, pace)))
        .collect()
}

async fn strikes(does: fn(Exchange) -> BoxFuture<'static, ()>, expect: &Expect, pace: Pace) -> Outcome {
    let ran = Ran::default();
    let is_bad = Arc::new(AtomicBool::new(false));
    let function = Origin::http1().script({
        let (ran, is_bad) = (ran.clone(), Arc::clone(&is_bad));
        move |exchange| {
            ran.note(exchange.method(), exchange.target());
            if is_bad.load(Ordering::Relaxed) { does(exchange) } else { Box::pin(behave(exchange)) }
        }
    });
    let function = function.start().await;
    let mut stage = Stage::set(pace, &ran, Setting::to(&function.url())).await;

    stage.calm().await;
    is_bad.store(true, Ordering::Relaxed);
    stage.lasts().await;
    is_bad.store(false, Ordering::Relaxed);
    stage.heals().await;

    Ok(stage.close(expect).await)
}

async fn behave(mut exchange: Exchange) {
    exchange.body().await;
    let answer = text(id_of(exchange.target()).unwrap());
    exchange.answer(Reply::text(200, &answer)).await;
}

fn only(bytes: &'static str, mut exchange: Exchange) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        exchange.body().await;
        exchange.send(bytes).await;
        exchange.close();
    })
}

/// A head, and the first half of the answer.
async fn half(mut exchange: Exchange, framing: &str) -> Exchange {
    exchange.body().await;
    let answer = text(id_of(exchange.target()).unwrap());
    let half = &answer[..500];
    let half = if framing.contains("chunked") { format!("1f4\r\n{half}\r\n") } else { half.to_owned() };
    exchange.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{half}")).await;
    exchange
}

static MISDEEDS: [Misdeed; 17] = [
    Misdeed {
        name: "function closes without answering",
        does: |mut x| Box::pin(async move { x.close() }),
        expect: Expect::of(&["502 upstream_reset"]),
    },
    Misdeed {
        name: "function resets instead of answering",
        does: |mut x| Box::pin(async move { x.reset() }),
        expect: Expect::of(&["502 upstream_reset"]),
    },
    Misdeed {
        name: "function sends 100 and closes",
        does: |x| only("HTTP/1.1 100 Continue\r\n\r\n", x),
        expect: Expect::of(&["502 upstream_reset"]),
    },
    Misdeed {
        name: "function closes in the middle of a sized answer",
        does: |x| {
            Box::pin(async move {
                let mut x = half(x, "Content-Length: 1000").await;
                x.close();
            })
        },
        expect: Expect::of(&["cut"]),
    },
    Misdeed {
        name: "function closes in the middle of a chunked answer",
        does: |x| {
            Box::pin(async move {
                let mut x = half(x, "Transfer-Encoding: chunked").await;
                x.close();
            })
        },
        expect: Expect::of(&["cut"]),
    },
    Misdeed {
        name: "function resets in the middle of an answer",
        // A reset overtakes what was sent before it, the head included.
        does: |x| {
            Box::pin(async move {
                let mut x = half(x, "Content-Length: 1000").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                x.reset();
            })
        },
        expect: Expect::of(&["cut", "502 upstream_reset"]),
    },
    Misdeed {
        name: "function sends a bad chunk size",
        does: |x| only("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", x),
        expect: Expect::of(&["cut", "502 upstream_protocol"]),
    },
    Misdeed {
        name: "function hangs",
        does: |mut x| Box::pin(async move { x.peer_closed().await }),
        expect: Expect::of(&["504 upstream_timeout"]),
    },
    Misdeed {
        name: "function hangs in the middle of an answer",
        does: |x| {
            Box::pin(async move {
                let mut x = half(x, "Content-Length: 1000").await;
                x.peer_closed().await;
            })
        },
        expect: Expect::of(&["cut"]),
    },
    Misdeed {
        name: "function sends its head byte by byte",
        does: |mut x| {
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
        name: "function sends garbage",
        does: |x| only("\u{7f}ELF: this is not HTTP\r\n\r\n", x),
        expect: Expect::of(&["502 upstream_protocol"]),
    },
    Misdeed {
        name: "function sends 2000 x 103 first",
        does: |mut x| {
            Box::pin(async move {
                x.body().await;
                x.send("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n".repeat(2000)).await;
                behave(x).await;
            })
        },
        expect: Expect::of(&["502 upstream_protocol"]),
    },
    Misdeed {
        name: "function switches protocols unasked",
        does: |x| only("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", x),
        expect: Expect::of(&["502 upstream_protocol"]),
    },
    Misdeed {
        name: "function sends a head of 300 KB",
        does: |mut x| {
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
        does: |x| only("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", x),
        expect: Expect::of(&["502 upstream_protocol"]),
    },
    Misdeed {
        name: "function sends more than its length",
        does: |mut x| {
            Box::pin(async move {
                x.body().await;
                let right = text(id_of(x.target()).unwrap());
                x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{right}surplus", right.len()))
                    .await;
            })
        },
        expect: Expect::of(&["answered"]),
    },
    Misdeed {
        name: "function answers before it has read the request",
        does: |mut x| {
            Box::pin(async move {
                let right = text(id_of(x.target()).unwrap());
                x.answer(Reply::text(200, &right).header("Connection", "close")).await;
                x.close();
            })
        },
        expect: Expect::of(&["answered"]),
    },
];
