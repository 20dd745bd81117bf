//! A function behind a URL: an API of API Gateway, or the function's own.
//!
//! | configured | the client sends | sent with `prefer: route` | with `prefer: client` |
//! | --- | --- | --- | --- |
//! | `apikey` | `x-api-key` | ours | the client's |
//! | `iam` | `Authorization` | our signature | the client's, unsigned |
//! | both | nothing | our key, and our signature | the same |
//! | neither, or only the other | either | the client's | the client's |
//!
//! A key tells API Gateway whose quota a call counts on, a signature who may call: with both configured, both are sent. The APISIX plugin,
//! whose rule `prefer: client` is otherwise, sends the key alone.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use super::{CALL_ID, refusal, warn_without_tls};
use crate::aws::{SigningScope, iam, is_reserved, sign};
use crate::diag::{Invalid, Scope, given};
use crate::error::{GatewayError, Reported};
use crate::platforms::connection::{self, Base, Defaults, held_limit};
use crate::platforms::head::{Host, Prefer, TargetPath, remove_fields};
use crate::platforms::template::Names;
use crate::platforms::{
    BodyLimits, Buffered, BufferedTarget, Call, Compiled, Relay, Reply, Seal, Sought, Streamed,
    StreamedTarget, Target, Verdict,
};
use crate::secrets;
use crate::values::{RawSecret, TargetUri, credential_identity};

/// Called with a key of API Gateway, or with none.
#[derive(Debug)]
pub struct Url {
    path: TargetPath,
    host: Host,
    apikey: Option<HeaderValue>,
    prefer: Prefer,
}

/// The same, signed: the whole request is held for that, the answer is not.
#[derive(Debug)]
pub struct SignedUrl {
    url: Url,
    scope: SigningScope,
    limits: BodyLimits,
}

impl Streamed for Url {
    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        self.path.admit(sought.parameters)?;
        self.host.admit(sought.parameters)
    }

    fn rewrite_request(&self, call: &Call<'_>, req: &mut Parts) -> Result<(), GatewayError> {
        remove_fields(&mut req.headers, is_reserved);
        self.path.apply(call, req)?;
        self.host.apply(call, req)?;
        if let Some(key) = self.apikey.as_ref().filter(|_| !self.takes(req, &API_KEY)) {
            req.headers.insert(API_KEY, key.clone());
        }
        Ok(())
    }

    fn adds_credential(&self, asked: &RequestHeader) -> bool {
        self.apikey.is_some() && !self.takes(asked, &API_KEY)
    }

    fn map_response<'c>(
        &self,
        _: impl FnOnce() -> Call<'c>,
        resp: &mut ResponseHeader,
    ) -> Result<Verdict, GatewayError> {
        Ok(reported(resp).map_or(Verdict::Answered, Verdict::Failed))
    }

    fn call_id(&self) -> Option<HeaderName> {
        Some(CALL_ID)
    }
}

impl Buffered for SignedUrl {
    fn limits(&self) -> &BodyLimits {
        &self.limits
    }

    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        self.url.admit(sought)
    }

    fn call_id(&self) -> HeaderName {
        CALL_ID
    }

    fn seal(
        &self,
        call: &Call<'_>,
        req: &mut RequestHeader,
        body: Bytes,
        with: &Seal<'_>,
    ) -> Result<Bytes, GatewayError> {
        let mut parts = Parts::from(req.clone());
        // It is stated once the request is signed.
        parts.headers.remove(CONTENT_LENGTH);
        self.url.rewrite_request(call, &mut parts)?;
        *req = parts.into();
        if self.url.takes(req, &AUTHORIZATION) {
            return Ok(body);
        }
        let credentials = with.credentials.ok_or(GatewayError::NoCredential)?;
        sign(req, &body, &self.scope, credentials, with.at)?;
        Ok(body)
    }

    fn adds_credential(&self, asked: &RequestHeader) -> bool {
        !self.url.takes(asked, &AUTHORIZATION) || self.url.adds_credential(asked)
    }

    fn reply(&self, _: &ResponseHeader) -> Reply {
        Reply::Relayed
    }

    fn open(&self, _: &Call<'_>, _: &mut ResponseHeader, body: Bytes) -> Result<Bytes, GatewayError> {
        Ok(body)
    }

    fn relay(&self, _: &Call<'_>, resp: &mut ResponseHeader) -> Result<Relay, GatewayError> {
        Ok(Relay::Untouched(reported(resp)))
    }
}

impl Url {
    /// Whether the client's own credential in this header goes before ours.
    fn takes(&self, asked: &Parts, header: &HeaderName) -> bool {
        self.prefer == Prefer::Client && asked.headers.contains_key(header)
    }
}

/// Both kinds of URL answer 502 when the function's code failed or returned what is no answer. AWS names the type of its own errors; a
/// function's own 502 has none.
fn reported(resp: &ResponseHeader) -> Option<Reported> {
    let failed = resp.status == StatusCode::BAD_GATEWAY && resp.headers.contains_key(refusal::ERROR_TYPE);
    failed.then_some(Reported::FunctionError)
}

/// The keys of `authorization`.
pub(super) struct Credentials {
    pub(super) apikey: Option<RawSecret>,
    pub(super) iam: Option<iam::Raw>,
    pub(super) prefer: Option<Prefer>,
}

pub(super) fn compile(
    uri: &str,
    Credentials { apikey, iam, prefer }: Credentials,
    connection: connection::Raw,
    names: &Names<'_>,
    scope: &Scope<'_>,
) -> Option<Compiled> {
    let authorization = scope.key("authorization");
    let uri = scope.key("function_uri").accept(uri.parse::<TargetUri>());
    let apikey = given(apikey, |key| compile_key(key, &authorization.key("apikey")));
    let iam = given(iam, |raw| {
        let host = connection.host.as_deref().or(uri.as_ref().map(|uri| uri.origin.host.as_str()));
        iam::compile(raw, scope_of(host.unwrap_or_default()), &authorization.key("iam"))
    });
    let base = uri.as_ref().map(|uri| Base::from_origin(uri.scheme, uri.origin.clone()));
    let connection = connection::compile(connection, base, DEFAULTS, names, scope)?;
    let (apikey, iam) = (apikey?, iam?);

    let identities = [
        apikey.as_ref().map(|key: &HeaderValue| credential_identity([key.as_bytes()])),
        iam.as_ref().map(|iam| iam.source.identity()),
    ];
    let identities: Vec<_> = identities.into_iter().flatten().map(u64::to_ne_bytes).collect();
    let credential =
        (!identities.is_empty()).then(|| credential_identity(identities.iter().map(<[u8; 8]>::as_slice)));
    let connection = connection.with_credential(credential);
    let url = Url {
        path: scope.key("function_uri").accept(TargetPath::from_uri(uri?, names))?,
        host: connection.host,
        apikey,
        prefer: prefer.unwrap_or(Prefer::Route),
    };
    let Some(iam) = iam else {
        return Some(Compiled {
            platform: "aws_lambda",
            target: Target::Streamed(StreamedTarget::LambdaUrl(url)),
            terms: connection.terms,
            max_request: connection.max_request,
            credentials: None,
        });
    };
    warn_without_tls(&connection.terms, &scope.key("function_uri"));
    let request = held_limit(connection.max_request, DEFAULT_BODY, &scope.key("max_req_body_size"))?;
    // The answer is passed on as it comes.
    let limits = BodyLimits { request, response: 0 };
    Some(Compiled {
        platform: "aws_lambda",
        target: Target::Buffered(BufferedTarget::LambdaUrl(SignedUrl { url, scope: iam.scope, limits })),
        terms: connection.terms,
        max_request: None,
        credentials: Some(iam.source),
    })
}

fn compile_key(key: RawSecret, scope: &Scope<'_>) -> Option<HeaderValue> {
    let value = HeaderValue::try_from(secrets::resolve(key, scope)?.expose());
    let mut value =
        scope.accept(value.map_err(|_| Invalid::new("the key has characters that no header can have")))?;
    value.set_sensitive(true);
    Some(value)
}

/// Where a signature has to be valid for AWS's own host names, and what the APISIX plugin takes for others.
fn scope_of(host: &str) -> SigningScope {
    let labels: Vec<_> = host.split('.').collect();
    let known = labels.windows(2).find_map(|pair| match pair {
        ["lambda-url", region] => Some(("lambda", *region)),
        ["execute-api", region] => Some(("execute-api", *region)),
        _ => None,
    });
    let is_aws =
        [".on.aws", ".amazonaws.com", ".amazonaws.com.cn"].iter().any(|suffix| host.ends_with(suffix));
    let (service, region) = known.filter(|_| is_aws).unwrap_or(("execute-api", "us-east-1"));
    SigningScope { region: region.to_owned(), service: service.to_owned() }
}

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What API Gateway takes.
const DEFAULT_BODY: usize = 10 << 20;

const DEFAULTS: Defaults = Defaults {
    timeout: Duration::from_secs(3),
    timeout_range: (Duration::from_millis(100), Duration::MAX),
    patience: Duration::ZERO,
};

#[cfg(test)]
mod tests;
