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

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use hyper::body::Incoming;

use super::serve::{Reply, argument, collect, greet, reply, text};
use super::timed::Timed;

pub(super) async fn respond(request: Request<Incoming>) -> Reply {
    match request.uri().path() {
        "/echo" | "/default/test-body" => greet_body(request.into_body()).await,
        "/header" => text(StatusCode::OK, authorization(request.headers())),
        "/slow" => slow(request.uri()).await,
        "/events" => events(request.uri()),
        SAMPLE => greet(""),
        path => match path.strip_prefix(SAMPLE).unwrap_or(path).strip_prefix('/') {
            Some(name) if !name.contains('/') => greet(name),
            _ => text(StatusCode::NOT_FOUND, "404 not found\n"),
        },
    }
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
    let period = milliseconds(uri).unwrap_or(Duration::from_millis(500));
    let events = (1..=EVENTS).map(|n| Bytes::from(format!("id: {n}\ndata: event {n} of {EVENTS}\n\n")));
    let mut reply = reply(StatusCode::OK, "text/event-stream", Timed::new(period, events));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

fn milliseconds(uri: &Uri) -> Option<Duration> {
    argument(uri, "ms")?.parse().ok().map(Duration::from_millis)
}

const SAMPLE: &str = "/default/function-sample";
const EVENTS: u32 = 5;
/// As large as the gateway lets a body become by default, so that this end is not what refuses it.
const BODY_LIMIT: usize = 64 << 20;
