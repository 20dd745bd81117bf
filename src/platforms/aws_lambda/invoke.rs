//! A function called by Lambda's API: the request becomes its event, the return value the answer.
//!
//! Nothing of the client's head is sent as a head: neither its credentials nor its host are meant for the API.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use super::function::Function;
use super::payload::{Form, Payload};
use super::stream::Decoder;
use super::{CALL_ID, Invocation, keep_call_id, refusal, warn_without_tls};
use crate::aws::{SigningScope, iam, sign};
use crate::diag::{Invalid, Scope};
use crate::error::GatewayError;
use crate::platforms::connection::{self, Base, Defaults, held_limit, held_response};
use crate::platforms::envelope::JSON;
use crate::platforms::head::{Host, target_uri};
use crate::platforms::template::{Names, Parameters};
use crate::platforms::{
    BodyLimits, Buffered, BufferedTarget, Call, Compiled, Relay, Reply, Seal, Sought, Target,
};
use crate::uri::push_suffix;
use crate::values::{TargetUri, Written};

/// One function, or those that a path parameter names.
#[derive(Debug)]
pub struct Invoke {
    /// The whole request head but for what differs from call to call.
    head: Box<RequestHeader>,
    /// `None` when the head has it.
    target: Option<FunctionPath>,
    payload: Payload,
    invocation: Invocation,
    scope: SigningScope,
    limits: BodyLimits,
}

/// Where the API has a function whose name comes with the call.
#[derive(Debug)]
struct FunctionPath {
    /// Up to the function.
    before: String,
    function: Function,
    operation: &'static str,
}

impl FunctionPath {
    fn fill(&self, parameters: Parameters<'_>) -> Result<String, GatewayError> {
        let mut target = self.before.clone();
        self.function.fill(parameters, self.operation, &mut target)?;
        Ok(target)
    }
}

impl Buffered for Invoke {
    fn limits(&self) -> &BodyLimits {
        &self.limits
    }

    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        self.target.as_ref().map_or(Ok(()), |target| target.fill(sought.parameters).map(drop))
    }

    fn call_id(&self) -> HeaderName {
        CALL_ID
    }

    fn queues(&self) -> bool {
        self.invocation == Invocation::Event
    }

    fn seal(
        &self,
        call: &Call<'_>,
        req: &mut RequestHeader,
        body: Bytes,
        with: &Seal<'_>,
    ) -> Result<Bytes, GatewayError> {
        let credentials = with.credentials.ok_or(GatewayError::NoCredential)?;
        let event = self.payload.event(call, req, body, with.at)?;
        req.clone_from(&self.head);
        if let Some(target) = &self.target {
            req.set_uri(target_uri(target.fill(call.parameters)?)?);
        }
        sign(req, &event, &self.scope, credentials, with.at)?;
        Ok(event)
    }

    fn reply(&self, resp: &ResponseHeader) -> Reply {
        let streams = self.invocation == Invocation::Stream && refusal::read(resp).is_none();
        if streams { Reply::Relayed } else { Reply::Collected }
    }

    fn open(&self, _: &Call<'_>, resp: &mut ResponseHeader, body: Bytes) -> Result<Bytes, GatewayError> {
        if let Some(error) = refusal::read(resp) {
            return Err(error);
        }
        let returned = match self.invocation {
            Invocation::Event => {
                let mut accepted = built(StatusCode::ACCEPTED)?;
                keep_call_id(resp, &mut accepted)?;
                *resp = accepted;
                return Ok(Bytes::new());
            }
            Invocation::RequestResponse | Invocation::Stream => self.payload.answer(body)?,
        };
        let mut head = returned.head()?;
        keep_call_id(resp, &mut head)?;
        *resp = head;
        Ok(returned.answer.body)
    }

    fn relay(&self, _: &Call<'_>, resp: &mut ResponseHeader) -> Result<Relay, GatewayError> {
        let decoder = Decoder::new(self.payload.form(), resp);
        let mut head = built(StatusCode::OK)?;
        head.insert_header(CONTENT_TYPE, "application/octet-stream").map_err(|_| GatewayError::Internal)?;
        keep_call_id(resp, &mut head)?;
        *resp = head;
        Ok(Relay::Frames(decoder))
    }
}

fn built(status: StatusCode) -> Result<ResponseHeader, GatewayError> {
    ResponseHeader::build(status, Some(4)).map_err(|_| GatewayError::Internal)
}

pub(super) struct Keys {
    pub(super) function: String,
    pub(super) qualifier: Option<String>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) form: Form,
    pub(super) invocation: Invocation,
    pub(super) iam: iam::Raw,
    pub(super) max_resp_body_size: Option<Written>,
}

pub(super) fn compile(
    keys: Keys,
    connection: connection::Raw,
    names: &Names<'_>,
    scope: &Scope<'_>,
) -> Option<Compiled> {
    let Keys { function, qualifier, region, endpoint, form, invocation, iam, max_resp_body_size } = keys;
    let function = Function::compile(&function, qualifier, names, scope);
    let given = region.as_deref().or(iam.aws_region.as_deref());
    let of_arn = function.as_ref().and_then(|function| function.region.as_deref());
    let region = choose_region(of_arn, given, scope);
    let iam = region.as_ref().and_then(|region| {
        let defaults = SigningScope { region: region.clone(), service: "lambda".to_owned() };
        iam::compile(iam, defaults, &scope.key("authorization").key("iam"))
    });
    let api = match endpoint {
        Some(endpoint) => scope.key("endpoint").accept(TargetUri::of_api(&endpoint, ENDPOINT)),
        None => region.as_deref().and_then(|region| scope.key("region").accept(endpoint_of(region).parse())),
    };
    let response = held_response(max_resp_body_size, DEFAULT_BODY, &scope.key("max_resp_body_size"));
    let base = api.as_ref().map(|uri: &TargetUri| Base::from_origin(uri.scheme, uri.origin.clone()));
    let connection = connection::compile(connection, base, DEFAULTS, names, scope)?;
    let default = if invocation == Invocation::Event { DEFAULT_EVENT } else { DEFAULT_BODY };
    let request = held_limit(connection.max_request, default, &scope.key("max_req_body_size"));

    warn_without_tls(&connection.terms, &scope.key("endpoint"));

    let iam = iam?;
    let connection = connection.with_credential(Some(iam.source.identity()));
    let Host::Fixed(host) = &connection.host else {
        scope.key("host").reject("the API is one host, whatever the function: `host` takes no parameter");
        return None;
    };
    let (version, operation) = match invocation {
        Invocation::RequestResponse | Invocation::Event => ("2015-03-31", "invocations"),
        Invocation::Stream => ("2021-11-15", "response-streaming-invocations"),
    };
    let mut before = api?.path;
    push_suffix(&format!("{version}/functions/"), &mut before);
    let target = FunctionPath { before, function: function?, operation };
    let is_constant = target.function.is_constant();
    let path = if is_constant { target.fill(Parameters::default()).ok()? } else { "/".to_owned() };
    let invoke = Invoke {
        head: Box::new(scope.accept(build_head(&path, host, invocation))?),
        target: (!is_constant).then_some(target),
        payload: Payload::new(form, names.route),
        invocation,
        scope: iam.scope,
        limits: BodyLimits { request: request?, response: response? },
    };
    Some(Compiled {
        platform: "aws_lambda",
        target: Target::Buffered(BufferedTarget::LambdaInvoke(invoke)),
        terms: connection.terms,
        // It holds the body itself, and bounds it.
        max_request: None,
        credentials: Some(iam.source),
    })
}

/// An ARN's region is where the function is, whatever else is said.
fn choose_region(of_arn: Option<&str>, given: Option<&str>, scope: &Scope<'_>) -> Option<String> {
    match (of_arn, given) {
        (Some(arn), given) => {
            if let Some(given) = given.filter(|given| *given != arn) {
                scope.key("function").warn(
                    format!("the ARN names another region than `{given}`: it holds"),
                    "leave one of them out",
                );
            }
            Some(arn.to_owned())
        }
        (None, Some(region)) if is_region(region) => Some(region.to_owned()),
        (None, Some(region)) => {
            scope.key("region").reject_with(format!("`{region}` is not a region"), "like `eu-west-1`");
            None
        }
        (None, None) => {
            scope.reject_with("the function's region is missing", "give `region`, or the function's ARN");
            None
        }
    }
}

fn is_region(text: &str) -> bool {
    text.split('-').count() >= 3
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Each partition has a domain of its own.
fn endpoint_of(region: &str) -> String {
    let domain = DOMAINS.iter().find(|(prefix, _)| region.starts_with(prefix)).map(|(_, domain)| domain);
    format!("https://lambda.{region}.{}", domain.unwrap_or(&"amazonaws.com"))
}

fn build_head(target: &str, host: &HeaderValue, invocation: Invocation) -> Result<RequestHeader, Invalid> {
    let kind = match invocation {
        Invocation::Event => "Event",
        Invocation::RequestResponse | Invocation::Stream => "RequestResponse",
    };
    let build = || {
        let mut head = RequestHeader::build("POST", target.as_bytes(), Some(10))?;
        head.insert_header(HOST, host)?;
        head.insert_header(CONTENT_TYPE, JSON)?;
        head.insert_header(INVOCATION_TYPE, kind)?;
        head.insert_header(USER_AGENT, concat!("fngate/", env!("CARGO_PKG_VERSION")))?;
        Ok(head)
    };
    build().map_err(|_: Box<pingora::Error>| Invalid::new(format!("`{target}` cannot be requested")))
}

const ENDPOINT: &str = "https://vpce-….lambda.eu-west-1.vpce.amazonaws.com";
const INVOCATION_TYPE: HeaderName = HeaderName::from_static("x-amz-invocation-type");

const DOMAINS: [(&str, &str); 6] = [
    ("cn-", "amazonaws.com.cn"),
    ("eusc-", "amazonaws.eu"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("us-isof-", "csp.hci.ic.gov"),
];

/// Lambda's own bounds: for events and return values of awaited calls, and for events that are queued.
const DEFAULT_BODY: usize = 6 << 20;
const DEFAULT_EVENT: usize = 1 << 20;

/// A function may take 15 minutes. Few clients wait as long, and who has such functions says so.
const DEFAULTS: Defaults = Defaults {
    timeout: Duration::from_secs(60),
    timeout_range: (Duration::from_millis(100), Duration::MAX),
    patience: Duration::ZERO,
};

#[cfg(test)]
mod tests;
