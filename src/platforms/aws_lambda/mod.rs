//! AWS Lambda: functions behind a URL, or called by Lambda's own API.
//!
//! ```text
//! GET /hello/a?b=2&a=1 HTTP/1.1            GET /prod/hello/a?a=1&b=2 HTTP/1.1
//! Host: api.example.com              →     Host: x.execute-api.eu-west-1.amazonaws.com
//!                                          X-Amz-Date: 20261121T081500Z
//!                                          Authorization: AWS4-HMAC-SHA256 Credential=…
//!
//! POST /resize HTTP/1.1                    POST /2015-03-31/functions/resize/invocations HTTP/1.1
//! Content-Type: application/json     →     Host: lambda.eu-west-1.amazonaws.com
//!                                          Content-Type: application/json
//! {"width":64}                             X-Amz-Invocation-Type: RequestResponse
//!                                          X-Amz-Date: 20261121T081500Z
//!                                          Authorization: AWS4-HMAC-SHA256 Credential=…
//!
//!                                          {"width":64}
//! ```
//!
//! The keys decide which it is: `function_uri.rs` with a key of API Gateway or with none is streamed, with `iam` the request is held to be
//! signed; `function` is the API (`invoke.rs`). What AWS says of accounts and roles never reaches a client (`refusal.rs`).

pub mod function;
mod function_uri;
mod invoke;
pub mod payload;
mod refusal;
pub mod stream;

use http::HeaderName;
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::function_uri::{SignedUrl, Url};
pub use self::invoke::Invoke;
use self::payload::Form;
use super::Compiled;
use super::connection;
use super::head::Prefer;
use super::template::{Names, Route};
use crate::aws::iam;
use crate::diag::Scope;
use crate::error::GatewayError;
use crate::upstream::Terms;
use crate::values::{RawSecret, Written};

/// The attributes of the APISIX plugin of the same name, those of Lambda's API, and the connection keys. Give either `function_uri` or
/// `function`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Raw {
    /// The URL of an API Gateway's API or of the function itself; what follows the matched path is appended to it, `{name}` in its path
    /// is a path parameter
    pub function_uri: Option<String>,
    /// Instead of `function_uri`, to be called by Lambda's API: name, `name:alias` or ARN; `{name}` is a path parameter
    pub function: Option<String>,
    /// With `function`: version or alias (default: the one in `function`, or else the latest)
    pub qualifier: Option<String>,
    /// With `function`: the region (default: the one in the ARN, or `authorization.iam.aws_region`)
    pub region: Option<String>,
    /// With `function`: the API's URL (default: that of the region)
    pub endpoint: Option<String>,
    /// With `function`: what it is given and what it returns (default `raw`)
    pub payload: Option<Form>,
    /// With `function`: whether its answer is awaited, and how it comes (default `request_response`)
    pub invocation: Option<Invocation>,
    pub authorization: Option<RawAuthorization>,
    /// With `function`: the largest return value that is held in memory (default 6MiB)
    pub max_resp_body_size: Option<Written>,
    /// What a path parameter of this target may be, as patterns with `*` and `?` (default: any name)
    #[schemars(length(min = 1))]
    pub allow: Option<Vec<String>>,
    #[serde(flatten)]
    pub connection: connection::Raw,
}

/// Taken as a whole from a target or from the defaults, so that no key is ever sent with another one's signature.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-whole" = true))]
pub struct RawAuthorization {
    /// With `function_uri`: the key of an API of API Gateway, sent as `x-api-key`
    pub apikey: Option<RawSecret>,
    /// Sign requests, so that AWS knows who calls
    pub iam: Option<iam::Raw>,
    /// With `function_uri`: whose credentials count when the client sends some, too (default `route`)
    pub prefer: Option<Prefer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Invocation {
    /// The answer is the function's return value.
    RequestResponse,
    /// The call is queued, and answered with 202.
    Event,
    /// The answer is what the function writes, as it writes it.
    Stream,
}

pub fn compile(raw: Raw, route: Route<'_>, scope: &Scope<'_>) -> Option<Compiled> {
    let Raw {
        function_uri,
        function,
        qualifier,
        region,
        endpoint,
        payload,
        invocation,
        authorization,
        max_resp_body_size,
        allow,
        connection,
    } = raw;
    let names = Names::compile(route, allow, scope)?;
    let RawAuthorization { apikey, iam, prefer } = authorization.unwrap_or_default();
    match (function_uri, function) {
        (Some(uri), None) => {
            let misplaced = [
                ("qualifier", qualifier.is_some()),
                ("region", region.is_some()),
                ("endpoint", endpoint.is_some()),
                ("payload", payload.is_some()),
                ("invocation", invocation.is_some()),
                ("max_resp_body_size", max_resp_body_size.is_some()),
            ];
            refuse(misplaced, "function", scope)?;
            function_uri::compile(
                &uri,
                function_uri::Credentials { apikey, iam, prefer },
                connection,
                &names,
                scope,
            )
        }
        (None, Some(function)) => {
            let misplaced = [("apikey", apikey.is_some()), ("prefer", prefer.is_some())];
            refuse(misplaced, "function_uri", &scope.key("authorization"))?;
            let keys = invoke::Keys {
                function,
                qualifier,
                region,
                endpoint,
                form: payload.unwrap_or(Form::Raw),
                invocation: invocation.unwrap_or(Invocation::RequestResponse),
                iam: iam.unwrap_or_default(),
                max_resp_body_size,
            };
            invoke::compile(keys, connection, &names, scope)
        }
        _ => {
            scope.reject_with(
                "give either `function_uri` or `function`",
                "`function_uri` for an API Gateway or a function URL, `function` to be called by Lambda's API",
            );
            None
        }
    }
}

/// Rejects keys that mean nothing beside the one that is given.
fn refuse<const N: usize>(misplaced: [(&str, bool); N], owner: &str, scope: &Scope<'_>) -> Option<()> {
    let mut misplaced = misplaced.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).peekable();
    if misplaced.peek().is_none() {
        return Some(());
    }
    for key in misplaced {
        scope.key(key).reject_key(format!("`{key}` belongs to `{owner}`"), None);
    }
    None
}

/// A signature hides nothing, and a session token is sent beside it.
fn warn_without_tls(terms: &Terms, scope: &Scope<'_>) {
    if let Some(address) = terms.exposed() {
        scope.warn(
            format!("signed requests are sent to `{address}` without TLS"),
            "whoever is on the way can read and, for some minutes, repeat them; use `https`",
        );
    }
}

/// Puts the platform's name for the call into the client's head.
fn keep_call_id(from: &ResponseHeader, into: &mut ResponseHeader) -> Result<(), GatewayError> {
    let Some(id) = from.headers.get(CALL_ID) else { return Ok(()) };
    into.insert_header(CALL_ID, id).map_err(|_| GatewayError::Internal)
}

const CALL_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

#[cfg(test)]
mod tests;
