//! A server of no platform: it answers with the request as it arrived, which shows what the gateway made of it.

use std::fmt::Write as _;

use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::serve::{Reply, collect, text};

pub(super) async fn respond(request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let Some(body) = collect(body, BODY_LIMIT).await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB or broke off\n");
    };
    let mut seen = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    for (name, value) in &head.headers {
        let _ = writeln!(seen, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    let mut seen = seen.into_bytes();
    if !body.is_empty() {
        seen.push(b'\n');
        seen.extend_from_slice(&body);
    }
    text(StatusCode::OK, seen)
}

const BODY_LIMIT: usize = 1 << 20;
