//! OpenFaaS' gateway (Community Edition): functions that are called at once or queued.
//!
//! | path | answer |
//! | --- | --- |
//! | `/function/hello/{name}` | `Hello, {name}!` |
//! | `/function/img-resize/{file}` | `Resized {file}.` |
//! | `/function/asleep` | the empty 200 of a function that was not scaled up in time |
//! | `/function/…` of any other name | 404 |
//! | `/async-function/{function}` | 202 for a POST, without a body. The queue is not worked off |
//!
//! It names a call that has no `X-Call-Id` yet; what a function answers has its watchdog's `X-Duration-Seconds`.

use http::header::HeaderName;
use http::{HeaderValue, Method, Request, StatusCode};
use percent_encoding::percent_decode_str;

use super::serve::{Reply, empty, greet, next_number, text};

pub(super) fn respond<B>(request: &Request<B>) -> Reply {
    let path = request.uri().path();
    let mut reply = match (path.strip_prefix("/function/"), path.strip_prefix("/async-function/")) {
        (Some(call), _) => call_function(call),
        (_, Some(_)) if request.method() == Method::POST => empty(StatusCode::ACCEPTED),
        (_, Some(_)) => empty(StatusCode::METHOD_NOT_ALLOWED),
        (None, None) => return empty(StatusCode::NOT_FOUND),
    };
    reply.headers_mut().insert(SERVED_BY, HeaderValue::from_static("openfaas-ce/0.27"));
    if !request.headers().contains_key(CALL_ID)
        && let Ok(id) = HeaderValue::try_from(format!("00000000-0000-4000-8000-{:012x}", next_number()))
    {
        reply.headers_mut().insert(CALL_ID, id);
    }
    reply
}

/// `call` is the function's name and what follows it.
fn call_function(call: &str) -> Reply {
    let (function, rest) = call.split_once('/').unwrap_or((call, ""));
    let mut reply = match function {
        "hello" => greet(rest),
        "img-resize" => {
            let file = percent_decode_str(rest).decode_utf8_lossy();
            text(StatusCode::OK, format!("Resized {file}.\n"))
        }
        "asleep" => return empty(StatusCode::OK),
        _ => return text(StatusCode::NOT_FOUND, format!("error finding function {function}\n")),
    };
    reply.headers_mut().insert(DURATION, HeaderValue::from_static("0.001"));
    reply
}

const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
const DURATION: HeaderName = HeaderName::from_static("x-duration-seconds");
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
