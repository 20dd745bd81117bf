//! A function server as OpenFunction runs it: no credentials of its own, the whole path handed to the function.
//!
//! | path | answer |
//! | --- | --- |
//! | `/{name}`, `/default/function-sample/{name}` | `Hello, {name}!` |
//! | `/default/function-sample` | `Hello, World!` |
//! | `/echo`, `/default/test-body` | `Hello, {body}!` |
//! | `/header` | the values of `Authorization`, in brackets |
//! | `/slow?ms=` | an answer after that many milliseconds |
//! | `/events?ms=` | five server-sent events, that many milliseconds apart |
//! | anything else | 404 |

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use hyper::body::{Body, Frame, Incoming};
use percent_encoding::percent_decode_str;
use tokio::time::{Interval, interval};

use super::serve::{Reply, argument, collect, reply, text};

pub(super) async fn respond(request: Request<Incoming>) -> Reply {
    match request.uri().path() {
        "/echo" | "/default/test-body" => greet_body(request.into_body()).await,
        "/header" => text(StatusCode::OK, authorization(request.headers())),
        "/slow" => slow(request.uri()).await,
        "/events" => events(request.uri()),
        SAMPLE => greet("World"),
        path => match path.strip_prefix(SAMPLE).unwrap_or(path).strip_prefix('/') {
            Some(name) if !name.contains('/') => greet(if name.is_empty() { "World" } else { name }),
            _ => text(StatusCode::NOT_FOUND, "404 not found\n"),
        },
    }
}

fn greet(name: &str) -> Reply {
    let name = percent_decode_str(name).decode_utf8_lossy();
    text(StatusCode::OK, format!("Hello, {name}!\n"))
}

async fn greet_body(body: Incoming) -> Reply {
    match collect(body, BODY_LIMIT).await {
        Some(body) => text(StatusCode::OK, [b"Hello, ", body.as_ref(), b"!\n"].concat()),
        None => text(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 64 MiB or broke off\n"),
    }
}

/// In the brackets of a printed list, several values separated by spaces: a doubled header is visible.
fn authorization(headers: &HeaderMap) -> String {
    let values = headers.get_all(AUTHORIZATION).iter();
    let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    format!("[{}]", values.join(" "))
}

async fn slow(uri: &Uri) -> Reply {
    let pause = milliseconds(uri).unwrap_or(Duration::from_secs(1));
    tokio::time::sleep(pause).await;
    text(StatusCode::OK, format!("Answered after {} ms.\n", pause.as_millis()))
}

fn events(uri: &Uri) -> Reply {
    let period = milliseconds(uri).unwrap_or(Duration::from_millis(500)).max(Duration::from_millis(1));
    let mut reply = reply(StatusCode::OK, "text/event-stream", Events { clock: interval(period), sent: 0 });
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

fn milliseconds(uri: &Uri) -> Option<Duration> {
    argument(uri, "ms")?.parse().ok().map(Duration::from_millis)
}

/// A body that produces its events one by one, the first at once.
struct Events {
    clock: Interval,
    sent: u32,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent == EVENTS {
            return Poll::Ready(None);
        }
        ready!(self.clock.poll_tick(cx));
        self.sent += 1;
        let event = format!("id: {0}\ndata: event {0} of {EVENTS}\n\n", self.sent);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(event)))))
    }
}

const SAMPLE: &str = "/default/function-sample";
const EVENTS: u32 = 5;
/// As large as the gateway lets a body become by default, so that this end is not what refuses it.
const BODY_LIMIT: usize = 64 << 20;
