//! Two of AWS's front doors: Lambda's API, and an API of API Gateway.
//!
//! | path | answer |
//! | --- | --- |
//! | `/2015-03-31/functions/hello/invocations` | `{"hello":…}` with the event's `name`; 202 for an `Event`, 204 for a `DryRun` |
//! | `/2015-03-31/functions/fail/invocations` | 200 with `X-Amz-Function-Error` and what was thrown |
//! | `/2021-11-15/functions/stream/response-streaming-invocations` | an event stream with five pieces, half a second apart |
//! | `/prod/hello/{name}` | `Hello, {name}!` |
//!
//! The API takes calls that are signed with the demo's keys, API Gateway those with its `x-api-key`; all others are refused with 403.

use std::time::{Duration, SystemTime};

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue as StreamValue, Message};
use bytes::Bytes;
use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::serve::{self, Reply, collect, empty, greet, next_number, reply};
use super::signature::{Fault, verify};
use super::timed::Timed;

/// What the samples' owner would put into `apikey`.
pub const API_KEY: &str = "demo-api-key";

pub(super) async fn respond(request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let answer = match head.uri.path().strip_prefix("/prod/hello") {
        Some(rest) => enter(&head, rest.trim_start_matches('/')),
        None => match collect(body, BODY_LIMIT).await {
            Some(body) => invoke(&head, &body),
            None => Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", "6 MB at most.")),
        },
    };
    let mut reply = answer.unwrap_or_else(Refusal::reply);
    if let Ok(id) = HeaderValue::try_from(format!("00000000-0000-4000-8000-{:012x}", next_number())) {
        reply.headers_mut().insert(REQUEST_ID, id);
    }
    reply
}

/// API Gateway.
fn enter(head: &Parts, name: &str) -> Result<Reply, Refusal> {
    match head.headers.get("x-api-key").is_some_and(|key| key == API_KEY) {
        true => Ok(greet(name)),
        false => Err(Refusal(StatusCode::FORBIDDEN, "ForbiddenException", "Forbidden")),
    }
}

/// Lambda's API.
fn invoke(head: &Parts, event: &[u8]) -> Result<Reply, Refusal> {
    verify(head, event, SystemTime::now())?;
    let segments: Vec<_> = head.uri.path().split('/').collect();
    let (function, streams) = match segments[..] {
        ["", "2015-03-31", "functions", function, "invocations"] => (function, false),
        ["", "2021-11-15", "functions", function, "response-streaming-invocations"] => (function, true),
        _ => return Err(NOT_FOUND),
    };
    if head.method != Method::POST {
        return Err(NOT_FOUND);
    }
    let event: Value = serde_json::from_slice(event).map_err(|_| {
        let message = "Could not parse request body into json.";
        Refusal(StatusCode::BAD_REQUEST, "InvalidRequestContentException", message)
    })?;
    if !["hello", "fail", "stream"].contains(&function) {
        return Err(NOT_FOUND);
    }
    let kind = head.headers.get("x-amz-invocation-type").map_or(&b""[..], HeaderValue::as_bytes);
    match kind {
        b"Event" => return Ok(empty(StatusCode::ACCEPTED)),
        b"DryRun" => return Ok(empty(StatusCode::NO_CONTENT)),
        _ => {}
    }
    let mut reply = match (function, streams) {
        ("fail", _) => fail(),
        (_, true) => stream(),
        (_, false) => {
            serve::json(StatusCode::OK, &json!({ "hello": event.get("name").unwrap_or(&json!("World")) }))
        }
    };
    reply.headers_mut().insert(EXECUTED_VERSION, HeaderValue::from_static("$LATEST"));
    Ok(reply)
}

/// The function has thrown, for which the status is none the less 200.
fn fail() -> Reply {
    let thrown =
        json!({ "errorMessage": "This function always fails.", "errorType": "Error", "stackTrace": [] });
    let mut reply = serve::json(StatusCode::OK, &thrown);
    reply.headers_mut().insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
    reply
}

fn stream() -> Reply {
    let pieces = (1..=PIECES).map(|n| frame("PayloadChunk", format!("piece {n} of {PIECES}\n")));
    let frames = pieces.chain(std::iter::once_with(|| frame("InvokeComplete", "{}".to_owned())));
    reply(StatusCode::OK, "application/vnd.amazon.eventstream", Timed::new(PAUSE, frames))
}

/// One message of the event stream.
fn frame(kind: &'static str, payload: String) -> Bytes {
    let message = [(":message-type", "event"), (":event-type", kind)]
        .into_iter()
        .map(|(name, value)| Header::new(name, StreamValue::String(value.into())))
        .fold(Message::new(payload), Message::add_header);
    let mut frame = Vec::new();
    write_message_to(&message, &mut frame).expect("two short headers and a line fit into a frame");
    Bytes::from(frame)
}

/// A status, the exception's name and its message.
struct Refusal(StatusCode, &'static str, &'static str);

impl Refusal {
    fn reply(self) -> Reply {
        let Refusal(status, exception, message) = self;
        let mut reply = serve::json(status, &json!({ "message": message }));
        reply.headers_mut().insert(ERROR_TYPE, HeaderValue::from_static(exception));
        reply
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        let (exception, message) = match fault {
            Fault::Missing => ("MissingAuthenticationTokenException", "Missing Authentication Token"),
            Fault::UnknownKey => {
                ("UnrecognizedClientException", "The security token included in the request is invalid.")
            }
            Fault::Expired => ("InvalidSignatureException", "Signature expired."),
            Fault::Mismatch => {
                ("InvalidSignatureException", "The signature does not match the one calculated here.")
            }
        };
        Refusal(StatusCode::FORBIDDEN, exception, message)
    }
}

const NOT_FOUND: Refusal = Refusal(StatusCode::NOT_FOUND, "ResourceNotFoundException", "Function not found.");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const BODY_LIMIT: usize = 6 << 20;
const PIECES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
