//! OpenWhisk: an action is invoked over the REST API, and its result becomes the answer.
//!
//! ```text
//! GET /hello?name=world HTTP/1.1           POST /api/v1/namespaces/guest/actions/hello?blocking=true&… HTTP/1.1
//! Host: api.example.com              →     Host: whisk.example.com
//!                                          Authorization: Basic …
//!                                          Content-Type: application/json
//!
//!                                          {}
//!
//! HTTP/1.1 404 Not Found                   HTTP/1.1 200 OK
//! Content-Type: text/plain           ←     Content-Type: application/json
//! X-Openwhisk-Activation-Id: 4fa1…         X-Openwhisk-Activation-Id: 4fa1…
//!
//! no such page                             {"statusCode":404,"body":"no such page"}
//! ```
//!
//! [`input`] makes what the action is called with, [`answer`] reads what it returned. Nothing of the client's head is sent as a
//! head: neither its credentials nor its host are meant for the API.

pub mod answer;
pub mod input;

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderName, HeaderValue, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Deserialize;

use self::answer::Asked;
use super::connection::{self, Base, Defaults, held_limit, held_response};
use super::envelope::JSON;
use super::head::{Host, X_REQUEST_ID, basic_authorization, target_uri};
use super::template::{Name, Names, Parameters, Route};
use super::{BodyLimits, Buffered, BufferedTarget, Call, Compiled, Seal, Sought, Target};
use crate::diag::{Invalid, Scope, given};
use crate::error::{GatewayError, Reported};
use crate::secrets;
use crate::upstream::Terms;
use crate::uri::{encode_segment, push_suffix};
use crate::values::{RawSecret, Secret, TargetUri, Written};

/// The attributes of the APISIX plugin of the same name, what the action gets to see, and the connection keys.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Raw {
    /// The API's URL, like `https://whisk.example.com`
    pub api_host: String,
    /// `uuid:key` of the namespace, sent as basic authentication
    pub service_token: RawSecret,
    /// The action's namespace; `_` is the one the token belongs to
    pub namespace: String,
    /// The action's name; `{name}` is a path parameter
    pub action: String,
    /// The action's package, if it is in one; `{name}` is a path parameter
    pub package: Option<String>,
    /// Take the action's result only (default), or the whole record of its activation
    pub result: Option<bool>,
    /// What the action gets: the `body`, a JSON object (default), or the whole request as a `web` action does
    pub input: Option<RawInput>,
    /// The largest body of an answer (default 1MiB)
    pub max_resp_body_size: Option<Written>,
    /// What a path parameter of this target may be, as patterns with `*` and `?` (default: any name)
    #[schemars(length(min = 1))]
    pub allow: Option<Vec<String>>,
    #[serde(flatten)]
    pub connection: connection::Raw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawInput {
    Body,
    Web,
}

/// One action, invoked with one token.
#[derive(Debug)]
pub struct Action {
    /// The whole request head but for what differs from call to call.
    head: Box<RequestHeader>,
    /// `None` when the head has it.
    target: Option<ActionPath>,
    input: Input,
    asked: Asked,
    limits: BodyLimits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Body,
    Web,
}

/// Where the API has an action whose name comes with the call.
#[derive(Debug)]
struct ActionPath {
    /// Up to the package or the action.
    before: String,
    package: Option<Name>,
    action: Name,
    query: String,
}

impl ActionPath {
    /// `base` is the API's own path; of `namespace` every escape is made.
    fn new(
        base: String,
        namespace: &str,
        package: Option<Name>,
        action: Name,
        asked: Asked,
        timeout: Duration,
    ) -> Self {
        let mut before = base;
        push_suffix(&format!("api/v1/namespaces/{namespace}/actions/"), &mut before);
        let (result, timeout) = (asked == Asked::Result, timeout.as_millis());
        let query = format!("?blocking=true&result={result}&timeout={timeout}");
        ActionPath { before, package, action, query }
    }

    fn is_constant(&self) -> bool {
        self.package.iter().chain([&self.action]).all(|name| name.constant().is_some())
    }

    fn fill(&self, parameters: Parameters<'_>) -> Result<String, GatewayError> {
        let mut target = self.before.clone();
        if let Some(package) = &self.package {
            target.push_str(&encode_segment(&package.of(parameters)?));
            target.push('/');
        }
        target.push_str(&encode_segment(&self.action.of(parameters)?));
        target.push_str(&self.query);
        Ok(target)
    }
}

impl Buffered for Action {
    fn limits(&self) -> &BodyLimits {
        &self.limits
    }

    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        self.target.as_ref().map_or(Ok(()), |target| target.fill(sought.parameters).map(drop))
    }

    fn call_id(&self) -> HeaderName {
        ACTIVATION_ID
    }

    fn seal(
        &self,
        call: &Call<'_>,
        req: &mut RequestHeader,
        body: Bytes,
        _: &Seal<'_>,
    ) -> Result<Bytes, GatewayError> {
        let body = match self.input {
            Input::Body => input::object(body)?,
            Input::Web => input::web(call, req, &body)?,
        };
        let id = HeaderValue::from_str(call.request_id).map_err(|_| GatewayError::Internal)?;
        req.clone_from(&self.head);
        if let Some(target) = &self.target {
            req.set_uri(target_uri(target.fill(call.parameters)?)?);
        }
        req.insert_header(X_REQUEST_ID, id).map_err(|_| GatewayError::Internal)?;
        Ok(body)
    }

    fn reported(&self, resp: &ResponseHeader) -> Option<Reported> {
        match resp.status {
            // Also what an action calls an error itself.
            StatusCode::BAD_GATEWAY if resp.headers.contains_key(ACTIVATION_ID) => {
                Some(Reported::FunctionError)
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Some(Reported::NotReached),
            _ => None,
        }
    }

    fn open(&self, _: &Call<'_>, resp: &mut ResponseHeader, body: Bytes) -> Result<Bytes, GatewayError> {
        let answer = answer::read(resp.status, body, self.asked)?;
        let mut head = answer.head()?;
        if let Some(id) = resp.headers.get(ACTIVATION_ID).filter(|id| is_activation_id(id.as_bytes())) {
            head.insert_header(ACTIVATION_ID, id).map_err(|_| GatewayError::Internal)?;
        }
        if let Some(after) = resp.headers.get(RETRY_AFTER)
            && !head.headers.contains_key(RETRY_AFTER)
        {
            head.insert_header(RETRY_AFTER, after).map_err(|_| GatewayError::Internal)?;
        }
        *resp = head;
        Ok(answer.body)
    }
}

pub fn compile(raw: Raw, route: Route<'_>, scope: &Scope<'_>) -> Option<Compiled> {
    let Raw {
        api_host,
        service_token,
        namespace,
        action,
        package,
        result,
        input,
        max_resp_body_size,
        allow,
        connection,
    } = raw;
    let names = Names::compile(route, allow, scope)?;

    let api = scope.key("api_host").accept(TargetUri::of_api(&api_host, "https://whisk.example.com"));
    let token = compile_token(service_token, &scope.key("service_token"));
    let namespace =
        scope.key("namespace").accept(check_name(&namespace)).map(|()| encode_segment(&namespace));
    let name = |key: &str, text: &str| Name::compile(text, check_name, &names, &scope.key(key));
    let action = name("action", &action);
    let package = given(package, |package| name("package", &package));
    let response = held_response(max_resp_body_size, DEFAULT_BODY, &scope.key("max_resp_body_size"));
    let base = api.as_ref().map(|uri| Base::from_origin(uri.scheme, uri.origin.clone()));
    let credential = token.as_ref().map(Secret::identity);
    let connection =
        connection::compile(connection, base, DEFAULTS, &names, scope)?.with_credential(credential);

    let api = api?;
    warn_without_tls(&connection.terms, &api, scope);
    let request = held_limit(connection.max_request, DEFAULT_BODY, &scope.key("max_req_body_size"));

    let asked = if result.unwrap_or(true) { Asked::Result } else { Asked::Record };
    let path = ActionPath::new(api.path, &namespace?, package?, action?, asked, connection.timeout);
    let Host::Fixed(host) = &connection.host else {
        scope.key("host").reject("the API is one host, whatever the action: `host` takes no parameter");
        return None;
    };
    let (target, path) = match path.is_constant() {
        true => (path.fill(Parameters::default()).ok()?, None),
        false => ("/".to_owned(), Some(path)),
    };
    let compiled = Action {
        head: Box::new(scope.accept(build_head(&target, host, &token?))?),
        target: path,
        input: match input {
            Some(RawInput::Web) => Input::Web,
            Some(RawInput::Body) | None => Input::Body,
        },
        asked,
        limits: BodyLimits { request: request?, response: response? },
    };
    Some(Compiled {
        platform: "openwhisk",
        target: Target::Buffered(BufferedTarget::OpenWhisk(compiled)),
        terms: connection.terms,
        // It holds the body itself, and bounds it.
        max_request: None,
        credentials: None,
    })
}

fn compile_token(raw: RawSecret, scope: &Scope<'_>) -> Option<Secret> {
    let token = secrets::resolve(raw, scope)?;
    // OpenWhisk answers 401 to every call with such a token, and does not say why.
    secrets::warn_without_colon(&token, "`uuid:key`, as `wsk property get --auth` prints it", scope);
    Some(token)
}

fn warn_without_tls(terms: &Terms, api: &TargetUri, scope: &Scope<'_>) {
    if terms.exposed().is_some() {
        scope.key("api_host").warn(
            "the openwhisk `api_host` has no TLS: the service token can be read on its way",
            format!("`https://{}`, if the API can be reached like that", api.origin.host),
        );
    }
}

/// OpenWhisk's own rule for names of namespaces, packages and actions.
fn check_name(name: &str) -> Result<(), Invalid> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let invalid = |why: &str| {
        Invalid::new(format!("`{name}` is not a name in OpenWhisk: {why}")).hint(
            "a letter, digit or `_`, then also `@`, `.`, `-` and, inside, spaces; 256 characters at most",
        )
    };
    let Some(first) = name.chars().next() else { return Err(invalid("it is empty")) };
    if name.chars().count() > LONGEST_NAME {
        return Err(invalid("it is longer than 256 characters"));
    }
    if name.contains('/') {
        return Err(invalid("it holds a `/`; namespace, package and action have a key each"));
    }
    if !is_word(first) {
        return Err(invalid("it does not begin with a letter, a digit or `_`"));
    }
    if let Some(wrong) = name.chars().find(|c| !is_word(*c) && !"@ .-".contains(*c)) {
        return Err(invalid(&format!("it holds {wrong:?}")));
    }
    if name.ends_with(' ') {
        return Err(invalid("it ends with a space"));
    }
    Ok(())
}

fn build_head(target: &str, host: &HeaderValue, token: &Secret) -> Result<RequestHeader, Invalid> {
    let build = || {
        let mut head = RequestHeader::build("POST", target.as_bytes(), Some(8))?;
        head.insert_header(HOST, host)?;
        head.insert_header(AUTHORIZATION, basic_authorization(token))?;
        head.insert_header(CONTENT_TYPE, JSON)?;
        head.insert_header(ACCEPT, JSON)?;
        head.insert_header(USER_AGENT, concat!("fngate/", env!("CARGO_PKG_VERSION")))?;
        Ok(head)
    };
    build().map_err(|_: Box<pingora::Error>| Invalid::new(format!("`{target}` cannot be requested")))
}

/// OpenWhisk's are 32 hexadecimal digits; whatever else arrives is not put into a log.
fn is_activation_id(id: &[u8]) -> bool {
    (1..=64).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_')
}

const ACTIVATION_ID: HeaderName = HeaderName::from_static("x-openwhisk-activation-id");

const LONGEST_NAME: usize = 256;

/// OpenWhisk's own bound for parameters and results.
const DEFAULT_BODY: usize = 1 << 20;

const DEFAULTS: Defaults = Defaults {
    timeout: Duration::from_secs(60),
    timeout_range: (Duration::from_millis(1), Duration::from_secs(60)),
    // When its wait is over, OpenWhisk answers 202 with the activation's id. That answer is worth waiting for.
    patience: Duration::from_secs(5),
};

#[cfg(test)]
mod tests;
