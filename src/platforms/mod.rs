//! The two contracts a platform can fulfil, and the only list of platforms.
//!
//! A platform turns a request into what its functions understand, and their answer into what the client should get. It never opens
//! sockets, resolves names, logs, counts or reads the clock: what it needs arrives in [`Call`].

pub mod aws_lambda;
pub mod azure_functions;
pub mod connection;
pub mod envelope;
pub mod head;
pub mod http;
pub mod knative;
pub mod media;
pub mod openfaas;
pub mod openfunction;
pub mod openwhisk;
pub mod template;

use std::net::IpAddr;
use std::time::SystemTime;

use ::http::request::Parts;
use ::http::{HeaderName, Method, StatusCode};
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Deserialize;

use self::template::{Parameters, Route};
use crate::aws;
use crate::diag::Scope;
use crate::error::{GatewayError, Reported};
use crate::upstream::Terms;
use crate::uri;
use crate::values::{ByteSize, Scheme};

/// What a platform may know of the request it serves, beyond the head itself.
#[derive(Debug)]
pub struct Call<'a> {
    /// The client's.
    pub method: &'a Method,
    /// What follows the matched prefix, without its leading `/`, escapes untouched; `None` on exact routes.
    pub suffix: Option<&'a str>,
    /// What the path holds where the route has parameters.
    pub parameters: Parameters<'a>,
    /// The client's query as sent, without `?`.
    pub query: Option<&'a str>,
    /// The whole path as the client sent it.
    pub path: &'a str,
    pub origin: Origin<'a>,
    pub request_id: &'a str,
    pub client: IpAddr,
}

impl<'a> Call<'a> {
    /// The path up to the suffix, without the `/` that joins them: where the function begins for the client.
    pub fn base(&self) -> &'a str {
        match self.suffix.and_then(|suffix| self.path.strip_suffix(suffix)) {
            Some(before) => before.strip_suffix('/').unwrap_or(before),
            None => self.path,
        }
    }
}

/// What of a call decides whether it is made at all.
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    pub head: &'a Parts,
    /// As in [`Call`].
    pub suffix: Option<&'a str>,
    pub parameters: Parameters<'a>,
}

/// How the client reaches this gateway, as far as it can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    pub scheme: Scheme,
    /// A host with an optional port; empty when a client of HTTP/1.0 named none.
    pub authority: &'a str,
}

/// What the head of a streamed answer says of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing but what its status says.
    Answered,
    /// The call failed, by the platform's own account. The answer passes as it is.
    Failed(Reported),
    /// What it means stands at the beginning of its body, which passes as it is: [`Streamed::read_body`] is asked.
    InBody,
    /// The body has to be changed: it is held, up to so many bytes, and goes through [`Streamed::map_body`]. Whoever wants this
    /// lets `Accept-Encoding` ask for no coding that it does not undo there, and takes `Content-Encoding` off the answer.
    Rewritten { limit: usize },
}

/// Whether a function is there, by the head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// The platform says so itself.
    NotReady,
    /// An answer that the platform also gives while it starts the function: believed only shortly after it was found missing.
    Unsure,
}

/// Bodies pass through untouched; only the heads are rewritten, but for the answers whose [`Verdict`] says otherwise.
pub trait Streamed {
    /// Refuses a call that this target does not make, most often for the name that the path has for its function. It is asked before
    /// anybody is connected to.
    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError>;

    fn rewrite_request(&self, call: &Call<'_>, req: &mut Parts) -> Result<(), GatewayError>;

    /// Whether a call whose client sent this head goes out with the target's own credential, if it has one.
    fn adds_credential(&self, _asked: &RequestHeader) -> bool {
        true
    }

    /// Whether the platform says that the function is not there yet, and has not seen the call.
    fn readiness(&self, _: &ResponseHeader) -> Readiness {
        Readiness::Ready
    }

    /// Makes the function's head the client's. An `Err` is answered in its place. Few have to know of the call for that, so it is put
    /// together for them only.
    fn map_response<'c>(
        &self,
        call: impl FnOnce() -> Call<'c>,
        resp: &mut ResponseHeader,
    ) -> Result<Verdict, GatewayError>;

    /// What the start of a body says, after [`Verdict::InBody`]. At most some KiB of it are shown.
    fn read_body(&self, _status: StatusCode, _start: &[u8]) -> Option<Reported> {
        None
    }

    /// Makes the function's body the client's, after [`Verdict::Rewritten`]. An `Err` cuts the answer.
    fn map_body(&self, _call: &Call<'_>, body: Bytes) -> Result<Bytes, GatewayError> {
        Ok(body)
    }

    /// The header in which the platform names a call, if it does; its value stands in the access log.
    fn call_id(&self) -> Option<HeaderName> {
        None
    }
}

/// The whole request must be known before its first byte leaves: it is signed or wrapped.
pub trait Buffered {
    fn limits(&self) -> &BodyLimits;

    /// As [`Streamed::admit`].
    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError>;

    /// Whether the platform takes the call into a queue: sent twice, the function runs twice, whatever the client's method promises.
    /// Where it is made at once, the client's method decides: who calls a function by GET says that it may be repeated.
    fn queues(&self) -> bool {
        false
    }

    /// The header in which the platform names a call; its value stands in the access log.
    fn call_id(&self) -> HeaderName;

    /// Rewrites the client's head into the platform's and makes the body to send; the caller sets its length.
    fn seal(
        &self,
        call: &Call<'_>,
        req: &mut RequestHeader,
        body: Bytes,
        with: &Seal<'_>,
    ) -> Result<Bytes, GatewayError>;

    /// As [`Streamed::adds_credential`].
    fn adds_credential(&self, _asked: &RequestHeader) -> bool {
        true
    }

    /// What the platform itself says of the call with a head that is not the function's.
    fn reported(&self, _resp: &ResponseHeader) -> Option<Reported> {
        None
    }

    /// How an answer with this head reaches the client.
    fn reply(&self, _resp: &ResponseHeader) -> Reply {
        Reply::Collected
    }

    /// Turns the platform's answer into the client's, after [`Reply::Collected`]; the caller sets the body's length.
    fn open(&self, call: &Call<'_>, resp: &mut ResponseHeader, body: Bytes) -> Result<Bytes, GatewayError>;

    /// Makes the platform's head the client's, after [`Reply::Relayed`], and says how the body becomes the client's. A length that is
    /// left in the head is that of the client's body; without one, the caller frames it. An `Err` is answered in its place.
    fn relay(&self, _call: &Call<'_>, _resp: &mut ResponseHeader) -> Result<Relay, GatewayError> {
        Err(GatewayError::Internal)
    }
}

/// What a request is sealed with, besides the target's own.
#[derive(Debug, Clone, Copy)]
pub struct Seal<'a> {
    /// Now.
    pub at: SystemTime,
    /// Those of the target's source, where it has one.
    pub credentials: Option<&'a aws::Credentials>,
}

/// How an answer reaches the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// When all of it is there, within the limit.
    Collected,
    /// Piece by piece, as it comes.
    Relayed,
}

/// How the body of a relayed answer becomes the client's.
#[derive(Debug)]
pub enum Relay {
    /// It is the client's. The call may have failed nevertheless, by the platform's own account.
    Untouched(Option<Reported>),
    /// The client's is in the messages of an event stream.
    Frames(aws_lambda::stream::Decoder),
}

impl Relay {
    /// What the head reports.
    pub fn reported(&self) -> Option<Reported> {
        match self {
            Relay::Untouched(reported) => *reported,
            Relay::Frames(_) => None,
        }
    }

    /// Whether nothing of the body is needed to know the head.
    pub fn knows_head(&self) -> bool {
        match self {
            Relay::Untouched(_) => true,
            Relay::Frames(_) => false,
        }
    }

    /// What these bytes of the answer give the client: nothing while its head may still change, no bytes when that is now known.
    pub fn push(&mut self, bytes: Bytes, resp: &mut ResponseHeader) -> Result<Option<Bytes>, GatewayError> {
        match self {
            Relay::Untouched(_) => Ok(Some(bytes)),
            Relay::Frames(decoder) => decoder.push(&bytes, resp),
        }
    }

    /// What is left after the last byte. An `Err` says that the answer was not complete, or that the function failed.
    pub fn finish(&mut self) -> Result<Bytes, GatewayError> {
        match self {
            Relay::Untouched(_) => Ok(Bytes::new()),
            Relay::Frames(decoder) => decoder.finish(),
        }
    }
}

/// The largest bodies a buffered target holds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    pub request: usize,
    pub response: usize,
}

/// A compiled target: which contract applies, and whose.
#[derive(Debug)]
pub enum Target {
    Streamed(StreamedTarget),
    Buffered(BufferedTarget),
}

impl Target {
    /// Refuses a call that is not to be made, before anything of it goes anywhere.
    pub fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        if let Some(suffix) = sought.suffix {
            uri::check_path(suffix).map_err(|_| GatewayError::BadPath)?;
        }
        match self {
            // Names its functions by the suffix as well.
            Target::Streamed(StreamedTarget::OpenFaas(target)) => target.admit(sought),
            _ if sought.parameters.is_empty() => Ok(()),
            Target::Streamed(target) => target.admit(sought),
            Target::Buffered(target) => target.admit(sought),
        }
    }
}

#[derive(Debug)]
pub enum StreamedTarget {
    AzureFunctions(azure_functions::AzureFunctions),
    Http(http::Http),
    Knative(knative::Knative),
    LambdaUrl(aws_lambda::Url),
    OpenFaas(openfaas::OpenFaas),
    OpenFunction(openfunction::OpenFunction),
}

#[derive(Debug)]
pub enum BufferedTarget {
    LambdaInvoke(aws_lambda::Invoke),
    LambdaUrl(aws_lambda::SignedUrl),
    OpenWhisk(openwhisk::Action),
}

impl Streamed for StreamedTarget {
    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        match self {
            StreamedTarget::AzureFunctions(target) => target.admit(sought),
            StreamedTarget::Http(target) => target.admit(sought),
            StreamedTarget::Knative(target) => target.admit(sought),
            StreamedTarget::LambdaUrl(target) => target.admit(sought),
            StreamedTarget::OpenFaas(target) => target.admit(sought),
            StreamedTarget::OpenFunction(target) => target.admit(sought),
        }
    }

    fn rewrite_request(&self, call: &Call<'_>, req: &mut Parts) -> Result<(), GatewayError> {
        match self {
            StreamedTarget::AzureFunctions(target) => target.rewrite_request(call, req),
            StreamedTarget::Http(target) => target.rewrite_request(call, req),
            StreamedTarget::Knative(target) => target.rewrite_request(call, req),
            StreamedTarget::LambdaUrl(target) => target.rewrite_request(call, req),
            StreamedTarget::OpenFaas(target) => target.rewrite_request(call, req),
            StreamedTarget::OpenFunction(target) => target.rewrite_request(call, req),
        }
    }

    fn adds_credential(&self, asked: &RequestHeader) -> bool {
        match self {
            StreamedTarget::AzureFunctions(target) => target.adds_credential(asked),
            StreamedTarget::Http(target) => target.adds_credential(asked),
            StreamedTarget::Knative(target) => target.adds_credential(asked),
            StreamedTarget::LambdaUrl(target) => target.adds_credential(asked),
            StreamedTarget::OpenFaas(target) => target.adds_credential(asked),
            StreamedTarget::OpenFunction(target) => target.adds_credential(asked),
        }
    }

    fn map_response<'c>(
        &self,
        call: impl FnOnce() -> Call<'c>,
        resp: &mut ResponseHeader,
    ) -> Result<Verdict, GatewayError> {
        match self {
            StreamedTarget::AzureFunctions(target) => target.map_response(call, resp),
            StreamedTarget::Http(target) => target.map_response(call, resp),
            StreamedTarget::Knative(target) => target.map_response(call, resp),
            StreamedTarget::LambdaUrl(target) => target.map_response(call, resp),
            StreamedTarget::OpenFaas(target) => target.map_response(call, resp),
            StreamedTarget::OpenFunction(target) => target.map_response(call, resp),
        }
    }

    fn readiness(&self, resp: &ResponseHeader) -> Readiness {
        match self {
            StreamedTarget::AzureFunctions(target) => target.readiness(resp),
            StreamedTarget::Http(target) => target.readiness(resp),
            StreamedTarget::Knative(target) => target.readiness(resp),
            StreamedTarget::LambdaUrl(target) => target.readiness(resp),
            StreamedTarget::OpenFaas(target) => target.readiness(resp),
            StreamedTarget::OpenFunction(target) => target.readiness(resp),
        }
    }

    fn read_body(&self, status: StatusCode, start: &[u8]) -> Option<Reported> {
        match self {
            StreamedTarget::AzureFunctions(target) => target.read_body(status, start),
            StreamedTarget::Http(target) => target.read_body(status, start),
            StreamedTarget::Knative(target) => target.read_body(status, start),
            StreamedTarget::LambdaUrl(target) => target.read_body(status, start),
            StreamedTarget::OpenFaas(target) => target.read_body(status, start),
            StreamedTarget::OpenFunction(target) => target.read_body(status, start),
        }
    }

    fn map_body(&self, call: &Call<'_>, body: Bytes) -> Result<Bytes, GatewayError> {
        match self {
            StreamedTarget::AzureFunctions(target) => target.map_body(call, body),
            StreamedTarget::Http(target) => target.map_body(call, body),
            StreamedTarget::Knative(target) => target.map_body(call, body),
            StreamedTarget::LambdaUrl(target) => target.map_body(call, body),
            StreamedTarget::OpenFaas(target) => target.map_body(call, body),
            StreamedTarget::OpenFunction(target) => target.map_body(call, body),
        }
    }

    fn call_id(&self) -> Option<HeaderName> {
        match self {
            StreamedTarget::AzureFunctions(target) => target.call_id(),
            StreamedTarget::Http(target) => target.call_id(),
            StreamedTarget::Knative(target) => target.call_id(),
            StreamedTarget::LambdaUrl(target) => target.call_id(),
            StreamedTarget::OpenFaas(target) => target.call_id(),
            StreamedTarget::OpenFunction(target) => target.call_id(),
        }
    }
}

impl Buffered for BufferedTarget {
    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        match self {
            BufferedTarget::LambdaUrl(target) => target.admit(sought),
            BufferedTarget::LambdaInvoke(target) => target.admit(sought),
            BufferedTarget::OpenWhisk(target) => target.admit(sought),
        }
    }

    fn queues(&self) -> bool {
        match self {
            BufferedTarget::LambdaUrl(target) => target.queues(),
            BufferedTarget::LambdaInvoke(target) => target.queues(),
            BufferedTarget::OpenWhisk(target) => target.queues(),
        }
    }

    fn adds_credential(&self, asked: &RequestHeader) -> bool {
        match self {
            BufferedTarget::LambdaUrl(target) => target.adds_credential(asked),
            BufferedTarget::LambdaInvoke(target) => target.adds_credential(asked),
            BufferedTarget::OpenWhisk(target) => target.adds_credential(asked),
        }
    }

    fn limits(&self) -> &BodyLimits {
        match self {
            BufferedTarget::LambdaUrl(target) => target.limits(),
            BufferedTarget::LambdaInvoke(target) => target.limits(),
            BufferedTarget::OpenWhisk(target) => target.limits(),
        }
    }

    fn call_id(&self) -> HeaderName {
        match self {
            BufferedTarget::LambdaUrl(target) => target.call_id(),
            BufferedTarget::LambdaInvoke(target) => target.call_id(),
            BufferedTarget::OpenWhisk(target) => target.call_id(),
        }
    }

    fn seal(
        &self,
        call: &Call<'_>,
        req: &mut RequestHeader,
        body: Bytes,
        with: &Seal<'_>,
    ) -> Result<Bytes, GatewayError> {
        match self {
            BufferedTarget::LambdaUrl(target) => target.seal(call, req, body, with),
            BufferedTarget::LambdaInvoke(target) => target.seal(call, req, body, with),
            BufferedTarget::OpenWhisk(target) => target.seal(call, req, body, with),
        }
    }

    fn open(&self, call: &Call<'_>, resp: &mut ResponseHeader, body: Bytes) -> Result<Bytes, GatewayError> {
        match self {
            BufferedTarget::LambdaUrl(target) => target.open(call, resp, body),
            BufferedTarget::LambdaInvoke(target) => target.open(call, resp, body),
            BufferedTarget::OpenWhisk(target) => target.open(call, resp, body),
        }
    }

    fn reported(&self, resp: &ResponseHeader) -> Option<Reported> {
        match self {
            BufferedTarget::LambdaInvoke(target) => target.reported(resp),
            BufferedTarget::LambdaUrl(target) => target.reported(resp),
            BufferedTarget::OpenWhisk(target) => target.reported(resp),
        }
    }

    fn reply(&self, resp: &ResponseHeader) -> Reply {
        match self {
            BufferedTarget::LambdaUrl(target) => target.reply(resp),
            BufferedTarget::LambdaInvoke(target) => target.reply(resp),
            BufferedTarget::OpenWhisk(target) => target.reply(resp),
        }
    }

    fn relay(&self, call: &Call<'_>, resp: &mut ResponseHeader) -> Result<Relay, GatewayError> {
        match self {
            BufferedTarget::LambdaUrl(target) => target.relay(call, resp),
            BufferedTarget::LambdaInvoke(target) => target.relay(call, resp),
            BufferedTarget::OpenWhisk(target) => target.relay(call, resp),
        }
    }
}

/// The `target` of a route, as the file has it: exactly one platform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Raw {
    /// A function of OpenFunction, or anything that is called in the same way
    pub openfunction: Option<openfunction::Raw>,
    /// An action of Apache OpenWhisk
    pub openwhisk: Option<openwhisk::Raw>,
    /// A function of AWS Lambda: behind a URL, or called by Lambda's API
    pub aws_lambda: Option<aws_lambda::Raw>,
    /// A function of Azure Functions
    pub azure_functions: Option<azure_functions::Raw>,
    /// A service of Knative
    pub knative: Option<knative::Raw>,
    /// A function of OpenFaaS
    pub openfaas: Option<openfaas::Raw>,
    /// Any HTTP service
    pub http: Option<http::Raw>,
}

/// A target and the terms on which its platform is reached.
#[derive(Debug)]
pub struct Compiled {
    /// The platform's name, as in the file, the log and the metrics.
    pub platform: &'static str,
    pub target: Target,
    pub terms: Terms,
    /// The largest request body of this route, where the file names one.
    pub max_request: Option<ByteSize>,
    /// Where the credentials are from that requests are signed with.
    pub credentials: Option<aws::Source>,
}

/// Compiles the one platform that is given. `scope` stands at `target`.
pub fn compile(raw: Raw, route: Route<'_>, scope: &Scope<'_>) -> Option<Compiled> {
    let Raw { openfunction, openwhisk, aws_lambda, knative, azure_functions, openfaas, http } = raw;
    let mut given = [
        openfunction.map(|raw| Platform::OpenFunction(Box::new(raw))),
        openwhisk.map(|raw| Platform::OpenWhisk(Box::new(raw))),
        aws_lambda.map(|raw| Platform::AwsLambda(Box::new(raw))),
        knative.map(|raw| Platform::Knative(Box::new(raw))),
        azure_functions.map(|raw| Platform::AzureFunctions(Box::new(raw))),
        openfaas.map(|raw| Platform::OpenFaas(Box::new(raw))),
        http.map(|raw| Platform::Http(Box::new(raw))),
    ]
    .into_iter()
    .flatten();
    let (Some(platform), None) = (given.next(), given.next()) else {
        scope.reject_with("a target names exactly one platform", format!("one of {NAMES}"));
        return None;
    };
    match platform {
        Platform::OpenFunction(raw) => openfunction::compile(*raw, route, &scope.key("openfunction")),
        Platform::OpenWhisk(raw) => openwhisk::compile(*raw, route, &scope.key("openwhisk")),
        Platform::AwsLambda(raw) => aws_lambda::compile(*raw, route, &scope.key("aws_lambda")),
        Platform::AzureFunctions(raw) => azure_functions::compile(*raw, route, &scope.key("azure_functions")),
        Platform::Knative(raw) => knative::compile(*raw, route, &scope.key("knative")),
        Platform::OpenFaas(raw) => openfaas::compile(*raw, route, &scope.key("openfaas")),
        Platform::Http(raw) => http::compile(*raw, route, &scope.key("http")),
    }
}

/// The keys of the one platform that a target names.
enum Platform {
    OpenFunction(Box<openfunction::Raw>),
    OpenWhisk(Box<openwhisk::Raw>),
    AwsLambda(Box<aws_lambda::Raw>),
    Knative(Box<knative::Raw>),
    AzureFunctions(Box<azure_functions::Raw>),
    OpenFaas(Box<openfaas::Raw>),
    Http(Box<http::Raw>),
}

const NAMES: &str =
    "`openfunction`, `openwhisk`, `aws_lambda`, `knative`, `azure_functions`, `openfaas`, `http`";

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A call without suffix, query and parameters.
    pub(crate) fn call() -> Call<'static> {
        Call {
            method: &Method::GET,
            suffix: None,
            parameters: Parameters::default(),
            query: None,
            path: "/hello/x",
            origin: Origin { scheme: Scheme::Http, authority: "api.example.com" },
            request_id: "req-1",
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// A client's head.
    pub(crate) fn head(method: &str, target: &str, fields: &[(&'static str, &str)]) -> Parts {
        let request = ::http::Request::builder().method(method).uri(target);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_function_begins_where_the_suffix_is_taken_off() {
        let base = |path, suffix| Call { path, suffix, ..call() }.base();
        assert_eq!(base("/hello", None), "/hello");
        assert_eq!(base("/hello/", None), "/hello/");
        assert_eq!(base("/hello/x/y", Some("x/y")), "/hello");
        assert_eq!(base("/hello/", Some("")), "/hello");
        assert_eq!(base("/x", Some("x")), "");
    }

    /// Sealed at a fixed moment, with these credentials.
    pub(crate) fn seal(credentials: Option<&aws::Credentials>) -> Seal<'_> {
        Seal { at: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_440_938_160), credentials }
    }
}
