//! The part of OpenWhisk's API that a gateway uses: invoking an action of namespace `guest`, blocking or not.
//!
//! It keeps the platform's manners: every error is `{"error": text, "code": transaction}`, every activation
//! carries `x-openwhisk-activation-id`, an action that outlasts `timeout` is a 202 with its activation id, and an
//! action that reports an error is a 502. Activations are not kept: there is nothing to look up later.
//! <https://github.com/apache/openwhisk/blob/master/docs/rest_api.md>

use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderName, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::serve::{self, Reply, argument, collect, next_number};

/// What the samples' owner would put into `service_token`.
pub const SERVICE_TOKEN: &str = "guest:demo-key";

pub(super) async fn respond(request: Request<Incoming>) -> Reply {
    let transaction = request.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok());
    let transaction = transaction.map_or_else(next_id, str::to_owned);
    match invoke(request).await {
        Ok(reply) => reply,
        Err(Refusal(status, reason)) => {
            let mut reply = serve::json(status, &json!({ "error": reason, "code": transaction }));
            if status == StatusCode::UNAUTHORIZED {
                reply
                    .headers_mut()
                    .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"whisk\""));
            }
            reply
        }
    }
}

async fn invoke(request: Request<Incoming>) -> Result<Reply, Refusal> {
    authenticate(request.headers())?;
    let action = Action::find(request.uri().path())?;
    if request.method() != Method::POST {
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "Only POST invokes an action."));
    }
    let call = Call::read(request.uri())?;
    let parameters = parameters(request.into_body()).await?;
    let activation = Activation::begin(action);
    if !call.blocking {
        return Ok(activation.pending());
    }
    match tokio::time::timeout(call.timeout, action.run(parameters)).await {
        Ok(outcome) => Ok(activation.finished(outcome, call.record)),
        Err(_) => Ok(activation.pending()),
    }
}

fn authenticate(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, credentials) = given
        .and_then(|given| given.split_once(' '))
        .ok_or(Refusal(StatusCode::UNAUTHORIZED, "The request needs basic authentication."))?;
    let decoded = BASE64_STANDARD.decode(credentials);
    if !scheme.eq_ignore_ascii_case("basic") || decoded.as_deref() != Ok(SERVICE_TOKEN.as_bytes()) {
        return Err(Refusal(StatusCode::UNAUTHORIZED, "The supplied authentication is invalid."));
    }
    Ok(())
}

/// An object, or nothing at all, which counts as an empty one.
async fn parameters(body: Incoming) -> Result<Map<String, Value>, Refusal> {
    let body = collect(body, BODY_LIMIT)
        .await
        .ok_or(Refusal(StatusCode::PAYLOAD_TOO_LARGE, "The request is larger than 1 MiB."))?;
    if body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&body).map_err(|_| {
        Refusal(StatusCode::BAD_REQUEST, "The request content was malformed: it is not a JSON object.")
    })
}

struct Refusal(StatusCode, &'static str);

/// How the caller wants to be answered.
struct Call {
    blocking: bool,
    /// The whole activation record instead of the bare result.
    record: bool,
    timeout: Duration,
}

impl Call {
    fn read(uri: &Uri) -> Result<Call, Refusal> {
        let timeout = match argument(uri, "timeout").map(str::parse) {
            None => LONGEST_WAIT,
            Some(Ok(ms)) if (1..=LONGEST_WAIT.as_millis()).contains(&u128::from(ms)) => {
                Duration::from_millis(ms)
            }
            Some(_) => {
                return Err(Refusal(StatusCode::BAD_REQUEST, "`timeout` must be 1 to 60000 milliseconds."));
            }
        };
        Ok(Call {
            blocking: argument(uri, "blocking") == Some("true"),
            record: argument(uri, "result") != Some("true"),
            timeout,
        })
    }
}

/// The deployed actions.
#[derive(Clone, Copy)]
enum Action {
    Hello(&'static str),
    World,
    Status,
    Headers,
    Body,
    Web,
    Binary,
    Slow,
    Fail,
}

impl Action {
    fn find(path: &str) -> Result<Action, Refusal> {
        let segments: Vec<_> =
            path.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy()).collect();
        let segments: Vec<_> = segments.iter().map(AsRef::as_ref).collect();
        let ["", "api", "v1", "namespaces", namespace, "actions", name @ ..] = segments.as_slice() else {
            return Err(NOT_FOUND);
        };
        if !matches!(*namespace, "guest" | "_") {
            return Err(Refusal(StatusCode::FORBIDDEN, "The authentication is not good for this namespace."));
        }
        Ok(match name {
            ["hello"] => Action::Hello("hello"),
            ["test-params"] => Action::Hello("test-params"),
            ["pkg", "testpkg"] => Action::World,
            ["test-statuscode"] => Action::Status,
            ["test-headers"] => Action::Headers,
            ["test-body"] => Action::Body,
            ["web"] => Action::Web,
            ["binary"] => Action::Binary,
            ["slow"] => Action::Slow,
            ["fail"] => Action::Fail,
            _ => return Err(NOT_FOUND),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Action::Hello(name) => name,
            Action::World => "testpkg",
            Action::Status => "test-statuscode",
            Action::Headers => "test-headers",
            Action::Body => "test-body",
            Action::Web => "web",
            Action::Binary => "binary",
            Action::Slow => "slow",
            Action::Fail => "fail",
        }
    }

    async fn run(self, parameters: Map<String, Value>) -> Outcome {
        Outcome::Success(match self {
            Action::Hello(_) => json!({ "hello": parameters.get("name").unwrap_or(&json!("test")) }),
            Action::World => json!({ "hello": "world" }),
            Action::Status => json!({ "statusCode": 407 }),
            Action::Headers => json!({ "headers": { "test": "header" } }),
            Action::Body => json!({ "body": { "test": "body" } }),
            Action::Web => json!({ "statusCode": 200, "body": parameters }),
            Action::Binary => json!({ "headers": { "content-type": "image/png" }, "body": BLACK_DOT }),
            Action::Slow => {
                let pause = parameters.get("ms").and_then(Value::as_u64).map(Duration::from_millis);
                let pause = pause.unwrap_or(LONGEST_WAIT * 2);
                tokio::time::sleep(pause).await;
                json!({ "slept_ms": pause.as_millis() as u64 })
            }
            Action::Fail => return Outcome::Failure(json!({ "error": "This action always fails." })),
        })
    }
}

enum Outcome {
    Success(Value),
    /// The action ran and says that it could not do its work.
    Failure(Value),
}

struct Activation {
    action: Action,
    id: String,
    began: (SystemTime, Instant),
}

impl Activation {
    fn begin(action: Action) -> Activation {
        Activation { action, id: next_id(), began: (SystemTime::now(), Instant::now()) }
    }

    fn pending(&self) -> Reply {
        self.sign(serve::json(StatusCode::ACCEPTED, &json!({ "activationId": self.id })))
    }

    fn finished(&self, outcome: Outcome, record: bool) -> Reply {
        let (status, verdict, result) = match outcome {
            Outcome::Success(result) => (StatusCode::OK, "success", result),
            Outcome::Failure(result) => (StatusCode::BAD_GATEWAY, "application error", result),
        };
        let body = if record { self.record(verdict, result) } else { result };
        self.sign(serve::json(status, &body))
    }

    fn record(&self, verdict: &str, result: Value) -> Value {
        let start =
            self.began.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let duration = self.began.1.elapsed().as_millis() as u64;
        json!({
            "activationId": self.id,
            "namespace": "guest",
            "name": self.action.name(),
            "version": "0.0.1",
            "start": start,
            "end": start + duration,
            "duration": duration,
            "response": { "status": verdict, "success": verdict == "success", "result": result },
            "logs": [],
        })
    }

    fn sign(&self, mut reply: Reply) -> Reply {
        if let Ok(id) = HeaderValue::try_from(&self.id) {
            reply.headers_mut().insert(ACTIVATION_ID, id);
        }
        reply
    }
}

/// In the form of the platform's ids.
fn next_id() -> String {
    format!("{:032x}", next_number())
}

const NOT_FOUND: Refusal = Refusal(StatusCode::NOT_FOUND, "The requested resource does not exist.");
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const BODY_LIMIT: usize = 1 << 20;
const ACTIVATION_ID: HeaderName = HeaderName::from_static("x-openwhisk-activation-id");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A PNG of one black pixel.
const BLACK_DOT: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==";
