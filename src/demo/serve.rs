//! What the sample servers have in common: accepting, keep-alive, and the few kinds of answer.
//!
//! It must never know what a path means; that is each sample's own business.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(super) type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Serves until dropped; dropping ends the open connections too. An HTTP/1.1 connection that is idle for `idle`
/// is closed, and says so in advance. HTTP/2 is spoken to who begins with its preface.
pub(super) async fn serve<F, A>(listener: TcpListener, idle: Duration, respond: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, idle, respond.clone()));
                }
                // Out of descriptors: the connection stays in the queue and accept fails again at once, so
                // without a pause this loop would keep the worker from closing any.
                Err(fault) => {
                    log::warn!("a sample function cannot accept a connection: {fault}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse<F, A>(stream: TcpStream, idle: Duration, respond: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let http1 = request.version() < Version::HTTP_2;
        let reply = respond(request);
        async move {
            let mut reply = reply.await;
            if http1 && let Ok(promise) = HeaderValue::try_from(format!("timeout={}", idle.as_secs())) {
                reply.headers_mut().insert(KEEP_ALIVE, promise);
            }
            Ok::<_, Infallible>(reply)
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(idle);
    // An event must leave when it happens, not when a segment is full.
    let _ = stream.set_nodelay(true);
    // A peer that resets or talks nonsense ends its own connection and concerns nobody else.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, "text/plain; charset=utf-8", Full::new(body.into()))
}

/// What most of the samples do: greeting who is named by a piece of a path, or the world.
pub(super) fn greet(name: &str) -> Reply {
    let name = percent_decode_str(if name.is_empty() { "World" } else { name }).decode_utf8_lossy();
    text(StatusCode::OK, format!("Hello, {name}!\n"))
}

/// A reply without a body, and so without a type.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::default().boxed_unsync());
    *reply.status_mut() = status;
    reply
}

pub(super) fn json(status: StatusCode, body: &serde_json::Value) -> Reply {
    reply(status, "application/json", Full::new(Bytes::from(body.to_string())))
}

pub(super) fn reply<B>(status: StatusCode, content_type: &'static str, body: B) -> Reply
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut reply = Response::new(body.boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// The whole body, or `None` when it is longer than `limit` or breaks off.
pub(super) async fn collect(body: Incoming, limit: usize) -> Option<Bytes> {
    Limited::new(body, limit).collect().await.ok().map(|body| body.to_bytes())
}

/// The first value of a query argument, as it stands in the URI.
pub(super) fn argument<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find_map(|(key, value)| (key == name).then_some(value))
}

/// For names of calls, unique for as long as the demo runs.
pub(super) fn next_number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
