//! Azure Functions: HTTP triggers of an app, called with a function's or the app's key.
//!
//! ```text
//! POST /fn/start HTTP/1.1                  POST /api/start HTTP/1.1
//! Host: api.example.com              →     Host: app.azurewebsites.net
//!                                          X-Functions-Key: …
//!
//! HTTP/1.1 202 Accepted                    HTTP/1.1 202 Accepted
//! Location: https://api.example.com/ ←     Location: https://app.azurewebsites.net/
//!   fn/runtime/webhooks/durabletask/         runtime/webhooks/durabletask/
//!   instances/4711?code=TOKEN                instances/4711?code=SYSTEM-KEY
//! ```
//!
//! `durable` has the URLs of Durable Functions, `seal` what stands in them in place of the app's key.

mod durable;
mod seal;

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Deserialize;

use self::durable::{App, Durable};
use self::seal::Seal;
use super::connection::{self, Base, Defaults};
use super::head::{Host, Prefer, TargetPath, remove_fields, target_uri};
use super::template::{Names, Route};
use super::{Call, Compiled, Readiness, Sought, Streamed, StreamedTarget, Target, Verdict};
use crate::diag::{Invalid, Scope, given};
use crate::error::{GatewayError, Reported};
use crate::secrets;
use crate::values::{RawSecret, TargetUri, credential_identity};

/// The attributes of the APISIX plugin `azure-functions`, and the connection keys every target takes.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Raw {
    /// The function's URI; what follows the matched path is appended to it, `{name}` in its path is a path parameter
    pub function_uri: String,
    pub authorization: Option<RawAuthorization>,
    /// What a path parameter of this target may be, as patterns with `*` and `?` (default: any name)
    #[schemars(length(min = 1))]
    pub allow: Option<Vec<String>>,
    #[serde(flatten)]
    pub connection: connection::Raw,
}

/// Replaced as a whole where a target has its own: a key must not get another one's client id, nor another app's key by accident.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-whole" = true))]
pub struct RawAuthorization {
    /// The key of the function or of its app, sent as `x-functions-key`
    pub apikey: Option<RawSecret>,
    /// Sent as `x-functions-clientid`, with the key
    pub clientid: Option<String>,
    /// Whose key is sent when the client has one, too: the `route`'s (default) or the `client`'s
    pub prefer: Option<Prefer>,
}

#[derive(Debug)]
pub struct AzureFunctions {
    path: TargetPath,
    host: Host,
    /// The authority of `function_uri`, which `host` may differ from.
    origin: String,
    /// Without it, the client's own key passes.
    credential: Option<Credential>,
    durable: Durable,
}

#[derive(Debug)]
struct Credential {
    key: HeaderValue,
    client_id: Option<HeaderValue>,
    prefer: Prefer,
}

impl Streamed for AzureFunctions {
    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        self.path.admit(sought.parameters)?;
        self.host.admit(sought.parameters)
    }

    fn rewrite_request(&self, call: &Call<'_>, req: &mut Parts) -> Result<(), GatewayError> {
        let is_durable = call.suffix.is_some_and(durable::claims);
        let clients_key_passes = !is_durable && self.clients_key_passes(req);
        let stays = |name: &HeaderName| clients_key_passes && CLIENTS_KEY.contains(name);
        remove_fields(&mut req.headers, |name| is_reserved(name) && !stays(name));
        narrow_codings(&mut req.headers);
        self.host.apply(call, req)?;
        if is_durable {
            req.uri = self.with_app(call, |app| target_uri(self.durable.target(app, call)?))?;
            return Ok(());
        }
        self.path.apply(call, req)?;
        if let Some(credential) = self.credential.as_ref().filter(|_| !clients_key_passes) {
            credential.apply(&mut req.headers);
        }
        Ok(())
    }

    fn adds_credential(&self, asked: &RequestHeader) -> bool {
        !self.clients_key_passes(asked)
    }

    fn readiness(&self, resp: &ResponseHeader) -> Readiness {
        // The body is not here yet; its length is that of the one text which says so.
        let length = resp.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        match resp.status {
            StatusCode::SERVICE_UNAVAILABLE if length == Some(NOT_RUNNING.len()) => Readiness::NotReady,
            // A host that has not read its functions yet knows none of them.
            StatusCode::NOT_FOUND => Readiness::Unsure,
            _ => Readiness::Ready,
        }
    }

    fn map_response<'c>(
        &self,
        call: impl FnOnce() -> Call<'c>,
        resp: &mut ResponseHeader,
    ) -> Result<Verdict, GatewayError> {
        if let Some(location) = resp.headers.get(LOCATION) {
            let location = String::from_utf8_lossy(location.as_bytes());
            let call = call();
            let url = self.with_app(&call, |app| self.durable.url(app, &call, &location))?;
            if let Some(url) = url {
                let url = HeaderValue::try_from(url).map_err(|_| GatewayError::Internal)?;
                resp.insert_header(LOCATION, url).map_err(|_| GatewayError::Internal)?;
            }
        }
        match resp.status {
            StatusCode::ACCEPTED if is_json(resp) => {
                make_plain(resp)?;
                Ok(Verdict::Rewritten { limit: LARGEST_BODY })
            }
            StatusCode::SERVICE_UNAVAILABLE => Ok(Verdict::InBody),
            _ => Ok(Verdict::Answered),
        }
    }

    fn read_body(&self, status: StatusCode, start: &[u8]) -> Option<Reported> {
        let never_ran = status == StatusCode::SERVICE_UNAVAILABLE && start.starts_with(NOT_RUNNING);
        never_ran.then_some(Reported::NotReached)
    }

    fn map_body(&self, call: &Call<'_>, body: Bytes) -> Result<Bytes, GatewayError> {
        let body = if body.starts_with(&GZIP) { unpack(&body)? } else { body };
        let changed = self.with_app(call, |app| self.durable.body(app, call, &body))?;
        Ok(changed.map_or(body, Bytes::from))
    }
}

impl AzureFunctions {
    fn clients_key_passes(&self, req: &Parts) -> bool {
        match self.credential.as_ref().map(|credential| credential.prefer) {
            None => true,
            Some(Prefer::Route) => false,
            Some(Prefer::Client) => CLIENTS_KEY.iter().any(|name| req.headers.contains_key(name)),
        }
    }

    /// The app that this call goes to, whose name may have come with it.
    fn with_app<T>(
        &self,
        call: &Call<'_>,
        then: impl FnOnce(App<'_>) -> Result<T, GatewayError>,
    ) -> Result<T, GatewayError> {
        let host = self.host.value(call)?;
        let host = host.to_str().map_err(|_| GatewayError::Internal)?;
        then(App { host, origin: &self.origin })
    }
}

impl Credential {
    fn apply(&self, headers: &mut HeaderMap) {
        headers.insert(KEY, self.key.clone());
        if let Some(id) = &self.client_id {
            headers.insert(CLIENT_ID, id.clone());
        }
    }

    fn identity(&self) -> u64 {
        let id = self.client_id.as_ref().map_or(&[][..], HeaderValue::as_bytes);
        credential_identity([self.key.as_bytes(), id])
    }
}

/// What Azure's own front ends say to an app. Apps and the Functions host believe it, whoever sent it.
fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Of the codings a client takes, only gzip is asked for: any other would hide what has to be changed in a body.
fn narrow_codings(headers: &mut HeaderMap) {
    let mut codings = headers.get_all(ACCEPT_ENCODING).iter().peekable();
    if codings.peek().is_none() {
        return;
    }
    if codings.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(wants_gzip) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    } else {
        headers.remove(ACCEPT_ENCODING);
    }
}

fn wants_gzip(entry: &str) -> bool {
    let (coding, weight) = entry.split_once(';').unwrap_or((entry, ""));
    let refused = weight.trim().strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0));
    coding.trim().eq_ignore_ascii_case("gzip") && !refused
}

fn is_json(resp: &ResponseHeader) -> bool {
    let kind = resp.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}

/// Says of an answer that it will be [`unpack`]ed, if it has to be.
fn make_plain(resp: &mut ResponseHeader) -> Result<(), GatewayError> {
    let codings = resp.headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
    let codings: Vec<_> = codings.filter(|coding| !coding.eq_ignore_ascii_case(b"identity")).collect();
    match codings[..] {
        [] => Ok(()),
        [only] if only.eq_ignore_ascii_case(b"gzip") => {
            resp.remove_header(&CONTENT_ENCODING);
            Ok(())
        }
        _ => Err(UNREADABLE),
    }
}

fn unpack(packed: &[u8]) -> Result<Bytes, GatewayError> {
    let mut body = Vec::new();
    // One byte more than there may be, so that too much is seen.
    let mut packed = MultiGzDecoder::new(packed).take(LARGEST_BODY as u64 + 1);
    match packed.read_to_end(&mut body) {
        Ok(length) if length <= LARGEST_BODY => Ok(Bytes::from(body)),
        _ => Err(UNREADABLE),
    }
}

pub fn compile(raw: Raw, route: Route<'_>, scope: &Scope<'_>) -> Option<Compiled> {
    let Raw { function_uri, authorization, allow, connection } = raw;
    let names = Names::compile(route, allow, scope)?;
    let uri = scope.key("function_uri").accept(function_uri.parse::<TargetUri>());
    let authorization = compile_authorization(authorization, &scope.key("authorization"));
    let base = uri.as_ref().map(|uri| Base::from_origin(uri.scheme, uri.origin.clone()));
    let connection = connection::compile(connection, base, DEFAULTS, &names, scope)?;
    let (credential, seal) = authorization?;
    let connection = connection.with_credential(credential.as_ref().map(Credential::identity));
    let uri = uri?;
    let target = AzureFunctions {
        origin: uri.origin.authority(uri.scheme),
        path: scope.key("function_uri").accept(TargetPath::from_uri(uri, &names))?,
        host: connection.host,
        credential,
        durable: Durable::new(seal),
    };
    Some(Compiled {
        platform: "azure_functions",
        target: Target::Streamed(StreamedTarget::AzureFunctions(target)),
        terms: connection.terms,
        max_request: connection.max_request,
        credentials: None,
    })
}

/// `scope` stands at `authorization`.
fn compile_authorization(
    raw: Option<RawAuthorization>,
    scope: &Scope<'_>,
) -> Option<(Option<Credential>, Seal)> {
    let (apikey, clientid, prefer) = match raw {
        None => (None, None, None),
        Some(RawAuthorization { apikey, clientid, prefer }) => (apikey, clientid, prefer),
    };
    let Some(apikey) = apikey else {
        let orphan = clientid.map(|_| "clientid").or(prefer.map(|_| "prefer"));
        if let Some(key) = orphan {
            scope.key(key).reject_with(
                format!("`{key}` says nothing without an `apikey`"),
                "an `authorization` of a target's own replaces the one in `defaults` as a whole",
            );
            return None;
        }
        return Some((None, scope.accept(Seal::of_this_process())?));
    };
    let client_id = given(clientid, |id| scope.key("clientid").accept(header_value(&id)));
    let scope = scope.key("apikey");
    let secret = secrets::resolve(apikey, &scope)?;
    let mut key = scope.accept(header_value(secret.expose()))?;
    key.set_sensitive(true);
    let credential = Credential { key, client_id: client_id?, prefer: prefer.unwrap_or(Prefer::Route) };
    Some((Some(credential), Seal::from_secret(&secret)))
}

fn header_value(text: &str) -> Result<HeaderValue, Invalid> {
    let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let value = is_plain.then(|| HeaderValue::from_str(text).ok()).flatten();
    value.ok_or_else(|| Invalid::new("it cannot be sent").hint("visible ASCII characters, without blanks"))
}

const KEY: HeaderName = HeaderName::from_static("x-functions-key");
const CLIENT_ID: HeaderName = HeaderName::from_static("x-functions-clientid");
const CLIENTS_KEY: [HeaderName; 2] = [KEY, CLIENT_ID];

/// Who was authenticated by App Service (Easy Auth), with which token, for which host and path, and from where.
const RESERVED_PREFIXES: [&str; 6] =
    ["x-functions-", "x-ms-client-principal", "x-ms-token-", "x-arr-", "x-appservice-", "x-waws-"];
const RESERVED: [&str; 6] =
    ["disguised-host", "x-original-url", "was-default-hostname", "client-ip", "x-client-ip", "x-client-port"];

/// What the host answers when it is not there yet, or not any more.
const NOT_RUNNING: &[u8] = b"Function host is not running.";

const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Of an answer that may hold URLs of an orchestration: besides them, the input and state of one that is still running.
const LARGEST_BODY: usize = 4 << 20;
const UNREADABLE: GatewayError =
    GatewayError::BadEnvelope("the function's answer is encoded in a way that this gateway cannot read");

const DEFAULTS: Defaults = Defaults {
    timeout: Duration::from_secs(3),
    timeout_range: (Duration::from_millis(100), Duration::MAX),
    patience: Duration::ZERO,
};

#[cfg(test)]
mod tests;
