//! An app of Azure Functions: HTTP triggers that ask for a key, and an orchestration of Durable Functions.
//!
//! | path | answer |
//! | --- | --- |
//! | `/api/hello/{name}` | `Hello, {name}!` |
//! | `/api/orchestrators/hello` | 202 with the URL of a new instance, in `Location` and in the body |
//! | `/runtime/webhooks/durabletask/instances/{id}` | 202 while it runs, then 200 with its output |
//!
//! The triggers ask for the app's key, in `X-Functions-Key` or else in `code`; the instances for its system key, which stands in
//! the URLs as `code`. Nothing is kept: an instance's id is the time at which it began.

use std::time::{Duration, SystemTime};

use http::header::{HOST, HeaderName, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Request, StatusCode};
use serde_json::json;

use super::serve::{self, Reply, argument, empty, greet};

/// What the samples' owner would put into `apikey`.
pub const APP_KEY: &str = "demo-app-key";

pub(super) fn respond<B>(request: &Request<B>) -> Reply {
    let key = request.headers().get(FUNCTIONS_KEY).and_then(|key| key.to_str().ok());
    let code = argument(request.uri(), "code");
    let path = request.uri().path();
    if let Some(id) = path.strip_prefix(INSTANCES) {
        return match code == Some(SYSTEM_KEY) {
            true => watch(request, id),
            false => empty(StatusCode::UNAUTHORIZED),
        };
    }
    let Some(function) = path.strip_prefix("/api/") else { return empty(StatusCode::NOT_FOUND) };
    if key.or(code) != Some(APP_KEY) {
        return empty(StatusCode::UNAUTHORIZED);
    }
    match function.split_once('/') {
        Some(("hello", name)) => greet(name),
        None if function == "hello" => greet(""),
        Some(("orchestrators", "hello")) => start(request),
        _ => empty(StatusCode::NOT_FOUND),
    }
}

fn start<B>(request: &Request<B>) -> Reply {
    let id = format!("{:032x}", since_epoch().as_millis());
    let url = url(request, &id);
    let body = json!({ "id": id, "statusQueryGetUri": url });
    unfinished(serve::json(StatusCode::ACCEPTED, &body), &url)
}

fn watch<B>(request: &Request<B>, id: &str) -> Reply {
    let began = u64::from_str_radix(id, 16).ok().map(Duration::from_millis);
    let Some(age) = began.and_then(|began| since_epoch().checked_sub(began)).filter(|age| *age < KEPT) else {
        return empty(StatusCode::NOT_FOUND);
    };
    if age < WORK {
        let body = json!({ "name": "hello", "instanceId": id, "runtimeStatus": "Running", "output": null });
        return unfinished(serve::json(StatusCode::ACCEPTED, &body), &url(request, id));
    }
    let output = "Hello, World!";
    serve::json(
        StatusCode::OK,
        &json!({ "name": "hello", "instanceId": id, "runtimeStatus": "Completed", "output": output }),
    )
}

/// Where to look, and when.
fn unfinished(mut reply: Reply, url: &str) -> Reply {
    if let Ok(url) = HeaderValue::try_from(url) {
        reply.headers_mut().insert(LOCATION, url);
    }
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}

/// Absolute, by the name under which the app was called.
fn url<B>(request: &Request<B>, id: &str) -> String {
    let host = request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
    let host = host.unwrap_or_default();
    format!("http://{host}{INSTANCES}{id}?taskHub=demo&connection=Storage&code={SYSTEM_KEY}")
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

const FUNCTIONS_KEY: HeaderName = HeaderName::from_static("x-functions-key");
const INSTANCES: &str = "/runtime/webhooks/durabletask/instances/";
/// Whoever has it may do anything with every instance: no client should ever see it.
const SYSTEM_KEY: &str = "demo-system-key";
/// How long an orchestration runs.
const WORK: Duration = Duration::from_secs(2);
/// How long its instance is known.
const KEPT: Duration = Duration::from_secs(3600);
